//! Datagrams on a line: they ask whether they may pass, and never wait.
//!
//! A [`Policer`] stands for the datagrams of one class on one line. It has no flow, because a flow
//! is what waits; it asks the uplink's scheduler for each datagram, and tells the downlink's what
//! came. After a reload it finds its class again, or `default` where that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tillgate_core::class::ClassSpec;
use tillgate_core::schedule::Policed;

use super::Link;

/// See the module.
#[derive(Debug)]
pub struct Policer {
    link: Arc<Link>,
    class: Arc<str>,
    slot: AtomicUsize,
    found_at: AtomicU64,
}

impl Policer {
    /// For the datagrams of `class` on `link`.
    pub fn new(link: &Arc<Link>, class: &ClassSpec) -> Self {
        let found_at = link.reloads.load(Ordering::Acquire);
        Self {
            link: Arc::clone(link),
            class: Arc::clone(&class.name),
            slot: AtomicUsize::new(link.lock().slots.find(&class.name)),
            found_at: AtomicU64::new(found_at),
        }
    }

    /// Whether a datagram of `bytes` may leave now.
    pub fn may_send(&self, bytes: usize) -> Policed {
        self.link.up.police(self.slot(), bytes as u64)
    }

    /// A datagram of `bytes` has come.
    pub fn received(&self, bytes: usize) {
        self.link.down.came_unasked(self.slot(), bytes as u64);
    }

    fn slot(&self) -> usize {
        let reloads = self.link.reloads.load(Ordering::Acquire);
        if self.found_at.swap(reloads, Ordering::AcqRel) != reloads {
            let slot = self.link.lock().slots.find(&self.class);
            self.slot.store(slot, Ordering::Release);
        }
        self.slot.load(Ordering::Acquire)
    }
}

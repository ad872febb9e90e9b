//! What the mirror sends into the store's own network: as many blobs at once, and as fast together,
//! as the policy says. Without a bound a pull costs nothing here.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tillgate_config::defaults;
use tillgate_core::mirror::ServeSpec;
use tillgate_core::mirror::pace::Pace;
use tillgate_core::units::BitRate;
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::metrics::MirrorMeters;
use tillgate_net::mirror::Source;
use tokio::time::Sleep;

use super::turns::{Full, Turn, Turns};

/// See the module.
pub(super) struct Pulls {
    is_bound: AtomicBool,
    turns: Arc<Turns>,
    speed: Arc<Mutex<Speed>>,
}

#[derive(Debug, Default)]
struct Speed {
    pace: Pace,
    rate: Option<BitRate>,
}

impl Pulls {
    pub(super) fn new(meters: &MirrorMeters) -> Self {
        let turns = Turns::new(meters.pulling.clone(), meters.pulls_waiting.clone());
        Self { is_bound: AtomicBool::new(false), turns, speed: Arc::default() }
    }

    /// Other bounds; pulls under way take the new rate.
    pub(super) fn follow(&self, spec: &ServeSpec) {
        let is_bound = spec.rate.is_some() || spec.running_max.is_some();
        self.is_bound.store(is_bound, Ordering::Relaxed);
        lock(&self.speed).rate = spec.rate;
        // As many wait as a listener takes requests: it is the bound of them all.
        self.turns.set_limits(spec.running_max.unwrap_or(u32::MAX), defaults::LIMITS.requests_max);
    }

    /// Whether there is no bound.
    pub(super) fn are_free(&self) -> bool {
        !self.is_bound.load(Ordering::Relaxed)
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// If too many wait already.
    pub(super) async fn turn(&self) -> Result<Turn, Full> {
        self.turns.wait().await
    }

    /// `source` at the speed that it may have, in its turn.
    pub(super) fn pace(&self, source: Box<dyn Source>, turn: Turn) -> Box<dyn Source> {
        let speed = Arc::clone(&self.speed);
        Box::new(Paced { source, speed, next: None, _turn: turn })
    }
}

fn lock(speed: &Mutex<Speed>) -> MutexGuard<'_, Speed> {
    speed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blob that waits for its speed, piece by piece.
#[derive(Debug)]
struct Paced {
    source: Box<dyn Source>,
    speed: Arc<Mutex<Speed>>,
    /// A piece that has come, and when it may go.
    next: Option<(Bytes, Pin<Box<Sleep>>)>,
    _turn: Turn,
}

impl Source for Paced {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if self.next.is_none() {
            let bytes = match ready!(self.source.poll_next(cx)) {
                Some(Ok(bytes)) => bytes,
                other => return Poll::Ready(other),
            };
            let wait = {
                let mut speed = lock(&self.speed);
                let rate = speed.rate;
                rate.map(|rate| speed.pace.pass(bytes.len() as u64, rate, clock::now()))
            };
            match wait.filter(|wait| !wait.is_zero()) {
                None => return Poll::Ready(Some(Ok(bytes))),
                Some(wait) => self.next = Some((bytes, Box::pin(tokio::time::sleep(wait)))),
            }
        }
        let Some((_, sleep)) = &mut self.next else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(self.next.take().map(|(bytes, _)| Ok(bytes)))
    }

    fn left(&self) -> u64 {
        let held = self.next.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64);
        self.source.left() + held
    }
}

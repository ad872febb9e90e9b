//! Draining: one broadcast phase, and a count of what still runs.
//!
//! Connections and tunnels hold a [`Ticket`]; it tells them the phase and counts them while they
//! live. Who sets the phase, and when, is the caller's affair: here are no deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// What connections shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serve.
    Open,
    /// Take no new connection; finish the current request, then close.
    Draining,
    /// End everything that is not critical now.
    CutBulk,
    /// End everything now.
    CutAll,
}

/// The phase of one process, and who is still at work in it.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    live: Arc<Live>,
}

#[derive(Debug, Default)]
struct Live {
    count: AtomicUsize,
    changed: Notify,
}

/// Tells the phase, and counts nothing.
#[derive(Clone, Debug)]
pub struct Phases(watch::Receiver<Phase>);

/// Counts one connection or tunnel while it lives, and tells it the phase.
#[derive(Debug)]
pub struct Ticket {
    phases: Phases,
    live: Arc<Live>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Open), live: Arc::default() }
    }
}

impl Drain {
    /// Moves to `phase`; phases never go back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Returns once the phase is `phase` or later.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.subscribe();
        // The sender lives in `self`, so this cannot fail; and if it did, ending is right.
        let _ = receiver.wait_for(|current| *current >= phase).await;
    }

    /// A ticket for one connection or tunnel.
    pub fn ticket(&self) -> Ticket {
        self.live.count.fetch_add(1, Ordering::Relaxed);
        Ticket { phases: Phases(self.phase.subscribe()), live: Arc::clone(&self.live) }
    }

    /// How many tickets are out.
    pub fn live(&self) -> usize {
        self.live.count.load(Ordering::Acquire)
    }

    /// Returns once no ticket is out.
    pub async fn empty(&self) {
        loop {
            let changed = self.live.changed.notified();
            if self.live() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Phases {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Returns the phase after it has changed.
    pub async fn changed(&mut self) -> Phase {
        if self.0.changed().await.is_err() {
            return Phase::CutAll;
        }
        *self.0.borrow_and_update()
    }
}

impl Ticket {
    /// What tells the phase.
    pub fn phases(&self) -> Phases {
        self.phases.clone()
    }

    /// One more ticket, for what outlives this connection (a tunnel).
    #[must_use]
    pub fn split(&self) -> Self {
        self.live.count.fetch_add(1, Ordering::Relaxed);
        Self { phases: self.phases.clone(), live: Arc::clone(&self.live) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.live.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.live.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward_and_tickets_are_counted() {
        let drain = Drain::default();
        let ticket = drain.ticket();
        let second = ticket.split();
        assert_eq!(drain.live(), 2);
        drain.advance(Phase::CutAll);
        drain.advance(Phase::Draining);
        assert_eq!(ticket.phases().phase(), Phase::CutAll);
        drop((ticket, second));
        assert_eq!(drain.live(), 0);
    }
}

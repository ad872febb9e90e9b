//! Draining: one broadcast phase, and a count of what still runs.
//!
//! Connections and tunnels hold a [`Ticket`]; it tells them the phase and counts them while they
//! live. A listener that is taken away drains as a [part](Drain::part) of its process: it drains
//! alone, or with the whole. Who sets the phase, and when, is the caller's affair: here are no
//! deadlines.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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
    parts: Arc<Mutex<Vec<Part>>>,
}

/// What drains with the whole. Bounded by the listeners that still have connections.
#[derive(Debug)]
struct Part {
    phase: watch::Sender<Phase>,
    live: Weak<Live>,
}

#[derive(Debug, Default)]
struct Live {
    count: AtomicUsize,
    changed: Notify,
    whole: Option<Arc<Self>>,
}

impl Live {
    fn enter(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.enter();
        }
    }

    fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.changed.notify_waiters();
        }
        if let Some(whole) = &self.whole {
            whole.leave();
        }
    }
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
        Self { phase: watch::Sender::new(Phase::Open), live: Arc::default(), parts: Arc::default() }
    }
}

impl Drain {
    /// Moves to `phase`, with all parts; phases never go back.
    pub fn advance(&self, phase: Phase) {
        let parts = self.parts();
        forward(&self.phase, phase);
        for part in parts.iter() {
            forward(&part.phase, phase);
        }
    }

    /// A part that can drain alone, and drains with the whole; the whole counts its tickets.
    #[must_use]
    pub fn part(&self) -> Self {
        let mut parts = self.parts();
        parts.retain(|part| part.live.strong_count() > 0);
        let live = Live { whole: Some(Arc::clone(&self.live)), ..Live::default() };
        let part = Self {
            phase: watch::Sender::new(self.phase()),
            live: Arc::new(live),
            parts: Arc::default(),
        };
        parts.push(Part { phase: part.phase.clone(), live: Arc::downgrade(&part.live) });
        part
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
        self.live.enter();
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

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forward(current: &watch::Sender<Phase>, phase: Phase) {
    current.send_if_modified(|current| {
        let forward = phase > *current;
        if forward {
            *current = phase;
        }
        forward
    });
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

    /// Returns once whoever holds this must end: critical ones last.
    pub async fn cut(&self, is_critical: impl Fn() -> bool) {
        let mut phases = self.phases();
        let mut phase = phases.phase();
        loop {
            match phase {
                Phase::CutBulk if !is_critical() => return,
                Phase::CutAll => return,
                Phase::Open | Phase::Draining | Phase::CutBulk => {}
            }
            phase = phases.changed().await;
        }
    }

    /// One more ticket, for what outlives this connection (a tunnel).
    #[must_use]
    pub fn split(&self) -> Self {
        self.live.enter();
        Self { phases: self.phases.clone(), live: Arc::clone(&self.live) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.live.leave();
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
    #[test]
    fn a_part_drains_alone_or_with_the_whole() {
        let whole = Drain::default();
        let (first, second) = (whole.part(), whole.part());
        let ticket = first.ticket();
        assert_eq!((first.live(), second.live(), whole.live()), (1, 0, 1));
        first.advance(Phase::Draining);
        let phases = || (first.phase(), second.phase(), whole.phase());
        assert_eq!(phases(), (Phase::Draining, Phase::Open, Phase::Open));
        whole.advance(Phase::CutBulk);
        assert_eq!(phases(), (Phase::CutBulk, Phase::CutBulk, Phase::CutBulk));
        assert_eq!(ticket.phases().phase(), Phase::CutBulk);
        assert_eq!(whole.part().phase(), Phase::CutBulk);
        drop(first);
        assert_eq!(whole.live(), 1, "its connections are counted beyond its own end");
        drop(ticket);
        assert_eq!(whole.live(), 0);
    }
}

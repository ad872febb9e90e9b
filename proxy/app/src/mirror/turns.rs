//! Turns: as many fetches, or pulls, at once as the policy says, the others in order.
//!
//! The order is the core's; here each one waits for its own. Whoever stops waiting gives its place
//! away, whoever has had its turn passes it on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tillgate_core::mirror::queue::{Queue, Turn as Next};
use tokio::sync::oneshot;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    inner: Mutex<Inner>,
    running: Gauge,
    waiting: Gauge,
}

#[derive(Debug, Default)]
struct Inner {
    queue: Queue,
    waiting: HashMap<u64, oneshot::Sender<()>>,
    next_id: u64,
}

/// A turn, until dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    id: u64,
    has_begun: bool,
}

/// As many wait as may.
pub(super) struct Full;

impl Turns {
    /// None yet, and none may begin; shown on these gauges.
    pub(super) fn new(running: Gauge, waiting: Gauge) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), running, waiting })
    }

    /// As many at once, as many that wait.
    pub(super) fn set_limits(&self, running_max: u32, waiting_max: u32) {
        let mut inner = self.inner();
        inner.queue.set_limits(running_max as usize, waiting_max as usize);
        self.call(&mut inner);
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// If too many wait already.
    pub(super) async fn wait(self: &Arc<Self>) -> Result<Turn, Full> {
        let (mut turn, called) = {
            let mut inner = self.inner();
            let id = inner.next_id;
            inner.next_id += 1;
            let turn = |has_begun| Turn { turns: Arc::clone(self), id, has_begun };
            match inner.queue.enter(id) {
                Next::Now => {
                    self.show(&inner);
                    return Ok(turn(true));
                }
                Next::Full => return Err(Full),
                Next::Later(_) => {
                    let (call, called) = oneshot::channel();
                    inner.waiting.insert(id, call);
                    self.show(&inner);
                    (turn(false), called)
                }
            }
        };
        // Nobody drops the other end without a call.
        let _: Result<(), _> = called.await;
        turn.has_begun = true;
        Ok(turn)
    }

    /// How many run, and how many wait.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.inner().queue.counts()
    }

    /// Calls everybody whose turn it is.
    fn call(&self, inner: &mut Inner) {
        while let Some(id) = inner.queue.poll_turn() {
            // Whoever has stopped waiting in this moment leaves as a turn that has begun does.
            let _: Option<Result<(), ()>> = inner.waiting.remove(&id).map(|call| call.send(()));
        }
        self.show(inner);
    }

    fn show(&self, inner: &Inner) {
        let (running, waiting) = inner.queue.counts();
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.turns.inner();
        if self.has_begun {
            inner.queue.leave();
        } else if !inner.queue.give_up(self.id) {
            // It was called in this moment.
            inner.queue.leave();
        }
        inner.waiting.remove(&self.id);
        self.turns.call(&mut inner);
    }
}

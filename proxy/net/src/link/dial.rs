//! The dial queue: how many bulk connections of a class may be busy at once.
//!
//! Every new connection brings the sender's initial window, unasked. So beyond a number of busy
//! bulk connections per class further ones wait, first come first served, until one ends or has
//! nothing to wait for. A connection is busy while it is new or wants more than it gets; one that
//! trickles holds no place. Where all are busy for long, one waiting dial is let in every turn, so
//! that endless transfers keep nobody out: they share by turns. Critical classes never wait here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tillgate_core::class::ClassSpec;
use tillgate_core::window::{TURN, WINDOW_MIN, window_sum_max};
use tokio::sync::oneshot;

use super::windows::window_line;
use super::{Link, Registration, State};
use crate::clock;

/// Busy bulk connections that a class may always have, however thin the line.
const BUSY_ALWAYS: usize = 8;
/// Dials of one class that may wait; the next one is refused at once.
const WAITING_MAX: usize = 1024;

/// Dials that wait, by slot.
#[derive(Debug, Default)]
pub(crate) struct DialQueues {
    queues: BTreeMap<usize, Queue>,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<oneshot::Sender<()>>,
    /// When a dial of this class was last let in, or had to wait first.
    last_turn: Instant,
}

impl DialQueues {
    /// How many dials wait, all classes together.
    pub(crate) fn waiting(&self) -> usize {
        self.queues.values().map(|queue| queue.waiting.len()).sum()
    }
}

/// Why a connection got no place on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// It waited for as long as its class allows.
    WaitedTooLong(Duration),
    /// Too many wait already.
    QueueFull,
}

impl Link {
    /// A place on the line for a new connection of `class`, when there is one.
    pub(crate) async fn place(
        self: &Arc<Self>,
        class: &ClassSpec,
    ) -> Result<Registration, NoPlace> {
        let until = clock::now() + class.queue.max_wait;
        let turn = {
            let mut state = self.lock();
            let slot = state.slots.find(&class.name);
            let ahead = state.dials.queues.get(&slot).map_or(0, |queue| queue.waiting.len());
            if class.critical || (ahead == 0 && state.room_to_dial(slot)) {
                return Ok(state.register(self, class, clock::now()));
            }
            if ahead >= WAITING_MAX {
                return Err(NoPlace::QueueFull);
            }
            let (sender, turn) = oneshot::channel();
            let empty = || Queue { waiting: VecDeque::new(), last_turn: clock::now() };
            state.dials.queues.entry(slot).or_insert_with(empty).waiting.push_back(sender);
            turn
        };
        match tokio::time::timeout_at(until.into(), turn).await {
            Ok(_) => Ok(self.lock().register(self, class, clock::now())),
            Err(_) => Err(NoPlace::WaitedTooLong(class.queue.max_wait)),
        }
    }
}

impl State {
    /// Lets waiting dials go while there is room, and one each turn where there is none.
    pub(crate) fn admit_dials(&mut self, now: Instant) {
        let slots: Vec<usize> = self.dials.queues.keys().copied().collect();
        for slot in slots {
            let mut room = self.dial_capacity().saturating_sub(self.busy(slot));
            let Some(queue) = self.dials.queues.get_mut(&slot) else { continue };
            if room == 0 && now.saturating_duration_since(queue.last_turn) >= TURN {
                room = 1;
            }
            while room > 0 {
                let Some(sender) = queue.waiting.pop_front() else { break };
                if sender.send(()).is_ok() {
                    room -= 1;
                    queue.last_turn = now;
                }
            }
            queue.waiting.retain(|sender| !sender.is_closed());
            if queue.waiting.is_empty() {
                self.dials.queues.remove(&slot);
            }
        }
    }

    fn room_to_dial(&self, slot: usize) -> bool {
        self.busy(slot) < self.dial_capacity()
    }

    fn dial_capacity(&self) -> usize {
        let rtt = self.base_rtt.unwrap_or(tillgate_core::window::RTT_UNKNOWN);
        let fit = window_sum_max(window_line(&self.spec, rtt)) / WINDOW_MIN;
        usize::try_from(fit).unwrap_or(usize::MAX).max(BUSY_ALWAYS)
    }

    fn busy(&self, slot: usize) -> usize {
        let now = clock::now();
        self.connections
            .values()
            .filter(|entry| entry.shared.slot.load(Ordering::Relaxed) == slot)
            .filter(|entry| {
                entry.demand.down.may_be_hungry(now) || entry.demand.up.may_be_hungry(now)
            })
            .count()
    }
}

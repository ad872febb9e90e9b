//! Who fetches now, and who waits for a turn.
//!
//! In: a fetch that wants to begin, one that has ended, one that nobody waits for any more. Out:
//! whose turn it is. First come, first served; a reload may change how many run at once, which
//! ends nothing that runs.

use std::collections::VecDeque;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    running: usize,
    running_max: usize,
    waiting: VecDeque<u64>,
    waiting_max: usize,
}

/// What becomes of a fetch that wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It begins.
    Now,
    /// It waits, with so many in front of it.
    Later(usize),
    /// As many wait as may.
    Full,
}

impl Queue {
    /// Bounds, now or at a reload. Whose turn it is then is told by [`Self::poll_turn`].
    pub fn set_limits(&mut self, running_max: usize, waiting_max: usize) {
        (self.running_max, self.waiting_max) = (running_max, waiting_max);
    }

    /// `id` wants to begin; it is new.
    pub fn enter(&mut self, id: u64) -> Turn {
        if self.running < self.running_max && self.waiting.is_empty() {
            self.running += 1;
            return Turn::Now;
        }
        if self.waiting.len() >= self.waiting_max {
            return Turn::Full;
        }
        self.waiting.push_back(id);
        Turn::Later(self.waiting.len() - 1)
    }

    /// One that ran has ended.
    pub fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// One that waited does not any more; whether it did.
    pub fn give_up(&mut self, id: u64) -> bool {
        let place = self.waiting.iter().position(|waiting| *waiting == id);
        place.is_some_and(|place| self.waiting.remove(place).is_some())
    }

    /// The next one whose turn it is; it runs from now on. To be asked until it is `None`.
    pub fn poll_turn(&mut self) -> Option<u64> {
        if self.running >= self.running_max {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.running += 1;
        Some(next)
    }

    /// How many run, and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.running, self.waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(running_max: usize, waiting_max: usize) -> Queue {
        let mut queue = Queue::default();
        queue.set_limits(running_max, waiting_max);
        queue
    }

    #[test]
    fn turns_come_in_order_and_none_is_lost() {
        let mut queue = queue(2, 3);
        let turns: Vec<Turn> = (0..6).map(|id| queue.enter(id)).collect();
        let later = Turn::Later;
        assert_eq!(turns, [Turn::Now, Turn::Now, later(0), later(1), later(2), Turn::Full]);
        assert!(queue.give_up(3) && !queue.give_up(3) && !queue.give_up(0));
        queue.leave();
        assert_eq!((queue.poll_turn(), queue.poll_turn()), (Some(2), None));
        queue.leave();
        queue.leave();
        assert_eq!((queue.poll_turn(), queue.poll_turn()), (Some(4), None));
        assert_eq!(queue.counts(), (1, 0));
    }

    #[test]
    fn nobody_overtakes_who_waits() {
        let mut queue = queue(1, 9);
        assert_eq!((queue.enter(0), queue.enter(1)), (Turn::Now, Turn::Later(0)));
        queue.leave();
        assert_eq!(queue.enter(2), Turn::Later(1), "0 has ended, but it is the turn of 1");
        assert_eq!(queue.poll_turn(), Some(1));
    }

    #[test]
    fn a_reload_ends_nothing_and_opens_at_once() {
        let mut queue = queue(2, 9);
        for id in 0..5 {
            queue.enter(id);
        }
        queue.set_limits(1, 9);
        queue.leave();
        assert_eq!(queue.poll_turn(), None);
        queue.set_limits(3, 9);
        assert_eq!(
            (queue.poll_turn(), queue.poll_turn(), queue.poll_turn()),
            (Some(2), Some(3), None)
        );
    }
}

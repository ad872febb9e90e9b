//! The store's wall clock, and whether it can be believed: the shell around the core's
//! `ClockTrust`.
//!
//! The kernel says whether somebody keeps its clock (NTP, PTP); a time that has passed once is
//! written down beside the images and never comes again. A box that has no clock of its own (no
//! battery) and has never been told the time is not believed until it is.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use tillgate_core::civil::Timestamp;
use tillgate_core::gate;
use tillgate_core::reconcile::{ClockState, ClockTrust, Reading, Wall};
use tillgate_net::clock;

/// Before this program was begun (2025-01-01): no clock that was ever set shows an earlier time.
const RELEASED: Wall = Wall(1_735_689_600);

/// How much later a time must be to be written down again.
const WRITE_EVERY: u64 = 600;

/// See the module.
pub(crate) struct StoreClock(Mutex<Inner>);

struct Inner {
    trust: ClockTrust,
    written: Wall,
}

impl StoreClock {
    /// Looks at it for the first time.
    pub(crate) fn new() -> Self {
        let mut trust = ClockTrust::new(RELEASED, has_battery());
        trust.handle_reading(reading(), clock::now());
        Self(Mutex::new(Inner { trust, written: Wall(0) }))
    }

    /// What was written down by the process before.
    pub(crate) fn recall(&self, text: &str) {
        let Some(floor) = text.trim().parse().ok().map(Wall) else { return };
        let mut inner = self.inner();
        // It was believed then, so the box is one that knows the time.
        let mut trust = ClockTrust::new(inner.trust.floor().max(floor), true);
        trust.handle_reading(reading(), clock::now());
        *inner = Inner { trust, written: floor };
    }

    /// Looks at it again; to be called every second or so. What is to be written down, if it is
    /// time.
    pub(crate) fn look(&self) -> Option<String> {
        let mut inner = self.inner();
        inner.trust.handle_reading(reading(), clock::now());
        let floor = inner.trust.floor();
        let is_due = floor.0 >= inner.written.0.saturating_add(WRITE_EVERY);
        is_due.then(|| {
            inner.written = floor;
            floor.to_string()
        })
    }

    /// What is thought of it.
    pub(crate) fn state(&self) -> ClockState {
        self.inner().trust.state(clock::now())
    }

    /// The same, as the gate asks, and the time that it shows.
    pub(crate) fn now(&self) -> (gate::Clock, Timestamp) {
        let inner = self.inner();
        let now = clock::now();
        let gate = match inner.trust.state(now) {
            ClockState::Synced => gate::Clock::Synced,
            ClockState::Holdover => holdover(&inner.trust, now),
            ClockState::Untrusted => gate::Clock::Untrusted(timestamp(inner.trust.floor())),
        };
        (gate, timestamp(reading_wall()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holdover(trust: &ClockTrust, now: Instant) -> gate::Clock {
    gate::Clock::Holdover(Duration::from_secs(trust.margin(now)))
}

fn timestamp(wall: Wall) -> Timestamp {
    Timestamp(i64::try_from(wall.0).unwrap_or(i64::MAX))
}

fn reading_wall() -> Wall {
    Wall(clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

fn reading() -> Reading {
    Reading { wall: reading_wall(), vouched: clock::is_kept() }
}

/// Whether the box may have kept the time while it was off. Where the kernel does not say, the time
/// is that of whatever runs this.
fn has_battery() -> bool {
    match fs::read_dir("/sys/class/rtc") {
        Ok(mut clocks) => clocks.next().is_some(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_has_passed_never_comes_again() {
        let clock = StoreClock::new();
        let now = reading_wall().0;
        clock.recall(&format!("{}\n", now - 60));
        assert!(!matches!(clock.now().0, gate::Clock::Untrusted(_)), "{:?}", clock.now());
        clock.recall("nonsense");
        assert!(clock.look().is_none(), "a minute is nothing new");
        clock.recall(&(now + 86_400).to_string());
        assert_eq!(clock.state(), ClockState::Untrusted);
        let floor = timestamp(Wall(now + 86_400));
        assert_eq!(clock.now().0, gate::Clock::Untrusted(floor));
    }
}

//! The store's wall clock, and whether it can be believed: the shell around the core's
//! `ClockTrust`.
//!
//! The kernel says whether somebody keeps its clock (NTP, PTP); a time that was shown then is
//! written down beside the images and never comes again. A box that has no clock of its own (no
//! battery) and has never been told the time is not believed until it is.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    /// Shown while somebody kept the clock.
    proven: Wall,
    written: Wall,
}

impl StoreClock {
    /// Looks at it for the first time.
    pub(crate) fn new() -> Self {
        let mut trust = ClockTrust::new(RELEASED, has_battery());
        trust.handle_reading(reading(), clock::now());
        Self(Mutex::new(Inner { trust, proven: RELEASED, written: RELEASED }))
    }

    /// What was written down by the process before.
    pub(crate) fn recall(&self, text: &str) {
        let Some(floor) = text.trim().parse().ok().map(Wall) else { return };
        let mut inner = self.inner();
        let proven = inner.proven.max(floor);
        // It was kept then, so the box is one that gets to know the time.
        let mut trust = ClockTrust::new(proven, true);
        trust.handle_reading(reading(), clock::now());
        *inner = Inner { trust, proven, written: proven };
    }

    /// Looks at it again; to be called every second or so. What is to be written down, if it is
    /// time.
    pub(crate) fn look(&self) -> Option<String> {
        self.handle(reading())
    }

    fn handle(&self, reading: Reading) -> Option<String> {
        let (mut inner, now) = (self.inner(), clock::now());
        let is_ahead = reading.wall < inner.trust.floor();
        if reading.vouched && is_ahead && reading.wall >= inner.proven {
            // It was ahead while nobody kept it, and is right now.
            inner.trust = ClockTrust::new(inner.proven, true);
        }
        inner.trust.handle_reading(reading, now);
        if inner.trust.state(now) == ClockState::Synced {
            inner.proven = inner.proven.max(reading.wall);
        }
        let is_due = inner.proven.0 >= inner.written.0.saturating_add(WRITE_EVERY);
        is_due.then(|| {
            inner.written = inner.proven;
            inner.proven.to_string()
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
            ClockState::Untrusted => gate::Clock::Untrusted(timestamp(inner.trust.floor().0)),
        };
        (gate, timestamp(clock::wall_seconds()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holdover(trust: &ClockTrust, now: Instant) -> gate::Clock {
    gate::Clock::Holdover(Duration::from_secs(trust.margin(now)))
}

/// Seconds of the wall clock as the calendar counts them.
pub(crate) fn timestamp(seconds: u64) -> Timestamp {
    Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn reading() -> Reading {
    Reading { wall: Wall(clock::wall_seconds()), vouched: clock::is_kept() }
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
        let now = clock::wall_seconds();
        clock.recall(&format!("{}\n", now - 60));
        assert!(!matches!(clock.now().0, gate::Clock::Untrusted(_)), "{:?}", clock.now());
        clock.recall("nonsense");
        clock.recall(&(now + 86_400).to_string());
        assert_eq!(clock.state(), ClockState::Untrusted);
        let floor = timestamp(now + 86_400);
        assert_eq!(clock.now().0, gate::Clock::Untrusted(floor));
        let kept = |seconds| Reading { wall: Wall(now + seconds), vouched: true };
        clock.handle(kept(0));
        assert_eq!(clock.state(), ClockState::Untrusted, "even if somebody says so");
        let written = clock.handle(kept(90_000));
        assert_eq!(written, Some((now + 90_000).to_string()));
        assert_eq!(clock.state(), ClockState::Synced);
    }

    #[test]
    fn a_clock_that_was_ahead_while_nobody_kept_it_is_put_right() {
        let clock = StoreClock::new();
        let now = clock::wall_seconds();
        let shown = |wall, vouched| Reading { wall: Wall(wall), vouched };
        clock.recall(&(now - 10).to_string());
        // Steady, so it is believed; and a year ahead of the truth.
        assert_eq!(clock.handle(shown(now, false)), None, "what nobody kept is no proof");
        let mut ahead = ClockTrust::new(Wall(now - 10), true);
        ahead.handle_reading(shown(now + 31_536_000, false), clock::now());
        clock.inner().trust = ahead;
        clock.handle(shown(now, true));
        assert_eq!(clock.state(), ClockState::Synced);
    }
}

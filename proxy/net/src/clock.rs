//! The only clock of Tillgate. Everything that decides is given the time; this is where the
//! shell reads it, so that no other file has to.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::sockopt::{self, Precision};

/// The monotonic time.
#[allow(clippy::disallowed_methods, reason = "this module is the one clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The monotonic time a moment ago: at most one tick of the kernel's (1 to 10 ms) before [`now`],
/// never after it, and read in a fifth of the time. For stamps that are compared with seconds.
pub fn lately() -> Instant {
    static ZERO: OnceLock<(Instant, Duration)> = OnceLock::new();
    // In this order the pair errs towards the past.
    let (instant, time) = *ZERO.get_or_init(zero);
    instant + sockopt::monotonic(Precision::Coarse).saturating_sub(time)
}

/// The same moment on both clocks. Who is interrupted between the two would be behind by that for
/// ever, so the closest of some pairs counts.
fn zero() -> (Instant, Duration) {
    let pair = || {
        let (instant, time) = (now(), sockopt::monotonic(Precision::Fine));
        (now() - instant, (instant, time))
    };
    let pairs = std::iter::repeat_with(pair).take(8);
    pairs.min_by_key(|(apart, _)| *apart).unwrap_or_else(pair).1
}

/// [`lately`] in milliseconds since some beginning: for stamps that are kept as numbers.
pub fn lately_millis() -> u64 {
    let time = sockopt::monotonic(Precision::Coarse);
    time.as_secs() * 1000 + u64::from(time.subsec_millis())
}

/// The wall clock: for logs, dates and audit records, never for waiting.
#[allow(clippy::disallowed_methods, reason = "this module is the one clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Seconds of the wall clock since 1970 (UTC, without leap seconds); 0 before.
pub fn wall_seconds() -> u64 {
    seconds_of(wall())
}

/// `time` in seconds since 1970 (UTC, without leap seconds); 0 before.
pub fn seconds_of(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether somebody who knows the time keeps the wall clock (NTP, PTP).
pub fn is_kept() -> bool {
    sockopt::is_clock_kept()
}

/// Before this program was built: no clock that was ever set shows an earlier time. The build says
/// when that was (`SOURCE_DATE_EPOCH`, as reproducible builds have it), else it is 2025-01-01.
pub const BUILT: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("SOURCE_DATE_EPOCH is no number of seconds"),
    },
    None => 1_735_689_600,
};

/// A time that has certainly passed, whatever the wall clock shows: for checks that need a time and
/// cannot wait for one that is right.
#[derive(Debug)]
pub struct Floor {
    passed: AtomicU64,
    doubted: AtomicBool,
}

impl Default for Floor {
    fn default() -> Self {
        Self { passed: AtomicU64::new(BUILT), doubted: AtomicBool::new(false) }
    }
}

impl Floor {
    /// So many seconds since 1970 have passed, as far as is known now.
    pub fn set(&self, seconds: u64) {
        self.passed.store(seconds, Ordering::Relaxed);
    }

    /// Whether the wall clock is not believed now.
    pub fn doubt(&self, is_doubted: bool) {
        self.doubted.store(is_doubted, Ordering::Relaxed);
    }

    /// What was said last with [`Floor::doubt`].
    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// The same as [`Floor::wall_seconds`] by the kernel's last tick, in a fifth of the time.
    pub fn lately(&self) -> u64 {
        sockopt::coarse_wall().as_secs().max(self.passed.load(Ordering::Relaxed))
    }

    /// Seconds of the wall clock, but none that have passed.
    pub fn wall_seconds(&self) -> u64 {
        wall_seconds().max(self.passed.load(Ordering::Relaxed))
    }
}

/// Microseconds of the monotonic clock since its own zero, for who compares it with his own
/// (the service manager).
pub fn monotonic_micros() -> u64 {
    u64::try_from(sockopt::monotonic(Precision::Fine).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_has_passed_is_not_shown_again() {
        let floor = Floor::default();
        assert!(floor.wall_seconds() >= BUILT.max(wall_seconds() - 1));
        let later = wall_seconds() + 1000;
        floor.set(later);
        assert_eq!((floor.wall_seconds(), floor.lately()), (later, later));
        // Somebody knows better: it had not passed.
        floor.set(BUILT);
        assert!(floor.wall_seconds() < later);
        assert!(floor.lately() <= floor.wall_seconds() && floor.lately() > later - 1100);
    }

    #[test]
    fn lately_is_a_moment_ago() {
        let behind = |_| {
            let before = now();
            let lately = lately();
            assert!(lately <= now());
            before.saturating_duration_since(lately)
        };
        // One tick at 100 Hz. A machine that is busy elsewhere misses some ticks, not all.
        let least = (0..1000).map(behind).min();
        assert!(least <= Some(Duration::from_millis(10)), "{least:?}");
    }
}

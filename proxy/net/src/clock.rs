//! The only clock of Tillgate. Everything that decides is given the time; this is where the
//! shell reads it, so that no other file has to.

use std::sync::OnceLock;
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
    let (instant, time) = *ZERO.get_or_init(|| (now(), sockopt::monotonic(Precision::Fine)));
    instant + sockopt::monotonic(Precision::Coarse).saturating_sub(time)
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

/// Microseconds of the monotonic clock since its own zero, for who compares it with his own
/// (the service manager).
pub fn monotonic_micros() -> u64 {
    u64::try_from(sockopt::monotonic(Precision::Fine).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lately_is_a_moment_ago() {
        for _ in 0..1000 {
            let before = now();
            let lately = lately();
            assert!(lately <= now());
            // One tick at 100 Hz, and as much for a test that was interrupted.
            assert!(before.saturating_duration_since(lately) <= Duration::from_millis(20));
        }
    }
}

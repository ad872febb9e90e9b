//! The only clock of Tillgate. Everything that decides is given the time; this is where the
//! shell reads it, so that no other file has to.

use std::time::{Instant, SystemTime};

use crate::sockopt;

/// The monotonic time.
#[allow(clippy::disallowed_methods, reason = "this module is the one clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock: for logs, dates and audit records, never for waiting.
#[allow(clippy::disallowed_methods, reason = "this module is the one clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Microseconds of the monotonic clock since its own zero, for who compares it with his own
/// (the service manager).
pub fn monotonic_micros() -> u64 {
    sockopt::monotonic_micros()
}

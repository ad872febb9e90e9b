//! What the gate is told of the clock, and by how much its hours shrink and grow for that.
//!
//! Whether a clock is right is decided elsewhere (`reconcile/wall.rs`); here it is only asked with.

use std::time::Duration;

use crate::civil::Timestamp;

/// What is known about the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// It is right.
    Synced,
    /// It was right some time ago: times of change shrink and times of rest grow by this much.
    Holdover(Duration),
    /// It may be anything not before this moment.
    Untrusted(Timestamp),
}

impl Clock {
    /// Holdover after `age` without synchronisation: a minute for each day, because a clock that
    /// runs free is rarely worse than 700 ppm.
    pub fn holdover(age: Duration) -> Self {
        Self::Holdover(Duration::from_secs(age.as_secs() / 86_400 * 60))
    }

    pub(super) fn margin(self) -> Duration {
        match self {
            Self::Holdover(margin) => margin,
            Self::Synced | Self::Untrusted(_) => Duration::ZERO,
        }
    }
}

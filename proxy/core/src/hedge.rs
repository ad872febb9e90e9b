//! A second try beside one that is slow.
//!
//! In: how long answers usually take. Out: after which time a second try begins. Only a call that
//! may be executed twice is hedged, where it may be, and the second try lives off the retry
//! budget; both are [`crate::retry`]'s word.

use std::time::Duration;

/// When a second try begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeSpec {
    /// Never before this.
    pub min: Duration,
    /// Always after this, also where nobody knows how long answers take.
    pub max: Duration,
}

impl HedgeSpec {
    /// After which time without an answer a second try begins: when all but one of twenty would
    /// have come.
    pub fn after(&self, p95: Option<Duration>) -> Duration {
        p95.unwrap_or(self.max).clamp(self.min.min(self.max), self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_follows_the_endpoint_within_bounds() {
        let spec = HedgeSpec { min: ms(10), max: ms(400) };
        assert_eq!(spec.after(Some(ms(60))), ms(60));
        assert_eq!(spec.after(Some(ms(2))), ms(10));
        assert_eq!(spec.after(Some(ms(900))), ms(400));
        assert_eq!(spec.after(None), ms(400));
        let fixed = HedgeSpec { min: ms(100), max: ms(100) };
        assert_eq!(fixed.after(Some(ms(5))), ms(100));
    }
}

//! Something that may happen often and is told now and then, with how often it has happened.
//!
//! Whoever can make it happen, a stranger at a door, must not be able to fill a log with it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a listener tells of what strangers do there: often enough to be seen by who looks for
/// it, and a few lines a minute at worst.
pub const TOLD_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Rarely {
    told: Option<Instant>,
    count: u64,
}

impl Rarely {
    /// It has happened at `now`: how often since it was told, if it is to be told again.
    pub fn happens(&mut self, every: Duration, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < every) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// The same for several reasons, each told by itself: one that is frequent hides no other.
#[derive(Debug, Default)]
pub struct ByReason(Mutex<Vec<(&'static str, Rarely)>>);

impl ByReason {
    /// This has happened at `now`: how often since it was told, if it is to be told again.
    pub fn happens(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|(known, _)| *known == reason);
        let place = place.unwrap_or_else(|| {
            known.push((reason, Rarely::default()));
            known.len() - 1
        });
        known[place].1.happens(TOLD_EVERY, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_told_once_in_a_while_with_its_number() {
        let (mut rarely, start) = (Rarely::default(), crate::clock::now());
        let every = Duration::from_secs(10);
        assert_eq!(rarely.happens(every, start), Some(1));
        assert_eq!(rarely.happens(every, start + Duration::from_secs(1)), None);
        assert_eq!(rarely.happens(every, start + Duration::from_secs(9)), None);
        assert_eq!(rarely.happens(every, start + Duration::from_secs(10)), Some(3));
    }

    #[test]
    fn what_is_frequent_hides_nothing_else() {
        let (reasons, start) = (ByReason::default(), crate::clock::now());
        assert_eq!(reasons.happens("timeout", start), Some(1));
        assert_eq!(reasons.happens("timeout", start), None);
        assert_eq!(reasons.happens("not_tls", start), Some(1));
        assert_eq!(reasons.happens("timeout", start + TOLD_EVERY), Some(2));
    }
}

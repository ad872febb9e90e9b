//! Something that may happen often and is told now and then, with how often it has happened.
//!
//! Whoever can make it happen, a stranger at a door, must not be able to fill a log with it.

use std::time::{Duration, Instant};

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
}

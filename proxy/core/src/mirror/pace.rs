//! How fast the mirror may send into the store's own network.
//!
//! In: the size of each piece, the time. Out: how long the piece waits. Pieces of all pulls pass in
//! the order in which they ask, so that the rate holds for all together; a pause gives back at most
//! a moment's worth.

use std::time::{Duration, Instant};

use crate::units::BitRate;

/// What a pause gives back: long enough to hide timers, short enough to be no burst on a switch.
const CREDIT: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    free_at: Option<Instant>,
}

impl Pace {
    /// A piece of `bytes` wants to go at `rate`. Returns how long it waits.
    pub fn pass(&mut self, bytes: u64, rate: BitRate, now: Instant) -> Duration {
        let earliest = now.checked_sub(CREDIT).unwrap_or(now);
        let begins = self.free_at.map_or(earliest, |free_at| free_at.max(earliest));
        let lasts = rate.time_for(bytes);
        self.free_at = begins.checked_add(lasts).or(Some(begins));
        begins.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::draw::epoch;

    #[test]
    fn the_rate_holds_for_all_together() {
        let (mut pace, now) = (Pace::default(), epoch() + Duration::from_secs(1));
        let rate = BitRate::from_mbit(8);
        let waits: Vec<u128> = (0..5).map(|_| pace.pass(10_000, rate, now).as_millis()).collect();
        // 10 ms each, of which the first two are the credit.
        assert_eq!(waits, [0, 0, 0, 10, 20]);
        let later = now + Duration::from_secs(60);
        let waits: Vec<u128> = (0..4).map(|_| pace.pass(10_000, rate, later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 10], "a pause is no burst");
    }
}

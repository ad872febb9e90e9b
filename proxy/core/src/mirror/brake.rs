//! How fast the fetches of a rollout may go together.
//!
//! In: bytes as they came, the rate that is allowed now, the time. Out: how long whoever took them
//! waits before he takes more. What came is owed and paid off at the rate of the moment, so that
//! a brake that is taken off lets go at once.

use std::time::{Duration, Instant};

use crate::units::BitRate;

/// What may be owed without waiting: long enough to hide timers.
const CREDIT: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brake {
    rate: Option<BitRate>,
    /// Bytes.
    owed: f64,
    at: Option<Instant>,
}

impl Brake {
    /// Another rate from now on; `None` = as fast as it goes.
    pub fn set_rate(&mut self, rate: Option<BitRate>, now: Instant) {
        self.pay(now);
        self.rate = rate;
        if rate.is_none() {
            self.owed = 0.0;
        }
    }

    /// The rate now.
    pub const fn rate(&self) -> Option<BitRate> {
        self.rate
    }

    /// So many bytes came.
    #[expect(clippy::cast_precision_loss, reason = "pieces are far below 2^52 bytes")]
    pub fn came(&mut self, bytes: u64, now: Instant) {
        self.pay(now);
        if self.rate.is_some() {
            self.owed += bytes as f64;
        }
    }

    /// How long to wait at this rate.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.pay(now);
        let Some(rate) = self.rate else { return Duration::ZERO };
        let seconds = self.owed / per_second(rate);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).saturating_sub(CREDIT)
    }

    fn pay(&mut self, now: Instant) {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        if let Some(rate) = self.rate {
            self.owed = (self.owed - passed.as_secs_f64() * per_second(rate)).max(0.0);
        }
    }
}

/// Bytes a second.
#[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
fn per_second(rate: BitRate) -> f64 {
    rate.bytes_per_second().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::draw::epoch;

    #[test]
    fn what_came_is_paid_off_at_the_rate_of_the_moment() {
        let (mut brake, now) = (Brake::default(), epoch());
        brake.came(1 << 30, now);
        assert_eq!(brake.wait(now), Duration::ZERO, "nothing holds it");
        brake.set_rate(Some(BitRate::from_mbit(8)), now);
        brake.came(1_000_000, now);
        assert_eq!(brake.wait(now).as_millis(), 950);
        let later = now + Duration::from_millis(500);
        assert_eq!(brake.wait(later).as_millis(), 450);
        // Slower: what is owed takes longer. Faster: it is paid off sooner.
        brake.set_rate(Some(BitRate::from_mbit(4)), later);
        assert_eq!(brake.wait(later).as_millis(), 950);
        brake.set_rate(None, later);
        assert_eq!(brake.wait(later), Duration::ZERO);
    }

    #[test]
    fn the_rate_holds_and_rest_saves_nothing() {
        let (mut brake, mut now) = (Brake::default(), epoch());
        brake.set_rate(Some(BitRate::from_mbit(8)), now);
        now += Duration::from_secs(60);
        let began = now;
        for _ in 0..100 {
            brake.came(50_000, now);
            now += brake.wait(now);
        }
        let took = (now - began).as_millis();
        assert!((4_900..=5_000).contains(&took), "5 MB at 8 Mbit/s took {took} ms");
    }
}

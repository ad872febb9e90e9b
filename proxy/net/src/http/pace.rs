//! How fast a client sends the body that it announced.
//!
//! Nothing is measured on the way of a body: its connection is judged a few times a second at most,
//! and each time says how much has come and whether more could have been taken. Time in which the
//! gateway was not ready, because the server or the line was not, never counts against a client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tillgate_core::listener::BODY_RATE_WINDOW;
use tillgate_core::units::BitRate;

use super::flow::Flow;
use crate::error::Failure;

/// What is asked of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Averaged over [`BODY_RATE_WINDOW`], of bodies whose length was announced.
    pub(crate) rate_min: Option<BitRate>,
    /// Something must come this often.
    pub(crate) timeout: Option<Duration>,
}

/// What was seen of a body when it was judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Since the request began.
    pub(crate) age: Duration,
    /// Bytes that have come.
    pub(crate) bytes: u64,
    /// More could have been taken.
    pub(crate) is_owed: bool,
}

/// What is remembered of a body between two judgements. Times in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    announced: AtomicBool,
    has_begun: AtomicBool,
    window: Mark,
    last: Mark,
}

#[derive(Debug, Default)]
struct Mark {
    at: AtomicU64,
    bytes: AtomicU64,
}

impl Mark {
    fn set(&self, sample: Sample) {
        self.at.store(millis(sample.age), Ordering::Relaxed);
        self.bytes.store(sample.bytes, Ordering::Relaxed);
    }

    fn age(&self, sample: Sample) -> Duration {
        sample.age.saturating_sub(Duration::from_millis(self.at.load(Ordering::Relaxed)))
    }

    fn moved(&self, sample: Sample) -> u64 {
        sample.bytes.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }
}

impl Pace {
    /// The body's length was announced.
    pub(crate) fn is_announced(&self) {
        self.announced.store(true, Ordering::Relaxed);
    }

    /// Whether the body is slower than `demand`.
    pub(crate) fn is_too_slow(&self, demand: Demand, sample: Sample) -> bool {
        let has_begun = self.has_begun.swap(sample.is_owed, Ordering::Relaxed);
        if !has_begun || !sample.is_owed {
            self.window.set(sample);
            self.last.set(sample);
            return false;
        }
        if self.last.moved(sample) > 0 {
            self.last.set(sample);
        }
        if demand.timeout.is_some_and(|timeout| self.last.age(sample) > timeout) {
            return true;
        }
        let elapsed = self.window.age(sample);
        let Some(rate) = demand.rate_min else { return false };
        if elapsed < BODY_RATE_WINDOW || !self.announced.load(Ordering::Relaxed) {
            return false;
        }
        let moved = self.window.moved(sample);
        self.window.set(sample);
        u128::from(moved) * 8_000 < u128::from(rate.bits_per_second()) * elapsed.as_millis()
    }
}

/// Tells `flow` to end if its body is slower than `demand`.
pub(crate) fn judge(flow: &Flow, demand: Demand, age: Duration) {
    let sample = Sample { age, bytes: flow.up(), is_owed: flow.does_client_owe() };
    if flow.pace.is_too_slow(demand, sample) {
        flow.end(Failure::BodyTooSlow);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Demand =
        Demand { rate_min: Some(BitRate::from_bits_per_second(4_000)), timeout: None };

    /// Judged every second, with so many bytes more each time; after how many seconds it is too
    /// slow.
    fn slow_after(
        pace: &Pace,
        demand: Demand,
        mut bytes: impl FnMut(u64) -> (u64, bool),
    ) -> Option<u64> {
        let mut sum = 0;
        (1..=60).find(|second| {
            let (more, is_owed) = bytes(*second);
            sum += more;
            let age = Duration::from_secs(*second);
            pace.is_too_slow(demand, Sample { age, bytes: sum, is_owed })
        })
    }

    fn announced() -> Pace {
        let pace = Pace::default();
        pace.is_announced();
        pace
    }

    #[test]
    fn a_slow_body_is_found_after_a_window() {
        assert_eq!(slow_after(&announced(), RATE, |_| (499, true)), Some(11));
        assert_eq!(slow_after(&announced(), RATE, |_| (500, true)), None);
        let bursts = |second| (if second % 9 == 0 { 5_000 } else { 0 }, true);
        assert_eq!(slow_after(&announced(), RATE, bursts), None, "pauses are no crime");
        assert_eq!(slow_after(&Pace::default(), RATE, |_| (0, true)), None, "a quiet stream");
    }

    #[test]
    fn who_is_not_asked_for_more_owes_nothing() {
        let stalled = |second| (0, second % 8 != 0);
        assert_eq!(slow_after(&announced(), RATE, stalled), None);
        let later = |second| (0, second > 20);
        assert_eq!(slow_after(&announced(), RATE, later), Some(31));
    }

    #[test]
    fn a_body_that_stops_is_found_at_its_timeout() {
        let demand = Demand { rate_min: None, timeout: Some(Duration::from_secs(3)) };
        let stops = |second| (u64::from(second < 5), true);
        assert_eq!(slow_after(&Pace::default(), demand, stops), Some(8));
        assert_eq!(slow_after(&Pace::default(), demand, |_| (1, true)), None);
        assert_eq!(slow_after(&Pace::default(), demand, |s| (0, s % 3 != 0)), None);
    }
}

//! The few statistics that the lab quotes: quantiles, Jain's fairness index, the median of runs.
//!
//! Pure functions over numbers that somebody else measured.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Two minutes in microseconds: longer than any call is waited for.
const HIGHEST_US: u64 = 120_000_000;

/// Quantiles of a set of durations, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    /// Of durations in microseconds; all zero when there are none.
    pub fn of_micros(durations: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, HIGHEST_US, 3)
            .expect("the bounds are constants that the histogram accepts");
        for duration in durations {
            histogram.saturating_record(duration.clamp(1, HIGHEST_US));
        }
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| millis(histogram.value_at_quantile(quantile));
        Self { count: histogram.len(), p50: at(0.5), p99: at(0.99), max: millis(histogram.max()) }
    }
}

/// Microseconds as milliseconds, for people.
pub fn millis(micros: u64) -> f64 {
    real(micros) / 1_000.0
}

/// A counter as a real number. Counters of the lab stay far below 2^53.
#[allow(clippy::cast_precision_loss, reason = "lab counters stay far below 2^53")]
pub fn real(count: u64) -> f64 {
    count as f64
}

/// A non-negative real number as a counter, cut to whole units.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and fractions of a unit do not matter here"
)]
pub fn whole(number: f64) -> u64 {
    number as u64
}

/// Jain's index: 1 when all flows got the same, 1/n when one got everything.
/// Of no flow, or of flows that all got nothing, it is 1.
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (real(shares.len() as u64) * squares) }
}

/// Lowest, middle and highest of some runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// All zero when there are no runs. Of an even number the median is the mean of the middle two.
    pub fn of(runs: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = runs.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(low), Some(high)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Self { low: *low, median, high: *high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_of_equal_and_of_unequal_flows() {
        assert!((jain(&[3.0, 3.0, 3.0, 3.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert!((jain(&[]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let ramp = Quantiles::of_micros((1..=1_000).map(|ms| ms * 1_000));
        assert_eq!(ramp.count, 1_000);
        assert!((ramp.p50 - 500.0).abs() < 1.0, "{ramp:?}");
        assert!((ramp.p99 - 990.0).abs() < 1.0, "{ramp:?}");
        assert!((ramp.max - 1_000.0).abs() < 1.0, "{ramp:?}");
        assert_eq!(Quantiles::of_micros([]), Quantiles::default());
    }

    #[test]
    fn spread_of_runs() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { low: 1.0, median: 2.0, high: 3.0 });
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
        assert_eq!(Spread::of([]), Spread::default());
    }
}

//! Quantiles of times to an answer, from counters that workers share.
//!
//! Eight buckets for each doubling, so a quantile is at most an eighth too high; it is never too
//! low. Old samples fade when the owner says so.

use std::array;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Buckets for each doubling, as a power of two.
const FINE_BITS: u32 = 3;
const FINE: u32 = 1 << FINE_BITS;
const BUCKETS: usize = 32 << FINE_BITS;

/// See the module.
#[derive(Debug)]
pub struct Samples {
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Samples {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU32::new(0)) }
    }
}

impl Samples {
    /// One more; below a microsecond counts as one, above 71 minutes as that.
    pub fn add(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| u64::from(bucket.load(Relaxed))).sum()
    }

    /// The time that `permille` of them do not exceed; `None` without samples.
    pub fn quantile(&self, permille: u64) -> Option<Duration> {
        let count = self.count();
        let wanted = (count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += u64::from(bucket.load(Relaxed));
            if seen >= wanted && count > 0 {
                return Some(upper(index));
            }
        }
        None
    }

    /// Halves every count: what is new weighs more.
    pub fn fade(&self) {
        for bucket in &self.buckets {
            let count = bucket.load(Relaxed);
            if count > 0 {
                bucket.fetch_sub(count - count / 2, Relaxed);
            }
        }
    }
}

fn bucket(micros: u32) -> usize {
    let micros = micros.max(1);
    let octave = micros.ilog2();
    let fine = if octave >= FINE_BITS {
        micros >> (octave - FINE_BITS)
    } else {
        micros << (FINE_BITS - octave)
    };
    (octave * FINE + fine % FINE) as usize
}

/// The most that falls into a bucket.
fn upper(index: usize) -> Duration {
    let index = index as u64;
    let (octave, fine) = (index / u64::from(FINE), index % u64::from(FINE));
    let above = (u64::from(FINE) + fine + 1) << octave;
    Duration::from_micros((above >> FINE_BITS).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_never_too_low_and_hardly_too_high() {
        for micros in [1, 3, 7, 8, 9, 100, 1_000, 41_237, 999_999, 7_000_000] {
            let samples = Samples::default();
            samples.add(Duration::from_micros(micros));
            let found = u64::try_from(samples.quantile(990).unwrap().as_micros()).unwrap();
            assert!(found >= micros && found <= micros + micros / 7 + 1, "{micros}: {found}");
        }
        assert_eq!(Samples::default().quantile(500), None);
    }

    #[test]
    fn the_slowest_hundredth_makes_the_percentile() {
        let samples = Samples::default();
        for _ in 0..985 {
            samples.add(Duration::from_millis(2));
        }
        for _ in 0..15 {
            samples.add(Duration::from_millis(80));
        }
        assert!(samples.quantile(980).unwrap() < Duration::from_millis(3));
        assert!(samples.quantile(990).unwrap() >= Duration::from_millis(80));
    }

    #[test]
    fn old_samples_fade() {
        let samples = Samples::default();
        for _ in 0..100 {
            samples.add(Duration::from_secs(1));
        }
        for _ in 0..10 {
            samples.fade();
        }
        assert_eq!(samples.count(), 0);
    }
}

//! Whether a policy may go on to the next ring: three answers, as for a probation in a store.
//!
//! In go what the stores of a ring say of it, how long the first of them has had it, and one
//! number of somebody's metrics. Stores that say nothing count for nothing: one that is off must
//! not hold up a fleet. A number that is missing never counts as zero.

use std::sync::Arc;
use std::time::Duration;

use super::health::Verdict;

/// What one store says of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is the last known good there.
    Good,
    /// It was refused or rolled back there.
    Bad(Arc<str>),
    /// It is on probation, waits, or has not come yet.
    Pending,
}

/// A number that has to stay low.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// What it is; `None` = there is none, or it is no number.
    pub value: Option<f64>,
    /// The most that it may be.
    pub most: f64,
}

/// What a ring must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEvidence {
    /// How long the first store must have had it.
    pub bake: Duration,
    /// Of the stores that speak, how many percent must call it good.
    pub percent: u8,
}

/// Judges a policy by the ring that has it. `waited` = since the first store took it.
pub fn judge_ring(
    words: &[(Arc<str>, Word)],
    metric: Option<Metric>,
    waited: Duration,
    spec: RingEvidence,
) -> Verdict {
    let bad = words.iter().find_map(|(store, word)| match word {
        Word::Bad(why) => Some((store, why)),
        Word::Good | Word::Pending => None,
    });
    if let Some((store, why)) = bad {
        return Verdict::Fail(format!("store {store}: {why}").into());
    }
    match metric {
        Some(Metric { value: None, .. }) => {
            return Verdict::Inconclusive("the metric has no value".into());
        }
        Some(Metric { value: Some(value), most }) if value > most => {
            return Verdict::Fail(format!("the metric is {value}, and {most} is allowed").into());
        }
        _ => {}
    }
    let good = words.iter().filter(|(_, word)| *word == Word::Good).count();
    let asked = !words.is_empty() || metric.is_none();
    if asked && (good == 0 || good * 100 < words.len() * usize::from(spec.percent)) {
        let why = format!("it is good in {good} of {} stores that speak", words.len());
        return Verdict::Inconclusive(why.into());
    }
    if waited < spec.bake {
        let left = spec.bake - waited;
        return Verdict::Inconclusive(
            format!("it has to bake for {} s more", left.as_secs()).into(),
        );
    }
    Verdict::Pass
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SPEC: RingEvidence = RingEvidence { bake: HOUR, percent: 80 };

    fn ring(good: usize, pending: usize) -> Vec<(Arc<str>, Word)> {
        let words = std::iter::repeat_n(Word::Good, good);
        let words = words.chain(std::iter::repeat_n(Word::Pending, pending));
        words.enumerate().map(|(store, word)| (store.to_string().into(), word)).collect()
    }

    #[test]
    fn a_ring_passes_when_most_of_it_is_well_for_long_enough() {
        assert_eq!(judge_ring(&ring(8, 2), None, HOUR, SPEC), Verdict::Pass);
        for (words, waited) in [(ring(7, 3), HOUR), (ring(8, 2), HOUR / 2), (ring(0, 0), HOUR)] {
            let verdict = judge_ring(&words, None, waited, SPEC);
            assert!(matches!(verdict, Verdict::Inconclusive(_)), "{verdict:?}");
        }
    }

    #[test]
    fn one_store_that_took_it_back_is_enough() {
        let mut words = ring(100, 0);
        words.push(("0412".into(), Word::Bad("rolled back".into())));
        let verdict = judge_ring(&words, None, HOUR, SPEC);
        assert_eq!(verdict, Verdict::Fail("store 0412: rolled back".into()));
    }

    #[test]
    fn a_metric_that_is_missing_is_no_zero() {
        let judged =
            |value| judge_ring(&ring(9, 0), Some(Metric { value, most: 0.01 }), HOUR, SPEC);
        assert!(matches!(judged(None), Verdict::Inconclusive(_)));
        assert!(matches!(judged(Some(0.02)), Verdict::Fail(_)));
        assert_eq!(judged(Some(0.0)), Verdict::Pass);
        let alone = Some(Metric { value: Some(0.0), most: 0.01 });
        assert_eq!(judge_ring(&[], alone, HOUR, SPEC), Verdict::Pass, "it may be all there is");
    }
}

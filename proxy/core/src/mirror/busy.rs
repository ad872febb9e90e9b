//! Whether the tills are busy: then what can wait does.
//!
//! In: how many calls of a class have ended so far, and how long its bytes have waited for the
//! line, by histogram; four times a second. Out: yes or no. It says yes at once and no only after
//! a while, so that a till between two customers is not taken for a quiet store.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::gate::Busy;

/// How far it looks back: what is bounded by "within a second" is seen in less.
const LOOKED_AT: Duration = Duration::from_millis(750);

/// How long it was quiet before it counts as quiet.
const QUIET_FOR: Duration = Duration::from_secs(2);

/// A look at a class. Counters since some beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Calls that have ended.
    pub calls: u64,
    /// Waits for the line by bucket; the bucket after the last bound is beyond all.
    pub waits: Vec<u64>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tills {
    looks: VecDeque<(Instant, Look)>,
    busy_at: Option<Instant>,
}

impl Tills {
    /// Another look; `bounds` are the upper ends of the buckets in seconds.
    pub fn handle_look(&mut self, look: Look, bounds: &[f64], rule: &Busy, now: Instant) {
        // Another process, or another config: counters begin anew.
        if self.looks.back().is_some_and(|(_, last)| last.calls > look.calls) {
            self.looks.clear();
        }
        self.looks.push_back((now, look));
        while self.looks.get(1).is_some_and(|(at, _)| *at + LOOKED_AT <= now) {
            self.looks.pop_front();
        }
        if self.is_above(bounds, rule) {
            self.busy_at = Some(now);
        }
    }

    /// Whether they are busy.
    pub fn are_busy(&self, now: Instant) -> bool {
        self.busy_at.is_some_and(|at| now.saturating_duration_since(at) < QUIET_FOR)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
    fn is_above(&self, bounds: &[f64], rule: &Busy) -> bool {
        let (Some((from, first)), Some((to, last))) = (self.looks.front(), self.looks.back())
        else {
            return false;
        };
        let seconds = to.saturating_duration_since(*from).as_secs_f64();
        if seconds == 0.0 {
            return false;
        }
        let calls = (last.calls - first.calls) as f64 / seconds;
        let above = |limit: u32| calls > f64::from(limit);
        rule.requests_per_second.is_some_and(above)
            || rule.added_latency.is_some_and(|limit| waited(first, last, bounds) > limit)
    }
}

/// The 99th of a hundred waits between two looks, rounded up to its bucket's end.
fn waited(first: &Look, last: &Look, bounds: &[f64]) -> Duration {
    let since = |at: usize| {
        let before = first.waits.get(at).copied().unwrap_or_default();
        last.waits.get(at).copied().unwrap_or_default().saturating_sub(before)
    };
    let total: u64 = (0..last.waits.len()).map(since).sum();
    if total == 0 {
        return Duration::ZERO;
    }
    let mut left = total - total / 100;
    for at in 0..last.waits.len() {
        left = left.saturating_sub(since(at));
        if left == 0 {
            let bound = bounds.get(at).copied().unwrap_or(f64::INFINITY);
            return Duration::try_from_secs_f64(bound).unwrap_or(Duration::MAX);
        }
    }
    Duration::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::ClassId;
    use crate::schedule::tests::draw::epoch;

    const TICK: Duration = Duration::from_millis(250);

    fn rule(requests_per_second: Option<u32>, added_latency: Option<Duration>) -> Busy {
        Busy { class: ClassId(0), requests_per_second, added_latency }
    }

    #[test]
    fn calls_above_the_threshold_are_seen_within_a_second_and_quiet_after_some() {
        let (mut tills, mut now, rule) = (Tills::default(), epoch(), rule(Some(20), None));
        let mut calls = 0;
        let mut run = |tills: &mut Tills, a_tick: u64, ticks: u32| {
            for tick in 0..ticks {
                calls += a_tick;
                now += TICK;
                tills.handle_look(Look { calls, waits: vec![] }, &[], &rule, now);
                if tills.are_busy(now) {
                    return Some(TICK * tick);
                }
            }
            None
        };
        assert_eq!(run(&mut tills, 5, 40), None, "twenty a second are not more than twenty");
        assert!(run(&mut tills, 6, 4).is_some(), "twenty-four are, and within a second");
        now += QUIET_FOR;
        for _ in 0..4 {
            now += TICK;
            let look = Look { calls: 1, waits: vec![] };
            tills.handle_look(look, &[], &rule, now);
        }
        assert!(!tills.are_busy(now));
    }

    #[test]
    fn waits_for_the_line_count_by_their_last_hundredth() {
        let (mut tills, now) = (Tills::default(), epoch());
        let rule = rule(None, Some(Duration::from_millis(10)));
        let bounds = [0.001, 0.01, 0.1];
        let look = |waits: [u64; 4]| Look { calls: 0, waits: waits.to_vec() };
        tills.handle_look(look([100, 0, 0, 0]), &bounds, &rule, now);
        tills.handle_look(look([300, 10, 1, 0]), &bounds, &rule, now + TICK);
        assert!(!tills.are_busy(now + TICK), "one of two hundred");
        tills.handle_look(look([300, 10, 9, 0]), &bounds, &rule, now + TICK * 2);
        assert!(tills.are_busy(now + TICK * 2));
        assert_eq!(waited(&look([0; 4]), &look([0, 0, 0, 5]), &bounds), Duration::MAX);
    }
}

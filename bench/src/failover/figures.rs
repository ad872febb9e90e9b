//! From the calls of a scene and the books of its replicas to the figures of a table row.
//!
//! Pure: everything that was measured goes in. A call belongs to the fault when it had not ended
//! before it; nothing before counts but failures, which would be a broken scene.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ledger::{Ledger, Repeats, repeats};
use super::load::Call;
use super::scene::{Keying, Tier};
use crate::stats::{millis, real};
use crate::sys::{NANOS_PER_MS, NANOS_PER_SEC, Nanos};

/// Over how much time the tier of most calls is taken.
const WINDOW: Nanos = 400 * NANOS_PER_MS;
/// The share of a window's calls that makes it one of a tier: less is a mixture, as a ramp is.
const CLEAR_PERCENT: usize = 80;
/// "Back": over the last seconds of a scene.
const LAST: Nanos = 3 * NANOS_PER_SEC;

/// When things happened.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Moments {
    /// The fault begins.
    pub(super) fault: Nanos,
    /// The first step is done: a killed process has no socket left.
    pub(super) done: Nanos,
    /// From here on calls are judged: the fault, or when a rebooted proxy is ready.
    pub(super) judged: Nanos,
}

/// What was measured.
pub(super) struct Measured<'a> {
    pub(super) calls: &'a [Call],
    pub(super) local: &'a Ledger,
    pub(super) cloud: &'a Ledger,
    pub(super) keying: Keying,
    pub(super) moments: Moments,
    /// The cloud's own time for a call.
    pub(super) cloud_ms: f64,
}

/// A row of the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// Calls that had not ended when the fault began.
    pub(super) calls: u64,
    pub(super) failed: u64,
    /// Of these, before the fault: there should be none.
    pub(super) failed_before: u64,
    /// Calls under way when the fault began.
    pub(super) in_flight: u64,
    /// When the last call that failed was due, in seconds after the fault.
    pub(super) last_failure_s: Option<f64>,
    /// Of calls that were answered.
    pub(super) slowest_ms: f64,
    pub(super) cloud_ms: f64,
    pub(super) repeats: Repeats,
    /// Calls with an answer that no replica has in its book: the lab itself would be wrong.
    pub(super) unaccounted: u64,
    /// Calls that failed for the till and were executed nevertheless.
    pub(super) failed_but_executed: u64,
    pub(super) tier_changes: u64,
    /// Share of the last calls that the local replica answered.
    pub(super) local_at_the_end: f64,
    /// Why calls failed, and how often.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Figures {
    pub(super) fn of(measured: &Measured<'_>) -> Self {
        let Measured { calls, local, cloud, keying, moments, cloud_ms } = *measured;
        let judged = |call: &&Call| call.ended() >= moments.fault && call.due >= moments.judged;
        let under_way = |call: &&Call| call.ended() >= moments.fault && call.due < moments.done;
        // A reboot cuts what is under way in front of everybody; otherwise those calls count.
        let cut = moments.judged > moments.done;
        let counts = |call: &&Call| judged(call) || (!cut && under_way(call));
        let counted: Vec<&Call> = calls.iter().filter(counts).collect();
        let failed = || counted.iter().filter(|call| call.answered.is_none());
        let executed = |call: &Call| {
            let times = |ledger: &Ledger| ledger.get(&call.number).map_or(0, |one| one.executed);
            times(local) + times(cloud)
        };
        let mut reasons = BTreeMap::new();
        for call in failed() {
            *reasons.entry(call.failure.clone().unwrap_or_default()).or_default() += 1;
        }
        let answered = || counted.iter().filter(|call| call.answered.is_some());
        let before = |call: &&Call| call.answered.is_none() && call.ended() < moments.fault;
        let since = |at: Nanos| real(at.saturating_sub(moments.fault)) / real(NANOS_PER_SEC);
        Self {
            calls: counted.len() as u64,
            failed: failed().count() as u64,
            failed_before: calls.iter().filter(before).count() as u64,
            in_flight: calls.iter().filter(under_way).count() as u64,
            last_failure_s: failed().map(|call| call.due).max().map(since),
            slowest_ms: millis(answered().map(|call| call.took_us).max().unwrap_or(0)),
            cloud_ms,
            repeats: repeats(local, cloud, keying),
            unaccounted: answered().filter(|call| executed(call) == 0).count() as u64,
            failed_but_executed: failed().filter(|call| executed(call) > 0).count() as u64,
            tier_changes: tier_changes(calls),
            local_at_the_end: local_at_the_end(calls),
            reasons,
        }
    }

    pub(super) fn above_cloud_ms(&self) -> f64 {
        (self.slowest_ms - self.cloud_ms).max(0.0)
    }

    /// The worse of two runs, figure by figure.
    pub(super) fn worst(self, other: Self) -> Self {
        let mut reasons = self.reasons;
        for (reason, count) in other.reasons {
            *reasons.entry(reason).or_default() += count;
        }
        let (a, b) = (self.repeats, other.repeats);
        Self {
            calls: self.calls.max(other.calls),
            failed: self.failed.max(other.failed),
            failed_before: self.failed_before.max(other.failed_before),
            in_flight: self.in_flight.max(other.in_flight),
            last_failure_s: [self.last_failure_s, other.last_failure_s]
                .into_iter()
                .flatten()
                .max_by(f64::total_cmp),
            slowest_ms: self.slowest_ms.max(other.slowest_ms),
            cloud_ms: self.cloud_ms.min(other.cloud_ms),
            repeats: Repeats {
                executed_twice: a.executed_twice.max(b.executed_twice),
                both_tiers: a.both_tiers.max(b.both_tiers),
                without_permission: a.without_permission.max(b.without_permission),
            },
            unaccounted: self.unaccounted.max(other.unaccounted),
            failed_but_executed: self.failed_but_executed.max(other.failed_but_executed),
            tier_changes: self.tier_changes.max(other.tier_changes),
            local_at_the_end: self.local_at_the_end.min(other.local_at_the_end),
            reasons,
        }
    }
}

/// How often the tier that answers has changed. Windows without a clear tier (a ramp, a trial
/// call, no answers) are no change.
fn tier_changes(calls: &[Call]) -> u64 {
    let mut windows: BTreeMap<Nanos, [usize; 2]> = BTreeMap::new();
    for call in calls {
        let Some(tier) = call.answered else { continue };
        let counts = windows.entry(call.due / WINDOW).or_default();
        counts[usize::from(tier == Tier::Cloud)] += 1;
    }
    let clear = |[local, cloud]: [usize; 2]| {
        let needed = (local + cloud) * CLEAR_PERCENT;
        let is = |count: usize| count * 100 >= needed;
        if is(local) { Some(Tier::Local) } else { is(cloud).then_some(Tier::Cloud) }
    };
    let tiers: Vec<Tier> = windows.into_values().filter_map(clear).collect();
    tiers.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
}

fn local_at_the_end(calls: &[Call]) -> f64 {
    let end = calls.iter().map(|call| call.due).max().unwrap_or(0);
    let late = calls.iter().filter(|call| call.due + LAST >= end);
    let (mut local, mut all) = (0_u64, 0_u64);
    for tier in late.filter_map(|call| call.answered) {
        local += u64::from(tier == Tier::Local);
        all += 1;
    }
    real(local) / real(all.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::ledger::Entry;

    const STEP: Nanos = 40 * NANOS_PER_MS;

    /// Calls 40 ms apart that take 5 ms, answered by whom `who` says.
    fn calls(count: u64, who: impl Fn(u64) -> Option<Tier>) -> Vec<Call> {
        let call = |number| {
            let answered = who(number);
            let failure = answered.is_none().then(|| "status 502".to_owned());
            Call { number, due: number * STEP, took_us: 5_000, answered, failure }
        };
        (1..=count).map(call).collect()
    }

    fn books(calls: &[Call]) -> [Ledger; 2] {
        [Tier::Local, Tier::Cloud].map(|tier| {
            let of = calls.iter().filter(|call| call.answered == Some(tier));
            let entry = Entry { read: 1, executed: 1, answered: 1, read_at: 0 };
            of.map(|call| (call.number, entry)).collect()
        })
    }

    fn figures(calls: &[Call], moments: Moments) -> Figures {
        let [local, cloud] = &books(calls);
        let (keying, cloud_ms) = (Keying::None, 2.0);
        Figures::of(&Measured { calls, local, cloud, keying, moments, cloud_ms })
    }

    fn at(number: u64) -> Moments {
        let fault = number * STEP;
        Moments { fault, done: fault + NANOS_PER_MS, judged: fault }
    }

    #[test]
    fn failures_count_from_the_fault_on() {
        let mut all = calls(100, |number| match number {
            50..55 => None,
            55.. => Some(Tier::Cloud),
            _ => Some(Tier::Local),
        });
        all[70].took_us = 109_000;
        let seen = figures(&all, at(50));
        assert_eq!((seen.calls, seen.failed, seen.failed_before), (51, 5, 0));
        assert_eq!(seen.last_failure_s, Some(4.0 * 0.04));
        assert!((seen.above_cloud_ms() - 107.0).abs() < 1e-9, "{seen:?}");
        assert_eq!(seen.tier_changes, 1);
        assert_eq!(seen.reasons["status 502"], 5);
        assert_eq!((seen.unaccounted, seen.failed_but_executed), (0, 0));
        let late = figures(&all, at(60));
        assert_eq!((late.failed, late.failed_before), (0, 5), "the scene was broken before");
    }

    #[test]
    fn a_call_under_way_at_the_fault_belongs_to_it() {
        let mut all = calls(10, |_| Some(Tier::Local));
        // Due before the fault at 5, ended after it.
        all[2].took_us = 90_000;
        let seen = figures(&all, at(5));
        // Call 3, call 5 itself which is due while the process dies, and 6 to 10.
        assert_eq!((seen.calls, seen.in_flight), (7, 2));
        // A reboot: nobody could have answered what came before the proxy was ready.
        let moments = Moments { judged: 8 * STEP, ..at(5) };
        assert_eq!(figures(&all, moments).calls, 3);
    }

    #[test]
    fn answers_and_books_must_agree() {
        let all = calls(10, |number| (number != 4).then_some(Tier::Local));
        let [mut local, cloud] = books(&all);
        local.remove(&7);
        local.insert(4, Entry { read: 1, executed: 1, ..Entry::default() });
        let (keying, moments) = (Keying::None, at(1));
        let measured =
            Measured { calls: &all, local: &local, cloud: &cloud, keying, moments, cloud_ms: 0.0 };
        let seen = Figures::of(&measured);
        assert_eq!((seen.unaccounted, seen.failed_but_executed), (1, 1));
    }

    #[test]
    fn a_trial_call_and_a_ramp_are_no_change_of_tier() {
        let trial = calls(100, |n| Some(if n == 50 { Tier::Cloud } else { Tier::Local }));
        assert_eq!(tier_changes(&trial), 0);
        let ramp = calls(300, |n| {
            let cloud = n < 100 || (n < 200 && n % 2 == 0);
            Some(if cloud { Tier::Cloud } else { Tier::Local })
        });
        assert_eq!(tier_changes(&ramp), 1);
        let flapping =
            calls(200, |n| Some(if n / 25 % 2 == 0 { Tier::Local } else { Tier::Cloud }));
        assert!(tier_changes(&flapping) >= 7, "{}", tier_changes(&flapping));
        assert_eq!(local_at_the_end(&ramp), 1.0);
    }

    #[test]
    fn of_two_runs_the_worse_counts() {
        let good = calls(100, |_| Some(Tier::Local));
        let bad = calls(100, |number| (number != 60).then_some(Tier::Local));
        let (good, bad) = (figures(&good, at(50)), figures(&bad, at(50)));
        assert_eq!(good.clone().worst(bad.clone()), bad.worst(good));
    }
}

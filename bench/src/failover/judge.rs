//! What must hold in a scene, and whether it did.
//!
//! The numbers are those of the table in the design, for 25 calls a second; at other rates they
//! are in proportion, so they are written as the time for which calls may fail. Pure.

use super::figures::Figures;
use super::scene::{CLOUD_BACK_SECONDS, Fault, Keying, Scene};
use crate::stats::real;

/// What a killed replica may cost the slowest call beyond the cloud's own time.
const ABOVE_CLOUD_MS: f64 = 50.0;
/// The slowest keyed call while a replica flaps.
const FLAPPING_MS: f64 = 500.0;
/// How long calls may fail without permission to be repeated: 10, 5 and 3 calls at 25/s.
const FROZEN_SECONDS: f64 = 0.4;
const CUT_SECONDS: f64 = 0.2;
const REFUSED_SECONDS: f64 = 0.12;
/// With both tiers down: until calls come through again after one has returned.
const RETURN_SECONDS: f64 = 0.5;
/// Within dwell and ramp, nearly all calls are back; trials of the other tier may be under way.
const BACK_SHARE: f64 = 0.95;

/// What is allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Target {
    /// Calls that may fail.
    failed: Option<f64>,
    /// When the last of them may have been due.
    last_failure_s: Option<f64>,
    above_cloud_ms: Option<f64>,
    slowest_ms: Option<f64>,
    tier_changes: Option<u64>,
    local_at_the_end: Option<f64>,
}

impl Target {
    pub(super) fn of(scene: &Scene, in_flight: u64) -> Self {
        let for_seconds = |seconds: f64| Some(seconds * f64::from(scene.rate));
        // Permission to go to the other tier, which is usable in all scenes but one.
        let may_repeat = scene.keying == Keying::AllBackends;
        let unless_keyed = |failed: Option<f64>| if may_repeat { Some(0.0) } else { failed };
        let none = Self { failed: Some(0.0), ..Self::default() };
        match scene.fault {
            // What was under way when a process died has been sent, and is lost without a key.
            Fault::Kill | Fault::DnsGone => Self {
                failed: unless_keyed(Some(real(in_flight))),
                above_cloud_ms: Some(ABOVE_CLOUD_MS),
                ..none
            },
            Fault::Freeze => Self { failed: unless_keyed(for_seconds(FROZEN_SECONDS)), ..none },
            Fault::LineCut => Self { failed: unless_keyed(for_seconds(CUT_SECONDS)), ..none },
            Fault::Unavailable | Fault::ResetAfterRead => {
                Self { failed: unless_keyed(for_seconds(REFUSED_SECONDS)), ..none }
            }
            // The head of the answer has been passed on: a key does not help any more.
            Fault::ResetMidBody => Self { failed: for_seconds(REFUSED_SECONDS), ..none },
            Fault::Flap => Self {
                slowest_ms: may_repeat.then_some(FLAPPING_MS),
                tier_changes: Some(1),
                ..none
            },
            Fault::Slow | Fault::Reboot => none,
            Fault::Refuse => Self { above_cloud_ms: Some(ABOVE_CLOUD_MS), ..none },
            Fault::BothDown => Self {
                last_failure_s: Some(CLOUD_BACK_SECONDS + RETURN_SECONDS),
                ..Self::default()
            },
            Fault::Return => Self {
                failed: Some(real(in_flight)),
                tier_changes: Some(2),
                local_at_the_end: Some(BACK_SHARE),
                ..none
            },
        }
    }

    /// What was missed, each with its bound; empty = all holds.
    pub(super) fn missed(&self, seen: &Figures) -> Vec<String> {
        let mut missed = Vec::new();
        let mut at_most = |what: &str, measured: f64, bound: Option<f64>| {
            if let Some(bound) = bound.filter(|bound| measured > *bound) {
                missed.push(format!("{what} {} > {}", short(measured), short(bound)));
            }
        };
        let zero = Some(0.0);
        at_most("repeated without permission", real(seen.repeats.without_permission), zero);
        at_most("answers in no ledger", real(seen.unaccounted), zero);
        at_most("failed before the fault", real(seen.failed_before), zero);
        at_most("failed", real(seen.failed), self.failed);
        at_most("last failure s", seen.last_failure_s.unwrap_or(0.0), self.last_failure_s);
        at_most("ms above the cloud", seen.above_cloud_ms(), self.above_cloud_ms);
        at_most("slowest ms", seen.slowest_ms, self.slowest_ms);
        at_most("tier changes", real(seen.tier_changes), self.tier_changes.map(real));
        if let Some(bound) = self.local_at_the_end.filter(|bound| seen.local_at_the_end < *bound) {
            missed.push(format!("back at the end {:.2} < {bound:.2}", seen.local_at_the_end));
        }
        missed
    }
}

/// Whole numbers as such, others with what matters.
fn short(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::ledger::Repeats;
    use crate::failover::scene::{Contender, Protocol};

    fn scene(fault: Fault, rate: u32, keying: Keying) -> Scene {
        Scene { fault, rate, protocol: Protocol::H1, keying, contender: Contender::Tillgate }
    }

    fn allowed(fault: Fault, rate: u32, keying: Keying) -> f64 {
        Target::of(&scene(fault, rate, keying), 1).failed.unwrap()
    }

    #[test]
    fn the_table_of_the_design() {
        let of = |fault| allowed(fault, 25, Keying::None);
        assert_eq!([of(Fault::Kill), of(Fault::Freeze), of(Fault::LineCut)], [1.0, 10.0, 5.0]);
        assert_eq!([of(Fault::Unavailable), of(Fault::Flap)], [3.0, 0.0]);
        assert_eq!(allowed(Fault::Freeze, 200, Keying::None), 80.0);
        assert_eq!(allowed(Fault::Freeze, 25, Keying::Backend), 10.0);
        for fault in [Fault::Kill, Fault::Freeze, Fault::LineCut, Fault::Unavailable, Fault::Flap] {
            assert_eq!(allowed(fault, 25, Keying::AllBackends), 0.0, "{fault:?}");
        }
    }

    #[test]
    fn what_is_missed_is_said() {
        let flap = Target::of(&scene(Fault::Flap, 25, Keying::AllBackends), 0);
        let good = Figures { slowest_ms: 480.0, tier_changes: 1, ..Figures::default() };
        assert_eq!(flap.missed(&good), Vec::<String>::new());
        let repeats = Repeats { without_permission: 1, ..Repeats::default() };
        let bad = Figures { slowest_ms: 980.5, tier_changes: 20, failed: 2, repeats, ..good };
        assert_eq!(
            flap.missed(&bad),
            [
                "repeated without permission 1 > 0",
                "failed 2 > 0",
                "slowest ms 980.5 > 500",
                "tier changes 20 > 1"
            ]
        );
    }

    #[test]
    fn a_killed_replica_may_cost_what_was_under_way_and_fifty_ms() {
        let kill = Target::of(&scene(Fault::Kill, 25, Keying::None), 2);
        let figures = Figures { failed: 2, slowest_ms: 91.0, cloud_ms: 41.0, ..Figures::default() };
        assert!(kill.missed(&figures).is_empty());
        let figures = Figures { failed: 3, slowest_ms: 91.5, ..figures };
        assert_eq!(kill.missed(&figures), ["failed 3 > 2", "ms above the cloud 50.5 > 50"]);
    }

    #[test]
    fn traffic_must_be_back_in_the_end() {
        let back = Target::of(&scene(Fault::Return, 25, Keying::None), 0);
        let figures = Figures { local_at_the_end: 1.0, tier_changes: 2, ..Figures::default() };
        assert!(back.missed(&figures).is_empty());
        let figures = Figures { local_at_the_end: 0.0, ..figures };
        assert_eq!(back.missed(&figures), ["back at the end 0.00 < 0.95"]);
    }
}

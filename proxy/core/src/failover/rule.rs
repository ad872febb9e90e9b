//! One rule on the board: its tiers, and what is published of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::layout::RuleLayout;
use super::plan::{Group, Plan};
use super::shifts::{Shifted, TierState, Tiers};
use super::status::RuleStatus;
use super::{FailoverSpec, RuleName, TIERS_MAX};
use crate::load::{EndpointId, Load, Verdict};

#[derive(Debug)]
pub(super) struct RuleWatch {
    pub(super) name: RuleName,
    pub(super) spec: FailoverSpec,
    pub(super) plan: Plan,
    pub(super) tiers: Tiers,
    /// Of the last change.
    pub(super) cause: &'static str,
}

impl RuleWatch {
    pub(super) fn new(rule: &RuleLayout, plan: Plan, times: [Duration; 2], now: Instant) -> Self {
        let [hold_down, ramp] = times;
        let tiers = Tiers::new(plan.tiers.len().min(TIERS_MAX), hold_down, ramp, now);
        plan.face.publish_active(0);
        plan.face.publish_ramp(None);
        plan.face.publish_trials(0, now);
        let (name, spec) = (rule.name.clone(), rule.failover.clone());
        Self { name, spec, plan, tiers, cause: "start" }
    }

    pub(super) fn reconfigure(&mut self, rule: &RuleLayout, plan: Plan, times: [Duration; 2]) {
        let [hold_down, ramp] = times;
        self.tiers.reconfigure(hold_down, ramp);
        plan.face.reconfigure(rule.budget);
        (self.plan, self.spec) = (plan, rule.failover.clone());
    }

    /// Whether the tiers of `plan` go on from ours: as many, and in each an endpoint that was in
    /// it before, so that what is known of the tier is known of its successor.
    pub(super) fn goes_on_as(&self, plan: &Plan) -> bool {
        let is_in = |tier: usize, id: EndpointId| {
            self.plan.loads().any(|(at, load)| at == tier && load.id() == id)
        };
        let mut tiers = 0..plan.tiers.len();
        self.plan.tiers.len() == plan.tiers.len()
            && tiers.all(|tier| {
                let mut members = plan.loads().filter(|(at, _)| *at == tier);
                members.any(|(_, load)| is_in(tier, load.id()))
            })
    }

    pub(super) fn handle_failure(&mut self, id: EndpointId, now: Instant) {
        let tiers = self.plan.loads().filter(|(_, load)| load.id() == id).map(|(tier, _)| tier);
        let tiers: Vec<usize> = tiers.collect();
        for tier in tiers {
            self.tiers.handle_failure(tier, now);
        }
    }

    /// Compares its tiers with what their endpoints are now, and publishes what follows. To be
    /// called again after each shift.
    pub(super) fn settle(&mut self, now: Instant) -> Option<Shifted> {
        if self.plan.tiers.is_empty() {
            return None;
        }
        let tiers = self.plan.tiers.iter().take(TIERS_MAX);
        let states: Vec<TierState> = tiers.map(|groups| self.state(groups, now)).collect();
        let shifted = self.tiers.handle_states(&states, now);
        let face = &self.plan.face;
        face.publish_active(self.tiers.active());
        face.publish_ramp(self.tiers.ramp());
        let ramp = self.tiers.ramp().map(|(tier, _, _)| tier);
        let wanted = [Some(self.tiers.active()), self.tiers.on_trial(now), ramp];
        let tries = |tier: usize| {
            let mut loads = self.plan.tiers[tier].iter().flat_map(|group| group.loads.iter());
            loads.any(|load| load.verdict() == Verdict::Trial)
        };
        let bits = wanted.into_iter().flatten().filter(|tier| tries(*tier));
        face.publish_trials(bits.fold(0, |bits, tier| bits | 1 << tier), now);
        shifted
    }

    pub(super) fn status(&self) -> RuleStatus {
        RuleStatus {
            name: self.name.clone(),
            active: self.tiers.active(),
            since: self.tiers.since(),
            cause: self.cause,
            states: self.tiers.states().to_vec(),
            ramp: self.tiers.ramp(),
            returns_at: self.tiers.returns_at(),
            flaps: self.tiers.flaps(),
        }
    }

    fn state(&self, groups: &[Group], now: Instant) -> TierState {
        let takes = |group: &&Group| group.weight > 0 || groups.len() == 1;
        let loads = || groups.iter().filter(takes).flat_map(|group| group.loads.iter());
        let count = |worst: Verdict| {
            // A suspect is what it was until a probe has decided.
            let fits = |load: &&Arc<Load>| {
                let verdict = load.verdict();
                verdict <= worst || verdict == Verdict::Suspect
            };
            loads().filter(fits).filter(|load| self.plan.is_fresh(load, now)).count()
        };
        let wanted = self.spec.fallback_below.of(loads().count());
        if count(Verdict::Usable) >= wanted {
            TierState::Usable
        } else if count(Verdict::Trial) >= wanted {
            TierState::Ready
        } else {
            TierState::Out
        }
    }
}

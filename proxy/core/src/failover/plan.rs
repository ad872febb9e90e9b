//! Where one call goes: tiers, weights, endpoints, and the calls that are trials.
//!
//! In: the plan of a rule (made once for each config), what the board has published, chance, and
//! what the call has tried already. Out: an endpoint. Every request passes here, so it reads
//! atomics and allocates nothing.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::BackendId;
use crate::balance;
use crate::load::{EndpointId, Load, Verdict};
use crate::retry::{Budget, BudgetSpec, Repeat};

/// Tiers of one rule at most: as many as it may have references.
pub const TIERS_MAX: usize = 64;

/// No tier.
const NONE: u8 = u8::MAX;

/// A call that must not be repeated is no trial before this: one that may be comes first, and
/// costs nobody anything if the trial fails.
const TRIAL_PATIENCE: Duration = Duration::from_secs(2);

/// What the board says of one rule's tiers, for all workers to read.
#[derive(Debug)]
pub struct Face {
    epoch: Instant,
    active: AtomicU8,
    /// The tier that traffic comes back to, since when and for how long (milliseconds).
    ramp_to: AtomicU8,
    ramp_since: AtomicU64,
    ramp_for: AtomicU32,
    /// Tiers in which calls may be trials, one bit each; and since when.
    trials: AtomicU64,
    trials_since: AtomicU64,
    /// Calls ever; wraps. The retry budget is a part of them.
    calls: AtomicU32,
    budget: Mutex<Budget>,
}

impl Face {
    /// The first tier takes everything.
    pub fn new(budget: BudgetSpec, epoch: Instant, now: Instant) -> Self {
        Self {
            epoch,
            active: AtomicU8::new(0),
            ramp_to: AtomicU8::new(NONE),
            ramp_since: AtomicU64::new(0),
            ramp_for: AtomicU32::new(0),
            trials: AtomicU64::new(0),
            trials_since: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            budget: Mutex::new(Budget::new(budget, 0, now)),
        }
    }

    /// One more call, that went somewhere without being picked for.
    pub fn count_call(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    /// A further try is wanted; whether it may be.
    pub fn try_withdraw(&self, now: Instant) -> bool {
        self.budget().try_withdraw(self.calls(), now)
    }

    pub(super) fn reconfigure(&self, budget: BudgetSpec) {
        self.budget().reconfigure(budget);
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The active tier.
    pub fn active(&self) -> usize {
        self.active.load(Relaxed).into()
    }

    /// Calls ever; wraps.
    pub fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }

    pub(super) fn publish_active(&self, tier: usize) {
        self.active.store(u8::try_from(tier).unwrap_or(0), Relaxed);
    }

    pub(super) fn publish_ramp(&self, ramp: Option<(usize, Instant, Duration)>) {
        if let Some((tier, since, length)) = ramp {
            self.ramp_since.store(self.millis(since), Relaxed);
            self.ramp_for.store(u32::try_from(length.as_millis()).unwrap_or(u32::MAX), Relaxed);
            self.ramp_to.store(u8::try_from(tier).unwrap_or(NONE), Relaxed);
        } else {
            self.ramp_to.store(NONE, Relaxed);
        }
    }

    pub(super) fn publish_trials(&self, tiers: u64, now: Instant) {
        if self.trials.swap(tiers, Relaxed) == 0 {
            self.trials_since.store(self.millis(now), Relaxed);
        }
    }

    /// The tier that this call belongs to.
    fn tier(&self, draw: u64, now: Instant) -> usize {
        let back = self.ramp_to.load(Relaxed);
        if back != NONE {
            let passed = self.millis(now).saturating_sub(self.ramp_since.load(Relaxed));
            let length = u64::from(self.ramp_for.load(Relaxed)).max(1);
            if draw % length < passed {
                return back.into();
            }
        }
        self.active()
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        since.as_secs() * 1000 + u64::from(since.subsec_millis())
    }
}

/// A backend in a tier.
#[derive(Clone, Debug)]
pub struct Group {
    /// Which one.
    pub backend: BackendId,
    /// Its share of the tier's calls.
    pub weight: u32,
    /// Its endpoints.
    pub loads: Arc<[Arc<Load>]>,
}

/// Where the calls of one rule can go.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tiers in order; empty where the rule answers by itself.
    pub tiers: Vec<Vec<Group>>,
    /// What the board says of them.
    pub face: Arc<Face>,
    /// Endpoints with older data are not usable.
    pub data_age_max: Option<Duration>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where it may be repeated if this goes wrong.
    pub repeat: Repeat,
    /// Where it was already.
    pub tried: &'a [EndpointId],
    /// The only backend that it may go to.
    pub only: Option<BackendId>,
    /// Chance.
    pub draw: u64,
}

/// An endpoint for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The tier.
    pub tier: usize,
    /// The backend, as a place in the tier.
    pub group: usize,
    /// The endpoint, as a place in the backend.
    pub endpoint: usize,
    /// Whether this call is the one that finds out; then [`Load::end_trial`] is due at its end.
    pub trial: bool,
}

impl Choice {
    /// Whether both are the same endpoint.
    pub fn is_same(self, other: Self) -> bool {
        let place = |one: Self| (one.tier, one.group, one.endpoint);
        place(self) == place(other)
    }
}

impl Plan {
    /// The endpoint for a call, wherever one is left that was not tried; `None` if none is, or
    /// all that are left have data that is too old.
    pub fn pick(&self, ask: Ask<'_>, now: Instant) -> Option<Choice> {
        if ask.tried.is_empty() {
            self.face.count_call();
        }
        if self.face.trials.load(Relaxed) != 0
            && let Some(trial) = self.trial(ask, now)
        {
            return Some(trial);
        }
        // The ramp takes the lower half of the draw; tiers, the rest.
        let wanted = self.face.tier(ask.draw & u64::from(u32::MAX), now);
        let usable = |load: &Load| load.verdict() == Verdict::Usable;
        let all = 0..self.tiers.len();
        let mut order = [wanted].into_iter().chain(all.filter(|tier| *tier != wanted));
        order
            .find_map(|tier| self.pick_in(tier, ask, now, usable))
            .or_else(|| self.last_resort(ask, now))
    }

    /// Whether an endpoint is left for this call that promises more than one that is out.
    pub fn has_better(&self, at: Choice, ask: Ask<'_>, now: Instant) -> bool {
        let asked = self.load(at).answers_probes();
        let better = |load: &Load| match load.verdict() {
            Verdict::Usable | Verdict::Trial => true,
            Verdict::Suspect => false,
            Verdict::Out => load.answers_probes() && !asked,
        };
        (0..self.tiers.len()).any(|tier| self.pick_in(tier, ask, now, better).is_some())
    }

    /// The endpoint where a session is, if this call may go there: as any other it may not while
    /// that is silent or out, and one on trial takes one call at a time, once it is wanted.
    pub fn keep(&self, at: Choice, repeat: Repeat, now: Instant) -> Option<Choice> {
        let load = self.load(at);
        if !self.is_fresh(load, now) {
            return None;
        }
        match load.verdict() {
            Verdict::Usable => Some(at),
            Verdict::Trial => {
                let is_wanted = self.face.trials.load(Relaxed) & 1 << at.tier != 0;
                let may = is_wanted && self.may_try(repeat, now) && load.take_trial();
                may.then_some(Choice { trial: true, ..at })
            }
            Verdict::Suspect | Verdict::Out => None,
        }
    }

    /// A choice is not used.
    pub fn put_back(&self, choice: Choice) {
        if choice.trial {
            self.load(choice).end_trial();
        }
    }

    /// The load of a choice.
    pub fn load(&self, choice: Choice) -> &Arc<Load> {
        &self.tiers[choice.tier][choice.group].loads[choice.endpoint]
    }

    /// The backend of a choice.
    pub fn backend(&self, choice: Choice) -> BackendId {
        self.tiers[choice.tier][choice.group].backend
    }

    /// Every endpoint there is, with the tier it is in.
    pub fn loads(&self) -> impl Iterator<Item = (usize, &Arc<Load>)> {
        self.tiers.iter().enumerate().flat_map(|(tier, groups)| {
            groups.iter().flat_map(move |group| group.loads.iter().map(move |load| (tier, load)))
        })
    }

    /// No endpoint is known to be well: those on trial first, then those that answer probes,
    /// then the rest.
    fn last_resort(&self, ask: Ask<'_>, now: Instant) -> Option<Choice> {
        let trial = |load: &Load| load.verdict() == Verdict::Trial;
        let probed = |load: &Load| load.answers_probes();
        let any = |_: &Load| true;
        let kinds: [&dyn Fn(&Load) -> bool; 3] = [&trial, &probed, &any];
        kinds.into_iter().find_map(|kind| {
            (0..self.tiers.len()).find_map(|tier| self.pick_in(tier, ask, now, kind))
        })
    }

    fn trial(&self, ask: Ask<'_>, now: Instant) -> Option<Choice> {
        if !self.may_try(ask.repeat, now) {
            return None;
        }
        let mut tiers = self.face.trials.load(Relaxed);
        while tiers != 0 {
            let tier = usize::try_from(tiers.trailing_zeros()).unwrap_or(0);
            tiers &= tiers - 1;
            // Asked of several, taken of the one that was chosen.
            let open = |load: &Load| load.verdict() == Verdict::Trial && !load.is_on_trial();
            if let Some(choice) = self.pick_in(tier, ask, now, open)
                && self.load(choice).take_trial()
            {
                return Some(Choice { trial: true, ..choice });
            }
        }
        None
    }

    /// Whether a call may be a trial: rather one that may be repeated.
    fn may_try(&self, repeat: Repeat, now: Instant) -> bool {
        let face = &self.face;
        let waited = face.millis(now).saturating_sub(face.trials_since.load(Relaxed));
        repeat != Repeat::Nowhere || u128::from(waited) >= TRIAL_PATIENCE.as_millis()
    }

    fn pick_in(
        &self,
        tier: usize,
        ask: Ask<'_>,
        now: Instant,
        may: impl Fn(&Load) -> bool,
    ) -> Option<Choice> {
        let groups = self.tiers.get(tier)?;
        let may =
            |load: &Load| !ask.tried.contains(&load.id()) && self.is_fresh(load, now) && may(load);
        let mut first = 0;
        if groups.len() > 1 {
            first = by_weight(groups, ask.draw >> 32);
        }
        (0..groups.len()).map(|step| (first + step) % groups.len()).find_map(|group| {
            let Group { backend, weight, loads } = &groups[group];
            if ask.only.is_some_and(|only| only != *backend) || *weight == 0 && groups.len() > 1 {
                return None;
            }
            let endpoint = balance::choose(loads, ask.draw.rotate_left(17), may)?;
            Some(Choice { tier, group, endpoint, trial: false })
        })
    }

    /// Whether the data of an endpoint is new enough, as far as it says.
    pub fn is_fresh(&self, load: &Load, now: Instant) -> bool {
        self.data_age_max.is_none_or(|max| load.data_age(now).is_none_or(|age| age <= max))
    }
}

/// A backend in proportion to the weights; the first one if all are zero.
fn by_weight(groups: &[Group], draw: u64) -> usize {
    let total: u64 = groups.iter().map(|group| u64::from(group.weight)).sum();
    let mut left = if total == 0 { 0 } else { draw % total };
    for (place, group) in groups.iter().enumerate() {
        let weight = u64::from(group.weight);
        if left < weight {
            return place;
        }
        left -= weight;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Probed;
    use crate::schedule::tests::draw::{Draw, epoch};

    struct Rule {
        plan: Plan,
        draw: Draw,
        now: Instant,
    }

    /// Tiers as numbers of endpoints of one backend each.
    fn rule(tiers: &[u32]) -> Rule {
        let now = epoch();
        let mut next = 0;
        let mut load = || {
            next += 1;
            Arc::new(Load::new(EndpointId(next), now))
        };
        let mut group = |backend: usize, count: u32| Group {
            backend: BackendId(u16::try_from(backend).unwrap()),
            weight: 1,
            loads: (0..count).map(|_| load()).collect(),
        };
        let tiers = tiers.iter().enumerate().map(|(at, count)| vec![group(at, *count)]).collect();
        let plan = Plan { tiers, face: Arc::new(face(now)), data_age_max: None };
        Rule { plan, draw: Draw::new(7), now }
    }

    fn face(now: Instant) -> Face {
        let percent = crate::units::Percent::FULL;
        Face::new(BudgetSpec { percent, min_per_second: 10 }, now, now)
    }

    impl Rule {
        fn pick(&mut self, repeat: Repeat, tried: &[EndpointId]) -> Option<EndpointId> {
            let ask = Ask { repeat, tried, only: None, draw: self.draw.bits() };
            let choice = self.plan.pick(ask, self.now)?;
            Some(self.plan.load(choice).id())
        }

        fn set(&self, id: u32, verdict: Verdict) {
            let (_, load) = self.plan.loads().find(|(_, load)| load.id().0 == id).unwrap();
            load.publish(verdict);
        }
    }

    const FIRST: Option<EndpointId> = Some(EndpointId(1));
    const SECOND: Option<EndpointId> = Some(EndpointId(2));

    #[test]
    fn weights_are_shares_and_zero_takes_nothing() {
        let mut rule = rule(&[1, 1, 1]);
        let groups: Vec<Group> = rule.plan.tiers.drain(..).flatten().collect();
        let weights = [1, 0, 3];
        let weighed =
            groups.into_iter().zip(weights).map(|(group, weight)| Group { weight, ..group });
        rule.plan.tiers = vec![weighed.collect()];
        let mut counts = [0; 4];
        for _ in 0..4000 {
            let EndpointId(id) = rule.pick(Repeat::Nowhere, &[]).unwrap();
            counts[id as usize] += 1;
        }
        assert!((900..1100).contains(&counts[1]) && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn a_suspect_is_left_out_before_any_tier_changes() {
        let mut rule = rule(&[1, 1]);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), FIRST);
        rule.set(1, Verdict::Suspect);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), SECOND);
    }

    #[test]
    fn what_was_tried_is_not_tried_again() {
        let mut rule = rule(&[1, 1]);
        assert_eq!(rule.pick(Repeat::Anywhere, &[EndpointId(1)]), SECOND);
        assert_eq!(rule.pick(Repeat::Anywhere, &[EndpointId(1), EndpointId(2)]), None);
        let only = Some(BackendId(0));
        let ask = Ask { repeat: Repeat::SameBackend, tried: &[EndpointId(1)], only, draw: 3 };
        assert_eq!(rule.plan.pick(ask, rule.now), None, "the other one is not its backend");
    }

    #[test]
    fn when_all_is_lost_everything_is_tried_the_likeliest_first() {
        let mut rule = rule(&[1, 1]);
        rule.set(1, Verdict::Out);
        rule.set(2, Verdict::Out);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), FIRST);
        rule.plan.tiers[1][0].loads[0].publish_probe(Probed::Good);
        rule.plan.tiers[0][0].loads[0].publish_probe(Probed::NotServing);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), SECOND);
        rule.set(1, Verdict::Trial);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), FIRST);
    }

    #[test]
    fn traffic_comes_back_along_the_ramp() {
        let mut rule = rule(&[1, 1]);
        rule.plan.face.publish_active(1);
        rule.plan.face.publish_ramp(Some((0, rule.now, Duration::from_secs(10))));
        for (seconds, low, high) in [(1, 50, 150), (5, 420, 580), (9, 850, 950), (10, 1000, 1000)] {
            let start = rule.now;
            rule.now += Duration::from_secs(seconds);
            let back = (0..1000).filter(|_| rule.pick(Repeat::Nowhere, &[]) == FIRST).count();
            assert!((low..=high).contains(&back), "after {seconds} s: {back}");
            rule.now = start;
        }
    }

    #[test]
    fn only_the_endpoint_that_gets_the_call_is_on_trial() {
        let mut rule = rule(&[2, 1]);
        rule.plan.face.publish_active(1);
        rule.plan.face.publish_trials(1, rule.now);
        rule.set(1, Verdict::Trial);
        rule.set(2, Verdict::Trial);
        let on_trial = |rule: &Rule| {
            rule.plan.tiers[0][0].loads.iter().filter(|load| load.is_on_trial()).count()
        };
        let first = rule.pick(Repeat::Anywhere, &[]);
        assert_eq!(on_trial(&rule), 1);
        let second = rule.pick(Repeat::Anywhere, &[]);
        assert_eq!(on_trial(&rule), 2);
        assert!(first != second, "{first:?} twice");
    }

    #[test]
    fn one_call_at_a_time_is_a_trial_and_rather_one_that_may_be_repeated() {
        let mut rule = rule(&[1, 1]);
        rule.plan.face.publish_active(1);
        rule.set(1, Verdict::Trial);
        assert_eq!(rule.pick(Repeat::Anywhere, &[]), SECOND, "nobody has asked for trials");
        rule.plan.face.publish_trials(1, rule.now);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), SECOND);
        assert_eq!(rule.pick(Repeat::Anywhere, &[]), FIRST);
        assert_eq!(rule.pick(Repeat::Anywhere, &[]), SECOND, "one is under way");
        rule.plan.tiers[0][0].loads[0].end_trial();
        rule.now += TRIAL_PATIENCE;
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), FIRST, "no other call came");
    }

    #[test]
    fn data_that_is_too_old_is_not_used_at_all() {
        let mut rule = rule(&[1, 1]);
        rule.plan.data_age_max = Some(Duration::from_secs(60));
        let age = Duration::from_secs(50);
        rule.plan.tiers[0][0].loads[0].learn_data_age(age, rule.now);
        rule.now += Duration::from_secs(9);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), FIRST);
        rule.now += Duration::from_secs(2);
        assert_eq!(rule.pick(Repeat::Nowhere, &[]), SECOND);
        assert_eq!(rule.pick(Repeat::Nowhere, &[EndpointId(2)]), None);
    }
}

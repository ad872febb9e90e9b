//! The board: everything that is known of endpoints, lines and tiers, and what follows from it.
//!
//! In: what workers and probes find out, and time. Out: verdicts and active tiers, published for
//! all workers to read without a lock; probes to send; events for logs and counters. It is one
//! machine because its parts decide together: a silent endpoint may be the line's fault, a probe
//! may be wanted because another endpoint behind the same line went silent, and a tier leaves
//! with its last endpoint. A good call of a healthy endpoint never comes here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::layout::{Layout, RuleLayout, Wiring};
use super::plan::{Face, Group, Plan};
use super::rule::RuleWatch;
use super::shifts::Shift;
use super::watched::Watched;
use super::{RuleName, stretch};
use crate::backend::{BackendId, Endpoint};
use crate::health::{Cause, Loss, Outcome, Probed};
use crate::link::LinkId;
use crate::load::{EndpointId, Load, Verdict};
use crate::outage::Outage;

/// How often the habits of endpoints are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often bodies that do not go on are looked at, while there are some.
const BODIES_EVERY: Duration = Duration::from_millis(100);

/// Calls that wait in vain, from which a server that passes its probes is silent all the same:
/// one or two may be slow by nature.
const HOLLOW_CALLS: u32 = 3;

/// Events that nobody has fetched, at most; beyond, the oldest are forgotten.
const EVENTS_MAX: usize = 1024;

/// What changed, for logs and counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An endpoint.
    Endpoint {
        /// Which.
        id: EndpointId,
        /// Name of its backend.
        backend: Arc<str>,
        /// Where it is.
        endpoint: Endpoint,
        /// What it was.
        from: Verdict,
        /// What it is.
        to: Verdict,
        /// Why, in a word.
        cause: &'static str,
    },
    /// A line.
    Line {
        /// Which.
        link: LinkId,
        /// Whether it is down now.
        down: bool,
    },
    /// The active tier of a rule.
    Tier {
        /// Which rule.
        rule: RuleName,
        /// In which direction.
        shift: Shift,
        /// The tier that was active, counted from zero.
        from: usize,
        /// The tier that is.
        to: usize,
        /// Why, in a word.
        cause: &'static str,
    },
}

/// A probe to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Whom.
    pub id: EndpointId,
    /// How long it may take.
    pub within: Duration,
    /// It decides about a suspicion, so it must not trust an open connection.
    pub urgent: bool,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// What it found.
    pub probed: Probed,
    /// When it began.
    pub began: Instant,
    /// When a byte came back, of whatever kind (a connection is one); `None`: none did.
    pub heard_at: Option<Instant>,
    /// How old the endpoint says its data is.
    pub data_age: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub struct Board {
    epoch: Instant,
    seed: u64,
    pub(super) endpoints: BTreeMap<EndpointId, Watched>,
    pub(super) lines: BTreeMap<LinkId, Outage>,
    pub(super) rules: Vec<RuleWatch>,
    events: VecDeque<Event>,
    next_id: u32,
    next_look: Instant,
    /// Servers owe parts of bodies.
    bodies_wait: bool,
}

impl Board {
    /// An empty one. `seed` is a hash of the store's name.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            epoch: now,
            seed,
            endpoints: BTreeMap::new(),
            lines: BTreeMap::new(),
            rules: Vec::new(),
            events: VecDeque::new(),
            next_id: 0,
            next_look: now + LOOK_EVERY,
            bodies_wait: false,
        }
    }

    /// Another config: what is known of endpoints and rules that stay is kept.
    pub fn follow(&mut self, layout: &Layout, now: Instant) -> Wiring {
        let mut known = std::mem::take(&mut self.endpoints);
        let used = |index: usize| {
            let mut references = layout.rules.iter().flat_map(|rule| rule.tiers.iter().flatten());
            references.any(|reference| usize::from(reference.backend.0) == index)
        };
        let mut loads = Vec::new();
        for (index, backend) in layout.backends.iter().enumerate() {
            let mut of_backend = Vec::new();
            for endpoint in &backend.endpoints {
                let same = |one: &Watched| one.backend == backend.name && one.endpoint == *endpoint;
                let before = known.iter().find(|(_, one)| same(one)).map(|(id, _)| *id);
                let id = before.unwrap_or(EndpointId(self.next_id));
                let mut watched = before.and_then(|id| known.remove(&id)).unwrap_or_else(|| {
                    self.next_id += 1;
                    let name = (Arc::clone(&backend.name), endpoint.clone());
                    Watched::new(name, Load::new(id, self.epoch), Arc::clone(&backend.health), now)
                });
                let phase = used(index).then(|| mix(self.seed, id));
                watched.follow(&backend.health, backend.line, phase, now);
                of_backend.push(Arc::clone(&watched.load));
                self.endpoints.insert(id, watched);
            }
            loads.push(of_backend.into());
        }
        let lines = layout.backends.iter().filter_map(|backend| backend.line);
        let mut before = std::mem::take(&mut self.lines);
        self.lines = lines.map(|link| (link, before.remove(&link).unwrap_or_default())).collect();
        let plans = self.follow_rules(layout, &loads, now);
        self.settle_all(now);
        Wiring { loads, plans }
    }

    fn follow_rules(
        &mut self,
        layout: &Layout,
        loads: &[Arc<[Arc<Load>]>],
        now: Instant,
    ) -> Vec<Plan> {
        let mut known = std::mem::take(&mut self.rules);
        let mut plans = Vec::new();
        for rule in &layout.rules {
            let plan_of = |face: Arc<Face>| plan(rule, loads, face);
            let times = [rule.failover.hold_down, rule.failover.ramp];
            let times = times.map(|time| stretch(time, self.seed));
            let before = known.iter().position(|one| one.name == rule.name);
            let mut watch = before.map(|at| known.swap_remove(at));
            let plan = plan_of(match &watch {
                Some(watch) => Arc::clone(&watch.plan.face),
                None => Arc::new(Face::new(rule.budget, self.epoch, now)),
            });
            watch = watch.filter(|watch| watch.has_members_of(&plan));
            let watch = match watch {
                Some(mut watch) => {
                    watch.reconfigure(rule, plan, times);
                    watch
                }
                None => RuleWatch::new(rule, plan, times, now),
            };
            plans.push(watch.plan.clone());
            self.rules.push(watch);
        }
        plans
    }

    /// A call has ended. A good one of a usable endpoint need not be told. `draw` is chance.
    pub fn handle_outcome(&mut self, id: EndpointId, outcome: Outcome, draw: u64, now: Instant) {
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        let line = watched.line;
        let silence = matches!(outcome, Outcome::Lost(loss) if loss.is_silence());
        let said_nothing = [Loss::Reset, Loss::Unresolved].map(Outcome::Lost).contains(&outcome);
        if !silence && !said_nothing {
            self.handle_line_byte(line, now);
        }
        if silence && self.is_down(line) {
            return;
        }
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        watched.health.handle_outcome(outcome, watched.load.good(), draw, now);
        if outcome != Outcome::Good {
            self.failed(id, now);
        }
        if silence {
            self.accuse_line(id, now, now);
        }
        self.settle(id, now);
    }

    /// A call finds that its endpoint owes it an answer since then; nothing happens if that is not
    /// long enough, or a byte of another call came meanwhile.
    pub fn handle_silence(&mut self, id: EndpointId, since: Instant, now: Instant) {
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        let Some(after) = watched.load.stall_after() else { return };
        let since = watched.load.heard_at().map_or(since, |heard| heard.max(since));
        if since + after > now {
            return;
        }
        if watched.health.stall().is_hollow() && watched.load.calls() >= HOLLOW_CALLS {
            watched.health.condemn(mix(self.seed, id), now);
            watched.silent_since = Some(since);
            self.failed(id, now);
            self.settle(id, now);
        } else if watched.health.handle_silence(now) {
            watched.silent_since = Some(since);
            watched.urgent = true;
            self.settle(id, now);
        }
    }

    /// A probe has ended. `draw` is chance.
    pub fn handle_probe(&mut self, id: EndpointId, report: ProbeReport, draw: u64, now: Instant) {
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        let line = watched.line;
        watched.load.publish_probe(report.probed);
        if let Some(age) = report.data_age {
            watched.load.learn_data_age(age, now);
        }
        if let Some(at) = report.heard_at {
            self.handle_line_byte(line, at);
        }
        let silence = matches!(report.probed, Probed::Lost(loss) if loss.is_silence());
        if silence && report.heard_at.is_none() && self.is_down(line) {
            return;
        }
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        watched.health.handle_probe(report.probed, draw, now);
        watched.publish_stall();
        if report.probed == Probed::Good {
            watched.silent_since = None;
        }
        if report.probed != Probed::Good {
            self.failed(id, now);
        }
        if silence && report.heard_at.is_none() {
            self.accuse_line(id, report.began, now);
        }
        self.settle(id, now);
    }

    /// A byte came across a line then, from whomever.
    pub fn handle_line_heard(&mut self, link: LinkId, at: Instant) {
        self.handle_line_byte(Some(link), at);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_look <= now {
            self.next_look = now + LOOK_EVERY;
            self.endpoints.values_mut().for_each(Watched::look);
        }
        for watched in self.endpoints.values_mut() {
            watched.health.handle_timeout(now);
        }
        self.look_at_bodies(now);
        self.settle_all(now);
    }

    /// Bodies that have begun and do not go on. Across a line they may wait for it.
    fn look_at_bodies(&mut self, now: Instant) {
        let owing = |(id, one): (&EndpointId, &Watched)| {
            let since = one.load.silent_since().filter(|_| one.line.is_none())?;
            Some((*id, since))
        };
        let silent: Vec<_> = self.endpoints.iter().filter_map(owing).collect();
        self.bodies_wait = !silent.is_empty();
        for (id, since) in silent {
            self.handle_silence(id, since, now);
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_probe`] has something to do.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let of_endpoint = |one: &Watched| {
            let probe = if one.urgent { Some(now) } else { one.next_probe };
            [probe, one.health.poll_timeout()].into_iter().flatten().min()
        };
        let endpoints = self.endpoints.values().filter_map(of_endpoint);
        let rules = self.rules.iter().filter_map(|rule| rule.tiers.poll_timeout(now));
        let bodies = self.bodies_wait.then(|| now + BODIES_EVERY);
        endpoints.chain(rules).chain(bodies).fold(self.next_look, Instant::min)
    }

    /// A probe that is due.
    pub fn poll_probe(&mut self, now: Instant) -> Option<ProbeOrder> {
        let mut endpoints = self.endpoints.iter_mut();
        endpoints.find_map(|(id, one)| {
            let urgent = one.urgent;
            Some(ProbeOrder { id: *id, within: one.take_probe(now)?, urgent })
        })
    }

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn is_down(&self, line: Option<LinkId>) -> bool {
        let line = line.and_then(|link| self.lines.get(&link));
        line.is_some_and(|line| line.down_since().is_some())
    }

    fn handle_line_byte(&mut self, line: Option<LinkId>, at: Instant) {
        let Some(link) = line else { return };
        let back = self.lines.get_mut(&link).is_some_and(|line| line.handle_byte(at));
        if back {
            self.say(Event::Line { link, down: false });
            self.settle_all(at);
        }
    }

    /// An endpoint that nothing comes from may be a dead line's.
    fn accuse_line(&mut self, id: EndpointId, began: Instant, now: Instant) {
        let Some(watched) = self.endpoints.get(&id) else { return };
        let Some(link) = watched.line else { return };
        let behind = |one: &&Watched| one.line == Some(link) && one.next_probe.is_some();
        let count = self.endpoints.values().filter(behind).count();
        let heard = self.endpoints.values().filter(behind).filter_map(|one| one.load.heard_at());
        let heard = heard.max();
        let is_witness = watched.health.is_only_silent();
        let since = watched.silent_since.map_or(began, |since| since.min(began));
        let Some(line) = self.lines.get_mut(&link) else { return };
        if let Some(at) = heard {
            line.handle_byte(at);
        }
        if !is_witness && !line.has_witness() {
            return;
        }
        if line.handle_silence(id, since, count, now) {
            self.line_went_down(link, now);
        } else if line.down_since().is_none() {
            // The others behind the line know whether it is the line.
            let others = self.endpoints.iter_mut().filter(|(other, one)| {
                **other != id && one.line == Some(link) && one.verdict == Verdict::Usable
            });
            others.for_each(|(_, one)| one.urgent = one.next_probe.is_some());
        }
    }

    fn line_went_down(&mut self, link: LinkId, now: Instant) {
        for one in self.endpoints.values_mut().filter(|one| one.line == Some(link)) {
            if one.health.is_only_silent() {
                one.health.absolve();
            }
        }
        self.say(Event::Line { link, down: true });
        self.settle_all(now);
    }

    /// Something failed there: better tiers wait for longer.
    fn failed(&mut self, id: EndpointId, now: Instant) {
        self.rules.iter_mut().for_each(|rule| rule.handle_failure(id, now));
    }

    fn verdict(&self, one: &Watched) -> Verdict {
        if self.is_down(one.line) { Verdict::Out } else { one.health.verdict() }
    }

    pub(super) fn cause(&self, one: &Watched) -> &'static str {
        if self.is_down(one.line) {
            return "line_down";
        }
        match (one.health.verdict(), one.health.cause()) {
            (Verdict::Suspect, _) => "silent",
            (_, cause) => cause.map_or("recovered", Cause::label),
        }
    }

    fn settle(&mut self, id: EndpointId, now: Instant) {
        if self.publish(id, now) {
            self.settle_rules(now);
        }
    }

    fn settle_all(&mut self, now: Instant) {
        let ids: Vec<EndpointId> = self.endpoints.keys().copied().collect();
        for id in ids {
            self.publish(id, now);
        }
        self.settle_rules(now);
    }

    /// Publishes what an endpoint is now; whether that is news.
    fn publish(&mut self, id: EndpointId, now: Instant) -> bool {
        let Some(one) = self.endpoints.get(&id) else { return false };
        let (from, to) = (one.verdict, self.verdict(one));
        if from == to {
            return false;
        }
        let cause = if to == Verdict::Usable { "recovered" } else { self.cause(one) };
        let (backend, endpoint) = (Arc::clone(&one.backend), one.endpoint.clone());
        if let Some(one) = self.endpoints.get_mut(&id) {
            (one.verdict, one.since) = (to, now);
            one.load.publish(to);
        }
        self.say(Event::Endpoint { id, backend, endpoint, from, to, cause });
        true
    }

    fn settle_rules(&mut self, now: Instant) {
        let mut rules = std::mem::take(&mut self.rules);
        for rule in &mut rules {
            while let Some(shifted) = rule.settle(now) {
                let cause = match shifted.shift {
                    Shift::Failback => "recovered",
                    Shift::Failover => self.why_out(rule, shifted.from, now),
                };
                rule.cause = cause;
                let (name, shift) = (rule.name.clone(), shifted.shift);
                let (from, to) = (shifted.from, shifted.to);
                self.say(Event::Tier { rule: name, shift, from, to, cause });
            }
        }
        self.rules = rules;
    }

    /// Why a tier cannot carry: the cause of its first endpoint that is not usable.
    fn why_out(&self, rule: &RuleWatch, tier: usize, now: Instant) -> &'static str {
        let mut loads = rule.plan.loads().filter(|(at, _)| *at == tier).map(|(_, load)| load);
        let is_old = |load: &Arc<Load>| !rule.plan.is_fresh(load, now);
        let bad = loads.find(|load| load.verdict() != Verdict::Usable || is_old(load));
        match bad.map(|load| (load, self.endpoints.get(&load.id()))) {
            Some((load, _)) if load.verdict() == Verdict::Usable => "data_too_old",
            Some((_, Some(one))) => self.cause(one),
            Some((_, None)) | None => "too_few",
        }
    }

    fn say(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

fn plan(rule: &RuleLayout, loads: &[Arc<[Arc<Load>]>], face: Arc<Face>) -> Plan {
    let of = |backend: BackendId| loads.get(usize::from(backend.0)).cloned().unwrap_or_default();
    let group = |reference: &crate::matching::BackendRef| Group {
        backend: reference.backend,
        weight: reference.weight,
        loads: of(reference.backend),
    };
    Plan {
        tiers: rule.tiers.iter().map(|tier| tier.iter().map(group).collect()).collect(),
        face,
        data_age_max: rule.failover.data_age_max,
    }
}

/// Where in its interval this store probes this endpoint (splitmix64's finish).
fn mix(seed: u64, id: EndpointId) -> u64 {
    let mut bits = seed ^ u64::from(id.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

//! The board: everything that is known of endpoints, lines and tiers, and what follows from it.
//!
//! In: what workers and probes find out, and time. Out: verdicts and active tiers, published for
//! all workers to read without a lock; probes to send; events for logs and counters. It is one
//! machine because its parts decide together: a silent endpoint may be the line's fault, a probe
//! may be wanted because another endpoint behind the same line went silent, and a tier leaves
//! with its last endpoint. A good call of a healthy endpoint never comes here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::layout::{Layout, RuleLayout, Wiring};
use super::plan::{Face, Group, Plan};
use super::rule::RuleWatch;
use super::shifts::Shift;
use super::watched::Watched;
use super::{RuleName, stretch};
use crate::backend::{BackendId, Endpoint};
use crate::health::{Loss, Others, Outcome, Probed};
use crate::link::LinkId;
use crate::load::{EndpointId, Load, Stamp, Verdict};
use crate::outage::Outage;
use crate::units::Percent;

mod lines;
mod settle;

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
        // Calls that have failed wait for this: looked up, not searched for.
        let references = layout.rules.iter().flat_map(|rule| rule.tiers.iter().flatten());
        let used: BTreeSet<_> = references.map(|one| usize::from(one.backend.0)).collect();
        let mut ids: BTreeMap<Arc<str>, Vec<EndpointId>> = BTreeMap::new();
        for (id, one) in &known {
            ids.entry(Arc::clone(&one.backend)).or_default().push(*id);
        }
        let mut loads = Vec::new();
        for (index, backend) in layout.backends.iter().enumerate() {
            let mut of_backend = Vec::new();
            for endpoint in &backend.endpoints {
                let same =
                    |id: &EndpointId| known.get(id).is_some_and(|one| one.endpoint == *endpoint);
                let before = ids.get(&backend.name).into_iter().flatten().copied().find(same);
                let id = before.unwrap_or(EndpointId(self.next_id));
                let mut watched = before.and_then(|id| known.remove(&id)).unwrap_or_else(|| {
                    self.next_id += 1;
                    let name = (Arc::clone(&backend.name), endpoint.clone());
                    Watched::new(name, Load::new(id, self.epoch), Arc::clone(&backend.health), now)
                });
                let phase = used.contains(&index).then(|| mix(self.seed, id));
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
        let known = std::mem::take(&mut self.rules).into_iter();
        let mut known: BTreeMap<RuleName, RuleWatch> =
            known.map(|one| (one.name.clone(), one)).collect();
        let mut plans = Vec::new();
        for rule in &layout.rules {
            let plan_of = |face: Arc<Face>| plan(rule, loads, face);
            let times = [rule.failover.hold_down, rule.failover.ramp];
            let times = times.map(|time| stretch(time, self.seed));
            let mut watch = known.remove(&rule.name);
            let plan = plan_of(match &watch {
                Some(watch) => Arc::clone(&watch.plan.face),
                None => Arc::new(Face::new(rule.budget, self.epoch, now)),
            });
            watch = watch.filter(|watch| watch.goes_on_as(&plan));
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
    pub fn handle_outcome(&mut self, of: Stamp, outcome: Outcome, draw: u64, now: Instant) {
        let Stamp { id, generation } = of;
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        let line = watched.line;
        let silence = matches!(outcome, Outcome::Lost(loss) if loss.is_silence());
        let said_nothing = [Loss::Reset, Loss::Unresolved].map(Outcome::Lost).contains(&outcome);
        if !silence && !said_nothing {
            self.handle_line_byte(line, now);
        }
        // It is the line's fault, whose endpoints are not ejected one by one.
        if (silence || said_nothing) && self.is_down(line) {
            return;
        }
        let others = self.others(id);
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        // It began before the endpoint failed, or its line did: that is known, and over.
        if watched.health.generation() != generation {
            return;
        }
        watched.health.handle_outcome(outcome, (watched.load.good(), others), draw, now);
        watched.publish_stall();
        if outcome != Outcome::Good {
            self.failed(id, now);
        }
        if silence {
            self.accuse_line(id, now, now);
        }
        self.settle(id, now);
    }

    /// Whether calls may take out one more endpoint of this one's backend.
    fn others(&self, id: EndpointId) -> Others {
        let Some(one) = self.endpoints.get(&id) else { return Others::Enough };
        let percent = one.health.spec().passive.ejected_max;
        if percent == Percent::FULL {
            return Others::Enough;
        }
        let peers = self.endpoints.iter().filter(|(_, other)| other.backend == one.backend);
        let (mut all, mut ejected) = (0, 0);
        for (other, watched) in peers {
            all += 1;
            ejected += usize::from(*other != id && watched.health.is_ejected());
        }
        let most = (all * usize::from(percent.value()) / 100).max(1);
        if ejected < most { Others::Enough } else { Others::TooFew }
    }

    /// A call finds that its endpoint owes it an answer since then; nothing happens if that is not
    /// long enough, or a byte of another call came meanwhile. Returns whether something did.
    pub fn handle_silence(&mut self, id: EndpointId, since: Instant, now: Instant) -> bool {
        let Some(watched) = self.endpoints.get_mut(&id) else { return false };
        let Some(after) = watched.load.stall_after() else { return false };
        let since = watched.load.heard_at().map_or(since, |heard| heard.max(since));
        if since + after > now {
            return false;
        }
        if watched.health.stall().is_hollow() && watched.load.waiting() >= HOLLOW_CALLS {
            watched.health.condemn(mix(self.seed, id), now);
            watched.publish_stall();
            watched.silent_since = Some(since);
            self.failed(id, now);
        } else if watched.health.handle_silence(now) {
            watched.silent_since = Some(since);
            watched.urgent = true;
        } else {
            return false;
        }
        self.settle(id, now);
        true
    }

    /// The probe that was to decide could not: the line had no room for it.
    pub fn handle_undecided(&mut self, id: EndpointId, now: Instant) {
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        watched.settle_suspicion();
        self.settle(id, now);
    }

    /// A probe has ended. `draw` is chance.
    pub fn handle_probe(&mut self, id: EndpointId, report: ProbeReport, draw: u64, now: Instant) {
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        let line = watched.line;
        watched.load.publish_probe(report.probed);
        watched.learn_data_age(report.data_age, report.probed == Probed::Good, now);
        if let Some(at) = report.heard_at {
            self.handle_line_byte(line, at);
        }
        let silence = matches!(report.probed, Probed::Lost(loss) if loss.is_silence());
        let is_lost = matches!(report.probed, Probed::Lost(_));
        if is_lost && report.heard_at.is_none() && self.is_down(line) {
            return;
        }
        let Some(watched) = self.endpoints.get_mut(&id) else { return };
        watched.health.handle_probe(report.probed, report.began, draw, now);
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
            self.endpoints.values_mut().for_each(|one| one.look(now));
        }
        for watched in self.endpoints.values_mut() {
            watched.health.handle_timeout(now);
            if watched.verdict_due().is_some_and(|due| due <= now) {
                watched.settle_suspicion();
            }
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
            let probe = if one.is_urgent() { Some(now) } else { one.next_probe };
            [probe, one.verdict_due(), one.health.poll_timeout()].into_iter().flatten().min()
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

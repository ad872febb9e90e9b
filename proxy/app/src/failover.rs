//! The board of the process, and who works for it.
//!
//! Workers tell it what went wrong, and now and then what went well; one task on the thread of
//! the lines sends its probes, keeps its timers and says what has changed. What it decides is read
//! by workers from the [`Wiring`] of their config, without asking here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tillgate_config::defaults;
use tillgate_config::effective::Effective;
use tillgate_core::backend::{BackendSpec, Endpoint, Location};
use tillgate_core::failover::{
    BackendLayout, Board, EndpointStatus, Event, Layout, ProbeOrder, ProbeReport, RuleLayout,
    Wiring,
};
use tillgate_core::health::{HealthSpec, Outcome, ProbeSpec};
use tillgate_core::link::LinkId;
use tillgate_core::load::{EndpointId, Load, Stamp, Verdict};
use tillgate_core::units::Direction;
use tillgate_net::circuit::Circuit;
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::client::Pool;
use tillgate_net::http::flow::Flow;
use tillgate_net::metrics::{FailoverMeters, Metrics};
use tillgate_net::probe::{On, Probe};
use tillgate_net::upstream::Resolver;
use tokio::sync::Notify;

use crate::gateway::Gateway;
use crate::running::Running;

/// A stream on an endpoint that is out and sends nothing is ended after this: longer than any
/// silence that is suspicious, so that what still works is not cut.
const STREAM_GRACE: Duration = Duration::from_secs(1);

/// Lists that streams are kept in.
const STREAM_PARTS: usize = 16;

/// Servers of a backend to which connections are kept open ahead of a failover.
const WARM_MAX: usize = 2;

/// See the module.
pub(crate) struct Failover {
    board: Mutex<Board>,
    /// Something is to be done sooner than it was.
    wake: Notify,
    /// Something has changed that calls may wait for.
    pub(crate) news: Notify,
    pub(crate) meters: FailoverMeters,
    probes: Mutex<BTreeMap<EndpointId, Asked>>,
    /// Connections of probes alone.
    pool: Pool,
    /// In parts, so that workers seldom meet.
    streams: [Mutex<Vec<Stream>>; STREAM_PARTS],
    /// Endpoints that have a gauge.
    shown: Mutex<BTreeSet<(Arc<str>, Arc<str>)>>,
    /// By name of their backends.
    circuits: Mutex<BTreeMap<Arc<str>, Arc<Circuit>>>,
}

/// Whom a probe asks.
#[derive(Clone)]
struct Asked {
    probe: Arc<Probe>,
    backend: Arc<str>,
}

/// A stream that goes on.
struct Stream {
    on: EndpointId,
    flow: Weak<Flow>,
}

/// An endpoint that is out, whose streams are to be ended.
struct Ending {
    on: EndpointId,
    since: Instant,
    /// When its streams are looked at.
    next: Instant,
}

/// The way that probes of a backend take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) link: LinkId,
    /// Its bytes cost money.
    pub(crate) metered: bool,
}

impl std::fmt::Debug for Failover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failover").finish_non_exhaustive()
    }
}

impl Failover {
    pub(crate) fn new(store: &str, metrics: &Metrics, resolver: Arc<Resolver>) -> Arc<Self> {
        Arc::new(Self {
            board: Mutex::new(Board::new(hash(store), clock::now())),
            wake: Notify::new(),
            news: Notify::new(),
            meters: FailoverMeters::register(metrics),
            probes: Mutex::default(),
            pool: Pool::new(resolver),
            streams: Default::default(),
            shown: Mutex::default(),
            circuits: Mutex::default(),
        })
    }

    /// What workers need of the board for this config, and how long calls that fail could not
    /// reach it meanwhile; `line` says which line probes of a backend take. What is known of
    /// endpoints and rules that stay is kept.
    pub(crate) fn follow(
        &self,
        effective: &Effective,
        line: impl Fn(Location) -> Option<Way>,
    ) -> (Wiring, Duration) {
        let layout = layout(effective, line);
        let mut board = self.board();
        let began = clock::now();
        let wiring = board.follow(&layout, began);
        drop(board);
        let held = began.elapsed();
        self.wake.notify_one();
        (wiring, held)
    }

    /// How the endpoints of a config are asked.
    pub(crate) fn ask(&self, running: &Running) {
        let mut probes = BTreeMap::new();
        for (backend, spec) in running.effective.backends.iter().enumerate() {
            let Some(active) = &spec.health.active else { continue };
            for (endpoint, load) in running.wiring.loads[backend].iter().enumerate() {
                let target = running.probe_target(spec, endpoint, active.timeout);
                let (kind, data_age) = (active.kind.clone(), spec.health.data_age.clone());
                let target = Arc::new(target);
                let probe = Arc::new(Probe { target, kind, data_age, kept: false.into() });
                probes.insert(load.id(), Asked { probe, backend: Arc::clone(&spec.name) });
            }
        }
        *self.probes() = probes;
        self.show();
        self.wake.notify_one();
    }

    /// The places at each backend of a config; who has one keeps it.
    pub(crate) fn circuits(&self, effective: &Effective) -> Vec<Arc<Circuit>> {
        let mut known = self.circuits.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        for spec in &effective.backends {
            let circuit = match before.get(&spec.name) {
                Some(circuit) => {
                    circuit.reconfigure(spec.circuit);
                    Arc::clone(circuit)
                }
                None => Circuit::new(spec.circuit),
            };
            known.insert(Arc::clone(&spec.name), circuit);
        }
        effective.backends.iter().map(|spec| Arc::clone(&known[&spec.name])).collect()
    }

    /// A call has ended. Good ones of endpoints that are well are not told.
    pub(crate) fn tell(&self, of: Stamp, outcome: Outcome) {
        self.board().handle_outcome(of, outcome, fastrand::u64(..), clock::now());
        self.wake.notify_one();
    }

    /// A call waits for an answer since then.
    pub(crate) fn suspect(&self, load: &Load, since: Instant, now: Instant) {
        let is_news = self.board().handle_silence(load.id(), since, now);
        if is_news {
            self.wake.notify_one();
        }
    }

    /// A stream has begun there, that is ended when its endpoint is out.
    pub(crate) fn keep_stream(&self, on: EndpointId, flow: &Arc<Flow>) {
        let mut streams = self.streams(part_of(flow));
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.flow.strong_count() > 0);
        }
        streams.push(Stream { on, flow: Arc::downgrade(flow) });
    }

    /// The board, to read.
    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works for the board, until aborted.
    pub(crate) async fn drive(self: Arc<Self>, gateway: Weak<Gateway>) {
        let mut delivered = Delivered::default();
        let mut ends: Vec<Ending> = Vec::new();
        loop {
            let now = clock::now();
            let Some(gateway) = gateway.upgrade() else { return };
            let (orders, events, next) = self.advance(&gateway, &mut delivered, now);
            for event in events {
                if let Event::Endpoint { id, to: Verdict::Out, .. } = &event {
                    ends.retain(|one| one.on != *id);
                    ends.push(Ending { on: *id, since: now, next: now + STREAM_GRACE });
                }
                self.say(&gateway, &event);
                self.news.notify_waiters();
            }
            drop(gateway);
            for order in orders {
                self.send(order);
            }
            ends.retain_mut(|one| one.next > now || self.end_streams(one, now));
            let next = ends.iter().map(|one| one.next).fold(next, Instant::min);
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn advance(
        &self,
        gateway: &Gateway,
        delivered: &mut Delivered,
        now: Instant,
    ) -> (Vec<ProbeOrder>, Vec<Event>, Instant) {
        let heard = delivered.since_last(&gateway.running(), now);
        let mut board = self.board();
        for (link, at) in heard {
            board.handle_line_heard(link, at);
        }
        if board.poll_timeout(now) <= now {
            board.handle_timeout(now);
        }
        let orders = std::iter::from_fn(|| board.poll_probe(now)).collect();
        let events = std::iter::from_fn(|| board.poll_event()).collect();
        (orders, events, board.poll_timeout(now))
    }

    /// Sends one probe; it ends by itself.
    fn send(self: &Arc<Self>, order: ProbeOrder) {
        let Some(Asked { probe, backend }) = self.probes().get(&order.id).cloned() else {
            self.undecided(order.id);
            return;
        };
        let failover = Arc::clone(self);
        tokio::spawn(async move {
            let on = if order.urgent { On::Fresh } else { On::Any };
            let Some(report) = probe.run(&failover.pool, on, order.within).await else {
                failover.undecided(order.id);
                return;
            };
            failover.meters.probe(&backend, report.probed.label());
            failover.report(order.id, report);
        });
    }

    /// A probe has found out nothing.
    fn undecided(&self, id: EndpointId) {
        self.board().handle_undecided(id, clock::now());
        self.wake.notify_one();
    }

    fn report(&self, id: EndpointId, report: ProbeReport) {
        self.board().handle_probe(id, report, fastrand::u64(..), clock::now());
        self.wake.notify_one();
    }

    /// One line for each change of state, and what follows from it.
    fn say(&self, gateway: &Gateway, event: &Event) {
        match event {
            Event::Endpoint { backend, endpoint, from, to, cause, .. } => {
                self.say_endpoint(gateway, (backend, endpoint), (*from, *to), cause);
            }
            Event::Line { link, down } => {
                let running = gateway.running();
                let name = running.lines().name(*link);
                // What is open looks alive and is not, or will not be after a switch.
                gateway.wan().evict_line(*link);
                self.pool.evict_line(*link);
                self.meters.line(&name, *down);
                if *down {
                    tracing::info!(link = &*name, "line down: nothing comes across it");
                } else {
                    tracing::info!(link = &*name, "line up: something comes across it");
                }
            }
            Event::Tier { rule: (route, rule), shift, from, to, cause } => {
                self.meters.tier(route, rule, *to);
                self.meters.shift((route, rule), shift.label(), cause);
                let (route, rule) = (&**route, &**rule);
                tracing::info!(route, rule, from, to, cause, "{}", shift.label());
            }
        }
    }

    fn say_endpoint(
        &self,
        gateway: &Gateway,
        (backend, endpoint): (&Arc<str>, &Endpoint),
        (from, to): (Verdict, Verdict),
        cause: &'static str,
    ) {
        let name: Arc<str> = endpoint.to_string().into();
        self.meters.endpoint(backend, &name, to == Verdict::Usable);
        let backend_name = &**backend;
        match to {
            Verdict::Suspect => {
                tracing::debug!(backend = backend_name, endpoint = &*name, "silent, asking it");
            }
            Verdict::Usable if from == Verdict::Suspect => {
                tracing::debug!(backend = backend_name, endpoint = &*name, "only slow");
            }
            Verdict::Usable => {
                tracing::info!(backend = backend_name, endpoint = &*name, "endpoint usable");
            }
            Verdict::Trial => {
                tracing::info!(backend = backend_name, endpoint = &*name, "endpoint on trial");
            }
            Verdict::Out => {
                self.meters.eject(backend, &name, cause);
                gateway.wan().evict(endpoint);
                tracing::info!(backend = backend_name, endpoint = &*name, cause, "endpoint out");
            }
        }
    }

    /// Ends the streams on an endpoint that is out whose server says nothing any more, whatever
    /// their clients say; those that go on are looked at again. Returns whether there may be any.
    fn end_streams(&self, ending: &mut Ending, now: Instant) -> bool {
        let is_out = |one: EndpointStatus| {
            one.load.id() == ending.on && matches!(one.verdict, Verdict::Out | Verdict::Suspect)
        };
        if !self.board().endpoints().any(is_out) {
            return false;
        }
        let silent_since = ending.since.max(now.checked_sub(STREAM_GRACE).unwrap_or(now));
        for part in 0..STREAM_PARTS {
            self.streams(part).retain(|stream| {
                let Some(flow) = stream.flow.upgrade() else { return false };
                let ends = stream.on == ending.on && flow.came_at() < silent_since;
                if ends {
                    flow.end(Failure::BackendEjected);
                }
                !ends
            });
        }
        ending.next = now + STREAM_GRACE;
        true
    }

    /// Gauges of what there is now.
    fn show(&self) {
        let board = self.board();
        let mut there = BTreeSet::new();
        for one in board.endpoints() {
            let name: Arc<str> = one.endpoint.to_string().into();
            self.meters.endpoint(&one.backend, &name, one.verdict == Verdict::Usable);
            there.insert((one.backend, name));
        }
        for rule in board.rules().filter(|rule| !rule.states.is_empty()) {
            self.meters.tier(&rule.name.0, &rule.name.1, rule.active);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (backend, endpoint) in shown.difference(&there) {
            self.meters.forget(backend, endpoint);
        }
        *shown = there;
    }

    fn probes(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Asked>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self, part: usize) -> MutexGuard<'_, Vec<Stream>> {
        self.streams[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes connections of probes that nobody needs, and has those open across the line that a
    /// failover of a critical class would need: it must not pay for a handshake.
    pub(crate) fn sweep(&self, running: &Running, wan: &Pool, now: Instant) {
        self.pool.sweep(now);
        let rules = running.effective.routes.rules.iter().zip(&running.wiring.plans);
        for (rule, plan) in rules.filter(|(rule, _)| rule.tiers.len() > 1) {
            let Some(class) = rule.class.filter(|class| running.class(*class).spec.critical) else {
                continue;
            };
            for group in plan.tiers.iter().flatten() {
                if running.location(group.backend) == Location::Local {
                    continue;
                }
                let usable = |load: &&(usize, &Arc<Load>)| load.1.verdict() == Verdict::Usable;
                let loads: Vec<_> = group.loads.iter().enumerate().collect();
                for (endpoint, _) in loads.iter().filter(usable).take(WARM_MAX) {
                    let target = running.target(group.backend, *endpoint, class, &rule.timeouts);
                    wan.keep_warm(&target);
                }
            }
        }
    }
}

/// What lines have brought, to see whether they still do.
#[derive(Default)]
struct Delivered {
    totals: BTreeMap<LinkId, u64>,
    at: Option<Instant>,
}

impl Delivered {
    /// The lines across which something came since the last time, and when at the earliest.
    fn since_last(&mut self, running: &Running, now: Instant) -> Vec<(LinkId, Instant)> {
        let Some(before) = self.at.replace(now) else { return Vec::new() };
        let mut heard = Vec::new();
        for (id, link) in running.lines().by_id() {
            let total = link.delivered(Direction::Down);
            if self.totals.insert(id, total).is_some_and(|known| known != total) {
                heard.push((id, before));
            }
        }
        heard
    }
}

fn layout(effective: &Effective, line: impl Fn(Location) -> Option<Way>) -> Layout {
    let backend = |spec: &BackendSpec| {
        let way = line(spec.location);
        BackendLayout {
            name: Arc::clone(&spec.name),
            endpoints: spec.endpoints.clone(),
            health: relaxed(&spec.health, way),
            line: way.map(|way| way.link),
        }
    };
    let rules = effective.routes.rules.iter().map(|rule| RuleLayout {
        name: (Arc::clone(&rule.route), Arc::clone(&rule.name)),
        tiers: rule.tiers.clone(),
        failover: rule.failover.clone(),
        budget: rule.retry.budget,
    });
    Layout { backends: effective.backends.iter().map(backend).collect(), rules: rules.collect() }
}

/// Across a line that is metered, probes are rarer.
fn relaxed(health: &Arc<HealthSpec>, way: Option<Way>) -> Arc<HealthSpec> {
    let active = health.active.as_ref().filter(|_| way.is_some_and(|way| way.metered));
    let Some(active) = active else { return Arc::clone(health) };
    let interval = active.interval.saturating_mul(defaults::METERED_PROBE_FACTOR);
    let active = Some(ProbeSpec { interval, ..active.clone() });
    Arc::new(HealthSpec { active, ..HealthSpec::clone(health) })
}

/// The list that a stream is kept in.
fn part_of(flow: &Arc<Flow>) -> usize {
    // Its place in memory, without the bits that are the same for all.
    (Arc::as_ptr(flow).addr() >> 8) % STREAM_PARTS
}

/// The same in every process and after every restart (FNV-1a, 64 bits).
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {name: store-0412}
spec:
  timeZone: Europe/Oslo
  links: [{name: fibre, capacity: {up: 5Mbit/s, down: 20Mbit/s}}]
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: pricing-cloud}
spec:
  location: Cloud
  protocol: HTTP
  endpoints: [{ip: {address: 10.9.0.1, port: 9600}}]
  healthCheck: {active: {http: {path: /health}, interval: 2s}}
";

    #[test]
    fn probes_are_relaxed_by_the_line_that_they_take() {
        let effective = tillgate_config::load_text("store.yaml", POLICY).unwrap();
        let interval = |metered: bool| {
            let way = Way { link: LinkId(u8::from(metered)), metered };
            let layout = layout(&effective, |_| Some(way));
            layout.backends[0].health.active.as_ref().unwrap().interval
        };
        assert_eq!(interval(false), Duration::from_secs(2), "another line's price is not its own");
        assert_eq!(interval(true), Duration::from_secs(20));
    }
}

//! The board of the process, and who works for it.
//!
//! Workers tell it what went wrong, and now and then what went well; one task on the thread of
//! the lines sends its probes, keeps its timers and says what has changed. What it decides is read
//! by workers from the [`Wiring`] of their config, without asking here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tillgate_config::defaults;
use tillgate_config::effective::Effective;
use tillgate_core::backend::{BackendSpec, Endpoint, Location};
use tillgate_core::failover::{
    BackendLayout, Board, Event, Layout, ProbeOrder, ProbeReport, RuleLayout, Wiring,
};
use tillgate_core::health::{HealthSpec, Outcome};
use tillgate_core::link::LinkId;
use tillgate_core::load::{EndpointId, Load, Verdict};
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

/// Servers of a backend to which connections are kept open ahead of a failover.
const WARM_MAX: usize = 2;

/// See the module.
pub(crate) struct Failover {
    board: Mutex<Board>,
    /// Something is to be done sooner than it was.
    wake: Notify,
    pub(crate) meters: FailoverMeters,
    probes: Mutex<BTreeMap<EndpointId, Asked>>,
    /// Connections of probes alone.
    pool: Pool,
    streams: Mutex<Vec<Stream>>,
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
            meters: FailoverMeters::register(metrics),
            probes: Mutex::default(),
            pool: Pool::new(resolver),
            streams: Mutex::default(),
            circuits: Mutex::default(),
        })
    }

    /// What workers need of the board for this config; `line` says which line probes of a backend
    /// take. What is known of endpoints and rules that stay is kept.
    pub(crate) fn follow(
        &self,
        effective: &Effective,
        line: impl Fn(Location) -> Option<LinkId>,
    ) -> Wiring {
        let layout = layout(effective, line);
        let wiring = self.board().follow(&layout, clock::now());
        self.wake.notify_one();
        wiring
    }

    /// How the endpoints of a config are asked.
    pub(crate) fn ask(&self, running: &Running) {
        let mut probes = BTreeMap::new();
        for (backend, spec) in running.effective.backends.iter().enumerate() {
            let Some(active) = &spec.health.active else { continue };
            for (endpoint, load) in running.wiring.loads[backend].iter().enumerate() {
                let target = running.probe_target(spec, endpoint, active.timeout);
                let (kind, data_age) = (active.kind.clone(), spec.health.data_age.clone());
                let probe = Arc::new(Probe { target: Arc::new(target), kind, data_age });
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
    pub(crate) fn tell(&self, load: &Load, outcome: Outcome) {
        self.board().handle_outcome(load.id(), outcome, fastrand::u64(..), clock::now());
        self.wake.notify_one();
    }

    /// A call waits for an answer since then.
    pub(crate) fn suspect(&self, load: &Load, since: Instant, now: Instant) {
        self.board().handle_silence(load.id(), since, now);
        self.wake.notify_one();
    }

    /// A stream has begun there, that is ended when its endpoint is out.
    pub(crate) fn keep_stream(&self, on: EndpointId, flow: &Arc<Flow>) {
        let mut streams = self.streams();
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
        let mut ends: Vec<(EndpointId, Instant)> = Vec::new();
        loop {
            let now = clock::now();
            let Some(gateway) = gateway.upgrade() else { return };
            let (orders, events, next) = self.advance(&gateway, &mut delivered, now);
            for event in events {
                if let Event::Endpoint { id, to: Verdict::Out, .. } = &event {
                    ends.push((*id, now));
                }
                self.say(&gateway, &event);
            }
            drop(gateway);
            for order in orders {
                self.send(order);
            }
            ends.retain(|(id, since)| {
                let is_due = now.saturating_duration_since(*since) >= STREAM_GRACE;
                if is_due {
                    self.end_streams(*id, *since);
                }
                !is_due
            });
            let next = ends.iter().map(|(_, since)| *since + STREAM_GRACE).fold(next, Instant::min);
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
        let Some(Asked { probe, backend }) = self.probes().get(&order.id).cloned() else { return };
        let failover = Arc::clone(self);
        tokio::spawn(async move {
            let on = if order.urgent { On::Fresh } else { On::Any };
            let Some(report) = probe.run(&failover.pool, on, order.within).await else { return };
            failover.meters.probe(&backend, report.probed.label());
            failover.report(order.id, report);
        });
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
                self.meters.line(&name, *down);
                // What is open looks alive and is not, or will not be after a switch.
                gateway.wan().evict_all();
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

    /// Ends the streams on an endpoint that have not moved since it was taken out.
    fn end_streams(&self, id: EndpointId, since: Instant) {
        let mut streams = self.streams();
        let still_out = self.board().endpoints().any(|one| {
            one.load.id() == id && matches!(one.verdict, Verdict::Out | Verdict::Suspect)
        });
        streams.retain(|stream| {
            let Some(flow) = stream.flow.upgrade() else { return false };
            let ends = stream.on == id && still_out && flow.moved_at() < since;
            if ends {
                flow.end(Failure::BackendEjected);
            }
            !ends
        });
    }

    /// Gauges of what there is now.
    fn show(&self) {
        let board = self.board();
        for one in board.endpoints() {
            let name: Arc<str> = one.endpoint.to_string().into();
            self.meters.endpoint(&one.backend, &name, one.verdict == Verdict::Usable);
        }
        for rule in board.rules().filter(|rule| !rule.states.is_empty()) {
            self.meters.tier(&rule.name.0, &rule.name.1, rule.active);
        }
    }

    fn probes(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Asked>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
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

fn layout(effective: &Effective, line: impl Fn(Location) -> Option<LinkId>) -> Layout {
    let backend = |spec: &BackendSpec| {
        let link = line(spec.location);
        BackendLayout {
            name: Arc::clone(&spec.name),
            endpoints: spec.endpoints.clone(),
            health: relaxed(&spec.health, effective, spec.location),
            line: link,
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

/// Across a metered line probes are rarer.
fn relaxed(health: &Arc<HealthSpec>, effective: &Effective, location: Location) -> Arc<HealthSpec> {
    let metered = effective.links.first().is_some_and(|link| link.metered);
    let Some(active) = health.active.as_ref().filter(|_| metered && location == Location::Cloud)
    else {
        return Arc::clone(health);
    };
    let mut active = active.clone();
    active.interval = active.interval.saturating_mul(defaults::METERED_PROBE_FACTOR);
    Arc::new(HealthSpec { active: Some(active), ..HealthSpec::clone(health) })
}

/// The same in every process and after every restart (FNV-1a, 64 bits).
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

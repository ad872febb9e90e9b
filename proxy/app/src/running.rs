//! The config a gateway runs on, with everything that is looked up once.
//!
//! [`Running`] is immutable and stands behind one pointer; a request takes it at its head and
//! keeps it to its end. It holds the effective config and, beside it, the handles of metrics and
//! the targets of pools, resolved when first used and kept.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tillgate_config::defaults;
use tillgate_config::effective::{Effective, ListenerSpec};
use tillgate_core::backend::{
    BackendId, BackendProtocol, BackendSpec, DnsSpec, Endpoint, Host, Location, PoolLimit, TcpSpec,
    Timeouts,
};
use tillgate_core::class::{ClassId, ClassSpec};
use tillgate_core::failover::Wiring;
use tillgate_core::link::{Destination, LinkId, link_for};
use tillgate_core::matching::{NaturalClasses, RuleId};
use tillgate_net::circuit::Circuit;
use tillgate_net::http::client::{Target, Wire};
use tillgate_net::http::flow::Critical;
use tillgate_net::limit::{Book, RuleLimits};
use tillgate_net::memory::{Ledger, Rank};
use tillgate_net::metrics::{
    ClassMeter, Label, Metrics, RequestMeter, RolloutMeters, UpstreamMeter,
};
use tillgate_net::tls::Connector;
use tillgate_net::upstream::Lane;

use crate::access::{AccessLog, Wanted};
use crate::doors::Doors;
use crate::export::Spans;
use crate::failover::Failover;
use crate::lines::{Lines, Names};
use crate::serve::session;
use crate::wall::StoreClock;

mod connectors;
mod mirror;
mod probing;
mod retired;
mod tally;

pub(crate) use self::connectors::Connectors;
pub(crate) use self::mirror::{MIRROR, mirror_for, reserved};
pub(crate) use self::retired::Retired;

/// Idle connections kept open ahead of need for critical classes: a payment then practically
/// never waits for a handshake, and two cover calls that come in pairs.
const SPARES: usize = 2;

/// Destinations of the forward proxy have no `ServiceRoute` that could say these: the language's
/// own defaults, without a limit on answers, of which nothing is known.
pub(crate) const EGRESS_TIMEOUTS: Timeouts = Timeouts {
    request: None,
    backend_request: None,
    connect: defaults::CONNECT_TIMEOUT,
    idle: defaults::IDLE_TIMEOUT,
};

/// Bounds of the pool of one destination of the forward proxy.
const EGRESS_POOL: PoolLimit = PoolLimit {
    connections_max: defaults::POOL_CONNECTIONS_BULK,
    waiting_max: defaults::POOL_WAITING,
    idle_timeout: defaults::POOL_IDLE,
    age_max: defaults::POOL_AGE,
};

/// Metrics' name for requests that met no route.
const NO_ROUTE: &str = "none";

/// One config in effect.
pub(crate) struct Running {
    pub(crate) effective: Arc<Effective>,
    classes: Vec<Class>,
    default_class: ClassId,
    pub(crate) natural: NaturalClasses,
    /// By rule, then by class.
    routes: Vec<Vec<OnceLock<RequestMeter>>>,
    /// By egress rule (the last one: no rule).
    egress: Vec<Egress>,
    no_route: RequestMeter,
    /// By class.
    mirror: Vec<OnceLock<RequestMeter>>,
    /// By rule.
    rates: Vec<Option<Arc<RuleLimits>>>,
    /// What windows and freezes hold of them.
    pub(crate) doors: Doors,
    /// By backend, then endpoint, then class.
    targets: Vec<Vec<Vec<OnceLock<Arc<Target>>>>>,
    /// What sessions call an endpoint, by backend, then endpoint.
    endpoint_names: Vec<Vec<u64>>,
    /// By listener.
    listeners: Vec<OnceLock<Listener>>,
    connectors: Connectors,
    lines: Lines,
    /// Where calls may go, as the board says.
    pub(crate) wiring: Wiring,
    pub(crate) failover: Arc<Failover>,
    /// By backend.
    circuits: Vec<Arc<Circuit>>,
    metrics: Arc<Metrics>,
    /// Where lines of the access log go.
    pub(crate) access: Arc<AccessLog>,
    /// Where spans go.
    pub(crate) spans: Spans,
    observes: bool,
}

/// Where requests are recorded: the same for every config of the process.
#[derive(Clone)]
pub(crate) struct Sinks {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access: Arc<AccessLog>,
    pub(crate) spans: Spans,
    pub(crate) rates: Arc<Book>,
    pub(crate) memory: Arc<Ledger>,
    pub(crate) failover: Arc<Failover>,
    pub(crate) clock: Arc<StoreClock>,
    pub(crate) rollouts: RolloutMeters,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("digest", &self.effective.digest).finish_non_exhaustive()
    }
}

/// A class as requests need it.
pub(crate) struct Class {
    pub(crate) spec: Arc<ClassSpec>,
    pub(crate) meter: Arc<ClassMeter>,
    /// What it is worth when memory runs out.
    pub(crate) rank: Rank,
    /// Stable by name as long as the process lives, whatever the config's order is.
    stable: ClassId,
}

/// An egress rule as requests and tunnels need it.
struct Egress {
    /// The `route` in metrics and logs.
    name: Label,
    /// By class.
    requests: Vec<OnceLock<RequestMeter>>,
    upstream: Vec<OnceLock<Arc<UpstreamMeter>>>,
}

impl Egress {
    /// Of every rule, then of none.
    fn all(effective: &Effective, classes: usize) -> Vec<Self> {
        let rules = effective.egress.iter().flat_map(|one| &one.rules);
        let names = rules.map(|rule| format!("egress/{}", rule.name).into());
        names.chain(["egress".into()]).map(|name| Self::new(name, classes)).collect()
    }

    fn new(name: Label, classes: usize) -> Self {
        let requests = (0..classes).map(|_| OnceLock::new()).collect();
        Self { name, requests, upstream: (0..classes).map(|_| OnceLock::new()).collect() }
    }
}

/// A listener of bytes or datagrams, as its connections need it.
pub(crate) struct Listener {
    pub(crate) class: ClassId,
    /// In the order of the config.
    pub(crate) index: usize,
    /// Where its connections and sessions are counted, unless an egress rule has them.
    meter: RequestMeter,
    pub(crate) upstream: UpstreamMeter,
}

impl Class {
    pub(crate) fn critical(&self) -> Critical {
        if self.spec.critical { Critical::Yes } else { Critical::No }
    }
}

impl Running {
    /// Resolves `effective`: its lines become `lines`, its class names get stable ids.
    pub(crate) fn new(
        effective: Arc<Effective>,
        (lines, wiring): (Lines, Wiring),
        names: &mut Names,
        sinks: &Sinks,
        connectors: Connectors,
    ) -> Self {
        let Sinks { metrics, access, spans, rates, memory, failover, clock, rollouts } =
            sinks.clone();
        memory.set_ceiling(effective.process.buffer_bytes_max);
        let rules = effective.routes.rules.iter();
        let rates =
            rules.map(|rule| rates.of(&rule.route, &rule.name, &rule.rate_limits)).collect();
        let tiers = tiers(&effective);
        let telemetry = &effective.telemetry;
        let logs = effective.classes.iter().any(|(id, _)| telemetry.access_log.of(id).is_some());
        let wanted = if logs { Wanted::Yes } else { Wanted::No };
        access.follow(&telemetry.access_log.output, wanted);
        let observes = logs || telemetry.tracing.is_some();
        let class = |spec: &ClassSpec| Class {
            spec: Arc::new(spec.clone()),
            meter: Arc::new(metrics.class(&spec.name)),
            rank: Rank::of(tiers.partition_point(|tier| *tier < spec.priority), tiers.len()),
            stable: names.stable(&spec.name),
        };
        let classes: Vec<Class> =
            effective.classes.iter().map(|(_, spec)| spec).map(class).collect();
        let natural = NaturalClasses::of(&effective.classes);
        let default_class = natural.default();
        let table = |rows: usize| {
            (0..rows).map(|_| (0..classes.len()).map(|_| OnceLock::new()).collect()).collect()
        };
        let targets = effective
            .backends
            .iter()
            .map(|backend| {
                let per_class = || (0..classes.len()).map(|_| OnceLock::new()).collect();
                backend.endpoints.iter().map(|_| per_class()).collect()
            })
            .collect();
        let named = |one: &BackendSpec| session::endpoint_names(&one.name, &one.endpoints);
        let endpoint_names = effective.backends.iter().map(named).collect();
        let class = &classes[default_class.index()].spec.name;
        let no_route = metrics.request(class, &NO_ROUTE.into());
        Self {
            routes: table(effective.routes.rules.len()),
            egress: Egress::all(&effective, classes.len()),
            natural,
            default_class,
            no_route,
            mirror: (0..classes.len()).map(|_| OnceLock::new()).collect(),
            rates,
            doors: Doors::new(&effective, clock, rollouts),
            targets,
            endpoint_names,
            listeners: effective.listeners.iter().map(|_| OnceLock::new()).collect(),
            connectors,
            wiring,
            circuits: failover.circuits(&effective),
            failover,
            classes,
            lines,
            metrics,
            access,
            spans,
            observes,
            effective,
        }
    }

    /// How often requests of a rule may come, if it says so.
    pub(crate) fn rates(&self, rule: RuleId) -> Option<&Arc<RuleLimits>> {
        self.rates[usize::from(rule.0)].as_ref()
    }

    /// Whether any request may be logged or traced.
    pub(crate) const fn observes(&self) -> bool {
        self.observes
    }

    pub(crate) fn class(&self, id: ClassId) -> &Class {
        &self.classes[id.index()]
    }

    pub(crate) const fn default_class(&self) -> ClassId {
        self.default_class
    }

    pub(crate) const fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Where requests of `class` on a rule are counted.
    pub(crate) fn route_meter(&self, rule: RuleId, class: ClassId) -> &RequestMeter {
        let cell = &self.routes[usize::from(rule.0)][class.index()];
        let resolve = || {
            let route = &self.effective.routes.rule(rule).route;
            self.metrics.request(&self.class(class).spec.name, route)
        };
        cell.get_or_init(resolve)
    }

    /// Where requests of `class` on an egress rule (or none) are counted.
    pub(crate) fn egress_meter(&self, rule: Option<usize>, class: ClassId) -> &RequestMeter {
        let egress = self.egress_of(rule);
        let resolve = || self.metrics.request(&self.class(class).spec.name, &egress.name);
        egress.requests[class.index()].get_or_init(resolve)
    }

    /// The `route` of an egress rule in metrics and logs.
    pub(crate) fn egress_name(&self, rule: Option<usize>) -> Label {
        Arc::clone(&self.egress_of(rule).name)
    }

    fn egress_of(&self, rule: Option<usize>) -> &Egress {
        let none = self.egress.len() - 1;
        &self.egress[rule.unwrap_or(none).min(none)]
    }

    /// Where requests that met no route are counted.
    pub(crate) fn no_route_meter(&self) -> &RequestMeter {
        &self.no_route
    }

    /// Whether a backend is inside the store.
    pub(crate) fn location(&self, backend: BackendId) -> Location {
        self.effective.backend(backend).location
    }

    /// The places at a backend.
    pub(crate) fn circuit(&self, backend: BackendId) -> &Arc<Circuit> {
        &self.circuits[usize::from(backend.0)]
    }

    /// TLS to the servers of a backend, if it has it.
    pub(crate) fn connector(&self, backend: BackendId) -> Option<Arc<Connector>> {
        self.connectors.of(backend)
    }

    /// What sessions call the endpoints of a backend.
    pub(crate) fn endpoint_names(&self, backend: BackendId) -> &[u64] {
        &self.endpoint_names[usize::from(backend.0)]
    }

    /// How requests of `class` reach one endpoint of a backend.
    pub(crate) fn target(
        &self,
        backend: BackendId,
        endpoint: usize,
        class: ClassId,
        timeouts: &Timeouts,
    ) -> Arc<Target> {
        let cell = &self.targets[usize::from(backend.0)][endpoint][class.index()];
        let target = cell.get_or_init(|| {
            let spec = self.effective.backend(backend);
            Arc::new(self.new_target(TargetFacts {
                meter: self.upstream_meter(&spec.name, class),
                endpoint: spec.endpoints[endpoint].clone(),
                addresses: None,
                location: spec.location,
                wire: wire(spec.protocol),
                tls: self.connectors.of(backend),
                limit: spec.pool,
                class,
                connect: timeouts.connect,
                dns: spec.dns,
                tcp: spec.tcp,
            }))
        });
        if target.connect_timeout == timeouts.connect {
            return Arc::clone(target);
        }
        // Two rules may use one backend with different patience.
        Arc::new(target.with_connect_timeout(timeouts.connect))
    }

    /// How plain requests of `class` reach the addresses that the egress policy has passed.
    pub(crate) fn egress_target(
        &self,
        rule: Option<usize>,
        endpoint: Endpoint,
        addresses: &[SocketAddr],
        location: Location,
        class: ClassId,
    ) -> Arc<Target> {
        let egress = self.egress_of(rule);
        let resolve = || self.upstream_meter(&egress.name, class);
        Arc::new(self.new_target(TargetFacts {
            meter: Arc::clone(egress.upstream[class.index()].get_or_init(resolve)),
            endpoint,
            addresses: Some(addresses.into()),
            location,
            wire: Wire::Http1,
            tls: None,
            limit: EGRESS_POOL,
            class,
            connect: EGRESS_TIMEOUTS.connect,
            dns: defaults::DNS,
            tcp: defaults::TCP,
        }))
    }

    /// The listener called `name`, if the config has it, with its handles.
    pub(crate) fn listener(&self, name: &str) -> Option<(&ListenerSpec, &Listener)> {
        let index = self.effective.listeners.iter().position(|spec| &*spec.name == name)?;
        Some((&self.effective.listeners[index], self.listener_at(index)))
    }

    fn listener_at(&self, index: usize) -> &Listener {
        let spec = &self.effective.listeners[index];
        self.listeners[index].get_or_init(|| {
            let class = spec.class.unwrap_or(self.default_class);
            let name = &self.class(class).spec.name;
            let route = self.listener_name(index);
            let backend = spec.backend.map(|id| &self.effective.backend(id).name);
            Listener {
                class,
                index,
                meter: self.metrics.request(name, &route),
                upstream: self.metrics.upstream(backend.unwrap_or(&route), name),
            }
        })
    }

    /// The `route` of a listener of bytes or datagrams in metrics and logs.
    pub(crate) fn listener_name(&self, index: usize) -> Label {
        format!("listener/{}", self.effective.listeners[index].name).into()
    }

    /// Where connections and sessions of a listener are counted.
    pub(crate) fn listener_meter(&self, index: usize) -> &RequestMeter {
        &self.listener_at(index).meter
    }

    /// Names of servers, for the resolver to keep.
    pub(crate) fn names(&self) -> Vec<(Arc<str>, DnsSpec)> {
        let named = |backend: &BackendSpec| {
            let dns = backend.dns;
            let hosts = backend.endpoints.iter().filter_map(|endpoint| match &endpoint.host {
                Host::Name(name) => Some(Arc::clone(name)),
                Host::Ip(_) => None,
            });
            hosts.map(move |name| (name, dns)).collect::<Vec<_>>()
        };
        self.effective.backends.iter().flat_map(named).collect()
    }

    /// The line that `class` takes to `location`, as a number and as the thing itself.
    pub(crate) fn lane(&self, location: Location, class: ClassId) -> Option<(LinkId, Lane)> {
        let class = self.class(class);
        let link = link_for(Destination { location }, &class.spec, &self.effective.links)?;
        let name = &self.effective.links[usize::from(link.0)].name;
        let (stable, link) = self.lines.get(name)?;
        Some((stable, Lane { link, class: Arc::clone(&class.spec) }))
    }

    fn upstream_meter(&self, backend: &Label, class: ClassId) -> Arc<UpstreamMeter> {
        Arc::new(self.metrics.upstream(backend, &self.class(class).spec.name))
    }

    fn new_target(&self, facts: TargetFacts) -> Target {
        let class = self.class(facts.class);
        let lane = self.lane(facts.location, facts.class);
        let spares = if class.spec.critical && lane.is_some() { SPARES } else { 0 };
        Target {
            endpoint: facts.endpoint,
            addresses: facts.addresses,
            class: class.stable,
            link: lane.as_ref().map(|(id, _)| *id),
            lane: lane.map(|(_, lane)| lane),
            wire: facts.wire,
            tls: facts.tls,
            limit: facts.limit,
            spares,
            max_wait: class.spec.queue.max_wait,
            connect_timeout: facts.connect,
            dns: facts.dns,
            tcp: facts.tcp,
            client: None,
            meter: facts.meter,
        }
    }
}

/// What an HTTP request finds at the servers of a backend.
const fn wire(protocol: BackendProtocol) -> Wire {
    match protocol {
        BackendProtocol::Http | BackendProtocol::Tcp | BackendProtocol::Udp => Wire::Http1,
        BackendProtocol::Http2 | BackendProtocol::Grpc => Wire::Http2,
    }
}

/// The priorities of the classes, each once, lowest first.
fn tiers(effective: &Effective) -> Vec<u16> {
    let mut tiers: Vec<u16> = effective.classes.iter().map(|(_, class)| class.priority).collect();
    tiers.sort_unstable();
    tiers.dedup();
    tiers
}

struct TargetFacts {
    meter: Arc<UpstreamMeter>,
    endpoint: Endpoint,
    addresses: Option<Arc<[SocketAddr]>>,
    location: Location,
    wire: Wire,
    tls: Option<Arc<Connector>>,
    limit: PoolLimit,
    class: ClassId,
    connect: Duration,
    dns: DnsSpec,
    tcp: TcpSpec,
}

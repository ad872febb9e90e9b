//! Effective configs by hand: a store of one line, the built-in class names, routes as needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tillgate_config::defaults;
use tillgate_config::effective::{
    Effective, ListenerLimits, ListenerProtocol, ListenerSpec, ProcessSpec, TelemetrySpec,
};
use tillgate_core::backend::{
    BackendId, BackendProtocol, BackendSpec, Endpoint, Host, Location, PoolLimit, Timeouts,
};
use tillgate_core::class::{ClassSpec, ClassTable, Metered, QueueLimit, Share};
use tillgate_core::endpoint::EndpointSpec;
use tillgate_core::gate::Gate;
use tillgate_core::health::HealthSpec;
use tillgate_core::link::{LinkRole, LinkSpec};
use tillgate_core::matching::{
    BackendRef, EgressDestination, EgressRule, EgressTable, HostPattern, PathMatch, RequestMatch,
    RouteTable, Rule, TrafficPolicy,
};
use tillgate_core::mirror::{CacheSpec, Direct, MirrorSpec, ServeSpec, Unknown, UpstreamSpec};
use tillgate_core::tls::{ClientTls, ServerTls};
use tillgate_core::units::{BitRate, PerDirection, Percent};

/// A store in the making.
pub struct Store {
    links: Vec<LinkSpec>,
    backends: Vec<BackendSpec>,
    rules: Vec<Rule>,
    egress: Option<(TrafficPolicy, Vec<EgressRule>)>,
    limits: ListenerLimits,
    process: ProcessSpec,
    timeouts: Timeouts,
    pool: PoolLimit,
    max_wait: Duration,
    addresses: [SocketAddr; 3],
    listeners: Vec<ListenerSpec>,
    digest: String,
    class_requests: Option<(&'static str, u32)>,
    class_connections: Option<(&'static str, u32)>,
    tls: Option<ServerTls>,
    forward_tls: Option<ServerTls>,
    mirror: Option<MirrorSpec>,
    endpoint: Option<EndpointSpec>,
}

/// Limits that no test meets unless it wants to.
const LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 1000,
    connections_per_client_max: 1000,
    header_timeout: Duration::from_secs(30),
    idle_timeout: Duration::from_secs(60),
    header_bytes_max: 16 * 1024,
    headers_max: 100,
    uri_bytes_max: 8 * 1024,
    streams_max: 100,
    stream_resets_max: 1000,
    requests_max: 10_000,
    body_bytes_max: None,
    body_rate_min: None,
    body_timeout: None,
    sessions_max: 1000,
    sessions_per_client_max: 1000,
};

impl Default for Store {
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            links: vec![link("primary", 1000)],
            backends: Vec::new(),
            rules: Vec::new(),
            egress: None,
            limits: LIMITS,
            process: ProcessSpec {
                workers: Some(2),
                drain_timeout: Duration::from_secs(10),
                buffer_bytes_max: defaults::BUFFER_BYTES,
            },
            timeouts: Timeouts {
                request: Some(Duration::from_secs(30)),
                backend_request: None,
                connect: Duration::from_secs(5),
                idle: Duration::from_secs(60),
            },
            pool: PoolLimit {
                connections_max: 64,
                waiting_max: 64,
                idle_timeout: Duration::from_secs(60),
                age_max: Duration::from_secs(600),
            },
            max_wait: Duration::from_secs(5),
            addresses: [any; 3],
            listeners: Vec::new(),
            digest: "sha256:by-hand".into(),
            class_requests: None,
            class_connections: None,
            tls: None,
            forward_tls: None,
            mirror: None,
            endpoint: None,
        }
    }
}

impl Store {
    /// A backend across the line, at `address`, and a route of the same name to it.
    #[must_use]
    pub fn cloud(self, name: &str, host: &str, class: &str, address: SocketAddr) -> Self {
        self.backend(name, Location::Cloud, BackendProtocol::Http, address).route(
            name,
            host,
            Some(class),
        )
    }

    /// A backend inside the store, at `address`, and a route of the same name to it.
    #[must_use]
    pub fn local(self, name: &str, host: &str, class: &str, address: SocketAddr) -> Self {
        self.backend(name, Location::Local, BackendProtocol::Http, address).route(
            name,
            host,
            Some(class),
        )
    }

    /// A backend alone.
    #[must_use]
    pub fn backend(
        mut self,
        name: &str,
        location: Location,
        protocol: BackendProtocol,
        address: SocketAddr,
    ) -> Self {
        self.backends.push(BackendSpec {
            name: name.into(),
            location,
            protocol,
            tries_itself: false,
            endpoints: vec![Endpoint { host: Host::Ip(address.ip()), port: address.port() }],
            pool: self.pool,
            tls: None,
            proxy_protocol: None,
            dns: defaults::DNS,
            tcp: defaults::TCP,
            health: std::sync::Arc::new(HealthSpec {
                active: None,
                passive: defaults::PASSIVE,
                data_age: None,
            }),
            circuit: defaults::CIRCUIT,
        });
        self
    }

    /// TLS to the servers of the last backend.
    #[must_use]
    pub fn over_tls(mut self, tls: ClientTls) -> Self {
        self.backends.last_mut().expect("a backend").tls = Some(tls);
        self
    }

    /// TLS of clients, ended at the HTTP entry.
    #[must_use]
    pub fn https(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// TLS of clients, ended at the forward proxy.
    #[must_use]
    pub fn https_forward(mut self, tls: ServerTls) -> Self {
        self.forward_tls = Some(tls);
        self
    }

    /// A route to the last backend, every path.
    #[must_use]
    pub fn route(self, name: &str, host: &str, class: Option<&str>) -> Self {
        self.route_of(name, host, "/", class)
    }

    /// A route to the last backend.
    #[must_use]
    pub fn route_of(mut self, name: &str, host: &str, prefix: &str, class: Option<&str>) -> Self {
        let backend = u16::try_from(self.backends.len() - 1).expect("few backends");
        let mut rule = Rule::forward(
            (name, "all"),
            vec![HostPattern::Exact(host.into())],
            vec![RequestMatch::on_path(PathMatch::Prefix(prefix.into()))],
            vec![vec![BackendRef { backend: BackendId(backend), weight: 1 }]],
            self.timeouts,
        );
        rule.class = class.map(|class| classes(self.max_wait).id(class).expect("a built-in class"));
        self.rules.push(rule);
        self
    }

    /// Changes the last rule.
    #[must_use]
    pub fn rule(mut self, change: impl FnOnce(&mut Rule)) -> Self {
        change(self.rules.last_mut().expect("a rule"));
        self
    }

    /// The forward proxy's rules.
    #[must_use]
    pub fn egress(mut self, policy: TrafficPolicy) -> Self {
        self.egress = Some((policy, Vec::new()));
        self
    }

    /// One rule of the forward proxy.
    #[must_use]
    pub fn egress_rule(
        mut self,
        name: &str,
        class: &str,
        location: Location,
        destination: EgressDestination,
    ) -> Self {
        let class = classes(self.max_wait).id(class);
        let rule =
            EgressRule { name: name.into(), destinations: vec![destination], class, location };
        self.egress.get_or_insert((TrafficPolicy::Deny, Vec::new())).1.push(rule);
        self
    }

    /// Changes the timeouts of the routes that follow.
    #[must_use]
    pub fn timeouts(mut self, change: impl FnOnce(&mut Timeouts)) -> Self {
        change(&mut self.timeouts);
        self
    }

    /// Changes the pool limits of the backends that follow.
    #[must_use]
    pub fn pool(mut self, change: impl FnOnce(&mut PoolLimit)) -> Self {
        change(&mut self.pool);
        self
    }

    /// Changes the limits of all listeners.
    #[must_use]
    pub fn limits(mut self, change: impl FnOnce(&mut ListenerLimits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// How long a request may wait for a connection, in every class.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// After SIGTERM.
    #[must_use]
    pub fn drain_timeout(mut self, drain_timeout: Duration) -> Self {
        self.process.drain_timeout = drain_timeout;
        self
    }

    /// Bytes of bodies that the process may hold.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.process.buffer_bytes_max = bytes;
        self
    }

    /// Requests of one class at the same time.
    #[must_use]
    pub fn class_requests(mut self, class: &'static str, requests: u32) -> Self {
        self.class_requests = Some((class, requests));
        self
    }

    /// Tunnels, connections and sessions of one class at the same time.
    #[must_use]
    pub fn class_connections(mut self, class: &'static str, connections: u32) -> Self {
        self.class_connections = Some((class, connections));
        self
    }

    /// The line's rate, both ways.
    #[must_use]
    pub fn line(mut self, mbit: u64) -> Self {
        self.links = vec![link("primary", mbit)];
        self
    }

    /// The HTTP entry's address.
    #[must_use]
    pub fn http_on(mut self, address: SocketAddr) -> Self {
        self.addresses[0] = address;
        self
    }

    /// The forward proxy's address.
    #[must_use]
    pub fn forward_on(mut self, address: SocketAddr) -> Self {
        self.addresses[1] = address;
        self
    }

    /// One more listener, on a port of the kernel's choice; of bytes or datagrams to the last
    /// backend, if it has one.
    #[must_use]
    pub fn listener(
        mut self,
        name: &str,
        protocol: ListenerProtocol,
        class: Option<&str>,
        change: impl FnOnce(&mut ListenerSpec),
    ) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let timeouts = defaults::stream_timeouts(protocol);
        let mut listener = ListenerSpec::plain(name, protocol, any, timeouts, self.limits);
        listener.class =
            class.map(|class| classes(self.max_wait).id(class).expect("a built-in class"));
        if matches!(protocol, ListenerProtocol::Tcp | ListenerProtocol::Udp) {
            let last = u16::try_from(self.backends.len() - 1).expect("a backend, and few");
            listener.backend = Some(BackendId(last));
        }
        change(&mut listener);
        self.listeners.push(listener);
        self
    }

    /// A mirror of the registry that is the last backend, with its own listener `registry`; what
    /// it keeps lies in `directory`.
    #[must_use]
    pub fn mirror(
        mut self,
        registry: &str,
        directory: &std::path::Path,
        change: impl FnOnce(&mut MirrorSpec),
    ) -> Self {
        let backend = BackendId(u16::try_from(self.backends.len() - 1).expect("few backends"));
        let host = self.backends.last().expect("a backend").endpoints[0].to_string();
        let upstream = UpstreamSpec {
            registry: registry.into(),
            prefix: None,
            backend,
            host: host.into(),
            class: classes(self.max_wait).id("image-pull").expect("a built-in class"),
            login: None,
            direct: Direct::Refused,
            unknown: Unknown::Hold,
        };
        let mut mirror = MirrorSpec {
            name: "images".into(),
            hostnames: Vec::new(),
            upstreams: vec![upstream],
            cache: CacheSpec { directory: directory.into(), bytes_max: 1 << 30, free_bytes_min: 0 },
            tags: defaults::MIRROR_TAGS,
            fetches: defaults::MIRROR_FETCHES,
            serves: ServeSpec::default(),
        };
        change(&mut mirror);
        self.mirror = Some(mirror);
        self.listener("registry", ListenerProtocol::Registry, None, |_| ())
    }

    /// A config endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint: EndpointSpec) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    /// Changes the last backend.
    #[must_use]
    pub fn change_backend(mut self, change: impl FnOnce(&mut BackendSpec)) -> Self {
        change(self.backends.last_mut().expect("a backend"));
        self
    }

    /// What the config calls itself.
    #[must_use]
    pub fn digest(mut self, digest: &str) -> Self {
        self.digest = digest.into();
        self
    }

    /// The finished config.
    pub fn build(self) -> Effective {
        let [http, forward, admin] = self.addresses;
        let listener = |name: &str, protocol, address| {
            let timeouts = defaults::stream_timeouts(protocol);
            // Through the admin listener the tests look; short limits are for what they look at.
            let limits = if protocol == ListenerProtocol::Admin { LIMITS } else { self.limits };
            ListenerSpec::plain(name, protocol, address, timeouts, limits)
        };
        let egress = self.egress.map(|(policy, rules)| EgressTable::new(policy, rules));
        Effective {
            store: "store-0412".into(),
            time_zone: "Europe/Oslo".into(),
            process: self.process,
            endpoint: self.endpoint,
            machine_endpoint: None,
            listeners: [
                ListenerSpec { tls: self.tls, ..listener("http", ListenerProtocol::Http, http) },
                ListenerSpec {
                    tls: self.forward_tls,
                    ..listener("forward-proxy", ListenerProtocol::ForwardProxy, forward)
                },
                listener("admin", ListenerProtocol::Admin, admin),
            ]
            .into_iter()
            .chain(self.listeners)
            .collect(),
            links: self.links,
            classes: limited(&classes(self.max_wait), self.class_requests, self.class_connections),
            backends: self.backends,
            routes: RouteTable::new(self.rules).expect("few rules"),
            egress,
            mirror: self.mirror,
            telemetry: TelemetrySpec::default(),
            gate: Gate::default(),
            origins: BTreeMap::new(),
            not_in_effect: vec![],
            digest: self.digest.into(),
        }
    }
}

fn link(name: &str, mbit: u64) -> LinkSpec {
    LinkSpec {
        name: name.into(),
        role: LinkRole::Primary,
        capacity: PerDirection::both(BitRate::from_mbit(mbit)),
        headroom: Percent::new(5).expect("below 100"),
        overhead_bytes: 0,
        metered: false,
        device: None,
        source: None,
    }
}

fn limited(
    classes: &ClassTable,
    requests: Option<(&str, u32)>,
    connections: Option<(&str, u32)>,
) -> ClassTable {
    let of = |bound: Option<(&str, u32)>, name: &str| {
        bound.filter(|(class, _)| *class == name).map(|(_, max)| max)
    };
    let class = |spec: &ClassSpec| ClassSpec {
        requests_max: of(requests, &spec.name),
        connections_max: of(connections, &spec.name),
        ..spec.clone()
    };
    let classes = classes.iter().map(|(_, spec)| class(spec)).collect();
    ClassTable::new(classes).expect("few classes")
}

fn classes(max_wait: Duration) -> ClassTable {
    let class = |name: &str, priority, critical| ClassSpec {
        name: name.into(),
        priority,
        weight: 1,
        critical,
        guarantee: PerDirection::both(Share::Percent(Percent::new(5).expect("below 100"))),
        ceiling: PerDirection::both(Share::Percent(Percent::FULL)),
        queue: QueueLimit { max_wait },
        dscp: None,
        metered: Metered::Allow,
        requests_max: None,
        connections_max: None,
    };
    let classes = vec![
        class("payment", 1000, true),
        class("default", 500, false),
        class("image-pull", 200, false),
        class("metrics", 100, false),
    ];
    ClassTable::new(classes).expect("few classes")
}

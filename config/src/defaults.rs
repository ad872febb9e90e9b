//! Every default of the language, each with its reason. The effective config shows them with
//! the origin `default`; the built-in classes are documents of their own (`builtin.yaml`).
//! A number that an operator may want to change is a field of the language, never a constant
//! elsewhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tillgate_core::backend::{AddressFamily, CircuitSpec, DnsSpec, PoolLimit, TcpSpec, Timeouts};
use tillgate_core::breaker::BreakerSpec;
use tillgate_core::class::{Metered, Share};
use tillgate_core::failover::{FailoverSpec, Healthy};
use tillgate_core::health::PassiveSpec;
use tillgate_core::hedge::HedgeSpec;
use tillgate_core::listener::{ListenerLimits, ListenerProtocol, StreamTimeouts};
use tillgate_core::mirror::{FetchSpec, TagSpec};
use tillgate_core::retry::BudgetSpec;
use tillgate_core::stall::StallSpec;
use tillgate_core::tls::TlsVersion;
use tillgate_core::units::{BitRate, Percent};

/// The built-in traffic classes, as documents of the language.
pub const BUILT_IN: &str = include_str!("builtin.yaml");

/// Part of a line that stays unused: 5 % keep the queue with the gateway on a line whose rate is
/// known; less lets the provider's buffer fill, more only wastes.
pub const HEADROOM: Percent = percent(5);

/// Capacities are counted in bits of IP packets, so framing costs nothing unless it is said.
pub const OVERHEAD_BYTES: u16 = 0;

/// A class of the user's own has the floor of the built-in bulk classes: small, but a class that
/// is starved to zero holds its sockets and never ends.
pub const GUARANTEE: Share = Share::Percent(percent(1));

/// An idle line is lent whole.
pub const CEILING: Share = Share::Percent(Percent::FULL);

/// Classes of one tier share it equally unless it is said.
pub const WEIGHT: u32 = 1;

/// A person at a till gives up after some seconds; a refusal after two can still be answered.
pub const MAX_WAIT: Duration = Duration::from_secs(2);

/// A class may use every line unless it is said: silence must not cut off a backup line.
pub const METERED: Metered = Metered::Allow;

/// Connections to one endpoint in a class whose traffic is bulk: more transfers than this only
/// divide the same line.
pub const POOL_CONNECTIONS_BULK: u32 = 64;

/// Connections to one endpoint that critical traffic uses: every till of a large store at once.
pub const POOL_CONNECTIONS_CRITICAL: u32 = 128;

/// Requests that wait for a connection: some seconds of a busy store; more would wait in vain.
pub const POOL_WAITING: u32 = 1024;

/// Servers commonly close idle connections after 60 to 120 s; ours go before most of theirs.
pub const POOL_IDLE: Duration = Duration::from_secs(90);

/// An hour: long enough to be free, short enough to follow a moved name.
pub const POOL_AGE: Duration = Duration::from_secs(3600);

/// The pool of a backend that says nothing about it.
pub const POOL: PoolLimit = PoolLimit {
    connections_max: POOL_CONNECTIONS_BULK,
    waiting_max: POOL_WAITING,
    idle_timeout: POOL_IDLE,
    age_max: POOL_AGE,
};

/// Time a server may take to answer once its request is through. A default for the request as a
/// whole would end long uploads and calls that rightly wait for the line.
pub const BACKEND_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Three losses of the SYN (1 + 2 s) on a bad line, and some room.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A transfer that stands still for five minutes will not move again; long polls are shorter.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The timeouts of a route that says none.
pub const TIMEOUTS: Timeouts = Timeouts {
    request: None,
    backend_request: Some(BACKEND_REQUEST_TIMEOUT),
    connect: CONNECT_TIMEOUT,
    idle: IDLE_TIMEOUT,
};

/// After SIGTERM: what orchestrators wait by default (30 s) less a margin for the rest.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Bytes of bodies in user space, all workers together: room for a thousand busy streams of
/// 64 KiB, and far below what a small gateway machine has.
pub const BUFFER_BYTES: u64 = 64 * 1024 * 1024;

/// Bounds on clients. Connections: some 20 KiB each, so 4096 are 80 MiB at worst; as many requests
/// at a time, because HTTP/1.1 has one for each connection. One address may have a quarter of them:
/// no device comes near that, a whole back office behind one address may, and four of those are
/// still served. A head of 16 KiB and 100 fields is
/// what common servers take, and of it a target of 8 KiB. 10 s is ample for a head inside a store;
/// idle clients are closed after those of the backends would be. Two hundred resets in ten
/// seconds: a person who cancels whole pages stays below, rapid reset makes as many in one
/// packet. A body of announced length at less than 4 kbit/s (500 bytes/s, Apache's number) is a
/// slow-body attack; bodies without are streams that may rightly be quiet (gRPC), so only the
/// route's idle timeout ends them. UDP sessions: one socket each, and
/// a quarter of them for one address as well.
pub const LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 4096,
    connections_per_client_max: 1024,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(120),
    header_bytes_max: 16 * 1024,
    headers_max: 100,
    uri_bytes_max: 8 * 1024,
    streams_max: 100,
    stream_resets_max: 200,
    requests_max: 4096,
    body_bytes_max: None,
    body_rate_min: Some(BitRate::from_bits_per_second(4_000)),
    body_timeout: None,
    sessions_max: 1024,
    sessions_per_client_max: 256,
};

/// Timeouts of connections without a `ServiceRoute`. Declared TCP services (ISO 8583 hosts) and
/// passed-through TLS keep quiet connections for long: an hour, and keep-alives find the dead
/// ones sooner. A UDP session is over when nothing came for a minute (Envoy's number).
pub const fn stream_timeouts(protocol: ListenerProtocol) -> StreamTimeouts {
    let idle = match protocol {
        ListenerProtocol::Http
        | ListenerProtocol::ForwardProxy
        | ListenerProtocol::Admin
        | ListenerProtocol::ConfigEndpoint
        | ListenerProtocol::Registry => IDLE_TIMEOUT,
        ListenerProtocol::TlsPassthrough | ListenerProtocol::Tcp => Duration::from_secs(3600),
        ListenerProtocol::Udp => Duration::from_secs(60),
    };
    StreamTimeouts { connect: CONNECT_TIMEOUT, idle }
}

/// TLS 1.2 with clients and servers: card terminals live for ten years; rustls speaks no weak
/// suite of it.
pub const TLS_MIN_VERSION: TlsVersion = TlsVersion::V1_2;

/// Whom projected tokens of pods are for: a token for the API server must open nothing here.
pub const ENROLMENT_AUDIENCE: &str = "tillgate";

/// The config endpoint has no old clients.
pub const ENDPOINT_TLS: TlsVersion = TlsVersion::V1_3;

/// A sidecar's certificate: short enough that one in wrong hands ends by itself, long enough that
/// a gateway which is repaired by the evening has still time to renew it.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The shortest and the longest: renewed every 5 s and every 15 days.
pub const CERTIFICATE_LIFETIMES: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(30 * 86_400));

/// Bounds of the config endpoint: a thousand sidecars that wait, two hundred dashboards, and as
/// many tools. A head holds a token and an entity tag. Nobody sends it a body slowly for a reason.
/// All of them may come from one address: containers of one host do.
pub const ENDPOINT_LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 2048,
    connections_per_client_max: 2048,
    headers_max: 64,
    uri_bytes_max: 4 * 1024,
    streams_max: 32,
    requests_max: 4096,
    body_bytes_max: Some(1024 * 1024),
    body_timeout: Some(Duration::from_secs(10)),
    ..LIMITS
};

/// How often certificate files are looked at: reading them costs microseconds, and a renewed
/// certificate has days of time, but an operator who swaps one wants to see it served.
pub const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);

/// Names of servers: both families raced, asked again every half minute (what the resolver of
/// most clouds says), and 5 s for an answer (two tries of the system's resolver begin after 5).
pub const DNS: DnsSpec = DnsSpec {
    family: AddressFamily::Auto,
    refresh: Duration::from_secs(30),
    timeout: Duration::from_secs(5),
};

/// Sockets to servers: a quiet one is asked after a minute, so that no NAT on the way (RFC 5382:
/// two hours, but many forget after two to five minutes) loses it, and is dead after half a
/// minute without an answer. Sent data that nobody acknowledges for 30 s ends the connection; the
/// kernel alone would try for some 15 minutes.
pub const TCP: TcpSpec = TcpSpec {
    keepalive_idle: Duration::from_secs(60),
    keepalive_interval: Duration::from_secs(10),
    keepalive_probes: 3,
    user_timeout: Duration::from_secs(30),
};

/// Probes of a backend that says nothing of them: `HEAD /`, and any HTTP answer is alive. A mere
/// connection proves nothing: the kernel of a frozen process accepts it.
pub const PROBE_PATH: &str = "/";

/// Envoy Gateway's numbers: 3 s between probes cost some 100 bit/s of a line; a probe without an
/// answer within a second would be a call without one.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(3);
/// See [`PROBE_INTERVAL`].
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// One lost packet is no failure; three probes are.
pub const UNHEALTHY_THRESHOLD: u32 = 3;
/// Real calls, one at a time, decide after the first good probe.
pub const HEALTHY_THRESHOLD: u32 = 1;

/// Probes across a metered line are this much rarer; real calls are watched all the same.
pub const METERED_PROBE_FACTOR: u32 = 10;

/// When real calls take a server out, and for how long. Three answers of 502, 503 or 504 in a row
/// are the most that a till may notice; other errors of a program may come from one bad request
/// that is sent again and again, so five (Envoy's number). Two calls without an answer: one may
/// be an old connection. Half of at least 20 calls in 10 s catches what fails now and then. Out
/// for 1 s first and 60 s at most, back after three good calls: linkerd's numbers. A tenth of a
/// second of silence is more than a healthy pause of a garbage collector, and twice what 99 of
/// 100 answers take does not happen to a server that lives while others wait as well. All servers
/// of a backend may be out: the next tier is better than one that fails.
pub const PASSIVE: PassiveSpec = PassiveSpec {
    gateway_errors: 3,
    server_errors: 5,
    local_failures: 2,
    window: Duration::from_secs(10),
    ratio: percent(50),
    volume: 20,
    ejected_max: Percent::FULL,
    breaker: BreakerSpec { base: Duration::from_secs(1), max: Duration::from_secs(60), trials: 3 },
    stall: StallSpec { floor: Duration::from_millis(100), multiplier: 2 },
};

/// Bounds of a backend: far above what a store asks, below what exhausts it (Envoy's numbers).
pub const CIRCUIT: CircuitSpec =
    CircuitSpec { requests_max: 1024, waiting_max: 1024, retries_max: 1024 };

/// Tiers change when the last server of a tier is gone: with Envoy's overprovisioning of 1.4, one
/// of two replicas down would send a third of the calls over the line. A tier comes back after
/// half a minute without a failure, over ten seconds: a replica that restarts in a loop stays
/// out, and caches fill before all traffic is there.
pub const FAILOVER: FailoverSpec = FailoverSpec {
    fallback_below: Healthy::Count(1),
    hold_down: Duration::from_secs(30),
    ramp: Duration::from_secs(10),
    data_age_max: None,
};

/// One further try: with two places to go, the second one answers or nobody does.
pub const RETRY_ATTEMPTS: u32 = 1;
/// The first pause before the same server is asked again (Envoy's number), and the longest.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(25);
/// See [`RETRY_BACKOFF`].
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Further tries: a fifth of the calls (Envoy's and linkerd's number), at least ten a second, so
/// that a till that calls rarely is always covered.
pub const RETRY_BUDGET: BudgetSpec = BudgetSpec { percent: percent(20), min_per_second: 10 };
/// Bodies of calls are small; what is larger is a transfer, which is not sent twice.
pub const RETRY_BUFFER_BYTES: u32 = 64 * 1024;

/// A second try beside a slow one, where nothing is said of when: not before 10 ms, because even
/// the fastest servers pause for as long, and after a second at the latest.
pub const HEDGE: HedgeSpec =
    HedgeSpec { min: Duration::from_millis(10), max: Duration::from_secs(1) };

/// Keys of one rate limit that are remembered: more devices than any store has, in about 1 MiB.
pub const RATE_KEYS: u32 = 10_000;

/// Releases before the current one that may be pulled at any time: one to go back to, and the one
/// that a machine may still run that was off during the last rollout.
pub const PREVIOUS_RELEASES: u8 = 2;

/// When a client whose pull is held may ask again: often enough for a window of an hour, and a
/// hundred tills that ask are one question in nine seconds.
pub const RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// Headers whose values never reach the access log, whatever a policy says: they carry secrets.
pub const REDACTED_HEADERS: [&str; 6] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-api-key",
    "x-amz-security-token",
];

/// The class of exported traces where none is named.
pub const TRACING_CLASS: &str = "metrics";

/// Where OTLP/HTTP takes traces (OTLP 1.x, "Default port" and "paths").
pub const OTLP_PATH: &str = "/v1/traces";

/// The class of fetched images where none is named.
pub const MIRROR_CLASS: &str = "image-pull";

/// What the mirror's own listener is called in metrics and logs.
pub const MIRROR_LISTENER: &str = "registry-mirror";

/// Left free for logs and everything else that lives on the file system of the images.
pub const MIRROR_FREE_BYTES: u64 = 1024 * 1024 * 1024;

/// A tag that moves is seen within a minute; while the registry is away a box can be rebuilt from
/// what its tags meant in the last month.
pub const MIRROR_TAGS: TagSpec =
    TagSpec { fresh: Duration::from_secs(60), stale: Duration::from_secs(30 * 24 * 3600) };

/// Four blobs at once fill any line; more only finish later. Some thousand waiting ones are a
/// release of hundreds of images. Runtimes give up a pull of which nothing comes for a minute or
/// so, and are told to come again before. A registry may take its time to answer (object stores
/// behind it); a body that stands still for ten seconds is gone on with on another connection:
/// after a line was away the registry's kernel waits as long again before it tries the old one. A
/// line that is away for a quarter of an hour is no reason to begin a pull anew.
pub const MIRROR_FETCHES: FetchSpec = FetchSpec {
    running_max: 4,
    waiting_max: 4096,
    first_byte: Duration::from_secs(45),
    connect: CONNECT_TIMEOUT,
    response: Duration::from_secs(30),
    stall: Duration::from_secs(10),
    patience: Duration::from_secs(15 * 60),
    abandon: None,
    day_bytes_max: None,
};

/// The listeners of a policy that names none: loopback only, so that a first start opens nothing
/// to the network.
pub const LISTENERS: [(&str, ListenerProtocol, SocketAddr); 3] = [
    ("http", ListenerProtocol::Http, loopback(8080)),
    ("forward-proxy", ListenerProtocol::ForwardProxy, loopback(3128)),
    ("admin", ListenerProtocol::Admin, loopback(9900)),
];

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const fn percent(value: u8) -> Percent {
    match Percent::new(value) {
        Some(percent) => percent,
        None => Percent::FULL,
    }
}

/// A policy that is older is called stale: a week covers a long weekend and a holiday of whoever
/// publishes it. It stays in force.
pub const SOFT_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long one fetch of a policy may take, by default: a bundle of 20 KiB takes seconds on the
/// thinnest line; what takes longer hangs.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Over how long the stores come back after an outage: sixty thousand of them are then a hundred
/// requests a second.
pub const FETCH_SPREAD: Duration = Duration::from_secs(600);

/// How often a store reports when nothing changes: 60,000 stores are 67 reports a second.
pub const HEARTBEAT: Duration = Duration::from_secs(900);

/// A new policy is watched for so long at least: failures of what it changed show within the
/// first requests, and those of a slow backend within a minute.
pub const PROBATION_LEAST: Duration = Duration::from_secs(120);

/// And until so many critical requests were seen: a store sells in the time.
pub const PROBATION_REQUESTS: u64 = 200;

/// A store that is closed shows nothing; half an hour later it is not asked any more.
pub const PROBATION_MOST: Duration = Duration::from_secs(1800);

/// Critical requests that say something: one failure among fewer is many percent.
pub const PROBATION_SAMPLES: u64 = 50;

/// Percentage points by which more critical requests must fail for a policy to be why: cards are
/// declined and lines flap, by less than that.
pub const PROBATION_POINTS: u64 = 5;

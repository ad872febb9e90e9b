//! Every default of the language, each with its reason. The effective config shows them with
//! the origin `default`; the built-in classes are documents of their own (`builtin.yaml`).
//! A number that an operator may want to change is a field of the language, never a constant
//! elsewhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tillgate_core::backend::{AddressFamily, DnsSpec, PoolLimit, TcpSpec, Timeouts};
use tillgate_core::class::{Metered, Share};
use tillgate_core::listener::{ListenerLimits, ListenerProtocol, StreamTimeouts};
use tillgate_core::mirror::{FetchSpec, TagSpec};
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

/// One mebibyte is 0.4 s of a 20 Mbit/s line: room for bursts, no standing queue.
pub const QUEUE_BYTES: u64 = 1024 * 1024;

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
/// at a time, because HTTP/1.1 has one for each connection. A head of 16 KiB and 100 fields is
/// what common servers take, and of it a target of 8 KiB. 10 s is ample for a head inside a store;
/// idle clients are closed after those of the backends would be. Two hundred resets in ten
/// seconds: a person who cancels whole pages stays below, rapid reset makes as many in one
/// packet. A body of announced length at less than 4 kbit/s (500 bytes/s, Apache's number) is a
/// slow-body attack; bodies without are streams that may rightly be quiet (gRPC), so only the
/// route's idle timeout ends them. UDP sessions: one socket each.
pub const LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 4096,
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
};

/// Timeouts of connections without a `ServiceRoute`. Declared TCP services (ISO 8583 hosts) and
/// passed-through TLS keep quiet connections for long: an hour, and keep-alives find the dead
/// ones sooner. A UDP session is over when nothing came for a minute (Envoy's number).
pub const fn stream_timeouts(protocol: ListenerProtocol) -> StreamTimeouts {
    let idle = match protocol {
        ListenerProtocol::Http
        | ListenerProtocol::ForwardProxy
        | ListenerProtocol::Admin
        | ListenerProtocol::Registry => IDLE_TIMEOUT,
        ListenerProtocol::TlsPassthrough | ListenerProtocol::Tcp => Duration::from_secs(3600),
        ListenerProtocol::Udp => Duration::from_secs(60),
    };
    StreamTimeouts { connect: CONNECT_TIMEOUT, idle }
}

/// TLS 1.2 with clients and servers: card terminals live for ten years; rustls speaks no weak
/// suite of it.
pub const TLS_MIN_VERSION: TlsVersion = TlsVersion::V1_2;

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
/// behind it), but a body that stands still for half a minute without the line's doing will not
/// move again. A line that is away for a quarter of an hour is no reason to begin a pull anew.
pub const MIRROR_FETCHES: FetchSpec = FetchSpec {
    running_max: 4,
    waiting_max: 4096,
    first_byte: Duration::from_secs(45),
    connect: CONNECT_TIMEOUT,
    response: Duration::from_secs(30),
    stall: Duration::from_secs(30),
    patience: Duration::from_secs(15 * 60),
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

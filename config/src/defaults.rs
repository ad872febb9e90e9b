//! Every default of the language, each with its reason. The effective config shows them with
//! the origin `default`; the built-in classes are documents of their own (`builtin.yaml`).
//! A number that an operator may want to change is a field of the language, never a constant
//! elsewhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tillgate_core::class::{Metered, Share};
use tillgate_core::units::Percent;

use crate::effective::{ListenerLimits, ListenerProtocol};

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

/// Time a server may take to answer once its request is through. A default for the request as a
/// whole would end long uploads and calls that rightly wait for the line.
pub const BACKEND_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Three losses of the SYN (1 + 2 s) on a bad line, and some room.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A transfer that stands still for five minutes will not move again; long polls are shorter.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// After SIGTERM: what orchestrators wait by default (30 s) less a margin for the rest.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Bounds on clients. Connections: some 20 KiB each, so 4096 are 80 MiB at worst. A head of
/// 16 KiB and 100 fields is what common servers take. 10 s is ample for a head inside a store;
/// idle clients are closed after those of the backends would be.
pub const LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 4096,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(120),
    header_bytes_max: 16 * 1024,
    headers_max: 100,
    streams_max: 100,
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

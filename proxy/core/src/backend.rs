//! Backends and timeouts: where requests can go, and how long each step may take.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::health::HealthSpec;
use crate::tls::ClientTls;

/// Index of a backend in the store's list; stable by name across reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u16);

/// Inside the store, or across the WAN line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// In the store: never shaped.
    Local,
    /// Across the line: shaped by class.
    Cloud,
}

/// What the servers of a backend speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge (h2c) or by ALPN.
    Http2,
    /// gRPC: HTTP/2.
    Grpc,
    /// Bytes. Reached from `TCP` listeners, not from an HTTP route.
    Tcp,
    /// Datagrams. Reached from `UDP` listeners.
    Udp,
}

/// The host part of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address that needs no resolving.
    Ip(IpAddr),
    /// A name, lower case, without a trailing dot.
    Name(Arc<str>),
}

/// One server of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address or name.
    pub host: Host,
    /// TCP or UDP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// A group of equal servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Name in policy, metrics and logs.
    pub name: Arc<str>,
    /// In the store or across the line.
    pub location: Location,
    /// What it speaks.
    pub protocol: BackendProtocol,
    /// It is a gateway that tries servers by itself: one try of ours is all of its tries, which
    /// the rule's time for one (`backendRequest`) must not end.
    pub tries_itself: bool,
    /// Its servers, at least one.
    pub endpoints: Vec<Endpoint>,
    /// Bounds of its connection pools, per endpoint and class.
    pub pool: PoolLimit,
    /// TLS to its servers; `None` = in the clear (or bytes that are encrypted already).
    pub tls: Option<ClientTls>,
    /// Header in front of every connection that tells the client's address; with `Http` and
    /// `Tcp` only. A connection that has one carries the requests of one client.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How names of its servers are resolved.
    pub dns: DnsSpec,
    /// Settings of its TCP sockets.
    pub tcp: TcpSpec,
    /// How its servers are watched.
    pub health: Arc<HealthSpec>,
    /// Bounds of what it is asked at one time.
    pub circuit: CircuitSpec,
}

/// Bounds of what a backend is asked at one time, all its servers and all classes together. Lower
/// classes meet them earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitSpec {
    /// Requests at one time; further ones wait.
    pub requests_max: u32,
    /// Requests that wait, as long as their class lets them; further ones are refused.
    pub waiting_max: u32,
    /// Of the requests, those that are further tries.
    pub retries_max: u32,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// Both, raced (RFC 8305).
    Auto,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl AddressFamily {
    /// Whether `address` is of this family.
    pub const fn takes(self, address: IpAddr) -> bool {
        match self {
            Self::Auto => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

/// How names are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DnsSpec {
    /// Which addresses are used.
    pub family: AddressFamily,
    /// A name is asked again after this (with jitter); the last answer serves until then, and
    /// beyond where the resolver gives none.
    pub refresh: Duration,
    /// A lookup without an answer by then has failed.
    pub timeout: Duration,
}

/// Settings of TCP sockets to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpSpec {
    /// Idle time before the first keep-alive probe.
    pub keepalive_idle: Duration,
    /// Time between probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the connection is dead.
    pub keepalive_probes: u32,
    /// Sent data may stay unacknowledged for this long (`TCP_USER_TIMEOUT`).
    pub user_timeout: Duration,
}

/// Bounds of one connection pool (one endpoint, one class, one link).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimit {
    /// Open connections at most; further requests wait for one, timed by the class.
    pub connections_max: u32,
    /// Requests that may wait for a connection before new ones are refused at once.
    pub waiting_max: u32,
    /// An idle connection is closed after this.
    pub idle_timeout: Duration,
    /// A connection takes no new request after this age.
    pub age_max: Duration,
}

/// How long the steps of a request may take. Time spent waiting for a grant, a window or a dial
/// slot never counts against `backend_request` or `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request's head to the response's head, all included.
    /// `None` = no limit.
    pub request: Option<Duration>,
    /// From sending one try to the response's head. `None` = no limit.
    pub backend_request: Option<Duration>,
    /// Until a TCP connection is established.
    pub connect: Duration,
    /// A stream on which nothing moved in either direction for this long is ended.
    pub idle: Duration,
}

//! Backends and timeouts: where requests can go, and how long each step may take.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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
    /// Bytes. Not reachable from an HTTP route.
    Tcp,
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
    /// TCP port.
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
    /// Its servers, at least one.
    pub endpoints: Vec<Endpoint>,
    /// Bounds of its connection pools, per endpoint and class.
    pub pool: PoolLimit,
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

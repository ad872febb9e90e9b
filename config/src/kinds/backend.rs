//! `Backend`: a group of equal servers.
//!
//! Endpoints, health checks and circuit breakers have the field names of Envoy Gateway's Backend
//! and BackendTrafficPolicy, so that their users find what they know.

use schemars::JsonSchema;
use serde::Deserialize;

use super::health::HealthCheck;
use super::tls::{CertificateDoc, TlsVersionDoc};
use super::{ApiVersion, Metadata, StoreSelector};
use crate::scalar::{Address, DurationText, FilePath, Fqdn, Name, Whole};

/// Servers that requests can go to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "Backend")]
pub struct BackendDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `Backend`.
    pub kind: BackendKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// The servers.
    pub spec: BackendSpecDoc,
}

/// The word `Backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum BackendKind {
    /// That word.
    Backend,
}

/// A group of equal servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendSpecDoc {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several documents of this name that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// Inside the store (never shaped) or across the WAN line.
    pub location: Location,
    /// What the servers speak.
    pub protocol: Protocol,
    /// The servers.
    #[schemars(length(min = 1, max = 256))]
    pub endpoints: Vec<EndpointDoc>,
    /// Bounds of the connections to each endpoint, for each traffic class.
    #[serde(default)]
    pub connection_pool: Option<ConnectionPool>,
    /// TLS to the servers.
    #[serde(default)]
    pub tls: Option<BackendTls>,
    /// Tells the servers, in a PROXY header, where a connection comes from; with `HTTP` and
    /// `TCP`.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocolOut>,
    /// How the names of the servers are resolved.
    #[serde(default)]
    pub dns: Option<DnsDoc>,
    /// Probes on quiet connections.
    #[serde(default)]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Data may stay unacknowledged for this long before the connection is given up.
    #[serde(default)]
    pub tcp_user_timeout: Option<DurationText>,
    /// How the servers are watched.
    #[serde(default)]
    pub health_check: Option<Box<HealthCheck>>,
    /// Bounds beyond which the backend is spared.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// Where servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Location {
    /// In the store: never shaped.
    Local,
    /// Across the WAN line: shaped by class.
    Cloud,
}

/// What servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.1.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/2 (without TLS: with prior knowledge).
    #[serde(rename = "HTTP2")]
    Http2,
    /// gRPC over HTTP/2.
    #[serde(rename = "GRPC")]
    Grpc,
    /// Bytes; for `TCP` listeners.
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams; for `UDP` listeners.
    #[serde(rename = "UDP")]
    Udp,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ProxyProtocolOut {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// How names are resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsDoc {
    /// Which addresses are used; `Auto` without it.
    #[serde(default)]
    pub family: Option<FamilyDoc>,
    /// A name is asked again after this; until an answer comes, the last one is used.
    #[serde(default)]
    pub refresh: Option<DurationText>,
    /// A lookup without an answer by then has failed.
    #[serde(default)]
    pub timeout: Option<DurationText>,
}

/// Which addresses are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum FamilyDoc {
    /// Both kinds, the first that connects.
    Auto,
    /// IPv4 alone.
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6 alone.
    #[serde(rename = "IPv6")]
    Ipv6,
}

/// Probes on quiet connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// How long a connection is quiet before the first probe.
    #[serde(default)]
    pub idle_time: Option<DurationText>,
    /// Time between probes.
    #[serde(default)]
    pub interval: Option<DurationText>,
    /// Unanswered probes after which the connection is dead.
    #[serde(default)]
    pub probes: Option<Whole<1, 100>>,
}

/// One server: exactly one of `fqdn`, `ip`, `unix`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EndpointDoc {
    /// By name.
    Fqdn(FqdnEndpoint),
    /// By address.
    Ip(IpEndpoint),
    /// By a socket in the file system. Not supported.
    Unix(UnixEndpoint),
}

/// A server by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FqdnEndpoint {
    /// Its name.
    pub hostname: Fqdn,
    /// Its port.
    pub port: Whole<1, 65_535>,
}

/// A server by address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IpEndpoint {
    /// Its address.
    pub address: Address,
    /// Its port.
    pub port: Whole<1, 65_535>,
}

/// A server behind a socket in the file system.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnixEndpoint {
    /// Path of the socket.
    pub path: String,
}

/// Bounds of one connection pool (one endpoint, one class).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConnectionPool {
    /// Open connections at most.
    #[serde(default)]
    pub max_connections: Option<Whole<1, 65_536>>,
    /// Requests that may wait for a connection before new ones are refused.
    #[serde(default)]
    pub max_waiting: Option<Whole<1, 1_000_000>>,
    /// An idle connection is closed after this.
    #[serde(default)]
    pub idle_timeout: Option<DurationText>,
    /// A connection takes no new request after this age.
    #[serde(default)]
    pub max_age: Option<DurationText>,
}

/// TLS to the servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendTls {
    /// How TLS is used.
    pub mode: BackendTlsMode,
    /// Name asked for and checked; the endpoint's own host without it.
    #[serde(default)]
    pub sni: Option<Fqdn>,
    /// Authorities that may have signed the server's certificate, in PEM; those of the system
    /// without it.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
    /// Name of the certificate authority. Not supported.
    #[serde(default)]
    pub ca_ref: Option<Name>,
    /// Certificate that is shown to the server; with `mode: Mutual`.
    #[serde(default)]
    pub client_certificate: Option<CertificateDoc>,
    /// Oldest version that is spoken; "1.2" without it.
    #[serde(default)]
    pub min_version: Option<TlsVersionDoc>,
}

/// How TLS is used to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum BackendTlsMode {
    /// No TLS.
    None,
    /// The server shows a certificate.
    Simple,
    /// Both sides show one.
    Mutual,
    /// The bytes are TLS already and passed on as they are; with `TCP`.
    Passthrough,
}

/// Bounds beyond which the backend is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Requests at one time, by all servers together; further ones wait, lower classes earlier.
    #[serde(default)]
    pub max_parallel_requests: Option<Whole<1, 1_000_000>>,
    /// Further tries at one time.
    #[serde(default)]
    pub max_parallel_retries: Option<Whole<0, 1_000_000>>,
    /// Requests that wait; further ones are refused at once.
    #[serde(default)]
    pub max_pending_requests: Option<Whole<0, 1_000_000>>,
}

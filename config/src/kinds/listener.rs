//! `Listener`: a socket to listen on.
//!
//! Address, protocol, TLS, where bytes go, and the bounds on its clients. What is served there
//! follows from the protocol; a gateway without any `Listener` document listens on loopback.

use schemars::JsonSchema;
use serde::Deserialize;

use super::tls::{CertificateDoc, TlsVersionDoc};
use super::{ApiVersion, Metadata, StoreSelector};
use crate::scalar::{Cidr, DurationText, FilePath, ListenAddress, Name, Rate, Size, Whole};

/// A socket to listen on. Documents named `http`, `forward-proxy` and `admin` replace the
/// built-in listeners on 127.0.0.1:8080, :3128 and :9900.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "Listener")]
pub struct ListenerDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `Listener`.
    pub kind: ListenerKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// The socket.
    pub spec: ListenerSpecDoc,
}

/// The word `Listener`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ListenerKind {
    /// That word.
    Listener,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenerSpecDoc {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several documents of this name that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// Address and port; port 0 takes any free one.
    pub address: ListenAddress,
    /// What it speaks.
    pub protocol: ListenerProtocolDoc,
    /// TLS that ends here; with `HTTP` and `ForwardProxy`.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Load balancers in front that say, in a PROXY header, where a connection comes from.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocolIn>,
    /// Where bytes go; with `TCP` and `UDP`.
    #[serde(default)]
    pub backend_ref: Option<ListenerBackendRef>,
    /// Class of the traffic; with `TCP` and `UDP`, and with `TLSPassthrough` where no rule of
    /// the EgressPolicy names one. `default` without it.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// Port that is dialled; with `TLSPassthrough`, where the client names only a host.
    #[serde(default)]
    pub destination_port: Option<Whole<1, 65_535>>,
    /// Until a connection to the server is established; not with `HTTP` and `Admin`.
    #[serde(default)]
    pub connect_timeout: Option<DurationText>,
    /// A stream (or session of UDP) on which nothing moves for this long is ended; not with
    /// `HTTP` and `Admin`.
    #[serde(default)]
    pub idle_timeout: Option<DurationText>,
    /// Bounds on its clients.
    #[serde(default)]
    pub limits: Option<LimitsDoc>,
}

/// TLS that ends at a listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenerTls {
    /// Certificates, chosen by the name that the client asks for; the first is the default.
    #[schemars(length(min = 1, max = 64))]
    pub certificates: Vec<CertificateDoc>,
    /// Certificates of clients.
    #[serde(default)]
    pub client_certificates: Option<ClientCertificatesDoc>,
    /// Oldest version that is spoken; "1.2" without it.
    #[serde(default)]
    pub min_version: Option<TlsVersionDoc>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClientCertificatesDoc {
    /// Whether a client must show one.
    pub mode: ClientCertificateMode,
    /// Authorities that may have signed it, in PEM.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ClientCertificateMode {
    /// It must.
    Required,
    /// It may; a wrong one is still refused.
    Optional,
}

/// Who sends a PROXY header (v1 or v2) in front of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProxyProtocolIn {
    /// Networks of the load balancers. Their connections must begin with the header; in
    /// connections from elsewhere none is looked for.
    #[schemars(length(min = 1))]
    pub trusted_sources: Vec<Cidr>,
}

/// A reference to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerBackendRef {
    /// Name of the Backend.
    pub name: Name,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ListenerProtocolDoc {
    /// HTTP/1.1 and HTTP/2, routed by ServiceRoutes.
    #[serde(rename = "HTTP")]
    Http,
    /// CONNECT and absolute-form requests, allowed by the EgressPolicy.
    ForwardProxy,
    /// Metrics, probes, status.
    Admin,
    /// TLS that is passed on unread, to the host that the client names; allowed and classed by
    /// the EgressPolicy.
    #[serde(rename = "TLSPassthrough")]
    TlsPassthrough,
    /// Bytes, to one Backend.
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams, to one Backend, in sessions by client.
    #[serde(rename = "UDP")]
    Udp,
}

/// Bounds on the clients of one listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitsDoc {
    /// Open client connections; the next one is closed at once.
    #[serde(default)]
    pub max_connections: Option<Whole<1, 1_000_000>>,
    /// Open connections of one client address; the next one is closed at once. With
    /// `proxyProtocol` the address is the one that the header names.
    #[serde(default)]
    pub max_connections_per_client: Option<Whole<1, 1_000_000>>,
    /// A request's head must be complete after this.
    #[serde(default)]
    pub header_timeout: Option<DurationText>,
    /// A kept-alive connection without a request is closed after this.
    #[serde(default)]
    pub idle_timeout: Option<DurationText>,
    /// Size of a request's head.
    #[serde(default)]
    pub max_header_size: Option<Size>,
    /// Header fields of a request.
    #[serde(default)]
    pub max_headers: Option<Whole<1, 1000>>,
    /// Streams of one HTTP/2 connection.
    #[serde(default)]
    pub max_streams: Option<Whole<1, 10_000>>,
    /// Streams of one HTTP/2 connection that a client may reset within ten seconds; more closes
    /// the connection.
    #[serde(default)]
    pub max_stream_resets: Option<Whole<1, 100_000>>,
    /// Requests and tunnels at the same time; the next one is answered 503.
    #[serde(default)]
    pub max_requests: Option<Whole<1, 1_000_000>>,
    /// Size of a request's target; more is answered 414.
    #[serde(default)]
    pub max_uri_size: Option<Size>,
    /// Size of a request's body; more is answered 413. Any size without it: bodies are streamed.
    #[serde(default)]
    pub max_body_size: Option<Size>,
    /// A body of announced length must arrive at least this fast, over ten seconds; slower is
    /// answered 408.
    #[serde(default)]
    pub min_body_rate: Option<Rate>,
    /// A body of which nothing arrives for this long is answered 408; `0s` = only the route's
    /// idle timeout counts.
    #[serde(default)]
    pub body_timeout: Option<DurationText>,
    /// Sessions at the same time; with `UDP`. The longest idle one makes room.
    #[serde(default)]
    pub max_sessions: Option<Whole<1, 65_536>>,
    /// Sessions of one client address; with `UDP`. Its own longest idle one makes room.
    #[serde(default)]
    pub max_sessions_per_client: Option<Whole<1, 65_536>>,
}

//! `Listener`: a socket to listen on.
//!
//! Address, protocol and the bounds on its clients. What is served there follows from the
//! protocol; a gateway without any `Listener` document listens on loopback.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ApiVersion, Metadata, StoreSelector};
use crate::scalar::{DurationText, ListenAddress, Size, Whole};

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
    /// Bounds on its clients.
    #[serde(default)]
    pub limits: Option<LimitsDoc>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ListenerProtocolDoc {
    /// HTTP/1.1 and HTTP/2 without TLS, routed by ServiceRoutes.
    #[serde(rename = "HTTP")]
    Http,
    /// CONNECT and absolute-form requests, allowed by the EgressPolicy.
    ForwardProxy,
    /// Metrics, probes, status.
    Admin,
}

/// Bounds on the clients of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitsDoc {
    /// Open client connections; the next one is closed at once.
    #[serde(default)]
    pub max_connections: Option<Whole<1, 1_000_000>>,
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
}

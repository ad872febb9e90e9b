//! The failure table: everything that can end a request or a tunnel before its time.
//!
//! One row per [`Failure`]: the status the client sees (if an answer is still possible), the
//! `reason` label of metrics, logs and problem bodies, who is to blame, and whether the request
//! may be sent again. [`TABLE`] is the whole of it; the README's table is rendered from it.
//! Nothing here decides what to do about a failure.

use std::io;
use std::time::Duration;

use http::StatusCode;
use tillgate_core::health::Loss;

use crate::tls::TlsError;

/// Who has to change something for the failure to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client sent something we cannot take, or left.
    Client,
    /// The policy says no, or does not know this traffic.
    Policy,
    /// The server behind us.
    Backend,
    /// The WAN line has no room in time.
    Line,
    /// This process: a limit of its own, or a bug.
    Gateway,
}

impl Blame {
    /// As printed in tables and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Policy => "policy",
            Self::Backend => "backend",
            Self::Line => "line",
            Self::Gateway => "gateway",
        }
    }
}

/// Whether the same request may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again, or it has left and nobody allowed a second execution.
    Never,
    /// Nothing of it was sent, so sending it elsewhere is no second execution.
    NothingSent,
    /// It may have been executed: only idempotent or keyed calls, if the policy says so.
    IfIdempotent,
}

impl Retry {
    /// As printed in tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Never => "no",
            Self::NothingSent => "yes, nothing was sent",
            Self::IfIdempotent => "only if idempotent",
        }
    }
}

/// What went wrong with one request or tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Failure {
    /// The request cannot be understood as one request for one host.
    InvalidRequest,
    /// The target is longer than the listener takes.
    UriTooLong,
    /// The head is larger than the listener takes.
    HeadTooLarge,
    /// `Upgrade` to something else than WebSocket, or to a server that cannot take it.
    UpgradeUnsupported,
    /// The method has no meaning on this listener (CONNECT on the HTTP entry).
    MethodUnsupported,
    /// No route has this host.
    UnknownHost,
    /// A route has the host, none of its rules matches the rest.
    NoMatch,
    /// The egress policy refuses the destination.
    EgressDenied,
    /// The destination's name did not resolve.
    ResolveFailed,
    /// The server's kernel refused the connection.
    ConnectRefused,
    /// There is no way to the address.
    ConnectUnreachable,
    /// No connection within `timeouts.connect`.
    ConnectTimeout,
    /// No TLS with the server.
    TlsHandshake,
    /// The server's certificate is not signed by a trusted authority.
    TlsUntrusted,
    /// The server's certificate is not valid now.
    TlsExpired,
    /// The server's certificate is for another name.
    TlsWrongName,
    /// The server refuses our certificate, or its absence.
    TlsClientCertificate,
    /// The connection ended before a response's head.
    BackendClosed,
    /// The server's answer is not HTTP.
    BackendProtocol,
    /// No response's head within `timeouts.backendRequest`.
    BackendTimeout,
    /// No response's head within `timeouts.request`.
    RequestTimeout,
    /// Waited the class's `queue.maxWait` for a connection or the line.
    QueueTimeout,
    /// The pool's waiting room is full.
    QueueFull,
    /// The response's body ended before its announced end.
    BackendBodyCut,
    /// The request's body ended before its announced end.
    ClientBodyCut,
    /// The client left before the end.
    ClientGone,
    /// Nothing moved for `timeouts.idle`.
    IdleTimeout,
    /// A PROXY header from a source that the listener does not trust.
    ProxyUntrusted,
    /// A trusted source sent no PROXY header that can be understood, in time.
    ProxyInvalid,
    /// The client has as many connections or sessions as it may.
    ClientCrowds,
    /// A ClientHello that cannot be passed on: not TLS, malformed, too large.
    HelloInvalid,
    /// A ClientHello that names no server.
    HelloNameless,
    /// No whole ClientHello within `headerTimeout`.
    HelloTimeout,
    /// The client has used up what a rule allows it.
    RateLimited,
    /// As many requests as the listener or the class takes are under way.
    RequestsFull,
    /// As many connections and sessions as the class takes are open.
    ConnectionsFull,
    /// The request's body is larger than the listener takes.
    BodyTooLarge,
    /// The request's body comes slower than the listener takes.
    BodyTooSlow,
    /// The server went silent, and was found to be dead.
    BackendStalled,
    /// The server is out, and a stream on it does not go on.
    BackendEjected,
    /// The backend has as many requests as it may, and as many wait.
    BackendFull,
    /// No server has data that is new enough.
    DataTooOld,
    /// The process holds as much as it may, and others go first.
    MemoryShed,
    /// The pull of an image is held for now.
    PullHeld,
    /// The policy forbids an image here.
    PullProhibited,
    /// What a registry sent is not what its digest says.
    DigestMismatch,
    /// A window or freeze holds the rule that the request met.
    ChangeHeld,
    /// A registry that is mirrored was to be reached past the mirror.
    RegistryReserved,
    /// The drain deadline passed.
    Drained,
    /// A bug here.
    Internal,
}

/// One row of the failure table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What happened.
    pub failure: Failure,
    /// The label in metrics, logs and problem bodies.
    pub reason: &'static str,
    /// The answer, where one is still possible.
    pub status: Option<StatusCode>,
    /// Who has to change something.
    pub blame: Blame,
    /// Whether the request may be sent again.
    pub retry: Retry,
    /// One sentence for people: what it means and what to do.
    pub meaning: &'static str,
}

const fn row(
    failure: Failure,
    reason: &'static str,
    status: Option<StatusCode>,
    blame: Blame,
    retry: Retry,
    meaning: &'static str,
) -> Row {
    Row { failure, reason, status, blame, retry, meaning }
}

/// Every failure, in the order of [`Failure`].
#[rustfmt::skip]
pub const TABLE: [Row; 50] = [
    row(Failure::InvalidRequest, "invalid_request", Some(StatusCode::BAD_REQUEST), Blame::Client, Retry::Never,
        "the request is malformed, or its end, host or path can be read in two ways"),
    row(Failure::UriTooLong, "uri_too_long", Some(StatusCode::URI_TOO_LONG), Blame::Client, Retry::Never,
        "the target is longer than the listener's limits.maxUriSize"),
    row(Failure::HeadTooLarge, "head_too_large", Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), Blame::Client, Retry::Never,
        "the head has more bytes or fields than the listener's limits"),
    row(Failure::UpgradeUnsupported, "upgrade_unsupported", Some(StatusCode::NOT_IMPLEMENTED), Blame::Client, Retry::Never,
        "of protocol upgrades only WebSocket is carried"),
    row(Failure::MethodUnsupported, "method_unsupported", Some(StatusCode::METHOD_NOT_ALLOWED), Blame::Client, Retry::Never,
        "the method has no meaning on this listener; CONNECT belongs to the forward proxy"),
    row(Failure::UnknownHost, "unknown_host", Some(StatusCode::NOT_FOUND), Blame::Policy, Retry::Never,
        "no ServiceRoute has this host; add it to a route's hostnames"),
    row(Failure::NoMatch, "no_match", Some(StatusCode::NOT_FOUND), Blame::Policy, Retry::Never,
        "a route has the host, but no rule matches path, method and headers"),
    row(Failure::EgressDenied, "egress_denied", Some(StatusCode::FORBIDDEN), Blame::Policy, Retry::Never,
        "the EgressPolicy refuses this destination"),
    row(Failure::ResolveFailed, "resolve_failed", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::NothingSent,
        "the destination's name has no address"),
    row(Failure::ConnectRefused, "connect_refused", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::NothingSent,
        "nothing listens at the destination"),
    row(Failure::ConnectUnreachable, "connect_unreachable", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::NothingSent,
        "there is no way to the destination"),
    row(Failure::ConnectTimeout, "connect_timeout", Some(StatusCode::GATEWAY_TIMEOUT), Blame::Backend, Retry::NothingSent,
        "no connection within timeouts.connect"),
    row(Failure::TlsHandshake, "tls_handshake", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::NothingSent,
        "no TLS with the server; check that it speaks TLS on this port, and the backend's tls.minVersion"),
    row(Failure::TlsUntrusted, "tls_untrusted", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::NothingSent,
        "the server's certificate is not signed by a trusted authority; name its file in the backend's tls.caFile"),
    row(Failure::TlsExpired, "tls_expired", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::NothingSent,
        "the server's certificate is not valid now; renew it on the server, check the clocks"),
    row(Failure::TlsWrongName, "tls_wrong_name", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::NothingSent,
        "the server's certificate is for another name; set the backend's tls.sni, or renew it with this name"),
    row(Failure::TlsClientCertificate, "tls_client_certificate", Some(StatusCode::BAD_GATEWAY), Blame::Policy, Retry::NothingSent,
        "the server refuses the certificate we show, or misses one; check the backend's tls.clientCertificate"),
    row(Failure::BackendClosed, "backend_closed", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::IfIdempotent,
        "the server closed the connection without an answer"),
    row(Failure::BackendProtocol, "backend_protocol", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::IfIdempotent,
        "the server's answer is not valid HTTP"),
    row(Failure::BackendTimeout, "backend_timeout", Some(StatusCode::GATEWAY_TIMEOUT), Blame::Backend, Retry::IfIdempotent,
        "no answer within timeouts.backendRequest"),
    row(Failure::RequestTimeout, "request_timeout", Some(StatusCode::GATEWAY_TIMEOUT), Blame::Backend, Retry::Never,
        "no answer within timeouts.request"),
    row(Failure::QueueTimeout, "queue_timeout", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Line, Retry::NothingSent,
        "waited the class's queue.maxWait for a connection"),
    row(Failure::QueueFull, "queue_full", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Gateway, Retry::NothingSent,
        "the backend's pool and its waiting room are full"),
    row(Failure::BackendBodyCut, "backend_body_cut", None, Blame::Backend, Retry::Never,
        "the response ended early; the client's connection or stream is broken, never completed"),
    row(Failure::ClientBodyCut, "client_body_cut", Some(StatusCode::BAD_REQUEST), Blame::Client, Retry::Never,
        "the request's body ended early; the server's connection is broken, never completed"),
    row(Failure::ClientGone, "client_gone", None, Blame::Client, Retry::Never,
        "the client left before the end"),
    row(Failure::IdleTimeout, "idle_timeout", Some(StatusCode::GATEWAY_TIMEOUT), Blame::Backend, Retry::Never,
        "nothing moved in either direction for timeouts.idle"),
    row(Failure::ProxyUntrusted, "proxy_untrusted", None, Blame::Client, Retry::Never,
        "a PROXY header from a source that is not one of the listener's trustedSources"),
    row(Failure::ProxyInvalid, "proxy_invalid", None, Blame::Client, Retry::Never,
        "no valid PROXY header from a trusted source within headerTimeout"),
    row(Failure::ClientCrowds, "client_crowds", None, Blame::Client, Retry::Never,
        "the client (with a PROXY header: whom it names) has as many connections as limits.maxConnectionsPerClient, or UDP sessions as limits.maxSessionsPerClient"),
    row(Failure::HelloInvalid, "hello_invalid", None, Blame::Client, Retry::Never,
        "what came is not TLS, or its ClientHello is malformed or longer than 16 KiB"),
    row(Failure::HelloNameless, "hello_nameless", None, Blame::Client, Retry::Never,
        "the ClientHello names no server (SNI), so nobody knows where it wants to go"),
    row(Failure::HelloTimeout, "hello_timeout", None, Blame::Client, Retry::Never,
        "no whole ClientHello within headerTimeout"),
    row(Failure::RateLimited, "rate_limited", Some(StatusCode::TOO_MANY_REQUESTS), Blame::Client, Retry::NothingSent,
        "the client has used up the rule's rateLimits; Retry-After says when to come again"),
    row(Failure::RequestsFull, "requests_full", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Gateway, Retry::NothingSent,
        "as many requests as the listener's limits.maxRequests or the class's maxRequests are under way"),
    row(Failure::ConnectionsFull, "connections_full", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Gateway, Retry::NothingSent,
        "as many tunnels, WebSockets, TCP connections and UDP sessions as the class's maxConnections are open"),
    row(Failure::BodyTooLarge, "body_too_large", Some(StatusCode::PAYLOAD_TOO_LARGE), Blame::Client, Retry::Never,
        "the request's body is larger than the listener's limits.maxBodySize"),
    row(Failure::BodyTooSlow, "body_too_slow", Some(StatusCode::REQUEST_TIMEOUT), Blame::Client, Retry::Never,
        "the request's body came slower than the listener's limits.minBodyRate, or not at all for limits.bodyTimeout"),
    row(Failure::BackendStalled, "backend_stalled", Some(StatusCode::GATEWAY_TIMEOUT), Blame::Backend, Retry::IfIdempotent,
        "the server went silent and did not answer a probe either; the call could not be sent elsewhere"),
    row(Failure::BackendEjected, "backend_ejected", None, Blame::Backend, Retry::Never,
        "the server of a stream is out and sends nothing; the stream is ended so that its client comes back to another one"),
    row(Failure::BackendFull, "backend_full", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Gateway, Retry::NothingSent,
        "the backend has circuitBreaker.maxParallelRequests, and lower classes meet that limit earlier"),
    row(Failure::DataTooOld, "data_too_old", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Backend, Retry::NothingSent,
        "no server of the rule has data that is as new as failover.maxDataAge says"),
    row(Failure::MemoryShed, "memory_shed", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Gateway, Retry::IfIdempotent,
        "the process holds as much of bodies as gateway.bufferMemory allows, and higher classes go first"),
    row(Failure::PullHeld, "pull_held", Some(StatusCode::TOO_MANY_REQUESTS), Blame::Policy, Retry::NothingSent,
        "the image may not be pulled now: a window, a freeze, the day's bytes, or too many pulls; Retry-After says when to ask again"),
    row(Failure::PullProhibited, "pull_prohibited", Some(StatusCode::FORBIDDEN), Blame::Policy, Retry::Never,
        "the policy forbids this image in this store"),
    row(Failure::DigestMismatch, "digest_mismatch", Some(StatusCode::BAD_GATEWAY), Blame::Backend, Retry::IfIdempotent,
        "what the registry sent is not what its digest says; nothing of it is kept, and a client that has begun to read is broken off"),
    row(Failure::ChangeHeld, "change_held", Some(StatusCode::TOO_MANY_REQUESTS), Blame::Policy, Retry::NothingSent,
        "a window or freeze of the policy holds this rule now; Retry-After says when to ask again"),
    row(Failure::RegistryReserved, "registry_reserved", Some(StatusCode::FORBIDDEN), Blame::Policy, Retry::Never,
        "this registry is served by the RegistryMirror; pull through the mirror, or set its allowDirect"),
    row(Failure::Drained, "drained", Some(StatusCode::SERVICE_UNAVAILABLE), Blame::Gateway, Retry::Never,
        "the gateway is stopping and the drain deadline passed"),
    row(Failure::Internal, "internal", Some(StatusCode::INTERNAL_SERVER_ERROR), Blame::Gateway, Retry::Never,
        "a bug in Tillgate; the log has the panic"),
];

impl Failure {
    /// Its row in the table.
    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Its `reason` label.
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// The answer, where one is still possible.
    pub const fn status(self) -> Option<StatusCode> {
        self.row().status
    }

    /// What it says of the server that a call was sent to; `None`: nothing.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not about a server")]
    pub const fn loss(self) -> Option<Loss> {
        Some(match self {
            Self::ResolveFailed => Loss::Unresolved,
            Self::ConnectRefused => Loss::Refused,
            Self::ConnectUnreachable => Loss::Unreachable,
            Self::ConnectTimeout => Loss::ConnectTimeout,
            Self::TlsHandshake
            | Self::TlsUntrusted
            | Self::TlsExpired
            | Self::TlsWrongName
            | Self::TlsClientCertificate
            | Self::BackendProtocol => Loss::Protocol,
            Self::BackendClosed | Self::BackendBodyCut => Loss::Reset,
            Self::BackendTimeout | Self::RequestTimeout | Self::IdleTimeout => Loss::Timeout,
            _ => return None,
        })
    }

    /// The same as a gRPC status (the numbers of `google.rpc.Code`). `UNAVAILABLE` says that the
    /// call may be made again, so it stands for all of which nothing was sent.
    pub fn grpc_status(self) -> u8 {
        let row = self.row();
        match row.status.map_or(502, |status| status.as_u16()) {
            _ if row.retry == Retry::NothingSent => 14,
            400 => 3,
            401 => 16,
            403 => 7,
            404 | 405 | 501 => 12,
            413 | 414 | 429 | 431 => 8,
            500 => 13,
            504 => 4,
            _ => 14,
        }
    }
}

/// Why no connection came about, with the cause.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("{name} does not resolve; check the name and the resolver")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The other side said no.
    #[error("{to} refuses connections; check that a server listens there")]
    Refused {
        /// Where to.
        to: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// No way there, or another error of the socket.
    #[error("{to} cannot be reached; check the line and the address")]
    Unreachable {
        /// Where to.
        to: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// No connection in time.
    #[error(
        "{to} did not accept a connection within {after:?}; check the line, the address and \
         `timeouts.connect`"
    )]
    TimedOut {
        /// Where to.
        to: String,
        /// The limit.
        after: Duration,
    },
    /// The line had no slot for a new connection in time.
    #[error("waited {after:?} for a connection to {to}; check the class's `queue.maxWait`")]
    QueueTimeout {
        /// Where to.
        to: String,
        /// The limit.
        after: Duration,
    },
    /// Too many wait already.
    #[error("{waiting} requests wait for a connection to {to} already")]
    QueueFull {
        /// Where to.
        to: String,
        /// How many.
        waiting: usize,
    },
    /// Too many connections of the class wait for the line.
    #[error("too many connections wait for the line to {to}")]
    LineFull {
        /// Where to.
        to: String,
    },
    /// The socket could not be set up.
    #[error("no socket for a connection to {to}; check the link's `device` and `source`")]
    Socket {
        /// Where to.
        to: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// TLS could not be started on the connection.
    #[error("no TLS with {to}")]
    Tls {
        /// Where to.
        to: String,
        /// What is wrong.
        #[source]
        source: TlsError,
    },
    /// HTTP could not be started on the connection.
    #[error("no HTTP with {to}")]
    Handshake {
        /// Where to.
        to: String,
        /// hyper's word.
        #[source]
        source: hyper::Error,
    },
}

impl DialError {
    /// Its row's name in the failure table.
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Resolve { .. } => Failure::ResolveFailed,
            Self::Refused { .. } => Failure::ConnectRefused,
            Self::Unreachable { .. } => Failure::ConnectUnreachable,
            Self::TimedOut { .. } => Failure::ConnectTimeout,
            Self::QueueTimeout { .. } => Failure::QueueTimeout,
            Self::QueueFull { .. } | Self::LineFull { .. } => Failure::QueueFull,
            Self::Socket { .. } => Failure::ConnectUnreachable,
            Self::Tls { source, .. } => source.failure(),
            Self::Handshake { .. } => Failure::BackendProtocol,
        }
    }

    /// Names the kernel's refusal to connect `to`.
    pub fn from_io(to: impl ToString, source: io::Error) -> Self {
        let to = to.to_string();
        if source.kind() == io::ErrorKind::ConnectionRefused {
            Self::Refused { to, source }
        } else {
            Self::Unreachable { to, source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_own_row_at_its_own_place() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.failure as usize, index, "{}", row.reason);
        }
        let mut reasons: Vec<_> = TABLE.iter().map(|row| row.reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), TABLE.len());
    }
}

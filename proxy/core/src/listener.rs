//! Listeners: what is listened on, what is spoken there, and what clients may ask of it.
//!
//! Plain values that policy compiles to. Which of the limits mean something depends on the
//! protocol; the compiler refuses the others, so nothing is set that has no effect.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::backend::BackendId;
use crate::class::ClassId;
use crate::tls::ServerTls;
use crate::units::BitRate;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenerProtocol {
    /// The HTTP entry: HTTP/1.1 and HTTP/2 on one port, with or without TLS, routed by
    /// `ServiceRoute`s.
    Http,
    /// The forward proxy: CONNECT and absolute-form, classed by `EgressPolicy`.
    ForwardProxy,
    /// Metrics, probes, status.
    Admin,
    /// TLS that is passed on unread; the name in the ClientHello is the destination, classed by
    /// `EgressPolicy`.
    TlsPassthrough,
    /// Bytes to one backend.
    Tcp,
    /// Datagrams to one backend, in sessions by client address.
    Udp,
    /// The pull side of the OCI distribution API, answered by the `RegistryMirror`.
    Registry,
    /// What runs here, for sidecars and tools.
    ConfigEndpoint,
}

impl ListenerProtocol {
    /// Whether requests of HTTP arrive there.
    pub const fn is_http(self) -> bool {
        matches!(
            self,
            Self::Http | Self::ForwardProxy | Self::Admin | Self::Registry | Self::ConfigEndpoint
        )
    }
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Name in policy, metrics and logs: `http`, `forward-proxy`, `admin` are built in.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: ListenerProtocol,
    /// TLS that ends here; only with `Http`, `ForwardProxy`, `Registry` and, always, with
    /// `ConfigEndpoint`.
    pub tls: Option<ServerTls>,
    /// Who sends a PROXY header in front; `None` = nobody, and none is looked for.
    pub proxy_protocol: Option<ProxyTrust>,
    /// Where the bytes go; with `Tcp` and `Udp`, always, and with no other protocol.
    pub backend: Option<BackendId>,
    /// Class of the traffic; with `Tcp`, `Udp` and (where no rule names one) `TlsPassthrough`.
    /// `None` = `default`.
    pub class: Option<ClassId>,
    /// Port that is dialled for `TlsPassthrough`: the ClientHello names only a host.
    pub destination_port: u16,
    /// Timeouts of connections that no `ServiceRoute` has: the forward proxy's, and those of
    /// `TlsPassthrough`, `Tcp` and `Udp`.
    pub timeouts: StreamTimeouts,
    /// What clients may ask of it.
    pub limits: ListenerLimits,
}

impl ListenerSpec {
    /// A listener with nothing but a name, an address, a protocol and limits.
    pub fn plain(
        name: &str,
        protocol: ListenerProtocol,
        address: SocketAddr,
        timeouts: StreamTimeouts,
        limits: ListenerLimits,
    ) -> Self {
        Self {
            name: name.into(),
            address,
            protocol,
            tls: None,
            proxy_protocol: None,
            backend: None,
            class: None,
            destination_port: HTTPS_PORT,
            timeouts,
            limits,
        }
    }
}

/// The port of HTTPS: where a passed-through ClientHello most likely wants to go.
pub const HTTPS_PORT: u16 = 443;

/// Who may say, in a PROXY header, that a connection comes from somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTrust {
    /// Networks whose connections must begin with a PROXY header (v1 or v2). Never empty.
    /// Connections from elsewhere are served as they are, and a header there is garbage.
    pub trusted_sources: Vec<IpNet>,
}

impl ProxyTrust {
    /// Whether a connection from `peer` must begin with a PROXY header. An IPv4 address inside
    /// IPv6 counts as the former.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_sources.iter().any(|network| network.contains(&peer))
    }
}

/// Timeouts of a stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTimeouts {
    /// Until the connection to the server is established.
    pub connect: Duration,
    /// Ends a stream on which nothing moved in either direction for this long; of UDP: a session.
    pub idle: Duration,
}

/// Bounds on the clients of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Open client connections; the next one is closed at once and counted.
    pub connections_max: u32,
    /// Of these, from one address; the next one is closed at once and counted.
    pub connections_per_client_max: u32,
    /// A request's head (a ClientHello, a PROXY header) must be complete this long after its
    /// first byte (or the connection).
    pub header_timeout: Duration,
    /// A kept-alive connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// Bytes of a request's head (of a ClientHello).
    pub header_bytes_max: u32,
    /// Header fields of a request.
    pub headers_max: u32,
    /// Bytes of a request's target as sent; more is answered 414.
    pub uri_bytes_max: u32,
    /// Streams of one HTTP/2 connection.
    pub streams_max: u32,
    /// Streams of one HTTP/2 connection that the client may reset in [`RESET_WINDOW`]; more
    /// closes the connection.
    pub stream_resets_max: u32,
    /// Requests (and tunnels) at the same time; the next one is answered 503.
    pub requests_max: u32,
    /// Bytes of a request's body; more is answered 413. `None` = no bound: bodies are streamed.
    pub body_bytes_max: Option<u64>,
    /// A body whose length was announced must arrive at least this fast, averaged over
    /// [`BODY_RATE_WINDOW`] of time in which the gateway was ready to take more; slower is
    /// answered 408. `None` = however slow.
    pub body_rate_min: Option<BitRate>,
    /// A request's body of which nothing arrives for this long, though more could be taken, is
    /// answered 408. `None` = only the route's idle timeout counts.
    pub body_timeout: Option<Duration>,
    /// UDP: sessions at the same time; the longest idle one makes room.
    pub sessions_max: u32,
    /// UDP: of these, from one address; its longest idle one makes room.
    pub sessions_per_client_max: u32,
}

/// Over what time [`ListenerLimits::stream_resets_max`] counts.
pub const RESET_WINDOW: Duration = Duration::from_secs(10);

/// Over what time [`ListenerLimits::body_rate_min`] is averaged: a radio link may stall for some
/// seconds and go on.
pub const BODY_RATE_WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_networks_are_believed() {
        let trust = ProxyTrust { trusted_sources: vec!["10.9.0.0/16".parse().unwrap()] };
        let trusts = |address: &str| trust.trusts(address.parse().unwrap());
        assert!(trusts("10.9.3.4") && trusts("::ffff:10.9.3.4"));
        assert!(!trusts("10.8.3.4") && !trusts("::1"));
    }
}

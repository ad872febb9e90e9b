//! The way out: names become addresses, addresses become connections.
//!
//! [`Resolver`] is the one seam for names. [`dial`] opens a plain TCP connection for what stays
//! in the store, and a shaped one of exactly one class for what crosses a WAN line. Which of the
//! two, and which class, is decided by the caller; the addresses given are the ones dialled.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tillgate_core::backend::{Host, ProxyProtocol, TcpSpec};
use tillgate_core::class::ClassSpec;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::clock;
use crate::delegate::{WritePieces, delegate_read, delegate_write};
use crate::error::DialError;
use crate::link::Link;
use crate::proxy_protocol::header;
use crate::shaped::{LineWait, ShapedStream};
use crate::sockopt;
use crate::tls::{Connector, Refusal, ServerStream, unless_late};

pub(crate) mod race;
pub mod resolver;

pub use self::resolver::Resolver;

/// The line a connection takes, and as what.
#[derive(Clone)]
pub struct Lane {
    /// The line.
    pub link: Arc<Link>,
    /// The one class of the connection.
    pub class: Arc<ClassSpec>,
}

/// A connection to a server: plain inside the store, shaped across a line.
#[allow(clippy::large_enum_variant, reason = "a box would be looked into for every byte")]
#[derive(Debug)]
pub enum Upstream {
    /// Never shaped.
    Local(TcpStream),
    /// Asks its line before it moves bytes.
    Wan(ShapedStream),
    /// TLS on one of these; its line is asked below.
    Tls(ServerStream),
}

impl Upstream {
    /// To ask whether it waits for its line; `None` inside the store, where there is none.
    pub fn line_wait(&self) -> Option<LineWait> {
        match self {
            Self::Local(_) => None,
            Self::Wan(stream) => Some(stream.line_wait()),
            Self::Tls(stream) => stream.line_wait(),
        }
    }

    /// To ask whether its server refuses our certificate; `None` without TLS.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Local(_) | Self::Wan(_) => None,
            Self::Tls(stream) => Some(stream.refusal()),
        }
    }

    /// Where it leads: the one of the addresses that took it.
    ///
    /// # Errors
    /// What the operating system says, for example when the peer is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Local(stream) => stream.peer_addr(),
            Self::Wan(stream) => stream.peer_addr(),
            Self::Tls(stream) => stream.below().peer_addr(),
        }
    }

    /// When this is dropped the server sees a broken connection, not an end.
    pub fn break_off(&self) {
        match self {
            Self::Local(stream) => break_off(stream),
            Self::Wan(stream) => break_off(stream.socket()),
            Self::Tls(stream) => stream.below().break_off(),
        }
    }
}

/// How a connection is made.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// The line, if it is across one.
    pub lane: Option<&'a Lane>,
    /// For each address that is tried. Waiting for a slot on the line does not count.
    pub connect_timeout: Duration,
    /// Settings of the socket.
    pub tcp: TcpSpec,
}

/// Connects to the first of `addresses` that takes a connection: families in turn, one that does
/// not answer costs a quarter of a second (RFC 8305). They are all of one server.
///
/// # Errors
/// [`DialError`] names the address that failed last, and the cause.
pub async fn dial(addresses: &[SocketAddr], how: How<'_>) -> Result<Upstream, DialError> {
    dial_timed(addresses, how).await.map(|(stream, _)| stream)
}

/// Who the server is told that a connection is of.
#[derive(Clone, Copy, Debug)]
pub struct Announce {
    /// As what.
    pub version: ProxyProtocol,
    /// The client.
    pub client: SocketAddr,
    /// Where the client wanted to go; `None`: to the server.
    pub to: Option<SocketAddr>,
}

/// What a connection begins with, in this order.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    /// In front of everything, also of TLS.
    pub announce: Option<Announce>,
    /// TLS, with who the server must be.
    pub tls: Option<(&'a Connector, &'a Host)>,
    /// HTTP/1.1 inside of TLS also where the connector is one for HTTP/2.
    pub http1: bool,
}

/// The same, with its beginning done. A handshake takes what the connection has left of
/// [`How::connect_timeout`]; waiting for the line is not counted there either.
///
/// # Errors
/// [`DialError`] names the address and the cause.
pub async fn dial_opening(
    addresses: &[SocketAddr],
    how: How<'_>,
    opening: Opening<'_>,
) -> Result<Upstream, DialError> {
    let (mut stream, taken) = dial_timed(addresses, how).await?;
    let after = how.connect_timeout;
    if let Some(announce) = opening.announce {
        introduce(&mut stream, announce, after).await?;
    }
    let Some((connector, host)) = opening.tls else { return Ok(stream) };
    let to = stream.peer_addr();
    let to = to.map_err(|source| DialError::from_io("the server", source))?.to_string();
    let within = after.saturating_sub(taken);
    // A handshake's state is large and short-lived.
    match Box::pin(connector.connect(stream, host, opening.http1, within)).await {
        Ok(stream) => Ok(Upstream::Tls(stream)),
        Err(Some(source)) => Err(DialError::Tls { to, source }),
        Err(None) => Err(DialError::TimedOut { to, after }),
    }
}

/// Tells the server whose connection this is.
async fn introduce(
    stream: &mut Upstream,
    announce: Announce,
    after: Duration,
) -> Result<(), DialError> {
    let server = stream.peer_addr().map_err(|source| DialError::from_io("the server", source))?;
    let Announce { version, client, to } = announce;
    let header = header::encode(version, client, to.unwrap_or(server));
    let line = stream.line_wait();
    match unless_late(stream.write_all(&header), after, line.as_ref()).await {
        Some(written) => written.map_err(|source| DialError::from_io(server, source)),
        None => Err(DialError::TimedOut { to: server.to_string(), after }),
    }
}

/// A connection, and how long its server took to take it.
async fn dial_timed(
    addresses: &[SocketAddr],
    how: How<'_>,
) -> Result<(Upstream, Duration), DialError> {
    let Some(lane) = how.lane else {
        let local = race::race(addresses, |address| dial_local(address, how)).await;
        return local.unwrap_or_else(|| {
            Err(DialError::from_io("nowhere", io::ErrorKind::AddrNotAvailable.into()))
        });
    };
    let Lane { link, class } = lane;
    let stream =
        ShapedStream::connect(link, class, addresses, how.connect_timeout, &how.tcp).await?;
    let taken = stream.connected_in();
    Ok((Upstream::Wan(stream), taken))
}

/// When `socket` is dropped the other side sees a broken connection, not an end: what was cut
/// short must not look complete.
pub fn break_off(socket: &TcpStream) {
    // A socket that refuses has no connection to break.
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

async fn dial_local(address: SocketAddr, how: How<'_>) -> Result<(Upstream, Duration), DialError> {
    let after = how.connect_timeout;
    let began = clock::now();
    match tokio::time::timeout(after, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            let set = || {
                // Small calls must not wait for an acknowledgement of the one before.
                stream.set_nodelay(true)?;
                sockopt::keep_alive(&stream, &how.tcp)
            };
            set().map_err(|source| DialError::from_io(address, source))?;
            Ok((Upstream::Local(stream), clock::now().saturating_duration_since(began)))
        }
        Ok(Err(source)) => Err(DialError::from_io(address, source)),
        Err(_) => Err(DialError::TimedOut { to: address.to_string(), after }),
    }
}

impl WritePieces for ShapedStream {}

impl WritePieces for ServerStream {}

delegate_read!(Upstream {
    Self::Local(stream) => stream,
    Self::Wan(stream) => stream,
    Self::Tls(stream) => stream,
});

delegate_write!(Upstream {
    Self::Local(stream) => stream,
    Self::Wan(stream) => stream,
    Self::Tls(stream) => stream,
});

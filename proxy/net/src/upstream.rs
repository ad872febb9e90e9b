//! The way out: names become addresses, addresses become connections.
//!
//! [`Resolver`] is the one seam for names. [`dial`] opens a plain TCP connection for what stays
//! in the store, and a shaped one of exactly one class for what crosses a WAN line. Which of the
//! two, and which class, is decided by the caller; the address given is the one dialled.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tillgate_core::backend::Host;
use tillgate_core::class::ClassSpec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock;
use crate::error::DialError;
use crate::link::Link;
use crate::shaped::{ConnectError, LineWait, ShapedStream};
use crate::tls::{Connector, ServerStream};

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
}

/// Connects to `address`, on `lane` if it is across a line, within `connect_timeout`. Waiting
/// for a slot on the line is not counted against that.
///
/// # Errors
/// [`DialError`] names the address and the cause.
pub async fn dial(
    address: SocketAddr,
    lane: Option<&Lane>,
    connect_timeout: Duration,
) -> Result<Upstream, DialError> {
    let Some(lane) = lane else {
        return match tokio::time::timeout(connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small calls must not wait for an acknowledgement of the one before.
                stream.set_nodelay(true).map_err(|source| DialError::from_io(address, source))?;
                Ok(Upstream::Local(stream))
            }
            Ok(Err(source)) => Err(DialError::from_io(address, source)),
            Err(_) => Err(DialError::TimedOut { to: address.to_string(), after: connect_timeout }),
        };
    };
    let to = || address.to_string();
    match ShapedStream::connect(&lane.link, &lane.class, address, connect_timeout).await {
        Ok(stream) => Ok(Upstream::Wan(stream)),
        Err(ConnectError::Refused(source)) => Err(DialError::Refused { to: to(), source }),
        Err(ConnectError::Unreachable(source)) => Err(DialError::Unreachable { to: to(), source }),
        Err(ConnectError::TimedOut(after)) => Err(DialError::TimedOut { to: to(), after }),
        Err(ConnectError::QueueTimeout(after)) => Err(DialError::QueueTimeout { to: to(), after }),
        Err(ConnectError::QueueFull) => Err(DialError::LineFull { to: to() }),
        Err(ConnectError::Socket(source)) => Err(DialError::Socket { to: to(), source }),
    }
}

/// The same, and TLS on it if there is `tls`: `host` is who it must be. Its handshake takes what
/// the connection has left of `connect_timeout`; waiting for the line is not counted there either.
///
/// # Errors
/// [`DialError`] names the address and the cause.
pub async fn dial_secure(
    address: SocketAddr,
    lane: Option<&Lane>,
    connect_timeout: Duration,
    tls: Option<(&Connector, &Host)>,
) -> Result<Upstream, DialError> {
    let Some((connector, host)) = tls else { return dial(address, lane, connect_timeout).await };
    let began = clock::now();
    let stream = dial(address, lane, connect_timeout).await?;
    let taken = match &stream {
        Upstream::Wan(stream) => stream.connected_in(),
        Upstream::Local(_) | Upstream::Tls(_) => clock::now().saturating_duration_since(began),
    };
    let left = connect_timeout.saturating_sub(taken);
    match connector.connect(stream, host, left).await {
        Ok(stream) => Ok(Upstream::Tls(stream)),
        Err(Some(source)) => Err(DialError::Tls { to: address.to_string(), source }),
        Err(None) => Err(DialError::TimedOut { to: address.to_string(), after: connect_timeout }),
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Wan(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Wan(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Wan(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Local(stream) => stream.is_write_vectored(),
            Self::Wan(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_flush(cx),
            Self::Wan(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Wan(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

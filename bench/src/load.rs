//! What the devices of a store do: payments at a fixed rate, image pulls, metric uploads.
//!
//! The load knows these [`Way`]s to the cloud: straight, through a reverse proxy's entry, or
//! through a forward proxy with CONNECT. It measures only what a device would notice.

pub mod bulk;
pub(crate) mod open_loop;
pub mod payments;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::certificate::Certificate;
use crate::origin::Service;
use crate::testbed::CLOUD;

/// Longer than any useful wait for a connection, even behind a second of queue.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// More than any proxy says in answer to CONNECT.
const CONNECT_ANSWER_MAX: usize = 4_096;

/// How the load reaches the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Straight to the origin's address.
    Direct,
    /// To a reverse proxy, which finds the backend by the `Host` header.
    Entry(SocketAddr),
    /// The same inside of TLS.
    EntryTls(SocketAddr),
    /// Through a tunnel that a forward proxy opens.
    Connect(SocketAddr),
}

/// A client connection; bodies are streamed or whole.
pub type Client = SendRequest<BoxBody<bytes::Bytes, std::convert::Infallible>>;

impl Way {
    /// A connection over which requests for `service` can be sent.
    pub async fn open(self, service: Service) -> io::Result<Client> {
        let stream = timeout(CONNECT_TIMEOUT, self.dial(service)).await??;
        if !matches!(self, Self::EntryTls(_)) {
            return shake(stream).await;
        }
        let certificate = Certificate::of_the_lab().map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(&certificate.client));
        let name = ServerName::try_from(service.host()).map_err(io::Error::other)?;
        shake(timeout(CONNECT_TIMEOUT, tls.connect(name, stream)).await??).await
    }

    async fn dial(self, service: Service) -> io::Result<TcpStream> {
        let origin = SocketAddr::from((CLOUD, service.port()));
        let address = match self {
            Self::Direct => origin,
            Self::Entry(proxy) | Self::EntryTls(proxy) | Self::Connect(proxy) => proxy,
        };
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if matches!(self, Self::Connect(_)) {
            tunnel(&mut stream, origin).await?;
        }
        Ok(stream)
    }
}

async fn shake<S>(stream: S) -> io::Result<Client>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (client, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its end shows in the requests that were sent over it.
    tokio::task::spawn_local(connection);
    Ok(client)
}

async fn tunnel(stream: &mut TcpStream, origin: SocketAddr) -> io::Result<()> {
    let head = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte, because what follows the head belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == CONNECT_ANSWER_MAX {
            return Err(io::Error::other("the forward proxy's answer does not end"));
        }
        answer.push(stream.read_u8().await?);
    }
    if answer.get(9..12) != Some(b"200") {
        let line = String::from_utf8_lossy(&answer);
        return Err(io::Error::other(format!(
            "the forward proxy refused {origin}: {}",
            line.lines().next().unwrap_or_default()
        )));
    }
    Ok(())
}

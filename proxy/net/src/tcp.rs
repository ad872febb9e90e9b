//! Connections of raw bytes: taken within the listener's limits, each served as a task of its own.
//!
//! In: a socket, its [`Entry`] and a handler. What is spoken on a connection, where it goes and
//! when it ends is the handler's affair. [`read_hello`] and [`refuse`] are the two words of TLS
//! that a listener needs which passes it on unread: what the client asks for, and a no that the
//! client understands. Nothing is decrypted here, and no bytes are kept but a ClientHello's.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tillgate_core::backend::TcpSpec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::drain::Ticket;
use crate::error::Failure;
use crate::http::server::{Entry, Place, take_connections};
use crate::sockopt;
use crate::tls::hello::{Alert, Hello, HelloReader, NotTls, Step};

/// How much of a hello is read at once.
const READ_BYTES: usize = 4096;

/// How long a refused client may take to read the reason: more than the round trips of a store.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a refused client may still send meanwhile: the rest of a hello that was too large.
const LAST_BYTES_MAX: usize = 64 * 1024;

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    /// Its socket.
    pub stream: TcpStream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Counts it, and tells the phase of the drain.
    pub ticket: Ticket,
    /// Its place among its listener's connections.
    pub place: Place,
}

/// Serves connections.
pub trait Handler: Send + Sync + 'static {
    /// Serves one to its end.
    fn handle(self: Arc<Self>, client: Client) -> impl Future<Output = ()> + Send;
}

/// Takes connections from `listener` until the drain begins. `tcp` is set on each.
///
/// # Errors
/// Only if the runtime cannot watch the socket.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    entry: Arc<Entry>,
    tcp: TcpSpec,
    handler: Arc<H>,
) -> std::io::Result<()> {
    take_connections(listener, &entry, |stream, peer, place| {
        // Quiet for hours is normal here, gone without a word is not.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::keep_alive(&stream, &tcp);
        let client = Client { stream, peer, ticket: place.entry().drain.ticket(), place };
        tokio::spawn(Arc::clone(&handler).handle(client));
    })
    .await
}

/// Reads what a TLS client says first, at most for `within`. Returns it with all bytes that were
/// read, for whoever the connection is passed on to.
///
/// # Errors
/// The failure, and what to tell the client if it speaks TLS.
pub async fn read_hello(
    stream: &mut TcpStream,
    within: Duration,
) -> Result<(Hello, Vec<u8>), (Failure, Option<Alert>)> {
    match tokio::time::timeout(within, read_whole_hello(stream)).await {
        Ok(read) => read,
        Err(_) => Err((Failure::HelloTimeout, None)),
    }
}

async fn read_whole_hello(
    stream: &mut TcpStream,
) -> Result<(Hello, Vec<u8>), (Failure, Option<Alert>)> {
    let mut reader = HelloReader::default();
    // Not in the task itself, which lives as long as the connection.
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let room = reader.room().clamp(1, READ_BYTES);
        let read = match stream.read(&mut buffer[..room]).await {
            Ok(read) if read > 0 => read,
            Ok(_) | Err(_) => return Err((Failure::ClientGone, None)),
        };
        match reader.feed(&buffer[..read]) {
            Step::NeedMore => {}
            Step::Hello(hello) => return Ok((hello, reader.into_bytes())),
            Step::NotTls(NotTls::OtherProtocol) => return Err((Failure::HelloInvalid, None)),
            Step::NotTls(NotTls::InvalidName) => {
                return Err((Failure::HelloInvalid, Some(Alert::UnrecognizedName)));
            }
            Step::NotTls(NotTls::Oversize | NotTls::Malformed) => {
                return Err((Failure::HelloInvalid, Some(Alert::DecodeError)));
            }
        }
    }
}

/// Tells a TLS client no, and lets it read that before the connection ends: closing a socket with
/// unread bytes would take the words back.
pub async fn refuse(stream: &mut TcpStream, alert: Alert) {
    let goodbye = async {
        stream.write_all(&alert.record()).await?;
        stream.shutdown().await?;
        let mut buffer = vec![0; READ_BYTES];
        let mut rest = LAST_BYTES_MAX;
        while rest > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => rest = rest.saturating_sub(read),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that is gone does not need to know.
    let _ = tokio::time::timeout(LAST_WORDS, goodbye).await;
}

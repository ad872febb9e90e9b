//! The PROXY protocol on accepted connections: who the client is, by the word of a proxy in front.
//!
//! [`accept`] reads exactly the header, so the connection goes on as if it had begun after it. A
//! header counts from trusted sources only, and from those there must be one: a listener that
//! took it or left it would let anybody choose his own address. Others are served as who they
//! are, and refused if they send one. Writing a header is
//! [`header::encode`]; who is trusted, and to whom one is sent, says the policy.
//!
//! Source: the PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`, 2020/03/05).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tillgate_core::listener::ProxyTrust;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;

use self::header::{Invalid, Start};
use crate::error::Failure;

mod guard;
pub mod header;

pub use self::guard::Guarded;
pub use self::header::Header;

/// How often a connection of an untrusted source is looked at again, while what it has sent so
/// far is the beginning of a header and of other things too.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not for this source to say who the client is.
    #[error("a PROXY header from a source that the listener does not trust")]
    Untrusted,
    /// A trusted source said nothing that can be understood.
    #[error("no valid PROXY header from a trusted source")]
    Invalid(#[from] Invalid),
    /// The header did not come in time.
    #[error("no PROXY header within {0:?}")]
    Late(Duration),
    /// The connection ended or broke before it had come.
    #[error("the connection ended before its PROXY header")]
    Gone(#[source] io::Error),
}

impl Refused {
    /// Its row's name in the failure table.
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Untrusted => Failure::ProxyUntrusted,
            Self::Invalid(_) | Self::Late(_) => Failure::ProxyInvalid,
            Self::Gone(_) => Failure::ClientGone,
        }
    }
}

/// Reads the header of a connection from `peer` and returns the client's address; nothing after
/// the header is read. A connection from an untrusted source keeps its own address, and is
/// refused if it begins with a header; for that its first bytes are awaited, at most for
/// `within`, so use this only where the client speaks first.
///
/// # Errors
/// [`Refused`] says why the connection must be closed.
pub async fn accept(
    stream: &mut TcpStream,
    peer: SocketAddr,
    trust: &ProxyTrust,
    within: Duration,
) -> Result<SocketAddr, Refused> {
    if trust.trusts(peer.ip()) {
        return accept_trusted(stream, peer, within).await;
    }
    match tokio::time::timeout(within, begins_with_header(stream)).await {
        Ok(Ok(true)) => Err(Refused::Untrusted),
        Ok(Ok(false)) => Ok(peer),
        Ok(Err(error)) => Err(Refused::Gone(error)),
        // Silence is for the listener's own limits.
        Err(_) => Ok(peer),
    }
}

async fn accept_trusted(
    stream: &mut TcpStream,
    peer: SocketAddr,
    within: Duration,
) -> Result<SocketAddr, Refused> {
    match tokio::time::timeout(within, read_header(stream)).await {
        Ok(Ok(header)) => Ok(header.client().unwrap_or(peer)),
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(Refused::Late(within)),
    }
}

/// Reads one header and not a byte more.
async fn read_header(stream: &mut TcpStream) -> Result<Header, Refused> {
    let mut bytes = Vec::with_capacity(header::V1_BYTES_MAX);
    loop {
        match header::decode(&bytes)? {
            header::Step::Done(header) => return Ok(header),
            header::Step::Need(more) => {
                // As many as there must be at least.
                read_more(stream, &mut bytes, more).await.map_err(Refused::Gone)?;
            }
            header::Step::Line(most) => {
                read_line(stream, &mut bytes, most).await.map_err(Refused::Gone)?;
            }
        }
    }
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>, more: usize) -> io::Result<()> {
    let from = bytes.len();
    bytes.resize(from + more, 0);
    stream.read_exact(&mut bytes[from..]).await.map(|_| ())
}

/// Reads on to the end of a line, at most `most` bytes; what has come of the next line stays.
async fn read_line(stream: &mut TcpStream, bytes: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let mut ahead = [0; header::V1_BYTES_MAX];
    let most = most.min(ahead.len());
    let seen = stream.peek(&mut ahead[..most]).await?;
    if seen == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = ahead[..seen].iter().position(|byte| *byte == b'\n');
    read_more(stream, bytes, line.map_or(seen, |at| at + 1)).await
}

/// Whether the connection begins with a header; takes nothing off it.
async fn begins_with_header(stream: &TcpStream) -> io::Result<bool> {
    let mut ahead = [0; header::START_BYTES];
    loop {
        // Asked before the bytes: what came before the end is all there then.
        let ready = stream.ready(Interest::READABLE).await?;
        let now = stream.peek(&mut ahead).await?;
        match header::start(&ahead[..now]) {
            Start::Header => return Ok(true),
            Start::Other => return Ok(false),
            Start::Unknown if now == 0 || ready.is_read_closed() => return Ok(false),
            Start::Unknown => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests;

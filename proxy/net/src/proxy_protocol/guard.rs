//! A client's connection that must not begin with a PROXY header, where nothing can be awaited.
//!
//! On a listener of raw bytes the server may speak first, so a client's first bytes cannot be
//! waited for; they are looked at as they pass. Whoever sends a header there without being
//! trusted is cut off before its signature is complete at the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::header::{START_BYTES, Start, start};
use crate::error::Failure;
use crate::http::flow::Flow;

/// See the module.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    /// The first bytes, while they may be those of a header.
    first: Option<Vec<u8>>,
    flow: Arc<Flow>,
}

impl<S> Guarded<S> {
    /// Watches `stream`; `flow` is ended if it begins with a header.
    pub fn new(stream: S, flow: Arc<Flow>) -> Self {
        Self { stream, first: Some(Vec::with_capacity(START_BYTES)), flow }
    }

    /// Looks at what came; whether it may pass.
    fn passes(&mut self, bytes: &[u8]) -> bool {
        let Some(first) = &mut self.first else { return true };
        let room = START_BYTES - first.len();
        first.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match start(first) {
            Start::Header => return false,
            Start::Other => self.first = None,
            Start::Unknown => {}
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if this.passes(&buf.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        buf.set_filled(before);
        this.flow.end(Failure::ProxyUntrusted);
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

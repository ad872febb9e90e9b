//! The socket of a connection that can be parked, as hyper reads and writes it.
//!
//! What lies ahead of the socket is read first: our own head of a question that was parked, and
//! what its client had sent beyond it. This is above what watches and checks the client's bytes,
//! which sees nothing of ours and nothing twice. Whether all that was written has been flushed is
//! told to the [`Spot`], because what has not cannot be taken from hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::ClientStream;
use super::Spot;

/// See the module.
pub(super) struct Front<B> {
    io: ClientStream,
    ahead: Vec<u8>,
    /// How much of it was read.
    read: usize,
    spot: Arc<Spot<B>>,
}

impl<B> Front<B> {
    pub(super) const fn new(io: ClientStream, ahead: Vec<u8>, spot: Arc<Spot<B>>) -> Self {
        Self { io, ahead, read: 0, spot }
    }

    /// The socket, and what of `ahead` was not read.
    pub(super) fn into_parts(self) -> (ClientStream, Vec<u8>) {
        let rest = self.ahead.get(self.read..).unwrap_or_default().to_vec();
        (self.io, rest)
    }

    fn note_flushed(&self, is_flushed: bool) {
        self.spot.is_flushed.store(is_flushed, Ordering::Relaxed);
    }
}

impl<B> AsyncRead for Front<B> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = this.ahead.get(this.read..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let bytes = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..bytes]);
        this.read += bytes;
        if this.read == this.ahead.len() {
            (this.ahead, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<B> AsyncWrite for Front<B> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.note_flushed(false);
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.note_flushed(false);
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        // hyper flushes once it has written all that it had.
        this.note_flushed(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

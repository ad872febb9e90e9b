//! A client's connection as hyper reads and writes it.
//!
//! What it does is told to its [`Watch`]; what HTTP/1 it brings goes through the [`Intake`], and
//! of HTTP/2 the [`Frames`] are counted.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::super::floods::Frames;
use super::super::framing::Framing;
use super::super::intake::Intake;
use super::Watch;
use crate::clock;
use crate::delegate::{WritePieces, delegate_read, delegate_write};
use crate::tls::ClientSession;
use crate::upstream::break_off;

/// A client's connection, as bytes.
#[derive(Debug)]
pub enum ClientIo {
    /// In the clear.
    Plain(TcpStream),
    /// With its TLS ended here.
    Tls(ClientSession),
}

/// A client's connection that reports what it does, and checks what HTTP/1 it brings.
#[derive(Debug)]
pub struct ClientStream {
    stream: ClientIo,
    intake: Intake,
    is_shut: bool,
    watch: Arc<Watch>,
    /// Only on HTTP/2.
    frames: Option<Box<Frames>>,
}

impl ClientStream {
    pub(in crate::http::server) const fn new(
        stream: ClientIo,
        framing: Framing,
        watch: Arc<Watch>,
    ) -> Self {
        let intake = Intake::new(framing);
        Self { stream, intake, is_shut: false, watch, frames: None }
    }

    /// When this is dropped the client sees a broken connection, not an end.
    pub fn break_off(&self) {
        break_off(self.stream.socket());
    }

    /// Reads until it is known what the client speaks; nothing of it is lost.
    pub(in crate::http::server) async fn first(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.intake.poll_first(&mut self.stream, &self.watch, cx)).await
    }

    fn wrote(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Pending => {
                self.watch.is_stalled();
                if self.watch.is_aborted() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
            Poll::Ready(wrote) => {
                self.watch.has_written();
                if let (Some(frames), Ok(bytes)) = (&mut self.frames, wrote) {
                    frames.wrote(*bytes);
                }
            }
        }
        polled
    }

    /// Looks at what a client of HTTP/2 has sent since `before`, and cuts a flood short.
    fn inspect(&mut self, before: usize, buf: &mut ReadBuf<'_>) {
        let watch = &self.watch;
        let Some((entry, limits)) = &watch.listener else { return };
        let new = || Box::new(Frames::new(limits.stream_resets_max, clock::now()));
        let frames = self.frames.get_or_insert_with(new);
        if let Some((at, flood)) = frames.see(&buf.filled()[before..]) {
            buf.set_filled(before + at);
            buf.put_slice(frames.calm(buf.remaining()));
            if !watch.is_flooded.swap(true, Ordering::Relaxed) {
                entry.meter.floods.count(flood);
            }
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.watch.resets.load(Ordering::Relaxed) {
            // An end would say that the answer is whole.
            self.break_off();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(frames) = this.frames.as_mut().filter(|frames| frames.is_flooded()) {
            let word = frames.calm(buf.remaining());
            buf.put_slice(word);
            // Once hyper has all of it, it ends the connection and reads no more.
            return if word.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let before = buf.filled().len();
        let polled = this.intake.poll_read(&mut this.stream, &this.watch, cx, buf);
        if polled.is_ready()
            && buf.filled().len() > before
            && this.watch.speaks_http2.load(Ordering::Relaxed)
        {
            this.inspect(before, buf);
        }
        polled
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        // TLS takes a write before the client does, so with it only this tells of a client that
        // does not read, or reads again; a socket's flush is always ready.
        match &polled {
            Poll::Pending => this.watch.is_stalled(),
            Poll::Ready(Ok(())) => this.watch.has_written(),
            Poll::Ready(Err(_)) => {}
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.is_shut = true;
            this.watch.has_read();
        }
        this.intake.poll_linger(&mut this.stream, cx).map(Ok)
    }
}

impl ClientIo {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(session) => session.socket(),
        }
    }
}

impl WritePieces for ClientSession {}

delegate_read!(ClientIo {
    Self::Plain(stream) => stream,
    Self::Tls(session) => session,
});

delegate_write!(ClientIo {
    Self::Plain(stream) => stream,
    Self::Tls(session) => session,
});

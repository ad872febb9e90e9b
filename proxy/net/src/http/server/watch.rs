//! What a client connection does with its time: idle, half a head, a reader that does not read.
//!
//! The socket reports reads and writes, the requests in flight report their bytes; [`Watch::judge`]
//! says whether somebody has overstayed. It keeps times, it sets no timer.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::super::flow::Flow;
use super::Limits;
use super::framing::{Framing, Malformed};
use super::intake::Intake;
use crate::clock;
use crate::error::Failure;
use crate::tls::ClientSession;

/// How a client connection spends its time. All times are milliseconds after `born`, plus one;
/// zero = not.
#[derive(Debug)]
pub(super) struct Watch {
    born: Instant,
    /// First byte since the last request ended.
    head_since: AtomicU64,
    idle_since: AtomicU64,
    /// The client has not taken what we wrote since then.
    stalled_since: AtomicU64,
    /// How long the last request let its client stand still.
    stall_limit: AtomicU64,
    speaks_http2: AtomicBool,
    /// Its answers end with the connection, so only a reset tells one that was cut.
    is_old: AtomicBool,
    resets: AtomicBool,
    /// The last request may turn the connection into something else.
    may_switch: AtomicBool,
    begun: AtomicU64,
    /// The number of the request that stands for a refused one, plus one; zero = none.
    refused: AtomicU64,
    /// The number of the request whose body broke.
    broken: AtomicU64,
    /// A [`Malformed`]: what is wrong with either.
    why: AtomicU8,
    flows: Mutex<Vec<Arc<Flow>>>,
}

/// What to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Close,
}

impl Watch {
    pub(super) const fn new(born: Instant) -> Self {
        Self {
            born,
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(1),
            stalled_since: AtomicU64::new(0),
            stall_limit: AtomicU64::new(0),
            speaks_http2: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            may_switch: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            why: AtomicU8::new(0),
            flows: Mutex::new(Vec::new()),
        }
    }

    /// A request's head is complete; or it stands for one that is refused, and why.
    pub(super) fn begin(watch: &Arc<Self>, now: Instant) -> (InFlight, Option<Malformed>) {
        let flow = Arc::new(Flow::new(now));
        let number = watch.begun.fetch_add(1, Ordering::Relaxed) + 1;
        watch.head_since.store(0, Ordering::Relaxed);
        watch.flows().push(Arc::clone(&flow));
        let why = || Malformed::from_number(watch.why.load(Ordering::Relaxed));
        let is = |other: &AtomicU64| other.load(Ordering::Relaxed) == number;
        let refused = if is(&watch.refused) { why() } else { None };
        if is(&watch.broken)
            && let Some(why) = why()
        {
            flow.malformed_by_client(why);
        }
        (InFlight { life: Arc::new(Life { flow, watch: Arc::clone(watch) }) }, refused)
    }

    /// The request after `heads` others is not one.
    pub(super) fn refuse(&self, heads: u64, why: Malformed) {
        self.why.store(why as u8, Ordering::Relaxed);
        self.refused.store(heads + 1, Ordering::Relaxed);
    }

    /// The body of the last of `heads` requests, which may not have begun yet, is not one.
    pub(super) fn break_body(&self, heads: u64, why: Malformed) {
        self.why.store(why as u8, Ordering::Relaxed);
        self.broken.store(heads, Ordering::Relaxed);
        for flow in self.flows().iter() {
            flow.malformed_by_client(why);
        }
    }

    /// What follows `heads` requests is not HTTP/1.
    pub(super) fn is_opaque_after(&self, heads: u64) {
        let flag = if heads == 0 { &self.speaks_http2 } else { &self.may_switch };
        flag.store(true, Ordering::Relaxed);
    }

    /// Whether what follows the request is not HTTP/1, unless its answer says so.
    pub(super) fn may_switch(&self) -> bool {
        self.may_switch.load(Ordering::Relaxed)
    }

    /// The client speaks HTTP/1.0.
    pub(super) fn is_old(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }

    /// The connection ends before its time.
    pub(super) fn breaks(&self) {
        if self.is_old.load(Ordering::Relaxed) {
            self.resets.store(true, Ordering::Relaxed);
        }
    }

    /// Orders everything in flight to end.
    pub(super) fn end_all(&self, failure: Failure) {
        for flow in self.flows().iter() {
            flow.end(failure);
        }
    }

    /// Whether a request's head has ever been complete.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != 0
    }

    pub(super) fn has_critical(&self) -> bool {
        self.flows().iter().any(|flow| flow.is_critical())
    }

    /// Whether somebody has overstayed. Requests that stand still are told to end at their limit;
    /// the connection is closed if they do not (their reader does not read). A stream that does
    /// not end is no reason to end the others of its connection.
    pub(super) fn judge(&self, now: Instant, limits: &Limits) -> Verdict {
        let since = |time: &AtomicU64| {
            let time = time.load(Ordering::Relaxed).checked_sub(1)?;
            Some(now.saturating_duration_since(self.born + Duration::from_millis(time)))
        };
        let stall_limit = Duration::from_millis(self.stall_limit.load(Ordering::Relaxed));
        if since(&self.stalled_since)
            .is_some_and(|stalled| stalled > stall_limit.max(limits.header_timeout))
        {
            return Verdict::Close;
        }
        let flows = self.flows();
        let mut overdue = 0;
        for flow in flows.iter() {
            if flow.is_late(now) {
                flow.end(Failure::RequestTimeout);
            }
            let late = now.saturating_duration_since(flow.moved_at()) > flow.idle_limit();
            if late && (flow.ended().is_some() || !flow.excuse()) {
                if flow.ended().is_some() {
                    overdue += 1;
                }
                flow.end(Failure::IdleTimeout);
            }
        }
        if !flows.is_empty() {
            return if overdue == flows.len() { Verdict::Close } else { Verdict::Keep };
        }
        let speaks_http2 = self.speaks_http2.load(Ordering::Relaxed);
        let first = self.begun.load(Ordering::Relaxed) == 0;
        let head = if first { since(&self.idle_since) } else { since(&self.head_since) };
        let head_late = !speaks_http2 && head.is_some_and(|head| head > limits.header_timeout);
        let idle_late = since(&self.idle_since).is_some_and(|idle| idle > limits.idle_timeout);
        if head_late || idle_late { Verdict::Close } else { Verdict::Keep }
    }

    fn finish(&self, flow: &Arc<Flow>, now: Instant) {
        let mut flows = self.flows();
        if let Some(place) = flows.iter().position(|known| Arc::ptr_eq(known, flow)) {
            flows.swap_remove(place);
        }
        let limit = u64::try_from(flow.idle_limit().as_millis()).unwrap_or(u64::MAX);
        self.stall_limit.store(limit, Ordering::Relaxed);
        if flows.is_empty() {
            self.head_since.store(0, Ordering::Relaxed);
            self.idle_since.store(self.stamp(now), Ordering::Relaxed);
        }
    }

    pub(super) fn has_read(&self, now: Instant) {
        let stamp = self.stamp(now);
        let _ = self.head_since.compare_exchange(0, stamp, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn has_written(&self) {
        if self.stalled_since.load(Ordering::Relaxed) != 0 {
            self.stalled_since.store(0, Ordering::Relaxed);
        }
    }

    fn is_stalled(&self) {
        if self.stalled_since.load(Ordering::Relaxed) == 0 {
            self.stalled_since.store(self.stamp(clock::now()), Ordering::Relaxed);
        }
    }

    fn stamp(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born).as_millis();
        u64::try_from(age).unwrap_or(u64::MAX - 1) + 1
    }

    fn flows(&self) -> MutexGuard<'_, Vec<Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's [`Flow`], known to its client's connection while one of these lives: a request is
/// over when its answer and its own body are.
#[derive(Clone, Debug)]
pub struct InFlight {
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    flow: Arc<Flow>,
    watch: Arc<Watch>,
}

impl InFlight {
    /// For what is no request of a connection, but the connection itself, or a session.
    pub fn alone(now: Instant) -> Self {
        Watch::begin(&Arc::new(Watch::new(now)), now).0
    }

    /// The flow, to share with what moves its bytes.
    pub fn flow(&self) -> &Arc<Flow> {
        &self.life.flow
    }
}

impl Deref for InFlight {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.life.flow
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.watch.finish(&self.flow, clock::now());
    }
}

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
}

impl ClientStream {
    pub(super) const fn new(stream: ClientIo, framing: Framing, watch: Arc<Watch>) -> Self {
        Self { stream, intake: Intake::new(framing), is_shut: false, watch }
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_pending() {
            self.watch.is_stalled();
        } else {
            self.watch.has_written();
        }
        polled
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.watch.resets.load(Ordering::Relaxed) {
            // An end would say that the answer is whole. If this fails, the socket is gone.
            let _ = socket2::SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO));
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
        this.intake.poll_read(&mut this.stream, &this.watch, cx, buf)
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
            this.watch.has_read(clock::now());
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

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;

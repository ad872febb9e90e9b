//! Opening a connection to a server: dialled, HTTP started on it, its task spawned.
//!
//! In: a target. Out: the handle to send on. Of an HTTP/2 connection the [`Allowance`] tells how
//! many streams its server takes, which nobody knows before the server has spoken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{Notify, watch};

use super::shelf::{Opened, STREAMS_MAX};
use super::{Fresh, FreshSender, Target, Wire};
use crate::error::DialError;
use crate::http::body::RequestBody;
use crate::metrics::Held;
use crate::upstream::{self, Announce, How, Opening, Resolver, Upstream};

/// Largest head of a response, and what HTTP/1 keeps of a body between two reads.
const BUFFER_BYTES: u16 = u16::MAX;

/// What one HTTP/2 stream may have on its way to us: twice the largest receive window that a
/// flow is granted on a 50 Mbit/s line of 80 ms. It also bounds what a slow reader can make us
/// keep.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// Of all streams of one connection together: a window for each that we open at most, so that
/// slow readers of some streams never stop the others. What is under way is bounded by the
/// windows of the streams and of TCP.
const CONNECTION_WINDOW: u32 = (STREAMS_MAX + 1) * STREAM_WINDOW;

/// A critical class finds out this soon that the other end is gone without a word, while requests
/// are on the connection; a ping is 17 bytes. Others do without: while they wait for their line,
/// an answer to a ping waits with them.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long a ping's answer may take: many round trips of a loaded line.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams used before the server has said how many it takes. None takes fewer.
const STREAMS_UNTIL_KNOWN: usize = 1;

/// How many streams a server takes on one connection.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Zero: not known yet.
    streams: AtomicUsize,
    /// Something came from the server.
    heard: Notify,
    /// Whether it takes extended CONNECT (RFC 8441); `None`: not known yet.
    sockets: watch::Sender<Option<bool>>,
}

impl Allowance {
    /// Streams that may be used now.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire).max(STREAMS_UNTIL_KNOWN)
    }

    /// Whether the server takes WebSockets; a client has to wait for its word. A connection that
    /// ends before it takes none.
    pub(super) async fn takes_sockets(&self) -> bool {
        let mut said = self.sockets.subscribe();
        said.wait_for(Option::is_some).await.is_ok_and(|said| *said == Some(true))
    }

    /// Whether the server has said it.
    pub(super) fn is_known(&self) -> bool {
        self.streams.load(Ordering::Acquire) != 0
    }

    /// The server has answered a request, so it has said all it wanted to say before; whether
    /// that is news.
    pub(super) fn settle(&self) -> bool {
        let settled = self.streams.compare_exchange(
            0,
            STREAMS_UNTIL_KNOWN,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        settled.is_ok()
    }

    /// Keeps what the connection knows now; whether that is news.
    fn learn(&self, streams: usize) -> bool {
        let known = self.streams.load(Ordering::Acquire);
        let news = streams.max(1) != known.max(STREAMS_UNTIL_KNOWN);
        if news {
            self.streams.store(streams.max(1), Ordering::Release);
        }
        news
    }
}

/// Dials `target` and starts HTTP on it; the connection's task runs on this worker and holds
/// `counted` until it ends.
pub(super) async fn open(
    target: &Target,
    resolver: &Arc<Resolver>,
    counted: Opened,
) -> Result<Fresh, DialError> {
    target.meter.dials.inc();
    let addresses = match &target.addresses {
        Some(addresses) => Arc::clone(addresses),
        None => resolver.addresses(&target.endpoint, &target.dns).await?,
    };
    let how = How {
        lane: target.lane.as_ref(),
        connect_timeout: target.connect_timeout,
        tcp: target.tcp,
    };
    let opening = Opening {
        // The client's own destination means nothing to the server: it is told its own address.
        announce: target.client.map(|(version, client)| Announce { version, client, to: None }),
        tls: target.tls.as_deref().map(|tls| (tls, &target.endpoint.host)),
        http1: target.wire == Wire::Http1,
    };
    let stream = upstream::dial_opening(&addresses, how, opening).await?;
    start(target, stream, counted).await
}

async fn start(target: &Target, stream: Upstream, counted: Opened) -> Result<Fresh, DialError> {
    let failed = |source| DialError::Handshake { to: target.endpoint.to_string(), source };
    let held = Held::new(&target.meter.open);
    let (line, refusal) = (stream.line_wait(), stream.refusal());
    match target.wire {
        Wire::Http1 => {
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(read_bytes_max(target))
                .handshake(TokioIo::new(stream))
                .await
                .map_err(failed)?;
            tokio::spawn(async move {
                let _guards = (held, counted);
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "connection to a server ended");
                }
            });
            Ok(Fresh { sender: FreshSender::Http1(sender), line, refusal })
        }
        Wire::Http2 => {
            let allowance = Arc::<Allowance>::default();
            let io = Heard { io: TokioIo::new(stream), allowance: Arc::clone(&allowance) };
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval((target.spares > 0).then_some(PING_EVERY))
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_max_send_streams(STREAMS_UNTIL_KNOWN)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(u32::from(BUFFER_BYTES))
                .handshake(io)
                .await
                .map_err(failed)?;
            tokio::spawn(follow(connection, Arc::clone(&allowance), held, counted));
            Ok(Fresh { sender: FreshSender::Http2(sender, allowance), line, refusal })
        }
    }
}

type Http2 = http2::Connection<Heard, RequestBody, TokioExecutor>;

/// Drives an HTTP/2 connection to its end, and passes on what the server says of its streams.
async fn follow(mut connection: Http2, allowance: Arc<Allowance>, held: Held, counted: Opened) {
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = allowance.heard.notified() => {}
        }
        // The first frame of a server says it.
        let sockets = Some(connection.is_extended_connect_protocol_enabled());
        allowance.sockets.send_if_modified(|said| std::mem::replace(said, sockets) != sockets);
        if allowance.learn(connection.current_max_send_streams()) {
            counted.has_streams();
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to a server ended");
    }
    allowance.sockets.send_replace(Some(false));
    // Whoever is told by what follows must find it closed.
    drop(connection);
    drop((held, counted));
}

/// A connection that says when something was read: hyper tells nobody of a server's settings.
struct Heard {
    io: TokioIo<Upstream>,
    allowance: Arc<Allowance>,
}

impl Read for Heard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.allowance.heard.notify_one();
        }
        polled
    }
}

impl Write for Heard {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
}

/// How much of a body is read at once. Across a line a read is a grant, which is smaller; inside
/// the store an answer of 64 KiB and its head should take one read and one write.
fn read_bytes_max(target: &Target) -> usize {
    let head = usize::from(BUFFER_BYTES);
    if target.lane.is_some() { head } else { 2 * head }
}

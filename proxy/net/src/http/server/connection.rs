//! One client connection, from its first byte to its last.
//!
//! hyper frames the messages; what happens beside them is decided here: the drain's phases, the
//! time that the client takes, an owed first request. Which HTTP a client in the clear speaks is
//! told by its first bytes, before hyper is given any; with TLS it was agreed on. In go a socket
//! and who is behind it, out come requests for the handler.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::beside::{Answer, Beside};
use super::framing::Framing;
use super::requests::Requests;
use super::streams::Streams;
use super::{ClientIo, ClientStream, Handler, Limits, Place};
use crate::drain::{Phases, Ticket};
use crate::seldom::Seldom;

/// What one HTTP/2 stream of a client may have on its way to us. A store's network has a round
/// trip of a millisecond or less, so this is 500 Mbit/s, and bounds what an upload can pile up.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The largest window that HTTP/2 knows (RFC 9113 section 6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// What a slow reader can make us keep of one HTTP/2 stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams that we reset because of what a client does wrong (more streams than it may have, data
/// after the end), over the life of its connection. h2's own default, said aloud.
const LOCAL_RESETS_MAX: usize = 1024;

/// What a head may have beyond its limit and still be answered by us, who say why and count it;
/// h2 refuses larger ones by itself. As much as HTTP/1 reads of a head.
const REFUSED_BYTES: u32 = 64 * 1024;

/// hyper's own lower bound of a connection's buffer.
const BUFFER_MIN: usize = 8 * 1024;

/// No head may make a connection keep more than this.
const BUFFER_MAX: usize = 64 * 1024;

/// Fields of a head that hyper takes without being told.
const HEADERS_USUAL: usize = 100;

/// A connection without a request when the drain begins has one on its way, or never will: a round
/// trip inside a store and some scheduling.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// A client, ready to speak HTTP.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    pub(super) stream: ClientIo,
}

/// Serves a client until it or the drain ends the connection.
pub(super) async fn serve_connection<H: Handler>(
    client: Client,
    place: Place,
    ticket: Ticket,
    handler: Arc<H>,
) {
    let Client { peer, stream } = client;
    let requests = Requests::new(peer, &stream, place, ticket);
    let service = service_fn(|request: Request<Incoming>| {
        let (caller, switch) = requests.caller(&request);
        let answer = Arc::clone(&handler).handle(request, caller);
        async move { Ok::<_, Infallible>(switch.settle(answer.await)) }
    });
    let mut beside = Attendant::of(&requests);
    let agreed = agreed(&stream);
    let mut io = requests.io(stream);
    let Some(is_http2) = beside.agree(&mut io, agreed).await else { return };
    let io = TokioIo::new(io);
    let ended = if is_http2 {
        // Large, and there are few of them.
        let mut connection = Box::pin(requests.http2().serve_connection(io, service));
        beside.attend(connection.as_mut(), Some(|c| c.graceful_shutdown())).await
    } else {
        let connection = pin!(requests.http1().serve_connection(io, service).with_upgrades());
        beside.attend(connection, Some(|c| c.graceful_shutdown())).await
    };
    if let Some(Err(error)) = ended {
        requests.have_ended(&error);
    }
}

impl Requests {
    /// `stream`, watched and checked on its way to hyper.
    pub(super) fn io(&self, stream: ClientIo) -> ClientStream {
        let framing = Framing::new(&self.limits, BUFFER_MAX);
        ClientStream::new(stream, framing, Arc::clone(&self.watch))
    }

    /// hyper for HTTP/1.
    pub(super) fn http1(&self) -> http1::Builder {
        let limits = &self.limits;
        let head = usize::try_from(limits.header_bytes_max).unwrap_or(BUFFER_MAX);
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(head.clamp(BUFFER_MIN, BUFFER_MAX));
        if limits.headers_max != HEADERS_USUAL {
            // Saying what hyper does anyway would cost it an allocation for every head.
            builder.max_headers(limits.headers_max);
        }
        builder
    }

    /// hyper for HTTP/2.
    pub(super) fn http2(&self) -> http2::Builder<Streams> {
        let limits = &self.limits;
        // One stream that nobody reads must not take the room of the others.
        let window = STREAM_WINDOW.saturating_mul(limits.streams_max.max(1)).min(WINDOW_MAX);
        let mut builder = http2::Builder::new(Streams::new(Arc::clone(&self.watch)));
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(limits.header_bytes_max.saturating_add(REFUSED_BYTES))
            .max_concurrent_streams(limits.streams_max)
            .max_pending_accept_reset_streams(limits.stream_resets_max as usize)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .enable_connect_protocol();
        builder
    }
}

/// Whether HTTP/2 was agreed on; in the clear nothing was.
pub(super) fn agreed(stream: &ClientIo) -> Option<bool> {
    match stream {
        ClientIo::Plain(_) => None,
        ClientIo::Tls(session) => Some(session.is_http2()),
    }
}

/// What looks after a connection while it is served.
pub(super) struct Attendant<'a> {
    requests: &'a Requests,
    phases: Phases,
}

impl<'a> Attendant<'a> {
    pub(super) fn of(requests: &'a Requests) -> Self {
        Self { requests, phases: requests.ticket.phases() }
    }

    /// Whether the client speaks HTTP/2: by what was agreed on, or by its first bytes; `None` if
    /// it is gone before it says so.
    pub(super) async fn agree(
        &mut self,
        io: &mut ClientStream,
        agreed: Option<bool>,
    ) -> Option<bool> {
        if agreed.is_some() {
            return agreed;
        }
        self.attend(pin!(io.first()), None).await?.ok()?;
        Some(self.requests.watch.speaks_http2())
    }

    /// Runs `connection` to its end; `None` if it is closed instead. `finish` tells it that its
    /// current request is the last one; what cannot be told is closed.
    pub(super) async fn attend<E, C: Future<Output = Result<(), E>>>(
        &mut self,
        mut connection: Pin<&mut C>,
        finish: Option<fn(Pin<&mut C>)>,
    ) -> Option<Result<(), E>> {
        let Requests { watch, place, owed, first, .. } = self.requests;
        let entry = &place.entry;
        let aside = Seldom::default();
        loop {
            let owes = owed.load(Ordering::Relaxed);
            let tick = if owes { FIRST_REQUEST } else { tick(&entry.limits()) };
            // What happens beside the connection, asked only when it was woken.
            let mut beside = pin!(async {
                tokio::select! {
                    phase = self.phases.changed() => Beside::Phase(phase),
                    () = first.notified(), if owes => Beside::First,
                    () = tokio::time::sleep(tick) => Beside::Tick,
                }
            });
            aside.ring();
            let event = poll_fn(|cx| {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Err(ended));
                }
                aside.poll(cx, |cx| beside.as_mut().poll(cx)).map(Ok)
            });
            let beside = match event.await {
                Err(ended) => {
                    if ended.is_err() {
                        // While the socket is open.
                        watch.breaks();
                    }
                    return Some(ended);
                }
                Ok(beside) => beside,
            };
            match (beside.answer(self.requests), finish) {
                (Answer::Nothing, _) => {}
                (Answer::Finish, Some(finish)) => finish(connection.as_mut()),
                (Answer::Finish, None) | (Answer::Close, _) => {
                    watch.breaks();
                    return None;
                }
            }
        }
    }
}

/// How often a connection is judged: a quarter of its shortest limit, so that a limit is
/// overstayed by a quarter at most.
fn tick(limits: &Limits) -> Duration {
    let shortest = limits.header_timeout.min(limits.idle_timeout);
    let shortest = limits.body_timeout.map_or(shortest, |limit| limit.min(shortest)) / 4;
    shortest.clamp(Duration::from_millis(10), Duration::from_secs(5))
}

//! Connections whose questions wait long for their answer, and cost little meanwhile.
//!
//! hyper keeps 16 KiB of buffers for each connection of HTTP/1 with a request, and whatever the
//! handler holds. A [`Patient`] handler can say that its answer comes [`Later`]: then hyper's
//! connection is taken apart and all of it dropped; what is left is the socket, what the client
//! has sent beyond the question, and the answer to come. Once that is there, a fresh connection of
//! hyper is given a head of ours in place of the question's ([`Front`]), and for it the answer.
//! The question stays a request in flight all the time, for limits and drains as for metrics.
//! Only a question without a body parks; others wait as they are, and so do those of HTTP/2.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use self::front::Front;
use super::super::headers;
use super::connection::{Attendant, Client, agreed};
use super::requests::{Requests, Switch};
use super::{Caller, ClientStream, InFlight, Place};
use crate::drain::Ticket;

mod front;
#[cfg(test)]
mod tests;

/// What a client may send beyond a question before we stop to read: as it does with hyper, the
/// end of a client that has sent more is seen only when it is answered.
const BEYOND_BYTES: usize = 512;

/// An answer that comes when there is something to say.
pub type Later<B> = Pin<Box<dyn Future<Output = Response<B>> + Send>>;

/// How a connection ended.
type Ended = Result<(), Box<dyn Error + Send + Sync>>;

/// What a [`Patient`] handler makes of a request.
pub enum Reply<B> {
    /// The answer.
    Now(Response<B>),
    /// The answer will come. Nothing of the request should be kept until then: a head's values
    /// keep all of the buffer that they were read into.
    Later(Later<B>),
}

/// Answers requests, some of them much later.
pub trait Patient: Send + Sync + 'static {
    /// Bodies of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// The answer to one request, or the promise of one.
    fn ask(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Caller,
    ) -> impl Future<Output = Reply<Self::Body>> + Send;
}

/// Serves a client until it or the drain ends the connection.
pub(super) async fn serve_connection<H: Patient>(
    client: Client,
    place: Place,
    ticket: Ticket,
    handler: Arc<H>,
) {
    let Client { peer, stream } = client;
    let requests = Requests::new(peer, &stream, place, ticket);
    let spot = Arc::new(Spot::default());
    let service = service_fn(|request: Request<Incoming>| {
        let turn = spot.take_answer().map_or_else(
            || {
                let (caller, switch) = requests.caller(&request);
                Turn::Question(request, caller, switch)
            },
            Turn::Answer,
        );
        settle(turn, Arc::clone(&handler), Arc::clone(&spot))
    });
    let mut beside = Attendant::of(&requests);
    let agreed = agreed(&stream);
    let mut io = requests.io(stream);
    let Some(is_http2) = beside.agree(&mut io, agreed).await else { return };
    let ended: Option<Ended> = if is_http2 {
        let io = TokioIo::new(io);
        let mut connection = Box::pin(requests.http2().serve_connection(io, service));
        let ended = beside.attend(connection.as_mut(), Some(|c| c.graceful_shutdown())).await;
        ended.map(|ended| ended.map_err(Into::into))
    } else {
        let connection = pin!(Parkable::new(io, service, &spot, &requests));
        beside.attend(connection, Some(|c| c.finish())).await
    };
    if let Some(Err(error)) = ended {
        requests.have_ended(&*error);
    }
}

/// What a connection of hyper asks its service for.
#[allow(clippy::large_enum_variant, reason = "lives for the length of a call")]
enum Turn<B> {
    /// The answer to what a parked connection was asked.
    Answer(Response<B>),
    Question(Request<Incoming>, Caller, Switch),
}

/// The answer to `turn`; one that comes later leaves the question in `spot` if it may park.
async fn settle<H: Patient>(
    turn: Turn<H::Body>,
    handler: Arc<H>,
    spot: Arc<Spot<H::Body>>,
) -> Result<Response<H::Body>, Infallible> {
    let (request, caller, switch) = match turn {
        Turn::Answer(answer) => return Ok(answer),
        Turn::Question(request, caller, switch) => (request, caller, switch),
    };
    let head = Head::of(&request).filter(|_| matches!(switch, Switch::None));
    let flow = caller.flow.clone();
    // Boxed: where the answer waits in place, nothing of this is left.
    let reply = Box::pin(handler.ask(request, caller)).await;
    let answer = match reply {
        Reply::Now(answer) => answer,
        Reply::Later(later) => {
            let later = held(flow, later);
            let Some(head) = head else { return Ok(switch.settle(later.await)) };
            spot.park(Parked { head, later: Box::pin(later) });
            pending().await
        }
    };
    Ok(switch.settle(answer))
}

/// A question waits, and is a request in flight. It waits for us: no silence ends it.
async fn held<B>(flow: InFlight, later: Later<B>) -> Response<B> {
    let _waits = flow.queue();
    later.await
}

/// What of a question decides how its answer is framed, and what becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    is_head: bool,
    is_old: bool,
    keeps: bool,
}

impl Head {
    /// That of a question that may park.
    fn of<B: Body>(request: &Request<B>) -> Option<Self> {
        let is_head = request.method() == Method::HEAD;
        let is_old = request.version() == Version::HTTP_10;
        let fits = (is_head || request.method() == Method::GET)
            && (is_old || request.version() == Version::HTTP_11)
            && request.body().is_end_stream();
        let connection = request.headers().get_all(CONNECTION);
        let says = |token| connection.iter().any(|value| headers::has_token(value, token));
        let keeps = !says("close") && (!is_old || says("keep-alive"));
        fits.then_some(Self { is_head, is_old, keeps })
    }

    /// One that hyper reads as it has read the question's. `finishes`: it is the last one.
    fn written(self, finishes: bool) -> Vec<u8> {
        let method = if self.is_head { "HEAD" } else { "GET" };
        let version = if self.is_old { "1.0" } else { "1.1" };
        let then = if self.keeps && !finishes { "keep-alive" } else { "close" };
        format!("{method} / HTTP/{version}\r\nhost: parked\r\nconnection: {then}\r\n\r\n").into()
    }
}

/// A question whose answer comes later.
struct Parked<B> {
    head: Head,
    later: Later<B>,
}

/// Where the service of a connection and the connection hand things to each other.
struct Spot<B> {
    held: Mutex<Option<Handed<B>>>,
    /// The client has been given all that hyper has written.
    is_flushed: AtomicBool,
}

enum Handed<B> {
    Question(Parked<B>),
    Answer(Response<B>),
}

impl<B> Default for Spot<B> {
    fn default() -> Self {
        Self { held: Mutex::new(None), is_flushed: AtomicBool::new(true) }
    }
}

impl<B> Spot<B> {
    fn park(&self, question: Parked<B>) {
        *self.held() = Some(Handed::Question(question));
    }

    /// The question that is parked here, once nothing else needs hyper's connection.
    fn leave(&self) -> Option<Parked<B>> {
        if !self.is_flushed.load(Ordering::Relaxed) {
            // Answers to earlier questions lie in its buffer.
            return None;
        }
        let mut held = self.held();
        match held.take() {
            Some(Handed::Question(question)) => Some(question),
            other => {
                *held = other;
                None
            }
        }
    }

    fn answer(&self, answer: Response<B>) {
        *self.held() = Some(Handed::Answer(answer));
    }

    fn take_answer(&self) -> Option<Response<B>> {
        match self.held().take() {
            Some(Handed::Answer(answer)) => Some(answer),
            // One question at a time is under way, so this one is new.
            Some(Handed::Question(_)) | None => None,
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Handed<B>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of HTTP/1, with hyper or parked.
struct Parkable<'a, S: HttpService<Incoming>> {
    spot: &'a Arc<Spot<S::ResBody>>,
    requests: &'a Requests,
    state: State<S>,
    /// The current request is the last one.
    finishes: bool,
}

enum State<S: HttpService<Incoming>> {
    Served(Box<http1::Connection<TokioIo<Front<S::ResBody>>, S>>),
    Parked(Box<Waiting<S>>),
    /// It has ended.
    Over,
}

/// What is left of a connection while its question waits.
struct Waiting<S: HttpService<Incoming>> {
    io: ClientStream,
    service: S,
    parked: Parked<S::ResBody>,
    /// What the client has sent beyond it.
    beyond: Vec<u8>,
}

impl<'a, S> Parkable<'a, S>
where
    S: HttpService<Incoming, Error = Infallible>,
    S::ResBody: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    fn new(
        io: ClientStream,
        service: S,
        spot: &'a Arc<Spot<S::ResBody>>,
        requests: &'a Requests,
    ) -> Self {
        let mut new = Self { spot, requests, state: State::Over, finishes: false };
        new.serve(io, service, Vec::new());
        new
    }

    /// hyper goes on with what is `ahead` of the socket.
    fn serve(&mut self, io: ClientStream, service: S, ahead: Vec<u8>) {
        let io = Front::new(io, ahead, Arc::clone(self.spot));
        let connection = self.requests.http1().serve_connection(TokioIo::new(io), service);
        self.state = State::Served(Box::new(connection));
    }

    /// The current request is the last one.
    fn finish(mut self: Pin<&mut Self>) {
        self.finishes = true;
        if let State::Served(connection) = &mut self.state {
            Pin::new(&mut **connection).graceful_shutdown();
        }
    }
}

impl<S> Future for Parkable<'_, S>
where
    S: HttpService<Incoming, Error = Infallible>,
    S::ResBody: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match std::mem::replace(&mut this.state, State::Over) {
                State::Served(mut connection) => {
                    if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
                        return Poll::Ready(ended.map_err(Into::into));
                    }
                    let Some(parked) = this.spot.leave() else {
                        this.state = State::Served(connection);
                        return Poll::Pending;
                    };
                    let parts = connection.into_parts();
                    let (io, mut beyond) = (parts.io.into_inner(), parts.read_buf.to_vec());
                    let (io, rest) = io.into_parts();
                    beyond.extend_from_slice(&rest);
                    let service = parts.service;
                    this.state = State::Parked(Box::new(Waiting { io, service, parked, beyond }));
                }
                State::Parked(mut waiting) => match waiting.poll_answer(cx) {
                    Poll::Ready(answer) => {
                        let Waiting { io, service, parked, beyond } = *waiting;
                        let mut ahead = parked.head.written(this.finishes);
                        ahead.extend_from_slice(&beyond);
                        this.spot.answer(answer?);
                        this.serve(io, service, ahead);
                    }
                    Poll::Pending => {
                        this.state = State::Parked(waiting);
                        return Poll::Pending;
                    }
                },
                State::Over => return Poll::Pending,
            }
        }
    }
}

impl<S: HttpService<Incoming>> Waiting<S> {
    /// The answer; an error if the client is gone before.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Response<S::ResBody>>> {
        if let Poll::Ready(answer) = self.parked.later.as_mut().poll(cx) {
            return Poll::Ready(Ok(answer));
        }
        if self.beyond.is_empty() {
            let mut space = [0; BEYOND_BYTES];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.beyond.extend_from_slice(read.filled());
        }
        Poll::Pending
    }
}

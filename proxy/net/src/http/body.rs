//! Bodies on their way through: counted, possibly broken, never completed early.
//!
//! [`RequestBody`] carries a client's body to a server, [`ResponseBody`] a server's body to a
//! client. Both pass hyper's own chunks on without copying, and back-pressure is hyper's: a
//! chunk is read when the other side has room. A body that ends before its announced end is an
//! error here and breaks the connection (HTTP/1) or resets the stream (HTTP/2) on the far side.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tillgate_core::load::Load;

use super::client::Lease;
use super::flow::{Flow, Gate, Owes, Passage};
use super::grpc::{self, Speech};
use super::headers;
use super::replay::{Reader, Replay};
use super::server::InFlight;
use crate::clock;
use crate::error::Failure;
use crate::mirror;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The side that sends it failed.
    #[error("the body ended early")]
    Cut(#[source] hyper::Error),
    /// We were told to end it.
    #[error("ended: {}", .0.reason())]
    Ended(Failure),
    /// The server answered without asking for it.
    #[error("the server did not ask for the body")]
    Unwanted,
}

/// A client's body on its way to a server.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    flow: Arc<Flow>,
    /// Until it has ended: the answer may end before.
    life: Option<InFlight>,
    gate: Option<Arc<Gate>>,
    /// How much more the listener takes.
    left: u64,
}

#[derive(Debug)]
enum Source {
    /// Passed on as it comes.
    Incoming(Incoming),
    /// Kept meanwhile.
    Kept(Reader),
    /// One of our own, or none.
    Fixed(Option<Bytes>),
}

impl RequestBody {
    /// `incoming`, counted on `life`'s flow, held back by `gate` if there is one.
    pub fn new(incoming: Incoming, life: InFlight, gate: Option<Arc<Gate>>) -> Self {
        if incoming.size_hint().exact().is_some() {
            life.pace.is_announced();
        }
        Self::of(Source::Incoming(incoming), life, gate)
    }

    /// The same of a body that is kept, from its start.
    pub fn replay(kept: &Arc<Replay>, life: InFlight, gate: Option<Arc<Gate>>) -> Self {
        let reader = kept.read();
        if reader.size_hint().exact().is_some() {
            life.pace.is_announced();
        }
        Self::of(Source::Kept(reader), life, gate)
    }

    /// No body.
    pub fn none(flow: &Arc<Flow>) -> Self {
        Self::fixed(None, flow)
    }

    /// A body of ours.
    pub fn fixed(bytes: Option<Bytes>, flow: &Arc<Flow>) -> Self {
        let (source, flow) = (Source::Fixed(bytes), Arc::clone(flow));
        Self { source, flow, life: None, gate: None, left: u64::MAX }
    }

    /// Another gate than before, of which nothing has passed.
    pub fn hold_back(&mut self, gate: Option<Arc<Gate>>) {
        self.gate = gate;
    }

    fn of(source: Source, life: InFlight, gate: Option<Arc<Gate>>) -> Self {
        let left = life.body_bytes_max();
        Self { source, flow: Arc::clone(life.flow()), life: Some(life), gate, left }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let life = &self.life;
        let hold = |bytes| match life {
            Some(life) => life.hold(bytes),
            None => bytes,
        };
        match &mut self.source {
            Source::Incoming(incoming) => {
                let piece = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(
                    piece.map(|piece| {
                        piece.map(|frame| frame.map_data(hold)).map_err(BodyError::Cut)
                    }),
                )
            }
            Source::Kept(reader) => reader.poll_frame(cx, hold),
            Source::Fixed(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(gate) = &this.gate {
            match ready!(gate.poll(cx)) {
                Passage::Free => this.gate = None,
                Passage::Unwanted => return Poll::Ready(Some(Err(BodyError::Unwanted))),
            }
        }
        if let Some(failure) = this.flow.ended() {
            return Poll::Ready(Some(Err(BodyError::Ended(failure))));
        }
        let Poll::Ready(piece) = this.poll_source(cx) else {
            this.flow.client_owes(Owes::Yes);
            let failure = ready!(this.flow.poll_body_ended(cx));
            return Poll::Ready(Some(Err(BodyError::Ended(failure))));
        };
        this.flow.client_owes(Owes::No);
        match piece {
            Some(Ok(mut frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let Some(left) = this.left.checked_sub(bytes as u64) else {
                    this.flow.end(Failure::BodyTooLarge);
                    return Poll::Ready(Some(Err(BodyError::Ended(Failure::BodyTooLarge))));
                };
                this.left = left;
                this.flow.moved_up(bytes);
                if let Some(trailers) = frame.trailers_mut() {
                    headers::prepare_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let BodyError::Cut(_) = error {
                    this.flow.cut_by_client();
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.life = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Incoming(incoming) => incoming.is_end_stream(),
            Source::Kept(reader) => reader.is_end_stream(),
            Source::Fixed(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Incoming(incoming) => incoming.size_hint(),
            Source::Kept(reader) => reader.size_hint(),
            Source::Fixed(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}

/// Is told once how a response ended.
pub trait Observer: Send + Unpin {
    /// A piece of it is handed over; what is returned is, in its place.
    fn hold(&self, bytes: Bytes) -> Bytes;

    /// The response's last byte was handed over, or it broke off.
    fn end(self, result: Result<(), Failure>);
}

/// A response's body on its way to a client.
#[derive(Debug)]
pub struct ResponseBody<O: Observer> {
    kind: Kind,
    observer: Option<O>,
}

#[derive(Debug)]
enum Kind {
    Whole(Option<Bytes>),
    Relay(Box<Relay>),
    Source(Box<Sourced>),
}

/// Bytes that come from no server.
#[derive(Debug)]
struct Sourced {
    source: Box<dyn mirror::Source>,
    flow: Arc<Flow>,
}

#[derive(Debug)]
struct Relay {
    incoming: Incoming,
    flow: Arc<Flow>,
    /// Of the endpoint, where the body's length is known: then silence is one.
    owing: Option<Owing>,
    lease: Option<Lease>,
    gate: Option<Arc<Gate>>,
    speech: Speech,
    /// Of a call: its client waits no longer than this, and hears so.
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<O: Observer> ResponseBody<O> {
    /// A body of ours.
    pub fn whole(bytes: Bytes, observer: O) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { kind: Kind::Whole(bytes), observer: Some(observer) }
    }

    /// Nothing, and nobody to tell.
    pub const fn empty() -> Self {
        Self { kind: Kind::Whole(None), observer: None }
    }

    /// A server's body; `lease` goes back to its pool with the last byte. If it breaks off, that
    /// is said in `speech`. While it does not go on, `load` knows.
    pub fn relay(
        incoming: Incoming,
        flow: Arc<Flow>,
        lease: Lease,
        gate: Option<Arc<Gate>>,
        speech: Speech,
        load: Option<Arc<Load>>,
        observer: O,
    ) -> Self {
        let load = load.filter(|_| incoming.size_hint().exact().is_some());
        let owing = load.map(Owing::new);
        let left = flow.time_left(clock::now()).filter(|_| speech == Speech::Grpc);
        let deadline = left.map(|left| Box::pin(tokio::time::sleep(left)));
        let lease = Some(lease);
        let mut relay = Box::new(Relay { incoming, flow, owing, lease, gate, speech, deadline });
        if relay.incoming.is_end_stream() {
            relay.complete();
        }
        Self { kind: Kind::Relay(relay), observer: Some(observer) }
    }

    /// Bytes of `source`, counted on `flow`.
    pub fn from_source(source: Box<dyn mirror::Source>, flow: Arc<Flow>, observer: O) -> Self {
        let kind = Kind::Source(Box::new(Sourced { source, flow }));
        Self { kind, observer: Some(observer) }
    }

    fn tell(&mut self, result: Result<(), Failure>) {
        if let Some(observer) = self.observer.take() {
            observer.end(result);
        }
    }
}

impl Sourced {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let broken = |failure| Poll::Ready(Some(Err((failure, BodyError::Ended(failure)))));
        if let Some(failure) = self.flow.ended() {
            return broken(failure);
        }
        match self.source.poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.flow.moved_down(bytes.len());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Err(failure))) => broken(failure),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.flow.poll_ended(cx) {
                Poll::Ready(failure) => broken(failure),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

/// Whether the next piece of a body is owed by its endpoint.
#[derive(Debug)]
struct Owing {
    load: Arc<Load>,
    owes: bool,
}

impl Owing {
    const fn new(load: Arc<Load>) -> Self {
        Self { load, owes: false }
    }

    fn is(&mut self, owes: bool) {
        if owes == self.owes {
            return;
        }
        self.owes = owes;
        if owes {
            self.load.owe(clock::lately());
        } else {
            self.load.paid();
            self.load.heard(clock::lately());
        }
    }
}

impl Drop for Owing {
    fn drop(&mut self) {
        if self.owes {
            self.load.paid();
        }
    }
}

/// How a response broke off, for the outcome and for the connection.
type Broken = (Failure, BodyError);

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(failure) = self.flow.ended() {
            return Poll::Ready(Some(Err((failure, BodyError::Ended(failure)))));
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Some(owing) = &mut self.owing {
            owing.is(polled.is_pending());
        }
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.flow.moved_down(frame.data_ref().map_or(0, Bytes::len));
                if let Some(trailers) = frame.trailers_mut() {
                    headers::prepare_trailers(trailers);
                }
                if self.incoming.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err((Failure::BackendBodyCut, BodyError::Cut(error)))))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if self.deadline.as_mut().is_some_and(|late| late.as_mut().poll(cx).is_ready()) {
                    self.flow.end(Failure::RequestTimeout);
                }
                let failure = ready!(self.flow.poll_ended(cx));
                Poll::Ready(Some(Err((failure, BodyError::Ended(failure)))))
            }
        }
    }

    fn complete(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        self.give_up_request();
    }

    /// A request body that the server has not asked for until now never will be.
    fn give_up_request(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.give_up();
        }
    }

    const fn is_complete(&self) -> bool {
        self.lease.is_none()
    }
}

impl<O: Observer> Body for ResponseBody<O> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.kind {
            Kind::Whole(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Relay(relay) => ready!(relay.poll_frame(cx)),
            Kind::Source(sourced) => ready!(sourced.poll_frame(cx)),
        };
        match polled {
            Some(Ok(frame)) => {
                let frame = match &this.observer {
                    Some(observer) => frame.map_data(|bytes| observer.hold(bytes)),
                    None => frame,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err((failure, error))) => {
                this.tell(Err(failure));
                if matches!(&this.kind, Kind::Relay(relay) if relay.speech == Speech::Grpc) {
                    // A call has not ended before its status has come, so this completes nothing.
                    this.kind = Kind::Whole(None);
                    return Poll::Ready(Some(Ok(Frame::trailers(grpc::trailers(failure)))));
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.tell(Ok(()));
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Relay(relay) => relay.incoming.is_end_stream(),
            Kind::Source(sourced) => sourced.source.left() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Kind::Relay(relay) => relay.incoming.size_hint(),
            Kind::Source(sourced) => SizeHint::with_exact(sourced.source.left()),
        }
    }
}

impl<O: Observer> Drop for ResponseBody<O> {
    fn drop(&mut self) {
        let result = match &mut self.kind {
            Kind::Whole(_) => Ok(()),
            Kind::Source(sourced) if sourced.source.left() == 0 => Ok(()),
            Kind::Source(sourced) => Err(sourced.flow.ended().unwrap_or(Failure::ClientGone)),
            Kind::Relay(relay) => {
                relay.give_up_request();
                if relay.is_complete() {
                    Ok(())
                } else {
                    Err(relay.flow.ended().unwrap_or(Failure::ClientGone))
                }
            }
        };
        self.tell(result);
    }
}

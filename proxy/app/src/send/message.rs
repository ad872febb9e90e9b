//! A request on its way to servers: made what each of them understands, and kept for as long as
//! it may be sent again.
//!
//! In: a client's head and body. Out: requests, one for each try. What was not sent comes back as
//! it was; of what was sent there is only what was kept before.

use std::sync::Arc;

use http::Request;
use http::request::Parts;
use http_body::Body as _;
use hyper::body::Incoming;
use tillgate_core::retry::Body;
use tillgate_net::http::body::RequestBody;
use tillgate_net::http::client::{Dialect, Target};
use tillgate_net::http::flow::Gate;
use tillgate_net::http::grpc::Speech;
use tillgate_net::http::headers::{self, HasBody, Origin};
use tillgate_net::http::replay::{Kept, Replay};
use tillgate_net::http::websocket::WebSocket;

use crate::outcome::Outcome;
use crate::problem::Refusal;
use tillgate_net::error::Failure;

/// See the module.
pub(crate) struct Message {
    /// For the first try.
    head: Option<Parts>,
    /// What the last try did not send.
    unsent: Option<Box<Request<RequestBody>>>,
    /// For the tries after it.
    kept: Option<Parts>,
    payload: Payload,
    dialect: Dialect,
    has_body: HasBody,
}

enum Payload {
    /// There is no body, or it is with the request.
    None,
    /// To be sent once.
    Once(Incoming),
    Kept(Arc<Replay>),
}

/// What a try sends.
pub(crate) struct Sending {
    pub(crate) request: Request<RequestBody>,
    pub(crate) gate: Option<Arc<Gate>>,
}

/// Tells whether a body can be sent once more, while it is on its way.
pub(crate) enum Keeper {
    Fixed(Body),
    Replay(Arc<Replay>, Speech),
}

impl Keeper {
    pub(crate) fn get(&self) -> Body {
        match self {
            Self::Fixed(body) => *body,
            Self::Replay(replay, speech) => match (replay.kept(), speech) {
                (Kept::Whole, _) | (Kept::SoFar, Speech::Http) => Body::Kept,
                // The stream of a call is one conversation: its half is not repeated.
                (Kept::SoFar, Speech::Grpc) | (Kept::Gone, _) => Body::Gone,
            },
        }
    }

    /// Whether all of it is there, so that it can be sent twice at one time.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Fixed(body) => *body == Body::Kept,
            Self::Replay(replay, _) => replay.kept() == Kept::Whole,
        }
    }
}

impl Message {
    /// Makes a client's request one for `target`; it is kept, with up to so many bytes of its
    /// body, if it `keeps`.
    pub(crate) fn prepare(
        (head, body): (&mut Parts, Incoming),
        origin: Origin<'_>,
        target: &Target,
        keeps: Option<usize>,
        outcome: &mut Outcome,
    ) -> Result<Self, Refusal> {
        let has_body = if body.is_end_stream() { HasBody::No } else { HasBody::Yes };
        let dialect = target.dialect();
        headers::prepare_request(head, origin, dialect, has_body)?;
        outcome.identify(head);
        let head = take(head);
        let payload = match (has_body, keeps) {
            (HasBody::No, _) => Payload::None,
            (HasBody::Yes, None) => Payload::Once(body),
            (HasBody::Yes, Some(bytes)) => Payload::Kept(Replay::new(body, bytes)),
        };
        let kept = keeps.is_some().then(|| head.clone());
        let (head, unsent) = (Some(head), None);
        Ok(Self { head, unsent, kept, payload, dialect, has_body })
    }

    /// The request for a server that speaks `dialect`.
    pub(crate) fn ready(
        &mut self,
        dialect: Dialect,
        socket: Option<&WebSocket>,
        outcome: &Outcome,
    ) -> Result<Sending, Refusal> {
        let (mut head, unsent) = match (self.head.take(), self.unsent.take()) {
            (Some(head), _) => (head, None),
            (None, Some(request)) => {
                let (head, body) = request.into_parts();
                (head, Some(body))
            }
            (None, None) => (self.kept.clone().ok_or(Failure::Internal)?, None),
        };
        if socket.is_some() {
            WebSocket::take_back(&mut head);
        }
        if dialect != self.dialect {
            for head in std::iter::once(&mut head).chain(&mut self.kept) {
                headers::change_dialect(head, dialect, self.has_body)?;
            }
            self.dialect = dialect;
        }
        if let Some(socket) = socket {
            socket.ask(&mut head, dialect.wire);
        }
        let has_body = self.has_body;
        let gate = headers::awaits_continue(&head, has_body).then(Arc::<Gate>::default);
        let life = outcome.flow();
        let body = match (unsent, std::mem::replace(&mut self.payload, Payload::None)) {
            (Some(mut body), payload) => {
                self.payload = payload;
                body.hold_back(gate.clone());
                body
            }
            (None, Payload::None) => RequestBody::none(life.flow()),
            (None, Payload::Once(body)) => RequestBody::new(body, life.clone(), gate.clone()),
            (None, Payload::Kept(replay)) => {
                let body = RequestBody::replay(&replay, life.clone(), gate.clone());
                self.payload = Payload::Kept(replay);
                body
            }
        };
        let mut request = Request::from_parts(head, body);
        if let Some(gate) = &gate {
            headers::open_on_continue(&mut request, gate);
        }
        Ok(Sending { request, gate })
    }

    /// What was not sent of it comes back.
    pub(crate) fn take_back(&mut self, request: Option<Request<RequestBody>>) {
        self.unsent = request.map(Box::new);
    }

    /// Whether it can be sent once more.
    pub(crate) fn body(&self, speech: Speech) -> Body {
        if self.unsent.is_some() { Body::Kept } else { self.keeper(speech).get() }
    }

    /// To ask while it is on its way.
    pub(crate) fn keeper(&self, speech: Speech) -> Keeper {
        match (&self.payload, &self.kept) {
            (_, None) | (Payload::Once(_), _) => Keeper::Fixed(Body::Gone),
            (Payload::None, Some(_)) => Keeper::Fixed(Body::Kept),
            (Payload::Kept(replay), Some(_)) => Keeper::Replay(Arc::clone(replay), speech),
        }
    }
}

fn take(head: &mut Parts) -> Parts {
    let (mut empty, ()) = Request::new(()).into_parts();
    std::mem::swap(&mut empty, head);
    empty
}

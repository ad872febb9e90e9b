//! One try: a request is sent, and its answer waited for.
//!
//! In: where and how, and the request. Out: the answer's head with the body behind it, ready to
//! be passed on; or the row of the failure table that says why there is none.

use std::pin::pin;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tillgate_core::backend::Timeouts;
use tillgate_net::error::Failure;
use tillgate_net::http::body::{RequestBody, ResponseBody};
use tillgate_net::http::client::{Lease, Pool, Target};
use tillgate_net::http::flow::{Flow, Gate};
use tillgate_net::http::grpc::Speech;
use tillgate_net::http::head::{HeadLimits, Unwatched, Watch, until_head_watched};
use tillgate_net::http::headers::{self, Origin};
use tillgate_net::http::websocket::WebSocket;

use crate::outcome::Outcome;
use crate::problem::{Answer, Refusal};

mod message;

pub(crate) use self::message::{Keeper, Message, Sending};

/// A server's answer on its way to the client.
pub(crate) struct Reply {
    pub(crate) head: response::Parts,
    body: Incoming,
    pub(crate) lease: Lease,
    gate: Option<Arc<Gate>>,
    /// Its connection, if it goes on as a WebSocket.
    pub(crate) server: Option<OnUpgrade>,
}

/// Where and how a request is sent.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) target: &'a Arc<Target>,
    pub(crate) timeouts: &'a Timeouts,
    /// The server tries others by itself, and has the time of all tries.
    pub(crate) tries_itself: bool,
    pub(crate) socket: Option<&'a WebSocket>,
}

/// No answer.
pub(crate) struct Unanswered {
    pub(crate) refusal: Refusal,
    /// Nothing of it can have been executed.
    pub(crate) unsent: bool,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, unsent: false }
    }
}

/// Sends the request once and waits for the answer's head, within the call's timeouts. What was
/// not sent of it stays in `request`.
pub(crate) async fn try_once(
    call: Call<'_>,
    request: &mut Option<Request<RequestBody>>,
    gate: Option<Arc<Gate>>,
    watch: &mut impl Watch,
    flow: &Flow,
) -> Result<Reply, Unanswered> {
    let Call { pool, target, timeouts, tries_itself, .. } = call;
    let backend_request = timeouts.backend_request.filter(|_| !tries_itself);
    let limits = HeadLimits { request: timeouts.request, backend_request };
    let ended = {
        // Not moved any more: it is large.
        let exchange = pin!(pool.exchange(target, request, flow));
        until_head_watched(exchange, limits, flow, gate.as_ref(), watch).await
    };
    match ended {
        Ok(Ok((response, lease))) => {
            let (mut head, body) = response.into_parts();
            let server = switched(&mut head, call.socket)?;
            headers::prepare_response(&mut head);
            Ok(Reply { head, body, lease, gate, server })
        }
        Ok(Err(_)) if flow.is_cut_by_client() => {
            let why = flow.malformed().map_or(Failure::ClientBodyCut.into(), Refusal::from);
            Err(why.into())
        }
        Ok(Err(error)) => Err(match flow.ended() {
            Some(failure) => Refusal::from(failure).into(),
            None => {
                let refusal = Refusal::new(error.failure(), explain(&error));
                Unanswered { refusal, unsent: error.is_unsent() }
            }
        }),
        Err(failure) => {
            let silent = matches!(failure, Failure::BackendTimeout | Failure::IdleTimeout);
            if (silent || failure == Failure::BackendStalled) && flow.owed_since().is_some() {
                pool.distrust(target);
            }
            Err(Unanswered { refusal: failure.into(), unsent: request.is_some() })
        }
    }
}

/// Sends a request that is not sent again.
pub(crate) async fn send(
    call: Call<'_>,
    message: (&mut Parts, Incoming),
    origin: Origin<'_>,
    outcome: &mut Outcome,
) -> Result<Reply, Refusal> {
    let mut message = Message::prepare(message, origin, call.target, None, outcome)?;
    let Sending { request, gate } = message.ready(call.target.dialect(), call.socket, outcome)?;
    let mut request = Some(request);
    let tried = try_once(call, &mut request, gate, &mut Unwatched, outcome.flow()).await;
    tried.map_err(|unanswered| unanswered.refusal)
}

/// What an answer says, in the numbers of HTTP: gRPC says it elsewhere.
pub(crate) fn status_of(head: &response::Parts, speech: Speech) -> StatusCode {
    if speech == Speech::Http {
        return head.status;
    }
    // Of an answer that failed at once ("trailers-only"): UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL.
    match head.headers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"14") => StatusCode::SERVICE_UNAVAILABLE,
        Some(b"4") => StatusCode::GATEWAY_TIMEOUT,
        Some(b"13") => StatusCode::INTERNAL_SERVER_ERROR,
        Some(_) | None => head.status,
    }
}

/// The server's connection, if it has become the WebSocket that was asked for.
fn switched(
    head: &mut response::Parts,
    socket: Option<&WebSocket>,
) -> Result<Option<OnUpgrade>, Refusal> {
    let agrees = match head.version {
        Version::HTTP_2 => socket.is_some() && head.status.is_success(),
        _ => head.status == StatusCode::SWITCHING_PROTOCOLS,
    };
    if !agrees {
        return Ok(None);
    }
    if socket.is_some_and(|socket| socket.is_granted(head)) {
        return head
            .extensions
            .remove::<OnUpgrade>()
            .map(Some)
            .ok_or_else(|| Failure::Internal.into());
    }
    let detail = "the server changed to a protocol that it was not asked for";
    Err(Refusal::new(Failure::BackendProtocol, detail))
}

/// Passes a server's answer on; the outcome is written with its last byte.
pub(crate) fn relay(reply: Reply, mut outcome: Outcome) -> Answer {
    outcome.answer(reply.head.status);
    outcome.keep_stream(&reply.head.headers, reply.body.size_hint().exact());
    let flow = Arc::clone(outcome.flow().flow());
    let speech = outcome.speech();
    let load = outcome.load().cloned();
    let body =
        ResponseBody::relay(reply.body, flow, reply.lease, reply.gate, speech, load, outcome);
    Response::from_parts(reply.head, body)
}

/// An error with its causes, each said once.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

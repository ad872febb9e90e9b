//! One try: a request is made what its server understands, sent, and its answer waited for.
//!
//! In: where and how, the request's head and body. Out: the answer's head with the body behind
//! it, ready to be passed on; or the row of the failure table that says why there is none.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tillgate_core::backend::Timeouts;
use tillgate_net::error::Failure;
use tillgate_net::http::body::{RequestBody, ResponseBody};
use tillgate_net::http::client::{Lease, Pool, Target, Wire};
use tillgate_net::http::flow::Gate;
use tillgate_net::http::head::{HeadLimits, until_head};
use tillgate_net::http::headers::{self, HasBody};
use tillgate_net::http::websocket::WebSocket;

use crate::outcome::Outcome;
use crate::problem::{Answer, Refusal};

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
    /// As `X-Forwarded-For` names it.
    pub(crate) client: &'a HeaderValue,
    pub(crate) timeouts: &'a Timeouts,
    pub(crate) socket: Option<&'a WebSocket>,
}

/// Sends the request and waits for the answer's head, within the call's timeouts.
pub(crate) async fn send(
    call: Call<'_>,
    head: &mut Parts,
    body: Incoming,
    outcome: &mut Outcome,
) -> Result<Reply, Refusal> {
    let Call { pool, target, timeouts, .. } = call;
    let has_body = if body.is_end_stream() { HasBody::No } else { HasBody::Yes };
    headers::prepare_request(head, call.client, target.wire, has_body)?;
    outcome.identify(head);
    match call.socket {
        Some(_) if target.wire == Wire::Http2 => {
            let detail = "the route's backend speaks HTTP/2; WebSocket needs protocol HTTP";
            return Err(Refusal::new(Failure::UpgradeUnsupported, detail));
        }
        Some(socket) => socket.ask(head),
        None => {}
    }
    let gate = headers::awaits_continue(head, has_body).then(Arc::<Gate>::default);
    let flow = outcome.flow().flow();
    let body = RequestBody::new(body, outcome.flow().clone(), gate.clone());
    let mut request = Request::from_parts(take(head), body);
    if let Some(gate) = &gate {
        headers::open_on_continue(&mut request, gate);
    }
    let limits =
        HeadLimits { request: timeouts.request, backend_request: timeouts.backend_request };
    let exchange = pool.exchange(target, request, flow);
    match until_head(exchange, limits, flow, gate.as_ref()).await {
        Ok(Ok((response, lease))) => {
            let (mut head, body) = response.into_parts();
            let server = switched(&mut head, call.socket)?;
            headers::prepare_response(&mut head);
            outcome.answer(head.status);
            Ok(Reply { head, body, lease, gate, server })
        }
        Ok(Err(_)) if flow.is_cut_by_client() => {
            Err(flow.malformed().map_or(Failure::ClientBodyCut.into(), Refusal::from))
        }
        Ok(Err(error)) => Err(match flow.ended() {
            Some(failure) => failure.into(),
            None => Refusal::new(error.failure(), explain(&error)),
        }),
        Err(failure) => {
            let silent = matches!(failure, Failure::BackendTimeout | Failure::IdleTimeout);
            if silent && flow.owed_since().is_some() {
                pool.distrust(target);
            }
            Err(failure.into())
        }
    }
}

/// The server's connection, if it has become the WebSocket that was asked for.
fn switched(
    head: &mut response::Parts,
    socket: Option<&WebSocket>,
) -> Result<Option<OnUpgrade>, Refusal> {
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
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
pub(crate) fn relay(reply: Reply, outcome: Outcome) -> Answer {
    let flow = Arc::clone(outcome.flow().flow());
    let speech = outcome.speech();
    let body = ResponseBody::relay(reply.body, flow, reply.lease, reply.gate, speech, outcome);
    Response::from_parts(reply.head, body)
}

fn take(head: &mut Parts) -> Parts {
    let (mut empty, ()) = Request::new(()).into_parts();
    std::mem::swap(&mut empty, head);
    empty
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

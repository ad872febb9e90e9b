//! The story of a request: classify → admit → pick → send → shape → record.
//!
//! In: a request from the HTTP entry. Out: an answer, always; what it does not say is in the
//! request's one [`Outcome`]. Shaping has no line here: it happens on the socket of the WAN
//! connection that [`send`] uses, below HTTP, by the class that was found above.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use tillgate_core::backend::{Location, Timeouts};
use tillgate_core::class::ClassId;
use tillgate_core::matching::{NoRule, RequestFacts, Rule, RuleId};
use tillgate_core::tls::ClientIdentity;
use tillgate_net::error::Failure;
use tillgate_net::http::body::{RequestBody, ResponseBody};
use tillgate_net::http::client::{Pool, Target};
use tillgate_net::http::flow::Gate;
use tillgate_net::http::head::{HeadLimits, until_head};
use tillgate_net::http::headers::{self, HasBody};
use tillgate_net::http::server::Caller;

use crate::admission;
use crate::gateway::Worker;
use crate::outcome::{By, Kind, Outcome};
use crate::pick;
use crate::problem::{self, Answer, Refusal};
use crate::running::Running;

/// Answers one request of the HTTP entry.
pub(crate) async fn serve_request(
    worker: &Worker,
    request: Request<Incoming>,
    caller: Caller,
) -> Answer {
    let running = worker.gateway().running();
    let (mut head, body) = request.into_parts();
    let mut outcome = begin(&running, Kind::Request, caller.flow);
    outcome.attend(&mut head, caller.peer);

    let (rule_id, class) = match classify(&running, &head, caller.identity.as_deref()) {
        Ok(found) => found,
        Err(refusal) => return problem::answer(&refusal, outcome),
    };
    let rule = running.effective.routes.rule(rule_id);
    let found = running.class(class);
    outcome.classify(class, By::Rule(rule_id));
    outcome.sample(&head.headers);
    outcome.flow().bind(rule.timeouts.idle, found.critical());

    if let Err(failure) = admit(&head) {
        return problem::answer(&failure.into(), outcome);
    }
    let asks = admission::Request {
        head: &head,
        body_bytes: body.size_hint().lower(),
        client: caller.peer.ip(),
        identity: caller.identity.as_deref(),
    };
    let rate = match admission::admit(&running, (rule_id, class), &asks, &outcome) {
        Ok(rate) => rate,
        Err(turned) => return turned.answer(outcome),
    };
    let (target, location) = pick(&running, rule, class, caller.peer, &mut outcome);
    let pool = worker.pool(location);
    let client = caller.peer.ip();
    let sent = send(pool, &target, &mut head, body, client, &rule.timeouts, &mut outcome).await;
    let mut answer = match sent {
        Ok(reply) => relay(reply, outcome),
        Err(refusal) => problem::answer(&refusal, outcome),
    };
    admission::tell(rate, answer.headers_mut());
    answer
}

/// An outcome for a request that is of no class yet.
pub(crate) fn begin(
    running: &Arc<Running>,
    kind: Kind,
    flow: tillgate_net::http::server::InFlight,
) -> Outcome {
    Outcome::new(kind, flow, Arc::clone(running))
}

/// Which rule the request meets, and of which class it is: the rule's, else what its shape
/// tells, else `default`.
fn classify(
    running: &Running,
    head: &Parts,
    client: Option<&ClientIdentity>,
) -> Result<(RuleId, ClassId), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Failure::MethodUnsupported.into());
    }
    let host = headers::host_of(head)?;
    let facts = facts(&host, head, client);
    let rule = running.effective.routes.find(facts).map_err(|none| match none {
        NoRule::UnknownHost => {
            let detail = format!("no ServiceRoute has the host {host}; add it to `hostnames`");
            Refusal::new(Failure::UnknownHost, detail)
        }
        NoRule::NoMatch => {
            let detail = format!("a route has the host {host}, but no rule matches this request");
            Refusal::new(Failure::NoMatch, detail)
        }
    })?;
    let named = running.effective.routes.rule(rule).class;
    Ok((rule, named.unwrap_or_else(|| running.natural(facts))))
}

/// What matching may look at.
pub(crate) fn facts<'a>(
    host: &'a str,
    head: &'a Parts,
    client: Option<&'a ClientIdentity>,
) -> RequestFacts<'a> {
    RequestFacts {
        host,
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        method: &head.method,
        headers: &head.headers,
        client,
    }
}

/// What is not carried is refused before anybody is asked. Limits on how much waits are the
/// pool's and the line's, by class.
pub(crate) fn admit(head: &Parts) -> Result<(), Failure> {
    if headers::wants_upgrade(head) {
        return Err(Failure::UpgradeUnsupported);
    }
    Ok(())
}

/// Which server gets it.
fn pick(
    running: &Running,
    rule: &Rule,
    class: ClassId,
    client: SocketAddr,
    outcome: &mut Outcome,
) -> (Arc<Target>, Location) {
    let backend = pick::backend(rule, fastrand::u64(..));
    let spec = running.effective.backend(backend);
    let endpoint = pick::endpoint(spec, fastrand::u64(..));
    outcome.send_to(backend, endpoint);
    let target = running.target(backend, endpoint, class, &rule.timeouts);
    let target = match spec.proxy_protocol {
        Some(version) => Arc::new(target.for_client(version, client)),
        None => target,
    };
    (target, running.location(backend))
}

/// A server's answer on its way to the client.
pub(crate) struct Reply {
    head: http::response::Parts,
    body: Incoming,
    lease: tillgate_net::http::client::Lease,
    gate: Option<Arc<Gate>>,
}

/// Sends the request to `target` and waits for the answer's head, within `timeouts`.
pub(crate) async fn send(
    pool: &Pool,
    target: &Arc<Target>,
    head: &mut Parts,
    body: Incoming,
    client: std::net::IpAddr,
    timeouts: &Timeouts,
    outcome: &mut Outcome,
) -> Result<Reply, Refusal> {
    let has_body = if body.is_end_stream() { HasBody::No } else { HasBody::Yes };
    outcome.identify(headers::prepare_request(head, client, target.wire, has_body)?);
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
            headers::prepare_response(&mut head);
            outcome.answer(head.status);
            Ok(Reply { head, body, lease, gate })
        }
        Ok(Err(_)) if flow.is_cut_by_client() => Err(Failure::ClientBodyCut.into()),
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

/// Passes a server's answer on; the outcome is written with its last byte.
pub(crate) fn relay(reply: Reply, outcome: Outcome) -> Answer {
    let flow = Arc::clone(outcome.flow().flow());
    let body = ResponseBody::relay(reply.body, flow, reply.lease, reply.gate, outcome);
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

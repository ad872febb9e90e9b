//! The story of a request: classify → admit → pick → send → shape → record.
//!
//! In: a request from the HTTP entry. Out: an answer, always; what it does not say is in the
//! request's one [`Outcome`]. Shaping has no line here: it happens on the socket of the WAN
//! connection that [`send`](send::send) uses, below HTTP, by the class that was found above.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use tillgate_config::effective::Effective;
use tillgate_core::backend::{Location, Timeouts};
use tillgate_core::class::ClassId;
use tillgate_core::failover::Choice;
use tillgate_core::filter::{Action, Scheme};
use tillgate_core::matching::{Found, NaturalClasses, NoRule, RequestFacts, Rule, has_dot_segment};
use tillgate_core::tls::ClientIdentity;
use tillgate_net::clock;
use tillgate_net::drain::Ticket;
use tillgate_net::error::Failure;
use tillgate_net::http::body::ResponseBody;
use tillgate_net::http::grpc::{self, Speech};
use tillgate_net::http::headers::{self, Origin};
use tillgate_net::http::server::{Caller, InFlight, Place};
use tillgate_net::http::websocket::{self, Ask, WebSocket};
use tillgate_net::metrics::Held;

use self::session::Session;
use crate::admission;
use crate::gateway::Worker;
use crate::mirror;
use crate::outcome::{By, Kind, Outcome};
use crate::problem::{self, Answer, Refusal};
use crate::running::Running;
use crate::send::{self, Reply};
use crate::tries::{Reached, Tries};
use crate::tunnel::Tunnel;

mod filters;
pub(crate) mod session;

/// Answers one request of the HTTP entry.
pub(crate) async fn serve_request(
    worker: &Worker,
    request: Request<Incoming>,
    caller: Caller,
) -> Answer {
    let running = worker.gateway().running();
    if running.is_for_mirror(&request) {
        return mirror::serve_request(worker, request, caller).await;
    }
    let (mut head, body) = request.into_parts();
    let mut outcome = begin(&running, Kind::Request, caller.flow);
    outcome.attend(&mut head, caller.peer, &caller.place);
    outcome.speak(Speech::of(&head));
    if let Some(why) = caller.refused {
        return problem::answer(&why.into(), outcome);
    }
    let ask = websocket::asked(&mut head);
    if matches!(ask, Ask::WebSocket(_)) {
        outcome.will_last();
    }
    let identity = caller.identity.as_deref();
    let (found, class) = match classify(&running.effective, running.natural, &head, identity) {
        Ok(found) => found,
        Err(refusal) => return problem::answer(&refusal, outcome),
    };
    let rule = running.effective.routes.rule(found.rule);
    outcome.classify(class, By::Rule(found.rule));
    outcome.sample(&head.headers);
    outcome.flow().bind(rule.timeouts.idle, running.class(class).critical());
    let asks = admission::Request {
        head: &head,
        body_bytes: body.size_hint().lower(),
        client: caller.peer.ip(),
        identity: caller.identity.as_deref(),
    };
    let rate = match admission::admit(&running, (found.rule, class), &asks, &outcome) {
        Ok(rate) => rate,
        Err(turned) => return turned.answer(outcome),
    };

    let mut answer = if rule.action == Action::Forward {
        let client = Client {
            peer: caller.peer,
            name: caller.name,
            ticket: caller.ticket,
            place: caller.place,
        };
        let story =
            Story { worker, running: &running, rule, found, class, client, scheme: caller.scheme };
        story.forward(&mut head, body, ask, outcome).await
    } else {
        filters::answer(&running.effective.routes, found, caller.scheme, &head, outcome)
    };
    filters::change_response(&rule.filters, answer.headers_mut());
    admission::tell(rate, answer.headers_mut());
    answer
}

/// A request that goes to a backend.
struct Story<'a> {
    worker: &'a Worker,
    running: &'a Running,
    rule: &'a Rule,
    found: Found,
    class: ClassId,
    client: Client,
    scheme: Scheme,
}

/// Whose request it is.
struct Client {
    peer: SocketAddr,
    name: HeaderValue,
    ticket: Arc<Ticket>,
    place: Arc<Place>,
}

impl Story<'_> {
    /// Admits the request, picks a server, sends it there and passes the answer on.
    async fn forward(
        self,
        head: &mut Parts,
        body: Incoming,
        ask: Ask,
        mut outcome: Outcome,
    ) -> Answer {
        let socket = match self.admit(head, ask) {
            Ok(socket) => socket,
            Err(refusal) => return problem::answer(&refusal, outcome),
        };
        let kept = self.session(head);
        let plan = &self.running.wiring.plans[usize::from(self.found.rule.0)];
        let timeouts = deadlines(&self.rule.timeouts, head, &outcome);
        let tries = Tries {
            worker: self.worker,
            running: self.running,
            rule: (self.found.rule, self.rule),
            class: self.class,
            client: (self.client.peer, self.origin()),
            timeouts: &timeouts,
            socket: socket.as_ref(),
        };
        let begins = kept.as_ref().and_then(|kept| kept.at);
        let reached = tries.run(begins, head, body, &mut outcome).await;
        let scheme = self.scheme;
        let session = match (&reached, kept) {
            (Ok(reached), Some(kept)) => {
                let names = self.running.endpoint_names(plan.backend(reached.at));
                let is_same = kept.at.is_some_and(|at| at.is_same(reached.at));
                kept.session.renew(names[reached.at.endpoint], is_same)
            }
            _ => None,
        };
        let mut answer = match (reached, socket) {
            (Ok(reached), Some(socket)) if reached.reply.server.is_some() => {
                self.switch(reached, socket, outcome)
            }
            (Ok(reached), _) => send::relay(reached.reply, outcome),
            (Err(refusal), _) => problem::answer(&refusal, outcome),
        };
        if let Some(session) = session {
            session.tell(scheme, answer.headers_mut());
        }
        answer
    }

    /// What cannot be carried is refused before anybody is asked; what passes is made what the
    /// rule says. Limits on how much waits are the pool's and the line's, by class.
    fn admit(&self, head: &mut Parts, ask: Ask) -> Result<Option<WebSocket>, Refusal> {
        let socket = match ask {
            Ask::Answer => None,
            Ask::WebSocket(socket) => Some(socket),
            Ask::Other(token) => {
                let detail = format!("upgrades to `{token}` are not carried, only to websocket");
                return Err(Refusal::new(Failure::UpgradeUnsupported, detail));
            }
        };
        if !self.rule.filters.is_empty() {
            let matched = self.running.effective.routes.alternative(self.found);
            filters::change_request(&self.rule.filters, &matched.path, self.scheme, head)?;
        }
        Ok(socket)
    }

    /// Whose it is; what a rule makes of its head is not the client's word any more.
    fn origin(&self) -> Origin<'_> {
        let is_changed = !self.rule.filters.request_headers.is_empty();
        Origin { client: &self.client.name, scheme: (!is_changed).then_some(self.scheme) }
    }

    /// The session it belongs to, and where that lives, if it still is one of the rule's endpoints.
    fn session<'s>(&'s self, head: &Parts) -> Option<KeptSession<'s>> {
        let session = Session::of(self.rule.persistence.as_ref()?, head, clock::wall_seconds());
        let plan = &self.running.wiring.plans[usize::from(self.found.rule.0)];
        let at = session.find(plan, self.running);
        Some(KeptSession { session, at })
    }

    /// The answer that makes a WebSocket of the client's connection or stream.
    fn switch(self, reached: Reached, socket: WebSocket, mut outcome: Outcome) -> Answer {
        let Reached { reply, target, .. } = reached;
        let Reply { mut head, lease, server, .. } = reply;
        let Some(server) = server else { return problem::answer(&bug(), outcome) };
        let client = socket.grant(&mut head);
        outcome.is_websocket();
        outcome.answer(head.status);
        let location = if target.link.is_some() { Location::Cloud } else { Location::Local };
        // A stream stays where it is; a connection of its own leaves its pool.
        let hold: Box<dyn Any + Send> = if lease.is_shared() {
            Box::new(lease)
        } else {
            Box::new(self.worker.pool(location).hold(&target))
        };
        let tunnel = Tunnel {
            outcome,
            ticket: self.client.ticket.split(),
            held: Held::new(&self.running.class(self.class).meter.tunnels),
            kept: vec![Box::new(self.client.place), hold],
        };
        tokio::spawn(tunnel.run(client, async { server.await.map(TokioIo::new) }));
        Response::from_parts(head, ResponseBody::empty())
    }
}

/// A session that a request belongs to.
struct KeptSession<'a> {
    session: Session<'a>,
    at: Option<Choice>,
}

/// An outcome for a request that is of no class yet.
pub(crate) fn begin(running: &Arc<Running>, kind: Kind, flow: InFlight) -> Outcome {
    Outcome::new(kind, flow, Arc::clone(running))
}

/// Which rule the request meets, and of which class it is: the rule's, else what its shape
/// tells, else `default`.
pub(crate) fn classify(
    effective: &Effective,
    natural: NaturalClasses,
    head: &Parts,
    client: Option<&ClientIdentity>,
) -> Result<(Found, ClassId), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Failure::MethodUnsupported.into());
    }
    let host = headers::host_of(head)?;
    if has_dot_segment(head.uri.path()) {
        let detail = "the path has a segment `.` or `..`, which the server would resolve to another \
                      path than the one that a rule is found for: ask for that one";
        return Err(Refusal::new(Failure::InvalidRequest, detail));
    }
    let facts = facts(&host, head, client);
    let found = effective.routes.find_match(facts).map_err(|none| match none {
        NoRule::UnknownHost => {
            let detail = format!("no ServiceRoute has the host {host}; add it to `hostnames`");
            Refusal::new(Failure::UnknownHost, detail)
        }
        NoRule::NoMatch => {
            let detail = format!("a route has the host {host}, but no rule matches this request");
            Refusal::new(Failure::NoMatch, detail)
        }
    })?;
    let named = effective.routes.rule(found.rule).class;
    Ok((found, named.unwrap_or_else(|| natural.class(facts))))
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

/// The rule's timeouts; a gRPC client may be less patient, to its call's very end.
fn deadlines(timeouts: &Timeouts, head: &Parts, outcome: &Outcome) -> Timeouts {
    let mut timeouts = *timeouts;
    if outcome.speech() == Speech::Grpc
        && let Some(deadline) = grpc::timeout(head)
    {
        outcome.flow().bind_deadline(deadline);
        timeouts.request = Some(timeouts.request.map_or(deadline, |limit| limit.min(deadline)));
    }
    timeouts
}

fn bug() -> Refusal {
    Failure::Internal.into()
}

//! The tries of one call: where it goes, what becomes of it there, and where it goes next.
//!
//! In: a request and its rule. Out: a server's answer, or why there is none. Which endpoint, and
//! whether there is a further try, is the core's word ([`Trip`]); here requests are sent, kept
//! for as long as they may be sent again, and called back from servers that are found dead.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use tillgate_core::backend::{BackendId, Timeouts};
use tillgate_core::class::ClassId;
use tillgate_core::failover::{Choice, Plan, Trip, TryEnd};
use tillgate_core::health::Outcome as Ending;
use tillgate_core::matching::{Rule, RuleId};
use tillgate_core::retry::{Ended, Repeat, Stop};
use tillgate_net::circuit::{Full, Place, Turn};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::body::RequestBody;
use tillgate_net::http::client::{Target, Wire};
use tillgate_net::http::flow::{Flow, Gate};
use tillgate_net::http::grpc::Speech;
use tillgate_net::http::head::{HeadLimits, until_head, until_head_watched};
use tillgate_net::http::headers::Origin;
use tillgate_net::http::retry_after::retry_after;
use tillgate_net::http::server::InFlight;
use tillgate_net::http::websocket::WebSocket;

use crate::gateway::Worker;
use crate::outcome::Outcome;
use crate::problem::Refusal;
use crate::running::Running;
use crate::send::{self, Call, Message, Reply, Sending, Unanswered};

mod attend;
mod beside;
mod socket;
mod visit;

use self::attend::Attend;

pub(crate) use self::visit::Visit;

/// A call that ended because its client's time was over says something of its server only if the
/// server had this part of it.
const FAIR_PART: u32 = 2;

/// See the module.
pub(crate) struct Tries<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) running: &'a Running,
    pub(crate) rule: (RuleId, &'a Rule),
    pub(crate) class: ClassId,
    /// Where it comes from, and what servers are told of that.
    pub(crate) client: (SocketAddr, Origin<'a>),
    pub(crate) timeouts: &'a Timeouts,
    pub(crate) socket: Option<&'a WebSocket>,
}

/// An answer, and who gave it.
pub(crate) struct Reached {
    pub(crate) reply: Reply,
    pub(crate) target: Arc<Target>,
    pub(crate) at: Choice,
}

impl Tries<'_> {
    /// Sends the request until somebody answers, or it must not be sent again. It begins at
    /// `kept`, if it belongs to a session.
    pub(crate) async fn run(
        &self,
        kept: Option<Choice>,
        head: &mut Parts,
        body: Incoming,
        outcome: &mut Outcome,
    ) -> Result<Reached, Refusal> {
        let plan = self.plan();
        let retry = &self.rule.1.retry;
        let repeat = retry.repeat(&head.method, &head.headers);
        let mut trip = Trip::new(plan, retry, repeat);
        let mut at = begin(&mut trip, kept).ok_or(Failure::DataTooOld)?;
        // From here on the place that was chosen is given back whatever happens, and that of a try
        // before the next one begins, which may need it.
        let mut visit = self.enter(at);
        let mut target = self.target(at);
        let keeps = self.keeps(repeat, &target);
        let mut message = Message::prepare((head, body), self.client.1, &target, keeps, outcome)?;
        let mut turn = Turn::First;
        loop {
            outcome.send_to(plan.backend(at), at.endpoint);
            let next = Going { at, target, turn, visit };
            let tried = self.try_at(next, &mut message, &mut trip, outcome).await?;
            at = tried.at;
            outcome.send_to(plan.backend(at), at.endpoint);
            let Again { next: (choice, pause), label } =
                match self.after(tried, &mut trip, &message, outcome) {
                    ControlFlow::Continue(again) => again,
                    ControlFlow::Break(end) => return end,
                };
            outcome.tried(label);
            at = choice;
            visit = self.enter(at);
            self.pause(pause, outcome).await?;
            (target, turn) = (self.target(at), Turn::Further);
        }
    }

    /// What a try has shown is remembered. Where the call goes on, or what it ends with.
    fn after<'t>(
        &self,
        tried: Tried<'t>,
        trip: &mut Trip<'t>,
        message: &Message,
        outcome: &mut Outcome,
    ) -> ControlFlow<Result<Reached, Refusal>, Again> {
        let Tried { at, target, mut visit, began, result, left, .. } = tried;
        visit.answers(&result, outcome.speech());
        let retry = &self.rule.1.retry;
        let reply = match result {
            Ok(reply) => reply,
            Err(Unanswered { refusal, unsent }) => {
                let may = self.lost(&visit, (refusal.failure, unsent), began, outcome);
                let ended = ended(refusal.failure, unsent);
                let next = match left {
                    // It was taken away, and knows where it goes.
                    Some(left) => {
                        *trip = left.trip;
                        self.running.failover.meters.retry(&self.rule.1.route, reason(ended));
                        Some(left.next)
                    }
                    None if may => self.next(trip, (at, ended, None), message, outcome).ok(),
                    None => None,
                };
                let Some(next) = next else {
                    outcome.visit(visit);
                    return ControlFlow::Break(Err(refusal));
                };
                return ControlFlow::Continue(Again { next, label: refusal.failure.reason() });
            }
        };
        let status = send::status_of(&reply.head, outcome.speech());
        self.answered(&visit, Ending::of_status(status), began);
        self.learn_data_age(&visit, self.plan().backend(at), &reply.head.headers);
        if retry.codes.contains(&status) {
            let after = retry_after(&reply.head.headers, Some(clock::wall()));
            let ended = Ended::Answered(status);
            if let Ok(next) = self.next(trip, (at, ended, after), message, outcome) {
                return ControlFlow::Continue(Again { next, label: status_label(status) });
            }
        }
        outcome.visit(visit);
        ControlFlow::Break(Ok(Reached { reply, target, at }))
    }

    fn enter(&self, at: Choice) -> Visit {
        Visit::enter(self.plan().load(at), at, &self.running.failover)
    }

    fn plan(&self) -> &Plan {
        &self.running.wiring.plans[usize::from(self.rule.0.0)]
    }

    fn target(&self, at: Choice) -> Arc<Target> {
        let running = self.running;
        let backend = self.plan().backend(at);
        let target = running.target(backend, at.endpoint, self.class, &self.rule.1.timeouts);
        match running.effective.backend(backend).proxy_protocol {
            Some(version) => Arc::new(target.for_client(version, self.client.0)),
            None => target,
        }
    }

    /// Whether the request is kept for as long as it may be sent again. What was not sent is
    /// there anyway, but for HTTP/2, whose servers may refuse what was sent.
    fn keeps(&self, repeat: Repeat, target: &Target) -> Option<usize> {
        let retry = &self.rule.1.retry;
        let is_h2 = target.wire == Wire::Http2;
        let may = retry.attempts > 0 && repeat != Repeat::Nowhere || is_h2;
        let bytes = usize::try_from(retry.buffer_bytes).unwrap_or(usize::MAX);
        (may && self.socket.is_none()).then_some(bytes)
    }

    /// One try; or two, where the rule hedges and the first one is slow.
    async fn try_at<'t>(
        &self,
        mut going: Going,
        message: &mut Message,
        trip: &mut Trip<'t>,
        outcome: &Outcome,
    ) -> Result<Tried<'t>, Refusal> {
        let at = going.at;
        let flow = outcome.flow();
        if self.socket.is_some() && going.target.wire == Wire::Http2 {
            going.target = Box::pin(self.socket_target(at, going.target, flow)).await?;
        }
        let sending = message.ready(going.target.dialect(), self.socket, outcome)?;
        let keeper = message.keeper(outcome.speech());
        let mut first = self.attempt(going, sending, (keeper, trip.clone()), flow);
        let hedge = self.rule.1.retry.hedge.filter(|_| trip.repeat() != Repeat::Nowhere);
        let mut tried = match hedge {
            None => {
                let result = self.make(&mut first, flow).await;
                first.end(result, flow)
            }
            Some(hedge) => {
                let after = hedge.after(self.plan().load(at).p95());
                let first = self.made(first, flow);
                // Rare and large.
                Box::pin(self.hedge((first, at), after, message, trip, outcome)).await?
            }
        };
        message.take_back(tried.request.take());
        Ok(tried)
    }

    /// A try that is about to begin.
    fn attempt<'t, 's>(
        &'s self,
        going: Going,
        sending: Sending,
        (keeper, trip): (send::Keeper, Trip<'t>),
        flow: &Flow,
    ) -> Attempt<'t, 's> {
        let Going { at, target, turn, visit } = going;
        let load = self.plan().load(at);
        let rest = (keeper, flow.tries(), self.timeouts.request);
        let attend = Attend::new(trip, (&self.running.failover, load), at, rest);
        let (began, queued) = (clock::now(), flow.queued_for());
        let Sending { request, gate } = sending;
        Attempt { at, target, turn, visit, request: Some(request), gate, attend, began, queued }
    }

    /// Makes a try. It stays where it is: it is large, and every request has one.
    async fn make(
        &self,
        attempt: &mut Attempt<'_, '_>,
        flow: &InFlight,
    ) -> Result<Reply, Unanswered> {
        let backend = self.plan().backend(attempt.at);
        let attend = &mut attempt.attend;
        let place = match self.place((backend, attempt.turn), flow, attend).await {
            Ok(place) => place,
            Err(refusal) => return Err(Unanswered { refusal, unsent: true }),
        };
        attempt.visit.place = Some(place);
        let call = Call {
            pool: self.worker.pool(self.running.location(backend)),
            target: &attempt.target,
            timeouts: self.timeouts,
            tries_itself: self.running.effective.backend(backend).tries_itself,
            socket: self.socket,
        };
        send::try_once(call, &mut attempt.request, attempt.gate.take(), attend, flow).await
    }

    /// Makes a try beside which there may be another one.
    async fn made<'t>(&self, mut attempt: Attempt<'t, '_>, flow: &InFlight) -> Tried<'t> {
        let result = self.make(&mut attempt, flow).await;
        attempt.end(result, flow)
    }

    /// A place at the backend: at once, or as soon as the class's turn comes.
    async fn place(
        &self,
        (backend, turn): (BackendId, Turn),
        flow: &InFlight,
        attend: &mut Attend<'_, '_>,
    ) -> Result<Place, Refusal> {
        let circuit = self.running.circuit(backend);
        let class = self.running.class(self.class);
        let full = |full: Full| Refusal::new(Failure::BackendFull, full.to_string());
        if let Some(place) = circuit.try_enter(class.rank, turn).map_err(full)? {
            return Ok(place);
        }
        let _queued = flow.queue();
        let waits = circuit.enter(class.rank, turn, class.spec.queue.max_wait);
        let limits = HeadLimits { request: self.timeouts.request, backend_request: None };
        // Its endpoint may be found dead meanwhile.
        until_head_watched(waits, limits, flow, None, attend).await?.map_err(full)
    }

    /// Remembers what an answer says of its server.
    fn answered(&self, visit: &Visit, ending: Ending, began: Instant) {
        let load = visit.load();
        let now = clock::now();
        let took = now.saturating_duration_since(began);
        if ending == Ending::Good {
            // Whether it is a success is known when it has come to its end.
            load.answered(took, now);
        } else {
            load.refused(took, now);
            self.running.failover.tell(visit.stamp(), ending);
        }
    }

    /// An answer may say how old the server's data is.
    fn learn_data_age(&self, visit: &Visit, backend: BackendId, headers: &HeaderMap) {
        let Some(source) = &self.running.effective.backend(backend).health.data_age else { return };
        if let Some(age) = source.in_headers(headers) {
            visit.load().learn_data_age(age, clock::lately());
        }
    }

    /// Remembers what a failure says of the server; whether the call may go on.
    fn lost(
        &self,
        visit: &Visit,
        (failure, unsent): (Failure, bool),
        began: Instant,
        outcome: &Outcome,
    ) -> bool {
        if failure == Failure::BackendStalled {
            return true;
        }
        let Some(loss) = failure.loss() else { return false };
        if unsent && failure == Failure::BackendClosed {
            // A connection that goes away in order takes no call with it, and says nothing bad.
            return true;
        }
        let now = clock::now();
        let flow = outcome.flow().flow();
        let is_over = matches!(failure, Failure::RequestTimeout | Failure::IdleTimeout);
        if is_over {
            let part = self.timeouts.request.unwrap_or_default() / FAIR_PART;
            let had = flow.owed_since().map(|since| now.saturating_duration_since(since));
            if had.is_none_or(|had| had < part) || now.saturating_duration_since(began) < part {
                return false;
            }
        }
        visit.load().lost(now);
        self.running.failover.tell(visit.stamp(), Ending::Lost(loss));
        !is_over
    }

    fn next(
        &self,
        trip: &mut Trip<'_>,
        (at, ended, retry_after): (Choice, Ended, Option<Duration>),
        message: &Message,
        outcome: &Outcome,
    ) -> Result<(Choice, Duration), Stop> {
        let now = clock::now();
        let since = now.saturating_duration_since(outcome.flow().born());
        let left = self.timeouts.request.map(|limit| limit.saturating_sub(since));
        let body = message.body(outcome.speech());
        let end = TryEnd { at, ended, body, retry_after, left };
        let next = trip.next(end, fastrand::u64(..), now);
        let meters = &self.running.failover.meters;
        let route = &self.rule.1.route;
        match &next {
            Ok(_) => meters.retry(route, reason(ended)),
            Err(Stop::Answer) => {}
            Err(stop) => meters.refuse(route, stop.label()),
        }
        next
    }

    async fn pause(&self, pause: Duration, outcome: &Outcome) -> Result<(), Refusal> {
        if pause.is_zero() {
            return Ok(());
        }
        let limits = HeadLimits { request: self.timeouts.request, backend_request: None };
        let waits = until_head(tokio::time::sleep(pause), limits, outcome.flow(), None);
        waits.await.map_err(Refusal::from)
    }
}

const fn reason(ended: Ended) -> &'static str {
    match ended {
        Ended::Unsent | Ended::Unseen => "unsent",
        Ended::Lost => "lost",
        Ended::Answered(_) => "answer",
    }
}

/// How a try that was answered is told in the log.
fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        429 => "429",
        400..500 => "4xx",
        _ => "5xx",
    }
}

/// What a failure says of where the call has been.
fn ended(failure: Failure, unsent: bool) -> Ended {
    match (unsent, failure) {
        (true, Failure::ConnectRefused | Failure::BackendClosed) => Ended::Unseen,
        (true, _) => Ended::Unsent,
        (false, _) => Ended::Lost,
    }
}

/// Where a try goes.
struct Going {
    at: Choice,
    target: Arc<Target>,
    turn: Turn,
    visit: Visit,
}

/// One try, from when it is about to begin.
struct Attempt<'t, 's> {
    at: Choice,
    target: Arc<Target>,
    turn: Turn,
    visit: Visit,
    /// What was not sent.
    request: Option<Request<RequestBody>>,
    gate: Option<Arc<Gate>>,
    attend: Attend<'t, 's>,
    began: Instant,
    /// What it had waited for connections before.
    queued: Duration,
}

impl<'t> Attempt<'t, '_> {
    /// It has ended like this.
    fn end(self, result: Result<Reply, Unanswered>, flow: &Flow) -> Tried<'t> {
        let Self { at, target, visit, request, attend, began, queued, .. } = self;
        // Waiting for a place or a connection says nothing of how fast the server answers.
        let began = began + flow.queued_for().saturating_sub(queued);
        Tried { at, target, visit, began, result, request, left: attend.into_left() }
    }
}

/// One that has ended.
struct Tried<'t> {
    at: Choice,
    target: Arc<Target>,
    visit: Visit,
    began: Instant,
    result: Result<Reply, Unanswered>,
    /// It was not sent.
    request: Option<Request<RequestBody>>,
    /// It was taken away from its endpoint.
    left: Option<Left<'t>>,
}

/// A call goes on there after a pause; how its last try is told in the log.
struct Again {
    next: (Choice, Duration),
    label: &'static str,
}

/// Where a call goes on that was taken away, and what is known of its tries from then on.
struct Left<'t> {
    trip: Trip<'t>,
    next: (Choice, Duration),
}

impl Tried<'_> {
    fn is_good(&self, speech: Speech) -> bool {
        let status = |reply: &Reply| send::status_of(&reply.head, speech).as_u16();
        self.result.as_ref().is_ok_and(|reply| status(reply) < 500)
    }
}

/// Where a call goes first: where its session is, else wherever is best.
fn begin(trip: &mut Trip<'_>, kept: Option<Choice>) -> Option<Choice> {
    let now = clock::now();
    let at = kept.and_then(|kept| trip.begin_at(kept, now));
    at.or_else(|| trip.begin(fastrand::u64(..), now))
}

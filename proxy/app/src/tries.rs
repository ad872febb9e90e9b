//! The tries of one call: where it goes, what becomes of it there, and where it goes next.
//!
//! In: a request and its rule. Out: a server's answer, or why there is none. Which endpoint, and
//! whether there is a further try, is the core's word ([`Trip`]); here requests are sent, kept
//! for as long as they may be sent again, and called back from servers that are found dead.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use tillgate_core::backend::{BackendId, Timeouts};
use tillgate_core::class::ClassId;
use tillgate_core::failover::{Choice, Plan, Sent, Trip, TryEnd};
use tillgate_core::health::Outcome as Ending;
use tillgate_core::load::{Load, Verdict};
use tillgate_core::matching::{Rule, RuleId};
use tillgate_core::retry::{Body, Ended, Repeat, Stop};
use tillgate_net::circuit::{Full, Place, Turn};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::body::RequestBody;
use tillgate_net::http::client::{Target, Wire};
use tillgate_net::http::flow::Flow;
use tillgate_net::http::head::{HeadLimits, Look, Watch, until_head};
use tillgate_net::http::server::InFlight;
use tillgate_net::http::websocket::WebSocket;

use crate::failover::Failover;
use crate::gateway::Worker;
use crate::outcome::Outcome;
use crate::problem::Refusal;
use crate::running::Running;
use crate::send::{self, Call, Message, Reply, Sending, Unanswered};

mod visit;

pub(crate) use self::visit::Visit;

/// How often a call that waits is looked after at the latest: its endpoint may have been taken
/// out by what others have found.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The same while its endpoint is under suspicion.
const LOOK_SOON: Duration = Duration::from_millis(20);

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
    pub(crate) client: (SocketAddr, &'a HeaderValue),
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
        // From here on the place that was chosen is given back whatever happens.
        let mut visit = self.enter(at);
        let mut target = self.target(at);
        let keeps = self.keeps(repeat, &target, plan);
        let mut message =
            Message::prepare((head, body), self.client.1, &target, keeps, self.socket, outcome)?;
        let mut turn = Turn::First;
        loop {
            outcome.send_to(plan.backend(at), at.endpoint);
            let next = Going { at, target, turn, visit };
            let tried = self.try_at(next, &mut message, &mut trip, outcome).await?;
            let Tried { target: tried_at, visit: mut visited, began, result, .. } = tried;
            visited.answers(&result, outcome.speech());
            at = tried.at;
            outcome.send_to(plan.backend(at), at.endpoint);
            let (next, label) = match result {
                Ok(reply) => {
                    let status = send::status_of(&reply.head, outcome.speech());
                    let ending = Ending::of_status(status);
                    self.answered(plan.load(at), ending, began);
                    let ended = Ended::Answered(status);
                    let after = retry_after(&reply.head.headers);
                    let next = if retry.codes.contains(&status) {
                        self.next(&mut trip, (at, ended, after), &message, outcome).ok()
                    } else {
                        None
                    };
                    let Some(next) = next else {
                        outcome.visit(visited);
                        return Ok(Reached { reply, target: tried_at, at });
                    };
                    (next, status_label(status))
                }
                Err(Unanswered { refusal, unsent }) => {
                    let may = self.lost(plan.load(at), (refusal.failure, unsent), began, outcome);
                    let ended = if unsent { Ended::Unsent } else { Ended::Lost };
                    match may.then(|| self.next(&mut trip, (at, ended, None), &message, outcome)) {
                        Some(Ok(next)) => (next, refusal.failure.reason()),
                        Some(Err(_)) | None => {
                            outcome.visit(visited);
                            return Err(refusal);
                        }
                    }
                }
            };
            // Its place is free for the next try, which may need it.
            drop(visited);
            outcome.tried(label);
            let (choice, pause) = next;
            at = choice;
            visit = self.enter(at);
            self.pause(pause, outcome).await?;
            (target, turn) = (self.target(at), Turn::Further);
        }
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
    fn keeps(&self, repeat: Repeat, target: &Target, plan: &Plan) -> Option<usize> {
        let retry = &self.rule.1.retry;
        let is_h2 = target.wire == Wire::Http2 && plan.has_choice();
        let may = retry.attempts > 0 && repeat != Repeat::Nowhere || is_h2;
        let bytes = usize::try_from(retry.buffer_bytes).unwrap_or(usize::MAX);
        (may && self.socket.is_none()).then_some(bytes)
    }

    /// One try; or two, where the rule hedges and the first one is slow.
    async fn try_at(
        &self,
        going: Going,
        message: &mut Message,
        trip: &mut Trip<'_>,
        outcome: &Outcome,
    ) -> Result<Tried, Refusal> {
        let at = going.at;
        let sending = message.ready(going.target.wire, self.socket, outcome)?;
        let keeper = message.keeper(outcome.speech());
        let first = Attempt { going, sending, keeper, trip: trip.clone() };
        let first = self.attempt(first, outcome.flow());
        let hedge = self.rule.1.retry.hedge.filter(|_| trip.repeat() != Repeat::Nowhere);
        let mut tried = match hedge {
            None => first.await,
            Some(hedge) => {
                let after = hedge.after(self.plan().load(at).p95());
                // Rare and large.
                Box::pin(self.hedge((first, at), after, message, trip, outcome)).await?
            }
        };
        message.take_back(tried.request.take());
        Ok(tried)
    }

    /// Begins a second try beside the first one after a while; who answers well first has won.
    async fn hedge(
        &self,
        (first, at): (impl Future<Output = Tried>, Choice),
        after: Duration,
        message: &mut Message,
        trip: &mut Trip<'_>,
        outcome: &Outcome,
    ) -> Result<Tried, Refusal> {
        let mut first = pin!(first);
        tokio::select! {
            biased;
            tried = &mut first => return Ok(tried),
            () = tokio::time::sleep(after) => {}
        }
        let body = message.keeper(outcome.speech());
        let has_body = if body.is_whole() { Body::Kept } else { Body::Gone };
        let other = trip.beside(at, has_body, fastrand::u64(..), clock::now());
        let Some(other) = other else { return Ok(first.await) };
        let (target, turn, visit) = (self.target(other), Turn::Further, self.enter(other));
        let going = Going { at: other, target, turn, visit };
        let sending = message.ready(going.target.wire, self.socket, outcome)?;
        let second = Attempt { going, sending, keeper: body, trip: trip.clone() };
        let mut second = pin!(self.attempt(second, outcome.flow()));
        self.running.failover.meters.retry(&self.rule.1.route, "hedge");
        let (tried, is_first) = tokio::select! {
            tried = &mut first => (tried, true),
            tried = &mut second => (tried, false),
        };
        if tried.is_good() {
            return Ok(tried);
        }
        // Whoever is left may do better; what the other has shown is not lost.
        self.forgo(tried);
        Ok(if is_first { second.await } else { first.await })
    }

    /// Remembers how a try went that nobody waits for.
    fn forgo(&self, tried: Tried) {
        let load = self.plan().load(tried.at);
        match &tried.result {
            Ok(reply) => self.answered(load, Ending::of_status(reply.head.status), tried.began),
            Err(unanswered) => {
                if let Some(loss) = unanswered.refusal.failure.loss() {
                    load.lost(clock::now());
                    self.running.failover.tell(load, Ending::Lost(loss));
                }
            }
        }
    }

    async fn attempt(&self, attempt: Attempt<'_>, flow: &InFlight) -> Tried {
        let Attempt { going, sending, keeper, trip } = attempt;
        let Going { at, target, turn, mut visit } = going;
        let plan = self.plan();
        let backend = plan.backend(at);
        let (began, queued) = (clock::now(), flow.queued_for());
        let mut request = Some(sending.request);
        let result = match self.place(backend, turn, flow).await {
            Err(refusal) => Err(Unanswered { refusal, unsent: true }),
            Ok(place) => {
                visit.place = Some(place);
                let call = Call {
                    pool: self.worker.pool(self.running.location(backend)),
                    target: &target,
                    timeouts: self.timeouts,
                    socket: self.socket,
                };
                let mut attend = Attend {
                    trip: &trip,
                    failover: &self.running.failover,
                    load: plan.load(at),
                    at,
                    tries: flow.tries(),
                    body: keeper,
                };
                send::try_once(call, &mut request, sending.gate, &mut attend, flow).await
            }
        };
        // Waiting for a place or a connection says nothing of how fast the server answers.
        let began = began + flow.queued_for().saturating_sub(queued);
        Tried { at, target, visit, began, result, request }
    }

    /// A place at the backend: at once, or as soon as the class's turn comes.
    async fn place(
        &self,
        backend: BackendId,
        turn: Turn,
        flow: &InFlight,
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
        until_head(waits, limits, flow, None).await?.map_err(full)
    }

    /// Remembers what an answer says of its server.
    fn answered(&self, load: &Load, ending: Ending, began: Instant) {
        let now = clock::now();
        let took = now.saturating_duration_since(began);
        if ending == Ending::Good {
            // Whether it is a success is known when it has come to its end.
            load.answered(took, now);
        } else {
            load.refused(took, now);
            self.running.failover.tell(load, ending);
        }
    }

    /// Remembers what a failure says of the server; whether the call may go on.
    fn lost(
        &self,
        load: &Load,
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
        load.lost(now);
        self.running.failover.tell(load, Ending::Lost(loss));
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
        Ended::Unsent => "unsent",
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

/// How long the server wants to be left alone.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Where a try goes.
struct Going {
    at: Choice,
    target: Arc<Target>,
    turn: Turn,
    visit: Visit,
}

/// One try that is about to begin.
struct Attempt<'a> {
    going: Going,
    sending: Sending,
    keeper: send::Keeper,
    trip: Trip<'a>,
}

/// One that has ended.
struct Tried {
    at: Choice,
    target: Arc<Target>,
    visit: Visit,
    began: Instant,
    result: Result<Reply, Unanswered>,
    /// It was not sent.
    request: Option<Request<RequestBody>>,
}

impl Tried {
    fn is_good(&self) -> bool {
        self.result.as_ref().is_ok_and(|reply| reply.head.status.as_u16() < 500)
    }
}

/// Looks after a call that waits: its server's silence is told, and when that server is dead, the
/// call is called back if it may go elsewhere.
struct Attend<'a> {
    trip: &'a Trip<'a>,
    failover: &'a Failover,
    load: &'a Load,
    at: Choice,
    /// Connections it had been sent on before this try.
    tries: u32,
    body: send::Keeper,
}

impl Watch for Attend<'_> {
    fn look(&mut self, flow: &Flow, now: Instant) -> Look {
        let sent = if flow.tries() > self.tries { Sent::Yes } else { Sent::No };
        let is_there = sent == Sent::No || self.body.get() == Body::Kept;
        if is_there && self.trip.can_leave(self.at, sent, now) {
            return Look::Leave;
        }
        let after = self.load.stall_after().unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
        let since = flow.owed_since().filter(|_| sent == Sent::Yes && !flow.is_queued());
        let Some(since) = since else { return Look::At(now + after) };
        if since + after <= now && self.load.stall_after().is_some_and(|stall| since + stall <= now)
        {
            self.failover.suspect(self.load, since, now);
        }
        let step = match self.load.verdict() {
            Verdict::Usable => after,
            Verdict::Trial | Verdict::Suspect | Verdict::Out => LOOK_SOON,
        };
        Look::At((since + after).max(now + step.min(after)))
    }
}

/// Where a call goes first: where its session is, else wherever is best.
fn begin(trip: &mut Trip<'_>, kept: Option<Choice>) -> Option<Choice> {
    match kept {
        Some(at) => {
            trip.begin_at(at);
            Some(at)
        }
        None => trip.begin(fastrand::u64(..), clock::now()),
    }
}

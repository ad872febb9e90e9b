//! The config endpoint: what runs here, since when and why, for whoever has the right to ask.
//!
//! One entrance for every route of [`routes::ROUTES`]: who asks, may they, is the body bounded and
//! of a type that is understood; only then is anything done. It has the admin thread's runtime and
//! never one of a worker. No route writes policy.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_core::endpoint::Who;
use tillgate_core::reconcile::Hint;
use tillgate_net::clock;
use tillgate_net::http::server::{Caller, Patient, Reply};
use tillgate_net::metrics::{EndpointMeters, InstanceState, Metrics, ReportMeters};
use tillgate_net::rarely::Rarely;
use tillgate_net::tls::Tls;
use tokio::sync::{Notify, Semaphore, watch};
use tower::ServiceExt as _;

use self::audit::{Action, Audit, Record};
use self::callers::Callers;
pub use self::callers::SecretError;
pub(crate) use self::callers::{own_text, private_text};
use self::enrol::Enrolment;
use self::entrance::Pass;
pub(crate) use self::explain::{here as explained, offline as explained_offline};
use self::gates::Gates;
use self::hooks::Heard;
use self::instances::Instances;
use self::operations::{Busy, Operations};
pub(crate) use self::operations::{Look, Outcome};
pub(crate) use self::past::Bundle;
use self::past::Past;
use self::problem::Problem;
use self::slices::Slices;
pub(crate) use self::workload_token::follow as follow_cluster;
use crate::gateway::Gateway;
use crate::telemetry::Recent;
use crate::wall::StoreClock;

mod accept;
mod answers;
mod apart;
mod asked;
pub(crate) mod audit;
mod callers;
mod checks;
pub(crate) mod drift;
mod enrol;
mod entrance;
mod events;
mod explain;
mod gates;
mod hooks;
mod impact;
mod instances;
mod journal;
mod later;
mod openapi;
mod operations;
mod past;
mod pin;
mod problem;
mod revisions;
pub(crate) mod routes;
mod slices;
#[cfg(test)]
mod tests;
mod workload_token;

/// Policies that are looked at at the same time; each may take a processor for a second.
const CHECKS: usize = 1;

/// Bodies of webhooks that are read at the same time, of 64 KiB at most, before it is known who
/// sends them.
const HOOKS: usize = 8;

/// Tells that there is another config, by its number.
type News = watch::Receiver<u64>;

/// What the endpoint knows, whether it listens or not.
pub(crate) struct Endpoint {
    pub(crate) meters: EndpointMeters,
    pub(crate) report_meters: ReportMeters,
    /// The last lines of the process's log, where it has one.
    pub(crate) recent: OnceLock<Arc<Recent>>,
    callers: ArcSwap<Callers>,
    /// What is wrong with files that have changed, so that it is said once.
    said: Mutex<Option<String>>,
    /// Tells this process from the one before.
    boot: String,
    /// The number of the running config, counted since the process began.
    news: watch::Sender<u64>,
    past: Mutex<Past>,
    /// What is about to be put in effect.
    expected: Mutex<Option<Arrival>>,
    slices: Mutex<Option<Arc<Slices>>>,
    instances: Mutex<Instances>,
    checks: Arc<Semaphore>,
    /// Held by who looks at files for a caller.
    looking: Arc<Semaphore>,
    hooks: Semaphore,
    heard: Mutex<BTreeMap<Arc<str>, Heard>>,
    forged: Mutex<Rarely>,
    validated: Mutex<Rarely>,
    /// Tokens of pods that do not count.
    refused: Mutex<Rarely>,
    /// Where the cluster's keys come from.
    cluster: tokio::sync::Mutex<workload_token::Source>,
    operations: Mutex<Operations>,
    /// Somebody asks to look for another policy.
    asked: Notify,
    /// And somebody among them is no machine.
    is_urged: AtomicBool,
    audit: Mutex<Option<Audit>>,
    /// How it stood when somebody asked last.
    audited: Mutex<Value>,
    /// Held by who writes into it apart from the runtime.
    recording: Arc<Semaphore>,
    clock: Arc<StoreClock>,
    gates: Mutex<Gates>,
    enrolment: Enrolment,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    pub(crate) fn new(
        metrics: &Metrics,
        effective: &Arc<Effective>,
        clock: Arc<StoreClock>,
        tls: &Tls,
    ) -> Result<Self, SecretError> {
        let spec = effective.config_endpoint().map(|endpoint| &endpoint.enrolment);
        let endpoint = Self {
            meters: EndpointMeters::register(metrics),
            report_meters: ReportMeters::register(metrics),
            recent: OnceLock::new(),
            callers: ArcSwap::default(),
            said: Mutex::default(),
            boot: format!("{:016x}", fastrand::u64(..)),
            news: watch::Sender::new(0),
            past: Mutex::default(),
            expected: Mutex::default(),
            slices: Mutex::default(),
            instances: Mutex::default(),
            checks: Arc::new(Semaphore::new(CHECKS)),
            looking: Arc::new(Semaphore::new(1)),
            hooks: Semaphore::new(HOOKS),
            heard: Mutex::default(),
            forged: Mutex::default(),
            validated: Mutex::default(),
            refused: Mutex::default(),
            cluster: tokio::sync::Mutex::default(),
            operations: Mutex::new(Operations::new(fastrand::u32(..))),
            asked: Notify::new(),
            is_urged: AtomicBool::new(false),
            audit: Mutex::default(),
            audited: Mutex::default(),
            recording: Arc::new(Semaphore::new(1)),
            clock,
            gates: Mutex::default(),
            enrolment: Enrolment::open(spec, tls),
        };
        endpoint.admits(endpoint.prepare(effective)?);
        endpoint.took(None, effective);
        Ok(endpoint)
    }

    /// Reads what `effective` needs and changes nothing yet.
    ///
    /// # Errors
    /// Names the secret that cannot be used.
    pub(crate) fn prepare(&self, effective: &Effective) -> Result<Ready, SecretError> {
        let spec = effective.config_endpoint();
        let before = self.callers.load();
        let callers = spec.map(|spec| Callers::read(spec, &before)).transpose()?;
        let callers = callers.unwrap_or_default();
        Ok(Ready { callers })
    }

    /// These callers count from here on; to be said before the config that names them runs, so
    /// that nobody sees it with what it has taken away.
    pub(crate) fn admits(&self, ready: Ready) {
        self.callers.store(Arc::new(ready.callers));
    }

    /// `effective` is in effect now, after the config with the digest `before`.
    pub(crate) fn took(&self, before: Option<&str>, effective: &Arc<Effective>) {
        self.follow_audit(effective.config_endpoint());
        self.enrolment.follow(effective.config_endpoint().map(|endpoint| &endpoint.enrolment));
        let is_known = |name: &Arc<str>| self.callers.load().receiver(name).is_some();
        lock(&self.heard).retain(|name, _| is_known(name));
        let arrival = lock(&self.expected).take_if(|one| one.effective == effective.digest);
        let bundle = arrival.as_ref().map(|one| one.bundle.clone());
        let is_same = lock(&self.past).bundle() == bundle.as_ref();
        let sequence = lock(&self.past).push(effective, bundle, clock::wall());
        if before != Some(&effective.digest) || !is_same {
            let mut fields = vec![("from", json!(before)), ("to", json!(&*effective.digest))];
            let actor = match arrival {
                Some(Arrival { bundle, actor, mut more, .. }) => {
                    fields.push(("bundle", json!(&*bundle.digest)));
                    fields.push(("revision", json!(bundle.revision)));
                    fields.push(("sequence", json!(bundle.sequence)));
                    fields.append(&mut more);
                    actor
                }
                None => "policy".to_owned(),
            };
            fields.push(("result", json!("Applied")));
            self.record(Record { action: Action::Apply, actor, fields });
        }
        self.news.send_replace(sequence);
    }

    /// `arrival` is about to be put in effect.
    pub(crate) fn expects(&self, arrival: Arrival) {
        *lock(&self.expected) = Some(arrival);
    }

    /// The running config came in this.
    pub(crate) fn came_in(&self, bundle: Bundle) {
        lock(&self.past).came_in(bundle);
    }

    /// The operation `id` has come to this.
    pub(crate) fn ended(&self, id: &str, outcome: Outcome<'_>) {
        lock(&self.operations).end_one(id, outcome, clock::wall());
    }

    /// Asks to look for another policy; the id of the operation.
    fn look(&self, actor: &Arc<str>, hint: Hint) -> Result<Arc<str>, Busy> {
        let now = (clock::now(), clock::wall());
        let (id, is_new) = lock(&self.operations).begin(actor, now)?;
        if is_new {
            self.record(Record {
                action: Action::Fetch,
                actor: actor.to_string(),
                fields: vec![("operation", json!(&*id))],
            });
        }
        if hint == Hint::Operator {
            self.is_urged.store(true, Ordering::Relaxed);
        }
        self.asked.notify_one();
        Ok(id)
    }

    /// The same, for a machine that does not ask what becomes of it.
    fn hint(&self, actor: &Arc<str>) {
        if self.look(actor, Hint::Webhook).is_err() {
            self.asked.notify_one();
        }
    }

    /// Returns when somebody asks to look for another policy, with who that is.
    pub(crate) async fn asked(&self) -> Hint {
        self.asked.notified().await;
        let is_urged = self.is_urged.swap(false, Ordering::Relaxed);
        if is_urged { Hint::Operator } else { Hint::Webhook }
    }

    /// Who was asked looks now.
    pub(crate) fn looks(&self) {
        lock(&self.operations).run();
    }

    /// What came of a look.
    pub(crate) fn looked(&self, look: Look, outcome: Outcome<'_>) {
        lock(&self.operations).looked(look, outcome, clock::wall());
    }

    /// Takes secrets that have changed; what cannot be used leaves the old ones. Reads files.
    pub(crate) fn check_files(&self) {
        let before = self.callers.load_full();
        let Some(spec) = &before.spec else { return };
        let wrong = match Callers::read(spec, &before) {
            Ok(callers) => {
                self.exchange(&before, callers);
                None
            }
            Err(error) => {
                if let Some(callers) = before.with_keys_of_now() {
                    self.exchange(&before, callers);
                }
                Some(crate::send::explain(&error))
            }
        };
        let mut said = lock(&self.said);
        if let Some(wrong) = &wrong
            && said.as_ref() != Some(wrong)
        {
            tracing::error!("the old secrets of the config endpoint still count: {wrong}");
        }
        *said = wrong;
    }

    /// Puts `fresh` in the place of `before`, unless a config has brought others meanwhile: those
    /// were read later, and may be of other files.
    fn exchange(&self, before: &Arc<Callers>, fresh: Callers) {
        if fresh == **before
            || !Arc::ptr_eq(&self.callers.compare_and_swap(before, Arc::new(fresh)), before)
        {
            return;
        }
        tracing::info!("secrets of the config endpoint were exchanged");
        self.record(Record {
            action: Action::KeyRotated,
            actor: "policy".to_owned(),
            fields: Vec::new(),
        });
    }

    /// Brings what a scrape shows up to date.
    pub(crate) fn show(&self, effective: &Effective) {
        let now = clock::now();
        let wanted = self.wanted(effective, now);
        lock(&self.instances).show(wanted.as_deref(), &self.meters, now);
    }

    /// The digest that sidecars should run. Where nobody has ever said to be there, it costs
    /// nothing: a slice is megabytes of work and code.
    fn wanted(&self, effective: &Effective, now: Instant) -> Option<Arc<str>> {
        let is_idle = lock(&self.instances).is_empty(now);
        (!is_idle).then(|| self.slices(effective).for_sidecars())
    }

    /// How often a sidecar has refused a config; only grows.
    pub(crate) fn refusals(&self) -> u64 {
        lock(&self.instances).refusals()
    }

    /// How many sidecars there are, and how they stand.
    pub(crate) fn counted(&self, effective: &Effective) -> Value {
        let now = clock::now();
        let wanted = self.wanted(effective, now);
        let states = wanted.map(|wanted| lock(&self.instances).states(&wanted, now));
        let states = states.unwrap_or_default();
        let count = |state: InstanceState| states.iter().filter(|one| one.1 == state).count();
        json!({
            "total": states.len(),
            "inSync": count(InstanceState::InSync),
            "pending": count(InstanceState::Pending),
            "nacked": count(InstanceState::Nacked),
            "stale": count(InstanceState::Stale),
        })
    }

    fn news(&self) -> News {
        self.news.subscribe()
    }

    /// The slices of the running config, made once.
    fn slices(&self, running: &Effective) -> Arc<Slices> {
        let mut slices = lock(&self.slices);
        if let Some(known) = slices.as_ref().filter(|known| known.digest == running.digest) {
            return Arc::clone(known);
        }
        let fresh = Arc::new(Slices::new(running));
        *slices = Some(Arc::clone(&fresh));
        fresh
    }
}

/// A config on its way into effect: what it came in, and on whose word.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Digest of the config.
    pub(crate) effective: Arc<str>,
    pub(crate) bundle: Bundle,
    pub(crate) actor: String,
    /// What else the audit log shall say.
    pub(crate) more: Vec<(&'static str, Value)>,
}

/// What a config needs of files, read and not in effect yet.
pub(crate) struct Ready {
    callers: Callers,
}

/// What answers: the gateway, and the router that finds the route.
pub(crate) struct Desk {
    gateway: Arc<Gateway>,
}

impl Desk {
    fn endpoint(&self) -> &Endpoint {
        &self.gateway.endpoint
    }

    fn running(&self) -> Arc<Effective> {
        Arc::clone(&self.gateway.running().effective)
    }
}

/// A question that may be asked.
pub(crate) struct Ask {
    head: Parts,
    pass: Pass,
    who: Who,
    /// Values of the path.
    path: Vec<(String, String)>,
    body: Bytes,
}

impl Ask {
    /// The value of the path called `name`.
    fn part(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The query's names and values.
    fn query(&self) -> Result<Vec<(String, String)>, Problem> {
        axum::extract::Query::try_from_uri(&self.head.uri)
            .map(|query| query.0)
            .map_err(|_| Problem::malformed("the query cannot be read: write `?name=value`"))
    }

    /// What the body says, if it is a JSON document of this shape.
    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Problem::malformed(format!("the body is not what is expected: {error}"))
        })
    }
}

/// The listener of the config endpoint.
pub(crate) struct ConfigEntry {
    router: Router,
    desk: Arc<Desk>,
}

impl ConfigEntry {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Arc<Self> {
        let desk = Arc::new(Desk { gateway });
        Arc::new(Self { router: entrance::router(&desk), desk })
    }
}

impl Patient for ConfigEntry {
    type Body = Body;

    async fn ask(self: Arc<Self>, request: Request<Incoming>, caller: Caller) -> Reply<Body> {
        let mut answer = if let Some(why) = caller.refused {
            let status = why.failure().status().unwrap_or(StatusCode::BAD_REQUEST);
            axum::response::IntoResponse::into_response(Problem::new(status, why.detail()))
        } else {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(entrance::Arrived {
                certificate: caller.identity.clone(),
                flow: caller.flow.clone(),
            });
            let answer = self.router.clone().oneshot(request).await;
            answer.unwrap_or_else(|never| match never {})
        };
        match later::waiting(&mut answer) {
            None => Reply::Now(self.finish(answer)),
            Some(waiting) => Reply::Later(Box::pin(async move { self.finish(waiting.await) })),
        }
    }
}

impl ConfigEntry {
    /// What all answers have in common.
    fn finish(&self, mut answer: Response) -> Response {
        let headers = answer.headers_mut();
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if !headers.contains_key(http::header::CACHE_CONTROL) {
            let never = HeaderValue::from_static("no-store");
            headers.insert(http::header::CACHE_CONTROL, never);
        }
        self.desk.endpoint().meters.answer(entrance::how(answer.status()));
        answer
    }
}

/// 503 while the gateway stops.
fn stopping() -> Problem {
    Problem::later(StatusCode::SERVICE_UNAVAILABLE, 5, "the gateway is stopping: ask again")
}

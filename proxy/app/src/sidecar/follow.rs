//! The loop: slices of the gateway in, a running config out, and a word about each.
//!
//! The question for the next slice is held by the gateway on one connection; what this sidecar
//! says of itself goes on another. The digest that it calls active is that of what it runs: it is
//! computed again from the live config, and every listener must be there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tillgate_config::sidecar as language;
use tillgate_core::reconcile::{Poll, PollSpec, Polled};
use tillgate_net::{clock, threads};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::kept::{Kept, Slice};
use super::line::{Asked, Line, Unanswered, WAIT};
use super::{Booted, Finish, Spec};
use crate::bound::BuildError;
use crate::gateway::Gateway;
use crate::reload::{self, Before, ReloadError};
use crate::send::explain;

/// A third of the lease: one word may be lost.
const BEAT: Duration = Duration::from_secs(20);

/// What this machine did not let happen is tried again so often.
const AGAIN: Duration = Duration::from_secs(5);

/// A gateway that holds no question, or is gone, is asked so often. It is in the same store: some
/// hundred sidecars are as many small questions in this time.
const INTERVAL: Duration = Duration::from_secs(5);

/// A start that has lived so long was none that kills.
const LIVED: Duration = Duration::from_secs(60);

/// What an instance may say in one text; the gateway refuses more.
const TEXT_MAX: usize = 1000;

/// A slice that could not be put in effect, and why.
struct Refused {
    slice: Slice,
    code: &'static str,
    message: String,
    path: Option<String>,
    /// The machine may be another one later; the slice will not.
    may_pass: bool,
}

/// See the module.
pub(super) struct Follower {
    gateway: Arc<Gateway>,
    spec: Spec,
    kept: Kept,
    finish: Finish,
    /// The digest of the slice that was put in effect last, and that of what it means here.
    active: Option<(Arc<str>, Arc<str>)>,
    refused: Option<Refused>,
    suspect: Option<Arc<str>>,
    line: Line,
    boot_id: String,
    /// What the gateway has not heard yet.
    unsaid: Option<Value>,
    /// Why the gateway cannot be reached, if so.
    asking: Option<String>,
    saying: Option<String>,
    began: Instant,
    lived: bool,
}

type Answer = (Result<Asked, Unanswered>, oneshot::Sender<()>);

impl Follower {
    pub(super) fn new(booted: Booted, gateway: Arc<Gateway>) -> Self {
        let Booted { spec, kept, finish, active, suspect, .. } = booted;
        let means = Arc::clone(&gateway.running().effective.digest);
        let died = |digest: &Arc<str>| {
            json!({
                "digest": &**digest,
                "result": "Rejected",
                "error": {"code": "DIED", "message": "it ended this process again and again"},
            })
        };
        Self {
            unsaid: suspect.as_ref().map(died),
            line: Line::new(&spec, Arc::clone(&gateway.tls)),
            gateway,
            spec,
            kept,
            finish,
            active: active.map(|digest| (digest, means)),
            refused: None,
            suspect,
            boot_id: format!("{:016x}", fastrand::u64(..)),
            asking: None,
            saying: None,
            began: clock::now(),
            lived: false,
        }
    }

    /// Follows until aborted.
    pub(super) async fn run(&mut self) {
        let (tell, mut answers) = mpsc::channel(1);
        let (known, knows) = watch::channel(self.known());
        let mut asking = JoinSet::new();
        let line = Line::new(&self.spec, Arc::clone(&self.gateway.tls));
        asking.spawn(ask(line, self.active.is_some(), knows, tell));
        if let Some(enrolling) = self.spec.enrolling.clone() {
            let tls = Arc::clone(&self.gateway.tls);
            asking.spawn(async move { enrolling.run(tls).await });
        }
        let mut next_beat = clock::now();
        loop {
            tokio::select! {
                answer = answers.recv() => {
                    let Some((answer, heard)) = answer else { return };
                    if answer.is_ok() && (self.asking.is_some() || self.saying.is_some()) {
                        // It is back, and may have forgotten who is there.
                        next_beat = clock::now();
                    }
                    self.hear(answer).await;
                    known.send_replace(self.known());
                    let _ = heard.send(());
                }
                () = tokio::time::sleep_until(next_beat.into()) => {
                    self.beat().await;
                    known.send_replace(self.known());
                    let may_pass = self.refused.as_ref().is_some_and(|refused| refused.may_pass);
                    let pause = if may_pass { AGAIN } else { BEAT };
                    next_beat = clock::now() + pause.mul_f64(0.9 + fastrand::f64() / 5.0);
                }
            }
            self.show();
            threads::release_freed();
        }
    }

    /// It was told to stop, which is not dying young.
    pub(super) fn end(&self) {
        self.kept.lived();
    }

    /// The digests of slices that need not be sent: the active one, and those that are refused.
    fn known(&self) -> Vec<Arc<str>> {
        let active = self.active.as_ref().map(|(digest, _)| digest);
        let refused = self.refused.as_ref().map(|refused| &refused.slice.digest);
        active.into_iter().chain(refused).chain(&self.suspect).cloned().collect()
    }

    async fn hear(&mut self, answer: Result<Asked, Unanswered>) {
        let outcome = answer.as_ref().map(|_| ()).map_err(|error| error.why.clone());
        note(&mut self.asking, outcome, "the gateway gives no config; what runs stays");
        match answer {
            Ok(Asked::Slice(slice)) => {
                self.take(slice);
                self.say().await;
            }
            Ok(Asked::Same { digest: Some(digest), .. }) => self.keep_to(&digest),
            Ok(Asked::Same { digest: None, .. }) | Err(_) => {}
        }
    }

    /// The gateway wants `digest`, which is known here: what it wanted before and was refused is
    /// not tried again.
    fn keep_to(&mut self, digest: &str) {
        self.refused.take_if(|refused| *refused.slice.digest != *digest);
        self.suspect.take_if(|suspect| **suspect != *digest);
    }

    /// Puts a slice in effect, or says why not.
    fn take(&mut self, slice: Slice) {
        let digest = Arc::clone(&slice.digest);
        match self.put(slice) {
            Ok(slice) => {
                tracing::info!(digest = &*digest, "a slice of the gateway is in effect");
                self.kept.keep(&slice);
                (self.refused, self.suspect) = (None, None);
            }
            Err(refused) => {
                // Whoever hears it again has heard it.
                let is_news =
                    self.refused.as_ref().is_none_or(|known| known.slice.digest != digest);
                if is_news {
                    reload::failed(&self.gateway, &refused.message);
                }
                self.refused = Some(*refused);
            }
        }
        self.unsaid = Some(self.acknowledgement(&digest));
    }

    fn put(&mut self, slice: Slice) -> Result<Slice, Box<Refused>> {
        let beside = &self.spec.beside;
        let effective = match threads::making_way(|| language::load(&slice.text, beside)) {
            Ok(effective) => (self.finish)(effective),
            Err(report) => {
                let path = report.errors.first().map(|one| one.path.clone());
                let message = super::why(&report);
                let code = "INVALID_CONFIG";
                return Err(Box::new(Refused { slice, code, message, path, may_pass: false }));
            }
        };
        let means = Arc::clone(&effective.digest);
        if let Err(error) = reload::put(&self.gateway, effective, Before::Minimal) {
            let message = explain(&error);
            let (code, path) = match &error {
                ReloadError::Build(BuildError::Listen { name, .. }) => {
                    ("LISTENER_BIND", Some(format!("Listener/{name}")))
                }
                ReloadError::Tls(_) => ("TLS_FILE", None),
                ReloadError::OtherStore { .. }
                | ReloadError::Build(_)
                | ReloadError::Names(_)
                | ReloadError::Busy(_)
                | ReloadError::Stopping => ("NOT_APPLIED", None),
            };
            return Err(Box::new(Refused { slice, code, message, path, may_pass: true }));
        }
        self.active = Some((Arc::clone(&slice.digest), means));
        Ok(slice)
    }

    /// The digest of the slice that really runs, computed from what does.
    fn programmed(&self) -> Option<&Arc<str>> {
        let (digest, means) = self.active.as_ref()?;
        let running = Arc::clone(&self.gateway.running().effective);
        let shown = self.gateway.listeners.shown();
        let listens =
            running.listeners.iter().all(|one| shown.iter().any(|it| it.name == one.name));
        if listens && running.whole().digest == *means {
            return Some(digest);
        }
        tracing::error!("what runs is not what the slice says");
        None
    }

    fn acknowledgement(&self, about: &str) -> Value {
        let refused = self.refused.as_ref().filter(|refused| *refused.slice.digest == *about);
        let short = |text: &str| text.chars().take(TEXT_MAX / 4).collect::<String>();
        let mut said = json!({
            "digest": about,
            "result": if refused.is_some() { "Rejected" } else { "Applied" },
        });
        if let Some(Refused { code, message, path, .. }) = refused {
            let path = path.as_deref().map(short);
            said["error"] = json!({"code": code, "message": short(message), "path": path});
        }
        if let Some(active) = self.programmed() {
            said["activeDigest"] = json!(&**active);
        }
        said
    }

    /// Keeps the lease, says what was not said, and tries again what may pass now.
    async fn beat(&mut self) {
        if !self.lived && clock::now().saturating_duration_since(self.began) >= LIVED {
            self.lived = true;
            self.kept.lived();
        }
        if let Some(refused) = self.refused.take_if(|refused| refused.may_pass) {
            let slice = refused.slice.clone();
            // So that it is not told again.
            self.refused = Some(refused);
            self.take(slice);
        }
        let (id, workload) = self.spec.who();
        let own = json!({
            "bootId": self.boot_id,
            "workload": workload,
            "version": env!("CARGO_PKG_VERSION"),
            "activeDigest": self.programmed().map(|digest| &**digest),
        });
        let path = format!("/v1/instances/{id}");
        let told = self.line.tell(Method::PUT, &path, &own).await;
        self.note_said(told);
        self.say().await;
    }

    /// Says what the gateway has not heard of the last slice.
    async fn say(&mut self) {
        if self.saying.is_some() {
            // It is said once the gateway answers again.
            return;
        }
        let Some(said) = self.unsaid.take() else { return };
        let path = format!("/v1/instances/{}/ack", self.spec.who().0);
        let told = self.line.tell(Method::POST, &path, &said).await;
        if told.is_err() {
            self.unsaid = Some(said);
        }
        self.note_said(told);
    }

    fn note_said(&mut self, told: Result<(), Unanswered>) {
        let told = told.map_err(|error| error.why);
        note(&mut self.saying, told, "the gateway does not hear what this sidecar runs");
    }

    /// What `/v1/status` says of it.
    fn show(&self) {
        let refused = self.refused.as_ref().map(|refused| {
            let Refused { slice, code, message, path, .. } = refused;
            json!({"digest": &*slice.digest, "code": code, "message": message, "path": path})
        });
        let address = &self.spec.address;
        self.gateway.policy.set(json!({
            "sidecar": {
                "id": self.spec.who().0,
                "configFrom": format!("https://{}:{}", address.host, address.port),
                "activeDigest": self.active.as_ref().map(|(digest, _)| &**digest),
                "refused": refused,
                "asking": self.asking,
                "saying": self.saying,
                "enrolment": self.spec.enrolling.as_ref().map(|it| it.shown()),
            },
        }));
    }
}

/// Notes whether something works, and tells the log when that changes.
fn note(state: &mut Option<String>, outcome: Result<(), String>, what: &str) {
    match (&state, outcome) {
        (Some(_), Ok(())) => {
            tracing::info!("the gateway answers again");
            *state = None;
        }
        (None, Ok(())) => {}
        (Some(known), Err(why)) if *known == why => {}
        (_, Err(why)) => {
            tracing::warn!(why, "{what}");
            *state = Some(why);
        }
    }
}

/// Asks for the next slice until nobody listens.
async fn ask(
    mut line: Line,
    something: bool,
    knows: watch::Receiver<Vec<Arc<str>>>,
    answers: mpsc::Sender<Answer>,
) {
    let spec = PollSpec { interval: INTERVAL, long_poll: WAIT, spread: INTERVAL };
    // Whoever has something comes a little later, by chance: all sidecars of a store may have been
    // started by the same hand.
    let phase = if something { fastrand::u64(..) / 8 } else { 0 };
    let mut poll = Poll::new(spec, phase, something, clock::now());
    loop {
        tokio::time::sleep_until(poll.poll_timeout().into()).await;
        poll.begin(clock::now());
        let known = knows.borrow().clone();
        let answer = line.config(&known).await;
        let polled = match &answer {
            Ok(Asked::Same { held, .. }) => Polled::Answered { held: *held && !known.is_empty() },
            Ok(Asked::Slice(_)) => Polled::Answered { held: true },
            Err(error) => Polled::Failed { retry_after: error.retry_after },
        };
        poll.handle_polled(polled, fastrand::u64(..), clock::now());
        let (heard, hears) = oneshot::channel();
        if answers.send((answer, heard)).await.is_err() || hears.await.is_err() {
            return;
        }
    }
}

//! How a sidecar comes to its certificate: a token once, then the certificate itself, at half of
//! its life, for ever.
//!
//! What is served never waits for it. A gateway that is away is asked again; one that refuses the
//! certificate, because it has run out or the store has another authority, is shown what the
//! token's file has then; a token that was refused is shown again now and then, because the
//! gateway may have been wrong about it. What TLS reads is replaced on the disk and taken at once;
//! connections that were opened with the old one are let go.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};
use tillgate_config::bundle::{digest, wall_text};
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;
use tillgate_net::tls::{OwnKey, Tls};
use tokio::sync::{Notify, watch};

use super::identity::{Identity, Place};
use super::line::{Line, Unanswered};
use crate::client::{self, Address, Credentials};
use crate::endpoint::private_text;
use crate::send::explain;

/// What does not work is tried again after this, twice as late each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(15);

/// A sleep is no longer, so that a clock that was set is seen.
const LOOK: Duration = Duration::from_secs(600);

/// See the module.
pub(crate) struct Enrolling {
    address: Address,
    /// Whom we trust; without anything to show.
    credentials: Credentials,
    token_file: PathBuf,
    place: Place,
    state: Mutex<State>,
    /// Another certificate counts.
    renewed: watch::Sender<()>,
    /// It is due earlier.
    sooner: Notify,
}

#[derive(Default)]
struct State {
    held: Option<Identity>,
    /// It is of another life of this process: when it was given is known by the wall clock alone.
    /// In there is how much later than the earliest it is renewed (0 to 1).
    kept_by: Option<f64>,
    /// When it is to be renewed, or asked for.
    due: Option<Instant>,
    /// When that was done last.
    asked: Option<Instant>,
    failures: u32,
    /// Why there is no other one, if so.
    failing: Option<String>,
    /// A token that was spent or refused.
    spent: Option<Spent>,
}

/// A token that is not shown now.
struct Spent {
    /// Its hash.
    token: String,
    /// What the gateway said of it.
    why: String,
    /// When it is shown again.
    again: Instant,
}

impl Enrolling {
    /// With what is kept in `state`, or nothing yet.
    pub(super) fn new(
        address: Address,
        credentials: Credentials,
        token_file: PathBuf,
        place: Place,
    ) -> Self {
        let held = place.read().unwrap_or_else(|why| {
            tracing::error!(
                "this sidecar's certificate cannot be used, another is asked for: {why}"
            );
            None
        });
        let (now, wall) = (clock::now(), clock::wall_seconds());
        // Drawn once: of many draws the least would count.
        let chance = fastrand::f64();
        let due = held.as_ref().map(|held| now + due(held, wall, chance));
        let kept_by = held.is_some().then_some(chance);
        let state = Mutex::new(State { held, due, kept_by, ..State::default() });
        let (renewed, sooner) = (watch::Sender::new(()), Notify::new());
        Self { address, credentials, token_file, place, state, renewed, sooner }
    }

    /// Who this is, once that is known.
    pub(super) fn held(&self) -> Option<Identity> {
        self.state().held.clone()
    }

    /// Why nobody can be asked yet, if so.
    pub(super) fn not_yet(&self) -> Option<String> {
        let state = self.state();
        let why = state.failing.as_deref().unwrap_or("it is asked for");
        state.held.is_none().then(|| format!("this sidecar has no certificate yet: {why}"))
    }

    /// The gateway does not take what is held: another one is asked for now.
    pub(super) fn refused(&self) {
        let mut state = self.state();
        let soon = state.asked.map_or_else(clock::now, |asked| asked + AGAIN_MAX);
        if state.failing.is_none() && state.due.is_some_and(|due| soon < due) {
            state.due = Some(soon);
            self.sooner.notify_one();
        }
    }

    /// Tells that connections are to be opened anew.
    pub(super) fn renewed(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    /// What `/v1/status` says of it.
    pub(super) fn shown(&self) -> Value {
        let state = self.state();
        let text = |seconds: u64| wall_text(Wall(seconds));
        json!({
            "id": state.held.as_ref().map(|held| &*held.id),
            "notAfter": state.held.as_ref().map(|held| text(held.not_after)),
            "renewAfter": state.held.as_ref().map(|held| text(held.renew_after)),
            "failing": state.failing,
        })
    }

    /// Renews until aborted.
    pub(super) async fn run(&self, tls: Arc<Tls>) {
        loop {
            self.state().look_at_clock(clock::now(), clock::wall_seconds());
            self.step(&tls).await;
            let due = self.state().due.unwrap_or_else(clock::now);
            tokio::select! {
                () = tokio::time::sleep_until(due.min(clock::now() + LOOK).into()) => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    /// Does what is due.
    pub(super) async fn step(&self, tls: &Arc<Tls>) {
        if self.state().due.is_some_and(|due| clock::now() < due) {
            return;
        }
        self.state().asked = Some(clock::now());
        match self.next(tls).await {
            Ok(identity) => self.took(identity, tls),
            Err(why) => self.failed(why),
        }
    }

    fn took(&self, identity: Identity, tls: &Tls) {
        let until = wall_text(Wall(identity.not_after));
        tracing::info!(id = &*identity.id, until, "this sidecar has another certificate");
        let due = Some(in_half(&identity));
        {
            let mut state = self.state();
            *state = State { held: Some(identity), due, asked: state.asked, ..State::default() };
        }
        tls.check_files();
        self.renewed.send_replace(());
    }

    fn failed(&self, why: Unanswered) {
        let mut state = self.state();
        let ended = state.held.as_ref().filter(|held| has_ended(held));
        let told = match ended {
            None => why.why,
            Some(held) => format!(
                "the certificate has run out ({}); what runs goes on: put another token of \
                 `tillgate enrol {}` into {}: {}",
                wall_text(Wall(held.not_after)),
                held.id,
                self.token_file.display(),
                why.why
            ),
        };
        if state.failing.as_ref() != Some(&told) {
            tracing::warn!("this sidecar gets no certificate: {told}");
        }
        state.failing = Some(told);
        let pause = AGAIN.saturating_mul(1 << state.failures.min(8)).min(AGAIN_MAX);
        state.failures = state.failures.saturating_add(1);
        let pause = why.retry_after.unwrap_or_default().min(LOOK).max(pause);
        state.due = Some(clock::now() + pause.mul_f64(0.75 + fastrand::f64() / 2.0));
    }

    /// Another certificate, by what there is to show.
    async fn next(&self, tls: &Arc<Tls>) -> Result<Identity, Unanswered> {
        let Some(held) = self.held() else { return self.exchange(tls).await };
        let file = Some(self.place.file());
        let own = Credentials { cert: file.clone(), key: file, ..self.credentials.clone() };
        let key = OwnKey::generate().map_err(|error| explain(&error))?;
        let refused = match self.ask(own, &key, tls).await {
            Ok(identity) => return Ok(identity),
            Err(refused) => refused,
        };
        let is_refused =
            matches!(refused.status, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN));
        if !is_refused && !has_ended(&held) {
            return Err(refused);
        }
        let exchanged = self.exchange(tls).await;
        exchanged
            .map_err(|other| Unanswered { why: format!("{}; {}", refused.why, other.why), ..other })
    }

    /// A certificate for the token in the file, if it was not refused before.
    async fn exchange(&self, tls: &Arc<Tls>) -> Result<Identity, Unanswered> {
        let file = self.token_file.display();
        let bearer = client::bearer(&self.token_file)?;
        // A cluster's token is good until it ends, and its gateway may learn of its key later.
        let is_once = !client::is_jwt(bearer.as_bytes());
        if is_once {
            private_text(&self.token_file).map_err(|error| explain(&error))?;
        }
        let (token, now) = (digest(bearer.as_bytes()), clock::now());
        let spent = self.state().spent(&token, now);
        if let Some(why) = spent {
            return Err(format!("the token in {file} was refused: {why}").into());
        }
        let key = self.place.next_key()?;
        let token_file = Some(self.token_file.clone());
        let asked =
            self.ask(Credentials { token_file, ..self.credentials.clone() }, &key, tls).await;
        if let Err(error) = &asked
            && error.status == Some(StatusCode::UNAUTHORIZED)
            && is_once
        {
            let (why, again) = (error.why.clone(), clock::now() + LOOK);
            self.state().spent = Some(Spent { token, why, again });
        }
        asked
    }

    async fn ask(
        &self,
        credentials: Credentials,
        key: &OwnKey,
        tls: &Arc<Tls>,
    ) -> Result<Identity, Unanswered> {
        let csr = key.request().map_err(|error| explain(&error))?;
        let mut line = Line::to(self.address.clone(), credentials, Arc::clone(tls));
        let told = line.ask("/v1/enrol", &json!({ "csr": csr })).await?;
        Ok(self.place.keep(key, &told)?)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What was said of the token with this hash, if it is not to be shown now.
    fn spent(&self, token: &str, now: Instant) -> Option<String> {
        let spent = self.spent.as_ref().filter(|spent| spent.token == token && now < spent.again);
        spent.map(|spent| spent.why.clone())
    }

    /// The wall clock may have been set since.
    fn look_at_clock(&mut self, now: Instant, wall: u64) {
        let kept = self.held.as_ref().zip(self.kept_by);
        let Some((held, chance)) = kept.filter(|_| self.failing.is_none()) else { return };
        let due = now + due(held, wall, chance);
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }
}

fn has_ended(held: &Identity) -> bool {
    held.not_after <= clock::wall_seconds()
}

/// When to renew one that was given now: whatever the clock here shows beside the gateway's, not
/// before half of its life.
fn in_half(held: &Identity) -> Instant {
    let half = Duration::from_secs(held.half());
    clock::now() + half + half.mul_f64(fastrand::f64() / 5.0)
}

/// A clock this far behind what was seen before was set back, or has no battery.
const BEHIND: u64 = 60;

/// In how long to renew one that was kept, at `wall`: as the gateway said, a little later by
/// `chance` (0 to 1). By a clock that shows an earlier time than when it was given nobody knows how
/// much is left, so it is renewed now; who has run out has no time to wait either.
fn due(held: &Identity, wall: u64, chance: f64) -> Duration {
    let half = held.half();
    let given = held.renew_after.saturating_sub(half);
    if wall.saturating_add(BEHIND) < given {
        return Duration::ZERO;
    }
    let left = held.renew_after.saturating_sub(wall).min(half);
    let spread = half.min(held.not_after.saturating_sub(wall));
    let spread = Duration::from_secs(spread).mul_f64(chance / 5.0);
    Duration::from_secs(left) + spread
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: u64 = 1_790_000_000;
    const HOUR: u64 = 3600;

    fn held() -> Identity {
        let (not_after, renew_after) = (GIVEN + 24 * HOUR, GIVEN + 12 * HOUR);
        Identity { id: "pos-1".into(), workload: None, not_after, renew_after }
    }

    #[test]
    fn what_was_kept_is_renewed_in_time_by_any_clock() {
        let hours = |hours: u64| Duration::from_secs(hours * HOUR);
        for (wall, least, most) in [
            (GIVEN, 12, 15),
            (GIVEN + 6 * HOUR, 6, 9),
            (GIVEN + 12 * HOUR, 0, 3),
            (GIVEN + 23 * HOUR, 0, 1),
            // Nobody knows how old it is.
            (0, 0, 0),
            (GIVEN - HOUR, 0, 0),
            (GIVEN + 25 * HOUR, 0, 0),
            (u64::MAX, 0, 0),
        ] {
            let due = [0.0, 1.0].map(|chance| due(&held(), wall, chance));
            assert!(hours(least) <= due[0] && due[1] <= hours(most), "{wall}: {due:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_is_seen() {
        let now = clock::now();
        let due = |state: &State| state.due.unwrap().saturating_duration_since(now).as_secs();
        let kept = |due: u64| State {
            held: Some(held()),
            kept_by: Some(0.5),
            due: Some(now + Duration::from_secs(due)),
            ..State::default()
        };
        let mut state = kept(14 * HOUR);
        state.look_at_clock(now, GIVEN + 23 * HOUR);
        assert!(due(&state) <= HOUR, "{}", due(&state));
        let mut state = kept(60);
        state.look_at_clock(now, GIVEN);
        assert_eq!(due(&state), 60, "never later");
        // What was given in this life has its time by the other clock.
        let mut state = State { kept_by: None, ..kept(14 * HOUR) };
        state.look_at_clock(now, GIVEN + 23 * HOUR);
        assert_eq!(due(&state), 14 * HOUR);
    }

    #[test]
    fn a_token_that_was_refused_is_shown_again_later_and_another_one_now() {
        let now = clock::now();
        let spent = Spent { token: "a".into(), why: "no".into(), again: now + LOOK };
        let state = State { spent: Some(spent), ..State::default() };
        assert_eq!(state.spent("a", now).as_deref(), Some("no"));
        assert_eq!(state.spent("b", now), None);
        assert_eq!(state.spent("a", now + LOOK), None);
    }
}

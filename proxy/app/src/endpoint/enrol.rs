//! Enrolment: how a sidecar gets a certificate of the store's own authority, and renews it.
//!
//! An operator has a token minted, a sidecar exchanges it once, and renews with what it has, for
//! ever and without a centre. Whom a certificate is for is said by the credential; of a request
//! only the key is taken, of who has it. All that is written is on disk before it is answered, so
//! it is done apart from the runtime, one after the other, for as many as may wait.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_config::scalar::{DurationText, Text as _};
use tillgate_core::endpoint::{EnrolmentSpec, Roles, Who, is_name, is_workload};
use tillgate_core::reconcile::Wall;
use tillgate_core::tls::ClientIdentity;
use tillgate_net::clock::{self, Floor};
use tillgate_net::metrics::Enrolled;
use tillgate_net::rarely::Rarely;
use tillgate_net::tls::{self, Authority, RequestError, RequestedKey, Tls};
use tokio::sync::Semaphore;

pub(super) use self::credential::Identity;
use self::credential::Voucher;
use self::tokens::{TokenError, Tokens};
use super::audit::{Action, Record};
use super::callers::Credential;
use super::problem::Problem;
use super::{Ask, Desk, answers, lock, workload_token};
use crate::send::explain;
use crate::sources::apart::apart;

mod authority;
mod credential;
mod tokens;

/// Questions that may wait for their turn: all sidecars of a store come at once after an outage,
/// and a turn is a signature and two writes.
const WAITING: usize = 256;

/// How long a token is good if nobody says.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// How long at most: a week to set up a machine.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// What was refused is told once in this time, each kind by itself, with its number.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The disk does not take it, or nobody can sign.
const NOT_NOW: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// The same, for whoever is not known.
const BROKEN: &str = "the gateway cannot enrol sidecars now; its log says why: ask again later";

/// See the module.
pub(super) struct Enrolment {
    /// What the policy said at the start.
    began: Kept,
    state: Result<Arc<Open>, Off>,
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    /// Of tokens that are not known, have run out and were exchanged, of others' certificates, and
    /// of tokens that could not be looked up.
    refused: Mutex<[Rarely; 5]>,
}

/// Where the authority is, and how long its certificates are good; `None` without enrolment.
type Kept = Option<(Arc<Path>, Duration)>;

fn kept(spec: Option<&EnrolmentSpec>) -> Kept {
    spec.and_then(|spec| Some((Arc::clone(spec.directory.as_ref()?), spec.lifetime)))
}

/// Why there is none.
enum Off {
    /// The policy says so.
    NotHere,
    /// Something is wrong.
    Broken(String),
}

/// What it needs.
struct Open {
    authority: Authority,
    tokens: Mutex<Tokens>,
    lifetime: Duration,
    floor: Arc<Floor>,
}

/// Why somebody gets no certificate.
enum Refused {
    /// The token says so.
    Token(TokenError),
    /// It shows something that counts elsewhere.
    Elsewhere(&'static str),
}

impl Enrolment {
    /// Reads or makes the authority, which counts in `tls` from here on.
    pub(super) fn open(spec: Option<&EnrolmentSpec>, tls: &Tls) -> Self {
        let began = kept(spec);
        let state = began.clone().ok_or(Off::NotHere).and_then(|(directory, lifetime)| {
            let floor = Arc::clone(tls.floor());
            let authority = authority::open(&directory, floor.wall_seconds()).map_err(|why| {
                tracing::error!("sidecars cannot be enrolled: {why}");
                Off::Broken(why)
            })?;
            tls.trust(&authority);
            let tokens = Mutex::new(Tokens::new(&directory));
            Ok(Arc::new(Open { authority, tokens, lifetime, floor }))
        });
        Self {
            began,
            state,
            places: Arc::new(Semaphore::new(WAITING)),
            turn: Arc::new(Semaphore::new(1)),
            refused: Mutex::default(),
        }
    }

    /// Says so if the policy wants another authority than the one of the start: it has signed
    /// what sidecars run on.
    pub(super) fn follow(&self, spec: Option<&EnrolmentSpec>) {
        if kept(spec) != self.began {
            tracing::warn!(
                "another `enrolment` of sidecars counts from the next start of the gateway on"
            );
        }
    }

    /// What it needs, if it is here.
    fn ready(&self) -> Result<&Arc<Open>, Problem> {
        self.state.as_ref().map_err(|off| match off {
            Off::NotHere => Problem::conflict(
                "no sidecar is enrolled here: that needs a `configEndpoint` with `clientAuth: \
                 Token`, and a Bootstrap's `stateDir` or `enrolment: {directory}` to keep the \
                 store's authority",
            ),
            Off::Broken(why) => Problem::later(NOT_NOW, 60, why.clone()),
        })
    }

    /// Does something with it, apart from the runtime, when it is its turn.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Open) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let open = Arc::clone(self.ready()?);
        let busy = "too many sidecars ask at once: ask again";
        let busy = |_| Problem::later(StatusCode::TOO_MANY_REQUESTS, 5, busy);
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(busy)?;
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let done = apart(move || {
            // Held to the end, even if nobody waits for it any more.
            let _held = (place, turn);
            work(&open)
        });
        done.await.map_err(|why| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why))
    }
}

impl Open {
    /// Whom `token` is for, if it can be exchanged.
    fn find(&self, token: &[u8]) -> Result<Identity, Refused> {
        let found = lock(&self.tokens).find(token, self.floor.wall_seconds());
        found.map_err(Refused::Token)
    }

    /// Takes `token`, which opens nothing from here on; whom it is for.
    fn exchange(&self, token: &[u8]) -> Result<Identity, Refused> {
        let found = lock(&self.tokens).exchange(token, self.floor.wall_seconds());
        found.map_err(Refused::Token)
    }

    /// A certificate for `identity`, with what is told of it.
    fn issue(&self, identity: &Identity, key: &RequestedKey) -> Result<Value, Failed> {
        let now = self.floor.wall_seconds();
        let Identity { id, workload } = identity;
        let names = Who::sidecar_names(id, workload.as_deref());
        let not_after = now.saturating_add(self.lifetime.as_secs());
        let certificate = self.authority.issue(key, &names, not_after);
        let certificate = certificate.map_err(|error| Failed::Unsigned(explain(&error)))?;
        Ok(json!({
            "id": &**id,
            "workload": workload.as_deref(),
            "certificate": certificate,
            "authority": self.authority.pem(),
            "notAfter": wall_text(Wall(not_after)),
            "renewAfter": wall_text(Wall(now.saturating_add(self.lifetime.as_secs() / 2))),
        }))
    }
}

/// Why there is no certificate after all.
enum Failed {
    Refused(Refused),
    Unsigned(String),
}

impl From<Refused> for Failed {
    fn from(why: Refused) -> Self {
        Self::Refused(why)
    }
}

/// What an operator asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    id: String,
    workload: Option<String>,
    expires_in: Option<String>,
}

impl Wanted {
    fn check(self) -> Result<(Identity, Duration), Problem> {
        if !is_name(&self.id) {
            let detail =
                "`id` is letters, digits, `-`, `.` and `_`, as the sidecar is to be called";
            return Err(Problem::malformed(detail));
        }
        if self.workload.as_deref().is_some_and(|workload| !is_workload(workload)) {
            return Err(Problem::malformed("`workload` is a namespace and a name: `pos/checkout`"));
        }
        let asked = self.expires_in.as_deref().map(DurationText::read).transpose();
        let asked = asked.map_err(|why| Problem::malformed(format!("`expiresIn`: {why}")))?;
        let lifetime = asked.map_or(TOKEN_LIFETIME, |asked| asked.0);
        if lifetime < Duration::from_secs(1) || lifetime > TOKEN_LIFETIME_MAX {
            let detail = "`expiresIn` is a second to a week: `1s` to `168h`";
            return Err(Problem::invalid(detail, Vec::new()));
        }
        Ok((Identity { id: self.id.into(), workload: self.workload.map(Into::into) }, lifetime))
    }
}

/// `POST /v1/enrolments`.
pub(super) async fn mint(desk: &Arc<Desk>, ask: &Ask) -> Result<Response, Problem> {
    let (identity, lifetime) = ask.json::<Wanted>()?.check()?;
    let (records, actor) = (Arc::clone(desk), ask.who.actor.to_string());
    let work = move |open: &Open| {
        let now = open.floor.wall_seconds();
        let token = lock(&open.tokens).mint(&identity, lifetime, now)?;
        let Identity { id, workload } = &identity;
        let expires = wall_text(Wall(now.saturating_add(lifetime.as_secs())));
        let fields = vec![
            ("id", json!(&**id)),
            ("workload", json!(workload.as_deref())),
            ("expiresAt", json!(expires)),
        ];
        records.endpoint().record(Record { action: Action::EnrolToken, actor, fields });
        Ok::<_, TokenError>(json!({
            "token": token, "id": &**id, "workload": workload.as_deref(), "expiresAt": expires,
        }))
    };
    match desk.endpoint().enrolment.apart(work).await? {
        Ok(minted) => Ok((StatusCode::CREATED, answers::document(&minted)).into_response()),
        Err(error @ TokenError::Full) => {
            Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, 60, error.to_string()))
        }
        Err(error) => Err(Problem::later(NOT_NOW, 60, error.to_string())),
    }
}

/// Who asks for a certificate, if there is one for him.
pub(super) async fn asker(
    desk: &Arc<Desk>,
    headers: &HeaderMap,
    credential: &Credential,
) -> Result<Who, Problem> {
    let enrolment = &desk.endpoint().enrolment;
    // Strangers are not told where what is broken lies.
    if matches!(enrolment.state, Err(Off::Broken(_))) {
        return Err(Problem::later(NOT_NOW, 60, BROKEN));
    }
    enrolment.ready()?;
    let (kind, found) = match Voucher::of(headers, credential) {
        None => return Err(Problem::unknown_caller()),
        Some(Voucher::Token(token)) => {
            let token = token.to_vec();
            ("enrolment", enrolment.apart(move |open| open.find(&token)).await?)
        }
        Some(Voucher::Workload(token)) => {
            let admitted = workload_token::admit(desk, token).await;
            let refused = |_: &Problem| desk.endpoint().meters.enrolled(Enrolled::Refused);
            ("workload", Ok(admitted.inspect_err(refused)?))
        }
        Some(Voucher::Certificate(shown)) => {
            ("certificate", of_certificate(shown, desk.gateway.tls.floor()))
        }
    };
    let Identity { id, workload } = found.map_err(|why| refuse(desk, why))?;
    let actor = format!("{kind}:{id}").into();
    Ok(Who { actor, name: id, roles: Roles::NONE, workload })
}

/// Whom a certificate is for, if it can be renewed here.
fn of_certificate(shown: &ClientIdentity, floor: &Floor) -> Result<Identity, Refused> {
    let who = Who::of_certificate(shown).filter(|_| tls::may_renew(shown, floor));
    let who = who.ok_or(Refused::Elsewhere(
        "only certificates of the store's own authority are renewed here; for a first one show an \
         enrolment token as `Authorization: Bearer …`",
    ))?;
    Ok(Identity { id: who.name, workload: who.workload })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestText {
    csr: String,
}

/// `POST /v1/enrol`.
pub(super) async fn exchange(desk: &Arc<Desk>, ask: &Ask) -> Result<Response, Problem> {
    let RequestText { csr } = ask.json()?;
    let key = RequestedKey::of_request(&csr).map_err(|why| match why {
        RequestError::Malformed => Problem::malformed(format!("`csr`: {why}")),
        RequestError::OtherKey | RequestError::Unproven => {
            Problem::invalid(format!("`csr`: {why}"), Vec::new())
        }
    })?;
    let (token, is_renewal) = match Voucher::of(&ask.head.headers, &ask.pass.credential) {
        None => return Err(Problem::unknown_caller()),
        Some(Voucher::Token(token)) => (Some(token.to_vec()), false),
        Some(Voucher::Workload(_)) => (None, false),
        Some(Voucher::Certificate(_)) => (None, true),
    };
    let (records, actor) = (Arc::clone(desk), ask.who.actor.to_string());
    let known = Identity { id: Arc::clone(&ask.who.name), workload: ask.who.workload.clone() };
    let work = move |open: &Open| {
        let told = open.issue(&known, &key)?;
        if let Some(token) = &token {
            // Whom it is for cannot change; whoever is second gets nothing.
            open.exchange(token)?;
        }
        let fields = ["id", "workload", "notAfter"].map(|name| (name, told[name].clone())).into();
        let action = if is_renewal { Action::EnrolRenew } else { Action::Enrol };
        records.endpoint().record(Record { action, actor, fields });
        Ok::<_, Failed>(told)
    };
    match desk.endpoint().enrolment.apart(work).await? {
        Ok(told) => {
            let how = if is_renewal { Enrolled::Renewed } else { Enrolled::First };
            desk.endpoint().meters.enrolled(how);
            Ok((StatusCode::CREATED, answers::document(&told)).into_response())
        }
        Err(Failed::Refused(why)) => Err(refuse(desk, why)),
        Err(Failed::Unsigned(why)) => Err(Problem::later(NOT_NOW, 60, why)),
    }
}

/// Counts a refusal, and tells it now and then.
fn refuse(desk: &Desk, why: Refused) -> Problem {
    desk.endpoint().meters.enrolled(Enrolled::Refused);
    let told = |kind: usize| {
        lock(&desk.endpoint().enrolment.refused)[kind].happens(TOLD_EVERY, clock::now())
    };
    let (kind, whose, reason) = match &why {
        Refused::Token(TokenError::Unknown) => (0, None, "unknown token"),
        Refused::Token(TokenError::Expired(whose)) => (1, Some(whose), "token that has run out"),
        Refused::Token(TokenError::Used(whose)) => (2, Some(whose), "token shown again"),
        Refused::Elsewhere(_) => (3, None, "certificate of another authority"),
        Refused::Token(error @ (TokenError::Full | TokenError::Disk(_))) => {
            if let Some(count) = told(4) {
                tracing::error!(count, "no certificate for a sidecar: {error}");
            }
            return Problem::later(NOT_NOW, 60, BROKEN);
        }
    };
    if let Some(count) = told(kind) {
        let id = whose.map(|whose| &*whose.id);
        tracing::warn!(id, count, "no certificate for a sidecar: {reason}");
        let fields = vec![("id", json!(id)), ("count", json!(count)), ("reason", json!(reason))];
        let actor = "enrolment".to_owned();
        desk.endpoint().record(Record { action: Action::VerifyFailed, actor, fields });
    }
    match why {
        Refused::Elsewhere(detail) => Problem::forbidden(detail),
        Refused::Token(error) => Problem::unauthenticated(error.to_string()),
    }
}

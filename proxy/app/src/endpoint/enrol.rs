//! Enrolment: how a sidecar gets a certificate of the store's own authority, and renews it.
//!
//! An operator has a token minted, a sidecar exchanges it once, and renews with what it has, for
//! ever and without a centre. Whom a certificate is for is said by the credential; of a request
//! only the key is taken, of who has it. All that is written is on disk before it is answered, so
//! it is done apart from the runtime, one after the other, for as many as may wait.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_config::scalar::{DurationText, Text as _};
use tillgate_core::endpoint::{EnrolmentSpec, POD, Roles, Who, is_name, is_workload};
use tillgate_core::reconcile::Wall;
use tillgate_core::tls::ClientIdentity;
use tillgate_net::clock::{self, Floor};
use tillgate_net::metrics::Enrolled;
use tillgate_net::rarely::ByReason;
use tillgate_net::tls::{self, Authority, GRACE, RequestError, RequestedKey, Tls};
use tokio::sync::Semaphore;

use self::allowance::Allowance;
pub(super) use self::credential::Identity;
use self::credential::Voucher;
use self::tokens::{TokenError, Tokens, is_token};
use super::audit::{Action, Record};
use super::callers::Credential;
use super::problem::Problem;
use super::{Ask, Desk, answers, lock, workload_token};
use crate::send::explain;
use crate::sources::apart::apart;

mod allowance;
mod authority;
mod credential;
mod tokens;

/// Questions that may wait for their turn: all sidecars of a store come at once after an outage,
/// and a turn is a signature and two writes.
const WAITING: usize = 256;

/// Tokens that may wait to be looked up and exchanged: whoever makes some up keeps out nobody who
/// has a certificate, or mints.
const LOOKING: usize = 64;

/// How long a token is good if nobody says.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// How long at most: a week to set up a machine.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The disk does not take it, or nobody can sign.
const NOT_NOW: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// The same, for whoever is not known.
const BROKEN: &str = "the gateway cannot enrol sidecars now; its log says why: ask again later";

/// See the module.
pub(super) struct Enrolment {
    /// What the policy said at the start.
    began: Kept,
    state: Result<Arc<Open>, Off>,
    /// Whether the policy of now wants one.
    is_wanted: AtomicBool,
    known: Queue,
    strangers: Queue,
    allowance: Mutex<Allowance>,
    refused: ByReason,
}

/// Work that is done apart from the runtime, one after the other.
struct Queue {
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

impl Queue {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), turn: Arc::new(Semaphore::new(1)) }
    }
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
    /// Its certificate is of another authority.
    Elsewhere,
    /// Its certificate has run out.
    Ended(Arc<str>),
    /// The policy does not let its service account in any more.
    Account(Arc<str>),
    /// It has had too many; when to ask again.
    Often(Arc<str>, Duration),
}

impl Refused {
    /// Whom it is about, and what it is called in the audit log.
    fn kind(&self) -> (Option<&Arc<str>>, &'static str) {
        match self {
            Self::Token(TokenError::Unknown) => (None, "unknown token"),
            Self::Token(TokenError::Expired(whose)) => (Some(&whose.id), "token that has run out"),
            Self::Token(TokenError::Used(whose)) => (Some(&whose.id), "token shown again"),
            Self::Token(TokenError::Full | TokenError::Disk(_)) => (None, "no disk"),
            Self::Elsewhere => (None, "certificate of another authority"),
            Self::Ended(id) => (Some(id), "certificate that has run out"),
            Self::Account(id) => (Some(id), "service account that may not come"),
            Self::Often(id, _) => (Some(id), "too many certificates"),
        }
    }

    /// What its caller is told. Strangers are not told what is broken here.
    fn problem(&self) -> Problem {
        let first = "for a first one show an enrolment token as `Authorization: Bearer …`";
        match self {
            Self::Token(TokenError::Full | TokenError::Disk(_)) => {
                Problem::later(NOT_NOW, 60, BROKEN)
            }
            Self::Token(error) => Problem::unauthenticated(error.to_string()),
            Self::Elsewhere => Problem::forbidden(format!(
                "only certificates of the store's own authority are renewed here; {first}"
            )),
            Self::Ended(_) => Problem::unauthenticated(
                "this certificate has run out: have a token minted, and show that".to_owned(),
            ),
            Self::Account(_) => Problem::forbidden(
                "this certificate was given to a service account that may not come any more: add \
                 it to the gateway's `accounts`"
                    .to_owned(),
            ),
            Self::Often(_, wait) => {
                let detail = "this sidecar has had too many certificates: ask again later";
                Problem::later(StatusCode::TOO_MANY_REQUESTS, wait.as_secs() + 1, detail)
            }
        }
    }
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
            is_wanted: AtomicBool::new(began.is_some()),
            began,
            state,
            known: Queue::new(WAITING),
            strangers: Queue::new(LOOKING),
            allowance: Mutex::default(),
            refused: ByReason::default(),
        }
    }

    /// Ends with the policy's word; says so if it wants another authority than the one of the
    /// start: it has signed what sidecars run on.
    pub(super) fn follow(&self, spec: Option<&EnrolmentSpec>) {
        let wanted = kept(spec);
        self.is_wanted.store(wanted.is_some(), Ordering::Relaxed);
        if wanted.is_some() && wanted != self.began {
            tracing::warn!(
                "another `enrolment` of sidecars counts from the next start of the gateway on"
            );
        }
    }

    fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// What it needs, if it is here.
    fn ready(&self) -> Result<&Arc<Open>, Problem> {
        let state = if self.is_wanted() { self.state.as_ref() } else { Err(&Off::NotHere) };
        state.map_err(|off| match off {
            Off::NotHere => Problem::conflict(
                "no sidecar is enrolled here: that needs a `configEndpoint` with `clientAuth: \
                 Token`, and a Bootstrap's `stateDir` or `enrolment: {directory}` to keep the \
                 store's authority",
            ),
            Off::Broken(why) => Problem::later(NOT_NOW, 60, why.clone()),
        })
    }

    /// Does something with it, apart from the runtime, when it is its turn in `queue`.
    async fn apart<T: Send + 'static>(
        &self,
        queue: &Queue,
        work: impl FnOnce(&Open) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let open = Arc::clone(self.ready()?);
        let busy = "too many sidecars ask at once: ask again";
        let busy = |_| Problem::later(StatusCode::TOO_MANY_REQUESTS, 5, busy);
        let place = Arc::clone(&queue.places).try_acquire_owned().map_err(busy)?;
        let turn = Arc::clone(&queue.turn).acquire_owned().await;
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

    /// Takes `token` for `key`, and no other one from here on; whom it is for.
    fn exchange(&self, token: &[u8], key: &RequestedKey) -> Result<Identity, Refused> {
        let found = lock(&self.tokens).exchange(token, key.bytes(), self.floor.wall_seconds());
        found.map_err(Refused::Token)
    }

    /// How long a certificate is good that is given now. By a clock that may be late it would have
    /// ended when the clock is set.
    fn lifetime(&self) -> Duration {
        if self.floor.is_doubted() { self.lifetime + GRACE } else { self.lifetime }
    }

    /// A certificate for `identity`, with what is told of it.
    fn issue(&self, identity: &Identity, key: &RequestedKey) -> Result<Value, Failed> {
        let (now, lifetime) = (self.floor.wall_seconds(), self.lifetime().as_secs());
        let Identity { id, workload, account } = identity;
        let names = Who::sidecar_names(id, workload.as_deref(), account.as_deref());
        let not_after = now.saturating_add(lifetime);
        let certificate = self.authority.issue(key, &names, not_after);
        let certificate = certificate.map_err(|error| Failed::Unsigned(explain(&error)))?;
        Ok(json!({
            "id": &**id,
            "workload": workload.as_deref(),
            "certificate": certificate,
            "authority": self.authority.pem(),
            "notAfter": wall_text(Wall(not_after)),
            "renewAfter": wall_text(Wall(now.saturating_add(lifetime / 2))),
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
        if !is_name(&self.id) || self.id.starts_with(POD) {
            let detail = "`id` is letters, digits, `-`, `.` and `_`, as the sidecar is to be \
                          called; what begins with `pod_` is a pod's";
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
        let workload = self.workload.map(Into::into);
        Ok((Identity { id: self.id.into(), workload, account: None }, lifetime))
    }
}

/// `POST /v1/enrolments`.
pub(super) async fn mint(desk: &Arc<Desk>, ask: &Ask) -> Result<Response, Problem> {
    let (identity, lifetime) = ask.json::<Wanted>()?.check()?;
    let (records, actor) = (Arc::clone(desk), ask.who.actor.to_string());
    let work = move |open: &Open| {
        let now = open.floor.wall_seconds();
        let token = lock(&open.tokens).mint(&identity, lifetime, now)?;
        let Identity { id, workload, .. } = &identity;
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
    let enrolment = &desk.endpoint().enrolment;
    match enrolment.apart(&enrolment.known, work).await? {
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
    let is_broken = enrolment.is_wanted() && matches!(enrolment.state, Err(Off::Broken(_)));
    if is_broken {
        return Err(Problem::later(NOT_NOW, 60, BROKEN));
    }
    enrolment.ready()?;
    let (kind, found) = match Voucher::of(headers, credential) {
        None => return Err(Problem::unknown_caller()),
        Some(Voucher::Token(token)) => {
            let found = if is_token(token) {
                let token = token.to_vec();
                enrolment.apart(&enrolment.strangers, move |open| open.find(&token)).await?
            } else {
                Err(Refused::Token(TokenError::Unknown))
            };
            ("enrolment", found)
        }
        Some(Voucher::Workload(token)) => {
            let admitted = workload_token::admit(desk, token).await;
            let refused = |_: &Problem| desk.endpoint().meters.enrolled(Enrolled::Refused);
            ("workload", Ok(admitted.inspect_err(refused)?))
        }
        Some(Voucher::Certificate(shown)) => ("certificate", of_certificate(desk, shown)),
    };
    let Identity { id, workload, account } = match found {
        Ok(found) => found,
        Err(why) => return Err(refuse(desk, why).await),
    };
    let actor = format!("{kind}:{id}").into();
    Ok(Who { actor, name: id, roles: Roles::NONE, workload, account })
}

/// Whom a certificate is for, if it can be renewed here: one that a service account's token was
/// exchanged for as long as the policy lets that account in.
fn of_certificate(desk: &Desk, shown: &ClientIdentity) -> Result<Identity, Refused> {
    let who = Who::of_certificate(shown).filter(|_| shown.of_store).ok_or(Refused::Elsewhere)?;
    if !tls::may_renew(shown, desk.gateway.tls.floor()) {
        return Err(Refused::Ended(who.name));
    }
    let Who { name: id, mut workload, account, .. } = who;
    if let Some(account) = &account {
        let callers = desk.endpoint().callers.load();
        let found = callers.accounts().and_then(|accounts| accounts.workload_of(account));
        workload = Some(found.ok_or_else(|| Refused::Account(Arc::clone(&id)))?);
    }
    Ok(Identity { id, workload, account })
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
    let Who { name: id, workload, account, .. } = ask.who.clone();
    let enrolment = &desk.endpoint().enrolment;
    // Who has a token is a stranger still: it may have been exchanged.
    let queue = if token.is_some() { &enrolment.strangers } else { &enrolment.known };
    let known = Identity { id, workload, account };
    let work = move |open: &Open| {
        if let Some(token) = &token {
            // Whom it is for cannot change; whoever is second gets nothing.
            open.exchange(token, &key)?;
        }
        let mut allowance = lock(&records.endpoint().enrolment.allowance);
        let taken = allowance.take(&known.id, open.lifetime, clock::now());
        drop(allowance);
        taken.map_err(|wait| Refused::Often(Arc::clone(&known.id), wait))?;
        let told = open.issue(&known, &key)?;
        let fields = ["id", "workload", "notAfter"].map(|name| (name, told[name].clone())).into();
        let action = if is_renewal { Action::EnrolRenew } else { Action::Enrol };
        records.endpoint().record(Record { action, actor, fields });
        Ok::<_, Failed>(told)
    };
    match enrolment.apart(queue, work).await? {
        Ok(told) => {
            let how = if is_renewal { Enrolled::Renewed } else { Enrolled::First };
            desk.endpoint().meters.enrolled(how);
            Ok((StatusCode::CREATED, answers::document(&told)).into_response())
        }
        Err(Failed::Refused(why)) => Err(refuse(desk, why).await),
        Err(Failed::Unsigned(why)) => Err(Problem::later(NOT_NOW, 60, why)),
    }
}

/// Counts a refusal, and tells it now and then.
async fn refuse(desk: &Desk, why: Refused) -> Problem {
    desk.endpoint().meters.enrolled(Enrolled::Refused);
    let (whose, reason) = why.kind();
    let told = desk.endpoint().enrolment.refused.happens(reason, clock::now());
    let Some(count) = told else { return why.problem() };
    if let Refused::Token(error @ (TokenError::Full | TokenError::Disk(_))) = &why {
        tracing::error!(count, "no certificate for a sidecar: {error}");
        return why.problem();
    }
    let id = whose.map(|whose| &**whose);
    tracing::warn!(id, count, "no certificate for a sidecar: {reason}");
    let fields = vec![("id", json!(id)), ("count", json!(count)), ("reason", json!(reason))];
    let record = Record { action: Action::VerifyFailed, actor: "enrolment".to_owned(), fields };
    desk.record(record).await;
    why.problem()
}

#[cfg(test)]
mod tests {
    use tillgate_net::tls::{OwnKey, shown};

    use super::*;

    #[test]
    fn by_a_clock_that_may_be_late_a_certificate_is_good_for_a_week_longer() {
        let folder = tempfile::tempdir().unwrap();
        let floor = Arc::<Floor>::default();
        let open = Open {
            authority: authority::open(folder.path(), floor.wall_seconds()).unwrap(),
            tokens: Mutex::new(Tokens::new(folder.path())),
            lifetime: Duration::from_secs(3600),
            floor: Arc::clone(&floor),
        };
        let key = RequestedKey::of_request(&OwnKey::generate().unwrap().request().unwrap());
        let (id, account) = (Arc::from("pod_shop.basket"), Some(Arc::from("shop/basket")));
        let identity = Identity { id, workload: account.clone(), account };
        let (week, hour) = (7 * 86_400, 3600);
        for (doubted, whole) in [(false, hour), (true, hour + week)] {
            floor.doubt(doubted);
            let before = floor.wall_seconds();
            let told = open.issue(&identity, key.as_ref().unwrap()).unwrap_or_default();
            let certificate = shown(told["certificate"].as_str().unwrap()).unwrap();
            let renew_after = tillgate_config::bundle::wall(told["renewAfter"].as_str().unwrap());
            let took = floor.wall_seconds() - before;
            let left = certificate.not_after - before;
            assert!((whole..=whole + took).contains(&left), "{left}");
            assert_eq!(certificate.not_after - renew_after.unwrap().0, whole / 2);
            let who = Who::of_certificate(&certificate).unwrap();
            assert_eq!(
                (who.account.as_deref(), &*who.name),
                (Some("shop/basket"), "pod_shop.basket")
            );
        }
    }
}

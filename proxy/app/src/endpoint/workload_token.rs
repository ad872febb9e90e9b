//! The token that a kubelet projects into a pod: whose sidecar is it?
//!
//! In goes what a stranger shows; out comes the workload, or one reason why not. A token counts if
//! a key of the cluster has signed it, by the algorithm that this key is for and no other, for
//! this audience, for a pod, at this time. By a clock that is not believed nothing is let in.
//! Nothing of a token is told to anybody: not to the log, and not back.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use jsonwebtoken::errors::ErrorKind as TokenError;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::json;
use tillgate_config::defaults;
use tillgate_core::endpoint::service_accounts::ServiceAccountsSpec;
use tillgate_core::endpoint::{POD, is_name, is_workload};
use tillgate_core::reconcile::ClockState;
use tillgate_net::clock;

pub(super) use self::fetch::Source;
use self::jwks::Keys;
pub(super) use self::jwks::KeysError;
use super::audit::{Action, Record};
use super::callers::SecretError;
use super::enrol::Identity;
use super::problem::Problem;
use super::{Desk, lock};
use crate::gateway::Gateway;
use crate::wall::StoreClock;

mod fetch;
mod jwks;
#[cfg(test)]
mod tests;

/// A projected token has about 1,200 bytes; long names add some hundred.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Clocks of a store's machines are this far apart at most: what Kubernetes itself allows.
const LEEWAY: u64 = 60;

/// For tokens whose keys are not known, keys are looked for once in this time: whoever makes up
/// names of keys must not keep a disk or an API server busy.
const LEAST_APART: Duration = Duration::from_secs(5);

/// What takes longer hangs; a sidecar waits for its answer not much longer than this.
const LOOK_WITHIN: Duration = Duration::from_secs(8);

/// Refusals are told once in this time.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the token has more than {TOKEN_BYTES_MAX} bytes, which no projected token has")]
    TooLong,
    #[error("this is no token of a service account: project one into the pod, and send that file")]
    Malformed,
    #[error(
        "no key of the cluster has the name that the token gives: it is of another cluster, or the \
         cluster has changed its keys and the gateway's `jwksFile` is old"
    )]
    UnknownKey,
    #[error("the token is not signed in the way that the cluster's key is for")]
    Algorithm,
    #[error("the token is not signed by the cluster's key")]
    Signature,
    #[error("the token is of another issuer: compare `issuer` with the cluster's")]
    Issuer,
    #[error("the token is for somebody else: project it with the gateway's `audience`")]
    Audience,
    #[error(
        "the token has expired: read the file again, the kubelet renews it; if it is not that \
         old, set the gateway's clock"
    )]
    Expired,
    #[error("the token is not valid yet: set the clocks of both machines")]
    Early,
    #[error("the gateway's clock is not believed, so no token can be judged: ask again later")]
    Clock,
    #[error("the token is not bound to a pod: project it into one")]
    NoPod,
    #[error("this service account may not come: add it to the gateway's `accounts`")]
    Account,
}

impl Refusal {
    /// Its name in metrics and logs.
    const fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Algorithm => "algorithm",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::Early => "not_yet_valid",
            Self::Clock => "clock",
            Self::NoPod => "no_pod",
            Self::Account => "account",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(why: Refusal) -> Self {
        match why {
            Refusal::Account => Self::forbidden(why.to_string()),
            Refusal::Clock => Self::later(StatusCode::SERVICE_UNAVAILABLE, 10, why.to_string()),
            Refusal::TooLong
            | Refusal::Malformed
            | Refusal::UnknownKey
            | Refusal::Algorithm
            | Refusal::Signature
            | Refusal::Issuer
            | Refusal::Audience
            | Refusal::Expired
            | Refusal::Early
            | Refusal::NoPod => Self::new(StatusCode::UNAUTHORIZED, why.to_string()).with(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"tillgate\", error=\"invalid_token\""),
            ),
        }
    }
}

/// What a clock says of a token's time.
#[derive(Clone, Copy, Debug)]
struct Shown {
    state: ClockState,
    wall: u64,
    /// This has passed, whatever the clock says.
    floor: u64,
}

impl Shown {
    fn of(clock: &StoreClock) -> Self {
        Self { state: clock.state(), wall: clock::wall_seconds(), floor: clock.floor().0 }
    }

    /// Whether a token of these times counts. What expired before a time that has passed for
    /// certain is expired by any clock.
    fn judge(self, claims: &Claims) -> Result<(), Refusal> {
        let is_believed = self.state != ClockState::Untrusted;
        let passed = if is_believed { self.wall.max(self.floor) } else { self.floor };
        if claims.exp.saturating_add(LEEWAY) < passed {
            return Err(Refusal::Expired);
        }
        if !is_believed {
            return Err(Refusal::Clock);
        }
        if claims.nbf > passed.saturating_add(LEEWAY) {
            return Err(Refusal::Early);
        }
        Ok(())
    }
}

/// What Kubernetes writes into a token. Who signed it and whom it is for is judged by
/// `jsonwebtoken`; the time is not, because it would ask another clock.
#[derive(Clone, Debug, Deserialize)]
struct Claims {
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Clone, Debug, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Clone, Debug, Deserialize)]
struct Named {
    name: String,
    uid: String,
}

/// Judges tokens by one version of the cluster's keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verifier {
    spec: ServiceAccountsSpec,
    keys: Keys,
}

impl Verifier {
    /// Reads the cluster's keys.
    pub(super) fn read(spec: &ServiceAccountsSpec) -> Result<Self, SecretError> {
        let keys = match Keys::read(&spec.jwks_file) {
            // Not fetched yet: no key is known, so whoever comes has them fetched.
            Err(KeysError::File(error))
                if spec.jwks_url.is_some() && error.kind() == ErrorKind::NotFound =>
            {
                Ok(Keys::default())
            }
            read => read,
        };
        let keys = keys.map_err(|error| SecretError::Keys(spec.jwks_file.to_path_buf(), error))?;
        Ok(Self { spec: spec.clone(), keys })
    }

    /// Knows no key yet.
    pub(super) fn without_keys(spec: &ServiceAccountsSpec) -> Self {
        Self { spec: spec.clone(), keys: Keys::default() }
    }

    /// Whether it judges as `spec` says.
    pub(super) fn is_of(&self, spec: &ServiceAccountsSpec) -> bool {
        self.spec == *spec
    }

    fn verify(&self, token: &[u8], at: Shown) -> Result<Identity, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        let header = decode_header(token).map_err(|_| Refusal::Malformed)?;
        let key = header.kid.and_then(|id| self.keys.find(&id)).ok_or(Refusal::UnknownKey)?;
        if header.alg != key.algorithm {
            return Err(Refusal::Algorithm);
        }
        let read = decode::<Claims>(token, &key.public, &self.validation(key.algorithm));
        let claims = read.map_err(|error| why(error.kind()))?.claims;
        at.judge(&claims)?;
        self.workload(claims.kubernetes)
    }

    /// What the library checks beside the signature.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        validation.set_audience(&[&self.spec.audience]);
        validation.set_issuer(&[&self.spec.issuer]);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation
    }

    fn workload(&self, of: Kubernetes) -> Result<Identity, Refusal> {
        let account = format!("{}/{}", of.namespace, of.serviceaccount.name);
        let pod = of.pod.ok_or(Refusal::NoPod)?;
        if !is_name(&pod.name) || !is_name(&pod.uid) {
            return Err(Refusal::Malformed);
        }
        // A name of 253 characters leaves no room for the namespace; a uid always does, and no pod
        // has a name that begins with a dot.
        let named = [pod.name, format!(".{}", pod.uid)];
        let mut named = named.iter().map(|name| format!("{POD}{}.{name}", of.namespace));
        let id = named.find(|id| is_name(id)).ok_or(Refusal::Malformed)?;
        if !is_workload(&account) {
            return Err(Refusal::Malformed);
        }
        let workload = self.spec.workload_of(&account).ok_or(Refusal::Account)?;
        Ok(Identity { id: id.into(), workload: Some(workload), account: Some(account.into()) })
    }

    /// The workload of the service account `account`, as long as it may come.
    pub(super) fn workload_of(&self, account: &str) -> Option<Arc<str>> {
        self.spec.workload_of(account)
    }
}

/// The one reason behind what the library says.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list of errors may grow")]
fn why(kind: &TokenError) -> Refusal {
    match kind {
        TokenError::InvalidSignature => Refusal::Signature,
        TokenError::InvalidAlgorithm => Refusal::Algorithm,
        TokenError::InvalidIssuer => Refusal::Issuer,
        TokenError::InvalidAudience => Refusal::Audience,
        _ => Refusal::Malformed,
    }
}

/// Whose sidecar shows this token. Where its key is not known, keys are looked for again, once for
/// all who wait.
pub(super) async fn admit(desk: &Desk, token: &[u8]) -> Result<Identity, Problem> {
    let endpoint = desk.endpoint();
    let judged = || {
        let callers = endpoint.callers.load();
        let verifier = callers.accounts().ok_or_else(Problem::unknown_caller)?;
        Ok::<_, Problem>(verifier.verify(token, Shown::of(&endpoint.clock)))
    };
    let mut answer = judged()?;
    if answer == Err(Refusal::UnknownKey) {
        look(&desk.gateway, Source::may_look).await;
        answer = judged()?;
    }
    let result = answer.as_ref().map_or_else(|why| why.name(), |_| "accepted");
    endpoint.meters.workload_token(result);
    let why = match answer {
        Ok(identity) => return Ok(identity),
        Err(why) => why,
    };
    let told = lock(&endpoint.refused).happens(TOLD_EVERY, clock::now());
    if let Some(count) = told {
        tracing::warn!(reason = why.name(), count, "a sidecar's token does not count: {why}");
        let fields = vec![("reason", json!(why.name())), ("count", json!(count))];
        let actor = "workload".to_owned();
        desk.record(Record { action: Action::VerifyFailed, actor, fields }).await;
    }
    Err(why.into())
}

/// Fetches the cluster's keys when it is time, until aborted.
pub(crate) async fn follow(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(defaults::CERTIFICATE_CHECK).await;
        let running = gateway.running();
        let endpoint = running.effective.config_endpoint();
        let accounts = endpoint.and_then(|endpoint| endpoint.enrolment.service_accounts.as_ref());
        if accounts.is_some_and(|accounts| accounts.jwks_url.is_some()) {
            drop(running);
            look(&gateway, Source::is_due).await;
        }
    }
}

/// Looks for keys, if `wanted` says so; who comes meanwhile waits for what that finds.
async fn look(gateway: &Arc<Gateway>, wanted: fn(&Source, Instant) -> bool) {
    let turn = tokio::time::timeout(LOOK_WITHIN, gateway.endpoint.cluster.lock());
    let Ok(mut source) = turn.await else { return };
    let (running, now) = (Arc::clone(&gateway.running().effective), clock::now());
    let endpoint = running.config_endpoint();
    let accounts = endpoint.and_then(|endpoint| endpoint.enrolment.service_accounts.as_ref());
    let Some(accounts) = accounts.filter(|_| wanted(&source, now)) else { return };
    source.look(gateway, accounts, now).await;
    let reader = Arc::clone(gateway);
    let read = tokio::task::spawn_blocking(move || reader.endpoint.check_files());
    if matches!(tokio::time::timeout(LOOK_WITHIN, read).await, Ok(Err(_))) {
        gateway.metrics.panics.inc();
    }
}

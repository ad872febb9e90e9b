//! `/v1/config`: what the caller may see of the running config, at once or when it changes.
//!
//! A slice is written, packed and hashed once for each config, however many ask. The entity tag is
//! the digest of the text (with `-gzip` where it is sent packed, because that is another text), so
//! a change that the caller cannot see wakes nobody.

use std::io::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tillgate_config::effective::{Effective, Slice};
use tillgate_core::endpoint::{Role, Roles, Who, is_workload};
use tillgate_net::clock;
use tillgate_net::drain::Phase;
use tillgate_net::metrics::Held;

use super::accept::taken;
use super::entrance::Pass;
use super::problem::Problem;
use super::routes::{JSON, JSON_V1};
use super::{Ask, Desk, News, later, lock, revisions};

/// The longest a question is held, before the random part: what NAT entries outlive.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Callers that wait at the same time: a thousand sidecars and as many tools.
pub(super) const WAITERS_MAX: i64 = 2048;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const DIGEST: HeaderName = HeaderName::from_static("tillgate-digest");
const STORE: HeaderName = HeaderName::from_static("tillgate-store");

/// One slice, ready to be sent.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) digest: Arc<str>,
    plain: Bytes,
    packed: Bytes,
}

/// The slices of one config.
#[derive(Debug)]
pub(super) struct Slices {
    /// Of which config.
    pub(super) digest: Arc<str>,
    store: Arc<str>,
    /// Nobody has said yet what this store shall run.
    is_minimal: bool,
    whole: Arc<Shown>,
    sidecar: Arc<Shown>,
}

impl Shown {
    fn new(slice: Slice) -> Arc<Self> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        // Writing into memory cannot fail.
        let packed = packer.write_all(slice.text.as_bytes()).and_then(|()| packer.finish());
        Arc::new(Self {
            digest: slice.digest,
            plain: slice.text.into(),
            packed: packed.unwrap_or_default().into(),
        })
    }
}

impl Slices {
    pub(super) fn new(effective: &Effective) -> Self {
        Self {
            digest: Arc::clone(&effective.digest),
            store: Arc::clone(&effective.store),
            is_minimal: effective.is_minimal(),
            whole: Shown::new(effective.whole()),
            sidecar: Shown::new(effective.for_sidecar()),
        }
    }

    /// The digest of what sidecars run.
    pub(super) fn for_sidecars(&self) -> Arc<str> {
        Arc::clone(&self.sidecar.digest)
    }

    /// What `who` sees, or less if it asks for less. The language selects nothing by workload, so
    /// all sidecars of a store see the same; whose part it may be is decided all the same.
    pub(super) fn of(&self, who: &Who, narrowed: Option<Role>) -> Arc<Shown> {
        let slice = if sees_all(who) && narrowed != Some(Role::Sidecar) {
            &self.whole
        } else {
            &self.sidecar
        };
        Arc::clone(slice)
    }
}

/// Whether nothing of the config is kept from `who`.
fn sees_all(who: &Who) -> bool {
    who.roles.meets(Roles::of(&[Role::Viewer, Role::Operator]))
}

/// How long, and for whom.
struct Wanted {
    wait: Option<Duration>,
    narrowed: Option<Role>,
    packed: bool,
    /// The caller names the version of the shape that it understands.
    versioned: bool,
    /// The tags of what it has.
    known: Box<str>,
}

impl Wanted {
    fn of(desk: &Desk, ask: &Ask) -> Result<Self, Problem> {
        let headers = &ask.head.headers;
        let mut part = None;
        let mut wanted = Self {
            wait: preferred(headers),
            narrowed: None,
            packed: takes_gzip(headers),
            known: texts(headers, IF_NONE_MATCH).collect::<Vec<_>>().join(",").into(),
            versioned: versioned(headers),
        };
        for (name, value) in ask.query()? {
            match &*name {
                "wait" => wanted.wait = Some(seconds(&value)?),
                "role" => wanted.narrowed = Some(role(&ask.who, &value)?),
                "workload" => part = Some(value),
                _ => {}
            }
        }
        if let Some(workload) = part {
            may_see_part(desk, &ask.who, &workload)?;
            if wanted.narrowed == Some(Role::Viewer) {
                let detail = "a workload has the part of its sidecar: ask with `role=sidecar`";
                return Err(Problem::malformed(detail));
            }
            wanted.narrowed = Some(Role::Sidecar);
        }
        Ok(wanted)
    }
}

/// Whose part it is that a sidecar asks for: its credential says what it stands beside, or else
/// what it has registered as. Who sees all sees every part.
fn may_see_part(desk: &Desk, who: &Who, workload: &str) -> Result<(), Problem> {
    if !is_workload(workload) {
        return Err(Problem::malformed("`workload` is a namespace and a name, as `pos/checkout`"));
    }
    if sees_all(who) {
        return Ok(());
    }
    let own = who.workload.as_deref().map(str::to_owned);
    let own = own.or_else(|| lock(&desk.endpoint().instances).workload(&who.name, clock::now()));
    match own {
        Some(own) if own == workload => Ok(()),
        Some(own) => Err(Problem::forbidden(format!("you stand beside `{own}`"))),
        None => Err(Problem::forbidden(
            "nothing says what you stand beside: register, or ask without `workload`",
        )),
    }
}

fn role(who: &Who, name: &str) -> Result<Role, Problem> {
    let role = Role::by_name(name)
        .filter(|role| matches!(role, Role::Viewer | Role::Sidecar))
        .ok_or_else(|| Problem::malformed("`role` is `viewer` or `sidecar`"))?;
    if role == Role::Viewer && !sees_all(who) {
        return Err(Problem::forbidden("`role` can only narrow what you see"));
    }
    Ok(role)
}

fn seconds(text: &str) -> Result<Duration, Problem> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    let plain = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.parse().ok().filter(|_| plain);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| Problem::malformed("`wait` is a number of seconds, as `55` or `55s`"))
}

/// `Prefer: wait=55` (RFC 7240); what it does not understand it passes over, as that says.
fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let mut preferences =
        texts(headers, PREFER).flat_map(|value| value.split([',', ';'])).map(str::trim);
    let wait = preferences.find_map(|one| {
        let (name, value) = one.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"'))
    })?;
    seconds(wait).ok()
}

/// Whether the caller asks for the version of the shape: by its name, and no less gladly than
/// without.
fn versioned(headers: &HeaderMap) -> bool {
    let (v1, plain) = (taken(headers, JSON_V1), taken(headers, JSON));
    v1.weight > plain.weight || (v1.is_named && v1.weight > 0.0 && v1.weight == plain.weight)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    texts(headers, ACCEPT_ENCODING).flat_map(|value| value.split(',')).any(|one| {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// The values of a field, as far as they are text.
fn texts(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// Whether the caller, who has what these tags name, has `digest` already.
fn has(known: &str, digest: &str) -> bool {
    known.split(',').any(|one| {
        let one = one.trim();
        let tag = one.strip_prefix("W/").unwrap_or(one).trim_matches('"');
        one == "*" || tag.strip_suffix("-gzip").unwrap_or(tag) == digest
    })
}

/// What the caller may see of what runs now. Whether he still is one is asked last: the callers of
/// a config count before it runs.
fn seen(desk: &Desk, pass: &Pass, wanted: &Wanted) -> Result<(Arc<Slices>, Arc<Shown>), Problem> {
    let slices = desk.endpoint().slices(desk.running().as_ref());
    let shown = slices.of(&pass.who(desk)?, wanted.narrowed);
    Ok((slices, shown))
}

/// Answers at once, or when there is something new, or when the time is over.
pub(super) fn show(desk: &Arc<Desk>, ask: Ask) -> Result<Response, Problem> {
    let wanted = Wanted::of(desk, &ask)?;
    let pass = ask.pass;
    let news = desk.endpoint().news();
    let (first, shown) = seen(desk, &pass, &wanted)?;
    if first.is_minimal {
        // A sidecar that has a config keeps it, whatever became of the gateway's.
        let detail = "this gateway has no policy yet: ask again";
        return Err(Problem::later(StatusCode::SERVICE_UNAVAILABLE, 5, detail));
    }
    let Some(wait) = wanted.wait.filter(|_| has(&wanted.known, &shown.digest)) else {
        return Ok(answer(desk, &first, &shown, &wanted));
    };
    let meters = &desk.endpoint().meters;
    if meters.waiters.get() >= WAITERS_MAX {
        let seconds = 1 + fastrand::u64(0..10);
        let detail = "too many callers wait already: ask again later";
        return Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, seconds, detail));
    }
    let waits = Held::new(&meters.waiters);
    let desk = Arc::clone(desk);
    Ok(later::answer(async move {
        let answer = changed(&desk, &pass, &wanted, news, wait.min(WAIT_MAX)).await;
        drop(waits);
        answer.unwrap_or_else(IntoResponse::into_response)
    }))
}

/// The answer when there is something new, or when the time is over.
async fn changed(
    desk: &Desk,
    pass: &Pass,
    wanted: &Wanted,
    mut news: News,
    wait: Duration,
) -> Result<Response, Problem> {
    // Nobody comes back at the same moment.
    let jitter = wait.mul_f64(fastrand::f64() / 16.0);
    let mut until = pin!(tokio::time::sleep_until((clock::now() + wait + jitter).into()));
    let mut stops = pin!(desk.gateway.drain.reached(Phase::Draining));
    loop {
        let is_over = tokio::select! {
            changed = news.changed() => changed.is_err(),
            () = &mut until => true,
            () = &mut stops => return Err(super::stopping()),
        };
        let (slices, shown) = seen(desk, pass, wanted)?;
        if is_over || !has(&wanted.known, &shown.digest) {
            return Ok(answer(desk, &slices, &shown, wanted));
        }
    }
}

fn answer(desk: &Desk, slices: &Slices, shown: &Shown, wanted: &Wanted) -> Response {
    let tag = if wanted.packed { "-gzip" } else { "" };
    let mut answer = if has(&wanted.known, &shown.digest) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let body = if wanted.packed { &shown.packed } else { &shown.plain };
        let mut answer = Response::new(Body::from(body.clone()));
        let media = if wanted.versioned { JSON_V1 } else { JSON };
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        if wanted.packed {
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    };
    let waited = wanted.wait.map(|wait| format!("wait={}", wait.min(WAIT_MAX).as_secs()));
    let all = [
        (ETAG, Some(format!("\"{}{tag}\"", shown.digest))),
        (DIGEST, Some(shown.digest.to_string())),
        (STORE, Some(slices.store.to_string())),
        (CACHE_CONTROL, Some("private, no-cache".to_owned())),
        (VARY, Some("Authorization, Accept, Accept-Encoding".to_owned())),
        (APPLIED, waited),
    ];
    for (name, value) in all {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            answer.headers_mut().insert(name, value);
        }
    }
    revisions::stamp(desk, &slices.digest, &mut answer);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn preferences_are_read_as_far_as_they_are_known() {
        let wait = |text| preferred(&headers(PREFER, text)).map(|wait| wait.as_secs());
        assert_eq!(wait("wait=55"), Some(55));
        assert_eq!(wait("respond-async, wait=5"), Some(5));
        assert_eq!(wait("modes=snapshot,delta;Wait=\"7\""), Some(7));
        for text in ["wait", "wait=", "wait=-5", "wait=1e9", "wait=999999", "handling=lenient"] {
            assert_eq!(wait(text), None, "{text}");
        }
        assert_eq!(seconds("55s").ok(), Some(Duration::from_secs(55)));
        assert!(seconds("").is_err() && seconds("s").is_err() && seconds("5m").is_err());
    }

    #[test]
    fn a_tag_says_what_the_caller_has() {
        let has = |text| has(text, "sha256:ab");
        for text in ["\"sha256:ab\"", "W/\"sha256:ab\"", "\"x\", \"sha256:ab-gzip\"", "*"] {
            assert!(has(text), "{text}");
        }
        for text in ["\"sha256:abc\"", "\"\"", "sha256", "\"sha256:ab-br\""] {
            assert!(!has(text), "{text}");
        }
    }

    #[test]
    fn gzip_is_sent_to_who_takes_it() {
        let takes = |text| takes_gzip(&headers(ACCEPT_ENCODING, text));
        assert!(takes("gzip") && takes("br, GZIP;q=0.5"));
        assert!(!takes("br") && !takes("gzip;q=0") && !takes("gzip;q=0.0, br"));
    }
}

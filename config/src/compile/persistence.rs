//! What a rule keeps together and what it counts: sessions and rate limits.
//!
//! In: the fields of a rule. Out: the core's values. A session that nothing carries, a limit that
//! counts nothing, and two limits that count the same are refused.

use tillgate_core::filter::{SessionCarrier, SessionPersistence};
use tillgate_core::limit::{RateKey, RateLimit};

use super::Output;
use crate::defaults;
use crate::document::Spot;
use crate::kinds::filters::{self as docs, RateKeyDoc, RateKeyType, RateLimitDoc, SessionType};
use crate::scalar::{DurationText, Whole};

/// Requests of one session stay on one endpoint. `spot` is that of the rule.
pub(super) fn session(
    given: Option<&docs::SessionPersistence>,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Option<SessionPersistence> {
    let given = given?;
    let spot = spot.key("sessionPersistence");
    let base = format!("{base}.sessionPersistence");
    out.given(&base, &spot, ());
    let kind = given.kind.unwrap_or(SessionType::Cookie);
    out.value(&format!("{base}.type"), &spot.key("type"), given.kind.map(|_| ()), ());
    let time = |field: &str, given: Option<DurationText>, out: &mut Output| {
        if given.is_some_and(|time| time.0.is_zero()) {
            out.error(spot.key(field).finding(
                "the session would end as it begins: write a duration above zero, or remove the \
                 line",
            ));
        }
        given.map(|time| time.0)
    };
    let absolute_timeout = time("absoluteTimeout", given.absolute_timeout, out);
    let idle_timeout = time("idleTimeout", given.idle_timeout, out);
    if let (Some(absolute), Some(idle)) = (absolute_timeout, idle_timeout)
        && idle > absolute
    {
        let message = "a session may be idle for longer than it lasts: lower `idleTimeout`, or \
                       raise `absoluteTimeout`";
        let finding = spot.key("idleTimeout").finding(message);
        out.error(finding.related(spot.key("absoluteTimeout").place(), "is how long it lasts"));
    }
    let Some(name) = &given.session_name else {
        out.error(spot.finding(
            "nothing says which cookie or header carries the session: add `sessionName`, as \
             `basket`",
        ));
        return None;
    };
    let carrier = match (kind, http::HeaderName::from_bytes(name.0.as_bytes())) {
        (SessionType::Header, Ok(header)) => SessionCarrier::Header(header),
        (SessionType::Header, Err(_)) | (SessionType::Cookie, _) => {
            SessionCarrier::Cookie(name.0.as_str().into())
        }
    };
    Some(SessionPersistence { carrier, absolute_timeout, idle_timeout })
}

/// How often requests may come. `spot` is that of the rule.
pub(super) fn rate_limits(
    given: Option<&Vec<RateLimitDoc>>,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Vec<RateLimit> {
    let list = spot.key("rateLimits");
    let mut limits: Vec<RateLimit> = Vec::new();
    for (index, one) in given.into_iter().flatten().enumerate() {
        let spot = list.index(index);
        let base = format!("{base}.rateLimits[{index}]");
        let Some(limit) = rate_limit(one, &spot, &base, out) else { continue };
        if let Some(first) = limits.iter().position(|known| known.key == limit.key) {
            let message = "two limits count by the same key: keep the one that is meant";
            let finding = spot.finding(message);
            out.error(finding.related(list.index(first).place(), "is the first one"));
        }
        limits.push(limit);
    }
    limits
}

fn rate_limit(
    given: &RateLimitDoc,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Option<RateLimit> {
    out.given(base, spot, ());
    let requests = given.requests.fit();
    let path = |field: &str| format!("{base}.{field}");
    let second = std::time::Duration::from_secs(1);
    let interval = out.positive(&path("interval"), &spot.key("interval"), given.interval, second);
    let burst = given.burst.map(Whole::fit);
    let burst = out.value(&path("burst"), &spot.key("burst"), burst, requests);
    let key = key(given.key.as_ref(), &spot.key("key"), &path("key"), out)?;
    let keys = given.max_keys.map(Whole::fit);
    if keys.is_some() && key == RateKey::Route {
        out.error(spot.key("maxKeys").finding(
            "a limit on the route as a whole has one key: remove `maxKeys`, or count by another key",
        ));
    }
    let keys_max = match key {
        RateKey::Route => 1,
        RateKey::ClientAddress | RateKey::Header(_) | RateKey::ClientCertificate => {
            out.value(&path("maxKeys"), &spot.key("maxKeys"), keys, defaults::RATE_KEYS)
        }
    };
    Some(RateLimit { requests, interval, burst, key, keys_max })
}

fn key(
    given: Option<&RateKeyDoc>,
    spot: &Spot<'_>,
    path: &str,
    out: &mut Output,
) -> Option<RateKey> {
    let kind = given.map_or(RateKeyType::ClientAddress, |key| key.kind);
    let name = given.and_then(|key| key.name.as_ref());
    if name.is_some() && kind != RateKeyType::Header {
        out.error(
            spot.key("name").finding(
                "only a key of `type: Header` has a name: write that type, or remove `name`",
            ),
        );
    }
    let key =
        match (kind, name) {
            (RateKeyType::ClientAddress, _) => RateKey::ClientAddress,
            (RateKeyType::ClientCertificate, _) => RateKey::ClientCertificate,
            (RateKeyType::Route, _) => RateKey::Route,
            (RateKeyType::Header, Some(name)) => RateKey::Header(name.0.clone()),
            (RateKeyType::Header, None) => {
                out.error(spot.key("type").finding(
                    "nothing says which header is counted by: add its `name`, as `x-till`",
                ));
                return None;
            }
        };
    Some(out.value(path, spot, given.map(|_| key.clone()), key))
}

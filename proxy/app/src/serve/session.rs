//! Sessions that stay on the endpoint where they began.
//!
//! A client carries a token, in a cookie or a header, that we gave it: a hash that only names an
//! endpoint to those who know all endpoints, and the times that the rule's timeouts need. It is
//! believed, because all it can do is choose among the rule's own endpoints; an endpoint that is
//! gone, or a token of another rule, means a new choice and a new token.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use tillgate_core::backend::Endpoint;
use tillgate_core::failover::{Choice, Plan};
use tillgate_core::filter::{Scheme, SessionCarrier, SessionPersistence};

use crate::failover::hash;
use crate::running::Running;

/// What a request says about its session.
pub(super) struct Session<'a> {
    how: &'a SessionPersistence,
    known: Option<Known>,
    /// Seconds since 1970.
    now: u64,
}

/// A session that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    endpoint: u64,
    began: u64,
}

/// What a client is to send with its next request.
#[derive(Debug)]
pub(super) struct Token {
    carrier: SessionCarrier,
    text: String,
    lives: Option<Duration>,
}

impl<'a> Session<'a> {
    /// The session that `head` belongs to, if it does not have to begin anew. `now` is
    /// in seconds since 1970.
    pub(super) fn of(how: &'a SessionPersistence, head: &Parts, now: u64) -> Self {
        let sent = match &how.carrier {
            SessionCarrier::Cookie(name) => cookie(&head.headers, name),
            SessionCarrier::Header(name) => header(&head.headers, name),
        };
        let known = sent.and_then(|text| Known::read(text, how, now));
        Self { how, known, now }
    }

    /// Where it lives, if that still is one of the rule's endpoints.
    pub(super) fn find(&self, plan: &Plan, running: &Running) -> Option<Choice> {
        let wanted = self.known?.endpoint;
        for (tier, groups) in plan.tiers.iter().enumerate() {
            for (group, one) in groups.iter().enumerate() {
                let mut names = running.endpoint_names(one.backend).iter();
                if let Some(endpoint) = names.position(|name| *name == wanted) {
                    return Some(Choice { tier, group, endpoint, trial: false });
                }
            }
        }
        None
    }

    /// The token for the endpoint of this name, if the client does not have a good one.
    pub(super) fn renew(self, endpoint: u64, kept: bool) -> Option<Token> {
        let Self { how, known, now } = self;
        if kept && how.idle_timeout.is_none() {
            return None;
        }
        let began = known.filter(|_| kept).map_or(now, |known| known.began);
        let mut text = format!("{endpoint:016x}");
        if how.idle_timeout.is_some() || how.absolute_timeout.is_some() {
            // Writing into a string cannot fail.
            let _ = write!(text, ".{began:x}.{now:x}");
        }
        let age = Duration::from_secs(now.saturating_sub(began));
        let left = how.absolute_timeout.map(|limit| limit.saturating_sub(age));
        let lives = match (left, how.idle_timeout) {
            (Some(left), Some(idle)) => Some(left.min(idle)),
            (left, idle) => left.or(idle),
        };
        Some(Token { carrier: how.carrier.clone(), text, lives })
    }
}

impl Known {
    fn read(text: &str, how: &SessionPersistence, now: u64) -> Option<Self> {
        let mut parts = text.split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let endpoint = parts.next()??;
        let (began, seen) = match (parts.next(), parts.next(), parts.next()) {
            (None, None, None) => (None, None),
            (Some(Some(began)), Some(Some(seen)), None) => (Some(began), Some(seen)),
            _ => return None,
        };
        let young = |since: Option<u64>, limit: Option<Duration>| {
            limit.is_none_or(|limit| {
                since.is_some_and(|since| now.saturating_sub(since) < limit.as_secs().max(1))
            })
        };
        let goes_on = young(began, how.absolute_timeout) && young(seen, how.idle_timeout);
        goes_on.then_some(Self { endpoint, began: began.unwrap_or(now) })
    }
}

impl Token {
    /// Puts it into an answer to a client that came by `scheme`.
    pub(super) fn tell(self, scheme: Scheme, headers: &mut HeaderMap) {
        match self.carrier {
            SessionCarrier::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(self.text) {
                    headers.insert(name, value);
                }
            }
            SessionCarrier::Cookie(name) => {
                let mut cookie = format!("{name}={}; Path=/; HttpOnly; SameSite=Lax", self.text);
                if let Some(lives) = self.lives {
                    // Writing into a string cannot fail.
                    let _ = write!(cookie, "; Max-Age={}", lives.as_secs().max(1));
                }
                if scheme == Scheme::Https {
                    cookie.push_str("; Secure");
                }
                if let Ok(value) = HeaderValue::try_from(cookie) {
                    headers.append(SET_COOKIE, value);
                }
            }
        }
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &Arc<str>) -> Option<&'a str> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut crumbs = values.flat_map(|value| value.split(';'));
    crumbs.find_map(|crumb| crumb.trim().strip_prefix(&**name)?.strip_prefix('='))
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// What sessions call the endpoints of a backend.
pub(crate) fn endpoint_names(backend: &str, endpoints: &[Endpoint]) -> Vec<u64> {
    endpoints.iter().map(|endpoint| name_of(backend, endpoint)).collect()
}

/// The same on every gateway and after every restart.
fn name_of(backend: &str, endpoint: &Endpoint) -> u64 {
    hash(&format!("{backend} {endpoint}"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn how(idle: Option<u64>, absolute: Option<u64>) -> SessionPersistence {
        SessionPersistence {
            carrier: SessionCarrier::Cookie("basket".into()),
            absolute_timeout: absolute.map(Duration::from_secs),
            idle_timeout: idle.map(Duration::from_secs),
        }
    }

    fn known(how: &SessionPersistence, cookie: &str, now: u64) -> Option<Known> {
        let head = Request::get("/").header("cookie", cookie).body(()).unwrap().into_parts().0;
        Session::of(how, &head, now).known
    }

    #[test]
    fn the_token_is_found_among_other_cookies() {
        let how = how(None, None);
        let wanted = Some(Known { endpoint: 0xab, began: 7 });
        assert_eq!(known(&how, "a=1; basket=00ab; b=2", 7), wanted);
        assert_eq!(known(&how, "xbasket=00ab; basket2=3", 7), None);
        assert_eq!(known(&how, "basket=zz", 7), None);
        assert_eq!(known(&how, "basket=1.2", 7), None);
    }

    #[test]
    fn sessions_end_with_their_times() {
        let how = how(Some(10), Some(100));
        // Began at 0x100 = 256, seen at 0x120 = 288.
        assert!(known(&how, "basket=1.100.120", 297).is_some());
        assert_eq!(known(&how, "basket=1.100.120", 298), None, "idle");
        assert_eq!(known(&how, "basket=1.100.170", 356), None, "too old, though not idle");
        assert_eq!(known(&how, "basket=1", 1), None, "times are needed");
    }
}

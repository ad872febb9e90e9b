//! Routes as plain data: what a rule matches, changes, answers, keeps together and counts.
//!
//! A rule that answers by itself has no timeouts and no tiers; filters, sessions and limits are
//! shown where there are some.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tillgate_core::backend::Timeouts;
use tillgate_core::filter::{
    Action, DirectResponse, Filters, HeaderChanges, PathRewrite, Redirect, Rewrite, Scheme,
    SessionCarrier, SessionPersistence,
};
use tillgate_core::limit::{RateKey, RateLimit};
use tillgate_core::matching::{BackendRef, PathMatch, RequestMatch, Rule};
use tillgate_core::tls::SanMatch;

use super::{Effective, Value, class_name, health, list, map, number, text};
use crate::compile::host_text;
use crate::scalar::duration_text;

/// Entries of which some are left out.
#[derive(Default)]
struct Shown(Vec<(String, Value)>);

impl Shown {
    fn show(&mut self, key: &str, value: Value) {
        self.0.push((key.to_owned(), value));
    }

    fn maybe<T>(&mut self, key: &str, value: Option<T>, show: impl Fn(T) -> Value) {
        if let Some(value) = value {
            self.show(key, show(value));
        }
    }

    fn map(self) -> Value {
        Value::Map(self.0)
    }
}

pub(super) fn of_routes(config: &Effective) -> Value {
    let mut routes: Vec<(String, Value)> = Vec::new();
    for rule in &config.routes.rules {
        let entry = (rule.name.to_string(), of_rule(rule, config));
        match routes.last_mut() {
            Some((name, Value::Map(rules))) if **name == *rule.route => rules.push(entry),
            _ => routes.push((rule.route.to_string(), Value::Map(vec![entry]))),
        }
    }
    Value::Map(routes)
}

pub(in crate::effective) fn of_rule(rule: &Rule, config: &Effective) -> Value {
    let mut shown = Shown::default();
    shown.show("hostnames", list(&rule.hosts, |host| text(host_text(host))));
    shown.show("matches", list(&rule.matches, of_match));
    shown.show("trafficClass", class_name(rule.class, config));
    if !rule.filters.is_empty() {
        shown.show("filters", of_filters(&rule.filters));
    }
    shown.maybe("sessionPersistence", rule.persistence.as_ref(), of_session);
    if !rule.rate_limits.is_empty() {
        shown.show("rateLimits", list(&rule.rate_limits, of_rate_limit));
    }
    match &rule.action {
        Action::Forward => {
            let reference = |one: &BackendRef| {
                map([
                    ("backend", text(&config.backend(one.backend).name)),
                    ("weight", number(one.weight)),
                ])
            };
            shown.show("timeouts", of_timeouts(&rule.timeouts));
            shown.show("tiers", list(&rule.tiers, |tier| list(tier, reference)));
            shown.show("failover", health::of_failover(&rule.failover, &rule.retry));
            shown.show("retry", health::of_retry(&rule.retry));
            shown.maybe("idempotency", health::of_idempotency(&rule.retry), |shown| shown);
        }
        Action::Redirect(redirect) => shown.show("redirect", of_redirect(redirect)),
        Action::Respond(response) => shown.show("response", of_response(response)),
    }
    shown.map()
}

fn of_timeouts(timeouts: &Timeouts) -> Value {
    // `0s` is the language's word for "no limit".
    let optional = |time: Option<Duration>| text(duration_text(time.unwrap_or_default()));
    map([
        ("request", optional(timeouts.request)),
        ("backendRequest", optional(timeouts.backend_request)),
        ("connect", text(duration_text(timeouts.connect))),
        ("idle", text(duration_text(timeouts.idle))),
    ])
}

fn pair(name: impl ToString, value: impl ToString) -> Value {
    map([("name", text(name)), ("value", text(value))])
}

fn of_match(one: &RequestMatch) -> Value {
    let (kind, path) = match &one.path {
        PathMatch::Exact(path) => ("Exact", path),
        PathMatch::Prefix(path) => ("PathPrefix", path),
    };
    let mut shown = Shown::default();
    shown.show("path", map([("type", text(kind)), ("value", text(path))]));
    shown.maybe("method", one.method.as_ref(), text);
    if !one.headers.is_empty() {
        let header = |one: &tillgate_core::matching::HeaderMatch| {
            pair(&one.name, String::from_utf8_lossy(one.value.as_bytes()))
        };
        shown.show("headers", list(&one.headers, header));
    }
    if !one.query.is_empty() {
        shown.show("queryParams", list(&one.query, |one| pair(&one.name, &one.value)));
    }
    shown.maybe("clientCertificate", one.client.as_ref(), |san| {
        let san = match san {
            SanMatch::Exact(san) => san.to_string(),
            SanMatch::DnsSuffix(suffix) => format!("DNS:*.{suffix}"),
        };
        map([("san", text(san))])
    });
    shown.map()
}

fn of_filters(filters: &Filters) -> Value {
    let mut shown = Shown::default();
    for (key, changes) in [
        ("requestHeaderModifier", &filters.request_headers),
        ("responseHeaderModifier", &filters.response_headers),
    ] {
        if !changes.is_empty() {
            shown.show(key, of_changes(changes));
        }
    }
    shown.maybe("urlRewrite", filters.rewrite.as_ref(), |Rewrite { host, path }| {
        let mut shown = Shown::default();
        shown.maybe("hostname", host.as_ref(), text);
        shown.maybe("path", path.as_ref(), of_path);
        shown.map()
    });
    shown.map()
}

fn of_changes(changes: &HeaderChanges) -> Value {
    let pairs = |list: &[(HeaderName, HeaderValue)]| {
        let one = |(name, value): &(HeaderName, HeaderValue)| {
            pair(name, String::from_utf8_lossy(value.as_bytes()))
        };
        Value::List(list.iter().map(one).collect())
    };
    let mut shown = Shown::default();
    if !changes.remove.is_empty() {
        shown.show("remove", list(&changes.remove, text));
    }
    for (key, changes) in [("set", &changes.set), ("add", &changes.add)] {
        if !changes.is_empty() {
            shown.show(key, pairs(changes));
        }
    }
    shown.map()
}

fn of_path(path: &PathRewrite) -> Value {
    let (key, value) = match path {
        PathRewrite::Full(path) => ("replaceFullPath", path),
        PathRewrite::Prefix(path) => ("replacePrefixMatch", path),
    };
    map([(key, text(value))])
}

fn of_redirect(redirect: &Redirect) -> Value {
    let mut shown = Shown::default();
    shown.maybe("scheme", redirect.scheme, |scheme| {
        text(match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    });
    shown.maybe("hostname", redirect.host.as_ref(), text);
    shown.maybe("port", redirect.port, number);
    shown.maybe("path", redirect.path.as_ref(), of_path);
    shown.show("statusCode", number(redirect.status.as_u16()));
    shown.map()
}

fn of_response(response: &DirectResponse) -> Value {
    let mut shown = Shown::default();
    shown.show("statusCode", number(response.status.as_u16()));
    shown.maybe("contentType", response.content_type.as_ref(), |value| {
        text(String::from_utf8_lossy(value.as_bytes()))
    });
    if !response.body.is_empty() {
        shown.show("body", text(String::from_utf8_lossy(&response.body)));
    }
    shown.map()
}

fn of_session(session: &SessionPersistence) -> Value {
    let (kind, name) = match &session.carrier {
        SessionCarrier::Cookie(name) => ("Cookie", text(name)),
        SessionCarrier::Header(name) => ("Header", text(name)),
    };
    let mut shown = Shown::default();
    shown.show("type", text(kind));
    shown.show("sessionName", name);
    let time = |time: Duration| text(duration_text(time));
    shown.maybe("absoluteTimeout", session.absolute_timeout, time);
    shown.maybe("idleTimeout", session.idle_timeout, time);
    shown.map()
}

fn of_rate_limit(limit: &RateLimit) -> Value {
    let mut shown = Shown::default();
    shown.show("requests", number(limit.requests));
    shown.show("interval", text(duration_text(limit.interval)));
    shown.show("burst", number(limit.burst));
    let key = match &limit.key {
        RateKey::ClientAddress => map([("type", text("ClientAddress"))]),
        RateKey::ClientCertificate => map([("type", text("ClientCertificate"))]),
        RateKey::Route => map([("type", text("Route"))]),
        RateKey::Header(name) => map([("type", text("Header")), ("name", text(name))]),
    };
    shown.show("key", key);
    if limit.key != RateKey::Route {
        shown.show("maxKeys", number(limit.keys_max));
    }
    shown.map()
}

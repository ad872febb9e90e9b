//! What a rule changes, or answers by itself.
//!
//! In: the `filters` of a rule and its matches. Out: the core's values. Filters that contradict
//! each other, have no effect, or would break the framing of messages are refused.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tillgate_core::filter::{
    Action, DirectResponse, Filters, HeaderChanges, PathRewrite, Redirect, Rewrite, Scheme,
};
use tillgate_core::matching::{PathMatch, RequestMatch};

use super::Output;
use crate::document::Spot;
use crate::effective::Origin;
use crate::kinds::filters::{
    self as docs, DirectResponseDoc, HeaderPair, PathModifier, PathModifierType, RequestRedirect,
    SchemeDoc, UrlRewrite,
};
use crate::kinds::service_route::RuleDoc;
use crate::scalar::Whole;

/// Larger answers belong to a server.
const BODY_BYTES_MAX: usize = 4096;

/// Statuses that send a client elsewhere and are understood by all.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Headers that say how a message is framed or routed: the gateway alone writes them.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// A rule's filters with where they stand: `spot` is that of the rule, `base` its path in the
/// effective config.
pub(super) struct Given<'a> {
    pub(super) rule: &'a RuleDoc,
    pub(super) matches: &'a [RequestMatch],
    pub(super) spot: &'a Spot<'a>,
    pub(super) base: &'a str,
}

/// Who answers, and what is changed.
pub(super) fn compile(given: &Given<'_>, out: &mut Output) -> (Action, Filters) {
    let Some(filters) = &given.rule.filters else {
        has_backends(given, out);
        return (Action::Forward, Filters::default());
    };
    contradictions(given, filters, out);
    let spot = given.spot.key("filters");
    let changes = |out: &mut Output, list: &Option<docs::HeaderChanges>, field: &str| {
        let base = format!("{}.filters.{field}", given.base);
        list.as_ref().map(|list| header_changes(list, &spot.key(field), &base, out))
    };
    let request_headers = changes(out, &filters.request_header_modifier, "requestHeaderModifier");
    let response_headers =
        changes(out, &filters.response_header_modifier, "responseHeaderModifier");
    let action = match (&filters.request_redirect, &filters.direct_response) {
        (Some(redirect), _) => Action::Redirect(self::redirect(redirect, given, out)),
        (None, Some(response)) => Action::Respond(respond(response, given, out)),
        (None, None) => {
            has_backends(given, out);
            Action::Forward
        }
    };
    let filters = Filters {
        request_headers: request_headers.unwrap_or_default(),
        response_headers: response_headers.unwrap_or_default(),
        rewrite: filters.url_rewrite.as_ref().map(|one| rewrite(one, given, out)),
    };
    (action, filters)
}

fn has_backends(given: &Given<'_>, out: &mut Output) {
    if given.rule.backend_refs.is_none() {
        out.error(given.spot.key("name").finding(format!(
            "the rule `{}` sends its requests nowhere: add `backendRefs`, or a filter that answers \
             (`requestRedirect`, `directResponse`)",
            given.rule.name.0
        )));
    }
}

/// What cannot be meant together.
fn contradictions(given: &Given<'_>, filters: &docs::Filters, out: &mut Output) {
    let rule = given.rule;
    let spot = given.spot.key("filters");
    let own = match (&filters.request_redirect, &filters.direct_response) {
        (Some(_), Some(_)) => {
            out.error(spot.key("directResponse").finding(
                "a rule cannot both redirect and answer: keep one of `requestRedirect` and \
                 `directResponse`",
            ));
            return;
        }
        (Some(_), None) => "requestRedirect",
        (None, Some(_)) => "directResponse",
        (None, None) => return,
    };
    let in_filters = [
        ("urlRewrite", filters.url_rewrite.is_some()),
        ("requestHeaderModifier", filters.request_header_modifier.is_some()),
    ];
    let in_rule = [
        ("backendRefs", rule.backend_refs.is_some()),
        ("retry", rule.retry.is_some()),
        ("failover", rule.failover.is_some()),
        ("idempotency", rule.idempotency.is_some()),
        ("sessionPersistence", rule.session_persistence.is_some()),
        ("timeouts", rule.timeouts.is_some()),
    ];
    let places = in_filters.map(|(field, is)| (spot.key(field), field, is)).into_iter();
    let places = places.chain(in_rule.map(|(field, is)| (given.spot.key(field), field, is)));
    for (place, field, _) in places.filter(|(.., is)| *is) {
        let message = format!(
            "with `{own}` the gateway answers by itself and no server is asked, so `{field}` would \
             have no effect: remove one of the two"
        );
        out.error(place.finding(message).related(spot.key(own).place(), "answers by itself"));
    }
}

fn header_changes(
    given: &docs::HeaderChanges,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> HeaderChanges {
    out.given(base, spot, ());
    if given.set.is_empty() && given.add.is_empty() && given.remove.is_empty() {
        out.error(spot.finding("nothing is changed: add `set`, `add` or `remove`, or remove it"));
    }
    let pairs = |list: &[HeaderPair]| -> Vec<(HeaderName, HeaderValue)> {
        list.iter().map(|pair| (pair.name.0.clone(), pair.value.0.clone())).collect()
    };
    let names = |list: &[HeaderPair]| -> Vec<HeaderName> {
        list.iter().map(|pair| pair.name.0.clone()).collect()
    };
    let removed: Vec<HeaderName> = given.remove.iter().map(|name| name.0.clone()).collect();
    let mut seen: Vec<(HeaderName, Spot<'_>)> = Vec::new();
    for (field, list) in
        [("set", names(&given.set)), ("add", names(&given.add)), ("remove", removed.clone())]
    {
        for (index, name) in list.into_iter().enumerate() {
            let place = spot.key(field).index(index);
            reserved(&name, &place, out);
            let earlier = seen.iter().find(|(known, _)| *known == name);
            if let Some((_, first)) = earlier {
                let message = format!("the header `{name}` is changed twice: keep one change");
                out.error(place.finding(message).related(first.place(), "is the first one"));
            }
            seen.push((name, place));
        }
    }
    HeaderChanges { remove: removed, set: pairs(&given.set), add: pairs(&given.add) }
}

fn reserved(name: &HeaderName, spot: &Spot<'_>, out: &mut Output) {
    if !RESERVED.contains(&name.as_str()) {
        return;
    }
    let instead = if name == http::header::HOST {
        "write `urlRewrite: {hostname: …}`"
    } else {
        "leave it out"
    };
    out.error(spot.finding(format!(
        "the header `{name}` says how messages are framed or routed, and the gateway writes it \
         itself: {instead}"
    )));
}

fn rewrite(given: &UrlRewrite, about: &Given<'_>, out: &mut Output) -> Rewrite {
    let spot = about.spot.key("filters").key("urlRewrite");
    out.given(&format!("{}.filters.urlRewrite", about.base), &spot, ());
    if given.hostname.is_none() && given.path.is_none() {
        out.error(spot.finding("nothing is rewritten: add `hostname` or `path`, or remove it"));
    }
    Rewrite {
        host: given.hostname.as_ref().map(|host| host.0.as_str().into()),
        path: path(given.path.as_ref(), about, &spot.key("path"), out),
    }
}

fn path(
    given: Option<&PathModifier>,
    about: &Given<'_>,
    spot: &Spot<'_>,
    out: &mut Output,
) -> Option<PathRewrite> {
    let given = given?;
    let full = ("replaceFullPath", &given.replace_full_path);
    let prefix = ("replacePrefixMatch", &given.replace_prefix_match);
    let (kind, wanted, other) = match given.kind {
        PathModifierType::ReplaceFullPath => ("ReplaceFullPath", full, prefix),
        PathModifierType::ReplacePrefixMatch => ("ReplacePrefixMatch", prefix, full),
    };
    if other.1.is_some() {
        out.error(spot.key(other.0).finding(format!(
            "`{}` does not belong to `type: {kind}`: write `{}`, or change the type",
            other.0, wanted.0
        )));
    }
    let Some(value) = wanted.1 else {
        out.error(spot.key("type").finding(format!(
            "`type: {kind}` does not say what stands for the path: add `{}`",
            wanted.0
        )));
        return None;
    };
    let value = value.0.as_str().into();
    if given.kind == PathModifierType::ReplaceFullPath {
        return Some(PathRewrite::Full(value));
    }
    let exact = about.matches.iter().position(|one| matches!(one.path, PathMatch::Exact(_)));
    if let Some(exact) = exact {
        let message = "the rule also matches a whole path, which has no prefix to replace: match by \
                       `PathPrefix`, or write `type: ReplaceFullPath`";
        let at = about.spot.key("matches").index(exact).key("path");
        out.error(spot.key("type").finding(message).related(at.place(), "is a whole path"));
    }
    Some(PathRewrite::Prefix(value))
}

fn redirect(given: &RequestRedirect, about: &Given<'_>, out: &mut Output) -> Redirect {
    let spot = about.spot.key("filters").key("requestRedirect");
    let base = format!("{}.redirect", about.base);
    out.given(&base, &spot, ());
    let says = [
        given.scheme.is_some(),
        given.hostname.is_some(),
        given.port.is_some(),
        given.path.is_some(),
    ];
    if says == [false; 4] {
        out.error(spot.finding(
            "the client would be sent where it is already, again and again: add `scheme`, \
             `hostname`, `port` or `path`",
        ));
    }
    let status = given.status_code.map(Whole::fit::<u16>);
    if status.is_some_and(|code| !REDIRECTS.contains(&code)) {
        out.error(spot.key("statusCode").finding(
            "not every client follows this status: use one of 301, 302, 303, 307 and 308",
        ));
    }
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let path_of = |field: &str| format!("{base}.{field}");
    Redirect {
        scheme: given.scheme.map(|scheme| match scheme {
            SchemeDoc::Http => Scheme::Http,
            SchemeDoc::Https => Scheme::Https,
        }),
        host: given.hostname.as_ref().map(|host| host.0.as_str().into()),
        port: given.port.map(Whole::fit),
        path: path(given.path.as_ref(), about, &spot.key("path"), out),
        status: out.value(
            &path_of("statusCode"),
            &spot.key("statusCode"),
            status,
            StatusCode::FOUND,
        ),
    }
}

fn respond(given: &DirectResponseDoc, about: &Given<'_>, out: &mut Output) -> DirectResponse {
    let spot = about.spot.key("filters").key("directResponse");
    let base = format!("{}.response", about.base);
    out.given(&base, &spot, ());
    let code = given.status_code.fit::<u16>();
    let body = given.body.clone().unwrap_or_default();
    if body.len() > BODY_BYTES_MAX {
        out.error(spot.key("body").finding(format!(
            "the body has {} bytes, more than {BODY_BYTES_MAX}: let a server answer, or shorten it",
            body.len()
        )));
    }
    if !body.is_empty() && [204, 205, 304].contains(&code) {
        out.error(spot.key("body").finding(format!(
            "an answer with the status {code} has no body: remove `body`, or change the status"
        )));
    }
    if body.is_empty() && given.content_type.is_some() {
        out.error(
            spot.key("contentType")
                .finding("there is no body to have a type: add `body`, or remove it"),
        );
    }
    let default = HeaderValue::from_static("text/plain; charset=utf-8");
    let content_type = match (&given.content_type, body.is_empty()) {
        (_, true) => None,
        (Some(given), false) => Some(given.0.clone()),
        (None, false) => {
            out.origins.insert(format!("{base}.contentType"), Origin::Default);
            Some(default)
        }
    };
    DirectResponse {
        status: StatusCode::from_u16(code).unwrap_or(StatusCode::OK),
        content_type,
        body: Bytes::from(body),
    }
}

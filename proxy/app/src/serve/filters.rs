//! What a rule changes about messages, and what it answers by itself.
//!
//! Everything that could be prepared was, when the policy was compiled; a rule without filters
//! comes here to be asked one question. Fields that frame messages or name connections and hosts
//! are no rule's to change (a host is changed by a rewrite), whatever the policy says.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use tillgate_core::filter::{
    Action, DirectResponse, Filters, HeaderChanges, PathRewrite, Redirect, Rewrite, Scheme,
};
use tillgate_core::matching::{Found, PathMatch, RouteTable};
use tillgate_net::error::Failure;
use tillgate_net::http::body::ResponseBody;
use tillgate_net::http::headers;

use crate::outcome::Outcome;
use crate::problem::{self, Answer, Refusal};

/// Makes a request that met `matched` what its rule says.
pub(super) fn change_request(
    filters: &Filters,
    matched: &PathMatch,
    scheme: Scheme,
    head: &mut Parts,
) -> Result<(), Refusal> {
    if !filters.request_headers.is_empty() {
        // What the rule sets is not the client's to take away.
        headers::strip_of_hop(&mut head.headers);
        headers::correct_scheme(&mut head.headers, scheme);
        change(&filters.request_headers, &mut head.headers);
    }
    match &filters.rewrite {
        Some(rewrite) => retarget(rewrite, matched, head),
        None => Ok(()),
    }
}

/// Makes an answer what its rule says.
pub(super) fn change_response(filters: &Filters, headers: &mut HeaderMap) {
    if !filters.response_headers.is_empty() {
        change(&filters.response_headers, headers);
    }
}

fn change(changes: &HeaderChanges, headers: &mut HeaderMap) {
    for name in changes.remove.iter().filter(|name| !headers::is_ours(name)) {
        headers.remove(name);
    }
    for (name, value) in changes.set.iter().filter(|(name, _)| !headers::is_ours(name)) {
        headers.insert(name, value.clone());
    }
    for (name, value) in changes.add.iter().filter(|(name, _)| !headers::is_ours(name)) {
        headers.append(name, value.clone());
    }
}

fn retarget(rewrite: &Rewrite, matched: &PathMatch, head: &mut Parts) -> Result<(), Refusal> {
    let impossible = |_| {
        let detail = "what the rule makes of the request's target is no valid target";
        Refusal::new(Failure::InvalidRequest, detail)
    };
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    if let Some(host) = &rewrite.host {
        let value = HeaderValue::from_str(host).map_err(|_| impossible(()))?;
        let authority = Authority::try_from(&**host).map_err(|_| impossible(()))?;
        head.headers.insert(HOST, value);
        // A target in origin-form stays one.
        uri.authority = uri.authority.map(|_| authority);
    }
    if let Some(path) = &rewrite.path {
        let old = uri.path_and_query.as_ref();
        let target = new_path(path, matched, old.map_or("/", PathAndQuery::path), old);
        let target = PathAndQuery::try_from(target).map_err(|_| impossible(()))?;
        uri.path_and_query = Some(target);
    }
    head.uri = Uri::from_parts(uri).map_err(|_| impossible(()))?;
    Ok(())
}

/// The new path with the old query.
fn new_path(
    rewrite: &PathRewrite,
    matched: &PathMatch,
    path: &str,
    old: Option<&PathAndQuery>,
) -> String {
    let mut target = rewrite.apply(path, matched);
    if let Some(query) = old.and_then(PathAndQuery::query) {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// The answer of a rule that asks no backend.
pub(super) fn answer(
    routes: &RouteTable,
    found: Found,
    scheme: Scheme,
    head: &Parts,
    mut outcome: Outcome,
) -> Answer {
    match &routes.rule(found.rule).action {
        Action::Forward => problem::answer(&Failure::Internal.into(), outcome),
        Action::Respond(DirectResponse { status, content_type, body }) => {
            outcome.answer(*status);
            let bodyless = matches!(*status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let body = if bodyless { Bytes::new() } else { body.clone() };
            let mut answer = Response::new(ResponseBody::whole(body, outcome));
            *answer.status_mut() = *status;
            if let Some(kind) = content_type.as_ref().filter(|_| !bodyless) {
                answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            answer
        }
        Action::Redirect(redirect) => {
            let matched = &routes.alternative(found).path;
            let Ok(location) = HeaderValue::try_from(location(redirect, matched, scheme, head))
            else {
                return problem::answer(&Failure::InvalidRequest.into(), outcome);
            };
            outcome.answer(redirect.status);
            let mut answer = Response::new(ResponseBody::whole(Bytes::new(), outcome));
            *answer.status_mut() = redirect.status;
            answer.headers_mut().insert(LOCATION, location);
            answer
        }
    }
}

/// Where a redirect leads: what it does not name is the request's own.
fn location(redirect: &Redirect, matched: &PathMatch, scheme: Scheme, head: &Parts) -> String {
    let asked = head.uri.authority().map(Authority::as_str);
    let asked = asked.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default();
    let (host, port) = match asked.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (asked, None),
    };
    let new_scheme = redirect.scheme.unwrap_or(scheme);
    let (name, usual) = match new_scheme {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    let port = redirect.port.or(if redirect.scheme.is_some() { None } else { port });
    let mut location = format!("{name}://{}", redirect.host.as_deref().unwrap_or(host));
    if let Some(port) = port.filter(|port| *port != usual) {
        location.push_str(&format!(":{port}"));
    }
    let old = head.uri.path_and_query();
    match &redirect.path {
        Some(path) => location.push_str(&new_path(path, matched, head.uri.path(), old)),
        None => location.push_str(old.map_or("/", PathAndQuery::as_str)),
    }
    location
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(target: &str) -> Parts {
        Request::get(target).header("host", "till.example:8080").body(()).unwrap().into_parts().0
    }

    fn redirect() -> Redirect {
        Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND }
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let matched = PathMatch::Prefix("/old".into());
        let to =
            |redirect: Redirect| location(&redirect, &matched, Scheme::Http, &head("/old/a?b=c"));
        assert_eq!(to(redirect()), "http://till.example:8080/old/a?b=c");
        let https = Some(Scheme::Https);
        assert_eq!(
            to(Redirect { scheme: https, ..redirect() }),
            "https://till.example/old/a?b=c",
            "the port of http is not that of https"
        );
        assert_eq!(
            to(Redirect { scheme: https, port: Some(443), ..redirect() }),
            "https://till.example/old/a?b=c"
        );
        assert_eq!(
            to(Redirect { port: Some(9000), host: Some("b.example".into()), ..redirect() }),
            "http://b.example:9000/old/a?b=c"
        );
        let path = Some(PathRewrite::Prefix("/new".into()));
        assert_eq!(to(Redirect { path, ..redirect() }), "http://till.example:8080/new/a?b=c");
    }

    #[test]
    fn framing_is_no_rules_business() {
        let changes = HeaderChanges {
            remove: vec![HOST, http::header::CONTENT_LENGTH, "x-old".parse().unwrap()],
            set: vec![(http::header::TRANSFER_ENCODING, HeaderValue::from_static("gzip"))],
            add: vec![(http::header::VARY, HeaderValue::from_static("x"))],
        };
        let mut headers = head("/").headers;
        headers.insert("x-old", HeaderValue::from_static("1"));
        headers.insert("vary", HeaderValue::from_static("a"));
        headers.insert("content-length", HeaderValue::from_static("3"));
        change(&changes, &mut headers);
        assert_eq!(headers.len(), 4, "{headers:?}");
        assert_eq!(headers.get_all("vary").iter().count(), 2);
        assert!(headers.contains_key(HOST) && headers.contains_key("content-length"));
    }

    #[test]
    fn a_rewrite_changes_host_and_path_in_every_form() {
        let rewrite = Rewrite {
            host: Some("in.example".into()),
            path: Some(PathRewrite::Prefix("/v2".into())),
        };
        let matched = PathMatch::Prefix("/v1".into());
        let mut origin_form = head("/v1/x?y=1");
        retarget(&rewrite, &matched, &mut origin_form).unwrap();
        assert_eq!(origin_form.uri, "/v2/x?y=1");
        assert_eq!(origin_form.headers[HOST], "in.example");
        let mut absolute = head("http://out.example/v1/x");
        retarget(&rewrite, &matched, &mut absolute).unwrap();
        assert_eq!(absolute.uri, "http://in.example/v2/x");
    }
}

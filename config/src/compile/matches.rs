//! Matches of a rule: path, method, headers, query parameters, names in client certificates.
//!
//! A condition that is there twice could never hold, or hides a mistake, and is refused. Paths
//! and headers are compared whole or by prefix; regular expressions are not part of the language,
//! because no lookup by index would be left.

use http::Method;
use tillgate_core::matching::{HeaderMatch, PathMatch, QueryMatch, RequestMatch};

use super::Output;
use crate::document::Spot;
use crate::effective::Origin;
use crate::kinds::service_route::{MatchDoc, MethodDoc, PathMatchType, RuleDoc};

/// The alternatives of `rule`; `base` is its path in the effective config.
pub(super) fn compile(
    rule: &RuleDoc,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Vec<RequestMatch> {
    let spot = spot.key("matches");
    let Some(list) = &rule.matches else {
        let path = format!("{base}.matches[0].path");
        out.origins.insert(path, Origin::Default);
        return vec![RequestMatch::on_path(PathMatch::Prefix("/".into()))];
    };
    list.iter()
        .enumerate()
        .map(|(index, one)| {
            one_match(one, &spot.index(index), &format!("{base}.matches[{index}]"), out)
        })
        .collect()
}

fn one_match(one: &MatchDoc, spot: &Spot<'_>, base: &str, out: &mut Output) -> RequestMatch {
    let conditions = [
        one.path.is_some(),
        one.method.is_some(),
        one.headers.is_some(),
        one.query_params.is_some(),
        one.client_certificate.is_some(),
    ];
    if conditions == [false; 5] {
        out.error(spot.finding(
            "the match has no condition: add `path`, `method` or `headers`, or leave out `matches` \
             to take every request",
        ));
    }
    let path = one.path.as_ref().map(|path| {
        let value = path.value.0.as_str().into();
        match path.kind.unwrap_or(PathMatchType::PathPrefix) {
            PathMatchType::Exact => PathMatch::Exact(value),
            PathMatchType::PathPrefix => PathMatch::Prefix(value),
        }
    });
    let method = one.method.map(method);
    if method.is_some() {
        out.given(&format!("{base}.method"), &spot.key("method"), ());
    }
    let client = one.client_certificate.as_ref().map(|client| {
        let spot = spot.key("clientCertificate");
        out.given(&format!("{base}.clientCertificate"), &spot, client.san.0.clone())
    });
    let default = PathMatch::Prefix("/".into());
    RequestMatch {
        path: out.value(&format!("{base}.path"), &spot.key("path"), path, default),
        method,
        headers: headers(one, spot, base, out),
        query: query(one, spot, base, out),
        client,
    }
}

fn headers(one: &MatchDoc, spot: &Spot<'_>, base: &str, out: &mut Output) -> Vec<HeaderMatch> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (index, header) in one.headers.iter().flatten().enumerate() {
        let spot = spot.key("headers").index(index);
        if headers.iter().any(|known| known.name == header.name.0) {
            out.error(spot.key("name").finding(format!(
                "the header `{}` has two conditions in one match: keep one, or write two matches",
                header.name.0
            )));
        }
        out.given(&format!("{base}.headers[{index}]"), &spot, ());
        headers.push(HeaderMatch { name: header.name.0.clone(), value: header.value.0.clone() });
    }
    headers
}

fn query(one: &MatchDoc, spot: &Spot<'_>, base: &str, out: &mut Output) -> Vec<QueryMatch> {
    let mut query: Vec<QueryMatch> = Vec::new();
    for (index, parameter) in one.query_params.iter().flatten().enumerate() {
        let spot = spot.key("queryParams").index(index);
        let name = parameter.name.0.as_str();
        if query.iter().any(|known| *known.name == *name) {
            out.error(spot.key("name").finding(format!(
                "the query parameter `{name}` has two conditions in one match: keep one, or write \
                 two matches"
            )));
        }
        out.given(&format!("{base}.queryParams[{index}]"), &spot, ());
        query.push(QueryMatch { name: name.into(), value: parameter.value.0.as_str().into() });
    }
    query
}

fn method(method: MethodDoc) -> Method {
    match method {
        MethodDoc::Get => Method::GET,
        MethodDoc::Head => Method::HEAD,
        MethodDoc::Post => Method::POST,
        MethodDoc::Put => Method::PUT,
        MethodDoc::Patch => Method::PATCH,
        MethodDoc::Delete => Method::DELETE,
        MethodDoc::Options => Method::OPTIONS,
    }
}

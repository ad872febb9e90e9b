//! What a rule changes, and what it answers by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use tillgate_core::backend::{BackendProtocol, Endpoint, Host, Location};
use tillgate_core::filter::{
    Action, DirectResponse, HeaderChanges, PathRewrite, Redirect, Rewrite, Scheme, SessionCarrier,
    SessionPersistence,
};
use tillgate_core::matching::Rule;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Reply;

fn store(origin: &Origin, change: impl FnOnce(&mut Rule)) -> Store {
    Store::default()
        .backend("api", Location::Local, BackendProtocol::Http, origin.address)
        .route_of("api", "api.example", "/v1", Some("default"))
        .rule(change)
}

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

fn get(gateway: &Gateway, path: &str) -> Reply {
    gateway.ask(&format!("GET {path} HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n"))
}

#[test]
fn a_rule_may_say_how_a_request_came_and_a_client_may_not() {
    let origin = Origin::echoing();
    let set = |pairs: Vec<(HeaderName, HeaderValue)>| {
        let changes = HeaderChanges { set: pairs, ..HeaderChanges::default() };
        Gateway::start(store(&origin, |rule| rule.filters.request_headers = changes).build())
    };
    for (pairs, said) in [
        (vec![], "http"),
        (vec![pair("x-till", "7")], "http"),
        (vec![pair("x-forwarded-proto", "https")], "https"),
    ] {
        let text = set(pairs.clone())
            .ask(
                "GET /v1 HTTP/1.1\r\nHost: api.example\r\nX-Forwarded-Proto: wss\r\n\
                 Connection: close\r\n\r\n",
            )
            .text();
        let wanted = format!("\nx-forwarded-proto: {said}\n");
        assert_eq!(text.matches("x-forwarded-proto").count(), 1, "{text}");
        assert!(text.contains(&wanted), "{pairs:?}: {text}");
    }
}

#[test]
fn requests_arrive_as_the_rule_says() {
    let origin = Origin::echoing();
    let gateway = Gateway::start(
        store(&origin, |rule| {
            rule.filters.request_headers = HeaderChanges {
                remove: vec![HeaderName::from_static("x-secret"), HeaderName::from_static("host")],
                set: vec![pair("x-till", "7"), pair("content-length", "99")],
                add: vec![pair("x-list", "b")],
            };
            rule.filters.rewrite = Some(Rewrite {
                host: Some("inside.example".into()),
                path: Some(PathRewrite::Prefix("/api/v2".into())),
            });
        })
        .build(),
    );
    let text = gateway
        .ask(
            "GET /v1/items?a=%20b HTTP/1.1\r\nHost: api.example\r\nX-Secret: s\r\nX-Till: 1\r\n\
             X-Till: 2\r\nX-List: a\r\nConnection: close\r\n\r\n",
        )
        .text();
    assert!(text.starts_with("GET /api/v2/items?a=%20b HTTP/1.1\n"), "{text}");
    for wanted in ["host: inside.example\n", "x-till: 7\n", "x-list: a\n", "x-list: b\n"] {
        assert_eq!(text.matches(wanted).count(), 1, "{wanted:?} in\n{text}");
    }
    for gone in ["x-secret", "x-till: 1", "x-till: 2", "content-length"] {
        assert!(!text.contains(gone), "{gone} in\n{text}");
    }
}

#[test]
fn answers_arrive_as_the_rule_says() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nServer: old/1\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = Gateway::start(
        store(&origin, |rule| {
            rule.filters.response_headers = HeaderChanges {
                remove: vec![
                    HeaderName::from_static("server"),
                    HeaderName::from_static("content-length"),
                ],
                set: vec![pair("x-a", "3"), pair("transfer-encoding", "gzip")],
                add: vec![pair("vary", "x")],
            };
        })
        .build(),
    );
    let reply = get(&gateway, "/v1");
    assert_eq!((reply.status, &*reply.text()), (200, "ok"));
    assert_eq!(reply.header("server"), None);
    assert_eq!(reply.header("x-a"), Some("3"));
    assert_eq!(reply.header("vary"), Some("x"));
    assert_eq!(
        (reply.header("transfer-encoding"), reply.header("content-length")),
        (None, Some("2"))
    );
}

#[test]
fn redirects_and_direct_responses_ask_no_backend() {
    let origin = Origin::echoing();
    let redirect = Redirect {
        scheme: Some(Scheme::Https),
        host: None,
        port: Some(8443),
        path: Some(PathRewrite::Prefix("/v2".into())),
        status: StatusCode::MOVED_PERMANENTLY,
    };
    let gateway = Gateway::start(
        store(&origin, |rule| {
            rule.action = Action::Redirect(redirect);
            rule.tiers.clear();
            rule.filters.response_headers.set = vec![pair("x-by", "us")];
        })
        .build(),
    );
    let reply = get(&gateway, "/v1/a?b=c");
    assert_eq!(reply.status, 301);
    assert_eq!(reply.header("location"), Some("https://api.example:8443/v2/a?b=c"));
    assert_eq!((reply.header("x-by"), reply.header("content-length")), (Some("us"), Some("0")));

    let respond = DirectResponse {
        status: StatusCode::SERVICE_UNAVAILABLE,
        content_type: Some(HeaderValue::from_static("text/plain")),
        body: "closed until six\n".into(),
    };
    let direct = Gateway::start(
        store(&origin, |rule| {
            rule.action = Action::Respond(respond);
            rule.tiers.clear();
        })
        .build(),
    );
    let reply = get(&direct, "/v1/a");
    assert_eq!((reply.status, &*reply.text()), (503, "closed until six\n"));
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    direct.expect_metric(r#"tillgate_requests_total{class="default",route="api",code="503"}"#, 1.0);
    // A body that nobody reads does no harm to the request behind it.
    let mut wire = direct.wire();
    for _ in 0..2 {
        wire.send("POST /v1 HTTP/1.1\r\nHost: api.example\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(wire.reply().status, 503);
    }
    assert_eq!(origin.connections(), 0);
}

/// Three servers that say their numbers, behind one rule with sessions.
fn three(carrier: SessionCarrier, idle: Option<Duration>) -> (Gateway, Vec<Origin>) {
    let origins: Vec<Origin> = ["0", "1", "2"]
        .map(|name| -> &'static str {
            match name {
                "0" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0",
                "1" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2",
            }
        })
        .map(Origin::answering)
        .into();
    let mut effective = store(&origins[0], |rule| {
        let absolute_timeout = None;
        rule.persistence =
            Some(SessionPersistence { carrier, absolute_timeout, idle_timeout: idle });
    })
    .build();
    for origin in &origins[1..] {
        let host = Host::Ip(origin.address.ip());
        effective.backends[0].endpoints.push(Endpoint { host, port: origin.address.port() });
    }
    (Gateway::start(effective), origins)
}

#[test]
fn a_session_stays_where_it_began() {
    let (gateway, _origins) = three(SessionCarrier::Cookie("basket".into()), None);
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        let first = get(&gateway, "/v1");
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        assert!(cookie.contains("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
        assert!(!cookie.contains("Secure") && !cookie.contains("127.0.0.1"), "{cookie}");
        let token = cookie.split(';').next().expect("a token").to_owned();
        for _ in 0..5 {
            let next = gateway.ask(&format!(
                "GET /v1 HTTP/1.1\r\nHost: api.example\r\nCookie: a=b; {token}\r\n\
                 Connection: close\r\n\r\n"
            ));
            assert_eq!(next.text(), first.text(), "{token}");
            assert_eq!(next.header("set-cookie"), None, "it has a good one");
        }
        seen.insert(first.text());
    }
    assert!(seen.len() > 1, "new sessions are spread: {seen:?}");
    let stale = gateway.ask(
        "GET /v1 HTTP/1.1\r\nHost: api.example\r\nCookie: basket=00000000deadbeef\r\n\
         Connection: close\r\n\r\n",
    );
    assert_eq!(stale.status, 200);
    assert!(stale.header("set-cookie").is_some(), "it is replaced");
}

#[test]
fn a_session_may_be_carried_by_a_header_and_be_renewed() {
    let header = HeaderName::from_static("x-session");
    let (gateway, _origins) = three(SessionCarrier::Header(header), Some(Duration::from_secs(600)));
    let first = get(&gateway, "/v1");
    let token = first.header("x-session").expect("a token").to_owned();
    for _ in 0..8 {
        let next = gateway.ask(&format!(
            "GET /v1 HTTP/1.1\r\nHost: api.example\r\nX-Session: {token}\r\nConnection: close\r\n\r\n"
        ));
        assert_eq!(next.text(), first.text());
        assert!(next.header("x-session").is_some(), "its idle time begins anew");
    }
}

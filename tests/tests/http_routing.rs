//! Which request goes where, and what of its head arrives there.

use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[test]
fn hosts_and_paths_choose_the_backend() {
    let pay = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npay");
    let registry = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nregistry");
    let store = Store::default().cloud("payments", "pay.example", "payment", pay.address).local(
        "registry",
        "registry.example",
        "image-pull",
        registry.address,
    );
    let gateway = Gateway::start(store.build());

    assert_eq!(gateway.ask(&get("pay.example", "/v1/charge")).text(), "pay");
    assert_eq!(gateway.ask(&get("registry.example", "/v2/")).text(), "registry");
    assert_eq!(gateway.ask(&get("PAY.example.:8080", "/")).text(), "pay");
    assert_eq!(gateway.ask(&get("pay.example:80", "http://pay.example/x")).text(), "pay");
    gateway.expect_metric(
        r#"tillgate_requests_total{class="payment",route="payments",code="200"}"#,
        3.0,
    );
}

#[test]
fn what_no_route_knows_is_refused_with_a_reason() {
    let origin = Origin::echoing();
    let store = Store::default()
        .backend("api", Location::Cloud, BackendProtocol::Http, origin.address)
        .route_of("api", "api.example", "/v1", None);
    let gateway = Gateway::start(store.build());

    let unknown = gateway.ask(&get("nobody.example", "/"));
    assert_eq!((unknown.status, &*unknown.reason()), (404, "unknown_host"));
    assert!(unknown.text().contains("nobody.example"), "{}", unknown.text());
    let unmatched = gateway.ask(&get("api.example", "/v2"));
    assert_eq!((unmatched.status, &*unmatched.reason()), (404, "no_match"));
    assert_eq!(gateway.ask(&get("api.example", "/v1/x")).status, 200);

    let hostless = gateway.ask("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(hostless.status, 400);
    let before = origin.connections();
    for path in ["/v1/../v2", "/v1/%2e%2E/v2", "/v1/..;x/v2"] {
        let climbs = gateway.ask(&get("api.example", path));
        assert_eq!((climbs.status, &*climbs.reason()), (400, "invalid_request"), "{path}");
    }
    assert_eq!(origin.connections(), before, "the server would have seen `/v2`");
    let two = gateway.ask("GET / HTTP/1.1\r\nHost: api.example\r\nHost: b\r\n\r\n");
    assert_eq!(two.status, 400);
    let connect = gateway.ask("CONNECT api.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!((connect.status, &*connect.reason()), (405, "method_unsupported"));
    let upgrade = gateway.ask(
        "GET /v1 HTTP/1.1\r\nHost: api.example\r\nConnection: upgrade\r\nUpgrade: irc/6.9\r\n\r\n",
    );
    assert_eq!((upgrade.status, &*upgrade.reason()), (501, "upgrade_unsupported"));
    // What curl --http2 and Java's client offer with every request is no more than an offer.
    let mut wire = gateway.wire();
    for _ in 0..2 {
        wire.send(
            "GET /v1 HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
        );
        assert_eq!(wire.reply().status, 200);
    }
    gateway.expect_metric(r#"tillgate_failures_total{class="default",reason="unknown_host"}"#, 1.0);
}

#[test]
fn traffic_without_a_class_gets_its_natural_one() {
    let origin = Origin::echoing();
    let store = Store::default()
        .backend("registry", Location::Cloud, BackendProtocol::Http, origin.address)
        .route("registry", "registry.example", None);
    let gateway = Gateway::start(store.build());

    gateway.ask(&get("registry.example", "/v2/app/blobs/sha256:00"));
    gateway.ask(&get("registry.example", "/about"));
    let counted = |class: &str| {
        format!(r#"tillgate_requests_total{{class="{class}",route="registry",code="200"}}"#)
    };
    gateway.expect_metric(&counted("image-pull"), 1.0);
    gateway.expect_metric(&counted("default"), 1.0);
}

#[test]
fn a_head_arrives_without_what_was_meant_for_us() {
    let origin = Origin::echoing();
    let store = Store::default().cloud("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.build());

    let text = gateway
        .ask(
            "POST /a?b=c HTTP/1.1\r\nHost: pay.example:8080\r\nConnection: close, X-Hop, Host\r\n\
             X-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic eA==\r\nTE: gzip, trailers\r\nTrailer: X-Sum\r\n\
             X-Forwarded-For: 10.0.0.7\r\nIdempotency-Key: 42\r\nContent-Length: 2\r\n\r\nhi",
        )
        .text();
    assert!(text.starts_with("POST /a?b=c HTTP/1.1\n"), "{text}");
    for kept in [
        "host: pay.example:8080\n",
        "idempotency-key: 42\n",
        "x-forwarded-for: 10.0.0.7, 127.0.0.1\n",
        "te: trailers\n",
        "content-length: 2\n",
        "body hi\n",
    ] {
        assert!(text.contains(kept), "{kept:?} is not in\n{text}");
    }
    for gone in ["x-hop", "keep-alive", "proxy-", "connection", "via", "gzip"] {
        assert!(!text.contains(gone), "{gone:?} is in\n{text}");
    }
    let id = text.split("x-request-id: ").nth(1).and_then(|rest| rest.lines().next());
    let id = id.expect("an id was added");
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");

    let given = gateway.ask(
        "GET / HTTP/1.1\r\nHost: pay.example\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n",
    );
    assert!(given.text().contains("x-request-id: mine\n"), "{}", given.text());
}

#[test]
fn an_answer_arrives_without_what_was_meant_for_us() {
    let origin = Origin::answering(
        "HTTP/1.1 201 Created\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=9\r\n\
         X-Public: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
    );
    let store = Store::default().cloud("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.build());

    let reply = gateway.ask(&get("pay.example", "/"));
    assert_eq!((reply.status, &*reply.text()), (201, "ok"));
    assert_eq!(reply.header("x-public"), Some("2"));
    assert_eq!(reply.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
    for gone in ["x-private", "keep-alive", "via", "server"] {
        assert_eq!(reply.header(gone), None, "{reply:?}");
    }
}

#[test]
fn connections_are_kept_on_both_sides_and_never_shared_by_two_classes() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let store = Store::default().cloud("bulk", "bulk.example", "image-pull", origin.address).cloud(
        "metrics",
        "metrics.example",
        "metrics",
        origin.address,
    );
    let gateway = Gateway::start(store.build());

    let mut wire = gateway.wire();
    for _ in 0..5 {
        wire.send("GET / HTTP/1.1\r\nHost: bulk.example\r\n\r\n");
        assert_eq!(wire.reply().text(), "ok");
    }
    assert_eq!(origin.connections(), 1);
    for _ in 0..5 {
        wire.send("GET / HTTP/1.1\r\nHost: metrics.example\r\n\r\n");
        assert_eq!(wire.reply().text(), "ok");
    }
    assert_eq!(origin.connections(), 2);
    gateway
        .expect_metric(r#"tillgate_upstream_reuses_total{backend="bulk",class="image-pull"}"#, 4.0);
}

#[test]
fn a_critical_class_keeps_connections_ahead_of_need() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let store = Store::default().cloud("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.build());

    assert_eq!(gateway.ask(&get("pay.example", "/")).status, 200);
    gateway.expect_metric(r#"tillgate_upstream_connections{backend="pay",class="payment"}"#, 3.0);
}

#[test]
fn connections_ahead_of_need_are_replaced_when_the_server_closes_them() {
    let origin = Origin::start(|mut wire, number| {
        if number == 0 && wire.waits_for_more() {
            wire.reply();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
        while number > 2 && wire.waits_for_more() {
            wire.reply();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain");
        }
    });
    let store = Store::default().cloud("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.build());
    assert_eq!(gateway.ask(&get("pay.example", "/")).text(), "ok");
    let open = r#"tillgate_upstream_connections{backend="pay",class="payment"}"#;
    tillgate_tests::eventually("two others are open without a request", || {
        (origin.connections() >= 5 && gateway.metric(open) >= 2.0).then_some(())
    });
    assert_eq!(gateway.ask(&get("pay.example", "/")).text(), "again");
}

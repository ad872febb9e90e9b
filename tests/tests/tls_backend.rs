//! TLS to servers: whom we trust, what we show, and what is said when it does not come about.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body::Frame;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::health::{Expected, HealthSpec, ProbeKind, ProbeSpec};
use tillgate_core::tls::{ClientTls, TlsVersion, TrustAnchors};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Identity, Version, Volume, Wants};
use tillgate_tests::wire::Reply;

const GET: &str = "GET /x HTTP/1.1\r\nHost: pay.example\r\nConnection: close\r\n\r\n";

struct Side {
    authority: Authority,
    files: Volume,
}

impl Side {
    fn new() -> Self {
        let authority = Authority::default();
        let client = authority.issue(&["spiffe://store/gateway"]);
        let files = Volume::new(&[
            ("ca.crt", &authority.pem),
            ("tls.crt", &client.chain),
            ("tls.key", &client.key),
        ]);
        Self { authority, files }
    }

    fn identity(&self) -> Identity {
        self.authority.issue(&["pay.bank.example", "127.0.0.1"])
    }

    fn tls(&self) -> ClientTls {
        ClientTls {
            sni: Some("pay.bank.example".into()),
            roots: TrustAnchors::File(self.files.file("ca.crt")),
            certificate: None,
            min_version: TlsVersion::V1_2,
        }
    }
}

/// An origin that shows `identity`.
fn origin(identity: &Identity) -> Origin {
    Origin::echoing_tls(tls::server(&Wants { identity: Some(identity), ..Wants::default() }, None))
}

fn ask(origin: &Origin, tls: ClientTls) -> (Reply, Gateway) {
    let store = Store::default().cloud("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.over_tls(tls).build());
    (gateway.ask(GET), gateway)
}

fn handshakes(result: &str) -> String {
    format!(r#"tillgate_upstream_tls_handshakes_total{{backend="pay",result="{result}"}}"#)
}

#[test]
fn a_server_of_a_named_authority_is_trusted_and_its_sessions_are_resumed() {
    let side = Side::new();
    let origin = origin(&side.identity());
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let store = store.pool(|pool| pool.idle_timeout = Duration::ZERO);
    let store = store.local("pay", "pay.example", "payment", origin.address).over_tls(side.tls());
    let gateway = Gateway::start(store.route("tls", "tls.example", Some("payment")).build());
    for _ in 0..3 {
        let reply = gateway.ask("GET /x HTTP/1.1\r\nHost: tls.example\r\n\r\n");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().starts_with("GET /x HTTP/1.1\n"), "{}", reply.text());
    }
    gateway.expect_metric(&handshakes("full"), 1.0);
    gateway.expect_metric(&handshakes("resumed"), 2.0);
}

#[test]
fn a_wan_connection_carries_tls_and_is_kept() {
    let side = Side::new();
    let origin = origin(&side.identity());
    let body = "x".repeat(300_000);
    let (reply, gateway) = ask(&origin, side.tls());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = gateway.ask(&format!(
        "POST / HTTP/1.1\r\nHost: pay.example\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert!(reply.text().contains(&body) && reply.complete);
    let reused = r#"tillgate_upstream_reuses_total{backend="pay",class="payment"}"#;
    assert!(gateway.metric(reused) >= 1.0);
    let moved =
        r#"tillgate_link_traffic_bytes_total{link="primary",direction="up",class="payment"}"#;
    assert!(gateway.metric(moved) > 300_000.0, "TLS is shaped like all the rest");
}

#[test]
fn the_address_is_checked_where_no_name_is_given() {
    let side = Side::new();
    let origin = origin(&side.identity());
    let (reply, _gateway) = ask(&origin, ClientTls { sni: None, ..side.tls() });
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn http2_is_agreed_on_inside() {
    let side = Side::new();
    let identity = side.identity();
    let wants = Wants { identity: Some(&identity), alpn: vec!["h2"], ..Wants::default() };
    let server = h2::Origin::start_tls(tls::server(&wants, None), |head, _, _| {
        vec![Frame::data(format!("{} {:?}", head.uri.path(), head.version).into())]
    });
    let gateway = |address| {
        let store = Store::default()
            .backend("pay", Location::Cloud, BackendProtocol::Http2, address)
            .over_tls(side.tls())
            .route("pay", "pay.example", Some("payment"));
        Gateway::start(store.build())
    };
    let reply = gateway(server.address).ask(GET);
    assert_eq!((reply.status, &*reply.text()), (200, "/x HTTP/2.0"));

    // One that does not speak it.
    let other = origin(&identity);
    let reply = gateway(other.address).ask(GET);
    assert_eq!((reply.status, &*reply.reason()), (502, "tls_handshake"));
    assert!(reply.text().contains("set the backend's `protocol` to HTTP"), "{}", reply.text());
}

#[test]
fn every_server_of_http2_is_told_the_scheme_by_which_it_is_reached() {
    let side = Side::new();
    let identity = side.identity();
    for is_secure in [false, true] {
        // Kestrel resets a stream whose scheme is not its connection's.
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let sees = Arc::clone(&seen);
        let answer = move |head: http::request::Parts, _, _| {
            let agent = head.headers.get("user-agent").and_then(|agent| agent.to_str().ok());
            let asked =
                (agent.unwrap_or("call").to_owned(), head.uri.scheme_str() == Some("https"));
            sees.lock().expect("no panic").insert(asked);
            Vec::new()
        };
        let wants = Wants { identity: Some(&identity), alpn: vec!["h2"], ..Wants::default() };
        let server = if is_secure {
            h2::Origin::start_tls(tls::server(&wants, None), answer)
        } else {
            h2::Origin::start(answer)
        };
        let (method, path) = (http::Method::GET, "/health".into());
        let kind = ProbeKind::Http { method, path, host: None, expected: Expected::Any };
        let probe = ProbeSpec {
            kind,
            interval: Duration::from_millis(100),
            timeout: tillgate_tests::PATIENCE,
            unhealthy_threshold: 3,
            healthy_threshold: 1,
        };
        let store = Store::default()
            .backend("pay", Location::Cloud, BackendProtocol::Http2, server.address)
            .change_backend(|backend| {
                let health = HealthSpec::clone(&backend.health);
                backend.health = HealthSpec { active: Some(probe), ..health }.into();
            });
        let store = if is_secure { store.over_tls(side.tls()) } else { store };
        let gateway = Gateway::start(store.route("pay", "pay.example", Some("payment")).build());
        assert_eq!(gateway.ask(GET).status, 200);
        let both = [("call".to_owned(), is_secure), ("tillgate-probe".to_owned(), is_secure)];
        tillgate_tests::eventually("a probe has come", || {
            let seen = seen.lock().expect("no panic");
            (seen.len() >= both.len()).then(|| assert_eq!(*seen, BTreeSet::from(both.clone())))
        });
    }
}

#[test]
fn every_wrong_certificate_has_a_reason_and_a_remedy() {
    let side = Side::new();
    let names = ["pay.bank.example"];
    for (identity, reason, said) in [
        (Authority::default().issue(&names), "tls_untrusted", "`tls.caFile`"),
        (side.authority.issue_until(&names, (2020, 2, 3)), "tls_expired", "03 Feb 2020"),
        (side.authority.issue(&["other.example"]), "tls_wrong_name", "other.example"),
    ] {
        let origin = origin(&identity);
        let (reply, gateway) = ask(&origin, side.tls());
        assert_eq!((reply.status, &*reply.reason()), (502, reason));
        assert!(reply.text().contains(said), "{}", reply.text());
        let failed = format!(
            r#"tillgate_upstream_dial_failures_total{{backend="pay",class="payment",reason="{reason}"}}"#
        );
        assert!(gateway.metric(&failed) >= 1.0);
        gateway.expect_metric(&handshakes("full"), 0.0);
    }
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_ours() {
    let side = Side::new();
    let identity = side.identity();
    for only in [Version::V1_2, Version::V1_3] {
        let wants = Wants { identity: Some(&identity), only: Some(only), ..Wants::default() };
        let origin = Origin::echoing_tls(tls::server(&wants, Some(&side.authority)));
        let with = ClientTls { certificate: Some(side.files.key_pair()), ..side.tls() };
        let (reply, gateway) = ask(&origin, with);
        assert_eq!(reply.status, 200, "{only:?}: {}", reply.text());
        let expiry = r#"tillgate_tls_certificate_expiry_timestamp_seconds{side="backend",name="pay",index="0"}"#;
        gateway.expect_metric(expiry, tls::NOT_AFTER_UNIX);

        let (reply, _gateway) = ask(&origin, side.tls());
        let (text, reason) = (reply.text(), reply.reason());
        assert_eq!(reply.status, 502, "{only:?}");
        // With 1.2 a server says no while we still write, and what it says may be lost.
        let lost = matches!(only, Version::V1_2) && reason == "tls_handshake";
        let told = reason == "tls_client_certificate" && text.contains("`tls.clientCertificate`");
        assert!(told || lost, "{only:?}: {text}");
    }
}

#[test]
fn an_old_server_and_one_without_tls_are_told_apart_from_silence() {
    let side = Side::new();
    let identity = side.identity();
    let wants = Wants { identity: Some(&identity), only: Some(Version::V1_2), ..Wants::default() };
    let old = Origin::echoing_tls(tls::server(&wants, None));
    let (reply, _gateway) = ask(&old, ClientTls { min_version: TlsVersion::V1_3, ..side.tls() });
    assert_eq!((reply.status, &*reply.reason()), (502, "tls_handshake"));
    assert!(reply.text().contains("tls.minVersion"), "{}", reply.text());

    let plain = Origin::start(|mut wire, _| {
        if wire.waits_for_more() {
            let _ = wire.try_send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let (reply, _gateway) = ask(&plain, side.tls());
    assert_eq!((reply.status, &*reply.reason()), (502, "tls_handshake"));
    assert!(reply.text().contains("speaks TLS"), "{}", reply.text());

    let silent = Origin::start(|mut wire, _| drop(wire.read_to_end()));
    let store = Store::default()
        .timeouts(|timeouts| timeouts.connect = Duration::from_millis(300))
        .cloud("pay", "pay.example", "payment", silent.address)
        .over_tls(side.tls());
    let gateway = Gateway::start(store.build());
    let reply = gateway.ask(GET);
    assert_eq!((reply.status, &*reply.reason()), (504, "connect_timeout"));
}

#[test]
fn connections_of_two_identities_are_never_mixed() {
    let side = Side::new();
    let identity = side.identity();
    let wants = Wants { identity: Some(&identity), ..Wants::default() };
    let origin = Origin::echoing_tls(tls::server(&wants, None));
    let with = ClientTls { certificate: Some(side.files.key_pair()), ..side.tls() };
    let store = Store::default()
        .local("one", "one.example", "default", origin.address)
        .over_tls(side.tls())
        .local("two", "two.example", "default", origin.address)
        .over_tls(with);
    let gateway = Gateway::start(store.build());
    for _ in 0..2 {
        for host in ["one.example", "two.example"] {
            let reply = gateway.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }
    // Two workers have a pool each; whichever they used, one's connection never served two.
    for backend in ["one", "two"] {
        let count = |name: &str| {
            gateway.metric(&format!(
                r#"tillgate_upstream_{name}_total{{backend="{backend}",class="default"}}"#
            ))
        };
        assert!(count("dials") >= 1.0);
        assert!((count("dials") + count("reuses") - 2.0).abs() < 1e-9);
    }
}

#[test]
fn a_refusal_is_of_the_connection_it_came_on() {
    let side = Side::new();
    let identity = side.identity();
    let wants = Wants { identity: Some(&identity), ..Wants::default() };
    let (friendly, strict) =
        (tls::server(&wants, None), tls::server(&wants, Some(&side.authority)));
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (tell, told) = std::sync::mpsc::channel();
    let origin = Origin::start(move |wire, number| {
        if number > 0 {
            let _ = tls::accept(wire, &strict);
            return;
        }
        // The first one is taken with a whole request, and then breaks without an answer.
        let mut wire = tls::accept(wire, &friendly).expect("a handshake");
        wire.reply();
        tell.send(()).expect("the test waits");
        let _ = wait.lock().expect("one connection").recv_timeout(tillgate_tests::PATIENCE);
    });
    let store = Store::default().cloud("pay", "pay.example", "default", origin.address);
    let gateway = Gateway::start(store.over_tls(side.tls()).build());
    let mut first = gateway.wire();
    first.send("POST / HTTP/1.1\r\nHost: pay.example\r\nContent-Length: 1\r\n\r\nx");
    told.recv_timeout(tillgate_tests::PATIENCE).expect("it arrives");
    let second = gateway.ask(GET);
    assert_eq!((second.status, &*second.reason()), (502, "tls_client_certificate"));
    go.send(()).expect("the origin waits");
    let first = first.reply();
    assert_eq!((first.status, &*first.reason()), (502, "backend_closed"), "it was sent");
}

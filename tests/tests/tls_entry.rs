//! TLS that ends at the HTTP entry: what is agreed on, which certificate is shown, whose is taken,
//! and that no client's handshake is anybody else's trouble.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tillgate_core::tls::{
    ClientAuth, ClientCertificates, SanMatch, ServerTls, TlsVersion, TrustAnchors,
};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Version, Volume, Wants};
use tillgate_tests::wire::Wire;
use tillgate_tests::{eventually, h2, now};

fn https(pairs: &[&Volume]) -> ServerTls {
    ServerTls {
        certificates: pairs.iter().map(|pair| pair.key_pair()).collect(),
        client_certificates: None,
        min_version: TlsVersion::V1_2,
    }
}

fn handshakes(result: &str) -> String {
    format!(r#"tillgate_tls_handshakes_total{{listener="http",result="{result}"}}"#)
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: pay.example\r\n\r\n";

#[test]
fn both_versions_of_http_are_agreed_on_by_alpn() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    let origin = Origin::echoing();
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.https(https(&[&volume])).build());

    let http1 = tls::client(&authority, &Wants { alpn: vec!["http/1.1"], ..Wants::default() });
    let mut shaken = tls::connect(gateway.http, "pay.example", &http1).unwrap();
    assert_eq!(shaken.agreed.as_deref(), Some("http/1.1"));
    for _ in 0..2 {
        shaken.wire.send(GET);
        let reply = shaken.wire.reply();
        assert_eq!(reply.status, 200);
        assert!(reply.text().starts_with("GET /x HTTP/1.1\n"), "{}", reply.text());
    }

    // A client without ALPN gets HTTP/1.1.
    let plain = tls::client(&authority, &Wants::default());
    let mut shaken = tls::connect(gateway.http, "pay.example", &plain).unwrap();
    assert_eq!(shaken.agreed, None);
    shaken.wire.send("GET /x HTTP/1.1\r\nHost: pay.example\r\nX-Forwarded-Proto: http\r\n\r\n");
    let reply = shaken.wire.reply();
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("\nx-forwarded-proto: https\n"), "{}", reply.text());

    let both = tls::client(&authority, &Wants { alpn: vec!["h2", "http/1.1"], ..Wants::default() });
    let mut client = h2::Client::connect_tls(gateway.http, "pay.example", both);
    let request = || {
        let request = Request::get("https://pay.example/y");
        request.body(http_body_util::Full::default()).unwrap()
    };
    for answer in client.ask_all(vec![request(), request(), request()]) {
        assert_eq!(answer.head.status, 200);
        assert!(answer.body.starts_with(b"GET /y HTTP/1.1\n"));
    }
    gateway.expect_metric(&handshakes("full"), 3.0);

    let other = tls::client(&authority, &Wants { alpn: vec!["acme-tls/1"], ..Wants::default() });
    assert!(tls::connect(gateway.http, "pay.example", &other).is_err());
    gateway.expect_metric(&handshakes("no_protocol"), 1.0);
}

#[test]
fn the_name_chooses_the_certificate() {
    let authority = Authority::default();
    let first = authority.issue(&["first.example"]);
    let whole = authority.issue(&["a.shop.example", "other.example"]);
    let wildcard = authority.issue(&["*.shop.example"]);
    let volumes = [&first, &whole, &wildcard].map(Volume::pair);
    let origin = Origin::echoing();
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let pairs: Vec<_> = volumes.iter().collect();
    let gateway = Gateway::start(store.https(https(&pairs)).build());

    let config = tls::client(&authority, &Wants::default());
    let shown = |name: &str| tls::connect(gateway.http, name, &config).map(|shaken| shaken.shown);
    for (name, expected) in [
        ("first.example", &first),
        ("a.shop.example", &whole),
        ("A.Shop.Example", &whole),
        ("other.example", &whole),
        ("b.shop.example", &wildcard),
    ] {
        assert_eq!(shown(name).unwrap(), tls::certificate(expected), "{name}");
    }
    // The first is shown where none fits: the client refuses it, and that is counted.
    for name in ["unknown.example", "a.b.shop.example", "shop.example", "127.0.0.1"] {
        let error = shown(name).unwrap_err().to_string();
        assert!(error.contains("first.example"), "{name}: {error}");
    }
    gateway.expect_metric(&handshakes("refused_by_client"), 4.0);
}

#[test]
fn a_session_is_taken_up_again() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    let origin = Origin::echoing();
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.https(https(&[&volume])).build());
    for (only, resumed) in [(Version::V1_3, 1.0), (Version::V1_2, 2.0)] {
        let wants = Wants { only: Some(only), ..Wants::default() };
        let config = tls::client(&authority, &wants);
        for again in [false, true] {
            let mut shaken = tls::connect(gateway.http, "pay.example", &config).unwrap();
            assert_eq!(shaken.resumed, again, "{only:?}");
            // With 1.3 the ticket comes after the handshake.
            shaken.wire.send(GET);
            assert_eq!(shaken.wire.reply().status, 200);
        }
        gateway.expect_metric(&handshakes("resumed"), resumed);
    }
}

/// A gateway whose first rule wants a till's name, and whose second takes everybody.
fn with_clients(
    mode: ClientAuth,
    clients: &Authority,
    server: &Authority,
) -> (Gateway, Vec<Volume>, Origin) {
    let volume = Volume::pair(&server.issue(&["pay.example"]));
    let ca = Volume::new(&[("ca.crt", &clients.pem)]);
    let origin = Origin::echoing();
    let mut tls = https(&[&volume]);
    tls.client_certificates = Some(ClientCertificates { mode, ca_file: ca.file("ca.crt") });
    let store = Store::default()
        .local("tills", "pay.example", "payment", origin.address)
        .rule(|rule| {
            rule.matches[0].client = Some(SanMatch::Exact("URI:spiffe://store/till-7".into()));
        })
        .route_of("everybody", "pay.example", "/open", Some("default"));
    (Gateway::start(store.https(tls).build()), vec![volume, ca], origin)
}

#[test]
fn a_required_certificate_is_required_and_its_name_is_matched() {
    let (clients, server) = (Authority::default(), Authority::default());
    let (gateway, _files, _origin) = with_clients(ClientAuth::Required, &clients, &server);
    let till = clients.issue(&["spiffe://store/till-7", "till-7.example", "till@store.example"]);
    let other_till = clients.issue(&["spiffe://store/till-8"]);
    let stranger = server.issue(&["spiffe://store/till-7"]);
    let expired = clients.issue_until(&["spiffe://store/till-7"], (2001, 1, 1));

    let ask = |identity: Option<&tls::Identity>| {
        // With 1.2 a refusal is part of the handshake; with 1.3 it comes after it.
        let wants = Wants { identity, ..Wants::default() };
        let config = tls::client(&server, &wants);
        let mut wire = tls::connect(gateway.http, "pay.example", &config).ok()?.wire;
        (wire.try_send(GET) && wire.waits_for_more()).then(|| wire.reply().status)
    };
    assert_eq!(ask(Some(&till)), Some(200));
    assert_eq!(ask(Some(&other_till)), Some(404), "no rule is for this name");
    assert_eq!(ask(None), None);
    gateway.expect_metric(&handshakes("no_certificate"), 1.0);
    assert_eq!(ask(Some(&stranger)), None);
    assert_eq!(ask(Some(&expired)), None);
    gateway.expect_metric(&handshakes("bad_certificate"), 1.0);
    gateway.expect_metric(&handshakes("expired_certificate"), 1.0);
    assert_eq!(ask(Some(&till)), Some(200), "the listener goes on");
}

#[test]
fn an_optional_certificate_is_checked_where_it_is_shown() {
    let (clients, server) = (Authority::default(), Authority::default());
    let (gateway, _files, _origin) = with_clients(ClientAuth::Optional, &clients, &server);
    let till = clients.issue(&["spiffe://store/till-7"]);
    let stranger = server.issue(&["spiffe://store/till-7"]);
    let ask = |identity: Option<&tls::Identity>, path: &str| {
        let wants = Wants { identity, only: Some(Version::V1_2), ..Wants::default() };
        let config = tls::client(&server, &wants);
        let mut wire = tls::connect(gateway.http, "pay.example", &config).ok()?.wire;
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: pay.example\r\n\r\n"));
        Some(wire.reply().status)
    };
    assert_eq!(ask(None, "/open"), Some(200));
    assert_eq!(ask(None, "/x"), Some(404));
    assert_eq!(ask(Some(&till), "/x"), Some(200));
    assert_eq!(ask(Some(&stranger), "/open"), None, "an invalid one is no anonymous client");
}

#[test]
fn a_certificate_that_ends_meets_no_rule_on_its_connection_and_is_not_taken_up_again() {
    let (clients, server) = (Authority::default(), Authority::default());
    let (gateway, _files, _origin) = with_clients(ClientAuth::Optional, &clients, &server);
    let names = ["spiffe://store/till-7"];
    for only in [Version::V1_2, Version::V1_3] {
        // On a busy machine the first ones may end before they are shown.
        let lives = (2..).find_map(|seconds| {
            let identity = clients.issue_for(&names, seconds);
            let wants = Wants { identity: Some(&identity), only: Some(only), ..Wants::default() };
            let config = tls::client(&server, &wants);
            let mut wire = tls::connect(gateway.http, "pay.example", &config).ok()?.wire;
            let is_taken =
                wire.try_send(GET) && wire.waits_for_more() && wire.reply().status == 200;
            is_taken.then_some((wire, config))
        });
        let (mut wire, config) = lives.unwrap();
        let last = eventually("it has ended", || {
            wire.send(GET);
            Some(wire.reply()).filter(|reply| reply.status != 200)
        });
        assert_eq!((last.status, last.header("connection")), (404, Some("close")));
        let counted = gateway.metric(&handshakes("expired_certificate"));
        if let Ok(again) = tls::connect(gateway.http, "pay.example", &config) {
            assert!(again.resumed, "a whole handshake is refused before it is over");
            let mut wire = again.wire;
            assert!(!(wire.try_send(GET) && wire.waits_for_more()), "{only:?}");
        }
        gateway.expect_metric(&handshakes("expired_certificate"), counted + 1.0);
    }
}

#[test]
fn a_certificate_that_ends_ends_its_connection_of_http2() {
    const HELLO: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const GOAWAY: &str = "\0\0\x08\x07\0\0\0\0\0";
    const PING: &str = "\0\0\x08\x06\0\0\0\0\0tillgate";
    const PONG: &str = "\0\0\x08\x06\x01\0\0\0\0tillgate";
    let (clients, server) = (Authority::default(), Authority::default());
    let (gateway, _files, _origin) = with_clients(ClientAuth::Required, &clients, &server);
    let connect = |identity: &tls::Identity| {
        let (identity, alpn) = (Some(identity), vec!["h2"]);
        let config = tls::client(&server, &Wants { identity, alpn, ..Wants::default() });
        let mut wire = tls::connect(gateway.http, "pay.example", &config).ok()?.wire;
        (wire.try_send(HELLO) && wire.waits_for_more()).then_some(wire)
    };
    let names = ["spiffe://store/till-7"];
    let mut lasting = connect(&clients.issue(&names)).unwrap();
    // On a busy machine the first ones may end before they are shown.
    let mut ending = (2..).find_map(|seconds| connect(&clients.issue_for(&names, seconds)));
    ending.as_mut().unwrap().read_until(GOAWAY);
    lasting.send(PING);
    let read = lasting.read_until(PONG);
    assert!(!read.contains(GOAWAY), "it is not told to go for its silence: {read:?}");
}

#[test]
fn an_old_version_is_refused() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    let origin = Origin::echoing();
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let mut tls = https(&[&volume]);
    tls.min_version = TlsVersion::V1_3;
    let gateway = Gateway::start(store.https(tls).build());
    let client = |only| {
        let wants = Wants { only: Some(only), ..Wants::default() };
        tls::connect(gateway.http, "pay.example", &tls::client(&authority, &wants))
    };
    assert!(client(Version::V1_2).is_err());
    gateway.expect_metric(&handshakes("incompatible"), 1.0);
    assert!(client(Version::V1_3).is_ok());
}

#[test]
fn clients_that_do_not_shake_hands_trouble_nobody() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    let origin = Origin::echoing();
    // Enough for a good client's handshake among seven hundred bad ones, on a busy machine too.
    let limit = Duration::from_secs(5);
    let store = Store::default().limits(|limits| limits.header_timeout = limit).local(
        "pay",
        "pay.example",
        "payment",
        origin.address,
    );
    let gateway = Gateway::start(store.https(https(&[&volume])).build());

    // An hour of them at once: silent ones, half a hello, plain HTTP, noise, gone at once.
    let begun = now();
    let mut silent: Vec<Wire> = (0..600).map(|_| gateway.wire()).collect();
    let mut half: Vec<Wire> = (0..20).map(|_| gateway.wire()).collect();
    for wire in &mut half {
        wire.send([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
    }
    for _ in 0..20 {
        let mut wire = gateway.wire();
        wire.send(GET);
        let _ = wire.read_to_end();
        let mut wire = gateway.wire();
        wire.send([0xff; 2000]);
        let _ = wire.read_to_end();
        gateway.wire().reset();
    }
    let config = tls::client(&authority, &Wants::default());
    let mut shaken = tls::connect(gateway.http, "pay.example", &config).unwrap();
    shaken.wire.send(GET);
    assert_eq!(shaken.wire.reply().status, 200);

    for wire in silent.iter_mut().chain(&mut half) {
        let _ = wire.read_to_end();
    }
    assert!(now() - begun >= limit);
    gateway.expect_metric(&handshakes("timeout"), 620.0);
    gateway.expect_metric(&handshakes("not_tls"), 40.0);
    gateway.expect_metric(&handshakes("client_gone"), 20.0);
    shaken.wire.send(GET);
    let _ = shaken.wire.waits_for_more();
    let mut again = tls::connect(gateway.http, "pay.example", &config).unwrap();
    again.wire.send(GET);
    assert_eq!(again.wire.reply().status, 200);
}

#[test]
fn a_tunnel_inside_of_tls_carries_bytes_and_half_closes() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["proxy.example"]));
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let line = wire.read_until("\n");
            wire.send(line);
        }
        wire.send("bye\n");
    });
    let gateway = Gateway::start(Store::default().https_forward(https(&[&volume])).build());
    let client = tls::client(&authority, &Wants { alpn: vec!["http/1.1"], ..Wants::default() });
    let mut wire = tls::connect(gateway.forward, "proxy.example", &client).unwrap().wire;
    let target = origin.address;
    wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly\n"));
    assert_eq!(wire.head().status, 200);
    wire.read_until("early\n");
    let long = format!("{}\n", "x".repeat(200_000));
    wire.send(&long);
    assert_eq!(wire.read_until("\n"), long);
    wire.finish();
    assert_eq!(wire.read_to_end().expect("a clean end"), b"bye\n");
    let tunnels = r#"tillgate_requests_total{class="default",route="egress",code="200"}"#;
    gateway.expect_metric(tunnels, 1.0);
}

#[test]
fn a_file_that_is_missing_at_start_is_named_with_its_remedy() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    std::fs::remove_file(volume.path("tls.key")).unwrap();
    let refused = |store: Store| {
        let Err(error) = tillgate::build(store.build()) else { panic!("a start without its key") };
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    let text = refused(Store::default().https(https(&[&volume])));
    let path = volume.path("tls.key").display().to_string();
    assert!(text.starts_with("listener http: ") && text.contains(&path), "{text}");
    assert!(text.contains("check that it exists"), "{text}");

    let mismatched = Volume::pair(&authority.issue(&["pay.example"]));
    mismatched.edit("tls.key", &authority.issue(&["pay.example"]).key);
    let text = refused(Store::default().https(https(&[&mismatched])));
    assert!(text.contains("does not belong to the first certificate"), "{text}");

    let address = "127.0.0.1:1".parse().unwrap();
    let store = Store::default().local("pay", "pay.example", "payment", address);
    let text = refused(store.over_tls(tillgate_core::tls::ClientTls {
        sni: None,
        roots: TrustAnchors::File(Arc::from(volume.path("ca.crt"))),
        certificate: None,
        min_version: TlsVersion::V1_2,
    }));
    assert!(text.starts_with("backend pay: ") && text.contains("ca.crt"), "{text}");
}

#[test]
fn clients_that_stop_after_their_hello_do_not_keep_others_out() {
    tillgate_net::listen::raise_open_files().expect("files for both ends of each connection");
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    let origin = Origin::echoing();
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let gateway = Gateway::start(store.https(https(&[&volume])).build());
    let config = tls::client(&authority, &Wants::default());
    let hello = tls::hello("pay.example", &config);
    // More than the handshakes that a listener keeps; each has our answer, so each has its place.
    let mut stuck: Vec<Wire> = (0..520).map(|_| gateway.wire()).collect();
    for wire in &mut stuck {
        wire.send(&hello);
        assert_eq!(wire.read_exact(1), [22], "a handshake record");
    }
    gateway.expect_metric(&handshakes("crowded_out"), 8.0);
    let mut shaken = tls::connect(gateway.http, "pay.example", &config).unwrap();
    shaken.wire.send(GET);
    assert_eq!(shaken.wire.reply().status, 200);
    for wire in &mut stuck[..9] {
        let _ = wire.read_to_end();
    }
    gateway.expect_metric(&handshakes("crowded_out"), 9.0);
    gateway.expect_metric(&handshakes("timeout"), 0.0);
}

#[test]
fn an_idle_client_is_told_that_nothing_was_cut_off() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    let store = Store::default().limits(|limits| limits.idle_timeout = Duration::from_millis(300));
    let gateway = Gateway::start(store.https(https(&[&volume])).build());
    let config = tls::client(&authority, &Wants::default());
    let mut wire = tls::connect(gateway.http, "pay.example", &config).unwrap().wire;
    assert_eq!(wire.read_to_end(), Ok(Vec::new()), "close_notify");
}

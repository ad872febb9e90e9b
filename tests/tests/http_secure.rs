//! HTTP inside of TLS means what it means in the clear: framing, WebSocket, what a rule says.

use http::StatusCode;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::filter::{Action, Redirect, SessionCarrier, SessionPersistence};
use tillgate_core::matching::Rule;
use tillgate_core::tls::{ServerTls, TlsVersion};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Volume, Wants};
use tillgate_tests::wire::Wire;

/// A gateway with one route, and who may ask it.
struct Https {
    gateway: Gateway,
    authority: Authority,
    _volume: Volume,
}

impl Https {
    fn start(origin: &Origin, change: impl FnOnce(&mut Rule)) -> Self {
        let authority = Authority::default();
        let volume = Volume::pair(&authority.issue(&["api.example"]));
        let tls = ServerTls {
            certificates: vec![volume.key_pair()],
            client_certificates: None,
            min_version: TlsVersion::V1_2,
        };
        let store = Store::default()
            .backend("api", Location::Local, BackendProtocol::Http, origin.address)
            .route_of("api", "api.example", "/", Some("payment"))
            .rule(change);
        let gateway = Gateway::start(store.https(tls).build());
        Self { gateway, authority, _volume: volume }
    }

    fn wire(&self) -> Wire {
        let config = tls::client(&self.authority, &Wants::default());
        tls::connect(self.gateway.http, "api.example", &config).expect("a handshake").wire
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let origin = Origin::echoing();
    let https = Https::start(&origin, |_| {});
    let mut wire = https.wire();
    wire.send(
        "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 3\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\
         Host: api.example\r\n\r\n",
    );
    let reply = wire.reply();
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
    wire.expect_end();
    assert_eq!(origin.connections(), 0, "nothing of it got through");
    let mut wire = https.wire();
    wire.send(GET);
    assert_eq!(wire.reply().status, 200);
}

#[test]
fn a_websocket_opens_and_ends() {
    let origin = Origin::start(|mut wire, _| {
        if !wire.waits_for_more() {
            return;
        }
        assert_eq!(wire.head().header("upgrade"), Some("websocket"));
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello",
        );
        while wire.waits_for_more() {
            let piece = wire.take();
            wire.send(piece);
        }
    });
    let https = Https::start(&origin, |_| {});
    let mut wire = https.wire();
    wire.send(
        "GET / HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(wire.head().status, 101);
    assert_eq!(wire.read_exact(5), b"hello");
    https.gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 1.0);
    for text in ["GET / HTTP/1.1", "second"] {
        wire.send(text);
        assert_eq!(wire.read_exact(text.len()), text.as_bytes());
    }
    drop(wire);
    https.gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 0.0);
}

#[test]
fn a_redirect_and_a_cookie_know_that_it_is_https() {
    let origin = Origin::echoing();
    let redirects = Https::start(&origin, |rule| {
        rule.action = Action::Redirect(Redirect {
            scheme: None,
            host: Some("b.example".into()),
            port: None,
            path: None,
            status: StatusCode::FOUND,
        });
        rule.tiers.clear();
    });
    let mut wire = redirects.wire();
    wire.send("GET /a?b HTTP/1.1\r\nHost: api.example\r\n\r\n");
    let reply = wire.reply();
    assert_eq!((reply.status, reply.header("location")), (302, Some("https://b.example/a?b")));
    assert_eq!(origin.connections(), 0);

    let sessions = Https::start(&origin, |rule| {
        let carrier = SessionCarrier::Cookie("basket".into());
        rule.persistence =
            Some(SessionPersistence { carrier, absolute_timeout: None, idle_timeout: None });
    });
    let mut wire = sessions.wire();
    wire.send(GET);
    let reply = wire.reply();
    let cookie = reply.header("set-cookie").expect("a cookie");
    assert!(cookie.ends_with("; Secure"), "{cookie}");
}

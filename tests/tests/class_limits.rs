//! What a class takes at the same time: requests, and apart from them whatever lasts.

use std::net::UdpSocket;

use tillgate_config::effective::ListenerProtocol;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::matching::{EgressDestination, HostPattern, TrafficPolicy};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Wire;

const GET: &str = "GET / HTTP/1.1\r\nHost: pay.example\r\n\r\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: pay.example\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A host that signs on and stays.
fn host() -> Origin {
    Origin::start(|mut wire, _| {
        wire.send("0800 sign-on\n");
        while wire.waits_for_more() {
            let line = wire.take();
            wire.send(line);
        }
    })
}

/// Payments over HTTP, and a host by TCP, UDP, CONNECT and passed-through TLS: all one class.
fn store(http: &Origin, host: &Origin) -> Store {
    let named = EgressDestination {
        hosts: vec![HostPattern::Exact("localhost".into())],
        networks: vec![],
        ports: vec![host.address.port()],
    };
    Store::default()
        .cloud("pay", "pay.example", "payment", http.address)
        .backend("host", Location::Cloud, BackendProtocol::Tcp, host.address)
        .listener("pos", ListenerProtocol::Tcp, Some("payment"), |_| ())
        .backend("radius", Location::Cloud, BackendProtocol::Udp, host.address)
        .listener("radius", ListenerProtocol::Udp, Some("payment"), |_| ())
        .egress(TrafficPolicy::Deny)
        .egress_rule("host", "payment", Location::Cloud, named)
}

fn tunnel(gateway: &Gateway, host: &Origin) -> Wire {
    let mut wire = Wire::connect(gateway.forward);
    let port = host.address.port();
    wire.send(format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"));
    wire
}

const LASTING: &str = r#"tillgate_class_connections{class="payment"}"#;
const REFUSED: &str = r#"tillgate_failures_total{class="payment",reason="connections_full"}"#;

#[test]
fn terminals_that_stay_take_no_place_of_a_payment() {
    let http = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let host = host();
    let gateway = Gateway::start(store(&http, &host).class_requests("payment", 1).build());
    let mut terminals: Vec<Wire> =
        (0..5).map(|_| Wire::connect(gateway.listeners["pos"])).collect();
    for terminal in &mut terminals {
        assert_eq!(terminal.read_until("\n"), "0800 sign-on\n");
    }
    let mut tunnelled = tunnel(&gateway, &host);
    assert_eq!(tunnelled.head().status, 200);
    gateway.expect_metric(LASTING, 6.0);
    assert_eq!(gateway.ask(GET).status, 200);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="payment"}"#, 0.0);
    drop((terminals, tunnelled));
    gateway.expect_metric(LASTING, 0.0);
}

#[test]
fn what_lasts_is_bounded_by_class_whatever_it_speaks() {
    let http = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let host = host();
    let gateway = Gateway::start(store(&http, &host).class_connections("payment", 1).build());
    let mut terminal = Wire::connect(gateway.listeners["pos"]);
    assert_eq!(terminal.read_until("\n"), "0800 sign-on\n");

    Wire::connect(gateway.listeners["pos"]).expect_end();
    gateway.expect_metric(REFUSED, 1.0);
    let reply = tunnel(&gateway, &host).reply();
    assert_eq!((reply.status, &*reply.reason()), (503, "connections_full"));
    assert!(reply.text().contains("maxConnections of class payment"), "{reply:?}");
    let reply = gateway.ask(UPGRADE);
    assert_eq!((reply.status, &*reply.reason()), (503, "connections_full"));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", gateway.listeners["radius"]).unwrap();
    let dropped = r#"listener="radius",reason="connections_full""#;
    gateway.expect_metric(&format!("tillgate_datagrams_dropped_total{{{dropped}}}"), 1.0);
    gateway.expect_metric(REFUSED, 4.0);
    assert_eq!(gateway.ask(GET).status, 200, "requests have their own places");

    drop(terminal);
    gateway.expect_metric(LASTING, 0.0);
    let mut next = Wire::connect(gateway.listeners["pos"]);
    assert_eq!(next.read_until("\n"), "0800 sign-on\n", "there is room again");
}

//! The PROXY protocol around HTTP: clients named by a trusted proxy in front, and to a backend.

use std::net::SocketAddr;

use tillgate_config::effective::{ListenerProtocol, ProxyTrust};
use tillgate_core::backend::ProxyProtocol;
use tillgate_core::tls::{ServerTls, TlsVersion};
use tillgate_net::proxy_protocol::header;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Volume, Wants};
use tillgate_tests::wire::Wire;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: pay.example\r\n\r\n";

fn trusting(store: Store, name: &str, network: &str) -> Store {
    let network = network.parse().expect("a network");
    store.listener(name, ListenerProtocol::Http, None, |spec| {
        spec.proxy_protocol = Some(ProxyTrust { trusted_sources: vec![network] });
    })
}

#[test]
fn a_trusted_proxy_says_who_the_client_is() {
    let origin = Origin::echoing();
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let store = trusting(store, "near", "127.0.0.0/8");
    let gateway = Gateway::start(trusting(store, "far", "192.0.2.0/24").build());
    let from: SocketAddr = "192.0.2.33:7".parse().expect("an address");

    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let mut wire = Wire::connect(gateway.listeners["near"]);
        wire.send([&header::encode(version, from, from), REQUEST.as_bytes()].concat());
        let text = wire.reply().text();
        assert!(text.contains("x-forwarded-for: 192.0.2.33\n"), "{text}");
    }
    let mut wire = Wire::connect(gateway.listeners["far"]);
    wire.send(REQUEST);
    let text = wire.reply().text();
    assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");

    Wire::connect(gateway.listeners["near"]).send_and_end(REQUEST);
    let header = header::encode(ProxyProtocol::V2, from, from);
    Wire::connect(gateway.listeners["far"]).send_and_end(&header);
    let rejected = |listener: &str, reason: &str| {
        let labels = format!(r#"listener="{listener}",reason="{reason}""#);
        format!("tillgate_connections_rejected_total{{{labels}}}")
    };
    gateway.expect_metric(&rejected("near", "proxy_invalid"), 1.0);
    gateway.expect_metric(&rejected("far", "proxy_untrusted"), 1.0);
}

#[test]
fn a_backend_is_told_and_no_connection_is_shared_between_clients() {
    let origin = Origin::start(|mut wire, number| {
        let line = wire.read_until("\r\n");
        while wire.waits_for_more() {
            wire.reply();
            let text = format!("{number} {line}");
            let length = text.len();
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"));
        }
    });
    let store = Store::default()
        .cloud("pay", "pay.example", "payment", origin.address)
        .change_backend(|backend| backend.proxy_protocol = Some(ProxyProtocol::V1));
    let gateway = Gateway::start(store.build());
    let mut clients: Vec<_> = (0..3).map(|_| gateway.wire()).collect();
    let mut connections = std::collections::BTreeMap::new();
    for _ in 0..2 {
        for client in &mut clients {
            client.send(REQUEST);
            let text = client.reply().text();
            let (number, line) = text.split_once(' ').expect("a number");
            let port = client.local().port();
            let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} ");
            assert!(line.starts_with(&wanted), "{line}");
            let owner = connections.entry(number.to_owned()).or_insert(port);
            assert_eq!(*owner, port, "a connection has one client");
        }
    }
}

#[test]
fn the_header_is_in_front_of_tls_that_ends_here() {
    let authority = Authority::default();
    let volume = Volume::pair(&authority.issue(&["pay.example"]));
    let origin = Origin::echoing();
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let store = store.listener("near", ListenerProtocol::Http, None, |spec| {
        let trusted_sources = vec!["127.0.0.0/8".parse().expect("a network")];
        spec.proxy_protocol = Some(ProxyTrust { trusted_sources });
        spec.tls = Some(ServerTls {
            certificates: vec![volume.key_pair()],
            client_certificates: None,
            min_version: TlsVersion::V1_2,
        });
    });
    let gateway = Gateway::start(store.build());
    let near = gateway.listeners["near"];
    let from: SocketAddr = "192.0.2.33:7".parse().expect("an address");
    let client = tls::client(&authority, &Wants::default());
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let mut wire = Wire::connect(near);
        wire.send(header::encode(version, from, from));
        let mut shaken = tls::shake(wire, "pay.example", &client).expect("a handshake");
        shaken.wire.send(REQUEST);
        let text = shaken.wire.reply().text();
        assert!(text.contains("x-forwarded-for: 192.0.2.33\n"), "{text}");
    }
    assert!(tls::connect(near, "pay.example", &client).is_err(), "nobody says whose it is");
    let rejected = r#"listener="near",reason="proxy_invalid""#;
    gateway.expect_metric(&format!("tillgate_connections_rejected_total{{{rejected}}}"), 1.0);
}

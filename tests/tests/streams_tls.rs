//! TLS that is passed on unread: classed and limited by the name in its hello.

use std::net::SocketAddr;
use std::time::Duration;

use tillgate_config::Effective;
use tillgate_config::effective::ListenerProtocol;
use tillgate_core::backend::{Location, ProxyProtocol};
use tillgate_core::listener::ProxyTrust;
use tillgate_core::matching::{EgressDestination, HostPattern, TrafficPolicy};
use tillgate_net::proxy_protocol::header;
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Wire;

/// A ClientHello for `name`, as small as it may be.
fn hello(name: Option<&str>) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("a small hello");
        [&length.to_be_bytes(), bytes].concat()
    };
    let server_name = name.map(|name| {
        let entry = [&[0], &*sized(name.as_bytes())].concat();
        [&[0, 0], &*sized(&sized(&entry))].concat()
    });
    // Supported versions: TLS 1.3.
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let extensions = sized(&[&server_name.unwrap_or_default()[..], &versions].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &extensions].concat();
    let length = u32::try_from(body.len()).expect("a small hello").to_be_bytes();
    let message = [&[1], &length[1..], &body[..]].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

/// A server that takes a hello of this length, answers `served`, and then echoes.
fn tls_server(length: usize) -> Origin {
    Origin::start(move |mut wire, _| {
        let first = wire.read_exact(length);
        wire.send([b"served ", &first[..1]].concat());
        wire.send("\n");
        while wire.waits_for_more() {
            let line = wire.read_until("\n");
            wire.send(line);
        }
        wire.send("bye\n");
    })
}

fn store(port: u16) -> Store {
    let named = EgressDestination {
        hosts: vec![HostPattern::Exact("localhost".into())],
        networks: vec![],
        ports: vec![port],
    };
    Store::default()
        .egress(TrafficPolicy::Deny)
        .egress_rule("pos", "payment", Location::Cloud, named)
        .listener("tls", ListenerProtocol::TlsPassthrough, None, |spec| {
            spec.destination_port = port;
        })
}

fn listener(gateway: &Gateway) -> SocketAddr {
    gateway.listeners["tls"]
}

#[test]
fn a_hello_goes_on_unchanged_in_the_class_of_its_name() {
    let bytes = hello(Some("LocalHost"));
    let origin = tls_server(bytes.len());
    let gateway = Gateway::start(store(origin.address.port()).build());
    let mut wire = Wire::connect(listener(&gateway));
    wire.send(&bytes);
    assert_eq!(wire.read_until("\n"), "served \u{16}\n");
    wire.send("more\n");
    assert_eq!(wire.read_until("\n"), "more\n");
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 1.0);
    wire.finish();
    assert_eq!(wire.read_until("\n"), "bye\n", "the other direction was still open");
    wire.expect_end();
    gateway.expect_metric(
        r#"tillgate_requests_total{class="payment",route="egress/pos",code="none"}"#,
        1.0,
    );
    assert_eq!(
        gateway.metric(r#"tillgate_failures_total{class="payment",reason="client_gone"}"#),
        0.0
    );
}

#[test]
fn a_hello_may_come_in_pieces_and_with_what_follows() {
    let bytes = hello(Some("localhost"));
    let origin = tls_server(bytes.len());
    let gateway = Gateway::start(store(origin.address.port()).build());
    for cut in [1, 5, 6, 43, bytes.len() - 1] {
        let mut wire = Wire::connect(listener(&gateway));
        wire.send(&bytes[..cut]);
        // The first piece is there alone before the rest follows.
        gateway.admin("/livez");
        wire.send([&bytes[cut..], b"early\n"].concat());
        assert_eq!(wire.read_until("\n"), "served \u{16}\n", "cut at {cut}");
        assert_eq!(wire.read_until("\n"), "early\n", "cut at {cut}");
    }
}

#[test]
fn who_is_refused_is_told_why_in_its_own_words() {
    let origin = tls_server(1);
    let gateway = Gateway::start(store(origin.address.port()).build());
    let alert = |bytes: &[u8]| {
        let mut wire = Wire::connect(listener(&gateway));
        wire.send(bytes);
        wire.finish();
        wire.read_to_end().unwrap_or_else(|read| read)
    };
    let record = |description: u8| vec![21, 3, 3, 0, 2, 2, description];
    assert_eq!(alert(&hello(Some("elsewhere.example"))), record(49), "refused by the policy");
    assert_eq!(alert(&hello(None)), record(112), "no name");
    let mut broken = hello(Some("localhost"));
    broken[5 + 4 + 34] = 200;
    assert_eq!(alert(&broken), record(50), "malformed");
    assert_eq!(alert(b"GET / HTTP/1.1\r\n\r\n"), b"", "not TLS");
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0x80, 0][..], &[0; 20_000]].concat();
    assert_eq!(alert(&endless), record(50), "oversize");
    for (reason, count) in [("egress_denied", 1.0), ("hello_nameless", 1.0), ("hello_invalid", 3.0)]
    {
        let series = format!(r#"tillgate_failures_total{{class="default",reason="{reason}"}}"#);
        gateway.expect_metric(&series, count);
    }
    assert_eq!(origin.connections(), 0, "nobody was let through");
}

#[test]
fn a_server_that_cannot_be_had_is_an_internal_error_to_the_client() {
    let gateway = Gateway::start(store(nobody().port()).build());
    let mut wire = Wire::connect(listener(&gateway));
    wire.send(hello(Some("localhost")));
    assert_eq!(wire.read_exact(7), [21, 3, 3, 0, 2, 2, 80]);
    let series = r#"tillgate_failures_total{class="payment",reason="connect_refused"}"#;
    gateway.expect_metric(series, 1.0);
}

#[test]
fn a_class_that_is_full_is_an_internal_error_to_the_client_too() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            wire.take();
        }
    });
    let store = store(origin.address.port()).class_connections("payment", 1);
    let gateway = Gateway::start(store.build());
    let mut first = Wire::connect(listener(&gateway));
    first.send(hello(Some("localhost")));
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 1.0);
    let mut second = Wire::connect(listener(&gateway));
    second.send(hello(Some("localhost")));
    assert_eq!(second.read_exact(7), [21, 3, 3, 0, 2, 2, 80]);
    let series = r#"tillgate_failures_total{class="payment",reason="connections_full"}"#;
    gateway.expect_metric(series, 1.0);
}

#[test]
fn it_never_leads_back_into_itself() {
    let address = nobody();
    let itself = Store::default().egress(TrafficPolicy::Allow).listener(
        "tls",
        ListenerProtocol::TlsPassthrough,
        None,
        |spec| {
            spec.address = address;
            spec.destination_port = address.port();
        },
    );
    let gateway = Gateway::start(itself.build());
    let mut wire = Wire::connect(address);
    wire.send(hello(Some("localhost")));
    let told = wire.read_exact(7);
    // Where `localhost` has an IPv6 address too, that one is not ours, and nobody listens there.
    assert!(told[6] == 49 || told[6] == 80, "{told:?}");
    let accepted = r#"tillgate_connections_accepted_total{listener="tls"}"#;
    assert_eq!(gateway.metric(accepted), 1.0, "it was not connected to");
}

#[test]
fn a_silent_client_has_its_time_and_no_more() {
    let origin = tls_server(1);
    let store = store(origin.address.port())
        .limits(|limits| limits.header_timeout = Duration::from_millis(100))
        .listener("hasty", ListenerProtocol::TlsPassthrough, None, |_| ());
    let gateway = Gateway::start(store.build());
    let mut wire = Wire::connect(gateway.listeners["hasty"]);
    wire.send(&hello(Some("localhost"))[..10]);
    wire.expect_end();
    gateway
        .expect_metric(r#"tillgate_failures_total{class="default",reason="hello_timeout"}"#, 1.0);
}

#[test]
fn a_proxy_header_comes_before_the_hello() {
    let bytes = hello(Some("localhost"));
    let origin = tls_server(bytes.len());
    let port = origin.address.port();
    let trusting = |network: &str, name: &str, store: Store| {
        let network = network.parse().expect("a network");
        store.listener(name, ListenerProtocol::TlsPassthrough, None, |spec| {
            spec.destination_port = port;
            spec.proxy_protocol = Some(ProxyTrust { trusted_sources: vec![network] });
        })
    };
    let store = trusting("127.0.0.0/8", "near", store(port));
    let gateway = Gateway::start(trusting("192.0.2.0/24", "far", store).build());
    let from = "192.0.2.1:1".parse().expect("an address");
    let header = header::encode(ProxyProtocol::V2, from, from);
    let serves = |name: &str, first: &[u8]| {
        let mut wire = Wire::connect(gateway.listeners[name]);
        wire.send([first, &bytes[..]].concat());
        let got = wire.read_to_end_of_line();
        got == "served \u{16}\n"
    };
    assert!(serves("near", &header), "trusted, with a header");
    assert!(!serves("near", b""), "trusted, without one");
    assert!(serves("far", b""), "not trusted, without a header");
    assert!(!serves("far", &header), "not trusted, with one");
    let rejected = |listener: &str, reason: &str| {
        let labels = format!(r#"listener="{listener}",reason="{reason}""#);
        format!("tillgate_connections_rejected_total{{{labels}}}")
    };
    gateway.expect_metric(&rejected("near", "proxy_invalid"), 1.0);
    gateway.expect_metric(&rejected("far", "proxy_untrusted"), 1.0);
}

/// The store of [`store`] with another class for the name, or without a rule for it.
fn changed(port: u16, class: Option<&str>) -> Store {
    let named = EgressDestination {
        hosts: vec![HostPattern::Exact("localhost".into())],
        networks: vec![],
        ports: vec![port],
    };
    let store = Store::default().egress(TrafficPolicy::Deny);
    match class {
        Some(class) => store.egress_rule("pos", class, Location::Cloud, named),
        None => store,
    }
}

fn passing(store: Store, port: u16) -> Effective {
    let listener = ListenerProtocol::TlsPassthrough;
    store.listener("tls", listener, None, |spec| spec.destination_port = port).build()
}

#[test]
fn a_reload_counts_for_new_connections_and_leaves_open_ones_alone() {
    let bytes = hello(Some("localhost"));
    let origin = tls_server(bytes.len());
    let port = origin.address.port();
    let gateway = Gateway::start(passing(changed(port, Some("payment")), port));
    let address = listener(&gateway);
    let open = || {
        let mut wire = Wire::connect(address);
        wire.send(&bytes);
        wire
    };
    let still_echoes = |wire: &mut Wire, word: &str| {
        wire.send(word);
        assert_eq!(wire.read_until("\n"), word);
    };
    let tunnels = |class: &str| format!(r#"tillgate_tunnels{{class="{class}"}}"#);
    let mut first = open();
    assert_eq!(first.read_until("\n"), "served \u{16}\n");

    gateway.control.reload(passing(changed(port, None), port)).expect("a good config");
    let mut denied = open();
    assert_eq!(denied.read_exact(7), [21, 3, 3, 0, 2, 2, 49], "the rule is gone");
    still_echoes(&mut first, "after the rule has gone\n");

    gateway.control.reload(passing(changed(port, Some("default")), port)).expect("a good config");
    let mut second = open();
    assert_eq!(second.read_until("\n"), "served \u{16}\n");
    gateway.expect_metric(&tunnels("default"), 1.0);
    gateway.expect_metric(&tunnels("payment"), 1.0);
    still_echoes(&mut first, "in its old class\n");

    gateway.control.reload(changed(port, Some("default")).build()).expect("one listener less");
    eventually("nobody listens any more", || {
        std::net::TcpStream::connect(address).is_err().then_some(())
    });
    for wire in [&mut first, &mut second] {
        still_echoes(wire, "the drain has time\n");
        wire.finish();
        assert_eq!(wire.read_until("\n"), "bye\n");
        wire.expect_end();
    }
    gateway.expect_metric(&tunnels("default"), 0.0);
    gateway.expect_metric(&tunnels("payment"), 0.0);
    assert_eq!(origin.connections(), 2, "nobody was connected anew");
}

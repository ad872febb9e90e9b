//! The forward proxy: tunnels and absolute-form, classed and limited by the egress policy.

use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use tillgate::{BuildError, build};
use tillgate_core::backend::Location;
use tillgate_core::matching::{EgressDestination, HostPattern, TrafficPolicy};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::skipped;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Wire;

fn connect(gateway: &Gateway, target: &str) -> (Wire, u16) {
    let mut wire = Wire::connect(gateway.forward);
    wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    let reply = wire.head();
    (wire, reply.status)
}

fn by_host(name: &str) -> EgressDestination {
    EgressDestination {
        hosts: vec![HostPattern::Exact(name.into())],
        networks: vec![],
        ports: vec![],
    }
}

fn by_network(network: &str, ports: &[u16]) -> EgressDestination {
    EgressDestination {
        hosts: vec![],
        networks: vec![network.parse().expect("a network")],
        ports: ports.to_vec(),
    }
}

/// Bytes of which each place can be told from its neighbours.
fn pattern(count: usize) -> Vec<u8> {
    (0..=250).cycle().take(count).collect()
}

/// Answers each line with the same line, until the client has finished; then says goodbye.
fn parrot() -> Origin {
    Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let line = wire.read_until("\n");
            wire.send(line);
        }
        wire.send("bye\n");
    })
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_half_closes() {
    let origin = parrot();
    let gateway = Gateway::start(Store::default().build());
    let (mut wire, status) = connect(&gateway, &origin.address.to_string());
    assert_eq!(status, 200);
    for line in ["hello\n", "world\n"] {
        wire.send(line);
        assert_eq!(wire.read_until("\n"), line);
    }
    gateway.expect_metric(r#"tillgate_tunnels{class="default"}"#, 1.0);
    wire.finish();
    assert_eq!(wire.read_until("\n"), "bye\n", "the other direction was still open");
    wire.expect_end();
    gateway.expect_metric(r#"tillgate_tunnels{class="default"}"#, 0.0);
    gateway.expect_metric(
        r#"tillgate_requests_total{class="default",route="egress",code="200"}"#,
        1.0,
    );
    gateway.expect_metric(r#"tillgate_traffic_bytes_total{class="default",direction="up"}"#, 12.0);
}

#[test]
fn a_tunnel_keeps_its_place_among_the_listeners_connections() {
    let origin = parrot();
    let store = Store::default().limits(|limits| limits.connections_max = 1);
    let gateway = Gateway::start(store.build());
    let (mut wire, status) = connect(&gateway, &origin.address.to_string());
    assert_eq!(status, 200);
    wire.send("hello\n");
    assert_eq!(wire.read_until("\n"), "hello\n", "the tunnel has taken over");
    Wire::connect(gateway.forward).expect_end();
    let open = r#"tillgate_connections{listener="forward-proxy"}"#;
    gateway.expect_metric(open, 1.0);
    wire.finish();
    assert_eq!(wire.read_until("\n"), "bye\n");
    gateway.expect_metric(open, 0.0);
    assert_eq!(connect(&gateway, &origin.address.to_string()).1, 200);
}

#[test]
fn what_is_sent_with_the_connect_is_not_lost() {
    let origin = parrot();
    let gateway = Gateway::start(Store::default().build());
    let mut wire = Wire::connect(gateway.forward);
    let target = origin.address;
    wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly\n"));
    assert_eq!(wire.head().status, 200);
    assert_eq!(wire.read_until("\n"), "early\n");
}

#[test]
fn large_transfers_arrive_whole() {
    let origin = Origin::start(|mut wire, _| {
        let count: usize = wire.read_until("\n").trim().parse().expect("a count");
        wire.send(pattern(count));
    });
    let gateway = Gateway::start(Store::default().build());
    let (mut wire, _) = connect(&gateway, &origin.address.to_string());
    wire.send("3000000\n");
    let got = wire.read_to_end().expect("an orderly end");
    assert!(got == pattern(3_000_000), "{} bytes", got.len());
}

#[test]
fn a_tunnel_that_is_cut_does_not_look_complete() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::start(move |mut wire, _| {
        let line = wire.read_until("\n");
        wire.send("half of it\n");
        if line == "cut\n" {
            wire.read_until("\n");
            return wire.reset();
        }
        tell.lock().expect("no panic").send(wire.read_to_end()).expect("the test waits");
    });
    let gateway = Gateway::start(Store::default().build());
    let open = |line: &str| {
        let (mut wire, status) = connect(&gateway, &origin.address.to_string());
        assert_eq!(status, 200);
        wire.send(line);
        assert_eq!(wire.read_until("\n"), "half of it\n");
        wire
    };
    let mut by_server = open("cut\n");
    by_server.send("go on\n");
    assert_eq!(by_server.read_to_end(), Err(Vec::new()), "broken, not ended");
    let failed = r#"tillgate_failures_total{class="default",reason="backend_closed"}"#;
    gateway.expect_metric(failed, 1.0);

    open("wait\n").reset();
    let seen = told.recv_timeout(tillgate_tests::PATIENCE).expect("an end");
    assert_eq!(seen, Err(Vec::new()), "broken, not ended");
}

#[test]
fn plain_requests_go_the_way_of_every_request() {
    let origin = Origin::echoing();
    let gateway = Gateway::start(Store::default().build());
    let address = origin.address;
    let mut wire = Wire::connect(gateway.forward);
    for path in ["/v2/app/manifests/1", "/about"] {
        wire.send(format!(
            "GET http://{address}{path} HTTP/1.1\r\nHost: {address}\r\n\
             Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\n\r\n"
        ));
        let text = wire.reply().text();
        assert!(text.starts_with(&format!("GET {path} HTTP/1.1\n")), "{text}");
        assert!(text.contains(&format!("host: {address}\n")), "{text}");
        assert!(!text.contains("proxy-"), "{text}");
    }
    // Without a rule the class is the one that the traffic's shape tells.
    let count = |class: &str| {
        format!(r#"tillgate_requests_total{{class="{class}",route="egress",code="200"}}"#)
    };
    gateway.expect_metric(&count("image-pull"), 1.0);
    gateway.expect_metric(&count("default"), 1.0);
}

#[test]
fn targets_without_a_form_are_refused() {
    let gateway = Gateway::start(Store::default().build());
    for request in [
        "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "GET https://api.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "CONNECT api.example HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "CONNECT api.example:0 HTTP/1.1\r\nHost: api.example\r\n\r\n",
    ] {
        let mut wire = Wire::connect(gateway.forward);
        wire.send(request);
        assert_eq!(wire.reply().status, 400, "{request:?}");
    }
}

#[test]
fn the_policy_is_asked_by_name_and_by_address() {
    let origin = parrot();
    let port = origin.address.port();
    let store = Store::default()
        .egress(TrafficPolicy::Deny)
        .egress_rule("named", "payment", Location::Cloud, by_host("localhost"))
        .egress_rule("net", "metrics", Location::Local, by_network("127.0.0.1/32", &[port]));
    let gateway = Gateway::start(store.build());

    let (_named, status) = connect(&gateway, &format!("localhost:{port}"));
    assert_eq!(status, 200);
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 1.0);
    let (_by_address, status) = connect(&gateway, &format!("127.0.0.1:{port}"));
    assert_eq!(status, 200);
    gateway.expect_metric(r#"tillgate_tunnels{class="metrics"}"#, 1.0);

    for target in [format!("127.0.0.2:{port}"), format!("127.0.0.1:{}", port ^ 1)] {
        let mut wire = Wire::connect(gateway.forward);
        wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        let reply = wire.reply();
        assert_eq!((reply.status, &*reply.reason()), (403, "egress_denied"), "{target}");
    }
    let mut wire = Wire::connect(gateway.forward);
    wire.send(format!("GET http://127.0.0.2:{port}/ HTTP/1.1\r\nHost: 127.0.0.2:{port}\r\n\r\n"));
    assert_eq!(wire.reply().status, 403);
}

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent; the kernel says where it would be sent from.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn nobody_outside_reaches_this_machines_own_doors() {
    let Some(ours) = own_address() else {
        return skipped("no address but loopback on this machine");
    };
    let origin = parrot();
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let port = origin.address.port();
    let ask = |gateway: &Gateway, from: std::net::IpAddr, target: &str| {
        let mut wire = Wire::connect(SocketAddr::new(from, gateway.forward.port()));
        wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        wire.head().status
    };
    let loopback = SocketAddr::from(([127, 0, 0, 1], port)).ip();

    let open = || Store::default().forward_on(any).egress(TrafficPolicy::Allow);
    let gateway = Gateway::start(open().build());
    let itself = format!("{ours}:{}", gateway.forward.port());
    let target = format!("127.0.0.1:{port}");
    for refused in [&*target, &format!("localhost:{port}"), &format!("0.0.0.0:{port}"), &itself] {
        assert_eq!(ask(&gateway, ours, refused), 403, "{refused}");
    }
    assert_eq!(ask(&gateway, loopback, &target), 200, "who is here may");

    let everywhere = open().egress_rule(
        "everywhere",
        "default",
        Location::Cloud,
        by_network("0.0.0.0/0", &[port]),
    );
    assert_eq!(ask(&Gateway::start(everywhere.build()), ours, &target), 403);
    let whatever = EgressDestination { hosts: vec![HostPattern::Any], ..by_host("") };
    let whatever = open().egress_rule("whatever", "default", Location::Cloud, whatever);
    assert_eq!(ask(&Gateway::start(whatever.build()), ours, &target), 403, "any host is no name");
    let named =
        open().egress_rule("named", "default", Location::Local, by_network("127.0.0.0/8", &[port]));
    assert_eq!(ask(&Gateway::start(named.build()), ours, &target), 200, "a rule names it");
}

#[test]
fn plain_requests_try_every_address() {
    // `localhost` has an IPv6 address too where there is one; nobody listens on that.
    let origin = Origin::echoing();
    let gateway = Gateway::start(Store::default().build());
    let mut wire = Wire::connect(gateway.forward);
    let port = origin.address.port();
    let host = format!("localhost:{port}");
    wire.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(wire.reply().status, 200);
    // Two names for one request are one too many.
    wire.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: other:{port}\r\n\r\n"));
    let reply = wire.reply();
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
}

#[test]
fn tunnels_that_cannot_be_opened_say_why() {
    let gateway = Gateway::start(Store::default().build());
    for (target, reason) in [
        (nobody().to_string(), "connect_refused"),
        ("no-such-host.invalid:443".to_owned(), "resolve_failed"),
    ] {
        let mut wire = Wire::connect(gateway.forward);
        wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        let reply = wire.reply();
        assert_eq!((reply.status, &*reply.reason()), (502, reason), "{target}");
    }
}

#[test]
fn a_proxy_for_everybody_needs_a_policy() {
    let open = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = build(Store::default().forward_on(open).build());
    assert!(matches!(refused, Err(BuildError::OpenProxy { address }) if address == open));
    let limited = Store::default().forward_on(open).egress(TrafficPolicy::Deny);
    assert!(build(limited.build()).is_ok());
}

#[test]
fn a_drain_ends_tunnels_by_class() {
    let origin = parrot();
    let store = Store::default()
        .drain_timeout(Duration::from_secs(20))
        .egress(TrafficPolicy::Allow)
        .egress_rule("critical", "payment", Location::Cloud, by_host("localhost"));
    let mut gateway = Gateway::start(store.build());
    let port = origin.address.port();
    let (mut critical, _) = connect(&gateway, &format!("localhost:{port}"));
    let (mut bulk, _) = connect(&gateway, &format!("127.0.0.1:{port}"));
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 1.0);
    gateway.expect_metric(r#"tillgate_tunnels{class="default"}"#, 1.0);

    gateway.control.drain();
    bulk.expect_end();
    critical.send("still here\n");
    assert_eq!(critical.read_until("\n"), "still here\n");
    gateway.control.stop();
    critical.expect_end();
    gateway.ended();
}

//! Raw TCP to a declared backend: whoever speaks first, for as long as it takes.

use std::net::SocketAddr;
use std::time::Duration;

use tillgate_config::effective::{ListenerProtocol, ListenerSpec};
use tillgate_core::backend::{
    BackendProtocol, BackendSpec, Endpoint, Host, Location, ProxyProtocol,
};
use tillgate_core::listener::ProxyTrust;
use tillgate_core::tls::{ClientTls, TlsVersion, TrustAnchors};
use tillgate_net::proxy_protocol::header;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Volume, Wants};
use tillgate_tests::wire::Wire;

/// An authorisation host in small: it signs on first, then echoes lines until the client has
/// finished, and says goodbye.
fn host() -> Origin {
    Origin::start(|mut wire, _| {
        wire.send("0800 sign-on\n");
        while wire.waits_for_more() {
            let line = wire.read_until("\n");
            wire.send(line);
        }
        wire.send("0820 sign-off\n");
    })
}

fn store(address: SocketAddr, change: impl FnOnce(&mut ListenerSpec)) -> Store {
    store_at(Location::Cloud, address, |_| ()).listener(
        "pos",
        ListenerProtocol::Tcp,
        Some("payment"),
        change,
    )
}

fn store_at(
    location: Location,
    address: SocketAddr,
    change: impl FnOnce(&mut BackendSpec),
) -> Store {
    Store::default().backend("host", location, BackendProtocol::Tcp, address).change_backend(change)
}

fn connect(gateway: &Gateway) -> Wire {
    Wire::connect(gateway.listeners["pos"])
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { host: Host::Ip(address.ip()), port: address.port() }
}

fn trust(network: &str) -> Option<ProxyTrust> {
    Some(ProxyTrust { trusted_sources: vec![network.parse().expect("a network")] })
}

const FAILED: &str = "tillgate_failures_total";

#[test]
fn the_server_may_speak_first_and_each_side_may_finish_alone() {
    for location in [Location::Cloud, Location::Local] {
        let origin = host();
        let store = store_at(location, origin.address, |_| ()).listener(
            "pos",
            ListenerProtocol::Tcp,
            Some("payment"),
            |_| (),
        );
        let gateway = Gateway::start(store.build());
        let mut wire = connect(&gateway);
        assert_eq!(wire.read_until("\n"), "0800 sign-on\n");
        wire.send("0200 sale\n");
        assert_eq!(wire.read_until("\n"), "0200 sale\n");
        gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 1.0);
        let upstream = r#"tillgate_upstream_connections{backend="host",class="payment"}"#;
        gateway.expect_metric(upstream, 1.0);
        wire.finish();
        assert_eq!(wire.read_until("\n"), "0820 sign-off\n");
        wire.expect_end();
        gateway.expect_metric(upstream, 0.0);
        gateway.expect_metric(
            r#"tillgate_requests_total{class="payment",route="listener/pos",code="none"}"#,
            1.0,
        );
        let bytes = r#"tillgate_traffic_bytes_total{class="payment",direction="up"}"#;
        gateway.expect_metric(bytes, 10.0);
    }
}

#[test]
fn a_server_may_finish_first() {
    let origin = Origin::start(|mut wire, _| {
        wire.send("all of it\n");
        wire.finish();
        assert_eq!(wire.read_until("\n"), "thank you\n");
    });
    let gateway = Gateway::start(store(origin.address, |_| ()).build());
    let mut wire = connect(&gateway);
    assert_eq!(wire.read_until("\n"), "all of it\n");
    assert_eq!(wire.read_to_end(), Ok(vec![]), "its end came alone");
    wire.send("thank you\n");
    wire.finish();
    let done = r#"tillgate_requests_total{class="payment",route="listener/pos",code="none"}"#;
    gateway.expect_metric(done, 1.0);
    assert_eq!(
        gateway.metric(&format!(r#"{FAILED}{{class="payment",reason="client_gone"}}"#)),
        0.0
    );
}

#[test]
fn a_broken_connection_does_not_look_complete() {
    let origin = Origin::start(|mut wire, _| {
        wire.send("half of\n");
        wire.read_until("\n");
        wire.reset();
    });
    let gateway = Gateway::start(store(origin.address, |_| ()).build());
    let mut wire = connect(&gateway);
    assert_eq!(wire.read_until("\n"), "half of\n");
    wire.send("go on\n");
    assert_eq!(wire.read_to_end(), Err(vec![]), "broken, not ended");
    gateway.expect_metric(&format!(r#"{FAILED}{{class="payment",reason="backend_closed"}}"#), 1.0);
}

#[test]
fn the_next_server_takes_over_where_one_does_not_answer() {
    let origin = host();
    let store = store_at(Location::Cloud, nobody(), |backend| {
        backend.endpoints.extend([endpoint(nobody()), endpoint(origin.address)]);
    });
    let store = store.listener("pos", ListenerProtocol::Tcp, Some("payment"), |_| ());
    let gateway = Gateway::start(store.build());
    for _ in 0..8 {
        assert_eq!(connect(&gateway).read_until("\n"), "0800 sign-on\n");
    }
}

#[test]
fn without_any_server_the_connection_is_broken_and_counted() {
    let gateway = Gateway::start(store(nobody(), |_| ()).build());
    connect(&gateway).expect_end();
    let series = format!(r#"{FAILED}{{class="payment",reason="connect_refused"}}"#);
    gateway.expect_metric(&series, 1.0);
}

#[test]
fn silence_ends_a_connection() {
    let origin = host();
    let store = store(origin.address, |spec| spec.timeouts.idle = Duration::from_millis(200));
    let gateway = Gateway::start(store.build());
    let _ = connect(&gateway).read_to_end();
    gateway.expect_metric(&format!(r#"{FAILED}{{class="payment",reason="idle_timeout"}}"#), 1.0);
}

#[test]
fn one_more_than_there_may_be_is_sent_away() {
    let origin = host();
    let store = store(origin.address, |spec| spec.limits.connections_max = 1);
    let gateway = Gateway::start(store.build());
    let mut wire = connect(&gateway);
    assert_eq!(wire.read_until("\n"), "0800 sign-on\n");
    connect(&gateway).expect_end();
    gateway.expect_metric(r#"tillgate_connections_refused_total{listener="pos"}"#, 1.0);
    drop(wire);
    gateway.expect_metric(r#"tillgate_connections{listener="pos"}"#, 0.0);
    assert_eq!(connect(&gateway).read_until("\n"), "0800 sign-on\n", "there is room again");
}

#[test]
fn the_client_is_named_in_front_if_the_backend_wants_it() {
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let origin = Origin::start(|mut wire, _| {
            let all = wire.read_to_end().expect("an orderly end");
            wire.send(all);
        });
        let store = store_at(Location::Cloud, origin.address, |backend| {
            backend.proxy_protocol = Some(version);
        });
        let store = store.listener("pos", ListenerProtocol::Tcp, Some("payment"), |_| ());
        let gateway = Gateway::start(store.build());
        let mut wire = connect(&gateway);
        wire.send("hello");
        wire.finish();
        let to = gateway.listeners["pos"];
        let wanted = [header::encode(version, wire.local(), to), b"hello".into()].concat();
        assert_eq!(wire.read_to_end(), Ok(wanted));
    }
}

#[test]
fn a_trusted_proxy_names_the_client_and_nobody_else_may() {
    let origin = Origin::start(|mut wire, _| {
        wire.send("welcome\n");
        let all = wire.read_to_end().unwrap_or_default();
        wire.try_send(all);
    });
    let backend = |backend: &mut BackendSpec| backend.proxy_protocol = Some(ProxyProtocol::V1);
    let store = store_at(Location::Local, origin.address, backend)
        .listener("near", ListenerProtocol::Tcp, None, |spec| {
            spec.proxy_protocol = trust("127.0.0.0/8");
        })
        .listener("far", ListenerProtocol::Tcp, None, |spec| {
            spec.proxy_protocol = trust("192.0.2.0/24");
        });
    let gateway = Gateway::start(store.build());
    let from: SocketAddr = "192.0.2.1:7".parse().expect("an address");
    let to = gateway.listeners["near"];

    let mut wire = Wire::connect(to);
    wire.send(header::encode(ProxyProtocol::V2, from, to));
    wire.send("x");
    wire.finish();
    assert_eq!(wire.read_until("\n"), "welcome\n");
    let wanted = [header::encode(ProxyProtocol::V1, from, to), b"x".into()].concat();
    assert_eq!(wire.read_to_end(), Ok(wanted), "the address was passed on");

    // The server speaks first to somebody who is not trusted, too.
    let mut wire = Wire::connect(gateway.listeners["far"]);
    assert_eq!(wire.read_until("\n"), "welcome\n");
    wire.send("PRO");
    wire.send("XY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert!(wire.read_to_end().is_err(), "cut off");
    let rejected =
        r#"tillgate_connections_rejected_total{listener="far",reason="proxy_untrusted"}"#;
    gateway.expect_metric(rejected, 1.0);

    let mut wire = Wire::connect(to);
    wire.send("no header at all\n");
    wire.expect_end();
    let rejected = r#"tillgate_connections_rejected_total{listener="near",reason="proxy_invalid"}"#;
    gateway.expect_metric(rejected, 1.0);
}

#[test]
fn a_drain_ends_connections_by_class() {
    let origin = host();
    let store = store(origin.address, |_| ())
        .listener("bulk", ListenerProtocol::Tcp, Some("image-pull"), |_| ())
        .drain_timeout(Duration::from_secs(20));
    let mut gateway = Gateway::start(store.build());
    let mut critical = connect(&gateway);
    let mut bulk = Wire::connect(gateway.listeners["bulk"]);
    assert_eq!(critical.read_until("\n"), "0800 sign-on\n");
    assert_eq!(bulk.read_until("\n"), "0800 sign-on\n");
    gateway.control.drain();
    bulk.expect_end();
    critical.send("0200 sale\n");
    assert_eq!(critical.read_until("\n"), "0200 sale\n");
    gateway.control.stop();
    critical.expect_end();
    gateway.ended();
}

#[test]
fn a_backend_may_want_tls_with_the_proxy_header_in_front() {
    let authority = Authority::default();
    let identity = authority.issue(&["127.0.0.1"]);
    let files = Volume::new(&[("ca.crt", &authority.pem)]);
    let config = tls::server(&Wants { identity: Some(&identity), ..Wants::default() }, None);
    for location in [Location::Cloud, Location::Local] {
        let config = std::sync::Arc::clone(&config);
        let origin = Origin::start(move |mut wire, _| {
            let announced = wire.read_line_alone();
            let Some(mut wire) = tls::accept(wire, &config) else { return };
            wire.send(announced);
            while wire.waits_for_more() {
                let line = wire.read_until("\n");
                wire.send(line);
            }
            wire.send("bye\n");
        });
        let wants = |spec: &mut BackendSpec| {
            spec.proxy_protocol = Some(ProxyProtocol::V1);
            spec.tls = Some(trusting(&files));
        };
        let store = store_at(location, origin.address, wants);
        let store = store.listener("pos", ListenerProtocol::Tcp, Some("payment"), |_| ());
        let gateway = Gateway::start(store.build());
        let mut wire = connect(&gateway);
        let announced = wire.read_until("\n");
        let (us, pos) = (wire.local().port(), gateway.listeners["pos"].port());
        let whose = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {us} {pos}\r\n");
        assert_eq!(announced, whose, "the server spoke first");
        let long = format!("{}\n", "0200 sale ".repeat(20_000));
        wire.send(&long);
        assert_eq!(wire.read_until("\n"), long);
        wire.finish();
        assert_eq!(wire.read_until("\n"), "bye\n");
        wire.expect_end();
        let shaken = r#"tillgate_upstream_tls_handshakes_total{backend="host",result="full"}"#;
        gateway.expect_metric(shaken, 1.0);
    }
}

#[test]
fn a_server_that_is_not_who_it_must_be_gets_nothing() {
    let (authority, other) = (Authority::default(), Authority::default());
    let identity = other.issue(&["127.0.0.1"]);
    let files = Volume::new(&[("ca.crt", &authority.pem)]);
    let config = tls::server(&Wants { identity: Some(&identity), ..Wants::default() }, None);
    let origin = Origin::start(move |wire, _| {
        assert!(tls::accept(wire, &config).is_none(), "the gateway does not trust it");
    });
    let store = store_at(Location::Cloud, origin.address, |spec| spec.tls = Some(trusting(&files)));
    let store = store.listener("pos", ListenerProtocol::Tcp, Some("payment"), |_| ());
    let gateway = Gateway::start(store.build());
    connect(&gateway).send_and_end("0200 sale\n");
    let labels = r#"class="payment",reason="tls_untrusted""#;
    gateway.expect_metric(&format!("{FAILED}{{{labels}}}"), 1.0);
    let failed = format!(r#"tillgate_upstream_dial_failures_total{{backend="host",{labels}}}"#);
    gateway.expect_metric(&failed, 1.0);
}

fn trusting(files: &Volume) -> ClientTls {
    ClientTls {
        sni: None,
        roots: TrustAnchors::File(files.file("ca.crt")),
        certificate: None,
        min_version: TlsVersion::V1_2,
    }
}

#[test]
fn a_reload_moves_a_listener_to_another_backend_and_takes_it_away() {
    let (first, second) = (host(), Origin::start(|mut wire, _| wire.send("second\n")));
    let build = |address, on: SocketAddr| {
        store(address, |spec| spec.address = on).digest(&address.to_string()).build()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = Gateway::start(build(first.address, any));
    let pos = gateway.listeners["pos"];
    let mut old = connect(&gateway);
    assert_eq!(old.read_until("\n"), "0800 sign-on\n");

    gateway.control.reload(build(second.address, any)).expect("another backend");
    assert_eq!(connect(&gateway).read_until("\n"), "second\n", "on the same port");
    old.send("0200 sale\n");
    assert_eq!(old.read_until("\n"), "0200 sale\n", "an open connection stays where it is");

    let without = Store::default().build();
    gateway.control.reload(without).expect("one less");
    tillgate_tests::eventually("nobody listens any more", || {
        std::net::TcpStream::connect(pos).is_err().then_some(())
    });
    old.send("0200 sale\n");
    assert_eq!(old.read_until("\n"), "0200 sale\n", "and ends in its own time");

    gateway.control.reload(build(first.address, pos)).expect("it comes again");
    assert_eq!(Wire::connect(pos).read_until("\n"), "0800 sign-on\n");
}

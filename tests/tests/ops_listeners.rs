//! Listeners come, go and change at a reload, and nobody who does not have to notices.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use tillgate_config::defaults;
use tillgate_config::effective::{Effective, ListenerProtocol, ListenerSpec};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::hammer::Hammer;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::program::get;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn config(origin: &Origin) -> Effective {
    Store::default().local("a", "a.example", "default", origin.address).build()
}

fn listener(name: &str, address: SocketAddr) -> ListenerSpec {
    let protocol = ListenerProtocol::Http;
    let timeouts = defaults::stream_timeouts(protocol);
    ListenerSpec::plain(name, protocol, address, timeouts, defaults::LIMITS)
}

fn with(origin: &Origin, listeners: Vec<ListenerSpec>) -> Effective {
    let mut effective = config(origin);
    effective.listeners.extend(listeners);
    effective
}

fn refuses(address: SocketAddr) {
    eventually("nobody listens any more", || TcpStream::connect(address).is_err().then_some(()));
}

#[test]
fn a_listener_comes_moves_and_goes() {
    let origin = Origin::answering(OK);
    let gateway = Gateway::start(config(&origin));
    let (one, two) = (nobody(), nobody());
    gateway.control.reload(with(&origin, vec![listener("extra", one)])).expect("it can be bound");
    assert_eq!(get(one, "a.example").status, 200);
    gateway.control.reload(with(&origin, vec![listener("extra", two)])).expect("it can be bound");
    assert_eq!(get(two, "a.example").status, 200);
    refuses(one);
    let status = gateway.admin("/v1/status").text();
    assert!(status.contains(&two.to_string()) && !status.contains(&one.to_string()), "{status}");
    gateway.control.reload(config(&origin)).expect("one less");
    refuses(two);
    assert_eq!(get(gateway.http, "a.example").status, 200);
}

#[test]
fn a_listener_that_cannot_be_bound_changes_nothing() {
    let origin = Origin::answering(OK);
    let gateway = Gateway::start(config(&origin));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let wrong = taken.local_addr().expect("a bound socket");
    let fine = nobody();
    let mut next = with(&origin, vec![listener("fine", fine), listener("wrong", wrong)]);
    next.digest = "sha256:next".into();
    next.listeners.retain(|spec| &*spec.name != "forward-proxy");
    let refused = gateway.control.reload(next).expect_err("the port is taken");
    assert!(refused.to_string().contains("listener wrong"), "{refused}");
    assert_eq!(&*gateway.control.digest(), "sha256:by-hand");
    refuses(fine);
    assert!(TcpStream::connect(gateway.forward).is_ok(), "the old listener is still there");
    gateway.expect_metric(r#"tillgate_config_reloads_total{result="rejected"}"#, 1.0);
    assert_eq!(get(gateway.http, "a.example").status, 200);
}

#[test]
fn a_listener_that_goes_lets_its_connections_finish() {
    let (go, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            wire.reply();
            let _ = wait.lock().expect("one connection").recv_timeout(PATIENCE);
            wire.send(OK);
            wire.waits_for_more();
        }
    });
    let gateway = Gateway::start(config(&origin));
    let place = nobody();
    gateway.control.reload(with(&origin, vec![listener("extra", place)])).expect("bound");
    let mut busy = Wire::connect(place);
    busy.send(GET);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 1.0);
    let mut other = gateway.wire();
    other.send("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n");
    assert_eq!(other.reply().status, 404);

    gateway.control.reload(config(&origin)).expect("one less");
    refuses(place);
    go.send(()).expect("the origin waits");
    assert_eq!(busy.reply().status, 200);
    busy.expect_end();
    other.send("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n");
    assert_eq!(other.reply().status, 404, "connections of other listeners go on");
}

#[test]
fn a_listener_that_goes_ends_what_does_not_finish() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            wire.head();
        }
    });
    let store = || {
        let store = Store::default().drain_timeout(Duration::from_secs(1));
        store.local("a", "a.example", "default", origin.address).build()
    };
    let gateway = Gateway::start(store());
    let place = nobody();
    let mut more = store();
    more.listeners.push(listener("extra", place));
    gateway.control.reload(more).expect("bound");
    let mut stuck = Wire::connect(place);
    stuck.send(GET);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 1.0);
    gateway.control.reload(store()).expect("one less");
    stuck.expect_end();
    gateway.expect_metric(r#"tillgate_connections{listener="extra"}"#, 0.0);
}

#[test]
fn limits_of_a_live_listener_follow_at_once() {
    let origin = Origin::answering(OK);
    let gateway = Gateway::start(config(&origin));
    let mut wire = gateway.wire();
    wire.send(GET);
    assert_eq!(wire.reply().status, 200);
    let mut narrow = config(&origin);
    narrow.listeners[0].limits.connections_max = 1;
    gateway.control.reload(narrow).expect("a good config");
    let mut second = gateway.wire();
    second.expect_end();
    gateway.expect_metric(r#"tillgate_connections_refused_total{listener="http"}"#, 1.0);
    wire.send(GET);
    assert_eq!(wire.reply().status, 200, "the open connection goes on");
    let mut hasty = config(&origin);
    hasty.listeners[0].limits.idle_timeout = Duration::from_millis(50);
    hasty.listeners[0].limits.header_timeout = Duration::from_millis(50);
    gateway.control.reload(hasty).expect("a good config");
    // The old patience is asked once more, then the new one counts.
    wire.expect_end();
}

#[test]
fn reloads_lose_no_connection() {
    let origin = Origin::answering(OK);
    let place = nobody();
    let named = |name: &str| with(&origin, vec![listener(name, place)]);
    let gateway = Gateway::start(named("one"));
    let stays = Hammer::start(gateway.http, "a.example", 2);
    // Another name on the same address: the sockets pass from one listener to the other.
    let passes = Hammer::start(place, "a.example", 2);
    for turn in 0..10 {
        stays.goes_on(20);
        passes.goes_on(20);
        let name = if turn % 2 == 0 { "two" } else { "one" };
        gateway.control.reload(named(name)).expect("a good config");
    }
    passes.goes_on(20);
    let served = (stays.served(), passes.served());
    let lost = (stays.end(), passes.end());
    assert!(lost.0.is_empty() && lost.1.is_empty(), "{served:?} served, lost {lost:?}");
}

#[test]
fn every_address_may_take_the_place_of_one() {
    let origin = Origin::answering(OK);
    let place = nobody();
    let all = SocketAddr::from(([0, 0, 0, 0], place.port()));
    let other = SocketAddr::from(([127, 0, 0, 2], place.port()));
    let gateway = Gateway::start(with(&origin, vec![listener("extra", place)]));
    refuses(other);
    gateway.control.reload(with(&origin, vec![listener("extra", all)])).expect("it can be bound");
    assert_eq!(get(other, "a.example").status, 200);
    gateway.control.reload(with(&origin, vec![listener("extra", place)])).expect("and back");
    refuses(other);
    assert_eq!(get(place, "a.example").status, 200);
}

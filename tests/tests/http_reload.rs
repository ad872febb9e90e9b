//! Another config while traffic flows; stopping while traffic flows.

use std::sync::mpsc;
use std::time::Duration;

use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::{PATIENCE, eventually};

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[test]
fn a_reload_reaches_the_next_request_and_spares_the_connections() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let store = |digest: &str| {
        Store::default().digest(digest).cloud("a", "a.example", "image-pull", origin.address)
    };
    let gateway = Gateway::start(store("sha256:one").build());
    let mut wire = gateway.wire();
    wire.send(get("a.example"));
    assert_eq!(wire.reply().status, 200);
    wire.send(get("b.example"));
    assert_eq!(wire.reply().status, 404);

    let next = store("sha256:two").cloud("b", "b.example", "image-pull", origin.address).line(50);
    gateway.control.reload(next.build()).expect("a good config");
    wire.send(get("b.example"));
    assert_eq!(wire.reply().status, 200);
    wire.send(get("a.example"));
    assert_eq!(wire.reply().status, 200);
    assert_eq!(origin.connections(), 1, "the pool survived");
    assert_eq!(&*gateway.control.digest(), "sha256:two");
    gateway.expect_metric(r#"tillgate_config_reloads_total{result="accepted"}"#, 2.0);
    gateway.expect_metric(r#"tillgate_config{digest="sha256:two"}"#, 1.0);
    gateway.expect_metric(r#"tillgate_config{digest="sha256:one"}"#, 0.0);
    let shaped = r#"tillgate_link_shaped_bits_per_second{link="primary",direction="up"}"#;
    gateway.expect_metric(shaped, 47_500_000.0);
}

#[test]
fn a_config_that_cannot_be_served_changes_nothing() {
    let origin = Origin::echoing();
    let store = || Store::default().cloud("a", "a.example", "default", origin.address);
    let gateway = Gateway::start(store().digest("sha256:one").build());
    let mut other = store().digest("sha256:two").build();
    other.store = "another".into();
    let refused = gateway.control.reload(other).expect_err("another store's config");
    assert!(refused.to_string().contains("store another"), "{refused}");
    assert_eq!(&*gateway.control.digest(), "sha256:one");
    gateway.expect_metric(r#"tillgate_config_reloads_total{result="rejected"}"#, 1.0);
    assert_eq!(gateway.ask(&get("a.example")).status, 200);
}

#[test]
fn a_new_rate_reaches_a_transfer_under_way() {
    let origin = Origin::start(|mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
            let chunk = vec![b'x'; 64 * 1024];
            while wire.try_send(&chunk) {}
        }
    });
    let store = |mbit| {
        Store::default().line(mbit).cloud("pull", "pull.example", "image-pull", origin.address)
    };
    let gateway = Gateway::start(store(2).build());
    let mut wire = gateway.wire();
    let start = tillgate_tests::now();
    wire.send(get("pull.example"));
    wire.head();
    // At 2 Mbit/s this takes 2 s, at 200 Mbit/s not even one tenth of that.
    wire.read_exact(500_000);
    let slow = start.elapsed();
    assert!(slow > Duration::from_secs(1), "{slow:?} at 2 Mbit/s");
    gateway.control.reload(store(200).build()).expect("a good config");
    let mut read = 500_000.0;
    eventually("twice as much as 2 Mbit/s carry in all that time", || {
        wire.read_exact(500_000);
        read += 500_000.0;
        (read > 2.0 * 250_000.0 * start.elapsed().as_secs_f64()).then_some(())
    });
}

#[test]
fn a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    let (go, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            wire.reply();
            let _ = wait.lock().expect("one connection").recv_timeout(PATIENCE);
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            wire.waits_for_more();
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let mut gateway = Gateway::start(store.build());
    let mut idle = gateway.wire();
    idle.send(get("nobody.example"));
    assert_eq!(idle.reply().status, 404);
    let mut busy = gateway.wire();
    busy.send(get("api.example"));
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 1.0);

    gateway.control.drain();
    idle.expect_end();
    eventually("no new connection is served", || {
        std::net::TcpStream::connect(gateway.http).is_err().then_some(())
    });
    let ready = gateway.admin("/readyz");
    assert_eq!((ready.status, &*ready.text()), (503, "draining\n"));
    go.send(()).expect("the origin waits");
    let reply = busy.reply();
    assert_eq!((reply.status, &*reply.text()), (200, "ok"));
    busy.expect_end();
    gateway.ended();
}

#[test]
fn who_is_connected_when_a_drain_begins_gets_an_answer() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let effective = store.build();
    eventually("all of them are answered", || {
        let mut gateway = Gateway::start(effective.clone());
        let mut connected: Vec<_> = (0..8).map(|_| gateway.wire()).collect();
        let start = tillgate_tests::now();
        gateway.control.drain();
        for wire in &mut connected {
            wire.try_send(get("api.example"));
        }
        for wire in &mut connected {
            let (Ok(text) | Err(text)) = wire.read_to_end();
            let text = String::from_utf8_lossy(&text);
            if !text.starts_with("HTTP/1.1 200 ") || !text.ends_with("\r\n\r\nok") {
                // A request is waited for, but not for longer than a second.
                let time = start.elapsed();
                assert!(time >= Duration::from_secs(1), "after {time:?}: {text:?}");
                return None;
            }
        }
        gateway.ended();
        Some(())
    });
}

#[test]
fn what_does_not_finish_in_time_is_ended_critical_classes_last() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            wire.head();
        }
    });
    let store = Store::default()
        .drain_timeout(Duration::from_secs(2))
        .cloud("pay", "pay.example", "payment", origin.address)
        .cloud("bulk", "bulk.example", "image-pull", origin.address);
    let mut gateway = Gateway::start(store.build());
    let mut pay = gateway.wire();
    pay.send(get("pay.example"));
    let mut bulk = gateway.wire();
    bulk.send(get("bulk.example"));
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="payment"}"#, 1.0);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="image-pull"}"#, 1.0);

    let start = tillgate_tests::now();
    gateway.control.drain();
    bulk.expect_end();
    let bulk_ended = start.elapsed();
    pay.expect_end();
    let pay_ended = start.elapsed();
    gateway.ended();
    assert!(bulk_ended >= Duration::from_millis(900), "{bulk_ended:?}");
    assert!(pay_ended >= Duration::from_millis(1900), "{pay_ended:?}");
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket");
    let refused = tillgate::build(Store::default().http_on(address).build());
    let error = refused.err().expect("the port is taken");
    let text = error.to_string();
    assert!(text.contains("listener http") && text.contains("--http"), "{text}");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains(&format!("{address} is in use")), "{cause}");
    // Another gateway counts as somebody else, although it would share.
    let first = Gateway::start(Store::default().build());
    assert!(tillgate::build(Store::default().http_on(first.http).build()).is_err());
}

//! Floods of HTTP/2 frames, each by name: the connection is ended with ENHANCE_YOUR_CALM (or what
//! h2 says of it), it is counted, memory stays bounded, and other connections are unharmed.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_tests::eventually;
use tillgate_tests::frames::{End, Frames, code, field, flag, kind, request};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2::Client;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// More than any flood here needs to be found.
const FRAMES: u32 = 20_000;

fn floods(kind: &str) -> String {
    format!(r#"tillgate_http2_floods_total{{listener="http",kind="{kind}"}}"#)
}

/// Resident memory of this process, gateway and test, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second field is a number of pages") * 4096
}

/// Sends `next` until the gateway ends the connection; checks how, and what it did to others.
fn flood(name: &str, counted: Option<&str>, next: impl Fn(&mut Frames, u32)) {
    let origin = Origin::answering(ANSWER);
    let store = Store::default()
        .cloud("api", "api.example", "payment", origin.address)
        .limits(|limits| limits.stream_resets_max = 100);
    let gateway = Gateway::start(store.build());
    let mut neighbour = Frames::connect(gateway.http);
    let mut hostile = Frames::connect(gateway.http);
    let before = resident();
    for number in 0..FRAMES {
        next(&mut hostile, number);
    }
    let end = loop {
        match hostile.end() {
            End::Reset(_, _) => {}
            end @ (End::Closed | End::GoAway(_)) => break end,
        }
    };
    let calm = End::GoAway(code::ENHANCE_YOUR_CALM);
    assert!(end == calm || end == End::Closed, "{name}: {end:?}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{name}: {grown} bytes more");
    let kinds = counted.map_or(vec!["resets", "frames", "other"], |kind| vec![kind]);
    eventually("the flood is counted once", || {
        let sum: f64 = kinds.iter().map(|kind| gateway.metric(&floods(kind))).sum();
        ((sum - 1.0).abs() < 1e-9).then_some(())
    });
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 1.0);
    neighbour.get(1, "/");
    assert_eq!(neighbour.answer(1).1, b"ok", "{name}: the neighbour is served");
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="payment"}"#, 0.0);
}

#[test]
fn rapid_reset() {
    flood("rapid reset", None, |frames, number| {
        frames.get(2 * number + 1, "/");
        frames.send(kind::RST_STREAM, flag::NONE, 2 * number + 1, [0, 0, 0, 8]);
    });
}

#[test]
fn resets_of_streams_that_were_taken() {
    let origin = Origin::start(|mut wire, _| {
        // Answers nothing, so that every stream is under way when it is reset.
        while wire.waits_for_more() {
            wire.head();
        }
    });
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.stream_resets_max = 50);
    let gateway = Gateway::start(store.build());
    let mut frames = Frames::connect(gateway.http);
    let mut end = None;
    for number in 0..100 {
        frames.get(2 * number + 1, "/");
        // Everything before it has been dealt with: the stream is taken.
        if let Err(how) = frames.ping() {
            end = Some((number, how));
            break;
        }
        frames.send(kind::RST_STREAM, flag::NONE, 2 * number + 1, [0, 0, 0, 8]);
    }
    assert_eq!(end, Some((51, End::GoAway(code::ENHANCE_YOUR_CALM))));
    gateway.expect_metric(&floods("resets"), 1.0);
    gateway.expect_metric(&floods("other"), 0.0);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 0.0);
}

#[test]
fn ping_flood() {
    flood("PING", Some("frames"), |frames, _| frames.send(kind::PING, flag::NONE, 0, [0; 8]));
}

#[test]
fn settings_flood() {
    flood("SETTINGS", Some("frames"), |frames, _| frames.send(kind::SETTINGS, flag::NONE, 0, []));
}

#[test]
fn priority_flood() {
    flood("PRIORITY", Some("frames"), |frames, number| {
        frames.send(kind::PRIORITY, flag::NONE, 2 * (number % 50) + 1, [0, 0, 0, 0, 16]);
    });
}

#[test]
fn window_update_flood() {
    flood("WINDOW_UPDATE", Some("frames"), |frames, _| {
        frames.send(kind::WINDOW_UPDATE, flag::NONE, 0, [0, 0, 0, 1]);
    });
}

#[test]
fn flood_of_unknown_frames() {
    flood("unknown", Some("frames"), |frames, _| frames.send(0x42, flag::NONE, 0, []));
}

#[test]
fn flood_of_empty_data() {
    flood("empty DATA", None, |frames, number| {
        if number == 0 {
            frames.post(1, "/");
        }
        frames.send(kind::DATA, flag::NONE, 1, []);
    });
}

#[test]
fn flood_of_small_data() {
    // h2 bounds what small pieces cost while nobody takes them: the server reads nothing.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::start(move |mut wire, _| {
        wire.head();
        let _ = held.lock().unwrap().recv_timeout(tillgate_tests::PATIENCE);
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let mut frames = Frames::connect(gateway.http);
    let before = resident();
    frames.post(1, "/");
    for _ in 0..60_000 {
        frames.send(kind::DATA, flag::NONE, 1, *b"a");
    }
    // Either all of it found room on its way to the server, or the connection was ended.
    let _ = frames.ping();
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    drop(hold);
}

#[test]
fn continuation_flood() {
    flood("CONTINUATION", Some("other"), |frames, number| {
        if number == 0 {
            frames.send(kind::HEADERS, flag::NONE, 1, request("GET", "/"));
        }
        frames.send(kind::CONTINUATION, flag::NONE, 1, field("x-more", "and more"));
    });
}

#[test]
fn more_streams_than_it_may_have() {
    flood("streams", Some("other"), |frames, number| frames.post(2 * number + 1, "/"));
}

#[test]
fn busy_clients_are_no_flood() {
    let origin = Origin::answering(ANSWER);
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.stream_resets_max = 100);
    let gateway = Gateway::start(store.build());
    let mut client = Client::connect(gateway.http);
    let ask = || Request::get("http://api.example/").body(Full::<Bytes>::default()).unwrap();
    for _ in 0..20 {
        let answers = client.ask_all((0..100).map(|_| ask()).collect());
        assert!(answers.iter().all(|answer| answer.head.status == 200));
    }
    for kind in ["resets", "frames", "other"] {
        gateway.expect_metric(&floods(kind), 0.0);
    }
}

#[test]
fn a_stream_whose_client_takes_nothing_gives_its_place_back() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let request = wire.head();
            let bytes = if request.line.contains("/large") { 1 << 20 } else { 2 };
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
            if !wire.try_send(vec![b'o'; bytes]) {
                return;
            }
        }
    });
    let store = Store::default()
        .backend("api", Location::Cloud, BackendProtocol::Http, origin.address)
        .route_of("small", "api.example", "/small", Some("default"))
        .timeouts(|timeouts| timeouts.idle = Duration::from_secs(5))
        .route_of("large", "api.example", "/large", Some("default"))
        .limits(|limits| limits.streams_max = 2);
    let gateway = Gateway::start(store.build());
    // SETTINGS_INITIAL_WINDOW_SIZE 0: no byte of any body may be sent.
    let mut frames = Frames::silent(gateway.http);
    frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frames.greet(&[0, 4, 0, 0, 0, 0]);
    frames.get(1, "/large");
    frames.get(3, "/large");
    let mut reset = [frames.end(), frames.end()];
    reset.sort_by_key(|end| format!("{end:?}"));
    assert!(matches!(reset, [End::Reset(1, _), End::Reset(3, _)]), "{reset:?}");
    gateway.expect_metric(r#"tillgate_failures_total{class="default",reason="idle_timeout"}"#, 2.0);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 0.0);
    // Their places are free, on the same connection.
    frames.get(5, "/small");
    frames.send(kind::WINDOW_UPDATE, flag::NONE, 5, [0, 0, 1, 0]);
    assert_eq!(frames.answer(5).1, b"oo");
    eventually("the servers' connections are given up", || {
        (gateway.metric("tillgate_buffered_bytes") < 1.0).then_some(())
    });
}

//! Limits on clients: how often, how many, how large, how slowly. The limit is told, counted and
//! harms nobody else.

use std::sync::mpsc;
use std::time::Duration;

use tillgate_core::limit::{RateKey, RateLimit};
use tillgate_core::listener::ProxyTrust;
use tillgate_core::units::BitRate;
use tillgate_tests::frames::{Frames, fields, flag, kind};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, eventually, now};

const GET: &str = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SHORT: Duration = Duration::from_millis(300);

fn failed(class: &str, reason: &str) -> String {
    format!(r#"tillgate_failures_total{{class="{class}",reason="{reason}"}}"#)
}

fn in_flight(class: &str) -> String {
    format!(r#"tillgate_requests_in_flight{{class="{class}"}}"#)
}

/// Two requests at once, then one an hour.
fn rate(key: RateKey) -> RateLimit {
    RateLimit { requests: 1, interval: Duration::from_secs(3600), burst: 2, key, keys_max: 100 }
}

#[test]
fn too_many_requests_are_answered_429_and_told_when_to_come_again() {
    let origin = Origin::answering(ANSWER);
    let store = || {
        Store::default()
            .cloud("api", "api.example", "default", origin.address)
            .rule(|rule| rule.rate_limits = vec![rate(RateKey::Route)])
            .cloud("free", "free.example", "default", origin.address)
    };
    let gateway = Gateway::start(store().build());
    let policy = Some("\"route\";q=2;w=7200");
    for left in ["\"route\";r=1;t=3600", "\"route\";r=0;t=7200"] {
        let reply = gateway.ask(GET);
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        assert_eq!(reply.header("ratelimit-policy"), policy);
        assert_eq!(reply.header("ratelimit"), Some(left));
        assert_eq!(reply.header("retry-after"), None);
    }
    let check = |gateway: &Gateway| {
        let reply = gateway.ask(GET);
        assert_eq!((reply.status, &*reply.reason()), (429, "rate_limited"));
        assert_eq!(reply.header("ratelimit-policy"), policy);
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((3500..=3600).contains(&wait), "{reply:?}");
        let left = format!("\"route\";r=0;t={wait}");
        assert_eq!(reply.header("ratelimit"), Some(&*left));
    };
    check(&gateway);
    gateway.expect_metric(&failed("default", "rate_limited"), 1.0);
    // Others are not concerned, and hear nothing of it.
    let reply = gateway.ask(&GET.replace("api", "free"));
    assert_eq!((reply.status, reply.header("ratelimit")), (200, None));
    // A reload of the same limit forgets nothing; another limit begins anew.
    gateway.control.reload(store().digest("sha256:second").build()).unwrap();
    check(&gateway);
    let other = store().rule(|rule| rule.rate_limits = vec![rate(RateKey::ClientAddress)]);
    gateway.control.reload(other.digest("sha256:third").build()).unwrap();
    assert_eq!(gateway.ask(&GET.replace("api", "free")).status, 200);
}

#[test]
fn rates_are_counted_by_header() {
    let origin = Origin::answering(ANSWER);
    let key = RateKey::Header(http::HeaderName::from_static("x-till"));
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .rule(|rule| rule.rate_limits = vec![rate(key)]);
    let gateway = Gateway::start(store.build());
    let ask = |till: &str| gateway.ask(&format!("{}X-Till: {till}\r\n\r\n", &GET[..GET.len() - 2]));
    for till in ["1", "2"] {
        let statuses: Vec<u16> = (0..3).map(|_| ask(till).status).collect();
        assert_eq!(statuses, [200, 200, 429], "till {till}");
    }
}

#[test]
fn as_many_requests_as_a_listener_and_a_class_take() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            wire.reply();
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            wire.send(ANSWER);
        }
    });
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .cloud("pull", "pull.example", "image-pull", origin.address)
        .class_requests("image-pull", 1)
        .limits(|limits| limits.requests_max = 3);
    let gateway = Gateway::start(store.build());
    let mut open: Vec<_> = ["pull", "api", "api"]
        .map(|host| {
            let mut wire = gateway.wire();
            wire.send(GET.replace("api", host));
            wire
        })
        .into();
    gateway.expect_metric(&in_flight("image-pull"), 1.0);
    gateway.expect_metric(&in_flight("default"), 2.0);
    let reply = gateway.ask(GET);
    assert_eq!((reply.status, &*reply.reason()), (503, "requests_full"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert!(reply.text().contains("limits.maxRequests"), "{reply:?}");
    gateway.expect_metric(&failed("default", "requests_full"), 1.0);

    release.send(()).unwrap();
    release.send(()).unwrap();
    // Any two of the three.
    eventually("two have ended", || {
        let sum = gateway.metric(&in_flight("default")) + gateway.metric(&in_flight("image-pull"));
        (sum < 1.5).then_some(())
    });
    if gateway.metric(&in_flight("image-pull")) < 0.5 {
        let mut wire = gateway.wire();
        wire.send(GET.replace("api", "pull"));
        open.push(wire);
        gateway.expect_metric(&in_flight("image-pull"), 1.0);
    }
    let reply = gateway.ask(&GET.replace("api", "pull"));
    assert_eq!((reply.status, &*reply.reason()), (503, "requests_full"));
    assert!(reply.text().contains("class image-pull"), "{reply:?}");
    for _ in 0..2 {
        let _ = release.send(());
    }
    gateway.expect_metric(&in_flight("image-pull"), 0.0);
    release.send(()).unwrap();
    assert_eq!(gateway.ask(GET).status, 200, "there is room again");
}

#[test]
fn a_body_that_is_too_large_is_refused_at_once_or_when_it_is() {
    let (heard, hears) = mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            let request = wire.reply();
            let _ = heard.send((request.complete, request.body.len()));
            if request.complete {
                wire.send(ANSWER);
            }
        }
    });
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.body_bytes_max = Some(1000));
    let gateway = Gateway::start(store.build());
    let post =
        |framing: &str| gateway.ask(&format!("POST / HTTP/1.1\r\nHost: api.example\r\n{framing}"));
    let exactly = "a".repeat(1000);
    assert_eq!(post(&format!("Content-Length: 1000\r\n\r\n{exactly}")).status, 200);
    assert_eq!(hears.recv_timeout(PATIENCE), Ok((true, 1000)));
    assert_eq!(
        post(&format!("Transfer-Encoding: chunked\r\n\r\n3e8\r\n{exactly}\r\n0\r\n\r\n")).status,
        200
    );
    assert_eq!(hears.recv_timeout(PATIENCE), Ok((true, 1000)));

    let reply = post("Content-Length: 1001\r\n\r\n");
    assert_eq!((reply.status, &*reply.reason()), (413, "body_too_large"));
    assert!(hears.try_recv().is_err(), "the server hears nothing of it");
    let mut wire = gateway.wire();
    let head = "POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    wire.send(format!("{head}3e8\r\n{exactly}\r\n"));
    gateway.expect_metric(&in_flight("default"), 1.0);
    wire.send("1\r\nb\r\n");
    let reply = wire.reply();
    assert_eq!((reply.status, &*reply.reason()), (413, "body_too_large"));
    let (complete, bytes) = hears.recv_timeout(PATIENCE).unwrap();
    assert!(!complete && bytes <= 1000, "{bytes} bytes, complete: {complete}");
    gateway.expect_metric(&failed("default", "body_too_large"), 2.0);
    gateway.expect_metric(&in_flight("default"), 0.0);
}

#[test]
fn a_client_that_looks_only_after_it_has_sent_everything_reads_its_refusal() {
    let origin = Origin::start(|mut wire, _| while wire.waits_for_more() {});
    let limits = |store: Store| {
        store.limits(|limits| {
            limits.body_bytes_max = Some(1000);
            limits.body_timeout = Some(SHORT);
        })
    };
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(limits(store).build());
    // More than the sockets between the two can keep.
    let large = vec![b'a'; 12 * 1024 * 1024];
    let mut wire = gateway.wire();
    let length = large.len();
    wire.send(format!("POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: {length}\r\n\r\n"));
    assert!(wire.try_send(&large), "nothing is taken back while the client sends");
    let reply = wire.reply();
    assert_eq!((reply.status, &*reply.reason()), (413, "body_too_large"));
    assert_eq!(wire.read_to_end(), Ok(Vec::new()), "an end, not a reset");

    let mut wire = gateway.wire();
    wire.send("POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 900\r\n\r\nsome");
    gateway.expect_metric(&failed("default", "body_too_slow"), 1.0);
    assert!(wire.try_send(vec![b'a'; 500]), "it wakes up too late, and goes on");
    let reply = wire.reply();
    assert_eq!((reply.status, &*reply.reason()), (408, "body_too_slow"));
    wire.finish();
    assert_eq!(wire.read_to_end(), Ok(Vec::new()));
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 0.0);
}

#[test]
fn a_client_that_never_stops_sending_is_not_listened_to_for_ever() {
    let origin = Origin::start(|mut wire, _| while wire.waits_for_more() {});
    let mut effective = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.body_bytes_max = Some(1000))
        .build();
    // Who asks for metrics may take longer.
    effective.listeners[0].limits.header_timeout = SHORT;
    let gateway = Gateway::start(effective);
    let mut wire = eventually("it is asked in time", || {
        let mut wire = gateway.wire();
        let post = "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 999999\r\n\r\nsome";
        let comes = wire.try_send(post) && wire.stream().peek(&mut [0]).is_ok_and(|read| read > 0);
        comes.then_some(wire)
    });
    assert_eq!(wire.reply().status, 413);
    // It neither ends nor goes on.
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 0.0);
}

#[test]
fn one_client_does_not_take_the_places_of_all() {
    let origin = Origin::answering(ANSWER);
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.connections_per_client_max = 2);
    let gateway = Gateway::start(store.build());
    let mut kept = [gateway.wire(), gateway.wire()];
    for wire in &mut kept {
        wire.send("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
    }
    gateway.wire().expect_end();
    let crowded = r#"tillgate_connections_crowded_total{listener="http"}"#;
    gateway.expect_metric(crowded, 1.0);
    gateway.expect_metric(r#"tillgate_connections_refused_total{listener="http"}"#, 0.0);
    let mut other = Wire::connect_from([127, 0, 0, 2].into(), gateway.http);
    other.send("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(other.reply().status, 200, "another one has places of its own");
    let [first, _second] = kept;
    drop(first);
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 2.0);
    assert_eq!(gateway.ask(GET).status, 200, "there is a place again");
}

#[test]
fn a_client_behind_a_load_balancer_is_whom_its_header_names() {
    let origin = Origin::answering(ANSWER);
    let mut effective = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.connections_per_client_max = 1)
        .build();
    let trusted_sources = vec!["127.0.0.0/8".parse().expect("a network")];
    effective.listeners[0].proxy_protocol = Some(ProxyTrust { trusted_sources });
    let gateway = Gateway::start(effective);
    let open = |client: &str| {
        let mut wire = gateway.wire();
        wire.send(format!("PROXY TCP4 {client} 10.0.0.1 4000 80\r\n"));
        wire.send("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
        wire
    };
    let (mut one, mut two) = (open("10.1.1.1"), open("10.1.1.2"));
    assert_eq!((one.reply().status, two.reply().status), (200, 200));
    open("10.1.1.1").expect_end();
    gateway.expect_metric(r#"tillgate_connections_crowded_total{listener="http"}"#, 1.0);
}

#[test]
fn a_body_that_stops_is_answered_408_and_never_completed() {
    let (heard, hears) = mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            let _ = heard.send(wire.reply().complete);
        }
    });
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.body_timeout = Some(SHORT));
    let gateway = Gateway::start(store.build());
    let started = now();
    let reply =
        gateway.ask("POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!((reply.status, &*reply.reason()), (408, "body_too_slow"));
    assert!(now() - started >= SHORT);
    assert_eq!(hears.recv_timeout(PATIENCE), Ok(false));
    gateway.expect_metric(&failed("default", "body_too_slow"), 1.0);
    gateway.expect_metric(&in_flight("default"), 0.0);
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 0.0);
}

#[test]
fn a_slow_post_is_answered_408_and_a_slow_server_blames_nobody() {
    let (hold, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::start(move |mut wire, _| {
        let head = wire.head();
        if head.line.contains("/stuck") {
            // Reads no more, until the test is over.
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        } else {
            wire.reply();
        }
    });
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .limits(|limits| limits.body_rate_min = Some(BitRate::from_bits_per_second(4_000)))
        .limits(|limits| limits.header_timeout = Duration::from_secs(1));
    let gateway = Gateway::start(store.build());
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: api.example\r\n");
    let mut stuck = gateway.wire();
    stuck.send(post("/stuck") + "Content-Length: 1000000000\r\n\r\n");
    let piece = vec![b'a'; 1 << 20];
    assert!(stuck.send_until_full(&piece, SHORT) > 0);
    // A stream whose length nobody knows may be quiet.
    let mut quiet = gateway.wire();
    quiet.send(post("/quiet") + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    let started = now();
    let mut slow = gateway.wire();
    slow.send(post("/slow") + "Content-Length: 100000\r\n\r\nhalf");
    let reply = slow.reply();
    assert_eq!((reply.status, &*reply.reason()), (408, "body_too_slow"));
    assert!(now() - started >= Duration::from_secs(10), "a window is averaged");
    assert!((gateway.metric(&in_flight("default")) - 2.0).abs() < 0.1, "the others go on");
    drop(gateway);
    drop(hold);
}

/// An HTTP/2 client that lets its server send whatever it likes, and reads nothing of it.
fn reader_that_does_not_read(gateway: &Gateway, host: &str, streams: u32) -> Frames {
    let mut frames = Frames::silent(gateway.http);
    frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frames.greet(&[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    frames.send(kind::WINDOW_UPDATE, flag::NONE, 0, [0x7f, 0, 0, 0]);
    let head = fields(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/large"),
        (":authority", host),
    ]);
    for number in 0..streams {
        let flags = flag::END_HEADERS | flag::END_STREAM;
        frames.send(kind::HEADERS, flags, 2 * number + 1, head.clone());
    }
    frames
}

#[test]
fn memory_is_bounded_and_bulk_goes_first() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let bytes = if wire.head().line.contains("/large") { 8 << 20 } else { 2 };
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
            if !wire.try_send(vec![b'o'; bytes]) {
                return;
            }
        }
    });
    let ceiling = 1 << 20;
    let store = Store::default()
        .cloud("pay", "pay.example", "payment", origin.address)
        .cloud("pull", "pull.example", "image-pull", origin.address)
        .buffer_bytes(ceiling);
    let gateway = Gateway::start(store.build());
    let payments = reader_that_does_not_read(&gateway, "pay.example", 2);
    gateway.expect_metric(&in_flight("payment"), 2.0);
    let pulls = reader_that_does_not_read(&gateway, "pull.example", 60);
    // What is sent is more than the kernel and the ceiling hold, so most of it has to go.
    eventually("pulls are ended", || {
        let shed = gateway.metric(&failed("image-pull", "memory_shed"));
        let held = gateway.metric("tillgate_buffered_bytes");
        (shed >= 20.0 && held <= ceiling as f64).then_some(())
    });
    assert!(gateway.metric(&failed("payment", "memory_shed")) < 0.5, "no payment is");
    assert!((gateway.metric(&in_flight("payment")) - 2.0).abs() < 0.1);
    assert_eq!(gateway.ask(&GET.replace("api", "pay")).status, 200);
    gateway.expect_metric("tillgate_buffered_max_bytes", 1_048_576.0);
    assert!(gateway.admin("/readyz?verbose").text().contains("of 1048576 bytes"));
    drop((payments, pulls));
    gateway.expect_metric("tillgate_buffered_bytes", 0.0);
}

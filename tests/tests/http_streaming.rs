//! Bodies on their way through: as they come, with back-pressure, with trailers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::{PATIENCE, dawdle, eventually};

/// What the kernel's socket buffers and ours may hold together when a reader stops: far less
/// than what is sent, far more than what a slow start needs.
const PILED_UP_MAX: usize = 24 * 1024 * 1024;

#[test]
fn an_upload_passes_piece_by_piece() {
    let (heard, hears) = mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            for piece in ["one", "two"] {
                wire.read_until(piece);
                let _ = heard.send(piece);
            }
            wire.read_until("0\r\n\r\n");
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    });
    let store = Store::default().cloud("push", "push.example", "metrics", origin.address);
    let gateway = Gateway::start(store.build());

    let mut wire = gateway.wire();
    wire.send("POST / HTTP/1.1\r\nHost: push.example\r\nTransfer-Encoding: chunked\r\n\r\n");
    wire.send("3\r\none\r\n");
    assert_eq!(hears.recv_timeout(PATIENCE), Ok("one"), "before the second piece is sent");
    wire.send("3\r\ntwo\r\n");
    assert_eq!(hears.recv_timeout(PATIENCE), Ok("two"));
    wire.send("0\r\n\r\n");
    assert_eq!(wire.reply().text(), "done");
}

#[test]
fn a_download_passes_piece_by_piece() {
    let (go, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
            let _ = wait.lock().expect("one connection").recv_timeout(PATIENCE);
            wire.send("3\r\ntwo\r\n0\r\n\r\n");
            wire.waits_for_more();
        }
    });
    let store = Store::default().cloud("pull", "pull.example", "image-pull", origin.address);
    let gateway = Gateway::start(store.build());

    let mut wire = gateway.wire();
    wire.send("GET / HTTP/1.1\r\nHost: pull.example\r\n\r\n");
    wire.read_until("one\r\n");
    go.send(()).expect("the origin waits");
    wire.read_until("two\r\n0\r\n\r\n");
}

#[test]
fn a_client_that_stops_reading_stops_the_server() {
    let sent = Arc::new(AtomicUsize::new(0));
    let total = 256 * 1024 * 1024;
    let counter = Arc::clone(&sent);
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"));
            let chunk = vec![b'x'; 64 * 1024];
            while counter.load(Ordering::SeqCst) < total && wire.try_send(&chunk) {
                counter.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    });
    let store = Store::default().local("pull", "pull.example", "image-pull", origin.address);
    let gateway = Gateway::start(store.build());

    let mut wire = gateway.wire();
    wire.send("GET / HTTP/1.1\r\nHost: pull.example\r\n\r\n");
    wire.head();
    // It has stopped when two looks, a while apart, see the same.
    let mut last = usize::MAX;
    let mut since = tillgate_tests::now();
    let stuck = eventually("the server is stopped", || {
        let seen = sent.load(Ordering::SeqCst);
        if seen != last {
            (last, since) = (seen, tillgate_tests::now());
        }
        (seen > 0 && since.elapsed() > Duration::from_millis(500)).then_some(seen)
    });
    assert!(stuck < PILED_UP_MAX, "{stuck} bytes are on their way to nobody");
    // Others are not harmed, and it goes on when it is read.
    assert_eq!(wire.read_exact(1024 * 1024).len(), 1024 * 1024);
    drop(wire);
    gateway
        .expect_metric(r#"tillgate_failures_total{class="image-pull",reason="client_gone"}"#, 1.0);
}

#[test]
fn a_server_that_stops_reading_stops_the_client() {
    let origin = Origin::start(|mut wire, number| {
        if wire.waits_for_more() && number == 0 {
            wire.head();
            // Never reads the body; holds the connection until the test has ended.
            dawdle(PATIENCE);
        }
    });
    let store = Store::default().local("push", "push.example", "metrics", origin.address);
    let gateway = Gateway::start(store.build());

    let mut wire = gateway.wire();
    let total = 256 * 1024 * 1024;
    wire.send(format!("PUT / HTTP/1.1\r\nHost: push.example\r\nContent-Length: {total}\r\n\r\n"));
    let taken = wire.send_until_full(&[b'x'; 64 * 1024], Duration::from_millis(500));
    assert!(taken < PILED_UP_MAX, "{taken} bytes are on their way to nobody");
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let request = wire.reply();
            let sum = request.trailers.iter().find(|(name, _)| name == "x-sum");
            let sum = sum.map_or("none", |(_, value)| value.as_str()).to_owned();
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nTrailer: X-Echo\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Echo: {sum}\r\n\r\n"
            ));
        }
    });
    let store = Store::default().cloud("rpc", "rpc.example", "default", origin.address);
    let gateway = Gateway::start(store.build());

    let reply = gateway.ask(
        "POST / HTTP/1.1\r\nHost: rpc.example\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\n\r\n",
    );
    assert_eq!(reply.text(), "ok");
    assert_eq!(reply.trailers, [("x-echo".to_owned(), "42".to_owned())]);
}

#[test]
fn a_get_with_a_body_keeps_it() {
    let origin = Origin::echoing();
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let reply = gateway.ask(
        "GET /search HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nquery\r\n0\r\n\r\n",
    );
    assert!(reply.text().contains("body query\n"), "{}", reply.text());
}

#[test]
fn the_server_decides_whether_it_wants_the_body() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let head = wire.head();
            assert_eq!(head.header("expect"), Some("100-continue"));
            if head.line.contains("/yes") {
                wire.send("HTTP/1.1 100 Continue\r\n\r\n");
                let body = wire.read_exact(4);
                assert_eq!(body, b"body");
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken");
            } else {
                wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!");
            }
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let ask = |path: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: api.example\r\nExpect: 100-continue\r\n\
             Content-Length: 4\r\n\r\n"
        )
    };

    let mut wire = gateway.wire();
    wire.send(ask("/yes"));
    assert_eq!(wire.head().status, 100);
    wire.send("body");
    assert_eq!(wire.reply().text(), "taken");

    let mut wire = gateway.wire();
    wire.send(ask("/no"));
    let reply = wire.reply();
    assert_eq!((reply.status, &*reply.text()), (413, "no!"), "without a 100 before it");
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let head = wire.head();
            let answer = if head.line.starts_with("HEAD") {
                "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
            } else if head.line.contains("/204") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else {
                "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1000\r\n\r\n"
            };
            wire.send(answer);
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());

    let mut wire = gateway.wire();
    wire.send("HEAD / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    let head = wire.head();
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    wire.send("GET /204 HTTP/1.1\r\nHost: api.example\r\n\r\n");
    let head = wire.head();
    assert_eq!((head.status, head.header("content-length")), (204, None));
    wire.send("GET /304 HTTP/1.1\r\nHost: api.example\r\n\r\n");
    let head = wire.head();
    assert_eq!((head.status, head.header("etag")), (304, Some("\"x\"")));
    wire.send("HEAD /again HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(wire.head().status, 200, "the connection is still in step");
    assert_eq!(origin.connections(), 1);
}

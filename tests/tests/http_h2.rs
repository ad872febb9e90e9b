//! HTTP/2 with prior knowledge: from clients, to servers, and between the two versions.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::Full;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_tests::frames::{End, Frames, code, flag, kind};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;

fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).expect("a valid request")
}

/// Says in its body what it was asked, and in a trailer how much came.
fn teller() -> h2::Origin {
    h2::Origin::start(|head, body, trailers| {
        let mut text = format!("{} {}\n", head.method, head.uri);
        for (name, value) in &head.headers {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("?")));
        }
        let count = trailers.and_then(|trailers| trailers.get("x-count").cloned());
        let mut trailers = HeaderMap::new();
        trailers.insert("x-bytes", HeaderValue::from(body.len()));
        trailers.insert("x-count-seen", count.unwrap_or(HeaderValue::from_static("none")));
        vec![Frame::data(text.into()), Frame::trailers(trailers)]
    })
}

#[test]
fn both_versions_are_spoken_on_one_port() {
    let origin = Origin::echoing();
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let mut client = h2::Client::connect(gateway.http);
    let mut request = get("http://api.example/a?b=c");
    for crumb in ["a=1", "b=2"] {
        request.headers_mut().append("cookie", HeaderValue::from_static(crumb));
    }
    let answer = client.ask(request);
    assert_eq!(answer.head.status, StatusCode::OK);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.starts_with("GET /a?b=c HTTP/1.1\n"), "{text}");
    assert!(text.contains("host: api.example\n"), "{text}");
    assert!(text.contains("cookie: a=1; b=2\n"), "one field for HTTP/1: {text}");

    let answer = client.ask(get("http://nobody.example/"));
    assert_eq!(answer.head.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.head.headers["content-type"], "application/problem+json");
    let old = gateway.ask("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(old.status, 200);
}

#[test]
fn one_class_shares_one_connection_to_an_http2_server() {
    let origin = teller();
    let store = Store::default()
        .backend("rpc", Location::Cloud, BackendProtocol::Http2, origin.address)
        .route("rpc", "rpc.example", Some("payment"))
        .route("bulk", "bulk.example", Some("metrics"));
    let gateway = Gateway::start(store.build());
    let mut client = h2::Client::connect(gateway.http);
    let asked = (0..20).map(|i| get(&format!("http://rpc.example/{i}"))).collect();
    for (i, answer) in client.ask_all(asked).into_iter().enumerate() {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.starts_with(&format!("GET http://rpc.example/{i}\n")), "{text}");
        let trailers = answer.trailers.expect("trailers");
        assert_eq!(trailers["x-bytes"], "0");
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(client.ask(get("http://bulk.example/")).head.status, StatusCode::OK);
    assert_eq!(origin.connections(), 2, "another class, another connection");
}

#[test]
fn more_requests_than_streams_take_turns() {
    for (streams_max, connections_max) in [(1, 1), (1, 4), (3, 2)] {
        let origin = h2::Origin::with_streams(streams_max, |_, _, _| vec![]);
        let store = Store::default()
            // Nobody is refused for having waited, only for having been forgotten: nothing else
            // ends this wait.
            .max_wait(tillgate_tests::PATIENCE)
            .pool(|pool| pool.connections_max = connections_max)
            .backend("rpc", Location::Cloud, BackendProtocol::Http2, origin.address)
            .route("rpc", "rpc.example", Some("default"));
        let gateway = Gateway::start(store.build());
        let mut client = h2::Client::connect(gateway.http);
        for _ in 0..3 {
            let asked = (0..30).map(|_| get("http://rpc.example/")).collect();
            for answer in client.ask_all(asked) {
                assert_eq!(answer.head.status, StatusCode::OK, "a free stream wakes who waits");
            }
        }
        assert!(origin.connections() <= connections_max as usize);
    }
}

#[test]
fn an_http1_client_reaches_an_http2_server() {
    let origin = teller();
    let store = Store::default()
        .backend("rpc", Location::Local, BackendProtocol::Grpc, origin.address)
        .route("rpc", "rpc.example", Some("default"));
    let gateway = Gateway::start(store.build());
    let reply = gateway.ask(
        "POST /x HTTP/1.1\r\nHost: rpc.example:8080\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\nTrailer: X-Count\r\nKeep-Alive: 3\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Count: 3\r\n\r\n",
    );
    assert_eq!(reply.status, 200, "{reply:?}");
    let text = reply.text();
    assert!(text.starts_with("POST http://rpc.example:8080/x\n"), "{text}");
    for gone in ["\nhost:", "connection", "keep-alive", "transfer-encoding"] {
        assert!(!text.contains(gone), "{gone:?} is in\n{text}");
    }
}

#[test]
fn trailers_pass_through_http2_both_ways() {
    let origin = teller();
    let store = Store::default()
        .backend("rpc", Location::Cloud, BackendProtocol::Grpc, origin.address)
        .route("rpc", "rpc.example", Some("default"));
    let gateway = Gateway::start(store.build());
    let mut client = h2::Client::connect(gateway.http);
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://rpc.example/Service/Call")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(Full::from("payload"))
        .expect("a valid request");
    let answer = client.ask(request);
    assert!(answer.complete);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("te: trailers\n"), "{text}");
    assert_eq!(answer.trailers.expect("trailers")["x-bytes"], "7");
}

#[test]
fn a_body_cut_short_resets_the_stream_and_no_other() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let head = wire.head();
            if head.line.contains("/cut") {
                return wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull");
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let mut client = h2::Client::connect(gateway.http);
    let asked = ["/a", "/cut", "/b"].map(|path| get(&format!("http://api.example{path}")));
    let answers = client.ask_all(asked.into());
    assert_eq!(answers.iter().map(|a| a.complete).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(client.ask(get("http://api.example/c")).body, "full");
}

#[test]
fn large_bodies_pass_through_http2() {
    let origin = h2::Origin::start(|_, body, _| {
        (0..body.len() / 1000).map(|_| Frame::data(Bytes::from(vec![b'y'; 4000]))).collect()
    });
    let store = Store::default()
        .backend("rpc", Location::Cloud, BackendProtocol::Http2, origin.address)
        .route("rpc", "rpc.example", Some("image-pull"));
    let gateway = Gateway::start(store.build());
    let mut client = h2::Client::connect(gateway.http);
    let asked = (0..4).map(|_| {
        let body = Full::from(vec![b'x'; 1_000_000]);
        Request::post("http://rpc.example/").body(body).expect("a valid request")
    });
    for answer in client.ask_all(asked.collect()) {
        assert!(answer.complete);
        assert_eq!(answer.body.len(), 4_000_000);
    }
}

/// An HTTP/2 client of a gateway whose connections may idle for a moment, and have `last` to end.
fn idles(last: Duration) -> (Gateway, Frames) {
    let store = Store::default().limits(|limits| {
        // More than it takes to say hello.
        limits.idle_timeout = Duration::from_secs(2);
        limits.header_timeout = last;
    });
    let gateway = Gateway::start(store.build());
    let mut frames = Frames::silent(gateway.http);
    frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frames.send(kind::SETTINGS, flag::NONE, 0, []);
    (gateway, frames)
}

#[test]
fn an_idle_connection_ends_with_a_goodbye() {
    let (gateway, mut frames) = idles(tillgate_tests::PATIENCE * 2);
    assert_eq!(frames.end(), End::GoAway(code::NO_ERROR));
    // It waits for what may be on its way, and then says which stream was the last.
    let mut said = Vec::new();
    while let Some(frame) = frames.frame() {
        if frame.kind == kind::PING && frame.flags & flag::ACK == 0 {
            frames.send(kind::PING, flag::ACK, 0, frame.payload);
        } else if frame.kind == kind::GOAWAY {
            said.push(frame.payload);
        }
    }
    assert_eq!(said.last(), Some(&vec![0; 8]), "no stream, no error");
    gateway.expect_metric(r#"tillgate_connections_timed_out_total{listener="http"}"#, 1.0);
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 0.0);
}

#[test]
fn an_idle_connection_that_does_not_end_is_closed() {
    let (gateway, mut frames) = idles(Duration::from_millis(300));
    while frames.frame().is_some() {}
    gateway.expect_metric(r#"tillgate_connections_timed_out_total{listener="http"}"#, 1.0);
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 0.0);
}

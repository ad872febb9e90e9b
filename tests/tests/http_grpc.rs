//! gRPC end to end: the four kinds of calls, trailers, deadlines, failures in its own words, and
//! connections that end in order.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::Frame;
use http_body_util::Full;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_tests::frames::{End, Frames, code, field, fields, flag, grpc_request, kind};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::store::Store;
use tillgate_tests::{PATIENCE, dawdle, eventually};

fn call(
    path: &str,
    body: impl Into<Bytes>,
    extra: &[(&'static str, &str)],
) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("http://rpc.example{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in extra {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body.into())).expect("a valid request")
}

fn store(address: std::net::SocketAddr) -> Store {
    Store::default().backend("rpc", Location::Cloud, BackendProtocol::Grpc, address).route(
        "rpc",
        "rpc.example",
        Some("default"),
    )
}

fn status(answer: &h2::Answer) -> (StatusCode, &str, &str) {
    let text = |name| answer.head.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    (answer.head.status, text("grpc-status").unwrap_or("-"), text("grpc-message").unwrap_or("-"))
}

#[test]
fn calls_that_send_and_bring_many_messages_end_with_a_status() {
    let origin = h2::Origin::start(|head, body, _| {
        assert_eq!(head.headers["te"], "trailers");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let count = if head.uri.path() == "/s/Many" { 50 } else { 1 };
        let mut frames: Vec<_> = (0..count).map(|_| Frame::data(body.clone())).collect();
        frames.push(Frame::trailers(trailers));
        frames
    });
    let gateway = Gateway::start(store(origin.address).build());
    let mut client = h2::Client::connect(gateway.http);
    for (path, sent, count) in [("/s/One", 20, 1), ("/s/Many", 20, 50), ("/s/Many", 100_000, 50)] {
        let answer = client.ask(call(path, vec![b'm'; sent], &[]));
        assert!(answer.complete);
        assert_eq!(answer.body.len(), sent * count);
        assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");
    }
}

const GRPC: &[u8] = b"\x5f\x10application/grpc";

fn head() -> Vec<u8> {
    // :status 200 and content-type, from the static table.
    [&[0x88][..], GRPC].concat()
}

#[test]
fn messages_of_both_sides_take_turns_in_one_call() {
    let origin = Origin::in_frames(|mut frames, _| {
        let stream = frames.until(kind::HEADERS).stream;
        frames.send(kind::HEADERS, flag::END_HEADERS, stream, head());
        loop {
            let frame = frames.until(kind::DATA);
            if !frame.payload.is_empty() {
                frames.send(kind::DATA, flag::NONE, stream, frame.payload);
            }
            if frame.flags & flag::END_STREAM != 0 {
                break;
            }
        }
        let trailers = field("grpc-status", "0");
        frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, trailers);
        frames.end();
    });
    let gateway = Gateway::start(store(origin.address).build());
    let mut client = Frames::connect(gateway.http);
    client.send(kind::HEADERS, flag::END_HEADERS, 1, grpc_request("/s/Both", &[]));
    assert_eq!(client.until(kind::HEADERS).flags & flag::END_STREAM, 0);
    for number in 0..20_u8 {
        client.send(kind::DATA, flag::NONE, 1, [0, 0, 0, 0, 1, number]);
        assert_eq!(client.until(kind::DATA).payload, [0, 0, 0, 0, 1, number], "one by one");
    }
    client.send(kind::DATA, flag::END_STREAM, 1, []);
    let trailers = client.until(kind::HEADERS);
    assert_ne!(trailers.flags & flag::END_STREAM, 0);
}

#[test]
fn an_error_without_a_body_passes_as_it_is() {
    let origin = Origin::in_frames(|mut frames, _| {
        loop {
            let Some(frame) = frames.frame() else { return };
            if frame.kind == kind::HEADERS {
                let block = [head(), fields(&[("grpc-status", "5"), ("grpc-message", "gone")])];
                let all = flag::END_HEADERS | flag::END_STREAM;
                frames.send(kind::HEADERS, all, frame.stream, block.concat());
            }
        }
    });
    let gateway = Gateway::start(store(origin.address).build());
    let mut client = h2::Client::connect(gateway.http);
    let answer = client.ask(call("/s/One", "m", &[]));
    assert_eq!(status(&answer), (StatusCode::OK, "5", "gone"));
    assert!(answer.complete && answer.body.is_empty());
}

#[test]
fn our_own_failures_are_told_in_grpcs_words() {
    let gateway = Gateway::start(store(nobody()).build());
    let mut client = h2::Client::connect(gateway.http);
    let answer = client.ask(call("/s/One", "m", &[]));
    let (http, grpc, message) = status(&answer);
    assert_eq!((http, grpc), (StatusCode::OK, "14"), "{answer:?}");
    assert!(message.starts_with("connect_refused: "), "{message}");
    assert_eq!(answer.head.headers["content-type"], "application/grpc");
    assert!(answer.body.is_empty() && answer.complete);
    let unknown = Request::post("http://nobody.example/s/One")
        .header("content-type", "application/grpc+proto")
        .body(Full::default())
        .expect("a valid request");
    assert_eq!(status(&client.ask(unknown)).1, "12");
    // Who does not speak gRPC gets a problem.
    let plain = Request::get("http://rpc.example/").body(Full::default()).expect("valid");
    assert_eq!(client.ask(plain).head.status, StatusCode::BAD_GATEWAY);
    gateway
        .expect_metric(r#"tillgate_failures_total{class="default",reason="connect_refused"}"#, 2.0);
}

#[test]
fn the_smaller_deadline_counts() {
    let silent = Origin::in_frames(|mut frames, _| while frames.frame().is_some() {});
    // Begins to answer, and never goes on.
    let begins = Origin::in_frames(|mut frames, _| {
        while let Some(frame) = frames.frame() {
            if frame.kind == kind::HEADERS {
                frames.send(kind::HEADERS, flag::END_HEADERS, frame.stream, head());
            }
        }
    });
    let store = Store::default()
        // The policy's own is longer than anybody here waits.
        .timeouts(|timeouts| timeouts.request = Some(PATIENCE * 2))
        .limits(|limits| limits.header_timeout = Duration::from_secs(1))
        .backend("silent", Location::Cloud, BackendProtocol::Grpc, silent.address)
        .route_of("silent", "rpc.example", "/s/Never", Some("default"))
        .backend("begins", Location::Cloud, BackendProtocol::Grpc, begins.address)
        .route_of("begins", "rpc.example", "/s/Begin", Some("default"));
    let gateway = Gateway::start(store.build());
    let mut client = h2::Client::connect(gateway.http);
    let answer = client.ask(call("/s/Never", "m", &[("grpc-timeout", "200m")]));
    assert_eq!(status(&answer).1, "4", "{answer:?}");
    let answer = client.ask(call("/s/Begin", "m", &[("grpc-timeout", "5S")]));
    let trailers = answer.trailers.expect("a status in trailers");
    assert_eq!(trailers["grpc-status"], "4");
    assert!(answer.complete);
    gateway
        .expect_metric(r#"tillgate_failures_total{class="default",reason="request_timeout"}"#, 2.0);
}

#[test]
fn a_deadline_is_exact_after_the_answer_has_begun() {
    let origin = Origin::in_frames(|mut frames, _| {
        while let Some(frame) = frames.frame() {
            if frame.kind != kind::HEADERS {
                continue;
            }
            frames.send(kind::HEADERS, flag::END_HEADERS, frame.stream, head());
            // The call is given up here as well, and nothing else is.
            assert!(matches!(frames.end(), End::Reset(of, code::CANCEL) if of == frame.stream));
        }
    });
    // Connections are looked at every five seconds.
    let gateway = Gateway::start(store(origin.address).build());
    let deadline = Duration::from_secs(1);
    // On a busy machine one of many is; of none that waits for a look.
    eventually("an answer that has begun ends at its deadline", || {
        let mut client = h2::Client::connect(gateway.http);
        let began = tillgate_tests::now();
        let answer = client.ask(call("/s/Begin", "m", &[("grpc-timeout", "1S")]));
        let took = began.elapsed();
        assert!(took >= deadline, "{took:?}");
        let Some(trailers) = &answer.trailers else {
            assert_eq!(status(&answer).1, "4", "it has not begun in time: {answer:?}");
            return None;
        };
        assert_eq!(trailers["grpc-status"], "4");
        (took < Duration::from_secs(4)).then_some(())
    });
}

#[test]
fn a_reset_passes_in_both_directions() {
    let (heard, hears) = std::sync::mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    let origin = Origin::in_frames(move |mut frames, _| {
        let stream = frames.until(kind::HEADERS).stream;
        frames.send(kind::HEADERS, flag::END_HEADERS, stream, head());
        if let End::Reset(stream, code) = frames.end() {
            let _ = heard.lock().expect("one connection").send((stream, code));
        }
        // The next call is given up by the server.
        let stream = frames.until(kind::HEADERS).stream;
        frames.send(kind::HEADERS, flag::END_HEADERS, stream, [0x88]);
        frames.send(kind::RST_STREAM, flag::NONE, stream, [0, 0, 0, 2]);
        frames.end();
    });
    let gateway = Gateway::start(store(origin.address).build());
    let mut client = Frames::connect(gateway.http);
    client.send(kind::HEADERS, flag::END_HEADERS, 1, grpc_request("/s/Both", &[]));
    client.until(kind::HEADERS);
    client.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
    let (_, code) = hears.recv_timeout(tillgate_tests::PATIENCE).expect("the server is told");
    assert_eq!(code, 8, "CANCEL");
    let plain = fields(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "rpc.example"),
    ]);
    client.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 3, plain);
    assert!(matches!(client.end(), End::Reset(3, _)));
    assert_eq!(client.ping(), Ok(()), "the connection goes on");
}

#[test]
fn a_server_that_says_goodbye_finishes_its_calls_and_gets_no_more() {
    let origin = Origin::in_frames(|mut frames, number| {
        let stream = frames.until(kind::HEADERS).stream;
        if number == 0 {
            let last = [&stream.to_be_bytes()[..], &[0; 4]].concat();
            frames.send(kind::GOAWAY, flag::NONE, 0, last);
        }
        let block = [head(), field("x-connection", &number.to_string())].concat();
        frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, block);
        frames.end();
    });
    let gateway = Gateway::start(store(origin.address).build());
    let mut client = h2::Client::connect(gateway.http);
    for number in ["0", "1"] {
        let answer = client.ask(call("/s/One", "m", &[]));
        assert_eq!(answer.head.headers["x-connection"], number, "{answer:?}");
    }
}

#[test]
fn a_drain_says_goodbye_and_finishes_what_has_begun() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::in_frames(move |mut frames, _| {
        let stream = frames.until(kind::HEADERS).stream;
        let _ = wait.lock().expect("one connection").recv();
        let block = [head(), field("grpc-status", "0")].concat();
        frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, block);
        frames.end();
    });
    let mut gateway = Gateway::start(store(origin.address).build());
    let mut client = Frames::connect(gateway.http);
    client.send(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        1,
        grpc_request("/s/One", &[]),
    );
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 1.0);
    gateway.control.drain();
    assert_eq!(client.end(), End::GoAway(code::NO_ERROR));
    assert_eq!(client.ping(), Ok(()), "the first of two goodbyes");
    go.send(()).expect("the server waits");
    let head = loop {
        let frame = client.frame().expect("the answer");
        if frame.kind == kind::HEADERS {
            break frame;
        }
    };
    assert_eq!(head.stream, 1);
    gateway.ended();
}

#[test]
fn streams_that_nobody_reads_do_not_stop_the_others() {
    // A server that reads nothing of some uploads, and all of the others.
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let head = wire.head();
            if head.line.contains("/stuck") {
                dawdle(PATIENCE);
                return;
            }
            let length = head.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
            wire.read_exact(length);
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let store = Store::default().pool(|pool| pool.connections_max = 100).local(
        "up",
        "rpc.example",
        "metrics",
        origin.address,
    );
    let gateway = Gateway::start(store.build());
    let mut client = Frames::connect(gateway.http);
    // Forty uploads fill their own windows: more than a mebibyte together.
    for number in 0..40 {
        let stream = 2 * number + 1;
        client.send(kind::HEADERS, flag::END_HEADERS, stream, grpc_request("/stuck", &[]));
        for _ in 0..4 {
            client.send(kind::DATA, flag::NONE, stream, vec![b'x'; 16_000]);
        }
    }
    let extra = [("content-length", "60000")];
    client.send(kind::HEADERS, flag::END_HEADERS, 101, grpc_request("/free", &extra));
    for part in 0..6 {
        let end = if part == 5 { flag::END_STREAM } else { flag::NONE };
        client.send(kind::DATA, end, 101, vec![b'y'; 10_000]);
    }
    let (_, body) = client.answer(101);
    assert_eq!(body, b"ok");
}

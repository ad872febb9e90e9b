//! Requests whose end or whose host could be read in two ways: refused with our own answer,
//! counted, and nothing of them reaches a server.

use std::io::Write as _;
use std::net::TcpStream;

use tillgate_tests::frames::{Frames, kind};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;

const GET: &str = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";
const REFUSED: &str = r#"tillgate_failures_total{class="default",reason="invalid_request"}"#;

fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(Store::default().local("api", "api.example", "default", origin.address).build())
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_counted() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    let head = "POST / HTTP/1.1\r\nHost: api.example\r\n";
    let cases = [
        format!("{head}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        format!("{head}Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"),
        format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}X: a\0b\r\n\r\n"),
        "POST / HTTP/1.0\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        "GET / HTTP/1.1\n\n".into(),
        "GET / HTTP/1.1\r\nHost: api.example\r\nHost: api.example\r\n\r\n".into(),
        "GET / HTTP/1.1\r\n\r\n".into(),
        "GET / HTTP/1.0\r\n\r\n".into(),
        "GET http://api.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n".into(),
        "GET http://api.example/ HTTP/1.1\r\nHost: api.example:8080\r\n\r\n".into(),
        "GET http://a@api.example/ HTTP/1.1\r\nHost: a@api.example\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: api.example, b\r\n\r\n".into(),
        "GET / HTTP/3.0\r\nHost: api.example\r\n\r\n".into(),
        "GET /a b HTTP/1.1\r\nHost: api.example\r\n\r\n".into(),
        "GET /a#b HTTP/1.1\r\nHost: api.example\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\0\u{5}hello".into(),
    ];
    for (text, count) in cases.iter().zip(1u8..) {
        let mut wire = gateway.wire();
        wire.send(text);
        let reply = wire.reply();
        assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"), "{text:?}");
        gateway.expect_metric(REFUSED, f64::from(count));
    }
    assert_eq!(origin.connections(), 0, "nothing of them got through");
    assert_eq!(gateway.ask(GET).status, 200);
}

#[test]
fn a_refused_request_waits_for_its_turn_and_ends_the_connection() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    let mut wire = gateway.wire();
    wire.send(format!(
        "{GET}{GET}POST /bad HTTP/1.1\r\nHost: api.example\r\nContent-Length: 5\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /smuggled HTTP/1.1\r\nHost: api.example\r\n\r\n"
    ));
    for _ in 0..2 {
        assert_eq!(wire.reply().status, 200);
    }
    let refused = wire.reply();
    assert_eq!((refused.status, refused.header("connection")), (400, Some("close")));
    wire.expect_end();
    gateway
        .expect_metric(r#"tillgate_requests_total{class="default",route="api",code="200"}"#, 2.0);
}

#[test]
fn the_answer_arrives_though_much_follows_the_refused_head() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    for _ in 0..5 {
        let mut stream = TcpStream::connect(gateway.http).expect("somebody listens");
        let head = "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: x\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("taken");
        stream.write_all(&[b'x'; 200_000]).expect("taken");
        let mut wire = tillgate_tests::wire::Wire::new(stream);
        wire.finish();
        assert_eq!(wire.reply().status, 400);
    }
}

#[test]
fn broken_chunks_end_the_request_and_never_complete_it() {
    let (heard, hears) = std::sync::mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            let request = wire.reply();
            let _ = heard.send(request.complete);
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let gateway = gateway(&origin);
    for chunks in
        ["3\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n"]
    {
        let mut wire = gateway.wire();
        wire.send("POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        wire.send(format!("2\r\nhi\r\n{chunks}"));
        let reply = wire.reply();
        assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"), "{chunks:?}");
        wire.expect_end();
    }
    assert!(hears.try_iter().all(|complete| !complete));
    gateway.expect_metric(REFUSED, 4.0);
}

#[test]
fn a_head_may_come_in_any_pieces() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    let text = "POST /x HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\n\r\nGET /y HTTP/1.1\r\nHost: api.example\r\n\r\n";
    for size in [1, 5, 23, 24, 25, 60, 1000] {
        let mut wire = gateway.wire();
        for piece in text.as_bytes().chunks(size) {
            wire.send(piece);
        }
        let first = wire.reply().text();
        assert!(first.starts_with("POST /x") && first.ends_with("body abc\n"), "{size}: {first}");
        assert!(wire.reply().text().starts_with("GET /y"), "{size}");
    }
}

#[test]
fn heads_beyond_the_limits_get_our_answers() {
    let origin = Origin::echoing();
    let store = Store::default()
        .limits(|limits| {
            limits.header_bytes_max = 2000;
            limits.headers_max = 20;
            limits.uri_bytes_max = 500;
        })
        .local("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let long = format!("GET / HTTP/1.1\r\nHost: api.example\r\nX: {}\r\n\r\n", "x".repeat(2000));
    let many = format!("GET / HTTP/1.1\r\nHost: api.example\r\n{}\r\n", "X: y\r\n".repeat(20));
    let far = format!("GET /{} HTTP/1.1\r\nHost: api.example\r\n\r\n", "x".repeat(500));
    let endless = format!("GET /{}", "x".repeat(3000));
    for (text, status, reason) in [
        (long, 431, "head_too_large"),
        (many, 431, "head_too_large"),
        (far, 414, "uri_too_long"),
        (endless, 431, "head_too_large"),
    ] {
        let reply = gateway.ask(&text);
        assert_eq!((reply.status, &*reply.reason()), (status, reason), "{text}");
    }
    let mut client = h2::Client::connect(gateway.http);
    let get = |path: &str| http::Request::get(format!("http://api.example/{path}"));
    let long = get("").header("x", "x".repeat(2000));
    let many = (0..21).fold(get(""), |request, _| request.header("x", "y"));
    let far = get(&"x".repeat(500));
    for (request, status, reason) in
        [(long, 431, "head_too_large"), (many, 431, "head_too_large"), (far, 414, "uri_too_long")]
    {
        let answer = client.ask(request.body(http_body_util::Full::default()).expect("valid"));
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.head.status, status, "{text}");
        assert!(text.contains(&format!("\"reason\":\"{reason}\"")), "{text}");
    }
    assert_eq!(origin.connections(), 0);
    gateway
        .expect_metric(r#"tillgate_failures_total{class="default",reason="head_too_large"}"#, 5.0);
}

#[test]
fn a_length_is_passed_on_as_one_number() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    for (fields, seen) in [
        ("Content-Length: 003\r\n", "content-length: 3\n"),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", "content-length: 3\n"),
        ("Content-Length: 3\r\nContent-Length: 03\r\n", "content-length: 3\n"),
    ] {
        let text =
            gateway.ask(&format!("POST / HTTP/1.1\r\nHost: api.example\r\n{fields}\r\nabc")).text();
        assert_eq!(text.matches("content-length").count(), 1, "{text}");
        assert!(text.contains(seen), "{text}");
    }
}

#[test]
fn http2_heads_cannot_contradict_themselves() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    let mut client = h2::Client::connect(gateway.http);
    let request = |host: &str| {
        http::Request::get("http://api.example/")
            .header("host", host)
            .body(http_body_util::Full::default())
            .expect("a valid request")
    };
    assert_eq!(client.ask(request("other.example")).head.status, 400);
    assert_eq!(client.ask(request("api.example")).head.status, 200);
}

#[test]
fn trailers_cannot_say_what_belongs_into_a_head() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    let text = gateway
        .ask(
            "POST / HTTP/1.1\r\nHost: api.example\r\nTrailer: X-Sum, Content-Length, Host\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\nContent-Length: 9\r\n\
             Host: b\r\nAuthorization: c\r\n\r\n",
        )
        .text();
    assert!(text.contains("trailer x-sum: 42\n"), "{text}");
    for gone in ["trailer content-length", "trailer host", "trailer authorization"] {
        assert!(!text.contains(gone), "{text}");
    }
}

#[test]
fn clients_of_http10_get_what_they_understand() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            let head = wire.head();
            assert!(head.line.ends_with("HTTP/1.1"), "{}", head.line);
            if head.line.contains("/chunked") {
                wire.send(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
                );
            } else if head.line.contains("/cut") {
                return wire
                    .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
            } else {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    });
    let gateway = gateway(&origin);
    // Without a wish, the connection ends with the answer.
    let mut wire = gateway.wire();
    wire.send("GET / HTTP/1.0\r\nHost: api.example\r\n\r\n");
    let reply = wire.reply();
    assert!(reply.line.starts_with("HTTP/1.0 200"), "{}", reply.line);
    assert_eq!(reply.text(), "ok");
    wire.expect_end();
    // With one, it goes on.
    let mut wire = gateway.wire();
    for _ in 0..2 {
        wire.send("GET / HTTP/1.0\r\nHost: api.example\r\nConnection: keep-alive\r\n\r\n");
        let reply = wire.reply();
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("ok", Some("keep-alive")));
    }
    // No chunks: the end of the connection is the end of the body.
    wire.send("GET /chunked HTTP/1.0\r\nHost: api.example\r\nConnection: keep-alive\r\n\r\n");
    let reply = wire.reply();
    assert_eq!(reply.header("transfer-encoding"), None);
    assert_eq!((reply.text().as_str(), reply.complete), ("hi", true));
    // So an end that is none has to be a reset.
    let mut wire = gateway.wire();
    wire.send("GET /cut HTTP/1.0\r\nHost: api.example\r\n\r\n");
    assert!(!wire.reply().complete, "a cut answer looks whole");
}

#[test]
fn events_pass_one_by_one() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
            for number in 0..5 {
                wire.send(format!("data: {number}\n\n"));
                let _ = wait.lock().expect("one connection").recv();
            }
        }
    });
    let gateway = gateway(&origin);
    let mut wire = gateway.wire();
    wire.send("GET /events HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(wire.head().header("content-type"), Some("text/event-stream"));
    for number in 0..5 {
        // The next one is not even written before this one has come.
        wire.read_until(&format!("data: {number}\n\n"));
        go.send(()).expect("the origin waits");
    }
}

#[test]
fn http2_targets_are_those_of_http1() {
    let origin = Origin::echoing();
    let gateway = gateway(&origin);
    for path in ["x", "x.example/a", "*", "http://other.example/", "?a", "/a b", "/\u{1}"] {
        let mut frames = Frames::connect(gateway.http);
        frames.get(1, path);
        let refused = loop {
            match frames.frame() {
                None => break true,
                Some(frame) if frame.kind == kind::RST_STREAM => break true,
                // An indexed `:status: 400` comes first.
                Some(frame) if frame.kind == kind::HEADERS => break frame.payload[0] == 0x8c,
                Some(_) => {}
            }
        };
        assert!(refused, "{path:?}");
    }
    assert_eq!(origin.connections(), 0, "nothing of them got through");
}

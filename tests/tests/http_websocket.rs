//! WebSocket: by `Upgrade` and by extended CONNECT, as tunnels with a class and an end.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use rustls::ServerConfig;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::tls::{ClientTls, TlsVersion, TrustAnchors};
use tillgate_net::http::websocket;
use tillgate_tests::frames::{End, Frames, code, fields, flag, kind};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Volume, Wants};
use tillgate_tests::wire::Wire;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: ws.example\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: till\r\n\r\n";

/// Says yes with this proof, speaks first, then echoes until the end, then says goodbye.
fn server(accept: &'static str) -> Origin {
    Origin::start(move |mut wire, _| {
        if !wire.waits_for_more() {
            return;
        }
        let head = wire.head();
        assert_eq!(head.header("upgrade"), Some("websocket"), "{head:?}");
        assert_eq!(head.header("connection"), Some("upgrade"), "{head:?}");
        assert!(head.line.starts_with("GET /chat HTTP/1.1"), "{head:?}");
        wire.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: till\r\n\r\nhello"
        ));
        while wire.waits_for_more() {
            let piece = wire.take();
            wire.send(piece);
        }
        // Not to one that was cut.
        let _ = wire.try_send("goodbye");
    })
}

/// Says yes to a gateway, whose key needs a proof of its own, and speaks first.
fn proving(then: impl Fn(Wire) + Send + Sync + 'static) -> Origin {
    Origin::start(move |mut wire, _| {
        if !wire.waits_for_more() {
            return;
        }
        let head = wire.head();
        assert_eq!(head.header("upgrade"), Some("websocket"), "{head:?}");
        assert_eq!(head.header("sec-websocket-version"), Some("13"), "{head:?}");
        assert!(head.line.starts_with("GET /chat HTTP/1.1"), "{head:?}");
        let key = head.header("sec-websocket-key").expect("a key").to_owned();
        let accept = if head.header("x-lie").is_some() {
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()
        } else {
            websocket::accept(key.as_bytes())
        };
        wire.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\nhello"
        ));
        then(wire);
    })
}

/// The head of a client of HTTP/2 that wants a stream to become `protocol`.
fn extended(protocol: &str) -> Vec<u8> {
    fields(&[
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "ws.example"),
        ("sec-websocket-version", "13"),
    ])
}

fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(Store::default().cloud("ws", "ws.example", "payment", origin.address).build())
}

fn open(gateway: &Gateway) -> Wire {
    let mut wire = gateway.wire();
    wire.send(ASK);
    let head = wire.head();
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.header("sec-websocket-protocol"), Some("till"));
    assert_eq!(wire.read_exact(5), b"hello");
    wire
}

#[test]
fn bytes_pass_both_ways_and_an_end_passes_as_an_end() {
    let origin = server("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let gateway = gateway(&origin);
    let mut wire = open(&gateway);
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 1.0);
    for text in ["\u{1}\0GET / HTTP/1.1", "second"] {
        wire.send(text);
        assert_eq!(wire.read_exact(text.len()), text.as_bytes());
    }
    wire.finish();
    assert_eq!(wire.read_to_end(), Ok(b"goodbye".to_vec()));
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 0.0);
    gateway.expect_metric(r#"tillgate_requests_total{class="payment",route="ws",code="101"}"#, 1.0);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="payment"}"#, 0.0);
}

#[test]
fn what_is_sent_along_with_the_request_is_not_lost() {
    let origin = server("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let gateway = gateway(&origin);
    let mut wire = gateway.wire();
    wire.send(format!("{ASK}early\n"));
    assert_eq!(wire.head().status, 101);
    let mut read = wire.read_exact(11);
    read.sort_unstable();
    let mut wanted = b"helloearly\n".to_vec();
    wanted.sort_unstable();
    assert_eq!(read, wanted);
}

#[test]
fn a_refusal_is_an_answer_and_ends_the_connection() {
    let origin = Origin::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let gateway = gateway(&origin);
    let mut wire = gateway.wire();
    // What follows was meant for a WebSocket and must not become a request.
    wire.send(format!("{ASK}GET /smuggled HTTP/1.1\r\nHost: ws.example\r\n\r\n"));
    let reply = wire.reply();
    assert_eq!((reply.status, &*reply.text()), (403, "no"));
    assert_eq!(reply.header("connection"), Some("close"));
    drop(wire);
    gateway.expect_metric(r#"tillgate_requests_total{class="payment",route="ws",code="403"}"#, 1.0);
}

#[test]
fn other_protocols_are_refused_by_name() {
    let origin = server("");
    let gateway = gateway(&origin);
    let reply = gateway.ask(
        "GET / HTTP/1.1\r\nHost: ws.example\r\nConnection: Upgrade\r\nUpgrade: irc/6.9\r\n\r\n",
    );
    assert_eq!((reply.status, &*reply.reason()), (501, "upgrade_unsupported"));
    assert!(reply.text().contains("irc/6.9"), "{}", reply.text());
    assert_eq!(origin.connections(), 0);
}

/// A gateway in front of a server of HTTP/2, perhaps inside of TLS.
fn before_http2(origin: &h2::Origin, tls: Option<ClientTls>) -> Gateway {
    let store = Store::default()
        .backend("ws", Location::Cloud, BackendProtocol::Http2, origin.address)
        .route("ws", "ws.example", Some("payment"));
    let store = match tls {
        Some(tls) => store.over_tls(tls),
        None => store,
    };
    Gateway::start(store.build())
}

/// Opens two beside each other, and asks for something else.
fn sockets_and_an_answer(gateway: &Gateway) {
    let (mut first, mut second) = (open(gateway), open(gateway));
    for wire in [&mut first, &mut second] {
        wire.send("over a stream");
        assert_eq!(wire.read_exact(13), b"over a stream");
    }
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 2.0);
    let reply = gateway.ask("GET /x HTTP/1.1\r\nHost: ws.example\r\nConnection: close\r\n\r\n");
    assert_eq!((reply.status, reply.text()), (200, "HTTP/2.0 GET \"/x\"".to_owned()));
    first.finish();
    assert_eq!(first.read_to_end(), Ok(Vec::new()), "an end passes as an end");
    drop((first, second));
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 0.0);
    gateway.expect_metric(r#"tillgate_requests_total{class="payment",route="ws",code="101"}"#, 2.0);
}

#[test]
fn a_server_of_http2_is_asked_on_a_stream_if_it_takes_that() {
    let origin = h2::Origin::sockets(None, true);
    let gateway = before_http2(&origin, None);
    sockets_and_an_answer(&gateway);
    // Spares for a critical class included: no connection belongs to a WebSocket alone.
    assert!(origin.connections() <= 3, "{} connections", origin.connections());
}

#[test]
fn a_server_of_http2_that_takes_no_stream_is_asked_over_http1() {
    let origin = h2::Origin::sockets(None, false);
    let gateway = before_http2(&origin, None);
    sockets_and_an_answer(&gateway);
}

#[test]
fn inside_of_tls_the_other_version_is_agreed_on() {
    let authority = Authority::default();
    let files = Volume::new(&[("ca.crt", &authority.pem)]);
    let identity = authority.issue(&["ws.example"]);
    for takes_streams in [true, false] {
        let wants = Wants { identity: Some(&identity), ..Wants::default() };
        let mut server = ServerConfig::clone(&tls::server(&wants, None));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let origin = h2::Origin::sockets(Some(server.into()), takes_streams);
        let tls = ClientTls {
            sni: Some("ws.example".into()),
            roots: TrustAnchors::File(files.file("ca.crt")),
            certificate: None,
            min_version: TlsVersion::V1_2,
        };
        sockets_and_an_answer(&before_http2(&origin, Some(tls)));
    }
}

#[test]
fn both_sides_may_speak_http2() {
    let origin = h2::Origin::sockets(None, true);
    let gateway = before_http2(&origin, None);
    let mut frames = Frames::connect(gateway.http);
    frames.send(kind::HEADERS, flag::END_HEADERS, 1, extended("websocket"));
    assert_eq!(frames.until(kind::HEADERS).payload[0], 0x88, ":status 200");
    assert_eq!(frames.until(kind::DATA).payload, b"hello");
    frames.send(kind::DATA, flag::END_STREAM, 1, *b"bye");
    assert_eq!(frames.until(kind::DATA).payload, b"bye");
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 0.0);
}

#[test]
fn a_server_that_speaks_nothing_but_http2_without_streams_is_named() {
    let origin = h2::Origin::start(|_, _, _| Vec::new());
    let gateway = before_http2(&origin, None);
    let reply = gateway.ask(ASK);
    assert_eq!(reply.status, 502, "{}", reply.text());
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 0.0);
}

#[test]
fn a_change_that_nobody_asked_for_is_refused() {
    let origin = Origin::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
    );
    let gateway = gateway(&origin);
    for request in [ASK, "GET / HTTP/1.1\r\nHost: ws.example\r\nConnection: close\r\n\r\n"] {
        let reply = gateway.ask(request);
        assert_eq!((reply.status, &*reply.reason()), (502, "backend_protocol"), "{request}");
    }
}

#[test]
fn idle_sockets_end_and_drains_end_them() {
    let origin = server("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let store = Store::default().timeouts(|timeouts| timeouts.idle = Duration::from_secs(5)).cloud(
        "ws",
        "ws.example",
        "default",
        origin.address,
    );
    let idle = Gateway::start(store.build());
    let mut wire = open(&idle);
    assert_eq!(wire.read_to_end(), Err(Vec::new()), "broken, not ended");
    idle.expect_metric(r#"tillgate_failures_total{class="default",reason="idle_timeout"}"#, 1.0);

    let store = Store::default().drain_timeout(Duration::from_millis(400)).cloud(
        "ws",
        "ws.example",
        "default",
        origin.address,
    );
    let mut draining = Gateway::start(store.build());
    let mut wire = open(&draining);
    draining.control.drain();
    assert_eq!(wire.read_to_end(), Err(Vec::new()), "broken, not ended");
    draining.ended();
}

#[test]
fn a_socket_that_is_cut_does_not_look_complete() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::start(move |mut wire, _| {
        if !wire.waits_for_more() {
            return;
        }
        wire.head();
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: till\r\n\r\nhello",
        );
        tell.lock().expect("no panic").send(wire.read_to_end()).expect("the test waits");
    });
    let gateway = gateway(&origin);
    open(&gateway).reset();
    let seen = told.recv_timeout(tillgate_tests::PATIENCE).expect("an end");
    assert_eq!(seen, Err(Vec::new()), "broken, not ended");
}

#[test]
fn a_client_of_http2_opens_one_on_a_stream() {
    let origin = proving(|mut wire| {
        while wire.waits_for_more() {
            let piece = wire.take();
            wire.send(piece);
        }
        wire.send("goodbye");
    });
    let gateway = gateway(&origin);
    let mut frames = Frames::connect(gateway.http);
    frames.send(kind::HEADERS, flag::END_HEADERS, 1, extended("websocket"));
    let head = frames.until(kind::HEADERS);
    assert_eq!(
        (head.payload[0], head.flags & flag::END_STREAM),
        (0x88, 0),
        ":status 200: {head:?}"
    );
    assert_eq!(frames.until(kind::DATA).payload, b"hello");
    frames.send(kind::DATA, flag::NONE, 1, *b"over a stream");
    assert_eq!(frames.until(kind::DATA).payload, b"over a stream");
    // Other streams of the connection live beside it.
    frames.send(kind::HEADERS, flag::END_HEADERS, 3, extended("connect-udp"));
    let refused = frames.until(kind::HEADERS);
    assert_eq!(refused.stream, 3);
    frames.send(kind::DATA, flag::END_STREAM, 1, []);
    loop {
        let frame = frames.until(kind::DATA);
        if frame.stream == 1 {
            assert_eq!(frame.payload, b"goodbye");
            break;
        }
    }
    gateway.expect_metric(r#"tillgate_tunnels{class="payment"}"#, 0.0);
    // A server that cannot prove what it says is not believed.
    let mut lied = extended("websocket");
    lied.extend(fields(&[("x-lie", "1")]));
    frames.send(kind::HEADERS, flag::END_HEADERS, 5, lied);
    gateway.expect_metric(
        r#"tillgate_failures_total{class="payment",reason="backend_protocol"}"#,
        1.0,
    );
    assert_eq!(frames.ping(), Ok::<(), End>(()));
}

/// A gateway that takes two streams of a connection and lets them stand still for a moment.
fn impatient(origin: &Origin) -> Gateway {
    let store = Store::default()
        .timeouts(|timeouts| timeouts.idle = Duration::from_secs(5))
        .limits(|limits| limits.streams_max = 2)
        .cloud("ws", "ws.example", "default", origin.address);
    Gateway::start(store.build())
}

#[test]
fn a_stream_that_is_cut_is_reset() {
    let origin = proving(|mut wire| wire.expect_end());
    let gateway = impatient(&origin);
    let mut frames = Frames::connect(gateway.http);
    frames.send(kind::HEADERS, flag::END_HEADERS, 1, extended("websocket"));
    let hello = frames.until(kind::DATA);
    assert_eq!((&*hello.payload, hello.flags & flag::END_STREAM), (&b"hello"[..], 0));
    assert_eq!(frames.end(), End::Reset(1, code::CANCEL), "broken, not ended");
    gateway.expect_metric(r#"tillgate_failures_total{class="default",reason="idle_timeout"}"#, 1.0);
    assert_eq!(frames.ping(), Ok::<(), End>(()), "the others of its connection live on");
}

#[test]
fn a_stream_whose_client_takes_nothing_gives_its_place_back() {
    let origin = proving(|mut wire| while wire.try_send([b'x'; 4096]) {});
    let gateway = impatient(&origin);
    // SETTINGS_INITIAL_WINDOW_SIZE 0: no byte of any tunnel may be sent.
    let mut frames = Frames::silent(gateway.http);
    frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frames.greet(&[0, 4, 0, 0, 0, 0]);
    for pair in 0..2 {
        let streams = [4 * pair + 1, 4 * pair + 3];
        for stream in streams {
            frames.send(kind::HEADERS, flag::END_HEADERS, stream, extended("websocket"));
        }
        let mut reset = [frames.end(), frames.end()];
        reset.sort_by_key(|end| format!("{end:?}"));
        assert_eq!(reset, streams.map(|stream| End::Reset(stream, code::CANCEL)));
    }
    gateway.expect_metric(r#"tillgate_tunnels{class="default"}"#, 0.0);
}

//! HTTP/2 frame by frame against the HTTP entry: the cases of h2spec by their numbers (generic,
//! http2 and hpack sections), as a table of what is sent and what must follow.
//!
//! Where RFC 9113 allows an error of the stream to be one of the connection, both pass. Where it
//! wants an error of the connection with another code, `PROTOCOL_ERROR` passes if the connection
//! is closed, as in h2spec: the `h2` crate says that of malformed frames, settings and blocks.

use tillgate_tests::frames::{End, Frames, code, field, fields, flag, kind, request};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;

use self::Expect::{Answer, Connection, Ignored, Stream};

const ALL: u8 = flag::END_HEADERS | flag::END_STREAM;

/// What must follow.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// GOAWAY with one of these codes, or the connection is closed.
    Connection(&'static [u32]),
    /// A reset of the stream with one of these codes, or an error of the connection.
    Stream(&'static [u32]),
    /// A whole answer on stream 1.
    Answer,
    /// Nothing: the connection goes on.
    Ignored,
}

type Case = (&'static str, fn(&mut Frames), Expect);

fn run(cases: &[Case]) {
    let origin = Origin::echoing();
    let store = Store::default().local("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let mut wrong = Vec::new();
    for (name, act, expected) in cases {
        let mut frames = Frames::connect(gateway.http);
        eprintln!("{name}");
        act(&mut frames);
        let seen = match expected {
            Answer => {
                frames.answer(1);
                continue;
            }
            Ignored => match frames.ping() {
                Ok(()) => continue,
                Err(end) => end,
            },
            Connection(_) | Stream(_) => frames.end(),
        };
        let fits = match (&seen, expected) {
            (End::Closed, Connection(_) | Stream(_)) => true,
            (End::GoAway(code), Connection(codes) | Stream(codes)) => {
                let known = codes.contains(code) || *code == code::PROTOCOL_ERROR;
                known && frames.end() == End::Closed
            }
            (End::Reset(_, code), Stream(codes)) => codes.contains(code),
            _ => false,
        };
        if !fits {
            wrong.push(format!("{name}: {seen:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let reply = gateway.ask("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(reply.status, 200, "it still serves");
}

const PROTOCOL: &[u32] = &[code::PROTOCOL_ERROR];
const SIZE: &[u32] = &[code::FRAME_SIZE_ERROR];
const CLOSED: &[u32] = &[code::STREAM_CLOSED];
const CLOSED_OR_PROTOCOL: &[u32] = &[code::STREAM_CLOSED, code::PROTOCOL_ERROR];
const FLOW: &[u32] = &[code::FLOW_CONTROL_ERROR];
const COMPRESSION: &[u32] = &[code::COMPRESSION_ERROR];

fn with(extra: &[(&str, &str)]) -> Vec<u8> {
    [request("GET", "/"), fields(extra)].concat()
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

static GENERIC_FRAMES: &[Case] = &[
    (
        "generic/2 idle: PRIORITY",
        |f| {
            f.send(kind::PRIORITY, flag::NONE, 1, [0, 0, 0, 0, 16]);
            f.get(1, "/");
        },
        Answer,
    ),
    (
        "generic/2 half-closed (remote): WINDOW_UPDATE",
        |f| {
            f.get(1, "/");
            f.send(kind::WINDOW_UPDATE, flag::NONE, 1, [0, 0, 0, 1]);
        },
        Answer,
    ),
    (
        "generic/2 half-closed (remote): PRIORITY",
        |f| {
            f.get(1, "/");
            f.send(kind::PRIORITY, flag::NONE, 1, [0, 0, 0, 0, 16]);
        },
        Answer,
    ),
    (
        "generic/2 closed: PRIORITY",
        |f| {
            f.get(1, "/");
            f.answer(1);
            f.send(kind::PRIORITY, flag::NONE, 1, [0, 0, 0, 0, 16]);
        },
        Ignored,
    ),
    (
        "generic/2 closed: RST_STREAM",
        |f| {
            f.get(1, "/");
            f.answer(1);
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
        },
        Ignored,
    ),
    (
        "generic/3.1/1 DATA",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Answer,
    ),
    (
        "generic/3.1/2 several DATA",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::NONE, 1, *b"te");
            f.send(kind::DATA, flag::END_STREAM, 1, *b"st");
        },
        Answer,
    ),
    (
        "generic/3.1/3 padded DATA",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::END_STREAM | flag::PADDED, 1, *b"\x02test\0\0");
        },
        Answer,
    ),
    (
        "generic/3.2/2 padded HEADERS",
        |f| {
            let block = [&[3][..], &request("GET", "/"), &[0, 0, 0]].concat();
            f.send(kind::HEADERS, ALL | flag::PADDED, 1, block);
        },
        Answer,
    ),
    (
        "generic/3.2/3 HEADERS with priority",
        |f| {
            let block = [&[0, 0, 0, 0, 255][..], &request("GET", "/")].concat();
            f.send(kind::HEADERS, ALL | flag::PRIORITY, 1, block);
        },
        Answer,
    ),
    (
        "generic/3.3 PRIORITY of three kinds",
        |f| {
            f.send(kind::PRIORITY, flag::NONE, 1, [0, 0, 0, 0, 16]);
            f.send(kind::PRIORITY, flag::NONE, 3, [0x80, 0, 0, 1, 16]);
            f.send(kind::PRIORITY, flag::NONE, 5, [0, 0, 0, 7, 16]);
            f.get(1, "/");
        },
        Answer,
    ),
    ("generic/3.5 SETTINGS", |f| f.send(kind::SETTINGS, flag::NONE, 0, setting(3, 100)), Ignored),
    ("generic/3.7 PING", |f| f.send(kind::PING, flag::NONE, 0, [0; 8]), Ignored),
    (
        "generic/3.8 GOAWAY",
        |f| {
            f.get(1, "/");
            f.send(kind::GOAWAY, flag::NONE, 0, [0; 8]);
        },
        Answer,
    ),
    (
        "generic/3.9 WINDOW_UPDATE",
        |f| {
            f.send(kind::WINDOW_UPDATE, flag::NONE, 0, [0, 0, 0, 1]);
            f.get(1, "/");
            f.send(kind::WINDOW_UPDATE, flag::NONE, 1, [0, 0, 0, 1]);
        },
        Answer,
    ),
    (
        "generic/3.10 CONTINUATION",
        |f| {
            let block = request("GET", "/");
            f.send(kind::HEADERS, flag::END_STREAM, 1, &block[..20]);
            f.send(kind::CONTINUATION, flag::NONE, 1, &block[20..30]);
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, &block[30..]);
        },
        Answer,
    ),
    (
        "generic/4 HEAD, POST, trailers",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::NONE, 1, *b"test");
            f.send(kind::HEADERS, ALL, 1, field("x-sum", "1"));
        },
        Answer,
    ),
    (
        "generic/5 a Huffman-coded value",
        |f| {
            // RFC 7541 appendix C.4.1.
            let block = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
            f.send(kind::HEADERS, ALL, 1, *block);
        },
        Answer,
    ),
];

#[test]
fn generic_frames() {
    run(GENERIC_FRAMES);
}

static FRAME_FORMAT_AND_SIZE: &[Case] = &[
    ("http2/4.1/1 unknown type", |f| f.send(0xff, flag::NONE, 0, [0; 8]), Ignored),
    ("http2/4.1/2 undefined flags", |f| f.send(kind::PING, 0x16, 0, [0; 8]), Ignored),
    (
        "http2/4.1/3 reserved bit",
        |f| {
            f.send(kind::PING, flag::NONE, 0x8000_0000, [0; 8]);
        },
        Ignored,
    ),
    (
        "http2/4.2/1 DATA of 2^14",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::END_STREAM, 1, vec![b'x'; 1 << 14]);
        },
        Answer,
    ),
    (
        "http2/4.2/2 DATA beyond the maximum",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::END_STREAM, 1, vec![b'x'; (1 << 14) + 1]);
        },
        Stream(SIZE),
    ),
    (
        "http2/4.2/3 HEADERS beyond the maximum",
        |f| {
            f.send(kind::HEADERS, ALL, 1, vec![0; (1 << 14) + 1]);
        },
        Connection(SIZE),
    ),
    (
        "http2/4.3/1 a broken block",
        |f| {
            f.send(kind::HEADERS, ALL, 1, [0x40, 1, 0x80, 0xff]);
        },
        Connection(COMPRESSION),
    ),
    (
        "http2/4.3/2 PRIORITY inside a block",
        |f| {
            f.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"));
            f.send(kind::PRIORITY, flag::NONE, 1, [0, 0, 0, 0, 16]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/4.3/3 HEADERS of another stream inside a block",
        |f| {
            f.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"));
            f.get(3, "/");
        },
        Connection(PROTOCOL),
    ),
];

#[test]
fn frame_format_and_size() {
    run(FRAME_FORMAT_AND_SIZE);
}

static STREAM_STATES: &[Case] = &[
    (
        "http2/5.1/1 idle: DATA",
        |f| {
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/5.1/2 idle: RST_STREAM",
        |f| {
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/5.1/3 idle: WINDOW_UPDATE",
        |f| {
            f.send(kind::WINDOW_UPDATE, flag::NONE, 1, [0, 0, 0, 100]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/5.1/4 idle: CONTINUATION",
        |f| {
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, request("GET", "/"));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/5.1/5 half-closed (remote): DATA",
        |f| {
            f.get(1, "/");
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(CLOSED),
    ),
    (
        "http2/5.1/6 half-closed (remote): HEADERS",
        |f| {
            f.get(1, "/");
            f.get(1, "/");
        },
        Stream(CLOSED_OR_PROTOCOL),
    ),
    (
        "http2/5.1/7 half-closed (remote): CONTINUATION",
        |f| {
            f.get(1, "/");
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, request("GET", "/"));
        },
        Connection(CLOSED_OR_PROTOCOL),
    ),
    (
        "http2/5.1/8 closed by RST_STREAM: DATA",
        |f| {
            f.post(1, "/");
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(CLOSED),
    ),
    (
        "http2/5.1/9 closed by RST_STREAM: HEADERS",
        |f| {
            f.post(1, "/");
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
            f.get(1, "/");
        },
        Stream(CLOSED_OR_PROTOCOL),
    ),
    (
        "http2/5.1/10 closed by RST_STREAM: CONTINUATION",
        |f| {
            f.post(1, "/");
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, request("GET", "/"));
        },
        Connection(CLOSED_OR_PROTOCOL),
    ),
    (
        "http2/5.1/11 closed: DATA",
        |f| {
            f.get(1, "/");
            f.answer(1);
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(CLOSED),
    ),
    (
        "http2/5.1/12 closed: HEADERS",
        |f| {
            f.get(1, "/");
            f.answer(1);
            f.get(1, "/");
        },
        Stream(CLOSED_OR_PROTOCOL),
    ),
    (
        "http2/5.1/13 closed: CONTINUATION",
        |f| {
            f.get(1, "/");
            f.answer(1);
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, request("GET", "/"));
        },
        Connection(CLOSED_OR_PROTOCOL),
    ),
    ("http2/5.1.1/1 an even number", |f| f.get(2, "/"), Connection(PROTOCOL)),
    (
        "http2/5.1.1/2 a smaller number",
        |f| {
            f.get(5, "/");
            f.get(3, "/");
        },
        Connection(CLOSED_OR_PROTOCOL),
    ),
    (
        "http2/5.1.2/1 more streams than allowed",
        |f| {
            for stream in 0..=100 {
                f.post(2 * stream + 1, "/");
            }
        },
        Stream(&[code::PROTOCOL_ERROR, code::REFUSED_STREAM]),
    ),
    (
        "http2/5.3.1/1 HEADERS that depend on themselves",
        |f| {
            let block = [&[0, 0, 0, 1, 255][..], &request("GET", "/")].concat();
            f.send(kind::HEADERS, ALL | flag::PRIORITY, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/5.3.1/2 PRIORITY that depends on itself",
        |f| {
            f.send(kind::PRIORITY, flag::NONE, 1, [0, 0, 0, 1, 16]);
        },
        Stream(PROTOCOL),
    ),
    ("http2/5.5/1 an unknown extension", |f| f.send(0x16, flag::NONE, 0, [0; 8]), Ignored),
    (
        "http2/5.5/2 an unknown extension inside a block",
        |f| {
            f.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"));
            f.send(0x16, flag::NONE, 0, [0; 8]);
        },
        Connection(PROTOCOL),
    ),
];

#[test]
fn stream_states() {
    run(STREAM_STATES);
}

static DATA_HEADERS_AND_PRIORITY: &[Case] = &[
    (
        "http2/6.1/1 DATA on stream 0",
        |f| {
            f.send(kind::DATA, flag::END_STREAM, 0, *b"test");
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.1/2 DATA on a closed stream",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
            f.answer(1);
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(CLOSED),
    ),
    (
        "http2/6.1/3 DATA with too much padding",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::END_STREAM | flag::PADDED, 1, *b"\x06test");
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.2/1 HEADERS without END_HEADERS, then PRIORITY",
        |f| {
            f.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"));
            f.send(kind::PRIORITY, flag::NONE, 1, [0, 0, 0, 0, 16]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.2/2 HEADERS of another stream inside a block",
        |f| {
            f.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"));
            f.get(3, "/");
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.2/3 HEADERS on stream 0",
        |f| {
            f.send(kind::HEADERS, ALL, 0, request("GET", "/"));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.2/4 HEADERS with too much padding",
        |f| {
            let mut block = request("GET", "/");
            block.insert(0, u8::try_from(block.len()).expect("a short block") + 1);
            f.send(kind::HEADERS, ALL | flag::PADDED, 1, block);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.3/1 PRIORITY on stream 0",
        |f| {
            f.send(kind::PRIORITY, flag::NONE, 0, [0, 0, 0, 0, 16]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.3/2 PRIORITY of four bytes",
        |f| {
            f.post(1, "/");
            f.send(kind::PRIORITY, flag::NONE, 1, [0; 4]);
        },
        Stream(SIZE),
    ),
    (
        "http2/6.4/1 RST_STREAM on stream 0",
        |f| {
            f.send(kind::RST_STREAM, flag::NONE, 0, [0, 0, 0, 8]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.4/2 RST_STREAM of an idle stream",
        |f| {
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.4/3 RST_STREAM of three bytes",
        |f| {
            f.post(1, "/");
            f.send(kind::RST_STREAM, flag::NONE, 1, [0; 3]);
        },
        Connection(SIZE),
    ),
    (
        "http2/6.6 PUSH_PROMISE from a client",
        |f| {
            f.post(1, "/");
            let block = [&[0, 0, 0, 2][..], &request("GET", "/")].concat();
            f.send(kind::PUSH_PROMISE, flag::END_HEADERS, 1, block);
        },
        Connection(PROTOCOL),
    ),
];

#[test]
fn data_headers_and_priority() {
    run(DATA_HEADERS_AND_PRIORITY);
}

static SETTINGS_PING_GOAWAY: &[Case] = &[
    (
        "http2/6.5/1 ACK with a payload",
        |f| {
            f.send(kind::SETTINGS, flag::ACK, 0, [0]);
        },
        Connection(SIZE),
    ),
    (
        "http2/6.5/2 SETTINGS on a stream",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 1, setting(3, 100));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.5/3 SETTINGS of three bytes",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, [0, 3, 0]);
        },
        Connection(SIZE),
    ),
    (
        "http2/6.5.2/1 ENABLE_PUSH of 2",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(2, 2));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.5.2/2 INITIAL_WINDOW_SIZE above the maximum",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 1 << 31));
        },
        Connection(FLOW),
    ),
    (
        "http2/6.5.2/3 MAX_FRAME_SIZE below the minimum",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(5, (1 << 14) - 1));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.5.2/4 MAX_FRAME_SIZE above the maximum",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(5, 1 << 24));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.5.2/5 an unknown setting",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(0xff, 1));
        },
        Ignored,
    ),
    (
        "http2/6.5.3/2 SETTINGS are acknowledged",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 100));
            let ack = f.until(kind::SETTINGS);
            assert_eq!((ack.flags, ack.payload.len()), (flag::ACK, 0));
        },
        Ignored,
    ),
    (
        "http2/6.7/1 PING is answered with its payload",
        |f| {
            f.send(kind::PING, flag::NONE, 0, *b"h2spec!!");
            let pong = f.until(kind::PING);
            assert_eq!((pong.flags, &pong.payload[..]), (flag::ACK, &b"h2spec!!"[..]));
        },
        Ignored,
    ),
    (
        "http2/6.7/2 a PING that answers nothing",
        |f| {
            f.send(kind::PING, flag::ACK, 0, *b"invalid\0");
        },
        Ignored,
    ),
    (
        "http2/6.7/3 PING on a stream",
        |f| {
            f.send(kind::PING, flag::NONE, 1, [0; 8]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.7/4 PING of six bytes",
        |f| {
            f.send(kind::PING, flag::NONE, 0, [0; 6]);
        },
        Connection(SIZE),
    ),
    (
        "http2/6.8/1 GOAWAY on a stream",
        |f| {
            f.send(kind::GOAWAY, flag::NONE, 1, [0; 8]);
        },
        Connection(PROTOCOL),
    ),
];

#[test]
fn settings_ping_goaway() {
    run(SETTINGS_PING_GOAWAY);
}

static FLOW_CONTROL: &[Case] = &[
    (
        "http2/6.9/1 WINDOW_UPDATE of 0 for the connection",
        |f| {
            f.send(kind::WINDOW_UPDATE, flag::NONE, 0, [0; 4]);
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.9/2 WINDOW_UPDATE of 0 for a stream",
        |f| {
            f.post(1, "/");
            f.send(kind::WINDOW_UPDATE, flag::NONE, 1, [0; 4]);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/6.9/3 WINDOW_UPDATE of three bytes",
        |f| {
            f.send(kind::WINDOW_UPDATE, flag::NONE, 0, [0; 3]);
        },
        Connection(SIZE),
    ),
    (
        "http2/6.9.1/1 a window of 1 is kept to",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 1));
            f.until(kind::SETTINGS);
            f.get(1, "/");
            assert_eq!(f.until(kind::DATA).payload.len(), 1);
            f.send(kind::WINDOW_UPDATE, flag::NONE, 1, [0, 0, 0, 2]);
            let next = f.until(kind::DATA).payload.len();
            assert!((1..=2).contains(&next), "{next}");
        },
        Ignored,
    ),
    (
        "http2/6.9.1/2 a connection's window beyond the maximum",
        |f| {
            for _ in 0..2 {
                f.send(kind::WINDOW_UPDATE, flag::NONE, 0, [0x7f, 0xff, 0xff, 0xff]);
            }
        },
        Connection(FLOW),
    ),
    (
        "http2/6.9.1/3 a stream's window beyond the maximum",
        |f| {
            f.post(1, "/");
            for _ in 0..2 {
                f.send(kind::WINDOW_UPDATE, flag::NONE, 1, [0x7f, 0xff, 0xff, 0xff]);
            }
        },
        Stream(FLOW),
    ),
    (
        "http2/6.9.2/1 a window that grows by SETTINGS",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 0));
            f.until(kind::SETTINGS);
            f.get(1, "/");
            f.until(kind::HEADERS);
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 1));
            assert_eq!(f.until(kind::DATA).payload.len(), 1);
        },
        Ignored,
    ),
    (
        "http2/6.9.2/2 a window below zero",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 3));
            f.until(kind::SETTINGS);
            f.get(1, "/");
            assert_eq!(f.until(kind::DATA).payload.len(), 3);
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 2));
            f.send(kind::WINDOW_UPDATE, flag::NONE, 1, [0, 0, 0, 2]);
            assert_eq!(f.until(kind::DATA).payload.len(), 1);
        },
        Ignored,
    ),
    (
        "http2/6.9.2/3 INITIAL_WINDOW_SIZE beyond the maximum",
        |f| {
            f.send(kind::SETTINGS, flag::NONE, 0, setting(4, 1 << 31));
        },
        Connection(FLOW),
    ),
    (
        "http2/6.10/1 several CONTINUATION",
        |f| {
            let block = request("GET", "/");
            f.send(kind::HEADERS, flag::END_STREAM, 1, &block[..9]);
            f.send(kind::CONTINUATION, flag::NONE, 1, &block[9..30]);
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, &block[30..]);
        },
        Answer,
    ),
    (
        "http2/6.10/2 CONTINUATION, then another frame",
        |f| {
            f.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"));
            f.send(kind::CONTINUATION, flag::NONE, 1, field("x", "y"));
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.10/3 CONTINUATION on stream 0",
        |f| {
            f.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"));
            f.send(kind::CONTINUATION, flag::END_HEADERS, 0, field("x", "y"));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.10/4 CONTINUATION after END_HEADERS",
        |f| {
            f.post(1, "/");
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, field("x", "y"));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/6.10/6 CONTINUATION after DATA",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::NONE, 1, *b"test");
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, field("x", "y"));
        },
        Connection(PROTOCOL),
    ),
    (
        "http2/7/1 GOAWAY with an unknown code",
        |f| {
            f.send(kind::GOAWAY, flag::NONE, 0, [0, 0, 0, 0, 0, 0, 0, 0xff]);
            f.get(1, "/");
        },
        Answer,
    ),
    (
        "http2/7/2 RST_STREAM with an unknown code",
        |f| {
            f.post(1, "/");
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 0xff]);
        },
        Ignored,
    ),
];

#[test]
fn flow_control() {
    run(FLOW_CONTROL);
}

static HEADER_FIELDS: &[Case] = &[
    (
        "http2/8.1/1 HEADERS without END_STREAM after DATA",
        |f| {
            f.post(1, "/");
            f.send(kind::HEADERS, flag::END_HEADERS, 1, field("x-sum", "1"));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2/1 an upper-case name",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("X-TEST", "ok")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.1/1 an unknown pseudo-field",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":test", "ok")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.1/2 a pseudo-field of responses",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":status", "200")]));
        },
        Stream(PROTOCOL),
    ),
    // The `h2` crate drops the field instead of refusing it; it goes nowhere.
    (
        "http2/8.1.2.1/3 a pseudo-field in trailers",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::NONE, 1, *b"test");
            f.send(kind::HEADERS, ALL, 1, field(":method", "POST"));
        },
        Answer,
    ),
    (
        "http2/8.1.2.1/4 a pseudo-field after others",
        |f| {
            let block = [field("x-test", "ok"), request("GET", "/")].concat();
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2/1 Connection",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("connection", "keep-alive")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2/2 TE other than trailers",
        |f| {
            f.send(
                kind::HEADERS,
                ALL,
                1,
                with(&[("trailers", "test"), ("te", "trailers, deflate")]),
            );
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2 Transfer-Encoding",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("transfer-encoding", "chunked")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2 Upgrade",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("upgrade", "websocket")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/1 an empty path",
        |f| {
            f.send(kind::HEADERS, ALL, 1, request("GET", ""));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/2 no method",
        |f| {
            let block =
                fields(&[(":scheme", "http"), (":path", "/"), (":authority", "api.example")]);
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/3 no scheme",
        |f| {
            let block =
                fields(&[(":method", "GET"), (":path", "/"), (":authority", "api.example")]);
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/4 no path",
        |f| {
            let block =
                fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "api.example")]);
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/5 two methods",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":method", "GET")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/6 two schemes",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":scheme", "http")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/7 two paths",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":path", "/")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.6/1 more announced than sent",
        |f| {
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&[("content-length", "1")]));
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.6/2 the same in several frames",
        |f| {
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&[("content-length", "1")]));
            f.send(kind::DATA, flag::NONE, 1, *b"te");
            f.send(kind::DATA, flag::END_STREAM, 1, *b"st");
        },
        Stream(PROTOCOL),
    ),
    (
        "less sent than announced",
        |f| {
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&[("content-length", "5")]));
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(PROTOCOL),
    ),
    (
        "two lengths that differ",
        |f| {
            let lengths = [("content-length", "4"), ("content-length", "5")];
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&lengths));
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(PROTOCOL),
    ),
    (
        "a line end in a value",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("x-test", "a\r\nhost: b")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "white space in a name",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("x test", "a")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.2/1 PUSH_PROMISE",
        |f| {
            f.post(1, "/");
            let block = [&[0, 0, 0, 2][..], &request("GET", "/")].concat();
            f.send(kind::PUSH_PROMISE, flag::END_HEADERS, 1, block);
        },
        Connection(PROTOCOL),
    ),
];

#[test]
fn header_fields() {
    run(HEADER_FIELDS);
}

fn block(f: &mut Frames, bytes: &[u8]) {
    let block = [request("GET", "/"), bytes.to_vec()].concat();
    f.send(kind::HEADERS, ALL, 1, block);
}

static HPACK: &[Case] = &[
    ("hpack/2.3.3/1 an index of nothing", |f| block(f, &[0xc6]), Connection(COMPRESSION)),
    (
        "hpack/2.3.3/2 a name's index of nothing",
        |f| {
            block(f, &[0x7e, 0x04, b't', b'e', b's', b't']);
        },
        Connection(COMPRESSION),
    ),
    ("hpack/4.2/1 a table's size after fields", |f| block(f, &[0x20]), Connection(COMPRESSION)),
    (
        "hpack/5.2/1 Huffman padding of a byte",
        |f| {
            block(f, b"\x00\x04test\x84\xff\xff\xff\xff");
        },
        Connection(COMPRESSION),
    ),
    (
        "hpack/5.2/2 Huffman padding of zeros",
        |f| {
            block(f, b"\x00\x04test\x81\x18");
        },
        Connection(COMPRESSION),
    ),
    ("hpack/6.1/1 index 0", |f| block(f, &[0x80]), Connection(COMPRESSION)),
    (
        "hpack/6.3/1 a table larger than allowed",
        |f| {
            let block = [&[0x3f, 0xe1, 0xff, 0x03][..], &request("GET", "/")].concat();
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Connection(COMPRESSION),
    ),
    (
        "a number without an end",
        |f| {
            block(f, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        },
        Connection(COMPRESSION),
    ),
];

#[test]
fn hpack() {
    run(HPACK);
}

#[test]
fn what_is_no_preface_is_answered_as_http1() {
    let origin = Origin::echoing();
    let store = Store::default().local("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    // http2/3.5/1 and /2: a server may close, or say what it thinks of it.
    let reply = gateway.ask("INVALID CONNECTION PREFACE\r\n\r\n");
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
    let reply = gateway.ask("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
}

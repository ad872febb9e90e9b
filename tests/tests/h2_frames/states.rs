//! Frames and streams: format, sizes, states, numbers, dependencies (RFC 9113 sections 4 and 5).

use super::*;

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
    (
        "http2/5.4.1/1 and /2 after an error of the connection: GOAWAY, then the end",
        |f| {
            f.send(kind::PING, flag::NONE, 3, [0; 8]);
        },
        Connection(PROTOCOL),
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

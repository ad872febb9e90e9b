//! Flow control, CONTINUATION, codes of errors (RFC 9113 sections 6.9, 6.10 and 7).

use super::*;

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
        "http2/6.10/5 CONTINUATION after one with END_HEADERS",
        |f| {
            let block = request("POST", "/");
            f.send(kind::HEADERS, flag::NONE, 1, &block[..9]);
            f.send(kind::CONTINUATION, flag::END_HEADERS, 1, &block[9..]);
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
        |f| f.send(kind::GOAWAY, flag::NONE, 0, [0, 0, 0, 0, 0, 0, 0, 0xff]),
        Peace,
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

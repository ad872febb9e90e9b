//! What each type of frame may say (RFC 9113 sections 6.1 to 6.8).

use super::*;

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
        "http2/6.5.3/1 the last of several values counts",
        |f| {
            let twice = [setting(4, 100), setting(4, 1)].concat();
            f.send(kind::SETTINGS, flag::NONE, 0, twice);
            f.until(kind::SETTINGS);
            f.get(1, "/");
            assert_eq!(f.until(kind::DATA).payload.len(), 1);
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

//! What each type of frame may say (RFC 9113 sections 6.1 to 6.8).

use super::*;

static DATA_HEADERS_AND_PRIORITY: &[Case] = &[
    case("http2/6.1/1 DATA on stream 0", Connection(PROTOCOL), |f| {
        f.send(kind::DATA, flag::END_STREAM, 0, b"test")
    }),
    case("http2/6.1/2 DATA on a closed stream", Stream(CLOSED), |f| {
        f.post(1).last(b"test").answered().last(b"test")
    }),
    case("http2/6.1/3 DATA with too much padding", Connection(PROTOCOL), |f| {
        f.post(1).send(kind::DATA, flag::END_STREAM | flag::PADDED, 1, b"\x06test")
    }),
    case("http2/6.2/1 HEADERS without END_HEADERS, then PRIORITY", Connection(PROTOCOL), |f| {
        f.begin().priority(1, 0)
    }),
    case("http2/6.2/2 HEADERS of another stream inside a block", Connection(PROTOCOL), |f| {
        f.begin().get(3)
    }),
    case("http2/6.2/3 HEADERS on stream 0", Connection(PROTOCOL), |f| f.get(0)),
    case("http2/6.2/4 HEADERS with too much padding", Connection(PROTOCOL), |f| {
        let length = u8::try_from(request("GET", "/").len()).expect("a short block");
        f.flagged(flag::PADDED, request_after(&[length + 1]))
    }),
    case("http2/6.3/1 PRIORITY on stream 0", Connection(PROTOCOL), |f| f.priority(0, 0)),
    case("http2/6.3/2 PRIORITY of four bytes", Stream(SIZE), |f| {
        f.post(1).send(kind::PRIORITY, flag::NONE, 1, [0; 4])
    }),
    case("http2/6.4/1 RST_STREAM on stream 0", Connection(PROTOCOL), |f| {
        f.send(kind::RST_STREAM, flag::NONE, 0, [0, 0, 0, 8])
    }),
    case("http2/6.4/2 RST_STREAM of an idle stream", Connection(PROTOCOL), |f| f.reset()),
    case("http2/6.4/3 RST_STREAM of three bytes", Connection(SIZE), |f| {
        f.post(1).send(kind::RST_STREAM, flag::NONE, 1, [0; 3])
    }),
    case("http2/6.6 PUSH_PROMISE from a client", Connection(PROTOCOL), |f| f.post(1).push()),
];

#[test]
fn data_headers_and_priority() {
    run(DATA_HEADERS_AND_PRIORITY);
}

static SETTINGS_PING_GOAWAY: &[Case] = &[
    case("http2/6.5/1 ACK with a payload", Connection(SIZE), |f| {
        f.send(kind::SETTINGS, flag::ACK, 0, [0])
    }),
    case("http2/6.5/2 SETTINGS on a stream", Connection(PROTOCOL), |f| {
        f.send(kind::SETTINGS, flag::NONE, 1, setting(3, 100))
    }),
    case("http2/6.5/3 SETTINGS of three bytes", Connection(SIZE), |f| {
        f.send(kind::SETTINGS, flag::NONE, 0, [0, 3, 0])
    }),
    case("http2/6.5.2/1 ENABLE_PUSH of 2", Connection(PROTOCOL), |f| f.set(2, 2)),
    case("http2/6.5.2/2 INITIAL_WINDOW_SIZE above the maximum", Connection(FLOW), |f| {
        f.set(4, 1 << 31)
    }),
    case("http2/6.5.2/3 MAX_FRAME_SIZE below the minimum", Connection(PROTOCOL), |f| {
        f.set(5, (1 << 14) - 1)
    }),
    case("http2/6.5.2/4 MAX_FRAME_SIZE above the maximum", Connection(PROTOCOL), |f| {
        f.set(5, 1 << 24)
    }),
    case("http2/6.5.2/5 an unknown setting", Ignored, |f| f.set(0xff, 1)),
    case("http2/6.5.3/1 the last of several values counts", Ignored, |f| {
        let twice = [setting(4, 100), setting(4, 1)].concat();
        f.send(kind::SETTINGS, flag::NONE, 0, twice).until(kind::SETTINGS).get(1).gets(1..=1)
    }),
    case("http2/6.5.3/2 SETTINGS are acknowledged", Ignored, |f| {
        f.set(4, 100).acked(kind::SETTINGS, b"")
    }),
    case("http2/6.7/1 PING is answered with its payload", Ignored, |f| {
        f.send(kind::PING, flag::NONE, 0, b"h2spec!!").acked(kind::PING, b"h2spec!!")
    }),
    case("http2/6.7/2 a PING that answers nothing", Ignored, |f| {
        f.send(kind::PING, flag::ACK, 0, b"invalid\0")
    }),
    case("http2/6.7/3 PING on a stream", Connection(PROTOCOL), |f| {
        f.send(kind::PING, flag::NONE, 1, [0; 8])
    }),
    case("http2/6.7/4 PING of six bytes", Connection(SIZE), |f| {
        f.send(kind::PING, flag::NONE, 0, [0; 6])
    }),
    case("http2/6.8/1 GOAWAY on a stream", Connection(PROTOCOL), |f| {
        f.send(kind::GOAWAY, flag::NONE, 1, [0; 8])
    }),
];

#[test]
fn settings_ping_goaway() {
    run(SETTINGS_PING_GOAWAY);
}

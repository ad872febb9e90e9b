//! Frames and streams: format, sizes, states, numbers, dependencies (RFC 9113 sections 4 and 5).

use super::*;

static FRAME_FORMAT_AND_SIZE: &[Case] = &[
    case("http2/4.1/1 unknown type", Ignored, |f| f.send(0xff, flag::NONE, 0, [0; 8])),
    case("http2/4.1/2 undefined flags", Ignored, |f| f.send(kind::PING, 0x16, 0, [0; 8])),
    case("http2/4.1/3 reserved bit", Ignored, |f| {
        f.send(kind::PING, flag::NONE, 0x8000_0000, [0; 8])
    }),
    case("http2/4.2/1 DATA of 2^14", Answer, |f| f.post(1).last(vec![b'x'; 1 << 14])),
    case("http2/4.2/2 DATA beyond the maximum", Stream(SIZE), |f| {
        f.post(1).last(vec![b'x'; (1 << 14) + 1])
    }),
    case("http2/4.2/3 HEADERS beyond the maximum", Connection(SIZE), |f| {
        f.whole(vec![0; (1 << 14) + 1])
    }),
    case("http2/4.3/1 a broken block", Connection(COMPRESSION), |f| f.whole([0x40, 1, 0x80, 0xff])),
    case("http2/4.3/2 PRIORITY inside a block", Connection(PROTOCOL), |f| f.begin().priority(1, 0)),
    case("http2/4.3/3 HEADERS of another stream inside a block", Connection(PROTOCOL), |f| {
        f.begin().get(3)
    }),
];

#[test]
fn frame_format_and_size() {
    run(FRAME_FORMAT_AND_SIZE);
}

static STREAM_STATES: &[Case] = &[
    case("http2/5.1/1 idle: DATA", Connection(PROTOCOL), |f| f.last(b"test")),
    case("http2/5.1/2 idle: RST_STREAM", Connection(PROTOCOL), |f| f.reset()),
    case("http2/5.1/3 idle: WINDOW_UPDATE", Connection(PROTOCOL), |f| f.window(1, 100)),
    case("http2/5.1/4 idle: CONTINUATION", Connection(PROTOCOL), |f| f.rest()),
    case("http2/5.1/5 half-closed (remote): DATA", Stream(CLOSED), |f| f.get(1).last(b"test")),
    case("http2/5.1/6 half-closed (remote): HEADERS", Stream(CLOSED_OR_PROTOCOL), |f| {
        f.get(1).get(1)
    }),
    case("http2/5.1/7 half-closed (remote): CONTINUATION", Connection(CLOSED_OR_PROTOCOL), |f| {
        f.get(1).rest()
    }),
    case("http2/5.1/8 closed by RST_STREAM: DATA", Stream(CLOSED), |f| {
        f.post(1).reset().last(b"test")
    }),
    case("http2/5.1/9 closed by RST_STREAM: HEADERS", Stream(CLOSED_OR_PROTOCOL), |f| {
        f.post(1).reset().get(1)
    }),
    case("http2/5.1/10 closed by RST_STREAM: CONTINUATION", Connection(CLOSED_OR_PROTOCOL), |f| {
        f.post(1).reset().rest()
    }),
    case("http2/5.1/11 closed: DATA", Stream(CLOSED), |f| f.get(1).answered().last(b"test")),
    case("http2/5.1/12 closed: HEADERS", Stream(CLOSED_OR_PROTOCOL), |f| {
        f.get(1).answered().get(1)
    }),
    case("http2/5.1/13 closed: CONTINUATION", Connection(CLOSED_OR_PROTOCOL), |f| {
        f.get(1).answered().rest()
    }),
    case("http2/5.1.1/1 an even number", Connection(PROTOCOL), |f| f.get(2)),
    case("http2/5.1.1/2 a smaller number", Connection(CLOSED_OR_PROTOCOL), |f| f.get(5).get(3)),
    case("http2/5.1.2/1 more streams than allowed", Stream(REFUSED), |f| {
        (0..=100).fold(f, |f, number| f.post(2 * number + 1))
    }),
    case("http2/5.3.1/1 HEADERS that depend on themselves", Stream(PROTOCOL), |f| {
        f.flagged(flag::PRIORITY, request_after(&[0, 0, 0, 1, 255]))
    }),
    case("http2/5.3.1/2 PRIORITY that depends on itself", Stream(PROTOCOL), |f| f.priority(1, 1)),
    case(
        "http2/5.4.1/1 and /2 after an error of the connection: GOAWAY, then the end",
        Connection(PROTOCOL),
        |f| f.send(kind::PING, flag::NONE, 3, [0; 8]),
    ),
    case("http2/5.5/1 an unknown extension", Ignored, |f| f.send(0x16, flag::NONE, 0, [0; 8])),
    case("http2/5.5/2 an unknown extension inside a block", Connection(PROTOCOL), |f| {
        f.begin().send(0x16, flag::NONE, 0, [0; 8])
    }),
];

#[test]
fn stream_states() {
    run(STREAM_STATES);
}

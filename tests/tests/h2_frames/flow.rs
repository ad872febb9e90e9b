//! Flow control, CONTINUATION, codes of errors (RFC 9113 sections 6.9, 6.10 and 7).

use super::*;

static FLOW_CONTROL: &[Case] = &[
    case("http2/6.9/1 WINDOW_UPDATE of 0 for the connection", Connection(PROTOCOL), |f| {
        f.window(0, 0)
    }),
    case("http2/6.9/2 WINDOW_UPDATE of 0 for a stream", Stream(PROTOCOL), |f| {
        f.post(1).window(1, 0)
    }),
    case("http2/6.9/3 WINDOW_UPDATE of three bytes", Connection(SIZE), |f| {
        f.send(kind::WINDOW_UPDATE, flag::NONE, 0, [0; 3])
    }),
    case("http2/6.9.1/1 a window of 1 is kept to", Ignored, |f| {
        f.set(4, 1).until(kind::SETTINGS).get(1).gets(1..=1).window(1, 2).gets(1..=2)
    }),
    case("http2/6.9.1/2 a connection's window beyond the maximum", Connection(FLOW), |f| {
        f.window(0, 0x7fff_ffff).window(0, 0x7fff_ffff)
    }),
    case("http2/6.9.1/3 a stream's window beyond the maximum", Stream(FLOW), |f| {
        f.post(1).window(1, 0x7fff_ffff).window(1, 0x7fff_ffff)
    }),
    case("http2/6.9.2/1 a window that grows by SETTINGS", Ignored, |f| {
        f.set(4, 0).until(kind::SETTINGS).get(1).until(kind::HEADERS).set(4, 1).gets(1..=1)
    }),
    case("http2/6.9.2/2 a window below zero", Ignored, |f| {
        f.set(4, 3).until(kind::SETTINGS).get(1).gets(3..=3).set(4, 2).window(1, 2).gets(1..=1)
    }),
    case("http2/6.9.2/3 INITIAL_WINDOW_SIZE beyond the maximum", Connection(FLOW), |f| {
        f.set(4, 1 << 31)
    }),
    case("http2/6.10/1 several CONTINUATION", Answer, |f| f.cut(9, 30)),
    case("http2/6.10/2 CONTINUATION, then another frame", Connection(PROTOCOL), |f| {
        f.begin().more(flag::NONE, field("x", "y")).last(b"test")
    }),
    case("http2/6.10/3 CONTINUATION on stream 0", Connection(PROTOCOL), |f| {
        f.begin().send(kind::CONTINUATION, flag::END_HEADERS, 0, field("x", "y"))
    }),
    case("http2/6.10/4 CONTINUATION after END_HEADERS", Connection(PROTOCOL), |f| {
        f.post(1).more(flag::END_HEADERS, field("x", "y"))
    }),
    case("http2/6.10/5 CONTINUATION after one with END_HEADERS", Connection(PROTOCOL), |f| {
        let block = request("POST", "/");
        f.send(kind::HEADERS, flag::NONE, 1, &block[..9])
            .more(flag::END_HEADERS, &block[9..])
            .more(flag::END_HEADERS, field("x", "y"))
    }),
    case("http2/6.10/6 CONTINUATION after DATA", Connection(PROTOCOL), |f| {
        f.post(1).data(b"test").more(flag::END_HEADERS, field("x", "y"))
    }),
    case("http2/7/1 GOAWAY with an unknown code", Peace, |f| {
        f.send(kind::GOAWAY, flag::NONE, 0, [0, 0, 0, 0, 0, 0, 0, 0xff])
    }),
    case("http2/7/2 RST_STREAM with an unknown code", Ignored, |f| {
        f.post(1).send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 0xff])
    }),
];

#[test]
fn flow_control() {
    run(FLOW_CONTROL);
}

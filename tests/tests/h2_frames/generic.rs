//! Generic cases: what every server of HTTP/2 has to take.

use super::*;

static GENERIC_FRAMES: &[Case] = &[
    case("generic/2 idle: PRIORITY", Answer, |f| f.priority(1, 0).get(1)),
    case("generic/2 half-closed (remote): WINDOW_UPDATE", Answer, |f| f.get(1).window(1, 1)),
    case("generic/2 half-closed (remote): RST_STREAM", Ignored, |f| f.get(1).reset()),
    case("generic/2 half-closed (remote): PRIORITY", Answer, |f| f.get(1).priority(1, 0)),
    case("generic/2 closed: PRIORITY", Ignored, |f| f.get(1).answered().priority(1, 0)),
    case("generic/2 closed: RST_STREAM", Ignored, |f| f.get(1).answered().reset()),
    case("generic/3.1/1 DATA", Answer, |f| f.post(1).last(b"test")),
    case("generic/3.1/2 several DATA", Answer, |f| f.post(1).data(b"te").last(b"st")),
    case("generic/3.1/3 padded DATA", Answer, |f| {
        f.post(1).send(kind::DATA, flag::END_STREAM | flag::PADDED, 1, b"\x02test\0\0")
    }),
    case("generic/1 and 3.2/1 a preface, then HEADERS", Answer, |f| f.get(1)),
    case("generic/3.2/2 padded HEADERS", Answer, |f| {
        f.flagged(flag::PADDED, [&request_after(&[3])[..], &[0, 0, 0]].concat())
    }),
    case("generic/3.2/3 HEADERS with priority", Answer, |f| {
        f.flagged(flag::PRIORITY, request_after(&[0, 0, 0, 0, 255]))
    }),
    case("generic/3.3 PRIORITY of three kinds", Answer, |f| {
        f.priority(1, 0).priority(3, 1 << 31 | 1).priority(5, 7).get(1)
    }),
    case("generic/3.3/5 PRIORITY of an idle stream, then HEADERS of a lower one", Answer, |f| {
        f.priority(5, 0).get(1)
    }),
    case("generic/3.4/1 RST_STREAM", Ignored, |f| f.post(1).reset()),
    case("generic/3.5 SETTINGS", Ignored, |f| f.set(3, 100)),
    case("generic/3.7 PING", Ignored, |f| f.send(kind::PING, flag::NONE, 0, [0; 8])),
    case("generic/3.8 GOAWAY", Answer, |f| f.get(1).send(kind::GOAWAY, flag::NONE, 0, [0; 8])),
    case("generic/3.9 WINDOW_UPDATE", Answer, |f| f.window(0, 1).get(1).window(1, 1)),
    case("generic/3.10 CONTINUATION", Answer, |f| f.cut(20, 30)),
    case("generic/4/1 GET", Answer, |f| f.get(1)),
    case("generic/4/2 HEAD", Answer, |f| f.whole(request("HEAD", "/"))),
    case("generic/4/3 POST", Answer, |f| f.post(1).last(b"test")),
    case("generic/4/4 POST with trailers", Answer, |f| {
        f.post(1).data(b"test").whole(field("x-sum", "1"))
    }),
];

#[test]
fn generic_frames() {
    run(GENERIC_FRAMES);
}

/// Ways to represent a field, behind or before a request.
static REPRESENTATIONS: &[Case] = &[
    case("generic/5/1 indexed fields, and a value in Huffman's code", Answer, |f| {
        // RFC 7541 appendix C.4.1.
        f.whole(b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff")
    }),
    case("generic/5/2 with incremental indexing, an indexed name", Answer, |f| {
        f.then(b"\x7a\x04test")
    }),
    case("generic/5/3 the same in Huffman's code", Answer, |f| f.then(b"\x7a\x83\x49\x50\x9f")),
    case("generic/5/4 with incremental indexing, a new name", Answer, |f| {
        f.then(b"\x40\x06x-test\x04test")
    }),
    case("generic/5/5 the same in Huffman's code", Answer, |f| {
        f.then(b"\x40\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x9f")
    }),
    case("generic/5/6 without indexing, an indexed name", Answer, |f| f.then(b"\x0f\x2b\x04test")),
    case("generic/5/7 the same in Huffman's code", Answer, |f| f.then(b"\x0f\x2b\x83\x49\x50\x9f")),
    case("generic/5/8 without indexing, a new name", Answer, |f| f.then(b"\x00\x06x-test\x04test")),
    case("generic/5/9 the same in Huffman's code", Answer, |f| {
        f.then(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x9f")
    }),
    case("generic/5/10 never indexed, an indexed name", Answer, |f| f.then(b"\x1f\x2b\x04test")),
    case("generic/5/11 the same in Huffman's code", Answer, |f| {
        f.then(b"\x1f\x2b\x83\x49\x50\x9f")
    }),
    case("generic/5/12 never indexed, a new name", Answer, |f| f.then(b"\x10\x06x-test\x04test")),
    case("generic/5/13 the same in Huffman's code", Answer, |f| {
        f.then(b"\x10\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x9f")
    }),
    case("generic/5/14 a table's size", Answer, |f| f.after(&[0x3f, 0x01])),
    case("generic/5/15 two of a table's sizes", Answer, |f| f.after(&[0x20, 0x3f, 0x01])),
];

#[test]
fn generic_representations() {
    run(REPRESENTATIONS);
}

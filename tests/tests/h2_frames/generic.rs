//! Generic cases: what every server of HTTP/2 has to take.

use super::*;

/// A request with one more field, represented by these bytes; the server sees it.
fn represented(f: &mut Frames, bytes: &[u8]) {
    let block = [request("GET", "/"), bytes.to_vec()].concat();
    f.send(kind::HEADERS, ALL, 1, block);
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
        "generic/2 half-closed (remote): RST_STREAM",
        |f| {
            f.get(1, "/");
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
        },
        Ignored,
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
    ("generic/1 and 3.2/1 a preface, then HEADERS", |f| f.get(1, "/"), Answer),
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
    (
        "generic/3.3/5 PRIORITY of an idle stream, then HEADERS of a lower one",
        |f| {
            f.send(kind::PRIORITY, flag::NONE, 5, [0, 0, 0, 0, 16]);
            f.get(1, "/");
        },
        Answer,
    ),
    (
        "generic/3.4/1 RST_STREAM",
        |f| {
            f.post(1, "/");
            f.send(kind::RST_STREAM, flag::NONE, 1, [0, 0, 0, 8]);
        },
        Ignored,
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
    ("generic/4/1 GET", |f| f.get(1, "/"), Answer),
    (
        "generic/4/2 HEAD",
        |f| {
            f.send(kind::HEADERS, ALL, 1, request("HEAD", "/"));
        },
        Answer,
    ),
    (
        "generic/4/3 POST",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Answer,
    ),
    (
        "generic/4/4 POST with trailers",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::NONE, 1, *b"test");
            f.send(kind::HEADERS, ALL, 1, field("x-sum", "1"));
        },
        Answer,
    ),
    (
        "generic/5/1 indexed fields, and a value in Huffman's code",
        |f| {
            // RFC 7541 appendix C.4.1.
            let block = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
            f.send(kind::HEADERS, ALL, 1, *block);
        },
        Answer,
    ),
    (
        "generic/5/2 with incremental indexing, an indexed name",
        |f| {
            represented(f, b"\x7a\x04test");
        },
        Answer,
    ),
    (
        "generic/5/3 the same in Huffman's code",
        |f| {
            represented(f, b"\x7a\x83\x49\x50\x9f");
        },
        Answer,
    ),
    (
        "generic/5/4 with incremental indexing, a new name",
        |f| {
            represented(f, b"\x40\x06x-test\x04test");
        },
        Answer,
    ),
    (
        "generic/5/5 the same in Huffman's code",
        |f| {
            represented(f, b"\x40\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x9f");
        },
        Answer,
    ),
    (
        "generic/5/6 without indexing, an indexed name",
        |f| {
            represented(f, b"\x0f\x2b\x04test");
        },
        Answer,
    ),
    (
        "generic/5/7 the same in Huffman's code",
        |f| {
            represented(f, b"\x0f\x2b\x83\x49\x50\x9f");
        },
        Answer,
    ),
    (
        "generic/5/8 without indexing, a new name",
        |f| {
            represented(f, b"\x00\x06x-test\x04test");
        },
        Answer,
    ),
    (
        "generic/5/9 the same in Huffman's code",
        |f| {
            represented(f, b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x9f");
        },
        Answer,
    ),
    (
        "generic/5/10 never indexed, an indexed name",
        |f| {
            represented(f, b"\x1f\x2b\x04test");
        },
        Answer,
    ),
    (
        "generic/5/11 the same in Huffman's code",
        |f| {
            represented(f, b"\x1f\x2b\x83\x49\x50\x9f");
        },
        Answer,
    ),
    (
        "generic/5/12 never indexed, a new name",
        |f| {
            represented(f, b"\x10\x06x-test\x04test");
        },
        Answer,
    ),
    (
        "generic/5/13 the same in Huffman's code",
        |f| {
            represented(f, b"\x10\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x9f");
        },
        Answer,
    ),
    (
        "generic/5/14 a table's size",
        |f| {
            let block = [&[0x3f, 0x01][..], &request("GET", "/")].concat();
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Answer,
    ),
    (
        "generic/5/15 two of a table's sizes",
        |f| {
            let block = [&[0x20, 0x3f, 0x01][..], &request("GET", "/")].concat();
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Answer,
    ),
];

#[test]
fn generic_frames() {
    run(GENERIC_FRAMES);
}

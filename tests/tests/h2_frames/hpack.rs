//! Compression of fields (RFC 7541).

use super::*;

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
    (
        "hpack/5.2/3 the end of a text as a symbol",
        |f| {
            block(f, b"\x00\x04test\x87\x49\x50\x9f\xff\xff\xff\xff");
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

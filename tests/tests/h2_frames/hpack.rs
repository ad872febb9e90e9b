//! Compression of fields (RFC 7541).

use super::*;

/// The connection's tables are of no use any more.
const BROKEN: Expect = Connection(COMPRESSION);

static HPACK: &[Case] = &[
    case("hpack/2.3.3/1 an index of nothing", BROKEN, |f| f.then(b"\xc6")),
    case("hpack/2.3.3/2 a name's index of nothing", BROKEN, |f| f.then(b"\x7e\x04test")),
    case("hpack/4.2/1 a table's size after fields", BROKEN, |f| f.then(b"\x20")),
    case("hpack/5.2/1 Huffman padding of a byte", BROKEN, |f| {
        f.then(b"\x00\x04test\x84\xff\xff\xff\xff")
    }),
    case("hpack/5.2/2 Huffman padding of zeros", BROKEN, |f| f.then(b"\x00\x04test\x81\x18")),
    case("hpack/5.2/3 the end of a text as a symbol", BROKEN, |f| {
        f.then(b"\x00\x04test\x87\x49\x50\x9f\xff\xff\xff\xff")
    }),
    case("hpack/6.1/1 index 0", BROKEN, |f| f.then(b"\x80")),
    case("hpack/6.3/1 a table larger than allowed", BROKEN, |f| f.after(b"\x3f\xe1\xff\x03")),
    case("a number without an end", BROKEN, |f| f.then(b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff")),
];

#[test]
fn hpack() {
    run(HPACK);
}

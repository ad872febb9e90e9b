//! What passes and what does not, whole and in pieces of every size; garbage never panics.

use super::*;

const LIMITS: Limits =
    Limits { header_bytes_max: 400, headers_max: 6, uri_bytes_max: 100, ..Limits::FOR_ONE };

/// What comes of `bytes` when they are read `step` at a time: what passes, and why it ends.
fn pass(bytes: &[u8], step: usize) -> (Vec<u8>, Option<Malformed>, u64) {
    let mut framing = Framing::new(&LIMITS, 64 * 1024);
    let (mut passed, mut held) = (Vec::new(), Vec::new());
    for part in bytes.chunks(step) {
        held.extend_from_slice(part);
        match framing.see(&held) {
            Seen::Pass => passed.append(&mut held),
            Seen::Hold(at) => {
                let rest = held.split_off(at);
                passed.append(&mut held);
                held = rest;
            }
            Seen::Refuse(at, why) | Seen::Break(at, why) => {
                passed.extend_from_slice(&held[..at]);
                return (passed, Some(why), framing.heads());
            }
        }
    }
    (passed, None, framing.heads())
}

fn each_way(bytes: &[u8]) -> (Vec<u8>, Option<Malformed>, u64) {
    let whole = pass(bytes, usize::MAX);
    for step in [1, 2, 3, 7] {
        assert_eq!(
            pass(bytes, step),
            whole,
            "{step} at a time: {:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    whole
}

#[test]
fn what_is_well_formed_passes_unchanged() {
    for (text, heads) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET / HTTP/1.0\r\n\r\n", 1),
        ("\r\nGET / HTTP/1.1\r\nHost:a\r\n\r\n", 1),
        ("GET /a?b=c|d HTTP/1.1\r\nHost: a\r\nX:\t\x20v\tw \r\nY: \u{e4}\r\nZ:\r\n\r\n", 1),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: b\r\n\r\n",
            2,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 1),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
             3;x=\"y\"\r\nabc\r\n00A \r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n\
             GET / HTTP/1.1\r\nHost: b\r\n\r\n",
            2,
        ),
        // Nobody's business after these.
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\0\x01\nGET", 1),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01\0", 1),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 0),
        // An offer of HTTP/2, and one without a wish for it, change nothing.
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\
             GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n\
             GET / HTTP/1.1\r\nHost: b\r\n\r\n",
            3,
        ),
    ] {
        assert_eq!(each_way(text.as_bytes()), (text.as_bytes().to_vec(), None, heads), "{text:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_does_not_pass() {
    use Malformed as M;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (start, rest, why) in [
        (post, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", M::LengthAndChunks),
        (post, "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", M::LengthAndChunks),
        (post, "Content-Length: 3\r\nContent-Length: 5\r\n\r\n", M::Lengths),
        (post, "Content-Length: 3, 3\r\n\r\n", M::Length),
        (post, "Content-Length: +3\r\n\r\n", M::Length),
        (post, "Content-Length: -1\r\n\r\n", M::Length),
        (post, "Content-Length: 0x3\r\n\r\n", M::Length),
        (post, "Content-Length:\r\n\r\n", M::Length),
        (post, "Content-Length: 9999999999999999999\r\n\r\n", M::Length),
        (post, "Transfer-Encoding: xchunked\r\n\r\n", M::Coding),
        (post, "Transfer-Encoding: gzip, chunked\r\n\r\n", M::Coding),
        (post, "Transfer-Encoding: chunked, identity\r\n\r\n", M::Coding),
        (post, "Transfer-Encoding: \r\n\r\n", M::Coding),
        (post, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", M::Coding),
        (post, "Transfer-Encoding: \"chunked\"\r\n\r\n", M::Coding),
        (post, "Transfer-Encoding: \x0bchunked\r\n\r\n", M::Control),
        (post, "Transfer-Encoding : chunked\r\n\r\n", M::FieldName),
        (post, "Transfer-Encoding\t: chunked\r\n\r\n", M::FieldName),
        (post, "X: y\r\n Transfer-Encoding: chunked\r\n\r\n", M::Folded),
        (post, "X: y\r\n\tz\r\n\r\n", M::Folded),
        (post, "X: y\nTransfer-Encoding: chunked\r\n\r\n", M::LineEnd),
        (post, "X: y\rTransfer-Encoding: chunked\r\n\r\n", M::LineEnd),
        (post, "X: y\n\n", M::LineEnd),
        (post, "X: a\0b\r\n\r\n", M::Control),
        (post, "X: a\x7fb\r\n\r\n", M::Control),
        (post, ": y\r\n\r\n", M::FieldName),
        (post, "X\r\n\r\n", M::FieldName),
        (post, "X(y): z\r\n\r\n", M::FieldName),
        (post, "\u{e4}: z\r\n\r\n", M::FieldName),
        (get, "Host: a\r\n\r\n", M::HostTwice),
        ("GET / HTTP/1.1\r\n", "X: y\r\n\r\n", M::HostMissing),
        ("POST / HTTP/1.0\r\n", "Transfer-Encoding: chunked\r\n\r\n", M::OldChunks),
        ("GET / HTTP/1.2\r\n", "\r\n", M::Version),
        ("GET / HTTP/2.0\r\n", "\r\n", M::Version),
        ("GET / http/1.1\r\n", "\r\n", M::RequestLine),
        ("GET /\r\n", "\r\n", M::RequestLine),
        ("GET  / HTTP/1.1\r\n", "\r\n", M::RequestLine),
        ("GET /a b HTTP/1.1\r\n", "\r\n", M::RequestLine),
        ("GET /  HTTP/1.1\r\n", "\r\n", M::RequestLine),
        (" GET / HTTP/1.1\r\n", "\r\n", M::RequestLine),
        ("G\u{e4}T / HTTP/1.1\r\n", "\r\n", M::RequestLine),
        ("GET\t/ HTTP/1.1\r\n", "\r\n", M::Control),
        ("\nGET / HTTP/1.1\r\n", "\r\n", M::LineEnd),
        ("GET /#a HTTP/1.1\r\n", "\r\n", M::Target),
        ("GET /\u{e4} HTTP/1.1\r\n", "\r\n", M::Target),
        ("GET a HTTP/1.1\r\n", "\r\n", M::Target),
        ("GET a.example:80 HTTP/1.1\r\n", "\r\n", M::Target),
        ("GET ftp://a/ HTTP/1.1\r\n", "\r\n", M::Target),
        ("GET http:// HTTP/1.1\r\n", "\r\n", M::Target),
        ("GET * HTTP/1.1\r\n", "\r\n", M::Target),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n", "Content-Length: 1\r\n\r\n", M::BodyBeforeTunnel),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
            M::BodyBeforeTunnel,
        ),
    ] {
        let text = format!("{start}{rest}");
        assert_eq!(each_way(text.as_bytes()), (vec![], Some(why), 0), "{text:?}");
        // Behind a good one, the good one passes.
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let text = format!("{good}{text}");
        assert_eq!(each_way(text.as_bytes()), (good.into(), Some(why), 1), "{text:?}");
    }
}

#[test]
fn chunks_that_could_be_read_in_two_ways_break_the_body() {
    use Malformed as M;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (chunks, why) in [
        ("zz\r\n", M::Chunk),
        ("\r\n", M::Chunk),
        ("0x3\r\nabc", M::Chunk),
        ("+3\r\nabc", M::Chunk),
        (" 3\r\nabc", M::Chunk),
        ("3\nabc", M::Chunk),
        ("3\rabc", M::Chunk),
        ("3;a\nb\r\nabc", M::Chunk),
        ("3;\0\r\nabc", M::Chunk),
        ("3 3\r\nabc", M::Chunk),
        ("3\r\nabcd\r\n", M::Chunk),
        ("3\r\nabc\n", M::Chunk),
        ("00000000000000003\r\n", M::Chunk),
        ("0\r\nX y: z\r\n\r\n", M::Trailers),
        ("0\r\n X: z\r\n\r\n", M::Trailers),
        ("0\r\nX: z\n\r\n", M::Trailers),
        ("0\r\nX\r\n\r\n", M::Trailers),
        ("0\r\n\rG", M::Trailers),
    ] {
        let text = format!("{head}{chunks}");
        let (passed, broken, heads) = each_way(text.as_bytes());
        assert_eq!((broken, heads), (Some(why), 1), "{chunks:?}");
        assert!(text.as_bytes().starts_with(&passed) && passed.len() >= head.len());
    }
    let endless = format!("{head}0\r\n{}", "X: y\r\n".repeat(200));
    assert_eq!(each_way(endless.as_bytes()).1, Some(M::Trailers));
}

#[test]
fn heads_have_bounds() {
    let head = |fields: usize, bytes: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}X: {}",
            "A: b\r\n".repeat(fields),
            "x".repeat(bytes)
        )
    };
    let whole = |fields, bytes| head(fields, bytes) + "\r\n\r\n";
    assert_eq!(each_way(whole(4, 10).as_bytes()).1, None);
    assert_eq!(each_way(whole(5, 10).as_bytes()).1, Some(Malformed::TooManyFields));
    let rest = 400 - whole(0, 0).len();
    assert_eq!(each_way(whole(0, rest).as_bytes()).1, None);
    assert_eq!(pass(whole(0, rest + 1).as_bytes(), 1000).1, Some(Malformed::HeadTooLarge));
    // It is not waited for longer than that.
    assert_eq!(pass(head(0, 400).as_bytes(), 1).1, Some(Malformed::HeadTooLarge));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100));
    assert_eq!(each_way(long.as_bytes()).1, Some(Malformed::TargetTooLong));
}

#[test]
fn garbage_never_panics_and_never_passes_as_a_head() {
    let pieces: [&[u8]; 16] = [
        b"GET / HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\0",
        b" ",
        b":",
        b"abc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\xff",
        b"POST /x HTTP/1.0\r\n",
    ];
    let mut seed = 7_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 40).unwrap()
    };
    for _ in 0..3000 {
        let count = next() % 12;
        let text: Vec<u8> =
            (0..count).flat_map(|_| pieces[next() % pieces.len()]).copied().collect();
        let whole = pass(&text, usize::MAX);
        let split = pass(&text, 1 + next() % 5);
        assert_eq!(whole, split, "{:?}", String::from_utf8_lossy(&text));
        assert!(text.starts_with(&whole.0));
    }
}

#[test]
fn control_characters_are_found_at_every_place() {
    for length in 0..40 {
        for place in 0..length {
            for byte in [0, 9, 10, 13, 31, 127] {
                let mut text = vec![b'x'; length];
                text[place] = byte;
                assert_eq!(head::control(&text), Some(place));
                text[place] = b' ';
                assert_eq!(head::control(&text), None);
                text[place] = 0xff;
                assert_eq!(head::control(&text), None);
            }
        }
    }
}

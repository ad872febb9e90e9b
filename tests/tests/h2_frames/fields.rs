//! Fields of requests (RFC 9113 section 8).

use super::*;

/// A request that lacks one of its pseudo-fields.
fn request_without(name: &str) -> Vec<u8> {
    let all =
        [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "api.example")];
    all.iter()
        .filter(|(one, _)| *one != name)
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

static HEADER_FIELDS: &[Case] = &[
    case("http2/8.1/1 HEADERS without END_STREAM after DATA", Stream(PROTOCOL), |f| {
        f.post(1).send(kind::HEADERS, flag::END_HEADERS, 1, field("x-sum", "1"))
    }),
    case("http2/8.1.2/1 an upper-case name", Stream(PROTOCOL), |f| f.ask(&[("X-TEST", "ok")])),
    case("http2/8.1.2.1/1 an unknown pseudo-field", Stream(PROTOCOL), |f| {
        f.ask(&[(":test", "ok")])
    }),
    case("http2/8.1.2.1/2 a pseudo-field of responses", Stream(PROTOCOL), |f| {
        f.ask(&[(":status", "200")])
    }),
    // The `h2` crate drops the field instead of refusing it; it goes nowhere.
    case("http2/8.1.2.1/3 a pseudo-field in trailers", Answer, |f| {
        f.post(1).data(b"test").whole(field(":method", "POST"))
    }),
    case("http2/8.1.2.1/4 a pseudo-field after others", Stream(PROTOCOL), |f| {
        f.after(&field("x-test", "ok"))
    }),
    case("http2/8.1.2.2/1 Connection", Stream(PROTOCOL), |f| {
        f.ask(&[("connection", "keep-alive")])
    }),
    case("http2/8.1.2.2/2 TE other than trailers", Stream(PROTOCOL), |f| {
        f.ask(&[("trailers", "test"), ("te", "trailers, deflate")])
    }),
    case("http2/8.1.2.2 Transfer-Encoding", Stream(PROTOCOL), |f| {
        f.ask(&[("transfer-encoding", "chunked")])
    }),
    case("http2/8.1.2.2 Upgrade", Stream(PROTOCOL), |f| f.ask(&[("upgrade", "websocket")])),
    case("http2/8.1.2.3/1 an empty path", Stream(PROTOCOL), |f| f.whole(request("GET", ""))),
    case("http2/8.1.2.3/2 no method", Stream(PROTOCOL), |f| f.whole(request_without(":method"))),
    case("http2/8.1.2.3/3 no scheme", Stream(PROTOCOL), |f| f.whole(request_without(":scheme"))),
    case("http2/8.1.2.3/4 no path", Stream(PROTOCOL), |f| f.whole(request_without(":path"))),
    case("http2/8.1.2.3/5 two methods", Stream(PROTOCOL), |f| f.ask(&[(":method", "GET")])),
    case("http2/8.1.2.3/6 two schemes", Stream(PROTOCOL), |f| f.ask(&[(":scheme", "http")])),
    case("http2/8.1.2.3/7 two paths", Stream(PROTOCOL), |f| f.ask(&[(":path", "/")])),
    case("http2/8.1.2.6/1 more announced than sent", Stream(PROTOCOL), |f| {
        f.open(&[("content-length", "1")]).last(b"test")
    }),
    case("http2/8.1.2.6/2 the same in several frames", Stream(PROTOCOL), |f| {
        f.open(&[("content-length", "1")]).data(b"te").last(b"st")
    }),
    case("less sent than announced", Stream(PROTOCOL), |f| {
        f.open(&[("content-length", "5")]).last(b"test")
    }),
    case("two lengths that differ", Stream(PROTOCOL), |f| {
        f.open(&[("content-length", "4"), ("content-length", "5")]).last(b"test")
    }),
    case("a line end in a value", Stream(PROTOCOL), |f| f.ask(&[("x-test", "a\r\nhost: b")])),
    case("white space in a name", Stream(PROTOCOL), |f| f.ask(&[("x test", "a")])),
    case("http2/8.2/1 PUSH_PROMISE", Connection(PROTOCOL), |f| f.post(1).push()),
];

#[test]
fn header_fields() {
    run(HEADER_FIELDS);
}

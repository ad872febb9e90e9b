//! Fields of requests (RFC 9113 section 8).

use super::*;

static HEADER_FIELDS: &[Case] = &[
    (
        "http2/8.1/1 HEADERS without END_STREAM after DATA",
        |f| {
            f.post(1, "/");
            f.send(kind::HEADERS, flag::END_HEADERS, 1, field("x-sum", "1"));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2/1 an upper-case name",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("X-TEST", "ok")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.1/1 an unknown pseudo-field",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":test", "ok")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.1/2 a pseudo-field of responses",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":status", "200")]));
        },
        Stream(PROTOCOL),
    ),
    // The `h2` crate drops the field instead of refusing it; it goes nowhere.
    (
        "http2/8.1.2.1/3 a pseudo-field in trailers",
        |f| {
            f.post(1, "/");
            f.send(kind::DATA, flag::NONE, 1, *b"test");
            f.send(kind::HEADERS, ALL, 1, field(":method", "POST"));
        },
        Answer,
    ),
    (
        "http2/8.1.2.1/4 a pseudo-field after others",
        |f| {
            let block = [field("x-test", "ok"), request("GET", "/")].concat();
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2/1 Connection",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("connection", "keep-alive")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2/2 TE other than trailers",
        |f| {
            f.send(
                kind::HEADERS,
                ALL,
                1,
                with(&[("trailers", "test"), ("te", "trailers, deflate")]),
            );
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2 Transfer-Encoding",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("transfer-encoding", "chunked")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.2 Upgrade",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("upgrade", "websocket")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/1 an empty path",
        |f| {
            f.send(kind::HEADERS, ALL, 1, request("GET", ""));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/2 no method",
        |f| {
            let block =
                fields(&[(":scheme", "http"), (":path", "/"), (":authority", "api.example")]);
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/3 no scheme",
        |f| {
            let block =
                fields(&[(":method", "GET"), (":path", "/"), (":authority", "api.example")]);
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/4 no path",
        |f| {
            let block =
                fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "api.example")]);
            f.send(kind::HEADERS, ALL, 1, block);
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/5 two methods",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":method", "GET")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/6 two schemes",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":scheme", "http")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.3/7 two paths",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[(":path", "/")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.6/1 more announced than sent",
        |f| {
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&[("content-length", "1")]));
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.1.2.6/2 the same in several frames",
        |f| {
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&[("content-length", "1")]));
            f.send(kind::DATA, flag::NONE, 1, *b"te");
            f.send(kind::DATA, flag::END_STREAM, 1, *b"st");
        },
        Stream(PROTOCOL),
    ),
    (
        "less sent than announced",
        |f| {
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&[("content-length", "5")]));
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(PROTOCOL),
    ),
    (
        "two lengths that differ",
        |f| {
            let lengths = [("content-length", "4"), ("content-length", "5")];
            f.send(kind::HEADERS, flag::END_HEADERS, 1, with(&lengths));
            f.send(kind::DATA, flag::END_STREAM, 1, *b"test");
        },
        Stream(PROTOCOL),
    ),
    (
        "a line end in a value",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("x-test", "a\r\nhost: b")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "white space in a name",
        |f| {
            f.send(kind::HEADERS, ALL, 1, with(&[("x test", "a")]));
        },
        Stream(PROTOCOL),
    ),
    (
        "http2/8.2/1 PUSH_PROMISE",
        |f| {
            f.post(1, "/");
            let block = [&[0, 0, 0, 2][..], &request("GET", "/")].concat();
            f.send(kind::PUSH_PROMISE, flag::END_HEADERS, 1, block);
        },
        Connection(PROTOCOL),
    ),
];

#[test]
fn header_fields() {
    run(HEADER_FIELDS);
}

//! Heads as they come, and as they go on.

use super::*;

const HTTP1: Dialect = Dialect { wire: Wire::Http1, scheme: Scheme::Http };
const HTTP2: Dialect = Dialect { wire: Wire::Http2, scheme: Scheme::Http };

fn origin(client: &HeaderValue) -> Origin<'_> {
    Origin { client, scheme: Some(Scheme::Http) }
}

fn request(uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::get(uri);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

#[test]
fn hosts_are_read_in_one_way_only() {
    let host = |text: &str| host_name(text).map(Cow::into_owned);
    assert_eq!(host("Pay.Example:8080").as_deref(), Some("pay.example"));
    assert_eq!(host("pay.example.").as_deref(), Some("pay.example"));
    assert_eq!(host("[2001:DB8::1]:443").as_deref(), Some("2001:db8::1"));
    assert_eq!(host("10.0.0.1").as_deref(), Some("10.0.0.1"));
    for odd in ["", ":80", "a b", "user@pay.example", "a:b", "a:99999", "[::1", "[::1]x", "a/b"] {
        assert_eq!(host(odd), None, "{odd:?}");
    }
}

#[test]
fn a_request_names_exactly_one_host() {
    assert_eq!(host_of(&request("/", &[("host", "a")])).as_deref(), Ok("a"));
    assert_eq!(host_of(&request("http://b/", &[])).as_deref(), Ok("b"));
    for same in ["b", "B", "b:80"] {
        assert_eq!(host_of(&request("http://b/", &[("host", same)])).as_deref(), Ok("b"), "{same}");
    }
    for other in ["a", "b:81", "b, b", ""] {
        let request = request("http://b/", &[("host", other)]);
        assert_eq!(host_of(&request), Err(Failure::InvalidRequest), "{other}");
    }
    assert_eq!(host_of(&request("/", &[])), Err(Failure::InvalidRequest));
    let two = request("/", &[("host", "a"), ("host", "a")]);
    assert_eq!(host_of(&two), Err(Failure::InvalidRequest));
}

#[test]
fn connection_takes_away_what_it_names_but_not_the_framing() {
    let fields = [
        ("connection", "close, x-one"),
        ("connection", "X-Two, content-length, host"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-three", "3"),
        ("content-length", "5"),
        ("host", "a"),
        ("te", "trailers;q=1"),
        ("upgrade", "h2c"),
        ("transfer-encoding", "chunked"),
    ];
    let mut headers = request("/", &fields).headers;
    let fields = Fields::of(&headers);
    strip_hop_by_hop(&mut headers, fields);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-length", "host", "te", "x-three"]);
    assert_eq!(headers[TE], "trailers");
}

#[test]
fn the_target_takes_the_form_of_the_wire() {
    let client = &client_name(IpAddr::from([10, 0, 0, 9]));
    let mut old = request("http://a.example:81/x?y", &[("host", "b")]);
    prepare_request(&mut old, origin(client), HTTP1, HasBody::No).unwrap();
    assert_eq!(old.uri, "/x?y");
    assert_eq!(old.headers[HOST], "a.example:81");
    let mut new = request("/x?y", &[("host", "b:82")]);
    prepare_request(&mut new, origin(client), HTTP2, HasBody::No).unwrap();
    assert_eq!(new.uri, "http://b:82/x?y");
    assert!(!new.headers.contains_key(HOST));
    // The next server may be one inside of TLS, and the one after it one of HTTP/1.
    let secure = Dialect { scheme: Scheme::Https, ..HTTP2 };
    for (next, uri) in [(secure, "https://b:82/x?y"), (HTTP2, "http://b:82/x?y"), (HTTP1, "/x?y")] {
        change_dialect(&mut new, next, HasBody::No).unwrap();
        assert_eq!(new.uri, uri);
    }
    assert_eq!(new.headers[HOST], "b:82");
}

#[test]
fn the_chain_of_clients_grows_and_an_id_is_added_once() {
    let mut fresh = request("/", &[("host", "a")]);
    let client = &client_name("::ffff:10.0.0.9".parse().unwrap());
    prepare_request(&mut fresh, origin(client), HTTP1, HasBody::No).unwrap();
    let id = request_id(&fresh.headers).unwrap();
    assert_eq!(fresh.headers[X_FORWARDED_FOR], "10.0.0.9");
    assert_eq!(fresh.headers[X_REQUEST_ID], id);
    assert_eq!(id.len(), 16);
    let fields = [("host", "a"), ("x-forwarded-for", "1.1.1.1"), ("x-request-id", "mine")];
    let mut given = request("/", &fields);
    prepare_request(&mut given, origin(client), HTTP1, HasBody::No).unwrap();
    assert_eq!(given.headers[X_FORWARDED_FOR], "1.1.1.1, 10.0.0.9");
    assert_eq!(given.headers[X_REQUEST_ID], "mine");
}

#[test]
fn how_a_client_came_is_not_for_it_to_say() {
    let client = &client_name(IpAddr::from([10, 0, 0, 9]));
    let claims = [("host", "a"), ("x-forwarded-proto", "https"), ("x-forwarded-proto", "wss")];
    for (scheme, claims, told) in [
        (Some(Scheme::Http), &claims[..], &["http"][..]),
        (Some(Scheme::Https), &claims[..2], &["https"][..]),
        (Some(Scheme::Https), &claims[..1], &[][..]),
        (None, &claims[..], &["https", "wss"][..]),
    ] {
        let mut head = request("/", claims);
        prepare_request(&mut head, Origin { client, scheme }, HTTP1, HasBody::No).unwrap();
        let said: Vec<_> = head.headers.get_all(X_FORWARDED_PROTO).iter().collect();
        assert_eq!(said, told, "{scheme:?} {claims:?}");
    }
}

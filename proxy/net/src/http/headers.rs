//! What of a message's head passes through a proxy.
//!
//! Hop-by-hop fields are taken out (RFC 9110 section 7.6.1, with those that `Connection` names),
//! `X-Forwarded-For` is appended and `X-Request-Id` added if absent; nothing more, because every
//! field costs line, but what a client says in `X-Forwarded-Proto` is made true. `Host` stays.
//! Messages that could be read in two ways are refused.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, EXPECT, HOST, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use tillgate_core::filter::Scheme;
use tillgate_core::matching::canonical_host;

use self::fields::{Field, Fields};
use super::client::{Dialect, Wire};
use super::flow::Gate;
use crate::error::Failure;

mod fields;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Fields that `Connection` may not take away, because we frame and route by them.
static KEPT: [HeaderName; 3] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Fields of one hop, but `Connection` and `TE`, which say more.
static OF_ONE_HOP: [(Field, HeaderName); 6] = [
    (Field::KeepAlive, KEEP_ALIVE),
    (Field::ProxyConnection, PROXY_CONNECTION),
    (Field::ProxyAuthenticate, PROXY_AUTHENTICATE),
    (Field::TransferEncoding, TRANSFER_ENCODING),
    (Field::Upgrade, UPGRADE),
    (Field::Http2Settings, HTTP2_SETTINGS),
];

/// Takes out of `headers`, which has these `fields`, what is meant for this hop alone.
/// `TE: trailers` survives, because we pass trailers.
fn strip_hop_by_hop(headers: &mut HeaderMap, fields: Fields) {
    let te = fields.has(Field::Te);
    let trailers = te && headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    if fields.has(Field::Connection) {
        strip_named(headers);
    }
    for (field, name) in &OF_ONE_HOP {
        if fields.has(*field) {
            headers.remove(name);
        }
    }
    if trailers {
        headers.insert(TE, TRAILERS);
    } else if te {
        headers.remove(TE);
    }
}

/// Takes out the fields that `Connection` names, now: before fields are added that a client must
/// not be able to name.
pub fn strip_of_hop(headers: &mut HeaderMap) {
    let mut connection = headers.get_all(CONNECTION).iter();
    let upgrades = connection.any(|value| has_token(value, "upgrade"));
    strip_named(headers);
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Takes out `Connection` and the fields that it names.
fn strip_named(headers: &mut HeaderMap) {
    let http::header::Entry::Occupied(connection) = headers.entry(CONNECTION) else { return };
    // What most of them say names no field, or one that goes anyway.
    let is_option = |token: &str| {
        ["close", "keep-alive", "upgrade", "te"].iter().any(|o| token.eq_ignore_ascii_case(o))
    };
    let mut named = Vec::new();
    for value in connection.iter().filter_map(|value| value.to_str().ok()) {
        if is_option(value) {
            continue;
        }
        for token in value.split(',').map(str::trim).filter(|token| !is_option(token)) {
            named.extend(HeaderName::from_bytes(token.as_bytes()));
        }
    }
    connection.remove_entry_mult();
    for name in named.iter().filter(|name| !KEPT.contains(name)) {
        headers.remove(name);
    }
}

/// Whether `token` is one of the list that a field's value is.
pub(super) fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|value| {
        value.split(',').any(|part| {
            part.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(token))
        })
    })
}

/// The protocol that the request wants its connection to go on in. An offer to go on in HTTP/2
/// (RFC 7540 section 3.2; some clients make it with every request) may be ignored.
pub fn wanted_upgrade(request: &Parts) -> Option<&str> {
    let mut connection = request.headers.get_all(CONNECTION).iter();
    if !connection.any(|value| has_token(value, "upgrade")) {
        return None;
    }
    let offers = request.headers.get_all(UPGRADE).iter();
    let mut tokens = offers.flat_map(|value| value.to_str().unwrap_or("?").split(','));
    tokens.find(|token| !token.trim().eq_ignore_ascii_case("h2c")).map(str::trim)
}

/// Whether the client waits for `100 Continue` before it sends the body.
pub fn expects_continue(request: &Parts) -> bool {
    request.version == Version::HTTP_11
        && request
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether the body has to wait for the server's `100 Continue`. Asked after
/// [`prepare_request`], which leaves the field only where the server's wire can say it.
pub fn awaits_continue(request: &Parts, has_body: HasBody) -> bool {
    has_body == HasBody::Yes && request.headers.contains_key(EXPECT)
}

/// Opens `gate` when the server says `100 Continue`.
pub fn open_on_continue<B>(request: &mut http::Request<B>, gate: &Arc<Gate>) {
    let gate = Arc::clone(gate);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            gate.open();
        }
    });
}

/// The host a request is for: lower case, without port, brackets and trailing dot.
///
/// # Errors
/// [`Failure::InvalidRequest`] if it names no host, or more than one.
pub fn host_of(request: &Parts) -> Result<Cow<'_, str>, Failure> {
    let mut fields = request.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Failure::InvalidRequest);
    }
    let text = match (request.uri.authority(), field) {
        (Some(authority), Some(field)) => {
            if !names_same_host(&request.uri, authority, field) {
                return Err(Failure::InvalidRequest);
            }
            authority.as_str()
        }
        (Some(authority), None) => authority.as_str(),
        (None, Some(field)) => field.to_str().map_err(|_| Failure::InvalidRequest)?,
        (None, None) => return Err(Failure::InvalidRequest),
    };
    host_name(text).ok_or(Failure::InvalidRequest)
}

/// Whether target and `Host` say the same. Servers differ in which of the two they believe.
fn names_same_host(uri: &Uri, authority: &Authority, field: &HeaderValue) -> bool {
    if field.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) {
        return true;
    }
    let Some(field) = field.to_str().ok().and_then(|text| Authority::try_from(text).ok()) else {
        return false;
    };
    let port = |authority: &Authority| {
        authority.port_u16().or_else(|| match uri.scheme_str() {
            Some("http") => Some(80),
            Some("https") => Some(443),
            _ => None,
        })
    };
    port(authority) == port(&field)
        && host_name(field.as_str()).is_some_and(|name| host_name(authority.as_str()) == Some(name))
}

/// Fields that say how a message is framed, how long its connection lives, or whom it is for:
/// never a rule's to change, nor a trailer's to say.
pub fn is_ours(name: &HeaderName) -> bool {
    [CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS].contains(name)
}

/// Takes out of trailers what has no meaning there or would be believed by mistake (RFC 9110
/// section 6.5.1).
pub fn prepare_trailers(trailers: &mut HeaderMap) {
    if trailers.keys().any(is_misplaced) {
        let misplaced: Vec<_> =
            trailers.keys().filter(|name| is_misplaced(name)).cloned().collect();
        for name in misplaced {
            trailers.remove(name);
        }
    }
}

fn is_misplaced(name: &HeaderName) -> bool {
    is_ours(name)
        || [AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT]
            .contains(name)
        || [MAX_FORWARDS, PROXY_AUTHORIZATION, SET_COOKIE].contains(name)
        || [X_FORWARDED_FOR, X_FORWARDED_PROTO].contains(name)
}

/// The host in `authority`: lower case, without port, brackets and trailing dot.
pub fn host_name(authority: &str) -> Option<Cow<'_, str>> {
    // Nearly all are such already.
    let is_plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    if authority.as_bytes().iter().all(is_plain) && !authority.ends_with('.') {
        return (!authority.is_empty()).then_some(Cow::Borrowed(authority));
    }
    if authority.contains('@') {
        return None;
    }
    let host = if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        let (host, after) = authority.split_at(end);
        if !after.is_empty() && !is_port(after.strip_prefix(':')?) {
            return None;
        }
        host
    } else {
        match authority.split_once(':') {
            Some((host, port)) if is_port(port) => host,
            Some(_) => return None,
            None => authority,
        }
    };
    let odd = |byte: u8| byte.is_ascii_whitespace() || b"/?#\\".contains(&byte);
    let host = canonical_host(host);
    if host.is_empty() || host.bytes().any(odd) { None } else { Some(host) }
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.parse::<u16>().is_ok()
}

/// Whose request it is, as its server is told.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client, as [`client_name`] has it.
    pub client: &'a HeaderValue,
    /// How it came, if the head says no more of that than the client did.
    pub scheme: Option<Scheme>,
}

/// Makes a client's head one for a server that speaks `dialect`: hop-by-hop fields out,
/// forwarding fields in, the target in the form the wire wants.
///
/// # Errors
/// [`Failure::InvalidRequest`] if no valid head can be made of it.
pub fn prepare_request(
    request: &mut Parts,
    origin: Origin<'_>,
    dialect: Dialect,
    has_body: HasBody,
) -> Result<(), Failure> {
    let fields = Fields::of(&request.headers);
    strip_hop_by_hop(&mut request.headers, fields);
    if fields.has(Field::ProxyAuthorization) {
        request.headers.remove(PROXY_AUTHORIZATION);
    }
    if fields.has(Field::Expect) && (!expects_continue(request) || dialect.wire == Wire::Http2) {
        request.headers.remove(EXPECT);
    }
    append_client(&mut request.headers, fields, origin.client);
    if fields.has(Field::XForwardedProto)
        && let Some(scheme) = origin.scheme
    {
        correct_scheme(&mut request.headers, scheme);
    }
    name_request(&mut request.headers, fields);
    request.extensions.clear();
    match dialect.wire {
        Wire::Http1 => target_for_http1(request, fields, has_body),
        Wire::Http2 => target_for_http2(request, dialect.scheme),
    }
}

/// The `Authorization` of an account (RFC 7617); it is never shown.
pub fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let pair = STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Makes a head that was prepared for one server one for a server that speaks `dialect`.
///
/// # Errors
/// [`Failure::InvalidRequest`] if no valid head can be made of it.
pub fn change_dialect(
    request: &mut Parts,
    dialect: Dialect,
    has_body: HasBody,
) -> Result<(), Failure> {
    match dialect.wire {
        Wire::Http1 => {
            let fields = Fields::of(&request.headers);
            target_for_http1(request, fields, has_body)
        }
        Wire::Http2 => {
            request.headers.remove(TRANSFER_ENCODING);
            request.headers.remove(EXPECT);
            target_for_http2(request, dialect.scheme)
        }
    }
}

/// Makes a server's head one for the client.
pub fn prepare_response(head: &mut http::response::Parts) {
    let fields = Fields::of(&head.headers);
    if fields.has(Field::TransferEncoding) && fields.has(Field::ContentLength) {
        // The chunks were what counted (RFC 9112 section 6.3); a length beside them may be wrong.
        head.headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(&mut head.headers, fields);
    head.extensions.clear();
    // hyper writes the version of the client's connection.
    head.version = Version::HTTP_11;
}

/// `scheme` as a URI has it.
pub const fn uri_scheme(scheme: Scheme) -> http::uri::Scheme {
    match scheme {
        Scheme::Http => http::uri::Scheme::HTTP,
        Scheme::Https => http::uri::Scheme::HTTPS,
    }
}

/// Whether a request's body is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasBody {
    /// Something follows the head.
    Yes,
    /// Nothing does.
    No,
}

fn target_for_http1(request: &mut Parts, fields: Fields, has_body: HasBody) -> Result<(), Failure> {
    if let Some(authority) = request.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str());
        request.headers.insert(HOST, host.map_err(|_| Failure::InvalidRequest)?);
    }
    let path = request.uri.path_and_query();
    if request.uri.scheme().is_some() || request.uri.authority().is_some() || path.is_none() {
        let path = path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        request.uri = Uri::from(path);
    }
    if fields.has(Field::Cookie) {
        join_cookies(&mut request.headers);
    }
    request.version = Version::HTTP_11;
    // `Connection` cannot have taken it away.
    let length = fields.has(Field::ContentLength).then(|| request.headers.get(CONTENT_LENGTH));
    match length.flatten().map(HeaderValue::as_bytes) {
        // To some readers a leading zero makes a number octal.
        Some([b'0', rest @ ..]) if !rest.is_empty() => {
            let zeros = rest.iter().take_while(|byte| **byte == b'0').count();
            let plain = &rest[zeros.min(rest.len() - 1)..];
            let plain = HeaderValue::from_bytes(plain).map_err(|_| Failure::InvalidRequest)?;
            request.headers.insert(CONTENT_LENGTH, plain);
        }
        None if has_body == HasBody::Yes => {
            // hyper would send a GET of unknown length without its body.
            request.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Some(_) | None => {}
    }
    Ok(())
}

fn target_for_http2(request: &mut Parts, scheme: Scheme) -> Result<(), Failure> {
    let authority = match (request.uri.authority(), request.headers.get(HOST)) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Failure::InvalidRequest)?
        }
        (None, None) => return Err(Failure::InvalidRequest),
    };
    request.headers.remove(HOST);
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(uri_scheme(scheme));
    uri.authority = Some(authority);
    uri.path_and_query = request.uri.path_and_query().cloned();
    if request.method == Method::OPTIONS && request.uri.path() == "*"
        || uri.path_and_query.is_none()
    {
        uri.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    request.uri = Uri::from_parts(uri).map_err(|_| Failure::InvalidRequest)?;
    request.version = Version::HTTP_2;
    Ok(())
}

/// HTTP/2 may split cookies over several fields; HTTP/1 wants one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// Adds `client` to those that a request came through.
fn append_client(headers: &mut HeaderMap, fields: Fields, client: &HeaderValue) {
    let mut client = client.clone();
    if fields.has(Field::XForwardedFor) {
        let mut chain = Vec::with_capacity(80);
        for value in headers.get_all(X_FORWARDED_FOR) {
            if value.to_str().is_ok() {
                chain.extend_from_slice(value.as_bytes());
                chain.extend_from_slice(b", ");
            }
        }
        chain.extend_from_slice(client.as_bytes());
        if let Ok(value) = HeaderValue::try_from(chain) {
            client = value;
        }
    }
    headers.insert(X_FORWARDED_FOR, client);
}

/// What a client says of how it came (it may be believed by servers that make links or set
/// cookies) is replaced by how it did. One that says nothing stays silent.
pub fn correct_scheme(headers: &mut HeaderMap, scheme: Scheme) {
    if let http::header::Entry::Occupied(mut said) = headers.entry(X_FORWARDED_PROTO) {
        said.insert(HeaderValue::from_static(match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }));
    }
}

/// `client` as `X-Forwarded-For` names it. Once for each connection: writing an address takes
/// longer than finding a route.
pub fn client_name(client: IpAddr) -> HeaderValue {
    let name = HeaderValue::try_from(client.to_canonical().to_string());
    name.unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// The name of a request for people, once it was prepared.
pub fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(X_REQUEST_ID)
}

/// Names a request that has no name.
fn name_request(headers: &mut HeaderMap, fields: Fields) {
    if fields.has(Field::XRequestId) && headers.contains_key(X_REQUEST_ID) {
        return;
    }
    let mut id = [0; 16];
    let mut left = fastrand::u64(..);
    for digit in &mut id {
        *digit = b"0123456789abcdef"[usize::try_from(left % 16).unwrap_or(0)];
        left >>= 4;
    }
    if let Ok(id) = HeaderValue::from_bytes(&id) {
        headers.insert(X_REQUEST_ID, id);
    }
}

#[cfg(test)]
mod tests;

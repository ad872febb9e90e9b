//! What of a message's head passes through a proxy.
//!
//! Hop-by-hop fields are taken out (RFC 9110 section 7.6.1, with those that `Connection` names),
//! `X-Forwarded-For` is appended and `X-Request-Id` added if absent; nothing more, because every
//! field costs line. `Host` stays. Messages that could be read in two ways are refused.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, EXPECT, HOST, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use tillgate_core::matching::canonical_host;

use super::client::Wire;
use super::flow::Gate;
use crate::error::Failure;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Fields that `Connection` may not take away, because we frame and route by them.
const KEPT: [HeaderName; 3] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Fields of one hop, but `Connection` and `TE`, which say more.
const OF_ONE_HOP: [HeaderName; 6] =
    [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS];

/// Takes out what is meant for this hop alone. `TE: trailers` survives, because we pass trailers.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most heads have one of these fields or none: one look at the names is cheaper than asking
    // for each.
    let mut found = 0_u8;
    let (mut connection, mut te) = (false, false);
    for name in headers.keys() {
        connection |= *name == CONNECTION;
        te |= *name == TE;
        for (place, of_one_hop) in OF_ONE_HOP.iter().enumerate() {
            found |= u8::from(name == of_one_hop) << place;
        }
    }
    let trailers = te && headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    if connection {
        strip_named(headers);
    }
    for (place, of_one_hop) in OF_ONE_HOP.iter().enumerate() {
        if found & (1 << place) != 0 {
            headers.remove(of_one_hop);
        }
    }
    if trailers {
        headers.insert(TE, TRAILERS);
    } else if te {
        headers.remove(TE);
    }
}

/// Takes out `Connection` and the fields that it names.
fn strip_named(headers: &mut HeaderMap) {
    let is_option = |token: &str| {
        // What most of them say names no field, or one that goes anyway.
        ["close", "keep-alive", "upgrade", "te"].iter().any(|o| token.eq_ignore_ascii_case(o))
    };
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !is_option(token))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
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
        || [MAX_FORWARDS, PROXY_AUTHORIZATION, SET_COOKIE, X_FORWARDED_FOR].contains(name)
}

/// The host in `authority`: lower case, without port, brackets and trailing dot.
pub fn host_name(authority: &str) -> Option<Cow<'_, str>> {
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

/// Makes a client's head one for a server that speaks `wire`: hop-by-hop fields out, forwarding
/// fields in, the target in the form the wire wants. Returns the request's id.
///
/// # Errors
/// [`Failure::InvalidRequest`] if no valid head can be made of it.
pub fn prepare_request(
    request: &mut Parts,
    client: IpAddr,
    wire: Wire,
    has_body: HasBody,
) -> Result<HeaderValue, Failure> {
    let expects = expects_continue(request);
    strip_hop_by_hop(&mut request.headers);
    request.headers.remove(PROXY_AUTHORIZATION);
    if !expects || wire == Wire::Http2 {
        request.headers.remove(EXPECT);
    }
    append_client(&mut request.headers, client);
    let id = request_id(&mut request.headers);
    request.extensions.clear();
    match wire {
        Wire::Http1 => target_for_http1(request, has_body)?,
        Wire::Http2 => target_for_http2(request)?,
    }
    Ok(id)
}

/// Makes a server's head one for the client.
pub fn prepare_response(head: &mut http::response::Parts) {
    if head.headers.contains_key(TRANSFER_ENCODING) {
        // The chunks were what counted (RFC 9112 section 6.3); a length beside them may be wrong.
        head.headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(&mut head.headers);
    head.extensions.clear();
    // hyper writes the version of the client's connection.
    head.version = Version::HTTP_11;
}

/// Whether a request's body is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasBody {
    /// Something follows the head.
    Yes,
    /// Nothing does.
    No,
}

fn target_for_http1(request: &mut Parts, has_body: HasBody) -> Result<(), Failure> {
    if let Some(authority) = request.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str());
        request.headers.insert(HOST, host.map_err(|_| Failure::InvalidRequest)?);
    }
    let path = request.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    request.uri = Uri::from(path);
    join_cookies(&mut request.headers);
    request.version = Version::HTTP_11;
    match request.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) {
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

fn target_for_http2(request: &mut Parts) -> Result<(), Failure> {
    let authority = match (request.uri.authority(), request.headers.get(HOST)) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Failure::InvalidRequest)?
        }
        (None, None) => return Err(Failure::InvalidRequest),
    };
    request.headers.remove(HOST);
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
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

fn append_client(headers: &mut HeaderMap, client: IpAddr) {
    let client = client.to_canonical();
    let mut chain = String::with_capacity(40);
    for value in headers.get_all(X_FORWARDED_FOR) {
        if let Ok(value) = value.to_str() {
            chain.push_str(value);
            chain.push_str(", ");
        }
    }
    // Writing into a string cannot fail.
    let _ = write!(chain, "{client}");
    if let Ok(value) = HeaderValue::try_from(chain) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(id) = headers.get(X_REQUEST_ID) {
        return id.clone();
    }
    let mut id = [0; 16];
    let mut left = fastrand::u64(..);
    for digit in &mut id {
        *digit = b"0123456789abcdef"[usize::try_from(left % 16).unwrap_or(0)];
        left >>= 4;
    }
    match HeaderValue::from_bytes(&id) {
        Ok(id) => {
            headers.insert(X_REQUEST_ID, id.clone());
            id
        }
        Err(_) => HeaderValue::from_static("0"),
    }
}

#[cfg(test)]
mod tests;

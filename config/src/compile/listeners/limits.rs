//! Bounds on the clients of a listener.
//!
//! Which of them mean something depends on the protocol; one that does not is refused, so that
//! nobody believes in a bound that is not there.

use tillgate_core::listener::{ListenerLimits, ListenerProtocol};

use super::protocol_text;
use crate::compile::Output;
use crate::defaults;
use crate::document::Spot;
use crate::kinds::listener::LimitsDoc;
use crate::scalar::{Size, Whole};

/// Every bound, in the order of the effective config.
pub(crate) const FIELDS: [&str; 15] = [
    "maxConnections",
    "maxConnectionsPerClient",
    "headerTimeout",
    "idleTimeout",
    "maxHeaderSize",
    "maxHeaders",
    "maxUriSize",
    "maxStreams",
    "maxStreamResets",
    "maxRequests",
    "maxBodySize",
    "minBodyRate",
    "bodyTimeout",
    "maxSessions",
    "maxSessionsPerClient",
];

/// Whether a bound means something where `protocol` is spoken.
pub(crate) fn applies(field: &str, protocol: ListenerProtocol) -> bool {
    match field {
        "maxConnections" | "maxConnectionsPerClient" | "headerTimeout" => {
            protocol != ListenerProtocol::Udp
        }
        "maxHeaderSize" => protocol.is_http() || protocol == ListenerProtocol::TlsPassthrough,
        "maxSessions" | "maxSessionsPerClient" => protocol == ListenerProtocol::Udp,
        _ => protocol.is_http(),
    }
}

pub(super) fn limits(
    given: Option<&LimitsDoc>,
    protocol: ListenerProtocol,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> ListenerLimits {
    let given = given.copied().unwrap_or_default();
    not_meant(&given, protocol, spot, out);
    sizes(&given, spot, out);
    let path = |field: &str| format!("{base}.limits.{field}");
    let default = defaults::LIMITS;
    // Only what means something has an origin, because only that is shown.
    let mut kept = Output::default();
    let limits = read(&given, spot, &path, &default, &mut kept);
    for field in FIELDS.iter().filter(|field| applies(field, protocol)) {
        let path = path(field);
        if let Some(origin) = kept.origins.remove(&path) {
            out.origins.insert(path, origin);
        }
    }
    out.report.errors.append(&mut kept.report.errors);
    limits
}

fn read(
    given: &LimitsDoc,
    spot: &Spot<'_>,
    path: &dyn Fn(&str) -> String,
    default: &ListenerLimits,
    out: &mut Output,
) -> ListenerLimits {
    let small = |size: Option<Size>| size.map(|size| u32::try_from(size.0).unwrap_or(u32::MAX));
    let mut number = |field: &str, value: Option<u32>, default: u32| {
        out.value(&path(field), &spot.key(field), value, default)
    };
    let connections = given.max_connections.map(Whole::fit);
    let connections_max = number("maxConnections", connections, default.connections_max);
    let per_client = given.max_connections_per_client.map(Whole::fit);
    let connections_per_client_max =
        number("maxConnectionsPerClient", per_client, default.connections_per_client_max);
    let header_bytes_max =
        number("maxHeaderSize", small(given.max_header_size), default.header_bytes_max);
    let headers_max = number("maxHeaders", given.max_headers.map(Whole::fit), default.headers_max);
    let uri_bytes_max = number("maxUriSize", small(given.max_uri_size), default.uri_bytes_max);
    let streams_max = number("maxStreams", given.max_streams.map(Whole::fit), default.streams_max);
    let resets = given.max_stream_resets.map(Whole::fit);
    let stream_resets_max = number("maxStreamResets", resets, default.stream_resets_max);
    let requests = given.max_requests.map(Whole::fit);
    let requests_max = number("maxRequests", requests, default.requests_max);
    let sessions = given.max_sessions.map(Whole::fit);
    let sessions_max = number("maxSessions", sessions, default.sessions_max);
    let per_client = given.max_sessions_per_client.map(Whole::fit);
    let sessions_per_client_max =
        number("maxSessionsPerClient", per_client, default.sessions_per_client_max);
    let mut time =
        |field: &str, value, default| out.positive(&path(field), &spot.key(field), value, default);
    let header_timeout = time("headerTimeout", given.header_timeout, default.header_timeout);
    let idle_timeout = time("idleTimeout", given.idle_timeout, default.idle_timeout);
    let body_bytes = given.max_body_size.map(|size| Some(size.0));
    let body_rate = given.min_body_rate.map(|rate| Some(rate.0));
    let body_time = given.body_timeout.map(|time| (!time.0.is_zero()).then_some(time.0));
    ListenerLimits {
        connections_max,
        connections_per_client_max,
        header_timeout,
        idle_timeout,
        header_bytes_max,
        headers_max,
        uri_bytes_max,
        streams_max,
        stream_resets_max,
        requests_max,
        body_bytes_max: out.value(
            &path("maxBodySize"),
            &spot.key("maxBodySize"),
            body_bytes,
            default.body_bytes_max,
        ),
        body_rate_min: out.value(
            &path("minBodyRate"),
            &spot.key("minBodyRate"),
            body_rate,
            default.body_rate_min,
        ),
        body_timeout: out.value(
            &path("bodyTimeout"),
            &spot.key("bodyTimeout"),
            body_time,
            default.body_timeout,
        ),
        sessions_max,
        sessions_per_client_max,
    }
}

/// Bounds that mean nothing where this protocol is spoken.
fn not_meant(given: &LimitsDoc, protocol: ListenerProtocol, spot: &Spot<'_>, out: &mut Output) {
    let is_given = [
        given.max_connections.is_some(),
        given.max_connections_per_client.is_some(),
        given.header_timeout.is_some(),
        given.idle_timeout.is_some(),
        given.max_header_size.is_some(),
        given.max_headers.is_some(),
        given.max_uri_size.is_some(),
        given.max_streams.is_some(),
        given.max_stream_resets.is_some(),
        given.max_requests.is_some(),
        given.max_body_size.is_some(),
        given.min_body_rate.is_some(),
        given.body_timeout.is_some(),
        given.max_sessions.is_some(),
        given.max_sessions_per_client.is_some(),
    ];
    for (field, is_given) in FIELDS.iter().zip(is_given) {
        if !is_given || applies(field, protocol) {
            continue;
        }
        let text = protocol_text(protocol);
        let instead = match (*field, protocol) {
            ("idleTimeout", _) => "write `idleTimeout` beside `protocol`".to_owned(),
            ("maxConnections", ListenerProtocol::Udp) => "write `maxSessions`".to_owned(),
            ("maxConnectionsPerClient", ListenerProtocol::Udp) => {
                "write `maxSessionsPerClient`".to_owned()
            }
            _ => format!("remove `{field}`"),
        };
        out.error(spot.key(field).finding(format!(
            "the limit `{field}` has no meaning where {text} is spoken: {instead}"
        )));
    }
}

fn sizes(given: &LimitsDoc, spot: &Spot<'_>, out: &mut Output) {
    let header = given.max_header_size.map(|size| size.0);
    if header.is_some_and(|bytes| !(1024..=1024 * 1024).contains(&bytes)) {
        out.error(
            spot.key("maxHeaderSize")
                .finding("the size of a request's head is out of range: use one from 1Ki to 1Mi"),
        );
    }
    let uri = given.max_uri_size.map(|size| size.0);
    let head = header.unwrap_or_else(|| defaults::LIMITS.header_bytes_max.into());
    if uri.is_some_and(|bytes| bytes < 512) {
        out.error(
            spot.key("maxUriSize")
                .finding("common paths would be refused: allow a target of 1Ki or more"),
        );
    } else if uri.is_some_and(|bytes| bytes > head) {
        let message = "a target that long would not fit into a head of `maxHeaderSize`: raise \
                       that, or lower `maxUriSize`";
        let finding = spot.key("maxUriSize").finding(message);
        out.error(finding.related(spot.key("maxHeaderSize").place(), "is the size of a head"));
    }
}

//! What is under the protocol of a backend: PROXY header, resolution of names, TCP settings.
//!
//! Settings that the protocol has no use for are refused, so that nothing is written in vain.

use std::time::Duration;

use tillgate_core::backend::{
    AddressFamily, BackendProtocol, DnsSpec, Endpoint, Host, ProxyProtocol, TcpSpec,
};

use crate::compile::Output;
use crate::defaults;
use crate::document::Spot;
use crate::kinds::BackendDoc;
use crate::kinds::backend::{FamilyDoc, ProxyProtocolOut};
use crate::scalar::{DurationText, Whole};

/// Asking for a name more often than this is a load on the resolver, and no use.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// The header that tells the servers who the client is. A connection of HTTP/2 carries the
/// requests of many clients, so that it cannot have one.
pub(super) fn proxy_protocol(
    backend: &BackendDoc,
    protocol: BackendProtocol,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Option<ProxyProtocol> {
    let version = match backend.spec.proxy_protocol? {
        ProxyProtocolOut::V1 => ProxyProtocol::V1,
        ProxyProtocolOut::V2 => ProxyProtocol::V2,
    };
    let spot = spot.key("proxyProtocol");
    let why = match protocol {
        BackendProtocol::Http | BackendProtocol::Tcp => None,
        BackendProtocol::Http2 | BackendProtocol::Grpc => {
            Some("one HTTP/2 connection carries the requests of many clients")
        }
        BackendProtocol::Udp => Some("datagrams have no place for one"),
    };
    if let Some(why) = why {
        out.error(spot.finding(format!(
            "a PROXY header cannot tell the servers who the client is, because {why}: remove \
             `proxyProtocol`, or use `protocol: HTTP` or `TCP`"
        )));
    }
    Some(out.given(&format!("{base}.proxyProtocol"), &spot, version))
}

pub(super) fn dns(
    backend: &BackendDoc,
    endpoints: &[Endpoint],
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> DnsSpec {
    let spot = spot.key("dns");
    let given = backend.spec.dns.unwrap_or_default();
    let family = given.family.map(|family| match family {
        FamilyDoc::Auto => AddressFamily::Auto,
        FamilyDoc::Ipv4 => AddressFamily::Ipv4,
        FamilyDoc::Ipv6 => AddressFamily::Ipv6,
    });
    let named = endpoints.iter().any(|one| matches!(one.host, Host::Name(_)));
    if backend.spec.dns.is_some() && !endpoints.is_empty() && !named {
        out.error(spot.finding(
            "no endpoint of the backend has a name, so nothing is resolved: remove `dns`, or write \
             the endpoint as `fqdn`",
        ));
    }
    for endpoint in endpoints {
        let Host::Ip(address) = endpoint.host else { continue };
        if family.is_some_and(|family| !family.takes(address)) && named {
            out.error(spot.key("family").finding(format!(
                "the endpoint `{endpoint}` is of the other family: write `family: Auto`, or remove \
                 the endpoint"
            )));
        }
    }
    let refresh = given.refresh;
    if refresh.is_some_and(|time| !time.0.is_zero() && time.0 < REFRESH_MIN) {
        out.error(spot.key("refresh").finding(
            "names would be asked for more than once a second: write `1s` or more, as `30s`",
        ));
    }
    let path = |field: &str| format!("{base}.dns.{field}");
    let default = defaults::DNS;
    DnsSpec {
        family: out.value(&path("family"), &spot.key("family"), family, default.family),
        refresh: out.positive(&path("refresh"), &spot.key("refresh"), refresh, default.refresh),
        timeout: out.positive(
            &path("timeout"),
            &spot.key("timeout"),
            given.timeout,
            default.timeout,
        ),
    }
}

pub(super) fn tcp(
    backend: &BackendDoc,
    protocol: BackendProtocol,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> TcpSpec {
    if protocol == BackendProtocol::Udp {
        let fields = [
            ("tcpKeepalive", backend.spec.tcp_keepalive.is_some()),
            ("tcpUserTimeout", backend.spec.tcp_user_timeout.is_some()),
            ("connectionPool", backend.spec.connection_pool.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, given)| *given) {
            out.error(spot.key(field).finding(format!(
                "the backend speaks UDP, which has no connections: remove `{field}`"
            )));
        }
        return defaults::TCP;
    }
    let given = backend.spec.tcp_keepalive.unwrap_or_default();
    let keepalive = spot.key("tcpKeepalive");
    let path = |field: &str| format!("{base}.tcpKeepalive.{field}");
    let default = defaults::TCP;
    whole_seconds(given.idle_time, &keepalive.key("idleTime"), out);
    whole_seconds(given.interval, &keepalive.key("interval"), out);
    TcpSpec {
        keepalive_idle: out.positive(
            &path("idleTime"),
            &keepalive.key("idleTime"),
            given.idle_time,
            default.keepalive_idle,
        ),
        keepalive_interval: out.positive(
            &path("interval"),
            &keepalive.key("interval"),
            given.interval,
            default.keepalive_interval,
        ),
        keepalive_probes: out.value(
            &path("probes"),
            &keepalive.key("probes"),
            given.probes.map(Whole::fit),
            default.keepalive_probes,
        ),
        user_timeout: out.positive(
            &format!("{base}.tcpUserTimeout"),
            &spot.key("tcpUserTimeout"),
            backend.spec.tcp_user_timeout,
            default.user_timeout,
        ),
    }
}

/// Linux counts keep-alives in seconds.
fn whole_seconds(given: Option<DurationText>, spot: &Spot<'_>, out: &mut Output) {
    if given.is_some_and(|time| time.0.subsec_millis() != 0) {
        out.error(
            spot.finding(
                "keep-alives are counted in whole seconds: write a duration such as `60s`",
            ),
        );
    }
}

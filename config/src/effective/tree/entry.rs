//! Listeners, backends and telemetry as plain data.
//!
//! What a protocol has no use for is not shown, and what is not set is left out where it is an
//! object of its own (TLS, a PROXY header).

use tillgate_core::backend::{AddressFamily, BackendProtocol, BackendSpec, ProxyProtocol};
use tillgate_core::listener::ListenerSpec;
use tillgate_core::tls::{
    ClientAuth, ClientCertificates, ClientTls, KeyPair, ServerTls, TlsVersion, TrustAnchors,
};

use super::{Effective, Value, class_name, health, list, location, map, number, optional, text};
use crate::compile::{dials, has_class, limit_applies, protocol_text};
use crate::effective::telemetry::{ClassLog, ClientAddress, LogOutput, LoggedHeader, TracingSpec};
use crate::scalar::{duration_text, size_text};

type Entries = Vec<(String, Value)>;

fn entries<const N: usize>(list: [(&str, Value); N]) -> Entries {
    list.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

pub(super) fn of_listener(one: &ListenerSpec, config: &Effective) -> Value {
    let mut shown =
        entries([("protocol", text(protocol_text(one.protocol))), ("address", text(one.address))]);
    let mut show = |key: &str, value: Value| shown.push((key.to_owned(), value));
    if let Some(tls) = &one.tls {
        show("tls", of_server_tls(tls));
    }
    if let Some(trust) = &one.proxy_protocol {
        show("proxyProtocol", map([("trustedSources", list(&trust.trusted_sources, text))]));
    }
    if let Some(backend) = one.backend {
        show("backend", text(&config.backend(backend).name));
    }
    if has_class(one.protocol) {
        show("trafficClass", class_name(one.class, config));
    }
    if one.protocol == tillgate_core::listener::ListenerProtocol::TlsPassthrough {
        show("destinationPort", number(one.destination_port));
    }
    if dials(one.protocol) {
        show("connectTimeout", text(duration_text(one.timeouts.connect)));
        show("idleTimeout", text(duration_text(one.timeouts.idle)));
    }
    show("limits", of_limits(one));
    Value::Map(shown)
}

fn of_limits(one: &ListenerSpec) -> Value {
    let limits = &one.limits;
    let all = entries([
        ("maxConnections", number(limits.connections_max)),
        ("maxConnectionsPerClient", number(limits.connections_per_client_max)),
        ("headerTimeout", text(duration_text(limits.header_timeout))),
        ("idleTimeout", text(duration_text(limits.idle_timeout))),
        ("maxHeaderSize", text(size_text(limits.header_bytes_max.into()))),
        ("maxHeaders", number(limits.headers_max)),
        ("maxUriSize", text(size_text(limits.uri_bytes_max.into()))),
        ("maxStreams", number(limits.streams_max)),
        ("maxStreamResets", number(limits.stream_resets_max)),
        ("maxRequests", number(limits.requests_max)),
        ("maxBodySize", optional(limits.body_bytes_max, |bytes| text(size_text(bytes)))),
        ("minBodyRate", optional(limits.body_rate_min, text)),
        // `0s` is the language's word for "no limit of its own".
        ("bodyTimeout", text(duration_text(limits.body_timeout.unwrap_or_default()))),
        ("maxSessions", number(limits.sessions_max)),
        ("maxSessionsPerClient", number(limits.sessions_per_client_max)),
    ]);
    Value::Map(all.into_iter().filter(|(key, _)| limit_applies(key, one.protocol)).collect())
}

fn version(version: TlsVersion) -> Value {
    text(match version {
        TlsVersion::V1_2 => "1.2",
        TlsVersion::V1_3 => "1.3",
    })
}

fn of_pair(pair: &KeyPair) -> Value {
    map([("certFile", text(pair.cert_file.display())), ("keyFile", text(pair.key_file.display()))])
}

pub(super) fn of_server_tls(tls: &ServerTls) -> Value {
    let mut shown = entries([("certificates", list(&tls.certificates, of_pair))]);
    if let Some(ClientCertificates { mode, ca_file }) = &tls.client_certificates {
        let mode = match mode {
            ClientAuth::Required => "Required",
            ClientAuth::Optional => "Optional",
        };
        let value = map([("mode", text(mode)), ("caFile", text(ca_file.display()))]);
        shown.push(("clientCertificates".to_owned(), value));
    }
    shown.push(("minVersion".to_owned(), version(tls.min_version)));
    Value::Map(shown)
}

fn of_client_tls(tls: &ClientTls) -> Value {
    let mut shown = Entries::new();
    if let Some(sni) = &tls.sni {
        shown.push(("sni".to_owned(), text(sni)));
    }
    let roots = match &tls.roots {
        TrustAnchors::System => text("system"),
        TrustAnchors::File(file) => text(file.display()),
    };
    shown.push(("caFile".to_owned(), roots));
    if let Some(pair) = &tls.certificate {
        shown.push(("clientCertificate".to_owned(), of_pair(pair)));
    }
    shown.push(("minVersion".to_owned(), version(tls.min_version)));
    Value::Map(shown)
}

pub(super) fn of_backend(one: &BackendSpec) -> Value {
    let protocol = match one.protocol {
        BackendProtocol::Http => "HTTP",
        BackendProtocol::Http2 => "HTTP2",
        BackendProtocol::Grpc => "GRPC",
        BackendProtocol::Tcp => "TCP",
        BackendProtocol::Udp => "UDP",
    };
    let mut shown = entries([
        ("location", location(one.location)),
        ("protocol", text(protocol)),
        ("endpoints", list(&one.endpoints, text)),
    ]);
    let mut show = |key: &str, value: Value| shown.push((key.to_owned(), value));
    if let Some(tls) = &one.tls {
        show("tls", of_client_tls(tls));
    }
    if let Some(version) = one.proxy_protocol {
        let version = match version {
            ProxyProtocol::V1 => "V1",
            ProxyProtocol::V2 => "V2",
        };
        show("proxyProtocol", text(version));
    }
    let family = match one.dns.family {
        AddressFamily::Auto => "Auto",
        AddressFamily::Ipv4 => "IPv4",
        AddressFamily::Ipv6 => "IPv6",
    };
    let dns = map([
        ("family", text(family)),
        ("refresh", text(duration_text(one.dns.refresh))),
        ("timeout", text(duration_text(one.dns.timeout))),
    ]);
    show("dns", dns);
    if one.protocol != BackendProtocol::Udp {
        show("connectionPool", of_pool(one));
        let keepalive = map([
            ("idleTime", text(duration_text(one.tcp.keepalive_idle))),
            ("interval", text(duration_text(one.tcp.keepalive_interval))),
            ("probes", number(one.tcp.keepalive_probes)),
        ]);
        show("tcpKeepalive", keepalive);
        show("tcpUserTimeout", text(duration_text(one.tcp.user_timeout)));
    }
    if let Some(active) = &one.health.active {
        show("healthCheck", health::of_health(&one.health, active));
        show("circuitBreaker", health::of_circuit(&one.circuit));
    }
    Value::Map(shown)
}

fn of_pool(one: &BackendSpec) -> Value {
    map([
        ("maxConnections", number(one.pool.connections_max)),
        ("maxWaiting", number(one.pool.waiting_max)),
        ("idleTimeout", text(duration_text(one.pool.idle_timeout))),
        ("maxAge", text(duration_text(one.pool.age_max))),
    ])
}

pub(super) fn of_telemetry(config: &Effective) -> Value {
    let telemetry = &config.telemetry;
    if telemetry.access_log.classes.is_empty() && telemetry.tracing.is_none() {
        return Value::Null;
    }
    let output = match &telemetry.access_log.output {
        LogOutput::Stdout => text("stdout"),
        LogOutput::File(file) => text(file.display()),
    };
    let names = config.classes.iter().map(|(_, class)| class.name.to_string());
    let logs = telemetry.access_log.classes.iter();
    let classes = names.zip(logs.map(|log| optional(log.as_ref(), of_class_log)));
    let client = text(match telemetry.access_log.client {
        ClientAddress::Full => "Full",
        ClientAddress::Prefix => "Prefix",
        ClientAddress::Hash => "Hash",
    });
    let classes = Value::Map(classes.collect());
    let log = map([("output", output), ("clientAddress", client), ("classes", classes)]);
    let tracing = optional(telemetry.tracing.as_ref(), |one| of_tracing(one, config));
    map([("accessLog", log), ("tracing", tracing)])
}

fn of_class_log(log: &ClassLog) -> Value {
    let mut shown = entries([("sampling", text(log.sampling))]);
    if !log.headers.is_empty() {
        let header = |one: &LoggedHeader| {
            map([("name", text(&one.name)), ("redacted", Value::Flag(one.redacted))])
        };
        shown.push(("headers".to_owned(), list(&log.headers, header)));
    }
    Value::Map(shown)
}

fn of_tracing(one: &TracingSpec, config: &Effective) -> Value {
    map([
        ("endpoint", text(&one.endpoint)),
        ("location", location(one.location)),
        ("sampling", text(one.sampling)),
        ("trafficClass", class_name(Some(one.class), config)),
    ])
}

//! Listeners: the built-in three, what replaces them, what is new.
//!
//! A document with the name of a built-in listener replaces it as a whole. What would open the
//! store to its network by mistake is refused here: a forward proxy for everyone, a second admin
//! listener, two listeners on one address.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tillgate_core::listener::{ListenerLimits, ListenerProtocol, ListenerSpec};

use super::select::Selected;
use super::{Output, step};
use crate::defaults;
use crate::document::{Document, Spot};
use crate::effective::Origin;
use crate::kinds::ListenerDoc;
use crate::kinds::listener::{LimitsDoc, ListenerProtocolDoc};
use crate::scalar::Whole;

/// The listeners in the order HTTP, forward proxy, admin, then others by name.
pub(super) fn compile(
    selected: &Selected<'_>,
    has_egress: bool,
    out: &mut Output,
) -> Vec<ListenerSpec> {
    let mut own: BTreeMap<&str, (&Document, &ListenerDoc)> =
        selected.listeners.iter().map(|one| (&*one.0.name, *one)).collect();
    let mut listeners = Vec::new();
    let mut addresses: BTreeMap<SocketAddr, (String, Option<Spot<'_>>)> = BTreeMap::new();
    for (name, protocol, address) in defaults::LISTENERS {
        let spec = match own.remove(name) {
            Some((document, listener)) => {
                keeps_protocol(document, listener, protocol, out);
                one(document, listener, out)
            }
            None => built_in(name, protocol, address, out),
        };
        listeners.push((spec, selected.listeners.iter().find(|one| *one.0.name == *name)));
    }
    for (document, listener) in own.values() {
        let found = selected.listeners.iter().find(|one| one.0.name == document.name);
        listeners.push((one(document, listener, out), found));
    }
    for (spec, source) in &listeners {
        let spot = source.map(|(document, _)| document.spec().key("address"));
        check(spec, spot.as_ref(), has_egress, out);
        let Some((first, first_spot)) = addresses.get(&spec.address) else {
            if spec.address.port() != 0 {
                addresses.insert(spec.address, (spec.name.to_string(), spot));
            }
            continue;
        };
        let Some(place) = spot.as_ref().or(first_spot.as_ref()) else { continue };
        out.error(place.finding(format!(
            "the listeners `{first}` and `{}` have the same address {}: give one another port",
            spec.name, spec.address
        )));
    }
    listeners.into_iter().map(|(spec, _)| spec).collect()
}

fn built_in(
    name: &str,
    protocol: ListenerProtocol,
    address: SocketAddr,
    out: &mut Output,
) -> ListenerSpec {
    let base = format!("listeners.{}", step(name));
    let fields = [
        "maxConnections",
        "headerTimeout",
        "idleTimeout",
        "maxHeaderSize",
        "maxHeaders",
        "maxStreams",
    ];
    for field in ["address", "protocol"] {
        out.origins.insert(format!("{base}.{field}"), Origin::Default);
    }
    for field in fields {
        out.origins.insert(format!("{base}.limits.{field}"), Origin::Default);
    }
    let timeouts = defaults::stream_timeouts(protocol);
    ListenerSpec::plain(name, protocol, address, timeouts, defaults::LIMITS)
}

fn protocol_of(protocol: ListenerProtocolDoc) -> ListenerProtocol {
    match protocol {
        ListenerProtocolDoc::Http => ListenerProtocol::Http,
        ListenerProtocolDoc::ForwardProxy => ListenerProtocol::ForwardProxy,
        ListenerProtocolDoc::Admin => ListenerProtocol::Admin,
    }
}

/// What a listener speaks, as a policy writes it.
pub(crate) fn protocol_text(protocol: ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Http => "HTTP",
        ListenerProtocol::ForwardProxy => "ForwardProxy",
        ListenerProtocol::Admin => "Admin",
        ListenerProtocol::TlsPassthrough => "TLSPassthrough",
        ListenerProtocol::Tcp => "TCP",
        ListenerProtocol::Udp => "UDP",
    }
}

fn keeps_protocol(
    document: &Document,
    listener: &ListenerDoc,
    protocol: ListenerProtocol,
    out: &mut Output,
) {
    let given = protocol_of(listener.spec.protocol);
    if given != protocol {
        out.error(document.spec().key("protocol").finding(format!(
            "the built-in listener `{}` speaks {}, not {}: keep its protocol, or give the document \
             another name",
            document.name,
            protocol_text(protocol),
            protocol_text(given)
        )));
    }
}

fn one(document: &Document, listener: &ListenerDoc, out: &mut Output) -> ListenerSpec {
    let spot = document.spec();
    let base = format!("listeners.{}", step(&document.name));
    let protocol = protocol_of(listener.spec.protocol);
    let is_built_in = defaults::LISTENERS.iter().any(|(name, ..)| *document.name == **name);
    if protocol == ListenerProtocol::Admin && !is_built_in {
        out.error(spot.key("protocol").finding(format!(
            "there is one admin listener, and `{}` would be a second: name the document `admin` to \
             move it",
            document.name
        )));
    }
    ListenerSpec {
        name: document.name.clone(),
        address: out.given(
            &format!("{base}.address"),
            &spot.key("address"),
            listener.spec.address.0,
        ),
        protocol: out.given(&format!("{base}.protocol"), &spot.key("protocol"), protocol),
        tls: None,
        proxy_protocol: None,
        backend: None,
        class: None,
        destination_port: tillgate_core::listener::HTTPS_PORT,
        timeouts: defaults::stream_timeouts(protocol),
        limits: limits(listener.spec.limits.as_ref(), &spot.key("limits"), &base, out),
    }
}

fn limits(
    limits: Option<&LimitsDoc>,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> ListenerLimits {
    let default = defaults::LIMITS;
    let path = |field: &str| format!("{base}.limits.{field}");
    let size = limits.and_then(|limits| limits.max_header_size).map(|size| size.0);
    if size.is_some_and(|bytes| !(1024..=1024 * 1024).contains(&bytes)) {
        out.error(
            spot.key("maxHeaderSize")
                .finding("the size of a request's head is out of range: use one from 1Ki to 1Mi"),
        );
    }
    ListenerLimits {
        connections_max: out.value(
            &path("maxConnections"),
            &spot.key("maxConnections"),
            limits.and_then(|limits| limits.max_connections).map(Whole::fit),
            default.connections_max,
        ),
        header_timeout: out.positive(
            &path("headerTimeout"),
            &spot.key("headerTimeout"),
            limits.and_then(|limits| limits.header_timeout),
            default.header_timeout,
        ),
        idle_timeout: out.positive(
            &path("idleTimeout"),
            &spot.key("idleTimeout"),
            limits.and_then(|limits| limits.idle_timeout),
            default.idle_timeout,
        ),
        header_bytes_max: out.value(
            &path("maxHeaderSize"),
            &spot.key("maxHeaderSize"),
            size.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
            default.header_bytes_max,
        ),
        headers_max: out.value(
            &path("maxHeaders"),
            &spot.key("maxHeaders"),
            limits.and_then(|limits| limits.max_headers).map(Whole::fit),
            default.headers_max,
        ),
        streams_max: out.value(
            &path("maxStreams"),
            &spot.key("maxStreams"),
            limits.and_then(|limits| limits.max_streams).map(Whole::fit),
            default.streams_max,
        ),
        ..default
    }
}

/// What an address that is not loopback opens to the network.
fn check(spec: &ListenerSpec, spot: Option<&Spot<'_>>, has_egress: bool, out: &mut Output) {
    let (Some(spot), false) = (spot, spec.address.ip().is_loopback()) else { return };
    match spec.protocol {
        ListenerProtocol::ForwardProxy if !has_egress => out.error(spot.finding(format!(
            "the forward proxy would be open to everyone at {}: add an EgressPolicy, or listen on \
             127.0.0.1",
            spec.address
        ))),
        ListenerProtocol::Admin => out.report.lints.push(spot.finding(format!(
            "the admin listener has no access control and would be reachable at {}: listen on \
             127.0.0.1 unless the network protects it",
            spec.address
        ))),
        ListenerProtocol::ForwardProxy
        | ListenerProtocol::Http
        | ListenerProtocol::TlsPassthrough
        | ListenerProtocol::Tcp
        | ListenerProtocol::Udp => {}
    }
}

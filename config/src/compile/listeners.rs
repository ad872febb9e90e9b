//! Listeners: the built-in three, what replaces them, what is new.
//!
//! A document with the name of a built-in listener replaces it as a whole. What would open the
//! store to its network by mistake is refused here (a proxy for everyone, a second admin
//! listener, two listeners on one address), and so is a field that its protocol cannot follow.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tillgate_core::backend::{BackendId, BackendProtocol};
use tillgate_core::class::{ClassId, ClassTable, DEFAULT_CLASS};
use tillgate_core::listener::{
    HTTPS_PORT, ListenerProtocol, ListenerSpec, ProxyTrust, StreamTimeouts,
};

use super::backends::Compiled;
use super::select::Selected;
use super::{Input, Output, dangling, egress, step, tls};
use crate::defaults;
use crate::document::{Document, Spot};
use crate::effective::Origin;
use crate::kinds::listener::{ListenerProtocolDoc, ListenerSpecDoc};
use crate::kinds::{Kind, ListenerDoc};
use crate::scalar::Whole;

pub(super) mod limits;

/// What a listener may refer to.
pub(super) struct Known<'a> {
    pub(super) input: &'a Input,
    pub(super) classes: &'a Option<ClassTable>,
    pub(super) backends: &'a [Compiled],
    pub(super) has_egress: bool,
}

/// The listeners in the order HTTP, forward proxy, admin, then others by name.
pub(super) fn compile(
    selected: &Selected<'_>,
    known: &Known<'_>,
    out: &mut Output,
) -> Vec<ListenerSpec> {
    let mut own: BTreeMap<&str, (&Document, &ListenerDoc)> =
        selected.listeners.iter().map(|one| (&*one.0.name, *one)).collect();
    let mut listeners = Vec::new();
    for (name, protocol, address) in defaults::LISTENERS {
        let document = own.remove(name);
        let spec = match document {
            Some((document, listener)) => {
                keeps_protocol(document, listener, protocol, out);
                one(document, listener, known, out)
            }
            None => built_in(name, protocol, address, out),
        };
        listeners.push((spec, document.map(|one| one.0)));
    }
    for (document, listener) in own.into_values() {
        listeners.push((one(document, listener, known, out), Some(document)));
    }
    addresses(&listeners, known.has_egress, out);
    listeners.into_iter().map(|(spec, _)| spec).collect()
}

/// The mirror's own listener joins the others: its name and its address are its alone.
pub(super) fn join(
    listeners: &mut Vec<ListenerSpec>,
    own: Option<ListenerSpec>,
    selected: &Selected<'_>,
    out: &mut Output,
) {
    let (Some(own), Some((document, _))) = (own, selected.mirror) else { return };
    let spot = document.spec().key("address");
    let is_taken = |one: &&ListenerSpec| {
        let same = one.address == own.address && own.address.port() != 0;
        one.name == own.name || same && one.protocol != ListenerProtocol::Udp
    };
    if let Some(other) = listeners.iter().find(is_taken) {
        out.error(spot.finding(format!(
            "the mirror's listener `{}` at {} is in the way of the listener `{}` at {}: change one \
             of them",
            own.name, own.address, other.name, other.address
        )));
    }
    listeners.push(own);
}

/// Every address is taken once, by TCP and by UDP, and opens nothing by mistake.
fn addresses(listeners: &[(ListenerSpec, Option<&Document>)], has_egress: bool, out: &mut Output) {
    let mut taken: BTreeMap<(bool, SocketAddr), (&str, Option<Spot<'_>>)> = BTreeMap::new();
    for (spec, document) in listeners {
        let spot = document.map(|document| document.spec().key("address"));
        open(spec, spot.as_ref(), has_egress, out);
        let key = (spec.protocol == ListenerProtocol::Udp, spec.address);
        let Some((first, first_spot)) = taken.get(&key) else {
            if spec.address.port() != 0 {
                taken.insert(key, (&*spec.name, spot));
            }
            continue;
        };
        let Some(place) = spot.as_ref().or(first_spot.as_ref()) else { continue };
        out.error(place.finding(format!(
            "the listeners `{first}` and `{}` have the same address {}: give one another port",
            spec.name, spec.address
        )));
    }
}

fn built_in(
    name: &str,
    protocol: ListenerProtocol,
    address: SocketAddr,
    out: &mut Output,
) -> ListenerSpec {
    let base = format!("listeners.{}", step(name));
    let mut note = |field: &str| out.origins.insert(format!("{base}.{field}"), Origin::Default);
    for field in ["address", "protocol"] {
        note(field);
    }
    if dials(protocol) {
        note("connectTimeout");
        note("idleTimeout");
    }
    for field in limits::FIELDS.iter().filter(|field| limits::applies(field, protocol)) {
        note(&format!("limits.{field}"));
    }
    let timeouts = defaults::stream_timeouts(protocol);
    ListenerSpec::plain(name, protocol, address, timeouts, defaults::LIMITS)
}

fn protocol_of(protocol: ListenerProtocolDoc) -> ListenerProtocol {
    match protocol {
        ListenerProtocolDoc::Http => ListenerProtocol::Http,
        ListenerProtocolDoc::ForwardProxy => ListenerProtocol::ForwardProxy,
        ListenerProtocolDoc::Admin => ListenerProtocol::Admin,
        ListenerProtocolDoc::TlsPassthrough => ListenerProtocol::TlsPassthrough,
        ListenerProtocolDoc::Tcp => ListenerProtocol::Tcp,
        ListenerProtocolDoc::Udp => ListenerProtocol::Udp,
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
        ListenerProtocol::Registry => "Registry",
        ListenerProtocol::ConfigEndpoint => "ConfigEndpoint",
    }
}

/// Whether the listener itself says how long a connection to a server may take.
pub(crate) fn dials(protocol: ListenerProtocol) -> bool {
    !matches!(
        protocol,
        ListenerProtocol::Http
            | ListenerProtocol::Admin
            | ListenerProtocol::Registry
            | ListenerProtocol::ConfigEndpoint
    )
}

/// Whether everything goes to one backend.
fn is_forward(protocol: ListenerProtocol) -> bool {
    matches!(protocol, ListenerProtocol::Tcp | ListenerProtocol::Udp)
}

/// Whether the listener names a class.
pub(crate) fn has_class(protocol: ListenerProtocol) -> bool {
    is_forward(protocol) || protocol == ListenerProtocol::TlsPassthrough
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

fn one(
    document: &Document,
    listener: &ListenerDoc,
    known: &Known<'_>,
    out: &mut Output,
) -> ListenerSpec {
    let spec = &listener.spec;
    let spot = document.spec();
    let base = format!("listeners.{}", step(&document.name));
    let protocol = protocol_of(spec.protocol);
    let is_built_in = defaults::LISTENERS.iter().any(|(name, ..)| *document.name == **name);
    if protocol == ListenerProtocol::Admin && !is_built_in {
        out.error(spot.key("protocol").finding(format!(
            "there is one admin listener, and `{}` would be a second: name the document `admin` to \
             move it",
            document.name
        )));
    }
    not_meant(spec, protocol, &spot, out);
    let port = spec.destination_port.map(Whole::fit);
    let port = if protocol == ListenerProtocol::TlsPassthrough {
        let path = format!("{base}.destinationPort");
        out.value(&path, &spot.key("destinationPort"), port, HTTPS_PORT)
    } else {
        HTTPS_PORT
    };
    let tls = spec.tls.as_ref().filter(|_| may_have_tls(protocol));
    ListenerSpec {
        name: document.name.clone(),
        address: out.given(&format!("{base}.address"), &spot.key("address"), spec.address.0),
        protocol: out.given(&format!("{base}.protocol"), &spot.key("protocol"), protocol),
        tls: tls.map(|tls| tls::server(tls, &spot.key("tls"), &format!("{base}.tls"), out)),
        proxy_protocol: proxy_trust(spec, &spot, &base, out),
        backend: backend(document, spec, protocol, known, out),
        class: class(spec, protocol, (&spot, &base), known, out),
        destination_port: port,
        timeouts: timeouts(spec, protocol, &spot, &base, out),
        limits: limits::limits(spec.limits.as_ref(), protocol, &spot.key("limits"), &base, out),
    }
}

fn may_have_tls(protocol: ListenerProtocol) -> bool {
    matches!(
        protocol,
        ListenerProtocol::Http | ListenerProtocol::ForwardProxy | ListenerProtocol::Registry
    )
}

/// Fields that the protocol cannot follow, each with what to do instead.
fn not_meant(
    spec: &ListenerSpecDoc,
    protocol: ListenerProtocol,
    spot: &Spot<'_>,
    out: &mut Output,
) {
    let text = protocol_text(protocol);
    let mut refuse = |field: &str, given: bool, meant: bool, why: &str| {
        if given && !meant {
            let message = format!("`{field}` has no meaning where {text} is spoken: {why}");
            out.error(spot.key(field).finding(message));
        }
    };
    let passes = protocol == ListenerProtocol::TlsPassthrough;
    let tls = if passes {
        "TLS is passed on unread, so certificates are the servers' own; remove it, or write \
         `protocol: HTTP`"
    } else {
        "TLS ends at HTTP and ForwardProxy listeners only; remove it"
    };
    refuse("tls", spec.tls.is_some(), may_have_tls(protocol), tls);
    let believes = !matches!(protocol, ListenerProtocol::Udp | ListenerProtocol::Admin);
    let header = "no PROXY header comes before it; remove it";
    refuse("proxyProtocol", spec.proxy_protocol.is_some(), believes, header);
    let backend = if protocol == ListenerProtocol::Http {
        "requests are routed by ServiceRoutes; remove it"
    } else {
        "clients name the destination themselves; remove it"
    };
    refuse("backendRef", spec.backend_ref.is_some(), is_forward(protocol), backend);
    let class = "the class follows from routes and egress rules; name it there";
    refuse("trafficClass", spec.traffic_class.is_some(), has_class(protocol), class);
    let port = "clients or backends name the port; remove it";
    refuse("destinationPort", spec.destination_port.is_some(), passes, port);
    let timeout = "routes have `timeouts`, and `limits.idleTimeout` ends idle clients; write it \
                   there";
    refuse("connectTimeout", spec.connect_timeout.is_some(), dials(protocol), timeout);
    refuse("idleTimeout", spec.idle_timeout.is_some(), dials(protocol), timeout);
}

fn proxy_trust(
    spec: &ListenerSpecDoc,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Option<ProxyTrust> {
    let given = spec.proxy_protocol.as_ref()?;
    let list = spot.key("proxyProtocol").key("trustedSources");
    for (index, network) in given.trusted_sources.iter().enumerate() {
        if network.0.prefix_len() == 0 {
            out.error(list.index(index).finding(format!(
                "`{}` would let every client say who it is: name the networks of the load \
                 balancers",
                network.0
            )));
        }
    }
    let networks = given.trusted_sources.iter().map(|network| network.0).collect();
    let base = format!("{base}.proxyProtocol");
    let about = (&list, "trustedSources", "network");
    Some(ProxyTrust { trusted_sources: egress::numbered(Some(networks), about, &base, out) })
}

fn backend(
    document: &Document,
    spec: &ListenerSpecDoc,
    protocol: ListenerProtocol,
    known: &Known<'_>,
    out: &mut Output,
) -> Option<BackendId> {
    if !is_forward(protocol) {
        return None;
    }
    let (text, wanted) = if protocol == ListenerProtocol::Udp {
        ("UDP", BackendProtocol::Udp)
    } else {
        ("TCP", BackendProtocol::Tcp)
    };
    let Some(reference) = &spec.backend_ref else {
        out.error(document.spec().key("protocol").finding(format!(
            "nothing says where the bytes of `{}` go: add `backendRef: {{name: …}}` with a Backend \
             of `protocol: {text}`",
            document.name
        )));
        return None;
    };
    let name = reference.name.0.as_str();
    let spot = document.spec().key("backendRef").key("name");
    let names: Vec<&str> = known.backends.iter().map(|one| &*one.spec.name).collect();
    let Some(position) = names.iter().position(|known| *known == name) else {
        out.report.errors.extend(dangling(known.input, Kind::Backend, name, &spot, names));
        return None;
    };
    if known.backends[position].spec.protocol != wanted {
        out.error(spot.finding(format!(
            "the backend `{name}` does not speak {text}, as the listener does: give it `protocol: \
             {text}`, or name another one"
        )));
    }
    let base = format!("listeners.{}", step(&document.name));
    out.given(&format!("{base}.backend"), &spot, u16::try_from(position).ok().map(BackendId))
}

fn class(
    spec: &ListenerSpecDoc,
    protocol: ListenerProtocol,
    (spot, base): (&Spot<'_>, &str),
    known: &Known<'_>,
    out: &mut Output,
) -> Option<ClassId> {
    let classes = known.classes.as_ref().filter(|_| has_class(protocol))?;
    let spot = spot.key("trafficClass");
    let given = spec.traffic_class.as_ref().map(|name| {
        let id = classes.id(&name.0);
        if id.is_none() {
            let names: Vec<&str> = classes.iter().map(|(_, class)| &*class.name).collect();
            let finding = dangling(known.input, Kind::TrafficClass, &name.0, &spot, names);
            out.report.errors.extend(finding);
        }
        id
    });
    out.value(&format!("{base}.trafficClass"), &spot, given, classes.id(DEFAULT_CLASS))
}

fn timeouts(
    spec: &ListenerSpecDoc,
    protocol: ListenerProtocol,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> StreamTimeouts {
    let default = defaults::stream_timeouts(protocol);
    if !dials(protocol) {
        return default;
    }
    let mut time = |field: &str, given, default| {
        out.positive(&format!("{base}.{field}"), &spot.key(field), given, default)
    };
    StreamTimeouts {
        connect: time("connectTimeout", spec.connect_timeout, default.connect),
        idle: time("idleTimeout", spec.idle_timeout, default.idle),
    }
}

/// What an address that is not loopback opens to the network.
fn open(spec: &ListenerSpec, spot: Option<&Spot<'_>>, has_egress: bool, out: &mut Output) {
    let (Some(spot), false) = (spot, spec.address.ip().is_loopback()) else { return };
    match spec.protocol {
        ListenerProtocol::ForwardProxy if !has_egress => out.error(spot.finding(format!(
            "the forward proxy would be open to everyone at {}: add an EgressPolicy, or listen on \
             127.0.0.1",
            spec.address
        ))),
        ListenerProtocol::TlsPassthrough if !has_egress => out.error(spot.finding(format!(
            "everyone at {} could reach any host through `{}`: add an EgressPolicy, or listen on \
             127.0.0.1",
            spec.address, spec.name
        ))),
        ListenerProtocol::Admin => out.report.lints.push(spot.finding(format!(
            "the admin listener has no access control and would be reachable at {}: listen on \
             127.0.0.1 unless the network protects it",
            spec.address
        ))),
        ListenerProtocol::ForwardProxy
        | ListenerProtocol::TlsPassthrough
        | ListenerProtocol::Http
        | ListenerProtocol::Tcp
        | ListenerProtocol::Udp
        | ListenerProtocol::ConfigEndpoint
        | ListenerProtocol::Registry => {}
    }
}

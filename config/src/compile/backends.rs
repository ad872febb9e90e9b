//! Backends: servers, where they are, and the bounds of their pools.
//!
//! In: the selected `Backend` documents. Out: one spec each, in the order of their names, so that
//! a position is an id. Addresses that contradict their location are refused or linted here; what
//! a route or listener may do with a backend is decided there, what is under its protocol in
//! `transport` and `tls`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tillgate_core::backend::{
    BackendId, BackendProtocol, BackendSpec, Endpoint, Host, Location, PoolLimit,
};
use tillgate_core::class::ClassTable;
use tillgate_core::matching::RouteTable;

use super::select::Selected;
use super::{Output, step, tls};
use crate::defaults;
use crate::document::{Document, Spot};
use crate::kinds::BackendDoc;
use crate::kinds::backend::{EndpointDoc, Location as LocationDoc, Protocol};
use crate::scalar::Whole;

mod health;
mod transport;

/// A backend while the rest is compiled.
pub(super) struct Compiled {
    pub(super) spec: BackendSpec,
    /// The policy says how many connections it may have.
    sized: bool,
}

impl Compiled {
    /// One that no document says more about.
    pub(super) const fn whole(spec: BackendSpec) -> Self {
        Self { spec, sized: true }
    }
}

/// The backends in the order of their names; positions are ids.
pub(super) fn compile(selected: &Selected<'_>, out: &mut Output) -> Vec<Compiled> {
    if selected.backends.len() > usize::from(u16::MAX) {
        let message = format!(
            "the store has {} backends, more than 65535: split it",
            selected.backends.len()
        );
        out.error(crate::report::Finding::new(None, message));
        return Vec::new();
    }
    selected.backends.iter().map(|(document, backend)| one(document, backend, out)).collect()
}

/// Where the endpoints of a backend are written.
pub(super) fn spot_of<'a>(selected: &Selected<'a>, name: &str) -> Spot<'a> {
    let found = selected.backends.iter().find(|(document, _)| *document.name == *name);
    let (document, _) = found.expect("a compiled backend has a document");
    document.spec().key("endpoints")
}

pub(super) fn location(location: LocationDoc) -> Location {
    match location {
        LocationDoc::Local => Location::Local,
        LocationDoc::Cloud => Location::Cloud,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "one protocol has no connections")]
fn one(document: &Document, backend: &BackendDoc, out: &mut Output) -> Compiled {
    let spec = &backend.spec;
    let spot = document.spec();
    let base = format!("backends.{}", step(&document.name));
    let protocol = match spec.protocol {
        Protocol::Http => BackendProtocol::Http,
        Protocol::Http2 => BackendProtocol::Http2,
        Protocol::Grpc => BackendProtocol::Grpc,
        Protocol::Tcp => BackendProtocol::Tcp,
        Protocol::Udp => BackendProtocol::Udp,
    };
    let endpoints = endpoints(document, backend, &base, out);
    let about = tls::About { name: &document.name, protocol, hosts: &endpoints };
    let tls = spec.tls.as_ref().and_then(|given| {
        tls::client(given, &about, &spot.key("tls"), &format!("{base}.tls"), out)
    });
    let dns = transport::dns(backend, &endpoints, &spot, &base, out);
    let health = Arc::new(health::health(backend, protocol, (&spot, &base), out));
    let circuit = health::circuit(backend, protocol, (&spot, &base), out);
    Compiled {
        spec: BackendSpec {
            name: document.name.clone(),
            location: out.given(
                &format!("{base}.location"),
                &spot.key("location"),
                location(spec.location),
            ),
            protocol: out.given(&format!("{base}.protocol"), &spot.key("protocol"), protocol),
            tries_itself: false,
            endpoints,
            pool: match protocol {
                BackendProtocol::Udp => defaults::POOL,
                _ => pool(backend, &spot, &base, out),
            },
            tls,
            proxy_protocol: transport::proxy_protocol(backend, protocol, &spot, &base, out),
            dns,
            tcp: transport::tcp(backend, protocol, &spot, &base, out),
            health,
            circuit,
        },
        sized: spec.connection_pool.is_some_and(|pool| pool.max_connections.is_some()),
    }
}

fn endpoints(
    document: &Document,
    backend: &BackendDoc,
    base: &str,
    out: &mut Output,
) -> Vec<Endpoint> {
    let spot = document.spec().key("endpoints");
    let mut seen: BTreeMap<Endpoint, Spot<'_>> = BTreeMap::new();
    let mut endpoints = Vec::new();
    for (index, endpoint) in backend.spec.endpoints.iter().enumerate() {
        let spot = spot.index(index);
        let (host, port) = match endpoint {
            EndpointDoc::Fqdn(fqdn) => (Host::Name(fqdn.hostname.0.as_str().into()), fqdn.port),
            EndpointDoc::Ip(ip) => (Host::Ip(ip.address.0), ip.port),
            EndpointDoc::Unix(unix) => {
                out.error(spot.key("unix").finding(format!(
                    "the endpoint `unix: {}` is not supported: let the server listen on a TCP port \
                     of the loopback address and write `ip`",
                    unix.path
                )));
                continue;
            }
        };
        let endpoint = Endpoint { host, port: port.fit() };
        if let Host::Ip(address) = endpoint.host
            && (address.is_unspecified() || address.is_multicast())
        {
            out.error(spot.finding(format!(
                "nothing can be reached at `{endpoint}`: write the address of the server"
            )));
        }
        if let Some(first) = seen.get(&endpoint) {
            let message =
                format!("the endpoint `{endpoint}` is there twice: remove one, or use weights");
            out.error(spot.finding(message).related(first.place(), "is the first one"));
            continue;
        }
        local_and_cloud(document, backend, &endpoint, &spot, out);
        out.given(&format!("{base}.endpoints[{}]", endpoints.len()), &spot, ());
        seen.insert(endpoint.clone(), spot);
        endpoints.push(endpoint);
    }
    endpoints
}

/// A loopback address cannot be across the line; a public one is hardly in the store.
fn local_and_cloud(
    document: &Document,
    backend: &BackendDoc,
    endpoint: &Endpoint,
    spot: &Spot<'_>,
    out: &mut Output,
) {
    let Host::Ip(address) = endpoint.host else { return };
    let place = document.spec().key("location").place();
    match backend.spec.location {
        LocationDoc::Cloud if address.is_loopback() => {
            let message = format!(
                "the endpoint `{endpoint}` is on this machine, but the backend has `location: \
                 Cloud`: write `location: Local`, or the address of the server"
            );
            out.error(spot.finding(message).related(place, "says where it is"));
        }
        LocationDoc::Local if is_public(address) => {
            let message = format!(
                "the endpoint `{endpoint}` is a public address, but the backend has `location: \
                 Local` and would not be shaped: write `location: Cloud` if it is across the line"
            );
            let finding = spot.finding(message).related(place, "says where it is");
            out.report.lints.push(finding);
        }
        LocationDoc::Cloud | LocationDoc::Local => {}
    }
}

fn is_public(address: std::net::IpAddr) -> bool {
    match address.to_canonical() {
        std::net::IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]); // RFC 6598
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || shared)
        }
        std::net::IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            let documentation = first == 0x2001 && second == 0x0db8; // RFC 3849
            (first & 0xe000) == 0x2000 && !documentation // 2000::/3, RFC 4291
        }
    }
}

fn pool(backend: &BackendDoc, spot: &Spot<'_>, base: &str, out: &mut Output) -> PoolLimit {
    let pool = backend.spec.connection_pool.as_ref();
    let spot = spot.key("connectionPool");
    let path = |field: &str| format!("{base}.connectionPool.{field}");
    PoolLimit {
        connections_max: out.value(
            &path("maxConnections"),
            &spot.key("maxConnections"),
            pool.and_then(|pool| pool.max_connections).map(Whole::fit),
            defaults::POOL_CONNECTIONS_BULK,
        ),
        waiting_max: out.value(
            &path("maxWaiting"),
            &spot.key("maxWaiting"),
            pool.and_then(|pool| pool.max_waiting).map(Whole::fit),
            defaults::POOL_WAITING,
        ),
        idle_timeout: out.positive(
            &path("idleTimeout"),
            &spot.key("idleTimeout"),
            pool.and_then(|pool| pool.idle_timeout),
            defaults::POOL_IDLE,
        ),
        age_max: out.positive(
            &path("maxAge"),
            &spot.key("maxAge"),
            pool.and_then(|pool| pool.max_age),
            defaults::POOL_AGE,
        ),
    }
}

/// Backends that a critical class uses have room for every till, unless the policy says.
pub(super) fn size_pools(backends: &mut [Compiled], routes: &RouteTable, classes: &ClassTable) {
    for rule in &routes.rules {
        if !rule.class.is_some_and(|class| classes.get(class).critical) {
            continue;
        }
        for backend in rule.tiers.iter().flatten() {
            let BackendId(index) = backend.backend;
            if let Some(backend) = backends.get_mut(usize::from(index)).filter(|one| !one.sized) {
                backend.spec.pool.connections_max = defaults::POOL_CONNECTIONS_CRITICAL;
            }
        }
    }
}

//! How a registry is reached: its URL as a backend of one server.
//!
//! In: a registry of the mirror. Out: a backend that no document has, called `registry/` and the
//! registry's name, with the pools, names and TLS of every other one, and the `Host` that it is
//! asked with.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use tillgate_core::backend::{BackendProtocol, BackendSpec, Endpoint, Host, Location};
use tillgate_core::health::HealthSpec;
use tillgate_core::matching::canonical_host;
use tillgate_core::tls::{ClientTls, TrustAnchors};

use crate::compile::backends::Compiled;
use crate::compile::{Output, step};
use crate::defaults;
use crate::document::Spot;
use crate::kinds::registry_mirror::RegistryDoc;
use crate::scalar::{Fqdn, Text as _};

/// Images of Docker Hub are named by this, and served elsewhere.
const HUB: (&str, &str) = ("docker.io", "https://registry-1.docker.io");

/// A registry as a backend.
pub(super) struct Reached {
    pub(super) compiled: Compiled,
    pub(super) authority: Arc<str>,
}

/// What the backend of `registry` is called.
pub(super) fn name(registry: &RegistryDoc) -> String {
    format!("registry/{}", registry.host.0)
}

/// The backend of `registry`; `None` if its URL is not one of a registry.
pub(super) fn backend(
    registry: &RegistryDoc,
    location: Location,
    spot: &Spot<'_>,
    out: &mut Output,
) -> Option<Reached> {
    let at = if registry.url.is_some() { spot.key("url") } else { spot.key("host") };
    let name = name(registry);
    let url = match &registry.url {
        Some(url) => url.0.clone(),
        None if registry.host.0 == HUB.0 => HUB.1.to_owned(),
        None => format!("https://{}", registry.host.0),
    };
    let Some((is_tls, endpoint, authority)) = parse(&url) else {
        out.error(at.finding(format!(
            "a registry cannot be asked at `{url}`: write http or https and a host, without a path, \
             as `https://registry.example:5000`"
        )));
        return None;
    };
    if let (Location::Cloud, Host::Ip(ip)) = (location, &endpoint.host)
        && ip.is_loopback()
    {
        out.error(at.finding(format!(
            "`{url}` is on this machine and not across the line: write `location: Local`, or \
             another address"
        )));
    }
    if registry.ca_file.is_some() && !is_tls {
        out.error(spot.key("caFile").finding(
            "nobody asks for a certificate without TLS: write the `url` with https, or remove \
             `caFile`",
        ));
    }
    out.given(&format!("backends.{}", step(&name)), &at, ());
    let roots = match &registry.ca_file {
        Some(file) => TrustAnchors::File(Arc::<Path>::clone(&file.0)),
        None => TrustAnchors::System,
    };
    let tls = is_tls.then_some(ClientTls {
        sni: None,
        roots,
        certificate: None,
        min_version: defaults::TLS_MIN_VERSION,
    });
    let spec = BackendSpec {
        name: name.into(),
        location,
        protocol: BackendProtocol::Http,
        tries_itself: false,
        endpoints: vec![endpoint],
        pool: defaults::POOL,
        tls,
        proxy_protocol: None,
        dns: defaults::DNS,
        tcp: defaults::TCP,
        // Fetches find out by themselves; a probe would cost the line and tell less.
        health: Arc::new(HealthSpec { active: None, passive: defaults::PASSIVE, data_age: None }),
        circuit: defaults::CIRCUIT,
    };
    Some(Reached { compiled: Compiled::whole(spec), authority })
}

fn parse(url: &str) -> Option<(bool, Endpoint, Arc<str>)> {
    let uri: Uri = url.parse().ok()?;
    let is_tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?;
    let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if !plain || authority.as_str().contains('@') || url.contains('#') {
        return None;
    }
    let host = canonical_host(authority.host());
    let host = match host.parse::<IpAddr>() {
        Ok(address) => Host::Ip(address),
        Err(_) => Host::Name(Fqdn::read(&host).ok()?.0.into()),
    };
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let authority = authority.as_str().to_ascii_lowercase().into();
    (port != 0).then_some((is_tls, Endpoint { host, port }, authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_a_host_and_nothing_more() {
        let read = |url: &str| {
            let (tls, endpoint, authority) = parse(url)?;
            Some((tls, endpoint.to_string(), authority.to_string()))
        };
        let to = |tls, endpoint: &str, authority: &str| {
            Some((tls, endpoint.to_owned(), authority.to_owned()))
        };
        assert_eq!(
            read("https://Registry.example"),
            to(true, "registry.example:443", "registry.example")
        );
        assert_eq!(read("http://10.0.0.1:5000/"), to(false, "10.0.0.1:5000", "10.0.0.1:5000"));
        assert_eq!(read("https://[2001:db8::1]"), to(true, "[2001:db8::1]:443", "[2001:db8::1]"));
        for wrong in ["oci://a", "https://a/v2", "https://a/?x", "https://a:0", "https://", "a"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}

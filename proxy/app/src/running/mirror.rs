//! What requests need to know of the registry mirror's config.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Request, Uri};
use tillgate_config::defaults;
use tillgate_config::effective::Effective;
use tillgate_core::backend::{Endpoint, Location};
use tillgate_core::class::ClassId;
use tillgate_core::mirror::{Direct, MirrorSpec, UpstreamSpec};
use tillgate_net::http::client::{Target, Wire};
use tillgate_net::http::headers::host_name;
use tillgate_net::metrics::{Label, RequestMeter};
use tillgate_net::tls::Connector;

use super::{EGRESS_POOL, Running, TargetFacts};

/// Metrics' name for requests to the registry mirror.
pub(crate) const MIRROR: &str = "mirror";

/// Whether a registry that is to be reached through the mirror alone is at `host` (canonical)
/// and `port`; its name.
pub(crate) fn reserved<'a>(
    effective: &'a Effective,
    host: &str,
    port: u16,
) -> Option<&'a Arc<str>> {
    let mirror = effective.mirror.as_ref()?;
    let is_there = |one: &&UpstreamSpec| {
        one.direct == Direct::Refused
            && one.is_at(host, port, &effective.backend(one.backend).endpoints)
    };
    mirror.upstreams.iter().find(is_there).map(|one| &one.registry)
}

/// The mirror, if a request of the HTTP entry is for one of its hostnames.
pub(crate) fn mirror_for<'a>(
    effective: &'a Effective,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<&'a MirrorSpec> {
    let mirror = effective.mirror.as_ref()?;
    let named = uri.authority().map(Authority::as_str);
    let field = || headers.get(HOST).and_then(|value| value.to_str().ok());
    let host = named.or_else(field).and_then(host_name)?;
    mirror.serves(&host).then_some(mirror)
}

impl Running {
    /// Whether a request of the HTTP entry is for one of the mirror's hostnames.
    pub(crate) fn is_for_mirror<B>(&self, request: &Request<B>) -> bool {
        mirror_for(&self.effective, request.uri(), request.headers()).is_some()
    }

    /// Where requests of `class` to the registry mirror are counted.
    pub(crate) fn mirror_meter(&self, class: ClassId) -> &RequestMeter {
        let name = &self.class(class).spec.name;
        self.mirror[class.index()].get_or_init(|| self.metrics.request(name, &MIRROR.into()))
    }

    /// How requests of `class` reach a host that a server named, at addresses that were checked.
    pub(crate) fn elsewhere(
        &self,
        name: &Label,
        (endpoint, addresses, location): (Endpoint, &[SocketAddr], Location),
        class: ClassId,
        tls: Option<Arc<Connector>>,
        connect: Duration,
    ) -> Arc<Target> {
        Arc::new(self.new_target(TargetFacts {
            meter: self.upstream_meter(name, class),
            endpoint,
            addresses: Some(addresses.into()),
            location,
            wire: Wire::Http1,
            tls,
            limit: EGRESS_POOL,
            class,
            connect,
            dns: defaults::DNS,
            tcp: defaults::TCP,
        }))
    }
}

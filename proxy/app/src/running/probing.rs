//! How probes reach the endpoints of a config: as calls do, in a class of their own.

use std::time::Duration;

use tillgate_config::effective::Effective;
use tillgate_core::backend::{BackendId, BackendSpec, Location, PoolLimit};
use tillgate_core::class::ClassId;
use tillgate_core::failover::Wiring;
use tillgate_core::link::{Destination, link_for};
use tillgate_core::matching::NaturalClasses;
use tillgate_net::http::client::Target;

use super::{EGRESS_POOL, Running, TargetFacts, wire};
use crate::failover::{Failover, Way};
use crate::lines::Lines;

/// The class that probes travel in: never behind bulk, and not among what they are made for.
const PROBE_CLASS: &str = "control";

fn probe_class(effective: &Effective, default: ClassId) -> ClassId {
    effective.classes.id(PROBE_CLASS).unwrap_or(default)
}

/// Connections of probes to one endpoint: one, and a fresh one where that is not trusted.
const PROBE_POOL: PoolLimit = PoolLimit { connections_max: 4, waiting_max: 4, ..EGRESS_POOL };

/// The line that probes take to a place, and whether it is metered.
fn way<'a>(
    effective: &'a Effective,
    lines: &'a Lines,
    default_class: ClassId,
) -> impl Fn(Location) -> Option<Way> {
    let probing = probe_class(effective, default_class);
    move |location| {
        let class = effective.classes.get(probing);
        let link = link_for(Destination { location }, class, &effective.links)?;
        let spec = &effective.links[usize::from(link.0)];
        Some(Way { link: lines.get(&spec.name)?.0, metered: spec.metered })
    }
}

impl Running {
    /// How calls of `effective` find their servers across `lines`; and how long the board was held
    /// for that.
    pub(crate) fn wire(
        effective: &Effective,
        lines: Lines,
        failover: &Failover,
    ) -> ((Lines, Wiring), Duration) {
        let default_class = NaturalClasses::of(&effective.classes).default();
        let (wiring, held) = failover.follow(effective, way(effective, &lines, default_class));
        ((lines, wiring), held)
    }

    /// How probes reach an endpoint of a backend.
    pub(crate) fn probe_target(
        &self,
        spec: &BackendSpec,
        endpoint: usize,
        timeout: Duration,
    ) -> Target {
        let class = probe_class(&self.effective, self.default_class);
        let position = self.effective.backends.iter().position(|one| one.name == spec.name);
        let backend = BackendId(position.and_then(|at| u16::try_from(at).ok()).unwrap_or(0));
        let mut target = self.new_target(TargetFacts {
            meter: self.upstream_meter(&spec.name, class),
            endpoint: spec.endpoints[endpoint].clone(),
            addresses: None,
            location: spec.location,
            wire: wire(spec.protocol),
            tls: self.connectors.of(backend),
            limit: PROBE_POOL,
            class,
            connect: timeout,
            dns: spec.dns,
            tcp: spec.tcp,
        });
        target.spares = 0;
        match spec.proxy_protocol {
            Some(version) => target.for_client(version, ([127, 0, 0, 1], 0).into()),
            None => target,
        }
    }
}

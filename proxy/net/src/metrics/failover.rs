//! Instruments of failover: endpoints, tiers, lines, probes and further tries.
//!
//! None of them is on the path of a call that goes well, so a lookup by label is fine.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{Label, Metrics};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    backend: Label,
    endpoint: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EjectionLabels {
    backend: Label,
    endpoint: Label,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    route: Label,
    rule: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShiftLabels {
    route: Label,
    rule: Label,
    shift: &'static str,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    backend: Label,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    route: Label,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkLabels {
    link: Label,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct FailoverMeters {
    usable: Family<EndpointLabels, Gauge>,
    ejections: Family<EjectionLabels, Counter>,
    active: Family<RuleLabels, Gauge>,
    shifts: Family<ShiftLabels, Counter>,
    probes: Family<ProbeLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    refused: Family<RetryLabels, Counter>,
    down: Family<LinkLabels, Gauge>,
}

impl FailoverMeters {
    /// Adds them to what a scrape of `metrics` shows.
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        metrics.with_registry(|registry| {
            let text = "1 while calls go to an endpoint, else 0";
            registry.register("endpoint_usable", text, all.usable.clone());
            let text = "times an endpoint was taken out, by cause";
            registry.register("endpoint_ejections", text, all.ejections.clone());
            let text = "the tier that takes a rule's calls, counted from 0";
            registry.register("active_tier", text, all.active.clone());
            let text = "changes of the active tier, by direction and cause";
            registry.register("tier_shifts", text, all.shifts.clone());
            let text = "probes, by what they found";
            registry.register("probes", text, all.probes.clone());
            let text = "further tries of calls, by how the try before ended";
            registry.register("retries", text, all.retries.clone());
            let text = "calls that failed and were not sent again, by why not";
            registry.register("retries_refused", text, all.refused.clone());
            let text = "1 while a line is judged to be down, else 0";
            registry.register("link_down", text, all.down.clone());
        });
        all
    }

    /// Whether calls go to an endpoint.
    pub fn endpoint(&self, backend: &Label, endpoint: &Label, usable: bool) {
        let (backend, endpoint) = (Arc::clone(backend), Arc::clone(endpoint));
        self.usable.get_or_create_owned(&EndpointLabels { backend, endpoint }).set(usable.into());
    }

    /// There is no such endpoint any more.
    pub fn forget(&self, backend: &Label, endpoint: &Label) {
        let (backend, endpoint) = (Arc::clone(backend), Arc::clone(endpoint));
        self.usable.remove(&EndpointLabels { backend, endpoint });
    }

    /// An endpoint was taken out.
    pub fn eject(&self, backend: &Label, endpoint: &Label, cause: &'static str) {
        let (backend, endpoint) = (Arc::clone(backend), Arc::clone(endpoint));
        self.ejections.get_or_create_owned(&EjectionLabels { backend, endpoint, cause }).inc();
    }

    /// The active tier of a rule.
    pub fn tier(&self, route: &Label, rule: &Label, tier: usize) {
        let (route, rule) = (Arc::clone(route), Arc::clone(rule));
        let tier = i64::try_from(tier).unwrap_or(i64::MAX);
        self.active.get_or_create_owned(&RuleLabels { route, rule }).set(tier);
    }

    /// The active tier has changed.
    pub fn shift(&self, names: (&Label, &Label), shift: &'static str, cause: &'static str) {
        let (route, rule) = (Arc::clone(names.0), Arc::clone(names.1));
        self.shifts.get_or_create_owned(&ShiftLabels { route, rule, shift, cause }).inc();
    }

    /// A probe has ended.
    pub fn probe(&self, backend: &Label, result: &'static str) {
        let backend = Arc::clone(backend);
        self.probes.get_or_create_owned(&ProbeLabels { backend, result }).inc();
    }

    /// A call is sent again, after a try that ended like this.
    pub fn retry(&self, route: &Label, reason: &'static str) {
        self.retries.get_or_create_owned(&RetryLabels { route: Arc::clone(route), reason }).inc();
    }

    /// A call that failed is not sent again.
    pub fn refuse(&self, route: &Label, reason: &'static str) {
        self.refused.get_or_create_owned(&RetryLabels { route: Arc::clone(route), reason }).inc();
    }

    /// Whether a line is down.
    pub fn line(&self, link: &Label, down: bool) {
        self.down.get_or_create_owned(&LinkLabels { link: Arc::clone(link) }).set(down.into());
    }
}

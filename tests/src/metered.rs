//! Instruments that count once each, so that every family of them has a sample: a family without
//! one is not in a scrape.

use std::sync::Arc;
use std::time::Duration;

use tillgate_net::metrics::{
    Applying, EndpointMeters, FailoverMeters, Metrics, PolicyMeters, ReportMeters, RolloutMeters,
};

/// What failover counts when something fails, once each: in a scrape nothing has failed yet.
pub fn failover() -> Arc<Metrics> {
    let metrics = Metrics::new("0");
    let meters = FailoverMeters::register(&metrics);
    let name = "pricing".into();
    meters.shift((&name, &name), "down", "probe");
    meters.probe(&name, "ok");
    meters.line(&name, true);
    metrics
}

/// What the policy loop counts, once each: a gateway with a file of its own has no such loop.
pub fn policy() -> Arc<Metrics> {
    let metrics = Metrics::new("0");
    let meters = PolicyMeters::register(&metrics);
    meters.runs("main@sha1:1", &"sha256:1".into(), 1);
    meters.applied("applied", "New");
    meters.took(Applying::Swap, Duration::from_millis(1));
    meters.signature(Some(&"ci".into()));
    meters.clock("Synced", &["Synced"]);
    meters.invalid("Store");
    meters.offset(&"central".into(), 0.0);
    meters.source(&"central".into());
    let meters = ReportMeters::register(&metrics);
    meters.stands("InSync", &["InSync"], ["SourceSilent"].into_iter());
    meters.reported("taken");
    meters.operated("done");
    EndpointMeters::register(&metrics).audit("Apply");
    metrics
}

/// What a gateway with rollouts counts, once each.
pub fn rollouts() -> Arc<Metrics> {
    let metrics = Metrics::new("0");
    let meters = RolloutMeters::register(&metrics);
    let name = "pos".into();
    meters.gate(&name, true);
    meters.held(&name, "Freeze/peak");
    meters.window(&"night".into(), "allow", true);
    meters.freeze(&"peak".into(), true);
    meters.exception(&"hotfix".into(), true);
    meters.rule(&name, true);
    meters.rule_held(&name, "Freeze/peak");
    meters.pulls(&name);
    meters.progress(&name, 0, 0);
    meters.brake(&name, "limit", 0);
    metrics
}

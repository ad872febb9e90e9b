//! Instruments of what a store tells its centre: whether it is as it should be, and whether the
//! centre knows.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use super::Metrics;
use super::known::OneLabel;

/// See the module.
#[derive(Clone, Debug)]
pub struct ReportMeters {
    compliance: Family<OneLabel, Gauge>,
    items: Family<OneLabel, Gauge>,
    reports: Family<OneLabel, Counter>,
    operations: Family<OneLabel, Counter>,
    /// When the centre last took a report.
    pub last_success: Arc<Gauge<f64, AtomicU64>>,
}

impl ReportMeters {
    /// Adds them to what a scrape of `metrics` shows.
    pub fn register(metrics: &Metrics) -> Self {
        let meters = Self {
            compliance: Family::default(),
            items: Family::default(),
            reports: Family::default(),
            operations: Family::default(),
            last_success: Arc::default(),
        };
        metrics.with_registry(|registry| {
            let text = "1 for how what runs stands to what was wanted";
            registry.register("compliance_state", text, meters.compliance.clone());
            let text = "things that are not as they should be, by reason";
            registry.register("drift_items", text, meters.items.clone());
            let text = "status reports to the centre, by what became of them";
            registry.register("report", text, meters.reports.clone());
            let text = "when the centre last took a report (Unix time)";
            let unit = Unit::Other("timestamp_seconds".into());
            let last = Gauge::clone(&meters.last_success);
            registry.register_with_unit("report_last_success", text, unit, last);
            let text = "signed operations from afar, by what became of them";
            registry.register("remote_operations", text, meters.operations.clone());
        });
        meters
    }

    /// What runs stands like this, of all that could be; these things are not as they should be.
    pub fn stands(
        &self,
        state: &'static str,
        all: &[&'static str],
        reasons: impl Iterator<Item = &'static str>,
    ) {
        for one in all {
            let gauge = self.compliance.get_or_create_owned(&[("state", *one)]);
            gauge.set(i64::from(*one == state));
        }
        self.items.clear();
        for reason in reasons {
            self.items.get_or_create_owned(&[("reason", reason)]).inc();
        }
    }

    /// A report has come to this.
    pub fn reported(&self, result: &'static str) {
        self.reports.get_or_create_owned(&[("result", result)]).inc();
    }

    /// An operation has come to this.
    pub fn operated(&self, result: &'static str) {
        self.operations.get_or_create_owned(&[("result", result)]).inc();
    }
}

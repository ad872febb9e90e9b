//! Instruments of rollouts: how each stands, what holds it, how its pulls go.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use super::{Label, Metrics};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    rollout: Label,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HeldLabels {
    rollout: Label,
    held_by: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WindowLabels {
    window: Label,
    effect: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FreezeLabels {
    freeze: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OverrideLabels {
    r#override: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleHeldLabels {
    rule: Label,
    held_by: Label,
}

/// States of a rollout's gate.
const GATE_STATES: [&str; 2] = ["open", "held"];

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct RolloutMeters {
    gates: Family<StateLabels, Gauge>,
    held: Family<HeldLabels, Counter>,
    windows: Family<WindowLabels, Gauge>,
    freezes: Family<FreezeLabels, Gauge>,
    overrides: Family<OverrideLabels, Gauge>,
    rules: Family<RuleLabels, Gauge>,
    rules_held: Family<RuleHeldLabels, Counter>,
    pulls: Family<StateLabels, Gauge>,
    bytes: Family<StateLabels, Gauge>,
    rate: Family<StateLabels, Gauge>,
}

impl RolloutMeters {
    /// Adds them to what a scrape of `metrics` shows.
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        metrics.with_registry(|registry| {
            let text = "1 for the state that a rollout's gate is in, else 0";
            registry.register("gate_state", text, all.gates.clone());
            let text = "manifests that were held, by the document that holds them";
            registry.register("gate_held", text, all.held.clone());
            let text = "1 while a change window is open, else 0; by what it does then";
            registry.register("window_active", text, all.windows.clone());
            let text = "1 while a freeze is active, else 0";
            registry.register("freeze_active", text, all.freezes.clone());
            let text = "1 while an override counts, else 0";
            registry.register("override_active", text, all.overrides.clone());
            let text = "1 while requests pass a rule that a window or freeze names, else 0";
            registry.register("gate_rule_open", text, all.rules.clone());
            let text = "requests that a rule's window or freeze held, by the document";
            registry.register("gate_rule_held", text, all.rules_held.clone());
            let text = "blobs of a rollout that are fetched, or wait for one of its turns";
            registry.register("rollout_pulls", text, all.pulls.clone());
            let text = "bytes of a release: on disk, and in all, as far as its manifests are known";
            registry.register_with_unit("rollout_image", text, Unit::Bytes, all.bytes.clone());
            let text = "bits a second that a rollout's fetches may take while something slows \
                        them; 0 = nothing does";
            registry.register("rollout_brake_bits_per_second", text, all.rate.clone());
        });
        all
    }

    /// Forgets what another policy had.
    pub fn clear(&self) {
        self.gates.clear();
        self.bytes.clear();
        self.rate.clear();
    }

    /// A pull was held.
    pub fn held(&self, rollout: &Label, document: &str) {
        let labels = HeldLabels { rollout: Arc::clone(rollout), held_by: document.into() };
        self.held.get_or_create_owned(&labels).inc();
    }

    /// How a rollout stands.
    pub fn gate(&self, rollout: &Label, is_open: bool) {
        for (state, is_it) in GATE_STATES.into_iter().zip([is_open, !is_open]) {
            let labels = StateLabels { rollout: Arc::clone(rollout), state };
            self.gates.get_or_create_owned(&labels).set(i64::from(is_it));
        }
    }

    /// Whether a window is open that does this then, `allow` or `deny`.
    pub fn window(&self, window: &Label, effect: &'static str, is_active: bool) {
        let labels = WindowLabels { window: Arc::clone(window), effect };
        self.windows.get_or_create_owned(&labels).set(i64::from(is_active));
    }

    /// Whether a freeze is active.
    pub fn freeze(&self, freeze: &Label, is_active: bool) {
        let labels = FreezeLabels { freeze: Arc::clone(freeze) };
        self.freezes.get_or_create_owned(&labels).set(i64::from(is_active));
    }

    /// Whether an exception counts.
    pub fn exception(&self, name: &Label, is_active: bool) {
        let labels = OverrideLabels { r#override: Arc::clone(name) };
        self.overrides.get_or_create_owned(&labels).set(i64::from(is_active));
    }

    /// Forgets documents that another policy had, and rules that they named.
    pub fn clear_calendar(&self) {
        self.windows.clear();
        self.freezes.clear();
        self.overrides.clear();
        self.rules.clear();
    }

    /// Whether requests pass a rule.
    pub fn rule(&self, rule: &Label, is_open: bool) {
        let labels = RuleLabels { rule: Arc::clone(rule) };
        self.rules.get_or_create_owned(&labels).set(i64::from(is_open));
    }

    /// Where requests are counted that a document kept from passing a rule.
    pub fn rule_held(&self, rule: &Label, document: &str) -> Counter {
        let labels = RuleHeldLabels { rule: Arc::clone(rule), held_by: document.into() };
        self.rules_held.get_or_create_owned(&labels)
    }

    /// Who is fetched, and who waits, of a rollout.
    pub fn pulls(&self, rollout: &Label) -> [Gauge; 2] {
        ["running", "waiting"].map(|state| {
            self.pulls.get_or_create_owned(&StateLabels { rollout: Arc::clone(rollout), state })
        })
    }

    /// What is there of a release, of how much.
    pub fn progress(&self, rollout: &Label, here: u64, total: u64) {
        for (state, bytes) in [("here", here), ("total", total)] {
            let labels = StateLabels { rollout: Arc::clone(rollout), state };
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.bytes.get_or_create_owned(&labels).set(bytes);
        }
    }

    /// What slows a rollout's fetches, in bits a second; 0 = nothing.
    pub fn brake(&self, rollout: &Label, state: &'static str, bits: u64) {
        for one in ["limit", "busy", "held", "closed"] {
            let labels = StateLabels { rollout: Arc::clone(rollout), state: one };
            let bits = if one == state { i64::try_from(bits).unwrap_or(i64::MAX) } else { 0 };
            self.rate.get_or_create_owned(&labels).set(bits);
        }
    }
}

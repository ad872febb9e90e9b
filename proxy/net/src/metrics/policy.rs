//! Instruments of the policy loop: what runs, how old it is, what sources gave, what was refused.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::{Label, Metrics};

/// From a swap (a tenth of a millisecond) to a probation (half an hour).
const PHASE_BUCKETS: [f64; 12] =
    [0.0001, 0.0003, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 120.0, 600.0, 1800.0];

/// A gauge of seconds with their parts.
type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InfoLabels {
    revision: Label,
    digest: Label,
    sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApplyLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    source: Label,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignatureLabels {
    result: &'static str,
    key_id: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// A step on the way of a policy into effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applying {
    /// Asking a source that had something new.
    Fetch,
    /// Signatures and hashes.
    Verify,
    /// Reading its documents.
    Parse,
    /// Checking and compiling them for this store.
    Compile,
    /// Writing it to disk.
    Stage,
    /// Putting it in effect: as long as a request could have waited for it.
    Swap,
    /// Watching it until it was good.
    Probation,
}

impl Applying {
    const fn label(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Parse => "parse",
            Self::Compile => "compile",
            Self::Stage => "stage",
            Self::Swap => "swap",
            Self::Probation => "probation",
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct PolicyMeters {
    info: Family<InfoLabels, Gauge>,
    applies: Family<ApplyLabels, Counter>,
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    fetches: Family<FetchLabels, Counter>,
    answered: Family<SourceLabels, Seconds>,
    back_off: Family<SourceLabels, Seconds>,
    signatures: Family<SignatureLabels, Counter>,
    invalid: Family<KindLabels, Counter>,
    clock: Family<StateLabels, Gauge>,
    offset: Family<SourceLabels, Seconds>,
    /// Whether the newest policy is in effect.
    pub last_success: Gauge,
    /// When a policy was last put in effect.
    pub last_at: Seconds,
    /// Whether an operator keeps the store on what it runs.
    pub pinned: Gauge,
    /// When that ends.
    pub pin_ends: Seconds,
    /// Since the running policy was made.
    pub age: Seconds,
    /// Since the last known good one was made.
    pub lkg_age: Seconds,
}

impl PolicyMeters {
    /// Adds them to what a scrape of `metrics` shows.
    pub fn register(metrics: &Metrics) -> Self {
        let meters = Self {
            info: Family::default(),
            applies: Family::default(),
            phases: Family::new_with_constructor(|| Histogram::new(PHASE_BUCKETS)),
            fetches: Family::default(),
            answered: Family::default(),
            back_off: Family::default(),
            signatures: Family::default(),
            invalid: Family::default(),
            clock: Family::default(),
            offset: Family::default(),
            last_success: Gauge::default(),
            last_at: Seconds::default(),
            pinned: Gauge::default(),
            pin_ends: Seconds::default(),
            age: Seconds::default(),
            lkg_age: Seconds::default(),
        };
        metrics.with_registry(|registry| meters.add_to(registry));
        meters
    }

    fn add_to(&self, registry: &mut prometheus_client::registry::Registry) {
        let text = "1 for the policy in effect, by revision, digest and sequence";
        registry.register("config_info", text, self.info.clone());
        let text = "1 if the newest policy that was given is in effect, or waits for its time";
        registry.register("config_last_apply_success", text, self.last_success.clone());
        let text = "when a policy was last put in effect (Unix time)";
        let unit = || Unit::Other("timestamp_seconds".into());
        registry.register_with_unit("config_last_apply", text, unit(), self.last_at.clone());
        let text = "1 if an operator keeps the store on what it runs";
        registry.register("config_pinned", text, self.pinned.clone());
        let text = "when that ends (Unix time); 0 without a pin";
        registry.register_with_unit("config_pin_expires", text, unit(), self.pin_ends.clone());
        let text = "policies by what became of them: applied, rejected, held or rolled_back";
        registry.register("config_apply", text, self.applies.clone());
        let text = "how long a policy took on its way into effect, by phase";
        registry.register_with_unit(
            "config_apply_duration",
            text,
            Unit::Seconds,
            self.phases.clone(),
        );
        let text = "since the running policy was made, by its own word";
        registry.register_with_unit("config_age", text, Unit::Seconds, self.age.clone());
        let text = "since the last known good policy was made, by its own word";
        registry.register_with_unit("config_lkg_age", text, Unit::Seconds, self.lkg_age.clone());
        let text = "questions to sources of policy, by source and result";
        registry.register("source_fetch", text, self.fetches.clone());
        let text = "when a source of policy last answered (Unix time)";
        registry.register_with_unit("source_last_success", text, unit(), self.answered.clone());
        let text = "how long a source is left alone because it failed";
        registry.register_with_unit("source_backoff", text, Unit::Seconds, self.back_off.clone());
        let text =
            "signatures of policies that were checked, by key; the key is empty if none counted";
        registry.register("signature_verify", text, self.signatures.clone());
        let text = "mistakes in documents of policies that were refused; the kind is empty where \
                    the whole policy is meant";
        registry.register("config_validation_errors", text, self.invalid.clone());
        let text =
            "how far the wall clock is ahead of a source's over TLS, which tells whole seconds";
        registry.register_with_unit("clock_offset", text, Unit::Seconds, self.offset.clone());
        let text = "1 for what is thought of the wall clock: Synced, Holdover or Untrusted";
        registry.register("clock_state", text, self.clock.clone());
    }

    /// This policy is in effect.
    pub fn runs(&self, revision: &str, digest: &Label, sequence: u64) {
        self.info.clear();
        let (revision, digest) = (revision.into(), Arc::clone(digest));
        let labels = InfoLabels { revision, digest, sequence };
        self.info.get_or_create_owned(&labels).set(1);
    }

    /// A policy has come to this.
    pub fn applied(&self, result: &'static str, reason: &'static str) {
        self.applies.get_or_create_owned(&ApplyLabels { result, reason }).inc();
    }

    /// A step took so long.
    pub fn took(&self, phase: Applying, time: Duration) {
        let labels = PhaseLabels { phase: phase.label() };
        self.phases.get_or_create_owned(&labels).observe(time.as_secs_f64());
    }

    /// A signature was checked; `None` = none of those that there are counts.
    pub fn signature(&self, key: Option<&Label>) {
        let result = if key.is_some() { "valid" } else { "invalid" };
        let key_id = key.map_or_else(|| "".into(), Arc::clone);
        self.signatures.get_or_create_owned(&SignatureLabels { result, key_id }).inc();
    }

    /// A document of this kind has a mistake.
    pub fn invalid(&self, kind: &'static str) {
        self.invalid.get_or_create_owned(&KindLabels { kind }).inc();
    }

    /// The wall clock is ahead of a source's by so many seconds.
    pub fn offset(&self, source: &Label, seconds: f64) {
        let labels = SourceLabels { source: Arc::clone(source) };
        self.offset.get_or_create_owned(&labels).set(seconds);
    }

    /// What is thought of the clock, of all that could be.
    pub fn clock(&self, state: &'static str, all: &[&'static str]) {
        for one in all {
            let labels = StateLabels { state: one };
            self.clock.get_or_create_owned(&labels).set(i64::from(*one == state));
        }
    }

    /// Handles for one source.
    pub fn source(&self, source: &Label) -> SourceMeter {
        let labels = || SourceLabels { source: Arc::clone(source) };
        let fetch = |result| {
            let source = Arc::clone(source);
            self.fetches.get_or_create_owned(&FetchLabels { source, result })
        };
        SourceMeter {
            updated: fetch("updated"),
            not_modified: fetch("not_modified"),
            error: fetch("error"),
            answered: self.answered.get_or_create_owned(&labels()),
            back_off: self.back_off.get_or_create_owned(&labels()),
        }
    }
}

/// What is counted of one source.
#[derive(Clone, Debug)]
pub struct SourceMeter {
    /// It had something new.
    pub updated: Counter,
    /// It had nothing new.
    pub not_modified: Counter,
    /// It gave nothing that can be used.
    pub error: Counter,
    /// When it last answered.
    pub answered: Seconds,
    /// How long it is left alone.
    pub back_off: Seconds,
}

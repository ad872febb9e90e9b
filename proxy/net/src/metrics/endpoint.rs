//! Instruments of the config endpoint.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;
use super::known::OneLabel;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// How a request to the config endpoint was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// As it was asked.
    Served,
    /// Without a credential that counts.
    Unauthenticated,
    /// With one that opens something else.
    Forbidden,
    /// For another reason that is the caller's.
    Refused,
    /// For a reason of ours.
    Failed,
}

impl Answered {
    const ALL: [Self; 5] =
        [Self::Served, Self::Unauthenticated, Self::Forbidden, Self::Refused, Self::Failed];

    const fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What came of a sidecar's wish for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// Its first one, for a token.
    First,
    /// Another one, for the one it had.
    Renewed,
    /// None: what it showed does not count.
    Refused,
}

impl Enrolled {
    const ALL: [Self; 3] = [Self::First, Self::Renewed, Self::Refused];

    const fn label(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Renewed => "renewed",
            Self::Refused => "refused",
        }
    }
}

/// What an instance runs, beside what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// The same.
    InSync,
    /// Something older, and it has not said why.
    Pending,
    /// Something else, because it cannot.
    Nacked,
    /// Nobody knows: it has not been heard of.
    Stale,
}

impl InstanceState {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::InSync, Self::Pending, Self::Nacked, Self::Stale];

    /// Its name in metrics and answers.
    pub const fn label(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Pending => "pending",
            Self::Nacked => "nacked",
            Self::Stale => "stale",
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct EndpointMeters {
    answered: Arc<[Counter]>,
    enrolled: Arc<[Counter]>,
    instances: Arc<[Gauge]>,
    /// Callers that wait for another config.
    pub waiters: Gauge,
    /// Open streams of events.
    pub streams: Gauge,
    audited: Family<OneLabel, Counter>,
    workload_tokens: Family<ResultLabels, Counter>,
    cluster_keys: Family<ResultLabels, Counter>,
    /// Records that could not be written.
    pub unwritten: Counter,
}

impl EndpointMeters {
    /// Adds them to what a scrape of `metrics` shows.
    pub fn register(metrics: &Metrics) -> Self {
        let answered: Family<ResultLabels, Counter> = Family::default();
        let enrolled: Family<ResultLabels, Counter> = Family::default();
        let instances: Family<StateLabels, Gauge> = Family::default();
        let result =
            |one: Answered| answered.get_or_create_owned(&ResultLabels { result: one.label() });
        let enrolment =
            |one: Enrolled| enrolled.get_or_create_owned(&ResultLabels { result: one.label() });
        let state =
            |one: InstanceState| instances.get_or_create_owned(&StateLabels { state: one.label() });
        let meters = Self {
            answered: Answered::ALL.map(result).into(),
            enrolled: Enrolled::ALL.map(enrolment).into(),
            instances: InstanceState::ALL.map(state).into(),
            waiters: Gauge::default(),
            streams: Gauge::default(),
            audited: Family::default(),
            workload_tokens: Family::default(),
            cluster_keys: Family::default(),
            unwritten: Counter::default(),
        };
        meters.workload_tokens.get_or_create_owned(&ResultLabels { result: "accepted" });
        for result in ["fetched", "failed"] {
            meters.cluster_keys.get_or_create_owned(&ResultLabels { result });
        }
        metrics.with_registry(|registry| {
            let text = "requests to the config endpoint, by how they were answered";
            registry.register("endpoint_requests", text, answered);
            let text = "certificates that sidecars asked for, by what came of it";
            registry.register("enrolments", text, enrolled);
            let text = "sidecars that this gateway configures, by what they run";
            registry.register("instances", text, instances);
            let text = "callers that wait for another config";
            registry.register("config_poll_waiters", text, meters.waiters.clone());
            let text = "open streams of events";
            registry.register("config_event_streams", text, meters.streams.clone());
            let text = "records of the audit log, by what happened";
            registry.register("audit_records", text, meters.audited.clone());
            let text = "tokens of pods that sidecars showed, by what came of it";
            registry.register("workload_tokens", text, meters.workload_tokens.clone());
            let text = "questions to the cluster for its keys, by what came of them";
            registry.register("cluster_key_fetches", text, meters.cluster_keys.clone());
            let text = "records of the audit log that could not be written";
            registry.register("audit_write_failures", text, meters.unwritten.clone());
        });
        meters
    }

    /// Counts a record of the audit log.
    pub fn audit(&self, action: &'static str) {
        self.audited.get_or_create_owned(&[("action", action)]).inc();
    }

    /// Counts a token of a pod, by what came of it.
    pub fn workload_token(&self, result: &'static str) {
        self.workload_tokens.get_or_create_owned(&ResultLabels { result }).inc();
    }

    /// Counts a question to the cluster for its keys.
    pub fn cluster_keys(&self, result: &'static str) {
        self.cluster_keys.get_or_create_owned(&ResultLabels { result }).inc();
    }

    /// Counts an answer.
    pub fn answer(&self, how: Answered) {
        self.answered[how as usize].inc();
    }

    /// Counts a sidecar's wish for a certificate.
    pub fn enrolled(&self, how: Enrolled) {
        self.enrolled[how as usize].inc();
    }

    /// How many instances are in this state.
    pub fn show(&self, state: InstanceState, count: usize) {
        self.instances[state as usize].set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

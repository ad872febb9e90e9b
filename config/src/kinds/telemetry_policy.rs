//! `TelemetryPolicy`: what is logged, traced and shipped.
//!
//! Blocks have the names of Istio's Telemetry. Shipping of metrics and the buffer for bad days are
//! read completely and reported as not in effect.

use schemars::JsonSchema;
use serde::Deserialize;

use super::backend::Location;
use super::{ApiVersion, Metadata, StoreSelector};
use crate::scalar::{
    ClassPattern, CollectorUrl, DurationText, HeaderField, Name, OutputText, Percentage, Size,
    Whole,
};

/// What is logged, traced and shipped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "TelemetryPolicy")]
pub struct TelemetryPolicyDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `TelemetryPolicy`.
    pub kind: TelemetryPolicyKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// The policy.
    pub spec: TelemetryPolicySpec,
}

/// The word `TelemetryPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TelemetryPolicyKind {
    /// That word.
    TelemetryPolicy,
}

/// What is logged, traced and shipped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TelemetryPolicySpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several TelemetryPolicies that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// Shipping of metrics. Not built yet.
    #[serde(default)]
    pub metrics: Option<MetricsDoc>,
    /// Which requests are logged, by class; a class that no entry names is not logged.
    #[serde(default)]
    pub access_logging: Vec<AccessLoggingDoc>,
    /// Where and how lines are written.
    #[serde(default)]
    pub access_log_output: Option<AccessLogOutputDoc>,
    /// Export of spans.
    #[serde(default)]
    pub tracing: Option<TracingDoc>,
    /// What is kept while the line is down. Not built yet.
    #[serde(default)]
    pub buffer: Option<TelemetryBufferDoc>,
}

/// Shipping of metrics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MetricsDoc {
    /// How often they are collected.
    #[serde(default)]
    pub scrape_interval: Option<DurationText>,
    /// What is sent, and how often.
    #[serde(default)]
    pub ship: Vec<ShipDoc>,
}

/// Some metrics on their way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShipDoc {
    /// Names, with `*` at the end.
    #[serde(rename = "match")]
    pub names: Vec<String>,
    /// How often.
    pub every: DurationText,
    /// As which class.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// Only in these change windows.
    #[serde(default)]
    pub windows: Vec<Name>,
}

/// Which requests of some classes are logged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessLoggingDoc {
    /// Names of classes; `*` is every class that no other entry names.
    #[schemars(length(min = 1))]
    pub traffic_classes: Vec<ClassPattern>,
    /// How many of their requests; those that fail are logged in any case, with 0 % only those.
    pub sampling: Percentage,
    /// Request headers that are logged beside the usual fields.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub headers: Option<Vec<HeaderField>>,
    /// Of the logged headers: those whose values are not, only that they were there. The ones
    /// that carry secrets (`authorization`, `cookie`, …) never are.
    #[serde(default)]
    pub redact_headers: Vec<HeaderField>,
    /// Class in which logs are shipped. Not built yet.
    #[serde(default)]
    pub traffic_class: Option<Name>,
}

/// Where and how lines are written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessLogOutputDoc {
    /// `stdout` (the default), or the path of a file, which is opened anew on SIGHUP.
    #[serde(default)]
    pub path: Option<OutputText>,
    /// How a line is written; `JSON` without it.
    #[serde(default)]
    pub format: Option<LogFormat>,
    /// How much of a client's address a line shows; `Full` without it.
    #[serde(default)]
    pub client_address: Option<ClientAddressDoc>,
}

/// How much of a client's address is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ClientAddressDoc {
    /// All of it.
    Full,
    /// Its network: 24 bits of IPv4, 48 of IPv6.
    Prefix,
    /// A hash with a key that only the running process has: lines of one client belong together
    /// until it ends.
    Hash,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// One JSON object.
    #[serde(rename = "JSON")]
    Json,
}

/// Export of spans. Trace context of the W3C is passed on in any case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TracingDoc {
    /// Collector that takes OTLP over HTTP; without it nothing is exported.
    #[serde(default)]
    pub endpoint: Option<CollectorUrl>,
    /// Across the WAN line (the default) or inside the store.
    #[serde(default)]
    pub location: Option<Location>,
    /// How many of the requests that bring no trace context of their own.
    pub sampling: Percentage,
    /// Class of the export; `metrics` without it.
    #[serde(default)]
    pub traffic_class: Option<Name>,
}

/// What is kept while the line is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TelemetryBufferDoc {
    /// How much.
    #[serde(default)]
    pub limit: Option<Size>,
    /// For how long.
    #[serde(default)]
    pub max_age: Option<DurationText>,
    /// What gives way.
    #[serde(default)]
    pub on_full: Option<TelemetryOnFull>,
}

/// What gives way when the buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TelemetryOnFull {
    /// The oldest.
    DropOldest,
}

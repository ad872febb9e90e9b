//! How the servers of a backend are watched: by probes, and by what happens to real calls.
//!
//! Names are those of Envoy Gateway's `healthCheck`, where it has them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::scalar::{DurationText, Fqdn, HeaderField, Percentage, UrlPath, Whole};

/// How the servers are watched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheck {
    /// By probes.
    #[serde(default)]
    pub active: Option<ActiveCheck>,
    /// By the outcome of real requests.
    #[serde(default)]
    pub passive: Option<PassiveCheck>,
    /// Where a server says how old its data is; routes say with `maxDataAge` how old is too old.
    #[serde(default)]
    pub data_age: Option<DataAge>,
}

/// Where a server says how old its data is, in seconds: in one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DataAge {
    /// In this header of its answers.
    Header(HeaderField),
    /// In this member of the JSON object that the health path answers with.
    Field(String),
}

/// Probes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ActiveCheck {
    /// Probe by an HTTP request.
    #[serde(default)]
    pub http: Option<HttpProbe>,
    /// Probe by a TCP connection.
    #[serde(default)]
    pub tcp: Option<TcpProbe>,
    /// Probe by the gRPC health service.
    #[serde(default)]
    pub grpc: Option<GrpcProbe>,
    /// Time between two probes.
    #[serde(default)]
    pub interval: Option<DurationText>,
    /// A probe without an answer by then has failed.
    #[serde(default)]
    pub timeout: Option<DurationText>,
    /// Failed probes after which a server is down.
    #[serde(default)]
    pub unhealthy_threshold: Option<Whole<1, 1000>>,
    /// Good probes after which it is up again.
    #[serde(default)]
    pub healthy_threshold: Option<Whole<1, 1000>>,
}

/// A probe by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpProbe {
    /// Path that is asked for.
    pub path: UrlPath,
    /// `Host` that is asked for; the server's own without it.
    #[serde(default)]
    pub hostname: Option<Fqdn>,
    /// Method; GET without it.
    #[serde(default)]
    pub method: Option<ProbeMethod>,
    /// Statuses that count as good; without it those below 400 do.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub expected_statuses: Option<Vec<Whole<100, 599>>>,
}

/// Method of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeMethod {
    /// GET.
    Get,
    /// HEAD.
    Head,
}

/// A probe by TCP; it has no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {}

/// A probe by gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpcProbe {
    /// Name of the service; without it the server as a whole.
    #[serde(default)]
    pub service: Option<String>,
}

/// Watching by the outcome of real requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PassiveCheck {
    /// Answers of 500 and above in a row after which a server is taken out.
    #[serde(default, rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<Whole<1, 1000>>,
    /// Answers 502, 503 and 504 in a row after which it is.
    #[serde(default)]
    pub consecutive_gateway_errors: Option<Whole<1, 1000>>,
    /// Calls in a row that were refused, broken off or not answered in time after which it is.
    #[serde(default)]
    pub consecutive_local_origin_failures: Option<Whole<1, 1000>>,
    /// Part of the calls of an interval that have failed, from which it is.
    #[serde(default)]
    pub failure_percentage_threshold: Option<Percentage>,
    /// With fewer calls in an interval, their part says nothing.
    #[serde(default)]
    pub failure_percentage_request_volume: Option<Whole<1, 1_000_000>>,
    /// The interval, which slides.
    #[serde(default)]
    pub interval: Option<DurationText>,
    /// How long a server is taken out the first time; twice as long each further time.
    #[serde(default)]
    pub base_ejection_time: Option<DurationText>,
    /// How long it is taken out at most.
    #[serde(default)]
    pub max_ejection_time: Option<DurationText>,
    /// Good calls, one at a time, after which it has all traffic again.
    #[serde(default)]
    pub successful_trials: Option<Whole<1, 1000>>,
    /// Part of a backend's servers that its calls may take out at one time; one may always be, and
    /// failed probes and silence take out all.
    #[serde(default)]
    pub max_ejection_percent: Option<Percentage>,
    /// When silence is suspicious.
    #[serde(default)]
    pub stall: Option<StallDoc>,
}

/// When silence is suspicious: a server that answered steadily owes answers, and no byte comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StallDoc {
    /// Less silence never is.
    #[serde(default)]
    pub floor: Option<DurationText>,
    /// Nor is less than so many times what 99 of 100 answers take.
    #[serde(default)]
    pub multiplier: Option<Whole<1, 100>>,
}

//! `ServiceRoute`: which requests go to which backends.
//!
//! Matches, timeouts, retries and session persistence have the names and meanings of Gateway
//! API's HTTPRoute (no conformance is claimed); `fallback` is Envoy Gateway's.

use schemars::JsonSchema;
use serde::Deserialize;

use super::filters::{ClientCertificateMatch, Filters, RateLimitDoc, SessionPersistence};
use super::{ApiVersion, Metadata, StoreSelector};
use crate::scalar::{
    DurationText, Flag, HeaderField, HeaderText, HealthyCount, HostText, Name, Percentage,
    QueryName, QueryText, Size, UrlPath, Whole,
};

/// Routes of one service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "ServiceRoute")]
pub struct ServiceRouteDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `ServiceRoute`.
    pub kind: ServiceRouteKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// The routes.
    pub spec: ServiceRouteSpec,
}

/// The word `ServiceRoute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ServiceRouteKind {
    /// That word.
    ServiceRoute,
}

/// Hosts and rules of one service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceRouteSpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several documents of this name that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// Hosts of the service: names, `*.suffix`, `*`, or IP addresses. Ports are ignored.
    #[schemars(length(min = 1))]
    pub hostnames: Vec<HostText>,
    /// Class of all rules that name none. Without it, recognised traffic has its natural class,
    /// the rest `default`.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// The rules.
    #[schemars(length(min = 1))]
    pub rules: Vec<RuleDoc>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RuleDoc {
    /// Name of the rule, unique in its route.
    pub name: Name,
    /// Alternatives, of which one must match; without any, every request does.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub matches: Option<Vec<MatchDoc>>,
    /// Class of these requests, before that of the route.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// How long the steps of a request may take.
    #[serde(default)]
    pub timeouts: Option<TimeoutsDoc>,
    /// Changes to requests and answers, or an answer of the gateway's own.
    #[serde(default)]
    pub filters: Option<Filters>,
    /// When a call may be sent again.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// Where requests go. Those without `fallback` are tier one; each fallback is one more tier.
    /// Absent only where `filters` answer by themselves.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub backend_refs: Option<Vec<BackendRefDoc>>,
    /// When the tiers change.
    #[serde(default)]
    pub failover: Option<Failover>,
    /// Calls that carry a key may be sent again.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
    /// Requests of one session stay on one endpoint.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
    /// How often requests may come; all limits must agree.
    #[serde(default)]
    #[schemars(length(min = 1, max = 4))]
    pub rate_limits: Option<Vec<RateLimitDoc>>,
}

/// One alternative: all present conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MatchDoc {
    /// Condition on the path.
    #[serde(default)]
    pub path: Option<PathMatchDoc>,
    /// Condition on the method.
    #[serde(default)]
    pub method: Option<MethodDoc>,
    /// Conditions on headers; all must hold.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub headers: Option<Vec<HeaderMatchDoc>>,
    /// Conditions on query parameters; all must hold.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub query_params: Option<Vec<QueryParamMatchDoc>>,
    /// Condition on the client's certificate; needs a listener that asks for one.
    #[serde(default)]
    pub client_certificate: Option<ClientCertificateMatch>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathMatchDoc {
    /// How it is compared; `PathPrefix` without it.
    #[serde(default, rename = "type")]
    pub kind: Option<PathMatchType>,
    /// The path.
    pub value: UrlPath,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// By whole segments from the start.
    PathPrefix,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum MethodDoc {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
}

/// A header that must be present with this value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatchDoc {
    /// How it is compared; `Exact` without it.
    #[serde(default, rename = "type")]
    pub kind: Option<HeaderMatchType>,
    /// Name of the header.
    pub name: HeaderField,
    /// Its value.
    pub value: HeaderText,
}

/// How a header or query parameter is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HeaderMatchType {
    /// The whole value.
    Exact,
}

/// A query parameter that must be present with this value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryParamMatchDoc {
    /// How it is compared; `Exact` without it.
    #[serde(default, rename = "type")]
    pub kind: Option<HeaderMatchType>,
    /// Its name, as it is meant: not percent-encoded.
    pub name: QueryName,
    /// Its value, as it is meant.
    pub value: QueryText,
}

/// How long the steps of a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TimeoutsDoc {
    /// From the request's head to the answer's head, all included; `0s` = no limit.
    #[serde(default)]
    pub request: Option<DurationText>,
    /// From sending one try to the answer's head; `0s` = no limit.
    #[serde(default)]
    pub backend_request: Option<DurationText>,
    /// Until a connection is established.
    #[serde(default)]
    pub connect: Option<DurationText>,
    /// A stream on which nothing moves for this long is ended.
    #[serde(default)]
    pub idle: Option<DurationText>,
}

/// A weighted reference to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendRefDoc {
    /// Name of the Backend.
    pub name: Name,
    /// Share against the others of its tier; 0 takes no traffic.
    #[serde(default)]
    pub weight: Option<Whole<0, 1_000_000>>,
    /// One more tier, used when the tiers before it are unusable.
    #[serde(default)]
    pub fallback: Option<Flag>,
}

/// When a call may be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retry {
    /// Further tries of a call that was sent; 0 = none. What was not sent is always tried
    /// elsewhere.
    #[serde(default)]
    pub attempts: Option<Whole<0, 5>>,
    /// Longest pause before the first further try; twice as long before each further one.
    #[serde(default)]
    pub backoff: Option<DurationText>,
    /// Longest pause of all.
    #[serde(default)]
    pub max_backoff: Option<DurationText>,
    /// Statuses after which a call is sent again.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub codes: Option<Vec<Whole<400, 599>>>,
    /// Explicit permission for methods that are not idempotent.
    #[serde(default)]
    pub unsafe_methods: Option<Flag>,
    /// Bodies up to this size are kept until the answer comes, so that they can be sent again.
    #[serde(default)]
    pub buffer_size: Option<Size>,
    /// A second call beside a slow one.
    #[serde(default)]
    pub hedge: Option<Hedge>,
}

/// A second call beside a slow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// After so long without an answer; without it, when 95 of 100 answers would have come, and
    /// at most a second.
    #[serde(default)]
    pub after: Option<DurationText>,
}

/// When the tiers change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Failover {
    /// Usable endpoints below which the next tier takes over.
    #[serde(default)]
    pub fallback_below: Option<HealthyCount>,
    /// How long a tier must be well before it is used again.
    #[serde(default)]
    pub hold_down: Option<DurationText>,
    /// Further tries as a part of all calls.
    #[serde(default)]
    pub retry_budget_percent: Option<Percentage>,
    /// Further tries in a second that are always allowed.
    #[serde(default)]
    pub min_retries_per_second: Option<Whole<0, 100_000>>,
    /// Over how long traffic comes back; `0s` = at once.
    #[serde(default)]
    pub ramp: Option<DurationText>,
    /// Servers whose data is older are not used; they say it by the backend's
    /// `healthCheck.dataAge`.
    #[serde(default)]
    pub max_data_age: Option<DurationText>,
}

/// Calls with a key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// Header that carries the key.
    pub header: HeaderField,
    /// Where the key is remembered; `Backend` without it.
    #[serde(default)]
    pub scope: Option<IdempotencyScope>,
}

/// Where a key is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum IdempotencyScope {
    /// Inside one backend.
    Backend,
    /// By all backends of the rule.
    AllBackends,
}

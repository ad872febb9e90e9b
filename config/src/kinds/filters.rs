//! What a rule of a `ServiceRoute` changes, answers by itself, counts or keeps together.
//!
//! Names and meanings are those of Gateway API's HTTPRoute filters; they stand in a mapping and
//! not in a list, because their order is fixed and each may be there once.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::scalar::{
    DurationText, HeaderField, HeaderText, PlainHost, SanText, SessionName, UrlPath, Whole,
};

/// Changes to requests and answers, or an answer of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Filters {
    /// Changes to the request's headers.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderChanges>,
    /// Changes to the answer's headers.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderChanges>,
    /// Changes to the request's host and path.
    #[serde(default)]
    pub url_rewrite: Option<UrlRewrite>,
    /// The client is sent elsewhere; without `backendRefs`.
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    /// The gateway answers; without `backendRefs`.
    #[serde(default)]
    pub direct_response: Option<DirectResponseDoc>,
}

/// Changes to headers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderChanges {
    /// Replaced, or added where absent.
    #[serde(default)]
    pub set: Vec<HeaderPair>,
    /// Added beside what is there.
    #[serde(default)]
    pub add: Vec<HeaderPair>,
    /// Removed.
    #[serde(default)]
    pub remove: Vec<HeaderField>,
}

/// A header with its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderPair {
    /// Name of the header.
    pub name: HeaderField,
    /// Its value.
    pub value: HeaderText,
}

/// Changes to the request's host and path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UrlRewrite {
    /// The new host.
    #[serde(default)]
    pub hostname: Option<PlainHost>,
    /// The new path; the query stays.
    #[serde(default)]
    pub path: Option<PathModifier>,
}

/// What becomes of the path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PathModifier {
    /// What is replaced.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// What stands for the whole path; with `type: ReplaceFullPath`.
    #[serde(default)]
    pub replace_full_path: Option<UrlPath>,
    /// What stands for the matched prefix; with `type: ReplacePrefixMatch`.
    #[serde(default)]
    pub replace_prefix_match: Option<UrlPath>,
}

/// What is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PathModifierType {
    /// The whole path.
    ReplaceFullPath,
    /// The prefix that the rule matched.
    ReplacePrefixMatch,
}

/// Where a client is sent. What is absent is taken from the request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestRedirect {
    /// The new scheme.
    #[serde(default)]
    pub scheme: Option<SchemeDoc>,
    /// The new host.
    #[serde(default)]
    pub hostname: Option<PlainHost>,
    /// The new port; without it that of the scheme, if one is given.
    #[serde(default)]
    pub port: Option<Whole<1, 65_535>>,
    /// The new path.
    #[serde(default)]
    pub path: Option<PathModifier>,
    /// 301, 302 (the default), 303, 307 or 308.
    #[serde(default)]
    pub status_code: Option<Whole<300, 399>>,
}

/// A scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchemeDoc {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// An answer of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DirectResponseDoc {
    /// Its status.
    pub status_code: Whole<200, 599>,
    /// Type of its body; `text/plain; charset=utf-8` without it.
    #[serde(default)]
    pub content_type: Option<HeaderText>,
    /// Its body, up to 4096 bytes.
    #[serde(default)]
    pub body: Option<String>,
}

/// A condition on the client's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificateMatch {
    /// A name that it must have.
    pub san: SanText,
}

/// Requests of one session stay on one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SessionPersistence {
    /// Name of the cookie or header.
    #[serde(default)]
    pub session_name: Option<SessionName>,
    /// What carries the session; `Cookie` without it.
    #[serde(default, rename = "type")]
    pub kind: Option<SessionType>,
    /// A session ends after this.
    #[serde(default)]
    pub absolute_timeout: Option<DurationText>,
    /// A session without a request ends after this.
    #[serde(default)]
    pub idle_timeout: Option<DurationText>,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SessionType {
    /// A cookie.
    Cookie,
    /// A header.
    Header,
}

/// How often requests may come; more are answered 429.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimitDoc {
    /// So many requests for each key …
    pub requests: Whole<1, 1_000_000>,
    /// … in this time; a second without it.
    #[serde(default)]
    pub interval: Option<DurationText>,
    /// Requests that may come at once; as many as `requests` without it.
    #[serde(default)]
    pub burst: Option<Whole<1, 1_000_000>>,
    /// What is counted; `ClientAddress` without it.
    #[serde(default)]
    pub key: Option<RateKeyDoc>,
    /// Keys that are remembered; beyond, the least recently seen make room.
    #[serde(default)]
    pub max_keys: Option<Whole<1, 1_000_000>>,
}

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateKeyDoc {
    /// What is counted.
    #[serde(rename = "type")]
    pub kind: RateKeyType,
    /// Name of the header; with `type: Header`.
    #[serde(default)]
    pub name: Option<HeaderField>,
}

/// What requests are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RateKeyType {
    /// The client's address.
    ClientAddress,
    /// The value of a header.
    Header,
    /// The client's certificate.
    ClientCertificate,
    /// All requests of the rule together.
    Route,
}

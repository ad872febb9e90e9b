//! `TrafficClass`: what a kind of traffic is worth on the line.
//!
//! Priority decides first, weights share inside a tier, guarantees are floors, ceilings are
//! limits. `lendable`, `metered: Restrict` and `onFull: DropOldest` are not part of the language.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ApiVersion, Metadata, StoreSelector};
use crate::scalar::{Dscp, DurationText, Flag, ShareText, Size, Whole};

/// A class of traffic. A document of the same name replaces a built-in class as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "TrafficClass")]
pub struct TrafficClassDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `TrafficClass`.
    pub kind: TrafficClassKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// What the class is worth.
    pub spec: TrafficClassSpec,
}

/// The word `TrafficClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TrafficClassKind {
    /// That word.
    TrafficClass,
}

/// What a class is worth.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficClassSpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several documents of this name that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// Higher wins. Classes of equal priority form one tier and share it by weight.
    pub priority: Whole<0, 1000>,
    /// Share inside its tier.
    #[serde(default)]
    pub weight: Option<Whole<1, 65_536>>,
    /// Critical classes are protected by guards and drained last.
    #[serde(default)]
    pub critical: Option<Flag>,
    /// The floor of the class while it has traffic; an idle floor is lent to the others.
    #[serde(default)]
    pub guarantee: Option<SharePair>,
    /// The most it may take even of an idle line.
    #[serde(default)]
    pub ceiling: Option<SharePair>,
    /// How long and how much may wait.
    #[serde(default)]
    pub queue: Option<Queue>,
    /// Code point of its packets on the WAN.
    #[serde(default)]
    pub dscp: Option<Dscp>,
    /// May it use links that cost by the byte?
    #[serde(default)]
    pub metered: Option<Metered>,
    /// Requests of the class at the same time, on all listeners; the next one is answered 503. As
    /// many as the listeners take without it.
    #[serde(default)]
    pub max_requests: Option<Whole<1, 1_000_000>>,
    /// Raw TCP and passed-through TLS, CONNECT tunnels, WebSockets and UDP sessions of the class at
    /// the same time, on all listeners; the next one is refused. As many as the listeners take
    /// without it.
    #[serde(default)]
    pub max_connections: Option<Whole<1, 1_000_000>>,
}

/// A part of the line for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharePair {
    /// From the store to the cloud.
    #[serde(default)]
    pub up: Option<ShareText>,
    /// From the cloud to the store.
    #[serde(default)]
    pub down: Option<ShareText>,
}

/// How long and how much of a class may wait for the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Queue {
    /// A request that has waited this long is refused.
    #[serde(default)]
    pub max_wait: Option<DurationText>,
    /// Bytes that may wait, in each direction.
    #[serde(default)]
    pub limit: Option<Size>,
    /// What happens when no more may wait.
    #[serde(default)]
    pub on_full: Option<OnFull>,
}

/// What happens when no more may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum OnFull {
    /// New requests are refused.
    Reject,
}

/// Use of links that cost by the byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Metered {
    /// It may use them.
    Allow,
    /// It may not.
    Deny,
}

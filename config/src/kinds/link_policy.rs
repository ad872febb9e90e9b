//! `LinkPolicy`: how the WAN lines of a store are used.
//!
//! One document serves many stores, so it names links and rules; their rates stand in the `Store`
//! documents unless they are the same everywhere.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ApiVersion, Metadata, RatePair, StoreSelector};
use crate::scalar::{DurationText, Flag, Name, Percentage, ShareText, Size, Whole};

/// How the lines are used. One applies to a store; without any, the first link of the store is
/// the primary one and the others stand by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "LinkPolicy")]
pub struct LinkPolicyDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `LinkPolicy`.
    pub kind: LinkPolicyKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// The policy.
    pub spec: LinkPolicySpec,
}

/// The word `LinkPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LinkPolicyKind {
    /// That word.
    LinkPolicy,
}

/// How the lines are used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LinkPolicySpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several LinkPolicies that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// The links, by the names of the Store.
    #[schemars(length(min = 1, max = 16))]
    pub links: Vec<PolicyLink>,
    /// When the gateway changes to another line. Not built yet.
    #[serde(default)]
    pub failover: Option<LinkFailover>,
}

/// The use of one line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyLink {
    /// Name of the link in the Store.
    pub name: Name,
    /// Primary lines carry traffic, backup lines stand by.
    pub role: Role,
    /// Costs by the byte: only classes with `metered: Allow` use it.
    #[serde(default)]
    pub metered: Option<Flag>,
    /// The rates of the line, where they are the same for every store.
    #[serde(default)]
    pub capacity: Option<RatePair>,
    /// The rates are those of the Store document; the default without `capacity`.
    #[serde(default)]
    pub capacity_from: Option<CapacityFrom>,
    /// Part of the line that stays unused, so that the queue stays with the gateway.
    #[serde(default)]
    pub headroom: Option<Percentage>,
    /// Bytes of framing for each packet that count against the capacity (Ethernet 18, PPPoE 8).
    #[serde(default)]
    pub overhead: Option<Whole<0, 256>>,
    /// Learn the real rate from latency. Not built yet.
    #[serde(default)]
    pub autorate: Option<Autorate>,
    /// Bytes a month. Not built yet.
    #[serde(default)]
    pub monthly_quota: Option<Size>,
}

/// Where the rates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum CapacityFrom {
    /// From the Store document.
    Store,
}

/// Use of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Role {
    /// Carries traffic.
    Primary,
    /// Stands by.
    Backup,
}

/// Learning of the real rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Autorate {
    /// On or off.
    pub enabled: Flag,
    /// Added latency that the line may show under load.
    #[serde(default)]
    pub latency_target: Option<DurationText>,
    /// Never below this part of the capacity.
    #[serde(default)]
    pub minimum: Option<ShareText>,
}

/// When the gateway changes to another line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LinkFailover {
    /// Time between two probes of a line.
    #[serde(default)]
    pub interval: Option<DurationText>,
    /// Failed probes after which a line is down.
    #[serde(default)]
    pub unhealthy_threshold: Option<Whole<1, 1000>>,
    /// Good probes after which it is up again.
    #[serde(default)]
    pub healthy_threshold: Option<Whole<1, 1000>>,
    /// How long a line must be up before it is used again.
    #[serde(default)]
    pub hold_down: Option<DurationText>,
}

//! `EgressPolicy`: what the forward proxy may reach, and as which class.
//!
//! The words are those of Linkerd's EgressNetwork. That `trafficPolicy` must be written is meant:
//! the mere presence of a document never denies anything.

use schemars::JsonSchema;
use serde::Deserialize;

use super::backend::Location;
use super::{ApiVersion, Metadata, StoreSelector};
use crate::scalar::{Cidr, Flag, HostText, Name, Whole};

/// What the forward proxy may reach.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "EgressPolicy")]
pub struct EgressPolicyDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `EgressPolicy`.
    pub kind: EgressPolicyKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// The policy.
    pub spec: EgressPolicySpec,
}

/// The word `EgressPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum EgressPolicyKind {
    /// That word.
    EgressPolicy,
}

/// Rules of the forward proxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EgressPolicySpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several EgressPolicies that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// What happens to destinations that no rule names.
    pub traffic_policy: TrafficPolicyDoc,
    /// The rules.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub rules: Option<Vec<EgressRuleDoc>>,
}

/// What happens to destinations that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TrafficPolicyDoc {
    /// They pass, in their natural class or `default`.
    Allow,
    /// They are refused.
    Deny,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EgressRuleDoc {
    /// Name of the rule, unique in its policy.
    pub name: Name,
    /// What it applies to; one is enough.
    #[schemars(length(min = 1))]
    pub destinations: Vec<DestinationDoc>,
    /// Class of the traffic; without it the natural class, else `default`.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// Across the WAN line (the default) or inside the store.
    #[serde(default)]
    pub location: Option<Location>,
    /// How TLS is treated.
    #[serde(default)]
    pub tls: Option<EgressTls>,
    /// Which lines are used. Not built yet.
    #[serde(default)]
    pub links: Option<EgressLinks>,
}

/// A set of destinations: hosts by name or networks, on some ports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationDoc {
    /// By name, before it is resolved; not together with `cidrs`.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub hostnames: Option<Vec<HostText>>,
    /// By address, after it is resolved; not together with `hostnames`.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub cidrs: Option<Vec<Cidr>>,
    /// Ports; every port without it.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub ports: Option<Vec<Whole<1, 65_535>>>,
    /// What is spoken there. Not checked yet.
    #[serde(default)]
    pub protocol: Option<EgressProtocol>,
}

/// What is spoken to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum EgressProtocol {
    /// TLS.
    Tls,
    /// HTTP.
    Http,
    /// Any bytes over TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How TLS is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressTls {
    /// The mode.
    pub mode: EgressTlsMode,
}

/// How TLS is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum EgressTlsMode {
    /// Passed on unread.
    Passthrough,
}

/// Which lines are used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EgressLinks {
    /// In this order.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub prefer: Option<Vec<Name>>,
    /// Also links that cost by the byte.
    #[serde(default)]
    pub allow_metered: Option<Flag>,
}

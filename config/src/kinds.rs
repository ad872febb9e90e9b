//! The kinds of the language: what a document may say.
//!
//! One type per kind, strict (`deny_unknown_fields` everywhere, no flattening, no untagged
//! enums), so that the parser can point at the character that is wrong. The doc comments of the
//! fields are the descriptions of the JSON Schema. What values mean together is decided by
//! [`crate::compile`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::scalar::{DurationText, LabelKey, LabelValue, Name, Rate, StorePath};

pub mod backend;
pub mod bootstrap;
pub mod bundle;
pub mod calendar;
pub mod config_endpoint;
mod document;
pub mod egress_policy;
pub mod filters;
pub mod health;
pub mod link_policy;
pub mod listener;
pub mod registry_mirror;
pub mod rollout;
pub mod service_accounts;
pub mod service_route;
pub mod store;
pub mod telemetry_policy;
pub mod tls;
pub mod traffic_class;

pub use backend::BackendDoc;
pub use bootstrap::BootstrapDoc;
pub use bundle::BundleDoc;
pub use calendar::{ChangeWindowDoc, FreezeDoc, OverrideDoc, ProhibitionDoc};
pub use egress_policy::EgressPolicyDoc;
pub use link_policy::LinkPolicyDoc;
pub use listener::ListenerDoc;
pub use registry_mirror::RegistryMirrorDoc;
pub use rollout::{RingPromotionDoc, RolloutDoc};
pub use service_route::ServiceRouteDoc;
pub use store::StoreDoc;
pub use telemetry_policy::TelemetryPolicyDoc;
pub use traffic_class::TrafficClassDoc;

/// The one version of the language.
pub const API_VERSION: &str = "tillgate.dev/v1alpha1";

/// A kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Servers that requests can go to.
    Backend,
    /// What a store is provisioned with; no part of a policy.
    Bootstrap,
    /// The policy as a whole.
    Bundle,
    /// A time in which a store may, or may not, change.
    ChangeWindow,
    /// What the forward proxy may reach, and as which class.
    EgressPolicy,
    /// A stretch of days in which nothing new is rolled out.
    Freeze,
    /// How the WAN lines are used.
    LinkPolicy,
    /// A socket to listen on.
    Listener,
    /// A signed exception for a few hours.
    Override,
    /// Images that some stores must never run.
    Prohibition,
    /// The gateway as the store's registry.
    RegistryMirror,
    /// A signed statement that a release may go on.
    RingPromotion,
    /// Images that reach the stores ring by ring.
    Rollout,
    /// Which requests go to which backends.
    ServiceRoute,
    /// The store itself.
    Store,
    /// What is logged, traced and shipped.
    TelemetryPolicy,
    /// What a kind of traffic is worth on the line.
    TrafficClass,
}

impl Kind {
    /// Every kind, by name.
    pub const ALL: [Self; 17] = [
        Self::Backend,
        Self::Bootstrap,
        Self::Bundle,
        Self::ChangeWindow,
        Self::EgressPolicy,
        Self::Freeze,
        Self::LinkPolicy,
        Self::Listener,
        Self::Override,
        Self::Prohibition,
        Self::RegistryMirror,
        Self::RingPromotion,
        Self::Rollout,
        Self::ServiceRoute,
        Self::Store,
        Self::TelemetryPolicy,
        Self::TrafficClass,
    ];

    /// The word in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backend => "Backend",
            Self::Bootstrap => "Bootstrap",
            Self::Bundle => "Bundle",
            Self::ChangeWindow => "ChangeWindow",
            Self::EgressPolicy => "EgressPolicy",
            Self::Freeze => "Freeze",
            Self::LinkPolicy => "LinkPolicy",
            Self::Listener => "Listener",
            Self::Override => "Override",
            Self::Prohibition => "Prohibition",
            Self::RegistryMirror => "RegistryMirror",
            Self::RingPromotion => "RingPromotion",
            Self::Rollout => "Rollout",
            Self::ServiceRoute => "ServiceRoute",
            Self::Store => "Store",
            Self::TelemetryPolicy => "TelemetryPolicy",
            Self::TrafficClass => "TrafficClass",
        }
    }

    /// The kind of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How many documents of a kind may count for one store.
    pub const fn cardinality(self) -> Cardinality {
        match self {
            Self::Bootstrap => Cardinality::Elsewhere,
            Self::Bundle | Self::Store => Cardinality::Fixed,
            Self::EgressPolicy
            | Self::LinkPolicy
            | Self::RegistryMirror
            | Self::TelemetryPolicy => Cardinality::Single,
            Self::ChangeWindow
            | Self::Freeze
            | Self::Override
            | Self::Prohibition
            | Self::RingPromotion => Cardinality::Additive,
            Self::Backend
            | Self::Listener
            | Self::Rollout
            | Self::ServiceRoute
            | Self::TrafficClass => Cardinality::Named,
        }
    }
}

/// How many documents of a kind may count for one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    /// One for each name; of several that apply, the highest precedence counts as a whole.
    Named,
    /// One, whatever its name; of several that apply, the highest precedence counts as a whole.
    Single,
    /// All that apply; names must differ.
    Additive,
    /// One for the whole policy, or one for the store itself.
    Fixed,
    /// Not part of a policy at all.
    Elsewhere,
}

/// The document's one version; another word is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The first version.
    #[serde(rename = "tillgate.dev/v1alpha1")]
    V1Alpha1,
}

/// What a document is called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Name of the document, unique within its kind for one store.
    pub name: Name,
    /// Labels; those of a Store are what `storeSelector` looks at.
    #[serde(default)]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Notes for people and tools; they have no effect.
    #[serde(default)]
    pub annotations: BTreeMap<LabelKey, String>,
}

/// Which stores a document applies to. All present terms must hold; an empty selector is every
/// store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StoreSelector {
    /// Labels that the store must have, each with this value.
    #[serde(default)]
    pub match_labels: BTreeMap<LabelKey, LabelValue>,
    /// Conditions on single labels; all must hold.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub match_expressions: Option<Vec<LabelExpression>>,
    /// Groups; the store must be in or below one of them.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub under_paths: Option<Vec<StorePath>>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelExpression {
    /// The label.
    pub key: LabelKey,
    /// How its value is compared.
    pub operator: LabelOperator,
    /// Values for `In` and `NotIn`; must be absent for the others.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub values: Option<Vec<LabelValue>>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// A rate for each direction of a line, seen from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RatePair {
    /// From the store to the cloud.
    pub up: Rate,
    /// From the cloud to the store.
    pub down: Rate,
}

/// The duration of an optional field.
pub(crate) fn duration(text: Option<DurationText>) -> Option<std::time::Duration> {
    text.map(|text| text.0)
}

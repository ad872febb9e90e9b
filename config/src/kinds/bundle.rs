//! `Bundle`: the policy as a whole.
//!
//! What a gateway must be able to do to read it, what it refuses to lose by accident, and how
//! the policy itself spreads over the stores.

use schemars::JsonSchema;
use serde::Deserialize;

use super::document::document;
use super::rollout::{PromotionDoc, RingDoc};
use crate::scalar::{DurationText, Flag, Instant, Name, Percentage, VersionText};

document! {
    /// The policy as a whole; one for a repository.
    "Bundle", BundleDoc, BundleKind::Bundle, BundleSpec
}

/// The policy as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BundleSpec {
    /// Version of the language that the documents are written in.
    pub schema_version: SchemaVersion,
    /// The oldest gateway that reads it.
    pub min_gateway_version: VersionText,
    /// What happens to a policy with an error; `Reject` without it.
    #[serde(default)]
    pub fail_mode: Option<FailMode>,
    /// A policy older than this is reported as stale; it stays in force. 168h without it.
    #[serde(default)]
    pub soft_expiry: Option<DurationText>,
    /// What the policy may not lose.
    #[serde(default)]
    pub guards: Option<GuardsDoc>,
    /// How the policy itself reaches the stores; all at once without it.
    #[serde(default)]
    pub rollout: Option<BundleRollout>,
}

/// Version of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SchemaVersion {
    /// The first version.
    #[serde(rename = "v1alpha1")]
    V1Alpha1,
}

/// What happens to a policy with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum FailMode {
    /// All of it is rejected, and what runs stays.
    Reject,
}

/// What the policy may not lose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GuardsDoc {
    /// The most by which the guarantee of a critical class may fall from one policy to the next.
    #[serde(default)]
    pub max_capacity_drop: Option<Percentage>,
    /// Classes that every store must have, and that must be critical.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub required_classes: Option<Vec<Name>>,
}

/// How the policy itself reaches the stores.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BundleRollout {
    /// Groups of stores, in the order in which they get it.
    #[schemars(length(min = 1, max = 64))]
    pub rings: Vec<RingDoc>,
    /// Who opens the next ring.
    pub promotion: PromotionDoc,
    /// The last ring that is open; the first one without it.
    #[serde(default)]
    pub released_through: Option<Name>,
    /// Since when; ramps count from it where no RingPromotion says more.
    #[serde(default)]
    pub released_at: Option<Instant>,
    /// This policy does not wait for rings: a security fix. `false` without it.
    #[serde(default)]
    pub immediate: Option<Flag>,
}

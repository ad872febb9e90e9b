//! `Rollout` and `RingPromotion`: which images a store may pull, and when.
//!
//! A release is a set of digests; stores belong to rings, and a ring opens by a promotion. What
//! a store runs already is never held: a freeze must not stop a replaced box from coming back.

use schemars::JsonSchema;
use serde::Deserialize;

use super::StoreSelector;
use super::document::document;
use super::traffic_class::SharePair;
use crate::scalar::{
    DurationText, Flag, ImageDigest, Instant, Name, PlainText, Rate, RegistryHost, Repository,
    RepositoryPattern, Sha256Text, SignatureText, Size, Whole,
};

document! {
    /// Images that reach the stores ring by ring.
    "Rollout", RolloutDoc, RolloutKind::Rollout, RolloutSpec
}

document! {
    /// A signed statement that a release may go on to further rings.
    "RingPromotion", RingPromotionDoc, RingPromotionKind::RingPromotion, RingPromotionSpec
}

/// A group of images, its current release, and how that spreads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several documents of this name that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// The repositories that this rollout is in charge of.
    #[schemars(length(min = 1, max = 64))]
    pub artifacts: Vec<ArtifactDoc>,
    /// Class of the pulls.
    pub traffic_class: Name,
    /// Bounds beside those of the class.
    #[serde(default)]
    pub limits: Option<RolloutLimits>,
    /// The images that are to run.
    pub release: ReleaseDoc,
    /// What may be pulled at any time, beside what the store runs or has on its disk.
    #[serde(default)]
    pub always_allow: Option<AlwaysAllow>,
    /// Change windows (with `effect: Allow`) that count for this rollout; without it all that
    /// apply to it. Windows with `effect: Deny` count in any case.
    #[serde(default)]
    pub windows: Option<Vec<Name>>,
    /// What happens to pulls that have begun when the window ends; `Finish` without it.
    #[serde(default)]
    pub on_window_close: Option<OnWindowClose>,
    /// What a pull gets that may not begin yet; `Hold` without it.
    #[serde(default)]
    pub when_held: Option<WhenHeldDoc>,
    /// Bulk waits while the tills are busy.
    #[serde(default)]
    pub pause_while: Option<PauseWhile>,
    /// Pull an opened release before anybody asks, inside its windows; `false` without it.
    #[serde(default)]
    pub prefetch: Option<Flag>,
    /// Groups of stores, in the order in which they get the release. A store belongs to the first
    /// one that selects it.
    #[schemars(length(min = 1, max = 64))]
    pub rings: Vec<RingDoc>,
    /// Who opens the next ring.
    pub promotion: PromotionDoc,
    /// The last ring that is open, with `promotion.mode: Manual`; the first one without it.
    #[serde(default)]
    pub released_through: Option<Name>,
    /// Since when; ramps count from it where no RingPromotion says more.
    #[serde(default)]
    pub released_at: Option<Instant>,
}

/// Repositories of one registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactDoc {
    /// The registry's host, as images name it.
    pub registry: RegistryHost,
    /// Repositories; `*` stands for one segment or a part of it, `**` for any number of them.
    #[schemars(length(min = 1))]
    pub repositories: Vec<RepositoryPattern>,
}

/// Bounds of a rollout's pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RolloutLimits {
    /// The most of the line that all its pulls together may take.
    #[serde(default)]
    pub rate: Option<SharePair>,
    /// Pulls from the registry at the same time; the others wait in a queue.
    #[serde(default)]
    pub concurrent_pulls: Option<Whole<1, 1000>>,
    /// Bytes a day over links that cost by the byte.
    #[serde(default)]
    pub metered_bytes_per_day: Option<Size>,
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseDoc {
    /// Name of the release; the ramp's order of stores follows from it.
    pub name: Name,
    /// The images, by digest.
    #[schemars(length(min = 1))]
    pub images: Vec<ImageDoc>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDoc {
    /// Its repository, without the registry.
    pub repository: Repository,
    /// Its digest; a tag is no identity.
    pub digest: ImageDigest,
}

/// What may be pulled at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AlwaysAllow {
    /// Releases that this store has run before the current one; 2 without it.
    #[serde(default)]
    pub previous_releases: Option<Whole<1, 16>>,
}

/// What happens to pulls that have begun when their window ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum OnWindowClose {
    /// They end; new ones are held.
    Finish,
    /// They are held too, and go on where they were.
    Pause,
}

/// What a pull gets that may not begin yet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WhenHeldDoc {
    /// Hold it, or let it trickle.
    pub action: HeldAction,
    /// The rate of all held pulls together; with `Throttle`.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// When the client may ask again, give or take a fifth; 15m without it.
    #[serde(default)]
    pub retry_after: Option<DurationText>,
}

/// Hold or trickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HeldAction {
    /// 429 with the reason and the next opening.
    Hold,
    /// It passes at `rate`.
    Throttle,
}

/// Tills that must not notice: while the class is above a threshold, bulk falls to its floor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PauseWhile {
    /// The class that is watched.
    pub traffic_class: Name,
    /// Calls a second above which bulk falls to its floor.
    #[serde(default)]
    pub requests_per_second: Option<Whole<1, 1_000_000>>,
    /// Wait for the line (p99) above which bulk falls to its floor.
    #[serde(default)]
    pub added_latency: Option<DurationText>,
}

/// A group of stores.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RingDoc {
    /// Its name.
    pub name: Name,
    /// Which stores belong to it, unless an earlier ring has them; `{}` = all that are left.
    pub store_selector: StoreSelector,
    /// How long a ring has to look well before the next one may open.
    #[serde(default)]
    pub bake: Option<DurationText>,
    /// It does not wait for a change window; freezes and windows with `effect: Deny` hold it.
    #[serde(default)]
    pub ignore_windows: Option<Flag>,
    /// Its stores open one by one.
    #[serde(default)]
    pub ramp: Option<RampDoc>,
    /// Who has to sign the promotion that opens this ring.
    #[serde(default)]
    pub approvals: Option<RequiredApprovals>,
}

/// Stores open one by one: each at its own share of the time, which follows from the names of
/// release and store, so that nobody has to count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RampDoc {
    /// From the first store to the last.
    pub over: DurationText,
}

/// How many signatures of whom are needed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequiredApprovals {
    /// Different keys that have to sign.
    pub required: Whole<1, 16>,
    /// The roles that count.
    #[schemars(length(min = 1))]
    pub roles: Vec<Name>,
}

/// A signature over the document without its `approvals`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ApprovalDoc {
    /// The role in which it is given.
    pub role: Name,
    /// The key, by its id in the Bootstrap of the stores.
    pub key_id: Name,
    /// The signature, in base64.
    pub signature: SignatureText,
}

/// Who opens the next ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromotionDoc {
    /// A signed document, or an edit of this one.
    pub mode: PromotionMode,
}

/// How rings are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PromotionMode {
    /// A RingPromotion opens them.
    Signed,
    /// `releasedThrough` opens them.
    Manual,
}

/// A step of a release.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RingPromotionSpec {
    /// What is promoted.
    pub rollout_ref: RolloutRef,
    /// The release; a promotion of another one has no effect.
    pub release: Name,
    /// The last ring that is open now.
    pub through: Name,
    /// Since when.
    pub at: Instant,
    /// Why.
    #[serde(default)]
    pub evidence: Option<EvidenceDoc>,
    /// Signatures over the document without this field.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub approvals: Option<Vec<ApprovalDoc>>,
}

/// What is promoted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutRef {
    /// A Rollout (the default), or the policy itself.
    #[serde(default)]
    pub kind: Option<PromotedKind>,
    /// Its name.
    pub name: Name,
}

/// What can be promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PromotedKind {
    /// Images.
    Rollout,
    /// The policy itself.
    Bundle,
}

/// Why a ring was promoted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvidenceDoc {
    /// Where the report is.
    pub report: PlainText,
    /// Its hash.
    pub sha256: Sha256Text,
}

//! `ChangeWindow`, `Freeze`, `Prohibition`, `Override`: when a store may change, and who may say
//! otherwise.
//!
//! All of them are additive: every one that selects a store counts. Times are civil, in the
//! store's zone or a named one, except for overrides, which live for hours and are written as
//! instants.

use schemars::JsonSchema;
use serde::Deserialize;

use super::StoreSelector;
use super::document::document;
use super::rollout::{ApprovalDoc, ArtifactDoc, RequiredApprovals};
use super::store::Day;
use crate::scalar::{
    CivilDateTime, CronText, DurationText, Flag, Instant, LocalTime, Name, PlainText,
    RepositoryPattern, RolloutName, RouteName, WindowZone,
};

document! {
    /// A time in which a store may, or may not, change.
    "ChangeWindow", ChangeWindowDoc, ChangeWindowKind::ChangeWindow, ChangeWindowSpec
}

document! {
    /// A stretch of days in which nothing new is rolled out.
    "Freeze", FreezeDoc, FreezeKind::Freeze, FreezeSpec
}

document! {
    /// Images that some stores must never run. Nothing overrides it.
    "Prohibition", ProhibitionDoc, ProhibitionKind::Prohibition, ProhibitionSpec
}

document! {
    /// A signed exception for a few hours.
    "Override", OverrideDoc, OverrideKind::Override, OverrideSpec
}

/// A recurring time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ChangeWindowSpec {
    /// Whether changes are allowed or denied in it. Any active `Deny` beats every `Allow`.
    pub effect: EffectDoc,
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// What it applies to.
    pub applies_to: AppliesToDoc,
    /// `Store`, or the IANA name of a zone.
    pub time_zone: WindowZone,
    /// When it is active.
    pub schedule: ScheduleDoc,
}

/// Allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum EffectDoc {
    /// Changes happen only in such a window.
    Allow,
    /// No change happens in it.
    Deny,
}

/// What a window, freeze or override applies to; it names something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AppliesToDoc {
    /// Names of Rollouts; `*` is every one of them, `config` is the policy itself (which `*` does
    /// not mean).
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub rollouts: Option<Vec<RolloutName>>,
    /// Only these repositories; all without it.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub images: Option<Vec<RepositoryPattern>>,
    /// ServiceRoutes, or single rules of them (`pricing/price-file`): outside of its windows such
    /// a rule takes no request.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub routes: Option<Vec<RouteName>>,
    /// Rules of the EgressPolicy, by name: package mirrors, machine images.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub egress_rules: Option<Vec<Name>>,
}

/// When a window is active: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ScheduleDoc {
    /// By the store's opening hours.
    #[serde(default)]
    pub store_hours: Option<StoreHoursDoc>,
    /// By day and time.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub weekly: Option<Vec<WeeklyDoc>>,
    /// By a cron expression; `weekly` says most of it better.
    #[serde(default)]
    pub cron: Option<CronDoc>,
}

/// The store's opening hours, or the time between them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StoreHoursDoc {
    /// Which of both.
    pub state: HoursState,
    /// Closed begins this long after closing time.
    #[serde(default)]
    pub after_close: Option<DurationText>,
    /// Closed ends this long before opening time.
    #[serde(default)]
    pub before_open: Option<DurationText>,
    /// When a store that never closes counts as closed.
    #[serde(default)]
    pub when_always_open: Option<WeeklyDoc>,
}

/// Open or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HoursState {
    /// Between opening hours.
    Closed,
    /// In opening hours.
    Open,
}

/// A time on some days of the week.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeeklyDoc {
    /// The days on which it starts.
    #[schemars(length(min = 1))]
    pub days: Vec<Day>,
    /// When it starts, in quotes.
    pub start: LocalTime,
    /// When it ends, in quotes; not later than the start means on the next day.
    pub end: LocalTime,
}

/// A cron expression.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CronDoc {
    /// Five fields: minute, hour, day of the month, month, day of the week.
    pub expression: CronText,
    /// How long it lasts from there, by the clock on no wall.
    pub duration: DurationText,
}

/// Some days without change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FreezeSpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// What it applies to.
    pub applies_to: AppliesToDoc,
    /// Its first moment, in civil time: each store freezes at its own midnight.
    pub from: CivilDateTime,
    /// The first moment after it.
    pub until: CivilDateTime,
    /// `Store`, or the IANA name of a zone.
    pub time_zone: WindowZone,
    /// Why, for those who are held.
    pub reason: PlainText,
    /// Whether an Override may suspend it; `true` without it.
    #[serde(default)]
    pub overridable: Option<Flag>,
    /// Whose signatures an Override needs.
    #[serde(default)]
    pub approvals: Option<RequiredApprovals>,
}

/// Images that must not run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProhibitionSpec {
    /// Which stores this applies to; not `{}`.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Every store; instead of `storeSelector`.
    #[serde(default)]
    pub all_stores: Option<Flag>,
    /// The repositories.
    #[schemars(length(min = 1, max = 64))]
    pub artifacts: Vec<ArtifactDoc>,
    /// Why, for those who are refused.
    pub reason: PlainText,
}

/// A signed exception.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OverrideSpec {
    /// Freezes, and ChangeWindows with `effect: Deny`, that do not hold what it applies to.
    #[schemars(length(min = 1))]
    pub suspends: Vec<SuspendedDoc>,
    /// Which stores this applies to; not `{}`.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Every store; instead of `storeSelector`.
    #[serde(default)]
    pub all_stores: Option<Flag>,
    /// What it applies to.
    pub applies_to: AppliesToDoc,
    /// Why, for the audit log.
    pub reason: PlainText,
    /// The change record.
    pub ticket: PlainText,
    /// Its first moment.
    pub valid_from: Instant,
    /// The first moment after it, at most 72 hours later.
    pub expires_at: Instant,
    /// Signatures over the document without this field; `tillgate approve` makes them.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub approvals: Vec<ApprovalDoc>,
}

/// A document that is suspended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuspendedDoc {
    /// Its kind.
    pub kind: SuspendedKind,
    /// Its name.
    pub name: Name,
}

/// What can be suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SuspendedKind {
    /// A freeze.
    Freeze,
    /// A change window.
    ChangeWindow,
}

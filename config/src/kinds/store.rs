//! `Store`: the facts of one store.
//!
//! Facts only: where it is, when it is open, what lines are installed. What follows from them is
//! said by the other kinds, which select stores by these labels and groups.

use schemars::JsonSchema;
use serde::Deserialize;

use super::config_endpoint::ConfigEndpointDoc;
use super::{ApiVersion, Metadata, RatePair};
use crate::scalar::{
    Address, CivilDate, DeviceName, DurationText, Flag, LocalTime, Name, Size, StorePath, Whole,
    ZoneName,
};

/// One store: where it is, when it is open, what lines it has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "Store")]
pub struct StoreDoc {
    /// Version of the language.
    pub api_version: ApiVersion,
    /// `Store`.
    pub kind: StoreKind,
    /// Name and labels.
    pub metadata: Metadata,
    /// The facts.
    pub spec: StoreSpec,
}

/// The word `Store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum StoreKind {
    /// That word.
    Store,
}

/// The facts of a store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StoreSpec {
    /// Groups the store belongs to, for `underPaths` of selectors.
    #[serde(default)]
    pub member_of: Vec<StorePath>,
    /// The store's time zone, by its IANA name.
    pub time_zone: ZoneName,
    /// Opening hours, in civil time of the store.
    #[serde(default)]
    pub hours: Option<Hours>,
    /// The WAN lines. The first is the primary one unless a LinkPolicy says otherwise.
    #[schemars(length(min = 1, max = 16))]
    pub links: Vec<StoreLink>,
    /// The gateway process of this store.
    #[serde(default)]
    pub gateway: Option<Gateway>,
}

/// One WAN line as it is installed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreLink {
    /// Name, as in LinkPolicy, metrics and logs.
    pub name: Name,
    /// Bits of IP packets per second, each way, as the line really carries them.
    pub capacity: RatePair,
    /// Network device of the line; WAN connections are bound to it.
    #[serde(default)]
    pub device: Option<DeviceName>,
    /// Source address of the line; WAN connections are bound to it.
    #[serde(default)]
    pub source: Option<Address>,
}

/// Opening hours.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// The usual week.
    #[schemars(length(min = 1))]
    pub weekly: Vec<WeeklyHours>,
    /// Days that differ.
    #[serde(default)]
    pub exceptions: Vec<HoursException>,
}

/// Hours of some days of the week.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeeklyHours {
    /// Which days.
    #[schemars(length(min = 1))]
    pub days: Vec<Day>,
    /// When the store opens, in quotes.
    pub open: LocalTime,
    /// When it closes, in quotes; not later than opening means after midnight.
    pub close: LocalTime,
}

/// One day that differs from the usual week.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HoursException {
    /// The day, in quotes.
    pub date: CivilDate,
    /// When the store opens, in quotes.
    #[serde(default)]
    pub open: Option<LocalTime>,
    /// When it closes, in quotes.
    #[serde(default)]
    pub close: Option<LocalTime>,
    /// The store stays closed; without `open` and `close`.
    #[serde(default)]
    pub closed: Option<Flag>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

/// The gateway process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gateway {
    /// Worker threads of the data plane; without it one for each CPU the process may use.
    #[serde(default)]
    pub workers: Option<Whole<1, 256>>,
    /// How long connections may take to finish after SIGTERM.
    #[serde(default)]
    pub drain_timeout: Option<DurationText>,
    /// Bytes of bodies that may wait in the process, all workers together; near it, bulk traffic
    /// is refused first and critical traffic last.
    #[serde(default)]
    pub buffer_memory: Option<Size>,
    /// Where sidecars and tools ask what runs here.
    #[serde(default)]
    pub config_endpoint: Option<ConfigEndpointDoc>,
}

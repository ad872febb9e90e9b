//! Tiers of a rule: which one is active, and when it changes.
//!
//! In: what each tier could carry, and time. Out: the active tier. Out fast: a tier that cannot
//! carry is left at once. Back slowly: a better tier must be well for the dwell, its endpoints
//! must have answered real calls, and then traffic comes back in a ramp. Each flap inside ten
//! minutes doubles the dwell. Dwell and ramp are stretched by a hash of the store, so that ten
//! thousand stores do not return in the same second.

use std::sync::Arc;
use std::time::Duration;

use crate::units::Percent;

mod board;
mod layout;
mod plan;
mod rule;
mod shifts;
mod status;
mod trip;
mod watched;

pub use board::{Board, Event, ProbeOrder, ProbeReport};
pub use layout::{BackendLayout, Layout, RuleLayout, Wiring};
pub use plan::{Ask, Choice, Face, Group, Plan, TIERS_MAX};
pub use shifts::{Shift, Shifted, TierState, Tiers, stretch};
pub use status::{EndpointStatus, LineStatus, RuleStatus};
pub use trip::{Trip, TryEnd, Waits};

/// When the tiers of a rule change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverSpec {
    /// Usable endpoints below which a tier cannot carry.
    pub fallback_below: Healthy,
    /// How long a better tier must be well before it is used again.
    pub hold_down: Duration,
    /// Over how long traffic comes back.
    pub ramp: Duration,
    /// Endpoints whose data is older are not usable; `None`: however old.
    pub data_age_max: Option<Duration>,
}

impl FailoverSpec {
    /// One endpoint is enough, and everything is immediate.
    pub const PLAIN: Self = Self {
        fallback_below: Healthy::Count(1),
        hold_down: Duration::ZERO,
        ramp: Duration::ZERO,
        data_age_max: None,
    };
}

/// A number of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Healthy {
    /// So many.
    Count(u32),
    /// This part of the tier's.
    Part(Percent),
}

impl Healthy {
    /// How many that are of `all`; at least one.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Part(part) => (all * usize::from(part.value())).div_ceil(100),
        }
        .max(1)
    }
}

/// Names that tell a rule apart from all others, whatever config it is in.
pub type RuleName = (Arc<str>, Arc<str>);

#[cfg(test)]
mod tests;

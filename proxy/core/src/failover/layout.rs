//! What a config asks of the board, and what it gets.

use std::sync::Arc;

use super::{FailoverSpec, Plan, RuleName};
use crate::backend::Endpoint;
use crate::health::HealthSpec;
use crate::link::LinkId;
use crate::load::Load;
use crate::matching::BackendRef;
use crate::retry::BudgetSpec;

/// The backends and rules of one config.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// By [`crate::backend::BackendId`].
    pub backends: Vec<BackendLayout>,
    /// By [`crate::matching::RuleId`].
    pub rules: Vec<RuleLayout>,
}

/// A backend.
#[derive(Clone, Debug)]
pub struct BackendLayout {
    /// Its name; with it and its own address an endpoint is the same in another config.
    pub name: Arc<str>,
    /// Its servers.
    pub endpoints: Vec<Endpoint>,
    /// How they are watched.
    pub health: Arc<HealthSpec>,
    /// The line they are behind; `None`: inside the store.
    pub line: Option<LinkId>,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct RuleLayout {
    /// Route and rule.
    pub name: RuleName,
    /// Where its calls may go; empty where it answers by itself.
    pub tiers: Vec<Vec<BackendRef>>,
    /// When its tiers change.
    pub failover: FailoverSpec,
    /// How many calls may be sent again.
    pub budget: BudgetSpec,
}

/// What workers need of the board.
#[derive(Clone, Debug, Default)]
pub struct Wiring {
    /// By [`crate::backend::BackendId`], then endpoint.
    pub loads: Vec<Arc<[Arc<Load>]>>,
    /// By [`crate::matching::RuleId`].
    pub plans: Vec<Plan>,
}

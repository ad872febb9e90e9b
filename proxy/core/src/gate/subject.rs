//! Whom windows, freezes and overrides are about: rollouts of images, the policy itself, and the
//! rules of routes and of the egress policy through which other changes reach a store (packages,
//! machine images, price files).

use std::fmt;
use std::sync::Arc;

use super::{RepositoryGlob, Rollout, StoreState};

/// What a window, freeze or override applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliesTo {
    /// Rollouts, or the policy itself.
    pub rollouts: Vec<RolloutName>,
    /// Repositories; empty = all.
    pub images: Vec<RepositoryGlob>,
    /// Routes, or single rules of them.
    pub routes: Vec<RouteName>,
    /// Rules of the egress policy.
    pub egress_rules: Vec<Arc<str>>,
}

/// Whom a window, freeze or override names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RolloutName {
    /// Every rollout of images.
    Every,
    /// The policy itself.
    Policy,
    /// One rollout.
    Named(Arc<str>),
}

/// A route, or one rule of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteName {
    /// Name of the route.
    pub route: Arc<str>,
    /// Name of the rule; `None` = all of them.
    pub rule: Option<Arc<str>>,
}

/// A rule that requests or connections pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage<'a> {
    /// Of a route.
    Route {
        /// The route's name.
        route: &'a str,
        /// The rule's name in it.
        rule: &'a str,
    },
    /// Of the egress policy, by its name.
    Egress(&'a str),
}

/// Who asks the calendar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) whom: Whom<'a>,
    /// `None` = any of its images.
    pub(super) repository: Option<&'a str>,
    pub(super) store: StoreState,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Whom<'a> {
    Policy,
    Rollout(&'a Rollout),
    Passage(Passage<'a>),
}

impl<'a> Subject<'a> {
    /// Something that a running store asks as a whole.
    pub(super) const fn whole(whom: Whom<'a>) -> Self {
        Self { whom, repository: None, store: StoreState::Running }
    }

    pub(super) const fn rollout(&self) -> Option<&'a Rollout> {
        match self.whom {
            Whom::Rollout(rollout) => Some(rollout),
            Whom::Policy | Whom::Passage(_) => None,
        }
    }
}

impl AppliesTo {
    pub(super) fn covers(&self, subject: &Subject<'_>) -> bool {
        let named = match subject.whom {
            Whom::Policy => self.rollouts.contains(&RolloutName::Policy),
            Whom::Rollout(rollout) => self.rollouts.iter().any(|name| match name {
                RolloutName::Every => true,
                RolloutName::Policy => false,
                RolloutName::Named(name) => **name == *rollout.name,
            }),
            Whom::Passage(passage) => return self.covers_passage(passage),
        };
        // A question about a rollout as a whole is one about any of its images.
        let images = self.images.is_empty()
            || subject
                .repository
                .is_none_or(|name| self.images.iter().any(|glob| glob.matches(name)));
        named && images
    }

    pub(super) fn covers_passage(&self, passage: Passage<'_>) -> bool {
        match passage {
            Passage::Route { route, rule } => self.routes.iter().any(|name| {
                *name.route == *route && name.rule.as_ref().is_none_or(|name| **name == *rule)
            }),
            Passage::Egress(rule) => self.egress_rules.iter().any(|name| **name == *rule),
        }
    }
}

impl fmt::Display for RolloutName {
    /// `*`, `config`, or the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Every => "*",
            Self::Policy => "config",
            Self::Named(name) => name,
        })
    }
}

impl fmt::Display for RouteName {
    /// `pricing`, `pricing/price-file`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "{}/{rule}", self.route),
            None => f.write_str(&self.route),
        }
    }
}

impl fmt::Display for Passage<'_> {
    /// `ServiceRoute/pricing/price-file`, `EgressPolicy/packages`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { route, rule } => write!(f, "ServiceRoute/{route}/{rule}"),
            Self::Egress(rule) => write!(f, "EgressPolicy/{rule}"),
        }
    }
}

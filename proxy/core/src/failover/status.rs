//! What the board knows, for people: nothing is decided by it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::board::Board;
use super::rule::RuleWatch;
use super::{RuleName, TierState};
use crate::backend::Endpoint;
use crate::link::LinkId;
use crate::load::{Load, Verdict};

/// An endpoint, for status.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// Name of its backend.
    pub backend: Arc<str>,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Whether calls may go there, and since when that is so.
    pub verdict: Verdict,
    /// Since when.
    pub since: Instant,
    /// Why it is not usable; `None`: it is.
    pub cause: Option<&'static str>,
    /// What failed last, and when.
    pub last_failure: Option<(&'static str, Instant)>,
    /// When it is probed next; `None`: it is not.
    pub next_probe: Option<Instant>,
    /// When its breaker tries again, if it is open.
    pub opens_at: Option<Instant>,
    /// Good calls on trial that are missing for it to be usable.
    pub trials_missing: u32,
    /// Its load.
    pub load: Arc<Load>,
}

/// A line, for status.
#[derive(Clone, Copy, Debug)]
pub struct LineStatus {
    /// Which.
    pub link: LinkId,
    /// Since when it is down.
    pub down_since: Option<Instant>,
}

/// A rule, for status.
#[derive(Clone, Debug)]
pub struct RuleStatus {
    /// Route and rule.
    pub name: RuleName,
    /// The active tier, counted from zero.
    pub active: usize,
    /// Since when.
    pub since: Instant,
    /// Why: the last change's cause.
    pub cause: &'static str,
    /// What its tiers could carry.
    pub states: Vec<TierState>,
    /// The better tier that traffic comes back to, since when, and how long that takes.
    pub ramp: Option<(usize, Instant, Duration)>,
    /// When the dwell of the best tier that waits is over.
    pub returns_at: Option<Instant>,
    /// Flaps that the dwell has grown by.
    pub flaps: u32,
}

impl Board {
    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointStatus> {
        self.endpoints.values().map(|one| EndpointStatus {
            backend: Arc::clone(&one.backend),
            endpoint: one.endpoint.clone(),
            verdict: one.verdict,
            since: one.since,
            cause: (one.verdict != Verdict::Usable).then(|| self.cause(one)),
            last_failure: one.health.last_failure().map(|(cause, at)| (cause.label(), at)),
            next_probe: one.next_probe,
            opens_at: one.health.poll_timeout(),
            trials_missing: one.health.trials_missing(),
            load: Arc::clone(&one.load),
        })
    }

    /// All lines that endpoints are behind.
    pub fn lines(&self) -> impl Iterator<Item = LineStatus> {
        self.lines
            .iter()
            .map(|(link, line)| LineStatus { link: *link, down_since: line.down_since() })
    }

    /// All rules.
    pub fn rules(&self) -> impl Iterator<Item = RuleStatus> {
        self.rules.iter().map(RuleWatch::status)
    }
}

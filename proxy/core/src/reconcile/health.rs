//! Whether a policy made things worse: three answers, because no evidence is one of them.
//!
//! In go counts of critical requests before and after a swap and what is known of critical
//! routes now. A line that is down says nothing about a policy, nor do a handful of samples at
//! night: both are inconclusive, which neither promotes nor rolls back.

use std::sync::Arc;

/// A critical route and its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFact {
    /// Its name.
    pub name: Arc<str>,
    /// Whether some server of it can be used.
    pub usable: bool,
    /// Whether some server of it still answers probes.
    pub answers: bool,
}

/// The store's health at a moment; counts only grow while the process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Critical requests that have ended.
    pub requests: u64,
    /// Those that failed, by whosever fault but the client's.
    pub errors: u64,
    /// How often a sidecar refused what it was given.
    pub refusals: u64,
    /// Whether every line is down, or every server behind one.
    pub cloud_down: bool,
    /// Critical routes.
    pub routes: Vec<RouteFact>,
}

/// What happened between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Critical requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Sidecars that refused.
    pub refusals: u64,
    /// Routes that could be used at the beginning.
    pub usable: Vec<Arc<str>>,
}

impl Facts {
    /// What happened since `before`.
    pub fn since(&self, before: &Self) -> Since {
        let usable = before.routes.iter().filter(|route| route.usable);
        Since {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            refusals: self.refusals.saturating_sub(before.refusals),
            usable: usable.map(|route| Arc::clone(&route.name)).collect(),
        }
    }
}

/// What counts as worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// Fewer critical requests than this say nothing.
    pub samples: u64,
    /// More errors by this many percentage points are worse.
    pub points: u64,
}

/// What is thought of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is worse.
    Pass,
    /// Something is, and the policy is why.
    Fail(Arc<str>),
    /// It cannot be told.
    Inconclusive(Arc<str>),
}

/// Compares the time before a swap with the time `after` it; `now` is how it is now.
pub fn judge(before: &Since, after: &Since, now: &Facts, spec: &HealthSpec) -> Verdict {
    if after.refusals > 0 {
        return Verdict::Fail("a sidecar refused it".into());
    }
    let lost = after.usable.iter().find(|name| {
        let is = |route: &&RouteFact| route.name == **name && !route.usable && route.answers;
        now.routes.iter().any(|route| is(&route))
    });
    if let Some(name) = lost {
        let why = format!("route {name} has no usable server, though its servers answer probes");
        return Verdict::Fail(why.into());
    }
    if now.cloud_down {
        return Verdict::Inconclusive("everything across the line is down".into());
    }
    if after.requests < spec.samples {
        let why = format!("{} of {} critical requests seen", after.requests, spec.samples);
        return Verdict::Inconclusive(why.into());
    }
    // Without a past that is long enough nothing is known to have been better.
    let known =
        if before.requests < spec.samples { (0, 0) } else { (before.errors, before.requests) };
    if worse(known, (after.errors, after.requests), spec.points) {
        let why = format!(
            "{} of {} critical requests failed, before it were {} of {}",
            after.errors, after.requests, before.errors, before.requests
        );
        return if known.1 == 0 {
            Verdict::Inconclusive(why.into())
        } else {
            Verdict::Fail(why.into())
        };
    }
    Verdict::Pass
}

/// Whether the share of errors grew by more than `points` percentage points.
fn worse(before: (u64, u64), after: (u64, u64), points: u64) -> bool {
    let (old, olds) = (u128::from(before.0), u128::from(before.1.max(1)));
    let (new, news) = (u128::from(after.0), u128::from(after.1.max(1)));
    new * olds * 100 > old * news * 100 + u128::from(points) * olds * news
}

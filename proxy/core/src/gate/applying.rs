//! What concerns a rollout, active or not: for people who wonder why it is held, or is not.

use super::subject::{Subject, Whom};
use super::{Clock, Gate, Override, Rollout, StoreState, blockers};
use crate::calendar::Effect;
use crate::civil::Timestamp;

/// A window, a freeze or an override that concerns a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applying<'a> {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: &'a str,
    /// What it does while it is active; an override suspends.
    pub effect: Option<Effect>,
    /// Whether it is active now.
    pub is_active: bool,
    /// Why, where it says so.
    pub reason: Option<&'a str>,
}

impl Gate {
    /// Everything that concerns `rollout` and, if it is named, this one of its images.
    pub fn applying<'a>(
        &'a self,
        rollout: &'a Rollout,
        repository: Option<&'a str>,
        clock: Clock,
        now: Timestamp,
    ) -> Vec<Applying<'a>> {
        let subject =
            Subject { whom: Whom::Rollout(rollout), repository, store: StoreState::Running };
        let windows = self.allowing(&subject).chain(self.denying(&subject)).map(|one| Applying {
            kind: "ChangeWindow",
            name: &one.name,
            effect: Some(one.window.effect),
            is_active: blockers::is_active(&one.window, clock, now),
            reason: None,
        });
        let freezes = self.freezes.iter().filter(|one| one.applies_to.covers(&subject));
        let freezes = freezes.map(|one| Applying {
            kind: "Freeze",
            name: &one.name,
            effect: Some(Effect::Deny),
            is_active: blockers::frozen(one, clock, now).is_some(),
            reason: Some(&one.reason),
        });
        let is_valid = |one: &Override| {
            one.in_force(clock).is_some_and(|valid| valid.contains(now))
                && one.signed.suffices(None)
        };
        let overrides = self.overrides.iter().filter(|one| one.applies_to.covers(&subject));
        let overrides = overrides.map(|one| Applying {
            kind: "Override",
            name: &one.name,
            effect: None,
            is_active: is_valid(one),
            reason: Some(&one.reason),
        });
        windows.chain(freezes).chain(overrides).collect()
    }
}

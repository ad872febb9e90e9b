//! Signatures on overrides and promotions.
//!
//! What is signed is told here, whether a signature is right is found out by who has the keys, and
//! here is decided whether those that are right are enough. Until somebody has looked, none is.
//! The role in which somebody signs is a part of what he signs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Clock, Freeze, Gate, Override};
use crate::civil::Timestamp;

/// A signature in a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The role.
    pub role: Arc<str>,
    /// Id of the key.
    pub key_id: Arc<str>,
    /// The signature, in base64.
    pub signature: Arc<str>,
}

/// What a signature is for: one of a kind is never one of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An Override.
    Override,
    /// A RingPromotion.
    RingPromotion,
}

impl Purpose {
    /// What is signed in `role` over the canonical document without its approvals.
    pub fn message(self, role: &str, content: &str) -> Vec<u8> {
        let prefix = match self {
            Self::Override => "tillgate-override-v1",
            Self::RingPromotion => "tillgate-ring-promotion-v1",
        };
        format!("{prefix}\n{role}\n{content}").into_bytes()
    }
}

/// What was signed, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    /// The canonical document without its approvals: what the signatures are made of.
    pub content: Arc<str>,
    /// The signatures.
    pub approvals: Vec<Approval>,
    /// Which of them have been found right; none until [`Signed::check`].
    right: Vec<bool>,
}

/// How many signatures of whom are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredApprovals {
    /// Different keys.
    pub required: u8,
    /// Roles that count.
    pub roles: Vec<Arc<str>>,
}

impl Signed {
    /// Signatures that nobody has looked at yet.
    pub fn new(content: Arc<str>, approvals: Vec<Approval>) -> Self {
        Self { content, approvals, right: Vec::new() }
    }

    /// Looks at all of them.
    pub(super) fn check(
        &mut self,
        purpose: Purpose,
        verify: &impl Fn(Purpose, &Approval, &[u8]) -> bool,
    ) {
        let right = |approval: &Approval| {
            verify(purpose, approval, &purpose.message(&approval.role, &self.content))
        };
        self.right = self.approvals.iter().map(right).collect();
    }

    /// All of them, with whether they are right.
    pub fn looked_at(&self) -> impl Iterator<Item = (&Approval, bool)> {
        let right = self.right.iter().copied().chain(std::iter::repeat(false));
        self.approvals.iter().zip(right)
    }

    /// Those that are not right.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &Approval> {
        self.looked_at().filter(|(_, is_right)| !is_right).map(|(one, _)| one)
    }

    /// Whether enough of the right ones are there; without a requirement, one.
    pub(super) fn suffices(&self, wanted: Option<&RequiredApprovals>) -> bool {
        let right = self.looked_at().filter(|(_, is_right)| *is_right);
        let counts = right.filter(|(one, _)| wanted.is_none_or(|wanted| wanted.accepts(one)));
        let keys: BTreeSet<&str> = counts.map(|(one, _)| &*one.key_id).collect();
        keys.len() >= wanted.map_or(1, |wanted| usize::from(wanted.required))
    }
}

impl RequiredApprovals {
    /// Whether the role of `approval` counts.
    pub fn accepts(&self, approval: &Approval) -> bool {
        self.roles.contains(&approval.role)
    }
}

impl Gate {
    /// The same gate in which only those signatures count that `verify` accepts, given what it is
    /// for, the approval and what was signed.
    #[must_use]
    pub fn verified(mut self, verify: impl Fn(Purpose, &Approval, &[u8]) -> bool) -> Self {
        for one in &mut self.overrides {
            one.signed.check(Purpose::Override, &verify);
        }
        let stages = self.rollouts.iter_mut().map(|one| &mut one.stages).chain(&mut self.policy);
        for promotion in stages.flat_map(|stages| &mut stages.promotions) {
            promotion.signed.check(Purpose::RingPromotion, &verify);
        }
        self
    }

    /// Approvals that are not right, with the documents that they stand in.
    pub fn unapproved(&self) -> Vec<(String, &Approval)> {
        let stages = self.rollouts.iter().map(|one| &one.stages);
        let promotions = stages.flat_map(|stages| &stages.promotions);
        let promotions = promotions.map(|one| (format!("RingPromotion/{}", one.name), &one.signed));
        let overrides = self.overrides.iter();
        let overrides = overrides.map(|one| (format!("Override/{}", one.name), &one.signed));
        let mut wrong = Vec::new();
        for (document, signed) in overrides.chain(promotions) {
            wrong.extend(signed.wrong().map(|one| (document.clone(), one)));
        }
        wrong
    }

    /// Whether an Override suspends anything that it names, now by such a clock.
    pub fn honours(&self, one: &Override, clock: Clock, now: Timestamp) -> bool {
        let mut freezes = self.overridden(one);
        let windows = !one.windows.is_empty() && one.signed.suffices(None);
        let enough = |freeze: &Freeze| one.signed.suffices(freeze.approvals.as_ref());
        one.counts(clock, now) && (windows || freezes.any(enough))
    }

    /// The freezes that an Override names and may suspend.
    fn overridden<'a>(&'a self, one: &'a Override) -> impl Iterator<Item = &'a Freeze> {
        let named = |freeze: &&Freeze| freeze.overridable && one.freezes.contains(&freeze.name);
        self.freezes.iter().filter(named)
    }

    /// Who has signed an Override, with whether that counts for anything that it names.
    pub fn signers<'a>(
        &'a self,
        one: &'a Override,
    ) -> impl Iterator<Item = (&'a Approval, bool)> + 'a {
        let wanted: Vec<_> = self.overridden(one).map(|freeze| freeze.approvals.as_ref()).collect();
        one.signed.looked_at().map(move |(approval, is_right)| {
            let accepts =
                |wanted: &Option<&RequiredApprovals>| wanted.is_none_or(|it| it.accepts(approval));
            (approval, is_right && (!one.windows.is_empty() || wanted.iter().any(accepts)))
        })
    }

    /// Whether somebody has signed something in it.
    pub fn wants_approvals(&self) -> bool {
        let stages = self.rollouts.iter().map(|one| &one.stages);
        let promotions = stages.flat_map(|stages| &stages.promotions).map(|one| &one.signed);
        let overrides = self.overrides.iter().map(|one| &one.signed);
        overrides.chain(promotions).any(|signed| !signed.approvals.is_empty())
    }
}

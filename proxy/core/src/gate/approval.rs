//! Signatures on overrides and promotions.
//!
//! Whether a signature is right is found out by who has the keys; here is decided whether those
//! that are right are enough. Until somebody has looked, none is.

use std::collections::BTreeSet;
use std::sync::Arc;

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
    pub(super) fn check(&mut self, verify: &impl Fn(&Approval, &str) -> bool) {
        let content = &self.content;
        self.right = self.approvals.iter().map(|approval| verify(approval, content)).collect();
    }

    /// Whether enough of the right ones are there; without a requirement, one.
    pub(super) fn suffices(&self, wanted: Option<&RequiredApprovals>) -> bool {
        let right = self.approvals.iter().zip(&self.right).filter(|(_, right)| **right);
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

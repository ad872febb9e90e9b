//! What a record is: what happened, who did it, and what else is known of that.
//!
//! The names are those of the audit log's readers, in this store and at the centre: they stay.

use serde_json::Value;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Another config is in effect.
    Apply,
    /// A config was refused.
    Reject,
    /// Somebody asks to look for another config.
    Fetch,
    /// Something with a wrong signature came.
    VerifyFailed,
    /// Other tokens count.
    KeyRotated,
    /// The store goes back to an earlier config, by itself or because somebody says so.
    Rollback,
    /// A config has proven itself.
    LkgPromote,
    /// The store stays on what it runs.
    Pin,
    /// It follows its sources again.
    Unpin,
    /// The wall clock is believed, or is not any more.
    ClockState,
    /// A signed operation was carried out, or refused.
    Operation,
    /// A rollout opens.
    GateOpen,
    /// A rollout is held; told now and then.
    GateHeld,
    /// An exception counts.
    OverrideUsed,
    /// It counts no longer.
    OverrideExpired,
    /// The log itself was found broken.
    ChainBroken,
    /// Somebody had a policy looked at.
    Validate,
    /// The process kept dying young, and leaves the policy that it died with.
    BreakBootLoop,
    /// A token was minted with which a sidecar may get a certificate.
    EnrolToken,
    /// A sidecar got its first certificate.
    Enrol,
    /// A sidecar got another one for the one it had.
    EnrolRenew,
}

impl Action {
    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Reject => "Reject",
            Self::Fetch => "Fetch",
            Self::VerifyFailed => "VerifyFailed",
            Self::KeyRotated => "KeyRotated",
            Self::Rollback => "Rollback",
            Self::LkgPromote => "LkgPromote",
            Self::Pin => "Pin",
            Self::Unpin => "Unpin",
            Self::ClockState => "ClockState",
            Self::Operation => "Operation",
            Self::GateOpen => "GateOpen",
            Self::GateHeld => "GateHeld",
            Self::OverrideUsed => "OverrideUsed",
            Self::OverrideExpired => "OverrideExpired",
            Self::ChainBroken => "ChainBroken",
            Self::Validate => "Validate",
            Self::BreakBootLoop => "BreakBootLoop",
            Self::EnrolToken => "EnrolToken",
            Self::Enrol => "Enrol",
            Self::EnrolRenew => "EnrolRenew",
        }
    }

    /// Whether it must be on disk before anything else happens.
    pub(super) const fn changes_state(self) -> bool {
        match self {
            Self::Apply
            | Self::KeyRotated
            | Self::ChainBroken
            | Self::Rollback
            | Self::LkgPromote
            | Self::Pin
            | Self::Unpin
            | Self::Operation
            | Self::OverrideUsed
            | Self::OverrideExpired
            | Self::BreakBootLoop
            | Self::EnrolToken
            | Self::Enrol => true,
            Self::Reject
            | Self::Fetch
            | Self::VerifyFailed
            | Self::ClockState
            | Self::GateOpen
            | Self::GateHeld
            | Self::Validate
            | Self::EnrolRenew => false,
        }
    }
}

/// What is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) action: Action,
    /// Who did it: `file:…`, `token:…`, `certificate:…`.
    pub(crate) actor: String,
    /// In the order in which they are written.
    pub(crate) fields: Vec<(&'static str, Value)>,
}

//! A bundle on its way in: compiled for this store, or why not.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tillgate_config::bundle::Manifest;
use tillgate_config::effective::Effective;
use tillgate_config::fleet::{Delivery, Fleet, Source};
use tillgate_config::report::Finding;
use tillgate_config::{Report, compile, defaults};
use tillgate_core::reconcile::{Held, Refusal, Revision};

use super::Spec;
use crate::bundle::Archive;
use crate::bundle::approvals::find_secrets;
use crate::bundle::verify::{Verified, VerifyError};
use crate::reload::ReloadError;

/// A policy that can run here.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) revision: Revision,
    pub(crate) manifest: Manifest,
    pub(super) effective: Effective,
    /// Keys that have signed it.
    pub(super) signers: Vec<Arc<str>>,
    /// How the policy reaches stores.
    pub(super) delivery: Delivery,
    /// The most by which a critical guarantee may fall, in percent.
    pub(super) drop_max: Option<u8>,
}

/// Why a bundle does not come into effect.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error("it is not believed")]
    Verify(#[from] VerifyError),
    #[error("{}", .0.to_text().trim_end())]
    Invalid(Box<Report>),
    #[error("it compiles to {found} here, and to {wanted} where it was made; use the same version")]
    Mismatch { wanted: String, found: Arc<str> },
    #[error("its guards refuse it:\n{}", .0.to_text().trim_end())]
    Guarded(Box<Report>),
    #[error("it waits")]
    Held(#[from] Held),
    #[error("it waits: {0}")]
    Frozen(String),
    #[error("it says that it was made at {made}, and it is {now} by a clock that is right")]
    Ahead { made: String, now: String },
    #[error("it is not taken")]
    Refused(#[from] Refusal),
    #[error(
        "an earlier source has given a policy, and this one has no order; its turn is when the \
             others are removed"
    )]
    Later,
    #[error("it cannot be written to disk")]
    Stage(#[source] io::Error),
    #[error("it cannot be put in effect")]
    Swap(#[from] ReloadError),
}

impl Rejection {
    /// A word for conditions and metrics.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Verify(VerifyError::NeedsUpgrade(_)) => "NeedsUpgrade",
            Self::Verify(VerifyError::OtherStore { .. }) => "OtherStore",
            Self::Verify(VerifyError::Signatures { .. }) => "SignatureMissing",
            Self::Verify(_) => "VerifyFailed",
            Self::Invalid(_) => "Invalid",
            Self::Mismatch { .. } => "CompileMismatch",
            Self::Guarded(_) => "Guarded",
            Self::Held(_) => "Held",
            Self::Frozen(_) => "Frozen",
            Self::Refused(Refusal::Older { .. }) => "OldSequence",
            Self::Refused(Refusal::SameSequence(_)) => "SameSequence",
            Self::Refused(Refusal::Denied(_)) => "Denied",
            Self::Refused(Refusal::Pinned(_)) => "Pinned",
            Self::Refused(Refusal::Running) => "Running",
            Self::Ahead { .. } => "MadeAhead",
            Self::Later => "LaterSource",
            Self::Stage(_) => "StageFailed",
            Self::Swap(_) => "SwapFailed",
        }
    }

    /// What is wrong with its documents, if that is why.
    pub(super) fn findings(&self) -> &[Finding] {
        if let Self::Invalid(report) | Self::Guarded(report) = self { &report.errors } else { &[] }
    }

    /// Whether nothing is wrong with it but the time.
    pub(super) const fn waits(&self) -> bool {
        matches!(self, Self::Held(_) | Self::Frozen(_) | Self::Refused(Refusal::Pinned(_)))
    }

    /// Whether the same bytes may do better in a while, for reasons that are not in them.
    pub(super) const fn passes(&self) -> bool {
        matches!(self, Self::Stage(_) | Self::Swap(_) | Self::Ahead { .. })
    }
}

/// Reads the documents that an archive holds.
pub(super) fn read(archive: &Archive) -> Result<Fleet, Rejection> {
    let mut sources = Vec::with_capacity(archive.files.len());
    for (path, bytes) in &archive.files {
        let text = String::from_utf8(bytes.clone())
            .map_err(|_| invalid(Report::of_error(format!("`{path}` is no text"))))?;
        sources.push(Source { file: path.clone(), text });
    }
    let (fleet, report) = Fleet::read(&sources, 1);
    if report.errors.is_empty() { Ok(fleet) } else { Err(invalid(report)) }
}

/// Compiles what an `archive` held for the store of `spec`.
pub(super) fn compile(
    fleet: &Fleet,
    archive: &Archive,
    verified: &Verified,
    spec: &Spec,
) -> Result<Policy, Rejection> {
    let store = &*spec.store;
    let told = |why: String| invalid(Report::of_error(why));
    let checked = fleet.compile(store).map_err(told)?;
    let Some(mut effective) = checked.effective else { return Err(invalid(checked.report)) };
    let manifest = verified.manifest.clone();
    if let Some(wanted) = &manifest.effective_digest
        && manifest.is_compiled_by(env!("CARGO_PKG_VERSION"))
        && **wanted != *effective.digest
    {
        let (wanted, found) = (wanted.clone(), Arc::clone(&effective.digest));
        return Err(Rejection::Mismatch { wanted, found });
    }
    // Who signed an override or a promotion counts from here on.
    effective.gate = spec.trust.check(std::mem::take(&mut effective.gate));
    let effective = find_secrets(effective, &spec.secrets);
    let guards = fleet.bundle().and_then(|bundle| bundle.spec.guards.as_ref());
    let drop_max = guards.and_then(|guards| guards.max_capacity_drop);
    Ok(Policy {
        revision: crate::bundle::revision(archive, &manifest),
        delivery: fleet.delivery(store).map_err(told)?,
        drop_max: drop_max.map(|percent| percent.0.value()),
        signers: verified.signers.clone(),
        manifest,
        effective,
    })
}

fn invalid(report: Report) -> Rejection {
    Rejection::Invalid(Box::new(report))
}

/// Whether the guards let `next` follow `before`; who may speak of an emergency may say so.
pub(super) fn guard(before: &Policy, next: &Policy, verified: &Verified) -> Result<(), Rejection> {
    let findings = compile::against(&before.effective, &next.effective, next.drop_max);
    if findings.is_empty() || verified.emergency > 0 {
        return Ok(());
    }
    let mut report = Report::default();
    report.errors = findings;
    Err(Rejection::Guarded(Box::new(report)))
}

/// How old a policy may become before it is called stale.
pub(super) fn soft_expiry(policy: Option<&Policy>) -> Duration {
    policy.map_or(defaults::SOFT_EXPIRY, |policy| policy.delivery.soft_expiry)
}

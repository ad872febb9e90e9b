//! A start: from the disk, without a network, whatever is left there.
//!
//! What serves is the latest policy if it had proven itself, else the last known good one, else
//! the built-in minimal one. The state directory belongs to one process: the next one of a
//! handover reads it, and writes once the one before has let go of it.

use std::fs::{File, TryLockError};
use std::sync::Arc;

use tillgate_config::effective::Effective;
use tillgate_core::reconcile::{Boot, Remark, Revision, Serve};

use super::candidate::{self, Policy};
use super::{Spec, wall};
use crate::send::explain;
use crate::state::{Pointer, StateDir};

/// What flags on the command line say against every policy.
pub(crate) type Finish = Arc<dyn Fn(Effective) -> Effective + Send + Sync>;

/// A store that knows what it serves.
pub(crate) struct Booted {
    pub(super) spec: Spec,
    pub(super) boot: Boot,
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) finish: Finish,
    /// Held as long as the process may write the state.
    pub(super) lock: Lock,
    /// What could not be written, if so.
    pub(super) unwritten: Option<String>,
}

/// Who may write the state.
pub(super) enum Lock {
    /// This process, as long as it keeps this; without a file where the disk cannot be written.
    Ours(#[expect(dead_code, reason = "held, not read")] Option<File>),
    /// Another one, for now.
    Others(File),
}

impl Booted {
    /// Decides what is served.
    pub(crate) fn new(spec: Spec, finish: Finish) -> Self {
        let state = &spec.state;
        let lock = lock(state);
        let ours = matches!(lock, Lock::Ours(_));
        let mut unwritten = None;
        if ours && let Err(error) = state.prepare() {
            unwritten = Some(error.to_string());
        }
        let mut boot = state.look(|archive| spec.verify_kept(archive).is_ok()).boot(wall());
        if ours && let Err(error) = state.remember(&boot.memory) {
            // Before anything is tried, so that a start that kills is counted.
            unwritten.get_or_insert(error.to_string());
        }
        for (remark, pointer) in
            [(Remark::CurrentDamaged, Pointer::Current), (Remark::LkgDamaged, Pointer::Lkg)]
        {
            if ours
                && boot.remarks.contains(&remark)
                && let Err(error) = state.set_aside(pointer)
            {
                unwritten.get_or_insert(error.to_string());
            }
        }
        let policy = serve(&spec, &mut boot);
        for remark in &boot.remarks {
            tracing::warn!(?remark, "the state directory is not as it was left");
        }
        Self { policy: policy.map(Arc::new), spec, boot, finish, lock, unwritten }
    }

    /// What to serve.
    pub(crate) fn effective(&self) -> Effective {
        let policy = self.policy.as_ref().map(|policy| policy.effective.clone());
        (self.finish)(policy.unwrap_or_else(|| self.spec.minimal.clone()))
    }
}

/// The policy that serves: what the start has decided, or what is left if that cannot be read by
/// this version.
fn serve(spec: &Spec, boot: &mut Boot) -> Option<Policy> {
    let first = boot.serve.revision().cloned();
    let lkg = boot.lkg.clone().filter(|lkg| first.as_ref() != Some(lkg));
    for (revision, is_first) in
        first.map(|one| (one, true)).into_iter().chain(lkg.map(|one| (one, false)))
    {
        match kept(spec, &revision) {
            Ok(policy) if is_first => return Some(policy),
            Ok(policy) => {
                boot.serve = Serve::Lkg(revision);
                return Some(policy);
            }
            Err(why) => {
                let digest = &*revision.digest;
                tracing::error!(digest, "a policy on disk cannot be served: {why}");
            }
        }
    }
    boot.serve = Serve::Minimal;
    None
}

/// A policy of the state directory.
pub(super) fn kept(spec: &Spec, revision: &Revision) -> Result<Policy, String> {
    let (archive, _) = spec.state.read(&revision.digest).map_err(|error| explain(&error))?;
    let verified = spec.verify_kept(&archive).map_err(|error| explain(&error))?;
    let read = candidate::read(&archive);
    let made = read.and_then(|fleet| candidate::compile(&fleet, &archive, &verified, spec));
    made.map_err(|error| explain(&error))
}

fn lock(state: &StateDir) -> Lock {
    match state.lock_file() {
        // A disk that cannot be written needs no order among writers.
        Err(_) => Lock::Ours(None),
        Ok(file) => match file.try_lock() {
            Ok(()) => Lock::Ours(Some(file)),
            Err(TryLockError::WouldBlock) => Lock::Others(file),
            Err(TryLockError::Error(_)) => Lock::Ours(None),
        },
    }
}

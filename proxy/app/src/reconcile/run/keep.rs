//! What serves and is not on disk, because the disk took nothing when it came.
//!
//! A store whose disk is full on its first day serves the policy that it has verified from memory:
//! the built-in one is worse. A condition says so; writing is tried again until it is done.

use std::io;
use std::time::Instant;

use tillgate_core::reconcile::{Digest, Revision};
use tillgate_net::clock;

use super::Loop;
use super::take::TRY_AGAIN;
use crate::bundle::Archive;
use crate::send::explain;
use crate::state::Pointer;

/// See the module.
pub(super) struct Unkept {
    archive: Archive,
    digest: Digest,
    /// Not tried before.
    rests: Instant,
}

impl Loop {
    /// What serves from here on could not be written.
    pub(super) fn cannot_keep(&mut self, archive: Archive, digest: Digest, error: &io::Error) {
        let why = format!("what serves is not on disk, and a restart loses it: {}", explain(error));
        if self.conditions.raise("Unkept", "StageFailed", &why) {
            tracing::error!(digest = &*digest, why);
        }
        self.unkept = Some(Unkept { archive, digest, rests: clock::now() + TRY_AGAIN });
    }

    /// Whether `digest` serves and is not on disk.
    pub(super) fn is_unkept(&self, digest: &str) -> bool {
        self.unkept.as_ref().is_some_and(|unkept| *unkept.digest == *digest)
    }

    /// Tries again to write what serves, if it is time.
    pub(super) fn try_to_keep(&mut self, now: Instant) {
        let Some(Unkept { archive, digest, .. }) = self.unkept.take_if(|one| one.rests <= now)
        else {
            return;
        };
        let is = |one: Option<&Revision>| one.is_some_and(|one| one.digest == digest);
        let (is_current, is_lkg) = (is(self.machine.running()), is(self.machine.lkg()));
        if is_current || is_lkg {
            if let Err(error) = self.spec.state.stage(&archive) {
                self.cannot_keep(archive, digest, &error);
                return;
            }
            tracing::info!(digest = &*digest, "what serves is on disk now");
        }
        for (pointer, points) in [(Pointer::Current, is_current), (Pointer::Lkg, is_lkg)] {
            if points {
                self.point(pointer, &digest);
            }
        }
        self.conditions.clear("Unkept");
        self.remember();
    }
}

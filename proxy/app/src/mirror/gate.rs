//! The seam between the mirror and the rollout gate: what is asked, and what the answer does.
//!
//! A manifest is asked for, never a blob: a pull is held before its first byte, and what has begun
//! is finished. Without a `Rollout` that names a registry, its images may always be pulled.

use tillgate_core::mirror::{Digest, Verdict};

use super::{Mirror, Place};

/// A manifest that a client wants.
pub(super) struct Asked<'a> {
    pub(super) place: &'a Place,
    pub(super) digest: &'a Digest,
    /// It lies on this gateway's disk, so that serving it costs no line.
    pub(super) kept: bool,
}

/// May it be pulled now?
pub(super) fn verdict(mirror: &Mirror, asked: &Asked<'_>) -> Verdict {
    tracing::trace!(
        registry = &*asked.place.registry,
        repository = &*asked.place.repository,
        digest = %asked.digest,
        kept = asked.kept,
        blobs = mirror.store.holds().1,
        "a manifest is asked for"
    );
    Verdict::Allowed
}

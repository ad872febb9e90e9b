//! Bundles: a policy as one signed archive.
//!
//! `archive` packs and unpacks (bounded, and always the same bytes for the same policy), `keys`
//! signs and checks signatures, `verify` decides whether an archive may be believed. What the
//! archive's own files say is read by `tillgate_config::bundle`; nothing here looks into a policy.

pub(crate) mod approvals;
pub(crate) mod archive;
pub(crate) mod keys;
pub(crate) mod verify;

use std::collections::BTreeMap;

use tillgate_config::bundle::{self as format, FileEntry, Manifest};
use tillgate_core::reconcile::{Digest, Revision};

/// Files by path, with forward slashes.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// An archive's parts, as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Archive {
    /// What is signed.
    pub(crate) manifest: Vec<u8>,
    /// Detached signatures of it; empty if there are none.
    pub(crate) signatures: Vec<u8>,
    /// Signed words that open rings for it; empty if there are none.
    pub(crate) promotions: Vec<u8>,
    /// Signed operations that travel with it; empty if there are none.
    pub(crate) operations: Vec<u8>,
    /// The policy.
    pub(crate) files: Files,
}

impl Archive {
    /// Content address: of the manifest, which has the hash of everything but who signed.
    pub(crate) fn digest(&self) -> Digest {
        format::digest(&self.manifest).into()
    }
}

/// What identifies an archive with this manifest. A number that nobody has signed orders nothing.
pub(crate) fn revision(archive: &Archive, manifest: &Manifest) -> Revision {
    let is_signed = !archive.signatures.is_empty();
    Revision {
        digest: archive.digest(),
        sequence: is_signed.then_some(manifest.sequence),
        created_at: if is_signed { manifest.created() } else { Default::default() },
    }
}

/// The list of `files` that a manifest has.
pub(crate) fn entries(files: &Files) -> Vec<FileEntry> {
    let entry = |(path, bytes): (&String, &Vec<u8>)| FileEntry {
        path: path.clone(),
        sha256: format::hex(bytes),
        bytes: bytes.len() as u64,
    };
    files.iter().map(entry).collect()
}

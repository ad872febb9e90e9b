//! A look into a cache from outside, for people: what is there, is it right, make room.
//!
//! Everything here blocks. Looking and checking need no lock; a gateway may be running. Whoever
//! deletes holds the lock, or deletes only what is wrong, which the gateway would do as well.

use std::fs::{self, File};
use std::io::{self, Read as _};

use aws_lc_rs::digest::{Context, SHA256};
use tillgate_core::mirror::Digest;
use tillgate_core::mirror::ledger::{Blob, Ledger, Proof};

use super::disk::{Disk, Layout, delete};
use super::keep::read_tags;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// What a cache holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Whole blobs, the last used first.
    pub blobs: Vec<(Digest, Blob)>,
    /// Half blobs.
    pub parts: Vec<(Digest, Blob)>,
    /// Manifests.
    pub manifests: Vec<(Digest, Blob)>,
    /// Tags as `registry/repository:tag`, with what they meant and when that was said.
    pub tags: Vec<(String, Digest, u64)>,
}

/// What lies in a cache.
///
/// # Errors
/// What the disk says.
pub fn look(layout: &Layout) -> io::Result<Contents> {
    let mut blobs = layout.blobs(Proof::Due)?;
    blobs.sort_by_key(|(digest, blob)| (std::cmp::Reverse(blob.used), *digest));
    let tags = read_tags(layout)?;
    let name = |tag: &tillgate_core::mirror::tags::Tag| {
        format!("{}/{}:{}", tag.registry, tag.repository, tag.tag)
    };
    let tags = tags.iter().map(|(tag, digest, at)| (name(tag), digest, at)).collect();
    Ok(Contents { blobs, parts: layout.parts()?, manifests: layout.manifests()?, tags })
}

/// Whether a blob is what its name says.
///
/// # Errors
/// What the disk says.
pub fn is_right(layout: &Layout, digest: &Digest) -> io::Result<bool> {
    let mut file = File::open(layout.blob(digest))?;
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(super::of(&context.finish()) == *digest),
            read => context.update(&piece[..read]),
        }
    }
}

/// Deletes a blob.
///
/// # Errors
/// What the disk says.
pub fn delete_blob(layout: &Layout, digest: &Digest) -> io::Result<()> {
    delete(&layout.blob(digest))
}

/// What making room has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blobs, half ones included.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Deletes half blobs, then what is used least, until `bytes_max` are left.
///
/// # Errors
/// What the disk says.
pub fn shrink(disk: &Disk, bytes_max: u64) -> io::Result<Freed> {
    let mut freed = Freed::default();
    for (digest, part) in disk.parts()? {
        delete(&disk.part(&digest))?;
        delete(&disk.part_total(&digest))?;
        freed = Freed { blobs: freed.blobs + 1, bytes: freed.bytes + part.bytes };
    }
    let mut ledger = Ledger::default();
    for (digest, blob) in disk.blobs(Proof::Due)? {
        ledger.insert(digest, blob);
    }
    for digest in ledger.surplus(bytes_max) {
        fs::remove_file(disk.blob(&digest))?;
        let bytes = ledger.get(&digest).map_or(0, |blob| blob.bytes);
        freed = Freed { blobs: freed.blobs + 1, bytes: freed.bytes + bytes };
    }
    Ok(freed)
}

//! The registry mirror's bytes: blobs on disk, written once and read by many while they come.
//!
//! [`Store`] is the cache of one directory. Of a blob that is not there, the first one who asks
//! gets a [`Part`] to write; everybody gets a [`Reader`] that reads what is on disk and then
//! follows the writer. Files are touched by threads of their own ([`hands`]), never by a worker.
//! The last byte of a blob is handed out only after its digest was checked. Where nothing can be
//! kept, [`Through`] passes a body on under the same rule.

mod disk;
pub(crate) mod hands;
pub mod inspect;
mod keep;
mod live;
mod memory;
mod part;
mod read;
mod store;
mod through;

#[cfg(test)]
mod tests;

pub use self::disk::{CacheError, Disk, Found, Layout, our_user};
pub use self::keep::{Manifest, tag_of};
pub use self::live::{Broken, Live};
pub use self::memory::Note;
pub use self::part::{Discard, Part};
pub use self::read::{Reader, Source};
pub use self::store::{Claim, Store, Ticket};
pub use self::through::Through;

use tillgate_core::mirror::Digest;

/// The digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    of(&digest)
}

/// The same, of what the library says.
pub(crate) fn of(digest: &aws_lc_rs::digest::Digest) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Digest(bytes)
}

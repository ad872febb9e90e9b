//! What the cache holds, what it is used for, and what goes when room is needed.
//!
//! In: blobs that come, are used, are pinned, go. Out: which ones to delete so that a new one fits:
//! those used longest ago, never a pinned one. Deleting is the shell's; what it could not delete it
//! does not report as gone, so the sum stays true.

use std::collections::{BTreeMap, BTreeSet};

use super::Digest;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    blobs: BTreeMap<Digest, Blob>,
    /// By last use; pinned ones are not in it.
    by_use: BTreeSet<(u64, Digest)>,
    pinned: BTreeSet<Digest>,
    bytes: u64,
}

/// One blob of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its size.
    pub bytes: u64,
    /// Seconds of the wall clock when it was used last.
    pub used: u64,
    /// Whether its bytes were checked since they could have been damaged.
    pub proof: Proof,
}

/// Whether a blob's bytes are known to be its digest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Checked when it was written, and no crash since.
    Checked,
    /// The machine may have crashed since: to be checked when it is read.
    Due,
}

impl Ledger {
    /// A blob came, or is there at the start.
    pub fn insert(&mut self, digest: Digest, blob: Blob) {
        self.remove(&digest);
        self.bytes = self.bytes.saturating_add(blob.bytes);
        self.blobs.insert(digest, blob);
        if !self.pinned.contains(&digest) {
            self.by_use.insert((blob.used, digest));
        }
    }

    /// A blob is gone.
    pub fn remove(&mut self, digest: &Digest) -> Option<Blob> {
        let blob = self.blobs.remove(digest)?;
        self.bytes = self.bytes.saturating_sub(blob.bytes);
        self.by_use.remove(&(blob.used, *digest));
        Some(blob)
    }

    /// The blob, if it is there.
    pub fn get(&self, digest: &Digest) -> Option<Blob> {
        self.blobs.get(digest).copied()
    }

    /// The blob is used at `now`; returns when it was used before. A clock that steps back does
    /// not make it older.
    pub fn touch(&mut self, digest: &Digest, now: u64) -> Option<u64> {
        let blob = self.blobs.get_mut(digest)?;
        let before = blob.used;
        let used = before.max(now);
        blob.used = used;
        if self.by_use.remove(&(before, *digest)) {
            self.by_use.insert((used, *digest));
        }
        Some(before)
    }

    /// The blob's bytes were checked.
    pub fn prove(&mut self, digest: &Digest) {
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.proof = Proof::Checked;
        }
    }

    /// These are pinned from now on, there or not, and no others.
    pub fn pin(&mut self, pinned: BTreeSet<Digest>) {
        self.pinned = pinned;
        let free = self.blobs.iter().filter(|(digest, _)| !self.pinned.contains(digest));
        self.by_use = free.map(|(digest, blob)| (blob.used, *digest)).collect();
    }

    /// What has to go so that all that is left is at most `bytes_max`, in this order; as much as
    /// can go, if that is not enough.
    pub fn surplus(&self, bytes_max: u64) -> Vec<Digest> {
        let mut left = self.bytes;
        let mut going = Vec::new();
        for (_, digest) in &self.by_use {
            if left <= bytes_max {
                break;
            }
            left = left.saturating_sub(self.blobs.get(digest).map_or(0, |blob| blob.bytes));
            going.push(*digest);
        }
        going
    }

    /// The blobs that are used least, for about `bytes` of room.
    pub fn least_used(&self, bytes: u64) -> Vec<Digest> {
        self.surplus(self.bytes.saturating_sub(bytes))
    }

    /// Bytes of all blobs that are not pinned.
    pub fn evictable(&self) -> u64 {
        let of = |(_, digest): &(u64, Digest)| self.blobs.get(digest).map_or(0, |blob| blob.bytes);
        self.by_use.iter().map(of).sum()
    }

    /// Bytes of all blobs.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &Blob)> {
        self.blobs.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn blob(bytes: u64, used: u64) -> Blob {
        Blob { bytes, used, proof: Proof::Checked }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        (1..=5).for_each(|number| ledger.insert(digest(number), blob(10, u64::from(number))));
        ledger
    }

    #[test]
    fn the_least_used_goes_first() {
        let mut ledger = ledger();
        assert_eq!((ledger.bytes(), ledger.len()), (50, 5));
        assert_eq!(ledger.surplus(50), []);
        assert_eq!(ledger.surplus(31), [digest(1), digest(2)]);
        assert_eq!(ledger.touch(&digest(1), 9), Some(1));
        assert_eq!(ledger.least_used(20), [digest(2), digest(3)]);
        assert_eq!(ledger.touch(&digest(1), 3), Some(9), "time does not run back");
        assert_eq!(ledger.least_used(50).last(), Some(&digest(1)));
        assert_eq!(ledger.remove(&digest(2)), Some(blob(10, 2)));
        assert_eq!((ledger.remove(&digest(2)), ledger.bytes()), (None, 40));
        ledger.insert(digest(3), blob(1, 7));
        assert_eq!((ledger.bytes(), ledger.len()), (31, 4));
    }

    #[test]
    fn what_is_pinned_stays() {
        let mut ledger = ledger();
        ledger.pin([digest(1), digest(9)].into());
        assert_eq!(ledger.surplus(0).len(), 4);
        assert_eq!(ledger.evictable(), 40);
        ledger.touch(&digest(1), 20);
        ledger.insert(digest(9), blob(100, 0));
        assert!(!ledger.surplus(0).contains(&digest(9)));
        ledger.pin(BTreeSet::new());
        assert_eq!(ledger.surplus(0)[..2], [digest(9), digest(2)]);
        assert_eq!(ledger.surplus(0).last(), Some(&digest(1)), "its use was kept");
    }
}

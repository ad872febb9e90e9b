//! Room for one more blob: what goes for it, in the cache's bound and on its file system.
//!
//! Half blobs that nobody goes on with go first, then what was used longest ago. Nothing goes for
//! what cannot fit.

use std::io;
use std::sync::Arc;

use tillgate_core::mirror::Digest;

use super::Store;
use crate::mirror::disk::{self, Disk};

impl Store {
    /// Deletes what is used least until `bytes` more fit, in the cache and on its file system, and
    /// keeps them instead of `before`.
    pub(super) async fn make_room(
        self: &Arc<Self>,
        disk: &Arc<Disk>,
        bytes: u64,
        before: u64,
    ) -> io::Result<()> {
        // One after the other, or two would count on the same room.
        let _turn = self.making_room.lock().await;
        let free = disk.free_bytes()?;
        let going = {
            let mut inner = self.inner();
            let wanted = inner.reserved.saturating_sub(before).saturating_add(bytes);
            let most = inner.spec.bytes_max.saturating_sub(wanted);
            let needed = wanted.saturating_add(inner.spec.free_bytes_min);
            let missing = needed.saturating_sub(free);
            let parts: Vec<Digest> = if missing > 0 || inner.blobs.bytes() > most {
                inner.parts.iter().map(|(digest, _)| *digest).collect()
            } else {
                Vec::new()
            };
            let fits = wanted <= inner.spec.bytes_max
                && inner.blobs.bytes() - inner.blobs.evictable() <= most
                && missing <= inner.blobs.evictable().saturating_add(inner.parts.bytes());
            if !fits {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut going = inner.blobs.surplus(most);
            let freed = |digests: &[Digest]| -> u64 {
                digests.iter().filter_map(|one| inner.blobs.get(one)).map(|one| one.bytes).sum()
            };
            if freed(&going).saturating_add(inner.parts.bytes()) < missing {
                going = inner.blobs.least_used(missing);
            }
            inner.going.extend(going.iter().chain(&parts));
            Going { store: Arc::clone(self), disk: Arc::clone(disk), blobs: going, parts }
        };
        if going.is_empty() {
            drop(going);
        } else {
            // To its end, also if nobody waits for it any more.
            self.writing.run(move || going.delete()).await?;
        }
        let mut inner = self.inner();
        inner.reserved = inner.reserved.saturating_sub(before).saturating_add(bytes);
        Ok(())
    }
}

/// What is deleted for others. Until that is done nobody is given any of it.
struct Going {
    store: Arc<Store>,
    disk: Arc<Disk>,
    blobs: Vec<Digest>,
    parts: Vec<Digest>,
}

impl Going {
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.parts.is_empty()
    }

    fn delete(self) -> io::Result<()> {
        for digest in &self.blobs {
            disk::delete(&self.disk.blob(digest))?;
            self.store.inner().blobs.remove(digest);
            self.store.meters.evicted.inc();
        }
        for digest in &self.parts {
            disk::delete(&self.disk.part(digest))?;
            disk::delete(&self.disk.part_total(digest))?;
            self.store.inner().parts.remove(digest);
        }
        Ok(())
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let mut inner = self.store.inner();
        for digest in self.blobs.iter().chain(&self.parts) {
            inner.going.remove(digest);
        }
        self.store.meters.show(&inner.blobs);
    }
}

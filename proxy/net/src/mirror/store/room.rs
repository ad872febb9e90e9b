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
    /// Deletes what is used least until `bytes` more fit, in the cache and on its file system.
    pub(super) async fn make_room(&self, disk: &Arc<Disk>, bytes: u64) -> io::Result<()> {
        let free = disk.free_bytes()?;
        let going = {
            let inner = self.inner();
            let wanted = inner.reserved.saturating_add(bytes);
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
            (going, parts)
        };
        self.delete(disk, going).await
    }

    async fn delete(
        &self,
        disk: &Arc<Disk>,
        (blobs, parts): (Vec<Digest>, Vec<Digest>),
    ) -> io::Result<()> {
        if blobs.is_empty() && parts.is_empty() {
            return Ok(());
        }
        let (from, gone) = (Arc::clone(disk), (blobs.clone(), parts.clone()));
        let deleted = self.writing.run(move || {
            for digest in &blobs {
                disk::delete(&from.blob(digest))?;
            }
            for digest in &parts {
                disk::delete(&from.part(digest))?;
                disk::delete(&from.part_total(digest))?;
            }
            Ok(())
        });
        deleted.await?;
        let mut inner = self.inner();
        for digest in &gone.0 {
            inner.blobs.remove(digest);
        }
        for digest in &gone.1 {
            inner.parts.remove(digest);
        }
        self.meters.evicted.inc_by(gone.0.len() as u64);
        self.meters.show(&inner.blobs);
        Ok(())
    }
}

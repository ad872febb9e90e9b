//! The writer of one blob: bytes to the disk, its digest with them.
//!
//! In: bytes in order, after those that an earlier process left. Out: a file under its digest, or
//! nothing. What comes is gathered and written in one go, by threads for files; what is written is
//! shown to readers at once. The digest grows with the file, and what was there before is read for
//! it once, in pieces.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use tillgate_core::mirror::Digest;

use super::disk::{self, Disk, Sync};
use super::live::{Broken, Live};
use super::read::read_at;
use super::store::Ticket;

/// What is gathered before it is written.
const GATHER_BYTES: usize = 256 * 1024;

/// What is read at once to catch up with a digest: one thread does nothing else for as long.
const CATCH_UP_BYTES: usize = 1024 * 1024;

/// See the module. Dropped before its end, the blob is broken for whoever reads it; what is on
/// disk stays for the next one.
#[derive(Debug)]
pub struct Part {
    ticket: Ticket,
    file: Arc<File>,
    written: u64,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    hash: Arc<Mutex<Hash>>,
    total: Option<u64>,
}

struct Hash {
    context: Context,
    /// Bytes of the file that are in it, from the beginning.
    upto: u64,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash").field("upto", &self.upto).finish_non_exhaustive()
    }
}

impl Hash {
    fn new() -> Self {
        Self { context: Context::new(&SHA256), upto: 0 }
    }
}

impl Part {
    /// Opens the half blob that `ticket` is for, or begins it.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn open(ticket: Ticket) -> io::Result<Self> {
        let (disk, digest) = (Arc::clone(ticket.disk()), ticket.live().digest);
        let opened = ticket.store().writing().run(move || {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(disk.part(&digest))?;
            let written = file.metadata()?.len();
            let total = fs::read_to_string(disk.part_total(&digest));
            Ok((file, written, total.ok().and_then(|text| text.trim().parse().ok())))
        });
        let (file, written, total) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                ticket.broke(Broken::past_disk("the disk takes nothing"));
                return Err(error);
            }
        };
        let file = Arc::new(file);
        ticket.live().has(Arc::clone(&file), written);
        let hash = Arc::new(Mutex::new(Hash::new()));
        let (gathered, gathered_bytes) = (Vec::new(), 0);
        Ok(Self { ticket, file, written, gathered, gathered_bytes, hash, total })
    }

    /// Bytes on disk.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of the whole, as an earlier process knew it.
    pub const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Whether so much was gathered that it should be written.
    pub const fn is_gathered(&self) -> bool {
        self.gathered_bytes >= GATHER_BYTES
    }

    /// Whether nothing waits to be written.
    pub const fn is_empty(&self) -> bool {
        self.gathered_bytes == 0
    }

    /// Who reads it.
    pub fn live(&self) -> &Arc<Live> {
        self.ticket.live()
    }

    /// Throws away what is on disk.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn restart(&mut self) -> io::Result<()> {
        let (file, disk) = (Arc::clone(&self.file), Arc::clone(self.ticket.disk()));
        let digest = self.live().digest;
        let cut = self.ticket.store().writing().run(move || {
            disk::delete(&disk.part_total(&digest))?;
            file.set_len(0)
        });
        cut.await?;
        (self.written, self.total, self.gathered_bytes) = (0, None, 0);
        self.gathered.clear();
        *self.hash() = Hash::new();
        self.live().wrote(0);
        Ok(())
    }

    /// The whole is `total` long: takes the room for it, then lets readers begin.
    ///
    /// # Errors
    /// If there is no room, whatever else could go.
    pub async fn is_of(&mut self, total: u64) -> io::Result<()> {
        if self.total != Some(total) || self.written == 0 {
            let rest = total.saturating_sub(self.written);
            self.ticket.make_room(rest).await?;
            let (file, disk) = (Arc::clone(&self.file), Arc::clone(self.ticket.disk()));
            let (digest, from) = (self.live().digest, self.written);
            let take = self.ticket.store().writing().run(move || {
                if rest > 0 {
                    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, from, rest) {
                        // Some file systems take no room ahead of need.
                        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                disk::write_whole(&disk.part_total(&digest), total.to_string().as_bytes(), Sync::No)
            });
            take.await?;
            self.total = Some(total);
        }
        self.live().is_of(total);
        Ok(())
    }

    /// More of it, gathered until [`Self::flush`].
    pub fn gather(&mut self, bytes: Bytes) {
        self.gathered_bytes += bytes.len();
        self.gathered.push(bytes);
    }

    /// Writes what was gathered and shows it to readers. Returns how much that was.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn flush(&mut self) -> io::Result<u64> {
        if self.gathered.is_empty() {
            return Ok(0);
        }
        let gathered = std::mem::take(&mut self.gathered);
        let (file, hash, from) = (Arc::clone(&self.file), Arc::clone(&self.hash), self.written);
        let write = self.ticket.store().writing().run(move || {
            let mut at = from;
            let mut hash = hash.lock().unwrap_or_else(PoisonError::into_inner);
            for bytes in &gathered {
                file.write_all_at(bytes, at)?;
                if hash.upto == at {
                    hash.context.update(bytes);
                    hash.upto += bytes.len() as u64;
                }
                at += bytes.len() as u64;
            }
            Ok(at - from)
        });
        let wrote = write.await?;
        self.gathered_bytes = 0;
        self.written += wrote;
        self.live().wrote(self.written);
        Ok(wrote)
    }

    /// Whether all that is on disk has the right digest.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn check(&mut self) -> io::Result<bool> {
        let hands = self.ticket.store().writing().clone();
        let all = catch_up(&hands, &self.file, &self.hash, self.written).await?;
        Ok(all == self.live().digest)
    }

    /// It is right: readers get the rest, and it is put in its place.
    ///
    /// # Errors
    /// What the disk says; readers have the blob all the same.
    pub async fn finish(self) -> io::Result<()> {
        self.live().end(Ok(()));
        let (disk, digest) = (Arc::clone(self.ticket.disk()), self.live().digest);
        let file = Arc::clone(&self.file);
        let place = self.ticket.store().writing().run(move || {
            file.sync_data()?;
            put_in_place(&disk, &digest)
        });
        let placed = place.await;
        if placed.is_ok() {
            self.ticket.stored(self.written);
        }
        placed
    }

    /// It is over; nothing of it is kept if `discard` says so.
    pub async fn fail(self, broken: Broken, discard: Discard) {
        if discard == Discard::All {
            let (disk, digest) = (Arc::clone(self.ticket.disk()), self.live().digest);
            let delete = self.ticket.store().writing().run(move || {
                disk::delete(&disk.part(&digest))?;
                disk::delete(&disk.part_total(&digest))
            });
            if let Err(error) = delete.await {
                tracing::error!(%error, %digest, "a wrong blob cannot be deleted");
            }
        }
        self.ticket.broke(broken);
    }

    fn hash(&self) -> std::sync::MutexGuard<'_, Hash> {
        self.hash.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is on disk of a failed blob is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// It is wrong.
    All,
    /// It is the beginning of the right one.
    Nothing,
}

fn put_in_place(disk: &Disk, digest: &Digest) -> io::Result<()> {
    let place = disk.blob(digest);
    fs::rename(disk.part(digest), &place)?;
    disk::delete(&disk.part_total(digest))?;
    Disk::sync_folder(&place)
}

/// The digest of the first `end` bytes of `file`, of which `hash` has some.
async fn catch_up(
    hands: &super::hands::Hands,
    file: &Arc<File>,
    hash: &Arc<Mutex<Hash>>,
    end: u64,
) -> io::Result<Digest> {
    loop {
        let (file, hash) = (Arc::clone(file), Arc::clone(hash));
        let done = hands.run(move || {
            let mut hash = hash.lock().unwrap_or_else(PoisonError::into_inner);
            let left = usize::try_from(end.saturating_sub(hash.upto)).unwrap_or(usize::MAX);
            if left == 0 {
                return Ok(Some(super::of(&hash.context.clone().finish())));
            }
            let bytes = read_at(&file, hash.upto, left.min(CATCH_UP_BYTES))?;
            hash.context.update(&bytes);
            hash.upto += bytes.len() as u64;
            Ok(None)
        });
        if let Some(digest) = done.await? {
            return Ok(digest);
        }
    }
}

/// The digest of the whole of `file`.
pub(super) async fn digest_of_file(
    hands: &super::hands::Hands,
    file: &Arc<File>,
    bytes: u64,
) -> io::Result<Digest> {
    catch_up(hands, file, &Arc::new(Mutex::new(Hash::new())), bytes).await
}

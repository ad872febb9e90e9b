//! The cache of one directory: what is there, what comes, what has to go.
//!
//! [`Store::claim`] is the one place where it is decided whether a blob is read, joined or
//! fetched, so that no two fetch the same one. A disk that is full, read-only or in another
//! process's hands ends caching, never pulling: then nothing can be claimed, and it is tried again
//! some time later.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::mirror::ledger::{Blob, Ledger, Proof};
use tillgate_core::mirror::tags::Tags;
use tillgate_core::mirror::{CacheSpec, Code, Digest};

use super::disk::{self, CacheError, Disk, Found};
use super::hands::Hands;
use super::live::{Broken, Live};
use super::part::digest_of_file;
use super::read::{Reader, Readers};
use crate::clock;
use crate::error::Failure;
use crate::metrics::MirrorMeters;

mod room;

/// Threads that read for clients. A disk answers in order; more would only wait beside each other.
const READING: usize = 2;

/// Threads that write, sync and check: a sync may take seconds, and no reader waits for it.
const WRITING: usize = 2;

/// After a disk that took nothing, or that another process had.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// A use is written to disk when the one that is there is older: the order of what goes first
/// survives a restart to that precision.
const USE_PRECISION: u64 = 3600;

/// Half blobs that nobody has gone on with for so long are deleted.
const PART_AGE_MAX: u64 = 7 * 24 * 3600;

/// See the module.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    reading: Hands,
    writing: Hands,
    readers: Readers,
    /// Held by whoever looks for what has to go.
    making_room: tokio::sync::Mutex<()>,
    pub(super) meters: MirrorMeters,
}

#[derive(Debug)]
pub(super) struct Inner {
    spec: CacheSpec,
    /// `None`: nothing can be kept.
    disk: Option<Arc<Disk>>,
    /// Not before this is it tried again.
    again_at: Option<Instant>,
    /// Why nothing can be kept now.
    why: Option<Arc<str>>,
    blobs: Ledger,
    /// Half blobs that nobody goes on with.
    parts: Ledger,
    pub(super) manifests: Ledger,
    pub(super) tags: Tags,
    live: HashMap<Digest, Arc<Live>>,
    /// Bytes that fetches under way will still take.
    reserved: u64,
    /// What is being deleted, in its ledger still.
    going: HashSet<Digest>,
}

/// What becomes of who wants a blob.
#[derive(Debug)]
pub enum Claim {
    /// It is there, with so many bytes.
    Stored(u64),
    /// It comes.
    Join(Arc<Live>),
    /// It is whoever got this who fetches it.
    Begin(Ticket),
    /// Nothing can be kept now: it is fetched for him alone.
    PastDisk,
}

impl Store {
    /// Opens the cache that `spec` says. A directory that cannot be used is no error: nothing is
    /// kept until it can, and pulls go past it.
    ///
    /// # Errors
    /// [`CacheError`], if the system gives no threads.
    pub fn open(spec: CacheSpec, meters: MirrorMeters) -> Result<Arc<Self>, CacheError> {
        let failed = |source| CacheError::Io { path: spec.directory.to_path_buf(), source };
        let reading = Hands::new("mirror-read", READING).map_err(failed)?;
        let writing = Hands::new("mirror-write", WRITING).map_err(failed)?;
        let directory = Arc::clone(&spec.directory);
        let inner = Inner {
            spec,
            disk: None,
            again_at: None,
            why: None,
            blobs: Ledger::default(),
            parts: Ledger::default(),
            manifests: Ledger::default(),
            tags: Tags::default(),
            live: HashMap::new(),
            reserved: 0,
            going: HashSet::new(),
        };
        let inner = Mutex::new(inner);
        let readers = Readers::default();
        let making_room = tokio::sync::Mutex::default();
        let store = Arc::new(Self { inner, reading, writing, readers, making_room, meters });
        store.take(Disk::open(&directory));
        Ok(store)
    }

    /// Indexes what was found.
    fn take(&self, found: Result<Found, CacheError>) {
        let began = clock::now();
        let why = match found {
            Ok(Found::Ours(disk)) => match self.index(disk) {
                Ok(()) => {
                    self.say_indexed(began);
                    return;
                }
                Err(error) => error.to_string(),
            },
            Ok(Found::Busy) => "another process has it".to_owned(),
            Ok(Found::ReadOnly(error)) => error.to_string(),
            Err(CacheError::Io { path, source }) => format!("{}: {source}", path.display()),
            Err(error) => error.to_string(),
        };
        self.keep_nothing(&why);
    }

    /// Nothing is kept for a while; said once for each reason.
    fn keep_nothing(&self, why: &str) {
        let mut inner = self.inner();
        inner.again_at = Some(clock::now() + TRY_AGAIN);
        self.meters.caching.set(0);
        if inner.why.as_deref() == Some(why) {
            return;
        }
        inner.why = Some(why.into());
        let directory = inner.spec.directory.display();
        tracing::warn!(%directory, why, "no image is kept; pulls go past the disk");
    }

    /// Why nothing can be kept now, if so.
    pub fn keeps_nothing(&self) -> Option<Arc<str>> {
        self.inner().why.clone()
    }

    fn say_indexed(&self, began: Instant) {
        let inner = self.inner();
        let took = clock::now().saturating_duration_since(began);
        let (blobs, bytes) = (inner.blobs.len(), inner.blobs.bytes());
        let directory = inner.spec.directory.display();
        tracing::info!(%directory, blobs, bytes, ?took, "image cache");
    }

    fn index(&self, disk: Disk) -> io::Result<()> {
        let proof = if disk.was_crashed() { Proof::Due } else { Proof::Checked };
        let now = clock::wall_seconds();
        let mut parts = Ledger::default();
        for (digest, part) in disk.parts()? {
            if now.saturating_sub(part.used) > PART_AGE_MAX {
                disk::delete(&disk.part(&digest))?;
                disk::delete(&disk.part_total(&digest))?;
            } else {
                parts.insert(digest, part);
            }
        }
        let ledger = |found: Vec<(Digest, Blob)>| {
            let mut ledger = Ledger::default();
            found.into_iter().for_each(|(digest, blob)| ledger.insert(digest, blob));
            ledger
        };
        let (blobs, manifests) = (ledger(disk.blobs(proof)?), ledger(disk.manifests()?));
        let tags = super::keep::read_tags(&disk)?;
        let mut inner = self.inner();
        (inner.blobs, inner.parts, inner.manifests, inner.tags) = (blobs, parts, manifests, tags);
        inner.disk = Some(Arc::new(disk));
        (inner.again_at, inner.why) = (None, None);
        self.meters.caching.set(1);
        self.meters.show(&inner.blobs);
        Ok(())
    }

    /// Other bounds. The directory stays; another one is another store.
    pub fn follow(&self, spec: CacheSpec) {
        self.inner().spec = spec;
    }

    /// Where it is.
    pub fn directory(&self) -> Arc<std::path::Path> {
        Arc::clone(&self.inner().spec.directory)
    }

    /// Tries again what could not be opened or written, if it is time. To be called every second
    /// or so; nothing else waits for it.
    pub async fn recover(self: &Arc<Self>, now: Instant) {
        let directory = {
            let mut inner = self.inner();
            if inner.again_at.is_none_or(|at| now < at) {
                return;
            }
            inner.again_at = Some(now + TRY_AGAIN);
            if inner.disk.is_some() {
                // The next fetch finds out.
                (inner.again_at, inner.why) = (None, None);
                self.meters.caching.set(1);
                return;
            }
            Arc::clone(&inner.spec.directory)
        };
        let store = Arc::clone(self);
        let opened = self.writing.run(move || {
            store.take(Disk::open(&directory));
            Ok(())
        });
        // The thread for files says itself what is wrong.
        let _ = opened.await;
    }

    /// The disk took nothing: nothing is kept for a while.
    pub fn degrade(&self, error: &io::Error) {
        self.keep_nothing(&error.to_string());
    }

    /// Who gets `digest` how. Of a blob that is due to be checked, the check begins: to be called
    /// inside of a runtime.
    pub fn claim(self: &Arc<Self>, digest: Digest) -> Claim {
        let now = clock::wall_seconds();
        let mut inner = self.inner();
        if let Some(live) = inner.live.get(&digest) {
            return Claim::Join(Arc::clone(live));
        }
        let Some(disk) = inner.disk.clone() else { return Claim::PastDisk };
        if inner.going.contains(&digest) {
            return Claim::PastDisk;
        }
        if let Some(blob) = inner.blobs.get(&digest) {
            let before = inner.blobs.touch(&digest, now).unwrap_or(now);
            if now.saturating_sub(before) > USE_PRECISION {
                self.mark(disk.blob(&digest).into(), now);
            }
            if blob.proof == Proof::Checked {
                return Claim::Stored(blob.bytes);
            }
            let live = Live::new(digest);
            inner.live.insert(digest, Arc::clone(&live));
            tokio::spawn(Arc::clone(self).check(disk, Arc::clone(&live), blob.bytes));
            return Claim::Join(live);
        }
        if inner.again_at.is_some() {
            return Claim::PastDisk;
        }
        let live = Live::new(digest);
        inner.live.insert(digest, Arc::clone(&live));
        inner.parts.remove(&digest);
        let store = Arc::clone(self);
        Claim::Begin(Ticket { store, disk, live, reserved: Mutex::new(0), ended: false })
    }

    /// Whether `digest` is neither there nor coming.
    pub fn lacks(&self, digest: &Digest) -> bool {
        let inner = self.inner();
        inner.blobs.get(digest).is_none() && !inner.live.contains_key(digest)
    }

    /// The size of `digest`, if it is there or its size is known.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let inner = self.inner();
        let stored = inner.blobs.get(digest).map(|blob| blob.bytes);
        stored.or_else(|| inner.live.get(digest)?.progress().1)
    }

    /// Whether `digest` is there as a whole.
    pub fn is_stored(&self, digest: &Digest) -> bool {
        self.inner().blobs.get(digest).is_some()
    }

    fn mark(&self, path: Arc<std::path::Path>, now: u64) {
        let writing = self.writing.clone();
        // An order of use that is a little wrong harms nobody.
        tokio::spawn(async move { writing.run(move || disk::mark_used(path, now)).await });
    }

    /// A reader of `bytes` of a blob that is there.
    ///
    /// # Errors
    /// If its file is gone or cannot be read; it is forgotten then.
    pub async fn read(&self, digest: Digest, bytes: Range<u64>) -> io::Result<Reader> {
        let Some(disk) = self.inner().disk.clone() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let open = move || File::open(disk.blob(&digest));
        let read = Reader::whole(open, bytes, self.reading.clone(), &self.readers).await;
        if let Err(error) = &read {
            tracing::error!(%digest, %error, "a blob of the image cache cannot be read");
            self.forget(&digest);
        }
        read
    }

    /// A reader of `bytes` of a blob that comes, after [`Live::total`].
    pub fn follow_live(&self, live: &Arc<Live>, bytes: Range<u64>) -> Option<Reader> {
        let file = Arc::clone(live.file()?);
        let (live, reading) = (Arc::clone(live), self.reading.clone());
        Some(Reader::following(live, file, bytes, reading, &self.readers))
    }

    /// Checks a blob while it is read already; its last byte waits for that.
    async fn check(self: Arc<Self>, disk: Arc<Disk>, live: Arc<Live>, bytes: u64) {
        let digest = live.digest;
        let path = disk.blob(&digest);
        let checked = async {
            let file = Arc::new(self.writing.run(move || File::open(path)).await?);
            live.has(Arc::clone(&file), bytes);
            live.is_of(bytes);
            digest_of_file(&self.writing, &file, bytes).await
        };
        let right = match checked.await {
            Ok(found) => found == digest,
            Err(error) => {
                tracing::error!(%digest, %error, "a blob of the image cache cannot be read");
                false
            }
        };
        if right {
            let mut inner = self.inner();
            inner.blobs.prove(&digest);
            inner.live.remove(&digest);
            live.end(Ok(()));
            return;
        }
        tracing::error!(%digest, "a blob of the image cache is damaged and is deleted");
        self.meters.mismatches.inc();
        let path = disk.blob(&digest);
        if let Err(error) = self.writing.run(move || disk::delete(&path)).await {
            tracing::error!(%digest, %error, "a damaged blob cannot be deleted");
        }
        self.forget(&digest);
        self.inner().live.remove(&digest);
        let failure = Some(Failure::DigestMismatch);
        live.end(Err(Broken::new(Code::DigestMismatch, failure, "the blob on disk is damaged")));
    }

    fn forget(&self, digest: &Digest) {
        let mut inner = self.inner();
        inner.blobs.remove(digest);
        self.meters.show(&inner.blobs);
    }

    /// How much of a blob is here: all, what has come, or what was left of it before.
    pub fn arrived(&self, digest: &Digest) -> u64 {
        let inner = self.inner();
        if let Some(blob) = inner.blobs.get(digest) {
            return blob.bytes;
        }
        match inner.live.get(digest) {
            Some(live) => live.progress().0,
            None => inner.parts.get(digest).map_or(0, |part| part.bytes),
        }
    }

    /// Whether something can be kept now.
    pub fn keeps(&self) -> bool {
        self.disk().is_some()
    }

    /// These stay, whatever room is needed.
    pub fn pin(&self, pinned: std::collections::BTreeSet<Digest>) {
        self.inner().blobs.pin(pinned);
    }

    /// Nothing needs to be checked at the next start, and another process may have it. Blocks.
    pub fn close(&self) {
        let disk = self.inner().disk.take();
        if let Some(Err(error)) = disk.map(|disk| disk.close()) {
            tracing::warn!(%error, "the image cache is not closed; it is checked at the next start");
        }
    }

    /// Bytes and number of blobs.
    pub fn holds(&self) -> (u64, usize) {
        let inner = self.inner();
        (inner.blobs.bytes(), inner.blobs.len())
    }

    pub(super) const fn writing(&self) -> &Hands {
        &self.writing
    }

    pub(super) const fn reading(&self) -> &Hands {
        &self.reading
    }

    pub(super) fn disk(&self) -> Option<Arc<Disk>> {
        let inner = self.inner();
        inner.disk.clone().filter(|_| inner.again_at.is_none())
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to fetch one blob, and the duty to say how that ended. Dropped without a word, the
/// blob is broken for whoever waits.
#[derive(Debug)]
pub struct Ticket {
    store: Arc<Store>,
    disk: Arc<Disk>,
    live: Arc<Live>,
    reserved: Mutex<u64>,
    ended: bool,
}

impl Ticket {
    /// Which blob, and who waits for it.
    pub const fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Where it belongs.
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) const fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Makes room for `bytes` more, and keeps it.
    pub(super) async fn make_room(&self, bytes: u64) -> io::Result<()> {
        let reserved = || self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *reserved();
        self.store.make_room(&self.disk, bytes, before).await?;
        *reserved() = bytes;
        Ok(())
    }

    /// It is in its place.
    pub(super) fn stored(mut self, bytes: u64) {
        let used = clock::wall_seconds();
        let blob = Blob { bytes, used, proof: Proof::Checked };
        self.end(|inner, digest| inner.blobs.insert(digest, blob));
        self.store.meters.show(&self.store.inner().blobs);
    }

    /// It broke; what is on disk may be gone on with.
    pub fn broke(mut self, broken: Broken) {
        self.end_broken(broken);
    }

    fn end_broken(&mut self, broken: Broken) {
        let (bytes, _) = self.live.progress();
        let used = clock::wall_seconds();
        self.end(|inner, digest| {
            if bytes > 0 {
                inner.parts.insert(digest, Blob { bytes, used, proof: Proof::Due });
            }
        });
        self.live.end(Err(broken));
    }

    fn end(&mut self, change: impl FnOnce(&mut Inner, Digest)) {
        self.ended = true;
        let reserved = *self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.store.inner();
        inner.reserved = inner.reserved.saturating_sub(reserved);
        // Who comes from here on begins anew.
        inner.live.remove(&self.live.digest);
        change(&mut inner, self.live.digest);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            let failure = Some(Failure::BackendBodyCut);
            self.end_broken(Broken::new(Code::Unavailable, failure, "the fetch was given up"));
        }
    }
}

//! The directory of the cache: what lies where, whose it is, what is found at the start.
//!
//! A blob is a file named by its digest, put in place by a rename after its bytes were synced; a
//! half one lies under `parts` and is gone on with. Nothing else is trusted: a name that is no
//! digest is left alone, and after a crash of the machine every blob is due to be checked when it
//! is read. Everything here blocks.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tillgate_core::mirror::Digest;
use tillgate_core::mirror::ledger::{Blob, Proof};

use crate::clock;

/// Changes when a later release lays files out in another way.
const LAYOUT: &str = "tillgate image cache 1\n";

/// Says that the last process closed the cache, or that the machine has run ever since.
const BOOT: &str = "boot";

/// How the extension of a file begins that is being written.
const HALF: &str = "new";

/// Why a cache cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Somebody else's.
    #[error(
        "the cache directory {} belongs to the user {owner}, this process runs as {ours}; give it \
         to {ours} (chown), or name another one", path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this.
        ours: u32,
    },
    /// Something else lies there.
    #[error(
        "{} is no image cache and not empty; name an empty or a new directory", .0.display()
    )]
    NotOurs(PathBuf),
    /// Another release's.
    #[error("the image cache in {} is of another release; empty it, or name another", .0.display())]
    OtherLayout(PathBuf),
    /// The system says no.
    #[error("the cache directory {} cannot be used", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
}

/// The directory. The lock is held as long as this lives.
#[derive(Debug)]
pub struct Disk {
    layout: Layout,
    _lock: File,
}

impl std::ops::Deref for Disk {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

/// What lies where in a directory. Whoever only looks needs no lock.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// What a directory has to offer.
#[derive(Debug)]
pub enum Found {
    /// It is ours to write.
    Ours(Disk),
    /// Another process has it: the one before this, or a command.
    Busy,
    /// Nothing can be written there.
    ReadOnly(io::Error),
}

/// What lies in a folder of blobs.
pub(super) type Blobs = Vec<(Digest, Blob)>;

impl Disk {
    /// Takes the directory `root`; makes it if there is none.
    ///
    /// # Errors
    /// [`CacheError`] says what is wrong with it and what to do.
    pub fn open(root: &Path) -> Result<Found, CacheError> {
        let failed = |source| CacheError::Io { path: root.to_owned(), source };
        match DirBuilder::new().recursive(true).mode(0o700).create(root) {
            Err(error) if is_read_only(&error) && !root.exists() => {
                return Ok(Found::ReadOnly(error));
            }
            Err(error) if !is_read_only(&error) => return Err(failed(error)),
            _ => {}
        }
        let (owner, ours) = (fs::metadata(root).map_err(failed)?.uid(), our_user());
        // Also where root runs this: whoever owns it could put other bytes under a digest.
        if owner != ours {
            return Err(CacheError::Owner { path: root.to_owned(), owner, ours });
        }
        check_layout(root)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(root.join("lock"));
        let lock = match lock {
            Ok(lock) => lock,
            Err(error) if is_read_only(&error) => return Ok(Found::ReadOnly(error)),
            Err(error) => return Err(failed(error)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Found::Busy),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let disk = Self { layout: Layout { root: root.to_owned() }, _lock: lock };
        match disk.prepare() {
            Ok(()) => Ok(Found::Ours(disk)),
            Err(error) if is_read_only(&error) => Ok(Found::ReadOnly(error)),
            Err(error) => Err(failed(error)),
        }
    }

    /// A folder's entries are as durable as its files.
    pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
        File::open(path.parent().unwrap_or(path))?.sync_all()
    }
}

impl Layout {
    /// The cache in `root`, if it is one.
    ///
    /// # Errors
    /// [`CacheError`] says what it is instead.
    pub fn of(root: &Path) -> Result<Self, CacheError> {
        match fs::metadata(root.join("layout")) {
            Ok(_) => check_layout(root).map(|()| Self { root: root.to_owned() }),
            Err(source) => Err(CacheError::Io { path: root.to_owned(), source }),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        for folder in ["blobs", "manifests", "parts", "tags"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        for shard in 0..=u8::MAX {
            fs::create_dir_all(self.root.join("blobs").join(format!("{shard:02x}")))?;
        }
        write_whole(&self.root.join("layout"), LAYOUT.as_bytes(), Sync::No)
    }

    /// Whether the machine may have crashed since blobs were written; from now on it may.
    pub(super) fn was_crashed(&self) -> bool {
        let now = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let then = fs::read_to_string(self.root.join(BOOT)).unwrap_or_default();
        if let Err(error) = write_whole(&self.root.join(BOOT), now.as_bytes(), Sync::Yes) {
            tracing::warn!(%error, "the image cache cannot remember this boot; it will be checked");
        }
        let closed = then == "closed";
        let same = !now.is_empty() && now == then;
        !(closed || same) && self.root.join("blobs").read_dir().is_ok()
    }

    /// All is on disk: nothing needs to be checked at the next start.
    pub(super) fn close(&self) -> io::Result<()> {
        write_whole(&self.root.join(BOOT), b"closed", Sync::Yes)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("blobs").join(&hex[..2]).join(hex)
    }

    pub(super) fn part(&self, digest: &Digest) -> PathBuf {
        self.root.join("parts").join(digest.hex())
    }

    /// Where the size of a half blob's whole is kept.
    pub(super) fn part_total(&self, digest: &Digest) -> PathBuf {
        self.root.join("parts").join(digest.hex()).with_extension("total")
    }

    pub(super) fn manifest(&self, digest: &Digest) -> PathBuf {
        self.root.join("manifests").join(digest.hex())
    }

    pub(super) fn tag(&self, name: &str) -> PathBuf {
        self.root.join("tags").join(name)
    }

    /// A small text.
    pub(super) fn note(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn tags(&self) -> PathBuf {
        self.root.join("tags")
    }

    /// Every blob, due to be checked or not.
    pub(super) fn blobs(&self, proof: Proof) -> io::Result<Blobs> {
        let mut found = Vec::new();
        for shard in fs::read_dir(self.root.join("blobs"))? {
            list(&shard?.path(), proof, &mut found)?;
        }
        Ok(found)
    }

    /// Every manifest.
    pub(super) fn manifests(&self) -> io::Result<Blobs> {
        let mut found = Vec::new();
        list(&self.root.join("manifests"), Proof::Checked, &mut found)?;
        Ok(found)
    }

    /// Half blobs, with their sizes on disk and their ages.
    pub(super) fn parts(&self) -> io::Result<Blobs> {
        let mut found = Vec::new();
        list(&self.root.join("parts"), Proof::Due, &mut found)?;
        Ok(found)
    }

    /// Bytes that are free for this user.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn list(folder: &Path, proof: Proof, found: &mut Blobs) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(Ok(digest)) = name.to_str().map(Digest::from_hex) else {
            is_left_over(&entry.path());
            continue;
        };
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() {
            let used = meta.modified().map_or(0, clock::seconds_of);
            found.push((digest, Blob { bytes: meta.len(), used, proof }));
        }
    }
    Ok(())
}

/// Whether the directory is an image cache of this layout, or nothing yet.
fn check_layout(root: &Path) -> Result<(), CacheError> {
    match fs::read_to_string(root.join("layout")) {
        Ok(layout) if layout == LAYOUT => Ok(()),
        Ok(_) => Err(CacheError::OtherLayout(root.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entries = fs::read_dir(root)
                .map_err(|source| CacheError::Io { path: root.to_owned(), source })?;
            // A crash may have come before the layout was written; a new file system is not empty.
            let foreign = entries.any(|entry| {
                let ours = ["lock", "blobs", "manifests", "parts", "tags", "boot", "lost+found"];
                entry.is_ok_and(|entry| !ours.iter().any(|name| entry.file_name() == *name))
            });
            if foreign { Err(CacheError::NotOurs(root.to_owned())) } else { Ok(()) }
        }
        Err(source) => Err(CacheError::Io { path: root.to_owned(), source }),
    }
}

/// Whether nothing can be written, for a reason that is not this file's.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Who runs this process.
pub fn our_user() -> u32 {
    fs::metadata("/proc/self").map_or(0, |meta| meta.uid())
}

/// The moment of the wall clock that is `seconds` after 1970 began.
pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Whether a small file must survive a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Yes,
    No,
}

/// Puts a small file in place, whole or not at all. Two may write the same one at a time: what they
/// write before is not the same file.
pub(super) fn write_whole(path: &Path, bytes: &[u8], sync: Sync) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let half = path.with_extension(format!("{HALF}{number}"));
    let mut file = File::create(&half)?;
    file.write_all(bytes)?;
    if sync == Sync::Yes {
        file.sync_data()?;
    }
    fs::rename(&half, path)
}

/// Whether it was being written when the process ended; it is deleted then.
pub(super) fn is_left_over(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_half = extension.is_some_and(|extension| extension.starts_with(HALF));
    if is_half && let Err(error) = delete(path) {
        tracing::warn!(path = %path.display(), %error, "a half file cannot be deleted");
    }
    is_half
}

/// Deletes a file; one that is gone already is as good.
pub(super) fn delete(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Remembers on disk when a file was used, for the next start.
pub(super) fn mark_used(path: Arc<Path>, used: u64) -> io::Result<()> {
    File::options().append(true).open(path)?.set_modified(at(used))
}

//! The state directory: bundles, the two pointers to them, and the memory of the reconcile loop.
//!
//! ```text
//! bundles/<sha256>/bundle.tar.gz  current -> bundles/<sha256>  lkg -> …  state.json  quarantine/
//! ```
//!
//! Whatever moment the power goes, each of them is old or new, never half: everything is written
//! beside, synchronised, renamed, and the folder synchronised. Nothing that is read here is
//! believed without its hash. All of it blocks; callers are apart from the data plane. A disk that
//! is full or read-only is an error to report, never a reason to stop serving.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tillgate_config::bundle::{Manifest, decode_memory, encode_memory};
use tillgate_core::reconcile::{Bundle, Digest, Memory, OnDisk, Revision, Wall};
use tillgate_net::clock;

use crate::bundle::archive::{self, PACKED_BYTES_MAX};
use crate::bundle::{Archive, revision};
use crate::disk::{read_bounded, remove, replace, sync, write_new};

/// Bundles that are kept: ten to go back to, beside what runs and the last known good.
const BUNDLES_MAX: usize = 12;

/// And so many bytes of them at most.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What was refused and may be looked at.
const QUARANTINE_MAX: usize = 3;

/// The memory has some kilobytes, and a kilobyte or two for each operation that was not told; more
/// is not ours.
const MEMORY_BYTES_MAX: u64 = 1024 * 1024;

const ARCHIVE: &str = "bundle.tar.gz";
const MEMORY: &str = "state.json";
/// What is being written; whatever has it after a start was left by one that died.
const TEMPORARY: &str = ".tmp-";

/// A pointer to a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pointer {
    Current,
    Lkg,
}

impl Pointer {
    const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Lkg => "lkg",
        }
    }
}

/// One store's state on disk.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The state in `root`, without looking at it.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The file by whose lock processes agree on who writes here.
    pub(crate) fn lock_file(&self) -> io::Result<File> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600).open(self.root.join("lock"))
    }

    /// Makes what is missing, and sweeps up after a process that died while it wrote.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        for folder in ["bundles", "quarantine"] {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(self.root.join(folder))?;
        }
        for folder in [self.root.clone(), self.root.join("bundles"), self.root.join("quarantine")] {
            for entry in fs::read_dir(folder)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// What is there. `believes` says whether an archive counts: its hashes, and its signatures.
    pub(crate) fn look(&self, believes: impl Fn(&Archive) -> bool) -> OnDisk {
        let bundle = |pointer| {
            let digest = self.pointed(pointer)?;
            match self.read(&digest) {
                Ok((archive, revision)) => Some(Bundle { revision, intact: believes(&archive) }),
                Err(error) => {
                    tracing::warn!(pointer = pointer.name(), %error, "a bundle on disk is damaged");
                    let revision =
                        Revision { digest, sequence: None, created_at: Default::default() };
                    Some(Bundle { revision, intact: false })
                }
            }
        };
        let (memory, torn) = self.memory();
        let present = self.present().into_iter().filter_map(|one| Some(self.read(&one).ok()?.1));
        OnDisk {
            current: bundle(Pointer::Current),
            lkg: bundle(Pointer::Lkg),
            // Only after a loss does anybody need them all.
            present: if memory.is_none() { present.collect() } else { Vec::new() },
            memory,
            torn,
        }
    }

    /// The bundle `digest`, whole and with the digest it is kept by.
    pub(crate) fn read(&self, digest: &str) -> io::Result<(Archive, Revision)> {
        let packed = read_bounded(&self.folder(digest)?.join(ARCHIVE), PACKED_BYTES_MAX)?;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let archive = archive::read(&packed).map_err(|error| invalid(error.to_string()))?;
        let found = archive.digest();
        if *found != *digest {
            return Err(invalid(format!("it is {found}")));
        }
        let manifest =
            Manifest::read(&archive.manifest).map_err(|error| invalid(error.to_string()))?;
        let revision = revision(&archive, &manifest);
        Ok((archive, revision))
    }

    /// Whether the bundle `digest` is there.
    pub(crate) fn keeps(&self, digest: &str) -> bool {
        self.folder(digest).is_ok_and(|folder| folder.join(ARCHIVE).exists())
    }

    /// Keeps a bundle, and reads it back.
    pub(crate) fn stage(&self, archive: &Archive) -> io::Result<Digest> {
        let digest = archive.digest();
        let (folder, bundles) = (self.folder(&digest)?, self.root.join("bundles"));
        if self.read(&digest).is_ok_and(|(kept, _)| kept == *archive) {
            return Ok(digest);
        }
        let beside = bundles.join(format!("{TEMPORARY}{}", bare(&digest)));
        remove(&beside)?;
        fs::DirBuilder::new().mode(0o700).create(&beside)?;
        write_new(&beside.join(ARCHIVE), &archive::write(archive)?)?;
        sync(&beside)?;
        // One with other signatures, or a damaged one, makes room.
        remove(&folder)?;
        fs::rename(&beside, &folder)?;
        sync(&bundles)?;
        match self.read(&digest) {
            Ok((kept, _)) if kept == *archive => Ok(digest),
            Ok(_) => Err(io::Error::other("the disk gives back other bytes than were written")),
            Err(error) => Err(error),
        }
    }

    /// Lets a pointer lead to `digest`.
    pub(crate) fn point(&self, pointer: Pointer, digest: &str) -> io::Result<()> {
        let target = Path::new("bundles").join(bare(digest));
        let link = self.root.join(pointer.name());
        if fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(());
        }
        let beside = self.root.join(format!("{TEMPORARY}{}", pointer.name()));
        remove(&beside)?;
        symlink(&target, &beside)?;
        fs::rename(&beside, &link)?;
        sync(&self.root)
    }

    /// Writes the memory.
    pub(crate) fn remember(&self, memory: &Memory) -> io::Result<()> {
        let beside = self.root.join(format!("{TEMPORARY}{MEMORY}"));
        replace(&self.root.join(MEMORY), &beside, encode_memory(memory).as_bytes())
    }

    /// Keeps what was refused for someone to look at; the last three.
    pub(crate) fn quarantine(&self, packed: &[u8]) -> io::Result<()> {
        let folder = self.root.join("quarantine");
        let name = bare(&tillgate_config::bundle::digest(packed)).to_owned();
        let path = folder.join(format!("{name}.tar.gz"));
        if path.exists() {
            return Ok(());
        }
        let beside = folder.join(format!("{TEMPORARY}{name}"));
        replace(&path, &beside, packed)?;
        let mut kept = by_age(&folder);
        while kept.len() > QUARANTINE_MAX {
            remove(&kept.remove(0).1)?;
        }
        Ok(())
    }

    /// The same with the bundle that a pointer leads to, damaged as it is.
    pub(crate) fn set_aside(&self, pointer: Pointer) -> io::Result<()> {
        let Some(digest) = self.pointed(pointer) else { return Ok(()) };
        // What cannot be read at all is no use to anybody.
        let read = read_bounded(&self.folder(&digest)?.join(ARCHIVE), PACKED_BYTES_MAX);
        read.map_or(Ok(()), |packed| self.quarantine(&packed))
    }

    /// Removes the oldest bundles beyond what is kept, but none that a pointer or `keep` names.
    pub(crate) fn prune(&self, keep: &[Digest]) -> io::Result<()> {
        let needed = |path: &Path| {
            let pointers = [Pointer::Current, Pointer::Lkg].map(|one| self.pointed(one));
            let named = pointers.iter().flatten().chain(keep);
            let name = path.file_name().and_then(|name| name.to_str());
            named.into_iter().any(|digest| Some(bare(digest)) == name)
        };
        let mut kept = by_age(&self.root.join("bundles"));
        let mut bytes: u64 = kept.iter().map(|(_, path)| size(path)).sum();
        let mut count = kept.len();
        for (_, path) in kept.drain(..) {
            if count <= BUNDLES_MAX && bytes <= BYTES_MAX {
                break;
            }
            if !needed(&path) {
                bytes -= size(&path).min(bytes);
                count -= 1;
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The memory, and whether one was there that cannot be believed.
    fn memory(&self) -> (Option<Memory>, bool) {
        let path = self.root.join(MEMORY);
        let bytes = match read_bounded(&path, MEMORY_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, false),
            Err(error) => {
                tracing::warn!(%error, "the memory on disk cannot be read");
                return (None, true);
            }
        };
        match decode_memory(&bytes) {
            Ok(memory) => (Some(memory), false),
            Err(error) => {
                tracing::warn!(%error, "the memory on disk is not believed");
                (None, true)
            }
        }
    }

    /// What is written of the memory.
    pub(crate) fn memory_text(&self) -> io::Result<Vec<u8>> {
        read_bounded(&self.root.join(MEMORY), MEMORY_BYTES_MAX)
    }

    /// Where a pointer leads.
    pub(crate) fn pointed(&self, pointer: Pointer) -> Option<Digest> {
        let target = fs::read_link(self.root.join(pointer.name())).ok()?;
        Some(format!("sha256:{}", target.file_name()?.to_str()?).into())
    }

    /// When a pointer was turned to where it leads.
    pub(crate) fn pointed_at(&self, pointer: Pointer) -> Option<Wall> {
        let link = fs::symlink_metadata(self.root.join(pointer.name())).ok()?;
        Some(Wall(clock::seconds_of(link.modified().ok()?)))
    }

    fn present(&self) -> Vec<Digest> {
        let paths = by_age(&self.root.join("bundles")).into_iter();
        let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        paths.filter_map(|(_, path)| Some(format!("sha256:{}", name(path)?).into())).collect()
    }

    fn folder(&self, digest: &str) -> io::Result<PathBuf> {
        let name = bare(digest);
        let is_hex = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.root.join("bundles").join(name))
    }
}

fn bare(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// What is in `folder`, oldest first.
fn by_age(folder: &Path) -> Vec<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let aged = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut found: Vec<_> = entries.filter_map(aged).collect();
    found.sort();
    found
}

fn size(folder: &Path) -> u64 {
    fs::metadata(folder.join(ARCHIVE)).map_or(0, |found| found.len())
}

#[cfg(test)]
mod tests;

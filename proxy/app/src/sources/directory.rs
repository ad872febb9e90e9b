//! A folder: a ConfigMap, a checkout, a stick.
//!
//! It is looked at every second, because looking works on every file system. What looks different
//! must look the same twice, half a second apart, and give the same content when it is read twice
//! through one resolved folder (a ConfigMap swaps a link); once a minute it is read even if it
//! looks the same. It holds a signed bundle (`bundle.tar.gz`, or `manifest.json` with its
//! signatures), or plain files, which nobody answers for.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tillgate_config::bundle::FILES_MAX;
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;

use super::{FetchError, Fetched, Proof, apart, wrap};
use crate::bundle::archive::{self, PACKED_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::bundle::{Archive, Files};

/// How often it is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is being written is left alone until it has looked the same for so long.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Content is read although nothing looks different: a second write of the same length within one
/// tick of the file system's clock cannot be seen from outside.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Folders in folders.
const DEPTH_MAX: usize = 16;

/// Prefix of the revision of what nobody has numbered.
pub(crate) const UNORDERED: &str = "directory@";

/// A folder that is looked at.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    allow_unsigned: bool,
    /// How it looked when it was last read.
    look: Option<u64>,
    read_at: Option<Instant>,
    given: Option<String>,
    settled: Option<String>,
}

impl Directory {
    pub(crate) fn new(path: PathBuf, allow_unsigned: bool) -> Self {
        Self { path, allow_unsigned, look: None, read_at: None, given: None, settled: None }
    }

    /// Why it can never change, if so: a `subPath` mount is a copy of the moment of its start.
    pub(crate) fn refused(path: &Path) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        is_sub_path(&mounts, path).then(|| {
            format!(
                "{} is mounted with `subPath`, which never sees a change; mount the whole volume",
                path.display()
            )
        })
    }

    pub(crate) fn settle(&mut self) {
        self.settled.clone_from(&self.given);
    }

    pub(crate) async fn fetch(&mut self) -> Result<Fetched, FetchError> {
        let path = self.path.clone();
        let seen = apart(move || look(&resolve(&path))).await??;
        let due = self.read_at.is_none_or(|at| {
            clock::now().saturating_duration_since(at) >= READ_EVERY
        });
        if self.look == Some(seen) && !due {
            return Ok(Fetched::Same { held: false });
        }
        if self.look.is_some_and(|known| known != seen) {
            tokio::time::sleep(DEBOUNCE).await;
        }
        let (path, unsigned) = (self.path.clone(), self.allow_unsigned);
        let read = apart(move || read_twice(&path, seen, unsigned)).await?;
        let Some((archive, proof)) = read? else {
            // Still being written; the next look comes soon.
            return Ok(Fetched::Same { held: false });
        };
        self.look = Some(seen);
        self.read_at = Some(clock::now());
        let digest = format!("{}{}", archive.digest(), archive.promotions.len());
        self.given = Some(digest.clone());
        if self.settled.as_ref() == Some(&digest) {
            return Ok(Fetched::Same { held: false });
        }
        Ok(Fetched::Bundle { archive, proof, held: false })
    }
}

/// The folder behind the link that a ConfigMap swaps, resolved once.
fn resolve(path: &Path) -> PathBuf {
    let data = path.join("..data");
    fs::canonicalize(data).or_else(|_| fs::canonicalize(path)).unwrap_or_else(|_| path.to_owned())
}

/// Reads it twice; `None` = it changes under the reader.
fn read_twice(
    path: &Path,
    seen: u64,
    unsigned: bool,
) -> Result<Option<(Archive, Proof)>, FetchError> {
    let folder = resolve(path);
    if look(&folder)? != seen {
        return Ok(None);
    }
    let first = read(&folder, unsigned);
    let again = resolve(path);
    if again != folder || look(&again)? != seen {
        return Ok(None);
    }
    let (first, second) = (first?, read(&again, unsigned)?);
    Ok((first == second).then_some(first))
}

fn read(folder: &Path, unsigned: bool) -> Result<(Archive, Proof), FetchError> {
    let packed = folder.join("bundle.tar.gz");
    if let Ok(found) = fs::metadata(&packed) {
        if found.len() > PACKED_BYTES_MAX {
            return Err(archive::ArchiveError::Packed.to_string().into());
        }
        let bytes = fs::read(&packed).map_err(|error| told(&packed, &error))?;
        let archive = archive::read(&bytes).map_err(|error| error.to_string())?;
        return Ok((archive, Proof::Signatures));
    }
    let mut files = Files::new();
    let mut left = UNPACKED_BYTES_MAX;
    walk(folder, "", 0, &mut |name, path, size| {
        let ours = ["manifest.json", "signatures.json", "promotions.json"].contains(&name);
        if !ours && !name.ends_with(".yaml") && !name.ends_with(".yml") {
            return Ok(());
        }
        left = left.checked_sub(size).ok_or("the folder has more than 8 MiB of policy")?;
        files.insert(name.to_owned(), fs::read(path).map_err(|error| told(path, &error))?);
        Ok(())
    })?;
    let mut own = |name: &str| files.remove(name).unwrap_or_default();
    let manifest = own("manifest.json");
    let (signatures, promotions) = (own("signatures.json"), own("promotions.json"));
    if !manifest.is_empty() {
        return Ok((Archive { manifest, signatures, promotions, files }, Proof::Signatures));
    }
    if files.is_empty() {
        return Err(format!("{} has no policy in it", folder.display()).into());
    }
    if !unsigned {
        return Err("the folder's files are not signed; put a signed bundle there, or set the \
                    source's `allowUnsigned`"
            .to_owned()
            .into());
    }
    let hash = tillgate_config::bundle::digest(format!("{:?}", entries_of(&files)).as_bytes());
    // Nobody vouches for a time or a number.
    let archive = wrap(files, format!("{UNORDERED}{hash}"), 1, Wall(0));
    Ok((archive, Proof::Nobody))
}

fn entries_of(files: &Files) -> Vec<(String, String)> {
    let hash = |(path, bytes): (&String, &Vec<u8>)| (path.clone(), tillgate_config::bundle::hex(bytes));
    files.iter().map(hash).collect()
}

/// How a folder looks from outside: names, lengths, times and nodes of its files.
fn look(folder: &Path) -> Result<u64, String> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    walk(folder, "", 0, &mut |name, path, size| {
        let found = fs::metadata(path).map_err(|error| told(path, &error))?;
        (name, size, found.ino(), found.dev(), found.mtime(), found.mtime_nsec()).hash(&mut hasher);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// Tells every regular file below `folder`, links followed, hidden ones left out, in order.
fn walk(
    folder: &Path,
    prefix: &str,
    depth: usize,
    tell: &mut dyn FnMut(&str, &Path, u64) -> Result<(), String>,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("{} is more than {DEPTH_MAX} folders deep", folder.display()));
    }
    let entries = fs::read_dir(folder).map_err(|error| told(folder, &error))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| told(folder, &error))?.file_name();
        let Some(name) = name.to_str().map(str::to_owned) else { continue };
        if !name.starts_with('.') {
            names.push(name);
        }
        if names.len() > FILES_MAX {
            return Err(format!("{} has more than {FILES_MAX} files", folder.display()));
        }
    }
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let Ok(found) = fs::metadata(&path) else { continue };
        let shown = format!("{prefix}{name}");
        if found.is_dir() {
            walk(&path, &format!("{shown}/"), depth + 1, tell)?;
        } else if found.is_file() {
            tell(&shown, &path, found.len())?;
        }
    }
    Ok(())
}

fn told(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// Whether `path` is a mount of a part of a volume, by the text of `mountinfo`.
fn is_sub_path(mounts: &str, path: &Path) -> bool {
    let part_of = |line: &str| {
        let mut fields = line.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let part = root.contains("/volume-subpaths/") || root.contains("/..20");
        (part && Path::new(point) == path).then_some(())
    };
    mounts.lines().any(|line| part_of(line).is_some())
}

#[cfg(test)]
mod tests;

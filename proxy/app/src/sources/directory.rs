//! A folder: a ConfigMap, a checkout, a stick.
//!
//! It is looked at every second, because looking works on every file system. What looks different
//! must look the same twice, half a second apart, and give the same content when it is read twice
//! through one resolved folder (a ConfigMap swaps a link); once a minute it is read even if it
//! looks the same. It holds a signed bundle (`bundle.tar.gz`, or `manifest.json` with its
//! signatures), or plain files, which nobody answers for.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tillgate_config::bundle::{FILES_MAX, FileEntry};
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;

use super::apart::{Apart, Blocks};
use super::{FetchError, Fetched, Given, Proof, wrap};
use crate::bundle::archive::{self, PACKED_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::bundle::{Archive, Files, entries};

/// How often it is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is being written is left alone until it has looked the same for so long.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Content is read although nothing looks different: a second write of the same length within one
/// tick of the file system's clock cannot be seen from outside.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Folders in folders.
const DEPTH_MAX: usize = 16;

/// A folder that is looked at.
pub(crate) type Directory = Apart<Looker>;

/// Whoever looks.
#[derive(Debug)]
pub(crate) struct Looker {
    path: PathBuf,
    allow_unsigned: bool,
    /// How it looked when it was last read.
    look: Option<u64>,
    read_at: Option<Instant>,
    /// What was wrong with that.
    wrong: Option<String>,
    given: Given,
}

impl Looker {
    pub(crate) fn new(path: PathBuf, allow_unsigned: bool) -> Self {
        let (look, read_at, wrong) = (None, None, None);
        Self { path, allow_unsigned, look, read_at, wrong, given: Given::default() }
    }
}

impl Blocks for Looker {
    type Way = ();
    const HANGS: &'static str = "its file system does not answer";

    fn given(&mut self) -> &mut Given {
        &mut self.given
    }

    fn ask(&mut self, (): ()) -> Result<Fetched, FetchError> {
        let seen = look(&resolve(&self.path))?;
        let due =
            self.read_at.is_none_or(|at| clock::now().saturating_duration_since(at) >= READ_EVERY);
        if self.look == Some(seen) && !due {
            return match &self.wrong {
                Some(wrong) => Err(wrong.clone().into()),
                None => Ok(Fetched::Same { held: false }),
            };
        }
        if self.look.is_some_and(|known| known != seen) {
            std::thread::sleep(DEBOUNCE);
        }
        let Some(read) = read_twice(&self.path, seen, self.allow_unsigned)? else {
            // Still being written; the next look comes soon.
            return Ok(Fetched::Same { held: false });
        };
        self.look = Some(seen);
        self.read_at = Some(clock::now());
        self.wrong = read.as_ref().err().cloned();
        let (archive, proof) = read?;
        let digest = format!("{} {}", archive.digest(), witnesses(&archive));
        let is_settled = self.given.is_settled(&digest);
        self.given.gives(Some(digest));
        if is_settled {
            return Ok(Fetched::Same { held: false });
        }
        Ok(Fetched::Bundle { archive, proof, held: false })
    }
}

/// Who has signed it, what was promoted and what is to be done: the same bundle with more of them
/// is news.
fn witnesses(archive: &Archive) -> String {
    let all = [archive.signatures.as_slice(), &archive.promotions, &archive.operations];
    tillgate_config::bundle::hex(&all.concat())
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

/// The folder behind the link that a ConfigMap swaps, resolved once.
fn resolve(path: &Path) -> PathBuf {
    let data = path.join("..data");
    fs::canonicalize(data).or_else(|_| fs::canonicalize(path)).unwrap_or_else(|_| path.to_owned())
}

/// Reads it twice; `None` = it changes under the reader. What is wrong with what was read is a
/// part of the answer.
fn read_twice(path: &Path, seen: u64, unsigned: bool) -> Result<Option<Found>, FetchError> {
    let folder = resolve(path);
    if look(&folder)? != seen {
        return Ok(None);
    }
    let first = read(&folder, unsigned);
    let again = resolve(path);
    if again != folder || look(&again)? != seen {
        return Ok(None);
    }
    Ok((first == read(&again, unsigned)).then_some(first))
}

type Found = Result<(Archive, Proof), String>;

fn read(folder: &Path, unsigned: bool) -> Found {
    let packed = folder.join("bundle.tar.gz");
    if let Ok(found) = fs::metadata(&packed) {
        if found.len() > PACKED_BYTES_MAX {
            return Err(archive::ArchiveError::Packed.to_string());
        }
        let bytes = fs::read(&packed).map_err(|error| told(&packed, &error))?;
        let archive = archive::read(&bytes).map_err(|error| error.to_string())?;
        return Ok((archive, Proof::Signatures));
    }
    let mut files = gather(
        folder,
        &["manifest.json", "signatures.json", "promotions.json", "operations.json"],
    )?;
    let mut own = |name: &str| files.remove(name).unwrap_or_default();
    let manifest = own("manifest.json");
    let (signatures, promotions) = (own("signatures.json"), own("promotions.json"));
    let operations = own("operations.json");
    if !manifest.is_empty() {
        let archive = Archive { manifest, signatures, promotions, operations, files };
        return Ok((archive, Proof::Signatures));
    }
    if files.is_empty() {
        return Err(format!("{} has no policy in it", folder.display()));
    }
    if !unsigned {
        return Err("the folder's files are not signed; put a signed bundle there, or set the \
                    source's `allowUnsigned`"
            .to_owned());
    }
    let revision = format!("directory@{}", tillgate_config::bundle::digest(&listed(&files)));
    // Nobody vouches for a time or a number.
    Ok((wrap(files, revision, 1, Wall(0)), Proof::Nobody))
}

/// The YAML files below `folder`, for sources that bring nothing else.
pub(super) fn policy_in(folder: &Path) -> Result<Files, String> {
    let files = gather(folder, &[])?;
    if files.is_empty() {
        return Err(format!("{} has no policy in it", folder.display()));
    }
    Ok(files)
}

/// The YAML files below `folder`, and those called as in `others`; bounded.
fn gather(folder: &Path, others: &[&str]) -> Result<Files, String> {
    let mut files = Files::new();
    let mut left = UNPACKED_BYTES_MAX;
    walk(folder, "", 0, &mut |name, path, size| {
        if !others.contains(&name) && !name.ends_with(".yaml") && !name.ends_with(".yml") {
            return Ok(());
        }
        left = left.checked_sub(size).ok_or("the folder has more than 8 MiB of policy")?;
        let mut bytes = Vec::new();
        let read = fs::File::open(path).and_then(|file| file.take(size).read_to_end(&mut bytes));
        read.map_err(|error| told(path, &error))?;
        files.insert(name.to_owned(), bytes);
        Ok(())
    })?;
    Ok(files)
}

/// Names and hashes of the files, as a checksum is made over.
fn listed(files: &Files) -> Vec<u8> {
    let line = |entry: FileEntry| format!("{} {}\n", entry.sha256, entry.path);
    entries(files).into_iter().map(line).collect::<String>().into_bytes()
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

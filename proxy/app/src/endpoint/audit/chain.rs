//! The chain: files, lines, and whether each follows the one before.
//!
//! Nothing here writes. A log that somebody else writes meanwhile is read as far as it goes.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tillgate_config::bundle::digest;

use super::{Action, FILES_MAX, LINE_BYTES_MAX, NOTHING};

/// Why a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) file: PathBuf,
    /// 1-based.
    pub(crate) line: usize,
    pub(crate) why: &'static str,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.why)
    }
}

/// Where a chain stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Number of the last record; 0 = none.
    pub(crate) sequence: u64,
    /// Hash of the last line.
    pub(crate) head: String,
    pub(crate) records: usize,
}

/// A record, by its number and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) sequence: u64,
    pub(crate) hash: String,
}

/// How a file looks from outside. Whoever writes to it cannot leave that as it was: the time of
/// change is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    node: (u64, u64),
    length: u64,
    changed: (i64, i64),
}

impl Look {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            node: (found.dev(), found.ino()),
            length: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// The number that a file's name begins with.
pub(super) fn first_of(file: &Path) -> u64 {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".ndjson"));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The log's files, oldest first.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if first_of(&path) > 0 {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes up to the end of the last whole line.
pub(super) fn whole_lines(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut whole, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok(whole);
        }
        whole += read as u64;
    }
}

/// Follows the chain through `files`, from the record after `before` on if that is known. Half a
/// line at the end is being written, or is what a loss of power left.
pub(super) fn follow(
    files: &[PathBuf],
    before: Option<(u64, String)>,
) -> io::Result<(Standing, Option<Broken>)> {
    let mut known = before;
    let mut standing = Standing { sequence: 0, head: NOTHING.to_owned(), records: 0 };
    let mut broken = None;
    for file in files {
        lines(file, |index, line| {
            let why = wrong(line, first_of(file), index, known.as_ref());
            let sequence = sequence_of(line);
            if let Some(why) = why
                && broken.is_none()
            {
                broken = Some(Broken { file: file.clone(), line: index + 1, why });
            }
            standing.records += 1;
            standing.sequence = sequence.unwrap_or(standing.sequence + 1);
            standing.head = digest(line);
            known = Some((standing.sequence, standing.head.clone()));
        })?;
    }
    Ok((standing, broken))
}

/// Shows every whole line of `file`, with its index, to `see`.
fn lines(file: &Path, mut see: impl FnMut(usize, &[u8])) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(file)?);
    let mut line = Vec::new();
    for index in 0.. {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        let Some(whole) = line.strip_suffix(b"\n") else { break };
        see(index, whole);
    }
    Ok(())
}

pub(super) fn sequence_of(line: &[u8]) -> Option<u64> {
    let record: Value = serde_json::from_slice(line).ok()?;
    record["seq"].as_u64()
}

/// What is wrong with a line, if anything is.
fn wrong(
    line: &[u8],
    first: u64,
    index: usize,
    before: Option<&(u64, String)>,
) -> Option<&'static str> {
    if line.len() > LINE_BYTES_MAX {
        return Some("the line is longer than any record");
    }
    let Ok(record) = serde_json::from_slice::<Value>(line) else {
        return Some("the line is no record");
    };
    let Some(sequence) = record["seq"].as_u64() else { return Some("the record has no number") };
    if index == 0 && sequence != first {
        return Some("the file does not begin with the record of its name");
    }
    let (number, hash) = before?;
    if sequence != number + 1 {
        return Some("the record before is missing, or there is one too many");
    }
    if record["prev"].as_str() != Some(hash) {
        return Some("the record before is not what it was");
    }
    None
}

/// Follows the whole chain in `directory`, up to the record that the file `head` names.
///
/// # Errors
/// If it cannot be read; what is wrong with it is the second value.
pub(crate) fn verify(directory: &Path) -> io::Result<(Standing, Option<Broken>)> {
    let files = files(directory)?;
    // The first record of all follows nothing; later files' predecessors may be gone.
    let start = files.first().filter(|file| first_of(file) == 1);
    let (standing, mut broken) = follow(&files, start.map(|_| (0, NOTHING.to_owned())))?;
    if broken.is_none() && start.is_none() && files.len() < FILES_MAX {
        broken = without_its_past(files.first())?;
    }
    if broken.is_none()
        && let Some(head) = Head::left_in(directory)
        && !has(directory, &head)?
    {
        broken = Some(missing(directory, &head)?);
    }
    Ok((standing, broken))
}

/// A rotation takes files away only beyond those that are kept. A log that begins later says why
/// in its first record.
fn without_its_past(oldest: Option<&PathBuf>) -> io::Result<Option<Broken>> {
    let Some(oldest) = oldest else { return Ok(None) };
    let mut is_told = false;
    lines(oldest, |index, line| is_told |= index == 0 && is_of(line, Action::ChainBroken))?;
    let why = "files before this one are missing";
    Ok((!is_told).then(|| Broken { file: oldest.clone(), line: 1, why }))
}

/// Whether the log has the record `head`, or may have had it before its oldest file.
pub(super) fn has(directory: &Path, head: &Head) -> io::Result<bool> {
    let files = existing(directory)?;
    let holder = files.iter().rev().find(|file| first_of(file) <= head.sequence);
    let Some(holder) = holder else { return Ok(!files.is_empty()) };
    let mut found = false;
    lines(holder, |_, line| {
        found |= digest(line) == head.hash && sequence_of(line) == Some(head.sequence);
    })?;
    Ok(found)
}

/// What is wrong where the log does not have `head`.
pub(super) fn missing(directory: &Path, head: &Head) -> io::Result<Broken> {
    let newest = existing(directory)?.pop();
    let mut line = 1;
    if let Some(newest) = &newest {
        lines(newest, |index, _| line = index + 2)?;
    }
    let why = "a record that was written is not there any more";
    tracing::error!(sequence = head.sequence, hash = head.hash, "{why}");
    Ok(Broken { file: newest.unwrap_or_else(|| directory.to_owned()), line, why })
}

/// How every file looks.
pub(super) fn looks(directory: &Path) -> io::Result<BTreeMap<PathBuf, Look>> {
    let look = |file: PathBuf| Ok((file.clone(), Look::of(&fs::metadata(file)?)));
    existing(directory)?.into_iter().map(look).collect()
}

/// Whether a line is a record of `action`; quick where it is not.
fn is_of(line: &[u8], action: Action) -> bool {
    let name = action.name().as_bytes();
    line.windows(name.len()).any(|part| part == name)
        && serde_json::from_slice::<Value>(line)
            .is_ok_and(|record| record["action"].as_str() == Some(action.name()))
}

/// Every record of `action`, oldest first.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn of_action(directory: &Path, action: Action) -> io::Result<Vec<Value>> {
    let mut found = Vec::new();
    for file in existing(directory)? {
        lines(&file, |_, line| {
            if is_of(line, action) {
                found.extend(serde_json::from_slice(line));
            }
        })?;
    }
    Ok(found)
}

/// The log's files; none where there is no log.
fn existing(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match files(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        files => files,
    }
}

/// Records after number `after`, as they were written: at most `limit` and `bytes_max`.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn read(
    directory: &Path,
    after: u64,
    limit: usize,
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    let mut found = Vec::new();
    let mut count = 0;
    let files = existing(directory)?;
    for (index, file) in files.iter().enumerate() {
        let next = files.get(index + 1).map(|next| first_of(next));
        if next.is_some_and(|next| next <= after.saturating_add(1)) {
            continue;
        }
        for line in BufReader::new(File::open(file)?).split(b'\n') {
            let line = line?;
            if sequence_of(&line).is_some_and(|sequence| sequence <= after) {
                continue;
            }
            if count == limit || found.len() + line.len() >= bytes_max {
                return Ok(found);
            }
            found.extend_from_slice(&line);
            found.push(b'\n');
            count += 1;
        }
    }
    Ok(found)
}

//! The audit log: what changed here, when, by whom; one JSON object a line, each with the hash of
//! the line before.
//!
//! A line that is changed, taken out or put in breaks the chain from there on, and the hash of the
//! last line (the head) is told in `/v1/status`, so that what is cut off at the end is missed
//! elsewhere. A change of state is on disk before it is answered. A disk that is full or read-only
//! is a condition that is told, never a stop: what could not be written is counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tillgate_config::bundle::digest;

/// A file; some 40,000 records.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Files that are kept: years of a store.
const FILES_MAX: usize = 8;

/// No record of ours is longer; whatever is, is none.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What the first record of all follows.
const NOTHING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Another config is in effect.
    Apply,
    /// A config was refused.
    Reject,
    /// Somebody asks to look for another config.
    Fetch,
    /// Something with a wrong signature came.
    VerifyFailed,
    /// Other tokens count.
    KeyRotated,
    /// The store goes back to an earlier config, by itself or because somebody says so.
    Rollback,
    /// A config has proven itself.
    LkgPromote,
    /// The store stays on what it runs.
    Pin,
    /// It follows its sources again.
    Unpin,
    /// The wall clock is believed, or is not any more.
    ClockState,
    /// A signed operation was carried out, or refused.
    Operation,
    /// A rollout opens.
    GateOpen,
    /// A rollout is held; told now and then.
    GateHeld,
    /// An exception counts.
    OverrideUsed,
    /// It counts no longer.
    OverrideExpired,
    /// The log itself was found broken.
    ChainBroken,
}

impl Action {
    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Reject => "Reject",
            Self::Fetch => "Fetch",
            Self::VerifyFailed => "VerifyFailed",
            Self::KeyRotated => "KeyRotated",
            Self::Rollback => "Rollback",
            Self::LkgPromote => "LkgPromote",
            Self::Pin => "Pin",
            Self::Unpin => "Unpin",
            Self::ClockState => "ClockState",
            Self::Operation => "Operation",
            Self::GateOpen => "GateOpen",
            Self::GateHeld => "GateHeld",
            Self::OverrideUsed => "OverrideUsed",
            Self::OverrideExpired => "OverrideExpired",
            Self::ChainBroken => "ChainBroken",
        }
    }

    /// Whether it must be on disk before anything else happens.
    const fn changes_state(self) -> bool {
        match self {
            Self::Apply
            | Self::KeyRotated
            | Self::ChainBroken
            | Self::Rollback
            | Self::LkgPromote
            | Self::Pin
            | Self::Unpin
            | Self::Operation
            | Self::OverrideUsed
            | Self::OverrideExpired => true,
            Self::Reject
            | Self::Fetch
            | Self::VerifyFailed
            | Self::ClockState
            | Self::GateOpen
            | Self::GateHeld => false,
        }
    }
}

/// What is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) action: Action,
    /// Who did it: `file:…`, `token:…`, `certificate:…`.
    pub(crate) actor: String,
    /// In the order in which they are written.
    pub(crate) fields: Vec<(&'static str, Value)>,
}

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

/// An audit log that is written.
#[derive(Debug)]
pub(crate) struct Audit {
    directory: PathBuf,
    open: Option<Open>,
    /// Why the last record is not on disk, if so.
    pub(crate) failure: Option<String>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// The number in its name.
    first: u64,
    bytes: u64,
    sequence: u64,
    head: String,
}

impl Audit {
    /// The log in `directory`, which is made when the first record is written.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), open: None, failure: None }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Number and hash of the last record, once one was written by this process.
    pub(crate) fn standing(&self) -> Option<(u64, &str)> {
        self.open.as_ref().map(|open| (open.sequence, open.head.as_str()))
    }

    /// Writes a record; `at` is the time as RFC 3339 has it.
    ///
    /// # Errors
    /// If it is not on disk; the next one tries again from the beginning.
    pub(crate) fn write(&mut self, record: &Record, at: &str) -> io::Result<()> {
        let written = self.append(record, at);
        self.failure = written.as_ref().err().map(ToString::to_string);
        if written.is_err() {
            // Half a line may be there: it is cut off when the log is opened again.
            self.open = None;
        }
        written
    }

    fn append(&mut self, record: &Record, at: &str) -> io::Result<()> {
        make(&self.directory)?;
        // Two processes write while one takes over from the other; each goes on where the log ends.
        let turn = File::open(&self.directory)?;
        turn.lock()?;
        if let Some(open) = &self.open
            && !open.is_at_the_end(&self.directory)?
        {
            self.open = None;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let (opened, broken) = Open::last(&self.directory)?;
                let open = self.open.insert(opened);
                if let Some(broken) = broken {
                    tracing::error!(%broken, "the audit log is not what was written");
                    let found = Record {
                        action: Action::ChainBroken,
                        actor: "tillgate".to_owned(),
                        fields: vec![("reason", json!(broken.to_string()))],
                    };
                    open.put(&found, at)?;
                }
                open
            }
        };
        open.put(record, at)?;
        if open.bytes >= FILE_BYTES_MAX {
            open.rotate(&self.directory)?;
        }
        Ok(())
    }
}

impl Open {
    /// Goes on where the newest file ends; half a line at its end is what a loss of power left.
    fn last(directory: &Path) -> io::Result<(Self, Option<Broken>)> {
        let files = files(directory)?;
        let Some(newest) = files.last() else {
            let file = create(directory, 1)?;
            let head = NOTHING.to_owned();
            return Ok((Self { file, first: 1, bytes: 0, sequence: 0, head }, None));
        };
        let file = OpenOptions::new().read(true).append(true).open(newest)?;
        // One of an earlier version was for everybody to read.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let whole = whole_lines(&file)?;
        if whole < file.metadata()?.len() {
            tracing::warn!(file = %newest.display(), "half a record at the end is cut off");
            file.set_len(whole)?;
        }
        let (standing, broken) = follow(&files[files.len() - 1..], None)?;
        // An empty file was begun by a rotation: its name has the number.
        let sequence = match standing.records {
            0 => first_of(newest).saturating_sub(1),
            _ => standing.sequence,
        };
        let head = match (standing.records, files.len().checked_sub(2)) {
            (0, Some(before)) => follow(&files[before..=before], None)?.0.head,
            _ => standing.head,
        };
        Ok((Self { file, first: first_of(newest), bytes: whole, sequence, head }, broken))
    }

    /// Whether nobody else has written since.
    fn is_at_the_end(&self, directory: &Path) -> io::Result<bool> {
        let newest = files(directory)?.pop();
        let is_newest = newest.is_some_and(|newest| first_of(&newest) == self.first);
        Ok(is_newest && self.file.metadata()?.len() == self.bytes)
    }

    fn put(&mut self, record: &Record, at: &str) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let mut line = format!(
            "{{\"seq\":{sequence},\"at\":{},\"actor\":{},\"action\":{}",
            json!(at),
            json!(record.actor),
            json!(record.action.name())
        );
        for (name, value) in record.fields.iter().filter(|(_, value)| !value.is_null()) {
            line.push_str(&format!(",{}:{value}", json!(name)));
        }
        line.push_str(&format!(",\"prev\":{}}}", json!(self.head)));
        let head = digest(line.as_bytes());
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        if record.action.changes_state() {
            self.file.sync_data()?;
        }
        self.bytes += line.len() as u64;
        (self.sequence, self.head) = (sequence, head);
        Ok(())
    }

    /// Begins another file, and takes away the oldest.
    fn rotate(&mut self, directory: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        self.first = self.sequence + 1;
        self.file = create(directory, self.first)?;
        self.bytes = 0;
        let files = files(directory)?;
        for old in &files[..files.len().saturating_sub(FILES_MAX)] {
            fs::remove_file(old)?;
        }
        File::open(directory)?.sync_all()
    }
}

/// Makes the folder, which is for the gateway alone: records have names of people.
fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn create(directory: &Path, first: u64) -> io::Result<File> {
    let path = directory.join(format!("audit-{first:020}.ndjson"));
    let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

/// The number that a file's name begins with.
fn first_of(file: &Path) -> u64 {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".ndjson"));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The log's files, oldest first.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
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
fn whole_lines(file: &File) -> io::Result<u64> {
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

/// Follows the chain through `files`, from the record after `before` on if that is known.
fn follow(
    files: &[PathBuf],
    before: Option<(u64, String)>,
) -> io::Result<(Standing, Option<Broken>)> {
    let mut known = before;
    let mut standing = Standing { sequence: 0, head: NOTHING.to_owned(), records: 0 };
    let mut broken = None;
    for file in files {
        for (index, line) in BufReader::new(File::open(file)?).split(b'\n').enumerate() {
            let line = line?;
            let why = wrong(&line, first_of(file), index, known.as_ref());
            let sequence = sequence_of(&line);
            if let Some(why) = why
                && broken.is_none()
            {
                broken = Some(Broken { file: file.clone(), line: index + 1, why });
            }
            standing.records += 1;
            standing.sequence = sequence.unwrap_or(standing.sequence + 1);
            standing.head = digest(&line);
            known = Some((standing.sequence, standing.head.clone()));
        }
    }
    Ok((standing, broken))
}

fn sequence_of(line: &[u8]) -> Option<u64> {
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

/// Follows the whole chain in `directory`.
///
/// # Errors
/// If it cannot be read; what is wrong with it is the second value.
pub(crate) fn verify(directory: &Path) -> io::Result<(Standing, Option<Broken>)> {
    let files = files(directory)?;
    // The first record of all follows nothing; later files' predecessors may be gone.
    let start = files.first().filter(|file| first_of(file) == 1);
    follow(&files, start.map(|_| (0, NOTHING.to_owned())))
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
    let files = match files(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        files => files?,
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reason: &str) -> Record {
        Record {
            action: Action::Apply,
            actor: "file:store.yaml".to_owned(),
            fields: vec![("reason", json!(reason)), ("ticket", Value::Null)],
        }
    }

    fn written(directory: &Path, count: usize) -> Audit {
        let mut audit = Audit::new(directory);
        for index in 0..count {
            audit.write(&record(&index.to_string()), "2026-11-20T21:05:02Z").unwrap();
        }
        audit
    }

    fn only(directory: &Path) -> PathBuf {
        let files = files(directory).unwrap();
        assert_eq!(files.len(), 1);
        files[0].clone()
    }

    #[test]
    fn a_log_that_nobody_touched_is_whole() {
        let folder = tempfile::TempDir::new().unwrap();
        let audit = written(folder.path(), 5);
        let (standing, broken) = verify(folder.path()).unwrap();
        assert_eq!(broken, None);
        assert_eq!((standing.sequence, standing.records), (5, 5));
        assert_eq!(audit.standing(), Some((5, standing.head.as_str())));
        drop(audit);
        // Another process goes on with the same chain.
        let next = written(folder.path(), 1);
        assert_eq!(next.standing().unwrap().0, 6);
        assert_eq!(verify(folder.path()).unwrap().1, None);
    }

    #[test]
    fn nobody_else_reads_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let place = folder.path().join("audit");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        drop(written(&place, 1));
        assert_eq!((mode(&place), mode(&only(&place))), (0o700, 0o600));
        // What an earlier version has left open is closed.
        fs::set_permissions(only(&place), fs::Permissions::from_mode(0o644)).unwrap();
        drop(written(&place, 1));
        assert_eq!(mode(&only(&place)), 0o600);
    }

    #[test]
    fn every_way_to_tamper_is_found() {
        type Change = fn(&mut Vec<String>);
        let changes: [(&str, Change, usize); 6] = [
            ("a word is changed", |lines| lines[1] = lines[1].replace("\"1\"", "\"x\""), 3),
            ("a record is taken out", |lines| drop(lines.remove(1)), 2),
            ("the first is taken out", |lines| drop(lines.remove(0)), 1),
            ("two are exchanged", |lines| lines.swap(1, 2), 2),
            ("one is repeated", |lines| lines.insert(1, lines[0].clone()), 2),
            ("one is made up", |lines| lines[2] = lines[2].replace("sha256:", "sha256:0"), 3),
        ];
        for (what, change, line) in changes {
            let folder = tempfile::TempDir::new().unwrap();
            drop(written(folder.path(), 4));
            let file = only(folder.path());
            let text = fs::read_to_string(&file).unwrap();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            change(&mut lines);
            fs::write(&file, lines.join("\n") + "\n").unwrap();
            let broken = verify(folder.path()).unwrap().1;
            assert_eq!(broken.map(|broken| broken.line), Some(line), "{what}");
            // Whoever goes on writing says so, and the place stays broken.
            drop(written(folder.path(), 1));
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains("\"action\":\"ChainBroken\""), "{what}");
            assert_eq!(verify(folder.path()).unwrap().1.map(|one| one.line), Some(line), "{what}");
        }
    }

    #[test]
    fn two_processes_write_one_chain() {
        let folder = tempfile::TempDir::new().unwrap();
        let (mut old, mut next) = (written(folder.path(), 2), written(folder.path(), 1));
        old.write(&record("in turns"), "now").unwrap();
        next.write(&record("in turns"), "now").unwrap();
        old.write(&record("in turns"), "now").unwrap();
        let (standing, broken) = verify(folder.path()).unwrap();
        assert_eq!((standing.sequence, standing.records, broken), (6, 6, None));
    }

    #[test]
    fn half_a_record_is_cut_off() {
        let folder = tempfile::TempDir::new().unwrap();
        drop(written(folder.path(), 2));
        let file = only(folder.path());
        let mut bytes = fs::read(&file).unwrap();
        bytes.extend_from_slice(b"{\"seq\":3,\"at\":\"20");
        fs::write(&file, bytes).unwrap();
        assert_eq!(written(folder.path(), 1).standing().unwrap().0, 3);
        let (standing, broken) = verify(folder.path()).unwrap();
        assert_eq!((standing.records, broken), (3, None));
    }

    #[test]
    fn files_are_bounded_and_the_chain_goes_through_them() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut audit = Audit::new(folder.path());
        let long = "x".repeat(60_000);
        let per_file = usize::try_from(FILE_BYTES_MAX).unwrap() / 60_000 + 1;
        let (mut rotated, mut count) = (0, 0);
        while rotated < 2 {
            let mut one = record(&long);
            // Records of no state are not waited for, so that the test is quick.
            one.action = Action::Reject;
            audit.write(&one, "2026-11-20T21:05:02Z").unwrap();
            count += 1;
            rotated = files(folder.path()).unwrap().len() - 1;
            assert!(count <= 2 * per_file);
        }
        drop(audit);
        assert_eq!(written(folder.path(), 1).standing().unwrap().0, count as u64 + 1);
        let (standing, broken) = verify(folder.path()).unwrap();
        assert_eq!((standing.records, broken), (count + 1, None));
        // What is read begins where it is asked to, and ends where it must.
        let last = read(folder.path(), count as u64, 10, 1 << 20).unwrap();
        assert_eq!(sequence_of(last.trim_ascii_end()), Some(count as u64 + 1));
        assert_eq!(read(folder.path(), 0, 2, 1 << 20).unwrap().split(|b| *b == b'\n').count(), 3);
        assert_eq!(read(folder.path(), 0, 10, 70_000).unwrap().len() / 60_000, 1);
        // The oldest file goes, and the rest is whole by itself.
        fs::remove_file(&files(folder.path()).unwrap()[0]).unwrap();
        assert_eq!(verify(folder.path()).unwrap().1, None);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_and_tried_again() {
        let folder = tempfile::TempDir::new().unwrap();
        let place = folder.path().join("audit");
        fs::write(&place, "in the way").unwrap();
        let mut audit = Audit::new(&place);
        assert!(audit.write(&record("x"), "now").is_err() && audit.failure.is_some());
        fs::remove_file(&place).unwrap();
        audit.write(&record("x"), "now").unwrap();
        assert_eq!((audit.failure.is_none(), audit.standing().unwrap().0), (true, 1));
        assert!(read(&folder.path().join("nowhere"), 0, 1, 1).unwrap().is_empty());
    }
}

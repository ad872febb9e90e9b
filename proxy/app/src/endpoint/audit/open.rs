//! The file that is written, where the log ends.
//!
//! Half a line at its end is what a loss of power left, and is cut off. Whatever else is not as it
//! was left is told by the caller: here the log only goes on, with the number and the hash that
//! the next record has to have, so that what is missing shows for ever.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use tillgate_config::bundle::digest;

use super::chain::{Broken, Head, Look, files, first_of, follow, has, missing, whole_lines};
use super::{FILES_MAX, Moment, NOTHING, Record};
use crate::disk::sync;

#[derive(Debug)]
pub(super) struct Open {
    file: File,
    /// The number in its name.
    first: u64,
    pub(super) bytes: u64,
    /// The last record.
    pub(super) head: Head,
}

impl Open {
    /// Goes on where the newest file ends; `known` is a record that has to be in the log.
    pub(super) fn last(
        directory: &Path,
        known: Option<&Head>,
    ) -> io::Result<(Self, Option<Broken>)> {
        let files = files(directory)?;
        let Some(newest) = files.last() else {
            let nothing = || Head { sequence: 0, hash: NOTHING.to_owned() };
            let head = known.cloned().unwrap_or_else(nothing);
            let broken = known.map(|head| missing(directory, head)).transpose()?;
            let first = head.sequence + 1;
            let file = create(directory, first)?;
            return Ok((Self { file, first, bytes: 0, head }, broken));
        };
        let file = OpenOptions::new().read(true).append(true).open(newest)?;
        // One of an earlier version was for everybody to read.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let whole = whole_lines(&file)?;
        if whole < file.metadata()?.len() {
            tracing::warn!(file = %newest.display(), "half a record at the end is cut off");
            file.set_len(whole)?;
        }
        let (standing, mut broken) = follow(&files[files.len() - 1..], None)?;
        // An empty file was begun by a rotation: its name has the number.
        let mut head = match (standing.records, files.len().checked_sub(2)) {
            (0, before) => {
                let before = before.map(|before| follow(&files[before..=before], None));
                let hash = before.transpose()?.map_or_else(|| NOTHING.into(), |it| it.0.head);
                Head { sequence: first_of(newest).saturating_sub(1), hash }
            }
            _ => Head { sequence: standing.sequence, hash: standing.head },
        };
        if let Some(known) = known
            && !has(directory, known)?
        {
            broken = broken.or(Some(missing(directory, known)?));
            let sequence = head.sequence.max(known.sequence);
            head = Head { sequence, hash: known.hash.clone() };
        }
        Ok((Self { file, first: first_of(newest), bytes: whole, head }, broken))
    }

    /// Its path.
    pub(super) fn path(&self, directory: &Path) -> PathBuf {
        path(directory, self.first)
    }

    /// How it looks.
    pub(super) fn look(&self) -> io::Result<Look> {
        Ok(Look::of(&self.file.metadata()?))
    }

    /// Whether nobody else has written since, or has changed it.
    pub(super) fn is_as_left(
        &self,
        directory: &Path,
        looks: &BTreeMap<PathBuf, Look>,
    ) -> io::Result<bool> {
        let Some(newest) = files(directory)?.pop() else { return Ok(false) };
        let is_newest = first_of(&newest) == self.first;
        let there = Look::of(&fs::metadata(&newest)?);
        Ok(is_newest && looks.get(&newest) == Some(&there))
    }

    /// Writes a record; how the file looks after that.
    pub(super) fn put(&mut self, record: &Record, moment: &Moment) -> io::Result<Look> {
        let sequence = self.head.sequence + 1;
        let (at, clock) = moment.fields();
        let mut line = format!(
            "{{\"seq\":{sequence},\"at\":{at},\"clock\":{clock},\"actor\":{},\"action\":{}",
            json!(record.actor),
            json!(record.action.name())
        );
        for (name, value) in record.fields.iter().filter(|(_, value)| !value.is_null()) {
            line.push_str(&format!(",{}:{value}", json!(name)));
        }
        line.push_str(&format!(",\"prev\":{}}}", json!(self.head.hash)));
        let hash = digest(line.as_bytes());
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        if record.action.changes_state() {
            self.file.sync_data()?;
        }
        self.bytes += line.len() as u64;
        self.head = Head { sequence, hash };
        self.look()
    }

    /// Waits until everything is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Begins another file, and takes away the oldest.
    pub(super) fn rotate(&mut self, directory: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        self.first = self.head.sequence + 1;
        self.file = create(directory, self.first)?;
        self.bytes = 0;
        let files = files(directory)?;
        for old in &files[..files.len().saturating_sub(FILES_MAX)] {
            fs::remove_file(old)?;
        }
        sync(directory)
    }
}

/// Makes the folder, which is for the gateway alone: records have names of people.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("audit-{first:020}.ndjson"))
}

fn create(directory: &Path, first: u64) -> io::Result<File> {
    let path = path(directory, first);
    let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
    sync(directory)?;
    Ok(file)
}

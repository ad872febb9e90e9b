//! The audit log: what changed here, when, by whom; one JSON object a line, each with the hash of
//! the line before.
//!
//! A line that is changed, taken out or put in breaks the chain from there on. What is cut off at
//! the end is missed because the process knows what it has written, and the file `head` beside the
//! log what the one before had. A change of state is on disk before it is answered. A disk that is
//! full or read-only is a condition that is told, never a stop: what could not be written is
//! counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tillgate_core::reconcile::ClockState;

use crate::disk;

mod action;
mod chain;
mod open;

pub(crate) use self::action::{Action, Record};
pub(crate) use self::chain::{Broken, Head, Look, of_action, read, verify};

use self::open::{Open, make};

/// A file; some 40,000 records.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Files that are kept: years of a store.
const FILES_MAX: usize = 8;

/// No record of ours is longer; whatever is, is none.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What the first record of all follows.
const NOTHING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The file beside the log that says which record was on disk last.
const HEAD: &str = "head";

/// A moment as records have it: the time as RFC 3339, and what is thought of the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: String,
    pub(crate) clock: ClockState,
}

/// An audit log that is written.
#[derive(Debug)]
pub(crate) struct Audit {
    directory: PathBuf,
    open: Option<Open>,
    /// Why the last record is not on disk, if so.
    pub(crate) failure: Option<String>,
    /// The last record that this process has written.
    written: Option<Head>,
    /// The last one of those that has to be on disk.
    synced: Option<Head>,
    /// How the files looked when they were as they should be.
    looks: BTreeMap<PathBuf, Look>,
    /// What is not as it was written; it stays so for the process.
    broken: Option<Broken>,
    /// It was not counted yet that this was written down.
    pub(crate) tells: bool,
}

/// What a look at the whole log is about.
pub(crate) struct Check {
    directory: PathBuf,
    written: Option<Head>,
    looks: BTreeMap<PathBuf, Look>,
}

/// What it has found.
pub(crate) struct Checked {
    directory: PathBuf,
    looks: BTreeMap<PathBuf, Look>,
    broken: Option<Broken>,
}

impl Audit {
    /// The log in `directory`, which is made when the first record is written.
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            open: None,
            failure: None,
            written: None,
            synced: None,
            looks: BTreeMap::new(),
            broken: None,
            tells: false,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Number and hash of the last record, once one was written by this process.
    pub(crate) fn standing(&self) -> Option<(u64, &str)> {
        self.open.as_ref().map(|open| (open.head.sequence, open.head.hash.as_str()))
    }

    /// The last record that no loss of power can take away.
    pub(crate) fn synced(&self) -> Option<&Head> {
        self.synced.as_ref()
    }

    /// What is not as it was written.
    pub(crate) fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// Writes a record.
    ///
    /// # Errors
    /// If it is not on disk; the next one tries again from the beginning.
    pub(crate) fn write(&mut self, record: &Record, moment: &Moment) -> io::Result<()> {
        let written = self.append(record, moment);
        self.failure = written.as_ref().err().map(ToString::to_string);
        if written.is_err() {
            // Half a line may be there: it is cut off when the log is opened again.
            self.open = None;
        }
        written
    }

    fn append(&mut self, record: &Record, moment: &Moment) -> io::Result<()> {
        make(&self.directory)?;
        // Two processes write while one takes over from the other; each goes on where the log ends.
        let turn = File::open(&self.directory)?;
        turn.lock()?;
        if let Some(open) = &self.open
            && !open.is_as_left(&self.directory, &self.looks)?
        {
            self.open = None;
        }
        if self.open.is_none() {
            self.reopen(moment)?;
        }
        self.put(record, moment)
    }

    /// Goes on where the log ends, and says if that is not where it was left.
    fn reopen(&mut self, moment: &Moment) -> io::Result<()> {
        let known = self.written.clone().or_else(|| Head::left_in(&self.directory));
        let (open, broken) = Open::last(&self.directory, known.as_ref())?;
        self.open = Some(open);
        match broken {
            Some(broken) if self.broken.is_none() => self.tell(broken, moment),
            _ => Ok(()),
        }
    }

    /// Writes down that the log is not what was written.
    fn tell(&mut self, broken: Broken, moment: &Moment) -> io::Result<()> {
        tracing::error!(
            %broken,
            "the audit log is not what was written; keep its folder for whoever examines it: \
             moved away, a new one begins"
        );
        let found = Record {
            action: Action::ChainBroken,
            actor: "tillgate".to_owned(),
            fields: vec![("reason", json!(broken.to_string()))],
        };
        self.broken = Some(broken);
        self.put(&found, moment)?;
        self.tells = true;
        Ok(())
    }

    /// Makes sure that no loss of power can take the last record away.
    ///
    /// # Errors
    /// If it may not be on disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_ref().filter(|_| self.written != self.synced) else {
            return Ok(());
        };
        let turn = File::open(&self.directory)?;
        turn.lock()?;
        open.sync()?;
        self.synced = Some(open.head.clone());
        open.head.leave_in(&self.directory)
    }

    fn put(&mut self, record: &Record, moment: &Moment) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let look = open.put(record, moment)?;
        self.written = Some(open.head.clone());
        self.looks.insert(open.path(&self.directory), look);
        if record.action.changes_state() {
            self.synced = Some(open.head.clone());
            open.head.leave_in(&self.directory)?;
        }
        if open.bytes >= FILE_BYTES_MAX {
            open.rotate(&self.directory)?;
            self.looks.retain(|path, _| path.exists());
            self.looks.insert(open.path(&self.directory), open.look()?);
        }
        Ok(())
    }

    /// What is to be looked at; nothing once it is known that something is wrong.
    pub(crate) fn to_check(&self) -> Option<Check> {
        self.broken.is_none().then(|| Check {
            directory: self.directory.clone(),
            written: self.written.clone(),
            looks: self.looks.clone(),
        })
    }

    /// Takes what was found.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub(crate) fn checked(&mut self, found: Checked, moment: &Moment) -> io::Result<()> {
        if self.directory != found.directory || self.broken.is_some() {
            return Ok(());
        }
        let Some(broken) = found.broken else {
            // What was written meanwhile is newer than what was seen.
            let newest = self.open.as_ref().map(|open| open.path(&self.directory));
            for (path, look) in found.looks {
                if newest.as_ref() != Some(&path) {
                    self.looks.insert(path, look);
                }
            }
            return Ok(());
        };
        self.found(broken, moment)
    }

    /// Takes what somebody else has found.
    fn found(&mut self, broken: Broken, moment: &Moment) -> io::Result<()> {
        make(&self.directory)?;
        let turn = File::open(&self.directory)?;
        turn.lock()?;
        // The newest file may be what has changed.
        self.open = None;
        self.reopen(moment)?;
        if self.broken.is_none() { self.tell(broken, moment) } else { Ok(()) }
    }

    /// Whether the log has `head`, which somebody remembers to have been on disk; if not, that is
    /// written down. What is older than the oldest file is not asked for.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(crate) fn must_have(&mut self, head: &Head, moment: &Moment) -> io::Result<()> {
        if self.broken.is_some() || chain::has(&self.directory, head)? {
            return Ok(());
        }
        let broken = chain::missing(&self.directory, head)?;
        self.found(broken, moment)
    }
}

impl Check {
    /// Looks at every file, and follows the chain if any is not as it was left. Reads the disk.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn look(self) -> io::Result<Option<Checked>> {
        let Self { directory, written, looks: before } = self;
        let looks = chain::looks(&directory)?;
        if looks == before {
            return Ok(None);
        }
        let mut broken = if looks.is_empty() { None } else { verify(&directory)?.1 };
        if broken.is_none()
            && let Some(head) = &written
            && !chain::has(&directory, head)?
        {
            broken = Some(chain::missing(&directory, head)?);
        }
        Ok(Some(Checked { directory, looks, broken }))
    }
}

impl Head {
    /// What the process before has left in `directory`; what cannot be read says nothing.
    fn left_in(directory: &Path) -> Option<Self> {
        let bytes = disk::read_bounded(&directory.join(HEAD), 4096).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (sequence, hash) = text.trim_end().split_once(' ')?;
        Some(Self { sequence: sequence.parse().ok()?, hash: hash.to_owned() })
    }

    fn leave_in(&self, directory: &Path) -> io::Result<()> {
        let text = format!("{} {}\n", self.sequence, self.hash);
        disk::replace(&directory.join(HEAD), &directory.join(".tmp-head"), text.as_bytes())
    }
}

impl Moment {
    /// As a record has them.
    fn fields(&self) -> (Value, Value) {
        (json!(self.at), json!(self.clock.name()))
    }
}

#[cfg(test)]
mod tests;

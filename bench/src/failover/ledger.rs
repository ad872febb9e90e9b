//! What the replicas of a service did, call by call: the books from which the lab proves that
//! nothing was executed twice.
//!
//! A replica writes a line for every event before anything else happens, with one system call, so
//! that the book survives whatever becomes of the replica. After a scene both books are read and
//! compared: which call was seen how often, and where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::scene::Keying;
use crate::sys::{self, Nanos};

/// Number of a call that is not part of the load and leaves no trace.
pub(super) const NOBODY: u64 = 0;

/// What happened to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The whole request was there.
    Read,
    /// What it asks for was done: money has moved.
    Executed,
    /// The whole answer was handed to the kernel's TCP.
    Answered,
}

impl Event {
    const fn letter(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Executed => "executed",
            Self::Answered => "answered",
        }
    }
}

/// The book of a running replica. A restarted replica goes on in the same file.
#[derive(Debug)]
pub(super) struct Book(File);

impl Book {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("open {}", path.display()))?))
    }

    /// Writes a line. A full disk would falsify the proof, so it ends the replica.
    pub(super) fn note(&self, event: Event, call: u64) {
        if call != NOBODY {
            let line = format!("{} {call} {}\n", event.letter(), sys::now());
            (&self.0).write_all(line.as_bytes()).expect("the ledger can be written");
        }
    }
}

/// One call at one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    pub(super) read: u32,
    pub(super) executed: u32,
    pub(super) answered: u32,
    /// When it was last read.
    pub(super) read_at: Nanos,
}

/// All calls at one replica, by number.
pub(super) type Ledger = BTreeMap<u64, Entry>;

/// Reads a book. There is none when the replica saw no call.
pub(super) fn read(path: &Path) -> Ledger {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> Ledger {
    let mut ledger = Ledger::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(event), Some(call), Some(at)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Ok(call), Ok(at)) = (call.parse(), at.parse()) else { continue };
        let entry: &mut Entry = ledger.entry(call).or_default();
        match event {
            "read" => (entry.read, entry.read_at) = (entry.read + 1, at),
            "executed" => entry.executed += 1,
            "answered" => entry.answered += 1,
            _ => {}
        }
    }
    ledger
}

/// Calls that were seen more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Repeats {
    /// Executed more than once, with or without permission.
    pub(super) executed_twice: u64,
    /// Read in both tiers, executed or not.
    pub(super) both_tiers: u64,
    /// Read or executed more often than the call's key permits.
    pub(super) without_permission: u64,
}

/// Compares the books of both tiers.
///
/// A call that was sent is counted as soon as a replica has *read* it: a replica that refuses it
/// (a 503) leaves no double payment, but whoever sent it again could not know.
pub(super) fn repeats(local: &Ledger, cloud: &Ledger, keying: Keying) -> Repeats {
    let mut found = Repeats::default();
    for (call, here) in local {
        let there = cloud.get(call).copied().unwrap_or_default();
        found.add(*here, there, keying);
    }
    for (_, there) in cloud.iter().filter(|(call, _)| !local.contains_key(call)) {
        found.add(Entry::default(), *there, keying);
    }
    found
}

impl Repeats {
    fn add(&mut self, local: Entry, cloud: Entry, keying: Keying) {
        let again = local.read + cloud.read > 1;
        let twice = local.executed + cloud.executed > 1;
        let both = local.read > 0 && cloud.read > 0;
        let forbidden = match keying {
            Keying::None => again || twice,
            Keying::Backend => both,
            Keying::AllBackends => false,
        };
        self.executed_twice += u64::from(twice);
        self.both_tiers += u64::from(both);
        self.without_permission += u64::from(forbidden);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "read 1 10\nexecuted 1 11\nanswered 1 12\n\
                         read 2 20\nexecuted 2 21\nread 2 30\nexecuted 2 31\n\
                         read 3 40\nread 4 50\nexecuted 4 51\nread 5";
    const CLOUD: &str = "read 3 45\nexecuted 3 46\nanswered 3 47\n\
                         read 4 55\nexecuted 4 56\nread 9 60\nexecuted 9 61\n";

    #[test]
    fn half_a_line_of_a_killed_replica_is_no_event() {
        let ledger = parse(LOCAL);
        assert_eq!(ledger[&1], Entry { read: 1, executed: 1, answered: 1, read_at: 10 });
        assert_eq!(ledger[&2].read_at, 30);
        assert!(!ledger.contains_key(&5), "{ledger:?}");
    }

    #[test]
    fn a_call_without_a_key_may_be_seen_once() {
        // 2 twice in one tier, 3 refused here and done there, 4 done in both.
        let found = repeats(&parse(LOCAL), &parse(CLOUD), Keying::None);
        assert_eq!(found, Repeats { executed_twice: 2, both_tiers: 2, without_permission: 3 });
    }

    #[test]
    fn a_key_of_one_backend_permits_repeats_inside_its_tier_alone() {
        let found = repeats(&parse(LOCAL), &parse(CLOUD), Keying::Backend);
        assert_eq!(found.without_permission, 2);
        let found = repeats(&parse(CLOUD), &parse(LOCAL), Keying::Backend);
        assert_eq!(found.without_permission, 2, "whichever tier comes first");
    }

    #[test]
    fn a_key_of_all_backends_permits_all() {
        let found = repeats(&parse(LOCAL), &parse(CLOUD), Keying::AllBackends);
        assert_eq!((found.executed_twice, found.without_permission), (2, 0));
        assert_eq!(repeats(&parse(""), &parse(""), Keying::None), Repeats::default());
    }

    #[test]
    fn a_book_is_read_as_it_was_written() {
        let scratch = crate::process::Scratch::new().unwrap();
        let path = scratch.path().join("book");
        for _restart in 0..2 {
            let book = Book::open(&path).unwrap();
            book.note(Event::Read, 7);
            book.note(Event::Executed, 7);
            book.note(Event::Read, NOBODY);
        }
        let ledger = read(&path);
        assert_eq!(ledger.len(), 1);
        assert_eq!((ledger[&7].read, ledger[&7].executed, ledger[&7].answered), (2, 2, 0));
    }
}

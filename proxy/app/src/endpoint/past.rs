//! The configs that the process has run: numbered, dated, compared.
//!
//! The running one and some before it are kept whole, so that a person can see what changed last
//! night. Older ones are forgotten; their number and time are not told any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use tillgate_config::effective::{Change, Effective, changes};
use tillgate_net::clock;

use super::problem::Problem;
use crate::wall::timestamp;

/// Kept whole: some 100 KiB each for a large store.
const KEPT: usize = 16;

#[derive(Debug)]
struct Entry {
    effective: Arc<Effective>,
    sequence: u64,
    since: SystemTime,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Newest first.
    entries: VecDeque<Entry>,
    last: u64,
}

/// A moment as RFC 3339 writes it.
pub(super) fn moment(time: SystemTime) -> String {
    timestamp(clock::seconds_of(time)).to_string()
}

impl Past {
    /// `effective` runs from now on; the number of it.
    pub(super) fn push(&mut self, effective: &Arc<Effective>, now: SystemTime) -> u64 {
        let same = |entry: &Entry| entry.effective.digest == effective.digest;
        if self.entries.front().is_some_and(same) {
            return self.last;
        }
        self.last += 1;
        let entry = Entry { effective: Arc::clone(effective), sequence: self.last, since: now };
        self.entries.push_front(entry);
        self.entries.truncate(KEPT);
        self.last
    }

    /// Whether an instance may have been sent a config of which this is the digest.
    pub(super) fn has_sent(&self, digest: &str) -> bool {
        self.entries.iter().any(|entry| {
            *entry.effective.digest == *digest || *entry.effective.for_sidecar().digest == *digest
        })
    }

    /// All of them.
    pub(super) fn list(&self) -> Value {
        let show = |(index, entry): (usize, &Entry)| {
            let until = index.checked_sub(1).and_then(|next| self.entries.get(next));
            json!({
                "digest": &*entry.effective.digest,
                "sequence": entry.sequence,
                "since": moment(entry.since),
                "until": until.map(|next| moment(next.since)),
                "current": index == 0,
            })
        };
        json!({ "revisions": self.entries.iter().enumerate().map(show).collect::<Vec<_>>() })
    }

    /// The one called `name`: a digest, `current` or `previous`.
    fn find(&self, name: &str) -> Result<&Entry, Problem> {
        let found = match name {
            "current" => self.entries.front(),
            "previous" => self.entries.get(1),
            digest => self.entries.iter().find(|entry| *entry.effective.digest == *digest),
        };
        found.ok_or_else(|| {
            Problem::absent(format!(
                "`{name}` is not among the last {KEPT} configs of this process"
            ))
        })
    }

    /// One of them.
    pub(super) fn show(&self, name: &str) -> Result<Value, Problem> {
        let entry = self.find(name)?;
        let mut shown = entry.effective.to_json();
        shown["sequence"] = json!(entry.sequence);
        shown["since"] = json!(moment(entry.since));
        Ok(shown)
    }

    /// What is different in `new`.
    pub(super) fn difference(&self, old: &str, new: &str) -> Result<Value, Problem> {
        let (old, new) = (self.find(old)?, self.find(new)?);
        Ok(json!({
            "from": &*old.effective.digest,
            "to": &*new.effective.digest,
            "changes": differences(&old.effective, &new.effective),
        }))
    }
}

/// What is different in `new`, by path.
pub(super) fn differences(old: &Effective, new: &Effective) -> Vec<Value> {
    let mut shown = Vec::new();
    for Change { path, before, after } in changes(old, new) {
        shown.push(json!({ "path": path, "before": before, "after": after }));
    }
    shown
}

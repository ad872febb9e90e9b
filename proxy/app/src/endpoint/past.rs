//! The configs that the process has run: numbered, dated, compared.
//!
//! The running one and some before it are kept whole, so that a person can see what changed last
//! night. Older ones are forgotten; their number and time are not told any more.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use serde_json::{Value, json};
use tillgate_config::effective::{Change, Effective, changes};
use tillgate_net::clock;

use super::problem::Problem;
use crate::wall::timestamp;

/// Kept whole: some 100 KiB each for a large store.
const KEPT: usize = 16;

/// What a config came in, where it came in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) digest: Arc<str>,
    pub(crate) sequence: Option<u64>,
    /// As `main@sha1:…`.
    pub(crate) revision: String,
}

#[derive(Debug)]
struct Entry {
    effective: Arc<Effective>,
    /// Digest of what sidecars see of it, once somebody has asked.
    sidecar: OnceLock<Arc<str>>,
    sequence: u64,
    since: SystemTime,
    bundle: Option<Bundle>,
}

impl Entry {
    fn sidecar(&self) -> &str {
        self.sidecar.get_or_init(|| self.effective.for_sidecar().digest)
    }
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
    pub(super) fn push(
        &mut self,
        effective: &Arc<Effective>,
        bundle: Option<Bundle>,
        now: SystemTime,
    ) -> u64 {
        let same =
            |entry: &Entry| entry.effective.digest == effective.digest && entry.bundle == bundle;
        if self.entries.front().is_some_and(same) {
            return self.last;
        }
        self.last += 1;
        let (effective, sequence) = (Arc::clone(effective), self.last);
        let sidecar = OnceLock::new();
        let entry = Entry { effective, sidecar, sequence, since: now, bundle };
        self.entries.push_front(entry);
        self.entries.truncate(KEPT);
        self.last
    }

    /// Whether an instance may have been sent a config of which this is the digest.
    pub(super) fn has_sent(&self, digest: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| *entry.effective.digest == *digest || *entry.sidecar() == *digest)
    }

    /// What the running config came in.
    pub(super) fn bundle(&self) -> Option<&Bundle> {
        self.entries.front()?.bundle.as_ref()
    }

    /// What the config of this digest came in, the last time that it came.
    pub(super) fn bundle_of(&self, digest: &str) -> Option<&Bundle> {
        self.entry(digest)?.bundle.as_ref()
    }

    /// The running config came in this.
    pub(super) fn came_in(&mut self, bundle: Bundle) {
        if let Some(entry) = self.entries.front_mut() {
            entry.bundle = Some(bundle);
        }
    }

    /// The last entry of the config of this digest, if it is kept here.
    fn entry(&self, digest: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| *entry.effective.digest == *digest)
    }

    /// The config of this digest, if it is kept here.
    pub(super) fn by_digest(&self, digest: &str) -> Option<Arc<Effective>> {
        Some(Arc::clone(&self.entry(digest)?.effective))
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

    /// The one called `name`, a digest, `current` or `previous`, and when it began.
    pub(super) fn find(&self, name: &str) -> Result<(Arc<Effective>, Value), Problem> {
        let found = match name {
            "current" => self.entries.front(),
            "previous" => self.entries.get(1),
            digest => self.entry(digest),
        };
        let entry = found.ok_or_else(|| {
            Problem::absent(format!(
                "`{name}` is not among the last {KEPT} configs of this process"
            ))
        })?;
        let more = json!({ "sequence": entry.sequence, "since": moment(entry.since) });
        Ok((Arc::clone(&entry.effective), more))
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

//! What the store has run, between the core's history and the disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{Gate, History, Rollout};
use tillgate_net::mirror::{Note, Store};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Releases(Mutex<History>);

impl Releases {
    /// What the process before wrote down. A store that has neither that nor any image begins with
    /// nothing. Blocks.
    pub(super) fn recall(&self, store: &Store, now: Timestamp) {
        *self.ran() = match store.recall(Note::Releases) {
            Some(text) => History::read(&text),
            None if store.holds().1 == 0 => History::empty(now),
            None => History::default(),
        };
    }

    /// What the store has run.
    pub(super) fn ran(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image of the release of `rollout` is handed out; what is to be written down, if that is
    /// news.
    pub(super) fn given(
        &self,
        rollout: &Rollout,
        image: (&str, &str),
        now: Timestamp,
    ) -> Option<String> {
        let mut ran = self.ran();
        ran.handle_given(rollout, image, now).then(|| ran.to_text())
    }

    /// Another policy.
    pub(super) fn follow(&self, gate: &Gate) {
        self.ran().follow(gate.rollouts.iter().map(|rollout| &*rollout.name));
    }
}

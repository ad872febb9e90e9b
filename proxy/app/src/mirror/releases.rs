//! What the store has run, between the core's history and the disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{Gate, History, Rollout};
use tillgate_net::mirror::{Note, Store};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Releases {
    ran: Mutex<History>,
    /// Something was handed out since it was written down.
    is_news: AtomicBool,
    /// Held while it is written down, so that nothing older comes after.
    writing: tokio::sync::Mutex<()>,
}

impl Releases {
    /// What the process before wrote down. A store that has neither that nor any image begins with
    /// nothing. What was handed out before the disk was ours comes after it. Blocks.
    pub(super) fn recall(&self, store: &Store, now: Timestamp) {
        let before = match store.recall(Note::Releases) {
            Some(text) => History::read(&text),
            None if store.holds().1 == 0 => History::empty(now),
            None => History::default(),
        };
        self.ran().comes_after(before);
    }

    /// Writes down what is news.
    pub(super) async fn write_down(&self, store: &Store) {
        let _turn = self.writing.lock().await;
        if self.is_news.swap(false, Ordering::AcqRel) {
            let text = self.ran().to_text();
            store.remember(Note::Releases, text).await;
        }
    }

    /// What the store has run.
    pub(super) fn ran(&self) -> MutexGuard<'_, History> {
        self.ran.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image of the release of `rollout` is handed out; whether that is news, which is to be
    /// written down.
    pub(super) fn given(&self, rollout: &Rollout, image: (&str, &str), now: Timestamp) -> bool {
        let is_news = self.ran().handle_given(rollout, image, now);
        self.is_news.fetch_or(is_news, Ordering::AcqRel);
        is_news
    }

    /// Another policy.
    pub(super) fn follow(&self, gate: &Gate) {
        self.ran().follow(gate.rollouts.iter().map(|rollout| &*rollout.name));
    }
}

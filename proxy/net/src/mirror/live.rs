//! A blob on its way to the disk, as its writer and its readers share it.
//!
//! The writer says how much is on disk, how long the whole is, and how it ends; readers wait for
//! that. Nobody waits for a reader. A reader never sees more than all but the last byte before the
//! digest was checked: what it cannot get it cannot take for complete.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use tillgate_core::mirror::{Code, Digest};
use tokio::sync::watch;

use crate::error::Failure;

/// See the module.
#[derive(Debug)]
pub struct Live {
    /// Which blob.
    pub digest: Digest,
    file: OnceLock<Arc<File>>,
    state: watch::Sender<State>,
}

/// How a blob did not become whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What a client is told that has got nothing yet.
    pub code: Code,
    /// What its request is counted as; `None` = an ordinary answer, such as "not found".
    pub failure: Option<Failure>,
    /// For people.
    pub detail: Arc<str>,
    /// When to come again, if that is known.
    pub retry_after: Option<std::time::Duration>,
    /// Nothing can be kept now: who still wants it must get it past the disk.
    pub past_disk: bool,
}

impl Broken {
    /// A failure without anything further to say.
    pub fn new(code: Code, failure: Option<Failure>, detail: impl Into<Arc<str>>) -> Self {
        Self { code, failure, detail: detail.into(), retry_after: None, past_disk: false }
    }

    /// The disk does not take it.
    pub fn past_disk(detail: impl Into<Arc<str>>) -> Self {
        let failure = Some(Failure::BackendBodyCut);
        Self { past_disk: true, ..Self::new(Code::Unavailable, failure, detail) }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    written: u64,
    /// Set when a registry's answer has been found good, and kept.
    total: Option<u64>,
    end: Option<Result<(), Broken>>,
}

impl State {
    /// How far a reader may read.
    fn readable(&self) -> u64 {
        match (&self.end, self.total) {
            (Some(Ok(())), _) => self.written,
            (_, Some(total)) => self.written.min(total.saturating_sub(1)),
            // It has no end that a reader could be told.
            (_, None) => 0,
        }
    }
}

impl Live {
    pub(super) fn new(digest: Digest) -> Arc<Self> {
        Arc::new(Self { digest, file: OnceLock::new(), state: watch::Sender::default() })
    }

    /// The writer has this file, with `written` bytes.
    pub(super) fn has(&self, file: Arc<File>, written: u64) {
        // One writer, one file.
        let _ = self.file.set(file);
        self.wrote(written);
    }

    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.get()
    }

    /// So much is on disk, from the beginning.
    pub(super) fn wrote(&self, written: u64) {
        self.state.send_modify(|state| state.written = written);
    }

    /// How long the whole is: readers may begin.
    pub(super) fn is_of(&self, total: u64) {
        self.state.send_modify(|state| state.total = Some(total));
    }

    /// How it ended; the first word stands.
    pub(super) fn end(&self, end: Result<(), Broken>) {
        self.state.send_modify(|state| {
            if end.is_ok() {
                state.total = Some(state.written);
            }
            state.end.get_or_insert(end);
        });
    }

    /// Waits until its length is known, and with it that a registry has it.
    ///
    /// # Errors
    /// How it broke before that.
    pub async fn total(&self) -> Result<u64, Broken> {
        let mut state = self.state.subscribe();
        let ready = |state: &State| state.total.is_some() || state.end.is_some();
        let Ok(state) = state.wait_for(ready).await else { return Err(gone()) };
        match (&state.end, state.total) {
            (Some(Err(broken)), _) => Err(broken.clone()),
            (_, Some(total)) => Ok(total),
            _ => Err(gone()),
        }
    }

    /// Whether anybody reads it or waits for it, but its writer and the list of what comes.
    pub fn is_wanted(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 2
    }

    /// How much is on disk, and of how much.
    pub fn progress(&self) -> (u64, Option<u64>) {
        let state = self.state.borrow();
        (state.written, state.total)
    }

    /// Waits until it is whole, or broken.
    ///
    /// # Errors
    /// How it broke.
    pub async fn ended(&self) -> Result<(), Broken> {
        let mut state = self.state.subscribe();
        let Ok(state) = state.wait_for(|state| state.end.is_some()).await else {
            return Err(gone());
        };
        state.end.clone().unwrap_or_else(|| Err(gone()))
    }

    /// Waits until the byte at `from` may be read. Returns up to where one may read then.
    ///
    /// # Errors
    /// How it broke.
    pub(super) async fn readable_from(&self, from: u64) -> Result<u64, Broken> {
        let mut state = self.state.subscribe();
        let ready =
            |state: &State| state.readable() > from || matches!(state.end, Some(Err(_) | Ok(())));
        let Ok(state) = state.wait_for(ready).await else { return Err(gone()) };
        match &state.end {
            Some(Err(broken)) => Err(broken.clone()),
            _ => Ok(state.readable()),
        }
    }
}

fn gone() -> Broken {
    Broken::new(Code::Unavailable, Some(Failure::Internal), "the fetch broke off")
}

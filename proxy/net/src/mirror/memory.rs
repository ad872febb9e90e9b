//! Small texts beside the blobs: what the store has run, what was spent today, which time has
//! passed. They are written whole or not at all, and lost only with the disk.

use std::fs;

use super::disk::{self, Sync};
use super::store::Store;

/// A text's bytes at most: a thousand releases of a hundred images.
const TEXT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// What the store has run.
    Releases,
    /// Bytes spent on metered lines.
    Spent,
    /// A time that has passed.
    Time,
}

impl Note {
    /// The file's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Releases => "releases",
            Self::Spent => "spent",
            Self::Time => "time",
        }
    }
}

impl Store {
    /// A text as it was written last; `None` if there is none that can be read. Blocks.
    pub fn recall(&self, note: Note) -> Option<String> {
        let path = self.disk()?.note(note.name());
        let is_small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= TEXT_BYTES_MAX);
        if is_small { fs::read_to_string(path).ok() } else { None }
    }

    /// Writes a text, if anything can be written.
    pub async fn remember(&self, note: Note, text: String) {
        let Some(disk) = self.disk() else { return };
        let sync = if note == Note::Releases { Sync::Yes } else { Sync::No };
        let write = self
            .writing()
            .run(move || disk::write_whole(&disk.note(note.name()), text.as_bytes(), sync));
        if let Err(error) = write.await {
            tracing::warn!(%error, note = note.name(), "cannot be written beside the images");
        }
    }
}

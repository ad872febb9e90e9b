//! The slices that a sidecar keeps on its disk: the one it runs, and the one before.
//!
//! ```text
//! slice  slice.previous  starts  lock
//! ```
//!
//! Each is one file, its digest in the first line, and replaced whole; what does not have its own
//! digest is not there. Starts are counted until one has lived for a minute, so that a slice that
//! ends the process is given up. A disk that cannot be written is told, and no reason to stop.

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tillgate_config::bundle::digest;

use crate::client::ANSWER_BYTES_MAX;
use crate::disk::{read_bounded, remove, replace};
use crate::state::StateDir;

/// Starts that died young, after which the slice is not tried again.
pub(super) const DEATHS_MAX: u32 = 3;

const CURRENT: &str = "slice";
const PREVIOUS: &str = "slice.previous";
const STARTS: &str = "starts";

/// What the gateway gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) digest: Arc<str>,
    pub(super) text: String,
}

impl Slice {
    /// The slice with this text.
    pub(super) fn new(text: String) -> Self {
        Self { digest: digest(text.as_bytes()).into(), text }
    }
}

/// See the module.
pub(super) struct Kept {
    root: PathBuf,
    /// Held as long as this process may write; without it only reads are done.
    lock: Option<File>,
}

impl Kept {
    /// What is in `root`, which is made if it is not there.
    pub(super) fn open(root: PathBuf) -> Self {
        let lock = StateDir::new(&root).lock_file().and_then(|file| match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(io::Error::other("another process writes there")),
            Err(TryLockError::Error(error)) => Err(error),
        });
        let shown = root.display();
        let lock = lock.inspect_err(|error| {
            tracing::warn!(directory = %shown, %error, "slices are not kept; name a `--state`");
        });
        Self { lock: lock.ok(), root }
    }

    /// Counts a start; how many before it died young.
    pub(super) fn begin(&self) -> u32 {
        let text = read_bounded(&self.root.join(STARTS), 16).unwrap_or_default();
        let died = String::from_utf8_lossy(&text).trim().parse().unwrap_or(0);
        self.write(STARTS, (died + 1).to_string().as_bytes());
        died
    }

    /// This start is none of those.
    pub(super) fn lived(&self) {
        if self.lock.is_some() {
            self.tell(remove(&self.root.join(STARTS)));
        }
    }

    /// The slice that ran last, then the one before; as far as they are whole.
    pub(super) fn slices(&self) -> Vec<Slice> {
        [CURRENT, PREVIOUS].into_iter().filter_map(|name| self.read(name)).collect()
    }

    /// Keeps what is in effect now.
    pub(super) fn keep(&self, slice: &Slice) {
        if let Some(before) = self.read(CURRENT) {
            if before == *slice {
                return;
            }
            self.write(PREVIOUS, &written(&before));
        }
        self.write(CURRENT, &written(slice));
    }

    fn read(&self, name: &str) -> Option<Slice> {
        let path = self.root.join(name);
        // The digest's line comes on top.
        let bytes = match read_bounded(&path, ANSWER_BYTES_MAX as u64 + 100) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a slice cannot be read");
                return None;
            }
        };
        let text = String::from_utf8(bytes).unwrap_or_default();
        let slice = text.split_once('\n').map(|(known, text)| (known, Slice::new(text.to_owned())));
        match slice {
            Some((known, slice)) if *slice.digest == *known => Some(slice),
            _ => {
                tracing::warn!(file = %path.display(), "a slice on disk is damaged");
                None
            }
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        if self.lock.is_some() {
            let beside = self.root.join(format!(".tmp-{name}"));
            self.tell(replace(&self.root.join(name), &beside, bytes));
        }
    }

    fn tell(&self, written: io::Result<()>) {
        if let Err(error) = written {
            let directory = self.root.display();
            tracing::error!(%directory, %error, "a slice cannot be kept; what runs stays");
        }
    }
}

fn written(slice: &Slice) -> Vec<u8> {
    format!("{}\n{}", slice.digest, slice.text).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(text: &str) -> Slice {
        Slice::new(text.to_owned())
    }

    #[test]
    fn what_ran_last_comes_first_and_what_is_damaged_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("sidecar");
        let kept = Kept::open(root.clone());
        assert_eq!(kept.slices(), []);
        for text in ["one", "two", "two", "three"] {
            kept.keep(&slice(text));
        }
        assert_eq!(kept.slices(), [slice("three"), slice("two")]);
        std::fs::write(root.join(CURRENT), b"sha256:ab\nthree").unwrap();
        assert_eq!(kept.slices(), [slice("two")]);
        std::fs::write(root.join(PREVIOUS), b"\xff").unwrap();
        assert_eq!(kept.slices(), []);
    }

    #[test]
    fn starts_that_die_are_counted_until_one_lives() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Kept::open(folder.path().to_owned());
        assert_eq!((0..3).map(|_| open().begin()).collect::<Vec<_>>(), [0, 1, 2]);
        let kept = open();
        kept.lived();
        assert_eq!(kept.begin(), 0);
        // A second process reads, and does not write.
        let other = open();
        other.keep(&slice("x"));
        assert_eq!(kept.slices(), []);
    }
}

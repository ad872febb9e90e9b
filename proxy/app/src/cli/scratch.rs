//! A file for a test of a command: in a folder of its own, gone with it.

use std::path::PathBuf;

use tempfile::TempDir;

/// See the module.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    _folder: TempDir,
}

impl Scratch {
    /// A file called `name`.
    pub(super) fn new(name: &str, bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self { path, _folder: folder }
    }
}

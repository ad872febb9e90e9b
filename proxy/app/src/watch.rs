//! Files that are watched: by looking at them every second.
//!
//! Looking is the one way that works everywhere: on a ConfigMap the file is a link to a folder
//! that is swapped, on network and overlay file systems nobody sends events. A look costs one
//! system call per file; only what looks different is read, and only other content counts. A file
//! that is being written is left alone until it has looked the same twice.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tillgate_config::yaml::INPUT_BYTES_MAX;

use crate::disk::read_bounded;

/// How often files are looked at: what is written reaches the gateway within two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After so many looks content is read although it looks the same: a second write of the same
/// length within one tick of the file system's clock cannot be seen from outside.
const READ_EVERY: u32 = 15;

/// Files, and what was in them when they last counted.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    looks: Vec<Look>,
    /// What is known to the gateway, good or bad.
    content: u64,
    changing: bool,
    rounds: u32,
}

/// How a file looks from outside; following links, so a swapped folder is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    node: u64,
    length: u64,
    seconds: i64,
    nanos: i64,
}

impl Watch {
    /// Watches `files` from how they are now.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        let (looks, content) = (looks(&files), content(&files));
        Self { files, looks, content, changing: false, rounds: 0 }
    }

    /// Whether other content is there, complete as far as can be told. To be asked once every
    /// [`LOOK_EVERY`]; says so once for each content.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now = looks(&self.files);
        self.rounds += 1;
        if now != self.looks {
            self.looks = now;
            self.changing = true;
            return false;
        }
        if !std::mem::take(&mut self.changing) && self.rounds < READ_EVERY {
            return false;
        }
        self.rounds = 0;
        let content = content(&self.files);
        std::mem::replace(&mut self.content, content) != content
    }

    /// Somebody else loads them now, for another reason.
    pub(crate) fn settle(&mut self) {
        *self = Self::new(std::mem::take(&mut self.files));
    }
}

fn looks(files: &[PathBuf]) -> Vec<Look> {
    files.iter().map(|file| look(file).unwrap_or(Look::NOTHING)).collect()
}

impl Look {
    const NOTHING: Self = Self { device: 0, node: 0, length: 0, seconds: 0, nanos: 0 };
}

fn look(file: &Path) -> io::Result<Look> {
    let seen = fs::metadata(file)?;
    Ok(Look {
        device: seen.dev(),
        node: seen.ino(),
        length: seen.len(),
        seconds: seen.mtime(),
        nanos: seen.mtime_nsec(),
    })
}

/// What is in a regular file, if it is no longer than a policy may be. Others, a pipe or a device,
/// may give what they have only once, or keep whoever reads waiting: they are not watched.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    read_bounded(file, INPUT_BYTES_MAX as u64)
}

fn content(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        match read(file) {
            Ok(bytes) => {
                hasher.write_usize(bytes.len());
                hasher.write(&bytes);
            }
            Err(_) => hasher.write_u8(0),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = format!("tillgate-watch-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(path);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The answers of the next looks.
    fn looks_of(watch: &mut Watch, count: usize) -> Vec<bool> {
        (0..count).map(|_| watch.has_changed()).collect()
    }

    #[test]
    fn a_swapped_folder_is_one_change() {
        let folder = Folder::new("swap");
        let (one, two) = (folder.0.join("..one"), folder.0.join("..two"));
        for (place, text) in [(&one, "one"), (&two, "two")] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("store.yaml"), text).unwrap();
        }
        let data = folder.0.join("..data");
        symlink("..one", &data).unwrap();
        let file = folder.0.join("store.yaml");
        symlink("..data/store.yaml", &file).unwrap();
        let mut watch = Watch::new(vec![file]);
        assert!(!watch.has_changed());
        let next = folder.0.join("..next");
        symlink("..two", &next).unwrap();
        fs::rename(&next, &data).unwrap();
        assert_eq!(looks_of(&mut watch, 4), [false, true, false, false]);
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let folder = Folder::new("write");
        let file = folder.0.join("store.yaml");
        fs::write(&file, "kind: Store").unwrap();
        let mut watch = Watch::new(vec![file.clone()]);
        fs::write(&file, "kin").unwrap();
        assert!(!watch.has_changed());
        fs::write(&file, "kind: St").unwrap();
        assert!(!watch.has_changed());
        fs::write(&file, "kind: Stores").unwrap();
        assert_eq!(looks_of(&mut watch, 3), [false, true, false]);
    }

    #[test]
    fn the_same_content_is_no_change_and_a_vanished_file_is_one() {
        let folder = Folder::new("same");
        let file = folder.0.join("store.yaml");
        fs::write(&file, "kind: Store").unwrap();
        let mut watch = Watch::new(vec![file.clone()]);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "kind: Store").unwrap();
        assert_eq!(looks_of(&mut watch, 3), [false; 3]);
        fs::remove_file(&file).unwrap();
        assert_eq!(looks_of(&mut watch, 3), [false, true, false]);
        fs::write(&file, "kind: Store").unwrap();
        watch.settle();
        assert_eq!(looks_of(&mut watch, 2), [false, false]);
    }

    #[test]
    fn what_is_no_file_or_has_no_end_is_not_read() {
        let mut watch = Watch::new(vec!["/dev/zero".into()]);
        assert_eq!(looks_of(&mut watch, 20), [false; 20]);
        // A pipe that nobody writes to: opening it would wait.
        let folder = Folder::new("endless");
        let pipe = folder.0.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert_eq!(looks_of(&mut Watch::new(vec![pipe]), 20), [false; 20]);
        let file = folder.0.join("store.yaml");
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&file).is_err());
    }

    #[test]
    fn what_cannot_be_seen_from_outside_is_read_in_the_end() {
        let folder = Folder::new("blind");
        let file = folder.0.join("store.yaml");
        fs::write(&file, "rate: 1").unwrap();
        let mut watch = Watch::new(vec![file.clone()]);
        fs::write(&file, "rate: 2").unwrap();
        watch.looks = looks(&watch.files);
        let rounds = usize::try_from(READ_EVERY).unwrap();
        let answers = looks_of(&mut watch, rounds);
        assert_eq!(answers.iter().filter(|changed| **changed).count(), 1);
        assert_eq!(answers.last(), Some(&true));
    }
}

//! The store's authority on disk: key and certificate in one file, so that they are never of
//! different times.
//!
//! Made at the first start, and never again by itself: a file that is torn, is for others to read
//! or is not ours is told and left as it is, because another authority would end every
//! certificate that the store has given. Who means that moves the file away.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use tillgate_net::clock;
use tillgate_net::tls::Authority;

use crate::disk::{replace, sync};
use crate::endpoint::callers::{SecretError, own_text};
use crate::send::explain;

const FILE: &str = "authority.pem";

/// The other process of a handover writes a file; what takes longer hangs.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const TURN_AGAIN: Duration = Duration::from_millis(10);

/// The authority that is kept in `directory`; `now` is in seconds since 1970.
///
/// # Errors
/// Why there is none, in words for the operator.
pub(super) fn open(directory: &Path, now: u64) -> Result<Authority, String> {
    let path = directory.join(FILE);
    let unkept = |error: io::Error| {
        let directory = directory.display();
        format!(
            "the store's authority cannot be kept in {directory}: {error}; make it a folder that \
             this process may write, and restart the gateway"
        )
    };
    // Two processes of one gateway, at a handover, must not make two.
    let _turn = turn(directory).map_err(unkept)?;
    let text = match own_text(&path) {
        Err(SecretError::Unreadable(_, error)) if error.kind() == ErrorKind::NotFound => {
            let text = Authority::generate(now).map_err(|error| explain(&error))?;
            replace(&path, &directory.join(".tmp-authority"), text.as_bytes()).map_err(unkept)?;
            tracing::info!(file = %path.display(), "an authority for this store was made");
            text
        }
        Err(SecretError::Damaged(_)) => String::new(),
        Err(error) => return Err(explain(&error)),
        Ok(text) => text,
    };
    Authority::read(&text).map_err(|error| {
        format!(
            "{} is no authority of this store: {error}; put back the file as it was, or move it \
             away, and restart the gateway: without it another one is made, and every sidecar has \
             to be enrolled anew",
            path.display()
        )
    })
}

/// The turn of one process in `directory`, which is made if it is not there.
pub(super) fn turn(directory: &Path) -> io::Result<File> {
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        directory.parent().map_or(Ok(()), sync)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(directory.join("lock"))?;
    let until = clock::now() + TURN_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if clock::now() < until => thread::sleep(TURN_AGAIN),
            Err(TryLockError::WouldBlock) => {
                let why = "another process keeps its file `lock`: end that one";
                return Err(io::Error::new(ErrorKind::WouldBlock, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: u64 = 1_790_000_000;

    #[test]
    fn it_is_made_once_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state/enrolment");
        let path = directory.join(FILE);
        let first = open(&directory, NOW).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&directory, NOW + 1).unwrap().pem(), first.pem());
        let whole = fs::read(&path).unwrap();
        for (bytes, mode, why) in [
            (&whole[..whole.len() / 2], 0o600, "move it away"),
            (b"", 0o600, "move it away"),
            (b"\xff", 0o600, "move it away"),
            (&whole, 0o644, "chmod 600"),
        ] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = open(&directory, NOW).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
        }
        let nowhere = open(Path::new("/proc/enrolment"), NOW).unwrap_err();
        assert!(nowhere.contains("cannot be kept"), "{nowhere}");
    }
}

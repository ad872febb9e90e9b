//! Handover: the next process gets the very listening sockets of this one, then this one drains.
//!
//! The old process either starts the next one itself (SIGUSR2; the way between them is the next
//! one's standard input), or the next one comes by a unix socket that both know (`--handover`).
//! Sockets go one way, one word comes back when the next process serves, and one answers it: the
//! old process drains, or the word came too late and it goes on as if nothing had happened; then
//! the next one gives way, so that never two serve for good. No connection is lost on the way:
//! what waits in the kernel's queue belongs to the socket, which never closes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use tillgate_net::handover::{self, Activation, Named};
use tokio::net::UnixListener;

/// Set for a process that was started to take over.
const VARIABLE: &str = "TILLGATE_HANDOVER";

/// What a service manager sets for the process that it starts, and for no other.
const ACTIVATION: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The next process serves.
const SERVES: u8 = b'S';

/// The answer: the old process drains.
const YIELDS: u8 = b'Y';

/// The answer: the old process waits no longer, and goes on.
const GOES_ON: u8 = b'N';

/// How long the next process may take from its first word to serving: reading a policy, files
/// from a slow disk, threads. Meanwhile the old one serves.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long sockets may take from one process to another on one machine.
const GIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The process before this one.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
}

impl Predecessor {
    /// Who has started this process to take over, or who listens at `path`.
    ///
    /// # Errors
    /// If there is one that cannot be spoken to.
    pub(crate) fn find(path: Option<&Path>) -> io::Result<Option<Self>> {
        let stream = if env::var_os(VARIABLE).is_some_and(|value| value == "stdin") {
            UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            let Some(path) = path else { return Ok(None) };
            match UnixStream::connect(path) {
                Ok(stream) => stream,
                Err(error) if is_absence(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        stream.set_read_timeout(Some(GIVE_TIMEOUT))?;
        stream.set_write_timeout(Some(GIVE_TIMEOUT))?;
        Ok(Some(Self { stream }))
    }

    /// What it listens on.
    ///
    /// # Errors
    /// If it does not hand over.
    pub(crate) fn sockets(&self) -> io::Result<Vec<Named>> {
        handover::take(&self.stream)
    }

    /// Tells it that this process serves; it drains then.
    pub(crate) fn replace(mut self) -> Replaced {
        let mut word = [SERVES, 0, 0, 0, 0];
        word[1..].copy_from_slice(&std::process::id().to_be_bytes());
        // If it has closed the way meanwhile, what it said before that is still there.
        let _ = self.stream.write_all(&word);
        let mut answer = [0];
        match self.stream.read_exact(&mut answer) {
            Ok(()) if answer == [YIELDS] => Replaced::Yields,
            Ok(()) => Replaced::GoesOn,
            // It stands still, and may go on at any time.
            Err(error) if is_late(&error) => Replaced::GoesOn,
            Err(error) => Replaced::Gone(error),
        }
    }
}

/// What became of the process before.
#[derive(Debug)]
pub(crate) enum Replaced {
    /// It drains.
    Yields,
    /// It serves, or may: this process is one too many.
    GoesOn,
    /// It has ended without a word.
    Gone(io::Error),
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Gives `sockets` to the process at the other end of `stream` and waits until it serves; returns
/// its number.
///
/// # Errors
/// If it does not come so far.
pub(crate) fn hand_over(mut stream: &UnixStream, sockets: &[Named]) -> io::Result<u32> {
    stream.set_write_timeout(Some(GIVE_TIMEOUT))?;
    handover::give(stream, sockets)?;
    let served = until_serves(stream, START_TIMEOUT);
    let answer = if served.is_ok() { YIELDS } else { GOES_ON };
    // Who cannot be told that this process drains is gone, so it does not.
    let told = stream.write_all(&[answer]);
    served.and_then(|id| told.map(|()| id))
}

fn until_serves(mut stream: &UnixStream, within: Duration) -> io::Result<u32> {
    stream.set_read_timeout(Some(within))?;
    let mut word = [0; 5];
    stream.read_exact(&mut word)?;
    let [SERVES, id @ ..] = word else { return Err(io::ErrorKind::InvalidData.into()) };
    Ok(u32::from_be_bytes(id))
}

/// A process that was started to take over, and the way to it. It is ended if it is dropped
/// before it [serves](Self::keep).
pub(crate) struct Next {
    child: Option<Child>,
    pub(crate) stream: UnixStream,
}

impl Next {
    /// Starts `program`, with the arguments of this one.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(program: &Path) -> io::Result<Self> {
        if std::process::id() == 1 {
            let text = "this is process 1 of a container, which ends with it: start another \
                        container with the same `--handover`";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let (stream, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command.args(env::args_os().skip(1)).env(VARIABLE, "stdin");
        for name in ACTIVATION {
            command.env_remove(name);
        }
        let child = command.stdin(OwnedFd::from(theirs)).spawn()?;
        Ok(Self { child: Some(child), stream })
    }

    /// It serves: it outlives this process.
    pub(crate) fn keep(mut self) {
        self.child = None;
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; either way it is waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where this program was started from; another one may lie there later. Asked for at the start: a
/// link on the way is kept as a link, because it is what a new version is put behind, and nobody
/// can tell afterwards which one it was.
///
/// # Errors
/// If the kernel does not say what runs here.
pub(crate) fn program() -> io::Result<PathBuf> {
    let itself = env::current_exe()?;
    let name = env::args_os().next().unwrap_or_default();
    let here = env::var_os("PWD").map(PathBuf::from).filter(|path| is_same(path, Path::new(".")));
    let here = here.map_or_else(env::current_dir, Ok)?;
    let found = find(&name, env::var_os("PATH").as_deref(), &here);
    Ok(found.filter(|path| is_same(path, &itself)).unwrap_or(itself))
}

/// What a shell in the folder `here` means by `name`.
fn find(name: &OsStr, folders: Option<&OsStr>, here: &Path) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(here.join(name));
    }
    let is_program = |path: &PathBuf| {
        let there = fs::metadata(path);
        there.is_ok_and(|there| there.is_file() && there.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(folders?).map(|folder| here.join(folder).join(name)).find(is_program)
}

/// Whether both lead to one file or folder.
fn is_same(one: &Path, other: &Path) -> bool {
    let node = |path: &Path| fs::metadata(path).map(|there| (there.dev(), there.ino())).ok();
    one.is_absolute() && node(one).is_some_and(|it| node(other) == Some(it))
}

/// No file has this number.
const NOBODYS: u64 = 0;

/// Where the next process knocks.
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
    node: u64,
}

impl Door {
    /// Listens at `path`, in the place of whoever did before. Only this user may knock.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut fresh = OsString::from(path);
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok(Self { listener, path: path.to_owned(), node: fs::metadata(path)?.ino() })
    }

    /// The next process.
    pub(crate) async fn knock(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

impl Door {
    /// The place belongs to the next process: its door may come there at any moment, and must not
    /// be taken for this one. Until then nobody is heard behind this one.
    pub(crate) fn leave(mut self) {
        self.node = NOBODYS;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|there| there.ino() == self.node) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a service manager says of the sockets that it has bound.
pub(crate) fn activation() -> Activation {
    let [process, count, names] = ACTIVATION.map(|name| env::var(name).ok());
    Activation { process, count, names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_where_its_name_leads_and_links_stay_links() {
        let folder = tempfile::TempDir::new().unwrap();
        let here = folder.path();
        fs::create_dir(here.join("one")).unwrap();
        fs::write(here.join("one/tillgate"), "").unwrap();
        std::os::unix::fs::symlink("one", here.join("current")).unwrap();
        let folders = Some(OsStr::new("nowhere:current"));
        let found = |name: &str| find(OsStr::new(name), folders, here);
        let linked = here.join("current/tillgate");
        assert_eq!(found("current/tillgate"), Some(linked.clone()));
        assert_eq!(found(linked.to_str().unwrap()), Some(linked.clone()));
        assert_eq!(found("tillgate"), None, "a shell would not start it");
        let runs = fs::Permissions::from_mode(0o755);
        fs::set_permissions(here.join("one/tillgate"), runs).unwrap();
        assert_eq!(found("tillgate"), Some(linked.clone()));
        assert_eq!(find(OsStr::new("tillgate"), None, here), None);

        assert!(is_same(&linked, &here.join("one/tillgate")));
        assert!(!is_same(&linked, here) && !is_same(&here.join("gone"), &here.join("gone")));
    }
}

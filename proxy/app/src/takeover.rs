//! Handover: the next process gets the very listening sockets of this one, then this one drains.
//!
//! The old process either starts the next one itself (SIGUSR2; the way between them is the next
//! one's standard input), or the next one comes by a unix socket that both know (`--handover`).
//! Sockets go one way, one word comes back when the next process serves, and one answers it: the
//! old process drains, or the word came too late and it goes on as if nothing had happened; then
//! the next one gives way, so that never two serve for good. No connection is lost on the way:
//! what waits in the kernel's queue belongs to the socket, which never closes.

use std::ffi::OsString;
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
        let stream = if std::env::var_os(VARIABLE).is_some_and(|value| value == "stdin") {
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
    /// Starts the program that now lies where this one was started from, with the same arguments.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start() -> io::Result<Self> {
        if std::process::id() == 1 {
            let text = "this is process 1 of a container, which ends with it: start another \
                        container with the same `--handover`";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let (stream, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program()?);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, "stdin");
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

/// Where this program was started from; a new one may lie there meanwhile.
fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.as_os_str().as_encoded_bytes();
    Ok(match text.strip_suffix(b" (deleted)") {
        Some(text) => PathBuf::from(String::from_utf8_lossy(text).into_owned()),
        None => path,
    })
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
    let [process, count, names] = ACTIVATION.map(|name| std::env::var(name).ok());
    Activation { process, count, names }
}

//! Lines on their way to a file or a pipe, written by a thread of their own.
//!
//! Whoever has a line hands it over and goes on: a full disk or a terminal that stands still never
//! holds up a worker. What does not fit into the queue is dropped and counted. A file is opened
//! anew when told to, and when somebody has moved it away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tillgate_config::effective::LogOutput;
use tillgate_net::clock;

/// Lines that wait: about two seconds of the busiest store, and at some 500 bytes each no more
/// than 2 MiB when nobody writes them.
const LINES_MAX: usize = 4096;

/// How often a file is looked for at its place.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the end waits for lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How soon it tries again to hand over that word while the queue is full.
const FLUSH_AGAIN: Duration = Duration::from_millis(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Standard error.
    Stderr,
    /// As a policy says.
    Policy(LogOutput),
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    /// Another output may be wanted.
    Moved,
    Flush(SyncSender<()>),
}

/// A queue of lines. Clones are of the same queue.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// What a queue that is full must not hold up.
#[derive(Debug, Default)]
struct Shared {
    dropped: OnceLock<Counter>,
    /// Where lines shall go from here on, until the thread has seen it.
    wanted: Mutex<Option<Output>>,
}

impl Shared {
    fn count_dropped(&self, lines: u64) {
        if let Some(dropped) = self.dropped.get() {
            dropped.inc_by(lines);
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Option<Output>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool {
    /// Starts a thread that writes to `output`.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn start(name: &str, output: Output) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(LINES_MAX);
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name(name.into()).spawn(move || {
            let place = Place::open(output);
            write(&receiver, place, &theirs);
        })?;
        Ok(Self { sender, shared })
    }

    /// Where to count lines that are dropped; the first one told counts.
    pub(crate) fn count_drops(&self, counter: Counter) {
        let _ = self.shared.dropped.set(counter);
    }

    /// Writes `line` some time soon, or drops it.
    pub(crate) fn put(&self, line: Vec<u8>) {
        let full = matches!(self.sender.try_send(Message::Line(line)), Err(TrySendError::Full(_)));
        if full {
            self.shared.count_dropped(1);
        }
    }

    /// Opens the file anew.
    pub(crate) fn reopen(&self) {
        // A full queue has a thread that stands still, which will look by itself.
        let _ = self.sender.try_send(Message::Reopen);
    }

    /// Writes to `output` from here on.
    pub(crate) fn move_to(&self, output: Output) {
        *self.shared.wanted() = Some(output);
        // A full queue has a thread that looks for this before the next piece.
        let _ = self.sender.try_send(Message::Moved);
    }

    /// Waits, not for long, until everything handed over so far is written.
    pub(crate) fn flush(&self) {
        // Late is not written: the end does not wait for it.
        let _ = self.flush_within(FLUSH_TIMEOUT);
    }

    /// The same; whether it was done in this time.
    fn flush_within(&self, time: Duration) -> bool {
        let (tell, told) = sync_channel(1);
        let until = clock::now() + time;
        let mut message = Message::Flush(tell);
        while let Err(TrySendError::Full(back)) = self.sender.try_send(message) {
            if clock::now() >= until {
                return false;
            }
            message = back;
            thread::sleep(FLUSH_AGAIN);
        }
        told.recv_timeout(until.saturating_duration_since(clock::now())).is_ok()
    }
}

fn write(receiver: &Receiver<Message>, mut place: Place, shared: &Shared) {
    loop {
        let message = match receiver.recv_timeout(LOOK_EVERY) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if message.is_none() {
            place.look();
        }
        let mut next = message;
        place = place.unless_moved(shared);
        // What is there goes out in one piece, and a file is looked for between pieces.
        let mut piece = Piece::default();
        while let Some(message) = next {
            match message {
                Message::Line(line) => piece.push(&line),
                Message::Reopen => {
                    place.put(&mut piece, shared);
                    place = Place::open(place.output);
                }
                Message::Moved => {
                    place.put(&mut piece, shared);
                    place = place.unless_moved(shared);
                }
                Message::Flush(tell) => {
                    place.put(&mut piece, shared);
                    let _ = tell.send(());
                }
            }
            next = if piece.bytes.len() < PIECE_MAX { receiver.try_recv().ok() } else { None };
        }
        if piece.lines > 0 {
            place.look();
            place.put(&mut piece, shared);
        }
    }
}

/// Lines that are written at once.
const PIECE_MAX: usize = 64 * 1024;

/// Lines in a row.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    lines: u64,
}

impl Piece {
    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.lines += 1;
    }
}

/// An output as it is open.
struct Place {
    output: Output,
    file: Option<File>,
}

impl Place {
    fn open(output: Output) -> Self {
        let file = match &output {
            Output::Policy(LogOutput::File(path)) => open(path)
                .inspect_err(|error| {
                    let path = path.display();
                    tracing::error!(%path, %error, "the log file cannot be opened");
                })
                .ok(),
            Output::Policy(LogOutput::Stdout) | Output::Stderr => None,
        };
        Self { output, file }
    }

    /// The place, or another one if that is wanted now.
    fn unless_moved(self, shared: &Shared) -> Self {
        let wanted = shared.wanted().take();
        wanted.map_or(self, Self::open)
    }

    /// Opens the file anew if it is not where it was.
    fn look(&mut self) {
        let Output::Policy(LogOutput::File(path)) = &self.output else { return };
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = fs::metadata(path).ok();
        let same = match (&ours, &there) {
            (Some(ours), Some(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        // What could not be opened is tried again in silence.
        if !same && let Ok(file) = open(path) {
            self.file = Some(file);
        }
    }

    fn put(&mut self, piece: &mut Piece, shared: &Shared) {
        let Piece { bytes, lines } = std::mem::take(piece);
        if lines == 0 {
            return;
        }
        let written = match (&self.output, &mut self.file) {
            (Output::Stderr, _) => io::stderr().lock().write_all(&bytes),
            (Output::Policy(LogOutput::Stdout), _) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())
            }
            (Output::Policy(LogOutput::File(_)), Some(file)) => file.write_all(&bytes),
            (Output::Policy(LogOutput::File(_)), None) => Err(io::ErrorKind::NotFound.into()),
        };
        // A reader that is gone, a full disk: lines are lost, at least one, and it cannot be told
        // which; the gateway goes on.
        if written.is_err() {
            shared.count_dropped(lines);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> std::path::PathBuf {
        let name = format!("tillgate-spool-{}-{name}.log", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        path
    }

    /// Waits as long as it takes.
    #[track_caller]
    fn flush(spool: &Spool) {
        assert!(spool.flush_within(Duration::from_secs(60)), "everything is written");
    }

    fn file(path: &Path) -> Output {
        Output::Policy(LogOutput::File(path.into()))
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let (path, moved) = (path("one"), path("moved"));
        let spool = Spool::start("test", file(&path)).unwrap();
        spool.put(b"one\n".to_vec());
        flush(&spool);
        fs::rename(&path, &moved).unwrap();
        spool.put(b"two\n".to_vec());
        flush(&spool);
        // Whether the second line met the old file or the new one, the third meets the new one.
        spool.reopen();
        spool.put(b"three\n".to_vec());
        flush(&spool);
        let (old, new) = (fs::read_to_string(&moved).unwrap(), fs::read_to_string(&path).unwrap());
        assert!(old.starts_with("one\n") && new.ends_with("three\n"), "{old:?} {new:?}");
        assert_eq!(format!("{old}{new}"), "one\ntwo\nthree\n");
        let other = self::path("other");
        spool.move_to(file(&other));
        spool.put(b"four\n".to_vec());
        flush(&spool);
        assert_eq!(fs::read_to_string(&other).unwrap(), "four\n");
        for path in [path, moved, other] {
            let _ = fs::remove_file(path);
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_does_not_wait() {
        // Nobody takes anything out.
        let (sender, receiver) = sync_channel(2);
        let spool = Spool { sender, shared: Arc::default() };
        let counter = Counter::default();
        spool.count_drops(counter.clone());
        for _ in 0..5 {
            spool.put(b"line\n".to_vec());
        }
        assert_eq!(counter.get(), 3);
        // Where it shall write is not lost with them.
        let path = path("full");
        spool.move_to(file(&path));
        let shared = Arc::clone(&spool.shared);
        drop(spool);
        write(
            &receiver,
            Place::open(Output::Policy(LogOutput::File(Path::new("/dev/full").into()))),
            &shared,
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\nline\n");
        assert_eq!(counter.get(), 3);
        let _ = fs::remove_file(path);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        for path in ["/dev/full", "/nowhere/at/all.log"] {
            let spool = Spool::start("test", file(Path::new(path))).unwrap();
            let counter = Counter::default();
            spool.count_drops(counter.clone());
            for _ in 0..3 {
                spool.put(b"line\n".to_vec());
            }
            flush(&spool);
            assert_eq!(counter.get(), 3, "{path}");
        }
    }
}

//! What a running gateway is told, and by whom: the operating system's signals, the policy file
//! that changes, the next process that wants the sockets, the service manager that listens.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tillgate_core::reconcile::Hint;
use tillgate_net::clock;
use tillgate_net::handover::Named;
use tillgate_net::threads::{making_way, release_freed};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::{Options, load};
use crate::Control;
use crate::notify::Notify;
use crate::reconcile::{self, Booted};
use crate::send::explain;
use crate::takeover::{Door, Next, Predecessor, Replaced, hand_over};
use crate::watch::{LOOK_EVERY, Watch};

/// What the operating system tells a process; until registered, each of them kills it.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    replace: Signal,
}

impl Signals {
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            replace: signal(SignalKind::user_defined2())?,
        })
    }
}

/// A gateway and those who tell it what to do.
pub(super) struct Told {
    pub(super) control: Control,
    pub(super) options: Options,
    pub(super) notify: Notify,
    pub(super) predecessor: Option<Predecessor>,
    /// What takes over when a signal asks for it.
    pub(super) program: Arc<Path>,
    pub(super) reader: Arc<Reader>,
    /// The process before goes on, so this one ends.
    pub(super) gives_way: Arc<AtomicBool>,
}

/// A handover under way: the number of the process that serves now.
type Handover = oneshot::Receiver<io::Result<u32>>;

/// Reads the policy and puts it in effect. A file system may hang, so it does so apart from the
/// thread that answers probes.
pub(super) struct Reader {
    pub(super) control: Control,
    pub(super) options: Options,
    pub(super) notify: Notify,
    pub(super) policy: Policy,
}

/// Where policy comes from.
pub(super) enum Policy {
    /// One file.
    File(PathBuf, Mutex<Watch>),
    /// Sources, which have a loop of their own.
    Sources(Mutex<Begun>),
}

/// The loop that asks sources.
pub(super) enum Begun {
    /// It begins when this process is the one that serves.
    Not(Box<Booted>),
    /// It can be told to look.
    Yes(reconcile::Told),
    /// There is no thread for it.
    Never,
}

impl Reader {
    /// Begins to ask sources, where policy comes from them.
    fn begin(&self) {
        let Policy::Sources(begun) = &self.policy else { return };
        let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun = match std::mem::replace(&mut *begun, Begun::Never) {
            Begun::Not(booted) => match self.control.reconcile(*booted) {
                Ok(told) => Begun::Yes(told),
                Err(error) => {
                    tracing::error!(%error, "no thread to ask for policy; what runs stays");
                    Begun::Never
                }
            },
            begun @ (Begun::Yes(_) | Begun::Never) => begun,
        };
    }

    /// Waits until the loop that asks sources has written its memory.
    pub(super) fn end(&self) {
        let Policy::Sources(begun) = &self.policy else { return };
        if let Begun::Yes(told) = &*begun.lock().unwrap_or_else(PoisonError::into_inner) {
            told.wait();
        }
    }

    /// Reads what has changed, or everything because somebody says so.
    fn read(&self, told_by: Option<Hint>) {
        let (file, watch) = match &self.policy {
            Policy::File(file, watch) => (file, watch),
            Policy::Sources(begun) => {
                let begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(hint) = told_by {
                    self.control.looks();
                    match &*begun {
                        // The loop says what came of it.
                        Begun::Yes(told) => told.look_now(hint),
                        Begun::Not(_) | Begun::Never => {
                            self.control.looked(clock::now(), Err("no source is asked"));
                        }
                    }
                }
                return;
            }
        };
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
        if told_by.is_some() {
            watch.settle();
        } else if !watch.has_changed() {
            return;
        }
        drop(watch);
        self.notify.reloading();
        let began = clock::now();
        self.control.looks();
        // A refused config is logged and counted where it is refused.
        let outcome = match making_way(|| load(file, &self.options)) {
            Ok(effective) => self.control.reload(effective).map_err(|error| explain(&error)),
            Err(why) => {
                self.control.reload_failed(&why);
                Err(why)
            }
        };
        self.control.looked(began, outcome.as_ref().map(|_| ()).map_err(String::as_str));
        self.notify.ready();
        // This thread may have nothing to do for a long time.
        release_freed();
    }
}

impl Told {
    /// Ready when the gateway shall drain. A second SIGTERM or SIGINT then ends everything.
    pub(super) async fn until_stopped(mut self, mut signals: Signals) {
        self.control.serves().await;
        if !self.replaces() {
            return self.watch_the_end(signals);
        }
        let mut door = self.begin();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut handover: Option<Handover> = None;
        let (mut reading, mut told_by): (Option<JoinHandle<()>>, Option<Hint>) = (None, None);
        loop {
            if told_by.is_some() && reading.is_none() {
                reading = Some(self.read(told_by.take()));
            }
            tokio::select! {
                // While it reads, one more reading is remembered: its file may have changed since.
                _ = signals.hangup.recv() => told_by = Some(Hint::Operator),
                hint = self.control.asked() => told_by = told_by.max(Some(hint)),
                _ = looks.tick(), if reading.is_none() => reading = Some(self.read(None)),
                () = has_read(&mut reading) => reading = None,
                _ = signals.reopen.recv() => self.control.reopen_logs(),
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                () = self.control.drains() => break,
                _ = signals.replace.recv(), if handover.is_none() => {
                    handover = self.succeed(None);
                }
                stream = knock(door.as_ref()), if handover.is_none() => {
                    handover = self.succeed(Some(stream));
                }
                result = finished(&mut handover) => {
                    handover = None;
                    if self.is_replaced(result) {
                        if let Some(door) = door.take() {
                            door.leave();
                        }
                        return self.watch_the_end(signals);
                    }
                }
            }
        }
        if let (Some(door), Some(_)) = (door, handover) {
            // The next process may serve any moment.
            door.leave();
        }
        self.notify.stopping();
        self.watch_the_end(signals);
    }

    /// Whether this process is the one that serves from here on.
    fn replaces(&mut self) -> bool {
        match self.predecessor.take().map(Predecessor::replace) {
            None => {}
            Some(Replaced::Yields) => {
                let version = env!("CARGO_PKG_VERSION");
                tracing::info!(version, "took over from the process before");
            }
            Some(Replaced::Gone(error)) => {
                tracing::warn!(%error, "the process before is gone already");
            }
            Some(Replaced::GoesOn) => {
                self.gives_way.store(true, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    /// It serves: says so to everyone.
    fn begin(&self) -> Option<Door> {
        self.notify.ready();
        self.reader.begin();
        let path = self.options.handover.as_deref()?;
        let opened = Door::open(path);
        opened
            .inspect_err(|error| {
                tracing::error!(path = %path.display(), %error, "no handover from this process");
            })
            .ok()
    }

    fn read(&self, told_by: Option<Hint>) -> JoinHandle<()> {
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || reader.read(told_by))
    }

    /// Hands the sockets to the process at the other end of `stream`, or to one that is started
    /// for it. On a thread of its own: the other process may take its time.
    fn succeed(&self, stream: Option<io::Result<UnixStream>>) -> Option<Handover> {
        let (tell, told) = oneshot::channel();
        let (sockets, program) = (self.control.sockets(), Arc::clone(&self.program));
        let thread = std::thread::Builder::new().name("handover".into());
        let spawned = thread.spawn(move || {
            // Nobody listens any more if this process is told to stop meanwhile.
            let _ = tell.send(sockets.and_then(|sockets| replace_by(stream, &program, &sockets)));
        });
        match spawned {
            Ok(_) => Some(told),
            Err(error) => {
                tracing::error!(%error, "handover failed; this process goes on");
                None
            }
        }
    }

    fn is_replaced(&self, result: io::Result<u32>) -> bool {
        match result {
            Ok(process) => {
                tracing::info!(process, "another process has taken over");
                self.notify.handed_over(process);
                self.control.end_admin();
                true
            }
            Err(error) => {
                tracing::error!(%error, "handover failed; this process goes on");
                false
            }
        }
    }

    /// What a signal means while it drains.
    fn watch_the_end(self, mut signals: Signals) {
        tokio::spawn(async move {
            tokio::select! {
                _ = signals.terminate.recv() => {}
                _ = signals.interrupt.recv() => {}
            }
            tracing::warn!("told to stop twice: ending everything now");
            self.control.stop();
        });
    }
}

fn replace_by(
    stream: Option<io::Result<UnixStream>>,
    program: &Path,
    sockets: &[Named],
) -> io::Result<u32> {
    match stream {
        Some(stream) => hand_over(&stream?, sockets),
        None => {
            tracing::info!(program = %program.display(), "starting the next process");
            let next = Next::start(program)?;
            let process = hand_over(&next.stream, sockets)?;
            next.keep();
            Ok(process)
        }
    }
}

async fn knock(door: Option<&Door>) -> io::Result<UnixStream> {
    match door {
        Some(door) => door.knock().await,
        None => std::future::pending().await,
    }
}

async fn has_read(reading: &mut Option<JoinHandle<()>>) {
    match reading {
        // A panic is logged where it happens, and the next reading may do better.
        Some(reading) => drop(reading.await),
        None => std::future::pending().await,
    }
}

async fn finished(handover: &mut Option<Handover>) -> io::Result<u32> {
    match handover {
        Some(told) => told.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())),
        None => std::future::pending().await,
    }
}

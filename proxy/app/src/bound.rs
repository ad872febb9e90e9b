//! From an effective config to a process that serves: bind everything, then run.
//!
//! Workers are threads with a current-thread runtime each and a socket of their own on every
//! data listener (`SO_REUSEPORT`). The timers of the lines have their own thread, and so has the
//! admin listener: a scrape never waits for a pull, nor a payment for a scrape.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tillgate_config::effective::{Effective, ListenerProtocol};
use tillgate_net::drain::Phase;
use tillgate_net::handover::Named;
use tillgate_net::http::server;
use tillgate_net::listen::{ListenError, Socket};
use tillgate_net::threads;
use tillgate_net::tls::FileError;
use tillgate_net::upstream::Resolver;
use tillgate_net::upstream::resolver::CLIENT_LOOKUPS;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::admin::AdminEntry;
use crate::endpoint::{ConfigEntry, SecretError, follow_cluster};
use crate::gateway::{ForwardEntry, Gateway, HttpEntry, MirrorEntry, Worker, stage};
use crate::inherited::Inherited;
use crate::listeners::{Busy, Listening, Opening, Orders};
use crate::mirror::MirrorError;
use crate::reconcile::{Booted, Told};
use crate::reload::ReloadError;
use crate::telemetry::ProcessLog;
use crate::{datagram, sidecar, stream};

mod looks;

/// One for the policy, one for certificates, two for what is asked of the config endpoint (policies
/// to look at, files to read), one for its audit log, two for enrolment: whichever hangs, the
/// others go on.
const READER_THREADS: usize = 7;

/// Threads for the system's resolver, per worker: what clients' names may take, and two that are
/// left to the backends' names; those are few, and cached.
const RESOLVER_THREADS: usize = CLIENT_LOOKUPS + 2;

/// How long a thread for the system's resolver outlives its last lookup.
const RESOLVER_KEEP: Duration = Duration::from_secs(5);

/// After everything was told to end at once: for the answers that say so to leave.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why a config cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A listener's address cannot be had.
    #[error("listener {name} cannot start; choose another address with `{flag}` or stop the other")]
    Listen {
        /// The listener.
        name: Arc<str>,
        /// What sets its address.
        flag: String,
        /// What is wrong.
        #[source]
        source: ListenError,
    },
    /// An open proxy for everybody.
    #[error(
        "the forward proxy on {address} is open to the network and no EgressPolicy limits it; \
         add an EgressPolicy, or listen on a loopback address with `--forward-proxy 127.0.0.1:3128`"
    )]
    OpenProxy {
        /// Where it would listen.
        address: SocketAddr,
    },
    /// A certificate, a key or an authority cannot be had.
    #[error(transparent)]
    Tls(#[from] FileError),
    /// A secret of the config endpoint cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The images' directory cannot be had.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The config has no class or no link; a compiled one always has.
    #[error("the config has no {0}; compile it from policy documents")]
    Empty(&'static str),
    /// Too many reloads at once.
    #[error(transparent)]
    Busy(#[from] Busy),
}

impl BuildError {
    pub(crate) fn listen(name: &Arc<str>, source: ListenError) -> Self {
        Self::Listen { name: Arc::clone(name), flag: flag(name), source }
    }
}

/// Everything is bound, nothing is served.
pub struct Bound {
    gateway: Arc<Gateway>,
    /// By worker, the admin thread last.
    orders: Vec<Orders>,
    /// For the workers, in turn; empty = wherever the kernel likes.
    cpus: Vec<usize>,
}

/// A handle on a gateway, from another thread.
#[derive(Clone)]
pub struct Control {
    gateway: Arc<Gateway>,
}

/// Binds everything that `effective` says.
///
/// # Errors
/// [`BuildError`] names what cannot be had and what to do about it.
pub fn build(effective: Effective) -> Result<Bound, BuildError> {
    build_with(effective, Inherited::default(), Arc::default())
}

/// The same, with another way to look names up.
///
/// # Errors
/// [`BuildError`] names what cannot be had and what to do about it.
pub fn build_resolving(effective: Effective, resolver: Arc<Resolver>) -> Result<Bound, BuildError> {
    build_with(effective, Inherited::default(), resolver)
}

/// The same, with sockets that are bound already.
///
/// # Errors
/// [`BuildError`] names what cannot be had and what to do about it.
pub(crate) fn build_with(
    effective: Effective,
    mut inherited: Inherited,
    resolver: Arc<Resolver>,
) -> Result<Bound, BuildError> {
    if effective.classes.is_empty() {
        return Err(BuildError::Empty("traffic class"));
    }
    if effective.links.is_empty() {
        return Err(BuildError::Empty("link"));
    }
    let workers = workers(&effective);
    let effective = Arc::new(effective);
    let (gateway, orders) = Gateway::new(Arc::clone(&effective), workers, resolver)?;
    let (listeners, metrics) = (&gateway.listeners, &gateway.metrics);
    let plan =
        listeners.plan(&effective, metrics, &gateway.tls, gateway.memory(), &mut inherited)?;
    inherited.close_rest();
    listeners.commit(plan, || Ok::<(), Busy>(()))?;
    Ok(Bound { gateway, orders, cpus: Vec::new() })
}

/// A forward proxy that anybody may use must be limited by policy.
pub(crate) fn refuse_open_proxy(
    effective: &Effective,
    protocol: ListenerProtocol,
    address: SocketAddr,
) -> Result<(), BuildError> {
    let open = protocol == ListenerProtocol::ForwardProxy && !address.ip().is_loopback();
    if open && effective.egress.is_none() {
        return Err(BuildError::OpenProxy { address });
    }
    Ok(())
}

fn flag(listener: &str) -> String {
    match listener {
        "http" => "--http ADDR".into(),
        "forward-proxy" => "--forward-proxy ADDR".into(),
        "admin" => "--admin ADDR".into(),
        "config-endpoint" => "configEndpoint.listen".into(),
        other => format!("the address of Listener/{other}"),
    }
}

fn workers(effective: &Effective) -> usize {
    match effective.process.workers {
        Some(workers) => usize::from(workers).max(1),
        // It follows the process's CPU affinity and its control group.
        None => thread::available_parallelism().map_or(1, usize::from),
    }
}

impl Bound {
    /// Where the listener called `name` is bound.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        let shown = self.gateway.listeners.shown();
        Some(shown.iter().find(|listening| &*listening.name == name)?.address)
    }

    /// The same with each worker on a CPU of its own, as far as there are any.
    #[must_use]
    pub(crate) fn pinned(self) -> Self {
        let cpus = threads::allowed_cpus().unwrap_or_else(|error| {
            tracing::warn!(%error, "workers are not pinned");
            Vec::new()
        });
        Self { cpus, ..self }
    }

    /// A handle to reload or stop it while it runs.
    pub fn control(&self) -> Control {
        Control { gateway: Arc::clone(&self.gateway) }
    }

    /// Serves until `shutdown` is ready and everything has drained. Blocks; `shutdown` runs on
    /// the admin thread, with its runtime.
    ///
    /// # Errors
    /// If threads or runtimes cannot be had.
    pub fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        self.run_armed(|| Ok(shutdown))
    }

    /// The same; `arm` makes `shutdown`, in the context of its runtime and before anything is
    /// served or said, so that no signal comes too early.
    ///
    /// # Errors
    /// If threads or runtimes cannot be had, or `arm` fails.
    pub fn run_armed<F>(self, arm: impl FnOnce() -> io::Result<F>) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READER_THREADS)
            .build()?;
        let context = runtime.enter();
        let shutdown = arm()?;
        drop(context);
        self.gateway.listeners.shown().iter().for_each(Listening::say);
        let Self { gateway, mut orders, cpus } = self;
        let lines = drive_lines(&gateway)?;
        let calendar = gateway.follow_calendar()?;
        let admin_orders = orders.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let workers = spawn_workers(&gateway, orders, &cpus)?;
        threads::release_start_code();
        let (over, ended) = oneshot::channel::<()>();
        let (access, spans) = (Arc::clone(&gateway.access), gateway.spans());
        let close = {
            let gateway = Arc::clone(&gateway);
            move || gateway.close_mirror()
        };
        let admin = thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(Arc::clone(&gateway).follow_files());
                tokio::spawn(follow_cluster(Arc::clone(&gateway)));
                tokio::select! {
                    // The data plane only ends after a drain, so this one wins at the end.
                    _ = ended => {}
                    () = serve_admin(Arc::clone(&gateway), admin_orders) => {}
                    () = stop(gateway, shutdown) => {}
                }
            });
            // A file system that hangs keeps nobody from ending.
            runtime.shutdown_background();
        })?;
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        spans.flush();
        drop((over, lines, calendar));
        if admin.join().is_err() {
            tracing::error!("the admin thread panicked");
        }
        close();
        access.flush();
        tracing::info!("stopped");
        Ok(())
    }
}

/// Starts the thread that drives the lines, until what is returned is dropped: timers of a line
/// never wait for a request, and no worker has more to do than another.
fn drive_lines(gateway: &Arc<Gateway>) -> io::Result<oneshot::Sender<()>> {
    let runtime = runtime()?;
    gateway.driven_by(runtime.handle().clone());
    let (over, ended) = oneshot::channel();
    let gateway = Arc::clone(gateway);
    thread::Builder::new().name("lines".into()).spawn(move || {
        runtime.block_on(async move {
            tokio::spawn(gateway.sweep_wan());
            // Dropped at the end.
            let _: Result<(), _> = ended.await;
        });
    })?;
    Ok(over)
}

/// Starts the workers; each takes orders of what to listen on.
fn spawn_workers(
    gateway: &Arc<Gateway>,
    orders: Vec<Orders>,
    cpus: &[usize],
) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let mut threads = Vec::new();
    for (index, orders) in orders.into_iter().enumerate() {
        let (gateway, runtime) = (Arc::clone(gateway), runtime()?);
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let name = format!("worker-{index}");
        let thread = thread::Builder::new().name(name).spawn(move || {
            if let Some(Err(error)) = cpu.map(threads::stay_on) {
                tracing::warn!(?cpu, %error, "a worker is not pinned");
            }
            runtime.block_on(work(gateway, orders));
        })?;
        threads.push(thread);
    }
    Ok(threads)
}

/// A runtime of one thread, with enough others for the system's resolver.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVER_THREADS)
        .thread_keep_alive(RESOLVER_KEEP)
        .build()
}

async fn work(gateway: Arc<Gateway>, mut orders: Orders) {
    let worker = Worker::new(Arc::clone(&gateway));
    tokio::spawn(Arc::clone(&worker).sweep_local());
    let mut served = JoinSet::new();
    let mut serves = false;
    loop {
        let openings = tokio::select! {
            () = gateway.drain.reached(Phase::Draining) => break,
            openings = orders.recv() => openings.unwrap_or_default(),
            _ = served.join_next(), if !served.is_empty() => continue,
        };
        for opening in openings {
            served.spawn(serve(Arc::clone(&worker), opening));
        }
        if !std::mem::replace(&mut serves, true) {
            gateway.worker_serves();
        }
    }
    // Each takes what the kernel has for it before it ends.
    while served.join_next().await.is_some() {}
    tokio::select! {
        () = gateway.drain.empty() => {}
        () = gateway.drain.reached(Phase::CutAll) => {
            // Connections end by themselves now; do not wait for one that does not.
            let _ = tokio::time::timeout(LAST_WORDS, gateway.drain.empty()).await;
        }
    }
}

/// Serves one socket of a listener until the listener drains.
async fn serve(worker: Arc<Worker>, opening: Opening) {
    let Opening { spec, socket, entry } = opening;
    let served = match (spec.protocol, socket) {
        (ListenerProtocol::Http, Socket::Stream(socket)) => {
            server::serve(socket, entry, Arc::new(HttpEntry(worker))).await
        }
        (ListenerProtocol::Registry, Socket::Stream(socket)) => {
            server::serve(socket, entry, Arc::new(MirrorEntry(worker))).await
        }
        (ListenerProtocol::ForwardProxy, Socket::Stream(socket)) => {
            server::serve(socket, entry, Arc::new(ForwardEntry(worker))).await
        }
        (ListenerProtocol::TlsPassthrough | ListenerProtocol::Tcp, Socket::Stream(socket)) => {
            stream::serve(worker, &spec.name, socket, entry).await
        }
        (ListenerProtocol::Udp, Socket::Datagram(socket)) => {
            datagram::serve(worker, &spec.name, socket, entry).await
        }
        // The admin listener and the config endpoint have a thread of their own; a socket always
        // is of its protocol's transport.
        (ListenerProtocol::Admin | ListenerProtocol::ConfigEndpoint, _)
        | (_, Socket::Stream(_) | Socket::Datagram(_)) => Ok(()),
    };
    if let Err(error) = served {
        tracing::error!(name = &*spec.name, %error, "a listener ended");
    }
}

/// Serves the admin listener and the config endpoint, wherever they are, until aborted.
async fn serve_admin(gateway: Arc<Gateway>, mut orders: Orders) {
    let admin = AdminEntry::new(Arc::clone(&gateway));
    let config = ConfigEntry::new(gateway);
    while let Some(openings) = orders.recv().await {
        for Opening { spec, socket, entry } in openings {
            let Socket::Stream(socket) = socket else { continue };
            if spec.protocol == ListenerProtocol::ConfigEndpoint {
                tokio::spawn(server::serve_patient(socket, entry, Arc::clone(&config)));
            } else {
                tokio::spawn(server::serve(socket, entry, Arc::clone(&admin)));
            }
        }
    }
    std::future::pending().await
}

/// Waits for `shutdown`, then drains until aborted.
async fn stop(gateway: Arc<Gateway>, shutdown: impl Future<Output = ()>) {
    tokio::select! {
        () = shutdown => {}
        () = gateway.drain.reached(Phase::Draining) => {}
    }
    let timeout = gateway.running().effective.process.drain_timeout;
    tracing::info!(connections = gateway.drain.live(), deadline = ?timeout, "draining");
    gateway.drain_to(Phase::Draining);
    stage(&gateway.drain, timeout).await;
    std::future::pending().await
}

impl Control {
    /// Puts another config in effect, with its listeners.
    ///
    /// # Errors
    /// [`ReloadError`]; the running config stays.
    pub fn reload(&self, effective: Effective) -> Result<(), ReloadError> {
        crate::reload::apply(&self.gateway, effective)
    }

    /// Counts and logs a config that could not even be compiled.
    pub fn reload_failed(&self, why: &str) {
        crate::reload::failed(&self.gateway, why);
    }

    /// Begins to ask the sources of policy.
    pub(crate) fn reconcile(&self, booted: Booted) -> io::Result<Told> {
        booted.start(Arc::clone(&self.gateway))
    }

    /// Begins to follow another gateway.
    pub(crate) fn beside(&self, booted: sidecar::Booted) -> io::Result<mpsc::Receiver<()>> {
        booted.start(Arc::clone(&self.gateway))
    }

    /// The digest of the running config.
    pub fn digest(&self) -> Arc<str> {
        Arc::clone(&self.gateway.running().effective.digest)
    }

    /// Returns once it serves.
    pub(crate) async fn serves(&self) {
        self.gateway.serves().await;
    }

    /// Returns once it drains.
    pub(crate) async fn drains(&self) {
        self.gateway.drain.reached(Phase::Draining).await;
    }

    /// Every listening socket once more, for the next process.
    pub(crate) fn sockets(&self) -> io::Result<Vec<Named>> {
        self.gateway.listeners.copies()
    }

    /// The admin listener takes no connection any more.
    pub(crate) fn end_admin(&self) {
        self.gateway.listeners.end_admin();
    }

    /// Lines that `log` drops are counted with the gateway's own, and its last ones are at hand.
    pub(crate) fn logs_to(&self, log: &ProcessLog) {
        log.spool().count_drops(self.gateway.telemetry.log_dropped.clone());
        // There is one log.
        let _ = self.gateway.endpoint.recent.set(Arc::clone(log.recent()));
    }

    /// Opens log files anew.
    pub(crate) fn reopen_logs(&self) {
        self.gateway.access.reopen();
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.gateway.drain_to(Phase::Draining);
    }

    /// Ends everything at once.
    pub fn stop(&self) {
        self.gateway.drain_to(Phase::CutAll);
    }
}

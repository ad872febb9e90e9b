//! From an effective config to a process that serves: bind everything, then run.
//!
//! Workers are threads with a current-thread runtime each and a socket of their own on every
//! data listener (`SO_REUSEPORT`). The admin listener has its own thread and runtime: a scrape
//! never waits for a pull, nor a payment for a scrape.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tillgate_config::effective::{Effective, ListenerProtocol, ListenerSpec};
use tillgate_net::drain::{Drain, Phase};
use tillgate_net::http::server::{self, Entry};
use tillgate_net::listen::{ListenError, Shared};
use tillgate_net::upstream::resolver::CLIENT_LOOKUPS;

use crate::admin::AdminEntry;
use crate::gateway::{ForwardEntry, Gateway, HttpEntry, Listening, Worker, limits};
use crate::reload::ReloadError;

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
    /// The config has no class or no link; a compiled one always has.
    #[error("the config has no {0}; compile it from policy documents")]
    Empty(&'static str),
}

/// Everything is bound, nothing is served.
pub struct Bound {
    gateway: Arc<Gateway>,
    data: Vec<(ListenerSpec, Shared)>,
    admin: Vec<(ListenerSpec, TcpListener)>,
    drain_timeout: Duration,
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
    if effective.classes.is_empty() {
        return Err(BuildError::Empty("traffic class"));
    }
    if effective.links.is_empty() {
        return Err(BuildError::Empty("link"));
    }
    let workers = workers(&effective);
    let mut data = Vec::new();
    let mut admin = Vec::new();
    let mut listening = Vec::new();
    for spec in &effective.listeners {
        refuse_open_proxy(&effective, spec.protocol, spec.address)?;
        let is_admin = spec.protocol == ListenerProtocol::Admin;
        let count = if is_admin { 1 } else { workers };
        let shared = Shared::bind(spec.address, count).map_err(|source| BuildError::Listen {
            name: Arc::clone(&spec.name),
            flag: flag(&spec.name),
            source,
        })?;
        let (name, protocol, address) = (Arc::clone(&spec.name), spec.protocol, shared.address);
        listening.push(Listening { name, protocol, address });
        if is_admin {
            admin.extend(shared.sockets.into_iter().map(|socket| (spec.clone(), socket)));
        } else {
            data.push((spec.clone(), shared));
        }
    }
    let drain_timeout = effective.process.drain_timeout;
    let gateway = Gateway::new(Arc::new(effective), listening, workers);
    Ok(Bound { gateway, data, admin, drain_timeout })
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
        let found = self.gateway.listeners.iter().find(|listening| &*listening.name == name)?;
        Some(found.address)
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
    pub fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        self.run_armed(|| Ok(shutdown))
    }

    /// The same; `arm` makes `shutdown`, in the context of its runtime and before anything is
    /// served or said, so that no signal comes too early.
    ///
    /// # Errors
    /// If threads or runtimes cannot be had, or `arm` fails.
    pub fn run_armed<F>(self, arm: impl FnOnce() -> std::io::Result<F>) -> std::io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()?;
        let context = runtime.enter();
        let shutdown = arm()?;
        drop(context);
        for listening in &self.gateway.listeners {
            let protocol = format!("{:?}", listening.protocol);
            let (name, address) = (&*listening.name, listening.address);
            tracing::info!(name, %address, protocol, "listening");
        }
        let workers = spawn_workers(&self.gateway, self.data)?;
        let (over, ended) = tokio::sync::oneshot::channel::<()>();
        let gateway = Arc::clone(&self.gateway);
        let (listeners, drain_timeout) = (self.admin, self.drain_timeout);
        let admin = thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async move {
                for (spec, socket) in listeners {
                    let meter = gateway.metrics.listener(&spec.name);
                    // Probes and scrapes go on while the data plane drains.
                    let entry = Entry::new(limits(&spec.limits), meter, Drain::default());
                    let handler = AdminEntry::new(Arc::clone(&gateway));
                    tokio::spawn(server::serve(socket, entry, handler));
                }
                let stopping = stop(gateway, shutdown, drain_timeout);
                tokio::select! {
                    // The data plane only ends after a drain, so this one wins at the end.
                    _ = ended => {}
                    () = stopping => {}
                }
            });
        })?;
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        drop(over);
        if admin.join().is_err() {
            tracing::error!("the admin thread panicked");
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Starts the workers, each with its socket of every listener. No socket stays behind here: when
/// the workers stop listening, the kernel refuses new connections.
fn spawn_workers(
    gateway: &Arc<Gateway>,
    data: Vec<(ListenerSpec, Shared)>,
) -> std::io::Result<Vec<thread::JoinHandle<()>>> {
    let mut shares: Vec<Vec<Socket>> = (0..gateway.workers).map(|_| Vec::new()).collect();
    for (spec, shared) in data {
        let meter = gateway.metrics.listener(&spec.name);
        let entry = Entry::new(limits(&spec.limits), meter, gateway.drain.clone());
        for (share, socket) in shares.iter_mut().zip(shared.sockets) {
            share.push(Socket { socket, entry: Arc::clone(&entry), protocol: spec.protocol });
        }
    }
    let mut threads = Vec::new();
    for (index, sockets) in shares.into_iter().enumerate() {
        let gateway = Arc::clone(gateway);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(RESOLVER_THREADS)
            .thread_keep_alive(RESOLVER_KEEP)
            .build()?;
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(work(gateway, sockets, index)))?;
        threads.push(thread);
    }
    Ok(threads)
}

/// One worker's socket of one listener.
struct Socket {
    socket: TcpListener,
    entry: Arc<Entry>,
    protocol: ListenerProtocol,
}

async fn work(gateway: Arc<Gateway>, sockets: Vec<Socket>, index: usize) {
    let worker = Worker::new(Arc::clone(&gateway));
    if index == 0 {
        gateway.become_driver();
        tokio::spawn(Arc::clone(&gateway).sweep_wan());
    }
    tokio::spawn(Arc::clone(&worker).sweep_local());
    for Socket { socket, entry, protocol } in sockets {
        let worker = Arc::clone(&worker);
        tokio::spawn(async move {
            let served = match protocol {
                ListenerProtocol::Http => {
                    server::serve(socket, entry, Arc::new(HttpEntry(worker))).await
                }
                ListenerProtocol::ForwardProxy => {
                    server::serve(socket, entry, Arc::new(ForwardEntry(worker))).await
                }
                ListenerProtocol::Admin
                | ListenerProtocol::TlsPassthrough
                | ListenerProtocol::Tcp
                | ListenerProtocol::Udp => Ok(()),
            };
            if let Err(error) = served {
                tracing::error!(%error, "a listener ended");
            }
        });
    }
    gateway.worker_serves();
    gateway.drain.reached(Phase::Draining).await;
    tokio::select! {
        () = gateway.drain.empty() => {}
        () = gateway.drain.reached(Phase::CutAll) => {
            // Connections end by themselves now; do not wait for one that does not.
            let _ = tokio::time::timeout(LAST_WORDS, gateway.drain.empty()).await;
        }
    }
}

/// Waits for `shutdown`, then drains: critical classes get all of `timeout`, the others half.
async fn stop(gateway: Arc<Gateway>, shutdown: impl Future<Output = ()>, timeout: Duration) {
    tokio::select! {
        () = shutdown => {}
        () = gateway.drain.reached(Phase::Draining) => {}
    }
    let open = gateway.drain.live();
    tracing::info!(connections = open, deadline = ?timeout, "draining");
    gateway.drain.advance(Phase::Draining);
    tokio::time::sleep(timeout / 2).await;
    tracing::info!(connections = gateway.drain.live(), "draining: ending what is not critical");
    gateway.drain.advance(Phase::CutBulk);
    tokio::time::sleep(timeout / 2).await;
    tracing::info!(connections = gateway.drain.live(), "draining: the deadline has passed");
    gateway.drain.advance(Phase::CutAll);
    std::future::pending().await
}

impl Control {
    /// Puts another config in effect. Listeners keep their addresses and limits until a restart.
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

    /// The digest of the running config.
    pub fn digest(&self) -> Arc<str> {
        Arc::clone(&self.gateway.running().effective.digest)
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.gateway.drain.advance(Phase::Draining);
    }

    /// Ends everything at once.
    pub fn stop(&self) {
        self.gateway.drain.advance(Phase::CutAll);
    }
}

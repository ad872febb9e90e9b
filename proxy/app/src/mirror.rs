//! The registry mirror: one fetch per image for the whole store.
//!
//! A client's request is answered by `serve`, from disk or along with a fetch; `fetch` brings one
//! blob to the disk, `manifests` what names blobs, `upstream` asks a registry (tokens, redirects).
//! Fetches run on a thread of their own: they outlive the clients that began them, and their
//! hashing and TLS takes no time from a worker. What is decided is decided in the core; what lies
//! on disk is `tillgate_net::mirror`'s.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tillgate_core::mirror::budget::Budget;
use tillgate_core::mirror::{Code, MirrorSpec};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::client::Pool;
use tillgate_net::metrics::MirrorMeters;
use tillgate_net::mirror::{Broken, CacheError, Store};
use tillgate_net::upstream::Resolver;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::gate::Members;
use self::manifests::Flights;
use self::pulls::Pulls;
use self::token::Tokens;
use self::turns::Turns;
use self::upstream::Connectors;
use crate::bound::runtime;
use crate::gateway::Gateway;

mod answer;
mod fetch;
mod gate;
mod lists;
mod manifests;
mod pulls;
mod serve;
mod token;
mod turns;
mod upstream;

pub(crate) use self::serve::serve_request;

/// How often what idles is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The mirror of one directory, for as long as a config has it.
pub(crate) struct Mirror {
    gateway: Weak<Gateway>,
    /// Of its own thread.
    handle: Handle,
    pub(crate) store: Arc<Store>,
    meters: MirrorMeters,
    turns: Arc<Turns>,
    pulls: Pulls,
    tokens: Tokens,
    flights: Flights,
    members: Members,
    connectors: Connectors,
    budget: Mutex<Budget>,
    /// Connections to registries inside the store.
    local: Pool,
    /// Ends the thread when it is dropped, and with it every fetch.
    over: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// Why there is no mirror.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Its directory.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The system gives no thread.
    #[error("the registry mirror has no thread")]
    Thread(#[from] io::Error),
}

/// An image's repository at a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// As `docker.io`.
    registry: Arc<str>,
    /// As the registry calls it.
    repository: Arc<str>,
}

impl Mirror {
    /// Opens the cache and starts the thread.
    ///
    /// # Errors
    /// [`MirrorError`] says what to do.
    pub(crate) fn open(
        gateway: Weak<Gateway>,
        spec: &MirrorSpec,
        resolver: &Arc<Resolver>,
        meters: MirrorMeters,
    ) -> Result<Arc<Self>, MirrorError> {
        let store = Store::open(spec.cache.clone(), meters.clone())?;
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let (over, ended) = oneshot::channel();
        let mirror = Arc::new(Self {
            gateway,
            handle,
            store,
            turns: Turns::new(meters.running.clone(), meters.waiting.clone()),
            pulls: Pulls::new(&meters),
            meters,
            tokens: Tokens::default(),
            flights: Flights::default(),
            members: Members::default(),
            connectors: Connectors::default(),
            budget: Mutex::default(),
            local: Pool::new(Arc::clone(resolver)),
            over: Mutex::new(Some(over)),
            thread: Mutex::new(None),
        });
        mirror.follow(spec);
        let weak = Arc::downgrade(&mirror);
        let thread = thread::Builder::new().name("mirror".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(sweep(weak));
                // Dropped at the end.
                let _: Result<(), _> = ended.await;
            });
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        })?;
        *lock(&mirror.thread) = Some(thread);
        Ok(mirror)
    }

    /// Ends every fetch; what is on disk of it is gone on with by the next one. Fetches keep the
    /// mirror, so that it does not end by itself.
    pub(crate) fn end(&self) {
        drop(lock(&self.over).take());
    }

    /// The same, awaited, and the cache is closed. Blocks.
    pub(crate) fn close(&self) {
        self.end();
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the mirror's thread panicked");
        }
        self.store.close();
    }

    /// Another config with the same directory.
    pub(crate) fn follow(&self, spec: &MirrorSpec) {
        self.store.follow(spec.cache.clone());
        self.turns.set_limits(spec.fetches.running_max, spec.fetches.waiting_max);
        self.pulls.follow(&spec.serves);
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        lock(&self.budget)
    }

    /// Does `work` on the mirror's own thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Broken> {
        let done = self.handle.spawn(work).await;
        done.map_err(|_| Broken::new(Code::Unavailable, Some(Failure::Internal), "it broke off"))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks after what idles, until the mirror is gone.
async fn sweep(mirror: Weak<Mirror>) {
    let mut pinned_for = None;
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(mirror) = mirror.upgrade() else { return };
        let now = clock::now();
        mirror.local.sweep(now);
        mirror.store.recover(now).await;
        let Some(running) = mirror.gateway.upgrade().map(|gateway| gateway.running()) else {
            return;
        };
        let state = (Arc::clone(&running.effective.digest), mirror.store.manifests());
        if pinned_for.as_ref() != Some(&state) {
            mirror.pin(&running.effective.gate).await;
            pinned_for = Some(state);
        }
    }
}

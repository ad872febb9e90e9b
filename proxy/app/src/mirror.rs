//! The registry mirror: one fetch per image for the whole store.
//!
//! A client's request is answered by `serve`, from disk or along with a fetch; `fetch` brings one
//! blob to the disk, `manifests` what names blobs, `upstream` asks a registry (tokens, redirects).
//! Fetches run on a thread of their own: they outlive the clients that began them, and their
//! hashing and TLS takes no time from a worker. What is decided is decided in the core; what lies
//! on disk is `tillgate_net::mirror`'s.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tillgate_core::mirror::{Code, MirrorSpec};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::client::Pool;
use tillgate_net::metrics::{MirrorMeters, RolloutMeters};
use tillgate_net::mirror::{Broken, CacheError, Note, Store};
use tillgate_net::upstream::Resolver;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::gate::{Members, Openings, Wholes};
use self::lanes::{LOOK_EVERY, Lanes};
use self::manifests::Flights;
use self::prefetch::Prefetches;
use self::progress::Progress;
use self::pulls::Pulls;
use self::releases::Releases;
use self::spent::Spent;
use self::token::Tokens;
use self::turns::Turns;
use self::upstream::Connectors;
use crate::bound::runtime;
use crate::gateway::Gateway;
use crate::wall::StoreClock;

mod answer;
pub mod contents;
mod fetch;
mod gate;
mod lanes;
mod lists;
mod manifests;
mod prefetch;
mod progress;
mod pulls;
mod recent;
mod releases;
mod serve;
mod show;
mod spent;
mod token;
mod turns;
mod upstream;

pub(crate) use self::gate::Judged;
pub(crate) use self::serve::{meant, serve_request};

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
    openings: Openings,
    wholes: Wholes,
    connectors: Connectors,
    clock: Arc<StoreClock>,
    /// What the process before wrote down has been read.
    recalled: AtomicBool,
    releases: Releases,
    spent: Spent,
    lanes: Lanes,
    progress: Progress,
    prefetches: Prefetches,
    rollout_meters: RolloutMeters,
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
    pub(crate) registry: Arc<str>,
    /// As the registry calls it.
    pub(crate) repository: Arc<str>,
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
        clock: Arc<StoreClock>,
        (meters, rollout_meters): (MirrorMeters, RolloutMeters),
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
            openings: Openings::default(),
            wholes: Wholes::default(),
            connectors: Connectors::default(),
            clock,
            recalled: AtomicBool::new(false),
            releases: Releases::default(),
            spent: Spent::default(),
            lanes: Lanes::default(),
            progress: Progress::default(),
            prefetches: Prefetches::default(),
            rollout_meters,
            local: Pool::new(Arc::clone(resolver)),
            over: Mutex::new(Some(over)),
            thread: Mutex::new(None),
        });
        mirror.follow(spec);
        mirror.recall();
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
        if let Some(gateway) = self.gateway.upgrade() {
            self.lanes.lift(&gateway.running(), BTreeSet::new());
        }
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

    /// Reads what the process before wrote down, as soon as the disk is ours. Blocks, shortly.
    fn recall(&self) {
        if self.recalled.load(Ordering::Acquire) || !self.store.keeps() {
            return;
        }
        if let Some(text) = self.store.recall(Note::Time) {
            self.clock.recall_proven(&text);
        }
        self.releases.recall(&self.store, self.clock.now().1);
        self.spent.recall(&self.store);
        self.recalled.store(true, Ordering::Release);
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

/// Looks after what idles, and at how rollouts stand, until the mirror is gone.
async fn sweep(mirror: Weak<Mirror>) {
    let mut pinned_for = None;
    let mut swept_at = clock::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(mirror) = mirror.upgrade() else { return };
        let Some(running) = mirror.gateway.upgrade().map(|gateway| gateway.running()) else {
            return;
        };
        let (looking, config) = (Arc::clone(&mirror), Arc::clone(&running));
        // The search for an opening may take long, and fetches go on meanwhile.
        if tokio::task::spawn_blocking(move || looking.look(&config)).await.is_err() {
            tracing::error!("the look at rollouts panicked");
        }
        let now = clock::now();
        if now.saturating_duration_since(swept_at) < SWEEP_EVERY {
            continue;
        }
        swept_at = now;
        mirror.local.sweep(now);
        mirror.store.recover(now).await;
        mirror.recall();
        mirror.write_down().await;
        mirror.fetch_ahead(&running);
        mirror.measure(&running).await;
        let state = (Arc::clone(&running.effective.digest), mirror.store.manifests());
        if pinned_for.as_ref() != Some(&state) {
            mirror.releases.follow(&running.effective.gate);
            mirror.spent.follow(&running);
            mirror.pin(&running.effective.gate).await;
            pinned_for = Some(state);
        }
    }
}

impl Mirror {
    /// What the store has run, once what it ran before is known.
    async fn write_down_releases(&self) {
        if self.recalled.load(Ordering::Acquire) {
            self.releases.write_down(&self.store).await;
        }
    }

    /// What must be known after a restart.
    async fn write_down(&self) {
        if !self.recalled.load(Ordering::Acquire) {
            return;
        }
        self.write_down_releases().await;
        self.clock.look();
        if let Some(text) = self.clock.news() {
            self.store.remember(Note::Time, text).await;
        }
        if let Some(text) = self.spent.news() {
            self.store.remember(Note::Spent, text).await;
        }
    }
}

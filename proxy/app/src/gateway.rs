//! The gateway process: what its workers share, and what each has of its own.
//!
//! Shared: the running config behind one pointer, the WAN lines and the pools across them, the
//! instruments, the drain. Per worker: its pools inside the store and its share of every
//! listener's connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Request;
use hyper::body::Incoming;
use tillgate_config::defaults;
use tillgate_config::effective::Effective;
use tillgate_core::backend::Location;
use tillgate_core::class::ClassId;
use tillgate_net::clock;
use tillgate_net::drain::{Drain, Phase};
use tillgate_net::http::body::ResponseBody;
use tillgate_net::http::client::Pool;
use tillgate_net::http::server::{Caller, Handler};
use tillgate_net::limit::Book;
use tillgate_net::link::Link;
use tillgate_net::memory::{Ledger, Rank};
use tillgate_net::metrics::{
    Applying, LineCollector, Metrics, MirrorMeters, PolicyMeters, RolloutMeters, TelemetryMeters,
};
use tillgate_net::placed;
use tillgate_net::threads::{self, Tide};
use tillgate_net::tls::{FileError, Tls};
use tillgate_net::upstream::Resolver;
use tokio::sync::Notify;

use crate::access::AccessLog;
use crate::bound::BuildError;
use crate::endpoint::{Endpoint, SecretError};
use crate::export::{self, Spans};
use crate::failover::Failover;
use crate::lines::{Lines, Names};
use crate::listeners::{Listeners, Orders};
use crate::mirror::{self, Mirror, MirrorError};
use crate::outcome::Outcome;
use crate::problem::Answer;
use crate::reconcile::Shown;
use crate::running::{Connectors, Retired, Running, Sinks};
use crate::wall::StoreClock;
use crate::{forward, serve};

/// How often pools look for connections that have idled or lived too long.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What all workers share.
pub(crate) struct Gateway {
    running: ArcSwap<Running>,
    names: Mutex<Names>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) telemetry: TelemetryMeters,
    pub(crate) access: Arc<AccessLog>,
    pub(crate) policy_meters: PolicyMeters,
    /// What the policy loop says, where there is one.
    pub(crate) policy: Shown,
    /// What time it is in the store, as far as that is known.
    pub(crate) clock: Arc<StoreClock>,
    retired: Retired,
    sinks: Sinks,
    /// Until the export has begun.
    spans: Mutex<Option<export::Queue>>,
    /// Certificates, keys and authorities, on files that may change.
    pub(crate) tls: Arc<Tls>,
    pub(crate) drain: Drain,
    /// Connections across WAN lines: a pool per worker would multiply the windows.
    wan: Pool,
    resolver: Arc<Resolver>,
    mirror: ArcSwapOption<Mirror>,
    mirror_meters: OnceLock<MirrorMeters>,
    me: Weak<Self>,
    /// The runtime of the thread that drives the lines.
    driver: OnceLock<tokio::runtime::Handle>,
    pub(crate) listeners: Listeners,
    pub(crate) endpoint: Endpoint,
    serving: AtomicUsize,
    served: Notify,
    pub(crate) workers: usize,
}

impl Gateway {
    /// A gateway that listens nowhere yet, and what its workers and its admin thread take orders
    /// from.
    ///
    /// # Errors
    /// If a file that the config names cannot be used.
    pub(crate) fn new(
        effective: Arc<Effective>,
        workers: usize,
        resolver: Arc<Resolver>,
    ) -> Result<(Arc<Self>, Vec<Orders>), BuildError> {
        let metrics = Metrics::new(crate::admin::status::build());
        let tls = Tls::new(&metrics);
        let connectors = Connectors::new(&effective, &tls)?;
        let telemetry = TelemetryMeters::register(&metrics);
        let (spans, spans_end) = Spans::new(telemetry.clone());
        let access = Arc::new(AccessLog::new(telemetry.access_dropped.clone()));
        let memory = Ledger::new(effective.process.buffer_bytes_max);
        metrics.with_registry(|registry| memory.register(registry));
        let policy_meters = PolicyMeters::register(&metrics);
        let sinks = Sinks {
            metrics: Arc::clone(&metrics),
            access: Arc::clone(&access),
            spans,
            rates: Arc::new(Book::new(clock::now())),
            memory,
            failover: Failover::new(&effective.store, &metrics, Arc::clone(&resolver)),
            clock: Arc::new(StoreClock::new(policy_meters.clone(), Arc::clone(tls.floor()))),
            rollouts: RolloutMeters::register(&metrics),
        };
        let mut names = Names::default();
        metrics.reloaded(Ok(&effective.digest));
        let (lines, _) = Lines::default().next(&effective);
        let (found, _) = Running::wire(&effective, lines, &sinks.failover);
        let running = Running::new(Arc::clone(&effective), found, &mut names, &sinks, connectors);
        running.failover.ask(&running);
        resolver.keep(running.names());
        let drain = Drain::default();
        let (listeners, orders) = Listeners::new(workers, drain.clone());
        let endpoint = Endpoint::new(&metrics, &effective, Arc::clone(&sinks.clock), &tls)?;
        let gateway = Arc::new_cyclic(|me| Self {
            running: ArcSwap::from_pointee(running),
            names: Mutex::new(names),
            clock: Arc::clone(&sinks.clock),
            policy_meters,
            metrics,
            policy: Shown::default(),
            retired: Retired::default(),
            telemetry,
            access,
            sinks,
            spans: Mutex::new(Some(spans_end)),
            drain,
            tls,
            wan: Pool::new(Arc::clone(&resolver)),
            resolver,
            mirror: ArcSwapOption::empty(),
            mirror_meters: OnceLock::new(),
            me: Weak::clone(me),
            driver: OnceLock::new(),
            listeners,
            endpoint,
            serving: AtomicUsize::new(0),
            served: Notify::new(),
            workers,
        });
        gateway.show_lines();
        gateway.follow_mirror(&effective)?;
        Ok((gateway, orders))
    }

    /// Puts the lines into the scrape.
    fn show_lines(self: &Arc<Self>) {
        let gateway = Arc::downgrade(self);
        let collector = LineCollector::new(move || {
            let running = gateway.upgrade().map(|gateway| gateway.running());
            running.map_or_else(Vec::new, |running| running.lines().iter().cloned().collect())
        });
        self.metrics.with_registry(|registry| registry.register_collector(Box::new(collector)));
    }

    /// The config in effect. A request keeps the one it began with.
    pub(crate) fn running(&self) -> Arc<Running> {
        self.running.load_full()
    }

    /// Puts `effective` in effect: lines take its numbers, pools and flows survive.
    ///
    /// # Errors
    /// If the process has seen more class names than it can tell apart, or a file that the config
    /// names cannot be used.
    pub(crate) fn follow(&self, effective: Arc<Effective>) -> Result<(), NotFollowed> {
        let connectors = Connectors::new(&effective, &self.tls)?;
        let ready = self.endpoint.prepare(&effective)?;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<_> = effective.classes.iter().map(|(_, class)| &class.name).collect();
        if !names.fits(&wanted) {
            return Err(TooManyNames.into());
        }
        self.follow_mirror(&effective)?;
        let now = self.running();
        let (lines, fresh) = now.lines().next(&effective);
        let (found, held) = Running::wire(&effective, lines, self.failover());
        let next = Running::new(Arc::clone(&effective), found, &mut names, &self.sinks, connectors);
        let next = Arc::new(next);
        self.endpoint.admits(ready);
        // All that requests could wait for is the board, above, and this.
        let began = clock::now();
        now.lines().reconfigure(&effective);
        self.running.store(Arc::clone(&next));
        next.clear_calendar();
        self.policy_meters.took(Applying::Swap, held + began.elapsed());
        next.failover.ask(&next);
        self.resolver.keep(next.names());
        self.endpoint.took(Some(&now.effective.digest), &effective);
        self.retired.push(now);
        self.wan.cool();
        self.metrics.reloaded(Ok(&effective.digest));
        for link in fresh {
            self.drive(link);
        }
        Ok(())
    }

    /// The lines are driven there, whatever the workers do; spans are exported from there.
    pub(crate) fn driven_by(self: &Arc<Self>, driver: tokio::runtime::Handle) {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spans) = spans {
            driver.spawn(export::run(Arc::downgrade(self), spans, self.telemetry.clone()));
        }
        if self.driver.set(driver.clone()).is_ok() {
            driver.spawn(Arc::clone(&self.resolver).keep_fresh());
            driver.spawn(Arc::clone(&self.sinks.failover).drive(Arc::downgrade(self)));
            for link in self.running().lines().iter() {
                self.drive(Arc::clone(link));
            }
        }
    }

    /// The queue of spans.
    pub(crate) fn spans(&self) -> Spans {
        self.sinks.spans.clone()
    }

    fn drive(&self, link: Arc<Link>) {
        if let Some(driver) = self.driver.get() {
            driver.spawn(link.drive());
        }
    }

    /// No new connection from here on.
    pub(crate) fn drain_to(&self, phase: Phase) {
        self.listeners.let_go();
        self.drain.advance(phase);
    }

    /// Ends a listener that was taken away: its connections have the time of a drain.
    pub(crate) fn wind_down(&self, drain: Drain) {
        let timeout = self.running().effective.process.drain_timeout;
        match self.driver.get() {
            Some(driver) => drop(driver.spawn(async move { stage(&drain, timeout).await })),
            // Nothing is served yet.
            None => drain.advance(Phase::CutAll),
        }
    }

    /// Makes the mirror what `effective` says: another directory is another mirror.
    fn follow_mirror(&self, effective: &Effective) -> Result<(), MirrorError> {
        let Some(spec) = &effective.mirror else {
            self.change_mirror(None);
            return Ok(());
        };
        let now = self.mirror.load_full();
        if let Some(mirror) = now.filter(|now| now.store.directory() == spec.cache.directory) {
            mirror.follow(spec);
            return Ok(());
        }
        let meters = self.mirror_meters.get_or_init(|| MirrorMeters::register(&self.metrics));
        let meters = (meters.clone(), self.sinks.rollouts.clone());
        let (gateway, clock) = (Weak::clone(&self.me), Arc::clone(&self.clock));
        let mirror = Mirror::open(gateway, spec, &self.resolver, clock, meters)?;
        self.change_mirror(Some(mirror));
        Ok(())
    }

    fn change_mirror(&self, next: Option<Arc<Mirror>>) {
        if let Some(before) = self.mirror.swap(next) {
            before.end();
        }
    }

    /// The mirror, if the config has one.
    pub(crate) fn mirror(&self) -> Option<Arc<Mirror>> {
        self.mirror.load_full()
    }

    /// Nothing is fetched any more.
    pub(crate) fn close_mirror(&self) {
        if let Some(mirror) = self.mirror.swap(None) {
            mirror.close();
        }
    }

    pub(crate) const fn wan(&self) -> &Pool {
        &self.wan
    }

    /// The name behind a number for life.
    pub(crate) fn class_name(&self, class: ClassId) -> Option<Arc<str>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).name(class)
    }

    pub(crate) const fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    pub(crate) fn worker_serves(&self) {
        self.serving.fetch_add(1, Ordering::AcqRel);
        self.served.notify_waiters();
    }

    /// Returns once every worker serves.
    pub(crate) async fn serves(&self) {
        loop {
            let changed = self.served.notified();
            if self.serving.load(Ordering::Acquire) >= self.workers {
                return;
            }
            changed.await;
        }
    }

    /// The board, and who works for it.
    pub(crate) const fn failover(&self) -> &Arc<Failover> {
        &self.sinks.failover
    }

    /// What is held of bodies.
    pub(crate) const fn memory(&self) -> &Arc<Ledger> {
        &self.sinks.memory
    }

    /// Whether every worker serves, or did.
    pub(crate) fn has_started(&self) -> bool {
        self.serving.load(Ordering::Acquire) >= self.workers
    }

    /// What says whether it should get traffic now, each with why not, if so.
    pub(crate) fn checks(&self) -> [(&'static str, Option<&'static str>); 3] {
        let drains = self.drain.phase() != Phase::Open;
        [
            ("traffic", drains.then_some("draining")),
            ("workers", (!self.has_started()).then_some("starting")),
            ("memory", (!self.memory().admits(Rank::HIGHEST)).then_some("out of buffer memory")),
        ]
    }

    /// Why it should get no traffic now, if so.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        self.checks().into_iter().find_map(|(_, why)| why)
    }

    /// Takes certificate files that have changed, until aborted. A file system may hang, so files
    /// are read apart from the runtime.
    pub(crate) async fn follow_files(self: Arc<Self>) {
        loop {
            tokio::time::sleep(defaults::CERTIFICATE_CHECK).await;
            let gateway = Arc::clone(&self);
            let look = move || {
                gateway.tls.check_files();
                gateway.endpoint.check_files();
                let running = gateway.running();
                gateway.endpoint.show(&running.effective);
                gateway.endpoint.watch_gates(&gateway);
                gateway.endpoint.check_audit();
                drop(running);
                gateway.retired.forget();
            };
            if tokio::task::spawn_blocking(look).await.is_err() {
                self.metrics.panics.inc();
            }
        }
    }

    /// Closes what idles across the lines, gives back memory that threads share, until aborted.
    pub(crate) async fn sweep_wan(self: Arc<Self>) {
        let mut tide = Tide::default();
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.wan.sweep(clock::now());
            threads::release_freed();
            tide.follow(self.drain.live());
            self.sinks.failover.sweep(&self.running(), &self.wan, clock::now());
        }
    }
}

/// Ends what `drain` counts: critical classes get all of `timeout`, the others half.
pub(crate) async fn stage(drain: &Drain, timeout: Duration) {
    drain.advance(Phase::Draining);
    tokio::time::sleep(timeout / 2).await;
    if drain.live() > 0 {
        tracing::info!(connections = drain.live(), "draining: ending what is not critical");
    }
    drain.advance(Phase::CutBulk);
    tokio::time::sleep(timeout / 2).await;
    if drain.live() > 0 {
        tracing::info!(connections = drain.live(), "draining: the deadline has passed");
    }
    drain.advance(Phase::CutAll);
}

/// Why a config was not followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFollowed {
    #[error(transparent)]
    Names(#[from] TooManyNames),
    #[error(transparent)]
    Tls(#[from] FileError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// The process would need more class names than it has numbers for.
#[derive(Debug, thiserror::Error)]
#[error("this process has seen more than 255 class names; restart it to load this config")]
pub struct TooManyNames;

/// What one worker has of its own.
pub(crate) struct Worker {
    gateway: Arc<Gateway>,
    local: Pool,
}

impl Worker {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Arc<Self> {
        let local = Pool::new(Arc::clone(gateway.resolver()));
        Arc::new(Self { gateway, local })
    }

    pub(crate) const fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// The pool of connections to there.
    pub(crate) fn pool(&self, location: Location) -> &Pool {
        match location {
            Location::Local => &self.local,
            Location::Cloud => self.gateway.wan(),
        }
    }

    /// Closes what has idled inside the store and gives back its memory, until aborted.
    pub(crate) async fn sweep_local(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.local.sweep(clock::now());
            threads::release_freed();
        }
    }
}

/// The HTTP entry of one worker.
pub(crate) struct HttpEntry(pub(crate) Arc<Worker>);

/// The registry mirror of one worker.
pub(crate) struct MirrorEntry(pub(crate) Arc<Worker>);

/// The forward proxy of one worker.
pub(crate) struct ForwardEntry(pub(crate) Arc<Worker>);

impl Handler for HttpEntry {
    type Body = ResponseBody<Outcome>;

    async fn handle(self: Arc<Self>, request: Request<Incoming>, caller: Caller) -> Answer {
        placed::boxed(|| serve::serve_request(&self.0, request, caller)).await
    }
}

impl Handler for ForwardEntry {
    type Body = ResponseBody<Outcome>;

    async fn handle(self: Arc<Self>, request: Request<Incoming>, caller: Caller) -> Answer {
        placed::boxed(|| forward::serve_request(&self.0, request, caller)).await
    }
}

impl Handler for MirrorEntry {
    type Body = ResponseBody<Outcome>;

    async fn handle(self: Arc<Self>, request: Request<Incoming>, caller: Caller) -> Answer {
        placed::boxed(|| mirror::serve_request(&self.0, request, caller)).await
    }
}

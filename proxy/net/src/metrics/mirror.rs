//! Instruments of the registry mirror.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use tillgate_core::mirror::Code;
use tillgate_core::mirror::ledger::Ledger;

use super::Metrics;
use super::known::known;

/// How a request for a blob or manifest was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// From disk.
    Hit,
    /// Fetched for it.
    Miss,
    /// Along with a fetch that was under way.
    Joined,
    /// Fetched past the disk, for it alone.
    PastDisk,
    /// A tag that could not be asked for, as it was known before.
    Stale,
    /// The registry's own answer, passed on: a list.
    Passed,
}

impl Served {
    const ALL: [Self; 6] =
        [Self::Hit, Self::Miss, Self::Joined, Self::PastDisk, Self::Stale, Self::Passed];

    const fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::PastDisk => "past_disk",
            Self::Stale => "stale",
            Self::Passed => "passed",
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct MirrorMeters {
    served: Arc<[Counter]>,
    refused: Arc<[Counter]>,
    /// Body bytes that came from registries.
    pub fetched: Counter,
    /// Of these, bytes that were on disk already.
    pub repeated: Counter,
    /// Fetches that went on after a cut.
    pub resumed: Counter,
    /// Blobs and manifests that were not what their digests say.
    pub mismatches: Counter,
    /// Blobs that made room for others.
    pub evicted: Counter,
    /// Blobs that are fetched at this moment.
    pub running: Gauge,
    /// Blobs that wait for their turn.
    pub waiting: Gauge,
    /// Blobs that are sent to clients at this moment.
    pub pulling: Gauge,
    /// Clients that wait for their turn.
    pub pulls_waiting: Gauge,
    /// 1: what is fetched is kept; 0: pulls go past the disk.
    pub caching: Gauge,
    bytes: Gauge,
    blobs: Gauge,
}

impl MirrorMeters {
    /// Adds them to what a scrape of `metrics` shows.
    pub fn register(metrics: &Metrics) -> Self {
        let (answers, served) = known("result", Served::ALL.map(Served::label));
        let (refusals, refused) = known("code", Code::ALL.map(Code::label));
        let (fetches, [running, waiting]) = known("state", ["running", "waiting"]);
        let (pulls, [pulling, pulls_waiting]) = known("state", ["running", "waiting"]);
        let meters = Self {
            served: served.into(),
            refused: refused.into(),
            fetched: Counter::default(),
            repeated: Counter::default(),
            resumed: Counter::default(),
            mismatches: Counter::default(),
            evicted: Counter::default(),
            running,
            waiting,
            pulling,
            pulls_waiting,
            caching: Gauge::default(),
            bytes: Gauge::default(),
            blobs: Gauge::default(),
        };
        metrics.with_registry(|registry| {
            let text = "answered requests for manifests, blobs and lists of images, by result";
            registry.register("mirror_requests", text, answers);
            let text = "refused requests for images, by code";
            registry.register("mirror_refusals", text, refusals);
            registry.register("mirror_fetches", "blobs that are fetched, or wait for it", fetches);
            registry.register("mirror_pulls", "blobs that clients get, or wait for", pulls);
            let mut bytes = |name: &str, text: &str, counter: &Counter| {
                registry.register_with_unit(name, text, Unit::Bytes, counter.clone());
            };
            bytes("mirror_fetched", "body bytes of images from registries", &meters.fetched);
            let text = "of these, bytes that were on disk already";
            bytes("mirror_repeated", text, &meters.repeated);
            let text = "fetches of blobs that went on after a cut";
            registry.register("mirror_resumes", text, meters.resumed.clone());
            let text = "images' parts that were not what their digests say, and were thrown away";
            registry.register("mirror_mismatches", text, meters.mismatches.clone());
            let text = "blobs that made room for others";
            registry.register("mirror_evictions", text, meters.evicted.clone());
            let text = "1 while images are kept on disk, 0 while pulls go past it";
            registry.register("mirror_caching", text, meters.caching.clone());
            let text = "bytes of blobs on disk";
            registry.register_with_unit("mirror_cache", text, Unit::Bytes, meters.bytes.clone());
            registry.register("mirror_blobs", "blobs on disk", meters.blobs.clone());
        });
        meters
    }

    /// Counts an answer.
    pub fn serve(&self, how: Served) {
        self.served[how as usize].inc();
    }

    /// Counts a refusal.
    pub fn refuse(&self, code: Code) {
        self.refused[code as usize].inc();
    }

    /// What is on disk now.
    pub fn show(&self, blobs: &Ledger) {
        self.bytes.set(i64::try_from(blobs.bytes()).unwrap_or(i64::MAX));
        self.blobs.set(i64::try_from(blobs.len()).unwrap_or(i64::MAX));
    }
}

//! An opened release is fetched before anybody asks for it.
//!
//! One blob after the other, in the class and at the speed of its rollout, inside its windows: when
//! they close, what has begun is ended and the rest waits. After a freeze that held all stores each
//! begins in a turn of its own. Clients join what is under way. Of an
//! index the platform of this machine is fetched, or all of them where it is not among them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::civil::Timestamp;
use tillgate_core::gate::Rollout;
use tillgate_core::mirror::{Code, Digest};
use tillgate_net::clock;
use tillgate_net::mirror::{Broken, Claim};
use tokio::task::AbortHandle;

use super::manifests::{Platform, Wanted, pieces, platforms};
use super::{Mirror, Place, fetch};
use crate::running::Running;

/// After something went wrong; a fetch has tried for minutes by then.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// A blob that goes away while it is waited for is asked for again this often.
const TRIES_MAX: usize = 3;

/// Manifests of one image.
const MANIFESTS_MAX: usize = 64;

/// What is fetched ahead, by rollout.
#[derive(Debug, Default)]
pub(super) struct Prefetches(Mutex<BTreeMap<Arc<str>, Ahead>>);

#[derive(Debug)]
struct Ahead {
    release: Arc<str>,
    images: Vec<(Arc<str>, Arc<str>)>,
    /// `None` = it has ended, and how is below.
    task: Option<AbortHandle>,
    again_at: Option<Instant>,
}

impl Prefetches {
    fn ahead(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Ahead>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a rollout's release is being fetched ahead now.
    pub(super) fn is_running(&self, rollout: &str) -> bool {
        self.ahead().get(rollout).is_some_and(|ahead| ahead.task.is_some())
    }
}

impl Mirror {
    /// Begins what may begin, and ends what is of another policy. To be called every second.
    pub(super) fn fetch_ahead(self: &Arc<Self>, running: &Running) {
        let rollouts = &running.effective.gate.rollouts;
        let now = clock::now();
        let mut ahead = self.prefetches.ahead();
        ahead.retain(|name, one| {
            let same = |rollout: &&Rollout| {
                rollout.name == *name
                    && rollout.pulls.prefetch
                    && rollout.stages.release == one.release
                    && rollout.images == one.images
            };
            let stays = rollouts.iter().find(same).is_some();
            if !stays && let Some(task) = &one.task {
                task.abort();
            }
            stays
        });
        for rollout in rollouts.iter().filter(|rollout| rollout.pulls.prefetch) {
            let is_due =
                |one: &Ahead| one.task.is_none() && one.again_at.is_some_and(|at| at <= now);
            let is_due = ahead.get(&rollout.name).is_none_or(is_due);
            let may_begin = || self.is_open(rollout) && self.begins_at(rollout).is_none();
            if !is_due || !may_begin() || !self.store.keeps() {
                continue;
            }
            let (mirror, work) = (Arc::clone(self), rollout.clone());
            let task = self.handle.spawn(Box::pin(async move { mirror.run_ahead(work).await }));
            let one = Ahead {
                release: Arc::clone(&rollout.stages.release),
                images: rollout.images.clone(),
                task: Some(task.abort_handle()),
                again_at: None,
            };
            ahead.insert(Arc::clone(&rollout.name), one);
        }
    }

    /// When this store begins with a release whose freeze has ended, if that is still to come.
    pub(super) fn begins_at(&self, rollout: &Rollout) -> Option<Timestamp> {
        let (clock, now) = self.clock.now();
        let gateway = self.gateway.upgrade().filter(|_| rollout.pulls.prefetch)?;
        gateway.running().effective.gate.begins_at(rollout, clock, now)
    }

    fn is_open(&self, rollout: &Rollout) -> bool {
        self.lanes.stands(&rollout.name).is_some_and(|stands| stands.is_open())
    }

    async fn run_ahead(self: Arc<Self>, rollout: Rollout) {
        let (name, release) = (&*rollout.name, &*rollout.stages.release);
        tracing::info!(rollout = name, release, "a release is fetched ahead");
        let done = self.fetch_release(&rollout).await;
        match &done {
            Ok(()) => tracing::info!(rollout = name, release, "a release is here as a whole"),
            Err(broken) => {
                let detail = &*broken.detail;
                tracing::info!(rollout = name, release, detail, "fetching ahead waits");
            }
        }
        if let Some(one) = self.prefetches.ahead().get_mut(name) {
            one.task = None;
            // One that is whole stays: its parts are pinned.
            one.again_at = done.is_err().then(|| clock::now() + TRY_AGAIN);
        }
    }

    async fn fetch_release(self: &Arc<Self>, rollout: &Rollout) -> Result<(), Broken> {
        for (repository, digest) in &rollout.images {
            let Some(registry) = rollout.registry_of(repository) else { continue };
            let place =
                Place { registry: Arc::clone(registry), repository: Arc::clone(repository) };
            let Ok(image) = digest.parse() else { continue };
            let mut open = vec![image];
            for _ in 0..MANIFESTS_MAX {
                let Some(digest) = open.pop() else { break };
                self.may_fetch(rollout, &place)?;
                let found = self.manifest(&place, &Wanted::Digest(digest)).await?;
                self.members.learn(&found.manifest);
                open.extend(platforms(&found.manifest.body, Platform::OURS));
                for (blob, _) in pieces(&found.manifest.body) {
                    self.fetch_blob(rollout, &place, blob).await?;
                }
            }
        }
        Ok(())
    }

    async fn fetch_blob(
        self: &Arc<Self>,
        rollout: &Rollout,
        place: &Place,
        blob: Digest,
    ) -> Result<(), Broken> {
        let mut last = Err(waits("the disk loses blobs"));
        for _ in 0..TRIES_MAX {
            let live = match self.store.claim(blob) {
                Claim::Stored(_) => return Ok(()),
                Claim::Join(live) => live,
                Claim::Begin(ticket) => {
                    if let Err(broken) = self.may_fetch(rollout, place) {
                        ticket.broke(broken.clone());
                        return Err(broken);
                    }
                    let live = Arc::clone(ticket.live());
                    fetch::begin(self, place.clone(), ticket);
                    live
                }
                Claim::PastDisk => return Err(waits("nothing can be kept now")),
            };
            last = live.ended().await;
            if last.is_err() {
                break;
            }
        }
        last
    }

    /// Whether another part may be fetched ahead now.
    fn may_fetch(&self, rollout: &Rollout, place: &Place) -> Result<(), Broken> {
        if !self.is_open(rollout) {
            return Err(waits("the rollout is held"));
        }
        let running = self.gateway.upgrade().map(|gateway| gateway.running());
        let held = running.and_then(|running| self.over_budget(&running, place));
        held.map_or(Ok(()), |held| Err(waits(&held.message)))
    }
}

fn waits(why: &str) -> Broken {
    Broken::new(Code::TooManyRequests, None, why)
}

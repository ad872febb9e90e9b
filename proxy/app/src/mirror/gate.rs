//! The rollout gate in front of the mirror: may this manifest be pulled now?
//!
//! In: a manifest's digest, the policy's gate, what lies on disk. Out: what the client is told.
//! Manifests are asked about, never blobs: a pull is held before its first byte, and one that has
//! begun is finished. A release names the index of an image; the manifests that the index names
//! are released with it. An image that lies on disk as a whole costs no line and is never held: a
//! box that is replaced in a freeze gets what the store ran.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tillgate_config::effective::Effective;
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{
    self, Clock, Gate, Holding, Look, Opening, Prohibition, Rollout, StoreState,
};
use tillgate_core::mirror::{Digest, Unknown, Verdict};
use tillgate_net::mirror::{Manifest, Store};
use tokio::sync::watch;

use super::manifests::{Contents, contents};
use super::recent::Recent;
use super::{Mirror, Place};
use crate::running::Running;

/// Manifests whose index is remembered: those of a hundred images for many platforms.
const MEMBERS_MAX: usize = 8_192;

/// A rollout says when to ask again; this, where none is in charge.
const RETRY_UNKNOWN: Duration = Duration::from_secs(300);

/// Which index names a manifest.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    index_of: BTreeMap<Digest, Digest>,
    order: VecDeque<Digest>,
    /// Parts of releases that ran and are not the policy's.
    before: BTreeSet<Digest>,
}

impl Members {
    /// An index is handed out.
    pub(super) fn learn(&self, manifest: &Manifest) {
        let Contents { manifests, .. } = contents(&manifest.body);
        let mut known = self.known();
        for member in manifests {
            if known.index_of.insert(member, manifest.digest).is_none() {
                known.order.push_back(member);
            }
        }
        while known.order.len() > MEMBERS_MAX {
            let Some(oldest) = known.order.pop_front() else { return };
            known.index_of.remove(&oldest);
        }
    }

    fn is_of_before(&self, blob: &Digest) -> bool {
        self.known().before.contains(blob)
    }

    fn index_of(&self, digest: &Digest) -> Option<Digest> {
        self.known().index_of.get(digest).copied()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When what is held opens: the config, the rollout, the repository, the state of the store.
pub(super) type Openings = Recent<(Arc<str>, Arc<str>, Arc<str>, StoreState), Option<Timestamp>>;

/// Whether all of an image lies on disk, while that has so many blobs.
pub(super) type Wholes = Recent<(Digest, usize), bool>;

impl Mirror {
    /// May this manifest be pulled now?
    pub(super) async fn verdict(
        self: &Arc<Self>,
        running: &Arc<Running>,
        place: &Place,
        digest: &Digest,
    ) -> Verdict {
        let gate = &running.effective.gate;
        if gate.is_empty() {
            return Verdict::Allowed;
        }
        let (clock, now) = self.clock.now();
        let judged = self.judge(&running.effective, (place, digest), (clock, now), Look::Now).await;
        let Verdict::Held { rollout, by, reason, retry_after, opens } = judged.verdict else {
            return judged.verdict;
        };
        self.count_held(rollout.as_ref(), &by);
        let named = |name: &Arc<str>| gate.rollouts.iter().find(|one| one.name == *name);
        let (retry_after, opens) = match (rollout.as_ref().and_then(named), opens) {
            (Some(rollout), Some(_)) => {
                let (repository, store) = (Arc::clone(&place.repository), judged.store);
                let opens = self.opens(running, rollout, (repository, store), clock).await;
                let usual = rollout.pulls.retry_after;
                (gate::retry_after(usual, opens, now, fastrand::u32(..)), opens)
            }
            // Nothing says when.
            (_, opens) => (retry_after, opens),
        };
        Verdict::Held { rollout, by, reason, retry_after, opens }
    }

    /// When a rollout opens for a repository (an empty one: for any). The search may take long: it
    /// is made beside all threads that serve.
    async fn opens(
        &self,
        running: &Arc<Running>,
        rollout: &Rollout,
        (repository, store): (Arc<str>, StoreState),
        clock: Clock,
    ) -> Option<Timestamp> {
        let name = Arc::clone(&rollout.name);
        let digest = Arc::clone(&running.effective.digest);
        let key = (digest, Arc::clone(&name), Arc::clone(&repository), store);
        let (running, now) = (Arc::clone(running), self.clock.now().1);
        let find = move || {
            let gate = &running.effective.gate;
            let rollout = gate.rollouts.iter().find(|one| one.name == name)?;
            let repository = Some(&*repository).filter(|name| !name.is_empty());
            gate.of_pull(rollout, (repository, store), (clock, Look::Ahead), now).next_open
        };
        let begin = |tell: watch::Sender<Option<Option<Timestamp>>>| {
            self.handle.spawn_blocking(move || tell.send_replace(Some(find())));
        };
        self.openings.get(key, begin).await.flatten()
    }

    /// Whether all of an image lies on disk.
    async fn is_whole(&self, digest: Digest) -> bool {
        if !self.store.has_manifest(&digest) {
            return false;
        }
        let store = Arc::clone(&self.store);
        let begin = |tell: watch::Sender<Option<bool>>| {
            let find = async move { tell.send_replace(Some(is_whole(&store, digest).await)) };
            self.handle.spawn(find);
        };
        let blobs = self.store.holds().1;
        self.wholes.get((digest, blobs), begin).await.unwrap_or(false)
    }

    /// What `effective` says of a manifest at some moment, by what this store has and ran.
    pub(crate) async fn judge(
        &self,
        effective: &Effective,
        (place, digest): (&Place, &Digest),
        (clock, now): (Clock, Timestamp),
        look: Look,
    ) -> Judged {
        let judge = |digest: &Digest, cached: Option<Holding>| {
            let text = digest.to_string();
            let rollout = effective.gate.in_charge(&place.registry, &place.repository, &text);
            let (holding, store) = {
                let ran = self.releases.ran();
                let store = rollout.map_or(StoreState::Running, |rollout| ran.state(rollout, now));
                (ran.holding(&place.repository, &text), store)
            };
            let has = (cached.unwrap_or(holding), store);
            Judged::new(effective, (place, digest), has, (clock, now), look)
        };
        let judged = judge(digest, None);
        if !matches!(judged.verdict, Verdict::Held { .. }) {
            return judged;
        }
        if let Some(index) = self.members.index_of(digest) {
            let of_index = judge(&index, None);
            if of_index.verdict == Verdict::Allowed {
                return of_index;
            }
        }
        if self.is_whole(*digest).await {
            return judge(digest, Some(Holding::Cached));
        }
        judged
    }

    /// Why no further part of an image is fetched although its pull has begun, if so: its rollout
    /// pauses when its window closes, and what it is part of did not run before.
    pub(super) async fn closed(
        &self,
        running: &Arc<Running>,
        place: &Place,
        blob: &Digest,
    ) -> Option<Verdict> {
        if self.members.is_of_before(blob) {
            return None;
        }
        let gate = &running.effective.gate;
        let rollout = gate.in_charge(&place.registry, &place.repository, "")?;
        if !rollout.pulls.pause_on_window_close || rollout.pulls.throttle.is_some() {
            return None;
        }
        let (clock, now) = self.clock.now();
        let store = self.releases.ran().state(rollout, now);
        let mut opening = gate.of_pull(rollout, (None, store), (clock, Look::Now), now);
        if opening.held_by.is_empty() {
            return None;
        }
        if opening.next_open.is_some() {
            opening.next_open = self.opens(running, rollout, ("".into(), store), clock).await;
        }
        Some(held(&opening, now, fastrand::u32(..)))
    }

    fn count_held(&self, rollout: Option<&Arc<str>>, by: &[String]) {
        // No rollout is in charge, and none is called so.
        let none = || Arc::from("-");
        let rollout = rollout.map_or_else(none, Arc::clone);
        for document in by {
            self.rollout_meters.held(&rollout, document);
        }
    }

    /// A manifest is handed out: if a release names it, or its index, that release runs here.
    pub(super) async fn given(&self, running: &Running, place: &Place, digest: &Digest) {
        let gate = &running.effective.gate;
        if gate.rollouts.is_empty() {
            return;
        }
        let of = |digest: Digest| {
            let text = digest.to_string();
            let rollout = gate.in_charge(&place.registry, &place.repository, &text)?;
            rollout.releases(&place.repository, &text).then_some((rollout, text))
        };
        let Some((rollout, image)) = of(*digest).or_else(|| of(self.members.index_of(digest)?))
        else {
            return;
        };
        let image = (&*place.repository, &*image);
        if self.releases.given(rollout, image, self.clock.now().1) {
            let (name, release) = (&*rollout.name, &*rollout.stages.release);
            let repository = image.0;
            tracing::info!(rollout = name, release, repository, "handed out for the first time");
            self.write_down_releases().await;
        }
    }

    /// Pins what the releases of the policy name, and those that ran, as far as it is there.
    pub(super) async fn pin(&self, gate: &Gate) {
        let digests = |images: &[(Arc<str>, Arc<str>)]| -> Vec<Digest> {
            images.iter().filter_map(|(_, digest)| digest.parse().ok()).collect()
        };
        let (mut current, mut before) = (Vec::new(), Vec::new());
        for rollout in &gate.rollouts {
            current.extend(digests(&rollout.images));
            let kept = 1 + usize::from(rollout.previous_releases);
            let ran = self.releases.ran();
            let ran = ran.of(&rollout.name).take(kept);
            let others = ran.filter(|ran| ran.release != rollout.stages.release);
            before.extend(others.flat_map(|ran| digests(&ran.images)));
        }
        let before = self.parts_of(before).await;
        let mut pinned = self.parts_of(current).await;
        pinned.extend(&before);
        self.members.known().before = before;
        self.store.pin(pinned);
    }

    /// These images with all that they name, as far as their manifests are here.
    async fn parts_of(&self, mut open: Vec<Digest>) -> BTreeSet<Digest> {
        let mut parts = BTreeSet::new();
        while let Some(digest) = open.pop() {
            if !parts.insert(digest) {
                continue;
            }
            let Some(manifest) = self.store.manifest(digest).await else { continue };
            // What an index names is released with it, also after a restart.
            self.members.learn(&manifest);
            let Contents { manifests, blobs } = contents(&manifest.body);
            parts.extend(blobs);
            open.extend(manifests);
        }
        parts
    }
}

/// Whether all of an image lies on disk; of an index, all of one that it names.
async fn is_whole(store: &Store, digest: Digest) -> bool {
    let mut open = vec![digest];
    while let Some(digest) = open.pop() {
        let Some(manifest) = store.manifest(digest).await else { continue };
        let Contents { manifests, blobs } = contents(&manifest.body);
        if !blobs.is_empty() && blobs.iter().all(|blob| store.is_stored(blob)) {
            return true;
        }
        if open.len() + manifests.len() <= MEMBERS_MAX {
            open.extend(manifests);
        }
    }
    false
}

/// What is told to whoever pulls a manifest, and by what of it in this store.
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    /// What the gate was asked about: a manifest, or the index that names it.
    pub(crate) digest: Digest,
    pub(crate) holding: Holding,
    pub(crate) store: StoreState,
}

impl Judged {
    /// What `effective` says at some moment of a manifest in a store that has so much of it.
    pub(crate) fn new(
        effective: &Effective,
        (place, digest): (&Place, &Digest),
        (holding, store): (Holding, StoreState),
        at: (Clock, Timestamp),
        look: Look,
    ) -> Self {
        let mirror = effective.mirror.as_ref();
        let upstream = mirror
            .and_then(|mirror| mirror.upstreams.iter().find(|one| one.registry == place.registry));
        let unknown = upstream.map_or(Unknown::Hold, |upstream| upstream.unknown);
        let ask = Question { gate: &effective.gate, place, digest, holding, store, unknown };
        let verdict = ask.answer(at, look, fastrand::u32(..));
        Self { verdict, digest: *digest, holding, store }
    }
}

/// What the gate is asked.
struct Question<'a> {
    gate: &'a Gate,
    place: &'a Place,
    digest: &'a Digest,
    holding: Holding,
    store: StoreState,
    unknown: Unknown,
}

impl Question<'_> {
    fn answer(&self, (clock, now): (Clock, Timestamp), look: Look, draw: u32) -> Verdict {
        let digest = self.digest.to_string();
        let ask = gate::Ask {
            registry: &self.place.registry,
            repository: &self.place.repository,
            digest: &digest,
            holding: self.holding,
            store: self.store,
        };
        match self.gate.glance(&ask, (clock, look), now) {
            gate::Verdict::Kept(_) | gate::Verdict::Open(_) => Verdict::Allowed,
            // It trickles: its fetches are slowed down.
            gate::Verdict::Held(Opening { rollout: Some(rollout), .. })
                if rollout.pulls.throttle.is_some() =>
            {
                Verdict::Allowed
            }
            gate::Verdict::Prohibited(one) => prohibited(one),
            gate::Verdict::Held(opening) => held(&opening, now, draw),
            gate::Verdict::Unknown(rollout) => {
                let concerns = |one: &gate::Rollout| {
                    one.artifacts.iter().any(|named| named.registry == self.place.registry)
                };
                let is_managed = rollout.is_some() || self.gate.rollouts.iter().any(concerns);
                if self.unknown == Unknown::Allow || !is_managed {
                    return Verdict::Allowed;
                }
                let wait = rollout.map_or(RETRY_UNKNOWN, |rollout| rollout.pulls.retry_after);
                Verdict::Held {
                    rollout: rollout.map(|rollout| Arc::clone(&rollout.name)),
                    by: vec!["UnknownArtifact".to_owned()],
                    reason: format!(
                        "no Rollout has released {}@{digest}; name it in a release, or set the \
                         registry's unknownArtifacts to Allow",
                        self.place.repository
                    ),
                    retry_after: gate::spread(wait, draw),
                    opens: None,
                }
            }
        }
    }
}

/// What a client is told of a repository that is forbidden.
pub(super) fn prohibited(one: &Prohibition) -> Verdict {
    Verdict::Prohibited { by: format!("Prohibition/{}", one.name), reason: one.reason.to_string() }
}

/// What a client of a pull that waits is told.
pub(super) fn held(opening: &Opening<'_>, now: Timestamp, draw: u32) -> Verdict {
    let by: Vec<String> = opening.held_by.iter().map(ToString::to_string).collect();
    let usual = opening.rollout.map_or(RETRY_UNKNOWN, |rollout| rollout.pulls.retry_after);
    let rollout = opening.rollout.map_or("the policy", |rollout| &rollout.name);
    Verdict::Held {
        rollout: opening.rollout.map(|rollout| Arc::clone(&rollout.name)),
        reason: format!("{rollout} is held by {}", by.join(", ")),
        by,
        retry_after: gate::retry_after(usual, opening.next_open, now, draw),
        opens: opening.next_open,
    }
}

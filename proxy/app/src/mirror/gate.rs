//! The rollout gate in front of the mirror: may this manifest be pulled now?
//!
//! In: a manifest's digest, the policy's gate, what lies on disk. Out: what the client is told.
//! Manifests are asked about, never blobs: a pull is held before its first byte, and one that has
//! begun is finished. A release names the index of an image; the manifests that the index names
//! are released with it. An image that lies on disk as a whole costs no line and is never held: a
//! box that is replaced in a freeze gets what the store ran.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{self, Clock, Gate, Holding, Opening, StoreState};
use tillgate_core::mirror::{Digest, Unknown, Verdict};
use tillgate_net::clock;
use tillgate_net::mirror::{Manifest, Store};

use super::manifests::{Contents, contents};
use super::{Mirror, Place};
use crate::running::Running;

/// Manifests whose index is remembered: those of a hundred images for many platforms.
const MEMBERS_MAX: usize = 8_192;

/// A held client asks again by then, whatever the policy says: windows are added at any time.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// A rollout says when to ask again; this, where none is in charge.
const RETRY_UNKNOWN: Duration = Duration::from_secs(300);

/// Part by which waits differ, in percent: tills that were held together must not come together.
const JITTER_PERCENT: u32 = 20;

/// Which index names a manifest.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    index_of: BTreeMap<Digest, Digest>,
    order: VecDeque<Digest>,
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

    fn index_of(&self, digest: &Digest) -> Option<Digest> {
        self.known().index_of.get(digest).copied()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mirror {
    /// May this manifest be pulled now?
    pub(super) async fn verdict(
        &self,
        running: &Running,
        place: &Place,
        digest: &Digest,
    ) -> Verdict {
        let gate = &running.effective.gate;
        if gate.is_empty() {
            return Verdict::Allowed;
        }
        let mirror = running.effective.mirror.as_ref();
        let upstream = mirror
            .and_then(|mirror| mirror.upstreams.iter().find(|one| one.registry == place.registry));
        let unknown = upstream.map_or(Unknown::Hold, |upstream| upstream.unknown);
        let now = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let judge = |digest: &Digest, holding| {
            let ask = Question { gate, place, digest, holding, unknown };
            ask.answer(now, fastrand::u32(..))
        };
        let verdict = judge(digest, Holding::New);
        if !matches!(verdict, Verdict::Held { .. }) {
            return verdict;
        }
        if let Some(index) = self.members.index_of(digest)
            && judge(&index, Holding::New) == Verdict::Allowed
        {
            return Verdict::Allowed;
        }
        if is_whole(&self.store, *digest).await { judge(digest, Holding::Cached) } else { verdict }
    }

    /// Pins what the releases of the policy name, as far as it is there.
    pub(super) async fn pin(&self, gate: &Gate) {
        let mut pinned = BTreeSet::new();
        let images = gate.rollouts.iter().flat_map(|rollout| &rollout.images);
        let mut open: Vec<Digest> = images.filter_map(|(_, digest)| digest.parse().ok()).collect();
        while let Some(digest) = open.pop() {
            if !pinned.insert(digest) {
                continue;
            }
            let Some(manifest) = self.store.manifest(digest).await else { continue };
            let Contents { manifests, blobs } = contents(&manifest.body);
            pinned.extend(blobs);
            open.extend(manifests);
        }
        self.store.pin(pinned);
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

/// What the gate is asked.
struct Question<'a> {
    gate: &'a Gate,
    place: &'a Place,
    digest: &'a Digest,
    holding: Holding,
    unknown: Unknown,
}

impl Question<'_> {
    fn answer(&self, now: Timestamp, draw: u32) -> Verdict {
        let digest = self.digest.to_string();
        let ask = gate::Ask {
            registry: &self.place.registry,
            repository: &self.place.repository,
            digest: &digest,
            holding: self.holding,
            store: StoreState::Running,
        };
        match self.gate.verdict(&ask, Clock::Synced, now) {
            gate::Verdict::Kept(_) | gate::Verdict::Open(_) => Verdict::Allowed,
            gate::Verdict::Prohibited(one) => Verdict::Prohibited {
                by: format!("Prohibition/{}", one.name),
                reason: one.reason.to_string(),
            },
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
                    by: vec!["UnknownArtifact".to_owned()],
                    reason: format!(
                        "no Rollout has released {}@{digest}; name it in a release, or set the \
                         registry's unknownArtifacts to Allow",
                        self.place.repository
                    ),
                    retry_after: spread(wait, draw),
                    opens: None,
                }
            }
        }
    }
}

fn held(opening: &Opening<'_>, now: Timestamp, draw: u32) -> Verdict {
    let by: Vec<String> = opening.held_by.iter().map(ToString::to_string).collect();
    let usual = opening.rollout.map_or(RETRY_UNKNOWN, |rollout| rollout.pulls.retry_after);
    let mut wait = spread(usual, draw).min(RETRY_MAX);
    if let Some(at) = opening.next_open {
        // Who would come later than it opens comes when it opens.
        wait = wait.min(now.until(at).max(Duration::from_secs(1)));
    }
    let rollout = opening.rollout.map_or("the policy", |rollout| &rollout.name);
    Verdict::Held {
        reason: format!("{rollout} is held by {}", by.join(", ")),
        by,
        retry_after: wait,
        opens: opening.next_open.map(|at| at.to_string()),
    }
}

/// `wait`, longer or shorter by chance.
fn spread(wait: Duration, draw: u32) -> Duration {
    let percent = 100 - JITTER_PERCENT + draw % (2 * JITTER_PERCENT + 1);
    wait * percent / 100
}

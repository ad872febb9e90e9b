//! How far the images of the releases are: bytes that are here, of how many, and how fast they
//! come. Looked at every second; whoever shows it asks nobody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::mirror::Digest;
use tillgate_net::clock;

use super::Mirror;
use super::manifests::{Platform, pieces, platforms};
use crate::running::Running;

/// Over how long a rate is taken: long enough for turns of flows, short enough to see a brake.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Manifests of one image that are looked at: an index of every platform there is.
const MANIFESTS_MAX: usize = 64;

/// How far an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Far {
    /// Bytes that are here.
    pub(super) here: u64,
    /// Bytes in all; `None` = its manifests are not here yet.
    pub(super) total: Option<u64>,
    /// Bytes a second.
    pub(super) rate: u64,
}

impl Far {
    pub(super) fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.here >= total)
    }

    /// How long it still takes, if it goes on like this.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = self.total?.saturating_sub(self.here);
        left.checked_div(self.rate).map(Duration::from_secs)
    }
}

/// An image's parts, as its manifests name them.
type Parts = Arc<[(Digest, u64)]>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    parts: BTreeMap<Digest, Parts>,
    seen: BTreeMap<Digest, VecDeque<(Instant, u64)>>,
    far: BTreeMap<Digest, Far>,
}

impl Progress {
    /// How far an image was a moment ago.
    pub(super) fn of(&self, image: &Digest) -> Far {
        self.inner().far.get(image).copied().unwrap_or_default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, image: Digest, here: u64, total: Option<u64>, now: Instant) -> Far {
        let mut inner = self.inner();
        let seen = inner.seen.entry(image).or_default();
        seen.push_back((now, here));
        // What was before it came, or stood still, says nothing of how fast it comes.
        let is_past = |seen: &VecDeque<(Instant, u64)>| match (seen.front(), seen.get(1)) {
            (Some((_, before)), Some((at, then))) => before == then || *at + RATE_OVER <= now,
            _ => false,
        };
        while seen.len() > 2 && is_past(seen) {
            seen.pop_front();
        }
        let rate = seen.front().map_or(0, |(at, before)| {
            let millis = u64::try_from(now.saturating_duration_since(*at).as_millis());
            let came = here.saturating_sub(*before).saturating_mul(1000);
            came.checked_div(millis.unwrap_or(u64::MAX)).unwrap_or(0)
        });
        let far = Far { here, total, rate };
        inner.far.insert(image, far);
        far
    }
}

impl Mirror {
    /// Looks at every image of every release.
    pub(super) async fn measure(&self, running: &Running) {
        let rollouts = &running.effective.gate.rollouts;
        let mut known = Vec::new();
        for rollout in rollouts {
            let (mut here, mut total) = (0, 0);
            for (_, digest) in &rollout.images {
                let Ok(image) = digest.parse() else { continue };
                known.push(image);
                let parts = self.parts(image).await;
                let arrived = parts.iter().flat_map(|parts| parts.iter());
                let image_here = arrived.map(|(part, _)| self.store.arrived(part)).sum();
                let whole = parts.map(|parts| parts.iter().map(|(_, bytes)| bytes).sum());
                let far = self.progress.put(image, image_here, whole, clock::now());
                here += far.here;
                total += far.total.unwrap_or(0);
            }
            self.rollout_meters.progress(&rollout.name, here, total);
        }
        let mut inner = self.progress.inner();
        let inner = &mut *inner;
        inner.parts.retain(|image, _| known.contains(image));
        inner.seen.retain(|image, _| known.contains(image));
        inner.far.retain(|image, _| known.contains(image));
    }

    /// The parts of an image, if its manifests are here: of an index, those of the platforms that
    /// are fetched ahead.
    async fn parts(&self, image: Digest) -> Option<Parts> {
        if let Some(parts) = self.progress.inner().parts.get(&image) {
            return Some(Arc::clone(parts));
        }
        let mut parts = BTreeMap::new();
        let mut open = vec![image];
        let mut looked_at = 0;
        while let Some(digest) = open.pop() {
            looked_at += 1;
            if looked_at > MANIFESTS_MAX {
                break;
            }
            if !self.store.has_manifest(&digest) {
                return None;
            }
            let manifest = self.store.manifest(digest).await?;
            parts.extend(pieces(&manifest.body));
            open.extend(platforms(&manifest.body, Platform::OURS));
        }
        let parts: Parts = parts.into_iter().collect();
        self.progress.inner().parts.insert(image, Arc::clone(&parts));
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let (progress, image, began) = (Progress::default(), Digest([1; 32]), clock::now());
        for second in 0..30 {
            let here = if second < 15 { second * 1000 } else { 15_000 };
            let now = began + Duration::from_secs(second);
            let far = progress.put(image, here, Some(20_000), now);
            if second == 12 {
                assert_eq!((far.rate, far.left()), (1000, Some(Duration::from_secs(8))));
            }
        }
        let far = progress.of(&image);
        assert_eq!((far.rate, far.left(), far.is_whole()), (0, None, false));
        let now = began + Duration::from_secs(31);
        let far = progress.put(image, 17_000, Some(20_000), now);
        assert_eq!(far.rate, 1000, "it came in two seconds");
        let now = began + Duration::from_secs(40);
        assert!(progress.put(image, 20_000, Some(20_000), now).is_whole());
        assert!(!progress.of(&Digest([2; 32])).is_whole(), "nobody knows how large it is");
    }
}

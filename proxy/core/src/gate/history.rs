//! What a store has run: the releases whose images it has handed out, the newest first.
//!
//! In: a rollout of which an image was handed out, the time. Out: what a digest is to this store
//! ([`Holding`]), whether the store is being rebuilt ([`StoreState`]), and lines to keep on disk.
//! A store that begins with nothing is rebuilt for a day: after that an image that nobody asked
//! for is a change like any other.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::{Holding, Rollout, StoreState};
use crate::civil::Timestamp;

/// Releases of a rollout: the one that runs and the most that `previousReleases` may name.
const RELEASES_MAX: usize = 17;

/// Rollouts that are remembered; those that the policy has no more go first.
const ROLLOUTS_MAX: usize = 256;

/// Images of a release that are remembered.
const IMAGES_MAX: usize = 1024;

/// How long a store that began with nothing is being rebuilt.
const RESTORE_FOR: Duration = Duration::from_secs(24 * 3600);

/// A release that ran, or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its name.
    pub release: Arc<str>,
    /// When its first image was handed out.
    pub since: Timestamp,
    /// Repository and digest of its images that were handed out.
    pub images: Vec<(Arc<str>, Arc<str>)>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    rollouts: BTreeMap<Arc<str>, VecDeque<Ran>>,
    /// When the store began with nothing; `None` = it did not.
    began: Option<Timestamp>,
}

impl History {
    /// A store that has nothing yet.
    pub fn empty(now: Timestamp) -> Self {
        Self { rollouts: BTreeMap::new(), began: Some(now) }
    }

    /// What was handed out `before` becomes known after this was.
    pub fn comes_after(&mut self, before: Self) {
        let later = std::mem::replace(self, before);
        self.began = self.began.or(later.began);
        for (rollout, releases) in later.rollouts {
            let known = self.rollouts.entry(rollout).or_default();
            // The oldest first: what comes last is in front.
            for mut ran in releases.into_iter().rev() {
                let place = known.iter().position(|one| one.release == ran.release);
                if let Some(earlier) = place.and_then(|place| known.remove(place)) {
                    if place == Some(0) {
                        ran.since = earlier.since;
                    }
                    let news = |image: &_| !earlier.images.contains(image);
                    let later = std::mem::take(&mut ran.images).into_iter().filter(news);
                    ran.images = earlier.images.iter().cloned().chain(later).collect();
                    ran.images.truncate(IMAGES_MAX);
                }
                known.push_front(ran);
            }
            known.truncate(RELEASES_MAX);
        }
    }

    /// An image (repository and digest) of the release of `rollout` was handed out. Returns whether
    /// that is news.
    pub fn handle_given(
        &mut self,
        rollout: &Rollout,
        (repository, digest): (&str, &str),
        now: Timestamp,
    ) -> bool {
        let releases = self.rollouts.entry(Arc::clone(&rollout.name)).or_default();
        let release = &rollout.stages.release;
        let place = releases.iter().position(|ran| ran.release == *release);
        let is_front = place == Some(0);
        // Back to one that ran before, or one that is new here.
        let ran = place.and_then(|place| releases.remove(place));
        let ran = ran.map(|ran| if is_front { ran } else { Ran { since: now, ..ran } });
        let mut ran = ran.unwrap_or_else(|| Ran {
            release: Arc::clone(release),
            since: now,
            images: Vec::new(),
        });
        let is_image =
            |(name, one): &(Arc<str>, Arc<str>)| **name == *repository && **one == *digest;
        let is_known = ran.images.iter().any(is_image);
        if !is_known && ran.images.len() < IMAGES_MAX {
            ran.images.push((repository.into(), digest.into()));
        }
        releases.push_front(ran);
        releases.truncate(RELEASES_MAX);
        !(is_front && is_known)
    }

    /// Forgets rollouts that the policy does not have, if there are too many.
    pub fn follow<'a>(&mut self, names: impl Iterator<Item = &'a str> + Clone) {
        if self.rollouts.len() > ROLLOUTS_MAX {
            self.rollouts.retain(|known, _| names.clone().any(|name| *name == **known));
        }
    }

    /// What an image is to this store.
    pub fn holding(&self, repository: &str, digest: &str) -> Holding {
        let is_of = |ran: &Ran| {
            ran.images.iter().any(|(name, one)| **name == *repository && **one == *digest)
        };
        let places = self.rollouts.values().filter_map(|ran| ran.iter().position(is_of));
        match places.min() {
            None => Holding::New,
            Some(0) => Holding::Running,
            Some(ago) => Holding::Previous(u8::try_from(ago).unwrap_or(u8::MAX)),
        }
    }

    /// Whether the store is being rebuilt as far as `rollout` is concerned: it has run nothing else
    /// of it than this release.
    pub fn state(&self, rollout: &Rollout, now: Timestamp) -> StoreState {
        let rebuilds = self.began.is_some_and(|began| now < began.plus(RESTORE_FOR));
        let mut others = self.of(&rollout.name).filter(|ran| ran.release != rollout.stages.release);
        if rebuilds && others.next().is_none() {
            StoreState::Restoring
        } else {
            StoreState::Running
        }
    }

    /// The releases of a rollout, the running one first.
    pub fn of(&self, rollout: &str) -> impl Iterator<Item = &Ran> {
        self.rollouts.get(rollout).into_iter().flatten()
    }

    /// Repository and digest of the images of a rollout that were handed out of what runs.
    pub fn given(&self, rollout: &str) -> &[(Arc<str>, Arc<str>)] {
        self.rollouts
            .get(rollout)
            .and_then(VecDeque::front)
            .map_or(&[], |ran| ran.images.as_slice())
    }

    /// Lines of words, to be read by [`Self::read`].
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        if let Some(began) = self.began {
            let _ = writeln!(text, "began {}", began.0);
        }
        for (rollout, releases) in &self.rollouts {
            // The oldest first: what is read last is in front.
            for ran in releases.iter().rev() {
                let _ = writeln!(text, "release {rollout} {} {}", ran.release, ran.since.0);
                for (repository, digest) in &ran.images {
                    let _ = writeln!(text, "image {repository} {digest}");
                }
            }
        }
        text
    }

    /// What [`Self::to_text`] wrote; lines that are none are left out.
    pub fn read(text: &str) -> Self {
        let mut history = Self::default();
        let mut last: Option<Arc<str>> = None;
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["began", at] => history.began = at.parse().ok().map(Timestamp),
                ["release", rollout, release, since] => {
                    let Ok(since) = since.parse().map(Timestamp) else { continue };
                    let name: Arc<str> = (*rollout).into();
                    let releases = history.rollouts.entry(Arc::clone(&name)).or_default();
                    let release = (*release).into();
                    releases.push_front(Ran { release, since, images: Vec::new() });
                    releases.truncate(RELEASES_MAX);
                    last = Some(name);
                }
                ["image", repository, digest] => {
                    let of = last.as_ref().and_then(|name| history.rollouts.get_mut(name));
                    if let Some(ran) = of.and_then(VecDeque::front_mut) {
                        ran.images.push(((*repository).into(), (*digest).into()));
                    }
                }
                _ => {}
            }
        }
        history
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::gate;
    use super::*;

    fn rollout(release: &str, digest: &str) -> Rollout {
        let mut rollout = gate().rollouts.remove(0);
        rollout.stages.release = release.into();
        rollout.images = vec![("pos/checkout".into(), digest.into())];
        rollout
    }

    fn given(history: &mut History, release: &str, digest: &str, at: i64) -> bool {
        history.handle_given(&rollout(release, digest), ("pos/checkout", digest), Timestamp(at))
    }

    #[test]
    fn what_runs_and_what_ran_is_known_also_after_a_restart() {
        let mut history = History::default();
        assert!(given(&mut history, "47", "sha256:a", 1));
        assert!(!given(&mut history, "47", "sha256:a", 2));
        assert!(given(&mut history, "48", "sha256:b", 3));
        for history in [history.clone(), History::read(&history.to_text())] {
            assert_eq!(history.holding("pos/checkout", "sha256:b"), Holding::Running);
            assert_eq!(history.holding("pos/checkout", "sha256:a"), Holding::Previous(1));
            assert_eq!(history.holding("pos/checkout", "sha256:c"), Holding::New);
            assert_eq!(history.holding("pos/other", "sha256:a"), Holding::New);
        }
        assert!(given(&mut history, "47", "sha256:a", 4), "back again");
        assert_eq!(history.holding("pos/checkout", "sha256:b"), Holding::Previous(1));
        let name = rollout("47", "sha256:a").name;
        assert_eq!(history.of(&name).next().map(|ran| ran.since), Some(Timestamp(4)));
        assert!(given(&mut history, "47", "sha256:c", 5), "another image of it");
        assert_eq!(history.of(&name).next().map(|ran| ran.since), Some(Timestamp(4)));
        for number in 0..40 {
            given(&mut history, &number.to_string(), &format!("sha256:{number}"), number);
        }
        assert_eq!(history.of(&name).count(), RELEASES_MAX);
        assert_eq!(History::read("nonsense\nimage a b\nrelease x\n"), History::default());
    }

    #[test]
    fn what_was_handed_out_before_the_memory_was_read_comes_after_it() {
        let mut before = History::empty(Timestamp(0));
        given(&mut before, "46", "sha256:0", 1);
        given(&mut before, "47", "sha256:a", 2);
        let mut later = History::default();
        given(&mut later, "47", "sha256:b", 10);
        given(&mut later, "48", "sha256:c", 11);
        later.comes_after(before);
        let known: Vec<_> = later.of(&rollout("47", "").name).collect();
        let releases: Vec<_> = known.iter().map(|ran| (&*ran.release, ran.since.0)).collect();
        assert_eq!(releases, [("48", 11), ("47", 2), ("46", 1)]);
        assert_eq!(known[1].images.len(), 2, "{known:?}");
        assert_eq!(later.holding("pos/checkout", "sha256:0"), Holding::Previous(2));
        assert_eq!(History::read(&later.to_text()), later);
    }

    #[test]
    fn a_store_with_nothing_is_rebuilt_for_a_day_and_rollout_by_rollout() {
        let mut history = History::empty(Timestamp(0));
        let (one, next) = (rollout("47", "sha256:a"), rollout("48", "sha256:b"));
        let day = Timestamp(86_400);
        assert_eq!(history.state(&one, Timestamp(5)), StoreState::Restoring);
        assert_eq!(history.state(&one, day), StoreState::Running);
        given(&mut history, "47", "sha256:a", 5);
        let history = History::read(&history.to_text());
        assert_eq!(history.state(&one, Timestamp(6)), StoreState::Restoring, "its other images");
        assert_eq!(history.state(&next, Timestamp(6)), StoreState::Running, "a change");
        assert_eq!(History::default().state(&one, Timestamp(6)), StoreState::Running);
    }
}

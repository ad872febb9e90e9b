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

/// How long a store that began with nothing is being rebuilt.
const RESTORE_FOR: Duration = Duration::from_secs(24 * 3600);

/// A release that ran, or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its name.
    pub release: Arc<str>,
    /// When its first image was handed out.
    pub since: Timestamp,
    /// Repository and digest of its images.
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

    /// An image of the release of `rollout` was handed out. Returns whether that is news.
    pub fn handle_given(&mut self, rollout: &Rollout, now: Timestamp) -> bool {
        let releases = self.rollouts.entry(Arc::clone(&rollout.name)).or_default();
        let same = |ran: &Ran| {
            ran.release == rollout.stages.release && ran.images == rollout.images
        };
        match releases.iter().position(same) {
            Some(0) => return false,
            // Back to one that ran before.
            Some(place) => {
                if let Some(ran) = releases.remove(place) {
                    releases.push_front(Ran { since: now, ..ran });
                }
            }
            None => {
                let (release, images) = (Arc::clone(&rollout.stages.release), &rollout.images);
                releases.push_front(Ran { release, since: now, images: images.clone() });
                releases.truncate(RELEASES_MAX);
            }
        }
        true
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

    /// Whether the store is being rebuilt as far as `rollout` is concerned.
    pub fn state(&self, rollout: &str, now: Timestamp) -> StoreState {
        let rebuilds = self.began.is_some_and(|began| now < began.plus(RESTORE_FOR));
        if rebuilds && !self.rollouts.contains_key(rollout) {
            StoreState::Restoring
        } else {
            StoreState::Running
        }
    }

    /// The releases of a rollout, the running one first.
    pub fn of(&self, rollout: &str) -> impl Iterator<Item = &Ran> {
        self.rollouts.get(rollout).into_iter().flatten()
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

    #[test]
    fn what_runs_and_what_ran_is_known_also_after_a_restart() {
        let mut history = History::default();
        assert!(history.handle_given(&rollout("47", "sha256:a"), Timestamp(1)));
        assert!(!history.handle_given(&rollout("47", "sha256:a"), Timestamp(2)));
        assert!(history.handle_given(&rollout("48", "sha256:b"), Timestamp(3)));
        for history in [history.clone(), History::read(&history.to_text())] {
            assert_eq!(history.holding("pos/checkout", "sha256:b"), Holding::Running);
            assert_eq!(history.holding("pos/checkout", "sha256:a"), Holding::Previous(1));
            assert_eq!(history.holding("pos/checkout", "sha256:c"), Holding::New);
            assert_eq!(history.holding("pos/other", "sha256:a"), Holding::New);
        }
        assert!(history.handle_given(&rollout("47", "sha256:a"), Timestamp(4)), "back again");
        assert_eq!(history.holding("pos/checkout", "sha256:b"), Holding::Previous(1));
        let name = rollout("47", "sha256:a").name;
        assert_eq!(history.of(&name).next().map(|ran| ran.since), Some(Timestamp(4)));
        for number in 0..40 {
            let one = rollout(&number.to_string(), &format!("sha256:{number}"));
            history.handle_given(&one, Timestamp(number));
        }
        assert_eq!(history.of(&name).count(), RELEASES_MAX);
        assert_eq!(History::read("nonsense\nimage a b\nrelease x\n"), History::default());
    }

    #[test]
    fn a_store_with_nothing_is_rebuilt_for_a_day_and_rollout_by_rollout() {
        let mut history = History::empty(Timestamp(0));
        let one = rollout("47", "sha256:a");
        let day = Timestamp(86_400);
        assert_eq!(history.state(&one.name, Timestamp(5)), StoreState::Restoring);
        assert_eq!(history.state(&one.name, day), StoreState::Running);
        history.handle_given(&one, Timestamp(5));
        assert_eq!(history.state(&one.name, Timestamp(6)), StoreState::Running);
        let history = History::read(&history.to_text());
        assert_eq!(history.state("other", Timestamp(6)), StoreState::Restoring);
        assert_eq!(History::default().state("other", Timestamp(6)), StoreState::Running);
    }
}

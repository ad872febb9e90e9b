//! Rings: in which order stores get a release, and which of them are open.
//!
//! The first ring is open as soon as the release is in the policy; the others open by
//! `releasedThrough` or by a promotion. The newest promotion decides how far, so that one with a
//! lower ring closes those above it. A ramp counts from the moment the ring opened.

use std::sync::Arc;
use std::time::Duration;

use super::approval::{RequiredApprovals, Signed};
use crate::civil::Timestamp;

/// The rings of a release, as one store sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages {
    /// Name of the release.
    pub release: Arc<str>,
    /// All rings in their order.
    pub rings: Vec<Ring>,
    /// The ring of this store; `None` = it is in none and never gets the release.
    pub mine: Option<StoreRing>,
    /// Index of the last ring that is open without a promotion.
    pub released_through: usize,
    /// Since when.
    pub released_at: Option<Timestamp>,
    /// Promotions of this release.
    pub promotions: Vec<Promotion>,
}

/// A ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Its name.
    pub name: Arc<str>,
    /// How long it has to look well before the next one may open.
    pub bake: Option<Duration>,
    /// Who has to sign the promotion that opens it; `None` = the policy's own signature is enough.
    pub approvals: Option<RequiredApprovals>,
}

/// The ring of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreRing {
    /// Its place in the order.
    pub index: usize,
    /// It waits for no window with `Allow`.
    pub ignore_windows: bool,
    /// How long after the ring this store opens; nothing without a ramp.
    pub delay: Duration,
    /// How long after a freeze it begins by itself; nothing without a ramp.
    pub spread: Duration,
}

/// A step of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// Its name.
    pub name: Arc<str>,
    /// Index of the last ring that is open.
    pub through: usize,
    /// Since when.
    pub at: Timestamp,
    /// Who signed.
    pub signed: Signed,
}

/// Whether the store's ring is open at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingState {
    /// The store is in none.
    None,
    /// Not yet; it is known when if a promotion is dated ahead.
    Closed(Option<Timestamp>),
    /// The ring is open, this store's turn comes then.
    Ramping(Timestamp),
    /// It is this store's turn.
    Open,
}

/// Stores begin by themselves within this after a freeze, however long their ramp is.
pub const SPREAD_MAX: Duration = Duration::from_secs(30 * 60);

impl StoreRing {
    /// The ring at `index`, of a store with this hash in a ramp over so long.
    pub fn ramping(index: usize, over: Duration, hash: u64) -> Self {
        let (delay, spread) = (over, over.min(SPREAD_MAX));
        let [delay, spread] = [delay, spread].map(|over| Stages::ramp_delay(over, hash));
        Self { index, ignore_windows: false, delay, spread }
    }
}

impl Stages {
    /// The part of `over` after which the store with this hash opens.
    pub fn ramp_delay(over: Duration, hash: u64) -> Duration {
        let millis = over.as_millis().saturating_mul(u128::from(hash)) >> 64;
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// The ring of this store by name.
    pub fn ring(&self) -> Option<&str> {
        let ring = self.rings.get(self.mine?.index)?;
        Some(&ring.name)
    }

    pub(super) fn state(&self, now: Timestamp) -> RingState {
        let Some(mine) = self.mine else { return RingState::None };
        let (since, dated) = self.since(mine.index, now);
        match since {
            None => RingState::Closed(dated.map(|at| at.plus(mine.delay))),
            Some(None) => RingState::Open,
            Some(Some(opened)) => {
                let turn = opened.plus(mine.delay);
                if turn <= now { RingState::Open } else { RingState::Ramping(turn) }
            }
        }
    }

    /// Whether the store's ring was open at `at` and its turn had come, as far as that is dated: a
    /// release that says nothing of its age is as young as it can be.
    pub(super) fn was_open(&self, at: Timestamp) -> bool {
        let Some(mine) = self.mine else { return false };
        match self.since(mine.index, at).0 {
            Some(Some(opened)) => opened.plus(mine.delay) <= at,
            // It is older than what was said of it then.
            Some(None) => {
                self.promotions.iter().any(|one| one.at <= at && self.counts(one, mine.index))
            }
            None => false,
        }
    }

    /// Since when the ring at `index` is open at `now` (for ever, where that is not dated), and
    /// when it will be, if a promotion says so.
    fn since(
        &self,
        index: usize,
        now: Timestamp,
    ) -> (Option<Option<Timestamp>>, Option<Timestamp>) {
        let mut since = (index <= self.released_through).then_some(self.released_at);
        let mut dated = None;
        let mut promotions: Vec<&Promotion> =
            self.promotions.iter().filter(|one| self.counts(one, index)).collect();
        promotions.sort_by_key(|one| one.at);
        for promotion in promotions {
            let reaches = promotion.through >= index;
            if promotion.at > now {
                if reaches && dated.is_none() {
                    dated = Some(promotion.at);
                }
            } else if !reaches {
                since = None;
            } else if since.is_none() {
                since = Some(Some(promotion.at));
            }
        }
        (since, dated)
    }

    /// Whether enough of the right people have signed `promotion`, as far as ring `index` is
    /// concerned. One that does not reach it needs nobody: to stop is always allowed.
    fn counts(&self, promotion: &Promotion, index: usize) -> bool {
        let wanted = self.rings.get(index).and_then(|ring| ring.approvals.as_ref());
        promotion.through < index
            || wanted.is_none_or(|wanted| promotion.signed.suffices(Some(wanted)))
    }
}

//! When a store begins by itself with what a freeze or a window with `Deny` held.
//!
//! Such a thing ends for all stores in the same second. Whoever asks is let in at once; what a
//! store does of its own accord is spread, so that a registry does not meet all of them together.

use std::time::Duration;

use super::subject::{Subject, Whom};
use super::{Clock, Gate, Rollout};
use crate::civil::{Interval, Timestamp};

impl Gate {
    /// When this store begins by itself with the release of `rollout`, if that is still to come:
    /// its part of the ring's spread after the last freeze or window with `Deny` has ended.
    pub fn begins_at(&self, rollout: &Rollout, clock: Clock, now: Timestamp) -> Option<Timestamp> {
        let spread = rollout.stages.mine?.spread;
        if spread.is_zero() || matches!(clock, Clock::Untrusted(_)) {
            return None;
        }
        let subject = Subject::whole(Whom::Rollout(rollout));
        let margin = clock.margin();
        // A second more, so that one which still lasts is not cut to one that ends now.
        let until = now.plus(Duration::from_secs(1));
        let lately = Interval::new(now.minus(spread + margin), until);
        let frozen = self.freezes.iter().filter(|freeze| freeze.applies_to.covers(&subject));
        let frozen = frozen.map(|freeze| freeze.range.interval());
        let denied = self.denying(&subject).flat_map(|one| one.window.intervals(lately));
        let ends = frozen.chain(denied).map(|one| one.until.plus(margin));
        let last = ends.filter(|end| *end <= now).max()?;
        Some(last.plus(spread)).filter(|begins| now < *begins)
    }
}

//! A pin: an operator keeps a store on one policy for a while.
//!
//! It ends by the clock, or, where nobody trusts that, by the time that the store has lived under
//! it. Whatever happens, no clock makes it last for ever.

use std::sync::Arc;

use super::{Digest, Wall};

/// An operator's word that the store stays on a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// On which.
    pub digest: Digest,
    /// Since when, as the clock showed it.
    pub since: Wall,
    /// Until when.
    pub until: Wall,
    /// Seconds between the two.
    pub lasts: u64,
    /// Seconds that processes have lived under it.
    pub spent: u64,
    /// Why.
    pub reason: Arc<str>,
    /// The change record it belongs to.
    pub ticket: Arc<str>,
    /// Who says so.
    pub actor: Arc<str>,
}

impl Pin {
    /// Whether it is over at `wall`. A clock that is not `trusted` ends nothing: then the time
    /// counts that the store has lived under it, so that no clock makes a pin last for ever.
    pub const fn is_over(&self, wall: Wall, trusted: bool) -> bool {
        (trusted && wall.0 >= self.until.0) || self.spent >= self.lasts
    }

    /// Whether half of it is over.
    pub const fn is_half_over(&self, wall: Wall, trusted: bool) -> bool {
        let shown = trusted && wall.0 >= self.until.0.saturating_sub(self.lasts / 2);
        shown || self.spent >= self.lasts / 2
    }
}

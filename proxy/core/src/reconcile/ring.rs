//! Whether a bundle may be taken by this store yet.
//!
//! Policy goes out by ring: a store takes a new sequence when its ring is open, and within a ring
//! stores follow one another by a hash, so that a bad commit meets a handful of stores first. The
//! first ring is open by itself, the others by promotions that enough people have signed, or by
//! `releasedThrough`. A security fix may be immediate, if enough keys have signed *that*. Rings
//! are those of the policy that runs: a commit does not write its own permission.

use std::sync::Arc;
use std::time::Duration;

use super::wall::{ClockState, Wall};

/// What a key, or who uses it, stands for.
pub type Role = Arc<str>;

/// A group of stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Its name.
    pub name: Arc<str>,
    /// Whether this store is selected; it belongs to the first ring that does.
    pub selects: bool,
    /// Stores of it take a bundle spread over this time.
    pub ramp: Duration,
    /// Different signatures that its promotion needs.
    pub approvals: usize,
    /// Of whom; empty = of any key that may promote.
    pub roles: Vec<Role>,
}

/// Rings, and what opens them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingSpec {
    /// In the order in which they get a bundle. None = everybody at once.
    pub rings: Vec<Ring>,
    /// Signatures beyond the bundle's own that an immediate bundle needs.
    pub immediate_approvals: usize,
}

/// A signature that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Whose.
    pub key: Arc<str>,
    /// What the key may stand for; `None` = anything.
    pub roles: Option<Vec<Role>>,
}

/// A signed word that a bundle may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// Of which bundle.
    pub sequence: u64,
    /// Through which ring.
    pub through: Arc<str>,
    /// Since when.
    pub at: Wall,
    /// Who signed it.
    pub approvals: Vec<Approval>,
}

/// What is known of one bundle and this store.
#[derive(Clone, Copy, Debug)]
pub struct RingGate<'a> {
    /// The bundle's number.
    pub sequence: u64,
    /// When it was made: the first ring's ramp begins then.
    pub created_at: Wall,
    /// The last ring that the bundle itself opens, where rings are opened by hand.
    pub released_through: Option<&'a str>,
    /// Whether it says that it cannot wait.
    pub immediate: bool,
    /// Different keys that have signed it beyond its threshold and may say that.
    pub immediate_signed: usize,
    /// What was signed.
    pub promotions: &'a [Promotion],
    /// Of the sequence and this store: where in a ramp it stands.
    pub hash: u64,
    /// How long ago this store first saw it.
    pub seen: Duration,
}

/// Why a bundle waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// Nobody has opened the ring.
    #[error(
        "ring {ring} is not open for sequence {sequence}; promote it when the rings before are well"
    )]
    Closed {
        /// The store's ring.
        ring: Arc<str>,
        /// The bundle.
        sequence: u64,
    },
    /// It is promoted, but by too few.
    #[error("ring {ring} needs {needed} approvals for sequence {sequence}, and has {found}")]
    Approvals {
        /// The store's ring.
        ring: Arc<str>,
        /// The bundle.
        sequence: u64,
        /// How many it needs.
        needed: usize,
        /// How many count.
        found: usize,
    },
    /// Its turn comes later.
    #[error("this store's turn in ring {ring} is in {} s", wait.as_secs())]
    Ramp {
        /// The store's ring.
        ring: Arc<str>,
        /// When it is.
        wait: Duration,
    },
}

impl RingSpec {
    /// Whether the store takes the bundle at `wall`.
    ///
    /// # Errors
    /// [`Held`] says why not yet.
    pub fn admit(&self, gate: &RingGate<'_>, clock: ClockState, wall: Wall) -> Result<(), Held> {
        let Some(last) = self.rings.len().checked_sub(1) else { return Ok(()) };
        if gate.immediate && gate.immediate_signed >= self.immediate_approvals.max(1) {
            return Ok(());
        }
        // A store of no ring goes with the last one.
        let mine = self.rings.iter().position(|ring| ring.selects).unwrap_or(last);
        let ring = &self.rings[mine];
        let opened = self.opened(mine, gate)?;
        let offset = scaled(ring.ramp, gate.hash);
        let waited = match clock {
            ClockState::Untrusted => gate.seen,
            ClockState::Synced | ClockState::Holdover => {
                Duration::from_secs(wall.0.saturating_sub(opened.0))
            }
        };
        match offset.checked_sub(waited) {
            Some(wait) if !wait.is_zero() => Err(Held::Ramp { ring: Arc::clone(&ring.name), wait }),
            _ => Ok(()),
        }
    }

    /// Since when the ring is open.
    fn opened(&self, mine: usize, gate: &RingGate<'_>) -> Result<Wall, Held> {
        let ring = &self.rings[mine];
        let through = gate.released_through.and_then(|name| self.index(name));
        if mine == 0 || through.is_some_and(|through| through >= mine) {
            return Ok(gate.created_at);
        }
        let mut found = None;
        let mut opened: Option<Wall> = None;
        for promotion in gate.promotions {
            let reaches = self.index(&promotion.through).is_some_and(|through| through >= mine);
            if promotion.sequence != gate.sequence || !reaches {
                continue;
            }
            let count = ring.count(&promotion.approvals);
            found = found.max(Some(count));
            if count >= ring.approvals.max(1) {
                opened = Some(opened.map_or(promotion.at, |at| at.min(promotion.at)));
            }
        }
        let (name, sequence) = (Arc::clone(&ring.name), gate.sequence);
        opened.ok_or(match found {
            Some(found) => {
                Held::Approvals { ring: name, sequence, needed: ring.approvals.max(1), found }
            }
            None => Held::Closed { ring: name, sequence },
        })
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.rings.iter().position(|ring| &*ring.name == name)
    }
}

impl Ring {
    /// Different keys among `approvals` that count for it.
    fn count(&self, approvals: &[Approval]) -> usize {
        let counts = |approval: &&Approval| {
            let fits = |roles: &Vec<Role>| roles.iter().any(|role| self.roles.contains(role));
            self.roles.is_empty() || approval.roles.as_ref().is_none_or(fits)
        };
        let mut keys: Vec<_> = approvals.iter().filter(counts).map(|one| &one.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }
}

/// The part of a ramp that a hash falls on.
fn scaled(ramp: Duration, hash: u64) -> Duration {
    let nanos = (ramp.as_nanos() * u128::from(hash)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

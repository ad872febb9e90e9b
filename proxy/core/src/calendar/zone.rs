//! A time zone as a plain table of changes of its offset.
//!
//! Whoever reads a database of zones makes one; this code only looks things up. Before the first
//! change the first offset holds, after the last one the last.

use std::sync::Arc;

use crate::civil::{Civil, Timestamp};

/// No zone is further from Greenwich than this, so that a civil time belongs to a moment at most
/// this far away.
const OFFSET_SECONDS_MAX: i64 = 26 * 3600;

/// A change of the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The first moment with the new offset.
    pub at: Timestamp,
    /// Seconds east of Greenwich from then on.
    pub offset: i32,
}

/// A time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// IANA name, as `Europe/Oslo`.
    pub name: Arc<str>,
    first: i32,
    transitions: Box<[Transition]>,
}

/// Which moment is meant by a civil time that comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// The first one.
    Earlier,
    /// The second one.
    Later,
}

impl Zone {
    /// A zone with the offset `first` (seconds east of Greenwich) until the first of
    /// `transitions`; those are brought into order.
    pub fn new(name: &str, first: i32, mut transitions: Vec<Transition>) -> Self {
        transitions.sort_unstable_by_key(|transition| transition.at);
        Self { name: name.into(), first, transitions: transitions.into() }
    }

    /// Greenwich without summer time.
    pub fn utc() -> Self {
        Self::new("UTC", 0, Vec::new())
    }

    /// What a clock there shows at `moment`.
    pub fn civil(&self, moment: Timestamp) -> Civil {
        Civil(moment.0.saturating_add(i64::from(self.offset(moment))))
    }

    /// The moment at which a clock there shows `civil`. A time that does not exist is the first
    /// moment after the gap; one that comes twice is the one that `bias` says.
    pub fn moment(&self, civil: Civil, bias: Bias) -> Timestamp {
        let near = Timestamp(civil.0.saturating_sub(OFFSET_SECONDS_MAX));
        let mut index = self.transitions.partition_point(|one| one.at <= near);
        let mut offset = self.offset_before(index);
        let mut found = None;
        loop {
            let candidate = Timestamp(civil.0.saturating_sub(i64::from(offset)));
            let begins = index.checked_sub(1).map(|before| self.transitions[before].at);
            let next = self.transitions.get(index);
            let begun = begins.is_none_or(|begins| candidate >= begins);
            let ended = next.is_some_and(|next| candidate >= next.at);
            if begun && !ended {
                found = Some(candidate);
                if bias == Bias::Earlier {
                    return candidate;
                }
            }
            let Some(next) = next.filter(|next| next.at.0 <= civil.0 + OFFSET_SECONDS_MAX) else {
                // Only a gap in the last piece of the table leaves nothing.
                return found.unwrap_or(candidate);
            };
            let after = Timestamp(civil.0.saturating_sub(i64::from(next.offset)));
            if found.is_none() && ended && after < next.at {
                return next.at;
            }
            offset = next.offset;
            index += 1;
        }
    }

    fn offset(&self, moment: Timestamp) -> i32 {
        self.offset_before(self.transitions.partition_point(|one| one.at <= moment))
    }

    fn offset_before(&self, index: usize) -> i32 {
        index.checked_sub(1).map_or(self.first, |before| self.transitions[before].offset)
    }
}

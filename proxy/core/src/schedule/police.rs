//! Policing: datagrams, which cannot be delayed, pass at once or are dropped; bulk first.
//!
//! In: a datagram's class and size and the time. Out: whether it may pass; if so it is charged
//! like a grant. On a free line everything passes. Where the line's clock is ahead, how far it may
//! be depends on the tier: the lower, the less, so that a flood of bulk drops its own datagrams
//! and not those above it. Whatever waits for a grant in the same tier or above, or has less than
//! its floor, comes before a datagram; a class below its own floor passes all the same. Nothing
//! here moves the clock so far that a payment would have to wait for it to come back.

use std::time::Instant;

use super::{OVERDRAFT, Scheduler, UNASKED_DEBT, nanos};
use crate::units::wire_bytes;

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policed {
    /// It goes out now.
    Pass,
    /// The line has no room for its class.
    Drop,
}

impl Scheduler {
    /// Whether a datagram of `bytes` payload of the class at index `class` may pass at `now`;
    /// charged if so. Grants that can be given at `now` should be given first.
    pub fn police(&mut self, class: usize, bytes: u64, now: Instant) -> Policed {
        let now = self.origin.nanos(now);
        // An empty datagram is a packet too.
        let bytes = bytes.max(1);
        if class >= self.classes.len() || !self.has_room(class, bytes, now) {
            return Policed::Drop;
        }
        let state = &mut self.classes[class];
        if self.ready & (1 << class) == 0 {
            // No credit for the time without traffic.
            state.tag = state.tag.max(self.tiers[state.tier].virtual_time);
        }
        self.charge(class, bytes, now);
        Policed::Pass
    }

    fn has_room(&self, class: usize, bytes: u64, now: u64) -> bool {
        let one = self.line.shaped.nanos_for(self.quantum_wire());
        let takes = self.line.shaped.nanos_for(wire_bytes(bytes, self.link_overhead));
        let state = &self.classes[class];
        let ceiling_opens = state.ceiling_clock.saturating_sub(state.ceiling_burst);
        let is_held = state.ceiling.is_some() && ceiling_opens > now;
        // One that would hold the line for longer than a payment may overdraw it never passes.
        if is_held || takes > nanos(OVERDRAFT).max(one) {
            return false;
        }
        let ahead = self.t_free.saturating_sub(now);
        if ahead == 0 {
            return true;
        }
        if state.tier == 0 && self.g0 <= now {
            return ahead <= nanos(OVERDRAFT);
        }
        let debt = nanos(UNASKED_DEBT);
        if state.floor.is_some() && state.floor_clock <= now {
            return ahead <= one.saturating_add(debt).min(nanos(OVERDRAFT));
        }
        let tiers = u64::try_from(self.tiers.len()).unwrap_or(u64::MAX);
        let below = tiers.saturating_sub(u64::try_from(state.tier).unwrap_or(tiers));
        // The last tier has no room for the grant in front of it: that one is of bulk too.
        let in_front = if below > 1 { one } else { 0 };
        let most = in_front.saturating_add(debt / tiers.max(1) * below).min(nanos(OVERDRAFT));
        ahead <= most && !self.is_awaited(state.tier, now)
    }

    /// Whether anybody waits for a grant who comes before a datagram of `tier`.
    fn is_awaited(&self, tier: usize, now: u64) -> bool {
        let mut left = self.ready;
        while left != 0 {
            let class = &self.classes[left.trailing_zeros() as usize];
            left &= left - 1;
            let below_floor = class.floor.is_some() && class.floor_clock <= now;
            let opens = class.ceiling_clock.saturating_sub(class.ceiling_burst);
            let is_held = class.ceiling.is_some() && opens > now;
            if !is_held && (class.tier <= tier || below_floor) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests;

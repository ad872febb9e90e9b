//! Which flows would take more of the line if they got more.
//!
//! A window is a promise: what a flow does not use of it, nobody else may. So a flow gets its share
//! only while it shows that it needs it: bytes of it wait for grants or for a turn, or it moves
//! most of its window in every round trip. Any other flow (a health probe, a trickle of events, a
//! reader that is slow itself) gets what it uses, with room to grow; that it grew beyond is seen
//! within a round trip. A flow that has just begun has shown nothing yet and claims the least
//! window.
//!
//! It only looks: what follows for windows and turns is the allocator's business.

use std::time::{Duration, Instant};

use super::{QUEUE_ADDED, WINDOW_MIN, WindowFlow, WindowLine, loaded_rtt};
use crate::units::{BitRate, wire_bytes};

/// A flow that was hungry counts as such at least this long: longer than the pauses of a sender
/// that measures its round trip, no longer than a turn.
pub const HUNGRY_FOR: Duration = Duration::from_secs(1);
/// A flow is new for the first round trips, until it had time to show what it needs.
const NEW_FOR: Duration = Duration::from_millis(300);
/// Of its window, in percent: who moves that much in every round trip is held back by it.
const FULL_PERCENT: u128 = 75;
/// Weight of one look in the rate, in percent: about a second of memory at ten looks a second.
const RATE_PERCENT: u64 = 10;
/// Room to grow of a flow that is not hungry, in times its rate.
const GROWTH: u64 = 2;

/// What a flow wants of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// As much as it can get.
    All,
    /// Not known yet.
    New,
    /// About this, on the wire.
    Rate(BitRate),
}

/// What one flow showed so far. See the module.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    new_until: Instant,
    hungry_until: Instant,
    rate: BitRate,
    /// Payload bytes of the look that is not over, and the time it covers.
    bytes: u64,
    time: Duration,
}

impl Demand {
    /// Of a flow that begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            new_until: now + NEW_FOR,
            hungry_until: now,
            rate: BitRate::default(),
            bytes: 0,
            time: Duration::ZERO,
        }
    }

    /// It waits for a grant or for its turn.
    pub fn waits(&mut self, now: Instant) {
        self.hungry_until = now + HUNGRY_FOR;
    }

    /// It moved `bytes` of payload in `elapsed`, with a window of `window` (0: not ours to bound)
    /// on `line`, whose round-trip time is the flow's own.
    pub fn moved(
        &mut self,
        bytes: u64,
        elapsed: Duration,
        window: u64,
        line: WindowLine,
        now: Instant,
    ) {
        let nanos = elapsed.as_nanos().max(1);
        let bits = u128::from(wire_bytes(bytes, 0)) * 8 * 1_000_000_000 / nanos;
        let seen = u64::try_from(bits).unwrap_or(u64::MAX) / 100 * RATE_PERCENT;
        let kept = self.rate.scale(100 - RATE_PERCENT, 100).bits_per_second();
        self.rate = BitRate::from_bits_per_second(kept.saturating_add(seen));
        self.bytes = self.bytes.saturating_add(bytes);
        self.time += elapsed;
        // A look shorter than a round trip would take the burst of an answer for a full window.
        let round = loaded_rtt(line) + QUEUE_ADDED;
        if self.time < round {
            return;
        }
        let full = u128::from(window) * FULL_PERCENT;
        let moved = u128::from(self.bytes) * 100;
        let kept_full = moved * round.as_nanos() >= full * self.time.as_nanos();
        // Behind the least window a sender may stall between two that are full, and never show
        // what it would do with more.
        let filled_least = window <= WINDOW_MIN && moved >= full;
        if window > 0 && (kept_full || filled_least) {
            self.hungry_until = now + HUNGRY_FOR;
        }
        self.bytes = 0;
        self.time = Duration::ZERO;
    }

    /// Whether it would take more if it got more, or may be about to.
    pub fn may_be_hungry(&self, now: Instant) -> bool {
        self.want(now) == Want::All || now < self.new_until
    }

    /// What it wants at `now`.
    pub fn want(&self, now: Instant) -> Want {
        if now < self.hungry_until {
            return Want::All;
        }
        if now < self.new_until { Want::New } else { Want::Rate(self.rate) }
    }
}

impl Want {
    /// The rate to claim for it, where it does not want everything.
    pub(super) fn claim(self, line: WindowLine) -> Option<BitRate> {
        match self {
            Self::All => None,
            Self::New => {
                let nanos = loaded_rtt(line).as_nanos().max(1);
                let bits = u128::from(wire_bytes(WINDOW_MIN, 0)) * 8 * 1_000_000_000 / nanos;
                Some(BitRate::from_bits_per_second(u64::try_from(bits).unwrap_or(u64::MAX)))
            }
            Self::Rate(rate) => Some(rate.scale(GROWTH, 1)),
        }
    }
}

/// What the flows of `class` want of `line` together; `None` if one of them wants everything.
pub fn claim_of(class: usize, flows: &[WindowFlow], line: WindowLine) -> Option<BitRate> {
    let mut own = flows.iter().filter(|flow| flow.class == class);
    let sum = own.try_fold(0u64, |sum, flow| {
        Some(sum.saturating_add(flow.want.claim(flow.on(line))?.bits_per_second()))
    });
    sum.map(BitRate::from_bits_per_second)
}

#[cfg(test)]
mod tests;

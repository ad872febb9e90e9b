//! Which flows would take more of the line if they got more.
//!
//! A window is a promise: what a flow does not use of it, nobody else may. So a flow gets its share
//! only while it shows that it needs it: bytes of it wait for grants or for a turn at every look,
//! or it moves most of its window in every round trip, or sends most of what it may. Any other flow
//! (a health probe, a trickle of events, a reader that is slow itself) gets what it uses, with room
//! to grow; that it grew beyond is seen within a round trip. A flow that has just begun has shown
//! nothing yet and claims the least window, or on the uplink its part of its class.
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
/// Of its bound, in percent: who moves that much in every round trip is held back by it.
const FULL_PERCENT: u128 = 75;
/// Who waits now and has waited at every look for this long wants more than it gets. One look
/// says little: on a full line a health probe waits, too, for a quantum of the others.
const WAITED_FOR: Duration = Duration::from_millis(80);
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

/// What a flow was bounded by while it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Nothing of ours.
    Nothing,
    /// So many payload bytes under way or unread.
    Window(u64),
    /// So many payload bytes per second.
    Pacing(u64),
}

/// What one flow showed so far. See the module.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    new_until: Instant,
    hungry_until: Instant,
    /// Since when it waited at every look.
    waits_since: Option<Instant>,
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
            waits_since: None,
            rate: BitRate::default(),
            bytes: 0,
            time: Duration::ZERO,
        }
    }

    /// A look at whether it `waits` for a grant or for its turn.
    pub fn look(&mut self, waits: bool, now: Instant) {
        if !waits {
            self.waits_since = None;
            return;
        }
        let since = *self.waits_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= WAITED_FOR {
            self.hungry_until = now + HUNGRY_FOR;
        }
    }

    /// It moved `bytes` of payload in `elapsed`, within `bound`, on `line`, whose round-trip time
    /// is the flow's own.
    pub fn moved(
        &mut self,
        bytes: u64,
        elapsed: Duration,
        bound: Bound,
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
        if self.filled(bound, round) {
            self.hungry_until = now + HUNGRY_FOR;
        }
        self.bytes = 0;
        self.time = Duration::ZERO;
    }

    /// Whether what it moved in this look is what `bound` let it, with round trips of `round`.
    fn filled(&self, bound: Bound, round: Duration) -> bool {
        let moved = u128::from(self.bytes) * 100;
        match bound {
            Bound::Nothing => false,
            Bound::Pacing(rate) => {
                let full = u128::from(rate) * FULL_PERCENT;
                moved * 1_000_000_000 >= full * self.time.as_nanos()
            }
            Bound::Window(window) => {
                let full = u128::from(window) * FULL_PERCENT;
                let kept_full = moved * round.as_nanos() >= full * self.time.as_nanos();
                // Behind the least window a sender may stall between two that are full, and never
                // show what it would do with more.
                kept_full || (window <= WINDOW_MIN && moved >= full)
            }
        }
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

    /// The same on the uplink, where nothing is promised that the scheduler cannot take back: who
    /// has just begun claims nothing for its class.
    fn claim_up(self) -> Option<BitRate> {
        match self {
            Self::All => None,
            Self::New => Some(BitRate::default()),
            Self::Rate(rate) => Some(rate.scale(GROWTH, 1)),
        }
    }
}

/// What the flows of `class` want of the downlink `line` together; `None` if one of them wants
/// everything.
pub fn claim_of(class: usize, flows: &[WindowFlow], line: WindowLine) -> Option<BitRate> {
    sum(class, flows, |flow| flow.want.claim(flow.on(line)))
}

/// The same of the uplink.
pub fn claim_up_of(class: usize, flows: &[WindowFlow]) -> Option<BitRate> {
    sum(class, flows, |flow| flow.want.claim_up())
}

fn sum(
    class: usize,
    flows: &[WindowFlow],
    claim: impl Fn(&WindowFlow) -> Option<BitRate>,
) -> Option<BitRate> {
    let mut own = flows.iter().filter(|flow| flow.class == class);
    let sum =
        own.try_fold(0u64, |sum, flow| Some(sum.saturating_add(claim(flow)?.bits_per_second())));
    sum.map(BitRate::from_bits_per_second)
}

/// What each flow of a class may send at when the class has `rate`, and what a flow beside them
/// may: one that uses little leaves the rest of its equal part to those that want everything. The
/// sum of what the flows want is at most `rate`.
#[derive(Clone, Copy, Debug)]
pub struct SendShares {
    equal: BitRate,
    hungry: BitRate,
}

impl SendShares {
    /// Of the flows of one class, by what they want.
    pub fn new(rate: BitRate, wants: &[Want]) -> Self {
        let flows = u64::try_from(wants.len()).unwrap_or(u64::MAX).max(1);
        let equal = rate.scale(1, flows);
        let part = |want: &Want| match want {
            Want::All => None,
            Want::New => Some(equal),
            Want::Rate(rate) => Some(rate.scale(GROWTH, 1).min(equal)),
        };
        let modest: u64 = wants.iter().filter_map(part).map(BitRate::bits_per_second).sum();
        let hungry = wants.iter().filter(|want| **want == Want::All).count();
        let left = BitRate::from_bits_per_second(rate.bits_per_second().saturating_sub(modest));
        let hungry = left.scale(1, u64::try_from(hungry).unwrap_or(u64::MAX).max(1));
        Self { equal, hungry }
    }

    /// The rate of a flow that wants `want`. A modest one may use its equal part: it says within a
    /// look that it does.
    pub fn of(&self, want: Want) -> BitRate {
        if want == Want::All { self.hungry } else { self.equal }
    }
}

#[cfg(test)]
mod tests;

//! The link scheduler: who may move how many bytes on one direction of a WAN line, and when.
//!
//! In go demands (a flow can move bytes now), the time, the line's rate and the classes; out come
//! grants of at most one quantum each, or the time at which asking again makes sense. Classes are
//! served floors first, then strict tiers, then weights inside a tier; flows of a class by
//! deficit round robin with sparse flows first (DRR++, as in fq_codel, RFC 8290). The line itself
//! is a virtual clock: a grant moves `t_free` by the time its bytes take on the wire, so there is
//! no bucket to refill and no tick. Guarantees and ceilings are GCRA clocks of the same kind.
//!
//! It knows no sockets, no wakers and no windows, and never waits: [`Scheduler::poll_timeout`]
//! says when to call again.

mod clocks;
mod flows;
mod police;

use std::time::{Duration, Instant};

use self::clocks::{ClassState, Origin, TierState};
pub use self::flows::FlowId;
use self::flows::Flows;
pub use self::police::Policed;
use crate::class::Share;
use crate::units::{BitRate, MSS, wire_bytes};

/// Link time of one grant: long enough that a 1 Gbit/s line needs 500 grants a second, short
/// enough that a payment waits at most this long behind the grant in front of it.
pub const QUANTUM_TIME: Duration = Duration::from_millis(2);
/// The largest quantum: 0.5 ms at 1 Gbit/s.
pub const QUANTUM_MAX: u64 = 64 * 1024;
/// The line's clock may lag this much behind the time: it pays for timers that fire 1 ms late, and
/// for a core that is not ours for another.
pub const CREDIT: Duration = Duration::from_millis(3);
/// How far tier 0 may run ahead of the line's clock, inside its own guarantee only.
pub const OVERDRAFT: Duration = Duration::from_millis(50);
/// How far bytes that nobody asked for may move the line's clock ahead.
pub const UNASKED_DEBT: Duration = Duration::from_millis(20);
/// Memory of a guarantee: unused floor is kept this long (at least two quanta at its rate).
pub const GUARANTEE_MEMORY: Duration = Duration::from_millis(20);
/// Burst of a ceiling (at least one quantum at its rate).
pub const CEILING_BURST: Duration = Duration::from_millis(10);
/// Floors of the tiers below the first are scaled down together beyond this part of the rate:
/// when a line drops to a tenth, the floors must not eat what the payments need.
pub const FLOORS_MAX_PERCENT: u64 = 80;
/// A class lifted by its floor may run ahead of its tier by this many quanta, no further.
const LEAD_QUANTA: u64 = 8;
/// Fixed-point scale of the fair-queueing tags.
const TAG_SHIFT: u32 = 16;

/// What the scheduler must know of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassShare {
    /// Higher wins; equal priorities are one tier.
    pub priority: u16,
    /// Share inside the tier, at least 1.
    pub weight: u32,
    /// Floor, of the line's capacity.
    pub guarantee: Share,
    /// Cap, of the line's capacity.
    pub ceiling: Share,
}

/// The rate of one direction of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRate {
    /// What the line carries; percentages of classes refer to it.
    pub capacity: BitRate,
    /// What may be handed out: the capacity less headroom.
    pub shaped: BitRate,
}

/// A flow can move `bytes` now. Replaces what it asked for before; 0 takes the demand back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Who asks.
    pub flow: FlowId,
    /// Payload bytes.
    pub bytes: u64,
}

/// Permission to move bytes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who may.
    pub flow: FlowId,
    /// Payload bytes: more than 0, at most a quantum, at most what was asked for.
    pub bytes: u64,
}

/// One direction of one line. See the module.
#[derive(Clone, Debug)]
pub struct Scheduler {
    origin: Origin,
    line: LineRate,
    link_overhead: u64,
    quantum: u64,
    /// When the line has sent all that was granted.
    t_free: u64,
    /// The guarantee clock that all classes of tier 0 share.
    g0: u64,
    /// How far ahead of the time `g0` may be.
    g0_most: u64,
    tier0_floor: BitRate,
    classes: Vec<ClassState>,
    tiers: Vec<TierState>,
    /// Classes with ready flows, bit by index.
    ready: u64,
    /// Classes that were ready a moment ago and may come back to their place.
    lingering: u64,
    flows: Flows,
    next_wake: Option<u64>,
}

impl Scheduler {
    /// A scheduler for a line of `line`, charging `link_overhead` bytes per packet on top of
    /// IP. `classes` by index; at most 64 are kept. `now` is its first instant.
    pub fn new(line: LineRate, link_overhead: u16, classes: &[ClassShare], now: Instant) -> Self {
        let line = never_zero(line);
        let mut scheduler = Self {
            origin: Origin::new(now),
            line,
            link_overhead: u64::from(link_overhead),
            quantum: quantum(line.shaped),
            t_free: 0,
            g0: 0,
            g0_most: nanos(OVERDRAFT),
            tier0_floor: line.shaped,
            classes: Vec::new(),
            tiers: Vec::new(),
            ready: 0,
            lingering: 0,
            flows: Flows::default(),
            next_wake: None,
        };
        scheduler.t_free = scheduler.origin.nanos(now);
        scheduler.g0 = scheduler.t_free;
        scheduler.set_classes(classes, now);
        scheduler
    }

    /// Bytes of one grant on this line: [`QUANTUM_TIME`] in whole segments, at least one.
    pub fn quantum(&self) -> u64 {
        self.quantum
    }

    /// The line's rate now.
    pub fn line(&self) -> LineRate {
        self.line
    }

    /// A new flow of the class at index `class`, without demand.
    pub fn add_flow(&mut self, class: usize) -> FlowId {
        self.flows.add(class)
    }

    /// Ends a flow, with its demand if it has any.
    pub fn remove_flow(&mut self, flow: FlowId) {
        self.withdraw(flow);
        self.flows.remove(flow);
    }

    /// Moves a flow to another class; it keeps its demand and takes no credit along.
    pub fn move_flow(&mut self, flow: FlowId, class: usize, now: Instant) {
        let want = self.flows.get(flow).want;
        self.withdraw(flow);
        self.flows.set_class(flow, class);
        self.handle_demand(Demand { flow, bytes: want }, now);
    }

    /// A flow can move bytes now, or no longer can.
    pub fn handle_demand(&mut self, demand: Demand, now: Instant) {
        self.origin.nanos(now);
        if demand.bytes == 0 {
            self.withdraw(demand.flow);
            return;
        }
        let index = self.flows.get(demand.flow).class;
        let queues = &mut self.classes[index].queues;
        self.flows.demand(queues, demand.flow, demand.bytes, self.quantum);
        if self.ready & (1 << index) == 0 {
            self.ready |= 1 << index;
            self.lingering &= !(1 << index);
            let class = &mut self.classes[index];
            class.tag = class.tag.max(self.tiers[class.tier].virtual_time);
        }
    }

    /// `unused` bytes of a grant did not move after all.
    pub fn handle_refund(&mut self, flow: FlowId, unused: u64, now: Instant) {
        if unused == 0 {
            return;
        }
        let now = self.origin.nanos(now);
        let wire = wire_bytes(unused, self.link_overhead);
        let back = |clock: u64, rate: BitRate, memory: u64| {
            clock.saturating_sub(rate.nanos_for(wire)).max(now.saturating_sub(memory)).min(clock)
        };
        self.t_free = back(self.t_free, self.line.shaped, nanos(CREDIT));
        if !self.flows.get(flow).charged_here {
            // It has moved since: its new class paid nothing and gets nothing back.
            return;
        }
        let index = self.flows.get(flow).class;
        let class = &mut self.classes[index];
        if class.tier == 0 {
            self.g0 = back(self.g0, self.tier0_floor, nanos(OVERDRAFT));
        }
        if let Some(floor) = class.floor {
            class.floor_clock = back(class.floor_clock, floor, class.floor_memory);
        }
        if let Some(ceiling) = class.ceiling {
            class.ceiling_clock = back(class.ceiling_clock, ceiling, class.ceiling_burst);
        }
        class.tag = class.tag.saturating_sub(tag_step(unused, class.weight));
        let flow = self.flows.get_mut(flow);
        let credit = i64::try_from(unused).unwrap_or(i64::MAX);
        let most = i64::try_from(self.quantum).unwrap_or(i64::MAX);
        flow.deficit = flow.deficit.saturating_add(credit).min(most);
    }

    /// `wire` bytes went over the line without asking (acknowledgements of the other direction).
    /// They move the line's clock, but by themselves never further ahead than [`UNASKED_DEBT`],
    /// which is inside the overdraft: they slow bulk and never a payment.
    pub fn handle_unasked(&mut self, wire: u64, now: Instant) {
        let now = self.origin.nanos(now);
        let latest = now.saturating_add(nanos(UNASKED_DEBT));
        let charged = self.t_free.max(now.saturating_sub(nanos(CREDIT)));
        let charged = charged.saturating_add(self.line.shaped.nanos_for(wire));
        self.t_free = charged.min(latest.max(self.t_free));
    }

    /// The next grant, if one may be given at `now`.
    pub fn poll_grant(&mut self, now: Instant) -> Option<Grant> {
        let now = self.origin.nanos(now);
        let index = self.pick(now)?;
        let (flow, bytes) = self.flows.serve(&mut self.classes[index].queues, self.quantum);
        self.note_idle(index);
        self.charge(index, bytes, now);
        Some(Grant { flow, bytes })
    }

    /// When to call [`Self::poll_grant`] again after it said `None`. `None` = only a new demand
    /// can change the answer.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_wake.map(|nanos| self.origin.instant(nanos))
    }

    /// The line got faster or slower. Debt on the line's clock is never longer than one new
    /// quantum; demands, flows and fair-queueing state stay.
    pub fn set_rate(&mut self, line: LineRate, now: Instant) {
        let now = self.origin.nanos(now);
        let line = never_zero(line);
        if line == self.line {
            // Nothing to forgive: a reload must not be a burst.
            return;
        }
        self.line = line;
        self.quantum = quantum(line.shaped);
        let wire = wire_bytes(self.quantum, self.link_overhead);
        self.t_free = self.t_free.min(now.saturating_add(line.shaped.nanos_for(wire)));
        self.g0 = self.g0.min(now.saturating_add(nanos(OVERDRAFT)));
        self.derive_rates(now);
    }

    /// New shares for the classes, by index. Classes beyond the old end are new; a class that is
    /// no longer wanted must have no flows (see [`Self::move_flow`]) and may keep its index.
    pub fn set_classes(&mut self, classes: &[ClassShare], now: Instant) {
        let now_nanos = self.origin.nanos(now);
        let classes = &classes[..classes.len().min(crate::class::CLASSES_MAX)];
        let mut priorities: Vec<u16> = classes.iter().map(|class| class.priority).collect();
        priorities.sort_unstable_by(|a, b| b.cmp(a));
        priorities.dedup();
        self.tiers = vec![TierState::default(); priorities.len()];
        for (index, share) in classes.iter().enumerate() {
            let tier = priorities.iter().position(|p| *p == share.priority).unwrap_or(0);
            match self.classes.get_mut(index) {
                Some(class) => class.reshape(*share, tier),
                None => self.classes.push(ClassState::new(*share, tier, now_nanos)),
            }
        }
        for class in self.classes.iter_mut().skip(classes.len()) {
            // No longer wanted: it keeps its index, and no claim on the line.
            class.retire(priorities.len().saturating_sub(1));
        }
        for class in &mut self.classes {
            // Tags only mean something inside one tier: start level, without credit or debt.
            class.tag = 0;
        }
        self.derive_rates(now_nanos);
    }

    /// Bytes that this flow still asks for.
    pub fn demand(&self, flow: FlowId) -> u64 {
        self.flows.get(flow).want
    }

    /// Every flow that was added and not removed.
    pub fn flow_ids(&self) -> Vec<FlowId> {
        self.flows.ids()
    }

    /// Whether any flow waits.
    pub fn has_any_demand(&self) -> bool {
        self.ready != 0
    }

    /// Recomputes floors and ceilings from the line's rate.
    fn derive_rates(&mut self, now: u64) {
        let line = self.line;
        // Wider than a rate: 64 floors of a line at the end of the number line still add up.
        let wanted: u128 = self
            .classes
            .iter()
            .filter(|class| class.tier > 0)
            .map(|class| u128::from(class.share.guarantee.of(line.capacity).bits_per_second()))
            .sum();
        let most = u128::from(line.shaped.scale(FLOORS_MAX_PERCENT, 100).bits_per_second());
        let quantum_wire = self.quantum_wire();
        let mut floors = 0;
        for class in &mut self.classes {
            let mut floor = class.share.guarantee.of(line.capacity);
            if class.tier > 0 {
                if wanted > most {
                    let scaled = u128::from(floor.bits_per_second()) * most / wanted;
                    let bits = u64::try_from(scaled).expect("scaled down, so still a rate");
                    floor = BitRate::from_bits_per_second(bits);
                }
                floors += floor.bits_per_second();
            }
            class.derive(floor, line, quantum_wire, now);
        }
        let left = line.shaped.bits_per_second().saturating_sub(floors);
        self.tier0_floor = BitRate::from_bits_per_second(left.max(1));
        // One whole quantum must always fit.
        self.g0_most = nanos(OVERDRAFT).max(self.tier0_floor.nanos_for(quantum_wire));
    }

    /// The class to serve at `now`, or `None` with `next_wake` set.
    fn pick(&mut self, now: u64) -> Option<usize> {
        let mut best_green: Option<(usize, bool, u128, usize)> = None;
        let mut best_any: Option<(usize, bool, u128, usize)> = None;
        let mut wake: Option<u64> = None;
        let mut left = self.ready;
        while left != 0 {
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            if let Some(at) = self.blocked_until(index, now) {
                wake = Some(wake.map_or(at, |other: u64| other.min(at)));
                continue;
            }
            let class = &mut self.classes[index];
            if class.blocked {
                // Held by its ceiling until now: no credit for that time.
                class.blocked = false;
                class.tag = class.tag.max(self.tiers[class.tier].virtual_time);
            }
            let below_floor = class.floor.is_some() && class.floor_clock <= now;
            // Classes of the first tier share one guarantee against the others; among themselves
            // whoever is below its own floor comes first.
            let green = if class.tier == 0 { self.g0 <= now } else { below_floor };
            let key = (class.tier, !below_floor, class.tag, index);
            if green && best_green.is_none_or(|best| key < best) {
                best_green = Some(key);
            }
            if best_any.is_none_or(|best| key < best) {
                best_any = Some(key);
            }
        }
        self.next_wake = wake;
        best_green.or(best_any).map(|(_, _, _, index)| index)
    }

    /// When the class at `index` may next be served, if that is not now.
    fn blocked_until(&mut self, index: usize, now: u64) -> Option<u64> {
        let class = &mut self.classes[index];
        if self.t_free > now {
            let overdraft = nanos(OVERDRAFT);
            if class.tier > 0 {
                return Some(self.t_free);
            }
            if self.g0 > now || self.t_free > now + overdraft {
                let inside = self.g0.max(self.t_free.saturating_sub(overdraft));
                return Some(self.t_free.min(inside).max(now + 1));
            }
        }
        if class.ceiling.is_some() {
            let opens = class.ceiling_clock.saturating_sub(class.ceiling_burst);
            if opens > now {
                class.blocked = true;
                return Some(opens);
            }
        }
        None
    }

    /// Moves every clock that `bytes` of the class at `index` touch.
    fn charge(&mut self, index: usize, bytes: u64, now: u64) {
        let wire = wire_bytes(bytes, self.link_overhead);
        let advance = |clock: u64, memory: u64, rate: BitRate| {
            clock.max(now.saturating_sub(memory)).saturating_add(rate.nanos_for(wire))
        };
        self.t_free = advance(self.t_free, nanos(CREDIT), self.line.shaped);
        let class = &mut self.classes[index];
        // What a class has beyond its guarantee is remembered for a moment only: an hour of using
        // an idle line must not cost the guarantee of the hour after.
        if class.tier == 0 {
            let clock = advance(self.g0, nanos(OVERDRAFT), self.tier0_floor);
            self.g0 = clock.min(now.saturating_add(self.g0_most));
        }
        if let Some(floor) = class.floor {
            let clock = advance(class.floor_clock, class.floor_memory, floor);
            class.floor_clock = clock.min(now.saturating_add(class.floor_memory));
        }
        if let Some(ceiling) = class.ceiling {
            // `ceiling_burst` includes the quantum that may be open at any instant.
            class.ceiling_clock = advance(class.ceiling_clock, 0, ceiling);
        }
        class.tag += tag_step(bytes, class.weight);
        let (tier, tag) = (class.tier, class.tag);
        let virtual_time = self.backlogged_tag(tier, now).unwrap_or(tag);
        let state = &mut self.tiers[tier];
        state.virtual_time = state.virtual_time.max(virtual_time);
        let class = &mut self.classes[index];
        let lead = tag_step(self.quantum * LEAD_QUANTA, class.weight);
        class.tag = tag.min(state.virtual_time + lead);
    }

    /// The smallest tag among the classes of `tier` that have demand, or had it a moment ago, and
    /// are not held by their ceiling (a held class must not stop the clock of the others).
    fn backlogged_tag(&mut self, tier: usize, now: u64) -> Option<u128> {
        let mut least: Option<u128> = None;
        let mut left = self.ready | self.lingering;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let class = &self.classes[bit.trailing_zeros() as usize];
            if self.lingering & bit != 0 && class.is_idle_at(now) {
                self.lingering ^= bit;
            } else if class.tier == tier && !class.blocked {
                least = Some(least.map_or(class.tag, |tag| tag.min(class.tag)));
            }
        }
        least
    }

    /// Bytes of a quantum on the wire.
    fn quantum_wire(&self) -> u64 {
        wire_bytes(self.quantum, self.link_overhead)
    }

    /// Takes a flow's demand out of its class.
    fn withdraw(&mut self, flow: FlowId) {
        let index = self.flows.get(flow).class;
        self.flows.withdraw(&mut self.classes[index].queues, flow);
        self.note_idle(index);
    }

    /// Takes a class whose last demand went away out of the running.
    fn note_idle(&mut self, index: usize) {
        let class = &mut self.classes[index];
        if self.ready & (1 << index) != 0 && class.queues.is_empty() {
            self.ready &= !(1 << index);
            self.lingering |= 1 << index;
            class.idle_since = self.origin.latest();
        }
    }
}

/// Grant size at `rate`: [`QUANTUM_TIME`] in whole segments, one segment to [`QUANTUM_MAX`].
pub fn quantum(rate: BitRate) -> u64 {
    let bytes = rate.bytes_in(QUANTUM_TIME);
    (bytes / MSS * MSS).clamp(MSS, QUANTUM_MAX)
}

/// A rate that rounds to nothing is one bit a second: a clock at the end of time could be neither
/// compared nor moved back by a refund.
fn never_zero(line: LineRate) -> LineRate {
    LineRate { shaped: line.shaped.max(BitRate::from_bits_per_second(1)), ..line }
}

fn tag_step(bytes: u64, weight: u32) -> u128 {
    // A grant is at most 64 KiB: its scaled size fits into 64 bits with room to spare.
    u128::from((bytes << TAG_SHIFT) / u64::from(weight.max(1)))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;

//! The reference model: a scheduler that is watched.
//!
//! [`Audited`] has the verbs of the scheduler and panics when an answer breaks a property. It
//! keeps its own books: what every flow wants, who is ready, and leaky buckets for every bound
//! that must hold in any window (a bucket that drains at a rate and never passes its brim is the
//! same as that bound for all windows at once). It looks into the scheduler only to know which
//! class is held by its ceiling and whether the line is free.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::*;
use super::draw::epoch;

/// Bits times 1e9, so that rates drain it per nanosecond without rounding.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    level: i128,
    rate: u64,
    at: u64,
    /// Of a bound kept in time: how much of it is brim.
    memory: u64,
}

impl Bucket {
    fn drain(&mut self, now: u64) {
        let drained = i128::from(self.rate) * i128::from(now - self.at);
        self.level = (self.level - drained).max(0);
        self.at = now;
    }

    fn pour(&mut self, wire: u64, now: u64) {
        self.drain(now);
        self.level += volume(wire);
    }

    fn take(&mut self, wire: u64) {
        self.level = (self.level - volume(wire)).max(0);
    }

    /// The level that `time` and `wire` bytes together allow, with a microsecond for rounding
    /// (every grant and refund rounds to nanoseconds).
    fn brim(&self, time: u64, wire: u64) -> i128 {
        i128::from(self.rate) * (i128::from(time) + 1_000) + volume(wire)
    }

    fn set_rate(&mut self, rate: u64, now: u64) {
        self.drain(now);
        self.rate = rate;
    }

    /// Another rate for a bound that is kept in time (floors, ceilings): as full as before in
    /// time, less what a shorter memory forgets, and as empty as it must be before anything may be
    /// poured in.
    fn rescale(&mut self, rate: u64, memory: u64, now: u64) {
        let old = i128::from(self.rate);
        let forgotten = i128::from(self.memory.saturating_sub(memory));
        self.set_rate(rate, now);
        if old > 0 {
            self.level = (self.level / old - forgotten).max(0) * i128::from(rate);
        }
        self.memory = memory;
        self.clip(memory, 0);
    }

    fn clip(&mut self, time: u64, wire: u64) {
        self.level = self.level.min(self.brim(time, wire));
    }
}

fn volume(wire: u64) -> i128 {
    i128::from(wire) * 8_000_000_000
}

#[derive(Clone, Debug)]
pub(super) struct ClassBook {
    pub(super) share: ClassShare,
    pub(super) tier: usize,
    /// What is left of its guarantee after scaling, bit/s.
    pub(super) floor: u64,
    pub(super) ceiling: Option<u64>,
    /// Payload and wire bytes granted and not refunded.
    pub(super) bytes: u64,
    pub(super) wire: u64,
    pub(super) ready: usize,
    under_ceiling: Bucket,
    /// What it was given in front of a ready upper tier.
    jumped: Bucket,
}

#[derive(Clone, Debug)]
struct FlowBook {
    class: usize,
    want: u64,
    bytes: u64,
    /// Class and bytes of the last grant, as far as not refunded.
    last: Option<(usize, u64)>,
}

/// A watched scheduler. Times are nanoseconds since its first instant.
#[derive(Clone, Debug)]
pub(super) struct Audited {
    pub(super) scheduler: Scheduler,
    epoch: Instant,
    latest: u64,
    rate: LineRate,
    overhead: u64,
    pub(super) classes: Vec<ClassBook>,
    flows: BTreeMap<FlowId, FlowBook>,
    link: Bucket,
    /// What the first tier was given while the line was busy.
    overdraft: Bucket,
    pub(super) grants: u64,
}

impl Audited {
    pub(super) fn new(rate: LineRate, overhead: u16, shares: &[ClassShare]) -> Self {
        let epoch = epoch();
        let mut audited = Self {
            scheduler: Scheduler::new(rate, overhead, shares, epoch),
            epoch,
            latest: 0,
            rate: never_zero(rate),
            overhead: u64::from(overhead),
            classes: Vec::new(),
            flows: BTreeMap::new(),
            link: Bucket::default(),
            overdraft: Bucket::default(),
            grants: 0,
        };
        audited.write_classes(shares);
        audited.write_rates();
        audited
    }

    pub(super) fn at(&self, now: u64) -> Instant {
        self.epoch + Duration::from_nanos(now)
    }

    fn advance(&mut self, now: u64) -> u64 {
        self.latest = self.latest.max(now);
        self.latest
    }

    pub(super) fn quantum(&self) -> u64 {
        self.scheduler.quantum()
    }

    pub(super) fn wire(&self, bytes: u64) -> u64 {
        wire_bytes(bytes, self.overhead)
    }

    /// Nanoseconds of one quantum on the line.
    pub(super) fn quantum_time(&self) -> u64 {
        self.rate.shaped.nanos_for(self.wire(self.quantum()))
    }

    pub(super) fn flow_bytes(&self, flow: FlowId) -> u64 {
        self.flows[&flow].bytes
    }

    pub(super) fn class_of(&self, flow: FlowId) -> usize {
        self.flows[&flow].class
    }

    pub(super) fn wants(&self, flow: FlowId) -> u64 {
        self.flows[&flow].want
    }

    pub(super) fn add_flow(&mut self, class: usize) -> FlowId {
        let flow = self.scheduler.add_flow(class);
        let book = FlowBook { class, want: 0, bytes: 0, last: None };
        assert!(self.flows.insert(flow, book).is_none(), "an id that is in use was given again");
        flow
    }

    pub(super) fn remove_flow(&mut self, flow: FlowId) {
        self.scheduler.remove_flow(flow);
        self.set_want(flow, 0);
        self.flows.remove(&flow);
        self.check_lists();
    }

    pub(super) fn move_flow(&mut self, flow: FlowId, class: usize, now: u64) {
        self.advance(now);
        self.scheduler.move_flow(flow, class, self.at(now));
        let want = self.wants(flow);
        self.set_want(flow, 0);
        self.flows.get_mut(&flow).unwrap().class = class;
        self.set_want(flow, want);
        self.check_lists();
    }

    pub(super) fn demand(&mut self, flow: FlowId, bytes: u64, now: u64) {
        self.advance(now);
        self.scheduler.handle_demand(Demand { flow, bytes }, self.at(now));
        self.set_want(flow, bytes);
        self.check_lists();
    }

    fn set_want(&mut self, flow: FlowId, want: u64) {
        let book = self.flows.get_mut(&flow).unwrap();
        let ready = &mut self.classes[book.class].ready;
        *ready = *ready + usize::from(want > 0) - usize::from(book.want > 0);
        book.want = want;
    }

    /// Refunds up to `unused` bytes of the flow's last grant; says how many.
    pub(super) fn refund(&mut self, flow: FlowId, unused: u64, now: u64) -> u64 {
        let Some((class, left)) = self.flows[&flow].last else { return 0 };
        let unused = unused.min(left);
        if unused == 0 {
            return 0;
        }
        let time = self.advance(now);
        self.scheduler.handle_refund(flow, unused, self.at(now));
        let wire = self.wire(unused);
        let book = self.flows.get_mut(&flow).unwrap();
        book.bytes -= unused;
        book.last = Some((class, left - unused));
        let moved = book.class != class;
        for bucket in [&mut self.link, &mut self.overdraft] {
            bucket.drain(time);
            bucket.take(wire);
        }
        let Some(class) = self.classes.get_mut(class) else { return unused };
        class.bytes = class.bytes.saturating_sub(unused);
        class.wire = class.wire.saturating_sub(wire);
        if !moved {
            for bucket in [&mut class.under_ceiling, &mut class.jumped] {
                bucket.drain(time);
                bucket.take(wire);
            }
        }
        unused
    }

    pub(super) fn unasked(&mut self, wire: u64, now: u64) {
        self.advance(now);
        self.scheduler.handle_unasked(wire, self.at(now));
    }

    pub(super) fn set_rate(&mut self, rate: LineRate, now: u64) {
        self.advance(now);
        self.scheduler.set_rate(rate, self.at(now));
        let rate = never_zero(rate);
        let changed = rate != self.rate;
        self.rate = rate;
        self.write_rates();
        if changed {
            // 25: what was promised on the old line is forgiven but for one quantum of the new.
            let quantum = self.wire(self.quantum());
            self.link.clip(nanos(CREDIT), quantum);
            self.check_debt();
        }
    }

    /// 25: no debt is longer than one quantum right after a change.
    fn check_debt(&self) {
        let now = self.scheduler.origin.clone().nanos(self.at(self.latest));
        let debt = self.scheduler.t_free.saturating_sub(now);
        assert!(debt <= self.quantum_time(), "25: debt of {debt} ns after a rate change");
    }

    pub(super) fn set_classes(&mut self, shares: &[ClassShare], now: u64) {
        self.advance(now);
        self.scheduler.set_classes(shares, self.at(now));
        self.write_classes(shares);
        self.write_rates();
        self.check_lists();
    }

    fn write_classes(&mut self, shares: &[ClassShare]) {
        let mut priorities: Vec<u16> = shares.iter().map(|share| share.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let tier = |share: &ClassShare| priorities.iter().filter(|p| **p > share.priority).count();
        for (index, share) in shares.iter().enumerate() {
            if index == self.classes.len() {
                let at = self.latest;
                let bucket = Bucket { at, ..Bucket::default() };
                self.classes.push(ClassBook {
                    share: *share,
                    tier: 0,
                    floor: 0,
                    ceiling: None,
                    bytes: 0,
                    wire: 0,
                    ready: 0,
                    under_ceiling: bucket,
                    jumped: bucket,
                });
            }
            self.classes[index].share = *share;
            self.classes[index].tier = tier(share);
        }
        self.classes.truncate(shares.len());
    }

    fn write_rates(&mut self) {
        let (now, line) = (self.latest, self.rate);
        let quantum = self.wire(self.quantum());
        let floor = |class: &ClassBook| class.share.guarantee.of(line.capacity).bits_per_second();
        let wanted: u128 =
            self.classes.iter().filter(|c| c.tier > 0).map(|c| u128::from(floor(c))).sum();
        let most = u128::from(line.shaped.bits_per_second()) * 80 / 100;
        let mut floors = 0;
        for class in &mut self.classes {
            class.floor = floor(class);
            if class.tier > 0 && wanted > most {
                let scaled = u128::from(class.floor) * most / wanted;
                class.floor = u64::try_from(scaled).unwrap();
            }
            if class.tier > 0 {
                floors += class.floor;
            }
            let ceiling = class.share.ceiling.of(line.capacity);
            let ceiling = ceiling.max(BitRate::from_bits_per_second(1));
            class.ceiling = (ceiling < line.shaped).then_some(ceiling.bits_per_second());
            class.jumped.rescale(class.floor, floor_memory(class.floor, quantum), now);
            let burst = ceiling_burst(ceiling, quantum);
            class.under_ceiling.rescale(ceiling.bits_per_second(), burst, now);
        }
        let first = line.shaped.bits_per_second() - floors;
        self.overdraft.rescale(first, overdraft_memory(first, quantum), now);
        self.link.rescale(line.shaped.bits_per_second(), nanos(CREDIT + OVERDRAFT), now);
    }

    /// Whether no ceiling holds the class.
    fn is_open(&self, class: usize, now: u64) -> bool {
        let state = &self.scheduler.classes[class];
        let opens = state.ceiling_clock.saturating_sub(state.ceiling_burst);
        state.ceiling.is_none() || opens <= now
    }

    /// One question, its answer checked.
    pub(super) fn poll(&mut self, now: u64) -> Option<Grant> {
        let before = self.latest;
        let time = self.advance(now);
        let inner = self.scheduler.origin.clone().nanos(self.at(now));
        let t_free = self.scheduler.t_free;
        let open: Vec<bool> =
            (0..self.classes.len()).map(|class| self.is_open(class, inner)).collect();
        let overdraw =
            self.scheduler.g0 <= inner && t_free <= inner.saturating_add(nanos(OVERDRAFT));
        match self.scheduler.poll_grant(self.at(now)) {
            Some(grant) => {
                self.check_grant(grant, &open, t_free > inner, time);
                Some(grant)
            }
            None => {
                // 8: nothing that could be served is left.
                for (index, class) in self.classes.iter().enumerate() {
                    if class.ready > 0 && open[index] {
                        let may = t_free <= inner || (class.tier == 0 && overdraw);
                        assert!(!may, "8: class {index} could have been served");
                    }
                }
                self.check_timeout(time, now >= before);
                None
            }
        }
    }

    fn check_grant(&mut self, grant: Grant, open: &[bool], busy: bool, now: u64) {
        let quantum = self.wire(self.quantum());
        let flow = self.flows.get_mut(&grant.flow).expect("3: a grant to an unknown flow");
        let most = flow.want.min(self.scheduler.quantum());
        assert!(grant.bytes > 0 && grant.bytes <= most, "3: {grant:?}, allowed {most}");
        flow.bytes += grant.bytes;
        let (index, want) = (flow.class, flow.want - grant.bytes);
        flow.last = Some((index, grant.bytes));
        self.grants += 1;
        let wire = self.wire(grant.bytes);
        let tier = self.classes[index].tier;
        let waits_above = self
            .classes
            .iter()
            .enumerate()
            .any(|(other, class)| class.tier < tier && class.ready > 0 && open[other]);
        self.set_want(grant.flow, want);
        self.link.pour(wire, now);
        let brim = self.link.brim(nanos(CREDIT + OVERDRAFT), 2 * quantum);
        assert!(self.link.level <= brim, "1: the line is over its rate by {}", self.link.level);
        if busy {
            assert_eq!(tier, 0, "13: only the first tier may overdraw");
            self.overdraft.pour(wire, now);
            let brim = self.overdraft.brim(overdraft_memory(self.overdraft.rate, quantum), quantum);
            assert!(
                self.overdraft.level <= brim,
                "17, 18: the first tier overdrew its part: {:?}, brim {brim}",
                self.overdraft
            );
        }
        let class = &mut self.classes[index];
        class.bytes += grant.bytes;
        class.wire += wire;
        if waits_above {
            assert!(class.floor > 0, "13, 11: class {index} in front of a ready upper tier");
            class.jumped.pour(wire, now);
            let brim = class.jumped.brim(floor_memory(class.floor, quantum), quantum);
            assert!(
                class.jumped.level <= brim,
                "14: class {index} jumped beyond its floor: {class:?}"
            );
        }
        if let Some(ceiling) = class.ceiling {
            class.under_ceiling.pour(wire, now);
            let burst = ceiling_burst(BitRate::from_bits_per_second(ceiling), quantum);
            let brim = class.under_ceiling.brim(burst, quantum);
            assert!(
                class.under_ceiling.level <= brim,
                "2: class {index} over its ceiling: {class:?}"
            );
        }
    }

    /// 5, 7: when it says to come back.
    fn check_timeout(&mut self, now: u64, clock_is_true: bool) {
        let Some(timeout) = self.scheduler.poll_timeout() else {
            assert!(self.classes.iter().all(|class| class.ready == 0), "5: ready, yet no timer");
            return;
        };
        assert!(self.classes.iter().any(|class| class.ready > 0), "5: a timer for nobody");
        let in_ns = nanos(timeout.saturating_duration_since(self.at(now)));
        assert!(in_ns > 0, "5: a timer that has already passed");
        let quantum = self.wire(self.quantum());
        let slowest = self
            .classes
            .iter()
            .filter_map(|class| class.ceiling)
            .chain([self.rate.shaped.bits_per_second(), self.overdraft.rate])
            .map(|rate| BitRate::from_bits_per_second(rate).nanos_for(quantum))
            .fold(0, u64::max);
        let bound = slowest.saturating_mul(3).saturating_add(nanos(OVERDRAFT + CREDIT));
        let a_day = nanos(Duration::from_secs(2 * 86_400)) + now;
        assert!(in_ns <= bound.min(a_day), "5: a timer {in_ns} ns ahead, bound {bound}");
        if clock_is_true && in_ns > 1 && in_ns < nanos(Duration::from_secs(86_400)) {
            // Only the answer just before the timer is asked: eligibility never goes away.
            let mut probe = self.scheduler.clone();
            let early = probe.poll_grant(timeout - Duration::from_nanos(1));
            assert_eq!(early, None, "5: the timer is late");
        }
    }

    /// 4: lists, counts and sums agree.
    pub(super) fn check_lists(&self) {
        for (index, class) in self.classes.iter().enumerate() {
            let state = &self.scheduler.classes[index];
            let waiting = self.scheduler.flows.check(&state.queues, index);
            assert_eq!(waiting, class.ready, "4: ready flows of class {index}");
            let bit = self.scheduler.ready & (1 << index) != 0;
            assert_eq!(bit, class.ready > 0, "4: ready bit of class {index}");
        }
        for (flow, book) in &self.flows {
            assert_eq!(self.scheduler.demand(*flow), book.want, "4: {flow:?}");
        }
    }

    /// Grants until there are none; the timer that is left.
    pub(super) fn pump(&mut self, now: u64, on: impl FnMut(&mut Self, Grant)) -> Option<u64> {
        self.pump_at_most(u64::MAX, now, on)
    }

    /// The same, but comes up for air: at the end of the number line a quantum takes a nanosecond.
    pub(super) fn pump_at_most(
        &mut self,
        most: u64,
        now: u64,
        mut on: impl FnMut(&mut Self, Grant),
    ) -> Option<u64> {
        for _ in 0..most {
            let Some(grant) = self.poll(now) else {
                let timeout = self.scheduler.poll_timeout()?;
                return Some(nanos(timeout.saturating_duration_since(self.epoch)));
            };
            on(self, grant);
        }
        Some(now)
    }
}

fn floor_memory(floor: u64, quantum_wire: u64) -> u64 {
    let two = BitRate::from_bits_per_second(floor).nanos_for(quantum_wire).saturating_mul(2);
    nanos(GUARANTEE_MEMORY).max(two)
}

fn ceiling_burst(ceiling: BitRate, quantum_wire: u64) -> u64 {
    nanos(CEILING_BURST).max(ceiling.nanos_for(quantum_wire))
}

fn overdraft_memory(rate: u64, quantum_wire: u64) -> u64 {
    let two = BitRate::from_bits_per_second(rate).nanos_for(quantum_wire).saturating_mul(2);
    nanos(OVERDRAFT).max(two)
}

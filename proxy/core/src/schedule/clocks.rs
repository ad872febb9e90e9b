//! The scheduler's state per class and per tier, and its way of counting time.

use std::time::{Duration, Instant};

use super::flows::Queues;
use super::{CEILING_BURST, ClassShare, GUARANTEE_MEMORY, LineRate, nanos};
use crate::class::Share;
use crate::units::BitRate;

/// Nanoseconds since this point are the scheduler's time. It starts an hour in, so that clocks
/// may lie in the past without going below zero; a clock that steps back counts as no progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    start: Instant,
    latest: u64,
}

const HEAD_START: u64 = 3_600_000_000_000;

impl Origin {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, latest: HEAD_START }
    }

    /// `now` in nanoseconds, never less than what was returned before.
    pub(super) fn nanos(&mut self, now: Instant) -> u64 {
        let since = nanos(now.saturating_duration_since(self.start));
        self.latest = self.latest.max(since.saturating_add(HEAD_START));
        self.latest
    }

    /// The latest time that was told.
    pub(super) fn latest(&self) -> u64 {
        self.latest
    }

    pub(super) fn instant(&self, nanos: u64) -> Instant {
        let since = Duration::from_nanos(nanos.saturating_sub(HEAD_START));
        // A rate of 1 bit/s can put a wake-up centuries ahead; a day is as good.
        let bounded = since.min(Duration::from_nanos(self.latest) + Duration::from_secs(86_400));
        self.start + bounded
    }
}

/// One class of the scheduler.
#[derive(Clone, Debug)]
pub(super) struct ClassState {
    pub(super) share: ClassShare,
    pub(super) tier: usize,
    pub(super) weight: u32,
    pub(super) floor: Option<BitRate>,
    /// Below its floor while this is not in the future (GCRA theoretical arrival time).
    pub(super) floor_clock: u64,
    pub(super) floor_memory: u64,
    pub(super) ceiling: Option<BitRate>,
    pub(super) ceiling_clock: u64,
    /// How far the ceiling's clock may lie ahead with the class still open.
    pub(super) ceiling_burst: u64,
    /// Start tag of fair queueing inside the tier.
    pub(super) tag: u128,
    /// When it last had no demand left.
    pub(super) idle_since: u64,
    /// Was found held by its ceiling.
    pub(super) blocked: bool,
    pub(super) queues: Queues,
}

impl ClassState {
    pub(super) fn new(share: ClassShare, tier: usize, now: u64) -> Self {
        Self {
            share,
            tier,
            weight: share.weight.max(1),
            floor: None,
            floor_clock: now,
            floor_memory: 0,
            ceiling: None,
            ceiling_clock: now,
            ceiling_burst: 0,
            tag: 0,
            idle_since: 0,
            blocked: false,
            queues: Queues::default(),
        }
    }

    pub(super) fn reshape(&mut self, share: ClassShare, tier: usize) {
        self.share = share;
        self.tier = tier;
        self.weight = share.weight.max(1);
        self.blocked = false;
    }

    /// Whether a class without demand has lost its place: a socket asks again sooner.
    pub(super) fn is_idle_at(&self, now: u64) -> bool {
        now.saturating_sub(self.idle_since) > nanos(GUARANTEE_MEMORY)
    }

    /// Takes its floor and weight away and puts it into `tier`.
    pub(super) fn retire(&mut self, tier: usize) {
        self.share.weight = 1;
        self.share.guarantee = Share::Rate(BitRate::default());
        self.reshape(self.share, tier);
    }

    /// Sets the rates that follow from the line, and bounds the debt of the class's clocks to
    /// what the new rates allow.
    pub(super) fn derive(&mut self, floor: BitRate, line: LineRate, quantum_wire: u64, now: u64) {
        self.floor = (floor.bits_per_second() > 0).then_some(floor);
        if let Some(floor) = self.floor {
            let two = floor.nanos_for(quantum_wire).saturating_mul(2);
            self.floor_memory = nanos(GUARANTEE_MEMORY).max(two);
            self.floor_clock = self.floor_clock.min(now.saturating_add(self.floor_memory));
        }
        // A ceiling that rounds to nothing is one bit a second: a clock at the end of time could
        // not be moved back by a refund.
        let ceiling = self.share.ceiling.of(line.capacity).max(BitRate::from_bits_per_second(1));
        self.ceiling = (ceiling < line.shaped).then_some(ceiling);
        if let Some(ceiling) = self.ceiling {
            // A class that is open may still wait for the line. What it misses meanwhile must
            // fit into the burst, or it never reaches its ceiling on a slow line.
            let one = ceiling.nanos_for(quantum_wire);
            self.ceiling_burst = nanos(CEILING_BURST).max(one);
            // The most a class may owe. Less would forgive a debt with every change of rate, and
            // a rate that is learnt changes several times a second.
            let most = self.ceiling_burst.saturating_add(one);
            self.ceiling_clock = self.ceiling_clock.min(now.saturating_add(most));
        }
    }
}

/// One tier: classes of equal priority.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TierState {
    /// System virtual time: the smallest tag of a backlogged class, never falling.
    pub(super) virtual_time: u128,
}

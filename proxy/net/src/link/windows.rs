//! Ten times a second: what moved since, and from it windows, turns, pacing rates.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tillgate_core::link::LinkSpec;
use tillgate_core::schedule::quantum;
use tillgate_core::share::{Claim, water_fill_lending};
use tillgate_core::units::{BitRate, Direction, MSS, PerDirection, SEGMENT_OVERHEAD, wire_bytes};
use tillgate_core::window::demand::{Bound, SendShares, Want, claim_of, claim_up_of};
use tillgate_core::window::{RTT_UNKNOWN, WindowFlow, WindowLine, window_for, window_sum_max};

use super::slots::Slot;
use super::{ALLOCATE_EVERY, Entry, Link, State};
use crate::clock;

/// A connection that moved nothing for this long is idle: it holds no window and no dial place.
pub(super) const ACTIVE_FOR: Duration = Duration::from_secs(1);
/// Of its share, in percent: what the kernel may send at. More would let what waited in the
/// kernel while a sender paused leave faster than the line (measured at 1 Mbit/s: 107 % puts
/// 80 ms in front of a payment); less leaves the line unused.
const PACING_PERCENT: u64 = 100;
/// No sender is paced below this part of the line: a congestion control that measures its own
/// rate (BBR) would take a bound that was too low for a moment for the path's, and keep it.
const PACING_LEAST_PERCENT: u64 = 25;
/// Round trip of a far server on a terrestrial line: across an ocean.
const RTT_FAR: Duration = Duration::from_millis(150);
/// Weight of one allocation period in the class rates: about a second of memory.
const RATE_EWMA: f64 = 0.1;

impl Link {
    /// Allocates every [`ALLOCATE_EVERY`], and at once when something changed.
    pub(super) async fn allocate_repeatedly(&self) {
        let mut tick = tokio::time::interval(ALLOCATE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.changed.notified() => {}
            }
            self.allocate();
        }
    }

    /// One allocation.
    pub(crate) fn allocate(&self) {
        let now = clock::now();
        let mut state = self.lock();
        state.observe(self, now);
        let parked = state.aim_windows(self, now);
        state.aim_pacing(self, now);
        state.admit_dials(now);
        for (key, parked) in parked {
            if let Some(entry) = state.connections.get(&key) {
                self.down.set_parked(entry.shared.flows.down, parked);
            }
        }
    }
}

impl State {
    /// Takes in what the connections moved since the last time.
    fn observe(&mut self, link: &Link, now: Instant) {
        let elapsed = now.saturating_duration_since(self.allocated_at).as_secs_f64();
        let full_period = elapsed >= ALLOCATE_EVERY.as_secs_f64() / 2.0;
        let mut bytes =
            PerDirection { up: vec![0; self.slots.len()], down: vec![0; self.slots.len()] };
        let mut rtt: Option<Duration> = None;
        let line = window_line(&self.spec, self.base_rtt.unwrap_or(RTT_UNKNOWN));
        let period = full_period.then_some(now.saturating_duration_since(self.allocated_at));
        for entry in self.connections.values_mut() {
            let slot = entry.shared.slot.load(Ordering::Relaxed);
            let own = entry.shared.rtt();
            let line = WindowLine { rtt: own.unwrap_or(line.rtt), ..line };
            for direction in Direction::BOTH {
                let waits =
                    link.direction(direction).is_waiting(*entry.shared.flows.get(direction));
                let moved = entry.observe(direction, waits, period, line, now);
                match direction {
                    Direction::Up => bytes.up[slot] += moved,
                    Direction::Down => bytes.down[slot] += moved,
                }
            }
            rtt = [rtt, own].into_iter().flatten().min();
        }
        self.base_rtt = rtt.or(self.base_rtt);
        if full_period {
            self.allocated_at = now;
            let overhead = u64::from(self.spec.overhead_bytes);
            let learn = |rates: &mut [f64], bytes: &[u64]| {
                for (rate, bytes) in rates.iter_mut().zip(bytes) {
                    #[allow(clippy::cast_precision_loss, reason = "an estimate of a rate")]
                    let seen = wire_bytes(*bytes, overhead) as f64 * 8.0 / elapsed;
                    *rate += RATE_EWMA * (seen - *rate);
                }
            };
            learn(&mut self.rates.up, &bytes.up);
            learn(&mut self.rates.down, &bytes.down);
        }
    }

    /// Sets the receive windows of all bulk connections; returns who is out of turn.
    fn aim_windows(&mut self, link: &Link, now: Instant) -> Vec<(u64, bool)> {
        let flows = self.active(Direction::Down, now);
        let known: Vec<Duration> = flows.iter().filter_map(|flow| flow.rtt).collect();
        let rtt = match u32::try_from(known.len()) {
            Ok(count) if count > 0 => known.iter().sum::<Duration>() / count,
            _ => self.base_rtt.unwrap_or(RTT_UNKNOWN),
        };
        let line = window_line(&self.spec, rtt);
        let rates = self.receive_rates(link, &flows, line);
        let plans = self.allocator.plan(line, &rates, &flows, now);
        self.window_sum_max = window_sum_max(line);
        let mut planned: std::collections::BTreeMap<u64, (u64, bool)> =
            plans.into_iter().map(|plan| (plan.key, (plan.window, plan.parked))).collect();
        let mut turns = Vec::new();
        for (key, entry) in &self.connections {
            if self.slots.get(entry.shared.slot.load(Ordering::Relaxed)).critical {
                entry.shared.window.store(0, Ordering::Relaxed);
                turns.push((*key, false));
                continue;
            }
            let idle = (tillgate_core::window::WINDOW_MIN, false);
            let (window, parked) = planned.remove(key).unwrap_or(idle);
            entry.shared.window.store(window, Ordering::Relaxed);
            turns.push((*key, parked));
        }
        turns
    }

    /// Sets the rate at which the kernel may send for each bulk connection.
    fn aim_pacing(&mut self, link: &Link, now: Instant) {
        let active = self.active(Direction::Up, now);
        let rates = self.send_rates(link, &active);
        let line = link.up.line().shaped;
        let shares: Vec<Option<SendShares>> = (0..self.slots.len())
            .map(|slot| {
                let peers = active.iter().filter(|flow| flow.class == slot);
                let wants: Vec<Want> = peers.map(|flow| flow.want).collect();
                (!wants.is_empty()).then(|| SendShares::new(rates[slot], &wants))
            })
            .collect();
        for entry in self.connections.values() {
            let slot = entry.shared.slot.load(Ordering::Relaxed);
            let share = match shares[slot] {
                _ if self.slots.get(slot).critical => BitRate::default(),
                Some(shares) => shares.of(entry.demand.up.want(now)),
                None => line,
            };
            let pacing = match share.bits_per_second() {
                0 => 0,
                _ => share
                    .scale(PACING_PERCENT, 100)
                    .scale(MSS, MSS + SEGMENT_OVERHEAD)
                    .max(line.scale(PACING_LEAST_PERCENT, 100))
                    .bytes_per_second(),
            };
            entry.shared.pacing.store(pacing, Ordering::Relaxed);
        }
    }

    /// Bulk connections with traffic in `direction`.
    fn active(&self, direction: Direction, now: Instant) -> Vec<WindowFlow> {
        self.connections
            .iter()
            .filter(|(_, entry)| *entry.active_until.get(direction) > now)
            .map(|(key, entry)| WindowFlow {
                key: *key,
                class: entry.shared.slot.load(Ordering::Relaxed),
                rtt: entry.shared.rtt(),
                busy_for: now.saturating_duration_since(entry.busy_since),
                want: entry.demand.get(direction).want(now),
            })
            .filter(|flow| !self.slots.get(flow.class).critical)
            .collect()
    }

    /// What each class gets of the uplink now.
    fn send_rates(&self, link: &Link, flows: &[WindowFlow]) -> Vec<BitRate> {
        self.class_rates(Direction::Up, link, flows, |slot| claim_up_of(slot, flows))
    }

    /// What each class gets of the downlink now.
    fn receive_rates(&self, link: &Link, flows: &[WindowFlow], line: WindowLine) -> Vec<BitRate> {
        self.class_rates(Direction::Down, link, flows, |slot| claim_of(slot, flows, line))
    }

    /// What each class gets now that wants what `wanted` says. What nobody claims is lent to those
    /// that move something: a flow that is about to want more finds its bound open.
    fn class_rates(
        &self,
        direction: Direction,
        link: &Link,
        flows: &[WindowFlow],
        wanted: impl Fn(usize) -> Option<BitRate>,
    ) -> Vec<BitRate> {
        let line = link.direction(direction).line();
        let claims = self.claims(direction, link, wanted);
        let borrows = |slot: usize| flows.iter().any(|flow| flow.class == slot);
        let ceilings: Vec<BitRate> = self
            .slots
            .iter()
            .enumerate()
            .map(|(slot, class)| match borrows(slot) {
                true => self.slots.ceiling(class).get(direction).of(line.capacity),
                false => BitRate::default(),
            })
            .collect();
        water_fill_lending(line.shaped, &claims, &ceilings)
    }

    /// The claims of all classes: what they used lately, or what `wanted` says where that is more
    /// (`None`: everything).
    fn claims(
        &self,
        direction: Direction,
        link: &Link,
        wanted: impl Fn(usize) -> Option<BitRate>,
    ) -> Vec<Claim> {
        let capacity = link.direction(direction).line().capacity;
        let used = self.rates.get(direction);
        let claim = |(slot, class): (usize, &Slot)| {
            let ceiling = self.slots.ceiling(class).get(direction).of(capacity);
            let wanted = wanted(slot).map_or(ceiling, |rate| rate.max(bit_rate(used[slot])));
            let floor = class.guarantee.get(direction).of(capacity);
            let cap = wanted.min(ceiling);
            Claim { priority: class.priority, weight: class.weight, floor, cap }
        };
        self.slots.iter().enumerate().map(claim).collect()
    }
}

impl Entry {
    /// What it moved in `direction` since the last full period, which ends now where `period` says
    /// how long it took; else 0.
    fn observe(
        &mut self,
        direction: Direction,
        waits: bool,
        period: Option<Duration>,
        line: WindowLine,
        now: Instant,
    ) -> u64 {
        let total = self.shared.moved.get(direction).load(Ordering::Relaxed);
        let bound = self.bound(direction);
        let (seen, active_until, demand) = match direction {
            Direction::Up => (&mut self.seen.up, &mut self.active_until.up, &mut self.demand.up),
            Direction::Down => {
                (&mut self.seen.down, &mut self.active_until.down, &mut self.demand.down)
            }
        };
        if total != *seen || waits {
            if *active_until <= now && direction == Direction::Down {
                self.busy_since = now;
            }
            *active_until = now + ACTIVE_FOR;
        }
        demand.look(waits, now);
        let Some(period) = period else { return 0 };
        let moved = total.saturating_sub(*seen);
        *seen = total;
        demand.moved(moved, period, bound, line, now);
        moved
    }

    /// What bounds it in `direction`; nothing does in a critical class.
    fn bound(&self, direction: Direction) -> Bound {
        let (bound, of): (_, fn(u64) -> Bound) = match direction {
            Direction::Up => (&self.shared.pacing, Bound::Pacing),
            Direction::Down => (&self.shared.window, Bound::Window),
        };
        match bound.load(Ordering::Relaxed) {
            0 => Bound::Nothing,
            bytes => of(bytes),
        }
    }
}

impl super::Shared {
    /// Least round-trip time of this connection.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

/// The window a bulk flow would need that has the whole line to itself: what its window scale
/// must be able to say. The nearest server tells little about the one that is dialled, so this
/// assumes a far one.
pub(crate) fn lone_window(spec: &LinkSpec, rtt: Option<Duration>) -> u64 {
    let far = (2 * rtt.unwrap_or(RTT_UNKNOWN)).max(RTT_FAR);
    let line = window_line(spec, far);
    window_for(line.rate, line)
}

/// The line of `spec` as the allocator sees it.
pub(super) fn window_line(spec: &LinkSpec, rtt: Duration) -> WindowLine {
    let rates = super::line_rates(spec);
    let up = rates.up.shaped;
    let ack_wait = up.time_for(wire_bytes(quantum(up), u64::from(spec.overhead_bytes)));
    WindowLine { rate: rates.down.shaped, rtt, ack_wait }
}

/// A rate from bits per second as a float; negative or absurd values are bounded.
pub(super) fn bit_rate(bits: f64) -> BitRate {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded on the line above the cast"
    )]
    let whole = bits.clamp(0.0, 1e15) as u64;
    BitRate::from_bits_per_second(whole)
}

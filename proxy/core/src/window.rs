//! The receive-window allocator: how much each bulk flow may have on its way to us.
//!
//! Pacing reads alone does not keep the provider's queue empty: a sender fills whatever window it
//! was given. So every bulk flow gets a window for the rate it is about to have, the sum of all
//! windows is bounded by the line's delay-bandwidth product plus a small queue, and flows that do
//! not fit take turns of a second or more. A flow that does not use its window (`demand.rs`) gets
//! what it uses, out of turn with nobody. In go the line and the active flows; out come a window
//! and a turn for each. The shell applies them (`SO_RCVBUF`) and withholds reads out of turn.
//!
//! It does not decide when a read may happen (the scheduler does) and never shrinks a window
//! below what is already promised: a window can only close as data drains.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use self::demand::Want;
use crate::schedule::quantum;
use crate::units::{BitRate, MSS, SEGMENT_OVERHEAD, wire_bytes};

pub mod demand;

/// The least useful window: below four segments, acknowledgements and record assembly stall.
pub const WINDOW_MIN: u64 = 4 * MSS;
/// Round-trip time of a line that has not been measured yet.
pub const RTT_UNKNOWN: Duration = Duration::from_millis(50);
/// Queue at the provider that the sum of all windows may add, at least three segments.
const QUEUE_ADDED: Duration = Duration::from_millis(10);
/// Window above its need that a settled flow gets, in percent: enough to carry most of what one
/// of several flows leaves. More adds to the payments' p99 when that flow comes back.
const SLACK_PERCENT: u64 = 20;
/// A flow's slack grows until it has been busy this long, slowly enough to add no burst.
pub const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// Line time that the first window of a new flow may take.
const FIRST_WINDOW_TIME: Duration = Duration::from_millis(5);
/// A flow keeps its turn at least this long, and waits at least as long for the next.
pub const TURN: Duration = Duration::from_secs(1);

/// The line as the allocator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLine {
    /// Downlink rate that bulk may have now: capacity less headroom.
    pub rate: BitRate,
    /// Least round-trip time seen across the line.
    pub rtt: Duration,
    /// How long an acknowledgement may wait at our end: the time of an uplink quantum.
    pub ack_wait: Duration,
}

/// One bulk flow with traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowFlow {
    /// The caller's name for it; stable while the flow lives.
    pub key: u64,
    /// Index of its class.
    pub class: usize,
    /// Least round-trip time of its own, where known.
    pub rtt: Option<Duration>,
    /// How long it has been busy.
    pub busy_for: Duration,
    /// What it showed that it wants.
    pub want: Want,
}

impl WindowFlow {
    /// `line` with the flow's own round-trip time, where that is known.
    fn on(&self, line: WindowLine) -> WindowLine {
        WindowLine { rtt: self.rtt.unwrap_or(line.rtt), ..line }
    }

    /// It does not use its window: it takes no turn, and the least window is not counted.
    fn is_modest(&self) -> bool {
        matches!(self.want, Want::Rate(_))
    }
}

/// What one flow may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowPlan {
    /// The caller's name for the flow.
    pub key: u64,
    /// Payload bytes that may be under way or unread.
    pub window: u64,
    /// Out of turn: its reads are withheld.
    pub parked: bool,
}

/// Sizes windows and keeps turns. See the module.
#[derive(Clone, Debug, Default)]
pub struct WindowAllocator {
    turns: BTreeMap<u64, Turn>,
    /// Sum of the windows of the flows whose turn it is.
    sum: u64,
}

/// Whether it is a flow's turn, and since when.
#[derive(Clone, Copy, Debug)]
struct Turn {
    parked: bool,
    since: Instant,
}

impl WindowAllocator {
    /// Plans for `flows` at `now`, in their order. `class_rates` says what each class (by index)
    /// has of the line. Of it a flow that wants little gets that with room to grow, at most an
    /// equal part, and the others share the rest; where none wants more, all share alike.
    ///
    /// The windows of flows in turn sum to at most [`window_sum_max`], unless one flow of
    /// [`WINDOW_MIN`] per class alone exceeds it. That least window of a flow that does not use it
    /// is not in the sum, as that of an idle connection is not.
    pub fn plan(
        &mut self,
        line: WindowLine,
        class_rates: &[BitRate],
        flows: &[WindowFlow],
        now: Instant,
    ) -> Vec<WindowPlan> {
        self.take_turns(line, class_rates, flows, now);
        let mut shares: BTreeMap<usize, Shares> = BTreeMap::new();
        for flow in flows.iter().filter(|flow| !self.is_parked(flow.key)) {
            shares.entry(flow.class).or_default().count(flow);
        }
        for flow in flows.iter().filter(|flow| !self.is_parked(flow.key)) {
            let class = class_rates.get(flow.class).copied().unwrap_or_default();
            shares.entry(flow.class).or_default().claim(flow, class, line);
        }
        let mut plans: Vec<WindowPlan> = flows
            .iter()
            .map(|flow| {
                if self.is_parked(flow.key) {
                    return WindowPlan { key: flow.key, window: WINDOW_MIN, parked: true };
                }
                let class = class_rates.get(flow.class).copied().unwrap_or_default();
                let shares = shares.get(&flow.class).copied().unwrap_or_default();
                let window = window_for(shares.of(flow, class, line), flow.on(line));
                let slack = if flow.is_modest() { 0 } else { slack(window, flow.busy_for) };
                WindowPlan { key: flow.key, window: window + slack, parked: false }
            })
            .collect();
        let modest: Vec<bool> = flows.iter().map(WindowFlow::is_modest).collect();
        self.sum = fit(&mut plans, &modest, window_sum_max(line));
        plans
    }

    /// Sum of the windows of the flows whose turn it is, in bytes.
    pub fn window_sum(&self) -> u64 {
        self.sum
    }

    /// How many flows wait for their turn.
    pub fn parked(&self) -> usize {
        self.turns.values().filter(|turn| turn.parked).count()
    }

    fn is_parked(&self, key: u64) -> bool {
        self.turns.get(&key).is_some_and(|turn| turn.parked)
    }

    /// Brings the turns up to date: flows that left are forgotten, new ones start or wait as room
    /// allows, and where flows wait, turns that lasted [`TURN`] end.
    fn take_turns(
        &mut self,
        line: WindowLine,
        class_rates: &[BitRate],
        flows: &[WindowFlow],
        now: Instant,
    ) {
        let mut by_class: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for flow in flows.iter().filter(|flow| !flow.is_modest()) {
            by_class.entry(flow.class).or_default().insert(flow.key);
        }
        self.turns.retain(|key, _| by_class.values().any(|keys| keys.contains(key)));
        let newcomer = Turn { parked: true, since: now.checked_sub(TURN).unwrap_or(now) };
        for flow in flows.iter().filter(|flow| !flow.is_modest()) {
            self.turns.entry(flow.key).or_insert(newcomer);
        }
        let total: u64 =
            by_class.keys().map(|class| rate_of(class_rates, *class)).fold(0, u64::saturating_add);
        for (class, keys) in by_class {
            let bytes = BitRate::from_bits_per_second(window_sum_max(line))
                .scale(rate_of(class_rates, class), total)
                .bits_per_second();
            let room = usize::try_from(bytes / WINDOW_MIN).unwrap_or(usize::MAX).max(1);
            self.rotate(&keys, room, now);
        }
    }

    /// Gives `room` turns to `keys`: free room first, then the places of flows whose turn is
    /// over. Those that waited longest come first; nobody's state changes twice within [`TURN`].
    fn rotate(&mut self, keys: &BTreeSet<u64>, room: usize, now: Instant) {
        let of_class = |parked: bool| -> Vec<(Instant, u64)> {
            let mut list: Vec<(Instant, u64)> = keys
                .iter()
                .filter_map(|key| self.turns.get(key).map(|turn| (key, turn)))
                .filter(|(_, turn)| turn.parked == parked)
                .map(|(key, turn)| (turn.since, *key))
                .collect();
            list.sort_unstable();
            list
        };
        let done = |entry: &(Instant, u64)| now.saturating_duration_since(entry.0) >= TURN;
        let serving = of_class(false);
        let free = room.saturating_sub(serving.len());
        let over = serving.len().saturating_sub(room);
        let mut waiting = of_class(true).into_iter().filter(done);
        let mut ended = serving.into_iter().filter(done);
        let mut changes: Vec<(u64, bool)> = Vec::new();
        changes.extend(waiting.by_ref().take(free).map(|(_, key)| (key, false)));
        changes.extend(ended.by_ref().take(over).map(|(_, key)| (key, true)));
        for ((_, next), (_, last)) in waiting.zip(ended) {
            changes.push((next, false));
            changes.push((last, true));
        }
        for (key, parked) in changes {
            self.turns.insert(key, Turn { parked, since: now });
        }
    }
}

fn rate_of(class_rates: &[BitRate], class: usize) -> u64 {
    class_rates.get(class).copied().unwrap_or_default().bits_per_second().max(1)
}

/// The window a flow of `rate` needs: what is under way in one round trip, the time of a quantum
/// at each end included, and two segments; at least [`WINDOW_MIN`].
pub fn window_for(rate: BitRate, line: WindowLine) -> u64 {
    (payload_rate(rate).bytes_in(loaded_rtt(line)) + 2 * MSS).max(WINDOW_MIN)
}

/// The window of a new flow, before it has received anything: what it may bring unasked. Five
/// milliseconds of the line, two segments to the ten that a server sends on a new connection
/// (RFC 6928). The rest of its window is opened as it reads, and paid for like reads.
pub fn first_window(line_rate: BitRate) -> u64 {
    line_rate.bytes_in(FIRST_WINDOW_TIME).clamp(2 * MSS, 10 * MSS)
}

/// Bound of the sum of all windows: the line's delay-bandwidth product plus a queue of 10 ms, or
/// of three segments where those take longer, plus the slack of settled flows.
pub fn window_sum_max(line: WindowLine) -> u64 {
    let three = 3 * line.rate.time_for(wire_bytes(MSS, 0));
    let sum = line.rate.bytes_in(loaded_rtt(line) + QUEUE_ADDED.max(three));
    (sum + slack(sum, SETTLED_AFTER)).max(WINDOW_MIN)
}

/// The round trip of a segment that finds no queue but the quanta in front of it: one on the
/// downlink, one on the uplink in front of its acknowledgement, and the second segment that the
/// acknowledgement waits for.
fn loaded_rtt(line: WindowLine) -> Duration {
    let quantum_time = line.rate.time_for(wire_bytes(quantum(line.rate), 0));
    line.rtt + 2 * quantum_time + 2 * line.ack_wait
}

/// What a flow that has been busy for `busy_for` gets above its need. A sender that pauses (BBR
/// does, every ten seconds, to measure its round trip) leaves its part to the others, and they
/// can only take it with windows above their share. New flows get none: their window is what
/// arrives at once. The surplus waits in our socket, not at the provider.
fn slack(window: u64, busy_for: Duration) -> u64 {
    let settled = busy_for.min(SETTLED_AFTER).as_millis();
    let part = u128::from(window) * u128::from(SLACK_PERCENT) * settled;
    u64::try_from(part / 100 / SETTLED_AFTER.as_millis()).unwrap_or(u64::MAX)
}

/// The payload part of a wire rate.
fn payload_rate(rate: BitRate) -> BitRate {
    rate.scale(MSS, MSS + SEGMENT_OVERHEAD)
}

/// Scales the open windows down together until their sum fits; none goes below
/// [`WINDOW_MIN`], which is not counted for a flow that is `modest`. Returns the sum.
fn fit(plans: &mut [WindowPlan], modest: &[bool], most: u64) -> u64 {
    let counted =
        plans.iter().zip(modest).filter(|(plan, modest)| !plan.parked && !**modest).count();
    let least = WINDOW_MIN * u64::try_from(counted).unwrap_or(u64::MAX);
    let above = |plans: &[WindowPlan]| -> u64 {
        plans.iter().filter(|plan| !plan.parked).map(|plan| plan.window - WINDOW_MIN).sum()
    };
    let wanted = above(plans);
    let spare = most.saturating_sub(least);
    if wanted > spare {
        for plan in plans.iter_mut().filter(|plan| !plan.parked) {
            let above = u128::from(plan.window - WINDOW_MIN) * u128::from(spare);
            let above = u64::try_from(above / u128::from(wanted)).unwrap_or(u64::MAX);
            plan.window = WINDOW_MIN + above;
        }
    }
    least + above(plans)
}

/// How the rate of one class is shared among its flows in turn.
#[derive(Clone, Copy, Debug, Default)]
struct Shares {
    flows: u64,
    hungry: u64,
    /// What the flows get together that do not want everything.
    modest: BitRate,
}

impl Shares {
    fn count(&mut self, flow: &WindowFlow) {
        self.flows += 1;
        self.hungry += u64::from(flow.want == Want::All);
    }

    fn claim(&mut self, flow: &WindowFlow, class: BitRate, line: WindowLine) {
        if let Some(claim) = flow.want.claim(flow.on(line)) {
            let claim = claim.min(class.scale(1, self.flows)).bits_per_second();
            let sum = self.modest.bits_per_second().saturating_add(claim);
            self.modest = BitRate::from_bits_per_second(sum);
        }
    }

    fn of(&self, flow: &WindowFlow, class: BitRate, line: WindowLine) -> BitRate {
        let equal = class.scale(1, self.flows.max(1));
        match flow.want.claim(flow.on(line)) {
            Some(claim) if self.hungry > 0 => claim.min(equal),
            Some(_) => equal,
            None => {
                let left = class.bits_per_second().saturating_sub(self.modest.bits_per_second());
                BitRate::from_bits_per_second(left).scale(1, self.hungry.max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests;

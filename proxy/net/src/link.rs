//! One WAN line: a scheduler per direction, the windows of its bulk flows, its dial queue.
//!
//! A [`Link`] is shared by all workers. WAN connections register here before they are dialled
//! ([`crate::shaped`] does it for them), ask their direction for grants, and publish what they
//! moved; ten times a second the link turns that into windows, turns and pacing rates, which each
//! stream applies to its own socket. Classes are known by name across reloads: a class keeps its
//! slot, its counters and its flows, and flows of a removed class go on in `default`.
//!
//! It decides nothing itself: shares are the scheduler's, windows the allocator's.

mod datagrams;
pub(crate) mod dial;
pub(crate) mod direction;
mod slots;
pub mod snapshot;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::class::{ClassSpec, ClassTable};
use tillgate_core::link::LinkSpec;
use tillgate_core::schedule::{FlowId, LineRate};
use tillgate_core::units::{BitRate, Direction, MSS, PerDirection, SEGMENT_OVERHEAD};
use tillgate_core::window::WindowAllocator;
use tillgate_core::window::demand::Demand;
use tokio::sync::Notify;

pub use self::datagrams::Policer;
use self::dial::DialQueues;
use self::direction::LinkDirection;
use self::slots::Slots;
use self::snapshot::{ClassSnapshot, DirectionSnapshot, LinkSnapshot};
pub(crate) use self::windows::lone_window;
use crate::clock;

/// How often windows, turns and pacing rates are computed anew.
const ALLOCATE_EVERY: Duration = Duration::from_millis(100);
/// Of the uplink, at most this part may go to acknowledgements of the downlink: on a 50/1 Mbit/s
/// line the acknowledgements of a pull would otherwise fill the uplink before the pull fills the
/// downlink.
const ACK_SHARE_PERCENT: u64 = 50;

/// One WAN line. See the module.
#[derive(Debug)]
pub struct Link {
    pub(crate) up: LinkDirection,
    pub(crate) down: LinkDirection,
    state: Mutex<State>,
    /// A flow became active, or the config changed: allocate now.
    changed: Notify,
    /// Counts reloads: who keeps a slot finds it again after one.
    reloads: AtomicU64,
}

#[derive(Debug)]
struct State {
    spec: LinkSpec,
    slots: Slots,
    connections: BTreeMap<u64, Entry>,
    next_key: u64,
    dials: DialQueues,
    allocator: WindowAllocator,
    window_sum_max: u64,
    base_rtt: Option<Duration>,
    /// Window bytes per byte of `SO_RCVBUF`, as connections of this line learned it.
    window_ratio: f64,
    allocated_at: Instant,
    rates: PerDirection<Vec<f64>>,
}

/// A registered connection, as the link sees it.
#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    /// Counters at the last allocation.
    seen: PerDirection<u64>,
    active_until: PerDirection<Instant>,
    /// Since when it has been receiving without an idle second.
    busy_since: Instant,
    /// Whether it would move more if it might.
    demand: PerDirection<Demand>,
}

/// What a connection and its link tell each other. The connection counts; the link aims.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) flows: PerDirection<FlowId>,
    slot: AtomicUsize,
    /// Payload bytes moved since the start.
    pub(crate) moved: PerDirection<AtomicU64>,
    /// Microseconds for which bytes have waited for grants since the start.
    pub(crate) waited_micros: AtomicU64,
    /// Least round-trip time in microseconds; 0 = not measured.
    pub(crate) rtt_micros: AtomicU64,
    /// Receive window to have, in payload bytes; 0 = leave it to the kernel.
    pub(crate) window: AtomicU64,
    /// Rate the kernel may send at, in bytes per second; 0 = no bound.
    pub(crate) pacing: AtomicU64,
}

/// A place on the line. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) link: Arc<Link>,
    pub(crate) shared: Arc<Shared>,
    key: u64,
}

impl Link {
    /// The line of `spec` with the classes of `classes`. Nothing moves bulk until
    /// [`Self::drive`] runs.
    pub fn new(spec: &LinkSpec, classes: &ClassTable) -> Arc<Self> {
        let slots = Slots::new(classes);
        let rate = line_rates(spec);
        let shares = slots.shares();
        let state = State {
            spec: spec.clone(),
            connections: BTreeMap::new(),
            next_key: 0,
            dials: DialQueues::default(),
            allocator: WindowAllocator::default(),
            window_sum_max: 0,
            base_rtt: None,
            window_ratio: 1.0,
            allocated_at: clock::now(),
            rates: PerDirection { up: vec![0.0; slots.len()], down: vec![0.0; slots.len()] },
            slots,
        };
        Arc::new(Self {
            up: LinkDirection::new(rate.up, spec.overhead_bytes, &shares.up),
            down: LinkDirection::new(rate.down, spec.overhead_bytes, &shares.down),
            state: Mutex::new(state),
            changed: Notify::new(),
            reloads: AtomicU64::new(0),
        })
    }

    /// New rates and classes for a line that stays up: live flows take them at once, and keep
    /// their places. Flows of a class that is gone go on in `default`.
    pub fn reconfigure(&self, spec: &LinkSpec, classes: &ClassTable) {
        let rate = line_rates(spec);
        let mut state = self.lock();
        state.spec = spec.clone();
        let moved = state.slots.update(classes);
        let shares = state.slots.shares();
        state.rates.up.resize(shares.up.len(), 0.0);
        state.rates.down.resize(shares.down.len(), 0.0);
        for entry in state.connections.values() {
            let slot = entry.shared.slot.load(Ordering::Relaxed);
            if let Some((_, to)) = moved.iter().find(|(from, _)| *from == slot) {
                entry.shared.slot.store(*to, Ordering::Relaxed);
            }
        }
        self.reloads.fetch_add(1, Ordering::Release);
        drop(state);
        self.up.reconfigure(rate.up, &shares.up, &moved);
        self.down.reconfigure(rate.down, &shares.down, &moved);
        self.changed.notify_one();
    }

    /// Ceilings of the classes of these names do not count from now on, in both directions, until
    /// it is said again: a reload does not end it.
    pub fn lift(&self, classes: &BTreeSet<Arc<str>>) {
        let mut state = self.lock();
        if !state.slots.lift(classes) {
            return;
        }
        let (shares, rate) = (state.slots.shares(), line_rates(&state.spec));
        drop(state);
        self.up.reconfigure(rate.up, &shares.up, &[]);
        self.down.reconfigure(rate.down, &shares.down, &[]);
        self.changed.notify_one();
    }

    /// The timers of this line: both schedulers and the window allocator. Runs until dropped.
    pub async fn drive(self: Arc<Self>) {
        tokio::join!(self.up.drive(), self.down.drive(), self.allocate_repeatedly());
    }

    /// What the line looks like now.
    pub fn snapshot(&self) -> LinkSnapshot {
        let state = self.lock();
        let direction = |direction: Direction, shaper: &LinkDirection| {
            let line = shaper.line();
            let counters = shaper.counters();
            let rates = state.rates.get(direction);
            let classes = state.slots.iter().zip(&counters).zip(rates);
            DirectionSnapshot {
                capacity: line.capacity,
                shaped: line.shaped,
                classes: classes
                    .map(|((slot, counters), rate)| ClassSnapshot {
                        name: slot.name.clone(),
                        present: slot.present,
                        rate: windows::bit_rate(*rate),
                        counters: *counters,
                    })
                    .collect(),
            }
        };
        LinkSnapshot {
            name: state.spec.name.clone(),
            directions: PerDirection {
                up: direction(Direction::Up, &self.up),
                down: direction(Direction::Down, &self.down),
            },
            base_rtt: state.base_rtt,
            connections: state.connections.len(),
            dials_waiting: state.dials.waiting(),
            window_sum_bytes: state.allocator.window_sum(),
            window_sum_max_bytes: state.window_sum_max,
        }
    }

    /// Payload that it has brought or taken so far.
    pub fn delivered(&self, direction: Direction) -> u64 {
        self.direction(direction).counters().iter().map(|class| class.bytes).sum()
    }

    /// What a new connection must know of its line.
    pub(crate) fn spec(&self) -> LinkSpec {
        self.lock().spec.clone()
    }

    /// Least round-trip time seen across the line.
    pub(crate) fn base_rtt(&self) -> Option<Duration> {
        self.lock().base_rtt
    }

    /// Window bytes per byte of `SO_RCVBUF` to begin with.
    pub(crate) fn window_ratio(&self) -> f64 {
        self.lock().window_ratio
    }

    /// A connection learned `ratio`; the next ones begin with it.
    pub(crate) fn learned_window_ratio(&self, ratio: f64) {
        self.lock().window_ratio = ratio;
    }

    /// The scheduler of one direction.
    pub(crate) fn direction(&self, direction: Direction) -> &LinkDirection {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ended one connection; the line must go on for the others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A place on the line for a connection of `class`, counted as active from now on.
    fn register(&mut self, link: &Arc<Link>, class: &ClassSpec, now: Instant) -> Registration {
        let slot = self.slots.find(&class.name);
        let shared = Arc::new(Shared {
            flows: PerDirection { up: link.up.add_flow(slot), down: link.down.add_flow(slot) },
            slot: AtomicUsize::new(slot),
            moved: PerDirection::default(),
            waited_micros: AtomicU64::new(0),
            rtt_micros: AtomicU64::new(0),
            window: AtomicU64::new(0),
            pacing: AtomicU64::new(0),
        });
        let key = self.next_key;
        self.next_key += 1;
        let entry = Entry {
            shared: shared.clone(),
            seen: PerDirection::default(),
            active_until: PerDirection::both(now + windows::ACTIVE_FOR),
            busy_since: now,
            demand: PerDirection::both(Demand::new(now)),
        };
        self.connections.insert(key, entry);
        Registration { link: link.clone(), shared, key }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        state.connections.remove(&self.key);
        drop(state);
        self.link.up.remove_flow(self.shared.flows.up);
        self.link.down.remove_flow(self.shared.flows.down);
        self.link.changed.notify_one();
    }
}

/// Rates of both directions: capacity less headroom, the downlink less what its own
/// acknowledgements could not carry.
fn line_rates(spec: &LinkSpec) -> PerDirection<LineRate> {
    let shaped = spec.shaped_rate();
    // One acknowledgement answers two full segments (RFC 1122, 4.2.3.2).
    let two_segments = 2 * (MSS + SEGMENT_OVERHEAD);
    let acks: BitRate = shaped.up.scale(ACK_SHARE_PERCENT, 100);
    let carried = acks.scale(two_segments, SEGMENT_OVERHEAD + u64::from(spec.overhead_bytes));
    PerDirection {
        up: LineRate { capacity: spec.capacity.up, shaped: shaped.up },
        down: LineRate { capacity: spec.capacity.down, shaped: shaped.down.min(carried) },
    }
}

/// What tests need to have a line.
#[cfg(test)]
pub(crate) mod testing {
    use tillgate_core::class::{Metered, QueueLimit, Share};
    use tillgate_core::link::LinkRole;
    use tillgate_core::units::Percent;

    use super::*;

    /// A class without a share of its own.
    pub(crate) fn class(name: &str) -> ClassSpec {
        ClassSpec {
            name: name.into(),
            priority: 10,
            weight: 1,
            critical: false,
            guarantee: PerDirection::both(Share::Percent(Percent::default())),
            ceiling: PerDirection::both(Share::Percent(Percent::FULL)),
            queue: QueueLimit { max_wait: Duration::from_secs(2) },
            dscp: None,
            metered: Metered::Allow,
            requests_max: None,
            connections_max: None,
        }
    }

    /// A line of 100 Mbit/s both ways.
    pub(crate) fn line() -> LinkSpec {
        LinkSpec {
            name: "primary".into(),
            role: LinkRole::Primary,
            capacity: PerDirection::both(BitRate::from_mbit(100)),
            headroom: Percent::default(),
            overhead_bytes: 0,
            metered: false,
            device: None,
            source: None,
        }
    }
}

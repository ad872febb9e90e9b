//! The fetches of each rollout: as many at once, and as fast together, as the policy says now.
//!
//! Four times a second it is looked at how every rollout stands and whether the tills are busy;
//! from that follows a rate for its lane, which fetches under way take at once. What has to wait
//! trickles and does not stop: runtimes give up a pull of which nothing comes for a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tillgate_core::civil::Timestamp;
use tillgate_core::class::ClassId;
use tillgate_core::gate::{Busy, Opening, Rollout, StoreState};
use tillgate_core::link::{Destination, link_for};
use tillgate_core::mirror::brake::Brake;
use tillgate_core::mirror::busy::{Look, Tills};
use tillgate_core::units::BitRate;
use tillgate_net::clock;
use tillgate_net::link::snapshot::WAIT_BUCKETS;
use tillgate_net::metrics::RolloutMeters;
use tokio::sync::Notify;

use super::turns::Turns;
use super::{Mirror, Place};
use crate::running::Running;

/// The floor of a class that has none: 60 s of it are half a megabyte, so that no runtime gives
/// up, and a payment of 2 KB waits 2 ms behind a packet of it on 5 Mbit/s.
const TRICKLE: BitRate = BitRate::from_bits_per_second(64_000);

/// A lane that waits looks again by then, whatever wakes it.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What slows a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Slowed {
    No,
    /// `limits.rate`.
    Limit,
    /// `pauseWhile`.
    Busy,
    /// `whenHeld.action: Throttle`.
    Held,
    /// `onWindowClose: Pause`.
    Closed,
}

impl Slowed {
    const ALL: [Self; 5] = [Self::No, Self::Limit, Self::Busy, Self::Held, Self::Closed];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Limit => "limit",
            Self::Busy => "busy",
            Self::Held => "held",
            Self::Closed => "closed",
        }
    }
}

/// The fetches of one rollout.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) rollout: Arc<str>,
    pub(super) turns: Arc<Turns>,
    brake: Mutex<Brake>,
    slowed: AtomicU8,
    changed: Notify,
}

impl Lane {
    /// Bytes came; whether whoever took them has to wait.
    pub(super) fn came(&self, bytes: u64) -> bool {
        let (mut brake, now) = (self.brake(), clock::now());
        brake.came(bytes, now);
        !brake.wait(now).is_zero()
    }

    /// Waits until more may be taken.
    pub(super) async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            let wait = self.brake().wait(clock::now());
            if wait.is_zero() {
                return;
            }
            // Somebody else may be woken in this one's place: it looks again by itself.
            let _ = tokio::time::timeout(wait.min(LOOK_EVERY), changed).await;
        }
    }

    /// What slows it, and to what.
    pub(super) fn slowed(&self) -> (Slowed, Option<BitRate>) {
        let slowed = Slowed::ALL[usize::from(self.slowed.load(Ordering::Relaxed))];
        (slowed, self.brake().rate())
    }

    fn slow(&self, slowed: Slowed, rate: Option<BitRate>) {
        self.slowed.store(slowed as u8, Ordering::Relaxed);
        let mut brake = self.brake();
        if brake.rate() != rate {
            brake.set_rate(rate, clock::now());
            drop(brake);
            self.changed.notify_waiters();
        }
    }

    fn brake(&self) -> MutexGuard<'_, Brake> {
        self.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a rollout stood when it was looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Stands {
    pub(super) held_by: Vec<String>,
    pub(super) suspended: Vec<(String, String)>,
    pub(super) opens: Option<Timestamp>,
    pub(super) ring: Option<String>,
    store: Option<StoreState>,
    /// It stands so until then.
    until: Timestamp,
}

impl Stands {
    fn of(opening: &Opening<'_>, store: StoreState, now: Timestamp) -> Self {
        let is_open = opening.held_by.is_empty();
        let suspended = opening.suspended.iter();
        Self {
            held_by: opening.held_by.iter().map(ToString::to_string).collect(),
            suspended: suspended.map(|(what, by)| (what.to_string(), (*by).to_owned())).collect(),
            opens: opening.next_open.filter(|_| !is_open),
            ring: opening.ring.map(str::to_owned),
            store: Some(store),
            until: opening.stands_until(now),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.held_by.is_empty()
    }

    /// The store is being rebuilt: what it may have of the line is not bounded.
    fn is_restoring(&self) -> bool {
        self.store == Some(StoreState::Restoring)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    lanes: BTreeMap<Arc<str>, Arc<Lane>>,
    stands: BTreeMap<Arc<str>, Stands>,
    /// By rollout, as each watches them.
    tills: BTreeMap<Arc<str>, Tills>,
    /// Of the config that was looked at last.
    digest: Option<Arc<str>>,
    /// Classes whose ceiling does not count while the store is being rebuilt.
    lifted: BTreeSet<Arc<str>>,
}

impl Lanes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of a rollout of the running policy.
    pub(super) fn lane(&self, rollout: &str) -> Option<Arc<Lane>> {
        self.inner().lanes.get(rollout).cloned()
    }

    /// How a rollout stood a moment ago.
    pub(super) fn stands(&self, rollout: &str) -> Option<Stands> {
        self.inner().stands.get(rollout).cloned()
    }

    /// Ceilings of these classes do not count from now on, on every line; the lines that a reload
    /// brings are told, too.
    pub(super) fn lift(&self, running: &Running, lifted: BTreeSet<Arc<str>>) {
        let mut inner = self.inner();
        if lifted.is_empty() && inner.lifted.is_empty() {
            return;
        }
        for link in running.lines().iter() {
            link.lift(&lifted);
        }
        inner.lifted = lifted;
    }

    /// Lanes of the rollouts of `running`, with their bounds.
    fn follow(&self, running: &Running, meters: &RolloutMeters) {
        let mut inner = self.inner();
        if inner.digest.as_ref() == Some(&running.effective.digest) {
            return;
        }
        inner.digest = Some(Arc::clone(&running.effective.digest));
        inner.stands.clear();
        inner.tills.clear();
        meters.clear();
        let rollouts = &running.effective.gate.rollouts;
        inner.lanes.retain(|name, _| rollouts.iter().any(|rollout| rollout.name == *name));
        let fetches = running.effective.mirror.as_ref().map(|mirror| mirror.fetches);
        for rollout in rollouts {
            let lane = inner.lanes.entry(Arc::clone(&rollout.name)).or_insert_with(|| {
                let [fetching, waiting] = meters.pulls(&rollout.name);
                Arc::new(Lane {
                    rollout: Arc::clone(&rollout.name),
                    turns: Turns::new(fetching, waiting),
                    brake: Mutex::default(),
                    slowed: AtomicU8::new(0),
                    changed: Notify::new(),
                })
            });
            let at_once = rollout.pulls.concurrent.map_or(u32::MAX, u32::from);
            lane.turns.set_limits(at_once, fetches.map_or(u32::MAX, |one| one.waiting_max));
        }
    }
}

impl Mirror {
    /// The lane that fetches of an image's parts take, if a rollout is in charge of it.
    pub(super) fn lane(&self, place: &Place) -> Option<Arc<Lane>> {
        let running = self.gateway.upgrade()?.running();
        let gate = &running.effective.gate;
        let rollout = gate.in_charge(&place.registry, &place.repository, "")?;
        self.lanes.follow(&running, &self.rollout_meters);
        self.lanes.lane(&rollout.name)
    }

    /// Looks at how every rollout stands and how fast it may go: four times a second.
    pub(super) fn look(&self, running: &Arc<Running>) {
        self.lanes.follow(running, &self.rollout_meters);
        let (clock, now) = self.clock.now();
        let gate = &running.effective.gate;
        let mut lifted = BTreeSet::new();
        for rollout in &gate.rollouts {
            let known = self.lanes.stands(&rollout.name).filter(|stands| now < stands.until);
            let stands = known.unwrap_or_else(|| {
                let store = self.releases.ran().state(rollout, now);
                let opening = gate.of_rollout(rollout, store, clock, now);
                let stands = Stands::of(&opening, store, now);
                let name = Arc::clone(&rollout.name);
                self.lanes.inner().stands.insert(name, stands.clone());
                self.rollout_meters.gate(&rollout.name, stands.is_open());
                stands
            });
            if stands.is_restoring() {
                let class = running.effective.classes.get(rollout.pulls.class);
                lifted.insert(Arc::clone(&class.name));
            }
            let is_busy = rollout.pulls.pause_while;
            let is_busy = is_busy.is_some_and(|rule| self.busy(running, &rollout.name, &rule));
            let (slowed, rate) = speed(running, rollout, &stands, is_busy);
            if let Some(lane) = self.lanes.lane(&rollout.name) {
                lane.slow(slowed, rate);
            }
            let bits = rate.map_or(0, BitRate::bits_per_second);
            self.rollout_meters.brake(&rollout.name, slowed.label(), bits);
        }
        self.lanes.lift(running, lifted);
    }

    fn busy(&self, running: &Running, rollout: &Arc<str>, rule: &Busy) -> bool {
        let now = clock::now();
        let look = look_at(running, rule.class);
        let mut inner = self.lanes.inner();
        let tills = inner.tills.entry(Arc::clone(rollout)).or_default();
        tills.handle_look(look, &WAIT_BUCKETS, rule, now);
        tills.are_busy(now)
    }
}

/// What a class has done so far.
fn look_at(running: &Running, class: ClassId) -> Look {
    let class = running.class(class);
    let mut waits = vec![0; WAIT_BUCKETS.len() + 1];
    for link in running.lines().iter() {
        let directions = link.snapshot().directions;
        let classes = directions.up.classes.iter().chain(&directions.down.classes);
        for found in classes.filter(|one| one.name == class.spec.name) {
            for (sum, count) in waits.iter_mut().zip(found.counters.waits.buckets) {
                *sum += count;
            }
        }
    }
    Look { calls: class.meter.ended.load(Ordering::Relaxed), waits }
}

/// How fast the fetches of a rollout may go now, and why.
fn speed(
    running: &Running,
    rollout: &Rollout,
    stands: &Stands,
    is_busy: bool,
) -> (Slowed, Option<BitRate>) {
    let capacity = capacity(running, rollout);
    let floor = || {
        let class = running.effective.classes.get(rollout.pulls.class);
        class.guarantee.down.of(capacity).max(TRICKLE)
    };
    let held = || {
        let throttle = rollout.pulls.throttle.map(|rate| (Slowed::Held, rate));
        let paused = rollout.pulls.pause_on_window_close.then_some((Slowed::Closed, TRICKLE));
        throttle.or(paused)
    };
    let limit = rollout
        .pulls
        .rate
        .down
        .filter(|_| !stands.is_restoring())
        .map(|share| (Slowed::Limit, share.of(capacity)));
    let busy = is_busy.then(|| (Slowed::Busy, floor()));
    let held = if stands.is_open() { None } else { held() };
    let slowest = [limit, busy, held].into_iter().flatten().min_by_key(|(_, rate)| *rate);
    slowest.map_or((Slowed::No, None), |(slowed, rate)| (slowed, Some(rate)))
}

/// What the line that a rollout's fetches cross carries; where they cross none, as much as there
/// is.
fn capacity(running: &Running, rollout: &Rollout) -> BitRate {
    let effective = &running.effective;
    let registry = rollout.artifacts.first().map(|artifact| &artifact.registry);
    let mirror = effective.mirror.as_ref();
    let upstream = mirror
        .and_then(|mirror| mirror.upstreams.iter().find(|one| Some(&one.registry) == registry));
    let link = upstream.and_then(|upstream| {
        let location = effective.backend(upstream.backend).location;
        let class = effective.classes.get(rollout.pulls.class);
        link_for(Destination { location }, class, &effective.links)
    });
    let unbounded = BitRate::from_bits_per_second(u64::MAX / 16);
    link.map_or(unbounded, |link| effective.links[usize::from(link.0)].capacity.down)
}

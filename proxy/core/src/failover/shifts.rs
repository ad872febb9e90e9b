//! The machine of one rule's tiers. See the parent module.

use std::time::{Duration, Instant};

/// What a tier could carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierState {
    /// Enough of its endpoints are usable.
    Usable,
    /// Enough would be, if calls on trial go well.
    Ready,
    /// Neither.
    Out,
}

/// In which direction traffic went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shift {
    /// To a tier further back.
    Failover,
    /// To a better one.
    Failback,
}

impl Shift {
    /// As printed in logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Failback => "failback",
        }
    }
}

/// The active tier has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shifted {
    /// Which way.
    pub shift: Shift,
    /// The tier that was active.
    pub from: usize,
    /// The tier that is.
    pub to: usize,
}

/// A tier that is left again this soon after traffic came back to it has flapped.
const FLAP_WINDOW: Duration = Duration::from_secs(600);

/// The dwell grows up to this, or stays what it is if it is longer by config.
const DWELL_MAX: Duration = Duration::from_secs(600);

/// Most by which a store stretches dwell and ramp, in thousandths: 6 s of 30, enough to spread
/// ten thousand stores to 1,700 a second, little enough not to be noticed.
const STRETCH_MAX: u64 = 200;

/// `time` stretched by what `seed` (a hash of the store's name) says, by up to a fifth.
pub fn stretch(time: Duration, seed: u64) -> Duration {
    let thousandths = 1000 + u32::try_from(seed % (STRETCH_MAX + 1)).unwrap_or(0);
    time.saturating_mul(thousandths) / 1000
}

/// See the parent module.
#[derive(Clone, Debug)]
pub struct Tiers {
    /// Stretched already.
    hold_down: Duration,
    ramp: Duration,
    active: usize,
    since: Instant,
    /// Since when each tier could carry, without a failure.
    well_since: Vec<Option<Instant>>,
    states: Vec<TierState>,
    /// The tier that traffic comes back to, and since when.
    returning: Option<(usize, Instant)>,
    flaps: u32,
    /// When traffic left a tier last, or came back to one; counted from the later, because the
    /// dwell itself may be as long as the window.
    moved_at: Option<Instant>,
}

impl Tiers {
    /// `count` tiers, the first one active; `hold_down` and `ramp` as stretched.
    pub fn new(count: usize, hold_down: Duration, ramp: Duration, now: Instant) -> Self {
        Self {
            hold_down,
            ramp,
            active: 0,
            since: now,
            well_since: vec![Some(now); count],
            states: vec![TierState::Usable; count],
            returning: None,
            flaps: 0,
            moved_at: None,
        }
    }

    /// Other times; where traffic goes stays.
    pub const fn reconfigure(&mut self, hold_down: Duration, ramp: Duration) {
        self.hold_down = hold_down;
        self.ramp = ramp;
    }

    /// The active tier.
    pub const fn active(&self) -> usize {
        self.active
    }

    /// Since when.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// What the tiers could carry.
    pub fn states(&self) -> &[TierState] {
        &self.states
    }

    /// Whether no tier can carry.
    pub fn is_lost(&self) -> bool {
        self.states.iter().all(|state| *state == TierState::Out)
    }

    /// The better tier that traffic comes back to: since when, and how long that takes.
    pub fn ramp(&self) -> Option<(usize, Instant, Duration)> {
        self.returning.map(|(tier, since)| (tier, since, self.ramp))
    }

    /// The better tier whose endpoints may get calls on trial.
    pub fn on_trial(&self, now: Instant) -> Option<usize> {
        let dwell = self.dwell();
        (0..self.active)
            .find(|tier| self.states[*tier] == TierState::Ready && self.is_over(*tier, dwell, now))
    }

    /// How long a better tier must be well.
    pub fn dwell(&self) -> Duration {
        let grown = self.hold_down.saturating_mul(1 << self.flaps.min(16));
        grown.min(self.hold_down.max(DWELL_MAX))
    }

    /// When the dwell of the best tier that waits for its return is over; `None`: none waits.
    pub fn returns_at(&self) -> Option<Instant> {
        (0..self.active).find_map(|tier| Some(self.well_since[tier]? + self.dwell()))
    }

    /// Flaps that the dwell has grown by.
    pub const fn flaps(&self) -> u32 {
        self.flaps
    }

    /// Something failed in this tier, which may still be able to carry: its dwell begins anew.
    pub fn handle_failure(&mut self, tier: usize, now: Instant) {
        if let Some(since) = self.well_since.get_mut(tier)
            && since.is_some()
        {
            *since = Some(now);
        }
    }

    /// What the tiers can carry now. Call it also when time has passed.
    pub fn handle_states(&mut self, states: &[TierState], now: Instant) -> Option<Shifted> {
        for (tier, state) in states.iter().enumerate().take(self.states.len()) {
            let since = &mut self.well_since[tier];
            match state {
                TierState::Out => *since = None,
                TierState::Usable | TierState::Ready => *since = since.or(Some(now)),
            }
            self.states[tier] = *state;
        }
        if let Some((tier, since)) = self.returning {
            if self.states[tier] != TierState::Usable {
                // Some calls went there already.
                self.returning = None;
                self.flap(now);
            } else if since + self.ramp <= now {
                return Some(self.shift_to(tier, now));
            }
        }
        if self.states[self.active] != TierState::Usable {
            let first = |wanted| self.states.iter().position(|state| *state == wanted);
            let ready = || first(TierState::Ready);
            let next = first(TierState::Usable).or_else(ready).filter(|next| *next != self.active);
            return next.map(|next| self.shift_to(next, now));
        }
        self.begin_return(now)
    }

    /// When [`Self::handle_states`] changes something though nothing happened.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let ramp = self.returning.map(|(_, since)| since + self.ramp);
        let dwell = self.dwell();
        let waits = |tier: &usize| !self.is_over(*tier, dwell, now);
        let dwells = (0..self.active).filter(waits).filter_map(|tier| self.well_since[tier]);
        dwells.map(|since| since + dwell).chain(ramp).min()
    }

    fn is_over(&self, tier: usize, dwell: Duration, now: Instant) -> bool {
        self.well_since[tier].is_some_and(|since| since + dwell <= now)
    }

    fn begin_return(&mut self, now: Instant) -> Option<Shifted> {
        let dwell = self.dwell();
        let best = (0..self.active).find(|tier| {
            self.states[*tier] == TierState::Usable && self.is_over(*tier, dwell, now)
        })?;
        if self.returning.is_some_and(|(tier, _)| tier <= best) {
            return None;
        }
        if self.ramp.is_zero() {
            return Some(self.shift_to(best, now));
        }
        (self.returning, self.moved_at) = (Some((best, now)), Some(now));
        None
    }

    fn shift_to(&mut self, to: usize, now: Instant) -> Shifted {
        let from = self.active;
        let shift = if to > from { Shift::Failover } else { Shift::Failback };
        match shift {
            Shift::Failover => self.flap(now),
            Shift::Failback => self.moved_at = Some(now),
        }
        self.returning = None;
        (self.active, self.since) = (to, now);
        Shifted { shift, from, to }
    }

    /// Traffic left a tier: not for the first time lately, if so.
    fn flap(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < FLAP_WINDOW;
        let has_flapped = self.moved_at.is_some_and(lately);
        self.flaps = if has_flapped { self.flaps.saturating_add(1) } else { 0 };
        self.moved_at = Some(now);
    }
}

//! The breaker of one endpoint: `Closed` passes, `Open` blocks, `HalfOpen` tries.
//!
//! In: that it failed (tripped), what trials show, the time. Out: its state, and when that
//! changes by itself. Each trip without a recovery in between doubles the time that it is open;
//! chance makes it longer by up to half, so that stores do not come back in step.

use std::time::{Duration, Instant};

/// The numbers of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSpec {
    /// Open for so long the first time.
    pub base: Duration,
    /// Open for no longer than this, chance apart.
    pub max: Duration,
    /// Good calls, one at a time, after which it closes; at least one.
    pub trials: u32,
}

/// Whether calls pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// They do.
    Closed,
    /// They do not, until then.
    Open {
        /// When it tries.
        until: Instant,
    },
    /// One at a time does.
    HalfOpen,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Breaker {
    spec: BreakerSpec,
    state: BreakerState,
    /// Trips since it was closed last.
    trips: u32,
    /// Good calls since it tripped.
    good: u32,
    generation: u32,
}

impl Breaker {
    /// A closed one.
    pub const fn new(spec: BreakerSpec) -> Self {
        Self { spec, state: BreakerState::Closed, trips: 0, good: 0, generation: 0 }
    }

    /// Its numbers change, its state does not.
    pub const fn reconfigure(&mut self, spec: BreakerSpec) {
        self.spec = spec;
    }

    /// Whether calls pass.
    pub const fn state(&self) -> BreakerState {
        self.state
    }

    /// Which of its lives this is: what began in an earlier one says nothing of this one. Wraps.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// What is under way now shall say nothing any more.
    pub const fn renew(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Good calls that are still missing for it to close.
    pub const fn missing(&self) -> u32 {
        self.spec.trials.saturating_sub(self.good)
    }

    /// It opens, unless it is open. `draw` is chance.
    pub fn trip(&mut self, draw: u64, now: Instant) {
        if let BreakerState::Open { .. } = self.state {
            self.good = 0;
            return;
        }
        let doubled = self.spec.base.saturating_mul(1 << self.trips.min(16)).min(self.spec.max);
        // Up to half more: linkerd's jitter ratio.
        let percent = u32::try_from(draw % 51).unwrap_or(0);
        self.trips = self.trips.saturating_add(1);
        self.good = 0;
        self.renew();
        self.state = BreakerState::Open { until: now + doubled * (100 + percent) / 100 };
    }

    /// A real call went well. When it is open, calls only come because nothing else is left;
    /// their word counts as that of a trial.
    pub fn handle_success(&mut self) {
        if self.state == BreakerState::Closed {
            return;
        }
        self.good += 1;
        if self.good >= self.spec.trials {
            self.close();
        }
    }

    /// It was never the endpoint's fault.
    pub const fn close(&mut self) {
        (self.state, self.trips, self.good) = (BreakerState::Closed, 0, 0);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let BreakerState::Open { until } = self.state
            && until <= now
        {
            self.state = BreakerState::HalfOpen;
        }
    }

    /// When [`Self::handle_timeout`] changes something.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            BreakerState::Open { until } => Some(until),
            BreakerState::Closed | BreakerState::HalfOpen => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: BreakerSpec =
        BreakerSpec { base: Duration::from_secs(1), max: Duration::from_secs(60), trials: 2 };

    fn breaker() -> (Breaker, Instant) {
        let zero = crate::schedule::tests::draw::epoch();
        (Breaker::new(SPEC), zero)
    }

    fn open_for(breaker: &Breaker, now: Instant) -> Duration {
        breaker.poll_timeout().unwrap() - now
    }

    #[test]
    fn it_opens_tries_and_closes() {
        let (mut breaker, zero) = breaker();
        breaker.trip(0, zero);
        assert_eq!(open_for(&breaker, zero), Duration::from_secs(1));
        breaker.handle_timeout(zero + Duration::from_millis(999));
        assert!(matches!(breaker.state(), BreakerState::Open { .. }));
        breaker.handle_timeout(zero + Duration::from_secs(1));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.handle_success();
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "one good call is not enough");
        breaker.handle_success();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn each_failed_trial_doubles_the_pause_up_to_a_minute() {
        let (mut breaker, mut now) = breaker();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            breaker.trip(0, now);
            pauses.push(open_for(&breaker, now).as_secs());
            now = breaker.poll_timeout().unwrap();
            breaker.handle_timeout(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        breaker.handle_success();
        breaker.handle_success();
        breaker.trip(0, now);
        assert_eq!(open_for(&breaker, now), Duration::from_secs(1), "all is forgiven");
    }

    #[test]
    fn chance_only_ever_adds_and_at_most_half() {
        for draw in 0..200 {
            let (mut breaker, zero) = breaker();
            breaker.trip(draw, zero);
            let pause = open_for(&breaker, zero);
            assert!(pause >= SPEC.base && pause <= SPEC.base * 3 / 2, "{draw}: {pause:?}");
        }
    }

    #[test]
    fn failures_of_calls_that_were_under_way_do_not_make_it_worse() {
        let (mut breaker, zero) = breaker();
        for _ in 0..20 {
            breaker.trip(0, zero);
        }
        assert_eq!(open_for(&breaker, zero), Duration::from_secs(1));
    }
}

//! How much of a rule's traffic may be further tries.
//!
//! In: how many calls there were, and that a further try is wanted. Out: whether it may be. Each
//! call saves a part of a try, time saves some as well, and what is saved is kept for ten
//! seconds: a server that dies takes all calls of half a second with it, and they may all be
//! sent again; one that fails every second call for minutes does not double the traffic.

use std::time::{Duration, Instant};

use super::BUDGET_WINDOW;
use crate::units::Percent;

/// The numbers of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSpec {
    /// Further tries as a part of all calls.
    pub percent: Percent,
    /// Further tries in a second that are always allowed.
    pub min_per_second: u32,
}

/// Tries are counted in millionths, so that a percentage of a call, and a try a second in a
/// microsecond, are whole numbers: nothing is lost however often it is asked.
const TRY: u64 = 1_000_000;

/// The same for a hundredth of a call.
const HUNDREDTH: u64 = TRY / 100;

/// See the module.
#[derive(Clone, Debug)]
pub struct Budget {
    spec: BudgetSpec,
    /// Millionths of tries.
    saved: u64,
    /// Of these, what may come from calls: a window's worth of them at the present rate.
    calls_seen: u32,
    at: Instant,
    /// Calls in a second, lately.
    rate: f64,
}

impl Budget {
    /// A full one, for a rule that has made `calls` so far.
    pub fn new(spec: BudgetSpec, calls: u32, now: Instant) -> Self {
        let mut budget = Self { spec, saved: 0, calls_seen: calls, at: now, rate: 0.0 };
        budget.saved = budget.ceiling();
        budget
    }

    /// Other numbers; what is saved stays.
    pub const fn reconfigure(&mut self, spec: BudgetSpec) {
        self.spec = spec;
    }

    /// A further try is wanted; `calls` counts all calls ever (and wraps). Whether it may be.
    pub fn try_withdraw(&mut self, calls: u32, now: Instant) -> bool {
        self.save(calls, now);
        let Some(left) = self.saved.checked_sub(TRY) else { return false };
        self.saved = left;
        true
    }

    fn save(&mut self, calls: u32, now: Instant) {
        let new = calls.wrapping_sub(self.calls_seen);
        self.calls_seen = calls;
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let by_time = u64::from(self.spec.min_per_second).saturating_mul(micros);
        let by_calls = u64::from(new) * u64::from(self.spec.percent.value()) * HUNDREDTH;
        // The mean of a window: what is older fades with it.
        let weight = (passed.as_secs_f64() / BUDGET_WINDOW.as_secs_f64()).min(1.0);
        if passed > Duration::ZERO {
            let rate = f64::from(new) / passed.as_secs_f64();
            self.rate += (rate - self.rate) * weight;
        }
        let saved = self.saved.saturating_add(by_time).saturating_add(by_calls);
        // However rare the calls are, a whole try comes together at last.
        self.saved = saved.min(self.ceiling().max(TRY).saturating_add(by_calls));
    }

    fn ceiling(&self) -> u64 {
        let window = BUDGET_WINDOW.as_secs();
        let always = u64::from(self.spec.min_per_second) * window * TRY;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is not negative, and as a number of calls far from the limits"
        )]
        let calls = (self.rate * BUDGET_WINDOW.as_secs_f64()) as u64;
        always + calls * u64::from(self.spec.percent.value()) * HUNDREDTH
    }
}

//! When to ask a source, so that sixty thousand stores are a flat load.
//!
//! Each store has its own phase, from a hash of its name, and a jitter of ten percent after that.
//! What fails is never asked more often than what works: by the stores of a fleet once in an
//! interval at first, and once in `spread` as soon as the outage is longer than that, so that they
//! come back one after the other. A store that has no policy yet, or says with a `spread` of zero
//! that it is alone, is quicker: after a second, and then less and less often. In go outcomes
//! and random draws; out comes when to ask next.

use std::time::{Duration, Instant};

/// After a first failure of a store that need not think of others; doubled with each further one.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Where doubling ends, unless the interval is longer than half of it.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// Between two questions, whatever the server says: one that answers long polls at once must not
/// be asked in a loop.
const FLOOR: Duration = Duration::from_secs(1);

/// A server's `Retry-After` is believed up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Hints come from outside: so many are plenty.
const HINT_FLOOR: Duration = Duration::from_secs(10);

/// Who says that there is something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// A machine, and the same one may say it to the whole fleet.
    Webhook,
    /// Somebody who looks after this store.
    Operator,
}

/// The shortest interval, and the longest: a typing error must not be a flood, nor silence.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// How a source is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollSpec {
    /// How often, without a long poll.
    pub interval: Duration,
    /// How long a server may hold the question; zero = it is not asked to.
    pub long_poll: Duration,
    /// Over how long stores come back after an outage; zero = this one need not think of others.
    pub spread: Duration,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// There was an answer, new or not.
    Answered {
        /// Whether the server held the question, as it was asked to.
        held: bool,
    },
    /// There was none, or none that can be used.
    Failed {
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
}

/// The times at which one source is asked.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    spec: PollSpec,
    next: Instant,
    begun: Instant,
    failures: u32,
    /// It has a policy, or was answered: there is no hurry.
    something: bool,
    last_success: Option<Instant>,
    since: Instant,
    back_off: Duration,
    /// The server itself has asked to be left alone.
    is_asked_to_wait: bool,
}

impl Poll {
    /// A source that was never asked. `hash` is of the store's name. A store that has `something`
    /// to serve waits for its phase; one that has nothing asks soon.
    pub fn new(spec: PollSpec, hash: u64, something: bool, now: Instant) -> Self {
        let interval = spec.interval.clamp(INTERVAL.0, INTERVAL.1);
        let spec = PollSpec { interval, ..spec };
        let within = if something { interval } else { interval.min(Duration::from_secs(2)) };
        Self {
            spec,
            next: now + part(within, hash),
            begun: now,
            failures: 0,
            something,
            last_success: None,
            since: now,
            back_off: Duration::ZERO,
            is_asked_to_wait: false,
        }
    }

    /// When to ask.
    pub const fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// How long it waits because of failures; zero if there are none.
    pub const fn back_off(&self) -> Duration {
        self.back_off
    }

    /// When it last answered.
    pub const fn last_success(&self) -> Option<Instant> {
        self.last_success
    }

    /// It is asked now.
    pub const fn begin(&mut self, now: Instant) {
        self.begun = now;
    }

    /// Somebody says that there is something new. Whether it is asked because of that: a source
    /// that fails is left alone, unless a person wants it who may know that it works again.
    pub fn hint(&mut self, hint: Hint, now: Instant) -> bool {
        let is_urged = hint == Hint::Operator && !self.is_asked_to_wait;
        let is_asked = self.failures == 0 || is_urged;
        if is_asked {
            self.next = self.next.min(now.max(self.begun + HINT_FLOOR));
        }
        is_asked
    }

    /// How the question ended.
    pub fn handle_polled(&mut self, polled: Polled, draw: u64, now: Instant) {
        let pause = match polled {
            Polled::Answered { held } => {
                self.failures = 0;
                self.is_asked_to_wait = false;
                self.something = true;
                self.back_off = Duration::ZERO;
                self.last_success = Some(now);
                if held { Duration::ZERO } else { self.around(self.spec.interval, draw) }
            }
            Polled::Failed { retry_after } => {
                self.failures = self.failures.saturating_add(1);
                self.is_asked_to_wait = retry_after.is_some();
                let asked = retry_after.map_or(Duration::ZERO, |wait| {
                    let wait = wait.min(RETRY_AFTER_MAX);
                    wait + part(wait / 5, draw)
                });
                self.back_off = self.failure_pause(draw, now).max(asked);
                self.back_off
            }
        };
        self.next = (now + pause).max(self.begun + FLOOR);
    }

    /// `interval` ± 10 %.
    fn around(&self, interval: Duration, draw: u64) -> Duration {
        interval * 9 / 10 + part(interval / 5, draw)
    }

    fn failure_pause(&self, draw: u64, now: Instant) -> Duration {
        if self.something && !self.spec.spread.is_zero() {
            let silent = now.saturating_duration_since(self.last_success.unwrap_or(self.since));
            let is_long = silent > self.spec.interval;
            let least = if is_long { self.spec.spread } else { Duration::ZERO };
            // On average one in each such time, and no two of a store close together.
            let time = self.spec.interval.max(least);
            return time / 2 + part(time, draw);
        }
        // Full jitter halves the mean, so twice the interval is as often as what works.
        let most = BACK_OFF_MAX.max(self.spec.interval * 2);
        let exponent = self.failures.saturating_sub(1).min(20);
        part(BACK_OFF.saturating_mul(1 << exponent).min(most), draw).max(FLOOR)
    }
}

/// The part of `whole` that a uniform draw falls on.
pub(super) fn part(whole: Duration, draw: u64) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(draw)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

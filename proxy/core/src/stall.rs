//! Silence: an endpoint owes bytes, answered steadily before, and now nothing comes.
//!
//! In: how long answers usually take, and that nothing was heard for a while. Out: how much
//! silence is suspicious, and the time that a probe gets to decide. A probe that passes says that
//! the endpoint is only slow: then twice as much silence is suspicious, until a byte comes. The
//! machine accuses nobody by itself; the probe does.

use std::time::Duration;

/// The numbers of stall detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallSpec {
    /// Less silence than this is never suspicious.
    pub floor: Duration,
    /// Nor is less than so many times the 99th percentile of answers.
    pub multiplier: u32,
}

/// Answers that make a habit: with fewer, no silence is suspicious.
const HABIT: u64 = 10;

/// Doublings at most: with a floor of 100 ms that is silence of 100 s, which other limits end.
const DOUBLINGS_MAX: u32 = 10;

/// Doublings after which probes mean nothing, if many calls wait: with a floor of 100 ms that is
/// 0.4 s without a byte, or more.
const HOLLOW: u32 = 2;

/// See the module.
#[derive(Clone, Debug)]
pub struct Stall {
    spec: StallSpec,
    usual: Option<Duration>,
    doublings: u32,
}

impl Stall {
    /// One that knows nothing yet.
    pub const fn new(spec: StallSpec) -> Self {
        Self { spec, usual: None, doublings: 0 }
    }

    /// Its numbers change, what it knows does not.
    pub const fn reconfigure(&mut self, spec: StallSpec) {
        self.spec = spec;
    }

    /// What `answers` have taken, as their 99th percentile.
    pub const fn handle_habit(&mut self, answers: u64, p99: Option<Duration>) {
        if answers >= HABIT {
            self.usual = p99;
        }
    }

    /// A byte came from it.
    pub const fn handle_byte(&mut self) {
        self.doublings = 0;
    }

    /// It was silent, and a probe has shown that it is alive.
    pub const fn handle_alive(&mut self) {
        if self.doublings < DOUBLINGS_MAX {
            self.doublings += 1;
        }
    }

    /// It was silent, and no probe could find out why: it is asked again after twice as long, but
    /// that alone never makes its probes mean nothing.
    pub const fn handle_undecided(&mut self) {
        if self.doublings + 1 < HOLLOW {
            self.doublings += 1;
        }
    }

    /// It was judged, so that the next silence is a new one.
    pub const fn handle_verdict(&mut self) {
        self.doublings = 0;
    }

    /// Whether probes have passed in the middle of a silence so often that they mean nothing.
    pub const fn is_hollow(&self) -> bool {
        self.doublings >= HOLLOW
    }

    /// How much silence is suspicious now; `None` while there is no habit.
    pub fn after(&self) -> Option<Duration> {
        let usual = self.usual?.saturating_mul(self.spec.multiplier);
        Some(usual.max(self.spec.floor).saturating_mul(1 << self.doublings))
    }

    /// What a probe gets that decides about a silence: it needs a connection as well, so twice
    /// the time of an answer; never more than `timeout`, that of any probe.
    pub fn verdict_within(&self, timeout: Duration) -> Duration {
        let usual = self.usual.unwrap_or(timeout).saturating_mul(self.spec.multiplier * 2);
        usual.max(self.spec.floor).min(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const SPEC: StallSpec = StallSpec { floor: ms(100), multiplier: 2 };

    #[test]
    fn without_a_habit_no_silence_is_suspicious() {
        let mut stall = Stall::new(SPEC);
        assert_eq!(stall.after(), None);
        stall.handle_habit(9, Some(ms(2)));
        assert_eq!(stall.after(), None);
        stall.handle_habit(10, Some(ms(2)));
        assert_eq!(stall.after(), Some(ms(100)));
    }

    #[test]
    fn far_servers_get_more_time_than_near_ones() {
        let mut stall = Stall::new(SPEC);
        stall.handle_habit(50, Some(ms(300)));
        assert_eq!(stall.after(), Some(ms(600)));
        assert_eq!(stall.verdict_within(ms(500)), ms(500));
        stall.handle_habit(50, Some(ms(45)));
        assert_eq!(stall.verdict_within(ms(500)), ms(180));
    }

    #[test]
    fn who_is_only_slow_is_asked_less_and_less_often() {
        let mut stall = Stall::new(SPEC);
        stall.handle_habit(50, Some(ms(2)));
        stall.handle_alive();
        stall.handle_alive();
        assert_eq!(stall.after(), Some(ms(400)));
        stall.handle_byte();
        assert_eq!(stall.after(), Some(ms(100)));
    }
}

//! When a store reports, so that sixty thousand of them are a flat load and none floods.
//!
//! A status is a level, not an edge: only the newest counts, so a report that could not be sent is
//! not kept, the next one says more. In go changes, outcomes and random draws; out comes when to
//! report next, and why. Changes wait a moment for others and are told at most once a minute;
//! without one there is a heartbeat, at a phase of the store's own and never on the beat. After an
//! outage stores come back spread, as they do to their sources.

use std::time::{Duration, Instant};

use super::poll::{Poll, PollSpec, Polled, part};

/// What changes is often not alone.
const DEBOUNCE: Duration = Duration::from_secs(5);

/// Between two reports of changes.
const APART: Duration = Duration::from_secs(60);

/// After a start: a region that has its power back must not report in the same second.
const FIRST_WITHIN: Duration = Duration::from_secs(30);

/// What the centre may ask for.
const NEXT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// How a store reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CadenceSpec {
    /// How often without a change.
    pub heartbeat: Duration,
    /// Over how long stores come back after an outage.
    pub spread: Duration,
}

/// Why there is a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It is the first one of this process.
    Start,
    /// Something is different.
    Change,
    /// It was time.
    Heartbeat,
    /// The centre has asked for it.
    Asked,
}

impl Trigger {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Change => "Change",
            Self::Heartbeat => "Heartbeat",
            Self::Asked => "Asked",
        }
    }
}

/// How a report ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The centre has it. `next` is when it wants another one.
    Taken {
        /// From now.
        next: Option<Duration>,
    },
    /// It has not.
    Failed {
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Cadence {
    spec: CadenceSpec,
    /// Knows how to leave a server alone.
    poll: Poll,
    /// The next one without a change.
    next: Instant,
    why: Trigger,
    changed: Option<Instant>,
    begun: Option<Instant>,
}

impl Cadence {
    /// A store that has not reported. `hash` is of its name.
    pub fn new(spec: CadenceSpec, hash: u64, now: Instant) -> Self {
        let heartbeat = spec.heartbeat.clamp(NEXT.0, NEXT.1);
        let spec = CadenceSpec { heartbeat, ..spec };
        let poll = PollSpec { interval: heartbeat, long_poll: Duration::ZERO, spread: spec.spread };
        Self {
            spec,
            poll: Poll::new(poll, hash, true, now),
            next: now + part(FIRST_WITHIN.min(heartbeat), hash),
            why: Trigger::Start,
            changed: None,
            begun: None,
        }
    }

    /// Something is different from what the last report said.
    pub fn handle_change(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    /// When to report.
    pub fn poll_timeout(&self) -> Instant {
        self.due().0
    }

    /// Why there is a report at `now`, if one is due; it is made now, and sent.
    pub fn begin(&mut self, now: Instant) -> Option<Trigger> {
        let (at, why) = self.due();
        if at > now {
            return None;
        }
        self.poll.begin(now);
        self.begun = Some(now);
        self.changed = None;
        // Until its end is known.
        self.next = now + self.spec.heartbeat;
        Some(why)
    }

    /// How it ended.
    pub fn handle_reported(&mut self, reported: Reported, draw: u64, now: Instant) {
        match reported {
            Reported::Taken { next } => {
                self.poll.handle_polled(Polled::Answered { held: false }, draw, now);
                let heartbeat = self.spec.heartbeat;
                (self.next, self.why) = match next {
                    Some(next) => (now + next.clamp(NEXT.0, NEXT.1), Trigger::Asked),
                    // ± 20 %.
                    None => {
                        let pause = heartbeat * 4 / 5 + part(heartbeat * 2 / 5, draw);
                        (now + pause, Trigger::Heartbeat)
                    }
                };
            }
            Reported::Failed { retry_after } => {
                self.poll.handle_polled(Polled::Failed { retry_after }, draw, now);
                self.next = self.poll.poll_timeout();
                // Whatever is different by then is in it.
                self.why = Trigger::Heartbeat;
            }
        }
    }

    fn due(&self) -> (Instant, Trigger) {
        let fails = !self.poll.back_off().is_zero();
        let Some(changed) = self.changed.filter(|_| !fails && self.why != Trigger::Start) else {
            return (self.next, self.why);
        };
        let apart = self.begun.map_or(changed, |begun| begun + APART);
        let told = (changed + DEBOUNCE).max(apart);
        if told < self.next { (told, Trigger::Change) } else { (self.next, self.why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: CadenceSpec =
        CadenceSpec { heartbeat: Duration::from_secs(900), spread: Duration::from_secs(600) };
    const TAKEN: Reported = Reported::Taken { next: None };

    #[allow(clippy::disallowed_methods, reason = "any moment will do")]
    fn start() -> Instant {
        Instant::now()
    }

    fn seconds(of: u64) -> Duration {
        Duration::from_secs(of)
    }

    #[test]
    fn changes_wait_for_others_and_are_told_once_a_minute() {
        let t = start();
        let mut cadence = Cadence::new(SPEC, 0, t);
        cadence.handle_change(t);
        assert_eq!(cadence.begin(t), Some(Trigger::Start));
        cadence.handle_reported(TAKEN, u64::MAX / 2, t + seconds(1));
        cadence.handle_change(t + seconds(2));
        cadence.handle_change(t + seconds(30));
        assert_eq!(cadence.poll_timeout(), t + seconds(60), "a minute after the last one");
        assert_eq!(cadence.begin(t + seconds(59)), None);
        assert_eq!(cadence.begin(t + seconds(60)), Some(Trigger::Change));
        cadence.handle_reported(TAKEN, u64::MAX / 2, t + seconds(61));
        cadence.handle_change(t + seconds(300));
        assert_eq!(cadence.poll_timeout(), t + seconds(305));
        assert_eq!(cadence.begin(t + seconds(305)), Some(Trigger::Change));
        cadence.handle_reported(TAKEN, u64::MAX / 2, t + seconds(305));
        let beat = cadence.poll_timeout();
        assert_eq!(beat.duration_since(t + seconds(305)).as_secs(), 899, "in the middle");
        assert_eq!(cadence.begin(beat), Some(Trigger::Heartbeat));
    }

    #[test]
    fn hearts_do_not_beat_together() {
        let t = start();
        let mut per_second = vec![0_u32; 1800];
        let mut draws = 1_u64;
        for store in 0..6_000_u64 {
            draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut cadence = Cadence::new(SPEC, draws, t);
            let first = cadence.poll_timeout();
            assert!(first <= t + FIRST_WITHIN, "store {store}");
            cadence.begin(first);
            cadence.handle_reported(TAKEN, draws.rotate_left(32), first);
            let pause = cadence.poll_timeout().duration_since(first);
            assert!((seconds(720)..=seconds(1080)).contains(&pause), "{pause:?}");
            let at = cadence.poll_timeout().duration_since(t).as_secs();
            per_second[usize::try_from(at).unwrap_or(0)] += 1;
        }
        // 6,000 over six minutes are 17 a second.
        assert!(per_second.iter().all(|count| *count < 50), "{:?}", per_second.iter().max());
    }

    #[test]
    fn a_centre_that_is_busy_or_gone_is_left_alone_and_no_change_breaks_that() {
        let t = start();
        let mut cadence = Cadence::new(SPEC, 0, t);
        cadence.begin(t);
        let failed = Reported::Failed { retry_after: Some(seconds(1200)) };
        cadence.handle_reported(failed, 0, t);
        cadence.handle_change(t + seconds(1));
        assert_eq!(cadence.poll_timeout(), t + seconds(1200), "as long as it asks for");
        // A day later stores come back over ten minutes and more, never at once.
        let day = t + seconds(86_400);
        assert!(cadence.begin(day).is_some());
        let away = Reported::Failed { retry_after: None };
        cadence.handle_reported(away, 0, day);
        let early = cadence.poll_timeout();
        cadence.handle_reported(away, u64::MAX, day);
        let late = cadence.poll_timeout();
        assert!(late.duration_since(early) >= seconds(600), "{:?}", late.duration_since(early));
    }

    #[test]
    fn the_centre_may_ask_for_the_next_one_within_reason() {
        let t = start();
        let mut cadence = Cadence::new(SPEC, 0, t);
        cadence.begin(t);
        cadence.handle_reported(Reported::Taken { next: Some(Duration::ZERO) }, 0, t);
        assert_eq!(cadence.poll_timeout(), t + seconds(1), "not in a loop");
        assert_eq!(cadence.begin(t + seconds(1)), Some(Trigger::Asked));
        let far = Reported::Taken { next: Some(seconds(1_000_000)) };
        cadence.handle_reported(far, 0, t);
        assert_eq!(cadence.poll_timeout(), t + seconds(86_400), "not never");
    }
}

//! The store's wall clock, and whether it can be believed: the shell around the core's
//! `ClockTrust`. The process has one; what reconciles policy and what gates images ask the same.
//!
//! The kernel says whether somebody keeps its clock (NTP, PTP), a source of policy whether its own
//! agrees. A time that was shown then, or that somebody has signed for, never comes again; one that
//! nobody vouched for is taken back when somebody does. A box that has no clock of its own (no
//! battery) and has never been told the time is not believed until it is.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::civil::Timestamp;
use tillgate_core::gate;
use tillgate_core::reconcile::{ClockState, ClockTrust, Memory, Reading, Wall};
use tillgate_net::clock::{self, Floor};
use tillgate_net::metrics::PolicyMeters;

/// Before this program was built.
const BUILT: Wall = Wall(clock::BUILT);

/// How much later a time must be to be written down again.
const WRITE_EVERY: u64 = 600;

/// See the module.
pub(crate) struct StoreClock {
    inner: Mutex<Inner>,
    meters: PolicyMeters,
}

struct Inner {
    trust: ClockTrust,
    /// Shown while somebody kept the clock.
    proven: Wall,
    written: Wall,
    /// Somebody has vouched or signed for it: what the clock showed by itself is not in it, because
    /// a box that was in 2100 for a day must not call every certificate expired ever after.
    attested: Wall,
    /// The same, for who cannot wait for a right time.
    floor: Arc<Floor>,
}

impl StoreClock {
    /// Looks at it for the first time; what has passed is told to `floor` from here on.
    pub(crate) fn new(meters: PolicyMeters, floor: Arc<Floor>) -> Self {
        let trust = ClockTrust::new(BUILT, has_battery());
        let mut inner = Inner { trust, proven: BUILT, written: BUILT, attested: BUILT, floor };
        inner.handle(reading(), clock::now());
        Self { inner: Mutex::new(inner), meters }
    }

    /// What the process before wrote down: the latest time that it believed, whether its clock was
    /// ever right, when somebody vouched for it last, and whether it has jumped since.
    pub(crate) fn recall(&self, memory: &Memory) {
        let mut inner = self.inner();
        inner.trust.recall_word(memory.clock_vouched, memory.clock_jumped);
        inner.attested = inner.attested.max(memory.clock_vouched.unwrap_or_default());
        inner.begin(memory.floor, memory.clock_known, reading());
    }

    /// Puts into `memory` what [`StoreClock::recall`] wants to know.
    pub(crate) fn write_down(&self, memory: &mut Memory) {
        let trust = self.inner().trust;
        memory.floor = trust.floor();
        memory.clock_known = trust.is_known();
        memory.clock_vouched = trust.vouched();
        memory.clock_jumped = trust.has_jumped();
    }

    /// What it wrote down with [`StoreClock::news`].
    pub(crate) fn recall_proven(&self, text: &str) {
        let Some(proven) = text.trim().parse().ok().map(Wall) else { return };
        let mut inner = self.inner();
        inner.proven = inner.proven.max(proven);
        inner.written = inner.proven;
        // It was kept then, so the box is one that gets to know the time.
        inner.trust.recall_word(Some(proven), false);
        inner.begin(proven, true, reading());
    }

    /// Looks at it again; to be called every few seconds.
    pub(crate) fn look(&self) {
        let now = clock::now();
        let mut inner = self.inner();
        inner.handle(reading(), now);
        self.meters.clock(inner.trust.state(now).name(), &ClockState::NAMES);
    }

    /// Somebody who has proven who he is agrees with it.
    pub(crate) fn is_vouched(&self) {
        self.inner().handle(Reading { vouched: true, ..reading() }, clock::now());
    }

    /// A verified bundle was made at `created_at`: that has passed, unless whoever keeps the clock
    /// knows better. One wrong date must not end every window for good.
    pub(crate) fn raise_floor(&self, created_at: Wall) {
        let mut inner = self.inner();
        inner.trust.raise_floor(created_at);
        inner.attests(created_at);
    }

    /// What is to be written down for good, if it is time.
    pub(crate) fn news(&self) -> Option<String> {
        let mut inner = self.inner();
        let is_due = inner.proven.0 >= inner.written.0.saturating_add(WRITE_EVERY);
        is_due.then(|| {
            inner.written = inner.proven;
            inner.proven.to_string()
        })
    }

    /// What is thought of it.
    pub(crate) fn state(&self) -> ClockState {
        self.inner().trust.state(clock::now())
    }

    /// What it showed when somebody vouched for it last.
    pub(crate) fn vouched(&self) -> Option<Wall> {
        self.inner().trust.vouched()
    }

    /// A time that has passed, as far as is known.
    pub(crate) fn floor(&self) -> Wall {
        self.inner().trust.floor()
    }

    /// What is thought of it, as the gate asks, and the time that it shows.
    pub(crate) fn now(&self) -> (gate::Clock, Timestamp) {
        let inner = self.inner();
        let now = clock::now();
        let gate = match inner.trust.state(now) {
            ClockState::Synced => gate::Clock::Synced,
            ClockState::Holdover => holdover(&inner.trust, now),
            ClockState::Untrusted => gate::Clock::Untrusted(timestamp(inner.trust.floor().0)),
        };
        (gate, timestamp(clock::wall_seconds()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Goes on with what else is known to have passed; what was seen of the clock since still
    /// counts.
    fn begin(&mut self, floor: Wall, known: bool, reading: Reading) {
        self.trust.recall(floor.max(self.proven).max(BUILT), known);
        self.handle(reading, clock::now());
    }

    fn handle(&mut self, reading: Reading, now: Instant) {
        let was_ahead = reading.wall < self.trust.floor();
        if reading.vouched && was_ahead && reading.wall >= self.proven {
            // It was ahead while nobody kept it, and is right now.
            self.trust = ClockTrust::new(self.proven, true);
            self.attested = self.proven;
        }
        self.trust.handle_reading(reading, now);
        if self.trust.state(now) == ClockState::Synced {
            self.proven = self.proven.max(reading.wall);
        }
        self.attests(self.proven);
        self.floor.doubt(self.trust.state(now) == ClockState::Untrusted);
    }

    fn attests(&mut self, passed: Wall) {
        self.attested = self.attested.max(passed);
        self.floor.set(self.attested.0);
    }
}

fn holdover(trust: &ClockTrust, now: Instant) -> gate::Clock {
    gate::Clock::Holdover(Duration::from_secs(trust.margin(now)))
}

/// Seconds of the wall clock as the calendar counts them.
pub(crate) fn timestamp(seconds: u64) -> Timestamp {
    Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn reading() -> Reading {
    Reading { wall: Wall(clock::wall_seconds()), vouched: clock::is_kept() }
}

/// Whether the box may have kept the time while it was off. Where the kernel does not say, the time
/// is that of whatever runs this.
fn has_battery() -> bool {
    match fs::read_dir("/sys/class/rtc") {
        Ok(mut clocks) => clocks.next().is_some(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use tillgate_net::metrics::Metrics;

    use super::*;

    fn begun() -> StoreClock {
        StoreClock::new(PolicyMeters::register(&Metrics::new("0")), Arc::default())
    }

    fn shown(clock: &StoreClock, wall: u64, vouched: bool) {
        clock.inner().handle(Reading { wall: Wall(wall), vouched }, clock::now());
    }

    #[test]
    fn a_time_that_has_passed_never_comes_again() {
        let clock = begun();
        let now = clock::wall_seconds();
        clock.recall_proven(&format!("{}\n", now - 60));
        assert!(!matches!(clock.now().0, gate::Clock::Untrusted(_)), "{:?}", clock.now());
        clock.recall_proven("nonsense");
        clock.recall_proven(&(now + 86_400).to_string());
        assert_eq!(clock.state(), ClockState::Untrusted);
        let floor = timestamp(now + 86_400);
        assert_eq!(clock.now().0, gate::Clock::Untrusted(floor));
        shown(&clock, now, true);
        assert_eq!(clock.state(), ClockState::Untrusted, "even if somebody says so");
        shown(&clock, now + 90_000, true);
        assert_eq!(clock.news(), Some((now + 90_000).to_string()));
        assert_eq!((clock.news(), clock.state()), (None, ClockState::Synced));
    }

    #[test]
    fn a_clock_that_was_ahead_while_nobody_kept_it_is_put_right() {
        let clock = begun();
        let now = clock::wall_seconds();
        clock.recall_proven(&(now - 10).to_string());
        // Steady before the last start, so it was believed; and a year ahead of the truth.
        let floor = Wall(now + 31_536_000);
        clock.recall(&Memory { floor, clock_known: true, ..Memory::default() });
        assert!(clock.state() == ClockState::Untrusted || clock::is_kept());
        shown(&clock, now, true);
        assert_eq!(clock.state(), ClockState::Synced);
        assert!(clock.floor() < Wall(now + 3600), "nobody had vouched for that year");
    }

    #[test]
    fn who_keeps_the_clock_puts_a_date_right_that_somebody_has_signed() {
        let clock = begun();
        let now = clock::wall_seconds();
        clock.raise_floor(Wall(now + 31_536_000));
        assert_eq!(clock.state(), ClockState::Untrusted, "as far as is known it has passed");
        assert_eq!(clock.floor(), Wall(now + 31_536_000));
        shown(&clock, now, true);
        assert_eq!(clock.state(), ClockState::Synced);
        assert!(clock.floor() < Wall(now + 3600), "{:?}", clock.floor());
        assert!(clock.news().is_some_and(|text| text.parse().is_ok_and(|at: u64| at <= now)));
    }

    #[test]
    fn certificates_are_judged_by_no_time_that_has_passed_and_by_none_that_nobody_vouched_for() {
        let floor = Arc::<Floor>::default();
        let clock = StoreClock::new(PolicyMeters::register(&Metrics::new("0")), Arc::clone(&floor));
        let (now, year) = (clock::wall_seconds(), 31_536_000);
        let ahead = |seconds: u64| floor.wall_seconds().saturating_sub(now) >= seconds;
        // What a clock showed that only went on steadily, however late that was.
        clock.recall(&Memory { floor: Wall(now + 9 * year), ..Memory::default() });
        assert!(!ahead(3600));
        let vouched = Some(Wall(now + year));
        clock.recall(&Memory { clock_vouched: vouched, ..Memory::default() });
        assert!(ahead(year) && !ahead(2 * year));
        clock.raise_floor(Wall(now + 3 * year));
        assert!(ahead(3 * year) && !ahead(4 * year));
        // Who keeps the clock now knows better.
        shown(&clock, now, true);
        assert!(!ahead(3600));
    }

    #[test]
    fn a_clock_that_has_jumped_is_not_believed_again_for_a_file_that_is_read() {
        let clock = begun();
        let now = clock::wall_seconds();
        shown(&clock, now + 7200, false);
        assert_eq!(clock.state(), ClockState::Untrusted);
        let looked = |inner: &mut Inner| {
            // As the clock shows it from here on, steadily.
            let reading = Reading { wall: Wall(now + 7200), vouched: false };
            inner.begin(Wall(now - 60), true, reading);
        };
        looked(&mut clock.inner());
        assert_eq!(clock.state(), ClockState::Untrusted, "it has jumped, whatever was written");
        shown(&clock, now + 7200, true);
        assert_eq!(clock.state(), ClockState::Synced, "somebody says that it is right");
    }
}

//! Whether the wall clock can be believed.
//!
//! Stores have boxes without a battery, and lines without NTP. Windows, freezes and overrides
//! need a time; classes, failover and last known good never do. In go readings of the wall clock
//! beside the monotonic one, and whether someone vouches for it; out comes a [`ClockState`]. The
//! *floor* is a time that has certainly passed: no honest clock shows an earlier one.

use std::fmt;
use std::time::{Duration, Instant};

/// Seconds since 1970, UTC. Never before that: a clock that says so is at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How far a wall clock may leave the monotonic one without someone who vouches for it.
const JUMP: u64 = 300;

/// How long a word for the clock counts.
const SYNC_LASTS: Duration = Duration::from_secs(24 * 3600);

/// What a clock without a word loses in a day, in seconds: a cheap oscillator's 20 ppm is 2 s,
/// a bad and cold one ten times that.
const DRIFT_A_DAY: u64 = 60;

/// What is thought of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockState {
    /// Someone vouched for it within a day.
    Synced,
    /// Nobody did, but it has gone on steadily.
    Holdover,
    /// It cannot be right, or has jumped, or never was set.
    Untrusted,
}

impl ClockState {
    /// Every name.
    pub const NAMES: [&'static str; 3] =
        [Self::Synced.name(), Self::Holdover.name(), Self::Untrusted.name()];

    /// Its name in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::Holdover => "Holdover",
            Self::Untrusted => "Untrusted",
        }
    }
}

/// One look at the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it shows.
    pub wall: Wall,
    /// Whether the system's own synchronisation, or an authenticated answer, agrees with it.
    pub vouched: bool,
}

/// The wall clock over time.
#[derive(Clone, Copy, Debug)]
pub struct ClockTrust {
    floor: Wall,
    /// Whether this store ever had a clock that was right.
    known: bool,
    last: Option<(Reading, Instant)>,
    synced: Option<Instant>,
    /// What it showed then, which a restart does not forget.
    vouched: Option<Wall>,
    jumped: bool,
}

impl ClockTrust {
    /// A clock that has not been looked at. `floor` is the later of the build and of what was
    /// written down; `known` whether it was ever right here.
    pub const fn new(floor: Wall, known: bool) -> Self {
        Self { floor, known, last: None, synced: None, vouched: None, jumped: false }
    }

    /// What was written down before: a time that had passed, and whether it was ever right here.
    /// What was seen of it since still counts.
    pub fn recall(&mut self, floor: Wall, known: bool) {
        self.floor = self.floor.max(floor);
        self.known |= known;
    }

    /// What else was written down of it: what it showed when somebody vouched for it last, and
    /// whether it has jumped since. A word of this process counts more.
    pub fn recall_word(&mut self, vouched: Option<Wall>, jumped: bool) {
        self.jumped |= jumped && self.synced.is_none();
        self.vouched = self.vouched.max(vouched);
    }

    /// Looks at it.
    pub fn handle_reading(&mut self, reading: Reading, now: Instant) {
        if let Some((before, then)) = self.last {
            let expected = before.wall.0 + now.saturating_duration_since(then).as_secs();
            if expected.abs_diff(reading.wall.0) > JUMP {
                self.jumped = true;
                self.synced = None;
            }
        }
        self.last = Some((reading, now));
        if reading.vouched && reading.wall >= self.floor {
            self.synced = Some(now);
            self.vouched = Some(reading.wall);
            self.known = true;
            self.jumped = false;
        }
        if self.state(now) != ClockState::Untrusted {
            self.floor = self.floor.max(reading.wall);
        }
    }

    /// A verified bundle was made at `created_at`: that has passed, and by a clock that someone
    /// signed for.
    pub fn raise_floor(&mut self, created_at: Wall) {
        self.floor = self.floor.max(created_at);
    }

    /// What is thought of it now.
    pub fn state(&self, now: Instant) -> ClockState {
        let Some((reading, _)) = self.last else { return ClockState::Untrusted };
        let synced = self.synced.map(|at| now.saturating_duration_since(at));
        if reading.wall < self.floor || self.jumped || !self.known {
            ClockState::Untrusted
        } else if synced.is_some_and(|age| age < SYNC_LASTS) {
            ClockState::Synced
        } else {
            ClockState::Holdover
        }
    }

    /// A time that has certainly passed.
    pub const fn floor(&self) -> Wall {
        self.floor
    }

    /// Whether it was ever right here.
    pub const fn is_known(&self) -> bool {
        self.known
    }

    /// What it showed when somebody vouched for it last.
    pub const fn vouched(&self) -> Option<Wall> {
        self.vouched
    }

    /// Whether it has jumped, and nobody has vouched for it since.
    pub const fn has_jumped(&self) -> bool {
        self.jumped
    }

    /// The time to check certificates at: never before the floor.
    pub fn at_least(&self, wall: Wall) -> Wall {
        wall.max(self.floor)
    }

    /// By how much an allowed time shrinks and a forbidden one grows, in seconds.
    pub fn margin(&self, now: Instant) -> u64 {
        let age = match (self.synced, self.vouched, self.last) {
            (Some(synced), ..) => now.saturating_duration_since(synced),
            // A process before this one heard it: what the clock shows since is all there is.
            (None, Some(vouched), Some((reading, at))) => {
                let shown = Duration::from_secs(reading.wall.0.saturating_sub(vouched.0));
                shown + now.saturating_duration_since(at)
            }
            (None, _, _) => return 0,
        };
        let beyond = age.saturating_sub(SYNC_LASTS);
        beyond.as_secs().div_ceil(SYNC_LASTS.as_secs()) * DRIFT_A_DAY
    }
}

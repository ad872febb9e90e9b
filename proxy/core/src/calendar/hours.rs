//! Opening hours, and the time between them.
//!
//! Closed is what opening hours leave, less some time after closing and before opening; open is
//! what closed leaves. A store that never closes long enough says when it counts as closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Effect, Weekly, Zone, days, weekly};
use crate::civil::{DAY_SECONDS, Day, Interval, Timestamp, merge, rest};

/// Days that are looked at around a question: more than the longest `after_close` and
/// `before_open`, so that no close hour outside of them matters.
const AROUND_DAYS: i64 = 8;

const WEEK_MINUTES: u32 = 7 * 24 * 60;

/// When a store is open, in civil time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours {
    /// The usual week; `days` name the day of opening.
    pub weekly: Vec<Weekly>,
    /// Days that differ.
    pub exceptions: BTreeMap<Day, OpenFor>,
}

/// The hours of one day that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFor {
    /// None.
    Closed,
    /// From `open` to `close`, in minutes after midnight; `close` not later than `open` means on
    /// the next day.
    Hours {
        /// When it opens.
        open: u16,
        /// When it closes.
        close: u16,
    },
}

/// Open or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoursState {
    /// The time between opening hours.
    Closed,
    /// The rest.
    Open,
}

/// A schedule by the store's opening hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHours {
    /// Which of both.
    pub state: HoursState,
    /// Closed begins this long after closing time; at most a day.
    pub after_close: Duration,
    /// Closed ends this long before opening time; at most a day.
    pub before_open: Duration,
    /// When a store that never closes long enough counts as closed.
    pub when_always_open: Option<Weekly>,
    /// The opening hours.
    pub hours: Arc<Hours>,
}

impl Hours {
    /// The longest time in the usual week for which the store is closed; nothing if it never is.
    pub fn longest_closing(&self) -> Duration {
        let mut open: Vec<(u32, u32)> = Vec::new();
        for entry in &self.weekly {
            for day in entry.days.iter() {
                let start = u32::try_from(day.index()).unwrap_or(0) * 1440 + u32::from(entry.start);
                let over = if entry.end > entry.start { 0 } else { 1440 };
                open.push((start, start - u32::from(entry.start) + u32::from(entry.end) + over));
            }
        }
        open.sort_unstable();
        let Some(first) = open.first().map(|(start, _)| *start) else {
            return Duration::from_secs(u64::from(WEEK_MINUTES) * 60);
        };
        // What ends after Sunday's midnight is open on Monday too.
        let last = open.iter().map(|(_, end)| *end).max().unwrap_or(0);
        let mut longest = (first + WEEK_MINUTES).saturating_sub(last);
        let mut closed_from = first.max(last.saturating_sub(WEEK_MINUTES));
        for (start, end) in open {
            longest = longest.max(start.saturating_sub(closed_from));
            closed_from = closed_from.max(end);
        }
        Duration::from_secs(u64::from(longest) * 60)
    }

    /// When the store is open on `days`.
    fn open(&self, days: impl Iterator<Item = Day>, zone: &Zone, effect: Effect) -> Vec<Interval> {
        let mut found = Vec::new();
        for day in days {
            match self.exceptions.get(&day) {
                Some(OpenFor::Closed) => {}
                Some(OpenFor::Hours { open, close }) => {
                    let entry = Weekly { days: Default::default(), start: *open, end: *close };
                    found.push(entry.on(day, zone, effect));
                }
                None => found.extend(weekly(&self.weekly, zone, effect, std::iter::once(day))),
            }
        }
        merge(found)
    }
}

impl StoreHours {
    /// Whether the usual week leaves no time that counts as closed.
    pub fn never_closes(&self) -> bool {
        self.hours.longest_closing() <= self.after_close + self.before_open
    }

    /// The stretches that touch `within`; those that reach further than some days may be cut.
    pub(super) fn intervals(&self, zone: &Zone, effect: Effect, within: Interval) -> Vec<Interval> {
        let around = AROUND_DAYS * DAY_SECONDS;
        let wide = Interval::new(
            Timestamp(within.from.0.saturating_sub(around)),
            Timestamp(within.until.0.saturating_add(around)),
        );
        // Whatever closed is for, what is in doubt counts for `effect`'s side.
        let closed_effect = match self.state {
            HoursState::Closed => effect,
            HoursState::Open => effect.opposite(),
        };
        let closed = self.closed(zone, closed_effect, wide);
        match self.state {
            HoursState::Closed => closed,
            HoursState::Open => rest(wide, &closed),
        }
    }

    fn closed(&self, zone: &Zone, effect: Effect, wide: Interval) -> Vec<Interval> {
        let open = self.hours.open(days(zone, wide, 2), zone, effect.opposite());
        let shrunk = rest(wide, &open).into_iter().map(|gap| {
            // The store may have closed long before what is looked at, and open long after it.
            let from =
                if gap.from == wide.from { gap.from } else { gap.from.plus(self.after_close) };
            let until =
                if gap.until == wide.until { gap.until } else { gap.until.minus(self.before_open) };
            Interval::new(from, until)
        });
        let mut closed: Vec<Interval> = shrunk.collect();
        if self.never_closes()
            && let Some(entry) = &self.when_always_open
        {
            closed.extend(weekly(&[*entry], zone, effect, days(zone, wide, 2)));
        }
        merge(closed)
    }
}

//! When a store may change: windows by week, opening hours or cron, and freezes.
//!
//! In: rules in civil time and a [`Zone`], a plain table that knows no database. Out: stretches
//! of real time ([`Window::intervals`]) and whether one is active now. Where summer time begins
//! or ends, what is in doubt is decided for the till: times to change shrink, times of rest grow.
//! The same code answers the data path, `explain` and `windows`. It reads no clock.

use std::sync::Arc;
use std::time::Duration;

use crate::civil::{Civil, Day, Interval, Timestamp, merge};

mod cron;
mod hours;
mod zone;

pub use cron::Cron;
pub use hours::{Hours, HoursState, OpenFor, StoreHours};
pub use zone::{Bias, Transition, Zone};

/// How far ahead the next opening is looked for: a year and some, so that a yearly one is found.
const SEARCH_DAYS: [i64; 3] = [9, 70, 400];

/// Whether changes are allowed or denied in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Changes happen only in such a window. It shrinks where there is doubt.
    Allow,
    /// No change happens in it. It grows where there is doubt.
    Deny,
}

/// Days of the week, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weekdays(u8);

/// A civil time on some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weekly {
    /// The days on which it starts.
    pub days: Weekdays,
    /// Minutes after midnight, 0 to 1439.
    pub start: u16,
    /// Minutes after midnight, 0 to 1440; not later than `start` means on the next day.
    pub end: u16,
}

/// When a window is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// By day and time.
    Weekly(Vec<Weekly>),
    /// By the store's opening hours.
    StoreHours(StoreHours),
    /// By a cron expression, for so long from each of its times.
    Cron(Cron, Duration),
}

/// A recurring time in which a store may, or may not, change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What happens in it.
    pub effect: Effect,
    /// Whose clocks it goes by.
    pub zone: Arc<Zone>,
    /// When it is active.
    pub schedule: Schedule,
}

/// One stretch of civil days without change, from its first moment to the first after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CivilRange {
    /// Its first moment.
    pub from: Civil,
    /// The first moment after it.
    pub until: Civil,
    /// Whose clocks it goes by.
    pub zone: Arc<Zone>,
}

impl Weekdays {
    /// The set of `days`.
    pub fn of(days: impl IntoIterator<Item = crate::civil::Weekday>) -> Self {
        Self(days.into_iter().fold(0, |set, day| set | 1 << day.index()))
    }

    /// Whether `day` is in it.
    pub const fn contains(self, day: crate::civil::Weekday) -> bool {
        self.0 & (1 << day.index()) != 0
    }

    /// Its days from Monday on.
    pub fn iter(self) -> impl Iterator<Item = crate::civil::Weekday> {
        crate::civil::Weekday::ALL.into_iter().filter(move |day| self.contains(*day))
    }
}

impl Effect {
    /// The side on which an ambiguous beginning lies.
    const fn start(self) -> Bias {
        match self {
            Self::Allow => Bias::Later,
            Self::Deny => Bias::Earlier,
        }
    }

    /// The side on which an ambiguous end lies.
    const fn end(self) -> Bias {
        match self {
            Self::Allow => Bias::Earlier,
            Self::Deny => Bias::Later,
        }
    }

    /// The other one.
    const fn opposite(self) -> Self {
        match self {
            Self::Allow => Self::Deny,
            Self::Deny => Self::Allow,
        }
    }
}

impl Weekly {
    /// The stretch that starts on `day`; empty where summer time swallows it.
    fn on(&self, day: Day, zone: &Zone, effect: Effect) -> Interval {
        let last = if self.end > self.start { day } else { day.plus(1) };
        Interval::new(
            zone.moment(day.at_minute(self.start), effect.start()),
            zone.moment(last.at_minute(self.end), effect.end()),
        )
    }
}

impl Window {
    /// When it is active, cut to `within`, in order and without overlaps.
    pub fn intervals(&self, within: Interval) -> Vec<Interval> {
        let cut = |interval: Interval| interval.within(within);
        self.whole(within).into_iter().filter_map(cut).collect()
    }

    /// The stretch in which `moment` lies; `None` if the window is not active then. Its ends are
    /// exact up to eight days away.
    pub fn active_at(&self, moment: Timestamp) -> Option<Interval> {
        let around = Interval::new(moment, Timestamp(moment.0.saturating_add(1)));
        self.whole(around).into_iter().find(|interval| interval.contains(moment))
    }

    /// The first moment from `moment` on at which it is active; `None` if it is not within some
    /// four hundred days.
    pub fn next_active(&self, moment: Timestamp) -> Option<Timestamp> {
        SEARCH_DAYS.iter().find_map(|days| {
            let far = Timestamp(moment.0.saturating_add(days * crate::civil::DAY_SECONDS));
            let found = self.intervals(Interval::new(moment, far));
            found.first().map(|interval| interval.from)
        })
    }

    /// The first moment from `moment` on at which it is not active.
    pub fn next_inactive(&self, moment: Timestamp) -> Option<Timestamp> {
        let mut at = moment;
        // Each step goes over more than a week; a window that never ends has no such moment.
        for _ in 0..60 {
            match self.active_at(at) {
                Some(interval) => at = interval.until,
                None => return Some(at),
            }
        }
        None
    }

    /// The stretches that touch `within`, not cut to it.
    fn whole(&self, within: Interval) -> Vec<Interval> {
        match &self.schedule {
            Schedule::Weekly(entries) => {
                merge(weekly(entries, &self.zone, self.effect, days(&self.zone, within, 2)))
            }
            Schedule::StoreHours(rule) => rule.intervals(&self.zone, self.effect, within),
            Schedule::Cron(cron, duration) => {
                let back = i32::try_from(duration.as_secs() / 86_400).unwrap_or(i32::MAX - 8);
                let days = days(&self.zone, within, back + 2);
                merge(cron.intervals(*duration, &self.zone, self.effect, days))
            }
        }
    }
}

impl CivilRange {
    /// It as real time, grown where there is doubt.
    pub fn interval(&self) -> Interval {
        Interval::new(
            self.zone.moment(self.from, Effect::Deny.start()),
            self.zone.moment(self.until, Effect::Deny.end()),
        )
    }
}

/// The civil days around `within`: `back` more before it, one more after it.
fn days(zone: &Zone, within: Interval, back: i32) -> impl Iterator<Item = Day> + use<> {
    let first = zone.civil(within.from).day().plus(-back).0;
    let last = zone.civil(within.until).day().plus(1).0;
    (first..=last).map(Day)
}

/// The stretches of `entries` on `days`.
fn weekly(
    entries: &[Weekly],
    zone: &Zone,
    effect: Effect,
    days: impl Iterator<Item = Day>,
) -> Vec<Interval> {
    let mut found = Vec::new();
    for day in days {
        let weekday = day.weekday();
        let today = entries.iter().filter(|entry| entry.days.contains(weekday));
        found.extend(today.map(|entry| entry.on(day, zone, effect)));
    }
    found
}

#[cfg(test)]
mod tests;

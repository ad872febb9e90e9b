//! Moments, civil dates and times, stretches of time.
//!
//! A [`Timestamp`] is a point in time; a [`Civil`] time is what a clock on a wall shows, and only
//! a [`crate::calendar::Zone`] makes one from the other. Seconds are fine enough for calendars.
//! The calendar is the proleptic Gregorian one; the arithmetic is Howard Hinnant's
//! (`days_from_civil`, `civil_from_days`), exact for every day that fits.

use std::fmt;
use std::time::Duration;

/// Seconds of a civil day. Days of 23 or 25 hours exist only in a zone.
pub const DAY_SECONDS: i64 = 86_400;

/// A point in time: seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A civil date: days since 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i32);

/// A civil date and time without a zone: seconds since 1970-01-01T00:00:00 on the same wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Civil(pub i64);

/// A stretch of time from its first moment to the first one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Weekday {
    /// The week from Monday on.
    pub const ALL: [Self; 7] =
        [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// `Mon`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mon => "Mon",
            Self::Tue => "Tue",
            Self::Wed => "Wed",
            Self::Thu => "Thu",
            Self::Fri => "Fri",
            Self::Sat => "Sat",
            Self::Sun => "Sun",
        }
    }

    /// 0 for Monday to 6 for Sunday.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl Timestamp {
    /// This moment and `duration` later; whole seconds count.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(seconds(duration)))
    }

    /// This moment and `duration` earlier; whole seconds count.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(seconds(duration)))
    }

    /// How long it is to `later`; nothing if that is past.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_secs(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// What a clock in Greenwich without summer time shows.
    pub const fn utc(self) -> Civil {
        Civil(self.0)
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

impl Day {
    /// The day of this year, month (1 to 12) and day of the month; `None` if the calendar has
    /// none, or the year is not one of 0 to 9999.
    pub fn new(year: i32, month: u8, day: u8) -> Option<Self> {
        if !(0..=9999).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        // Years begin in March, so that the leap day is the last one.
        let shifted = i64::from(year) - i64::from(month <= 2);
        let era = shifted.div_euclid(400);
        let of_era = shifted.rem_euclid(400);
        let months = (i64::from(month) + 9) % 12;
        let of_year = (153 * months + 2) / 5 + i64::from(day) - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        let found = Self(i32::try_from(days).ok()?);
        (found.date() == (year, month, day)).then_some(found)
    }

    /// Year, month (1 to 12) and day of the month.
    pub fn date(self) -> (i32, u8, u8) {
        let days = i64::from(self.0) + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let fit = |number: i64| u8::try_from(number).unwrap_or(0);
        (i32::try_from(year).unwrap_or(0), fit(month), fit(day))
    }

    /// The day of the week; 1970-01-01 was a Thursday.
    pub fn weekday(self) -> Weekday {
        let index = usize::try_from((i64::from(self.0) + 3).rem_euclid(7)).unwrap_or(0);
        Weekday::ALL[index]
    }

    /// The day `days` later; earlier if negative.
    #[must_use]
    pub const fn plus(self, days: i32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// This many minutes after its midnight; 1440 is the midnight after it.
    pub fn at_minute(self, minutes: u16) -> Civil {
        Civil(i64::from(self.0) * DAY_SECONDS + i64::from(minutes) * 60)
    }
}

impl Civil {
    /// The date.
    pub fn day(self) -> Day {
        let days = self.0.div_euclid(DAY_SECONDS);
        Day(i32::try_from(days).unwrap_or(if days < 0 { i32::MIN } else { i32::MAX }))
    }

    /// Seconds after midnight, 0 to 86,399.
    pub const fn second_of_day(self) -> i64 {
        self.0.rem_euclid(DAY_SECONDS)
    }
}

impl Interval {
    /// From `from` to `until`.
    pub const fn new(from: Timestamp, until: Timestamp) -> Self {
        Self { from, until }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.until <= self.from
    }

    /// Whether `moment` is in it; its end is not.
    pub fn contains(self, moment: Timestamp) -> bool {
        self.from <= moment && moment < self.until
    }

    /// The part that is also in `other`.
    pub fn within(self, other: Self) -> Option<Self> {
        let both = Self::new(self.from.max(other.from), self.until.min(other.until));
        (!both.is_empty()).then_some(both)
    }

    /// How long it lasts.
    pub fn length(self) -> Duration {
        self.from.until(self.until)
    }
}

/// The same time as `intervals` in order, without overlaps, touching ones joined, empty ones
/// dropped.
pub fn merge(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.retain(|interval| !interval.is_empty());
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match merged.last_mut() {
            Some(last) if interval.from <= last.until => {
                last.until = last.until.max(interval.until)
            }
            _ => merged.push(interval),
        }
    }
    merged
}

/// What is left of `whole` without `intervals`, which are in order and do not overlap.
pub fn rest(whole: Interval, intervals: &[Interval]) -> Vec<Interval> {
    let mut left = Vec::new();
    let mut from = whole.from;
    for interval in intervals {
        left.push(Interval::new(from, interval.from.min(whole.until)));
        from = from.max(interval.until);
    }
    left.push(Interval::new(from, whole.until));
    left.retain(|interval| !interval.is_empty());
    left
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC: `2026-11-27T20:10:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Z", self.utc())
    }
}

impl fmt::Display for Day {
    /// `2026-11-27`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl fmt::Display for Civil {
    /// `2026-11-27T20:10:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.second_of_day();
        let (hour, minute) = (second / 3600, second / 60 % 60);
        write!(f, "{}T{hour:02}:{minute:02}:{:02}", self.day(), second % 60)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds)
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(Day::new(1970, 1, 1), Some(Day(0)));
        assert_eq!(Day::new(2000, 2, 29).map(|day| day.0), Some(11_016));
        assert_eq!(Day::new(2026, 11, 27).map(Day::weekday), Some(Weekday::Fri));
        assert_eq!(Day::new(2100, 2, 29), None, "2100 is no leap year");
        assert_eq!(Day::new(2026, 4, 31), None);
        assert_eq!(Day::new(2026, 13, 1), None);
        assert_eq!(Timestamp(1_795_809_600 + 600).to_string(), "2026-11-27T20:10:00Z");
        assert_eq!(Civil(-1).to_string(), "1969-12-31T23:59:59");
        assert_eq!(Day(0).at_minute(1440), Day(1).at_minute(0));
    }

    #[test]
    fn stretches_are_joined_and_taken_away() {
        let made = |pairs: &[(i64, i64)]| {
            pairs.iter().map(|(a, b)| Interval::new(at(*a), at(*b))).collect::<Vec<_>>()
        };
        let merged = merge(made(&[(5, 9), (0, 2), (2, 3), (7, 8), (4, 4), (8, 6)]));
        assert_eq!(merged, made(&[(0, 3), (5, 9)]));
        assert_eq!(rest(Interval::new(at(1), at(7)), &merged), made(&[(3, 5)]));
        assert_eq!(rest(Interval::new(at(-2), at(12)), &merged), made(&[(-2, 0), (3, 5), (9, 12)]));
        assert_eq!(merged[1].within(merged[0]), None);
    }

    proptest! {
        #[test]
        fn every_day_has_one_date(day in -719_528i32..2_932_896) {
            let (year, month, date) = Day(day).date();
            prop_assert_eq!(Day::new(year, month, date), Some(Day(day)));
            let next = (Day(day).weekday().index() + 1) % 7;
            prop_assert_eq!(Day(day).plus(1).weekday().index(), next);
        }

        #[test]
        fn what_is_taken_away_and_what_is_left_make_the_whole(
            pairs in proptest::collection::vec((0i64..200, 0i64..40), 0..12),
            probe in 0i64..240,
        ) {
            let whole = Interval::new(at(0), at(240));
            let stretch = |(from, length): &(i64, i64)| Interval::new(at(*from), at(from + length));
            let taken = merge(pairs.iter().map(stretch).collect());
            let left = rest(whole, &taken);
            let in_taken =
                pairs.iter().any(|(from, length)| (*from..from + length).contains(&probe));
            prop_assert_eq!(taken.iter().any(|one| one.contains(at(probe))), in_taken);
            prop_assert_eq!(left.iter().any(|one| one.contains(at(probe))), !in_taken);
        }
    }
}

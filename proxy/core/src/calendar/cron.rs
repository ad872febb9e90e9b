//! Cron: five fields, each a set of numbers.
//!
//! As POSIX has it: where both the day of the month and the day of the week are restricted, one
//! of them is enough. What an expression looks like is the policy language's business.

use std::time::Duration;

use super::{Effect, Zone};
use crate::civil::{Day, Interval};

/// The times that a cron expression names, as sets of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    /// Bits 0 to 59.
    pub minutes: u64,
    /// Bits 0 to 23.
    pub hours: u32,
    /// Bits 1 to 31.
    pub days_of_month: u32,
    /// Bits 1 to 12.
    pub months: u16,
    /// Bits 0 (Sunday) to 6 (Saturday).
    pub days_of_week: u8,
    /// The expression begins this field with something else than `*`.
    pub by_day_of_month: bool,
    /// The expression begins this field with something else than `*`.
    pub by_day_of_week: bool,
}

impl Cron {
    /// The stretches that begin on `days`, each `duration` long by real time. A time that does
    /// not exist begins right after the gap, one that comes twice once.
    pub(super) fn intervals(
        &self,
        duration: Duration,
        zone: &Zone,
        effect: Effect,
        days: impl Iterator<Item = Day>,
    ) -> Vec<Interval> {
        let mut found = Vec::new();
        for day in days.filter(|day| self.runs_on(*day)) {
            for minute in (0..1440).filter(|minute| self.runs_at(*minute)) {
                let civil = day.at_minute(minute);
                let from = zone.moment(civil, effect.start());
                // Who rests rests after the second of two equal times.
                let until = match effect {
                    Effect::Allow => from.plus(duration),
                    Effect::Deny => zone.moment(civil, effect.end()).plus(duration),
                };
                found.push(Interval::new(from, until));
            }
        }
        found
    }

    fn runs_on(&self, day: Day) -> bool {
        let (_, month, date) = day.date();
        let of_month = self.days_of_month & (1 << date) != 0;
        let of_week = self.days_of_week & (1 << ((day.weekday().index() + 1) % 7)) != 0;
        let fits = match (self.by_day_of_month, self.by_day_of_week) {
            (true, true) => of_month || of_week,
            _ => of_month && of_week,
        };
        fits && self.months & (1 << month) != 0
    }

    fn runs_at(&self, minute: u16) -> bool {
        self.hours & (1 << (minute / 60)) != 0 && self.minutes & (1 << (minute % 60)) != 0
    }
}

//! Civil days of a store: for budgets that begin anew at midnight.
//!
//! A day is named by its number, so that days can be compared; what is left of it is told beside.
//! Days have 23 or 25 hours twice a year in most places.

use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

/// The number of the civil day at `at` in the time zone called `zone` (UTC, if there is none of
/// that name), and how long it still lasts.
pub fn civil_day(zone: &str, at: SystemTime) -> (i64, Duration) {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    // Outside of what calendars reach, every moment is of one day.
    let Ok(at) = Timestamp::try_from(at) else { return (0, Duration::from_secs(3600)) };
    let at = at.to_zoned(zone);
    let epoch = civil::date(1970, 1, 1);
    let day = i64::from(at.date().since(epoch).map_or(0, |span| span.get_days()));
    let midnight = at.tomorrow().and_then(|tomorrow| tomorrow.start_of_day());
    let left = midnight.map_or(Duration::from_secs(3600), |midnight| {
        Duration::try_from(at.duration_until(&midnight)).unwrap_or_default()
    });
    (day, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    #[test]
    fn a_day_ends_at_the_stores_midnight() {
        let hour = Duration::from_secs(3600);
        let (monday, left) = civil_day("Europe/Oslo", at("2026-11-16T22:30:00Z"));
        assert_eq!(left, hour / 2);
        let (tuesday, left) = civil_day("Europe/Oslo", at("2026-11-16T23:00:00Z"));
        assert_eq!((tuesday, left), (monday + 1, 24 * hour));
        // The day of the change has 25 hours.
        assert_eq!(civil_day("Europe/Oslo", at("2026-10-24T22:00:00Z")).1, 25 * hour);
        assert_eq!(civil_day("Nowhere/At/All", at("1970-01-02T00:00:00Z")), (1, 24 * hour));
    }
}

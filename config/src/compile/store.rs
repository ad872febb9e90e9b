//! The store's own facts: time zone and opening hours.
//!
//! The zone is checked against the database inside the binary, never against that of the machine:
//! the same policy has the same answer everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Output;
use crate::document::Document;
use crate::kinds::StoreDoc;
use crate::zones::Zones;

/// The time zone; there must be one of this name.
pub(super) fn time_zone(
    document: &Document,
    store: &StoreDoc,
    zones: &Zones,
    out: &mut Output,
) -> Arc<str> {
    let name = &store.spec.time_zone.0;
    let spot = document.spec().key("timeZone");
    let known = match zones.find(name) {
        Ok(zone) => zone.name.clone(),
        Err(hint) => {
            out.error(spot.finding(format!("the time zone `{name}` does not exist: {hint}")));
            name.as_str().into()
        }
    };
    out.given("timeZone", &spot, known)
}

/// Opening hours must make sense by themselves, whether a window goes by them or not.
pub(super) fn hours(document: &Document, store: &StoreDoc, out: &mut Output) {
    let Some(hours) = &store.spec.hours else { return };
    let spot = document.spec().key("hours");
    let mut days = BTreeMap::new();
    for (index, entry) in hours.weekly.iter().enumerate() {
        let spot = spot.key("weekly").index(index);
        if entry.open.minutes == 24 * 60 {
            out.error(
                spot.key("open")
                    .finding("a store cannot open at 24:00: write \"00:00\" on the next day"),
            );
        }
        if entry.open == entry.close {
            out.error(spot.key("close").finding(
                "opening and closing are the same time: write \"00:00\" and \"24:00\" for a store \
                 that never closes",
            ));
        }
        for (position, day) in entry.days.iter().enumerate() {
            let day_spot = spot.key("days").index(position);
            if let Some(first) = days.insert(*day, day_spot.place()) {
                let message = format!("the day {day:?} has hours already: remove it in one place");
                out.error(day_spot.finding(message).related(first, "is the first entry"));
            }
        }
    }
    let mut dates = BTreeMap::new();
    for (index, entry) in hours.exceptions.iter().enumerate() {
        let spot = spot.key("exceptions").index(index);
        let date_spot = spot.key("date");
        if let Some(first) = dates.insert(entry.date, date_spot.place()) {
            let message = format!("the day {} is there twice: remove one entry", entry.date.0);
            out.error(date_spot.finding(message).related(first, "is the first entry"));
        }
        let closed = entry.closed.is_some_and(|flag| flag.0);
        let message = match (entry.open, entry.close, closed) {
            (Some(_), Some(_), false) | (None, None, true) => continue,
            (_, _, true) => "has hours and `closed: true`: keep one of them",
            (None, None, false) => "says nothing: add `open` and `close`, or `closed: true`",
            (_, _, false) => "has only one of `open` and `close`: add the other",
        };
        out.error(date_spot.finding(format!("the day {} {message}", entry.date.0)));
    }
}

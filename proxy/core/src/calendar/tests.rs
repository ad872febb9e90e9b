//! The published vectors of the language, and what must hold for any window and any zone.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::civil::Weekday::{self, Fri, Mon, Sat, Sun, Thu, Tue, Wed};

/// A European zone in 2025 and 2026, `hours` east of Greenwich in winter.
fn europe(name: &str, hours: i32) -> Arc<Zone> {
    let winter = hours * 3600;
    let changes = [
        ("2025-03-30", winter + 3600),
        ("2025-10-26", winter),
        ("2026-03-29", winter + 3600),
        ("2026-10-25", winter),
    ];
    let transitions = changes
        .map(|(date, offset)| Transition { at: Timestamp(day(date).at_minute(60).0), offset });
    Arc::new(Zone::new(name, winter, transitions.to_vec()))
}

fn oslo() -> Arc<Zone> {
    europe("Europe/Oslo", 1)
}

fn day(text: &str) -> Day {
    let mut parts = text.split('-').map(|part| part.parse::<i32>().unwrap());
    let (year, month, date) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    Day::new(year, u8::try_from(month).unwrap(), u8::try_from(date).unwrap()).unwrap()
}

fn clock(text: &str) -> u16 {
    let (hour, minute) = text.split_once(':').unwrap();
    hour.parse::<u16>().unwrap() * 60 + minute.parse::<u16>().unwrap()
}

/// `2026-03-29T01:00Z`.
fn utc(text: &str) -> Timestamp {
    let (date, time) = text.trim_end_matches('Z').split_once('T').unwrap();
    Timestamp(day(date).at_minute(clock(time)).0)
}

fn entry(days: impl IntoIterator<Item = Weekday>, start: &str, end: &str) -> Weekly {
    Weekly { days: Weekdays::of(days), start: clock(start), end: clock(end) }
}

fn window(effect: Effect, zone: Arc<Zone>, entries: Vec<Weekly>) -> Window {
    Window { effect, zone, schedule: Schedule::Weekly(entries) }
}

fn show(intervals: &[Interval]) -> String {
    let one = |interval: &Interval| {
        let short = |moment: Timestamp| moment.to_string().replace(":00Z", "Z");
        let minutes = interval.length().as_secs() / 60;
        format!("{} .. {} ({minutes} min)", short(interval.from), short(interval.until))
    };
    match intervals {
        [] => "empty".to_owned(),
        some => some.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn summer_time_begins_and_ends_as_published() {
    use Effect::{Allow, Deny};
    for (effect, date, time, expected) in [
        (Allow, "2026-03-29", "01:30-02:30", "2026-03-29T00:30Z .. 2026-03-29T01:00Z (30 min)"),
        (Allow, "2026-03-29", "02:15-02:45", "empty"),
        (Allow, "2026-03-29", "02:30-04:00", "2026-03-29T01:00Z .. 2026-03-29T02:00Z (60 min)"),
        (Allow, "2026-03-29", "23:00-03:00", "2026-03-28T22:00Z .. 2026-03-29T01:00Z (180 min)"),
        (Allow, "2026-10-25", "01:30-02:30", "2026-10-24T23:30Z .. 2026-10-25T00:30Z (60 min)"),
        (Allow, "2026-10-25", "02:15-02:45", "empty"),
        (Allow, "2026-10-25", "02:30-04:00", "2026-10-25T01:30Z .. 2026-10-25T03:00Z (90 min)"),
        (Allow, "2026-10-25", "23:00-03:00", "2026-10-24T21:00Z .. 2026-10-25T02:00Z (300 min)"),
        (Deny, "2026-03-29", "01:30-02:30", "2026-03-29T00:30Z .. 2026-03-29T01:00Z (30 min)"),
        (Deny, "2026-03-29", "02:15-02:45", "empty"),
        (Deny, "2026-03-29", "02:30-04:00", "2026-03-29T01:00Z .. 2026-03-29T02:00Z (60 min)"),
        (Deny, "2026-03-29", "23:00-03:00", "2026-03-28T22:00Z .. 2026-03-29T01:00Z (180 min)"),
        (Deny, "2026-10-25", "01:30-02:30", "2026-10-24T23:30Z .. 2026-10-25T01:30Z (120 min)"),
        (Deny, "2026-10-25", "02:15-02:45", "2026-10-25T00:15Z .. 2026-10-25T01:45Z (90 min)"),
        (Deny, "2026-10-25", "02:30-04:00", "2026-10-25T00:30Z .. 2026-10-25T03:00Z (150 min)"),
        (Deny, "2026-10-25", "23:00-03:00", "2026-10-24T21:00Z .. 2026-10-25T02:00Z (300 min)"),
    ] {
        let (start, end) = time.split_once('-').unwrap();
        let weekday = if start == "23:00" { Sat } else { Sun };
        let window = window(effect, oslo(), vec![entry([weekday], start, end)]);
        let noon = Timestamp(day(date).at_minute(720).0);
        let found = window.intervals(Interval::new(Timestamp(noon.0 - 86_400), noon));
        assert_eq!(show(&found), expected, "{effect:?} {date} {time}");
    }
}

fn closed_hours(hours: Hours, zone: Arc<Zone>) -> Window {
    let rule = StoreHours {
        state: HoursState::Closed,
        after_close: Duration::from_secs(30 * 60),
        before_open: Duration::from_secs(90 * 60),
        when_always_open: Some(entry([Tue, Wed, Thu], "03:00", "05:00")),
        hours: Arc::new(hours),
    };
    Window { effect: Effect::Allow, zone, schedule: Schedule::StoreHours(rule) }
}

fn local_days(zone: &Zone, first: &str, last: &str) -> Interval {
    Interval::new(
        zone.moment(day(first).at_minute(0), Bias::Earlier),
        zone.moment(day(last).at_minute(1440), Bias::Later),
    )
}

const WORKDAYS: [Weekday; 5] = [Mon, Tue, Wed, Thu, Fri];

#[test]
fn closed_hours_are_as_published() {
    let large = Hours {
        weekly: vec![entry(WORKDAYS, "10:00", "20:00"), entry([Sat], "10:00", "18:00")],
        exceptions: BTreeMap::from([
            (day("2026-12-24"), OpenFor::Hours { open: clock("10:00"), close: clock("13:00") }),
            (day("2026-12-25"), OpenFor::Closed),
        ]),
    };
    let small = Hours {
        weekly: vec![entry(WORKDAYS.into_iter().chain([Sat]), "10:00", "18:00")],
        ..Hours::default()
    };
    let always = Hours { weekly: vec![entry(Weekday::ALL, "00:00", "24:00")], ..Hours::default() };
    for (hours, zone, expected) in [
        (
            &large,
            oslo(),
            "2026-11-15T23:00Z .. 2026-11-16T07:30Z (510 min); \
             2026-11-16T19:30Z .. 2026-11-17T07:30Z (720 min); \
             2026-11-17T19:30Z .. 2026-11-18T07:30Z (720 min); \
             2026-11-18T19:30Z .. 2026-11-18T23:00Z (210 min)",
        ),
        (
            &small,
            oslo(),
            "2026-11-15T23:00Z .. 2026-11-16T07:30Z (510 min); \
             2026-11-16T17:30Z .. 2026-11-17T07:30Z (840 min); \
             2026-11-17T17:30Z .. 2026-11-18T07:30Z (840 min); \
             2026-11-18T17:30Z .. 2026-11-18T23:00Z (330 min)",
        ),
        (
            &always,
            europe("Europe/Helsinki", 2),
            "2026-11-17T01:00Z .. 2026-11-17T03:00Z (120 min); \
             2026-11-18T01:00Z .. 2026-11-18T03:00Z (120 min)",
        ),
    ] {
        let within = local_days(&zone, "2026-11-16", "2026-11-18");
        let found = closed_hours(hours.clone(), zone).intervals(within);
        assert_eq!(show(&found), expected);
    }
    let christmas = local_days(&oslo(), "2026-12-24", "2026-12-25");
    assert_eq!(
        show(&closed_hours(large, oslo()).intervals(christmas)),
        "2026-12-23T23:00Z .. 2026-12-24T07:30Z (510 min); \
         2026-12-24T12:30Z .. 2026-12-25T23:00Z (2070 min)"
    );
}

#[test]
fn a_freeze_begins_at_each_stores_own_midnight() {
    let new_york = Zone::new("America/New_York", -18_000, Vec::new());
    for (zone, from, until) in [
        (oslo(), "2026-11-19T23:00Z", "2026-12-01T05:00Z"),
        (europe("Europe/Helsinki", 2), "2026-11-19T22:00Z", "2026-12-01T04:00Z"),
        (Arc::new(new_york), "2026-11-20T05:00Z", "2026-12-01T11:00Z"),
    ] {
        let range = CivilRange {
            from: day("2026-11-20").at_minute(0),
            until: day("2026-12-01").at_minute(360),
            zone,
        };
        assert_eq!(range.interval(), Interval::new(utc(from), utc(until)));
    }
    // Until a time that comes twice: until the second one.
    let night = CivilRange {
        from: day("2026-10-25").at_minute(150),
        until: day("2026-10-25").at_minute(150),
        zone: oslo(),
    };
    assert_eq!(show(&[night.interval()]), "2026-10-25T00:30Z .. 2026-10-25T01:30Z (60 min)");
}

#[test]
fn a_store_that_hardly_closes_says_when_it_counts_as_closed() {
    let hours = |entries: Vec<Weekly>| Hours { weekly: entries, ..Hours::default() };
    let longest = |entries: Vec<Weekly>| hours(entries).longest_closing().as_secs() / 60;
    assert_eq!(longest(vec![entry(Weekday::ALL, "00:00", "24:00")]), 0);
    assert_eq!(longest(vec![entry(Weekday::ALL, "06:00", "05:00")]), 60);
    assert_eq!(longest(vec![entry([Sun], "12:00", "11:00")]), 6 * 1440 + 60);
    assert_eq!(longest(vec![entry(WORKDAYS, "10:00", "20:00")]), 2 * 1440 + 840);
    assert_eq!(longest(Vec::new()), 7 * 1440);
    // Sunday's night ends on Monday, inside of Monday's own hours.
    let night = vec![entry([Sun], "22:00", "12:00"), entry([Mon], "10:00", "11:00")];
    assert_eq!(longest(night), 6 * 1440 + 600);
    let narrow = closed_hours(hours(vec![entry(Weekday::ALL, "04:00", "03:00")]), oslo());
    let found = narrow.intervals(local_days(&oslo(), "2026-11-16", "2026-11-17"));
    assert_eq!(show(&found), "2026-11-17T02:00Z .. 2026-11-17T04:00Z (120 min)");
}

#[test]
fn open_hours_are_the_rest_of_closed_ones() {
    let hours = Hours { weekly: vec![entry(WORKDAYS, "10:00", "20:00")], ..Hours::default() };
    let Schedule::StoreHours(closed) = closed_hours(hours, oslo()).schedule else { panic!() };
    let rule = StoreHours { state: HoursState::Open, ..closed };
    let open = Window { effect: Effect::Deny, zone: oslo(), schedule: Schedule::StoreHours(rule) };
    let found = open.intervals(local_days(&oslo(), "2026-11-16", "2026-11-16"));
    assert_eq!(show(&found), "2026-11-16T07:30Z .. 2026-11-16T19:30Z (720 min)");
}

#[test]
fn the_day_of_an_entry_is_the_one_it_starts_on() {
    let friday = window(Effect::Deny, oslo(), vec![entry([Fri, Sat], "16:00", "09:00")]);
    assert!(friday.active_at(utc("2026-11-27T14:59Z")).is_none());
    assert!(friday.active_at(utc("2026-11-27T15:00Z")).is_some());
    assert!(friday.active_at(utc("2026-11-28T07:59Z")).is_some(), "Saturday morning");
    assert!(friday.active_at(utc("2026-11-28T08:00Z")).is_none());
    assert!(friday.active_at(utc("2026-11-27T07:00Z")).is_none(), "Friday morning is Thursday's");
    assert_eq!(friday.next_inactive(utc("2026-11-27T15:00Z")), Some(utc("2026-11-28T08:00Z")));
    assert_eq!(friday.next_active(utc("2026-11-25T00:00Z")), Some(utc("2026-11-27T15:00Z")));
    let always = window(Effect::Deny, oslo(), vec![entry(Weekday::ALL, "00:00", "24:00")]);
    assert_eq!(always.next_inactive(utc("2026-11-25T00:00Z")), None);
}

#[test]
fn cron_runs_by_the_wall_and_lasts_by_the_clock() {
    let nightly = Cron {
        minutes: 1 << 30,
        hours: 1 << 2,
        days_of_month: 0xffff_fffe,
        months: 0x1ffe,
        days_of_week: 0x7f,
        by_day_of_month: false,
        by_day_of_week: false,
    };
    let two_hours = Duration::from_secs(7200);
    let at = |effect, cron, date: &str| {
        let window = Window { effect, zone: oslo(), schedule: Schedule::Cron(cron, two_hours) };
        show(&window.intervals(local_days(&oslo(), date, date)))
    };
    // 02:30 does not exist on this day, and comes twice on the other.
    let spring = "2026-03-29T01:00Z .. 2026-03-29T03:00Z (120 min)";
    assert_eq!(at(Effect::Allow, nightly, "2026-03-29"), spring);
    let autumn = "2026-10-25T01:30Z .. 2026-10-25T03:30Z (120 min)";
    assert_eq!(at(Effect::Allow, nightly, "2026-10-25"), autumn);
    let grown = "2026-10-25T00:30Z .. 2026-10-25T03:30Z (180 min)";
    assert_eq!(at(Effect::Deny, nightly, "2026-10-25"), grown);
    // The 13th or a Friday.
    let either = Cron {
        days_of_month: 1 << 13,
        days_of_week: 1 << 5,
        by_day_of_month: true,
        by_day_of_week: true,
        ..nightly
    };
    assert_ne!(at(Effect::Allow, either, "2026-11-13"), "empty");
    assert_ne!(at(Effect::Allow, either, "2026-11-20"), "empty");
    assert_eq!(at(Effect::Allow, either, "2026-11-14"), "empty");
}

fn any_entry() -> impl Strategy<Value = Weekly> {
    (1u8..128, 0u16..1440, 0u16..=1440).prop_map(|(days, start, end)| Weekly {
        days: Weekdays(days),
        start,
        end,
    })
}

proptest! {
    /// What a wall clock shows and what a window says agree at every moment without a change of
    /// summer time near.
    #[test]
    fn windows_follow_the_wall(
        entries in proptest::collection::vec(any_entry(), 1..4),
        moment in utc("2026-04-02T00:00Z").0..utc("2026-10-20T00:00Z").0,
    ) {
        let zone = oslo();
        let civil = zone.civil(Timestamp(moment));
        let (today, second) = (civil.day(), civil.second_of_day());
        let active = entries.iter().any(|entry| {
            let overnight = entry.end <= entry.start;
            let (start, end) = (i64::from(entry.start) * 60, i64::from(entry.end) * 60);
            let since_today = entry.days.contains(today.weekday())
                && second >= start && (overnight || second < end);
            let since_yesterday =
                entry.days.contains(today.plus(-1).weekday()) && overnight && second < end;
            since_today || since_yesterday
        });
        for effect in [Effect::Allow, Effect::Deny] {
            let window = window(effect, zone.clone(), entries.clone());
            prop_assert_eq!(window.active_at(Timestamp(moment)).is_some(), active);
        }
    }

    /// Where there is doubt, times of change are inside of times of rest; and the parts of a
    /// stretch of time are the same however it is cut.
    #[test]
    fn doubt_is_decided_for_the_till(
        entries in proptest::collection::vec(any_entry(), 1..4),
        start in utc("2026-03-20T00:00Z").0..utc("2026-11-05T00:00Z").0,
        length in 3600i64..500_000,
    ) {
        let within = Interval::new(Timestamp(start), Timestamp(start + length));
        let allow = window(Effect::Allow, oslo(), entries.clone()).intervals(within);
        let deny = window(Effect::Deny, oslo(), entries).intervals(within);
        prop_assert!(allow.iter().all(|one| deny.iter().any(|two| one.within(*two) == Some(*one))));
        for list in [&allow, &deny] {
            prop_assert_eq!(&merge(list.clone()), list);
        }
    }

    #[test]
    fn civil_times_come_back(
        moment in utc("2025-01-01T00:00Z").0..utc("2027-01-01T00:00Z").0,
    ) {
        let zone = oslo();
        let civil = zone.civil(Timestamp(moment));
        let (early, late) = (zone.moment(civil, Bias::Earlier), zone.moment(civil, Bias::Later));
        prop_assert!(early.0 == moment || late.0 == moment);
        prop_assert!(late.0 - early.0 == 0 || late.0 - early.0 == 3600);
    }

    /// The next change is a change, and there is none before it.
    #[test]
    fn the_next_change_is_the_next(
        entries in proptest::collection::vec(any_entry(), 1..3),
        now in utc("2026-03-20T00:00Z").0..utc("2026-11-05T00:00Z").0,
    ) {
        let window = window(Effect::Allow, oslo(), entries);
        let now = Timestamp(now);
        if let Some(next) = window.next_active(now) {
            prop_assert!(window.active_at(next).is_some());
            prop_assert!(window.intervals(Interval::new(now, next)).is_empty());
        }
        if let Some(next) = window.next_inactive(now) {
            prop_assert!(window.active_at(next).is_none());
            let whole = Interval::new(now, next);
            let covered = window.intervals(whole);
            prop_assert!(whole.is_empty() || covered == vec![whole]);
        }
    }
}

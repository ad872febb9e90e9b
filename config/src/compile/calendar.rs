//! Opening hours, change windows and freezes, as the core reckons with them.
//!
//! In: the store's hours and the selected documents. Out: rules with the table of their zone.
//! They compile to schedules, never to moments: the digest does not change at midnight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tillgate_core::calendar::{
    CivilRange, Effect, Hours, HoursState, OpenFor, Schedule, StoreHours, Weekdays, Weekly, Window,
    Zone,
};
use tillgate_core::civil::{Day, Weekday};
use tillgate_core::gate::{AppliesTo, Freeze, NamedWindow, RequiredApprovals};

use super::Output;
use super::gate::Of;
use crate::document::{Document, Spot};
use crate::kinds::calendar::{
    AppliesToDoc, EffectDoc, HoursState as StateDoc, ScheduleDoc, StoreHoursDoc, WeeklyDoc,
};
use crate::kinds::rollout::RequiredApprovals as RequiredDoc;
use crate::kinds::store::Day as DayDoc;
use crate::kinds::{ChangeWindowDoc, FreezeDoc, StoreDoc};
use crate::scalar::{DurationText, WindowZone};

/// The most that closing may begin later or end earlier: longer than a day it would mean another
/// day's hours.
const MARGIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// The longest stretch of a cron expression: what lasts longer is a Freeze.
const CRON_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The store's opening hours; those that are wrong have been told by the store's own check.
pub(super) fn hours(store: &StoreDoc) -> Option<Hours> {
    let given = store.spec.hours.as_ref()?;
    let weekly = given.weekly.iter().map(|one| Weekly {
        days: weekdays(&one.days),
        start: one.open.minutes,
        end: one.close.minutes,
    });
    let exceptions = given.exceptions.iter().filter_map(|one| {
        let open = match (one.open, one.close) {
            (Some(open), Some(close)) => {
                OpenFor::Hours { open: open.minutes, close: close.minutes }
            }
            _ => OpenFor::Closed,
        };
        let fit = |number: i8| u8::try_from(number).ok();
        let date = one.date.0;
        let day = Day::new(date.year().into(), fit(date.month())?, fit(date.day())?)?;
        Some((day, open))
    });
    Some(Hours { weekly: weekly.collect(), exceptions: exceptions.collect::<BTreeMap<_, _>>() })
}

fn weekdays(days: &[DayDoc]) -> Weekdays {
    Weekdays::of(days.iter().map(|day| match day {
        DayDoc::Mon => Weekday::Mon,
        DayDoc::Tue => Weekday::Tue,
        DayDoc::Wed => Weekday::Wed,
        DayDoc::Thu => Weekday::Thu,
        DayDoc::Fri => Weekday::Fri,
        DayDoc::Sat => Weekday::Sat,
        DayDoc::Sun => Weekday::Sun,
    }))
}

/// A change window; `None` if it is wrong.
pub(super) fn window(
    document: &Document,
    given: &ChangeWindowDoc,
    of: &Of<'_>,
    out: &mut Output,
) -> Option<NamedWindow> {
    let spec = &given.spec;
    let spot = document.spec();
    let schedule = schedule(&spec.schedule, &spot.key("schedule"), of, out);
    let zone = zone(&spec.time_zone, &spot.key("timeZone"), of, out);
    let effect = match spec.effect {
        EffectDoc::Allow => Effect::Allow,
        EffectDoc::Deny => Effect::Deny,
    };
    let applies_to = applies_to(&spec.applies_to);
    let window = Window { effect, zone: zone?, schedule: schedule? };
    Some(NamedWindow { name: document.name.clone(), applies_to, window })
}

/// A freeze; `None` if it is wrong.
pub(super) fn freeze(
    document: &Document,
    given: &FreezeDoc,
    of: &Of<'_>,
    out: &mut Output,
) -> Option<Freeze> {
    let spec = &given.spec;
    let spot = document.spec();
    if spec.until.0 <= spec.from.0 {
        out.error(spot.key("until").finding(format!(
            "the freeze ends at {}, before it begins: write a later time",
            spec.until.0
        )));
    }
    let overridable = spec.overridable.is_none_or(|flag| flag.0);
    if !overridable && spec.approvals.is_some() {
        out.error(spot.key("approvals").finding(
            "nobody can approve an exception from a freeze with `overridable: false`: remove one \
             of both",
        ));
    }
    let zone = zone(&spec.time_zone, &spot.key("timeZone"), of, out)?;
    Some(Freeze {
        name: document.name.clone(),
        applies_to: applies_to(&spec.applies_to),
        range: CivilRange { from: spec.from.0, until: spec.until.0, zone },
        reason: spec.reason.0.as_str().into(),
        overridable,
        approvals: required(spec.approvals.as_ref(), &spot.key("approvals"), out),
    })
}

/// Whose signatures are needed.
pub(super) fn required(
    given: Option<&RequiredDoc>,
    spot: &Spot<'_>,
    out: &mut Output,
) -> Option<RequiredApprovals> {
    let given = given?;
    for (index, role) in given.roles.iter().enumerate() {
        if given.roles[..index].contains(role) {
            let message = format!("the role `{}` is there twice: remove one", role.0);
            out.error(spot.key("roles").index(index).finding(message));
        }
    }
    Some(RequiredApprovals {
        required: given.required.fit(),
        roles: given.roles.iter().map(|role| role.0.as_str().into()).collect(),
    })
}

pub(super) fn applies_to(given: &AppliesToDoc) -> AppliesTo {
    AppliesTo {
        rollouts: given.rollouts.iter().flatten().map(|name| name.0.clone()).collect(),
        images: given.images.iter().flatten().map(|pattern| pattern.0.clone()).collect(),
        routes: given.routes.iter().flatten().map(|name| name.0.clone()).collect(),
        egress_rules: given
            .egress_rules
            .iter()
            .flatten()
            .map(|name| name.0.as_str().into())
            .collect(),
    }
}

fn zone(given: &WindowZone, spot: &Spot<'_>, of: &Of<'_>, out: &mut Output) -> Option<Arc<Zone>> {
    match given {
        // A zone of the store that does not exist has been told there.
        WindowZone::Store => of.zone.clone(),
        WindowZone::Named(name) => match of.zones.find(&name.0) {
            Ok(zone) => Some(zone),
            Err(hint) => {
                out.error(
                    spot.finding(format!("the time zone `{}` does not exist: {hint}", name.0)),
                );
                None
            }
        },
    }
}

fn schedule(
    given: &ScheduleDoc,
    spot: &Spot<'_>,
    of: &Of<'_>,
    out: &mut Output,
) -> Option<Schedule> {
    match (&given.store_hours, &given.weekly, &given.cron) {
        (Some(rule), None, None) => store_hours(rule, &spot.key("storeHours"), of, out),
        (None, Some(entries), None) => Some(Schedule::Weekly(
            entries
                .iter()
                .enumerate()
                .map(|(index, one)| weekly(one, &spot.key("weekly").index(index), out))
                .collect(),
        )),
        (None, None, Some(cron)) => {
            let spot = spot.key("cron").key("duration");
            let duration = cron.duration.0;
            if duration.is_zero() || duration > CRON_MAX {
                out.error(spot.finding(
                    "a window by cron lasts from a second to a week: write such a duration; for \
                     longer times use a Freeze, or `weekly`",
                ));
            }
            Some(Schedule::Cron(cron.expression.0, duration))
        }
        (None, None, None) => {
            out.error(spot.finding(
                "the window has no schedule: write one of `storeHours`, `weekly` and `cron`",
            ));
            None
        }
        _ => {
            out.error(spot.finding(
                "the window has more than one schedule: keep one of `storeHours`, `weekly` and \
                 `cron`, and write another ChangeWindow for the other",
            ));
            None
        }
    }
}

fn weekly(given: &WeeklyDoc, spot: &Spot<'_>, out: &mut Output) -> Weekly {
    if given.start.minutes == 24 * 60 {
        out.error(spot.key("start").finding(
            "a window cannot start at 24:00: write \"00:00\", and the next day in `days`",
        ));
    }
    for (index, day) in given.days.iter().enumerate() {
        if given.days[..index].contains(day) {
            let message = format!("the day {day:?} is there twice: remove one");
            out.error(spot.key("days").index(index).finding(message));
        }
    }
    // A start of 24:00 has been told; what follows must only not go wrong.
    Weekly {
        days: weekdays(&given.days),
        start: given.start.minutes.min(24 * 60 - 1),
        end: given.end.minutes,
    }
}

fn store_hours(
    given: &StoreHoursDoc,
    spot: &Spot<'_>,
    of: &Of<'_>,
    out: &mut Output,
) -> Option<Schedule> {
    let margin =
        |field: &str, given: Option<DurationText>, out: &mut Output| {
            let duration = given.map_or(Duration::ZERO, |text| text.0);
            if duration > MARGIN_MAX {
                out.error(spot.key(field).finding(
                    "more than a day would mean the hours of another day: write 24h or less",
                ));
            }
            duration
        };
    let after_close = margin("afterClose", given.after_close, out);
    let before_open = margin("beforeOpen", given.before_open, out);
    let always = given.when_always_open.as_ref();
    let when_always_open = always.map(|entry| weekly(entry, &spot.key("whenAlwaysOpen"), out));
    let (document, _) = of.store?;
    let Some(hours) = of.hours.clone() else {
        let message = format!(
            "the store `{}` has no opening hours to go by: add `hours` to its Store document, or \
             use `weekly`",
            document.name
        );
        let finding = spot.finding(message);
        out.error(finding.related(document.spec().place(), "is the store"));
        return None;
    };
    let state = match given.state {
        StateDoc::Closed => HoursState::Closed,
        StateDoc::Open => HoursState::Open,
    };
    let rule = StoreHours { state, after_close, before_open, when_always_open, hours };
    if rule.never_closes() && rule.when_always_open.is_none() {
        let message = format!(
            "the store `{}` is never closed for long enough, so the window would never open: say \
             in `whenAlwaysOpen` when it counts as closed",
            document.name
        );
        let hours = document.spec().key("hours").place();
        out.error(spot.finding(message).related(hours, "are its opening hours"));
        return None;
    }
    Some(Schedule::StoreHours(rule))
}

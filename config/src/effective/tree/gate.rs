//! Windows, freezes, rollouts and exceptions as plain data.
//!
//! Names of zones stand for their tables: a new database of zones changes no digest. Signatures
//! are shown, because another signature is another document.

use std::sync::Arc;

use tillgate_core::calendar::{Cron, Effect, Hours, HoursState, OpenFor, Schedule, StoreHours};
use tillgate_core::calendar::{Weekdays, Weekly};
use tillgate_core::gate::{
    AppliesTo, Artifact, Freeze, NamedWindow, Override, Prohibition, Promotion, PullLimits,
    RequiredApprovals, Rollout, Signed, Stages,
};

use super::{Effective, Value, class_name, list, map, named, number, optional, text};
use crate::compile::share_text;
use crate::scalar::{duration_text, size_text};

pub(super) fn of(config: &Effective) -> Value {
    let gate = &config.gate;
    let sections = [
        ("windows", named(&gate.windows, |one| (one.name.to_string(), of_window(one)))),
        ("freezes", named(&gate.freezes, |one| (one.name.to_string(), of_freeze(one)))),
        ("overrides", named(&gate.overrides, |one| (one.name.to_string(), of_override(one)))),
        (
            "prohibitions",
            named(&gate.prohibitions, |one| (one.name.to_string(), of_prohibition(one))),
        ),
        ("rollouts", named(&gate.rollouts, |one| (one.name.to_string(), of_rollout(one, config)))),
        ("policy", optional(gate.policy.as_ref(), of_stages)),
    ];
    let filled = sections
        .into_iter()
        .filter(|(_, value)| !matches!(value, Value::Null) && *value != Value::Map(Vec::new()));
    Value::Map(filled.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn clock(minutes: u16) -> Value {
    text(format!("{:02}:{:02}", minutes / 60, minutes % 60))
}

fn names(names: &[Arc<str>]) -> Value {
    list(names, text)
}

fn days(days: Weekdays) -> Value {
    Value::List(days.iter().map(|day| text(day.name())).collect())
}

fn of_weekly(one: &Weekly) -> Value {
    map([("days", days(one.days)), ("start", clock(one.start)), ("end", clock(one.end))])
}

fn of_applies(one: &AppliesTo) -> Value {
    let lists = [
        ("rollouts", list(&one.rollouts, text)),
        ("images", list(&one.images, text)),
        ("routes", list(&one.routes, text)),
        ("egressRules", list(&one.egress_rules, text)),
    ];
    // Most name rollouts alone.
    let told = |(name, value): &(&str, Value)| {
        matches!(*name, "rollouts" | "images") || *value != Value::List(Vec::new())
    };
    let told = lists.into_iter().filter(told);
    Value::Map(told.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn of_window(one: &NamedWindow) -> Value {
    let effect = match one.window.effect {
        Effect::Allow => "Allow",
        Effect::Deny => "Deny",
    };
    let schedule = match &one.window.schedule {
        Schedule::Weekly(entries) => ("weekly", list(entries, of_weekly)),
        Schedule::StoreHours(rule) => ("storeHours", of_store_hours(rule)),
        Schedule::Cron(cron, duration) => {
            ("cron", map([("sets", of_cron(cron)), ("duration", text(duration_text(*duration)))]))
        }
    };
    map([
        ("effect", text(effect)),
        ("appliesTo", of_applies(&one.applies_to)),
        ("timeZone", text(&one.window.zone.name)),
        schedule,
    ])
}

/// As sets, so that `0-59` and `*` are the same.
fn of_cron(cron: &Cron) -> Value {
    let either = cron.by_day_of_month && cron.by_day_of_week;
    text(format!(
        "{:x} {:x} {:x} {:x} {:x}{}",
        cron.minutes,
        cron.hours,
        cron.days_of_month,
        cron.months,
        cron.days_of_week,
        if either { " either" } else { "" }
    ))
}

fn of_store_hours(rule: &StoreHours) -> Value {
    let state = match rule.state {
        HoursState::Closed => "Closed",
        HoursState::Open => "Open",
    };
    map([
        ("state", text(state)),
        ("afterClose", text(duration_text(rule.after_close))),
        ("beforeOpen", text(duration_text(rule.before_open))),
        ("whenAlwaysOpen", optional(rule.when_always_open.as_ref(), of_weekly)),
        ("hours", of_hours(&rule.hours)),
    ])
}

fn of_hours(hours: &Hours) -> Value {
    let exceptions = hours.exceptions.iter().map(|(day, open)| {
        let value = match open {
            OpenFor::Closed => text("closed"),
            OpenFor::Hours { open, close } => {
                map([("open", clock(*open)), ("close", clock(*close))])
            }
        };
        (day.to_string(), value)
    });
    map([
        ("weekly", list(&hours.weekly, of_weekly)),
        ("exceptions", Value::Map(exceptions.collect())),
    ])
}

fn of_required(one: &RequiredApprovals) -> Value {
    map([("required", number(one.required)), ("roles", names(&one.roles))])
}

fn of_freeze(one: &Freeze) -> Value {
    map([
        ("appliesTo", of_applies(&one.applies_to)),
        ("from", text(one.range.from)),
        ("until", text(one.range.until)),
        ("timeZone", text(&one.range.zone.name)),
        ("reason", text(&one.reason)),
        ("overridable", Value::Flag(one.overridable)),
        ("approvals", optional(one.approvals.as_ref(), of_required)),
    ])
}

fn of_signed(one: &Signed) -> Value {
    list(&one.approvals, |approval| {
        map([
            ("role", text(&approval.role)),
            ("keyId", text(&approval.key_id)),
            ("signature", text(&approval.signature)),
        ])
    })
}

fn of_override(one: &Override) -> Value {
    map([
        ("appliesTo", of_applies(&one.applies_to)),
        ("freezes", names(&one.freezes)),
        ("windows", names(&one.windows)),
        ("validFrom", text(one.valid.from)),
        ("expiresAt", text(one.valid.until)),
        ("reason", text(&one.reason)),
        ("ticket", text(&one.ticket)),
        ("approvals", of_signed(&one.signed)),
    ])
}

fn of_artifact(one: &Artifact) -> Value {
    map([("registry", text(&one.registry)), ("repositories", list(&one.repositories, text))])
}

fn of_prohibition(one: &Prohibition) -> Value {
    map([("artifacts", list(&one.artifacts, of_artifact)), ("reason", text(&one.reason))])
}

fn of_rollout(one: &Rollout, config: &Effective) -> Value {
    let images =
        one.images.iter().map(|(repository, digest)| (repository.to_string(), text(digest)));
    map([
        ("artifacts", list(&one.artifacts, of_artifact)),
        ("images", Value::Map(images.collect())),
        ("rings", of_stages(&one.stages)),
        ("windows", optional(one.windows.as_ref(), |windows| names(windows))),
        ("previousReleases", number(one.previous_releases)),
        ("pulls", of_pulls(&one.pulls, config)),
    ])
}

fn of_pulls(one: &PullLimits, config: &Effective) -> Value {
    let share = |share: Option<_>| optional(share, |share| text(share_text(share)));
    let busy = optional(one.pause_while.as_ref(), |busy| {
        map([
            ("trafficClass", class_name(Some(busy.class), config)),
            ("requestsPerSecond", optional(busy.requests_per_second, number)),
            ("addedLatency", optional(busy.added_latency, |time| text(duration_text(time)))),
        ])
    });
    map([
        ("trafficClass", class_name(Some(one.class), config)),
        ("rate", map([("up", share(one.rate.up)), ("down", share(one.rate.down))])),
        ("concurrentPulls", optional(one.concurrent, number)),
        ("meteredBytesPerDay", optional(one.metered_bytes_per_day, |bytes| text(size_text(bytes)))),
        ("pauseOnWindowClose", Value::Flag(one.pause_on_window_close)),
        ("throttle", optional(one.throttle, text)),
        ("retryAfter", text(duration_text(one.retry_after))),
        ("pauseWhile", busy),
        ("prefetch", Value::Flag(one.prefetch)),
    ])
}

fn of_stages(one: &Stages) -> Value {
    let rings = one.rings.iter().map(|ring| {
        let value = map([
            ("bake", optional(ring.bake, |time| text(duration_text(time)))),
            ("approvals", optional(ring.approvals.as_ref(), of_required)),
        ]);
        (ring.name.to_string(), value)
    });
    let mine = optional(one.mine, |mine| {
        let name = one.rings.get(mine.index).map_or(Value::Null, |ring| text(&ring.name));
        map([
            ("ring", name),
            ("ignoreWindows", Value::Flag(mine.ignore_windows)),
            ("delay", text(duration_text(mine.delay))),
        ])
    });
    let through = one.rings.get(one.released_through).map(|ring| text(&ring.name));
    let promotion = |one: &Promotion, stages: &Stages| {
        let through = stages.rings.get(one.through).map_or(Value::Null, |ring| text(&ring.name));
        map([("through", through), ("at", text(one.at)), ("approvals", of_signed(&one.signed))])
    };
    map([
        ("release", text(&one.release)),
        ("order", Value::Map(rings.collect())),
        ("mine", mine),
        ("releasedThrough", through.unwrap_or(Value::Null)),
        ("releasedAt", optional(one.released_at, text)),
        (
            "promotions",
            named(&one.promotions, |each| (each.name.to_string(), promotion(each, one))),
        ),
    ])
}

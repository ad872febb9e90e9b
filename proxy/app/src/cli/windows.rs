//! `tillgate windows`: when a store may change.
//!
//! Each window and freeze with its times by the store's own clocks and in UTC, and for each
//! rollout how it stands. The core's calendar answers, the same that the gateway asks. Signatures
//! are taken for right here: whoever reads a policy has no keys.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_config::scalar::{Instant, Text as _};
use tillgate_config::zones::Zones;
use tillgate_core::calendar::{Effect, Zone};
use tillgate_core::civil::{Interval, Timestamp};
use tillgate_core::gate::{Clock, Gate, Opening, Passage, StoreState};
use tillgate_net::clock;

use crate::doors;

use super::fleet;
use super::policy::{Answer, OK, Output, USAGE};
use crate::wall::timestamp;

/// A week shows every weekly window once.
const SHOWN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The longest that can be asked for.
const SHOWN_MAX: Duration = Duration::from_secs(400 * 24 * 3600);

/// What is asked of it.
pub(crate) struct Times<'a> {
    pub(crate) from: Option<&'a str>,
    pub(crate) until: Option<&'a str>,
    pub(crate) rollout: Option<&'a str>,
}

pub(super) fn windows(
    path: &Path,
    store: Option<&str>,
    times: &Times<'_>,
    output: Output,
) -> Answer {
    let usage = |message: String| Answer {
        stdout: String::new(),
        stderr: format!("error: {message}\n"),
        code: USAGE,
    };
    // Whoever reads a policy knows which time is meant.
    let at = (Clock::Synced, now());
    if let Err(message) = within(times, at.1) {
        return usage(message);
    }
    let effective = match fleet::one(path, store) {
        Ok((_, checked)) => checked.effective,
        Err(answer) => return answer,
    };
    let Some(effective) = effective else { return usage("there is no config".to_owned()) };
    let gate = effective.gate.clone().verified(|_, _, _| true);
    let shown = match Shown::new(&effective, gate, times, at) {
        Ok(shown) => shown,
        Err(message) => return usage(message),
    };
    let stdout = match output {
        Output::Text => shown.text(),
        Output::Json => format!("{:#}\n", shown.json()),
    };
    Answer { stdout, stderr: String::new(), code: OK }
}

/// The same as JSON for a running gateway, by the approvals that count there and by its clock.
pub(crate) fn json(
    effective: &Effective,
    times: &Times<'_>,
    at: (Clock, Timestamp),
) -> Result<Value, String> {
    Ok(Shown::new(effective, effective.gate.clone(), times, at)?.json())
}

/// The same, a week from now on.
pub(crate) fn of_gateway(effective: &Effective, at: (Clock, Timestamp)) -> Option<Value> {
    json(effective, &Times { from: None, until: None, rollout: None }, at).ok()
}

fn within(times: &Times<'_>, now: Timestamp) -> Result<Interval, String> {
    let read = |text: Option<&str>| text.map(Instant::read).transpose();
    let from = read(times.from)?.map_or(now, |from| from.0);
    let until = read(times.until)?.map_or_else(|| from.plus(SHOWN), |until| until.0);
    let within = Interval::new(from, until);
    if within.is_empty() {
        return Err("`until` is not later than `from`: swap them".to_owned());
    }
    if within.length() > SHOWN_MAX {
        return Err("more than 400 days are asked for: ask for less".to_owned());
    }
    Ok(within)
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    timestamp(clock::wall_seconds())
}

struct Shown<'a> {
    effective: &'a Effective,
    gate: Gate,
    zone: Arc<Zone>,
    /// At the beginning of what is asked for; another time than now is known for certain.
    clock: Clock,
    within: Interval,
    rollout: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn new(
        effective: &'a Effective,
        gate: Gate,
        times: &Times<'a>,
        (clock, now): (Clock, Timestamp),
    ) -> Result<Self, String> {
        let within = within(times, now)?;
        let clock = times.from.map_or(clock, |_| Clock::Synced);
        let zone = Zones::default().find(&effective.time_zone)?;
        if let Some(name) = times.rollout
            && !gate.rollouts.iter().any(|rollout| *rollout.name == *name)
        {
            let names = gate.rollouts.iter().map(|rollout| &*rollout.name);
            let names: Vec<&str> = names.collect();
            let hint = tillgate_config::suggest::hint(name, names);
            return Err(format!("no rollout is called `{name}`: {hint}"));
        }
        Ok(Self { effective, gate, zone, clock, within, rollout: times.rollout })
    }

    /// `Fri 2026-11-27 16:00`, by the store's clocks.
    fn local(&self, moment: Timestamp) -> String {
        let civil = self.zone.civil(moment);
        let minute = civil.second_of_day() / 60;
        let day = civil.day();
        format!("{} {day} {:02}:{:02}", day.weekday().name(), minute / 60, minute % 60)
    }

    fn line(&self, interval: &Interval) -> String {
        format!(
            "  {} .. {}   ({} .. {})\n",
            self.local(interval.from),
            self.local(interval.until),
            interval.from,
            interval.until
        )
    }

    fn rollouts(&self) -> Vec<(String, Opening<'_>, Vec<Interval>)> {
        let wanted = |name: &str| self.rollout.is_none_or(|wanted| wanted == name);
        let rollouts = self.gate.rollouts.iter().filter(|rollout| wanted(&rollout.name));
        let all = rollouts.map(|rollout| {
            let (store, from) = (StoreState::Running, self.within.from);
            let opening = self.gate.of_rollout(rollout, store, self.clock, from);
            let open = self.gate.open_times(rollout, self.within);
            (format!("Rollout/{}", rollout.name), opening, open)
        });
        all.collect()
    }

    /// Rules of routes and of the egress policy that windows or freezes name.
    fn rules(&self) -> Vec<(Passage<'_>, Opening<'_>, Vec<Interval>)> {
        if self.rollout.is_some() {
            return Vec::new();
        }
        let one = |passage| {
            let opening = self.gate.of_passage(passage, self.clock, self.within.from);
            (passage, opening, self.gate.open_times_of(passage, self.within))
        };
        doors::guarded(self.effective).map(one).collect()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} ({}), {} to {}\n",
            self.effective.store,
            self.zone.name,
            self.local(self.within.from),
            self.local(self.within.until)
        );
        for entry in self.gate.calendar(self.within) {
            text.push_str(&format!("\n{} {}\n", entry.document, effect(entry.effect)));
            if entry.intervals.is_empty() {
                text.push_str("  never in this time\n");
            }
            text.extend(entry.intervals.iter().map(|interval| self.line(interval)));
        }
        for (name, opening, open) in self.rollouts() {
            let ring = opening.ring.unwrap_or("none");
            text.push_str(&format!("\n{name}, ring {ring}: {}\n", self.stands(&opening)));
            if !open.is_empty() {
                text.push_str("  windows and freezes leave free (the ring is not counted):\n");
            }
            text.extend(open.iter().map(|interval| self.line(interval)));
        }
        for (passage, opening, open) in self.rules() {
            text.push_str(&format!("\n{passage}: {}\n", self.stands(&opening)));
            text.extend(open.iter().map(|interval| self.line(interval)));
        }
        if self.gate.is_empty() {
            text.push_str("no windows, freezes or rollouts: nothing holds a change\n");
        }
        text
    }

    fn stands(&self, opening: &Opening<'_>) -> String {
        if opening.held_by.is_empty() {
            return "open".to_owned();
        }
        let by: Vec<String> = opening.held_by.iter().map(ToString::to_string).collect();
        let next = opening.next_open.map_or_else(
            || "nothing says when it opens".to_owned(),
            |next| format!("opens {}", self.local(next)),
        );
        format!("held by {}; {next}", by.join(", "))
    }

    fn json(&self) -> Value {
        let show = |interval: &Interval| {
            let (from, until) = (interval.from.to_string(), interval.until.to_string());
            json!({"from": from, "until": until})
        };
        let intervals = |list: &[Interval]| list.iter().map(show).collect::<Vec<_>>();
        let entries: Vec<Value> = self
            .gate
            .calendar(self.within)
            .iter()
            .map(|entry| {
                json!({
                    "document": entry.document,
                    "effect": effect(entry.effect),
                    "intervals": intervals(&entry.intervals),
                })
            })
            .collect();
        let rollouts: Vec<Value> = self
            .rollouts()
            .iter()
            .map(|(name, opening, open)| {
                let held: Vec<String> = opening.held_by.iter().map(ToString::to_string).collect();
                json!({
                    "document": name,
                    "ring": opening.ring,
                    "heldBy": held,
                    "nextOpen": opening.next_open.map(|next| next.to_string()),
                    "intervals": intervals(open),
                })
            })
            .collect();
        let rules: Vec<Value> = self
            .rules()
            .iter()
            .map(|(passage, opening, open)| {
                let mut shown = doors::stands(opening);
                shown["rule"] = passage.to_string().into();
                shown["intervals"] = intervals(open).into();
                shown
            })
            .collect();
        json!({
            "store": &*self.effective.store,
            "timeZone": &*self.zone.name,
            "from": self.within.from.to_string(),
            "until": self.within.until.to_string(),
            "windows": entries,
            "rollouts": rollouts,
            "rules": rules,
        })
    }
}

const fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "Allow",
        Effect::Deny => "Deny",
    }
}

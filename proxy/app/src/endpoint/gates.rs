//! What of the calendar goes into the audit log: a gate of a rollout or of a rule that opens or is
//! held, an exception that counts and its end.
//!
//! Gates are looked at every few seconds, and only a change is written: clients that are held ask
//! again and again, and a log of that would say nothing. Who asks for what is counted in metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{Blocker, Clock, Gate, Passage};

use super::Endpoint;
use super::audit::{Action, Record};
use crate::doors;
use crate::gateway::Gateway;

/// Rollouts and rules, and exceptions, that are remembered; a policy has a few.
const REMEMBERED: usize = 256;

/// What was written last.
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// Of each rollout and rule: its release, its gate and what holds it.
    stood: BTreeMap<String, Value>,
    /// Exceptions that count.
    used: BTreeSet<Arc<str>>,
}

impl Endpoint {
    /// Looks at the gates, and writes down what has changed.
    pub(crate) fn watch_gates(&self, gateway: &Gateway) {
        let running = gateway.running();
        let (gate, now) = (&running.effective.gate, gateway.clock.now());
        let mut shown = match gateway.mirror() {
            Some(mirror) => mirror.show(&running)["rollouts"].take(),
            None => Value::Null,
        };
        let mut all = shown.as_array_mut().map(std::mem::take).unwrap_or_default();
        all.extend(doors::guarded(&running.effective).map(|rule| passage(gate, rule, now)));
        let mut records = Vec::new();
        {
            let mut gates = super::lock(&self.gates);
            for one in &all {
                records.extend(gates.turns(one));
                records.extend(gates.uses(one, gate));
            }
            records.extend(gates.ends(gate, now));
        }
        records.into_iter().for_each(|record| self.record(record));
    }
}

/// How a rule stands, in the words of rollouts.
fn passage(gate: &Gate, rule: Passage<'_>, (clock, now): (Clock, Timestamp)) -> Value {
    let opening = gate.of_passage(rule, clock, now);
    let mut shown = doors::stands(&opening);
    let suspended = opening.suspended.iter();
    let one = |(what, by): &(Blocker, &str)| json!({ "document": what.to_string(), "by": by });
    shown["suspended"] = suspended.map(one).collect();
    shown["rule"] = json!(rule.to_string());
    shown
}

impl Gates {
    /// A rollout or a rule opens, or is held by something else.
    fn turns(&mut self, shown: &Value) -> Option<Record> {
        let (name, rule) = (&shown["name"], &shown["rule"]);
        let now = json!([shown["release"], shown["gate"], shown["heldBy"]]);
        let whom = format!("{name} {rule}");
        if self.stood.get(&whom) == Some(&now) {
            return None;
        }
        if self.stood.len() >= REMEMBERED {
            self.stood.clear();
        }
        self.stood.insert(whom, now);
        let is_open = shown["gate"] == "Open";
        let action = if is_open { Action::GateOpen } else { Action::GateHeld };
        let held_by = if is_open { Value::Null } else { shown["heldBy"].clone() };
        Some(record(
            action,
            vec![
                ("rollout", name.clone()),
                ("rule", rule.clone()),
                ("release", shown["release"].clone()),
                ("ring", shown["ring"].clone()),
                ("heldBy", held_by),
            ],
        ))
    }

    /// Exceptions by which this rollout or rule is open.
    fn uses(&mut self, shown: &Value, gate: &Gate) -> Vec<Record> {
        let suspended = shown["suspended"].as_array().into_iter().flatten();
        let mut records = Vec::new();
        for one in suspended {
            let Some(by) = one["by"].as_str() else { continue };
            let name = by.strip_prefix("Override/").unwrap_or(by);
            let Some(found) = gate.overrides.iter().find(|one| *one.name == *name) else {
                continue;
            };
            if self.used.len() >= REMEMBERED || !self.used.insert(Arc::clone(&found.name)) {
                continue;
            }
            records.push(record(
                Action::OverrideUsed,
                vec![
                    ("override", json!(name)),
                    ("rollout", shown["name"].clone()),
                    ("rule", shown["rule"].clone()),
                    ("suspends", one["document"].clone()),
                    ("reason", json!(&*found.reason)),
                    ("ticket", json!(&*found.ticket)),
                ],
            ));
        }
        records
    }

    /// Exceptions that counted and do no longer.
    fn ends(&mut self, gate: &Gate, (clock, now): (Clock, Timestamp)) -> Vec<Record> {
        let counts = |name: &Arc<str>| {
            gate.overrides.iter().any(|one| one.name == *name && one.counts(clock, now))
        };
        let (stay, over): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.used).into_iter().partition(counts);
        self.used = stay;
        let told =
            |name: &Arc<str>| record(Action::OverrideExpired, vec![("override", json!(&**name))]);
        over.iter().map(told).collect()
    }
}

fn record(action: Action, fields: Vec<(&'static str, Value)>) -> Record {
    Record { action, actor: "policy".to_owned(), fields }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::windows;

    fn shown(gate: &str, held_by: &[&str]) -> Value {
        json!({"name": "pos", "release": "1", "ring": "pilot", "gate": gate, "heldBy": held_by})
    }

    #[test]
    fn a_gate_is_written_down_when_it_changes() {
        let mut gates = Gates::default();
        let held = gates.turns(&shown("Held", &["Freeze/a"])).unwrap();
        assert_eq!((held.action, &held.fields[4].1), (Action::GateHeld, &json!(["Freeze/a"])));
        assert_eq!(gates.turns(&shown("Held", &["Freeze/a"])), None);
        assert!(gates.turns(&shown("Held", &["Freeze/b"])).is_some(), "by something else");
        let open = gates.turns(&shown("Open", &[])).unwrap();
        assert_eq!((open.action, &open.fields[4].1), (Action::GateOpen, &Value::Null));
    }

    #[test]
    fn an_exception_is_written_down_when_it_counts_and_when_it_is_over() {
        let now = windows::now();
        let hour = std::time::Duration::from_secs(3600);
        let mut gate = Gate::default();
        gate.overrides.push(tillgate_core::gate::Override {
            name: "hotfix".into(),
            applies_to: tillgate_core::gate::AppliesTo {
                rollouts: vec![],
                images: vec![],
                routes: vec![],
                egress_rules: vec![],
            },
            freezes: vec!["a".into()],
            windows: Vec::new(),
            valid: tillgate_core::civil::Interval { from: now, until: now.plus(hour) },
            reason: "tax".into(),
            ticket: "CHG-1".into(),
            signed: tillgate_core::gate::Signed::default(),
        });
        let mut rollout = shown("Open", &[]);
        rollout["suspended"] = json!([{"document": "Freeze/a", "by": "Override/hotfix"}]);
        let (mut gates, synced) = (Gates::default(), (Clock::Synced, now));
        let used = gates.uses(&rollout, &gate);
        assert_eq!(used[0].action, Action::OverrideUsed);
        assert!(used[0].fields.contains(&("ticket", json!("CHG-1"))), "{used:?}");
        assert!(gates.uses(&rollout, &gate).is_empty() && gates.ends(&gate, synced).is_empty());
        // By a clock that nobody trusts no exception counts.
        let untrusted = (Clock::Untrusted(now), now);
        assert_eq!(gates.ends(&gate, untrusted)[0].action, Action::OverrideExpired);
        assert_eq!(gates.uses(&rollout, &gate).len(), 1, "it counts again");
        // One that ran free for long ends it earlier, by what it may be wrong.
        let late = (Clock::Holdover(2 * hour), now);
        assert_eq!(gates.ends(&gate, late)[0].action, Action::OverrideExpired);
        gates.uses(&rollout, &gate);
        gate.overrides.clear();
        assert_eq!(gates.ends(&gate, synced)[0].action, Action::OverrideExpired);
        assert!(gates.ends(&gate, synced).is_empty());
    }
}

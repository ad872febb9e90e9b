//! Windows and freezes in front of rules: of routes, and of the egress policy.
//!
//! In: the policy's gate, the store's clock. Out: nothing, or what a client is told. Which rules a
//! document names is found once per config, so all others cost one look into a table; the gate is
//! asked at most once a second for each, so that a closed rule costs no more under a flood. Only
//! what begins is asked about: a download or a tunnel goes on past the end of its window.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tillgate_config::defaults;
use tillgate_config::effective::Effective;
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{self, Clock, Gate, Opening, Passage};
use tillgate_core::matching::{EgressRule, Rule, RuleId};
use tillgate_net::error::Failure;
use tillgate_net::metrics::{Label, RolloutMeters};

use crate::gateway::Gateway;
use crate::problem::{Refusal, Wait};
use crate::running::Running;
use crate::wall::StoreClock;

/// See the module. Without a named rule both tables are empty.
pub(crate) struct Doors {
    clock: Arc<StoreClock>,
    meters: RolloutMeters,
    routes: Vec<Option<Door>>,
    egress: Vec<Option<Door>>,
}

/// A rule that something may hold.
struct Door {
    /// As `ServiceRoute/pricing/price-file`.
    name: Label,
    stood: Mutex<Option<Stood>>,
}

/// How it stood in some second.
#[derive(Clone)]
struct Stood {
    at: Timestamp,
    held_by: Arc<[String]>,
    opens: Option<Timestamp>,
}

fn of_route(rule: &Rule) -> Passage<'_> {
    Passage::Route { route: &rule.route, rule: &rule.name }
}

fn of_egress(rule: &EgressRule) -> Passage<'_> {
    Passage::Egress(&rule.name)
}

/// The rules that windows or freezes name, routes first.
pub(crate) fn guarded(effective: &Effective) -> impl Iterator<Item = Passage<'_>> {
    let egress = effective.egress.iter().flat_map(|policy| &policy.rules);
    let all = effective.routes.rules.iter().map(of_route).chain(egress.map(of_egress));
    all.filter(|passage| effective.gate.guards(*passage))
}

/// How a rule of a route stands, as far as a policy says; null if nothing may hold it.
pub(crate) fn explained(effective: &Effective, rule: &Rule, now: Timestamp) -> Value {
    let (gate, passage) = (&effective.gate, of_route(rule));
    if !gate.guards(passage) {
        return Value::Null;
    }
    stands(&gate.of_passage(passage, Clock::Synced, now))
}

/// How something stands: for machines.
pub(crate) fn stands(opening: &Opening<'_>) -> Value {
    let held_by: Vec<String> = opening.held_by.iter().map(ToString::to_string).collect();
    json!({
        "gate": if held_by.is_empty() { "Open" } else { "Held" },
        "nextOpen": opening.next_open.filter(|_| !held_by.is_empty()).map(|at| at.to_string()),
        "heldBy": held_by,
    })
}

impl Doors {
    /// Those of a config.
    pub(crate) fn new(
        effective: &Effective,
        clock: Arc<StoreClock>,
        meters: RolloutMeters,
    ) -> Self {
        let door = |passage: Passage<'_>| {
            let name = || Label::from(passage.to_string());
            let stood = Mutex::default();
            effective.gate.guards(passage).then(|| Door { name: name(), stood })
        };
        let routes = effective.routes.rules.iter().map(|rule| door(of_route(rule)));
        let egress = effective.egress.iter().flat_map(|policy| &policy.rules);
        let egress = egress.map(|rule| door(of_egress(rule)));
        Self { clock, meters, routes: filled(routes.collect()), egress: filled(egress.collect()) }
    }

    /// Whether a request may pass a rule of a route now.
    ///
    /// # Errors
    /// What holds it.
    pub(crate) fn pass_route(&self, effective: &Effective, id: RuleId) -> Result<(), Refusal> {
        let Some(Some(door)) = self.routes.get(usize::from(id.0)) else { return Ok(()) };
        self.pass(door, &effective.gate, of_route(effective.routes.rule(id)))
    }

    /// The same for a rule of the egress policy; without a rule nothing holds it.
    ///
    /// # Errors
    /// What holds it.
    pub(crate) fn pass_egress(
        &self,
        effective: &Effective,
        rule: Option<usize>,
    ) -> Result<(), Refusal> {
        let Some(index) = rule else { return Ok(()) };
        let Some(Some(door)) = self.egress.get(index) else { return Ok(()) };
        let rule = effective.egress.as_ref().and_then(|policy| policy.rules.get(index));
        rule.map_or(Ok(()), |rule| self.pass(door, &effective.gate, of_egress(rule)))
    }

    fn pass(&self, door: &Door, gate: &Gate, passage: Passage<'_>) -> Result<(), Refusal> {
        let stood = self.look(door, gate, passage);
        if stood.held_by.is_empty() {
            return Ok(());
        }
        for document in &*stood.held_by {
            self.meters.rule_held(&door.name, document);
        }
        let opens = stood.opens.map(|at| at.to_string());
        let by = stood.held_by.join(", ");
        let detail = match &opens {
            Some(at) => format!("{} is held by {by}; it opens at {at}", door.name),
            None => format!("{} is held by {by}; nothing says when it opens", door.name),
        };
        let after =
            gate::retry_after(defaults::RETRY_AFTER, stood.opens, stood.at, fastrand::u32(..));
        let wait = Wait { after, held_by: Arc::clone(&stood.held_by), opens };
        Err(Refusal::new(Failure::ChangeHeld, detail).until(wait))
    }

    fn look(&self, door: &Door, gate: &Gate, passage: Passage<'_>) -> Stood {
        let (clock, now) = self.clock.now();
        let mut stood = door.stood.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stood) = stood.as_ref().filter(|stood| stood.at == now) {
            return stood.clone();
        }
        let opening = gate.of_passage(passage, clock, now);
        let held_by = opening.held_by.iter().map(ToString::to_string).collect();
        stood.insert(Stood { at: now, held_by, opens: opening.next_open }).clone()
    }

    /// Puts how all of them stand, windows, freezes, overrides and the clock into the scrape; to be
    /// called every second or so.
    fn show(&self, effective: &Effective) {
        self.clock.look();
        let (clock, now) = self.clock.now();
        for (document, is_active) in effective.gate.active(clock, now) {
            self.meters.document(&document, is_active);
        }
        let rules = effective.routes.rules.iter().map(of_route);
        let egress = effective.egress.iter().flat_map(|policy| &policy.rules).map(of_egress);
        let doors = self.routes.iter().zip(rules).chain(self.egress.iter().zip(egress));
        for (door, passage) in doors {
            let Some(door) = door else { continue };
            let stood = self.look(door, &effective.gate, passage);
            self.meters.rule(&door.name, stood.held_by.is_empty());
        }
    }
}

impl Running {
    /// It is in effect: what the config before had to show is gone.
    pub(crate) fn clear_calendar(&self) {
        self.doors.meters.clear_calendar();
    }
}

impl Gateway {
    /// See [`Doors::show`].
    pub(crate) fn show_calendar(&self) {
        loop {
            let running = self.running();
            running.doors.show(&running.effective);
            if Arc::ptr_eq(&running, &self.running()) {
                return;
            }
            // Another was put in its place meanwhile: this one's documents would stay for ever.
            running.clear_calendar();
        }
    }
}

/// Nothing at all where no rule is named.
fn filled(doors: Vec<Option<Door>>) -> Vec<Option<Door>> {
    if doors.iter().all(Option::is_none) { Vec::new() } else { doors }
}

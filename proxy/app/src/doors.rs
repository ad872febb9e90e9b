//! Windows and freezes in front of rules: of routes, and of the egress policy.
//!
//! In: the policy's gate, the store's clock. Out: nothing, or what a client is told. Which rules a
//! document names is found once per config, so all others cost one look into a table. The gate is
//! asked beside the data path, twice a second: a request reads the last word, so that the search
//! for the next opening delays nobody. Only what begins is asked about: a download or a tunnel goes
//! on past the end of its window.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tillgate_config::defaults;
use tillgate_config::effective::Effective;
use tillgate_core::calendar::Effect;
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{self, Clock, Dated, Gate, Opening, Passage};
use tillgate_core::matching::{EgressRule, Rule, RuleId};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::metrics::{Label, RolloutMeters};

use crate::gateway::Gateway;
use crate::problem::{Refusal, Wait};
use crate::running::Running;
use crate::wall::{StoreClock, timestamp};

/// So that what opens does so within a second, also where a timer is late.
const CALENDAR_EVERY: Duration = Duration::from_millis(500);

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
    stood: ArcSwap<Stood>,
}

/// How it stood when the gate was asked.
struct Stood {
    clock: Clock,
    at: Timestamp,
    /// It stands so until then.
    until: Timestamp,
    opens: Option<Timestamp>,
    /// `None` = it is open.
    held: Option<Held>,
}

/// What a request is told, and where it is counted: found when the gate is asked, not for each.
struct Held {
    by: Arc<[String]>,
    detail: String,
    opens: Option<String>,
    meters: Vec<Counter>,
}

impl Stood {
    fn ask(
        gate: &Gate,
        passage: Passage<'_>,
        (clock, at): (Clock, Timestamp),
        meters: &RolloutMeters,
    ) -> Self {
        let opening = gate.of_passage(passage, clock, at);
        let held = (!opening.held_by.is_empty()).then(|| Held::new(&opening, passage, meters));
        Self { clock, at, until: opening.stands_until(at), opens: opening.next_open, held }
    }

    /// Whether it surely still stands so; a clock that was put right or wrong is another one.
    fn holds(&self, clock: Clock, now: Timestamp) -> bool {
        self.clock == clock && (self.at..self.until).contains(&now)
    }
}

impl Held {
    fn new(opening: &Opening<'_>, passage: Passage<'_>, meters: &RolloutMeters) -> Self {
        let by: Arc<[String]> = opening.held_by.iter().map(ToString::to_string).collect();
        let opens = opening.next_open.map(|at| at.to_string());
        let (name, all) = (Label::from(passage.to_string()), by.join(", "));
        let detail = match &opens {
            Some(at) => format!("{name} is held by {all}; it opens at {at}"),
            None => format!("{name} is held by {all}; nothing says when it opens"),
        };
        let meters = by.iter().map(|document| meters.rule_held(&name, document)).collect();
        Self { by, detail, opens, meters }
    }
}

/// What documents call a rule of a route.
pub(crate) fn of_route(rule: &Rule) -> Passage<'_> {
    Passage::Route { route: &rule.route, rule: &rule.name }
}

/// The same of a rule of the egress policy.
pub(crate) fn of_egress(rule: &EgressRule) -> Passage<'_> {
    Passage::Egress(&rule.name)
}

/// The rules that windows or freezes name, routes first.
pub(crate) fn guarded(effective: &Effective) -> impl Iterator<Item = Passage<'_>> {
    let egress = effective.egress.iter().flat_map(|policy| &policy.rules);
    let all = effective.routes.rules.iter().map(of_route).chain(egress.map(of_egress));
    all.filter(|passage| effective.gate.guards(*passage))
}

/// How a rule stands, as far as a policy says; null if nothing may hold it.
pub(crate) fn explained(
    effective: &Effective,
    passage: Passage<'_>,
    (clock, now): (Clock, Timestamp),
) -> Value {
    let gate = &effective.gate;
    if !gate.guards(passage) {
        return Value::Null;
    }
    stands(&gate.of_passage(passage, clock, now))
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
        let now = clock.now();
        let door = |passage: Passage<'_>| {
            let stood = || Stood::ask(&effective.gate, passage, now, &meters);
            let door = || Door {
                name: Label::from(passage.to_string()),
                stood: ArcSwap::from_pointee(stood()),
            };
            effective.gate.guards(passage).then(door)
        };
        let routes = effective.routes.rules.iter().map(|rule| door(of_route(rule)));
        let egress = effective.egress.iter().flat_map(|policy| &policy.rules);
        let egress = egress.map(|rule| door(of_egress(rule)));
        let (routes, egress) = (filled(routes.collect()), filled(egress.collect()));
        Self { clock, meters, routes, egress }
    }

    /// Whether a request may pass a rule of a route now.
    ///
    /// # Errors
    /// What holds it.
    pub(crate) fn pass_route(&self, id: RuleId) -> Result<(), Refusal> {
        self.pass(self.routes.get(usize::from(id.0)))
    }

    /// The same for a rule of the egress policy; without a rule nothing holds it.
    ///
    /// # Errors
    /// What holds it.
    pub(crate) fn pass_egress(&self, rule: Option<usize>) -> Result<(), Refusal> {
        self.pass(rule.and_then(|index| self.egress.get(index)))
    }

    fn pass(&self, door: Option<&Option<Door>>) -> Result<(), Refusal> {
        let Some(Some(door)) = door else { return Ok(()) };
        let stood = door.stood.load();
        let Some(held) = &stood.held else { return Ok(()) };
        for meter in &held.meters {
            meter.inc();
        }
        let now = timestamp(clock::wall_seconds());
        let after = gate::retry_after(defaults::RETRY_AFTER, stood.opens, now, fastrand::u32(..));
        let wait = Wait { after, held_by: Arc::clone(&held.by), opens: held.opens.clone() };
        Err(Refusal::new(Failure::ChangeHeld, held.detail.as_str()).until(wait))
    }

    /// Looks at how all of them stand, and puts that, windows, freezes, overrides and the clock
    /// into the scrape.
    fn look(&self, effective: &Effective) {
        self.clock.look();
        let (clock, now) = self.clock.now();
        for (document, is_active) in effective.gate.active(clock, now) {
            match document {
                Dated::Window(name, effect) => {
                    let effect = match effect {
                        Effect::Allow => "allow",
                        Effect::Deny => "deny",
                    };
                    self.meters.window(name, effect, is_active);
                }
                Dated::Freeze(name) => self.meters.freeze(name, is_active),
                Dated::Override(name) => self.meters.exception(name, is_active),
            }
        }
        let rules = effective.routes.rules.iter().map(of_route);
        let egress = effective.egress.iter().flat_map(|policy| &policy.rules).map(of_egress);
        let doors = self.routes.iter().zip(rules).chain(self.egress.iter().zip(egress));
        for (door, passage) in doors {
            let Some(door) = door else { continue };
            if !door.stood.load().holds(clock, now) {
                let stood = Stood::ask(&effective.gate, passage, (clock, now), &self.meters);
                door.stood.store(Arc::new(stood));
            }
            self.meters.rule(&door.name, door.stood.load().held.is_none());
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
    /// Looks at windows and freezes until what is returned is dropped: on a thread of its own,
    /// because the search for an opening through many documents takes long for whoever waits, and a
    /// resolver that hangs must not keep a freeze from beginning.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn follow_calendar(self: &Arc<Self>) -> io::Result<Sender<()>> {
        let (over, ended) = channel();
        let gateway = Arc::clone(self);
        thread::Builder::new().name("calendar".into()).spawn(move || {
            while ended.recv_timeout(CALENDAR_EVERY) == Err(RecvTimeoutError::Timeout) {
                if catch_unwind(AssertUnwindSafe(|| gateway.look_at_calendar())).is_err() {
                    gateway.metrics.panics.inc();
                }
            }
        })?;
        Ok(over)
    }

    /// See [`Doors::look`].
    fn look_at_calendar(&self) {
        loop {
            let running = self.running();
            running.doors.look(&running.effective);
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

//! The loop's part of operations from afar: once, written down, and told in the next report.

use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_config::bundle::{
    OperationAction, OperationStatement, PromotionEntry, read_operations,
};
use tillgate_core::reconcile::{ClockState, Done, Ended, Wall};

use super::Loop;
use crate::endpoint::audit::Action;
use crate::endpoint::explained;
use crate::reconcile::office::{Hold, Order};
use crate::reconcile::operations::{
    BEGUN, Believed, Not, Outcome, brief, examine, interrupted, recalled,
};
use crate::reconcile::{support, wall};
use crate::send::explain;

/// Outcomes that wait for a report: as many as one list may have, twice.
const RESULTS_MAX: usize = 32;

impl Loop {
    /// Takes the list of operations that came with a bundle of `source`.
    pub(super) fn take_operations(&mut self, source: usize, list: &[u8]) {
        if !self.operations.entry(source).or_default().sees(list) {
            return;
        }
        let entries = match list {
            [] => Vec::new(),
            list => match read_operations(list) {
                Ok(entries) => entries,
                Err(error) => return self.refuse(None, None, "malformed", &explain(&error)),
            },
        };
        let others = self.operations.iter().filter(|(other, _)| **other != source);
        let elsewhere = others.flat_map(|(_, one)| one.listed()).cloned().collect();
        let memory = self.machine.memory();
        self.operations.entry(source).or_default().lists(&entries, memory, &elsewhere);
        for entry in &entries {
            self.take_operation(source, entry);
        }
        self.operations.entry(source).or_default().examined();
    }

    /// Looks again at what waits for a clock.
    pub(super) fn try_operations(&mut self) {
        self.begin_memory();
        let waiting: Vec<(usize, PromotionEntry)> = self
            .operations
            .iter_mut()
            .flat_map(|(source, one)| one.waiting.drain(..).map(|entry| (*source, entry)))
            .collect();
        for (source, entry) in waiting {
            self.take_operation(source, &entry);
        }
    }

    /// Says what came of those that an earlier process did not tell.
    pub(super) fn tell_untold(&mut self) {
        let memory = self.machine.memory_mut();
        let all: Vec<Done> = memory.done.iter().filter(|done| !done.told).cloned().collect();
        for Done { id, action, ended, .. } in all {
            let ended = ended.unwrap_or_else(|| interrupted(wall()));
            self.machine.memory_mut().ends(&id, ended.clone());
            let outcome = serde_json::from_str(&ended.outcome).unwrap_or_default();
            tracing::warn!(id = &*id, state = &*ended.state, "an operation was not told before");
            self.comes_to((id, Some(action)), ended.state, ended.at, outcome);
        }
    }

    /// The centre has taken a report with every outcome up to this number.
    pub(super) fn centre_knows(&mut self, number: u64) {
        let known = self.results.extract_if(.., |one| one.number <= number);
        let known: Vec<Outcome> = known.collect();
        if known.is_empty() {
            return;
        }
        let memory = self.machine.memory_mut();
        known.iter().for_each(|one| memory.tells(&one.id, &one.state));
        self.remember();
    }

    fn take_operation(&mut self, source: usize, entry: &PromotionEntry) {
        let time = (self.gateway.clock.state(), wall());
        let (trust, store) = (&self.spec.trust, &self.spec.store);
        let gone = &self.operations.entry(source).or_default().gone;
        match examine(entry, trust, store, self.machine.memory(), gone, time) {
            Ok(believed) => self.operate(&believed),
            Err(Not::Others | Not::Done) => {}
            Err(Not::Waits) => {
                self.gateway.endpoint.report_meters.operated("waits");
                self.operations.entry(source).or_default().waiting.push(entry.clone());
            }
            Err(Not::Refused { id, result, why }) => {
                let action = OperationStatement::read(&entry.statement).ok();
                let action = action.map(|one| named(one.action));
                self.refuse(id, action, result, &why);
            }
        }
    }

    fn refuse(
        &mut self,
        id: Option<Arc<str>>,
        action: Option<Arc<str>>,
        result: &'static str,
        why: &str,
    ) {
        tracing::warn!(id = id.as_deref(), result, why, "an operation from afar is refused");
        self.gateway.endpoint.report_meters.operated(result);
        let id = id.unwrap_or_else(|| "?".into());
        let record = if matches!(result, "forged" | "replayed" | "malformed") {
            Action::VerifyFailed
        } else {
            Action::Operation
        };
        let fields =
            vec![("operation", json!(&*id)), ("reason", json!(why)), ("result", json!("Refused"))];
        self.audit(record, "operation", fields);
        let outcome = json!({ "result": result, "why": why });
        self.comes_to((id, action), "Refused".into(), wall(), outcome);
    }

    /// Carries out an operation, once.
    fn operate(&mut self, believed: &Believed) {
        let Believed { statement, id, digest, actor } = believed;
        let until = statement.expires();
        let action = named(statement.action);
        let done = Done {
            id: Arc::clone(id),
            statement: Arc::clone(digest),
            until,
            action: Arc::clone(&action),
            ended: None,
            told: self.reporter.is_none(),
        };
        let (floor, action) = (self.machine.memory().floor, Some(action));
        if !self.machine.memory_mut().does(done, floor) {
            let why = "this store remembers as many operations as it can";
            return self.refuse(Some(Arc::clone(id)), action, "full", why);
        }
        self.remember();
        if self.conditions.is("StateUnwritten") {
            // After a restart it would be done again.
            let why = "the state directory cannot be written, so it could be done twice";
            self.ends(id, "Refused", &json!({ "result": "unwritten", "why": why }));
            return self.refuse(Some(Arc::clone(id)), action, "unwritten", why);
        }
        // A memory that is lost is made good from this.
        self.tell_operation(believed, BEGUN, None);
        let outcome = self.do_operation(statement, actor);
        let (state, result) =
            if outcome.is_ok() { ("Succeeded", "done") } else { ("Failed", "failed") };
        self.gateway.endpoint.report_meters.operated(result);
        tracing::info!(id = &**id, action = ?statement.action, state, "an operation from afar");
        self.tell_operation(believed, state, outcome.as_ref().err());
        let outcome = outcome.unwrap_or_else(|why| json!({ "why": why }));
        let at = self.ends(id, state, &outcome);
        self.remember();
        self.comes_to((Arc::clone(id), action), state.into(), at, outcome);
    }

    fn tell_operation(&self, believed: &Believed, result: &str, error: Option<&String>) {
        let Believed { statement, id, digest, actor } = believed;
        let fields = vec![
            ("operation", json!(&**id)),
            ("does", json!(&*named(statement.action))),
            ("statement", json!(&**digest)),
            ("expires", json!(statement.expires_at)),
            ("reason", json!(statement.reason)),
            ("ticket", json!(statement.ticket)),
            ("error", json!(error)),
            ("result", json!(result)),
        ];
        self.audit(Action::Operation, actor, fields);
    }

    /// Brings what is remembered together with what the audit log knows, at a start.
    pub(super) fn recall(&mut self) {
        let endpoint = Arc::clone(&self.gateway);
        let endpoint = &endpoint.endpoint;
        let memory = self.machine.memory();
        if let Some((sequence, hash)) = &memory.audited {
            endpoint.audit_had(self.spec.state.root(), (*sequence, hash));
        }
        if memory.began.is_some() {
            return;
        }
        let found = recalled(&endpoint.operations_audited(), self.spec.reporting.is_none());
        if !found.is_empty() {
            let count = found.len();
            tracing::warn!(count, "nothing is remembered of operations: the audit log knows them");
            self.machine.memory_mut().recalls(found);
            self.remember();
        }
    }

    /// What is remembered begins when a clock is believed.
    fn begin_memory(&mut self) {
        let memory = self.machine.memory_mut();
        if memory.began.is_none() && self.gateway.clock.state() != ClockState::Untrusted {
            memory.began = Some(wall().max(memory.floor));
            self.remember();
        }
    }

    /// Keeps what came of an operation; when that was.
    pub(super) fn ends(&mut self, id: &str, state: &str, outcome: &Value) -> Wall {
        let at = wall();
        let ended = Ended { state: state.into(), at, outcome: brief(outcome) };
        self.machine.memory_mut().ends(id, ended);
        at
    }

    fn do_operation(
        &mut self,
        statement: &OperationStatement,
        actor: &Arc<str>,
    ) -> Result<Value, String> {
        let hold = || Hold {
            until: statement.stays_until(),
            reason: statement.reason.as_str().into(),
            ticket: statement.ticket.as_str().into(),
        };
        let order = match statement.action {
            OperationAction::Pin => Order::Pin { name: None, hold: hold() },
            OperationAction::Unpin => Order::Unpin,
            OperationAction::Rollback => Order::RollBack {
                name: statement.to.as_deref().unwrap_or_default().into(),
                hold: hold(),
                operation: None,
            },
            OperationAction::Explain => {
                let question = statement.question.clone().unwrap_or_default();
                return explained(&self.gateway, question);
            }
            OperationAction::SupportBundle => {
                let (_, items) = self.tell_state();
                return support::bundle(&self.gateway, &items);
            }
        };
        self.carry_out(order, actor).map_err(|error| error.why().to_owned())
    }

    /// The centre shall know, soon.
    fn comes_to(
        &mut self,
        (id, action): (Arc<str>, Option<Arc<str>>),
        state: Arc<str>,
        at: Wall,
        outcome: Value,
    ) {
        if self.reporter.is_none() {
            return;
        }
        if self.results.len() >= RESULTS_MAX {
            self.results.remove(0);
        }
        self.outcomes += 1;
        let number = self.outcomes;
        self.results.push(Outcome { number, id, action, state, at, outcome });
    }
}

/// The name of an action in reports and on disk.
fn named(action: OperationAction) -> Arc<str> {
    format!("{action:?}").into()
}

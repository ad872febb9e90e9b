//! The loop's part of operations from afar: once, written down, and told in the next report.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_config::bundle::{
    OperationAction, OperationStatement, PromotionEntry, hex, read_operations,
};
use tillgate_core::reconcile::Done;

use super::Loop;
use crate::endpoint::audit::{Action, Record};
use crate::endpoint::explained;
use crate::reconcile::office::{Hold, Order};
use crate::reconcile::operations::{Believed, Not, Outcome, examine};
use crate::reconcile::{support, wall};
use crate::send::explain;

/// Outcomes that wait for a report: as many as one list may have, twice.
const RESULTS_MAX: usize = 32;

impl Loop {
    /// Takes the list of operations that came with a bundle.
    pub(super) fn take_operations(&mut self, list: &[u8]) {
        let seen = hex(list);
        if self.operations.seen.as_ref() == Some(&seen) {
            return;
        }
        let is_first = self.operations.seen.replace(seen).is_none();
        let entries = match list {
            [] => Vec::new(),
            list => match read_operations(list) {
                Ok(entries) => entries,
                Err(error) => return self.refuse(None, None, "malformed", &explain(&error)),
            },
        };
        let before = std::mem::take(&mut self.operations.listed);
        self.operations.waiting.clear();
        for entry in &entries {
            self.take_operation(entry, (!is_first).then_some(&before));
        }
        let ids =
            entries.iter().filter_map(|entry| OperationStatement::read(&entry.statement).ok());
        self.operations.listed = ids.map(|statement| statement.id.into()).collect();
    }

    /// Looks again at what waits for a clock.
    pub(super) fn try_operations(&mut self) {
        for entry in std::mem::take(&mut self.operations.waiting) {
            self.take_operation(&entry, None);
        }
    }

    fn take_operation(&mut self, entry: &PromotionEntry, before: Option<&BTreeSet<Arc<str>>>) {
        let time = (self.gateway.clock.state(), wall());
        let (trust, store) = (&self.spec.trust, &self.spec.store);
        match examine(entry, trust, store, self.machine.memory(), before, time) {
            Ok(believed) => self.operate(&believed),
            Err(Not::Others | Not::Done) => {}
            Err(Not::Waits) => {
                self.gateway.endpoint.report_meters.operated("waits");
                self.operations.waiting.push(entry.clone());
            }
            Err(Not::Refused { id, result, why }) => {
                let action = OperationStatement::read(&entry.statement).ok().map(|one| one.action);
                self.refuse(id, action, result, &why);
            }
        }
    }

    fn refuse(
        &mut self,
        id: Option<Arc<str>>,
        action: Option<OperationAction>,
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
        self.comes_to(id, action, "Refused", outcome);
    }

    /// Carries out an operation, once.
    fn operate(&mut self, believed: &Believed) {
        let Believed { statement, id, digest, actor } = believed;
        let until = statement.expires();
        let done = Done { id: Arc::clone(id), statement: Arc::clone(digest), until };
        let (floor, action) = (self.machine.memory().floor, Some(statement.action));
        if !self.machine.memory_mut().does(done, floor) {
            let why = "this store remembers as many operations as it can";
            return self.refuse(Some(Arc::clone(id)), action, "full", why);
        }
        self.remember();
        if self.conditions.is("StateUnwritten") {
            // After a restart it would be done again.
            let why = "the state directory cannot be written, so it could be done twice";
            return self.refuse(Some(Arc::clone(id)), action, "unwritten", why);
        }
        let outcome = self.do_operation(statement, actor);
        let (state, result) =
            if outcome.is_ok() { ("Succeeded", "done") } else { ("Failed", "failed") };
        self.gateway.endpoint.report_meters.operated(result);
        tracing::info!(id = &**id, action = ?statement.action, state, "an operation from afar");
        self.gateway.endpoint.record(Record {
            action: Action::Operation,
            actor: actor.to_string(),
            fields: vec![
                ("operation", json!(&**id)),
                ("does", json!(format!("{:?}", statement.action))),
                ("reason", json!(statement.reason)),
                ("ticket", json!(statement.ticket)),
                ("error", json!(outcome.as_ref().err())),
                ("result", json!(state)),
            ],
        });
        let outcome = outcome.unwrap_or_else(|why| json!({ "why": why }));
        self.comes_to(Arc::clone(id), action, state, outcome);
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
        id: Arc<str>,
        action: Option<OperationAction>,
        state: &'static str,
        outcome: Value,
    ) {
        if self.reporter.is_none() {
            return;
        }
        if self.results.len() >= RESULTS_MAX {
            self.results.remove(0);
        }
        self.outcomes += 1;
        let (number, at) = (self.outcomes, wall());
        self.results.push(Outcome { number, id, action, state, at, outcome });
    }
}

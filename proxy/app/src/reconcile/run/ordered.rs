//! Orders of people and of signed operations: stay, follow again, go back.
//!
//! Each is checked against what runs at that moment, is on disk before it is answered, and is
//! written into the audit log with its reason. Sources are asked as before; what they give waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_core::reconcile::{ClockState, Digest, Fate, Pin, Revision, Wall};
use tillgate_net::clock;

use super::Loop;
use super::take::Waiting;
use crate::endpoint::audit::{Action, Record};
use crate::reconcile::boot::kept;
use crate::reconcile::candidate::Policy;
use crate::reconcile::office::{Found, HOLD_MAX, Hold, Order, OrderError, Ordered, pin_json};
use crate::reconcile::wall;
use crate::send::explain;

/// Who ends what has had its time.
const TIME: &str = "time";

/// An earlier policy that can serve, and for how long it shall.
struct Return {
    policy: Arc<Policy>,
    pin: Pin,
}

impl Loop {
    /// Carries out an order, or says why not.
    pub(super) fn obey(&mut self, ordered: Ordered) {
        let Ordered { order, tags, actor, begun, answer } = ordered;
        if answer.is_closed() || begun.swap(true, Ordering::AcqRel) {
            // Who gave it has gone, or was told that it was not carried out.
            return;
        }
        let is_stale = tags.is_some_and(|tags| {
            let shown = self.pin_shown();
            !tags.have(shown["tag"].as_str().unwrap_or_default())
        });
        let result = if is_stale {
            Err(OrderError::Stale(
                "the pin, or what runs, is not what `If-Match` names: look again".to_owned(),
            ))
        } else {
            self.carry_out(order, &actor)
        };
        self.show();
        // Whoever gave it may have gone meanwhile; it counts all the same.
        let _ = answer.send(result);
    }

    /// Does what an order says.
    pub(super) fn carry_out(
        &mut self,
        order: Order,
        actor: &Arc<str>,
    ) -> Result<Value, OrderError> {
        match order {
            Order::Pin { name, hold } => self.pin(name.as_deref(), &hold, actor),
            Order::Unpin => self.unpin(actor),
            Order::RollBack { name, hold, operation } => {
                let way = self.way_back(&name, &hold, actor)?;
                let outcome = self.go_back(&way, actor);
                if let Some(id) = operation {
                    let digest = Arc::clone(&self.gateway.running().effective.digest);
                    let outcome = outcome.as_ref().map(|()| (&*digest, None));
                    let outcome = outcome.map_err(OrderError::why);
                    self.gateway.endpoint.ended(&id, outcome);
                }
                outcome.map(|()| self.pin_shown())
            }
        }
    }

    pub(super) fn pin_shown(&self) -> Value {
        let running = self.machine.running().map(|running| &running.digest);
        pin_json(self.machine.memory().pin.as_ref(), running)
    }

    fn pin(
        &mut self,
        name: Option<&str>,
        hold: &Hold,
        actor: &Arc<str>,
    ) -> Result<Value, OrderError> {
        let Some(running) = self.machine.running().map(|running| Arc::clone(&running.digest))
        else {
            let why = "there is no policy yet to stay on";
            return Err(OrderError::Conflict(why.to_owned()));
        };
        if let Some(name) = name
            && self.found(name)?.0 != running
        {
            return Err(OrderError::Conflict(format!(
                "`{name}` is not what runs: `POST /v1/rollback` goes back to it"
            )));
        }
        let pin = self.pin_of(running, hold, actor)?;
        self.put_pin(pin)?;
        Ok(self.pin_shown())
    }

    fn unpin(&mut self, actor: &Arc<str>) -> Result<Value, OrderError> {
        let Some(pin) = self.machine.memory().pin.clone() else {
            return Err(OrderError::Unknown("the store is not pinned".to_owned()));
        };
        self.end_pin(&pin, actor)?;
        Ok(self.pin_shown())
    }

    /// The bundle of this name.
    fn found(&self, name: &str) -> Result<(Digest, bool), OrderError> {
        match self.office.find(name) {
            Found::Here { digest, candidate, .. } => Ok((digest, candidate.is_some())),
            Found::Pruned => Err(OrderError::Gone(format!(
                "`{name}` was in effect here and is not kept any more"
            ))),
            Found::Unknown => Err(OrderError::Unknown(format!(
                "`{name}` was never in effect here, as far as this store remembers"
            ))),
        }
    }

    fn pin_of(&self, digest: Digest, hold: &Hold, actor: &Arc<str>) -> Result<Pin, OrderError> {
        // A clock that shows what has certainly passed is not taken at its word.
        let now = wall().max(self.gateway.clock.floor());
        let lasts = hold.until.0.saturating_sub(now.0);
        if lasts == 0 || lasts > HOLD_MAX {
            let state = self.gateway.clock.state().name();
            return Err(OrderError::Conflict(format!(
                "`expiresAt` must be later than now and at most 7 days; here it is {} (the clock \
                 is {state})",
                wall_text(now)
            )));
        }
        Ok(Pin {
            digest,
            since: now,
            until: hold.until,
            lasts,
            spent: 0,
            reason: Arc::clone(&hold.reason),
            ticket: Arc::clone(&hold.ticket),
            actor: Arc::clone(actor),
        })
    }

    fn put_pin(&mut self, pin: Pin) -> Result<(), OrderError> {
        self.audit(Action::Pin, &pin.actor, hold_fields(&pin));
        let (digest, until) = (Arc::clone(&pin.digest), wall_text(pin.until));
        tracing::info!(digest = &*digest, until, actor = &*pin.actor, "policy is pinned");
        self.machine.handle_pin(Some(pin));
        let written = self.write_effects();
        self.tell_pin();
        written
    }

    fn end_pin(&mut self, pin: &Pin, actor: &str) -> Result<(), OrderError> {
        self.audit(Action::Unpin, actor, hold_fields(pin));
        tracing::info!(digest = &*pin.digest, actor, "policy is not pinned any more");
        self.machine.handle_pin(None);
        let written = self.write_effects();
        self.tell_pin();
        // What has waited for this need not wait for the next look.
        self.try_waiting();
        written
    }

    /// Does what the machine wants for an order, which is carried out only once it is on disk.
    fn write_effects(&mut self) -> Result<(), OrderError> {
        self.unwritten = None;
        self.do_effects();
        self.unwritten.take().map_or(Ok(()), |why| {
            Err(OrderError::Unwritten(format!(
                "it is in effect, but a restart undoes it: the state cannot be written: {why}"
            )))
        })
    }

    /// Lets a pin run out, by the time that has passed since it was last looked at.
    pub(super) fn pass_time(&mut self, now: Instant) {
        let lived = Duration::from_secs(now.saturating_duration_since(self.counted).as_secs());
        self.counted += lived;
        let trusted = self.gateway.clock.state() != ClockState::Untrusted;
        if let Some(over) = self.machine.handle_time(wall(), trusted, lived) {
            // A disk that takes nothing has its condition; a pin that is over ends all the same.
            drop(self.end_pin(&over, TIME));
        }
        self.tell_pin();
    }

    /// A pin is a condition, and one that is half over an alarm: somebody may have forgotten it.
    fn tell_pin(&mut self) {
        let pin = self.machine.memory().pin.clone();
        self.meters.pinned.set(i64::from(pin.is_some()));
        self.meters.pin_ends.set(pin.as_ref().map_or(0.0, |pin| pin.until.0 as f64));
        let Some(pin) = pin else {
            self.conditions.clear("Pinned");
            return;
        };
        let trusted = self.gateway.clock.state() != ClockState::Untrusted;
        let is_half_over = pin.is_half_over(wall(), trusted);
        let reason = if is_half_over { "HalfOver" } else { "Operator" };
        let (digest, until) = (&pin.digest, wall_text(pin.until));
        let text =
            format!("to {digest} until {until} by {}: {} ({})", pin.actor, pin.reason, pin.ticket);
        if self.conditions.raise("Pinned", reason, &text) && is_half_over {
            tracing::warn!("half of the time of a pin is over: {text}");
        }
    }

    /// The policy to go back to, ready to serve.
    fn way_back(
        &mut self,
        name: &str,
        hold: &Hold,
        actor: &Arc<str>,
    ) -> Result<Return, OrderError> {
        let conflict = |why: &str| OrderError::Conflict(why.to_owned());
        if name == "lkg" && self.machine.lkg().is_none() {
            return Err(conflict("no policy has become last known good yet"));
        }
        let (digest, is_candidate) = self.found(name)?;
        if is_candidate {
            return Err(conflict("it waits to come into effect, and never was"));
        }
        if self.machine.running().is_some_and(|running| running.digest == digest) {
            return Err(conflict("it runs already: `PUT /v1/pin` keeps the store on it"));
        }
        let pin = self.pin_of(Arc::clone(&digest), hold, actor)?;
        let revision = Revision { digest, sequence: None, created_at: Wall::default() };
        let policy = kept(&self.spec, &revision)
            .map_err(|why| OrderError::Conflict(format!("it cannot be served: {why}")))?;
        Ok(Return { policy: Arc::new(policy), pin })
    }

    /// Lets an earlier policy serve again, and stay.
    fn go_back(&mut self, way: &Return, actor: &Arc<str>) -> Result<(), OrderError> {
        let Return { policy, pin } = way;
        let left = self.running.clone();
        self.put(policy, actor, hold_fields(pin))
            .map_err(|error| OrderError::Conflict(explain(&error)))?;
        let mut fields = hold_fields(pin);
        fields.push(("from", json!(left.as_ref().map(|left| &*left.revision.digest))));
        self.audit(Action::Rollback, actor, fields);
        self.meters.applied("rolled_back", "Ordered");
        let facts = self.tally.facts(&self.gateway);
        // The pointer before the memory: a memory that knows of this is never alone.
        self.machine.handle_returned(policy.revision.clone(), &facts, clock::now());
        self.machine.handle_pin(Some(pin.clone()));
        self.serves(policy);
        self.probation_since = self.machine.probation().map(|(since, _)| since);
        if self.probation_since.is_none() {
            self.machine.memory_mut().fares(&policy.revision.digest, Fate::Good);
        }
        let written = self.write_effects();
        self.tell_pin();
        if let Some(left) = left {
            self.history.note(&left, "Left", &pin.reason);
            self.wait_with(&left);
        }
        tracing::warn!(
            digest = &*policy.revision.digest,
            sequence = policy.revision.sequence,
            actor = &**actor,
            "policy rolled back by order"
        );
        written
    }

    /// What was left by order is the next candidate: no source gives it again.
    fn wait_with(&mut self, left: &Arc<Policy>) {
        let newer = |one: &Waiting| one.policy.revision.sequence > left.revision.sequence;
        if self.waiting.as_ref().is_some_and(newer) {
            return;
        }
        let Ok((archive, _)) = self.spec.state.read(&left.revision.digest) else { return };
        let Ok(verified) = self.spec.verify_kept(&archive) else { return };
        let source = self.running_from.unwrap_or(0);
        self.waiting = Some(Waiting::again(Arc::clone(left), archive, verified, source));
    }

    /// `policy` serves: its time in effect begins.
    pub(super) fn serves(&mut self, policy: &Arc<Policy>) {
        self.running = Some(Arc::clone(policy));
        self.runs(policy, Fate::Watched);
        self.says_runs(policy);
    }

    /// Writes it down.
    pub(super) fn audit(&self, action: Action, actor: &str, fields: Vec<(&'static str, Value)>) {
        self.gateway.endpoint.record(Record { action, actor: actor.to_owned(), fields });
    }
}

fn hold_fields(pin: &Pin) -> Vec<(&'static str, Value)> {
    vec![
        ("bundle", json!(&*pin.digest)),
        ("until", json!(wall_text(pin.until))),
        ("reason", json!(&*pin.reason)),
        ("ticket", json!(&*pin.ticket)),
    ]
}

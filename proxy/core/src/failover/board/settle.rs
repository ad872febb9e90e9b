//! What follows on the board from what has become known: verdicts and active tiers, published.
//!
//! A verdict is published when it changes; rules are settled after it, because a tier leaves with
//! its last endpoint. Every change is an event.

use std::sync::Arc;
use std::time::Instant;

use super::{Board, Event};
use crate::failover::rule::RuleWatch;
use crate::failover::shifts::Shift;
use crate::failover::watched::Watched;
use crate::health::Cause;
use crate::load::{EndpointId, Load, Verdict};

impl Board {
    /// Something failed there: better tiers wait for longer.
    pub(super) fn failed(&mut self, id: EndpointId, now: Instant) {
        self.rules.iter_mut().for_each(|rule| rule.handle_failure(id, now));
    }

    pub(super) fn verdict(&self, one: &Watched) -> Verdict {
        if self.is_down(one.line) { Verdict::Out } else { one.health.verdict() }
    }

    pub(in crate::failover) fn cause(&self, one: &Watched) -> &'static str {
        if self.is_down(one.line) {
            return "line_down";
        }
        match (one.health.verdict(), one.health.cause()) {
            (Verdict::Suspect, _) => "silent",
            (_, cause) => cause.map_or("recovered", Cause::label),
        }
    }

    pub(super) fn settle(&mut self, id: EndpointId, now: Instant) {
        if self.publish(id, now) {
            self.settle_rules(now);
        }
    }

    pub(super) fn settle_all(&mut self, now: Instant) {
        let ids: Vec<EndpointId> = self.endpoints.keys().copied().collect();
        for id in ids {
            self.publish(id, now);
        }
        self.settle_rules(now);
    }

    /// Publishes what an endpoint is now; whether that is news.
    pub(super) fn publish(&mut self, id: EndpointId, now: Instant) -> bool {
        let Some(one) = self.endpoints.get(&id) else { return false };
        one.load.publish_generation(one.health.generation());
        let (from, to) = (one.verdict, self.verdict(one));
        if from == to {
            return false;
        }
        let cause = if to == Verdict::Usable { "recovered" } else { self.cause(one) };
        let (backend, endpoint) = (Arc::clone(&one.backend), one.endpoint.clone());
        if let Some(one) = self.endpoints.get_mut(&id) {
            (one.verdict, one.since) = (to, now);
            one.load.publish(to);
        }
        self.say(Event::Endpoint { id, backend, endpoint, from, to, cause });
        true
    }

    pub(super) fn settle_rules(&mut self, now: Instant) {
        let mut rules = std::mem::take(&mut self.rules);
        for rule in &mut rules {
            while let Some(shifted) = rule.settle(now) {
                let cause = match shifted.shift {
                    Shift::Failback => "recovered",
                    Shift::Failover => self.why_out(rule, shifted.from, now),
                };
                rule.cause = cause;
                let (name, shift) = (rule.name.clone(), shifted.shift);
                let (from, to) = (shifted.from, shifted.to);
                self.say(Event::Tier { rule: name, shift, from, to, cause });
            }
        }
        self.rules = rules;
    }

    /// Why a tier cannot carry: the cause of its first endpoint that is not usable.
    pub(super) fn why_out(&self, rule: &RuleWatch, tier: usize, now: Instant) -> &'static str {
        let mut loads = rule.plan.loads().filter(|(at, _)| *at == tier).map(|(_, load)| load);
        let is_old = |load: &Arc<Load>| !rule.plan.is_fresh(load, now);
        let bad = loads.find(|load| load.verdict() != Verdict::Usable || is_old(load));
        match bad.map(|load| (load, self.endpoints.get(&load.id()))) {
            Some((load, _)) if load.verdict() == Verdict::Usable => "data_too_old",
            Some((_, Some(one))) => self.cause(one),
            Some((_, None)) | None => "too_few",
        }
    }
}

//! What the reconcile machine wants done: pointers, the memory, the way back, words.

use std::sync::Arc;

use serde_json::json;
use tillgate_core::reconcile::{Digest, Effect, Event, Fate};
use tillgate_net::clock;
use tillgate_net::metrics::Applying;

use super::Loop;
use super::check::written;
use crate::endpoint::audit::Action;
use crate::reconcile::boot::kept;
use crate::reconcile::candidate::Policy;
use crate::send::explain;
use crate::state::Pointer;

impl Loop {
    /// Does everything that the machine wants, in its order.
    pub(super) fn do_effects(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::PointCurrent(digest) => self.point(Pointer::Current, &digest),
                Effect::PointLkg(digest) => self.point(Pointer::Lkg, &digest),
                Effect::Remember => self.remember(),
                Effect::RollBack(digest) => {
                    let serves = self.roll_back(&digest);
                    self.machine.handle_rolled_back(serves);
                }
                Effect::Say(event) => self.say(&event),
            }
        }
    }

    pub(super) fn point(&mut self, pointer: Pointer, digest: &str) {
        // What is not there yet is pointed to when it is.
        if !self.is_unkept(digest) {
            let pointed = self.spec.state.point(pointer, digest);
            self.wrote(pointed);
        }
    }

    /// Writes the memory, and makes room.
    pub(super) fn remember(&mut self) {
        let state = &self.spec.state;
        let waiting = self.waiting.as_ref().map(|waiting| &waiting.policy.revision);
        let pinned = self.machine.memory().pin.as_ref().map(|pin| &pin.digest);
        let wanted: Vec<Digest> = [self.machine.running(), self.machine.lkg(), waiting]
            .into_iter()
            .flatten()
            .map(|revision| &revision.digest)
            .chain(pinned)
            .map(Arc::clone)
            .collect();
        let audited = self.gateway.endpoint.audit_head(state.root());
        self.see_memory();
        let state = &self.spec.state;
        let memory = self.machine.memory_mut();
        memory.audited = audited;
        let remembered = state.remember(memory);
        // What fails may be there all the same.
        self.written = remembered.as_ref().map_or_else(|_| String::new(), |()| written(memory));
        let pruned = remembered.and_then(|()| state.prune(&wanted));
        self.wrote(pruned);
    }

    /// Keeps what was refused for someone to look at.
    pub(super) fn quarantine(&mut self, bytes: &[u8]) {
        let kept = self.spec.state.quarantine(bytes);
        self.wrote(kept);
    }

    /// A disk that cannot be written is told, and never a reason to stop.
    fn wrote(&mut self, written: std::io::Result<()>) {
        match written {
            Ok(()) => drop(self.conditions.clear("StateUnwritten")),
            Err(error) => {
                let why = explain(&error);
                self.unwritten = Some(why.clone());
                if self.conditions.raise("StateUnwritten", "Disk", &why) {
                    let folder = self.spec.state.root().display();
                    tracing::error!(%folder, why, "the state cannot be written; what runs stays");
                }
            }
        }
    }

    /// Lets the last known good serve again. Whether it does.
    fn roll_back(&mut self, digest: &str) -> bool {
        let known = self.lkg.clone().filter(|lkg| *lkg.revision.digest == *digest);
        let lkg: Result<Arc<Policy>, String> = match (known, self.machine.lkg()) {
            (Some(lkg), _) => Ok(lkg),
            (None, Some(revision)) => kept(&self.spec, revision).map(Arc::new),
            (None, None) => Err("there is none".to_owned()),
        };
        let put = lkg.and_then(|lkg| {
            self.put(&lkg, "policy", Vec::new()).map_err(|error| explain(&error))?;
            Ok(lkg)
        });
        match put {
            Ok(lkg) => {
                if let Some(bad) = self.running.replace(Arc::clone(&lkg)) {
                    self.history.note(&bad, "RolledBack", "");
                }
                self.runs(&lkg, Fate::Good);
                self.says_runs(&lkg);
                self.lkg = Some(lkg);
                true
            }
            Err(why) => {
                tracing::error!(digest, "the last known good policy cannot be served: {why}");
                false
            }
        }
    }

    fn say(&mut self, event: &Event) {
        if let Some(since) = self.probation_since.take() {
            let took = clock::now().saturating_duration_since(since);
            self.meters.took(Applying::Probation, took);
        }
        match event {
            Event::Promoted(digest) => {
                tracing::info!(digest = &**digest, "policy is the last known good");
                self.lkg.clone_from(&self.running);
                if let Some(policy) = &self.running {
                    self.history.note(policy, "LastKnownGood", "");
                }
                self.audit(Action::LkgPromote, "policy", vec![("bundle", json!(&**digest))]);
            }
            Event::Kept(digest, why) => {
                tracing::info!(digest = &**digest, why = &**why, "policy stays without proof");
            }
            Event::RolledBack(digest, why) => {
                tracing::warn!(digest = &**digest, why = &**why, "policy rolled back");
                let fields = vec![("from", json!(&**digest)), ("reason", json!(&**why))];
                self.audit(Action::Rollback, "policy", fields);
                self.attempted =
                    json!({ "digest": &**digest, "result": "RolledBack", "why": &**why });
                self.conditions.raise("RolledBack", "Unhealthy", why);
                if let Some(source) = self.running_from {
                    self.refuses(source, Some(&format!("it was rolled back: {why}")));
                }
                self.meters.applied("rolled_back", "Unhealthy");
                self.meters.last_success.set(0);
            }
            Event::NoWayBack(digest, why) => {
                tracing::warn!(
                    digest = &**digest,
                    why = &**why,
                    "policy does harm, and is the first"
                );
                self.conditions.raise("NoWayBack", "Unhealthy", why);
            }
        }
    }
}

//! One bundle, from what a source gave to the running policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillgate_config::bundle::{Manifest, place, wall_text};
use tillgate_config::kinds::Kind;
use tillgate_core::gate::{Blocker, Gate};
use tillgate_core::reconcile::{ClockState, Refusal, Revision, RingGate};
use tillgate_net::clock;
use tillgate_net::metrics::Applying;
use tillgate_net::threads::making_way;

use super::{Loop, bundle};
use crate::bundle::verify::Verified;
use crate::bundle::{Archive, archive};
use crate::endpoint::Arrival;
use crate::endpoint::audit::Action;
use crate::reconcile::candidate::{self, Policy, Rejection};
use crate::reconcile::wall;
use crate::reload::{self, Before};
use crate::send::explain;
use crate::sources::Fetched;

/// Characters of a reason in the audit log; the rest is in the process's own.
const TOLD_CHARS_MAX: usize = 1000;

/// Before what could not be written or swapped in at its opening is tried again: a full disk or a
/// busy port lasts longer than a look, and each try writes the whole bundle.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(10);

/// How far ahead of a clock that is right a bundle may have been made, in seconds: whoever builds
/// it may have a clock that is off, or shows local time for UTC by one zone.
const AHEAD_MAX: u64 = 3600;

/// A good policy whose ring is not open yet.
pub(super) struct Waiting {
    pub(super) policy: Arc<Policy>,
    archive: Archive,
    verified: Verified,
    pub(super) source: usize,
    seen: Instant,
    /// Not tried before, after this store could not take it.
    rests: Option<Instant>,
}

/// An exception that lets a policy in, and what it suspends.
struct Used {
    what: String,
    by: Arc<str>,
}

impl Waiting {
    /// One that was in effect, and shall be again when it may.
    pub(super) fn again(
        policy: Arc<Policy>,
        archive: Archive,
        verified: Verified,
        source: usize,
    ) -> Self {
        Self { policy, archive, verified, source, seen: clock::now(), rests: None }
    }
}

impl Loop {
    /// Takes what a source gave, or says why not. Whether the source need not give it again.
    pub(super) fn offer(&mut self, source: usize, fetched: Fetched, took: Duration) -> bool {
        let Fetched::Bundle { archive, proof, .. } = fetched else { return false };
        self.refuses(source, None);
        self.meters.took(Applying::Fetch, took);
        let now = clock::now();
        let verified = self.spec.verify(&archive, proof);
        self.meters.took(Applying::Verify, now.elapsed());
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                self.meters.signature(None);
                self.quarantine(&archive::write(&archive).unwrap_or_default());
                return self.reject(source, None, &Rejection::Verify(error));
            }
        };
        for signer in &verified.signers {
            self.meters.signature(Some(signer));
        }
        let digest = archive.digest();
        self.is_desired(source, &verified, &digest);
        self.take_operations(source, &archive.operations);
        let known = self.machine.running().is_some_and(|running| running.digest == digest);
        if known {
            self.is_content(source);
            return true;
        }
        let before = self.waiting.take_if(|waiting| waiting.policy.revision.digest == digest);
        let seen = before.map_or(now, |waiting| waiting.seen);
        let revision = crate::bundle::revision(&archive, &verified.manifest);
        // What is refused for its number or its past need not be read.
        if let Err(refusal) = self.machine.examine(&revision)
            && !matches!(refusal, Refusal::Pinned(_))
        {
            let sequence = revision.sequence;
            return self.reject(source, sequence, &refusal.into());
        }
        if let Some(ahead) = self.is_ahead(&revision) {
            return self.reject(source, revision.sequence, &ahead);
        }
        let policy = match self.compile(&archive, &verified) {
            Ok(policy) => Arc::new(policy),
            Err(rejection) => return self.reject(source, revision.sequence, &rejection),
        };
        let candidate = Waiting { policy, archive, verified, source, seen, rests: None };
        match self.attempt(candidate) {
            // The source gives it again.
            Err(refused) => {
                let (rejection, candidate) = *refused;
                self.reject(source, candidate.policy.revision.sequence, &rejection)
            }
            Ok(()) => true,
        }
    }

    /// A source has what runs: nothing else of it waits, and nothing is wrong with what it has.
    fn is_content(&mut self, source: usize) {
        self.waiting.take_if(|waiting| waiting.source == source);
        if self.waiting.is_none() {
            self.conditions.clear("Held");
        }
        if self.sources.values().all(|state| state.refused.is_none()) {
            // What was refused was taken back.
            self.conditions.clear("Rejected");
            self.refused = None;
            self.meters.last_success.set(1);
            if self.waiting.is_none() {
                let sequence = self.machine.running().and_then(|running| running.sequence);
                self.attempted = json!({ "sequence": sequence, "result": "Applied" });
            }
        }
        let from = self.running_from.replace(source);
        // A stick with the last known good does not end what the source before it began.
        if from.is_none_or(|from| source <= from) {
            self.conditions.clear("RolledBack");
        }
    }

    /// Why what a source gave last is not taken; `None` = nothing is known against it.
    pub(super) fn refuses(&mut self, source: usize, why: Option<&str>) {
        if let Some(state) = self.sources.get_mut(&source) {
            state.refused = why.map(str::to_owned);
        }
    }

    /// Whether a bundle says that it was made when it cannot have been, by a clock that is right:
    /// its date would be a time that has passed, and the clock would not be believed any more.
    fn is_ahead(&self, revision: &Revision) -> Option<Rejection> {
        let (made, now) = (revision.created_at, wall());
        let is_right = self.gateway.clock.state() == ClockState::Synced;
        (is_right && made.0 > now.0.saturating_add(AHEAD_MAX))
            .then(|| Rejection::Ahead { made: wall_text(made), now: wall_text(now) })
    }

    /// A source has this, and it is what somebody may have made it. What is desired is the newest
    /// of what the sources have now: one that was taken back is not.
    fn is_desired(&mut self, source: usize, verified: &Verified, digest: &str) {
        let Manifest { sequence, revision, .. } = &verified.manifest;
        let Some(state) = self.sources.get_mut(&source) else { return };
        if state.has["digest"] != *digest {
            state.has = json!({
                "revision": revision,
                "sequence": sequence,
                "digest": digest,
                "seenAt": wall_text(wall()),
            });
        }
        // Of equals the first source's: it is the one that is followed.
        let all = self.sources.values().rev().map(|state| &state.has);
        let newest = all.max_by_key(|has| has["sequence"].as_u64());
        self.desired = newest.cloned().unwrap_or_default();
    }

    fn compile(&self, archive: &Archive, verified: &Verified) -> Result<Policy, Rejection> {
        let (meters, spec) = (&self.meters, &self.spec);
        making_way(|| {
            let began = clock::now();
            let fleet = candidate::read(archive);
            meters.took(Applying::Parse, began.elapsed());
            let began = clock::now();
            let policy = candidate::compile(&fleet?, archive, verified, spec);
            meters.took(Applying::Compile, began.elapsed());
            policy
        })
    }

    /// Looks again at what waits.
    pub(super) fn try_waiting(&mut self) {
        let now = clock::now();
        let may = |waiting: &mut Waiting| waiting.rests.is_none_or(|until| until <= now);
        let Some(waiting) = self.waiting.take_if(may) else { return };
        let Err(refused) = self.attempt(waiting) else { return };
        let (rejection, mut waiting) = *refused;
        self.reject(waiting.source, waiting.policy.revision.sequence, &rejection);
        // Its source was told that it need not give it again.
        if rejection.passes() {
            waiting.rests = Some(clock::now() + TRY_AGAIN);
            self.waiting = Some(waiting);
        }
    }

    /// Puts a policy in effect, or lets it wait; or gives it back with why not.
    fn attempt(&mut self, candidate: Waiting) -> Result<(), Box<(Rejection, Waiting)>> {
        let (source, sequence) = (candidate.source, candidate.policy.revision.sequence);
        match self.take(&candidate) {
            Ok(()) => {}
            Err(rejection) if rejection.waits() => {
                self.reject(source, sequence, &rejection);
                let newer = |one: &Waiting| one.policy.revision.sequence <= sequence;
                if self.waiting.as_ref().is_none_or(newer) {
                    self.waiting = Some(candidate);
                }
            }
            Err(rejection) => return Err(Box::new((rejection, candidate))),
        }
        Ok(())
    }

    fn take(&mut self, candidate: &Waiting) -> Result<(), Rejection> {
        let Waiting { policy, archive, verified, source, .. } = candidate;
        match self.machine.examine(&policy.revision) {
            Ok(()) => {}
            Err(Refusal::Running) => return Ok(()),
            Err(refusal) => return Err(refusal.into()),
        }
        let is_later = self.running_from.is_some_and(|running| running < *source);
        if policy.revision.sequence.is_none() && is_later {
            return Err(Rejection::Later);
        }
        let used = self.admit(candidate)?;
        if let Some(running) = &self.running {
            candidate::guard(running, policy, verified)?;
        }
        let began = clock::now();
        let staged = self.spec.state.stage(archive);
        self.meters.took(Applying::Stage, began.elapsed());
        // A store that has nothing serves what it has verified, and keeps it when it can.
        let unkept = match staged {
            Err(error) if self.running.is_none() => Some(error),
            staged => staged.map(|_| None).map_err(Rejection::Stage)?,
        };
        let name = self.sources.get(source).map_or("policy", |state| &*state.name);
        self.put(policy, &format!("source:{name}"), Vec::new())?;
        self.uses(&used);
        if let Some(error) = unkept {
            self.cannot_keep(archive.clone(), policy.revision.digest.clone(), &error);
        }
        self.is_live(policy, *source);
        Ok(())
    }

    /// Puts a policy behind the gateway's one pointer, on the word of `actor`.
    pub(super) fn put(
        &self,
        policy: &Policy,
        actor: &str,
        mut more: Vec<(&'static str, Value)>,
    ) -> Result<(), Rejection> {
        let before = if self.running.is_none() { Before::Minimal } else { Before::Policy };
        let effective = (self.finish)(policy.effective.clone());
        let signers: Vec<&str> = policy.signers.iter().map(|key| &**key).collect();
        more.push(("signers", json!(signers)));
        self.gateway.endpoint.expects(Arrival {
            effective: Arc::clone(&effective.digest),
            bundle: bundle(policy),
            actor: actor.to_owned(),
            more,
        });
        reload::put(&self.gateway, effective, before).map_err(Rejection::from)
    }

    /// Whether this is the time, by the rings and the calendar of what runs: a policy does not
    /// write its own permission. A store that has nothing takes what there is. The exceptions that
    /// it needs.
    fn admit(&self, candidate: &Waiting) -> Result<Vec<Used>, Rejection> {
        let Waiting { policy, verified, seen, .. } = candidate;
        let Some(running) = &self.running else { return Ok(Vec::new()) };
        let now = clock::now();
        let state = self.gateway.clock.state();
        let gate = RingGate {
            sequence: policy.revision.sequence.unwrap_or(0),
            created_at: policy.revision.created_at,
            released_through: policy.delivery.released_through.as_deref(),
            immediate: policy.delivery.immediate,
            immediate_signed: verified.emergency,
            promotions: &verified.promotions,
            hash: place(&policy.manifest.sequence.to_string(), &self.spec.store),
            seen: now.saturating_duration_since(*seen),
        };
        if policy.delivery.immediate && verified.emergency > 0 {
            running.delivery.rings.admit(&gate, state, wall())?;
            return Ok(Vec::new());
        }
        // What has no order has no rings: nobody could promote it.
        if policy.revision.sequence.is_some() {
            running.delivery.rings.admit(&gate, state, wall())?;
        }
        self.calendar(running, policy)
    }

    /// Whether a window or a freeze that names `config` holds policy now, and the exceptions that
    /// let it go. An Override may come in the very policy that is held: its signatures are checked,
    /// and how many of whom are needed says the freeze that runs.
    fn calendar(&self, running: &Policy, next: &Policy) -> Result<Vec<Used>, Rejection> {
        let (clock, now) = self.gateway.clock.now();
        let (gate, coming) = (&running.effective.gate, &next.effective.gate);
        let overrides = coming.overrides.iter().chain(&gate.overrides).cloned().collect();
        // Rings are looked at with what was signed for this bundle.
        let calendar = Gate { policy: None, overrides, ..gate.clone() };
        let opening = calendar.of_policy(clock, now);
        if opening.held_by.is_empty() {
            let used =
                |(what, by): &(Blocker, &str)| Used { what: what.to_string(), by: (*by).into() };
            return Ok(opening.suspended.iter().map(used).collect());
        }
        let names: Vec<String> = opening.held_by.iter().map(ToString::to_string).collect();
        Err(Rejection::Frozen(names.join(", ")))
    }

    /// Each use of an exception is a record.
    fn uses(&self, used: &[Used]) {
        for Used { what, by } in used {
            let fields = vec![
                ("override", json!(&**by)),
                ("rollout", json!("config")),
                ("suspends", json!(what)),
            ];
            self.audit(Action::OverrideUsed, "policy", fields);
        }
    }

    /// Exceptions that count now are a condition until they end.
    pub(super) fn tell_overrides(&mut self) {
        let (clock, now) = self.gateway.clock.now();
        let running = self.gateway.running();
        let gate = &running.effective.gate;
        let active = gate.overrides.iter().filter(|one| gate.honours(one, clock, now));
        let told: Vec<String> =
            active.map(|one| format!("Override/{} until {}", one.name, one.valid.until)).collect();
        if told.is_empty() {
            self.conditions.clear("OverrideActive");
        } else {
            self.conditions.raise("OverrideActive", "Signed", &told.join(", "));
        }
    }

    /// It serves: everybody is told, and the disk.
    fn is_live(&mut self, policy: &Arc<Policy>, source: usize) {
        let name = self.sources.get(&source).map(|state| Arc::clone(&state.name));
        tracing::info!(
            source = name.as_deref(),
            revision = policy.manifest.revision,
            sequence = policy.revision.sequence,
            digest = &*policy.effective.digest,
            "policy in effect, on probation"
        );
        let facts = self.tally.facts(&self.gateway);
        self.machine.handle_swapped(policy.revision.clone(), &facts, clock::now());
        self.gateway.clock.raise_floor(policy.revision.created_at);
        self.serves(policy);
        self.running_from = Some(source);
        self.refuses(source, None);
        self.probation_since = Some(clock::now());
        let applied = policy.revision.sequence;
        self.waiting.take_if(|waiting| waiting.policy.revision.sequence <= applied);
        for kind in ["Minimal", "Rejected", "Held", "RolledBack", "NoWayBack", "Unproven"] {
            self.conditions.clear(kind);
        }
        self.refused = None;
        self.attempted = json!({ "sequence": policy.revision.sequence, "result": "Applied" });
        self.conditions.raise("Ready", "Applied", &policy.manifest.revision);
        self.history.note(policy, "Applied", "");
        self.meters.applied("applied", "New");
        self.meters.last_success.set(1);
        self.do_effects();
    }

    /// Says why a bundle is not taken. Whether the source need not give it again.
    fn reject(&mut self, source: usize, sequence: Option<u64>, why: &Rejection) -> bool {
        let name = self.sources.get(&source).map(|state| Arc::clone(&state.name));
        let name = name.as_deref().unwrap_or_default();
        let (reason, text) = (why.reason(), explain(why));
        let of = sequence.map_or_else(String::new, |sequence| format!(", sequence {sequence}"));
        let message = format!("from {name}{of}: {text}");
        let result = if why.waits() { "Held" } else { "Rejected" };
        self.attempted = json!({ "sequence": sequence, "result": result, "reason": reason });
        if why.waits() {
            let is_first = !self.conditions.is("Held");
            self.conditions.raise("Held", reason, &message);
            // Nothing is wrong with what the source has now.
            self.refused = None;
            self.conditions.clear("Rejected");
            if is_first {
                tracing::info!(source = name, sequence, "policy waits: {text}");
                self.meters.applied("held", reason);
            }
            return true;
        }
        if source > 0 && matches!(why, Rejection::Refused(Refusal::Older { .. })) {
            // A stick in a drawer is older than what is in effect; that is what it is for.
            self.conditions.raise(&format!("Older/{name}"), reason, &message);
            return true;
        }
        if self.waiting.is_none() {
            self.conditions.clear("Held");
        }
        self.refused = Some(json!({ "sequence": sequence, "reason": reason, "why": text }));
        self.refuses(source, Some(&text));
        if self.conditions.raise("Rejected", reason, &message) {
            tracing::error!(
                source = name,
                sequence,
                reason,
                "policy refused, what runs stays: {text}"
            );
            let is_forged = matches!(why, Rejection::Verify(_));
            let action = if is_forged { Action::VerifyFailed } else { Action::Reject };
            let told: String = text.chars().take(TOLD_CHARS_MAX).collect();
            let fields = vec![
                ("sequence", json!(sequence)),
                ("reason", json!(reason)),
                ("why", json!(told)),
                ("result", json!("Rejected")),
            ];
            self.audit(action, &format!("source:{name}"), fields);
            self.meters.applied("rejected", reason);
            for finding in why.findings() {
                self.meters.invalid(finding.kind().map_or("", Kind::name));
            }
            self.meters.last_success.set(0);
            self.gateway.metrics.reloaded(Err(()));
        }
        !why.passes()
    }
}

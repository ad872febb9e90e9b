//! From a verified policy bundle to last known good, or back.
//!
//! In go candidates, swaps that were done, facts about health, and the time; out come
//! [`Effect`]s in the order in which the disk must see them. A revision that was swapped in is on
//! probation: it is promoted to *last known good*, kept without that honour, or rolled back and
//! remembered so that the loop does not take it again. A newer revision ends the probation of the
//! one before; nothing is queued. Fetching, verifying and compiling are the caller's: what fails
//! there never reaches this machine, and what runs stays.

mod cadence;
mod health;
mod memory;
mod poll;
mod promote;
mod ring;
mod wall;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::cadence::{Cadence, CadenceSpec, Reported, Trigger};
pub use self::health::{Facts, HealthSpec, RouteFact, Since, Verdict, judge};
pub use self::memory::{
    Applied, Boot, Boots, Bundle, DENIED_MAX, DONE_MAX, Denied, Done, Ended, Fate, Memory, OnDisk,
    Pin, RUNS_MAX, Remark, Run, Serve, Stage,
};
pub use self::poll::{Hint, Poll, PollSpec, Polled};
pub use self::promote::{Metric, RingEvidence, Word, judge_ring};
pub use self::ring::{Approval, Held, Promotion, Ring, RingGate, RingSpec, Role};
pub use self::wall::{ClockState, ClockTrust, Reading, Wall};

/// Content address of a bundle: `sha256:` and 64 hex digits over its manifest.
pub type Digest = Arc<str>;

/// Samples of health kept from before a swap: ten minutes at one every ten seconds.
const SAMPLES_MAX: usize = 60;

/// Starts or probations that a digest may break before it is not tried again.
const ATTEMPTS_MAX: u8 = 2;

/// What identifies a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its content.
    pub digest: Digest,
    /// Its place in the order of bundles; `None` where the source has no order (a plain folder).
    pub sequence: Option<u64>,
    /// When it was made.
    pub created_at: Wall,
}

/// Why a candidate is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It runs already.
    #[error("it runs already")]
    Running,
    /// It was rolled back, or broke too many starts.
    #[error("it was rolled back and is not tried again: {0}; publish a fix with a higher sequence")]
    Denied(Arc<str>),
    /// A later one has been accepted.
    #[error("sequence {offered} is older than {accepted}, which this store has accepted")]
    Older {
        /// Its number.
        offered: u64,
        /// The highest one accepted.
        accepted: u64,
    },
    /// Another bundle has the same number.
    #[error("sequence {0} was accepted with other content; publish it with a higher sequence")]
    SameSequence(u64),
    /// An operator holds the store on another one.
    #[error("the store is pinned to {0}")]
    Pinned(Digest),
}

/// What the caller must do, in this order; each only after the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `current` leads to this bundle.
    PointCurrent(Digest),
    /// `lkg` leads to this bundle.
    PointLkg(Digest),
    /// The memory is written.
    Remember,
    /// The last known good is swapped in; then [`Reconciler::handle_rolled_back`].
    RollBack(Digest),
    /// Something that people should know.
    Say(Event),
}

/// What happened to a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is the last known good from here on.
    Promoted(Digest),
    /// It stays, but there was too little evidence to call it good.
    Kept(Digest, Arc<str>),
    /// It made things worse.
    RolledBack(Digest, Arc<str>),
    /// It made things worse, and there is nothing to go back to.
    NoWayBack(Digest, Arc<str>),
}

/// How long a revision is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbationSpec {
    /// At least so long.
    pub least: Duration,
    /// And until so many critical requests were seen, to have seen the tills at work.
    pub requests: u64,
    /// At most so long.
    pub most: Duration,
    /// What counts as worse.
    pub health: HealthSpec,
}

/// A revision on probation.
#[derive(Clone, Debug)]
struct Probation {
    since: Instant,
    /// The counts at the swap.
    start: Facts,
    /// Its time is over; it may still turn out to be good.
    kept: bool,
    last: Verdict,
}

/// One store's policy, over time.
#[derive(Clone, Debug)]
pub struct Reconciler {
    memory: Memory,
    running: Option<Revision>,
    lkg: Option<Revision>,
    spec: ProbationSpec,
    probation: Option<Probation>,
    /// Of the last known good while it runs: only that is a baseline.
    samples: VecDeque<Facts>,
    baseline: Since,
    effects: VecDeque<Effect>,
    /// Swapped back, as soon as the caller has done so.
    falling: Option<Arc<str>>,
}

impl Reconciler {
    /// A loop that begins with what [`OnDisk::boot`] decided to serve.
    pub fn new(boot: &Boot, spec: ProbationSpec) -> Self {
        // The next start shall not find again what this one has passed over.
        let passed_over = match &boot.serve {
            Serve::Lkg(lkg) => Some(Effect::PointCurrent(Arc::clone(&lkg.digest))),
            Serve::Current(_) | Serve::Minimal => None,
        };
        Self {
            memory: boot.memory.clone(),
            running: boot.serve.revision().cloned(),
            lkg: boot.lkg.clone(),
            spec,
            probation: None,
            samples: VecDeque::new(),
            baseline: Since::default(),
            effects: passed_over.into_iter().collect(),
            falling: None,
        }
    }

    /// What must survive a restart.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The same, for what is not decided here (the clock's floor, the pin, the boots).
    pub const fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// What runs; `None` = the built-in minimal policy.
    pub const fn running(&self) -> Option<&Revision> {
        self.running.as_ref()
    }

    /// What a rollback would return to.
    pub const fn lkg(&self) -> Option<&Revision> {
        self.lkg.as_ref()
    }

    /// Since when the running revision is watched, and what is thought of it so far. One that was
    /// kept without evidence is watched until there is some, or another one comes.
    pub fn probation(&self) -> Option<(Instant, &Verdict)> {
        self.probation.as_ref().map(|probation| (probation.since, &probation.last))
    }

    /// Whether a verified candidate may be compiled and swapped in.
    ///
    /// # Errors
    /// [`Refusal`]; what runs stays.
    pub fn examine(&self, candidate: &Revision) -> Result<(), Refusal> {
        if self.running.as_ref().is_some_and(|running| running.digest == candidate.digest) {
            return Err(Refusal::Running);
        }
        let pin = self.memory.pin.as_ref();
        if pin.is_some_and(|pin| pin.digest == candidate.digest) {
            return Ok(());
        }
        self.orderly(candidate)?;
        // Nothing else is against it: it waits for the end of the pin.
        pin.map_or(Ok(()), |pin| Err(Refusal::Pinned(Arc::clone(&pin.digest))))
    }

    /// Whether its past and its number allow a candidate.
    fn orderly(&self, candidate: &Revision) -> Result<(), Refusal> {
        if let Some(denied) = self.memory.denial(&candidate.digest) {
            return Err(Refusal::Denied(Arc::clone(&denied.why)));
        }
        let (Some(offered), Some((accepted, digest))) =
            (candidate.sequence, self.memory.highest.as_ref())
        else {
            return Ok(());
        };
        match offered.cmp(accepted) {
            std::cmp::Ordering::Less => Err(Refusal::Older { offered, accepted: *accepted }),
            std::cmp::Ordering::Equal if *digest != candidate.digest => {
                Err(Refusal::SameSequence(offered))
            }
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Ok(()),
        }
    }

    /// `revision` serves from now on: it is on probation. What `facts` said last is the baseline.
    pub fn handle_swapped(&mut self, revision: Revision, facts: &Facts, now: Instant) {
        let recent = self.samples.front().map_or_else(Since::default, |old| facts.since(old));
        if recent.requests >= self.spec.health.samples {
            self.baseline = recent;
        }
        self.samples.clear();
        self.memory.accept(&revision);
        self.effects.push_back(Effect::PointCurrent(Arc::clone(&revision.digest)));
        self.effects.push_back(Effect::Remember);
        self.running = Some(revision);
        self.falling = None;
        self.probation = Some(Probation {
            since: now,
            start: facts.clone(),
            kept: false,
            last: Verdict::Inconclusive("it has just begun".into()),
        });
    }

    /// `revision`, which was in effect before, serves again because somebody says so. A grudge
    /// against it is over, and the last known good need not prove itself again.
    pub fn handle_returned(&mut self, revision: Revision, facts: &Facts, now: Instant) {
        let digest = Arc::clone(&revision.digest);
        self.memory.denied.retain(|denied| denied.digest != digest);
        self.handle_swapped(revision, facts, now);
        if self.lkg.as_ref().is_some_and(|lkg| lkg.digest == digest) {
            self.probation = None;
            self.memory.settle(&digest, Stage::Promoted);
        }
    }

    /// Another pin, or none.
    pub fn handle_pin(&mut self, pin: Option<Pin>) {
        self.memory.pin = pin;
        self.effects.push_back(Effect::Remember);
    }

    /// The wall clock now, and for how long the store has lived since it was last told. The pin
    /// that is over with that.
    pub fn handle_time(&mut self, wall: Wall, trusted: bool, lived: Duration) -> Option<Pin> {
        let pin = self.memory.pin.as_mut()?;
        pin.spent = pin.spent.saturating_add(lived.as_secs());
        if !pin.is_over(wall, trusted) {
            return None;
        }
        self.effects.push_back(Effect::Remember);
        self.memory.pin.take()
    }

    /// The health of the store now; to be told every ten seconds or so.
    pub fn handle_facts(&mut self, facts: &Facts, now: Instant) {
        if let Some(probation) = &mut self.probation {
            let since = facts.since(&probation.start);
            probation.last = judge(&self.baseline, &since, facts, &self.spec.health);
            self.decide(facts, now);
        }
        if self.probation.is_some() || self.running.as_ref() != self.lkg.as_ref() {
            // Errors of a bad policy must not become what the next one is measured by.
            return;
        }
        self.samples.push_back(facts.clone());
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// When the caller must tell facts at the latest, because a decision falls due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probation = self.probation.as_ref().filter(|probation| !probation.kept)?;
        Some(probation.since + self.spec.most)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The last known good serves again; or it could not be had, and what ran before still runs.
    pub fn handle_rolled_back(&mut self, serves: bool) {
        let Some(why) = self.falling.take() else { return };
        let bad = self.running.clone();
        if let Some(bad) = &bad {
            self.memory.deny(bad, &why);
        }
        match (serves, self.lkg.clone(), bad) {
            (true, Some(lkg), Some(bad)) => {
                if let Some(pin) = self.memory.pin.as_mut().filter(|pin| pin.digest == bad.digest) {
                    // Whoever pinned it wanted no change; this one was needed.
                    pin.digest = Arc::clone(&lkg.digest);
                }
                self.memory.settle(&lkg.digest, Stage::Promoted);
                self.effects.push_back(Effect::PointCurrent(Arc::clone(&lkg.digest)));
                self.effects.push_back(Effect::Remember);
                self.effects.push_back(Effect::Say(Event::RolledBack(bad.digest, why)));
                self.running = Some(lkg);
            }
            (_, _, Some(bad)) => {
                self.effects.push_back(Effect::Remember);
                self.effects.push_back(Effect::Say(Event::NoWayBack(bad.digest, why)));
            }
            (_, _, None) => {}
        }
    }

    fn decide(&mut self, facts: &Facts, now: Instant) {
        let (Some(probation), Some(running)) = (&mut self.probation, &self.running) else { return };
        let age = now.saturating_duration_since(probation.since);
        let enough =
            age >= self.spec.least && facts.since(&probation.start).requests >= self.spec.requests;
        let digest = Arc::clone(&running.digest);
        match probation.last.clone() {
            Verdict::Fail(why) if !probation.kept => self.fail(&digest, why),
            Verdict::Pass if enough || age >= self.spec.most => self.promote(digest),
            Verdict::Inconclusive(why) if age >= self.spec.most && !probation.kept => {
                probation.kept = true;
                self.memory.settle(&digest, Stage::Kept);
                self.effects.push_back(Effect::Remember);
                self.effects.push_back(Effect::Say(Event::Kept(digest, why)));
            }
            Verdict::Pass | Verdict::Fail(_) | Verdict::Inconclusive(_) => {}
        }
    }

    fn promote(&mut self, digest: Digest) {
        self.probation = None;
        self.lkg.clone_from(&self.running);
        self.memory.settle(&digest, Stage::Promoted);
        self.effects.push_back(Effect::PointLkg(Arc::clone(&digest)));
        self.effects.push_back(Effect::Remember);
        self.effects.push_back(Effect::Say(Event::Promoted(digest)));
    }

    fn fail(&mut self, digest: &Digest, why: Arc<str>) {
        self.probation = None;
        match self.lkg.as_ref().filter(|lkg| lkg.digest != *digest) {
            Some(lkg) => {
                self.effects.push_back(Effect::RollBack(Arc::clone(&lkg.digest)));
                self.falling = Some(why);
            }
            None => {
                // The first policy of a store: the minimal one would not be better.
                self.memory.settle(digest, Stage::Kept);
                self.effects.push_back(Effect::Remember);
                let event = Event::NoWayBack(Arc::clone(digest), why);
                self.effects.push_back(Effect::Say(event));
            }
        }
    }
}

#[cfg(test)]
mod tests;

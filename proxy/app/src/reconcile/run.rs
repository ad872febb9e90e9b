//! The loop: answers of sources in, a running policy out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillgate_config::bundle::place;
use tillgate_core::reconcile::{Boot, ClockState, Fate, Hint, OnDisk, Reconciler, Remark, Run};
use tillgate_net::clock;
use tillgate_net::drain::Phase;
use tillgate_net::metrics::PolicyMeters;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::boot::Lock;
use super::candidate::Policy;
use super::facts::Tally;
use super::office::{Office, Ordered, Standing};
use super::operations::{Operations, Outcome};
use super::report::Reporter;
use super::shown::{Conditions, Facts, History};
use super::watch::Watched;
use super::{Booted, Finish, Spec, wall};
use crate::endpoint::Bundle;
use crate::endpoint::audit::{Action, Record};
use crate::endpoint::drift::Item;
use crate::gateway::Gateway;
use crate::sources::Source;

mod ages;
mod check;
mod effects;
mod hear;
mod keep;
mod operations;
mod ordered;
mod report;
mod take;

use self::check::written;
use self::hear::SourceState;
use self::keep::Unkept;
use self::take::Waiting;

/// How often the store's health and clock are looked at.
const TICK: Duration = Duration::from_secs(10);

/// While a policy is watched or waits, a harm of a second is enough.
const TICK_WATCHED: Duration = Duration::from_secs(1);

/// A start that has lived so long was none that kills.
const LIVED: Duration = Duration::from_secs(60);

/// Threads for folders and programs that may hang: two for each of sixteen sources.
const SOURCE_THREADS: usize = 32;

/// After the drain: for the memory to be written. A disk that hangs is not waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A word to the loop from outside, and its last one.
pub(crate) struct Told {
    hint: watch::Sender<u64>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Told {
    /// There may be something new.
    pub(crate) fn look_now(&self, hint: Hint) {
        self.hint.send_modify(|people| *people += u64::from(hint == Hint::Operator));
    }

    /// Waits until the loop has ended, which it does when the gateway drains.
    pub(crate) fn wait(&self) {
        // Late or gone: what is on disk is whole either way.
        let _ = self.ended.recv_timeout(LAST_WORDS);
    }
}

/// See the module.
pub(super) struct Loop {
    gateway: Arc<Gateway>,
    spec: Arc<Spec>,
    finish: Finish,
    office: Arc<Office>,
    machine: Reconciler,
    running: Option<Arc<Policy>>,
    /// Which source gave it, as far as it is known.
    running_from: Option<usize>,
    lkg: Option<Arc<Policy>>,
    waiting: Option<Waiting>,
    tally: Tally,
    conditions: Conditions,
    history: History,
    /// The last policy that was refused, for whoever asks.
    refused: Option<Value>,
    sources: BTreeMap<usize, SourceState>,
    meters: PolicyMeters,
    began: Instant,
    lived: bool,
    floor_written: Instant,
    /// Up to when a pin's time has been counted.
    counted: Instant,
    /// What was thought of the clock last.
    clock_told: Option<ClockState>,
    /// The newest policy that a source gave, and what became of the last one that was tried.
    desired: Value,
    attempted: Value,
    /// What takes time to look at, and when that was done.
    found: Vec<Item>,
    /// What a hand has made of the memory before it was replaced, until the centre knows; and
    /// whether a report that was sent says so.
    overwritten: Option<(Item, bool)>,
    /// Digest of what answers requests, computed anew.
    whole: Arc<str>,
    checked: Instant,
    /// Hash of the memory as it was written.
    written: String,
    reporter: Option<Reporter>,
    /// Of each source.
    operations: BTreeMap<usize, Operations>,
    /// Outcomes that the centre does not know yet.
    results: Vec<Outcome>,
    /// How many there ever were.
    outcomes: u64,
    probation_since: Option<Instant>,
    /// What could not be written last.
    unwritten: Option<String>,
    /// What serves and is not on disk.
    unkept: Option<Unkept>,
    _lock: Lock,
}

impl Booted {
    /// Begins to ask the sources, on a thread of its own, until the gateway drains.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start(self, gateway: Arc<Gateway>) -> io::Result<Told> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(SOURCE_THREADS)
            .build()?;
        let (hint, hints) = watch::channel(0);
        let (end, ended) = std::sync::mpsc::channel();
        thread::Builder::new().name("policy".into()).spawn(move || {
            let booted = self.owning();
            runtime.block_on(async move {
                let (mut all, orders) = Loop::new(booted, Arc::clone(&gateway));
                tokio::select! {
                    () = all.run(hints, orders) => {}
                    () = gateway.drain.reached(Phase::Draining) => {}
                }
                all.end();
            });
            let _ = end.send(());
            // A file system that hangs must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Told { hint, ended })
    }

    /// Waits until the process before has let go of the state, and goes on from there.
    fn owning(mut self) -> Self {
        let Lock::Others(file) = self.lock else { return self };
        tracing::info!("another process writes the state directory; policy waits for its end");
        let locked = file.lock();
        if let Err(error) = locked {
            self.unwritten = Some(error.to_string());
        }
        self.lock = Lock::Ours(Some(file));
        let state = &self.spec.state;
        if let Err(error) = state.prepare() {
            self.unwritten.get_or_insert(error.to_string());
        }
        let disk: OnDisk = state.look(|archive| self.spec.verify_kept(archive).is_ok());
        let boot = disk.boot(wall());
        // What serves is what this process has begun with; the source brings the rest.
        self.boot.memory = boot.memory;
        self.boot.lkg = boot.lkg;
        if let Err(error) = state.remember(&self.boot.memory) {
            self.unwritten.get_or_insert(error.to_string());
        }
        self
    }
}

impl Loop {
    fn new(booted: Booted, gateway: Arc<Gateway>) -> (Self, mpsc::Receiver<Ordered>) {
        let Booted { spec, boot, policy, finish, lock, unwritten } = booted;
        let spec = Arc::new(spec);
        let (office, orders) = Office::new(Arc::clone(&spec), Arc::clone(&finish));
        let mut conditions = Conditions::default();
        for remark in &boot.remarks {
            let kind = format!("{remark:?}");
            conditions.raise(&kind, "Start", "the state directory was not as it should be");
        }
        if let Some(why) = unwritten {
            conditions.raise("StateUnwritten", "Disk", &why);
        }
        tell_boot_loop(&gateway, &boot);
        if policy.is_none() {
            let text = "no policy yet: the built-in minimal one serves";
            conditions.raise("Minimal", "NoPolicy", text);
        }
        let unsigned = spec.sources.iter().any(|source| source.allow_unsigned);
        if unsigned {
            conditions.raise("Unsigned", "Allowed", "a source may give policy that nobody signed");
        }
        let machine = Reconciler::new(&boot, spec.probation);
        gateway.clock.recall(&boot.memory);
        if let Some(policy) = &policy {
            gateway.clock.raise_floor(policy.revision.created_at);
        }
        let is_lkg = machine.lkg() == machine.running();
        let now = clock::now();
        let all = Self {
            meters: gateway.policy_meters.clone(),
            gateway,
            finish,
            office,
            lkg: policy.clone().filter(|_| is_lkg),
            running: policy,
            running_from: None,
            spec,
            machine,
            waiting: None,
            tally: Tally::default(),
            conditions,
            history: History::default(),
            refused: None,
            sources: BTreeMap::new(),
            began: now,
            lived: false,
            floor_written: now,
            counted: now,
            clock_told: None,
            desired: Value::Null,
            attempted: Value::Null,
            found: Vec::new(),
            overwritten: None,
            whole: "".into(),
            checked: now,
            written: written(&boot.memory),
            reporter: None,
            operations: BTreeMap::new(),
            results: Vec::new(),
            outcomes: 0,
            probation_since: None,
            unwritten: None,
            unkept: None,
            _lock: lock,
        };
        all.show();
        all.gateway.policy.opens(Arc::clone(&all.office));
        (all, orders)
    }

    /// It was told to stop, which is not dying young.
    fn end(&mut self) {
        self.machine.memory_mut().lived();
        self.remember();
    }

    async fn run(&mut self, mut hints: watch::Receiver<u64>, mut orders: mpsc::Receiver<Ordered>) {
        // One answer of each source at a time: it waits for the verdict.
        let (tell, mut answers) = mpsc::channel(self.spec.sources.len().max(1));
        let (ends, mut reports) = mpsc::channel(1);
        self.begin_to_report(ends);
        self.recall();
        self.tell_untold();
        let (office, mut answered) = (Arc::clone(&self.office), 0);
        let mut asking = JoinSet::new();
        for watched in self.watched() {
            asking.spawn(watched.ask(Arc::clone(&self.gateway), tell.clone(), hints.clone()));
        }
        if let Some(policy) = self.running.clone() {
            self.gateway.endpoint.came_in(bundle(&policy));
            let is_lkg = self.machine.lkg() == self.machine.running();
            self.runs(&policy, if is_lkg { Fate::Good } else { Fate::Kept });
            self.says_runs(&policy);
            self.meters.last_success.set(i64::from(self.is_newest_known()));
            self.conditions.raise("Ready", "FromDisk", &policy.manifest.revision);
        }
        loop {
            self.tick();
            let watched = self.waiting.is_some() || self.machine.probation().is_some();
            let due = clock::now() + if watched { TICK_WATCHED } else { TICK };
            let due = self.reports_at().map_or(due, |at| at.min(due));
            // Answers may come faster than ticks are due. There is no end of them but the drain's.
            loop {
                let was = self.machine.probation().is_some();
                tokio::select! {
                    // What is known is heard before a question about it is answered.
                    biased;
                    () = tokio::time::sleep_until(due.into()) => break,
                    Some(ordered) = orders.recv() => self.obey(ordered),
                    Some(sent) = reports.recv() => {
                        self.reported(sent);
                        break;
                    }
                    Some(said) = answers.recv() => {
                        self.hears(said);
                        self.show();
                    }
                    asked = office.questions().more(answered) => {
                        self.answer(asked);
                        answered = asked;
                    }
                    Ok(()) = hints.changed(), if asking.is_empty() => self.looks_nowhere(),
                }
                if !was && self.machine.probation().is_some() {
                    break;
                }
            }
        }
    }

    /// Sources that can be asked; what can never give anything is told.
    fn watched(&mut self) -> Vec<Watched> {
        let something = self.running.is_some();
        let mut found = Vec::new();
        for (number, spec) in self.spec.sources.iter().enumerate() {
            let (name, mut never) = (Arc::clone(&spec.name), None);
            match Source::new(spec, self.spec.state.root()) {
                Ok(source) => found.push(Watched {
                    number,
                    source,
                    poll: Watched::poll(spec, place(&spec.name, &self.spec.store), something),
                    meter: self.meters.source(&spec.name),
                    spec: spec.clone(),
                }),
                Err(why) => {
                    tracing::error!(source = &*name, "a source can never be used: {why}");
                    self.conditions.raise(&format!("FetchFailed/{name}"), "Unusable", &why);
                    never = Some(why);
                }
            }
            self.sources.insert(number, SourceState::new(name, never));
        }
        found
    }

    /// Looks at the clock, the store's health and whatever waits.
    fn tick(&mut self) {
        let now = clock::now();
        self.gateway.clock.look();
        self.remember_clock(now);
        self.pass_time(now);
        let facts = self.tally.facts(&self.gateway);
        self.machine.handle_facts(&facts, now);
        if !self.lived && now.saturating_duration_since(self.began) >= LIVED {
            self.lived = true;
            self.machine.memory_mut().lived();
            self.remember();
        }
        self.do_effects();
        self.try_to_keep(now);
        self.try_waiting();
        self.try_operations();
        self.tell_overrides();
        self.tell_ages();
        self.check_if_due(now);
        self.note_changes();
        self.report_if_due(now);
        self.show();
    }

    fn show(&self) {
        let probation = self.machine.probation().map(|(_, verdict)| format!("{verdict:?}"));
        let memory = self.machine.memory();
        let denied = memory.denied.iter().map(
            |one| json!({ "digest": &*one.digest, "sequence": one.sequence, "why": &*one.why }),
        );
        let pin = self.pin_shown();
        let facts = Facts {
            store: &self.spec.store,
            pin: &pin,
            running: self.running.as_ref(),
            lkg: self.lkg.as_ref(),
            waiting: self.waiting.as_ref().map(|waiting| &*waiting.policy),
            probation,
            clock: self.gateway.clock.state().name(),
            sources: self.sources.values().map(SourceState::show).collect(),
            denied: denied.collect(),
            refused: self.refused.as_ref(),
            highest: memory.highest.as_ref().map(|(sequence, _)| *sequence),
            conditions: &self.conditions,
            history: &self.history,
        };
        self.gateway.policy.set(facts.to_json());
        self.office.stands(Standing {
            running: self.running.clone(),
            lkg: self.machine.lkg().map(|lkg| Arc::clone(&lkg.digest)),
            candidate: self.waiting.as_ref().map(|waiting| Arc::clone(&waiting.policy)),
            runs: memory.runs.clone(),
            pin,
        });
    }

    /// A policy is in effect from now on.
    fn runs(&mut self, policy: &Policy, fate: Fate) {
        let run = Run {
            digest: Arc::clone(&policy.revision.digest),
            effective: Arc::clone(&self.gateway.running().effective.digest),
            sequence: policy.revision.sequence,
            revision: policy.manifest.revision.as_str().into(),
            since: wall(),
            fate,
        };
        let memory = self.machine.memory_mut();
        memory.runs(run);
        self.meters.last_at.set(memory.runs.last().map_or(0.0, |run| run.since.0 as f64));
    }

    /// Whether what runs is the newest that this store remembers, unless somebody wants less.
    fn is_newest_known(&self) -> bool {
        let memory = self.machine.memory();
        let running = self.machine.running().and_then(|running| running.sequence);
        let highest = memory.highest.as_ref().map(|(sequence, _)| *sequence);
        memory.pin.is_some() || running.is_none() || running >= highest
    }

    fn says_runs(&self, policy: &Policy) {
        let sequence = policy.revision.sequence.unwrap_or(0);
        self.meters.runs(&policy.manifest.revision, &policy.effective.digest, sequence);
    }
}

/// A start that leaves a policy because the process kept dying with it is written down.
fn tell_boot_loop(gateway: &Gateway, boot: &Boot) {
    if !boot.remarks.contains(&Remark::BootLoop) {
        return;
    }
    let serves = boot.serve.revision().map(|revision| &*revision.digest);
    gateway.endpoint.record(Record {
        action: Action::BreakBootLoop,
        actor: "tillgate".to_owned(),
        fields: vec![("to", json!(serves)), ("reason", json!("it kept dying young"))],
    });
}

/// What a policy came in, as the endpoint says it.
fn bundle(policy: &Policy) -> Bundle {
    Bundle {
        digest: Arc::clone(&policy.revision.digest),
        sequence: policy.revision.sequence,
        revision: policy.manifest.revision.clone(),
    }
}

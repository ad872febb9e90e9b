//! One endpoint on the board: its health, its probes, and what is published of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Endpoint;
use crate::health::{Health, HealthSpec, Heard};
use crate::link::LinkId;
use crate::load::{Load, Verdict};

/// Looks after which old samples count half: ten seconds.
const LOOKS_TO_FADE: u32 = 10;

/// With fewer samples, nobody knows what 99 of 100 answers take; 19 of 20 has to do.
const FEW: u64 = 200;

/// Beyond the time that a deciding probe has, until it is taken for lost: it may have waited for
/// its connection.
const VERDICT_GRACE: Duration = Duration::from_secs(1);

/// Good probes in a row without a word about the age of data, after which what was said before
/// is forgotten.
const UNTOLD_MAX: u32 = 3;

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) backend: Arc<str>,
    pub(super) endpoint: Endpoint,
    pub(super) health: Health,
    pub(super) load: Arc<Load>,
    pub(super) line: Option<LinkId>,
    /// What was published last, and since when.
    pub(super) verdict: Verdict,
    pub(super) since: Instant,
    /// `None`: no rule uses it, or it is not probed.
    pub(super) next_probe: Option<Instant>,
    /// A probe is wanted at once.
    pub(super) urgent: bool,
    /// When what it is suspected of is settled at the latest, with or without a probe's word.
    verdict_due: Option<Instant>,
    /// From its first probe to the second; then probes are an interval apart.
    spread: Option<Duration>,
    /// Good probes in a row that did not say how old its data is.
    untold: u32,
    /// What calls have heard of that.
    data_mark: u64,
    /// Since when it has been silent, as long as that is held against it.
    pub(super) silent_since: Option<Instant>,
    looks: u32,
    heard_seen: Option<Instant>,
}

impl Watched {
    pub(super) fn new(
        name: (Arc<str>, Endpoint),
        load: Load,
        health: Arc<HealthSpec>,
        now: Instant,
    ) -> Self {
        let (backend, endpoint) = name;
        Self {
            backend,
            endpoint,
            health: Health::new(health, now),
            load: Arc::new(load),
            line: None,
            verdict: Verdict::Usable,
            since: now,
            next_probe: None,
            urgent: false,
            verdict_due: None,
            spread: None,
            untold: 0,
            data_mark: 0,
            silent_since: None,
            looks: 0,
            heard_seen: None,
        }
    }

    /// Another config. `phase` is where in its interval this store probes this endpoint.
    pub(super) fn follow(
        &mut self,
        health: &Arc<HealthSpec>,
        line: Option<LinkId>,
        phase: Option<u64>,
        now: Instant,
    ) {
        let interval = health.active.as_ref().map(|active| active.interval);
        if self.health.spec().data_age != health.data_age {
            self.load.forget_data_age();
        }
        self.health.reconfigure(Arc::clone(health));
        self.line = line;
        self.next_probe = match (interval, phase, self.next_probe) {
            (Some(interval), Some(_), Some(next)) => Some(next.min(now + interval)),
            (Some(interval), Some(phase), None) => {
                self.spread = spread(interval, phase);
                Some(now + part(interval, phase))
            }
            _ => None,
        };
        if self.next_probe.is_none() {
            // Nobody will find out.
            self.settle_suspicion();
        }
        self.publish_stall();
    }

    /// Whether a probe is due; the next one is scheduled then. How long it may take.
    pub(super) fn take_probe(&mut self, now: Instant) -> Option<Duration> {
        let active = self.health.spec().active.as_ref()?;
        let (interval, timeout) = (active.interval, active.timeout);
        let next = self.next_probe?;
        if self.urgent {
            self.urgent = false;
            let within = self.health.stall().verdict_within(timeout);
            self.verdict_due = Some(now + within + VERDICT_GRACE);
            return Some(within);
        }
        if next > now {
            return None;
        }
        // Probes that were missed are not made up for; the phase is kept.
        let missed = now.saturating_duration_since(next).as_nanos() / interval.as_nanos().max(1);
        let steps = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        let spread = self.spread.take().unwrap_or_default();
        self.next_probe = Some(next + interval.saturating_mul(steps) + spread);
        Some(timeout)
    }

    /// What its answers have taken lately. To be called every second.
    pub(super) fn look(&mut self, now: Instant) {
        self.health.handle_good(self.load.good(), now);
        let samples = self.load.samples();
        let heard = self.load.heard_at();
        let news = if heard > self.heard_seen { Heard::Yes } else { Heard::No };
        self.heard_seen = heard;
        let count = samples.count();
        // Of few samples the slowest hundredth is one, and may be an accident.
        let permille = if count < FEW { 950 } else { 990 };
        self.health.handle_habit(count, samples.quantile(permille), news);
        self.load.publish_p95(samples.quantile(950));
        self.publish_stall();
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_TO_FADE) {
            samples.fade();
        }
    }

    /// Whether a probe is wanted at once, and somebody sends it.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent && self.next_probe.is_some()
    }

    /// When a suspicion ends by itself, if there is one.
    pub(super) fn verdict_due(&self) -> Option<Instant> {
        self.verdict_due.filter(|_| self.verdict == Verdict::Suspect)
    }

    /// A probe could not find out, or never came back: it is asked again if the silence goes on.
    pub(super) fn settle_suspicion(&mut self) {
        (self.urgent, self.verdict_due, self.silent_since) = (false, None, None);
        self.health.handle_undecided();
        self.publish_stall();
    }

    /// What a probe was told of the age of its data. One that says nothing any more, to calls
    /// neither, is forgotten: what does not say is taken for fresh.
    pub(super) fn learn_data_age(&mut self, age: Option<Duration>, good: bool, now: Instant) {
        if let Some(age) = age {
            self.load.learn_data_age(age, now);
        }
        let mark = self.load.data_mark();
        if mark != self.data_mark {
            (self.data_mark, self.untold) = (mark, 0);
        } else if good {
            self.untold = self.untold.saturating_add(1);
            if self.untold >= UNTOLD_MAX {
                self.load.forget_data_age();
                (self.data_mark, self.untold) = (self.load.data_mark(), 0);
            }
        }
    }

    pub(super) fn publish_stall(&self) {
        let watched = self.health.spec().active.is_some() && self.next_probe.is_some();
        self.load.publish_stall_after(self.health.stall().after().filter(|_| watched));
    }
}

/// How much later than the rest a fleet's probes are after their first: intervals of more than a
/// second begin within one, so the others have to be spread over the whole of them.
fn spread(interval: Duration, phase: u64) -> Option<Duration> {
    let rest = interval.checked_sub(Duration::from_secs(1)).filter(|rest| !rest.is_zero())?;
    let most = u64::try_from(rest.as_micros()).unwrap_or(u64::MAX);
    Some(Duration::from_micros(phase.rotate_left(32) % most))
}

/// A part of `interval` that `phase` says, within the first second, so that a store that starts
/// knows soon.
fn part(interval: Duration, phase: u64) -> Duration {
    let most = u64::try_from(interval.min(Duration::from_secs(1)).as_micros()).unwrap_or(1);
    Duration::from_micros(phase % most.max(1))
}

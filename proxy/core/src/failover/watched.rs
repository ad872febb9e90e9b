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
        self.health.reconfigure(Arc::clone(health));
        self.line = line;
        self.next_probe = match (interval, phase) {
            (Some(interval), Some(phase)) => {
                let first = now + part(interval, phase);
                Some(self.next_probe.map_or(first, |next| next.min(now + interval)))
            }
            _ => None,
        };
        self.publish_stall();
    }

    /// Whether a probe is due; the next one is scheduled then. How long it may take.
    pub(super) fn take_probe(&mut self, now: Instant) -> Option<Duration> {
        let active = self.health.spec().active.as_ref()?;
        let (interval, timeout) = (active.interval, active.timeout);
        let next = self.next_probe?;
        if self.urgent {
            self.urgent = false;
            return Some(self.health.stall().verdict_within(timeout));
        }
        if next > now {
            return None;
        }
        // Probes that were missed are not made up for; the phase is kept.
        let missed = now.saturating_duration_since(next).as_nanos() / interval.as_nanos().max(1);
        let steps = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.next_probe = Some(next + interval.saturating_mul(steps));
        Some(timeout)
    }

    /// What its answers have taken lately. To be called every second.
    pub(super) fn look(&mut self) {
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

    pub(super) fn publish_stall(&self) {
        let watched = self.health.spec().active.is_some() && self.next_probe.is_some();
        self.load.publish_stall_after(self.health.stall().after().filter(|_| watched));
    }
}

/// A part of `interval` that `phase` says, within the first second, so that a store that starts
/// knows soon.
fn part(interval: Duration, phase: u64) -> Duration {
    let most = u64::try_from(interval.min(Duration::from_secs(1)).as_micros()).unwrap_or(1);
    Duration::from_micros(phase % most.max(1))
}

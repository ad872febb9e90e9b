//! One run: a store on a line, a system between them, payments all the time, bulk for a while.
//!
//! Phases: tills connect → idle (payments alone) → bulk starts, warm-up → measured → one pull
//! more. In goes a [`Plan`], out comes an [`Outcome`] with the figures that the lab quotes.
//! "Added" is a busy quantile less the idle median of the same run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::load::Way;
use crate::load::bulk::{Bulk, Flow};
use crate::load::payments::{self, Call, Payments};
use crate::preset::LineSpec;
use crate::stats::{Quantiles, jain, real, whole};
use crate::sys::{self, NANOS_PER_SEC, Nanos};
use crate::system::{Running, System};
use crate::testbed::Testbed;
use crate::truth::QueueReport;

/// For 64 tills to connect, 20 ms apart and a round trip each, and to make their first calls.
const OPENING_SECONDS: f64 = 4.0;
/// "The first seconds of a new pull".
const NEW_PULL_SECONDS: f64 = 2.0;
/// An idle p99 further above the base than this tells that the machine was busy.
const NOISE_MS: f64 = 5.0;

/// What to do in a run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub line: LineSpec,
    pub way: Way,
    pub pulls: usize,
    pub pushes: usize,
    pub payments_per_second: f64,
    pub tills: usize,
    pub idle_seconds: f64,
    pub warm_up_seconds: f64,
    pub seconds: f64,
    pub policy: Option<PathBuf>,
    pub congestion_control: Option<String>,
    /// Where the emulator's 100 ms log goes.
    pub truth_log: Option<PathBuf>,
    /// Where the emulator takes commands from other programs.
    pub control: Option<PathBuf>,
}

impl Plan {
    /// The load of the comparisons: 25 payments a second, 4 pulls, 2 uploads.
    pub fn standard(line: LineSpec, way: Way) -> Self {
        Self {
            line,
            way,
            pulls: 4,
            pushes: 2,
            payments_per_second: 25.0,
            tills: 64,
            idle_seconds: 5.0,
            warm_up_seconds: 3.0,
            seconds: 20.0,
            policy: None,
            congestion_control: None,
            truth_log: None,
            control: None,
        }
    }
}

/// What a run showed. Times are milliseconds, shares are of the line.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    pub idle: Quantiles,
    pub busy: Quantiles,
    pub added_p50: f64,
    pub added_p99: f64,
    pub failed: u64,
    /// Body bytes at the clients, as a share of the downlink.
    pub pull: f64,
    pub pull_by_flow: Vec<f64>,
    pub jain: f64,
    /// Body bytes at the origin, as a share of the uplink.
    pub push: f64,
    /// Worst call of the first two seconds, over the idle median: all flows starting at once,
    /// and one pull joining the others. `None` when there was no such moment.
    pub start_worst: Option<f64>,
    pub joining_worst: Option<f64>,
    pub queue_down: QueueReport,
    pub queue_up: QueueReport,
    /// Processor use of the proxy and of the emulator, in percent of one core.
    pub proxy_cpu: f64,
    pub emulator_cpu: f64,
    /// Resident memory of the proxy when it has just become ready.
    pub idle_rss_mib: f64,
    pub breaks: u64,
    /// The idle phase itself was disturbed; such a run is repeated, not averaged.
    pub noisy: bool,
    pub last_error: Option<String>,
}

/// Counters at one moment.
struct Snapshot {
    at: Nanos,
    pulled: Vec<u64>,
    pushed: u64,
    proxy_cpu: f64,
    emulator_cpu: Nanos,
}

/// A run under way.
struct Stage<'a> {
    plan: &'a Plan,
    bed: Testbed,
    running: Option<Running>,
    bulk: Bulk,
    idle_rss_mib: f64,
}

/// Does one run from empty namespaces to figures.
pub fn run(system: &System, plan: &Plan) -> Result<Outcome> {
    let bed = Testbed::build(plan.line.line(), plan.congestion_control.as_deref())?;
    if let Some(path) = &plan.control {
        bed.emulator.serve_commands(path).context("open the emulator's control socket")?;
    }
    let running = system.start(&bed, plan)?;
    let idle_rss_mib = running.as_ref().map_or(0.0, |one| one.process.rss_mib());
    let bulk = Bulk::start(plan.way)?;
    let stage = Stage { plan, bed, running, bulk, idle_rss_mib };
    let tills = Payments::start(payments::Plan {
        way: plan.way,
        per_second: plan.payments_per_second,
        connections: plan.tills,
    })?;
    stage.play(tills)
}

impl Stage<'_> {
    fn play(mut self, tills: Payments) -> Result<Outcome> {
        rest(OPENING_SECONDS);
        let idle_from = sys::now();
        rest(self.plan.idle_seconds);
        let bulk_from = sys::now();
        if tills.so_far().is_empty() && self.plan.payments_per_second > 0.5 {
            let reason = tills.last_error().unwrap_or_else(|| "no answer yet".into());
            bail!("no payment came through: {reason}");
        }
        self.bulk.add(Flow::Pull, self.plan.pulls)?;
        self.bulk.add(Flow::Push, self.plan.pushes)?;
        rest(self.plan.warm_up_seconds);
        let before = self.snapshot();
        rest(self.plan.seconds);
        let after = self.snapshot();
        if self.plan.pulls > 0 {
            self.bulk.add(Flow::Pull, 1)?;
            rest(NEW_PULL_SECONDS);
        }
        let last_error = tills.last_error().or_else(|| self.bulk.last_error());
        let breaks = self.bulk.breaks();
        // Open calls end on the line as it is, so the bulk stays until they have.
        let calls = tills.stop();
        if let Some(running) = &mut self.running
            && running.process.has_ended()
        {
            bail!("the proxy ended during the run:\n{}", running.process.log_end());
        }
        let mut outcome = self.figures(&calls, [idle_from, bulk_from], &before, &after);
        outcome.last_error = last_error.filter(|_| outcome.failed > 0 || breaks > 0);
        outcome.breaks = breaks;
        outcome.idle_rss_mib = self.idle_rss_mib;
        if let Some(path) = &self.plan.truth_log {
            std::fs::write(path, self.bed.emulator.log())
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(outcome)
    }

    fn snapshot(&self) -> Snapshot {
        let counters = self.bed.origins.counters();
        Snapshot {
            at: sys::now(),
            pulled: self.bulk.pulled(),
            pushed: counters.metrics_bytes.load(std::sync::atomic::Ordering::Relaxed),
            proxy_cpu: self.running.as_ref().map_or(0.0, |one| one.process.cpu_seconds()),
            emulator_cpu: self.bed.emulator.cpu(),
        }
    }

    fn figures(
        &self,
        calls: &[Call],
        [idle_from, bulk_from]: [Nanos; 2],
        before: &Snapshot,
        after: &Snapshot,
    ) -> Outcome {
        let line = self.plan.line;
        let seconds = real(after.at - before.at) / 1e9;
        let idle = latency(calls, idle_from, bulk_from);
        let busy = latency(calls, before.at, after.at);
        let pull_by_flow: Vec<f64> = (after.pulled.iter().zip(&before.pulled))
            .map(|(late, early)| LineSpec::share(line.down_mbit, late - early, seconds))
            .collect();
        let [queue_down, queue_up] = self.bed.emulator.report(before.at, after.at);
        let worst = |from: Nanos| {
            let span = whole(NEW_PULL_SECONDS * 1e9);
            (self.plan.pulls + self.plan.pushes > 0 && !calls.is_empty())
                .then(|| latency(calls, from, from + span).max - idle.p50)
        };
        Outcome {
            idle,
            busy,
            added_p50: busy.p50 - idle.p50,
            added_p99: busy.p99 - idle.p50,
            failed: calls.iter().filter(|call| call.outcome == payments::Outcome::Failed).count()
                as u64,
            pull: pull_by_flow.iter().sum(),
            jain: jain(&pull_by_flow),
            pull_by_flow,
            push: LineSpec::share(line.up_mbit, after.pushed - before.pushed, seconds),
            start_worst: worst(bulk_from),
            joining_worst: worst(after.at).filter(|_| self.plan.pulls > 0),
            queue_down,
            queue_up,
            proxy_cpu: (after.proxy_cpu - before.proxy_cpu) / seconds * 100.0,
            emulator_cpu: real(after.emulator_cpu - before.emulator_cpu) / 1e7 / seconds,
            noisy: idle.count > 0 && idle.p99 > idle.p50 + NOISE_MS,
            ..Outcome::default()
        }
    }
}

fn latency(calls: &[Call], from: Nanos, to: Nanos) -> Quantiles {
    let inside = calls.iter().filter(|call| (from..to).contains(&call.due));
    Quantiles::of_micros(inside.map(|call| call.took_us))
}

fn rest(seconds: f64) {
    sys::sleep_until(sys::now() + whole(seconds * real(NANOS_PER_SEC)));
}

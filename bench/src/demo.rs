//! `cargo demo`: the same store twice, without and with Tillgate, as it happens.
//!
//! Each act starts with payments alone; then image pulls and metric uploads fill the line. Bars
//! show what each class gets, and the payment that was just made shows how long it took. At the
//! end one table and one sentence. On a terminal the bars are redrawn in place, elsewhere a line
//! is printed every few seconds.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};

use crate::experiment::Plan;
use crate::load::Way;
use crate::load::bulk::{Bulk, Flow};
use crate::load::payments::{self, Call, Outcome, Payments};
use crate::preset::LineSpec;
use crate::stats::{Quantiles, millis, real, whole};
use crate::sys::{self, NANOS_PER_MS, NANOS_PER_SEC, Nanos};
use crate::system::{ENTRY, Running, System};
use crate::testbed::Testbed;
use crate::{out, say};

/// Two acts of this make the two minutes.
const QUIET_SECONDS: u64 = 10;
const BUSY_SECONDS: u64 = 42;
/// After the bulk starts, not counted in the table.
const WARM_UP_SECONDS: u64 = 3;
const FRAME: Nanos = 500 * NANOS_PER_MS;
/// Frames between two lines where nothing can be redrawn.
const FRAMES_PER_LINE: u64 = 6;
const BAR: usize = 32;
/// A payment this slow fills its bar.
const SLOW_MS: f64 = 400.0;

/// The policy a newcomer reads first.
fn quickstart() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/examples/quickstart.yaml"))
}

/// What an act showed; rates in Mbit/s.
struct Act {
    idle: Quantiles,
    busy: Quantiles,
    pull: f64,
    push: f64,
    failed: usize,
}

/// Plays the demo.
pub fn run() -> Result<()> {
    let line = LineSpec::of_mbit(20.0, 5.0);
    say!(
        "A store with one line to the cloud: {line} Mbit/s down/up, 40 ms away, emulated packet by"
    );
    say!(
        "packet. Its tills make 25 payments a second. Then it pulls 4 container images and pushes"
    );
    say!("2 streams of metrics, all as fast as they can. Real kernel TCP, real HTTP.\n");
    let mut plan = Plan::standard(line, Way::Direct);
    let without = act("1 of 2: WITHOUT Tillgate", &System::Direct, &plan)?;

    plan.way = Way::Entry(ENTRY);
    plan.policy = Some(quickstart()).filter(|path| path.is_file());
    match &plan.policy {
        Some(_) => say!(
            "\nNow the same store through `tillgate gateway --config config/examples/quickstart.yaml`.\n"
        ),
        None => {
            say!("\nNow the same store through `tillgate gateway`, told what the line carries.\n")
        }
    }
    let with = act("2 of 2: WITH Tillgate", &System::Tillgate, &plan)?;
    summary(line, &without, &with);
    Ok(())
}

fn act(title: &str, system: &System, plan: &Plan) -> Result<Act> {
    let bed = Testbed::build(plan.line.line(), None)?;
    let running = system.start(&bed, plan).context("start the gateway")?;
    let bulk = Bulk::start(plan.way)?;
    let tills = Payments::start(payments::Plan {
        way: plan.way,
        per_second: plan.payments_per_second,
        connections: plan.tills,
    })?;
    let mut stage = Stage { line: plan.line, bed, bulk, tills, screen: Screen::new(), running };
    say!("--- {title}");
    let quiet_from = sys::now() + 3 * NANOS_PER_SEC;
    stage.show("payments alone", QUIET_SECONDS)?;
    let quiet_to = sys::now();
    stage.bulk.add(Flow::Pull, plan.pulls)?;
    stage.bulk.add(Flow::Push, plan.pushes)?;
    stage.show("pulls and pushes fill the line", WARM_UP_SECONDS)?;
    let (from, before) = (sys::now(), stage.counters());
    stage.show("pulls and pushes fill the line", BUSY_SECONDS)?;
    let (to, after) = (sys::now(), stage.counters());
    let seconds = real(to - from) / 1e9;
    let mbit = |bytes: u64| real(bytes) * 8.0 / seconds / 1e6;
    let calls = stage.tills.stop();
    Ok(Act {
        idle: latency(&calls, quiet_from, quiet_to),
        busy: latency(&calls, from, to),
        pull: mbit(after.0 - before.0),
        push: mbit(after.1 - before.1),
        failed: calls.iter().filter(|call| call.outcome == Outcome::Failed).count(),
    })
}

struct Stage {
    line: LineSpec,
    bed: Testbed,
    bulk: Bulk,
    tills: Payments,
    screen: Screen,
    running: Option<Running>,
}

impl Stage {
    /// Pulled and pushed body bytes so far.
    fn counters(&self) -> (u64, u64) {
        let pushed = self.bed.origins.counters().metrics_bytes.load(Ordering::Relaxed);
        (self.bulk.pulled().iter().sum(), pushed)
    }

    /// Shows a phase as it happens.
    fn show(&mut self, phase: &str, seconds: u64) -> Result<()> {
        let start = sys::now();
        let (mut at, mut before) = (start, self.counters());
        for frame in 1..=seconds * (NANOS_PER_SEC / FRAME) {
            sys::sleep_until(start + frame * FRAME);
            let (now, after) = (sys::now(), self.counters());
            let span = real(now - at) / 1e9;
            let rate = |late: u64, early: u64| real(late - early) * 8.0 / span / 1e6;
            let calls = self.tills.so_far();
            let recent = latency(&calls, at.saturating_sub(NANOS_PER_SEC), now);
            let moment = Moment {
                phase,
                line: self.line,
                pull: rate(after.0, before.0),
                push: rate(after.1, before.1),
                payment_ms: calls.last().map_or(0.0, |call| millis(call.took_us)),
                worst_ms: recent.max,
            };
            self.screen.draw(&moment, frame);
            if let Some(running) = &mut self.running
                && running.process.has_ended()
            {
                anyhow::bail!("the gateway ended:\n{}", running.process.log_end());
            }
            (at, before) = (now, after);
        }
        Ok(())
    }
}

fn latency(calls: &[Call], from: Nanos, to: Nanos) -> Quantiles {
    let inside = calls.iter().filter(|call| (from..to).contains(&call.due));
    Quantiles::of_micros(inside.map(|call| call.took_us))
}

/// What one frame shows.
struct Moment<'a> {
    phase: &'a str,
    line: LineSpec,
    pull: f64,
    push: f64,
    payment_ms: f64,
    worst_ms: f64,
}

struct Screen {
    is_terminal: bool,
    lines_drawn: usize,
}

impl Screen {
    fn new() -> Self {
        Self { is_terminal: out::is_terminal(), lines_drawn: 0 }
    }

    fn draw(&mut self, moment: &Moment<'_>, frame: u64) {
        let Moment { phase, line, pull, push, payment_ms, worst_ms } = moment;
        if !self.is_terminal {
            if frame.is_multiple_of(FRAMES_PER_LINE) {
                say!(
                    "{phase:<31} pulls {pull:>5.1} Mbit/s   pushes {push:>4.1} Mbit/s   \
                     payment {payment_ms:>4.0} ms (worst of the last second {worst_ms:.0})"
                );
            }
            return;
        }
        if self.lines_drawn > 0 {
            // Back to the first line of the last frame, and clear from there.
            out::raw(format_args!("\x1b[{}A\x1b[J", self.lines_drawn));
        }
        say!("    {phase}");
        say!(
            "    image pulls  {} {pull:>5.1} of {} Mbit/s",
            bar(pull / line.down_mbit),
            line.down_mbit
        );
        say!(
            "    metrics      {} {push:>5.1} of {} Mbit/s",
            bar(push / line.up_mbit),
            line.up_mbit
        );
        say!(
            "    a payment    {} {payment_ms:>5.0} ms (worst of the last second {worst_ms:.0})",
            bar(payment_ms / SLOW_MS)
        );
        self.lines_drawn = 4;
    }
}

fn bar(share: f64) -> String {
    let full = usize::try_from(whole(share.clamp(0.0, 1.0) * real(BAR as u64))).unwrap_or(BAR);
    format!("{}{}", "█".repeat(full), "░".repeat(BAR - full))
}

fn summary(line: LineSpec, without: &Act, with: &Act) {
    say!("\n{:<44}{:>12}{:>12}", "", "without", "with");
    let row = |name: &str, pick: &dyn Fn(&Act) -> String| {
        say!("{name:<44}{:>12}{:>12}", pick(without), pick(with));
    };
    row("payment on the quiet line, median", &|act| format!("{:.0} ms", act.idle.p50));
    row("payment on the full line, median", &|act| format!("{:.0} ms", act.busy.p50));
    row("payment on the full line, 99 of 100 within", &|act| format!("{:.0} ms", act.busy.p99));
    row("payment on the full line, slowest", &|act| format!("{:.0} ms", act.busy.max));
    row("image pulls", &|act| format!("{:.1} Mbit/s", act.pull));
    row("metrics", &|act| format!("{:.1} Mbit/s", act.push));
    row("failed payments", &|act| act.failed.to_string());
    say!(
        "\nWith Tillgate, 99 of 100 payments on the full line take at most {:.0} ms more than on \
         the quiet one\n(without it: {:.0} ms more), while image pulls and metrics still use \
         {:.0} % of the line down and {:.0} % up.",
        with.busy.p99 - with.idle.p50,
        without.busy.p99 - without.idle.p50,
        with.pull / line.down_mbit * 100.0,
        with.push / line.up_mbit * 100.0
    );
    say!("More: `cargo lab compare` puts other proxies and the kernel's shaper beside it.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_in_their_frame() {
        assert_eq!(bar(0.0).chars().count(), BAR);
        assert_eq!(bar(7.0), "█".repeat(BAR));
        assert_eq!(bar(0.5).chars().filter(|c| *c == '█').count(), BAR / 2);
    }
}

//! `lab hostile`: payments beside clients that mean harm, on a line that is otherwise idle.
//!
//! One gateway on one line. Payments run alone first, then beside two hundred hostile clients of
//! every kind (see `clients`), all on the HTTP entry and in bulk classes. The hostile ones fill
//! what they can fill; once the line is idle again the same quantiles are taken once more.
//! What must hold: the payments' p99 rises by at most 5 ms, and none fails.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::experiment::Plan;
use crate::load::Way;
use crate::load::payments::{self, Call, Outcome, Payments};
use crate::preset::LineSpec;
use crate::process::ask;
use crate::say;
use crate::stats::{Quantiles, real, whole};
use crate::sys::{self, NANOS_PER_SEC, Nanos};
use crate::system::{ADMIN, ENTRY, System};
use crate::testbed::Testbed;

mod clients;

use self::clients::{Hostile, Kind, Tally};

/// For 64 tills to connect and make their first calls.
const OPENING_SECONDS: f64 = 4.0;

/// A line that has less bulk than this is idle.
const BUSY_SHARE: f64 = 0.05;

/// How long hostile clients may fill it.
const SETTLE_SECONDS_MAX: u32 = 120;

/// What the payments' p99 may rise by.
const ADDED_P99_MS: f64 = 5.0;

#[derive(Args)]
pub struct HostileArgs {
    /// Down/up in Mbit/s.
    #[arg(long, default_value = "20/5")]
    line: LineSpec,
    /// Hostile clients, shared out among the kinds.
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Only these kinds, as the table names them: `--only "half heads"`; all if none is named.
    #[arg(long, value_parser = Kind::parse)]
    only: Vec<Kind>,
    /// Length of each measured phase.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Between the start of the hostile clients and the second phase, at least: what they pull in
    /// once crosses the line as bulk meanwhile, and the phase begins when it has.
    #[arg(long, default_value_t = 12.0)]
    settle_seconds: f64,
    /// Payments a second.
    #[arg(long, default_value_t = 25.0)]
    pos_rate: f64,
}

/// Measures, prints a table and a verdict.
pub fn run(args: &HostileArgs) -> Result<()> {
    ensure!(args.clients <= 2_000, "more than 2000 clients");
    let kinds = if args.only.is_empty() { &Kind::ALL[..] } else { &args.only };
    let number = kinds.len();
    ensure!(args.clients >= number, "fewer clients than there are kinds of them, {number}");
    let way = Way::Entry(ENTRY);
    let plan = Plan { policy: None, ..Plan::standard(args.line, way) };
    let bed = Testbed::build(plan.line.line(), None)?;
    let Some(mut running) = System::Tillgate.start(&bed, &plan)? else { bail!("no gateway") };
    let tills = Payments::start(payments::Plan {
        way,
        per_second: args.pos_rate,
        connections: plan.tills,
    })?;
    rest(OPENING_SECONDS);
    let alone = phase(args.seconds);
    let rss_before = running.process.rss_mib();
    let hostile = Hostile::start(ENTRY, args.clients, kinds)?;
    rest(args.settle_seconds);
    let pulled = settle(args.line)?;
    let cpu_before = running.process.cpu_seconds();
    let beside = phase(args.seconds);
    let cpu = (running.process.cpu_seconds() - cpu_before) / args.seconds * 100.0;
    let rss = running.process.rss_mib();
    let floods = scrape("tillgate_http2_floods_total", |_| true);
    let seen = hostile.stop();
    let last_error = tills.last_error();
    let calls = tills.stop();
    if running.process.has_ended() {
        bail!("the gateway ended:\n{}", running.process.log_end());
    }
    let (quiet, busy) = (latency(&calls, alone), latency(&calls, beside));
    say!("{:<22} {:>8} {:>10} {:>10} {:>10}", "payments", "calls", "p50 ms", "p99 ms", "max ms");
    for (name, figures) in [("alone", &quiet), ("beside hostile clients", &busy)] {
        let Quantiles { count, p50, p99, max } = figures;
        say!("{name:<22} {count:>8} {p50:>10.2} {p99:>10.2} {max:>10.2}");
    }
    say!("{:<22} {:>8} {:>10} {:>10} {:>10}", "hostile", "clients", "opened", "ended", "MiB read");
    for (kind, tally) in &seen {
        let mib = real(tally.bytes) / f64::from(1_u32 << 20);
        let (name, clients) = (kind.name(), tally.clients);
        say!("{name:<22} {clients:>8} {:>10} {:>10} {mib:>10.1}", tally.opened, tally.ended);
    }
    say!(
        "gateway: {cpu:.0}% of a core, {rss_before:.1} MiB before and {rss:.1} MiB beside; \
         floods ended {floods:.0}; {pulled:.1} MiB crossed the line for nobody"
    );
    verdict(&calls, &quiet, &busy, &unopened(kinds, &seen), last_error)
}

/// Kinds of which not one client got a connection: nothing is known of their harm.
fn unopened(kinds: &[Kind], seen: &[(Kind, Tally)]) -> Vec<&'static str> {
    let opened = |kind: &Kind| seen.iter().any(|(of, tally)| of == kind && tally.opened > 0);
    kinds.iter().filter(|kind| !opened(kind)).map(|kind| kind.name()).collect()
}

fn verdict(
    calls: &[Call],
    quiet: &Quantiles,
    busy: &Quantiles,
    unopened: &[&str],
    last_error: Option<String>,
) -> Result<()> {
    let failed = calls.iter().filter(|call| call.outcome == Outcome::Failed).count();
    let added = busy.p99 - quiet.p99;
    let is_measured = quiet.count > 0 && busy.count > 0 && unopened.is_empty();
    let holds = failed == 0 && added <= ADDED_P99_MS && is_measured;
    let mut text = format!(
        "{} payments' p99 {added:+.2} ms (at most {ADDED_P99_MS:+.1}), {failed} failed",
        if holds { "ok    " } else { "MISSED" }
    );
    if let Some(error) = last_error.filter(|_| failed > 0) {
        // Writing into a string cannot fail.
        let _ = write!(text, ": {error}");
    }
    if !unopened.is_empty() {
        let _ = write!(text, "; not one connection of: {}", unopened.join(", "));
    }
    say!("{text}");
    ensure!(holds, "hostile clients harm payments");
    Ok(())
}

/// Lets time pass; from when to when.
fn phase(seconds: f64) -> [Nanos; 2] {
    let from = sys::now();
    rest(seconds);
    [from, sys::now()]
}

fn latency(calls: &[Call], [from, to]: [Nanos; 2]) -> Quantiles {
    let inside = calls.iter().filter(|call| (from..to).contains(&call.due));
    Quantiles::of_micros(inside.map(|call| call.took_us))
}

/// Waits until next to nothing but payments crosses the line, which is what a payment's time is
/// judged on; how much has until then, in MiB.
fn settle(line: LineSpec) -> Result<f64> {
    let most = line.down_mbit * 1e6 / 8.0 * BUSY_SHARE;
    let mut before = bulk_bytes();
    for _ in 0..SETTLE_SECONDS_MAX {
        rest(1.0);
        let now = bulk_bytes();
        // A gateway that did not answer has said nothing of its line.
        if before > 0.0 && (0.0..=most).contains(&(now - before)) {
            return Ok(now / f64::from(1_u32 << 20));
        }
        before = now;
    }
    bail!("the line is still busy after {SETTLE_SECONDS_MAX} s: fewer clients, or a faster one")
}

/// What has crossed the line in classes that are not the payments', both ways.
fn bulk_bytes() -> f64 {
    let is_bulk = |line: &str| !line.contains("class=\"payment\"");
    scrape("tillgate_link_traffic_bytes_total", is_bulk)
}

/// Sum of a counter over those of its lines that count; zero where there is none.
fn scrape(name: &str, counts: impl Fn(&str) -> bool) -> f64 {
    let text = ask(ADMIN, "/metrics").unwrap_or_default();
    let values = text.lines().filter(|line| line.starts_with(name) && counts(line));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn rest(seconds: f64) {
    sys::sleep_until(sys::now() + whole(seconds * real(NANOS_PER_SEC)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harm_that_nobody_tried_is_not_borne() {
        let seen = Kind::ALL.map(|kind| (kind, Tally { opened: 1, ..Tally::default() }));
        assert!(unopened(&Kind::ALL, &seen).is_empty());
        assert_eq!(unopened(&Kind::ALL, &seen[1..]), [Kind::ALL[0].name()]);
        assert_eq!(unopened(&Kind::ALL, &[]).len(), Kind::ALL.len());
        let some = Quantiles { count: 1, ..Quantiles::default() };
        assert!(verdict(&[], &some, &some, &[], None).is_ok());
        assert!(verdict(&[], &some, &some, &["resets"], None).is_err());
        assert!(verdict(&[], &some, &Quantiles::default(), &[], None).is_err());
        assert!(Kind::ALL.iter().all(|kind| Kind::parse(kind.name()) == Ok(*kind)));
        assert!(Kind::parse("tides").unwrap_err().contains("half heads"));
    }
}

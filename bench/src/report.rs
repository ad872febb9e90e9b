//! Figures as lines for people.

use std::fmt::Write;

use crate::compare::{LineResult, Order, Row};
use crate::experiment::Outcome;
use crate::preset::LineSpec;
use crate::stats::Spread;

/// One run in one line.
pub fn line(outcome: &Outcome) -> String {
    let worst = |name: &str, value: Option<f64>| {
        value.map(|ms| format!("  {name} +{ms:.0}")).unwrap_or_default()
    };
    let queue = |report: &crate::truth::QueueReport| {
        format!("{:.1}/{:.1}", report.queue_ms.p50, report.queue_ms.p99)
    };
    format!(
        "idle {:.1}/{:.1}  busy {:.1}/{:.1} max {:.1}  added {:.1}/{:.1}  pull {:.3} (jain {:.3})  \
         push {:.3}{}{}  queue down {} up {}  cpu {:.1}%  emu {:.1}%{}{}{}{}",
        outcome.idle.p50,
        outcome.idle.p99,
        outcome.busy.p50,
        outcome.busy.p99,
        outcome.busy.max,
        outcome.added_p50,
        outcome.added_p99,
        outcome.pull,
        outcome.jain,
        outcome.push,
        worst("start", outcome.start_worst),
        worst("join", outcome.joining_worst),
        queue(&outcome.queue_down),
        queue(&outcome.queue_up),
        outcome.proxy_cpu,
        outcome.emulator_cpu,
        if outcome.failed > 0 { format!("  FAILED {}", outcome.failed) } else { String::new() },
        if outcome.breaks > 0 { format!("  BREAKS {}", outcome.breaks) } else { String::new() },
        if outcome.noisy { "  NOISY" } else { "" },
        outcome.last_error.as_ref().map(|text| format!("  ({text})")).unwrap_or_default(),
    )
}

/// The medians of some runs in one line.
pub fn median_line(outcomes: &[Outcome]) -> String {
    let of = |pick: fn(&Outcome) -> f64| Spread::of(outcomes.iter().map(pick)).median;
    let worst = |name: &str, pick: fn(&Outcome) -> Option<f64>| {
        let known: Vec<f64> = outcomes.iter().filter_map(pick).collect();
        if known.is_empty() {
            return String::new();
        }
        format!("  {name} +{:.0}", Spread::of(known).median)
    };
    format!(
        "idle {:.1}  busy {:.1}/{:.1}  added {:.1}/{:.1}  pull {:.3} (jain {:.3})  push {:.3}{}{}  \
         cpu {:.1}%",
        of(|one| one.idle.p50),
        of(|one| one.busy.p50),
        of(|one| one.busy.p99),
        of(|one| one.added_p50),
        of(|one| one.added_p99),
        of(|one| one.pull),
        of(|one| one.jain),
        of(|one| one.push),
        worst("start", |one| one.start_worst),
        worst("join", |one| one.joining_worst),
        of(|one| one.proxy_cpu),
    )
}

/// All systems on one line, for a terminal.
pub fn table(line: LineSpec, rows: &[Row]) -> String {
    let mut text = format!(
        "{:<24}{:>9}{:>18}{:>18}{:>8}{:>8}{:>7}{:>8}{:>8}{:>7}\n",
        format!("{line} Mbit/s"),
        "idle p50",
        "busy p50/p99",
        "added p50/p99",
        "pull",
        "push",
        "Jain",
        "join",
        "start",
        "CPU %"
    );
    for row in rows {
        let title = row.cell.title();
        if row.runs.is_empty() {
            let reason = row.absent.as_deref().unwrap_or("not run").lines().next();
            let _ = writeln!(text, "{title:<24}  absent: {}", reason.unwrap_or_default());
            continue;
        }
        let pair = |a: f64, b: f64| format!("{a:.1}/{b:.1}");
        let _ = writeln!(
            text,
            "{title:<24}{:>9.1}{:>18}{:>18}{:>8.3}{:>8.3}{:>7.3}{:>8}{:>8}{:>7.1}",
            row.median(|run| run.idle.p50),
            pair(row.median(|run| run.busy.p50), row.median(|run| run.busy.p99)),
            pair(row.median(|run| run.added_p50), row.median(|run| run.added_p99)),
            row.median(|run| run.pull),
            row.median(|run| run.push),
            row.median(|run| run.jain),
            worst(row, |run| run.joining_worst),
            worst(row, |run| run.start_worst),
            row.median(|run| run.proxy_cpu),
        );
    }
    text
}

/// The comparison as a document: a table for each line with medians and spreads, the verdicts.
pub fn markdown(results: &[LineResult], order: &Order) -> String {
    let (plan, runs, rival_runs) = (&order.plan, order.runs, order.rival_runs.min(order.runs));
    let mut text = format!(
        "Payments at {}/s (700 bytes up, 900 down, {} connections) while {} pulls and {} uploads \
         saturate the line. Median of {runs} runs ({rival_runs} of no proxy, nginx, HAProxy and \
         Envoy) of {:.0} s after {:.0} s of warm-up, lowest and \
         highest in brackets. Times in ms; \"added\" is over the idle p50 of the same run; goodput \
         is body bytes at the receiver as a share of the line; \"joins\" is the worst call in the \
         first 2 s after one more pull starts, \"all start\" the same when all flows start.\n",
        plan.payments_per_second,
        plan.tills,
        plan.pulls,
        plan.pushes,
        plan.seconds,
        plan.warm_up_seconds
    );
    for result in results {
        let line = result.line;
        let _ = write!(
            text,
            "\n### {line} Mbit/s, {} ms round trip, {} ms buffer\n\n\
             | | idle p50 | busy p50 / p99 | added p50 | added p99 | pull | push | Jain | joins | \
             all start |\n|---|---|---|---|---|---|---|---|---|---|\n",
            line.rtt_ms, line.buffer_ms
        );
        for row in &result.rows {
            text.push_str(&markdown_row(row));
        }
        if !result.verdicts.is_empty() {
            text.push_str("\n```\n");
            for verdict in &result.verdicts {
                let _ = writeln!(text, "{verdict}");
            }
            text.push_str("```\n");
        }
    }
    text
}

fn markdown_row(row: &Row) -> String {
    let title = row.cell.title();
    if row.runs.is_empty() {
        let reason = row.absent.as_deref().unwrap_or("not run").lines().next();
        return format!("| {title} | absent: {} |\n", reason.unwrap_or_default());
    }
    let spread = |pick: fn(&Outcome) -> f64, digits: usize| {
        let Spread { low, median, high } = row.spread(pick);
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    };
    format!(
        "| {title} | {:.1} | {:.0} / {:.0} | {} | {} | {} | {} | {:.3} | {} | {} |\n",
        row.median(|run| run.idle.p50),
        row.median(|run| run.busy.p50),
        row.median(|run| run.busy.p99),
        spread(|run| run.added_p50, 1),
        spread(|run| run.added_p99, 1),
        spread(|run| run.pull, 3),
        spread(|run| run.push, 3),
        row.median(|run| run.jain),
        worst(row, |run| run.joining_worst),
        worst(row, |run| run.start_worst),
    )
}

/// Median of a figure that some runs do not have.
fn worst(row: &Row, pick: fn(&Outcome) -> Option<f64>) -> String {
    let known: Vec<f64> = row.runs.iter().filter_map(pick).collect();
    if known.is_empty() { "–".into() } else { format!("+{:.0}", Spread::of(known).median) }
}

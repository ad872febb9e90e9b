//! Figures as lines for people.

use crate::experiment::Outcome;
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

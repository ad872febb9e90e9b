//! What must hold, and whether it did: thresholds on the medians of a comparison.
//!
//! Figures in, verdicts out. Lines without thresholds have no verdicts.

use serde::Serialize;

use crate::compare::{Cell, Row};
use crate::preset::LineSpec;
use crate::say;

/// What must hold, and whether it did, in words.
#[derive(Debug, Default)]
pub(crate) struct Demands(Vec<(bool, String)>);

impl Demands {
    pub(crate) fn add(&mut self, holds: bool, text: impl Into<String>) {
        self.0.push((holds, text.into()));
    }

    pub(crate) fn hold(&self) -> bool {
        self.0.iter().all(|(holds, _)| *holds)
    }

    /// Says all of them.
    pub(crate) fn tell(&self) {
        for (holds, text) in &self.0 {
            say!("{} {text}", if *holds { "ok    " } else { "MISSED" });
        }
    }
}

/// One requirement and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub line: String,
    pub what: String,
    pub measured: f64,
    pub bound: Bound,
    pub holds: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What a line demands. Times in milliseconds over the idle median, goodput as shares of the line.
struct Demand {
    line: &'static str,
    added_p50: f64,
    added_p99: f64,
    pull: f64,
    push: f64,
    jain: f64,
    new_pull: f64,
    pulls_alone: f64,
}

const DEMANDS: [Demand; 3] = [
    Demand {
        line: "2/1",
        added_p50: 15.0,
        added_p99: 45.0,
        pull: 0.80,
        push: 0.69,
        jain: 0.90,
        new_pull: 60.0,
        pulls_alone: 0.87,
    },
    Demand {
        line: "20/5",
        added_p50: 4.0,
        added_p99: 18.0,
        pull: 0.89,
        push: 0.77,
        jain: 0.98,
        new_pull: 30.0,
        pulls_alone: 0.89,
    },
    Demand {
        line: "50/10",
        added_p50: 2.0,
        added_p99: 12.0,
        pull: 0.89,
        push: 0.77,
        jain: 0.98,
        new_pull: 25.0,
        pulls_alone: 0.89,
    },
];

/// How far below the kernel's shaper the throughput may be.
const BEHIND_HTB: f64 = 0.02;
/// What a proxy may cost on an idle line.
const IDLE_OVERHEAD_MS: f64 = 1.0;
const IDLE_OVERHEAD_LINE: &str = "20/5";
const IDLE_RSS_MIB: f64 = 12.0;

/// Verdicts about Tillgate on one line, from all rows of that line.
pub fn judge(line: LineSpec, rows: &[Row]) -> Vec<Verdict> {
    let name = line.to_string();
    let Some(demand) = DEMANDS.iter().find(|demand| demand.line == name) else {
        return Vec::new();
    };
    let find = |cell: Cell| rows.iter().find(|row| row.cell == cell && !row.runs.is_empty());
    let mut bench = Bench { line: name, verdicts: Vec::new() };
    let judged = [(Cell::Entry, "entry"), (Cell::EntryTls, "TLS"), (Cell::Connect, "connect")];
    for (cell, label) in judged {
        let Some(row) = find(cell) else { continue };
        bench.saturated(label, demand, row);
        if let Some(htb) = find(Cell::Htb) {
            bench.against(label, row, htb);
        }
        if let (Some(direct), IDLE_OVERHEAD_LINE) = (find(Cell::Direct), demand.line) {
            let overhead = row.median(|run| run.idle.p50) - direct.median(|run| run.idle.p50);
            bench.at_most(label, "idle p50 over no proxy, ms", overhead, IDLE_OVERHEAD_MS);
        }
        bench.at_most(label, "idle memory, MiB", row.median(|run| run.idle_rss_mib), IDLE_RSS_MIB);
    }
    if let Some(row) = find(Cell::PullsAlone) {
        let pull = row.median(|run| run.pull);
        bench.at_least("pulls alone", "pull", pull, demand.pulls_alone);
    }
    bench.verdicts
}

struct Bench {
    line: String,
    verdicts: Vec<Verdict>,
}

impl Bench {
    fn saturated(&mut self, label: &str, demand: &Demand, row: &Row) {
        self.at_most(label, "added p50, ms", row.median(|run| run.added_p50), demand.added_p50);
        self.at_most(label, "added p99, ms", row.median(|run| run.added_p99), demand.added_p99);
        self.at_least(label, "pull", row.median(|run| run.pull), demand.pull);
        self.at_least(label, "push", row.median(|run| run.push), demand.push);
        self.at_least(label, "Jain between pulls", row.median(|run| run.jain), demand.jain);
        let joining = row.median(|run| run.joining_worst.unwrap_or(0.0));
        self.at_most(label, "worst call as a pull joins, ms", joining, demand.new_pull);
        let failed: u64 = row.runs.iter().map(|run| run.failed).sum();
        self.at_most(label, "failed calls", crate::stats::real(failed), 0.0);
    }

    fn against(&mut self, label: &str, row: &Row, htb: &Row) {
        let (ours, theirs) = (row.median(|run| run.added_p99), htb.median(|run| run.added_p99));
        self.at_most(label, "added p99 against HTB, ms", ours, theirs);
        let pull = htb.median(|run| run.pull) - BEHIND_HTB;
        self.at_least(label, "pull against HTB less .02", row.median(|run| run.pull), pull);
        let push = htb.median(|run| run.push) - BEHIND_HTB;
        self.at_least(label, "push against HTB less .02", row.median(|run| run.push), push);
    }

    fn at_most(&mut self, label: &str, what: &str, measured: f64, bound: f64) {
        self.add(label, what, measured, Bound::AtMost(bound), measured <= bound);
    }

    fn at_least(&mut self, label: &str, what: &str, measured: f64, bound: f64) {
        self.add(label, what, measured, Bound::AtLeast(bound), measured >= bound);
    }

    fn add(&mut self, label: &str, what: &str, measured: f64, bound: Bound, holds: bool) {
        let (line, what) = (self.line.clone(), format!("{label}: {what}"));
        self.verdicts.push(Verdict { line, what, measured, bound, holds });
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, bound) = match self.bound {
            Bound::AtMost(bound) => ("≤", bound),
            Bound::AtLeast(bound) => ("≥", bound),
        };
        let number = |value: f64| match () {
            () if value.abs() < 1.5 => format!("{value:.3}"),
            () => format!("{value:.1}"),
        };
        let word = if self.holds { "ok    " } else { "MISSED" };
        let (measured, bound) = (number(self.measured), number(bound));
        write!(f, "{word}  {:<5}  {:<48} {measured:>8} {sign} {bound}", self.line, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Outcome;

    fn row(cell: Cell, added_p99: f64, pull: f64) -> Row {
        let run = Outcome { added_p99, pull, push: 0.78, jain: 1.0, ..Outcome::default() };
        Row { runs: vec![run], ..Row::empty(cell) }
    }

    #[test]
    fn a_slow_and_thin_run_misses_and_says_by_how_much() {
        let line = LineSpec::of_mbit(20.0, 5.0);
        let rows = [row(Cell::Entry, 30.0, 0.80), row(Cell::Htb, 20.0, 0.89)];
        let missed: Vec<String> = judge(line, &rows)
            .into_iter()
            .filter(|verdict| !verdict.holds)
            .map(|verdict| verdict.what)
            .collect();
        assert_eq!(
            missed,
            [
                "entry: added p99, ms",
                "entry: pull",
                "entry: added p99 against HTB, ms",
                "entry: pull against HTB less .02"
            ]
        );
        assert!(judge(LineSpec::of_mbit(7.0, 1.0), &rows).is_empty());
    }
}

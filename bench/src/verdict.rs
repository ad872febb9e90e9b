//! What must hold, and whether it did: thresholds on the medians of a comparison.
//!
//! Figures in, verdicts out. Lines without thresholds have no verdicts.

use serde::Serialize;

use crate::compare::{Cell, Row};
use crate::preset::LineSpec;
use crate::say;
use crate::stats::Spread;

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
    /// `None`: there was nothing to measure it by, and that is a miss.
    pub measured: Option<f64>,
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
    let find = |cell: Cell| rows.iter().find(|row| row.cell == cell);
    let measured = |cell: Cell| find(cell).filter(|row| !row.runs.is_empty());
    let mut bench = Bench { line: name, verdicts: Vec::new() };
    let judged = [(Cell::Entry, "entry"), (Cell::EntryTls, "TLS"), (Cell::Connect, "connect")];
    for (cell, label) in judged {
        let Some(row) = find(cell) else { continue };
        if row.runs.is_empty() {
            bench.unmeasured(label);
            continue;
        }
        bench.saturated(label, demand, row);
        if let Some(htb) = measured(Cell::Htb) {
            bench.against(label, row, htb);
        }
        if let (Some(direct), IDLE_OVERHEAD_LINE) = (measured(Cell::Direct), demand.line) {
            let overhead = row.median(|run| run.idle.p50) - direct.median(|run| run.idle.p50);
            bench.at_most(label, "idle p50 over no proxy, ms", overhead, IDLE_OVERHEAD_MS);
        }
        bench.at_most(label, "idle memory, MiB", row.median(|run| run.idle_rss_mib), IDLE_RSS_MIB);
    }
    match find(Cell::PullsAlone) {
        Some(row) if row.runs.is_empty() => bench.unmeasured("pulls alone"),
        Some(row) => {
            let pull = row.median(|run| run.pull);
            bench.at_least("pulls alone", "pull", pull, demand.pulls_alone);
        }
        None => {}
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
        let joining: Option<Vec<f64>> = row.runs.iter().map(|run| run.joining_worst).collect();
        let joining = joining.map(|worst| Spread::of(worst).median);
        let (what, most) = ("worst call as a pull joins, ms", demand.new_pull);
        self.add(label, what, joining, Bound::AtMost(most));
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

    /// Not one run of it came to an end.
    fn unmeasured(&mut self, label: &str) {
        self.add(label, "runs", None, Bound::AtLeast(1.0));
    }

    fn at_most(&mut self, label: &str, what: &str, measured: f64, bound: f64) {
        self.add(label, what, Some(measured), Bound::AtMost(bound));
    }

    fn at_least(&mut self, label: &str, what: &str, measured: f64, bound: f64) {
        self.add(label, what, Some(measured), Bound::AtLeast(bound));
    }

    fn add(&mut self, label: &str, what: &str, measured: Option<f64>, bound: Bound) {
        let holds = measured.is_some_and(|measured| match bound {
            Bound::AtMost(bound) => measured <= bound,
            Bound::AtLeast(bound) => measured >= bound,
        });
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
        let measured = self.measured.map_or_else(|| "none".to_owned(), number);
        let bound = number(bound);
        write!(f, "{word}  {:<5}  {:<48} {measured:>8} {sign} {bound}", self.line, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Outcome;

    fn row(cell: Cell, added_p99: f64, pull: f64) -> Row {
        let joining_worst = Some(20.0);
        let run =
            Outcome { added_p99, pull, push: 0.78, jain: 1.0, joining_worst, ..Outcome::default() };
        Row { runs: vec![run], ..Row::empty(cell) }
    }

    fn missed(line: LineSpec, rows: &[Row]) -> Vec<String> {
        let missed = judge(line, rows).into_iter().filter(|verdict| !verdict.holds);
        missed.map(|verdict| verdict.what).collect()
    }

    #[test]
    fn a_slow_and_thin_run_misses_and_says_by_how_much() {
        let line = LineSpec::of_mbit(20.0, 5.0);
        let rows = [row(Cell::Entry, 30.0, 0.80), row(Cell::Htb, 20.0, 0.89)];
        assert_eq!(
            missed(line, &rows),
            [
                "entry: added p99, ms",
                "entry: pull",
                "entry: added p99 against HTB, ms",
                "entry: pull against HTB less .02"
            ]
        );
        assert!(judge(LineSpec::of_mbit(7.0, 1.0), &rows).is_empty());
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let line = LineSpec::of_mbit(20.0, 5.0);
        let mut unjoined = row(Cell::Entry, 10.0, 0.90);
        unjoined.runs[0].joining_worst = None;
        let rows = [unjoined, Row::empty(Cell::Connect), Row::empty(Cell::PullsAlone)];
        assert_eq!(
            missed(line, &rows),
            ["entry: worst call as a pull joins, ms", "connect: runs", "pulls alone: runs"]
        );
    }
}

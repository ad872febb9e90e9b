//! `lab compare`: every system on every line, side by side in one go.
//!
//! Runs are interleaved (one of each system, then the next round), so that a busy minute of the
//! machine hits all of them. Each run has namespaces of its own. A run whose idle phase was
//! disturbed is repeated; absent rivals are named with the reason. Out come a table, the verdicts
//! about Tillgate, JSON and Markdown.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::experiment::{self, Outcome, Plan};
use crate::load::Way;
use crate::preset::LineSpec;
use crate::rivals::Rival;
use crate::stats::Spread;
use crate::system::{ENTRY, ENTRY_TLS, FORWARD_PROXY, System};
use crate::verdict::{self, Verdict};
use crate::{report, say};

/// How often a disturbed run is repeated before it is taken as it is.
const REPEATS_MAX: usize = 2;

/// Runs from which a median is one.
const MEDIAN_OF: usize = 3;

/// Whether a missed requirement fails the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Judge {
    /// From three runs of each on: with fewer, one busy second of the machine decides.
    Medians,
    /// However few the runs are.
    Always,
    /// Misses are told and nothing else.
    Never,
}

/// One column of the comparison: a system and a way through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    Direct,
    Nginx,
    Haproxy90,
    Haproxy50,
    Envoy,
    Htb,
    /// Tillgate by its HTTP entry.
    Entry,
    /// The same with TLS on both sides.
    EntryTls,
    /// Tillgate by its forward proxy.
    Connect,
    /// Tillgate by its entry, pulls and nothing else: the line must be used.
    PullsAlone,
}

impl Cell {
    pub const ALL: [Self; 10] = [
        Self::Direct,
        Self::Nginx,
        Self::Envoy,
        Self::Haproxy90,
        Self::Haproxy50,
        Self::Htb,
        Self::Entry,
        Self::EntryTls,
        Self::Connect,
        Self::PullsAlone,
    ];

    /// The name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy90 => "haproxy-90",
            Self::Haproxy50 => "haproxy-50",
            Self::Envoy => "envoy",
            Self::Htb => "htb",
            Self::Entry => "tillgate",
            Self::EntryTls => "tillgate-tls",
            Self::Connect => "tillgate-connect",
            Self::PullsAlone => "pulls-alone",
        }
    }

    /// The name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Nginx => "nginx, rate per flow",
            Self::Haproxy90 => "HAProxy bwlim 90 %",
            Self::Haproxy50 => "HAProxy bwlim 50 %",
            Self::Envoy => "Envoy bandwidth_share",
            Self::Htb => "kernel HTB 95 %",
            Self::Entry => "Tillgate",
            Self::EntryTls => "Tillgate, TLS twice",
            Self::Connect => "Tillgate, CONNECT",
            Self::PullsAlone => "Tillgate, pulls alone",
        }
    }

    fn system(self) -> System {
        match self {
            Self::Direct => System::Direct,
            Self::Nginx => System::Rival(Rival::Nginx),
            Self::Haproxy90 => System::Rival(Rival::Haproxy(90)),
            Self::Haproxy50 => System::Rival(Rival::Haproxy(50)),
            Self::Envoy => System::Rival(Rival::Envoy),
            Self::Htb => System::Htb,
            Self::Entry | Self::EntryTls | Self::Connect | Self::PullsAlone => System::Tillgate,
        }
    }

    /// Whether it is Tillgate that is measured.
    fn is_judged(self) -> bool {
        matches!(self.system(), System::Tillgate)
    }

    fn way(self) -> Way {
        match self {
            Self::Direct | Self::Htb => Way::Direct,
            Self::Connect => Way::Connect(FORWARD_PROXY),
            Self::EntryTls => Way::EntryTls(ENTRY_TLS),
            Self::Nginx
            | Self::Haproxy90
            | Self::Haproxy50
            | Self::Envoy
            | Self::Entry
            | Self::PullsAlone => Way::Entry(ENTRY),
        }
    }
}

impl std::str::FromStr for Cell {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = || Self::ALL.map(Self::name).join(", ");
        (Self::ALL.into_iter().find(|cell| cell.name() == text))
            .with_context(|| format!("{text:?} is none of {}", names()))
    }
}

/// All runs of one system on one line.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub cell: Cell,
    pub runs: Vec<Outcome>,
    /// Why there are no runs, or fewer.
    pub absent: Option<String>,
    /// Runs thrown away because the machine was busy.
    pub repeated: usize,
}

impl Row {
    pub fn empty(cell: Cell) -> Self {
        Self { cell, runs: Vec::new(), absent: None, repeated: 0 }
    }

    pub fn spread(&self, pick: impl Fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(pick))
    }

    pub fn median(&self, pick: impl Fn(&Outcome) -> f64) -> f64 {
        self.spread(pick).median
    }
}

/// Everything of one line.
#[derive(Debug, Clone, Serialize)]
pub struct LineResult {
    pub line: LineSpec,
    pub rows: Vec<Row>,
    pub verdicts: Vec<Verdict>,
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct Order {
    pub lines: Vec<LineSpec>,
    pub cells: Vec<Cell>,
    pub runs: usize,
    /// Runs of systems that Tillgate is not judged against, at most `runs`: they are far away,
    /// and one run shows it.
    pub rival_runs: usize,
    /// The run that all systems get; line and way are filled in.
    pub plan: Plan,
    pub out: PathBuf,
    pub judge: Judge,
}

impl Order {
    fn runs_of(&self, cell: Cell) -> usize {
        match cell {
            Cell::Htb | Cell::Entry | Cell::EntryTls | Cell::Connect | Cell::PullsAlone => {
                self.runs
            }
            Cell::Direct | Cell::Nginx | Cell::Haproxy90 | Cell::Haproxy50 | Cell::Envoy => {
                self.runs.min(self.rival_runs)
            }
        }
    }
}

/// Runs the comparison, prints it, and writes `compare.json` and `compare.md`.
pub fn run(order: &Order) -> Result<()> {
    let minutes = estimate_minutes(order);
    say!(
        "{} systems × {} lines × {} runs, about {minutes:.0} minutes",
        order.cells.len(),
        order.lines.len(),
        order.runs
    );
    let mut results = Vec::new();
    for line in &order.lines {
        let rows = measure(order, *line);
        let verdicts = verdict::judge(*line, &rows);
        say!("\n{}", report::table(*line, &rows));
        results.push(LineResult { line: *line, rows, verdicts });
        // After each line, so that an interrupted comparison leaves what it has.
        write(order, &results)?;
    }
    let verdicts: Vec<&Verdict> = results.iter().flat_map(|result| &result.verdicts).collect();
    for verdict in &verdicts {
        say!("{verdict}");
    }
    let missed = verdicts.iter().filter(|verdict| !verdict.holds).count();
    say!("{} of {} requirements hold", verdicts.len() - missed, verdicts.len());
    say!("written: {0}/compare.json, {0}/compare.md", order.out.display());
    let mut rows = results.iter().flat_map(|result| &result.rows);
    if rows.clone().all(|row| row.runs.is_empty()) {
        bail!("no system could be measured");
    }
    // Whatever the figures are worth, ours must be there.
    if let Some(row) = rows.find(|row| row.cell.is_judged() && row.runs.is_empty()) {
        bail!("{} could not be measured", row.cell.title());
    }
    let fails = match order.judge {
        Judge::Medians => order.runs >= MEDIAN_OF,
        Judge::Always => true,
        Judge::Never => false,
    };
    if missed > 0 && !fails {
        say!("the misses are told, not judged (--judge)");
    }
    ensure!(missed == 0 || !fails, "{missed} requirements are missed");
    Ok(())
}

fn measure(order: &Order, line: LineSpec) -> Vec<Row> {
    let mut rows: Vec<Row> = order.cells.iter().map(|cell| Row::empty(*cell)).collect();
    for row in &mut rows {
        row.absent = row.cell.system().available().err();
        if let Some(reason) = &row.absent {
            say!("{line:<6} {:<22} absent: {reason}", row.cell.title());
        }
    }
    for round in 0..order.runs {
        for row in rows.iter_mut().filter(|row| row.absent.is_none()) {
            if round < order.runs_of(row.cell) {
                one_run(order, line, row);
            }
        }
    }
    rows
}

/// Adds a run to a row; a failure ends the row, not the comparison.
fn one_run(order: &Order, line: LineSpec, row: &mut Row) {
    let mut plan = Plan { line, way: row.cell.way(), ..order.plan.clone() };
    if row.cell == Cell::PullsAlone {
        plan.pushes = 0;
        // At 25/s they would take 11 % of a 2 Mbit/s line, and this asks what an idle class frees.
        plan.payments_per_second = 0.0;
    }
    let title = row.cell.title();
    for repeat in 0..=REPEATS_MAX {
        match experiment::run(&row.cell.system(), &plan) {
            Ok(outcome) if outcome.noisy && repeat < REPEATS_MAX => {
                say!("{line:<6} {title:<22} disturbed while idle, again");
                row.repeated += 1;
            }
            Ok(outcome) => {
                say!("{line:<6} {title:<22} {}", report::line(&outcome));
                row.runs.push(outcome);
                return;
            }
            Err(error) => {
                say!("{line:<6} {title:<22} failed: {error:#}");
                row.absent = Some(format!("failed: {error:#}"));
                return;
            }
        }
    }
}

fn estimate_minutes(order: &Order) -> f64 {
    // Opening, joining pull, start and end of the programs.
    let plan = &order.plan;
    let one = plan.idle_seconds + plan.warm_up_seconds + plan.seconds + 8.0;
    let available = order.cells.iter().filter(|cell| cell.system().available().is_ok());
    let runs: usize = available.map(|cell| order.runs_of(*cell)).sum();
    one * crate::stats::real((runs * order.lines.len()) as u64) / 60.0
}

fn write(order: &Order, results: &[LineResult]) -> Result<()> {
    let save = |name: &str, text: String| -> Result<()> {
        let path: &Path = &order.out.join(name);
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    };
    std::fs::create_dir_all(&order.out).with_context(|| format!("make {}", order.out.display()))?;
    save("compare.json", serde_json::to_string_pretty(results)?)?;
    save("compare.md", report::markdown(results, order))
}

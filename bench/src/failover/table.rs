//! The rows of `lab failover`, for a terminal and as Markdown.

use serde::Serialize;

use super::figures::Figures;
use super::judge::Target;
use super::scene::{Contender, Scene};

/// A scene and what it showed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) scene: Scene,
    /// The worst of all runs; `None` = it could not be measured.
    pub(super) figures: Option<Figures>,
    /// Targets that were missed. Only Tillgate has targets.
    pub(super) missed: Vec<String>,
    pub(super) error: Option<String>,
}

const MISSED: &str = "MISSED";

const TITLES: [&str; 14] = [
    "fault",
    "load",
    "key",
    "system",
    "calls",
    "failed",
    "last s",
    "slowest ms",
    "over cloud",
    "twice",
    "forbidden",
    "both tiers",
    "changes",
    "verdict",
];

/// What the titles mean.
pub(super) const LEGEND: &str = "\
calls: not ended when the fault began, or later. last s: when the last call that failed was due, \
after the fault.\nslowest ms: of those answered; over cloud: less what the cloud itself takes. \
twice: executed twice, by the ledgers;\nforbidden: read or executed again without permission; \
both tiers: read in both. changes: of the tier that answers.";

impl Row {
    pub(super) fn new(scene: Scene) -> Self {
        Self { scene, figures: None, missed: Vec::new(), error: None }
    }

    /// Adds a run, which is judged by itself; of several the worst figures are shown.
    pub(super) fn add(&mut self, figures: Figures) {
        if self.scene.contender == Contender::Tillgate {
            let target = Target::of(&self.scene, figures.in_flight);
            self.missed.extend(target.missed(&figures));
        }
        self.figures = Some(match self.figures.take() {
            Some(before) => before.worst(figures),
            None => figures,
        });
    }

    pub(super) fn is_missed(&self) -> bool {
        self.verdict() == MISSED
    }

    fn verdict(&self) -> &'static str {
        let holds = self.figures.is_some() && self.missed.is_empty() && self.error.is_none();
        match self.scene.contender {
            Contender::Tillgate if holds => "ok",
            Contender::Tillgate => MISSED,
            Contender::Envoy | Contender::Haproxy | Contender::Nginx => "–",
        }
    }

    fn cells(&self) -> Vec<String> {
        let Scene { fault, rate, protocol, keying, contender } = self.scene;
        let names = [
            fault.name(),
            format!("{rate}/s {}", protocol.name()),
            keying.name().to_owned(),
            contender.name().to_owned(),
        ];
        let figures = self
            .figures
            .as_ref()
            .map_or_else(|| std::array::from_fn(|_| "–".to_owned()), Self::figure_cells);
        let cells = names.into_iter().chain(figures).chain([self.verdict().to_owned()]);
        cells.collect()
    }

    fn figure_cells(seen: &Figures) -> [String; 9] {
        let last = seen.last_failure_s.map_or("–".to_owned(), |at| format!("{at:.2}"));
        [
            seen.calls.to_string(),
            seen.failed.to_string(),
            last,
            format!("{:.0}", seen.slowest_ms),
            format!("{:.0}", seen.above_cloud_ms()),
            seen.repeats.executed_twice.to_string(),
            seen.repeats.without_permission.to_string(),
            seen.repeats.both_tiers.to_string(),
            seen.tier_changes.to_string(),
        ]
    }

    /// The row in one line, for progress.
    pub(super) fn line(&self) -> String {
        let cells = self.cells();
        let figures: Vec<String> = TITLES[4..]
            .iter()
            .zip(&cells[4..])
            .map(|(name, cell)| format!("{name} {cell}"))
            .collect();
        format!("{:<44} {}", self.scene.to_string(), figures.join("  "))
    }

    /// What was missed and why, when something was.
    pub(super) fn complaint(&self) -> Option<String> {
        let scene = self.scene;
        if let Some(error) = &self.error {
            return Some(format!("{:<7} {scene}: not measured: {error}", self.verdict()));
        }
        let figures = self.figures.as_ref().filter(|_| !self.missed.is_empty())?;
        let reasons: Vec<String> =
            figures.reasons.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
        let why =
            if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        Some(format!("{MISSED}  {scene}: {}{why}", self.missed.join("; ")))
    }
}

/// All rows with their columns in line.
pub(super) fn text(rows: &[Row]) -> String {
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let width = |column: usize| {
        let all = cells.iter().map(|row| row[column].chars().count());
        all.chain([TITLES[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
    let line = |row: &[String]| {
        let padded: Vec<String> = (0..)
            .zip(row.iter().zip(&widths))
            .map(|(column, (cell, width))| match column {
                // Words to the left, numbers to the right.
                0..4 | 13.. => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let titles = TITLES.map(str::to_owned);
    let body: String = cells.iter().map(|row| line(row)).collect();
    line(&titles) + &body
}

/// All rows as a table for a document.
pub(super) fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let body: String = rows.iter().map(|row| line(&row.cells())).collect();
    let rule = format!("|{}\n", "---|".repeat(TITLES.len()));
    line(&TITLES.map(str::to_owned)) + &rule + &body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::scene::{Fault, Keying, Protocol};

    fn row(contender: Contender, failed: u64) -> Row {
        let (fault, protocol) = (Fault::Freeze, Protocol::H1);
        let mut row =
            Row::new(Scene { fault, rate: 25, protocol, keying: Keying::None, contender });
        let reasons = [("status 504".to_owned(), failed)].into();
        row.add(Figures { calls: 400, failed, reasons, ..Figures::default() });
        row
    }

    #[test]
    fn tillgate_is_judged_and_rivals_are_shown() {
        let rows = [row(Contender::Tillgate, 11), row(Contender::Envoy, 131)];
        assert_eq!(rows[0].verdict(), "MISSED");
        let complaint =
            "MISSED  freeze, 25/s h1, no key, Tillgate: failed 11 > 10 (11 × status 504)";
        assert_eq!(rows[0].complaint().as_deref(), Some(complaint));
        assert_eq!((rows[1].verdict(), rows[1].complaint()), ("–", None));
        let text = text(&rows);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(2).is_some_and(|line| line.contains("Envoy")), "{text}");
        let markdown = markdown(&rows);
        assert!(markdown.lines().all(|line| line.matches('|').count() == 15), "{markdown}");
    }

    #[test]
    fn of_two_runs_the_worse_is_judged() {
        let mut row = row(Contender::Tillgate, 11);
        row.add(Figures { calls: 400, ..Figures::default() });
        assert_eq!(row.verdict(), "MISSED");
        let unmeasured = Row { error: Some("no namespaces".into()), ..Row::new(row.scene) };
        assert!(unmeasured.line().contains("calls –"), "{}", unmeasured.line());
        assert_eq!(unmeasured.verdict(), "MISSED");
        assert!(unmeasured.complaint().is_some_and(|text| text.contains("no namespaces")));
    }
}

//! `lab failover`: a service with a replica in the store and one across the line, and whatever
//! can go wrong with them, while tills make calls.
//!
//! Each scene has namespaces of its own: two replicas as processes that keep books, a line, a
//! proxy, calls at a fixed rate, one fault. What tills notice and what the books say becomes a
//! row; Tillgate's rows are judged. Scenes are played a few at a time: none uses more than some
//! per cent of a core.

mod contender;
mod demands;
mod figures;
mod judge;
mod ledger;
mod load;
mod names;
mod replica;
mod reply;
mod scene;
pub(crate) mod serve;
mod stage;
mod table;

use std::path::PathBuf;
use std::sync::Barrier;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::figures::Figures;
use self::scene::{
    Contender, Fault, Keying, LASTS_SECONDS, Protocol, SETTLE_SECONDS, Scene, Selection,
};
use self::stage::Terms;
use self::table::Row;
use crate::preset::LineSpec;
use crate::{say, sys};

/// To start everything and to wait for the last calls.
const AROUND_SECONDS: f64 = 4.0;

/// Arguments of `lab failover`.
#[derive(Debug, Args)]
pub struct FailoverArgs {
    /// Only these faults.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Only these proxies, with every fault. By default Tillgate with all of them and the rivals
    /// with the common ones.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<Contender>,
    /// Calls a second; by default 25, and 200 with kill, freeze and line-cut.
    #[arg(long, value_delimiter = ',')]
    rates: Vec<u32>,
    /// By default h1, and all with kill, freeze and line-cut.
    #[arg(long, value_delimiter = ',')]
    protocols: Vec<Protocol>,
    /// Whether calls carry a key, and what the route says about it.
    #[arg(long, value_delimiter = ',')]
    keys: Vec<Keying>,
    /// Of several runs the worst figures count.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// How long a fault lasts that has no length of its own.
    #[arg(long, default_value_t = LASTS_SECONDS)]
    seconds: f64,
    /// The common faults, Tillgate alone: about two minutes.
    #[arg(long)]
    quick: bool,
    /// Scenes that are played at the same time.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// Down/up in Mbit/s.
    #[arg(long, default_value = "20/5")]
    line: LineSpec,
    /// Keep logs, ledgers, configurations and calls of all scenes, in a folder beside the tables.
    #[arg(long)]
    keep: bool,
    /// Where failover.json and failover.md go.
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    out: PathBuf,
}

impl FailoverArgs {
    fn scenes(&self) -> Vec<Scene> {
        let selection = Selection {
            faults: self.faults.clone(),
            rates: self.rates.clone(),
            protocols: self.protocols.clone(),
            keys: self.keys.clone(),
            contenders: self.systems.clone(),
            quick: self.quick,
        };
        let mut scenes = selection.scenes();
        for contender in [Contender::Envoy, Contender::Haproxy, Contender::Nginx] {
            let absent = contender.rival().and_then(|rival| rival.program().err());
            if let Some(reason) = absent
                && scenes.iter().any(|scene| scene.contender == contender)
            {
                say!("absent: {}: {reason}", contender.name());
                scenes.retain(|scene| scene.contender != contender);
            }
        }
        scenes
    }
}

/// Plays all scenes, prints the table, writes it, and fails when Tillgate has missed something.
pub fn run(args: &FailoverArgs) -> Result<()> {
    ensure!((1..=8).contains(&args.at_once), "--at-once is not in 1 to 8");
    ensure!((2.0..=120.0).contains(&args.seconds), "--seconds is not in 2 to 120");
    ensure!(args.rates.iter().all(|rate| (1..=500).contains(rate)), "--rates are not in 1 to 500");
    let mut rows: Vec<Row> = args.scenes().into_iter().map(Row::new).collect();
    ensure!(!rows.is_empty(), "no proxy of the lab can be put into such a scene");
    sys::many_files();
    let keep = args.keep.then(|| args.out.join("failover"));
    let terms = Terms { line: args.line, lasts: args.seconds, keep };
    let batches = batches(&rows, &terms, args.at_once);
    let minutes = estimate_minutes(&rows, &batches, &terms) * crate::stats::real(args.runs as u64);
    say!("{} scenes × {} runs, about {minutes:.0} minutes", rows.len(), args.runs);
    for _run in 0..args.runs {
        for batch in &batches {
            play(batch, &mut rows, &terms);
            // After each batch, so that an interrupted run leaves what it has.
            write(args, &rows)?;
        }
    }
    say!("\n{}\n{}", table::text(&rows), table::LEGEND);
    say!("\n{}", demands::text(&rows));
    let complaints: Vec<String> = rows.iter().filter_map(Row::complaint).collect();
    for complaint in &complaints {
        say!("{complaint}");
    }
    say!("written: {0}/failover.json, {0}/failover.md", args.out.display());
    let missed = rows.iter().filter(|row| row.is_missed()).count();
    ensure!(missed == 0, "{missed} of {} scenes missed what must hold", rows.len());
    Ok(())
}

/// Which rows are played together: scenes of about the same length.
fn batches(rows: &[Row], terms: &Terms, at_once: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let length = |index: &usize| rows[*index].scene.fault.watched_seconds(terms.lasts);
    order.sort_by(|a, b| length(a).total_cmp(&length(b)));
    order.chunks(at_once).map(<[usize]>::to_vec).collect()
}

fn estimate_minutes(rows: &[Row], batches: &[Vec<usize>], terms: &Terms) -> f64 {
    let length = |batch: &Vec<usize>| {
        let watched = batch.iter().map(|row| rows[*row].scene.fault.watched_seconds(terms.lasts));
        watched.fold(0.0, f64::max) + SETTLE_SECONDS + AROUND_SECONDS
    };
    batches.iter().map(length).sum::<f64>() / 60.0
}

/// Plays some scenes at the same time; a failure ends the row, not the comparison.
fn play(batch: &[usize], rows: &mut [Row], terms: &Terms) {
    let scenes: Vec<Scene> = batch.iter().map(|row| rows[*row].scene).collect();
    let all_stand = &Barrier::new(scenes.len());
    let outcomes: Vec<Result<Figures>> = std::thread::scope(|scope| {
        let threads: Vec<_> = scenes
            .iter()
            .map(|scene| scope.spawn(move || stage::play(scene, terms, all_stand)))
            .collect();
        let ended =
            |result: std::thread::Result<_>| result.unwrap_or_else(|_| bail!("it panicked"));
        threads.into_iter().map(|thread| ended(thread.join())).collect()
    });
    for (row, outcome) in batch.iter().zip(outcomes) {
        let row = &mut rows[*row];
        match outcome {
            Ok(figures) => {
                row.add(figures);
                say!("{}", row.line());
            }
            Err(error) => {
                say!("{:<44} failed: {error:#}", row.scene.to_string());
                row.error = Some(format!("{error:#}"));
            }
        }
    }
}

fn write(args: &FailoverArgs, rows: &[Row]) -> Result<()> {
    let out = &args.out;
    let save = |name: &str, text: String| {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    std::fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    save("failover.json", serde_json::to_string_pretty(rows)?)?;
    save("failover.md", format!("{}\n```\n{}```\n", table::markdown(rows), demands::text(rows)))
}

//! `cargo fuzz-all`: fuzzes every target, or those that are named, for some minutes each.
//!
//! A finding is written beside the corpus, where the ordinary tests replay it from then on.

use std::process::ExitCode;
use std::time::Duration;

use tillgate_tests::fuzz::{self, targets};
use tillgate_tests::now;

/// Without `--minutes`.
const MINUTES: u64 = 10;

const USAGE: &str = "cargo fuzz-all [--minutes N, of each target] [--seed N] [target ...]\n\
                     fails if anything is found";

fn main() -> ExitCode {
    let (mut minutes, mut seed, mut names) = (MINUTES, fastrand::u64(..), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = match &*arg {
            "--minutes" => &mut minutes,
            "--seed" => &mut seed,
            name => {
                names.push(name.to_owned());
                continue;
            }
        };
        match args.next().and_then(|text| text.parse().ok()) {
            Some(number) => *value = number,
            None => {
                eprintln!("{arg} wants a number\n{USAGE}");
                return ExitCode::FAILURE;
            }
        }
    }
    if names.is_empty() {
        names = targets::ALL.iter().map(|name| (*name).to_owned()).collect();
    }
    // Panics are findings, and told as such.
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = false;
    for name in names {
        let Some(mut target) = targets::by_name(&name) else {
            eprintln!("{name}: no such target; there are {}\n{USAGE}", targets::ALL.join(", "));
            return ExitCode::FAILURE;
        };
        let end = now() + Duration::from_secs(minutes * 60);
        let report = fuzz::run(&mut *target, seed, |_| now() < end);
        let (runs, ways) = (report.runs, report.ways);
        eprintln!("{name}: {runs} inputs were read in {ways} ways, {minutes} min, seed {seed}");
        if let Some((input, why)) = report.finding {
            found = true;
            let file = format!("finding-{:016x}.bin", fuzz::way(&input));
            let path = fuzz::folder(&name).join(file);
            let _ = std::fs::create_dir_all(fuzz::folder(&name));
            let written = std::fs::write(&path, &input);
            eprintln!("{name}: FINDING, {why}\n  in {}: {written:?}", path.display());
        }
    }
    if found { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

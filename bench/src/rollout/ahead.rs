//! A release that is fetched before anybody asks, as `tillgate rollouts` shows it.
//!
//! In a freeze first; what the command says is printed every other second until all is here. Then a
//! client pulls, and nothing more crosses the line.

use anyhow::{Context, Result};

use super::ask::{digest, fetched};
use super::held::{freeze, now, rollout_of};
use super::programs::{IMAGE, Programs, REPOSITORY};
use super::scene::tillgate;
use super::{MIRROR, image, rest};
use crate::preset::LineSpec;
use crate::process::{Process, Ready, Scratch};
use crate::say;
use crate::stats::{real, whole};
use crate::sys;
use crate::system::ADMIN;
use crate::testbed::Testbed;

/// How long the freeze lasts.
const FREEZE_SECONDS: i64 = 3;

/// Seconds between two looks.
const LOOK_EVERY: f64 = 2.0;

/// Seconds that the line would need for all of it.
const LINE_SECONDS: f64 = 10.0;

/// A manifest is not larger: a tag is looked up when somebody asks for it.
const MANIFEST_MAX: u64 = 16 * 1024;

/// The images, and their parts of the whole.
const PARTS: [(&str, f64); 3] = [(REPOSITORY, 0.5), ("pos/pricing", 0.35), ("pos/receipts", 0.15)];

/// Plays it; what holds and what does not.
pub(super) fn play(programs: &Programs, line: LineSpec) -> Result<Vec<(bool, String)>> {
    let bed = Testbed::build(line.line(), None)?;
    let scratch = Scratch::new()?;
    let _registry = programs.registry(bed.cloud_ns(), &scratch)?;
    let mut digests = Vec::new();
    for (seed, (repository, part)) in (60..).zip(PARTS) {
        let folder = scratch.path().join(format!("image-{seed}"));
        image::write(&folder, whole(line.down_mbit * 1e6 / 8.0 * LINE_SECONDS * part), seed)?;
        programs.push_as(&folder, &format!("{repository}:47"), bed.cloud_ns())?;
        digests.push(digest(&folder)?);
    }
    let images: Vec<(&str, &str)> = PARTS
        .iter()
        .zip(&digests)
        .map(|((repository, _), digest)| (*repository, &**digest))
        .collect();
    let documents = rollout_of("2026.47.1", &images, "  prefetch: true\n");
    let documents = documents + &freeze(now() + FREEZE_SECONDS);
    let command = tillgate(line, &scratch, &documents)?;
    let mut gateway = Process::start(command, bed.store_ns(), &scratch)?;
    gateway.wait_ready(Ready::Says(ADMIN))?;
    let began = sys::now();
    let mut shown = String::new();
    while shown.matches("100 %").count() < PARTS.len() {
        let seconds = real(sys::now() - began) / 1e9;
        if seconds > 6.0 * LINE_SECONDS {
            break;
        }
        let words = ["tillgate", "rollouts", "--admin", &ADMIN.to_string()].map(Into::into);
        shown = tillgate::cli::ask(words).context("ask how far it is")?.stdout;
        say!("$ tillgate rollouts                    # {seconds:.0} s\n{shown}");
        rest(LOOK_EVERY);
    }
    let here = shown.matches("100 %").count();
    let before = fetched();
    let pull = programs.pull_as(MIRROR, IMAGE, &scratch.path().join("till"), bed.store_ns(), 0)?;
    let pulled = pull.end().err().unwrap_or_default();
    let more = fetched() - before;
    Ok(vec![
        (
            here == PARTS.len(),
            format!("{here} of {} images are here before anybody asks", PARTS.len()),
        ),
        (
            pulled.is_empty() && more <= MANIFEST_MAX,
            format!("a pull then fetches {more} bytes: what the tag stands for {pulled}"),
        ),
    ])
}

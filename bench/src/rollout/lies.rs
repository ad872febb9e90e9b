//! A registry whose disk is wrong: a flipped bit, a layer that is cut short. No client may take
//! what it gets for the image, and when the registry is right again the image comes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::ask::metric;
use super::programs::{IMAGE, Programs};
use super::scene::tillgate;
use super::{MIRROR, image};
use crate::preset::LineSpec;
use crate::process::{Process, Ready, Scratch};
use crate::system::ADMIN;
use crate::testbed::Testbed;

/// Size of the image.
const BYTES: u64 = 4_000_000;

/// Plays it; what holds and what does not.
pub(super) fn play(programs: &Programs, line: LineSpec) -> Result<Vec<(bool, String)>> {
    let bed = Testbed::build(line.line(), None)?;
    let scratch = Scratch::new()?;
    let registry = programs.registry(bed.cloud_ns(), &scratch)?;
    let folder = scratch.path().join("image");
    image::write(&folder, BYTES, 51)?;
    programs.push_as(&folder, IMAGE, bed.cloud_ns())?;
    let layer = stored(&scratch, &image::layer(&folder)?.0)?;
    let honest = fs::read(&layer).context("read a layer in the registry")?;
    let mut gateway = Process::start(tillgate(line, &scratch, "")?, bed.store_ns(), &scratch)?;
    gateway.wait_ready(Ready::Says(ADMIN))?;
    let mut flipped = honest.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let short = honest[..middle].to_vec();
    let mut judged = Vec::new();
    for (text, content, may_end) in [
        ("a flipped bit", flipped, false),
        ("half a layer", short, false),
        ("the truth", honest, true),
    ] {
        fs::write(&layer, content)?;
        let till = scratch.path().join("till");
        let end = programs.pull_as(MIRROR, IMAGE, &till, bed.store_ns(), 0)?.end();
        let said = if end.is_ok() { "takes it" } else { "does not take it" };
        judged.push((end.is_ok() == may_end, format!("the registry sends {text}: skopeo {said}")));
    }
    let wrong = metric("tillgate_mirror_mismatches_total");
    judged.push((wrong >= 2.0, format!("{wrong} wrong layers are counted, and were 2")));
    drop(registry);
    Ok(judged)
}

/// Where the registry keeps a blob.
fn stored(scratch: &Scratch, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").context("a digest")?;
    let blobs = scratch.path().join("storage/docker/registry/v2/blobs/sha256");
    Ok(blobs.join(&hex[..2]).join(hex).join("data"))
}

//! How long a gateway takes to know what lies in its cache: from its start to its first answer.

use std::fs;

use anyhow::{Result, ensure};

use super::scene::tillgate;
use crate::preset::LineSpec;
use crate::process::{self, Process, Ready, Scratch};
use crate::stats::real;
use crate::sys;
use crate::system::ADMIN;
use crate::testbed::Testbed;
use tillgate_net::mirror::digest_of;

/// Blobs on disk: a hundred images of a hundred layers.
pub(super) const BLOBS: u64 = 10_000;

/// Seconds from the start of a gateway with that many blobs until it is ready and has counted them.
pub(super) fn measure(line: LineSpec) -> Result<f64> {
    let bed = Testbed::build(line.line(), None)?;
    let scratch = Scratch::new()?;
    let blobs = scratch.path().join("cache/blobs");
    for number in 0..BLOBS {
        let bytes = number.to_le_bytes().repeat(64);
        let hex = digest_of(&bytes).hex();
        let shard = blobs.join(&hex[..2]);
        fs::create_dir_all(&shard)?;
        fs::write(shard.join(hex), bytes)?;
    }
    let command = tillgate(line, &scratch, "")?;
    let began = sys::now();
    let mut gateway = Process::start(command, bed.store_ns(), &scratch)?;
    gateway.wait_ready(Ready::Says(ADMIN))?;
    let seconds = real(sys::now() - began) / 1e9;
    let told = process::ask(ADMIN, "/v1/rollouts").unwrap_or_default();
    let counted = format!("\"blobs\":{BLOBS}");
    ensure!(told.contains(&counted), "it does not know its {BLOBS} blobs: {told}");
    Ok(seconds)
}

//! Tills above their threshold while an image is pulled: bulk falls to its floor and comes back.
//!
//! What counts is what comes from the registry, by the gateway's own counter, ten times a second.

use anyhow::Result;

use super::ask::{digest, fetched, metric};
use super::held::rollout_of;
use super::programs::{IMAGE, Programs, REPOSITORY};
use super::scene::tillgate;
use super::{MIRROR, image, rest, way};
use crate::load::payments::{Payments, Plan};
use crate::preset::LineSpec;
use crate::process::{Process, Ready, Scratch};
use crate::stats::real;
use crate::sys;
use crate::system::ADMIN;
use crate::testbed::Testbed;

/// From the first payment above the threshold to bulk at its floor.
const FALL_SECONDS: f64 = 1.0;

/// From the last payment to bulk at half of the line: it waits for two quiet seconds.
const RISE_SECONDS: f64 = 5.0;

/// How much above its floor bulk may be while it is there: what is under way arrives in pieces.
const FLOOR_TIMES: f64 = 1.5;

/// The gateway's brake, while tills are busy.
const BRAKE: &str = "tillgate_rollout_brake_bits_per_second{rollout=\"pos\",state=\"busy\"}";

/// Plays it; what holds and what does not.
pub(super) fn play(programs: &Programs, line: LineSpec) -> Result<Vec<(bool, String)>> {
    let bed = Testbed::build(line.line(), None)?;
    let scratch = Scratch::new()?;
    let _registry = programs.registry(bed.cloud_ns(), &scratch)?;
    let folder = scratch.path().join("image");
    // What the line carries in half a minute: enough for all that follows.
    let bytes = crate::stats::whole(line.down_mbit * 1e6 / 8.0 * 30.0);
    image::write(&folder, bytes, 49)?;
    programs.push_as(&folder, IMAGE, bed.cloud_ns())?;
    let fields = "  pauseWhile: {trafficClass: payment, requestsPerSecond: 10}\n";
    let document = rollout_of("47", &[(REPOSITORY, &digest(&folder)?)], fields);
    let command = tillgate(line, &scratch, &document)?;
    let mut gateway = Process::start(command, bed.store_ns(), &scratch)?;
    gateway.wait_ready(Ready::Says(ADMIN))?;
    let pull = programs.pull_as(MIRROR, IMAGE, &scratch.path().join("till"), bed.store_ns(), 0)?;
    rest(4.0);
    let free = mbit(2.0);
    let payments = Payments::start(Plan {
        way: way(super::scene::Mirror::Tillgate),
        per_second: 25.0,
        connections: 16,
    })?;
    rest(FALL_SECONDS);
    let busy = mbit(4.0);
    let floor = metric(BRAKE) / 1e6;
    drop(payments.stop());
    let quiet = sys::now();
    let mut back = None;
    while back.is_none() && real(sys::now() - quiet) / 1e9 < 2.0 * RISE_SECONDS {
        if mbit(0.5) > free / 2.0 {
            back = Some(real(sys::now() - quiet) / 1e9);
        }
    }
    let pulled = pull.end();
    let fell = floor > 0.0 && busy <= floor * FLOOR_TIMES;
    Ok(vec![
        (
            fell,
            format!(
                "{FALL_SECONDS:.0} s after the tills began bulk has {busy:.2} Mbit/s instead of \
                 {free:.1}; its floor is {floor:.2}, at most {FLOOR_TIMES} x that"
            ),
        ),
        (
            back.is_some_and(|seconds| seconds <= RISE_SECONDS),
            match back {
                Some(seconds) => format!("it is back {seconds:.1} s later, at most {RISE_SECONDS}"),
                None => "it does not come back".to_owned(),
            },
        ),
        (pulled.is_ok(), format!("and the pull ends right {}", pulled.err().unwrap_or_default())),
    ])
}

/// What comes from the registry within so many seconds.
fn mbit(seconds: f64) -> f64 {
    let (from, began) = (fetched(), sys::now());
    rest(seconds);
    real(fetched() - from) * 8.0 / (real(sys::now() - began) / 1e9) / 1e6
}

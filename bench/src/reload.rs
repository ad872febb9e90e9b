//! `lab reload`: policy changes again and again under load, and nobody notices.
//!
//! Requests come at a steady rate on kept-alive connections all the time. In windows that follow
//! each other in random order, policy changes, or only everything around a change happens (a file
//! is written, the gateway is asked what it runs): both kinds meet the same busy machine, so what
//! differs is the change. None may fail, memory may not grow, no request may wait longer; and the
//! gateway's own measure of a swap must say why. Then commits to a folder that the gateway
//! follows, and how long each takes until it serves. Loopback only; no namespaces.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use self::load::{Seen, load, origin};
use self::store::{Gateway, bootstrap, policy, until};
use crate::process::Scratch;
use crate::say;
use crate::stats::{Spread, real};
use crate::sys::{self, NANOS_PER_MS, NANOS_PER_SEC, Nanos, now};
use crate::verdict::Demands;

pub(crate) mod load;
pub(crate) mod store;

/// Before memory is compared: pages and pools that the first reloads need are there.
const WARM_UP: usize = 50;
/// What a window is long beyond its reload: requests that begin after the swap meet what is new.
const TAIL: Nanos = 10 * NANOS_PER_MS;
/// Windows of each kind that are compared with each other: of so many the longest wait.
const ROUND: usize = 50;
/// What memory may have grown by, in percent.
const GROWTH_MAX: f64 = 10.0;
/// What a commit may take.
const COMMIT_MAX_MS: f64 = 2_000.0;
/// What a swap may hold a request for.
const SWAP_MAX_MS: f64 = 1.0;

/// Of so many swaps that must be so; in the others the thread lost its processor on the way, which
/// the side-by-side figures tell.
const SWAPS_SHORT_PERCENT: u64 = 99;

/// Arguments of `lab reload`.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct ReloadArgs {
    /// Reloads.
    #[arg(long, default_value_t = 1000)]
    reloads: usize,
    /// Requests a second.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Routes, each with a backend of its own: twice as many documents.
    #[arg(long, default_value_t = 100)]
    routes: usize,
    /// Commits to the folder that the gateway follows.
    #[arg(long, default_value_t = 10)]
    commits: usize,
}

/// A stretch of time under load.
struct Window {
    from: Nanos,
    to: Nanos,
    reloads: bool,
}

/// Runs it and judges.
pub(crate) fn run(args: &ReloadArgs) -> Result<()> {
    let scratch = Scratch::new()?;
    let origin = origin()?;
    let mut demands = Demands::default();
    reloads(args, &scratch, origin, &mut demands)?;
    commits(args, &scratch, origin, &mut demands)?;
    demands.tell();
    ensure!(demands.hold(), "policy does not change unnoticed");
    Ok(())
}

fn reloads(
    args: &ReloadArgs,
    scratch: &Scratch,
    origin: SocketAddr,
    demands: &mut Demands,
) -> Result<()> {
    let file = scratch.write("store.yaml", &policy(origin, args.routes, 0))?;
    let gateway = Gateway::start("--config", &file, scratch)?;
    let (mut windows, mut rss_before) = (Vec::new(), gateway.process.rss_mib());
    let began = now();
    let seen = load(gateway.http, args.rate, || {
        let mut stage = Stage::begin(&gateway, scratch, origin, args.routes)?;
        while stage.number < args.reloads {
            windows.push(stage.window()?);
            if stage.number == WARM_UP {
                rss_before = gateway.process.rss_mib();
            }
        }
        Ok(())
    })?;
    let rss = gateway.process.rss_mib();
    say!(
        "{} reloads of {} documents in {:.0} s under {} requests/s",
        args.reloads,
        2 * args.routes + 7,
        real(now() - began) / 1e9,
        args.rate,
    );
    demands.add(
        seen.failed == 0,
        format!("{} of {} requests failed (0)", seen.failed, seen.answers.len() + seen.failed),
    );
    compare(&seen, &windows, demands);
    let swaps = gateway.swaps().context("the gateway counts its swaps")?;
    demands.add(
        swaps.all >= args.reloads as u64,
        format!("the gateway counts {} swaps for {} reloads", swaps.all, args.reloads),
    );
    demands.add(
        swaps.short * 100 >= swaps.all * SWAPS_SHORT_PERCENT,
        format!(
            "{} of {} swaps held anything for {SWAP_MAX_MS} ms at most, by the gateway's own clock \
             ({SWAPS_SHORT_PERCENT} %)",
            swaps.short, swaps.all
        ),
    );
    let grown = (rss - rss_before) * 100.0 / rss_before;
    demands.add(
        grown <= GROWTH_MAX,
        format!(
            "memory {rss_before:.1} MiB after {WARM_UP}, {rss:.1} after all: {grown:+.1} % (10)"
        ),
    );
    Ok(())
}

/// Windows, one after the other.
struct Stage<'a> {
    gateway: &'a Gateway,
    scratch: &'a Scratch,
    origin: SocketAddr,
    routes: usize,
    digest: String,
    dice: u64,
    /// Reloads so far, and windows without one.
    number: usize,
    quiet: usize,
    /// How long the last reload took.
    took: Nanos,
}

impl<'a> Stage<'a> {
    fn begin(
        gateway: &'a Gateway,
        scratch: &'a Scratch,
        origin: SocketAddr,
        routes: usize,
    ) -> Result<Self> {
        let digest = gateway.digest().context("the gateway says its digest")?;
        let (dice, number, quiet, took) = (0x9e37_79b9_7f4a_7c15, 0, 0, TAIL);
        Ok(Self { gateway, scratch, origin, routes, digest, dice, number, quiet, took })
    }

    /// One with a reload, or one without; by chance, but never many of a kind.
    fn window(&mut self) -> Result<Window> {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let ahead = self.number.cast_signed() - self.quiet.cast_signed();
        let reloads = if ahead.abs() < 4 { self.dice & 1 == 0 } else { ahead < 0 };
        let from = now();
        if reloads {
            self.number += 1;
            self.write("store.yaml")?;
            sys::hang_up(self.gateway.process.id());
            let news = || self.gateway.digest().filter(|next| *next != self.digest);
            self.digest = until("a reload", news)?;
            self.took = now() - from;
        } else {
            self.quiet += 1;
            self.write("beside.yaml")?;
            let end = from + self.took;
            until("time", || {
                let digest = self.gateway.digest();
                (now() >= end).then_some(digest)
            })?;
        }
        sys::sleep_until(now() + TAIL);
        Ok(Window { from, to: now(), reloads })
    }

    fn write(&self, name: &str) -> Result<()> {
        let text = policy(self.origin, self.routes, self.number);
        self.scratch.write(name, &text).map(drop)
    }
}

/// What clients noticed of reloads.
fn compare(seen: &Seen, windows: &[Window], demands: &mut Demands) {
    for (what, longest) in
        [("a request", Seen::longest_wait as fn(&Seen, _, _) -> _), ("no answer", Seen::silence)]
    {
        let of = |reloads| {
            let of_kind = windows.iter().filter(move |window| window.reloads == reloads);
            of_kind.map(|window| millis(longest(seen, window.from, window.to))).collect::<Vec<_>>()
        };
        let (with, without) = (of(true), of(false));
        say!("longest time that {what} took in a window, ms: p50, p90, p99, longest");
        say!("  with a reload    {}", line(&with));
        say!("  without          {}", line(&without));
        let highest = |round: &[f64]| round.iter().copied().fold(0.0, f64::max);
        let pairs = with.chunks_exact(ROUND).zip(without.chunks_exact(ROUND));
        let rounds = pairs.len();
        let more = Spread::of(pairs.map(|(with, without)| highest(with) - highest(without)));
        demands.add(
            rounds > 0 && more.median <= SWAP_MAX_MS,
            format!(
                "longest time that {what} took, of {ROUND} windows with a reload against as many \
                 without: {:+.2} ms (1), median of {rounds} (at least 1); worst {:+.2} ms",
                more.median, more.high
            ),
        );
    }
}

fn line(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: usize| {
        let index = (sorted.len() * share / 100).min(sorted.len().saturating_sub(1));
        sorted.get(index).copied().unwrap_or(0.0)
    };
    format!("{:7.2} {:7.2} {:7.2} {:7.2}", at(50), at(90), at(99), at(100))
}

fn commits(
    args: &ReloadArgs,
    scratch: &Scratch,
    origin: SocketAddr,
    demands: &mut Demands,
) -> Result<()> {
    let folder = scratch.path().join("policy");
    std::fs::create_dir_all(&folder)?;
    let bootstrap = scratch.write("bootstrap.yaml", &bootstrap(scratch.path(), &folder))?;
    let commit = |number: usize| -> Result<()> {
        let beside = scratch.write("next.yaml", &policy(origin, args.routes, number))?;
        Ok(std::fs::rename(beside, folder.join("store.yaml"))?)
    };
    let gateway = Gateway::start("--bootstrap", &bootstrap, scratch)?;
    let mut times = Vec::new();
    for number in 0..args.commits {
        let digest = gateway.digest();
        let began = now();
        commit(number)?;
        until("a commit", || gateway.digest().filter(|next| Some(next) != digest.as_ref()))?;
        times.push(millis(now() - began));
    }
    let spread = Spread::of(times);
    demands.add(
        spread.high <= COMMIT_MAX_MS,
        format!(
            "a commit to a folder is served after {:.0} ms, {:.0} at most ({COMMIT_MAX_MS})",
            spread.median, spread.high
        ),
    );
    Ok(())
}

fn millis(nanos: Nanos) -> f64 {
    real(nanos) / (real(NANOS_PER_SEC) / 1e3)
}

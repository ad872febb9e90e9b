//! `lab rollout`: a store's machines pull one image, with a real registry and real clients.
//!
//! The registry (`docker-registry`) is in the cloud, the clients (`skopeo`) in the store, payments
//! run all the while. What the registry sent is counted in its own log. The scenes: all machines
//! at once, and then the image from disk; the line cut for twenty seconds in the middle; the
//! gateway killed in the middle; a start with many blobs; a freeze, tills above their threshold, a
//! registry with a wrong disk. Beside them nginx with `proxy_cache`, and
//! nothing that keeps anything. What is not installed is named as absent.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::load::Way;
use crate::load::payments::{self, Call, Outcome, Payments};
use crate::preset::LineSpec;
use crate::say;
use crate::stats::{Quantiles, real, whole};
use crate::sys::{self, NANOS_PER_SEC, Nanos};
use crate::system::ENTRY;

mod ahead;
mod ask;
mod busy;
mod held;
mod hit;
mod image;
mod index;
mod lies;
mod programs;
mod queues;
mod scene;

use self::programs::Programs;
use self::scene::{Figures, Mirror, Scene};

/// What the registry may have sent of an image's bytes.
const RATIO_MAX: f64 = 1.02;

/// What may come twice where a fetch was cut.
const TWICE_MAX: u64 = 1 << 20;

/// What payments may lose to pulls on this line, as beside any other bulk traffic.
const ADDED_P99_MS: f64 = 20.0;

/// From disk, on one core.
const HIT_MBIT: f64 = 2_000.0;

/// Of a blob on disk.
const FIRST_BYTE_MS: f64 = 2.0;

/// From the start of a gateway whose cache has [`index::BLOBS`] blobs.
const INDEX_SECONDS: f64 = 1.0;

#[derive(Args)]
pub struct RolloutArgs {
    /// Down/up in Mbit/s.
    #[arg(long, default_value = "20/5")]
    line: LineSpec,
    /// Machines that pull at the same time. Each needs the image's size on disk.
    #[arg(long, default_value_t = 30)]
    machines: usize,
    /// Size of the image.
    #[arg(long, value_name = "MB", default_value_t = 200)]
    size: u64,
    /// Machines that pull through what keeps nothing: each costs the line the image again.
    #[arg(long, default_value_t = 2)]
    plain_machines: usize,
    /// Size of the image for the scenes that are cut, and for the others.
    #[arg(long, value_name = "MB", default_value_t = 60)]
    small_size: u64,
    /// How long the line is cut.
    #[arg(long, default_value_t = 20)]
    cut_seconds: u64,
    /// Scenes to play; all by default.
    #[arg(long, value_delimiter = ',')]
    scenes: Vec<Scene>,
}

/// Plays the scenes, prints a table and a verdict.
pub fn run(args: &RolloutArgs) -> Result<()> {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(absent) => {
            say!("SKIPPED: {absent}");
            ensure!(std::env::var_os("CI").is_none(), "a skip is a failure here");
            return Ok(());
        }
    };
    say!("{}", programs.versions());
    let all = Scene::ALL.to_vec();
    let scenes = if args.scenes.is_empty() { &all } else { &args.scenes };
    say!(
        "{:<24} {:>5} {:>9} {:>7} {:>8} {:>9} {:>9} {:>7}",
        "scene",
        "pulls",
        "image MB",
        "ratio",
        "seconds",
        "pay p50",
        "pay p99",
        "failed"
    );
    let mut judged = Vec::new();
    for scene in scenes {
        if *scene == Scene::Indexed {
            let seconds = index::measure(args.line)?;
            say!("{:<24} {seconds:.3} s from its start to its first answer", scene.name());
            let text = format!("{} in {seconds:.3} s, at most {INDEX_SECONDS}", scene.name());
            judged.push((seconds <= INDEX_SECONDS, text));
            continue;
        }
        if let Some(play) = own_way(*scene) {
            let name = scene.name();
            let found = play(&programs, args.line)?;
            let held = found.iter().filter(|(holds, _)| *holds).count();
            say!("{name:<24} {held} of {} demands hold", found.len());
            judged
                .extend(found.into_iter().map(|(holds, text)| (holds, format!("{name}: {text}"))));
            continue;
        }
        if *scene == Scene::Nginx
            && let Err(absent) = crate::rivals::Rival::Nginx.program()
        {
            say!("{:<24} absent: {absent}", scene.name());
            continue;
        }
        let order = order(args, *scene);
        let figures = scene::play(&programs, &order)?;
        tell(*scene, &order, &figures);
        judged.extend(judge(*scene, &figures));
    }
    for (holds, text) in &judged {
        say!("{} {text}", if *holds { "ok    " } else { "MISSED" });
    }
    ensure!(judged.iter().all(|(holds, _)| *holds), "the rollout does not hold");
    Ok(())
}

/// A scene that is not about pulls beside payments.
type OwnWay = fn(&Programs, LineSpec) -> Result<Vec<(bool, String)>>;

fn own_way(scene: Scene) -> Option<OwnWay> {
    match scene {
        Scene::Held => Some(held::play),
        Scene::Busy => Some(busy::play),
        Scene::Lies => Some(lies::play),
        Scene::Ahead => Some(ahead::play),
        Scene::Together | Scene::Cut | Scene::Killed | Scene::Indexed => None,
        Scene::Nginx | Scene::Plain => None,
    }
}

fn order(args: &RolloutArgs, scene: Scene) -> scene::Order {
    let (machines, size) = match scene {
        Scene::Together => (args.machines, args.size),
        Scene::Cut | Scene::Killed => (3, args.small_size),
        Scene::Indexed
        | Scene::Held
        | Scene::Busy
        | Scene::Lies
        | Scene::Ahead
        | Scene::Nginx
        | Scene::Plain => (args.plain_machines, args.small_size),
    };
    let mirror = match scene {
        Scene::Nginx => Mirror::Nginx,
        Scene::Plain => Mirror::None,
        Scene::Together | Scene::Cut | Scene::Killed | Scene::Indexed => Mirror::Tillgate,
        Scene::Held | Scene::Busy | Scene::Lies | Scene::Ahead => Mirror::Tillgate,
    };
    let cut = Duration::from_secs(args.cut_seconds);
    scene::Order { scene, mirror, line: args.line, machines, bytes: size * 1_000_000, cut }
}

fn tell(scene: Scene, order: &scene::Order, figures: &Figures) {
    let Figures { sent, bytes, seconds, idle, busy, failed_pulls, .. } = figures;
    say!(
        "{:<24} {:>5} {:>9.0} {:>7.3} {seconds:>8.1} {:>9.2} {:>9.2} {:>7}",
        scene.name(),
        order.machines,
        real(*bytes) / 1e6,
        real(*sent) / real((*bytes).max(1)),
        busy.p50 - idle.p50,
        busy.p99 - idle.p50,
        figures.failed_payments + failed_pulls
    );
    if let Some(hit) = &figures.hit {
        say!(
            "{:<24} {:.0} Mbit/s with {:.0} % of a core, first byte in {:.2} ms",
            "  from disk",
            hit.mbit,
            hit.cpu_percent,
            hit.first_byte_ms
        );
    }
}

/// What must hold of a scene, and whether it does. Others may do as they like.
fn judge(scene: Scene, figures: &Figures) -> Vec<(bool, String)> {
    let name = scene.name();
    let mut judged = Vec::new();
    let mut must = |holds: bool, text: String| judged.push((holds, format!("{name}: {text}")));
    match scene {
        Scene::Together => {
            let ratio = real(figures.sent) / real(figures.bytes.max(1));
            must(ratio <= RATIO_MAX, format!("{ratio:.3} of the image sent, at most {RATIO_MAX}"));
            let added = figures.busy.p99 - figures.idle.p50;
            let text = format!("payments {added:.1} ms later at p99, at most {ADDED_P99_MS}");
            must(added <= ADDED_P99_MS, text);
            let failed = figures.failed_payments;
            must(failed == 0, format!("{failed} payments failed"));
            let hit = figures.hit.unwrap_or_default();
            let text = format!("{:.0} Mbit/s from disk, at least {HIT_MBIT}", hit.mbit);
            must(hit.mbit >= HIT_MBIT, text);
            let is_soon = hit.mbit > 0.0 && hit.first_byte_ms <= FIRST_BYTE_MS;
            let text =
                format!("first byte in {:.2} ms, at most {FIRST_BYTE_MS}", hit.first_byte_ms);
            must(is_soon, text);
        }
        Scene::Cut | Scene::Killed => {
            let (twice, queued) = (figures.sent.saturating_sub(figures.bytes), figures.queued);
            let text = format!("{twice} bytes twice as the registry counts, at most {TWICE_MAX}");
            must(twice <= TWICE_MAX, text);
            let crossed = twice.saturating_sub(queued);
            let text = format!(
                "{crossed} bytes of them without the {queued} that its kernel still held for \
                 connections which died of it, at most {TWICE_MAX}"
            );
            must(crossed <= TWICE_MAX, text);
            let twice = figures.came.saturating_sub(figures.bytes);
            must(twice <= TWICE_MAX, format!("{twice} bytes came twice, at most {TWICE_MAX}"));
            // The clients check digests; here is only whether anything was counted. What came
            // between the last look at a gateway and its end was not.
            let counted = figures.came + TWICE_MAX >= figures.bytes;
            must(counted, format!("{} of {} bytes counted", figures.came, figures.bytes));
        }
        Scene::Indexed
        | Scene::Held
        | Scene::Busy
        | Scene::Lies
        | Scene::Ahead
        | Scene::Nginx
        | Scene::Plain => {
            return judged;
        }
    }
    let Figures { failed_pulls, error, .. } = figures;
    must(*failed_pulls == 0, format!("{failed_pulls} pulls failed {error}"));
    judged
}

/// Payments while `pulls` run.
struct Tills {
    payments: Payments,
    idle: [Nanos; 2],
}

impl Tills {
    /// Payments through `way`, and what they are like alone.
    fn start(way: Way, idle_seconds: f64) -> Result<Self> {
        let plan = payments::Plan { way, per_second: 25.0, connections: 16 };
        let payments = Payments::start(plan)?;
        rest(3.0);
        let from = sys::now();
        rest(idle_seconds);
        Ok(Self { payments, idle: [from, sys::now()] })
    }

    /// What they were alone, what since `from`, and how many failed.
    fn stop(self, from: Nanos) -> (Quantiles, Quantiles, u64) {
        let to = sys::now();
        let calls = self.payments.stop();
        let failed = calls.iter().filter(|call| call.outcome == Outcome::Failed).count();
        (latency(&calls, self.idle), latency(&calls, [from, to]), failed as u64)
    }
}

fn latency(calls: &[Call], [from, to]: [Nanos; 2]) -> Quantiles {
    let inside = calls.iter().filter(|call| (from..to).contains(&call.due));
    Quantiles::of_micros(inside.map(|call| call.took_us))
}

fn rest(seconds: f64) {
    sys::sleep_until(sys::now() + whole(seconds * real(NANOS_PER_SEC)));
}

/// How payments reach the cloud.
const fn way(mirror: Mirror) -> Way {
    match mirror {
        Mirror::Tillgate => Way::Entry(ENTRY),
        Mirror::Nginx | Mirror::None => Way::Direct,
    }
}

/// Where the mirror listens in the store.
const MIRROR: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 5_055));

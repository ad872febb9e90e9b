//! One scene of a rollout: registry, mirror, payments, machines that pull, and what happens in the
//! middle.
//!
//! Everything is fresh in every scene: namespaces, registry, cache. The machines begin together.

use std::fs::File;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::ask::fetched;
use super::hit::{self, Hit};
use super::programs::{IMAGE, Programs, Pull, REGISTRY, Registry, loopback, ready};
use super::queues::Watch;
use super::{MIRROR, Tills, image, rest, way};
use crate::emulator::Direction;
use crate::line::Shape;
use crate::policy;
use crate::preset::LineSpec;
use crate::process::{Process, Ready, Scratch};
use crate::rivals::Rival;
use crate::stats::{Quantiles, real};
use crate::sys;
use crate::system::{self, ADMIN, ENTRY};
use crate::testbed::{RENO, Testbed};

/// Nothing passes: every packet is lost.
const ALL_PPM: u64 = 1_000_000;

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    Together,
    Cut,
    Killed,
    Indexed,
    Held,
    Busy,
    Lies,
    Ahead,
    Nginx,
    Plain,
}

impl Scene {
    pub(super) const ALL: [Self; 10] = [
        Self::Together,
        Self::Cut,
        Self::Killed,
        Self::Indexed,
        Self::Held,
        Self::Busy,
        Self::Lies,
        Self::Ahead,
        Self::Nginx,
        Self::Plain,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::Cut => "line cut",
            Self::Killed => "gateway killed",
            Self::Indexed => "10,000 blobs indexed",
            Self::Held => "freeze and override",
            Self::Busy => "busy tills",
            Self::Lies => "lying registry",
            Self::Ahead => "prefetch",
            Self::Nginx => "nginx proxy_cache",
            Self::Plain => "nothing between",
        }
    }
}

impl FromStr for Scene {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "together" => Self::Together,
            "cut" => Self::Cut,
            "killed" => Self::Killed,
            "indexed" => Self::Indexed,
            "held" => Self::Held,
            "busy" => Self::Busy,
            "lies" => Self::Lies,
            "ahead" => Self::Ahead,
            "nginx" => Self::Nginx,
            "plain" => Self::Plain,
            _ => bail!(
                "{text:?} is none of together, cut, killed, indexed, held, busy, lies, \
                 ahead, nginx, plain"
            ),
        })
    }
}

/// What stands between the machines and the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mirror {
    Tillgate,
    Nginx,
    None,
}

pub(super) struct Order {
    pub(super) scene: Scene,
    pub(super) mirror: Mirror,
    pub(super) line: LineSpec,
    pub(super) machines: usize,
    pub(super) bytes: u64,
    pub(super) cut: Duration,
}

/// What came of it.
pub(super) struct Figures {
    /// Body bytes of blobs that the registry sent.
    pub(super) sent: u64,
    /// Of the image.
    pub(super) bytes: u64,
    /// Body bytes that the gateway got, also the one that was killed; 0 = there was none. What a
    /// registry has handed to its kernel before a cut is sent, and may never come.
    pub(super) came: u64,
    /// Bytes that lay in the registry's kernel when a connection of it died.
    pub(super) queued: u64,
    pub(super) seconds: f64,
    pub(super) idle: Quantiles,
    pub(super) busy: Quantiles,
    pub(super) failed_payments: u64,
    pub(super) failed_pulls: u64,
    pub(super) error: String,
    pub(super) hit: Option<Hit>,
}

/// Builds everything, plays, takes it down.
pub(super) fn play(programs: &Programs, order: &Order) -> Result<Figures> {
    let bed = Testbed::build(order.line.line(), Some(RENO))?;
    let scratch = Scratch::new()?;
    let folder = scratch.path().join("image");
    let bytes = image::write(&folder, order.bytes, 47)?;
    let registry = programs.registry(bed.cloud_ns(), &scratch)?;
    programs.push_as(&folder, IMAGE, bed.cloud_ns()).context("push the image")?;
    let before = registry.sent();
    let mut proxy = start(order, &bed, &scratch)?;
    let watch = registry.watch()?;
    let tills = Tills::start(way(order.mirror), 5.0)?;
    let at = if order.mirror == Mirror::None { REGISTRY } else { MIRROR };
    let began = sys::now();
    let pulls: Result<Vec<Pull>> = (0..order.machines)
        .map(|machine| {
            programs.pull(at, &scratch.path().join(format!("machine-{machine}")), bed.store_ns())
        })
        .collect();
    let lost = trouble(order, &bed, &scratch, (&registry, &watch), before, &mut proxy)?;
    let mut ends: Vec<Result<(), String>> = pulls?.into_iter().map(Pull::end).collect();
    if order.scene == Scene::Killed {
        // Their connections broke; a runtime pulls again.
        for (machine, end) in ends.iter_mut().enumerate().filter(|(_, end)| end.is_err()) {
            let folder = scratch.path().join(format!("again-{machine}"));
            *end = programs.pull(at, &folder, bed.store_ns())?.end();
        }
    }
    let seconds = real(sys::now() - began) / 1e9;
    let (idle, busy, failed_payments) = tills.stop(began);
    let failed: Vec<String> = ends.into_iter().filter_map(Result::err).collect();
    let hit = match &proxy {
        Some(gateway) if order.scene == Scene::Together && failed.is_empty() => {
            let (digest, size) = image::layer(&folder)?;
            Some(hit::measure(gateway, &digest, size)?)
        }
        _ => None,
    };
    // The registry logs a request when it has ended.
    watch.settle();
    rest(1.0);
    let came = if order.mirror == Mirror::Tillgate { lost + fetched() } else { 0 };
    Ok(Figures {
        came,
        queued: watch.end(),
        sent: registry.sent() - before,
        bytes,
        seconds,
        idle,
        busy,
        failed_payments,
        failed_pulls: failed.len() as u64,
        error: failed.into_iter().next().unwrap_or_default(),
        hit,
    })
}

/// What happens in the middle; bytes that a gateway had got that is not there any more.
fn trouble(
    order: &Order,
    bed: &Testbed,
    scratch: &Scratch,
    (registry, watch): (&Registry, &Watch),
    before: u64,
    proxy: &mut Option<Process>,
) -> Result<u64> {
    let whole = real(order.bytes) * 8.0 / (order.line.down_mbit * 1e6);
    match order.scene {
        Scene::Together | Scene::Nginx | Scene::Plain => {}
        // They have ways of their own.
        Scene::Indexed | Scene::Held | Scene::Busy | Scene::Lies | Scene::Ahead => {}
        Scene::Cut => {
            rest(whole / 2.0);
            watch.trouble_begins();
            let line = order.line.line();
            let lost = |shape: Shape| Shape { loss_ppm: ALL_PPM, ..shape };
            bed.emulator.set(Direction::Down, lost(line.down))?;
            bed.emulator.set(Direction::Up, lost(line.up))?;
            rest(order.cut.as_secs_f64());
            bed.emulator.set(Direction::Down, line.down)?;
            bed.emulator.set(Direction::Up, line.up)?;
        }
        Scene::Killed => {
            rest(whole / 2.0);
            if registry.sent() > before + order.bytes {
                bail!("all was fetched before the gateway was killed");
            }
            let lost = fetched();
            watch.trouble_begins();
            if let Some(gateway) = proxy {
                gateway.kill();
            }
            *proxy = start(order, bed, scratch)?;
            return Ok(lost);
        }
    }
    Ok(0)
}

/// Starts what stands between.
fn start(order: &Order, bed: &Testbed, scratch: &Scratch) -> Result<Option<Process>> {
    let (command, ready) = match order.mirror {
        Mirror::None => return Ok(None),
        Mirror::Tillgate => (tillgate(order.line, scratch, "")?, Ready::Says(ADMIN)),
        Mirror::Nginx => (nginx(scratch)?, ready(MIRROR)),
    };
    let mut process = Process::start(command, bed.store_ns(), scratch)?;
    process.wait_ready(ready)?;
    Ok(Some(process))
}

/// The gateway with a mirror of the registry, and further documents.
pub(super) fn tillgate(line: LineSpec, scratch: &Scratch, documents: &str) -> Result<Command> {
    let mut text = policy::for_line(line, None);
    let cache = scratch.path().join("cache");
    text.push_str(&format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: RegistryMirror\nmetadata: {{name: images}}\n\
         spec:\n  address: {MIRROR}\n  registries:\n    \
         - {{host: registry.example, url: 'http://{REGISTRY}'}}\n  \
         cache: {{directory: {}, size: 10Gi, minFree: 64Mi}}\n",
        cache.display()
    ));
    text.push_str(documents);
    let mut command = system::gateway(scratch, &text, Some(ENTRY))?;
    // One core for the hit rate; the other is the clients'.
    sys::pin_child(&mut command, 0);
    Ok(command)
}

/// nginx as its documentation has it: a cache, one fetch at a time for a key, and the range of a
/// client ignored, as a cache of whole files must.
fn nginx(scratch: &Scratch) -> Result<Command> {
    let folder = scratch.path().join("nginx-cache");
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {0}/nginx.pid;\nevents {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {0}/body;\n  \
         proxy_temp_path {0}/temp;\n  \
         fastcgi_temp_path {0}/f;\n  uwsgi_temp_path {0}/u;\n  scgi_temp_path {0}/s;\n  \
         proxy_cache_path {1} keys_zone=images:10m max_size=10g inactive=1d use_temp_path=off;\n  \
         server {{\n    listen {2};\n    location / {{\n      proxy_pass http://{REGISTRY};\n      \
         proxy_cache images;\n      proxy_cache_lock on;\n      \
         proxy_cache_lock_timeout 1h;\n      \
         proxy_cache_lock_age 1h;\n      proxy_cache_valid 200 1d;\n      \
         proxy_read_timeout 1h;\n    }}\n  }}\n}}\n",
        scratch.path().display(),
        folder.display(),
        loopback(MIRROR.port()),
    );
    // It is started under a user that may write here.
    drop(File::create(scratch.path().join("nginx.log")));
    let text = format!("user root;\n{text}");
    Rival::Nginx.configured(scratch, &text)
}

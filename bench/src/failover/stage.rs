//! One scene played: namespaces, replicas, a proxy, calls all the time, and the fault.
//!
//! Everything is set up before the calls begin, so that scenes that are played together do not
//! disturb each other's measurement with their starts.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::contender;
use super::figures::{Figures, Measured, Moments};
use super::load::{self, Call};
use super::names::Names;
use super::replica::{self, Replica};
use super::scene::{Fault, SETTLE_SECONDS, Scene, Step, Tier};
use crate::emulator::Direction;
use crate::line::Shape;
use crate::preset::LineSpec;
use crate::process::{PROXY_LOG, Process, Scratch};
use crate::stats::{real, whole};
use crate::sys::{self, NANOS_PER_SEC, Nanos};
use crate::system::ENTRY;
use crate::testbed::{RENO, Testbed};

/// A service takes longer to boot than a proxy.
const BOOT: Duration = Duration::from_secs(1);
/// Every packet.
const ALL_LOST: u64 = 1_000_000;

/// How scenes are played.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) line: LineSpec,
    /// How long a fault lasts that has no length of its own, in seconds.
    pub(super) lasts: f64,
    /// Where the files of each scene are kept.
    pub(super) keep: Option<PathBuf>,
}

struct Stage<'a> {
    scene: &'a Scene,
    terms: &'a Terms,
    bed: Testbed,
    scratch: Scratch,
    local: Replica,
    cloud: Replica,
    proxy: Process,
    names: Option<Names>,
    cloud_ms: f64,
    /// When a proxy that was started again was ready.
    ready_again: Option<Nanos>,
}

/// Plays a scene. The barrier is passed once, whatever happens, when everything stands.
pub(super) fn play(scene: &Scene, terms: &Terms, all_stand: &Barrier) -> Result<Figures> {
    let stage = Stage::set_up(scene, terms);
    all_stand.wait();
    stage?.play()
}

impl<'a> Stage<'a> {
    fn set_up(scene: &'a Scene, terms: &'a Terms) -> Result<Self> {
        let bed = Testbed::build(terms.line.line(), Some(RENO))?;
        let scratch = Scratch::new()?;
        let names = (scene.fault == Fault::DnsGone).then(Names::start).transpose()?;
        let mut cloud = Replica::start(Tier::Cloud, &bed, &scratch, Duration::ZERO)?;
        let mut local = Replica::start(Tier::Local, &bed, &scratch, Duration::ZERO)?;
        cloud.wait_ready().context("the replica in the cloud")?;
        local.wait_ready().context("the replica in the store")?;
        let cloud_ms = load::own_time_ms(plan(scene, replica::address(Tier::Cloud)))?;
        let proxy = start_proxy(scene, terms, &bed, &scratch)?;
        let ready_again = None;
        Ok(Self { scene, terms, bed, scratch, local, cloud, proxy, names, cloud_ms, ready_again })
    }

    fn play(mut self) -> Result<Figures> {
        let calls = load::start(plan(self.scene, ENTRY))?;
        let fault = after(sys::now(), SETTLE_SECONDS);
        let mut done = fault;
        for (at, step) in self.scene.fault.script(self.terms.lasts) {
            sys::sleep_until(after(fault, at));
            self.take(step).with_context(|| format!("{step:?}"))?;
            if at == 0.0 {
                done = sys::now();
            }
        }
        sys::sleep_until(after(fault, self.scene.fault.watched_seconds(self.terms.lasts)));
        let calls = calls.stop();
        if self.proxy.has_ended() {
            bail!("the proxy ended:\n{}", self.proxy.log_end());
        }
        let judged = self.ready_again.unwrap_or(fault);
        let figures = self.figures(&calls, Moments { fault, done, judged });
        if let Some(folder) = &self.terms.keep {
            self.keep(folder, &calls, &figures).context("keep the files of a scene")?;
        }
        self.proxy.kill();
        Ok(figures)
    }

    fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Kill(tier) => self.replica(tier).kill(),
            Step::Start(Tier::Local) => self.local.start_again(&self.bed, Duration::ZERO)?,
            Step::Start(Tier::Cloud) => self.cloud.start_again(&self.bed, Duration::ZERO)?,
            Step::Freeze => self.local.freeze(),
            Step::Thaw => self.local.thaw(),
            Step::Behave(behaviour) => self.local.behave(behaviour)?,
            Step::CutLine => self.lose(ALL_LOST)?,
            Step::MendLine => self.lose(self.terms.line.loss_ppm)?,
            Step::StopNames => {
                let answered = self.names.as_ref().map_or(0, Names::fall_silent);
                ensure!(answered > 0, "the proxy has asked for no name");
            }
            Step::PowerCut => {
                self.proxy.kill();
                self.local.kill();
            }
            Step::PowerOn => {
                self.local.start_again(&self.bed, BOOT)?;
                self.proxy = start_proxy(self.scene, self.terms, &self.bed, &self.scratch)?;
                self.ready_again = Some(sys::now());
            }
        }
        Ok(())
    }

    fn replica(&mut self, tier: Tier) -> &mut Replica {
        match tier {
            Tier::Local => &mut self.local,
            Tier::Cloud => &mut self.cloud,
        }
    }

    /// Changes how many packets of a million the line loses, in both directions.
    fn lose(&self, loss_ppm: u64) -> Result<()> {
        let line = self.terms.line.line();
        for (direction, shape) in [(Direction::Down, line.down), (Direction::Up, line.up)] {
            self.bed.emulator.set(direction, Shape { loss_ppm, ..shape })?;
        }
        Ok(())
    }

    fn figures(&self, calls: &[Call], moments: Moments) -> Figures {
        let (local, cloud) = (self.local.ledger(), self.cloud.ledger());
        Figures::of(&Measured {
            calls,
            local: &local,
            cloud: &cloud,
            keying: self.scene.keying,
            moments,
            cloud_ms: self.cloud_ms,
        })
    }

    /// The proxy's log, the ledgers, the configuration and every call.
    fn keep(&self, folder: &Path, calls: &[Call], figures: &Figures) -> Result<()> {
        let name = self.scene.to_string().replace(", ", "-").replace([' ', '/'], "_");
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(self.scratch.path())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
            }
        }
        std::fs::write(folder.join("figures.json"), serde_json::to_string_pretty(figures)?)?;
        let lines: Result<Vec<String>, _> = calls.iter().map(serde_json::to_string).collect();
        std::fs::write(folder.join("calls.jsonl"), lines?.join("\n"))?;
        Ok(())
    }
}

const fn plan(scene: &Scene, to: std::net::SocketAddr) -> load::Plan {
    let Scene { protocol, rate, keying, .. } = *scene;
    load::Plan { to, protocol, rate, keyed: keying.is_keyed() }
}

fn start_proxy(scene: &Scene, terms: &Terms, bed: &Testbed, scratch: &Scratch) -> Result<Process> {
    let command = contender::command(scene, terms.line, scratch)?;
    let log = scratch.path().join(PROXY_LOG);
    let mut proxy = Process::start_logged(command, bed.store_ns(), log)?;
    proxy.wait_ready(contender::ready(scene.contender))?;
    Ok(proxy)
}

/// So many seconds after a moment; before it when they are negative.
fn after(moment: Nanos, seconds: f64) -> Nanos {
    whole(real(moment) + seconds * real(NANOS_PER_SEC))
}

//! A replica from the outside: started, killed, frozen, told how to behave, and its book read.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ledger::{self, Ledger};
use super::scene::{Behaviour, Tier};
use super::serve;
use crate::process::{Process, Ready, Scratch};
use crate::sys::{self, NANOS_PER_MS, NANOS_PER_SEC};
use crate::testbed::{CLOUD, Testbed};

/// For a replica that has just been started to open its control socket.
const PATIENCE_SECONDS: u64 = 5;

/// Where the replica of a tier listens.
pub(super) fn address(tier: Tier) -> SocketAddr {
    match tier {
        Tier::Local => SocketAddr::from(([127, 0, 0, 1], 9_500)),
        Tier::Cloud => SocketAddr::from((CLOUD, 9_600)),
    }
}

/// A replica; it is killed when this is dropped.
pub(super) struct Replica {
    tier: Tier,
    folder: PathBuf,
    process: Process,
}

impl Replica {
    /// Starts it, asleep for `late` before it listens.
    pub(super) fn start(
        tier: Tier,
        bed: &Testbed,
        scratch: &Scratch,
        late: Duration,
    ) -> Result<Self> {
        let folder = scratch.path().to_path_buf();
        let process = spawn(tier, bed, &folder, late)?;
        Ok(Self { tier, folder, process })
    }

    /// Waits until it listens.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        self.process.wait_ready(Ready::Accepts(address(self.tier)))
    }

    pub(super) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it once more, on the same book.
    pub(super) fn start_again(&mut self, bed: &Testbed, late: Duration) -> Result<()> {
        self.process = spawn(self.tier, bed, &self.folder, late)?;
        Ok(())
    }

    pub(super) fn freeze(&self) {
        sys::freeze(self.process.id());
    }

    pub(super) fn thaw(&self) {
        sys::thaw(self.process.id());
    }

    pub(super) fn behave(&self, behaviour: Behaviour) -> Result<()> {
        let word = serde_json::to_vec(&behaviour)?;
        let socket = UnixDatagram::unbound()?;
        let path = self.folder.join(control(self.tier));
        let patience = sys::now() + PATIENCE_SECONDS * NANOS_PER_SEC;
        loop {
            match socket.send_to(&word, &path) {
                Ok(_) => return Ok(()),
                Err(_) if sys::now() < patience => {
                    sys::sleep_until(sys::now() + 5 * NANOS_PER_MS);
                }
                Err(error) => return Err(error).context("tell a replica how to behave"),
            }
        }
    }

    pub(super) fn ledger(&self) -> Ledger {
        ledger::read(&self.folder.join(book(self.tier)))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // A frozen process would not notice anything gentler.
        self.process.kill();
    }
}

fn book(tier: Tier) -> String {
    format!("{}.ledger", tier.name())
}

fn control(tier: Tier) -> String {
    format!("{}.control", tier.name())
}

fn spawn(tier: Tier, bed: &Testbed, folder: &std::path::Path, late: Duration) -> Result<Process> {
    let ns = match tier {
        Tier::Local => bed.store_ns(),
        Tier::Cloud => bed.cloud_ns(),
    };
    let mut command = Command::new("/proc/self/exe");
    let (book, control) = (folder.join(book(tier)), folder.join(control(tier)));
    command.args(serve::arguments(address(tier), tier, &book, &control, late));
    Process::start_logged(command, ns, folder.join(format!("{}.log", tier.name())))
}

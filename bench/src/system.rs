//! The systems that the lab can put between a store and its line, and how each is started.
//!
//! Tillgate is this very program started again in another role, so the lab needs no path to a
//! build and measures exactly the code it was built with.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::certificate::Certificate;
use crate::experiment::Plan;
use crate::load::Way;
use crate::policy::TlsFiles;
use crate::process::{Process, Ready, Scratch};
use crate::rivals::{self, Flows, Rival};
use crate::sys;
use crate::testbed::Testbed;
use crate::{htb, policy};

/// The argument that makes this program Tillgate.
pub const TILLGATE_ROLE: &str = "tillgate-role";
/// Names a program that is Tillgate in the place of this one: as it is shipped.
pub const TILLGATE_VARIABLE: &str = "TILLGATE_LAB_TILLGATE";

pub const ENTRY: SocketAddr = loopback(8_080);
pub const ENTRY_TLS: SocketAddr = loopback(8_443);
pub const FORWARD_PROXY: SocketAddr = loopback(3_128);
pub const ADMIN: SocketAddr = loopback(9_900);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// What stands between the store and the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// Nothing.
    Direct,
    Tillgate,
    /// Another proxy, configured by the lab.
    Rival(Rival),
    /// No proxy, but the kernel's shaper on the store's end of the line.
    Htb,
    /// Any program, as a shell would start it.
    Command(String),
}

impl FromStr for System {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("cmd:")) {
            ("direct", _) => Ok(Self::Direct),
            ("tillgate", _) => Ok(Self::Tillgate),
            ("nginx", _) => Ok(Self::Rival(Rival::Nginx)),
            ("haproxy-90", _) => Ok(Self::Rival(Rival::Haproxy(90))),
            ("haproxy-50", _) => Ok(Self::Rival(Rival::Haproxy(50))),
            ("envoy", _) => Ok(Self::Rival(Rival::Envoy)),
            ("htb", _) => Ok(Self::Htb),
            (_, Some(command)) => Ok(Self::Command(command.to_owned())),
            _ => bail!(
                "{text:?} is none of direct, tillgate, nginx, haproxy-90, haproxy-50, envoy, \
                 htb, cmd:'program args'"
            ),
        }
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct => f.pad("direct"),
            Self::Tillgate => f.pad("tillgate"),
            Self::Rival(Rival::Nginx) => f.pad("nginx"),
            Self::Rival(Rival::Haproxy(percent)) => f.pad(&format!("haproxy-{percent}")),
            Self::Rival(Rival::Envoy) => f.pad("envoy"),
            Self::Htb => f.pad("htb"),
            Self::Command(_) => f.pad("command"),
        }
    }
}

impl System {
    /// Why the system cannot be measured on this machine.
    pub fn available(&self) -> Result<(), String> {
        match self {
            Self::Direct | Self::Tillgate | Self::Command(_) => Ok(()),
            Self::Rival(rival) => rival.program().map(drop),
            Self::Htb => rivals::has_traffic_control(),
        }
    }

    /// Whether the load goes straight to the origins.
    pub fn is_transparent(&self) -> bool {
        matches!(self, Self::Direct | Self::Htb)
    }

    /// Starts the system in the store and waits until it takes connections.
    pub fn start(&self, bed: &Testbed, plan: &Plan) -> Result<Option<Running>> {
        let scratch = Scratch::new()?;
        let (command, ready) = match self {
            Self::Direct => return Ok(None),
            Self::Htb => {
                htb::shape(plan.line).context("set the kernel's shaper up")?;
                return Ok(None);
            }
            Self::Tillgate => (tillgate(&scratch, plan)?, Ready::Says(ADMIN)),
            Self::Rival(rival) => {
                let flows = Flows { pulls: plan.pulls, pushes: plan.pushes };
                (rival.command(&scratch, plan.line, flows)?, Ready::Accepts(ENTRY))
            }
            Self::Command(text) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("exec {text}"));
                (shell, Ready::Accepts(proxy_address(plan.way)?))
            }
        };
        let mut process = Process::start(command, bed.store_ns(), &scratch)?;
        process.wait_ready(ready)?;
        Ok(Some(Running { process, scratch }))
    }
}

/// A proxy that runs, with its files.
pub struct Running {
    pub process: Process,
    scratch: Scratch,
}

impl Running {
    /// Gives Tillgate another policy and tells it to read it.
    pub fn reload(&self, policy: &str) -> Result<()> {
        self.scratch.write(POLICY, policy)?;
        sys::hang_up(self.process.id());
        Ok(())
    }
}

fn proxy_address(way: Way) -> Result<SocketAddr> {
    match way {
        Way::Entry(address) | Way::EntryTls(address) | Way::Connect(address) => Ok(address),
        Way::Direct => bail!("a proxy needs --path entry or --path connect"),
    }
}

fn tillgate(scratch: &Scratch, plan: &Plan) -> Result<Command> {
    let text = match (&plan.policy, plan.way) {
        (Some(path), _) => {
            fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?
        }
        (None, Way::EntryTls(entry)) => {
            let made = Certificate::of_the_lab()?;
            let files = TlsFiles {
                entry,
                authority: scratch.write("authority.pem", &made.authority)?,
                chain: scratch.write("chain.pem", &made.chain)?,
                key: scratch.write("key.pem", &made.key)?,
            };
            policy::for_line(plan.line, Some(&files))
        }
        (None, _) => policy::for_line(plan.line, None),
    };
    // A policy with listeners of its own names where they are.
    let entry = (!matches!(plan.way, Way::EntryTls(_))).then_some(ENTRY);
    gateway(scratch, &text, entry)
}

/// Tillgate on a policy, with the lab's addresses.
pub(crate) fn gateway(
    scratch: &Scratch,
    policy: &str,
    entry: Option<SocketAddr>,
) -> Result<Command> {
    let policy = scratch.write(POLICY, policy)?;
    let mut command = program();
    command.arg("gateway").arg("--config").arg(policy);
    if let Some(entry) = entry {
        command.arg("--http").arg(entry.to_string());
    }
    command.arg("--forward-proxy").arg(FORWARD_PROXY.to_string());
    command.arg("--admin").arg(ADMIN.to_string());
    Ok(command)
}

/// The file that Tillgate runs on, among the scratch files of its run.
const POLICY: &str = "policy.yaml";

/// Tillgate, without its arguments.
pub(crate) fn program() -> Command {
    if let Some(program) = std::env::var_os(TILLGATE_VARIABLE) {
        return Command::new(program);
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg(TILLGATE_ROLE);
    command
}

/// This program as Tillgate.
pub fn be_tillgate(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    tillgate::cli::run(std::iter::once(OsString::from("tillgate")).chain(args))
}

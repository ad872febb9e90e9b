//! The gateway whose policy changes, and its policies.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::process::{Process, Ready, Scratch, ask};
use crate::sys::{self, NANOS_PER_MS, NANOS_PER_SEC, Nanos, now};
use crate::system;

/// A reload that is not in effect after this is a failure.
const PATIENCE: Nanos = 10 * NANOS_PER_SEC;
const STEP: Nanos = NANOS_PER_MS;

/// A gateway of this program.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    admin: SocketAddr,
}

/// How often it has put a config in effect, and how often that took a millisecond at most.
pub(super) struct Swaps {
    pub(super) all: u64,
    pub(super) short: u64,
}

impl Gateway {
    pub(crate) fn start(flag: &str, file: &Path, scratch: &Scratch) -> Result<Self> {
        let (http, proxy, admin) = (free()?, free()?, free()?);
        let mut command = system::program();
        command.args(["gateway", "--log", "warn"]).arg(flag).arg(file);
        for (flag, address) in [("--http", http), ("--forward-proxy", proxy), ("--admin", admin)] {
            command.arg(flag).arg(address.to_string());
        }
        let log = scratch.path().join("gateway.log");
        let mut process = Process::start_logged(command, &sys::current_net_ns()?, log)?;
        process.wait_ready(Ready::Says(admin))?;
        Ok(Self { process, http, admin })
    }

    pub(super) fn digest(&self) -> Option<String> {
        let answer = ask(self.admin, "/readyz?verbose")?;
        answer.lines().find_map(|line| line.strip_prefix("config ")).map(str::to_owned)
    }

    pub(super) fn swaps(&self) -> Option<Swaps> {
        let scrape = ask(self.admin, "/metrics")?;
        let of = |suffix: &str, labels: &[&str]| {
            let name = format!("tillgate_config_apply_duration_seconds_{suffix}{{");
            let mut lines = scrape.lines().filter(|line| line.starts_with(&name));
            let line = lines.find(|line| labels.iter().all(|label| line.contains(label)))?;
            line.rsplit(' ').next()?.parse().ok()
        };
        let swap = "phase=\"swap\"";
        Some(Swaps { all: of("count", &[swap])?, short: of("bucket", &[swap, "le=\"0.001\""])? })
    }
}

/// A policy in which everything that can change while it runs is another with each number: a
/// class, a line, routes and backends.
pub(super) fn policy(origin: SocketAddr, routes: usize, number: usize) -> String {
    let (share, rate, name) = (10 + number % 10, 50 + number % 7, number % 13);
    let head = "---\napiVersion: tillgate.dev/v1alpha1\nkind: ";
    let mut text = format!(
        "{head}Store\nmetadata: {{name: store-0412}}\nspec:\n  timeZone: UTC\n  links: [{{name: \
         primary, capacity: {{up: {rate}Mbit/s, down: 200Mbit/s}}}}]\n{head}TrafficClass\n\
         metadata: {{name: payment}}\nspec: {{priority: 1000, critical: true, \
         guarantee: {{up: {share}%, \
         down: 10%}}}}\n"
    );
    let mut pair = |backend: &str, host: &str| {
        let _ = write!(
            text,
            "{head}Backend\nmetadata: {{name: {backend}}}\nspec:\n  location: Local\n  protocol: \
             HTTP\n  endpoints: [{{ip: {{address: {}, port: {}}}}}]\n{head}ServiceRoute\nmetadata: \
             {{name: {backend}}}\nspec:\n  hostnames: [{host}.example]\n  trafficClass: payment\n  \
             rules: [{{name: all, backendRefs: [{{name: {backend}}}]}}]\n",
            origin.ip(),
            origin.port()
        );
    };
    pair("steady", "a");
    pair(&format!("other-{name}"), "b");
    for route in 0..routes {
        pair(&format!("service-{route}"), &format!("s{route}"));
    }
    // The number itself, so that each reload is another digest.
    let _ = write!(
        text,
        "{head}ServiceRoute\nmetadata: {{name: numbered}}\nspec:\n  hostnames: \
         [n{number}.example]\n  rules: [{{name: all, backendRefs: [{{name: steady}}]}}]\n"
    );
    text
}

pub(super) fn bootstrap(state: &Path, folder: &Path) -> String {
    // The key signs nothing here: the folder is taken without a signature.
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Bootstrap\nmetadata: {{name: \
         store-0412}}\nspec:\n  storeId: store-0412\n  role: Gateway\n  stateDir: {}\n  \
         sources: [{{name: folder, type: \
         Directory, path: {}, interval: 1s, allowUnsigned: true}}]\n  trust: {{threshold: 1, keys: \
         [{{id: ci, algorithm: Ed25519, publicKey: \
         MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=, roles: [bundle]}}]}}\n",
        state.join("state").display(),
        folder.display()
    )
}

/// Waits until `condition` gives something.
pub(super) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        ensure!(now() < deadline, "{what} is not in effect after 10 s");
        sys::sleep_until(now() + STEP);
    }
}

/// Where a program of the lab may listen, and nobody else is sent by chance: a socket that does not
/// listen keeps the port, and `SO_REUSEADDR` lets a server in beside it.
pub(crate) fn free() -> Result<SocketAddr> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = socket.local_addr()?;
    // It is closed with the process.
    std::mem::forget(socket);
    Ok(address)
}

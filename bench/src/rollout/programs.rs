//! The registry and the clients: where they are, how they are run, what they say.
//!
//! Both are the distribution's own: `docker-registry` and `skopeo`. Nothing of them is configured
//! beyond addresses and a log that can be read by a program.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::queues::Watch;
use crate::process::{Process, Ready, Scratch};
use crate::sys;
use crate::testbed::CLOUD;

/// Where the registry listens.
pub(super) const REGISTRY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(CLOUD, 5_000));

/// The repository of the images.
pub(super) const REPOSITORY: &str = "pos/checkout";

/// The image that most scenes pull.
pub(super) const IMAGE: &str = "pos/checkout:47";

/// A pull that has not ended by then will not.
const PATIENCE_SECONDS: &str = "600";

/// Programs of the distribution.
pub(super) struct Programs {
    registry: PathBuf,
    skopeo: PathBuf,
}

impl Programs {
    /// Looks for them.
    pub(super) fn find() -> Result<Self, String> {
        let find = |name: &str| {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            let mut places = std::env::split_paths(&folders).map(|folder| folder.join(name));
            let found = places.find(|path| path.is_file());
            found.ok_or_else(|| format!("no {name} in PATH (Debian: the package {name})"))
        };
        Ok(Self { registry: find("docker-registry")?, skopeo: find("skopeo")? })
    }

    /// What they call themselves.
    pub(super) fn versions(&self) -> String {
        let of = |program: &Path| {
            let output = Command::new(program).arg("--version").output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.unwrap_or_default().trim().to_owned()
        };
        format!("{}; {}", of(&self.registry), of(&self.skopeo))
    }

    /// Starts a registry in the cloud, with what lies in `storage`.
    pub(super) fn registry(&self, cloud: &OwnedFd, scratch: &Scratch) -> Result<Registry> {
        let storage = scratch.path().join("storage");
        fs::create_dir_all(&storage)?;
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{REGISTRY}'}}\n",
            storage.display()
        );
        let file = scratch.write("registry.yml", &text)?;
        let mut command = Command::new(&self.registry);
        command.arg("serve").arg(file);
        let log = scratch.path().join("registry.log");
        let process = Process::start_logged(command, cloud, log.clone())?;
        let registry = Registry { process, log };
        registry.wait(self, cloud)?;
        Ok(registry)
    }

    /// Copies an image from a folder into the registry, beside it in the cloud.
    pub(super) fn push_as(&self, from: &Path, image: &str, cloud: &OwnedFd) -> Result<()> {
        let mut command = Command::new(&self.skopeo);
        command.args(["--insecure-policy", "copy", "--dest-tls-verify=false"]);
        command.arg(format!("dir:{}", from.display()));
        command.arg(format!("docker://{REGISTRY}/{image}"));
        finish(command, cloud).map(drop)
    }

    /// A client that pulls from `at` into a folder; it checks every digest.
    pub(super) fn pull(&self, at: SocketAddr, into: &Path, store: &OwnedFd) -> Result<Pull> {
        self.pull_as(at, IMAGE, into, store, 5)
    }

    /// The same for another image and with so many further tries.
    pub(super) fn pull_as(
        &self,
        at: SocketAddr,
        image: &str,
        into: &Path,
        store: &OwnedFd,
        retries: u32,
    ) -> Result<Pull> {
        // One that hangs is a pull that failed, and not the end of the lab.
        let mut command = Command::new("timeout");
        command.arg(PATIENCE_SECONDS).arg(&self.skopeo);
        command.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
        command.arg(format!("--retry-times={retries}"));
        command.arg(format!("docker://{at}/{image}")).arg(format!("dir:{}", into.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        sys::confine(&mut command, store.as_fd());
        let child = command.spawn().context("start skopeo")?;
        Ok(Pull { child, into: into.to_owned() })
    }
}

/// Runs a command to its end.
fn finish(mut command: Command, ns: &OwnedFd) -> Result<String> {
    command.stdin(Stdio::null());
    sys::confine(&mut command, ns.as_fd());
    let output = command.output().context("run skopeo")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("skopeo says: {}", said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A registry that runs.
pub(super) struct Registry {
    process: Process,
    log: PathBuf,
}

impl Registry {
    fn wait(&self, programs: &Programs, cloud: &OwnedFd) -> Result<()> {
        let deadline = sys::now() + 10 * sys::NANOS_PER_SEC;
        loop {
            let mut command = Command::new(&programs.skopeo);
            command.args(["list-tags", "--tls-verify=false"]);
            command.arg(format!("docker://{REGISTRY}/none"));
            let said = finish(command, cloud).err().map(|error| error.to_string());
            // It answers: that it does not know the name.
            if said.is_none_or(|said| said.contains("nvalid") || said.contains("nknown")) {
                return Ok(());
            }
            if sys::now() > deadline {
                bail!("the registry does not answer:\n{}", self.log_end());
            }
            sys::sleep_until(sys::now() + sys::NANOS_PER_SEC / 10);
        }
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(2_000);
        text.get(from..).unwrap_or_default().to_owned()
    }

    /// Watches what its kernel holds for the store.
    pub(super) fn watch(&self) -> Result<Watch> {
        Watch::start(self.process.id(), REGISTRY.port())
    }

    /// Body bytes of blobs that it has sent so far, by its own log.
    pub(super) fn sent(&self) -> u64 {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines =
            text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let sent = lines.filter_map(|line| {
            let is_get = line.get("http.request.method")?.as_str()? == "GET";
            let is_blob = line.get("http.request.uri")?.as_str()?.contains("/blobs/");
            let written = line.get("http.response.written")?.as_u64()?;
            (is_get && is_blob).then_some(written)
        });
        sent.sum()
    }
}

/// A client that pulls.
pub(super) struct Pull {
    child: std::process::Child,
    into: PathBuf,
}

impl Pull {
    /// Waits for its end. What it says if it failed; what it pulled is thrown away.
    pub(super) fn end(self) -> Result<(), String> {
        let output = self.child.wait_with_output().map_err(|error| error.to_string())?;
        drop(fs::remove_dir_all(&self.into));
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.trim().lines().last().unwrap_or("nothing").to_owned())
    }
}

/// When a proxy in the store is ready.
pub(super) const fn ready(at: SocketAddr) -> Ready {
    Ready::Accepts(at)
}

/// Loopback in the store.
pub(super) const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

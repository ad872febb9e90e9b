//! A proxy under test as a child process in the store: started, awaited, measured, ended.
//!
//! Its output goes to a file, and the end of that file into the error when it does not get ready.
//! The child dies with the lab, whatever way the lab ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::stats::real;
use crate::sys::{self, NANOS_PER_SEC, Nanos};

/// Proxies start within a second; a debug build of ours under load takes longer.
const READY_PATIENCE: Nanos = 20 * NANOS_PER_SEC;
/// After SIGTERM, before SIGKILL.
const END_PATIENCE: Nanos = 3 * NANOS_PER_SEC;
const STEP: Nanos = NANOS_PER_SEC / 50;
/// What a proxy says, among the files of its run.
pub const PROXY_LOG: &str = "proxy.log";
/// USER_HZ, fixed at 100 on every Linux that the lab runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// How to tell that a proxy is ready.
#[derive(Debug, Clone, Copy)]
pub enum Ready {
    /// Its listener accepts connections.
    Accepts(SocketAddr),
    /// `GET /readyz` is answered with 200.
    Says(SocketAddr),
}

/// A directory for one run's files, removed with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tillgate-lab-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file of the run and returns where it is.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A running program; it is ended when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a proxy in the store.
    pub fn start(command: Command, store: &OwnedFd, scratch: &Scratch) -> Result<Self> {
        Self::start_logged(command, store, scratch.path().join(PROXY_LOG))
    }

    /// Starts `command` in a network namespace; what it says is added to a file.
    pub fn start_logged(mut command: Command, ns: &OwnedFd, log: PathBuf) -> Result<Self> {
        let output = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        sys::confine(&mut command, ns.as_fd());
        let child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn wait_ready(&mut self, ready: Ready) -> Result<()> {
        let deadline = sys::now() + READY_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the proxy ended at once ({status}):\n{}", self.log_end());
            }
            if is_ready(ready) {
                return Ok(());
            }
            if sys::now() > deadline {
                bail!("the proxy is not ready after 20 s ({ready:?}):\n{}", self.log_end());
            }
            sys::sleep_until(sys::now() + STEP);
        }
    }

    /// Processor time used so far by the proxy and its children, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let ticks: u64 = self.family().into_iter().map(cpu_ticks).sum();
        real(ticks) / TICKS_PER_SECOND
    }

    /// The same, exactly, in microseconds: what the scheduler says of each thread that lives.
    pub fn cpu_micros(&self) -> f64 {
        let nanos: u64 = self.family().into_iter().map(cpu_nanos).sum();
        real(nanos) / 1_000.0
    }

    /// The process and everything it has started.
    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = family.get(next) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            family.extend(
                (children.unwrap_or_default().split_whitespace())
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
            next += 1;
        }
        family
    }

    /// Resident memory of the proxy and its children, in MiB.
    pub fn rss_mib(&self) -> f64 {
        let kib: u64 = self.family().into_iter().map(resident_kib).sum();
        real(kib) / 1_024.0
    }

    /// The last lines that the proxy wrote.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Ends it and what it has started, as a power cut would. When this returns, its own sockets
    /// are closed.
    pub fn kill(&mut self) {
        // The number of a process that has been waited for may be another's by now.
        if self.has_ended() {
            return;
        }
        let family = self.family();
        drop(self.child.kill());
        family.into_iter().skip(1).for_each(sys::kill);
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        sys::terminate(self.child.id());
        let deadline = sys::now() + END_PATIENCE;
        while sys::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => sys::sleep_until(sys::now() + STEP),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        self.kill();
    }
}

fn is_ready(ready: Ready) -> bool {
    match ready {
        Ready::Accepts(address) => connect(address).is_some(),
        Ready::Says(address) => {
            ask(address, "/readyz").is_some_and(|answer| answer.get(9..12) == Some("200"))
        }
    }
}

/// A plain GET of a proxy's admin side: the whole answer as text, or nothing.
pub fn ask(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    Some(stream)
}

/// `utime` and `stime` of a process, in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse_ticks(&stat).unwrap_or(0)
}

/// Time on a processor of all threads of a process.
fn cpu_nanos(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.flatten().filter_map(of).sum()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn parse_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may contain anything, so count from its end.
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_hostile_name() {
        let stat = "12 (a) 9 b) S 1 1 1 0 -1 4194304 1 0 0 0 70 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse_ticks(stat), Some(100));
        assert_eq!(parse_ticks(""), None);
    }
}

//! `lab reload`: policy changes again and again under load, and nobody notices.
//!
//! A thousand reloads while requests come at a steady rate on kept-alive connections: none may
//! fail, memory may not grow, and the longest silence may not be longer than without reloads (both
//! are printed: a busy machine has silences of its own). Then commits to a folder that the gateway
//! follows, and how long each takes until it serves. Loopback only; no namespaces.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Process, Ready, Scratch, ask};
use crate::say;
use crate::stats::real;
use crate::sys::{self, NANOS_PER_MS, NANOS_PER_SEC, Nanos, now};
use crate::system::TILLGATE_ROLE;

/// Clients; each has one connection.
const CLIENTS: u64 = 8;
/// Before memory is compared: pages and pools that the first reloads need are there.
const WARM_UP: usize = 50;
/// A reload that is not in effect after this is a failure.
const PATIENCE: Nanos = 10 * NANOS_PER_SEC;
const STEP: Nanos = NANOS_PER_MS;
/// What memory may have grown by, in percent.
const GROWTH_MAX: f64 = 10.0;
/// What a commit may take.
const COMMIT_MAX_MS: f64 = 2_000.0;

/// Arguments of `lab reload`.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct ReloadArgs {
    /// Reloads.
    #[arg(long, default_value_t = 1000)]
    reloads: usize,
    /// Requests a second.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Commits to the folder that the gateway follows.
    #[arg(long, default_value_t = 10)]
    commits: usize,
    /// How long the same load runs without reloads before.
    #[arg(long, default_value_t = 10)]
    quiet_seconds: u64,
}

/// How a phase went for the clients.
#[derive(Default)]
pub(crate) struct Seen {
    /// When each answer came, and how long after its request was due.
    answers: Vec<(Nanos, Nanos)>,
    pub(crate) failed: usize,
}

/// Runs it and judges.
pub(crate) fn run(args: &ReloadArgs) -> Result<()> {
    let scratch = Scratch::new()?;
    let origin = origin()?;
    let mut missed = Vec::new();
    reloads(args, &scratch, origin, &mut missed)?;
    commits(args, &scratch, origin, &mut missed)?;
    for text in &missed {
        say!("MISSED {text}");
    }
    ensure!(missed.is_empty(), "policy does not change unnoticed");
    Ok(())
}

fn reloads(
    args: &ReloadArgs,
    scratch: &Scratch,
    origin: SocketAddr,
    missed: &mut Vec<String>,
) -> Result<()> {
    let file = scratch.write("store.yaml", &policy(origin, 0))?;
    let gateway = Gateway::start("--config", &file, scratch)?;
    let quiet = load(gateway.http, args.rate, || {
        sys::sleep_until(now() + args.quiet_seconds * NANOS_PER_SEC);
        Ok(())
    })?;
    let (mut rss_before, mut longest) = (gateway.process.rss_mib(), 0);
    let mut digest = gateway.digest().context("the gateway says its digest")?;
    let began = now();
    let busy = load(gateway.http, args.rate, || {
        for number in 1..=args.reloads {
            scratch.write("store.yaml", &policy(origin, number))?;
            let asked = now();
            sys::hang_up(gateway.process.id());
            digest = until("a reload", || gateway.digest().filter(|next| *next != digest))?;
            longest = longest.max(now() - asked);
            if number == WARM_UP {
                rss_before = gateway.process.rss_mib();
            }
        }
        Ok(())
    })?;
    let seconds = real(now() - began) / 1e9;
    let rss = gateway.process.rss_mib();
    say!(
        "{} reloads in {seconds:.1} s under {} requests/s, the slowest in effect after {:.0} ms",
        args.reloads,
        args.rate,
        millis(longest)
    );
    say!("  without reloads: {}", quiet.line());
    say!("  with reloads:    {}", busy.line());
    let grown = (rss - rss_before) * 100.0 / rss_before;
    say!("  memory: {rss_before:.1} MiB after {WARM_UP}, {rss:.1} MiB after all ({grown:+.1} %)");
    if busy.failed > 0 {
        missed.push(format!("{} requests failed", busy.failed));
    }
    if grown > GROWTH_MAX {
        missed.push(format!("memory has grown by {grown:.1} %, {GROWTH_MAX} % are allowed"));
    }
    let (silence, usual) = (busy.silence(), quiet.silence());
    if silence > usual + NANOS_PER_MS {
        missed.push(format!(
            "the longest silence is {:.2} ms, without reloads it is {:.2} ms",
            millis(silence),
            millis(usual)
        ));
    }
    Ok(())
}

fn commits(
    args: &ReloadArgs,
    scratch: &Scratch,
    origin: SocketAddr,
    missed: &mut Vec<String>,
) -> Result<()> {
    let folder = scratch.path().join("policy");
    std::fs::create_dir_all(&folder)?;
    let bootstrap = scratch.write("bootstrap.yaml", &bootstrap(scratch.path(), &folder))?;
    let commit = |number: usize| -> Result<()> {
        let beside = scratch.write("next.yaml", &policy(origin, number))?;
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
    times.sort_by(f64::total_cmp);
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    say!(
        "{} commits to a folder: served after {median:.0} ms (median), {worst:.0} ms",
        times.len()
    );
    if worst > COMMIT_MAX_MS {
        missed.push(format!("a commit took {worst:.0} ms, {COMMIT_MAX_MS} ms are allowed"));
    }
    Ok(())
}

/// A gateway on ports of its own.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    pub(crate) fn start(flag: &str, file: &Path, scratch: &Scratch) -> Result<Self> {
        let (http, proxy, admin) = (free()?, free()?, free()?);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(TILLGATE_ROLE).args(["gateway", "--log", "warn"]).arg(flag).arg(file);
        for (flag, address) in [("--http", http), ("--forward-proxy", proxy), ("--admin", admin)] {
            command.arg(flag).arg(address.to_string());
        }
        let log = scratch.path().join("gateway.log");
        let mut process = Process::start_logged(command, &sys::current_net_ns()?, log)?;
        process.wait_ready(Ready::Says(admin))?;
        Ok(Self { process, http, admin })
    }

    fn digest(&self) -> Option<String> {
        let answer = ask(self.admin, "/readyz?verbose")?;
        answer.lines().find_map(|line| line.strip_prefix("config ")).map(str::to_owned)
    }
}

impl Seen {
    /// The longest time in which no answer came.
    fn silence(&self) -> Nanos {
        let mut times: Vec<Nanos> = self.answers.iter().map(|(at, _)| *at).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// What one of a hundred took longer than.
    pub(crate) fn p99(&self) -> Nanos {
        at(&self.took(), 9_900)
    }

    /// How long each answer took, the fastest first.
    fn took(&self) -> Vec<Nanos> {
        let mut took: Vec<Nanos> = self.answers.iter().map(|(_, took)| *took).collect();
        took.sort_unstable();
        took
    }

    pub(crate) fn line(&self) -> String {
        let took = self.took();
        let at = |share| millis(at(&took, share));
        format!(
            "{} answers, {} failed, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest silence \
             {:.2} ms",
            took.len(),
            self.failed,
            at(5_000),
            at(9_900),
            at(9_990),
            millis(self.silence())
        )
    }
}

/// The value below which so many of ten thousand are.
fn at(sorted: &[Nanos], share: usize) -> Nanos {
    let index = (sorted.len() * share / 10_000).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0)
}

/// Asks at a steady rate while `work` goes on.
pub(crate) fn load(
    address: SocketAddr,
    rate: u64,
    work: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    let over = Arc::new(AtomicBool::new(false));
    let pause = NANOS_PER_SEC * CLIENTS / rate.max(1);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || client(address, pause, number * pause / CLIENTS, &over))
        })
        .collect();
    let worked = work();
    over.store(true, Ordering::Relaxed);
    let mut seen = Seen::default();
    for client in clients {
        let one = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        seen.answers.extend(one.answers);
        seen.failed += one.failed;
    }
    worked.map(|()| seen)
}

fn client(address: SocketAddr, pause: Nanos, offset: Nanos, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut due = now() + offset;
    let mut stream = None;
    while !over.load(Ordering::Relaxed) {
        sys::sleep_until(due);
        match exchange(&mut stream, address) {
            Some(()) => seen.answers.push((now(), now() - due)),
            None => {
                seen.failed += 1;
                stream = None;
            }
        }
        due += pause;
    }
    seen
}

fn exchange(stream: &mut Option<TcpStream>, address: SocketAddr) -> Option<()> {
    if stream.is_none() {
        let made = TcpStream::connect(address).ok()?;
        made.set_nodelay(true).ok()?;
        made.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        *stream = Some(made);
    }
    let stream = stream.as_mut()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").ok()?;
    let (mut answer, mut length) = ([0; 2048], 0);
    while !answer[..length].ends_with(b"\r\n\r\nok") {
        let read = stream.read(answer.get_mut(length..)?).ok().filter(|read| *read > 0)?;
        length += read;
    }
    answer.starts_with(b"HTTP/1.1 200").then_some(())
}

/// A server that says `ok` to everybody.
pub(crate) fn origin() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// A policy in which everything that can change while it runs is another with each number: a
/// class, a line, routes and backends, a listener.
fn policy(origin: SocketAddr, number: usize) -> String {
    let (share, rate, name) = (10 + number % 10, 50 + number % 7, number % 13);
    let head = "---\napiVersion: tillgate.dev/v1alpha1\nkind: ";
    let mut text = format!(
        "{head}Store\nmetadata: {{name: store-0412}}\nspec:\n  timeZone: UTC\n  links: [{{name: \
         primary, capacity: {{up: {rate}Mbit/s, down: 200Mbit/s}}}}]\n{head}TrafficClass\n\
         metadata: {{name: payment}}\nspec: {{priority: 1000, critical: true, \
         guarantee: {{up: {share}%, \
         down: 10%}}}}\n"
    );
    for (backend, host) in [("steady".to_owned(), "a"), (format!("other-{name}"), "b")] {
        text.push_str(&format!(
            "{head}Backend\nmetadata: {{name: {backend}}}\nspec:\n  location: Local\n  protocol: \
             HTTP\n  endpoints: [{{ip: {{address: {}, port: {}}}}}]\n{head}ServiceRoute\nmetadata: \
             {{name: {backend}}}\nspec:\n  hostnames: [{host}.example]\n  trafficClass: payment\n  \
             rules: [{{name: all, backendRefs: [{{name: {backend}}}]}}]\n",
            origin.ip(),
            origin.port()
        ));
    }
    // The number itself, so that each reload is another digest.
    text.push_str(&format!(
        "{head}ServiceRoute\nmetadata: {{name: numbered}}\nspec:\n  hostnames: \
         [n{number}.example]\n  rules: [{{name: all, backendRefs: [{{name: steady}}]}}]\n"
    ));
    text
}

fn bootstrap(state: &Path, folder: &Path) -> String {
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

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        ensure!(now() < deadline, "{what} is not in effect after 10 s");
        sys::sleep_until(now() + STEP);
    }
}

pub(crate) fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

pub(crate) fn millis(nanos: Nanos) -> f64 {
    real(nanos) / real(NANOS_PER_MS)
}

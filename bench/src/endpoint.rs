//! `lab endpoint`: a thousand sidecars wait for a config and two hundred dashboards listen.
//!
//! In one run: what they hold in memory, polls and streams apart; how soon all of them know of a
//! change, and how far apart they learn it; and how requests beside them fare without them, with
//! them, and while they are woken. Loopback only, TLS on the wire; no namespaces.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use tillgate_net::listen::raise_open_files;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::certificate::Certificate;
use crate::origin::Service;
use crate::process::Scratch;
use crate::reload::load::{Seen, load, origin};
use crate::reload::store::{Gateway, free};
use crate::say;
use crate::stats::millis;
use crate::sys::{self, NANOS_PER_SEC, NANOS_PER_US, Nanos, now};

/// What they may hold together.
const MEMORY_MIB_MAX: f64 = 20.0;
/// From the first who knows of a change to the last.
const SPREAD_MAX_MS: f64 = 1000.0;
/// What is noise in a p99 on a machine that others use, too, in milliseconds.
const NOISE_MS: f64 = 1.0;
/// Everybody is there, or knows, by then.
const PATIENCE: Nanos = 60 * NANOS_PER_SEC;

const TOKEN: &str = "viewer-0123456789abcdef0123456789abcdef";

/// Arguments of `lab endpoint`.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct EndpointArgs {
    /// Callers that wait for another config.
    #[arg(long, default_value_t = 1000)]
    polls: usize,
    /// Callers that listen to events.
    #[arg(long, default_value_t = 200)]
    streams: usize,
    /// Requests a second beside them.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// How long each phase takes.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// What a caller has to tell.
enum Told {
    Waits,
    Woken(Nanos),
    Failed(String),
}

struct Site {
    gateway: Gateway,
    runtime: Runtime,
    endpoint: std::net::SocketAddr,
    tell: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

/// What there is to judge.
struct Figures {
    /// Resident memory without callers, with those that wait, and with all of them.
    mib: [f64; 3],
    /// When the change was asked for, and when the first and the last caller knew.
    asked: Nanos,
    first: Nanos,
    last: Nanos,
    /// Requests without callers, beside them, and while they were woken.
    quiet: Seen,
    beside: Seen,
    woken: Seen,
}

/// Runs it and judges.
pub(crate) fn run(args: &EndpointArgs) -> Result<()> {
    raise_open_files()?;
    let figures = measure(args)?;
    figures.say(args);
    let missed = figures.missed();
    for text in &missed {
        say!("MISSED {text}");
    }
    ensure!(missed.is_empty(), "waiting callers are not free");
    Ok(())
}

fn measure(args: &EndpointArgs) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let (origin, endpoint) = (origin()?, free()?);
    let write =
        |capacity: u64| scratch.write("store.yaml", &policy(&scratch, origin, endpoint, capacity));
    let certificate = Certificate::of_the_lab()?;
    scratch.write("tls.crt", &certificate.chain)?;
    scratch.write("tls.key", &certificate.key)?;
    let token = scratch.write("viewer", TOKEN)?;
    std::fs::set_permissions(token, std::fs::Permissions::from_mode(0o600))?;
    let gateway = Gateway::start("--config", &write(20)?, &scratch)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Each caller says two things at most.
    let (tell, told) = mpsc::channel(2 * (args.polls + args.streams).max(1));
    let mut site = Site { gateway, runtime, endpoint, tell, told };
    let http = site.gateway.http;
    let rest = || {
        sys::sleep_until(now() + args.seconds * NANOS_PER_SEC);
        Ok(())
    };
    let quiet = load(http, args.rate, rest)?;
    let held = format!("If-None-Match: {}\r\nPrefer: wait=300\r\n", site.tag()?);
    let empty = site.gateway.process.rss_mib();
    site.come(args.polls, "/v1/config", &held, "HTTP/1.1 200")?;
    let polls = site.gateway.process.rss_mib();
    site.come(args.streams, "/v1/config/events", "", "-2\ndata: ")?;
    let mib = [empty, polls, site.gateway.process.rss_mib()];

    let beside = load(http, args.rate, || {
        site.rest(args.seconds);
        Ok(())
    })?;
    let (mut first, mut last, mut asked) = (Nanos::MAX, 0, 0);
    let woken = load(http, args.rate, || {
        site.rest(args.seconds / 2);
        write(30)?;
        asked = now();
        sys::hang_up(site.gateway.process.id());
        (first, last) = site.wake(args.polls + args.streams)?;
        site.rest(args.seconds / 2);
        Ok(())
    })?;
    Ok(Figures { mib, asked, first, last, quiet, beside, woken })
}

impl Figures {
    fn spread_ms(&self) -> f64 {
        millis(self.last.saturating_sub(self.first) / NANOS_PER_US)
    }

    fn say(&self, args: &EndpointArgs) {
        let [empty, polls, all] = self.mib;
        let each = |mib: f64, count: usize| mib * 1024.0 / count.max(1) as f64;
        let (waits, listens) = (polls - empty, all - polls);
        let (wait, listen) = (each(waits, args.polls), each(listens, args.streams));
        say!("{} callers wait: {waits:.1} MiB, {wait:.1} KiB each", args.polls);
        say!("{} listen: {listens:.1} MiB, {listen:.1} KiB each", args.streams);
        say!(
            "a change: the first knows after {:.0} ms, the last {:.0} ms later",
            millis(self.first.saturating_sub(self.asked) / NANOS_PER_US),
            self.spread_ms()
        );
        say!("  without them:     {}", line(&self.quiet));
        say!("  beside them:      {}", line(&self.beside));
        say!("  while they wake:  {}", line(&self.woken));
    }

    /// What does not hold.
    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let held = self.mib[2] - self.mib[0];
        if held > MEMORY_MIB_MAX {
            missed.push(format!("they hold {held:.1} MiB, {MEMORY_MIB_MAX} are allowed"));
        }
        if self.spread_ms() > SPREAD_MAX_MS {
            missed.push(format!("the last knows {:.0} ms after the first", self.spread_ms()));
        }
        for (name, seen) in [("beside them", &self.beside), ("while they wake", &self.woken)] {
            if seen.failed > 0 || seen.took().p99 > self.quiet.took().p99 + NOISE_MS {
                missed.push(format!("{name}: {}", line(seen)));
            }
        }
        missed
    }
}

fn line(seen: &Seen) -> String {
    let took = seen.took();
    format!(
        "{} answers, {} failed, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
        took.count, seen.failed, took.p50, took.p99, took.max
    )
}

impl Site {
    /// The tag of what runs.
    fn tag(&self) -> Result<String> {
        let endpoint = self.endpoint;
        let head = self.runtime.block_on(async {
            let mut wire = connect(endpoint).await?;
            wire.write_all(question("/v1/config", "").as_bytes()).await?;
            read_until(&mut wire, "\r\n\r\n").await
        })?;
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
        tag.map(str::to_owned).context("an answer without a tag")
    }

    /// Lets `count` callers come and ask, each of which ends with `end` in what it gets.
    fn come(&mut self, count: usize, path: &str, headers: &str, end: &'static str) -> Result<()> {
        let question: Arc<str> = question(path, headers).into();
        for _ in 0..count {
            let (question, tell, endpoint) =
                (Arc::clone(&question), self.tell.clone(), self.endpoint);
            self.runtime.spawn(async move {
                let told = match call(endpoint, &question, end, &tell).await {
                    Ok(()) => Told::Woken(now()),
                    Err(error) => Told::Failed(format!("{error:#}")),
                };
                // Nobody counts any more after the end.
                let _ = tell.try_send(told);
            });
        }
        for _ in 0..count {
            match self.next()? {
                Told::Waits => {}
                Told::Woken(_) => anyhow::bail!("one was woken by nothing"),
                Told::Failed(why) => anyhow::bail!("a caller: {why}"),
            }
        }
        // The last questions are read.
        self.rest(2);
        Ok(())
    }

    /// When the first and the last of `count` callers knew.
    fn wake(&mut self, count: usize) -> Result<(Nanos, Nanos)> {
        let (mut first, mut last) = (Nanos::MAX, 0);
        for _ in 0..count {
            match self.next()? {
                Told::Woken(at) => (first, last) = (first.min(at), last.max(at)),
                Told::Waits => {}
                Told::Failed(why) => anyhow::bail!("a caller: {why}"),
            }
        }
        Ok((first, last))
    }

    fn next(&mut self) -> Result<Told> {
        let within = std::time::Duration::from_nanos(PATIENCE);
        let told =
            self.runtime.block_on(async { tokio::time::timeout(within, self.told.recv()).await });
        told.context("a caller did not come in time")?.context("nobody tells")
    }

    /// Time passes; heartbeats are read meanwhile.
    fn rest(&self, seconds: u64) {
        let time = std::time::Duration::from_secs(seconds);
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }
}

type Wire = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(endpoint: std::net::SocketAddr) -> Result<Wire> {
    let config = Arc::clone(&Certificate::of_the_lab()?.client);
    let name = ServerName::try_from(Service::ALL[0].host().to_owned())?;
    let stream = TcpStream::connect(endpoint).await?;
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

fn question(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n"
    )
}

async fn call(
    endpoint: std::net::SocketAddr,
    question: &str,
    end: &str,
    tell: &mpsc::Sender<Told>,
) -> Result<()> {
    let mut wire = connect(endpoint).await?;
    wire.write_all(question.as_bytes()).await?;
    let _ = tell.try_send(Told::Waits);
    read_until(&mut wire, end).await.map(drop)
}

/// Reads on until `end` has come.
async fn read_until(wire: &mut Wire, end: &str) -> Result<String> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(end) {
        let read = wire.read(&mut buffer).await?;
        ensure!(read > 0, "the answer ends: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    Ok(text)
}

/// A route to `origin`, a line of this capacity and an endpoint.
fn policy(
    scratch: &Scratch,
    origin: std::net::SocketAddr,
    endpoint: std::net::SocketAddr,
    capacity: u64,
) -> String {
    let head = "---\napiVersion: tillgate.dev/v1alpha1\nkind: ";
    let at = |name: &str| scratch.path().join(name).display().to_string();
    format!(
        "{head}Store\nmetadata: {{name: store-0412}}\nspec:\n  timeZone: UTC\n  links: [{{name: \
         primary, capacity: {{up: 5Mbit/s, down: {capacity}Mbit/s}}}}]\n  gateway:\n    workers: \
         1\n    configEndpoint:\n      listen: {endpoint}\n      clientAuth: Token\n      \
         certificate: {{certFile: {}, keyFile: {}}}\n      auditDirectory: {}\n      tokens: \
         [{{name: viewer, roles: [viewer], file: {}}}]\n{head}Backend\nmetadata: {{name: \
         steady}}\nspec: {{location: Local, protocol: HTTP, endpoints: [{{ip: {{address: {}, port: \
         {}}}}}]}}\n{head}ServiceRoute\nmetadata: {{name: steady}}\nspec:\n  hostnames: \
         [a.example]\n  trafficClass: payment\n  rules: [{{name: all, backendRefs: [{{name: \
         steady}}]}}]\n",
        at("tls.crt"),
        at("tls.key"),
        at("audit"),
        at("viewer"),
        origin.ip(),
        origin.port()
    )
}

//! What a request costs: processor time of one proxy process, divided by the requests it served.
//!
//! Every proxy runs with one worker on one core; load and origin share another. All connections
//! are kept alive (but in the scenario about connections), every connection asks for the next
//! answer as soon as it has the last one. Proxies take turns, so that a change of the machine's
//! mood meets all of them; medians and spreads are over the turns.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::contestant::{Contestant, Running};
use super::load::{self, Origin};
use crate::process::Scratch;
use crate::say;
use crate::stats::{Spread, real};
use crate::sys;

/// The core of the proxy under test, and that of everything else.
pub(super) const PROXY_CORE: usize = 0;
pub(super) const LOAD_CORE: usize = 1;

/// Arguments about requests.
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Only these proxies.
    #[arg(long, value_delimiter = ',')]
    proxies: Vec<Contestant>,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Where cost.json and cost.md go.
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    out: PathBuf,
}

impl RequestArgs {
    /// The proxies that are wanted and here; says which are not.
    pub(super) fn present(&self) -> Vec<Contestant> {
        let mut present = Vec::new();
        for proxy in chosen(&self.proxies, &Contestant::ALL) {
            match proxy.available() {
                Ok(()) => present.push(proxy),
                Err(why) => say!("absent: {}: {why}", proxy.title()),
            }
        }
        present
    }

    /// Where results go.
    pub(super) fn out(&self) -> &Path {
        &self.out
    }
}

/// What is asked for, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Scenario {
    /// HTTP/1.1, answers of 1 KiB.
    H1,
    /// HTTP/1.1, answers of 64 KiB.
    H1Large,
    /// HTTP/1.1 in TLS, answers of 1 KiB.
    TlsH1,
    /// HTTP/2 in TLS, answers of 1 KiB.
    TlsH2,
    /// A new TLS connection for every request, full handshake.
    TlsConnection,
}

impl Scenario {
    const ALL: [Self; 5] = [Self::H1, Self::H1Large, Self::TlsH1, Self::TlsH2, Self::TlsConnection];

    /// Bytes of an answer's body.
    pub(super) const fn body(self) -> usize {
        match self {
            Self::H1Large => 64 * 1024,
            Self::H1 | Self::TlsH1 | Self::TlsH2 | Self::TlsConnection => 1024,
        }
    }

    pub(super) const fn is_tls(self) -> bool {
        match self {
            Self::H1 | Self::H1Large => false,
            Self::TlsH1 | Self::TlsH2 | Self::TlsConnection => true,
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::H1 => "h1, 1 KiB",
            Self::H1Large => "h1, 64 KiB",
            Self::TlsH1 => "TLS h1, 1 KiB",
            Self::TlsH2 => "TLS h2, 1 KiB",
            Self::TlsConnection => "TLS connection",
        }
    }

    /// Whom Tillgate is judged against, and how many times that one's cost it may have.
    const fn limit(self) -> (Contestant, f64) {
        match self {
            Self::H1 | Self::TlsH1 | Self::TlsH2 => (Contestant::Haproxy, 1.0),
            Self::H1Large => (Contestant::Haproxy, 0.8),
            Self::TlsConnection => (Contestant::Nginx, 1.2),
        }
    }
}

/// One turn of one proxy in one scenario.
#[derive(Clone, Copy, Debug, Serialize)]
struct Turn {
    scenario: Scenario,
    proxy: Contestant,
    /// Microseconds of processor time for each request.
    cost: f64,
    per_second: f64,
}

/// Measures, prints, writes.
pub(super) fn run(args: &RequestArgs, runs: usize, seconds: u64) -> Result<()> {
    ensure!(
        std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2),
        "this measurement needs two cores: one for the proxy, one for the load"
    );
    let scenarios = chosen(&args.scenarios, &Scenario::ALL);
    let proxies = args.present();
    sys::pin(LOAD_CORE).context("stay on one core")?;
    let origin = Origin::start()?;
    let mut turns = Vec::new();
    for scenario in scenarios {
        for run in 1..=runs {
            for &proxy in proxies.iter().filter(|proxy| proxy.can(scenario)) {
                let turn = measure(scenario, proxy, &origin, args.connections, seconds)
                    .with_context(|| format!("{} through {}", scenario.title(), proxy.title()))?;
                say!(
                    "{:<15} {:<10} run {run}: {:6.1} µs a request, {:7.0} requests a second",
                    scenario.title(),
                    proxy.title(),
                    turn.cost,
                    turn.per_second
                );
                turns.push(turn);
            }
        }
    }
    let table = table(&turns);
    say!("\n{table}");
    for line in verdicts(&turns) {
        say!("{line}");
    }
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("cost.md"), table)?;
    std::fs::write(args.out.join("cost.json"), serde_json::to_string_pretty(&turns)?)?;
    Ok(())
}

fn chosen<T: Copy>(asked: &[T], all: &[T]) -> Vec<T> {
    if asked.is_empty() { all.to_vec() } else { asked.to_vec() }
}

fn measure(
    scenario: Scenario,
    proxy: Contestant,
    origin: &Origin,
    connections: usize,
    seconds: u64,
) -> Result<Turn> {
    let scratch = Scratch::new()?;
    let running: Running = proxy.start(scenario, origin.address(), PROXY_CORE, &scratch)?;
    let load = load::Load { scenario, connections, seconds, to: running.address() };
    let (mut before, mut after) = (0.0, 0.0);
    let done = load::run(&load, || before = running.cpu_micros(), || after = running.cpu_micros())?;
    ensure!(done.failed == 0, "{} requests failed:\n{}", done.failed, running.log_end());
    ensure!(done.requests > 0, "no request came through:\n{}", running.log_end());
    let requests = real(done.requests);
    let per_second = requests / done.seconds;
    Ok(Turn { scenario, proxy, cost: (after - before) / requests, per_second })
}

fn costs(turns: &[Turn], scenario: Scenario, proxy: Contestant) -> Option<Spread> {
    let of = |turn: &&Turn| turn.scenario == scenario && turn.proxy == proxy;
    let costs: Vec<f64> = turns.iter().filter(of).map(|turn| turn.cost).collect();
    (!costs.is_empty()).then(|| Spread::of(costs))
}

/// Medians with their spreads, as Markdown.
fn table(turns: &[Turn]) -> String {
    let proxies: Vec<Contestant> =
        Contestant::ALL.into_iter().filter(|p| turns.iter().any(|t| t.proxy == *p)).collect();
    let mut text = String::from("| µs of one core per request |");
    for proxy in &proxies {
        let _ = write!(text, " {} |", proxy.title());
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(proxies.len()));
    for scenario in Scenario::ALL {
        if !turns.iter().any(|turn| turn.scenario == scenario) {
            continue;
        }
        let _ = write!(text, "| {} |", scenario.title());
        for proxy in &proxies {
            let _ = match costs(turns, scenario, *proxy) {
                Some(cost) => {
                    write!(text, " {:.1} ({:.1}–{:.1}) |", cost.median, cost.low, cost.high)
                }
                None => write!(text, " – |"),
            };
        }
        text.push('\n');
    }
    text
}

fn verdicts(turns: &[Turn]) -> Vec<String> {
    let judge = |scenario: Scenario| {
        let (rival, limit) = scenario.limit();
        let ours = costs(turns, scenario, Contestant::Tillgate)?.median;
        let theirs = costs(turns, scenario, rival)?.median;
        let ratio = ours / theirs;
        let verdict = if ratio <= limit { "ok" } else { "MISSED" };
        let (title, rival) = (scenario.title(), rival.title());
        Some(format!("{verdict:<7} {title:<15} {ratio:.2} × {rival} (at most {limit:.1})"))
    };
    Scenario::ALL.into_iter().filter_map(judge).collect()
}

//! What an idle connection costs: resident memory of one proxy process before, with, and after
//! many kept-alive connections, each of which has had one answer.
//!
//! Every connection is a client's of its own, in the clear or in TLS. The kernel's share of a
//! connection (its socket) is the same for every proxy and not counted. Proxies take turns.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;

use super::contestant::{Contestant, Running};
use super::load::{self, Origin};
use super::requests::{LOAD_CORE, PROXY_CORE, RequestArgs, Scenario};
use crate::process::Scratch;
use crate::stats::real;
use crate::{say, sys};

/// Descriptors that load and proxy need besides those of the connections.
const SPARE_FILES: u64 = 512;
/// Connections that are opened at the same time.
const AT_ONCE: usize = 32;
/// Connections that come and go before anything is counted.
const WARM_UP: u64 = 64;
/// Memory has settled when it moved less than this between two looks.
const SETTLED_MIB: f64 = 0.05;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So often in a row: allocators give memory back after a second or two.
const LOOKS_QUIET: usize = 4;
/// How long it is waited for that.
const LOOKS_MAX: usize = 20;

/// What Tillgate may hold, in MiB idle and in KiB for a connection.
const IDLE_MIB_MAX: f64 = 12.0;
const PLAIN_KIB_MAX: f64 = 16.0;
const TLS_KIB_MAX: f64 = 26.0;
/// And afterwards, of what it held before.
const AFTER_MAX: f64 = 1.2;

/// Arguments about memory.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Idle connections of the memory measurement; fewer where so many files cannot be open.
    #[arg(long, default_value_t = 10_000)]
    idle: u64,
}

/// Resident memory of one proxy, in MiB.
#[derive(Clone, Copy, Debug, Serialize)]
struct Held {
    scenario: Scenario,
    proxy: Contestant,
    connections: u64,
    /// Before the first connection.
    idle: f64,
    /// When the first few have come and gone: what runs for the first time is read from disk then.
    start: f64,
    /// With all of the connections, each of which has been answered once.
    open: f64,
    /// After they were closed.
    after: f64,
}

impl Held {
    /// KiB for each connection.
    fn each(&self) -> f64 {
        (self.open - self.start) * 1_024.0 / real(self.connections)
    }
}

/// Measures, prints, writes.
pub(super) fn run(args: &MemoryArgs, requests: &RequestArgs) -> Result<()> {
    let files = tillgate_net::listen::raise_open_files().context("ask for more open files")?;
    let connections = args.idle.min(files.saturating_sub(SPARE_FILES));
    ensure!(connections > 0, "only {files} files can be open here");
    if connections < args.idle {
        say!("only {files} files can be open here: {connections} connections, not {}", args.idle);
    }
    sys::pin(LOAD_CORE).context("stay on one core")?;
    let origin = Origin::start()?;
    let mut all = Vec::new();
    for scenario in [Scenario::H1, Scenario::TlsH1] {
        for proxy in requests.present().into_iter().filter(|proxy| proxy.can(scenario)) {
            let held = measure(scenario, proxy, &origin, connections)
                .with_context(|| format!("{} through {}", scenario.title(), proxy.title()))?;
            say!(
                "{:<8} {:<10} {:5.1} MiB idle, {:6.1} KiB a connection, {:5.1} MiB afterwards",
                title(scenario),
                proxy.title(),
                held.idle,
                held.each(),
                held.after
            );
            all.push(held);
        }
    }
    let table = table(&all);
    say!("\n{table}");
    for line in all.iter().filter(|held| held.proxy == Contestant::Tillgate).flat_map(verdicts) {
        say!("{line}");
    }
    std::fs::create_dir_all(requests.out())?;
    std::fs::write(requests.out().join("memory.md"), table)?;
    std::fs::write(requests.out().join("memory.json"), serde_json::to_string_pretty(&all)?)?;
    Ok(())
}

fn measure(
    scenario: Scenario,
    proxy: Contestant,
    origin: &Origin,
    connections: u64,
) -> Result<Held> {
    let scratch = Scratch::new()?;
    let mut running = proxy.start(scenario, origin.address(), PROXY_CORE, &scratch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let at = running.address();
    let levels = LocalSet::new().block_on(&runtime, async {
        let idle = settled(&running).await;
        drop(open_all(scenario, at, WARM_UP).await?);
        let start = settled(&running).await;
        let held = open_all(scenario, at, connections).await?;
        let open = settled(&running).await;
        drop(held);
        let after = settled(&running).await;
        anyhow::Ok(Held { scenario, proxy, connections, idle, start, open, after })
    });
    let held = levels.with_context(|| running.log_end())?;
    ensure!(!running.has_ended(), "the proxy ended:\n{}", running.log_end());
    Ok(held)
}

/// Resident memory once it stands still.
async fn settled(running: &Running) -> f64 {
    let (mut last, mut quiet) = (running.rss_mib(), 0);
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = running.rss_mib();
        quiet = if (now - last).abs() < SETTLED_MIB { quiet + 1 } else { 0 };
        last = now;
        if quiet == LOOKS_QUIET {
            break;
        }
    }
    last
}

/// So many connections, each with one answer behind it.
async fn open_all(scenario: Scenario, to: SocketAddr, connections: u64) -> Result<Vec<load::Wire>> {
    let tls = load::connector(scenario)?;
    let left = Rc::new(Cell::new(connections));
    let open = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    for _ in 0..AT_ONCE {
        let (tls, left, open) = (tls.clone(), Rc::clone(&left), Rc::clone(&open));
        tasks.push(tokio::task::spawn_local(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let stream = dial(to, left.get()).await?;
                let mut wire = load::Wire::over(stream, scenario, &tls).await?;
                wire.ask(scenario).await?;
                open.borrow_mut().push(wire);
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(open.take())
}

/// A connection of one of several addresses: one alone has 28,000 ports, and those of the turn
/// before are not free yet.
async fn dial(to: SocketAddr, number: u64) -> Result<TcpStream> {
    let last = u8::try_from(2 + number % 16).context("a small number")?;
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
    Ok(tokio::time::timeout(load::PATIENCE, socket.connect(to)).await??)
}

const fn title(scenario: Scenario) -> &'static str {
    if scenario.is_tls() { "TLS" } else { "in clear" }
}

fn table(all: &[Held]) -> String {
    let mut text = String::from(
        "| | idle, MiB | KiB per connection | KiB per TLS connection | afterwards, MiB |\n\
         |---|---|---|---|---|\n",
    );
    for proxy in Contestant::ALL {
        let of = |scenario| all.iter().find(|h| h.proxy == proxy && h.scenario == scenario);
        let each = |scenario| of(scenario).map_or("–".to_owned(), |h| format!("{:.1}", h.each()));
        let after = |scenario| of(scenario).map(|held| format!("{:.1}", held.after));
        let (plain, tls) = (Scenario::H1, Scenario::TlsH1);
        let Some(idle) = of(plain).or(of(tls)).map(|held| held.idle) else { continue };
        let after: Vec<_> = [after(plain), after(tls)].into_iter().flatten().collect();
        let _ = writeln!(
            text,
            "| {} | {idle:.1} | {} | {} | {} |",
            proxy.title(),
            each(plain),
            each(tls),
            after.join(", ")
        );
    }
    text
}

fn verdicts(held: &Held) -> Vec<String> {
    let most = if held.scenario.is_tls() { TLS_KIB_MAX } else { PLAIN_KIB_MAX };
    [
        ("MiB idle", held.idle, IDLE_MIB_MAX),
        ("KiB a connection", held.each(), most),
        ("MiB afterwards", held.after, held.start * AFTER_MAX),
    ]
    .into_iter()
    .map(|(what, is, most)| {
        let verdict = if is <= most { "ok" } else { "MISSED" };
        format!("{verdict:<7} {:<8} {is:.1} {what} (at most {most:.1})", title(held.scenario))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_said() {
        let held = Held {
            scenario: Scenario::H1,
            proxy: Contestant::Tillgate,
            connections: 1024,
            idle: 9.0,
            start: 10.0,
            open: 27.0,
            after: 12.0,
        };
        let lines = verdicts(&held);
        let missed = |line: &String| line.starts_with("MISSED");
        assert_eq!(lines.iter().map(missed).collect::<Vec<_>>(), [false, true, false]);
        assert!(lines[1].contains("17.0 KiB a connection (at most 16.0)"), "{}", lines[1]);
    }
}

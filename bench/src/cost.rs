//! `lab cost`: what shaping costs a processor at 1 Gbit/s.
//!
//! The same stream over loopback, sent at a fixed rate below the line's, is read once by a plain
//! TCP connection and once by a shaped one; the processor time of the reading thread is compared.
//! Loopback segments are 64 KiB, so this counts grants, timers and system calls, not packets.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use tillgate_config::effective::Effective;
use tillgate_core::link::LinkSpec;
use tillgate_core::units::{BitRate, PerDirection};
use tillgate_net::link::Link;
use tillgate_net::shaped::ShapedStream;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::say;
use crate::stats::{Spread, real};
use crate::sys;

/// The line.
const LINE: BitRate = BitRate::from_mbit(1000);
/// What is sent: below the line's 95 %, so that both readers move the same bytes.
const SENT_PERCENT: u64 = 90;
/// How often the sender sends its part.
const SEND_EVERY_NANOS: u64 = 1_000_000;
/// What may be spent on shaping, in percent of a core.
const COST_MAX_PERCENT: f64 = 5.0;

/// Measures `runs` times `seconds` with `flows` connections, alternating, and prints the medians
/// and whether shaping costs less than it may.
///
/// # Errors
/// When sockets or threads cannot be had.
pub fn run(runs: usize, seconds: u64, flows: usize) -> Result<()> {
    let effective = &built_in()?;
    let mut plain = Vec::new();
    let mut shaped = Vec::new();
    for _ in 0..runs {
        plain.push(share_of_core(effective, false, seconds, flows)?);
        shaped.push(share_of_core(effective, true, seconds, flows)?);
    }
    let cost = Spread::of(plain.iter().zip(&shaped).map(|(plain, shaped)| shaped - plain));
    let (plain, shaped) = (Spread::of(plain), Spread::of(shaped));
    say!("reading {} over {flows} connections, share of one core:", LINE.scale(SENT_PERCENT, 100));
    say!("  plain TCP  {:5.1} %  ({:.1} to {:.1})", plain.median, plain.low, plain.high);
    say!("  shaped     {:5.1} %  ({:.1} to {:.1})", shaped.median, shaped.low, shaped.high);
    let held = cost.median < COST_MAX_PERCENT;
    let verdict = if held { "ok" } else { "MISSED" };
    say!(
        "  shaping    {:5.1} %  ({:.1} to {:.1})  below {COST_MAX_PERCENT} %: {verdict}",
        cost.median,
        cost.low,
        cost.high
    );
    Ok(())
}

/// A store with the built-in classes.
fn built_in() -> Result<Effective> {
    let text = crate::policy::for_line(crate::preset::LineSpec::of_mbit(1000.0, 1000.0));
    tillgate_config::load_text("lab.yaml", &text)
        .map_err(|_| anyhow::anyhow!("the lab's own policy is refused"))
}

/// Percent of a core that the reading thread uses.
fn share_of_core(effective: &Effective, shaped: bool, seconds: u64, flows: usize) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no loopback port")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || send(&listener, flows));
    let effective = effective.clone();
    let reader = std::thread::spawn(move || read(&effective, address, shaped, seconds, flows));
    let share = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    // The sender ends when its connections close.
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
    Ok(share)
}

/// Sends at the fixed rate, in equal parts over `flows` connections, until one closes.
fn send(listener: &TcpListener, flows: usize) {
    let mut streams: Vec<TcpStream> = Vec::new();
    for stream in listener.incoming().take(flows).flatten() {
        streams.push(stream);
    }
    let each_millisecond = LINE.scale(SENT_PERCENT, 100).bytes_in(Duration::from_millis(1));
    let part = usize::try_from(each_millisecond).unwrap_or(usize::MAX) / flows.max(1);
    let bytes = vec![0x5a; part];
    let mut at = sys::now();
    loop {
        at += SEND_EVERY_NANOS;
        sys::sleep_until(at);
        for stream in &mut streams {
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

fn read(
    effective: &Effective,
    from: SocketAddr,
    shaped: bool,
    seconds: u64,
    flows: usize,
) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spec = LinkSpec { capacity: PerDirection::both(LINE), ..effective.links[0].clone() };
    let class = effective.classes.id("image-pull").context("no class image-pull")?;
    let class = effective.classes.get(class).clone();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let link = Link::new(&spec, &effective.classes);
        if shaped {
            tokio::task::spawn_local(std::sync::Arc::clone(&link).drive());
        }
        for _ in 0..flows {
            if shaped {
                let patience = Duration::from_secs(5);
                let stream = ShapedStream::connect(&link, &class, from, patience).await?;
                tokio::task::spawn_local(swallow(stream));
            } else {
                let stream = tokio::net::TcpStream::connect(from).await?;
                tokio::task::spawn_local(swallow(stream));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (cpu, wall) = (sys::thread_cpu(), sys::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(real(sys::thread_cpu() - cpu) * 100.0 / real(sys::now() - wall))
    })
}

async fn swallow(mut stream: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 64 * 1024];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

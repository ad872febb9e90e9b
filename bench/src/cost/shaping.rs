//! What shaping costs a processor at 1 Gbit/s.
//!
//! The same stream over loopback, sent at a fixed rate below the line's in segments of an Ethernet
//! line, is read once by plain TCP connections and once by shaped ones; the processor time of the
//! reading thread is compared, and how much each of them read is shown beside it.

use std::cell::Cell;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;
use tillgate_config::effective::Effective;
use tillgate_core::link::LinkSpec;
use tillgate_core::units::{BitRate, MSS, PerDirection};
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
pub(super) fn run(runs: usize, seconds: u64, flows: usize) -> Result<()> {
    let effective = &built_in()?;
    let mut plain = Vec::new();
    let mut shaped = Vec::new();
    for _ in 0..runs {
        plain.push(measure(effective, Reader::Plain, seconds, flows)?);
        shaped.push(measure(effective, Reader::Shaped, seconds, flows)?);
    }
    let cost = Spread::of(plain.iter().zip(&shaped).map(|(plain, shaped)| shaped.cpu - plain.cpu));
    say!("reading {} over {flows} connections, share of one core:", LINE.scale(SENT_PERCENT, 100));
    for (name, used) in [("plain TCP", &plain), ("shaped", &shaped)] {
        let cpu = Spread::of(used.iter().map(|used| used.cpu));
        let rate = Spread::of(used.iter().map(|used| used.mbit));
        say!(
            "  {name:<10} {:5.1} %  ({:.1} to {:.1})  at {:.0} Mbit/s",
            cpu.median,
            cpu.low,
            cpu.high,
            rate.median
        );
    }
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
    let text = crate::policy::for_line(crate::preset::LineSpec::of_mbit(1000.0, 1000.0), None);
    tillgate_config::load_text("lab.yaml", &text)
        .map_err(|_| anyhow::anyhow!("the lab's own policy is refused"))
}

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Plain,
    Shaped,
}

/// What the reading thread used, in percent of a core, and what it read.
#[derive(Clone, Copy)]
struct Used {
    cpu: f64,
    mbit: f64,
}

fn measure(effective: &Effective, reader: Reader, seconds: u64, flows: usize) -> Result<Used> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no loopback port")?;
    let mss = u32::try_from(MSS).context("a segment of an Ethernet line")?;
    SockRef::from(&listener).set_tcp_mss(mss).context("set the segment size")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || send(&listener, flows));
    let effective = effective.clone();
    let thread = std::thread::spawn(move || read(&effective, address, reader, seconds, flows));
    let used = thread.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    // The sender ends when its connections close.
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
    Ok(used)
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
    reader: Reader,
    seconds: u64,
    flows: usize,
) -> Result<Used> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spec = LinkSpec { capacity: PerDirection::both(LINE), ..effective.links[0].clone() };
    let class = effective.classes.id("image-pull").context("no class image-pull")?;
    let class = effective.classes.get(class).clone();
    let local = tokio::task::LocalSet::new();
    let total = Rc::new(Cell::new(0));
    local.block_on(&runtime, async {
        let link = Link::new(&spec, &effective.classes);
        tokio::task::spawn_local(Arc::clone(&link).drive());
        for _ in 0..flows {
            let total = Rc::clone(&total);
            if reader == Reader::Shaped {
                let patience = Duration::from_secs(5);
                let tcp = tillgate_config::defaults::TCP;
                let from = [from];
                let stream = ShapedStream::connect(&link, &class, &from, patience, &tcp);
                tokio::task::spawn_local(swallow(stream.await?, total));
            } else {
                let stream = tokio::net::TcpStream::connect(from).await?;
                tokio::task::spawn_local(swallow(stream, total));
            }
        }
        // For windows and congestion control to settle.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (cpu, wall, read) = (sys::thread_cpu(), sys::now(), total.get());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let wall = real(sys::now() - wall);
        Ok(Used {
            cpu: real(sys::thread_cpu() - cpu) * 100.0 / wall,
            mbit: real(total.get() - read) * 8.0 * 1e3 / wall,
        })
    })
}

async fn swallow(mut stream: impl AsyncRead + Unpin, total: Rc<Cell<u64>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        total.set(total.get() + read as u64);
    }
}

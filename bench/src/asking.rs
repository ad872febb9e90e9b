//! `lab asking`: many stores ask one server for policy, in the steady state and after an outage.
//!
//! Each store is the product's own machine of when to ask, with real requests on real
//! connections; times are scaled down so that minutes show what days do. The load must be flat, an
//! outage must be met with no more questions than its absence from the first second on, and its
//! end with no more of them than the spread has.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tillgate_config::bundle::place;
use tillgate_core::reconcile::{Poll, PollSpec, Polled};

use crate::say;
use crate::stats::real;

mod secure;

/// Connections at the same time.
const ASKERS: usize = 32;
/// The tag of what every store has already.
const TAG: &str = "\"sha256-of-a-bundle-of-twenty-kilobytes\"";

/// Arguments of `lab asking`.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct AskingArgs {
    /// Stores.
    #[arg(long, default_value_t = 2000)]
    stores: u32,
    /// How often each asks, in seconds.
    #[arg(long, default_value_t = 20)]
    interval: u64,
    /// Over how many seconds they come back after an outage.
    #[arg(long, default_value_t = 40)]
    spread: u64,
    /// Intervals without an outage, then as many with one, then as many after it.
    #[arg(long, default_value_t = 3)]
    intervals: u64,
}

/// What was asked in one second.
#[derive(Clone, Copy, Default)]
struct Second {
    asked: u64,
    answered: u64,
}

struct Server {
    address: SocketAddr,
    is_up: Arc<AtomicBool>,
    /// Bytes of questions and answers.
    bytes: Arc<AtomicU64>,
}

/// Runs it and judges.
#[allow(clippy::disallowed_methods, reason = "the lab measures with the machine's clock")]
pub(crate) fn run(args: &AskingArgs) -> Result<()> {
    let server = serve()?;
    let phase = args.interval * args.intervals;
    let seconds = simulate(args, &server, phase)?;
    let part = |number: u64| {
        let from = usize::try_from(phase * number).unwrap_or(0);
        let to = usize::try_from(phase * (number + 1)).unwrap_or(0).min(seconds.len());
        &seconds[from..to]
    };
    let stores = u64::from(args.stores);
    let steady = stores / args.interval;
    let spread = stores / args.spread.max(1);
    let after = part(2);
    // Until the first who have come back ask again.
    let first = after.len().min(usize::try_from(args.interval * 8 / 10).unwrap_or(0));
    let mut holds = true;
    for (name, seconds, most, server) in [
        ("steady", part(0), steady, Up::Yes),
        ("an outage", part(1), steady, Up::No),
        ("when it ends", &after[..first], spread, Up::Yes),
        ("after that", &after[first..], steady.max(spread), Up::Yes),
    ] {
        let (mean, worst) = rates(seconds);
        let is_flat = is_flat(seconds, most, server);
        holds &= is_flat;
        say!(
            "{} {name:<12} {mean:>7.1} questions/s, {worst} in the worst second (of {most}/s flat: \
             {:.0})",
            if is_flat { "ok    " } else { "MISSED" },
            allowed(most)
        );
    }
    let answered: u64 = seconds.iter().map(|one| one.answered).sum();
    let bytes = server.bytes.load(Ordering::Relaxed) / answered.max(1);
    let daily = 86_400 / 300 * bytes;
    let tls = secure::added(question().as_bytes(), answer().as_bytes())?;
    let a_day = |added: usize| daily + 86_400 / 300 * added as u64;
    say!("one question and its answer: {bytes} bytes of HTTP, {} KB a day", daily / 1000);
    for (when, added) in [
        ("on a kept connection", tls.kept),
        ("on a new one with a known session", tls.resumed),
        ("on a new one without", tls.full),
    ] {
        say!("  with TLS, {when}: {added} bytes more, {} KB a day", a_day(added) / 1000);
    }
    say!(
        "60,000 stores every 5 minutes: 200 questions/s, {} KB/s of HTTP; back after an outage over 10 \
         minutes: 100 questions/s",
        200 * bytes / 1000
    );
    ensure!(holds, "the load is not flat, or there was none");
    Ok(())
}

/// Whether the server is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Up {
    Yes,
    No,
}

/// The most in one second of a flat load: five standard deviations of what is random above it.
fn allowed(most: u64) -> f64 {
    real(most) + 5.0 * real(most).sqrt()
}

/// Whether there was a load and it was flat; where the server is there, it must have answered.
fn is_flat(seconds: &[Second], most: u64, server: Up) -> bool {
    let (mean, worst) = rates(seconds);
    let is_answered = server == Up::No || seconds.iter().any(|one| one.answered > 0);
    mean > 0.0 && is_answered && real(worst) <= allowed(most)
}

fn rates(seconds: &[Second]) -> (f64, u64) {
    let total: u64 = seconds.iter().map(|one| one.asked).sum();
    let worst = seconds.iter().map(|one| one.asked).max().unwrap_or(0);
    (real(total) / seconds.len().max(1) as f64, worst)
}

/// Lets the stores ask; what happened in each second.
#[allow(clippy::disallowed_methods, reason = "the lab measures with the machine's clock")]
fn simulate(args: &AskingArgs, server: &Server, phase: u64) -> Result<Vec<Second>> {
    let began = Instant::now();
    let end = Duration::from_secs(phase * 3);
    let spec = PollSpec {
        interval: Duration::from_secs(args.interval),
        long_poll: Duration::ZERO,
        spread: Duration::from_secs(args.spread),
    };
    let name = |store: u32| format!("store-{store}");
    let mut polls: Vec<Poll> = (0..args.stores)
        .map(|one| Poll::new(spec, place("central", &name(one)), true, began))
        .collect();
    let mut due: BinaryHeap<Reverse<(Instant, u32)>> = BinaryHeap::new();
    due.extend((0..).zip(&polls).map(|(store, poll)| Reverse((poll.poll_timeout(), store))));
    let mut seconds = vec![Second::default(); usize::try_from(phase * 3).unwrap_or(0) + 1];
    let (orders, results) = askers(server.address);
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    while began.elapsed() < end {
        let is_outage = (phase..2 * phase).contains(&began.elapsed().as_secs());
        server.is_up.store(!is_outage, Ordering::Relaxed);
        let now = Instant::now();
        while let Some(Reverse((at, store))) = due.peek().copied() {
            if at > now {
                break;
            }
            due.pop();
            polls[store as usize].begin(now);
            seconds[second(began)].asked += 1;
            orders.send(store)?;
        }
        let next = due.peek().map_or(now, |Reverse((at, _))| *at);
        let pause = next.saturating_duration_since(now).min(Duration::from_millis(5));
        let mut result = results.recv_timeout(pause.max(Duration::from_micros(100))).ok();
        while let Some((store, answered)) = result {
            seconds[second(began)].answered += u64::from(answered);
            let polled = if answered {
                Polled::Answered { held: false }
            } else {
                Polled::Failed { retry_after: None }
            };
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let poll = &mut polls[store as usize];
            poll.handle_polled(polled, dice ^ (dice >> 29), Instant::now());
            due.push(Reverse((poll.poll_timeout(), store)));
            result = results.try_recv().ok();
        }
    }
    seconds.pop();
    Ok(seconds)
}

#[allow(clippy::disallowed_methods, reason = "the lab measures with the machine's clock")]
fn second(began: Instant) -> usize {
    usize::try_from(began.elapsed().as_secs()).unwrap_or(0)
}

type Asked = (u32, bool);

/// Threads that ask for whom they are told.
fn askers(address: SocketAddr) -> (mpsc::Sender<u32>, mpsc::Receiver<Asked>) {
    let (orders, taken) = mpsc::channel::<u32>();
    let (tell, results) = mpsc::channel();
    let taken = Arc::new(Mutex::new(taken));
    for _ in 0..ASKERS {
        let (taken, tell) = (Arc::clone(&taken), tell.clone());
        std::thread::spawn(move || {
            loop {
                let store = taken.lock().ok().and_then(|taken| taken.recv().ok());
                let Some(store) = store else { return };
                if tell.send((store, ask(address).is_some())).is_err() {
                    return;
                }
            }
        });
    }
    (orders, results)
}

fn ask(address: SocketAddr) -> Option<()> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(question().as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    answer.starts_with(b"HTTP/1.1 304").then_some(())
}

/// What each store asks.
fn question() -> String {
    format!(
        "GET /v1/stores/0412 HTTP/1.1\r\nhost: policy.example\r\naccept: application/gzip, \
         application/octet-stream\r\nuser-agent: tillgate/0.1.0\r\nif-none-match: {TAG}\r\n\r\n"
    )
}

/// What a server says that has nothing new.
fn answer() -> String {
    format!("HTTP/1.1 304 Not Modified\r\nETag: {TAG}\r\nConnection: close\r\n\r\n")
}

/// A server that has nothing new, as long as it is up.
fn serve() -> Result<Server> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (is_up, bytes) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let server = Server { address, is_up: Arc::clone(&is_up), bytes: Arc::clone(&bytes) };
    for _ in 0..4 {
        let (listener, is_up, bytes) =
            (listener.try_clone()?, Arc::clone(&is_up), Arc::clone(&bytes));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if !is_up.load(Ordering::Relaxed) {
                    continue;
                }
                let mut question = [0; 1024];
                let Ok(read) = stream.read(&mut question) else { continue };
                let answer = answer();
                if stream.write_all(answer.as_bytes()).is_ok() {
                    bytes.fetch_add((read + answer.len()) as u64, Ordering::Relaxed);
                }
            }
        });
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_is_not_there_is_not_flat() {
        let second = |asked, answered| Second { asked, answered };
        let flat = [second(100, 100), second(110, 100)];
        assert!(is_flat(&flat, 100, Up::Yes));
        assert!(!is_flat(&[second(100, 100), second(160, 100)], 100, Up::Yes), "a peak");
        assert!(!is_flat(&[], 100, Up::Yes) && !is_flat(&[second(0, 0)], 100, Up::No), "nobody");
        let unanswered = [second(100, 0)];
        assert!(!is_flat(&unanswered, 100, Up::Yes) && is_flat(&unanswered, 100, Up::No));
    }
}

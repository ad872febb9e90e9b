//! Is the line what it claims to be? Idle round trip, one unshaped flow, the emulator's own cost.
//!
//! A line that fails here makes every other figure worthless, so the verdict is an error.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};

use crate::load::Way;
use crate::load::bulk::{Bulk, Flow};
use crate::origin::Service;
use crate::preset::LineSpec;
use crate::say;
use crate::stats::{Quantiles, real};
use crate::sys::{self, NANOS_PER_SEC, Nanos};
use crate::testbed::{CLOUD, Testbed};

const ROUND_TRIPS: usize = 200;
/// SYN and SYN-ACK as IP packets.
const HANDSHAKE_BITS: f64 = 60.0 * 8.0;
/// What one flow must reach of the most that TCP can carry.
const GOODPUT: f64 = 0.93;
/// Payload of a full packet, as a share of its IP length.
const PAYLOAD: f64 = 1_448.0 / 1_500.0;
const RTT_ERROR_MS: f64 = 0.5;
const PAUSE: Nanos = NANOS_PER_SEC / 50;
const FLOW_SECONDS: u64 = 10;
/// Start-up of the flow that is not judged.
const RAMP_SECONDS: u64 = 3;

/// Measures and prints; an error says what is wrong with the line.
pub fn run(line: LineSpec, congestion_control: Option<&str>) -> Result<()> {
    let bed = Testbed::build(line.line(), congestion_control)?;
    let ideal = line.rtt_ms
        + HANDSHAKE_BITS / (line.up_mbit * 1e3)
        + HANDSHAKE_BITS / (line.down_mbit * 1e3);
    let idle = round_trips()?;
    say!(
        "{line}: idle round trip p50 {:.2} p99 {:.2} max {:.2} ms, ideal {ideal:.2}",
        idle.p50,
        idle.p99,
        idle.max
    );

    let bulk = Bulk::start(Way::Direct)?;
    bulk.add(Flow::Pull, 1)?;
    let pulled = || bulk.pulled().iter().sum::<u64>();
    sys::sleep_until(sys::now() + RAMP_SECONDS * NANOS_PER_SEC);
    let (from, before, cpu) = (sys::now(), pulled(), bed.emulator.cpu());
    sys::sleep_until(from + FLOW_SECONDS * NANOS_PER_SEC);
    let (to, after) = (sys::now(), pulled());
    let seconds = real(to - from) / 1e9;
    let share = LineSpec::share(line.down_mbit, after - before, seconds);
    let emulator = real(bed.emulator.cpu() - cpu) / 1e7 / seconds;
    let [down, _] = bed.emulator.report(from, to);
    say!(
        "{line}: one flow {share:.3} of the line (at most {PAYLOAD:.3}), queue p50 {:.0} max {:.0} ms, \
         drops {}, emulator {emulator:.1}% of a core",
        down.queue_ms.p50,
        down.queue_ms.max,
        down.drops
    );
    ensure!(
        (idle.p50 - ideal).abs() <= RTT_ERROR_MS,
        "the idle round trip is off by {:.2} ms",
        idle.p50 - ideal
    );
    ensure!(share >= GOODPUT * PAYLOAD, "one flow reaches only {share:.3} of the line");
    Ok(())
}

/// Times TCP handshakes: one packet each way, answered by the far kernel.
fn round_trips() -> Result<Quantiles> {
    let address = SocketAddr::from((CLOUD, Service::Payments.port()));
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let started = sys::now();
        drop(TcpStream::connect(address)?);
        times.push((sys::now() - started) / 1_000);
        // The packets that end this connection must not stand in front of the next one.
        sys::sleep_until(sys::now() + PAUSE);
    }
    Ok(Quantiles::of_micros(times))
}

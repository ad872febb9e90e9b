//! The emulated line on real kernel TCP: does a packet take as long as it should, and does a flow
//! get what it should? Runs without the test harness, because namespaces must be entered before
//! the process has a second thread. Where they are refused it prints SKIPPED, and fails in CI.

use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::process::ExitCode;

use tillgate_bench::emulator::Direction;
use tillgate_bench::load::Way;
use tillgate_bench::load::bulk::{Bulk, Flow};
use tillgate_bench::origin::Service;
use tillgate_bench::preset::LineSpec;
use tillgate_bench::stats::real;
use tillgate_bench::sys::{self, NANOS_PER_MS, NANOS_PER_SEC};
use tillgate_bench::testbed::{self, CLOUD, Testbed};

fn main() -> ExitCode {
    if let Err(refused) = testbed::enter() {
        eprintln!("SKIPPED: {refused}");
        let in_ci = std::env::var_os("CI").is_some();
        return if in_ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let line = LineSpec::of_mbit(10.0, 5.0);
    let bed = Testbed::build(line.line(), None).expect("a testbed");
    a_handshake_takes_a_round_trip();
    a_flow_gets_the_line(&bed, line);
    a_longer_delay_applies_at_once(&bed, line);
    tillgate_bench::say!("ok: the emulated line holds");
    ExitCode::SUCCESS
}

/// How often something is measured until a busy machine has let it be seen as it is. What a line
/// does wrong it does wrong every time. The lab's calibration is the strict check.
const TRIES: usize = 20;

/// Measures until it is within `range`.
fn expect(range: Range<f64>, what: &str, mut measure: impl FnMut() -> f64) {
    let mut seen = Vec::new();
    while seen.len() < TRIES {
        seen.push(measure());
        if range.contains(&seen[seen.len() - 1]) {
            return;
        }
    }
    panic!("{what}: not once within {range:?}, but {seen:?}");
}

fn a_handshake_takes_a_round_trip() {
    expect(39.9..43.0, "ms of the best of 20 handshakes", || best_handshake_ms(20));
}

fn a_flow_gets_the_line(bed: &Testbed, line: LineSpec) {
    let bulk = Bulk::start(Way::Direct).expect("load");
    bulk.add(Flow::Pull, 1).expect("a pull");
    let began = sys::now();
    // Nothing is there before the first bytes.
    let pulled = || bulk.pulled().first().copied().unwrap_or_default();
    expect(0.80..0.97, "of the line for one flow", || {
        let (from, before) = (sys::now(), pulled());
        sys::sleep_until(from + 2 * NANOS_PER_SEC);
        let (to, after) = (sys::now(), pulled());
        LineSpec::share(line.down_mbit, after - before, real(to - from) / 1e9)
    });
    let [down, _] = bed.emulator.report(began, sys::now());
    assert!(down.queue_ms.max <= 255.0, "the buffer held {} ms", down.queue_ms.max);
    assert!(down.queue_ms.count > 1_000, "the truth saw {} packets", down.queue_ms.count);
}

fn a_longer_delay_applies_at_once(bed: &Testbed, line: LineSpec) {
    let mut shape = line.line().up;
    shape.delay_us += 60_000;
    bed.emulator.set(Direction::Up, shape).expect("the emulator listens");
    expect(99.9..110.0, "ms of the best of 10 handshakes", || best_handshake_ms(10));
}

fn best_handshake_ms(of: usize) -> f64 {
    (0..of).map(|_| handshake_ms()).fold(f64::MAX, f64::min)
}

fn handshake_ms() -> f64 {
    let address = SocketAddr::from((CLOUD, Service::Payments.port()));
    let started = sys::now();
    drop(TcpStream::connect(address).expect("the origin accepts"));
    let took = sys::now() - started;
    // The next one is not queued behind the end of this one.
    sys::sleep_until(sys::now() + 20 * NANOS_PER_MS);
    real(took) / 1e6
}

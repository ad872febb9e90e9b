//! A store behind the real gateway, on real kernel TCP over the emulated line: what only a live
//! line can show. Runs without the test harness, because namespaces must be entered before the
//! process has a second thread. Where they are refused it prints SKIPPED, and fails in CI.

use std::process::ExitCode;
use std::time::Duration;

use tillgate_bench::experiment::Plan;
use tillgate_bench::load::Way;
use tillgate_bench::load::bulk::{Bulk, Flow};
use tillgate_bench::load::payments::{self, Payments};
use tillgate_bench::preset::LineSpec;
use tillgate_bench::system::{self, Running, System, TILLGATE_ROLE};
use tillgate_bench::testbed::Testbed;
use tillgate_bench::{policy, say, stats, sys, testbed};

/// How long a condition may take to become true, on a machine that does other things as well.
const PATIENCE_SECONDS: u64 = 40;
/// Over which a rate is looked at.
const WINDOW: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|role| role == TILLGATE_ROLE) {
        return system::be_tillgate(args.into_iter().skip(2));
    }
    if let Err(refused) = testbed::enter() {
        eprintln!("SKIPPED: {refused}");
        let in_ci = std::env::var_os("CI").is_some();
        return if in_ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let line = LineSpec::of_mbit(50.0, 10.0);
    let way = Way::Entry(system::ENTRY);
    let plan = Plan::standard(line, way);
    let bed = Testbed::build(line.line(), None).expect("a testbed");
    let gateway = System::Tillgate.start(&bed, &plan).expect("a gateway").expect("a process");
    let tills = Payments::start(payments::Plan { way, per_second: 25.0, connections: 16 });
    let tills = tills.expect("tills");

    a_lone_survivor_takes_the_whole_line(way, line);
    a_reload_changes_the_rate_of_live_flows(way, line, &gateway);

    let failed =
        tills.stop().iter().filter(|call| call.outcome == payments::Outcome::Failed).count();
    assert_eq!(failed, 0, "payments failed meanwhile");
    say!("ok: a store behind the gateway");
    ExitCode::SUCCESS
}

/// Windows are small while four share the line; the last one must be able to grow beyond what
/// its connection was opened with.
fn a_lone_survivor_takes_the_whole_line(way: Way, line: LineSpec) {
    let survivor = pulls(way, 1);
    let others = pulls(way, 3);
    until("four pulls fill the line together", || {
        share(line, &[&survivor, &others]) > 0.75 && share(line, &[&survivor]) < 0.4
    });
    drop(others);
    until("the one that is left fills it alone", || share(line, &[&survivor]) > 0.80);
    assert_eq!(survivor.breaks(), 0, "{:?}", survivor.last_error());
}

fn a_reload_changes_the_rate_of_live_flows(way: Way, line: LineSpec, gateway: &Running) {
    let flows = pulls(way, 2);
    until("two pulls fill the line", || share(line, &[&flows]) > 0.80);
    let slow = LineSpec::of_mbit(10.0, 5.0);
    gateway.reload(&policy::for_line(slow, None)).expect("a reload");
    until("they fall to the new rate", || (0.6..0.97).contains(&share(slow, &[&flows])));
    gateway.reload("kind: Nonsense\n").expect("a reload");
    gateway.reload(&policy::for_line(line, None)).expect("a reload");
    until("they rise again", || share(line, &[&flows]) > 0.80);
    assert_eq!(flows.breaks(), 0, "{:?}", flows.last_error());
}

fn pulls(way: Way, count: usize) -> Bulk {
    let bulk = Bulk::start(way).expect("load");
    bulk.add(Flow::Pull, count).expect("pulls");
    bulk
}

/// What `flows` take of the line together, over a [`WINDOW`].
fn share(line: LineSpec, flows: &[&Bulk]) -> f64 {
    let total = || flows.iter().flat_map(|bulk| bulk.pulled()).sum::<u64>();
    let (before, from) = (total(), sys::now());
    std::thread::sleep(WINDOW);
    LineSpec::share(line.down_mbit, total() - before, stats::real(sys::now() - from) / 1e9)
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = sys::now() + PATIENCE_SECONDS * sys::NANOS_PER_SEC;
    while !condition() {
        assert!(sys::now() < deadline, "not within {PATIENCE_SECONDS} s: {what}");
    }
}

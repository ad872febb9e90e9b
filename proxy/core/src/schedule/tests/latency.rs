//! What a payment waits for behind saturating bulk, as a table that is compared exactly.
//!
//! The virtual line is a queue served at capacity behind the scheduler at 95 % of it. Eight bulk
//! flows always want more; messages of a payment (1500 bytes) arrive as a Poisson process, five a
//! second for five minutes; timers are 0.05 to 1.1 ms late. "Added" is the time from arrival to
//! the last bit on the line, less the time that the message takes on an empty one. A change of the
//! scheduler that moves a number is meant to show up as a changed line in `latency.txt`:
//! `TILLGATE_BLESS=1` writes it anew.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::super::*;
use super::draw::{Draw, epoch};
use super::policy::{class, line};

const PAYMENT: u64 = 1_500;
const SECONDS: u64 = 300;
const SECOND: u64 = 1_000_000_000;

/// The virtual line and what waits for it.
struct Uplink {
    scheduler: Scheduler,
    start: Instant,
    capacity: BitRate,
    /// When the line has sent all that was handed to it.
    sent_at: u64,
    wire: u64,
    payment: FlowId,
    /// Arrival and bytes left of each message.
    messages: VecDeque<(u64, u64)>,
    added: Vec<u64>,
}

impl Uplink {
    fn hand_over(&mut self, grant: Grant, now: u64) {
        let wire = wire_bytes(grant.bytes, 0);
        self.wire += wire;
        self.sent_at = self.sent_at.max(now) + self.capacity.nanos_for(wire);
        if grant.flow != self.payment {
            let again = Demand { flow: grant.flow, bytes: 1 << 30 };
            return self.scheduler.handle_demand(again, self.at(now));
        }
        let alone = self.capacity.nanos_for(wire_bytes(PAYMENT, 0));
        let mut bytes = grant.bytes;
        while bytes > 0 {
            let (arrived, left) = self.messages.front_mut().expect("a grant has a message");
            let part = bytes.min(*left);
            (*left, bytes) = (*left - part, bytes - part);
            if *left == 0 {
                self.added.push((self.sent_at - *arrived).saturating_sub(alone));
                self.messages.pop_front();
            }
        }
    }

    fn at(&self, now: u64) -> Instant {
        self.start + Duration::from_nanos(now)
    }

    fn pump(&mut self, now: u64) -> Option<u64> {
        while let Some(grant) = self.scheduler.poll_grant(self.at(now)) {
            self.hand_over(grant, now);
        }
        let timeout = self.scheduler.poll_timeout()?;
        Some(nanos(timeout.saturating_duration_since(self.start)))
    }
}

/// Milliseconds to two decimals.
fn milliseconds(ns: u64) -> String {
    format!("{}.{:02}", ns / 1_000_000, ns / 10_000 % 100)
}

fn row(mbit: u64) -> String {
    let rate = line(mbit);
    let start = epoch();
    let classes = [class(9, 1, 0, 100), class(1, 1, 0, 100)];
    let mut scheduler = Scheduler::new(rate, 0, &classes, start);
    let payment = scheduler.add_flow(0);
    for _ in 0..8 {
        let flow = scheduler.add_flow(1);
        scheduler.handle_demand(Demand { flow, bytes: 1 << 30 }, start);
    }
    let capacity = rate.capacity;
    let (messages, added) = (VecDeque::new(), Vec::new());
    let mut uplink =
        Uplink { scheduler, start, capacity, sent_at: 0, wire: 0, payment, messages, added };
    let mut draw = Draw::new(1);
    let mut timer = 0;
    let mut arrival = draw.exponential(SECOND / 5);
    while timer.min(arrival) < SECONDS * SECOND {
        let now = timer.min(arrival);
        if now == arrival {
            arrival += draw.exponential(SECOND / 5);
            uplink.messages.push_back((now, PAYMENT));
            let bytes = uplink.scheduler.demand(payment) + PAYMENT;
            uplink.scheduler.handle_demand(Demand { flow: payment, bytes }, uplink.at(now));
        }
        let due = uplink.pump(now).expect("bulk always waits");
        if now == timer || due < timer {
            timer = due + draw.between(50_000, 1_100_000);
        }
    }
    uplink.added.sort_unstable();
    let percentile = |p: usize| milliseconds(uplink.added[uplink.added.len() * p / 100]);
    let used = u128::from(uplink.wire) * 8 * 1_000 / u128::from(mbit * 1_000_000 * SECONDS);
    format!("{mbit:>4} | {:>6} | {:>6} | .{used:03}", percentile(50), percentile(99))
}

#[test]
fn a_payment_behind_eight_bulk_flows() {
    let mut table = String::from("Mbit/s | added p50 ms | p99 ms | line used\n");
    for mbit in [1, 2, 5, 10, 50, 100] {
        writeln!(table, "{}", row(mbit)).unwrap();
    }
    if std::env::var_os("TILLGATE_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/schedule/tests/latency.txt");
        #[expect(clippy::disallowed_methods, reason = "blessing a snapshot is what files are for")]
        std::fs::write(path, &table).unwrap();
    }
    let kept = include_str!("latency.txt");
    assert!(table == kept, "got\n{table}\nkept\n{kept}\nTILLGATE_BLESS=1 accepts it");
}

//! Floods of datagrams beside grants, in steps of a tenth of a millisecond.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::class::Share;
use crate::schedule::{ClassShare, Demand, FlowId, LineRate};
use crate::units::{BitRate, Percent};

const STEP: Duration = Duration::from_micros(100);
const BYTES: u64 = 1000;

fn share(priority: u16, floor: u8, ceiling: u8) -> ClassShare {
    ClassShare {
        priority,
        weight: 1,
        guarantee: Share::Percent(Percent::new(floor).unwrap()),
        ceiling: Share::Percent(Percent::new(ceiling).unwrap()),
    }
}

/// Payment, two in the middle, bulk: each a tier.
fn four(floor: u8) -> [ClassShare; 4] {
    [1000, 800, 500, 100].map(|priority| share(priority, floor, 100))
}

#[allow(clippy::disallowed_methods, reason = "a test needs some first instant")]
fn start() -> Instant {
    Instant::now()
}

fn line(mbit: u64, classes: &[ClassShare]) -> (Scheduler, Instant) {
    let rate = BitRate::from_mbit(mbit);
    let now = start();
    (Scheduler::new(LineRate { capacity: rate, shaped: rate }, 0, classes, now), now)
}

/// A store in small: floods of datagrams by class, and flows that always want more.
struct Story {
    scheduler: Scheduler,
    now: Instant,
    /// Datagrams offered in each step, by class.
    offered: Vec<u32>,
    passed: Vec<u64>,
    dropped: Vec<u64>,
    granted: Vec<u64>,
    flows: Vec<FlowId>,
    most_ahead: u64,
}

impl Story {
    fn new(mbit: u64, classes: &[ClassShare]) -> Self {
        let (scheduler, now) = line(mbit, classes);
        let none = || vec![0; classes.len()];
        Self {
            scheduler,
            now,
            offered: vec![0; classes.len()],
            passed: none(),
            dropped: none(),
            granted: none(),
            flows: Vec::new(),
            most_ahead: 0,
        }
    }

    fn flood(mut self, class: usize, per_step: u32) -> Self {
        self.offered[class] = per_step;
        self
    }

    fn pull(mut self, class: usize) -> Self {
        let flow = self.scheduler.add_flow(class);
        self.flows.push(flow);
        self
    }

    fn run(mut self, time: Duration) -> Self {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            let now = self.now;
            // Worst first: what is dropped must not depend on who comes first.
            for class in (0..self.offered.len()).rev() {
                for _ in 0..self.offered[class] {
                    self.serve();
                    match self.scheduler.police(class, BYTES, now) {
                        Policed::Pass => self.passed[class] += BYTES,
                        Policed::Drop => self.dropped[class] += BYTES,
                    }
                    let ahead =
                        self.scheduler.t_free.saturating_sub(self.scheduler.origin.latest());
                    self.most_ahead = self.most_ahead.max(ahead);
                }
            }
            self.serve();
        }
        self
    }

    fn serve(&mut self) {
        for flow in &self.flows {
            self.scheduler.handle_demand(Demand { flow: *flow, bytes: 1 << 20 }, self.now);
        }
        while let Some(grant) = self.scheduler.poll_grant(self.now) {
            let class = self.scheduler.flows.get(grant.flow).class;
            self.granted[class] += grant.bytes;
        }
    }

    /// Of a second of this many Mbit/s, the part that a class moved.
    fn part(&self, moved: &[u64], class: usize, mbit: u64) -> f64 {
        let whole = mbit * 1_000_000 / 8;
        moved[class] as f64 / whole as f64
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_flood_of_bulk_loses_its_own_datagrams_and_nobody_elses() {
    // 80 Mbit/s offered to a line of 10; a trickle of 2 × 80 kbit/s above it.
    let mut story = Story::new(10, &four(0)).flood(3, 10);
    for _ in 0..100 {
        story = story.run(Duration::from_millis(10));
        let now = story.now;
        for class in [0, 1, 2] {
            assert_eq!(story.scheduler.police(class, BYTES, now), Policed::Pass, "class {class}");
        }
    }
    assert!(story.dropped[3] > 0 && story.part(&story.passed, 3, 10) > 0.6);
}

#[test]
fn of_two_floods_the_higher_has_the_line() {
    let story = Story::new(10, &four(0)).flood(1, 5).flood(3, 5).run(SECOND);
    let (high, low) = (story.part(&story.passed, 1, 10), story.part(&story.passed, 3, 10));
    assert!(high > 0.85 && low < 0.05, "{high} and {low}");
}

#[test]
fn a_flood_takes_nothing_from_a_pull_above_it() {
    let story = Story::new(10, &four(0)).flood(3, 10).pull(1).run(SECOND);
    let pull = story.part(&story.granted, 1, 10);
    assert!(pull > 0.9, "{pull}");
    assert!(story.part(&story.passed, 3, 10) < 0.01);
}

#[test]
fn a_datagram_goes_before_a_pull_below_it() {
    let mut story = Story::new(2, &four(0)).pull(3);
    for _ in 0..100 {
        story = story.run(Duration::from_millis(10));
        let now = story.now;
        assert_eq!(story.scheduler.police(2, 500, now), Policed::Pass);
    }
}

#[test]
fn floors_hold_both_ways() {
    // A flood above, a pull below with a tenth of the line.
    let mut classes = four(0);
    classes[3] = share(100, 10, 100);
    let story = Story::new(10, &classes).flood(1, 10).pull(3).run(SECOND);
    let pull = story.part(&story.granted, 3, 10);
    assert!(pull > 0.08, "the floor of a pull under a flood: {pull}");
    // A pull above, a flood below with a tenth of the line.
    let story = Story::new(10, &classes).flood(3, 10).pull(1).run(SECOND);
    let flood = story.part(&story.passed, 3, 10);
    assert!((0.06..0.13).contains(&flood), "the floor of datagrams under a pull: {flood}");
}

#[test]
fn a_ceiling_holds_on_an_idle_line() {
    let classes = [share(1000, 0, 100), share(100, 0, 20)];
    let story = Story::new(10, &classes).flood(1, 10).run(SECOND);
    let part = story.part(&story.passed, 1, 10);
    assert!((0.15..0.24).contains(&part), "{part}");
}

#[test]
fn no_flood_makes_a_payment_wait_for_the_clock() {
    for mbit in [1, 2, 10, 50] {
        let floods = Story::new(mbit, &four(1)).flood(1, 5).flood(2, 5).flood(3, 5).pull(2);
        let mut story = floods;
        let payment = story.scheduler.add_flow(0);
        for _ in 0..50 {
            story = story.run(Duration::from_millis(20));
            let now = story.now;
            story.scheduler.handle_demand(Demand { flow: payment, bytes: 300 }, now);
            let grant = story.scheduler.poll_grant(now);
            assert_eq!(grant.map(|grant| grant.flow), Some(payment), "at {mbit} Mbit/s");
        }
    }
}

#[test]
fn what_would_hold_the_line_too_long_never_passes() {
    let (mut scheduler, now) = line(1, &four(0));
    assert_eq!(scheduler.police(0, 60_000, now), Policed::Drop, "half a second of line");
    assert_eq!(scheduler.police(3, 5000, now), Policed::Pass, "a Kerberos ticket");
    assert_eq!(scheduler.police(9, 1, now), Policed::Drop, "no such class");
}

proptest! {
    /// Whatever is offered, the line is never sold twice, and its clock stays inside the overdraft
    /// and one datagram.
    #[test]
    fn the_line_is_never_sold_twice(mbit in 1u64..100, floods in prop::array::uniform4(0u32..6),
        pulls in prop::array::uniform4(any::<bool>()), floor in 0u8..10)
    {
        let mut story = Story::new(mbit, &four(floor));
        for class in 0..4 {
            story = story.flood(class, floods[class]);
            if pulls[class] {
                story = story.pull(class);
            }
        }
        let story = story.run(Duration::from_millis(300));
        let rate = BitRate::from_mbit(mbit);
        let moved: u64 = story.passed.iter().chain(&story.granted).sum();
        let slack = Duration::from_millis(300) + OVERDRAFT + super::super::CREDIT;
        let one = wire_bytes(story.scheduler.quantum.max(BYTES), 0) * 2;
        prop_assert!(moved <= rate.bytes_in(slack) + one, "{} at {} Mbit/s", moved, mbit);
        let most = nanos(OVERDRAFT) + rate.nanos_for(one);
        prop_assert!(story.most_ahead <= most, "{} ns ahead", story.most_ahead);
    }
}

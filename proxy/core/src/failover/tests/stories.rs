//! Stories of the whole board: a local replica, a cloud behind a line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{BackendId, Endpoint, Host};
use crate::breaker::BreakerSpec;
use crate::failover::{
    Ask, BackendLayout, Board, Event, FailoverSpec, Healthy, Layout, ProbeReport, RuleLayout,
    Shift, Wiring,
};
use crate::health::{HealthSpec, Loss, Outcome, PassiveSpec, ProbeKind, ProbeSpec, Probed};
use crate::link::LinkId;
use crate::load::{EndpointId, Load, Verdict};
use crate::matching::BackendRef;
use crate::retry::{BudgetSpec, Repeat};
use crate::schedule::tests::draw::epoch;
use crate::stall::StallSpec;
use crate::units::Percent;

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn health() -> HealthSpec {
    HealthSpec {
        active: Some(ProbeSpec {
            kind: ProbeKind::Tcp,
            interval: ms(1000),
            timeout: ms(500),
            unhealthy_threshold: 2,
            healthy_threshold: 2,
        }),
        passive: PassiveSpec {
            gateway_errors: 3,
            server_errors: 5,
            local_failures: 2,
            window: ms(10_000),
            ratio: Percent::new(50).unwrap(),
            volume: 20,
            breaker: BreakerSpec { base: ms(1000), max: ms(60_000), trials: 3 },
            stall: StallSpec { floor: ms(100), multiplier: 2 },
        },
        data_age: None,
    }
}

pub(super) const BUDGET: BudgetSpec =
    BudgetSpec { percent: Percent::new(20).unwrap(), min_per_second: 10 };

pub(super) fn rule(tiers: &[&[u16]], failover: FailoverSpec) -> RuleLayout {
    let reference = |id: &u16| BackendRef { backend: BackendId(*id), weight: 1 };
    RuleLayout {
        name: ("pay".into(), "all".into()),
        tiers: tiers.iter().map(|tier| tier.iter().map(reference).collect()).collect(),
        failover,
        budget: BUDGET,
    }
}

pub(super) fn backend(name: &str, ports: &[u16], line: Option<LinkId>) -> BackendLayout {
    let host = Host::Ip([127, 0, 0, 1].into());
    let endpoint = |port: &u16| Endpoint { host: host.clone(), port: *port };
    BackendLayout {
        name: name.into(),
        endpoints: ports.iter().map(endpoint).collect(),
        health: Arc::new(health()),
        line,
    }
}

fn failover() -> FailoverSpec {
    FailoverSpec {
        fallback_below: Healthy::Count(1),
        hold_down: ms(30_000),
        ramp: ms(10_000),
        data_age_max: None,
    }
}

struct Story {
    board: Board,
    wiring: Wiring,
    now: Instant,
}

const LINE: LinkId = LinkId(0);
const TIMEOUT: Outcome = Outcome::Lost(Loss::Timeout);

/// A local backend of these ports, then a cloud one of these.
fn layout(local: &[u16], cloud: &[u16]) -> Layout {
    Layout {
        backends: vec![backend("local", local, None), backend("cloud", cloud, Some(LINE))],
        rules: vec![rule(&[&[0], &[1]], failover())],
    }
}

impl Story {
    fn new(layout: &Layout) -> Self {
        let now = epoch();
        let mut board = Board::new(0, now);
        let wiring = board.follow(layout, now);
        let mut story = Self { board, wiring, now };
        // Everybody answers steadily for a second.
        for _ in 0..25 {
            story.now += ms(40);
            for load in story.wiring.loads.iter().flat_map(|loads| loads.iter()) {
                load.answered(ms(5), story.now);
                load.succeeded();
            }
        }
        story.board.handle_timeout(story.now);
        story.wait(1);
        story
    }

    fn load(&self, backend: usize, endpoint: usize) -> &Arc<Load> {
        &self.wiring.loads[backend][endpoint]
    }

    fn call(&mut self, backend: usize, outcome: Outcome) {
        let load = Arc::clone(self.load(backend, 0));
        if outcome == Outcome::Good {
            load.answered(ms(5), self.now);
            load.succeeded();
        }
        self.board.handle_outcome(load.id(), outcome, 0, self.now);
    }

    fn probe(&mut self, id: EndpointId, probed: Probed, heard: bool) {
        let heard_at = heard.then_some(self.now);
        let report = ProbeReport { probed, began: self.now, heard_at, data_age: None };
        self.board.handle_probe(id, report, 0, self.now);
    }

    /// Time passes; every probe that falls due is good.
    fn wait(&mut self, millis: u64) {
        let end = self.now + ms(millis);
        while self.now < end {
            self.now = (self.now + ms(50)).min(end);
            self.board.handle_timeout(self.now);
            while let Some(order) = self.board.poll_probe(self.now) {
                self.probe(order.id, Probed::Good, true);
            }
        }
    }

    fn goes_to(&self) -> u16 {
        let ask = Ask { repeat: Repeat::Anywhere, tried: &[], only: None, draw: u64::MAX >> 33 };
        let choice = self.wiring.plans[0].pick(ask, self.now).expect("somewhere");
        self.wiring.plans[0].put_back(choice);
        self.wiring.plans[0].backend(choice).0
    }

    fn events(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = self.board.poll_event() {
            events.push(match event {
                Event::Endpoint { backend, to, cause, .. } => format!("{backend} {to:?}: {cause}"),
                Event::Line { down, .. } => format!("line {}", if down { "down" } else { "up" }),
                Event::Tier { shift, to, cause, .. } => {
                    format!("{} to {to}: {cause}", shift.label())
                }
            });
        }
        events
    }
}

#[test]
fn a_killed_replica_is_left_after_two_calls_and_comes_back_slowly() {
    let mut story = Story::new(&layout(&[1], &[2]));
    assert_eq!(story.goes_to(), 0);
    story.call(0, Outcome::Lost(Loss::Reset));
    assert_eq!(story.goes_to(), 0);
    story.call(0, Outcome::Lost(Loss::Refused));
    assert_eq!(story.goes_to(), 1);
    assert_eq!(story.events(), ["local Out: refused", "failover to 1: refused"]);
    story.wait(29_000);
    assert_eq!((story.goes_to(), story.load(0, 0).verdict()), (1, Verdict::Trial));
    story.wait(5_000);
    assert_eq!(story.goes_to(), 0, "one call on trial");
    for _ in 0..3 {
        story.call(0, Outcome::Good);
    }
    story.wait(100);
    assert_eq!(story.load(0, 0).verdict(), Verdict::Usable);
    assert_eq!(story.goes_to(), 1, "the ramp has only begun");
    story.wait(10_000);
    assert_eq!(story.goes_to(), 0);
    let told = ["local Trial: refused", "local Usable: recovered", "failback to 0: recovered"];
    assert_eq!(story.events(), told);
}

#[test]
fn a_frozen_replica_is_suspected_within_its_habit_and_judged_by_one_probe() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(0, 0));
    assert_eq!(load.stall_after(), Some(ms(100)));
    let since = story.now;
    story.now += ms(99);
    story.board.handle_silence(load.id(), since, story.now);
    assert_eq!(load.verdict(), Verdict::Usable, "not yet");
    story.now += ms(1);
    story.board.handle_silence(load.id(), since, story.now);
    assert_eq!((load.verdict(), story.goes_to()), (Verdict::Suspect, 1));
    assert_eq!(story.board.poll_timeout(story.now), story.now);
    let order = story.board.poll_probe(story.now).unwrap();
    assert_eq!((order.id, order.within), (load.id(), ms(100)));
    story.now += order.within;
    story.probe(load.id(), Probed::Lost(Loss::Timeout), true);
    assert_eq!(load.verdict(), Verdict::Out);
    assert_eq!(story.events()[2], "failover to 1: stall");
}

#[test]
fn a_slow_replica_is_cleared_by_a_probe() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(0, 0));
    let since = story.now;
    story.now += ms(100);
    story.board.handle_silence(load.id(), since, story.now);
    story.probe(load.id(), Probed::Good, true);
    assert_eq!((story.goes_to(), load.stall_after()), (0, Some(ms(200))));
    assert!(!story.events().iter().any(|event| event.starts_with("failover")));
}

#[test]
fn a_health_path_that_says_yes_does_not_save_a_server_that_answers_no_call() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(0, 0));
    let since = story.now;
    for silence in [100, 200, 400] {
        assert_eq!(load.verdict(), Verdict::Usable);
        load.enter();
        story.now = since + ms(silence);
        story.board.handle_silence(load.id(), since, story.now);
        story.probe(load.id(), Probed::Good, true);
    }
    assert_eq!((load.verdict(), story.goes_to()), (Verdict::Out, 1));
}

#[test]
fn one_slow_call_condemns_nobody() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(0, 0));
    let since = story.now;
    load.enter();
    for silence in [100, 200, 400, 800, 1600, 3200] {
        story.now = since + ms(silence);
        story.board.handle_silence(load.id(), since, story.now);
        story.probe(load.id(), Probed::Good, true);
    }
    assert_eq!((load.verdict(), story.goes_to()), (Verdict::Usable, 0));
}

#[test]
fn one_of_two_replicas_down_sends_nothing_over_the_line() {
    let mut story = Story::new(&layout(&[1, 2], &[3]));
    story.call(0, Outcome::Lost(Loss::Refused));
    story.call(0, Outcome::Lost(Loss::Refused));
    assert_eq!(story.load(0, 0).verdict(), Verdict::Out);
    assert_eq!(story.goes_to(), 0);
    assert_eq!(story.events(), ["local Out: refused"]);
}

#[test]
fn a_dead_line_is_nobodys_fault_and_all_are_back_at_once() {
    let mut cloud_first = layout(&[1], &[2, 3, 4]);
    cloud_first.rules = vec![rule(&[&[1], &[0]], failover())];
    let mut story = Story::new(&cloud_first);
    let load = Arc::clone(story.load(1, 0));
    story.now += ms(1);
    let since = story.now;
    story.now += ms(110);
    story.board.handle_silence(load.id(), since, story.now);
    story.now += ms(100);
    story.probe(load.id(), Probed::Lost(Loss::Timeout), false);
    assert_eq!(story.load(1, 1).verdict(), Verdict::Usable);
    let mut asked = 0;
    while let Some(order) = story.board.poll_probe(story.now) {
        story.probe(order.id, Probed::Lost(Loss::ConnectTimeout), false);
        asked += 1;
    }
    assert!(asked >= 2, "the others were asked at once");
    let events = story.events();
    assert!(events.contains(&"line down".to_owned()), "{events:?}");
    assert!(events.contains(&"failover to 1: line_down".to_owned()), "{events:?}");
    story.call(1, TIMEOUT);
    story.now += ms(5000);
    story.probe(load.id(), Probed::Good, true);
    let back = (0..3).all(|endpoint| story.load(1, endpoint).verdict() == Verdict::Usable);
    assert!(back, "{:?}", story.events());
}

#[test]
fn a_silent_server_behind_a_line_that_works_is_its_own_fault() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(1, 0));
    let since = story.now;
    story.now += ms(100);
    story.board.handle_silence(load.id(), since, story.now);
    story.now += ms(50);
    story.board.handle_line_heard(LINE, story.now);
    story.now += ms(50);
    story.probe(load.id(), Probed::Lost(Loss::Timeout), false);
    let events = story.events();
    assert!(events.contains(&"cloud Out: stall".to_owned()), "{events:?}");
    assert!(!events.contains(&"line down".to_owned()), "{events:?}");
}

#[test]
fn an_endpoint_on_trial_that_fails_stays_away_for_longer() {
    let mut story = Story::new(&layout(&[1], &[2]));
    story.call(0, Outcome::Lost(Loss::Refused));
    story.call(0, Outcome::Lost(Loss::Refused));
    story.wait(40_000);
    assert_eq!(story.goes_to(), 0);
    story.call(0, Outcome::GatewayError);
    assert_eq!(story.goes_to(), 1);
    story.wait(29_000);
    assert_eq!(story.goes_to(), 1, "the dwell began anew");
    story.wait(10_000);
    assert_eq!(story.goes_to(), 0);
}

#[test]
fn a_reload_keeps_what_is_known_of_what_stays() {
    let mut story = Story::new(&layout(&[1], &[2]));
    story.call(0, Outcome::Lost(Loss::Refused));
    story.call(0, Outcome::Lost(Loss::Refused));
    let before = Arc::clone(story.load(0, 0));
    let mut other = layout(&[1], &[2]);
    other.backends.insert(0, backend("new", &[9], None));
    other.rules = vec![rule(&[&[1], &[2]], failover()), rule(&[&[0]], failover())];
    other.rules[1].name = ("new".into(), "all".into());
    story.wiring = story.board.follow(&other, story.now);
    assert!(Arc::ptr_eq(story.load(1, 0), &before));
    assert_eq!((before.verdict(), story.goes_to()), (Verdict::Out, 2));
    let status = story.board.rules().next().unwrap();
    assert_eq!((status.active, status.cause), (1, "refused"));
    story.wiring = story.board.follow(&layout(&[8], &[2]), story.now);
    assert_eq!(story.goes_to(), 0, "another endpoint is another story");
}

#[test]
fn probes_keep_their_place_in_the_interval_of_a_fleet() {
    let places: Vec<u128> = (0..5u64)
        .map(|store| {
            let now = epoch();
            let mut board = Board::new(store * 7919, now);
            board.follow(&layout(&[1], &[2]), now);
            let first = board.poll_timeout(now);
            board.handle_timeout(first);
            assert!(board.poll_probe(first).is_some());
            (first - now).as_millis()
        })
        .collect();
    let mut distinct = places.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() >= 4 && places.iter().all(|place| *place <= 1000), "{places:?}");
}

#[test]
fn old_data_moves_the_tier() {
    let mut layout = layout(&[1], &[2]);
    layout.rules[0].failover.data_age_max = Some(ms(60_000));
    let mut story = Story::new(&layout);
    let id = story.load(0, 0).id();
    let age = Some(ms(55_000));
    let report =
        ProbeReport { probed: Probed::Good, began: story.now, heard_at: None, data_age: age };
    story.board.handle_probe(id, report, 0, story.now);
    assert_eq!(story.goes_to(), 0);
    story.wait(7_000);
    assert_eq!(story.goes_to(), 1);
    assert_eq!(story.events(), ["failover to 1: data_too_old"]);
    let status = story.board.rules().next().unwrap();
    assert_eq!((status.active, Shift::Failover.label()), (1, "failover"));
}

//! Stories of the whole board: a local replica, a cloud behind a line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::backend::{BackendId, Endpoint, Host};
use crate::breaker::BreakerSpec;
use crate::failover::trip::RETRY_AFTER_MAX;
use crate::failover::{
    Ask, BackendLayout, Board, Choice, Event, FailoverSpec, Healthy, Layout, ProbeReport,
    RuleLayout, Shift, Trip, TryEnd, Waits, Wiring,
};
use crate::health::{HealthSpec, Loss, Outcome, PassiveSpec, ProbeKind, ProbeSpec, Probed};
use crate::link::LinkId;
use crate::load::{EndpointId, Load, Verdict};
use crate::matching::BackendRef;
use crate::retry::{Body, BudgetSpec, Ended, Repeat, RetrySpec, Stop};
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
            ejected_max: Percent::FULL,
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
        self.board.handle_outcome(load.stamp(), outcome, 0, self.now);
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
    let age = Some(ms(59_000));
    let report =
        ProbeReport { probed: Probed::Good, began: story.now, heard_at: None, data_age: age };
    story.board.handle_probe(id, report, 0, story.now);
    assert_eq!(story.goes_to(), 0);
    story.wait(2_000);
    assert_eq!(story.goes_to(), 1);
    assert_eq!(story.events(), ["failover to 1: data_too_old"]);
    let status = story.board.rules().next().unwrap();
    assert_eq!((status.active, Shift::Failover.label()), (1, "failover"));
}

/// How calls of this story may be sent again.
fn retry(budget: BudgetSpec) -> RetrySpec {
    RetrySpec { attempts: 1, budget, buffer_bytes: 65_536, ..RetrySpec::never() }
}

fn waits(since: Option<Instant>) -> Waits {
    Waits { since, body: Body::Kept, left: Some(ms(2000)) }
}

#[test]
fn a_call_leaves_an_endpoint_that_is_out_only_when_it_was_silent_for_its_time() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let spec = retry(BUDGET);
    let plan = story.wiring.plans[0].clone();
    let mut trip = Trip::new(&plan, &spec, Repeat::Anywhere);
    let at = trip.begin(0, story.now).unwrap();
    let since = story.now;
    for _ in 0..3 {
        story.call(0, Outcome::GatewayError);
    }
    assert_eq!(story.load(0, 0).verdict(), Verdict::Out);
    assert_eq!(story.load(0, 0).patience(since), ms(100));
    let soon = trip.clone().leave(at, waits(Some(since)), 0, since + ms(99));
    assert_eq!(soon, None, "others failed; its own answer is on its way");
    assert_eq!(trip.clone().leave(at, waits(None), 0, since).map(|(to, _)| to.tier), Some(1));
    let (to, pause) = trip.leave(at, waits(Some(since)), 0, since + ms(100)).unwrap();
    assert_eq!((to.tier, pause), (1, Duration::ZERO));
    assert_eq!(trip.leave(to, waits(Some(since)), 0, since + ms(900)), None, "it is well there");
}

#[test]
fn a_call_that_may_not_go_on_stays_where_it_is() {
    let mut story = Story::new(&layout(&[1], &[2]));
    story.call(0, Outcome::Lost(Loss::Refused));
    story.call(0, Outcome::Lost(Loss::Refused));
    let plan = story.wiring.plans[0].clone();
    let (spec, since, now) = (retry(BUDGET), story.now, story.now + ms(500));
    let at = Choice { tier: 0, group: 0, endpoint: 0, trial: false };
    let leaves = |repeat, waits| Trip::new(&plan, &spec, repeat).leave(at, waits, 0, now);
    let gone = Waits { body: Body::Gone, ..waits(Some(since)) };
    let late = Waits { left: Some(ms(0)), ..waits(Some(since)) };
    assert_eq!(leaves(Repeat::Nowhere, waits(Some(since))), None, "it may have been executed");
    assert_eq!(leaves(Repeat::SameBackend, waits(Some(since))), None, "nobody else has its key");
    assert_eq!(leaves(Repeat::Anywhere, gone), None);
    assert_eq!(leaves(Repeat::Anywhere, late), None, "its client is gone by then");
    assert!(leaves(Repeat::Anywhere, waits(Some(since))).is_some());
    while plan.face.try_withdraw(now) {}
    assert_eq!(leaves(Repeat::Anywhere, waits(Some(since))), None, "the budget is used up");
    assert!(leaves(Repeat::Nowhere, waits(None)).is_some(), "what was not sent costs nothing");
}

#[test]
fn what_a_server_has_not_looked_at_may_go_there_once_more() {
    let story = Story::new(&layout(&[1], &[]));
    let spec = retry(BUDGET);
    let mut trip = Trip::new(&story.wiring.plans[0], &spec, Repeat::Nowhere);
    let at = trip.begin(0, story.now).unwrap();
    let end = |ended| TryEnd { at, ended, body: Body::Kept, retry_after: None, left: None };
    let unreachable = trip.clone().next(end(Ended::Unsent), 0, story.now);
    assert_eq!(unreachable, Err(Stop::NoOther));
    let again = trip.next(end(Ended::Unseen), 0, story.now).map(|(to, _)| to);
    assert_eq!(again, Ok(at));
    assert_eq!(trip.next(end(Ended::Unseen), 0, story.now), Err(Stop::NoOther), "only once");
    let mut trip = Trip::new(&story.wiring.plans[0], &spec, Repeat::Nowhere);
    let at = trip.begin(0, story.now).unwrap();
    let lost = TryEnd { at, ..end(Ended::Lost) };
    assert_eq!(trip.next(lost, 0, story.now), Err(Stop::Forbidden));
}

#[test]
fn calls_from_before_a_failure_neither_close_nor_open_the_breaker() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(0, 0));
    let before = load.stamp();
    story.call(0, Outcome::Lost(Loss::Refused));
    story.call(0, Outcome::Lost(Loss::Refused));
    let tell = |story: &mut Story, stamp, outcome| {
        story.board.handle_outcome(stamp, outcome, 0, story.now);
    };
    for _ in 0..5 {
        tell(&mut story, before, Outcome::Good);
    }
    assert_eq!(load.verdict(), Verdict::Out, "late answers do not bring it back");
    story.wait(40_000);
    assert_eq!((load.verdict(), story.goes_to()), (Verdict::Trial, 0));
    tell(&mut story, before, TIMEOUT);
    assert_eq!((load.verdict(), story.goes_to()), (Verdict::Trial, 0), "nor do late timeouts");
    for _ in 0..3 {
        story.call(0, Outcome::Good);
    }
    assert_eq!(load.verdict(), Verdict::Usable);
    for _ in 0..5 {
        tell(&mut story, before, TIMEOUT);
    }
    assert_eq!(load.verdict(), Verdict::Usable, "nor take it out again");
}

#[test]
fn calls_that_died_with_the_line_say_nothing_when_it_is_back() {
    let mut cloud_first = layout(&[1], &[2]);
    cloud_first.rules = vec![rule(&[&[1], &[0]], failover())];
    let mut story = Story::new(&cloud_first);
    let load = Arc::clone(story.load(1, 0));
    story.now += ms(1);
    let (since, under_way) = (story.now, load.stamp());
    story.now += ms(110);
    story.board.handle_silence(load.id(), since, story.now);
    story.probe(load.id(), Probed::Lost(Loss::ConnectTimeout), false);
    assert!(story.events().contains(&"line down".to_owned()));
    for loss in [Loss::Unresolved, Loss::Reset, Loss::Timeout] {
        story.board.handle_outcome(load.stamp(), Outcome::Lost(loss), 0, story.now);
    }
    story.now += ms(1000);
    story.probe(load.id(), Probed::Good, true);
    for _ in 0..3 {
        story.board.handle_outcome(under_way, TIMEOUT, 0, story.now);
    }
    assert_eq!(load.verdict(), Verdict::Usable, "{:?}", story.events());
}

#[test]
fn a_suspicion_ends_though_its_probe_never_comes_back() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(0, 0));
    let since = story.now;
    story.now += ms(100);
    assert!(story.board.handle_silence(load.id(), since, story.now));
    assert!(!story.board.handle_silence(load.id(), since, story.now), "nothing new");
    assert!(story.board.poll_probe(story.now).is_some());
    let due = story.board.poll_timeout(story.now);
    assert!(due > story.now, "it is asked once");
    while load.verdict() == Verdict::Suspect {
        story.now = story.board.poll_timeout(story.now);
        assert!(story.now < since + ms(3000), "it sticks");
        story.board.handle_timeout(story.now);
        while story.board.poll_probe(story.now).is_some() {}
    }
    assert_eq!(load.stall_after(), Some(ms(200)));
    story.now += ms(5000);
    assert!(story.board.handle_silence(load.id(), since, story.now));
    story.board.handle_undecided(load.id(), story.now);
    assert_eq!(load.verdict(), Verdict::Usable);
}

#[test]
fn an_endpoint_that_nobody_probes_any_more_wakes_nobody() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(1, 0));
    let since = story.now;
    story.now += ms(150);
    assert!(story.board.handle_silence(load.id(), since, story.now));
    let mut unused = layout(&[1], &[2]);
    unused.rules = vec![rule(&[&[0]], failover())];
    story.wiring = story.board.follow(&unused, story.now);
    assert_eq!(load.verdict(), Verdict::Usable);
    while story.board.poll_probe(story.now).is_some() {}
    assert!(story.board.poll_timeout(story.now) > story.now);
}

#[test]
fn a_session_goes_where_any_other_call_might() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let plan = story.wiring.plans[0].clone();
    let at = Choice { tier: 0, group: 0, endpoint: 0, trial: false };
    let keep = |story: &Story, repeat| plan.keep(at, repeat, story.now);
    assert_eq!(keep(&story, Repeat::Nowhere), Some(at));
    let id = story.load(0, 0).id();
    story.now += ms(150);
    story.board.handle_silence(id, story.now - ms(150), story.now);
    assert_eq!(keep(&story, Repeat::Nowhere), None, "silent");
    story.probe(id, Probed::Lost(Loss::Timeout), true);
    assert_eq!(keep(&story, Repeat::Nowhere), None, "out");
    story.wait(10_000);
    assert_eq!(story.load(0, 0).verdict(), Verdict::Trial);
    assert_eq!(keep(&story, Repeat::Anywhere), None, "the dwell is not over");
    story.wait(30_000);
    let trial = Choice { trial: true, ..at };
    assert_eq!(keep(&story, Repeat::Anywhere), Some(trial));
    assert_eq!(keep(&story, Repeat::Anywhere), None, "one at a time");
}

#[test]
fn streams_that_are_silent_by_nature_condemn_nobody() {
    let mut story = Story::new(&layout(&[1], &[2]));
    let load = Arc::clone(story.load(0, 0));
    for _ in 0..10 {
        load.enter();
        load.stream_begins();
    }
    let since = story.now;
    load.enter();
    for silence in [100, 200, 400, 800] {
        story.now = since + ms(silence);
        story.board.handle_silence(load.id(), since, story.now);
        story.probe(load.id(), Probed::Good, true);
    }
    assert_eq!(load.verdict(), Verdict::Usable);
}

#[test]
fn another_replica_in_a_tier_does_not_end_its_dwell() {
    let mut story = Story::new(&layout(&[1], &[2]));
    story.call(0, Outcome::Lost(Loss::Refused));
    story.call(0, Outcome::Lost(Loss::Refused));
    assert_eq!(story.goes_to(), 1);
    story.wiring = story.board.follow(&layout(&[1, 8], &[2]), story.now);
    story.wait(20_000);
    assert_eq!(story.goes_to(), 1, "the new one is well, and the tier dwells");
    story.wait(25_000);
    assert_eq!(story.goes_to(), 0);
}

#[test]
fn data_whose_age_is_not_told_any_more_is_taken_for_fresh() {
    let mut layout = layout(&[1], &[2]);
    layout.rules[0].failover.data_age_max = Some(ms(60_000));
    let mut story = Story::new(&layout);
    let load = Arc::clone(story.load(0, 0));
    load.learn_data_age(ms(90_000), story.now);
    story.wait(1500);
    assert_eq!(story.goes_to(), 1);
    for _ in 0..5 {
        story.wait(1000);
        load.learn_data_age(ms(90_000), story.now);
    }
    assert_eq!(load.data_age(story.now), Some(ms(90_000)), "calls are told it all the time");
    story.wait(4000);
    assert_eq!(load.data_age(story.now), None, "probes are good, and nobody is told it");
}

#[test]
fn at_most_a_part_of_a_backend_is_taken_out_by_calls() {
    let mut layout = layout(&[1, 2, 3, 4], &[5]);
    let mut spec = health();
    spec.passive.ejected_max = Percent::new(50).unwrap();
    layout.backends[0].health = Arc::new(spec);
    let mut story = Story::new(&layout);
    for endpoint in 0..4 {
        let stamp = story.load(0, endpoint).stamp();
        for _ in 0..6 {
            story.board.handle_outcome(stamp, Outcome::GatewayError, 0, story.now);
        }
    }
    let out = |story: &Story| {
        story.wiring.loads[0].iter().filter(|load| load.verdict() == Verdict::Out).count()
    };
    assert_eq!(out(&story), 2);
    let id = story.load(0, 3).id();
    story.probe(id, Probed::Lost(Loss::Refused), true);
    story.probe(id, Probed::Lost(Loss::Refused), true);
    assert_eq!(out(&story), 3, "probes are believed all the same");
}

#[test]
fn a_fleet_with_long_intervals_is_spread_over_them() {
    let mut layout = layout(&[1], &[2]);
    let mut spec = health();
    spec.active = spec.active.map(|active| ProbeSpec { interval: ms(20_000), ..active });
    layout.backends.iter_mut().for_each(|one| one.health = Arc::new(spec.clone()));
    let second = |store: u64| {
        let zero = epoch();
        let (mut board, mut now) = (Board::new(store * 7919, zero), zero);
        let wiring = board.follow(&layout, zero);
        let (id, mut asked) = (wiring.loads[0][0].id(), Vec::new());
        while asked.len() < 3 {
            now = board.poll_timeout(now).max(now + ms(1));
            board.handle_timeout(now);
            while let Some(order) = board.poll_probe(now) {
                asked.extend((order.id == id).then_some(now));
            }
        }
        let steps = (asked[1] - asked[0], asked[2] - asked[1]);
        assert!(asked[0] - zero <= ms(1010) && steps.1 <= ms(20_010), "{steps:?}");
        (asked[1] - zero).as_secs()
    };
    let mut places: Vec<u64> = (0..12).map(second).collect();
    places.sort_unstable();
    places.dedup();
    assert!(places.len() >= 6, "{places:?}");
}

#[test]
fn a_server_that_asks_for_a_long_time_is_not_waited_for() {
    let story = Story::new(&layout(&[1], &[]));
    let spec = RetrySpec { codes: vec![StatusCode::SERVICE_UNAVAILABLE], ..retry(BUDGET) };
    for (asked, waits) in [(RETRY_AFTER_MAX, true), (RETRY_AFTER_MAX * 2, false)] {
        let mut trip = Trip::new(&story.wiring.plans[0], &spec, Repeat::SameBackend);
        let at = trip.begin(0, story.now).unwrap();
        let (ended, retry_after) = (Ended::Answered(StatusCode::SERVICE_UNAVAILABLE), Some(asked));
        let end = TryEnd { at, ended, body: Body::Kept, retry_after, left: None };
        let next = trip.next(end, 0, story.now).map(|(to, pause)| (to.is_same(at), pause));
        assert_eq!(next, if waits { Ok((true, asked)) } else { Err(Stop::TooLate) });
    }
}

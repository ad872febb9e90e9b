//! A store's bad days, seeded: servers die, freeze, slow down, lie and flap, the line is cut, the
//! process stands still; calls come all the time and go where the board and their trips send them.
//!
//! What must hold: no call is executed twice without permission, and by no second backend where
//! its key is not known; a call that may be repeated anywhere succeeds in time while any server
//! is well; a tier that was left is not used again before the dwell, unless the other one is
//! lost; and when all faults have healed, traffic is back on tier one within dwell and ramp.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stories::{BUDGET, backend, health, ms, rule};
use crate::backend::BackendId;
use crate::breaker::BreakerSpec;
use crate::failover::{
    Board, Choice, FailoverSpec, Healthy, Layout, ProbeReport, Shift, TierState, Trip, TryEnd,
    Waits, Wiring,
};
use crate::health::{HealthSpec, Loss, Outcome, PassiveSpec, Probed};
use crate::link::LinkId;
use crate::load::{EndpointId, Stamp, Verdict};
use crate::retry::{Body, Ended, Methods, Repeat, RetrySpec, Stop};
use crate::schedule::tests::draw::{Draw, each_seed, epoch};

const LINE: LinkId = LinkId(0);
const REQUEST_TIMEOUT: u64 = 3000;
const DWELL: Duration = ms(4000);
const RAMP: Duration = ms(1500);
/// Faults begin and end before this.
const FAULTS_UNTIL: u64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Up,
    /// The process is gone: connections are refused.
    Dead,
    /// It accepts and says nothing.
    Frozen,
    /// Calls take two seconds; its health path does not.
    Slow,
    /// It answers 503; whether its health path knows.
    Failing(bool),
}

struct Server {
    id: EndpointId,
    backend: u16,
    is_far: bool,
    mode: Mode,
    rtt: u64,
    /// Requests that wait inside it or on the line for better times, executed or not.
    stuck: Vec<(usize, u32, bool)>,
    /// Since when a call could have succeeded there.
    well_since: u64,
}

struct Call {
    began: u64,
    repeat: Repeat,
    /// The try under way.
    nth: u32,
    at: Option<Choice>,
    stamp: Option<Stamp>,
    sent_at: u64,
    executions: Vec<u16>,
    /// It met a server that takes two seconds: there may be no time for another one.
    was_slowed: bool,
    /// What happened to it, for the message of a failed seed.
    story: Vec<(u64, String)>,
    done: Option<Result<(), Stop>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Answer { call: usize, nth: u32, failed: bool },
    Refused { call: usize, nth: u32 },
    Reset { call: usize, nth: u32 },
    Look { call: usize, nth: u32 },
    Deadline { call: usize },
    Again { call: usize, nth: u32 },
    ProbeEnd { server: usize, began: u64 },
    Fault { server: usize },
    Heal { server: usize },
    Cut,
    Mend,
    Standstill,
    Wake,
}

struct World<'a> {
    zero: Instant,
    now: u64,
    board: Board,
    wiring: &'a Wiring,
    retry: &'a RetrySpec,
    servers: Vec<Server>,
    is_cut: bool,
    calls: Vec<Call>,
    trips: Vec<Option<Trip<'a>>>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    draw: Draw,
    gap: u64,
    next_wake: u64,
    left_at: Option<u64>,
    /// When the process went on after it stood still.
    woke_at: u64,
}

impl<'a> World<'a> {
    fn at(&self, millis: u64) -> Instant {
        self.zero + ms(millis)
    }

    fn instant(&self) -> Instant {
        self.at(self.now)
    }

    fn put(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence, event)));
    }

    fn run(&mut self, until: u64) {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            if at > until {
                self.queue.push(Reverse((at, 0, event)));
                break;
            }
            // After a standstill everything is late.
            self.now = self.now.max(at);
            self.handle(event);
            self.drive();
        }
        self.now = self.now.max(until);
    }

    /// What the shell does for the board.
    fn drive(&mut self) {
        let now = self.instant();
        if self.board.poll_timeout(now) <= now {
            self.board.handle_timeout(now);
        }
        while let Some(order) = self.board.poll_probe(now) {
            let server = self.server_of(order.id);
            let rtt = self.servers[server].rtt * 2;
            let within = u64::try_from(order.within.as_millis()).unwrap();
            let answers = matches!(self.mode(server), Some(mode) if mode != Mode::Frozen);
            let takes = if answers { rtt.min(within) } else { within };
            self.put(takes, Event::ProbeEnd { server, began: self.now });
        }
        self.watch_tiers();
        let next = self.board.poll_timeout(now).saturating_duration_since(self.zero);
        let next = u64::try_from(next.as_micros().div_ceil(1000)).unwrap().max(self.now + 1);
        if next < self.next_wake || self.next_wake <= self.now {
            self.next_wake = next;
            let after = next - self.now;
            self.put(after, Event::Wake);
        }
    }

    fn watch_tiers(&mut self) {
        while let Some(event) = self.board.poll_event() {
            let crate::failover::Event::Tier { shift, .. } = event else { continue };
            match shift {
                Shift::Failover => self.left_at = Some(self.now),
                Shift::Failback => {
                    let rule = self.board.rules().next().unwrap();
                    let others = rule.states.iter().skip(rule.active + 1);
                    let is_forced = !others.clone().any(|state| *state == TierState::Usable);
                    let stayed = self.left_at.map_or(u64::MAX, |left| self.now - left);
                    let dwell = u64::try_from(DWELL.as_millis()).unwrap();
                    assert!(is_forced || stayed >= dwell, "back after {stayed} ms");
                }
            }
        }
    }

    fn server_of(&self, id: EndpointId) -> usize {
        self.servers.iter().position(|server| server.id == id).unwrap()
    }

    /// How a server looks from here; `None`: the line is cut.
    fn mode(&self, server: usize) -> Option<Mode> {
        let server = &self.servers[server];
        (!(server.is_far && self.is_cut)).then_some(server.mode)
    }

    fn is_well(&self, server: usize) -> bool {
        self.mode(server) == Some(Mode::Up)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Answer { call, nth, failed } => self.answer(call, nth, failed),
            Event::Refused { call, nth } => {
                self.end_try(call, nth, Ended::Unseen, Some(Outcome::Lost(Loss::Refused)));
            }
            Event::Reset { call, nth } => {
                self.end_try(call, nth, Ended::Lost, Some(Outcome::Lost(Loss::Reset)));
            }
            Event::Look { call, nth } => self.look(call, nth),
            Event::Deadline { call } => self.deadline(call),
            Event::Again { call, nth } => {
                if self.calls[call].done.is_none() && self.calls[call].nth == nth {
                    self.send(call);
                }
            }
            Event::ProbeEnd { server, began } => self.probe_end(server, began),
            Event::Fault { server } => self.fault(server),
            Event::Heal { server } => self.set_mode(server, Mode::Up),
            Event::Cut => self.is_cut = true,
            Event::Mend => self.mend(),
            Event::Standstill => {
                self.now += self.draw.between(1000, 15_000);
                self.woke_at = self.now;
            }
            Event::Wake => {}
        }
    }

    fn arrive(&mut self) {
        let repeat = self.draw.pick(&[Repeat::Nowhere, Repeat::SameBackend, Repeat::Anywhere]);
        let mut trip = Trip::new(&self.wiring.plans[0], self.retry, repeat);
        let at = trip.begin(self.draw.bits(), self.instant());
        let call = self.calls.len();
        self.trips.push(Some(trip));
        self.calls.push(Call {
            began: self.now,
            repeat,
            nth: 0,
            at,
            stamp: None,
            sent_at: self.now,
            executions: vec![],
            was_slowed: false,
            story: vec![],
            done: None,
        });
        let gap = self.draw.between(self.gap / 2, self.gap * 3 / 2);
        self.put(gap, Event::Arrive);
        self.put(REQUEST_TIMEOUT, Event::Deadline { call });
        self.send(call);
    }

    fn send(&mut self, call: usize) {
        let at = self.calls[call].at.expect("there is always somewhere to go");
        let load = Arc::clone(self.wiring.plans[0].load(at));
        let server = self.server_of(load.id());
        let nth = self.calls[call].nth;
        let (mode, verdict) = (self.mode(server), load.verdict());
        self.tell(call, format!("to {server}, {mode:?} and {verdict:?}, {at:?}"));
        load.enter();
        self.calls[call].stamp = Some(load.stamp());
        self.calls[call].sent_at = self.now;
        let rtt = self.servers[server].rtt;
        let look = load.stall_after().map_or(ms(250), |after| after.min(ms(250)));
        let look = u64::try_from(look.as_millis()).unwrap();
        self.put(look, Event::Look { call, nth });
        match self.mode(server) {
            Some(Mode::Dead) => self.put(rtt, Event::Refused { call, nth }),
            Some(Mode::Frozen) | None => self.servers[server].stuck.push((call, nth, false)),
            Some(Mode::Failing(_)) => self.put(rtt, Event::Answer { call, nth, failed: true }),
            Some(Mode::Up) => {
                self.execute(call, server);
                self.put(rtt, Event::Answer { call, nth, failed: false });
            }
            Some(Mode::Slow) => {
                self.calls[call].was_slowed = true;
                self.execute(call, server);
                self.put(2000, Event::Answer { call, nth, failed: false });
            }
        }
    }

    fn tell(&mut self, call: usize, what: String) {
        self.calls[call].story.push((self.now, what));
    }

    fn execute(&mut self, call: usize, server: usize) {
        let backend = self.servers[server].backend;
        let Call { executions, repeat, .. } = &mut self.calls[call];
        executions.push(backend);
        match repeat {
            Repeat::Nowhere => assert_eq!(executions.len(), 1, "executed twice"),
            Repeat::SameBackend => {
                assert!(executions.iter().all(|one| *one == backend), "by two backends");
            }
            Repeat::Anywhere => {}
        }
    }

    fn is_current(&self, call: usize, nth: u32) -> bool {
        let call = &self.calls[call];
        call.done.is_none() && call.nth == nth && call.at.is_some()
    }

    fn answer(&mut self, call: usize, nth: u32, failed: bool) {
        if !self.is_current(call, nth) {
            return;
        }
        let id = self.wiring.plans[0].load(self.calls[call].at.unwrap()).id();
        let server = self.server_of(id);
        match self.mode(server) {
            None | Some(Mode::Frozen) => self.servers[server].stuck.push((call, nth, true)),
            Some(Mode::Dead) => self.handle(Event::Reset { call, nth }),
            Some(_) if failed => {
                let status = http::StatusCode::SERVICE_UNAVAILABLE;
                self.end_try(call, nth, Ended::Answered(status), Some(Outcome::GatewayError));
            }
            Some(_) => {
                let ended = Ended::Answered(http::StatusCode::OK);
                self.end_try(call, nth, ended, Some(Outcome::Good));
            }
        }
    }

    /// What a call that waits does now and then.
    fn look(&mut self, call: usize, nth: u32) {
        if !self.is_current(call, nth) {
            return;
        }
        let at = self.calls[call].at.unwrap();
        let load = Arc::clone(self.wiring.plans[0].load(at));
        let now = self.instant();
        let since = self.at(self.calls[call].sent_at);
        self.board.handle_silence(load.id(), since, now);
        let verdict = load.verdict();
        let deadline = self.calls[call].began + REQUEST_TIMEOUT;
        let left = Some(ms(deadline.saturating_sub(self.now)));
        let waits = Waits { since: Some(since), body: Body::Kept, left };
        let draw = self.draw.bits();
        let left = self.trips[call].as_mut().unwrap().leave(at, waits, draw, now);
        if let Some(next) = left {
            assert!(now >= since + ms(100), "it had no time to answer");
            self.close(call, None);
            self.tell(call, "left".into());
            self.goes_on(call, next);
        } else {
            let after = if verdict == Verdict::Usable { 100 } else { 25 };
            self.put(after, Event::Look { call, nth });
        }
    }

    fn deadline(&mut self, call: usize) {
        if self.calls[call].done.is_some() {
            return;
        }
        if self.calls[call].at.is_some() {
            let outcome = Outcome::Lost(Loss::Timeout);
            self.close(call, Some(outcome));
        }
        self.finish(call, Err(Stop::TooLate));
    }

    /// Ends the try under way: its place is free, and what it has shown is told.
    fn close(&mut self, call: usize, outcome: Option<Outcome>) -> Choice {
        let at = self.calls[call].at.take().expect("a try under way");
        let load = Arc::clone(self.wiring.plans[0].load(at));
        let (now, took) = (self.instant(), ms(self.now - self.calls[call].sent_at));
        load.leave();
        match outcome {
            Some(Outcome::Good) => {
                load.answered(took, now);
                load.succeeded();
            }
            Some(Outcome::GatewayError | Outcome::ServerError) => load.refused(took, now),
            Some(Outcome::Lost(_)) | None => load.lost(now),
        }
        if at.trial {
            load.end_trial();
        }
        if let Some(outcome) = outcome
            && (outcome != Outcome::Good || load.verdict() != Verdict::Usable)
        {
            let stamp = self.calls[call].stamp.expect("it was sent");
            self.board.handle_outcome(stamp, outcome, self.draw.bits(), now);
        }
        at
    }

    fn end_try(&mut self, call: usize, nth: u32, ended: Ended, outcome: Option<Outcome>) {
        if !self.is_current(call, nth) {
            return;
        }
        let at = self.close(call, outcome);
        self.tell(call, format!("{ended:?} {outcome:?}"));
        let deadline = self.calls[call].began + REQUEST_TIMEOUT;
        let left = Some(ms(deadline.saturating_sub(self.now)));
        let end = TryEnd { at, ended, body: Body::Kept, retry_after: None, left };
        let (draw, now) = (self.draw.bits(), self.instant());
        match self.trips[call].as_mut().unwrap().next(end, draw, now) {
            Ok(next) => self.goes_on(call, next),
            Err(_) if outcome == Some(Outcome::Good) => self.finish(call, Ok(())),
            Err(stop) => self.finish(call, Err(stop)),
        }
    }

    fn goes_on(&mut self, call: usize, (choice, pause): (Choice, Duration)) {
        self.calls[call].nth += 1;
        self.calls[call].at = Some(choice);
        let nth = self.calls[call].nth;
        let pause = u64::try_from(pause.as_millis()).unwrap();
        self.put(pause, Event::Again { call, nth });
    }

    fn finish(&mut self, call: usize, result: Result<(), Stop>) {
        self.calls[call].done = Some(result);
        self.trips[call] = None;
        let Err(stop) = result else { return };
        let Call { began, repeat, was_slowed, .. } = self.calls[call];
        let well = |server: usize| self.is_well(server) && self.servers[server].well_since < began;
        let had_time = !was_slowed && self.woke_at <= began;
        if repeat == Repeat::Anywhere && stop != Stop::Budget && had_time {
            let well = (0..self.servers.len()).find(|server| well(*server));
            let story = &self.calls[call].story;
            let endpoints: Vec<_> =
                self.board.endpoints().map(|one| (one.verdict, one.cause)).collect();
            assert_eq!(well, None, "{stop:?} at {}: {story:#?} {endpoints:?}", self.now);
        }
        let all = (0..self.servers.len()).all(|one| {
            self.is_well(one) && self.servers[one].well_since + REQUEST_TIMEOUT <= began
        });
        assert!(!all || self.woke_at > began, "a call failed while all was well: {stop:?}");
    }

    fn probe_end(&mut self, server: usize, began: u64) {
        let rtt = self.servers[server].rtt;
        let heard = |world: &Self| Some(world.at((began + rtt).min(world.now)));
        let (probed, heard_at) = match self.mode(server) {
            None => (Probed::Lost(Loss::ConnectTimeout), None),
            Some(Mode::Dead) => (Probed::Lost(Loss::Refused), heard(self)),
            Some(Mode::Frozen) => (Probed::Lost(Loss::Timeout), heard(self)),
            Some(Mode::Failing(true)) => {
                (Probed::Unwell(http::StatusCode::SERVICE_UNAVAILABLE), heard(self))
            }
            Some(Mode::Up | Mode::Slow | Mode::Failing(false)) => (Probed::Good, heard(self)),
        };
        let report = ProbeReport { probed, began: self.at(began), heard_at, data_age: None };
        let (id, draw, now) = (self.servers[server].id, self.draw.bits(), self.instant());
        self.board.handle_probe(id, report, draw, now);
    }

    fn fault(&mut self, server: usize) {
        let modes =
            [Mode::Dead, Mode::Frozen, Mode::Slow, Mode::Failing(true), Mode::Failing(false)];
        let mode = self.draw.pick(&modes);
        self.set_mode(server, mode);
        let lasts = self.draw.pick(&[300, 1000, 1000, 4000, 9000]);
        self.put(lasts, Event::Heal { server });
        let pause = self.draw.pick(&[700, 1000, 3000, 8000]);
        if self.now + lasts + pause < FAULTS_UNTIL {
            self.put(lasts + pause, Event::Fault { server });
        }
    }

    fn set_mode(&mut self, server: usize, mode: Mode) {
        let before = std::mem::replace(&mut self.servers[server].mode, mode);
        if mode == Mode::Up {
            self.servers[server].well_since = self.now;
        }
        if mode == Mode::Dead {
            let stuck = std::mem::take(&mut self.servers[server].stuck);
            for (call, nth, _) in stuck {
                self.put(0, Event::Reset { call, nth });
            }
        } else if before == Mode::Frozen && mode != Mode::Frozen {
            self.release(server);
        }
    }

    fn mend(&mut self) {
        self.is_cut = false;
        for server in 0..self.servers.len() {
            if self.servers[server].is_far {
                self.servers[server].well_since = self.now;
                if self.servers[server].mode != Mode::Frozen {
                    self.release(server);
                }
            }
        }
    }

    /// A server goes on with what waits in it: also with what nobody waits for any more, because
    /// its kernel has taken that long ago.
    fn release(&mut self, server: usize) {
        if self.mode(server).is_none() {
            return;
        }
        for (call, nth, executed) in std::mem::take(&mut self.servers[server].stuck) {
            let waits = self.is_current(call, nth);
            if !executed && (waits || self.draw.chance(50)) {
                self.execute(call, server);
            }
            if waits {
                let rtt = self.servers[server].rtt;
                self.put(rtt, Event::Answer { call, nth, failed: false });
            }
        }
    }
}

fn layout(draw: &mut Draw) -> Layout {
    let of = |ports: &[u16], count: u64| ports[..usize::try_from(count).unwrap()].to_vec();
    let local = backend("local", &of(&[1, 2], draw.between(1, 2)), None);
    let cloud = backend("cloud", &of(&[3, 4], draw.between(1, 2)), Some(LINE));
    let passive = PassiveSpec {
        breaker: BreakerSpec { base: ms(500), max: ms(3000), trials: 3 },
        ..health().passive
    };
    let spec = Arc::new(HealthSpec { passive, ..health() });
    let watched = |mut one: crate::failover::BackendLayout| {
        one.health = Arc::clone(&spec);
        one
    };
    let failover = FailoverSpec {
        fallback_below: Healthy::Count(1),
        hold_down: DWELL,
        ramp: RAMP,
        data_age_max: None,
    };
    let tiers: &[&[u16]] = if draw.chance(70) { &[&[0], &[1]] } else { &[&[1], &[0]] };
    Layout { backends: vec![watched(local), watched(cloud)], rules: vec![rule(tiers, failover)] }
}

fn retry(endpoints: usize) -> RetrySpec {
    RetrySpec {
        attempts: u32::try_from(endpoints).unwrap(),
        backoff_base: ms(25),
        backoff_max: ms(250),
        codes: vec![http::StatusCode::SERVICE_UNAVAILABLE],
        methods: Methods::Idempotent,
        idempotency: None,
        budget: BUDGET,
        buffer_bytes: 65_536,
        hedge: None,
    }
}

fn servers(wiring: &Wiring, draw: &mut Draw) -> Vec<Server> {
    let mut servers = Vec::new();
    for (backend, loads) in wiring.loads.iter().enumerate() {
        for load in loads.iter() {
            let is_far = backend == 1;
            let rtt = if is_far { draw.between(30, 60) } else { draw.between(1, 4) };
            let backend = u16::try_from(backend).unwrap();
            let (id, mode) = (load.id(), Mode::Up);
            servers.push(Server { id, backend, is_far, mode, rtt, stuck: vec![], well_since: 0 });
        }
    }
    servers
}

fn bad_day(seed: u64) {
    let mut draw = Draw::new(seed);
    let (layout, zero) = (layout(&mut draw), epoch());
    let mut board = Board::new(draw.bits(), zero);
    let wiring = board.follow(&layout, zero);
    let servers = servers(&wiring, &mut draw);
    let retry = retry(servers.len());
    let gap = draw.pick(&[20, 40, 40, 100]);
    let mut world = World {
        zero,
        now: 0,
        board,
        wiring: &wiring,
        retry: &retry,
        servers,
        is_cut: false,
        calls: vec![],
        trips: vec![],
        queue: BinaryHeap::new(),
        sequence: 0,
        draw,
        gap,
        next_wake: 0,
        left_at: None,
        woke_at: 0,
    };
    plan_faults(&mut world);
    world.put(0, Event::Arrive);
    world.run(FAULTS_UNTIL + 10_000);
    world.gap = 150;
    // Late answers and probes of the last fault, open breakers, then dwell and ramp as they are.
    let rule = world.board.rules().next().unwrap();
    let dwell = DWELL * (1 << rule.flaps.min(8));
    let enough = (dwell + RAMP) * 6 / 5 + ms(30_000);
    world.run(world.now + u64::try_from(enough.as_millis()).unwrap());
    let rule = world.board.rules().next().unwrap();
    assert_eq!((rule.active, rule.ramp), (0, None), "back on tier one: {rule:?}");
    let last = world.calls.iter().rev().filter(|call| call.done.is_some()).take(10);
    let first = wiring.plans[0].tiers[0][0].backend;
    for call in last {
        assert_eq!((call.done, BackendId(call.executions[0])), (Some(Ok(())), first));
    }
    for (at, load) in wiring.plans[0].loads() {
        assert!(load.calls() < 5, "every call was counted out again");
        assert!(!load.is_on_trial(), "a trial was not given back");
        // Behind the active tier nobody finds out: one that may be tried is as good as it gets.
        let worst = if at == 0 { Verdict::Usable } else { Verdict::Trial };
        assert!(load.verdict() <= worst, "tier {at}: {:?}", load.verdict());
    }
}

fn plan_faults(world: &mut World<'_>) {
    for server in 0..world.servers.len() {
        if world.draw.chance(70) {
            let after = world.draw.between(1500, 9000);
            world.put(after, Event::Fault { server });
        }
    }
    if world.draw.chance(40) {
        let (cut, lasts) = (world.draw.between(1500, 9000), world.draw.between(300, 9000));
        world.put(cut, Event::Cut);
        world.put(cut + lasts, Event::Mend);
    }
    if world.draw.chance(15) {
        let after = world.draw.between(2000, 15_000);
        world.put(after, Event::Standstill);
    }
}

#[test]
fn bad_days_of_even_seeds() {
    each_seed("failover-even", 1000, |seed| bad_day(seed * 2));
}

#[test]
fn bad_days_of_odd_seeds() {
    each_seed("failover-odd", 1000, |seed| bad_day(seed * 2 + 1));
}

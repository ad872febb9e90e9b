//! Health, rings and clock: the three that may say "not now".

use super::*;

const HEALTH: HealthSpec = HealthSpec { samples: 50, points: 5 };

fn route(usable: bool, answers: bool) -> Vec<RouteFact> {
    vec![RouteFact { name: "pay".into(), usable, answers }]
}

#[test]
fn no_evidence_is_neither_good_nor_bad() {
    let before = facts(1000, 10);
    let judged = |now: &Facts| {
        let baseline = before.since(&facts(0, 0));
        judge(&baseline, &now.since(&before), now, &HEALTH)
    };
    assert_eq!(judged(&facts(1100, 11)), Verdict::Pass);
    assert_eq!(judged(&facts(1100, 16)), Verdict::Pass, "exactly five points more");
    assert!(matches!(judged(&facts(1100, 17)), Verdict::Fail(_)));
    assert!(matches!(judged(&facts(1049, 59)), Verdict::Inconclusive(_)), "too few to tell");
    let down = Facts { cloud_down: true, ..facts(1500, 500) };
    assert!(matches!(judged(&down), Verdict::Inconclusive(_)), "the line, not the policy");
    let refused = Facts { refusals: 1, cloud_down: true, ..facts(1001, 10) };
    assert!(matches!(judged(&refused), Verdict::Fail(_)));
}

#[test]
fn without_a_past_errors_are_no_proof() {
    let now = facts(500, 400);
    let verdict = judge(&Since::default(), &now.since(&facts(0, 0)), &now, &HEALTH);
    assert!(matches!(verdict, Verdict::Inconclusive(_)), "{verdict:?}");
}

#[test]
fn a_route_that_lost_living_servers_is_the_policys_fault() {
    let with = |routes| Facts { routes, ..facts(0, 0) };
    let judged =
        |before, now: Facts| judge(&Since::default(), &now.since(&with(before)), &now, &HEALTH);
    let lost = judged(route(true, true), with(route(false, true)));
    assert!(matches!(lost, Verdict::Fail(_)), "{lost:?}");
    for (before, now) in [
        (route(true, true), route(false, false)),
        (route(false, true), route(false, true)),
        (vec![], route(false, true)),
        (route(true, true), vec![]),
    ] {
        let verdict = judged(before, with(now));
        assert!(matches!(verdict, Verdict::Inconclusive(_)), "{verdict:?}");
    }
}

fn ring(name: &str, selects: bool, hours: u64, approvals: usize, roles: &[&str]) -> Ring {
    Ring {
        name: name.into(),
        selects,
        ramp: Duration::from_secs(hours * 3600),
        approvals,
        roles: roles.iter().map(|role| Role::from(*role)).collect(),
    }
}

fn rings(mine: usize) -> RingSpec {
    let all = [("canary", 0, 0), ("pilot", 4, 1), ("fleet", 72, 2)];
    let one = |(index, (name, hours, approvals)): (usize, &(&str, u64, usize))| {
        let roles: &[&str] = if index == 2 { &["release"] } else { &[] };
        ring(name, index == mine, *hours, *approvals, roles)
    };
    RingSpec { rings: all.iter().enumerate().map(one).collect(), immediate_approvals: 2 }
}

fn approval(key: &str, role: &str) -> Approval {
    Approval { key: key.into(), roles: Some(vec![role.into()]) }
}

fn promotion(through: &str, approvals: Vec<Approval>) -> Promotion {
    Promotion { sequence: 42, through: through.into(), at: NOW, approvals }
}

fn gate(promotions: &[Promotion]) -> RingGate<'_> {
    RingGate {
        sequence: 42,
        created_at: NOW,
        released_through: None,
        immediate: false,
        immediate_signed: 0,
        promotions,
        hash: 0,
        seen: Duration::ZERO,
    }
}

#[test]
fn rings_open_one_after_another_and_by_enough_people() {
    let admit = |mine, gate: &RingGate<'_>| rings(mine).admit(gate, ClockState::Synced, NOW);
    assert_eq!(admit(0, &gate(&[])), Ok(()), "the first is open");
    assert!(matches!(admit(1, &gate(&[])), Err(Held::Closed { .. })));
    let pilot = [promotion("pilot", vec![approval("bot", "ring-promotion")])];
    assert_eq!(admit(1, &gate(&pilot)), Ok(()));
    assert!(matches!(admit(2, &gate(&pilot)), Err(Held::Closed { .. })));
    let twice = vec![approval("ann", "release"), approval("ann", "release")];
    let held = admit(2, &gate(&[promotion("fleet", twice)]));
    assert!(matches!(held, Err(Held::Approvals { needed: 2, found: 1, .. })), "{held:?}");
    let wrong = vec![approval("ann", "release"), approval("bot", "ring-promotion")];
    assert!(admit(2, &gate(&[promotion("fleet", wrong)])).is_err());
    let both = [promotion("fleet", vec![approval("ann", "release"), approval("bob", "release")])];
    assert_eq!(admit(2, &gate(&both)), Ok(()));
    assert_eq!(admit(1, &gate(&both)), Ok(()), "through a later ring is through mine");
    assert!(admit(9, &gate(&pilot)).is_err(), "a store of no ring goes with the last");
    assert_eq!(admit(9, &gate(&both)), Ok(()));
    let other = RingGate { sequence: 43, ..gate(&both) };
    assert!(admit(2, &other).is_err(), "a promotion is of one bundle");
    let by_hand = RingGate { released_through: Some("fleet"), ..gate(&[]) };
    assert_eq!(admit(2, &by_hand), Ok(()));
    assert_eq!(RingSpec::default().admit(&gate(&[]), ClockState::Untrusted, Wall(0)), Ok(()));
}

#[test]
fn a_security_fix_does_not_wait_if_enough_sign_that() {
    let one = RingGate { immediate: true, immediate_signed: 1, ..gate(&[]) };
    assert!(rings(2).admit(&one, ClockState::Synced, NOW).is_err());
    let two = RingGate { immediate_signed: 2, ..one };
    assert_eq!(rings(2).admit(&two, ClockState::Untrusted, Wall(0)), Ok(()));
    let silent = RingGate { immediate: false, ..two };
    assert!(rings(2).admit(&silent, ClockState::Synced, NOW).is_err());
}

#[test]
fn a_ramp_has_a_place_for_every_store_and_no_clock_stops_it() {
    let both = [promotion("fleet", vec![approval("ann", "release"), approval("bob", "release")])];
    let half = RingGate { hash: u64::MAX / 2, ..gate(&both) };
    let at = |hours: u64| Wall(NOW.0 + hours * 3600);
    let admit = |gate: &RingGate<'_>, clock, wall| rings(2).admit(gate, clock, wall);
    let held = admit(&half, ClockState::Synced, at(35)).expect_err("its turn is after 36 hours");
    assert!(
        matches!(&held, Held::Ramp { wait, .. } if wait.as_secs().abs_diff(3600) < 2),
        "{held:?}"
    );
    assert_eq!(admit(&half, ClockState::Holdover, at(36)), Ok(()));
    assert!(admit(&half, ClockState::Untrusted, at(99)).is_err(), "2100 opens nothing early");
    let seen = RingGate { seen: Duration::from_secs(36 * 3600), ..half };
    assert_eq!(admit(&seen, ClockState::Untrusted, Wall(0)), Ok(()), "nor does 1970 stop it");
}

fn read(clock: &mut ClockTrust, wall: u64, vouched: bool, now: Instant) -> ClockState {
    clock.handle_reading(Reading { wall: Wall(wall), vouched }, now);
    clock.state(now)
}

#[test]
fn a_clock_is_believed_as_far_as_someone_vouches() {
    let (start, day) = (epoch(), Duration::from_secs(24 * 3600));
    let mut clock = ClockTrust::new(NOW, false);
    assert_eq!(clock.state(start), ClockState::Untrusted, "nobody has looked");
    assert_eq!(read(&mut clock, 100, false, start), ClockState::Untrusted, "1970");
    assert_eq!(read(&mut clock, NOW.0 + 10, false, start), ClockState::Untrusted, "a first boot");
    let now = start + minutes(1);
    assert_eq!(read(&mut clock, NOW.0 + 60, true, now), ClockState::Synced);
    assert_eq!(clock.floor(), Wall(NOW.0 + 60));
    let later = now + day;
    let wall = NOW.0 + 60 + day.as_secs();
    assert_eq!(read(&mut clock, wall, false, later), ClockState::Holdover);
    assert_eq!(clock.margin(later), 0);
    assert_eq!(clock.margin(later + day * 2), 120);
    assert_eq!(read(&mut clock, wall + 301, false, later), ClockState::Untrusted, "a jump");
    assert_eq!(clock.floor(), Wall(wall), "what jumped proves nothing");
    assert_eq!(read(&mut clock, wall, true, later), ClockState::Synced);
    assert_eq!(
        read(&mut clock, wall - 100, false, later),
        ClockState::Untrusted,
        "below the floor"
    );
}

#[test]
fn a_restart_forgets_neither_a_jump_nor_how_long_nobody_has_vouched() {
    let (start, days) = (epoch(), 86_400);
    let mut clock = ClockTrust::new(NOW, true);
    clock.recall_word(Some(NOW), false);
    assert_eq!(read(&mut clock, NOW.0 + 3 * days, false, start), ClockState::Holdover);
    assert_eq!(clock.margin(start), 120, "a day of three is free");
    assert_eq!(clock.margin(start + minutes(1)), 180, "and another has begun");
    clock.recall_word(None, true);
    assert_eq!(clock.state(start), ClockState::Untrusted);
    assert!(clock.has_jumped());
    let now = start + minutes(2);
    assert_eq!(read(&mut clock, NOW.0 + 3 * days + 120, true, now), ClockState::Synced);
    assert_eq!((clock.margin(now), clock.has_jumped()), (0, false));
    assert_eq!(clock.vouched(), Some(Wall(NOW.0 + 3 * days + 120)));
    clock.recall_word(Some(NOW), true);
    assert_eq!(clock.state(now), ClockState::Synced, "what was written down is older");
}

#[test]
fn a_bundle_tells_the_time() {
    let start = epoch();
    let mut clock = ClockTrust::new(NOW, true);
    assert_eq!(read(&mut clock, NOW.0 + 5, false, start), ClockState::Holdover);
    clock.raise_floor(Wall(NOW.0 + 86_400));
    assert_eq!(clock.state(start), ClockState::Untrusted, "somebody signed a later time");
    assert_eq!(clock.at_least(Wall(7)), Wall(NOW.0 + 86_400));
    assert_eq!(read(&mut clock, 4_102_444_800, false, start), ClockState::Untrusted, "2100");
    assert_eq!(clock.floor(), Wall(NOW.0 + 86_400));
}

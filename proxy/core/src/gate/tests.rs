//! A store in the weeks around Black Friday 2026, and what must hold for any gate.

use proptest::prelude::*;

use super::*;
use crate::calendar::{Schedule, Transition, Weekdays, Weekly, Zone};
use crate::civil::{Day, Weekday};

/// `2026-11-27T20:10`, in winter time of Oslo.
fn oslo(text: &str) -> Timestamp {
    let number = |range: std::ops::Range<usize>| text[range].parse::<u16>().unwrap();
    let fit = |number: u16| u8::try_from(number).unwrap();
    let day = Day::new(number(0..4).into(), fit(number(5..7)), fit(number(8..10))).unwrap();
    Timestamp(day.at_minute(number(11..13) * 60 + number(14..16)).0 - 3600)
}

fn zone() -> Arc<Zone> {
    Arc::new(Zone::new("Europe/Oslo", 3600, Vec::<Transition>::new()))
}

fn every() -> AppliesTo {
    AppliesTo { rollouts: vec![RolloutName::Every], ..AppliesTo::default() }
}

fn weekly(days: &[Weekday], start: u16, end: u16) -> Schedule {
    let days = Weekdays::of(days.iter().copied());
    Schedule::Weekly(vec![Weekly { days, start: start * 60, end: end * 60 }])
}

fn window(name: &str, effect: Effect, schedule: Schedule) -> NamedWindow {
    let window = Window { effect, zone: zone(), schedule };
    NamedWindow { name: name.into(), applies_to: every(), window }
}

fn ring(name: &str) -> Ring {
    Ring { name: name.into(), bake: None, approvals: None }
}

fn promotion(through: usize, at: &str) -> Promotion {
    Promotion { name: at.into(), through, at: oslo(at), signed: Signed::default() }
}

/// A store of the ring `pilot` (of lab, pilot, broad), promoted on 18 November.
fn rollout() -> Rollout {
    Rollout {
        name: "pos-apps".into(),
        artifacts: vec![Artifact {
            registry: "registry.example".into(),
            repositories: vec![RepositoryGlob("pos/**".into())],
        }],
        images: vec![("pos/checkout".into(), "sha256:new".into())],
        stages: Stages {
            release: "pos-2026.47.1".into(),
            rings: ["lab", "pilot", "broad"].map(ring).to_vec(),
            mine: Some(StoreRing::ramping(1, Duration::ZERO, 0)),
            released_through: 0,
            released_at: None,
            promotions: vec![promotion(1, "2026-11-18T10:00")],
        },
        windows: None,
        previous_releases: 2,
        pulls: PullLimits {
            class: ClassId(0),
            rate: PerDirection { up: None, down: None },
            concurrent: None,
            metered_bytes_per_day: None,
            pause_on_window_close: false,
            throttle: None,
            retry_after: Duration::from_secs(900),
            pause_while: None,
            prefetch: false,
        },
    }
}

fn signed(keys: &[(&str, &str)]) -> Signed {
    let approval = |(role, key): &(&str, &str)| Approval {
        role: (*role).into(),
        key_id: (*key).into(),
        signature: "c2ln".into(),
    };
    Signed::new("{}".into(), keys.iter().map(approval).collect())
}

fn exception(from: &str, until: &str) -> Override {
    Override {
        name: "hotfix-tax".into(),
        applies_to: AppliesTo {
            rollouts: vec![RolloutName::Named("pos-apps".into())],
            images: vec![RepositoryGlob("pos/checkout".into())],
            ..AppliesTo::default()
        },
        freezes: vec!["black-friday".into()],
        windows: vec!["no-friday-night".into()],
        valid: Interval::new(oslo(from), oslo(until)),
        reason: "wrong VAT rate on gift cards".into(),
        ticket: "CHG-77120".into(),
        signed: signed(&[("release-manager", "k1"), ("store-ops-lead", "k2")]),
    }
}

/// Closed 20:30 to 08:30; no change on Friday and Saturday nights; frozen 20 to 30 November.
pub(super) fn gate() -> Gate {
    let roles = ["release-manager", "store-ops-lead"].map(Into::into).to_vec();
    let freeze = Freeze {
        name: "black-friday".into(),
        applies_to: every(),
        range: CivilRange {
            from: oslo("2026-11-20T01:00").utc(),
            until: oslo("2026-12-01T07:00").utc(),
            zone: zone(),
        },
        reason: "Black Friday".into(),
        overridable: true,
        approvals: Some(RequiredApprovals { required: 2, roles }),
    };
    Gate {
        windows: vec![
            window("closed", Effect::Allow, weekly(&Weekday::ALL, 21, 8)),
            window("no-friday-night", Effect::Deny, weekly(&[Weekday::Fri, Weekday::Sat], 16, 9)),
        ],
        freezes: vec![freeze],
        overrides: Vec::new(),
        prohibitions: vec![Prohibition {
            name: "no-face-analytics".into(),
            artifacts: vec![Artifact {
                registry: "registry.example".into(),
                repositories: vec![RepositoryGlob("vision/*".into())],
            }],
            reason: "local law".into(),
        }],
        rollouts: vec![rollout()],
        policy: None,
    }
}

fn ask(repository: &'static str, digest: &'static str) -> Ask<'static> {
    Ask {
        registry: "registry.example",
        repository,
        digest,
        holding: Holding::New,
        store: StoreState::Running,
    }
}

const NEW: fn() -> Ask<'static> = || ask("pos/checkout", "sha256:new");

/// What holds it, and when it opens.
fn held(gate: &Gate, at: &str) -> (Vec<String>, Option<Timestamp>) {
    held_by(gate, NEW(), Clock::Synced, at)
}

fn held_by(gate: &Gate, ask: Ask<'_>, clock: Clock, at: &str) -> (Vec<String>, Option<Timestamp>) {
    match gate.verdict(&ask, clock, oslo(at)) {
        Verdict::Open(opening) | Verdict::Held(opening) => {
            (opening.held_by.iter().map(ToString::to_string).collect(), opening.next_open)
        }
        other @ (Verdict::Prohibited(_) | Verdict::Kept(_) | Verdict::Unknown(_)) => {
            panic!("{other:?}")
        }
    }
}

#[test]
fn a_store_opens_in_its_ring_and_window() {
    let gate = gate();
    let opens = |text: &str| Some(oslo(text));
    assert_eq!(
        held(&gate, "2026-11-18T09:00"),
        (
            vec!["Ring/pilot".to_owned(), "outside ChangeWindow/closed".to_owned()],
            opens("2026-11-18T21:00")
        ),
        "the promotion is dated an hour ahead"
    );
    assert_eq!(held(&gate, "2026-11-18T21:00"), (vec![], opens("2026-11-18T21:00")));
    assert_eq!(
        held(&gate, "2026-11-27T22:00"),
        (
            vec!["Freeze/black-friday".to_owned(), "ChangeWindow/no-friday-night".to_owned()],
            opens("2026-12-01T06:00")
        )
    );
    assert_eq!(
        held(&gate, "2026-12-04T17:00").1,
        opens("2026-12-06T21:00"),
        "Friday to Sunday morning is denied, and on Sunday the store closes at nine"
    );
}

#[test]
fn a_glance_says_what_holds_and_not_when_that_ends() {
    let gate = gate();
    for at in ["2026-11-18T09:00", "2026-11-27T22:00", "2026-12-04T17:00", "2026-11-18T21:00"] {
        let (clock, now) = (Clock::Synced, oslo(at));
        let ask = NEW();
        let told = |verdict: Verdict<'_>| match verdict {
            Verdict::Open(opening) | Verdict::Held(opening) => (opening.held_by, opening.next_open),
            other @ (Verdict::Prohibited(_) | Verdict::Kept(_) | Verdict::Unknown(_)) => {
                panic!("{other:?}")
            }
        };
        let (held_by, opens) = told(gate.verdict(&ask, clock, now));
        let (glanced, not_before) = told(gate.glance(&ask, (clock, Look::Now), now));
        assert_eq!(glanced, held_by, "{at}");
        assert!(not_before <= opens && not_before >= Some(now), "{at}");
    }
}

#[test]
fn after_a_freeze_every_store_begins_by_itself_in_a_turn_of_its_own() {
    let mut gate = gate();
    gate.windows.clear();
    let begins = |gate: &Gate, at: &str| {
        let begins = gate.begins_at(&gate.rollouts[0], Clock::Synced, oslo(at));
        begins.map(|begins| oslo(at).until(begins).as_secs() / 60)
    };
    let day = Duration::from_secs(24 * 3600);
    // Two thirds of the stores begin before this one.
    let hash = u64::MAX / 3 * 2;
    gate.rollouts[0].stages.mine = Some(StoreRing::ramping(1, day, hash));
    assert_eq!(begins(&gate, "2026-12-01T06:00"), Some(19), "half an hour at most");
    assert_eq!(begins(&gate, "2026-12-01T06:15"), Some(4));
    assert_eq!(begins(&gate, "2026-12-01T06:20"), None);
    assert_eq!(begins(&gate, "2026-11-19T12:00"), None, "before it, nothing has to be spread");
    gate.rollouts[0].stages.mine = Some(StoreRing::ramping(1, Duration::from_secs(600), hash));
    assert_eq!(begins(&gate, "2026-12-01T06:00"), Some(6), "a shorter ramp is a shorter spread");
    gate.rollouts[0].stages.mine = Some(StoreRing::ramping(1, Duration::ZERO, hash));
    assert_eq!(begins(&gate, "2026-12-01T06:00"), None, "without a ramp all come at once");
    // A window with Deny that ends is the same; one that lasts is none that has ended.
    gate.freezes.clear();
    gate.windows = vec![window("no-friday-night", Effect::Deny, weekly(&[Weekday::Fri], 16, 9))];
    gate.rollouts[0].stages.mine = Some(StoreRing::ramping(1, day, hash));
    assert_eq!(begins(&gate, "2026-11-21T09:00"), Some(19));
    assert_eq!(begins(&gate, "2026-11-20T17:00"), None);
    let ring = gate.begins_at(
        &gate.rollouts[0],
        Clock::Untrusted(oslo("2026-11-01T00:00")),
        oslo("2026-11-21T09:00"),
    );
    assert_eq!(ring, None);
}

#[test]
fn prohibitions_beat_everything_and_what_a_store_has_is_kept() {
    let gate = gate();
    let at = oslo("2026-11-27T12:00");
    let verdict = |ask: Ask<'static>| gate.verdict(&ask, Clock::Synced, at);
    let vision = Ask { holding: Holding::Running, ..ask("vision/face", "sha256:x") };
    assert!(matches!(verdict(vision), Verdict::Prohibited(one) if &*one.reason == "local law"));
    for holding in [Holding::Running, Holding::LastKnownGood, Holding::Cached, Holding::Previous(2)]
    {
        assert_eq!(verdict(Ask { holding, ..NEW() }), Verdict::Kept(holding));
    }
    let old = Ask { holding: Holding::Previous(3), ..ask("pos/checkout", "sha256:old") };
    assert!(matches!(verdict(old), Verdict::Unknown(Some(_))));
    assert_eq!(verdict(ask("other/app", "sha256:x")), Verdict::Unknown(None));
    assert!(matches!(verdict(ask("pos/checkout", "sha256:x")), Verdict::Unknown(Some(_))));
    let elsewhere = Ask { registry: "docker.example", ..NEW() };
    assert_eq!(verdict(elsewhere), Verdict::Unknown(None));
}

#[test]
fn an_override_suspends_what_it_names_for_what_it_names() {
    let mut gate = gate();
    gate.overrides.push(exception("2026-11-27T19:00", "2026-11-28T07:00"));
    let in_force = "2026-11-27T22:00";
    assert_eq!(held(&gate, in_force).0.len(), 2, "nobody has looked at its signatures");
    let gate = gate.verified(|purpose, approval, message| {
        purpose == Purpose::Override
            && &*approval.signature == "c2ln"
            && message == format!("tillgate-override-v1\n{}\n{{}}", approval.role).as_bytes()
    });
    assert_eq!(held(&gate, in_force), (vec![], Some(oslo(in_force))));
    let Verdict::Open(opening) = gate.verdict(&NEW(), Clock::Synced, oslo(in_force)) else {
        panic!("it is open");
    };
    assert_eq!(opening.suspended.len(), 2);
    // Inside the override, but the store is open: windows with Allow still count.
    let (by, opens) = held(&gate, "2026-11-27T19:30");
    assert_eq!(by, ["outside ChangeWindow/closed"]);
    assert_eq!(opens, Some(oslo("2026-11-27T21:00")));
    // Before it begins, its beginning is the next opening.
    assert_eq!(held(&gate, "2026-11-25T22:00").1, Some(oslo("2026-11-27T21:00")));
    assert_eq!(held(&gate, "2026-11-28T07:00").0.len(), 2, "it has expired");
    // One key too few, a foreign role, the same key twice.
    for keys in [
        vec![("release-manager", "k1")],
        vec![("release-manager", "k1"), ("intern", "k2")],
        vec![("release-manager", "k1"), ("store-ops-lead", "k1")],
    ] {
        let mut weak = gate.clone();
        weak.overrides[0].signed = signed(&keys);
        let weak = weak.verified(|_, _, _| true);
        assert_eq!(held(&weak, in_force).0, ["Freeze/black-friday"], "{keys:?}");
    }
    let mut firm = gate.clone();
    firm.freezes[0].overridable = false;
    assert_eq!(held(&firm, in_force).0, ["Freeze/black-friday"]);
    let untrusted = Clock::Untrusted(oslo("2026-11-27T00:00"));
    assert_eq!(held_by(&gate, NEW(), untrusted, in_force).0.len(), 3);
    let days = Clock::holdover(Duration::from_secs(60 * 86_400));
    assert_eq!(held_by(&gate, NEW(), days, "2026-11-28T06:30").0.len(), 2, "an hour less");
}

#[test]
fn a_store_that_is_rebuilt_gets_what_it_ran_and_nothing_newer() {
    let mut gate = gate();
    let rebuilt = Ask { store: StoreState::Restoring, ..NEW() };
    let at_noon = "2026-11-25T12:00";
    assert_eq!(held_by(&gate, NEW(), Clock::Synced, at_noon).0.len(), 2);
    assert_eq!(held_by(&gate, rebuilt, Clock::Synced, at_noon).0.len(), 0, "promoted before it");
    let untrusted = Clock::Untrusted(oslo("2026-11-21T00:00"));
    assert_eq!(held_by(&gate, rebuilt, untrusted, at_noon).0.len(), 0, "dates of the policy");
    gate.rollouts[0].stages.promotions[0].at = oslo("2026-11-20T01:01");
    assert_eq!(held_by(&gate, rebuilt, Clock::Synced, at_noon).0, ["Freeze/black-friday"]);
    // Open without a promotion, and nothing says since when.
    gate.rollouts[0].stages.promotions.clear();
    gate.rollouts[0].stages.released_through = 1;
    assert_eq!(held_by(&gate, rebuilt, Clock::Synced, at_noon).0, ["Freeze/black-friday"]);
    gate.rollouts[0].stages.released_at = Some(oslo("2026-11-19T10:00"));
    assert_eq!(held_by(&gate, rebuilt, Clock::Synced, at_noon).0.len(), 0);
    assert_eq!(held_by(&gate, rebuilt, Clock::Synced, "2026-11-19T09:00").0, ["Ramp/pilot"]);
}

#[test]
fn rings_open_by_promotion_and_close_by_a_lower_one() {
    let mut gate = gate();
    gate.freezes.clear();
    gate.windows.clear();
    let mine = |gate: &mut Gate, index, delay| {
        let ring = StoreRing::ramping(index, Duration::ZERO, 0);
        gate.rollouts[0].stages.mine = Some(StoreRing { delay, ..ring });
    };
    mine(&mut gate, 0, Duration::ZERO);
    assert_eq!(held(&gate, "2026-01-01T00:00").0.len(), 0, "the first ring waits for nobody");
    mine(&mut gate, 2, Duration::from_secs(36_000));
    assert_eq!(held(&gate, "2026-11-19T00:00"), (vec!["Ring/broad".to_owned()], None));
    gate.rollouts[0].stages.promotions.push(promotion(2, "2026-11-20T10:00"));
    let opens = Some(oslo("2026-11-20T20:00"));
    assert_eq!(held(&gate, "2026-11-20T09:00"), (vec!["Ring/broad".to_owned()], opens));
    assert_eq!(held(&gate, "2026-11-20T12:00"), (vec!["Ramp/broad".to_owned()], opens));
    assert_eq!(held(&gate, "2026-11-20T20:00").0.len(), 0);
    gate.rollouts[0].stages.promotions.push(promotion(1, "2026-11-21T10:00"));
    assert_eq!(held(&gate, "2026-11-21T10:00"), (vec!["Ring/broad".to_owned()], None));
    gate.rollouts[0].stages.mine = None;
    assert_eq!(held(&gate, "2026-11-21T10:00"), (vec!["Ring/none".to_owned()], None));
    // A ring that wants signatures does not open by a promotion without them.
    mine(&mut gate, 1, Duration::ZERO);
    let roles = vec!["release-manager".into()];
    gate.rollouts[0].stages.rings[1].approvals = Some(RequiredApprovals { required: 1, roles });
    assert_eq!(held(&gate, "2026-11-19T00:00").0, ["Ring/pilot"]);
    gate.rollouts[0].stages.promotions[0].signed = signed(&[("release-manager", "k1")]);
    assert_eq!(held(&gate.verified(|_, _, _| true), "2026-11-19T00:00").0.len(), 0);
}

#[test]
fn a_clock_that_nobody_trusts_opens_nothing() {
    let gate = gate();
    let night = "2026-11-18T22:00";
    let before = Clock::Untrusted(oslo("2026-11-18T00:00"));
    assert_eq!(
        held_by(&gate, NEW(), before, night),
        (
            vec![
                "Freeze/black-friday".to_owned(),
                "ChangeWindow/no-friday-night".to_owned(),
                "Clock, ChangeWindow/closed".to_owned(),
            ],
            None
        )
    );
    let active = |clock| {
        let all = gate.active(clock, oslo(night)).into_iter();
        all.filter(|(_, is_active)| *is_active).map(|(one, _)| one.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(active(Clock::Synced), ["ChangeWindow/closed"]);
    assert_eq!(active(before), ["ChangeWindow/no-friday-night", "Freeze/black-friday"]);
    let told = gate.applying(&gate.rollouts[0], None, before, oslo(night));
    let told = told.iter().filter(|one| one.is_active).map(|one| one.name);
    assert!(told.eq(["no-friday-night", "black-friday"]), "what is told is what holds");
    let over = Clock::Untrusted(oslo("2026-12-02T00:00"));
    assert_eq!(held_by(&gate, NEW(), over, night).0.len(), 2, "the freeze is surely over");
    let hour = Clock::holdover(Duration::from_secs(60 * 86_400 + 5));
    assert_eq!(hour, Clock::Holdover(Duration::from_secs(3600)));
    let shrunk = held_by(&gate, NEW(), hour, "2026-11-18T21:30");
    assert_eq!(
        shrunk,
        (vec!["outside ChangeWindow/closed".to_owned()], Some(oslo("2026-11-18T22:00")))
    );
    assert_eq!(
        held_by(&gate, NEW(), hour, "2026-11-19T23:30").0,
        ["Freeze/black-friday"],
        "an hour earlier"
    );
    let rebuilt = Ask { store: StoreState::Restoring, ..NEW() };
    assert_eq!(held_by(&gate, rebuilt, Clock::Synced, "2026-11-19T12:00").0.len(), 0);
}

#[test]
fn a_rollout_may_name_its_windows_and_a_ring_ignore_them() {
    let mut gate = gate();
    let wide = window("any-time", Effect::Allow, weekly(&Weekday::ALL, 0, 24));
    gate.windows.push(wide);
    let noon = "2026-11-18T12:00";
    assert_eq!(held(&gate, noon).0.len(), 0);
    gate.rollouts[0].windows = Some(vec!["closed".into()]);
    assert_eq!(held(&gate, noon).0, ["outside ChangeWindow/closed"]);
    let ring = StoreRing::ramping(1, Duration::ZERO, 0);
    let mine = StoreRing { ignore_windows: true, ..ring };
    gate.rollouts[0].stages.mine = Some(mine);
    assert_eq!(held(&gate, noon).0.len(), 0);
    let (by, _) = held(&gate, "2026-11-27T22:00");
    assert_eq!(by.len(), 2, "freezes and windows with Deny hold it all the same");
}

#[test]
fn the_policy_itself_waits_only_for_what_names_it() {
    let mut gate = gate();
    let at = |gate: &Gate, text: &str| {
        let opening = gate.of_policy(Clock::Synced, oslo(text));
        opening.held_by.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(at(&gate, "2026-11-27T22:00").len(), 0, "`*` does not mean the policy");
    gate.freezes[0].applies_to.rollouts.push(RolloutName::Policy);
    assert_eq!(at(&gate, "2026-11-27T22:00"), ["Freeze/black-friday"]);
    gate.policy = Some(rollout().stages);
    assert_eq!(at(&gate, "2026-11-18T09:00"), ["Ring/pilot"]);
}

#[test]
fn a_rule_waits_for_what_names_it_and_for_nothing_else() {
    let mut gate = gate();
    let price_file = Passage::Route { route: "pricing", rule: "price-file" };
    let quote = Passage::Route { route: "pricing", rule: "quote" };
    let packages = Passage::Egress("packages");
    for passage in [price_file, quote, packages] {
        assert!(!gate.guards(passage), "`*` means rollouts, not {passage}");
    }
    let route =
        |rule: Option<&str>| RouteName { route: "pricing".into(), rule: rule.map(Into::into) };
    gate.windows[0].applies_to.routes.push(route(Some("price-file")));
    gate.windows[0].applies_to.egress_rules.push("packages".into());
    gate.freezes[0].applies_to.egress_rules.push("packages".into());
    assert!(gate.guards(price_file) && gate.guards(packages) && !gate.guards(quote));
    let stands = |gate: &Gate, passage: Passage<'_>, text: &str| {
        let opening = gate.of_passage(passage, Clock::Synced, oslo(text));
        let by: Vec<String> = opening.held_by.iter().map(ToString::to_string).collect();
        (by.join(" "), opening.next_open)
    };
    let noon = "2026-11-18T12:00";
    let evening = Some(oslo("2026-11-18T21:00"));
    assert_eq!(
        stands(&gate, price_file, noon),
        ("outside ChangeWindow/closed".to_owned(), evening)
    );
    assert_eq!(stands(&gate, quote, noon).0, "");
    assert_eq!(stands(&gate, price_file, "2026-11-18T22:00").0, "");
    // In the freeze, at night: the price file comes, packages do not.
    assert_eq!(stands(&gate, price_file, "2026-11-24T22:00").0, "");
    assert_eq!(
        stands(&gate, packages, "2026-11-24T22:00"),
        ("Freeze/black-friday".to_owned(), Some(oslo("2026-12-01T06:00")))
    );
    // The whole route is all of its rules.
    gate.windows[0].applies_to.routes[0] = route(None);
    assert!(gate.guards(quote));
    let mut exception = exception("2026-11-24T21:00", "2026-11-25T06:00");
    gate.overrides.push(exception.clone());
    let mut with = gate.clone().verified(|_, _, _| true);
    assert_eq!(stands(&with, packages, "2026-11-24T22:00").0, "Freeze/black-friday");
    exception.applies_to.egress_rules.push("packages".into());
    gate.overrides[0] = exception;
    with = gate.verified(|_, _, _| true);
    assert_eq!(stands(&with, packages, "2026-11-24T22:00").0, "", "an Override that names it");
    // A clock that cannot be believed opens no window.
    let clock = Clock::Untrusted(oslo("2026-11-18T00:00"));
    let opening = with.of_passage(price_file, clock, oslo("2026-11-18T22:00"));
    assert_eq!(opening.held_by, [Blocker::Clock(vec!["closed".into()])]);
    let night = Interval::new(oslo("2026-11-18T12:00"), oslo("2026-11-19T12:00"));
    let open = Interval::new(oslo("2026-11-18T21:00"), oslo("2026-11-19T08:00"));
    assert_eq!(with.open_times_of(price_file, night), [open]);
}

#[test]
fn delays_of_a_ramp_follow_the_published_hashes() {
    // SHA-256 of release, newline, store: the first eight bytes.
    for (hash, hours) in [(0xf21e_d9ff_ffff_ffffu64, 68.1), (0x023a_b1ff_ffff_ffff, 0.63)] {
        let delay = Stages::ramp_delay(Duration::from_secs(72 * 3600), hash);
        assert!((delay.as_secs_f64() / 3600.0 - hours).abs() < 0.01, "{delay:?}");
    }
    assert!(Stages::ramp_delay(Duration::MAX, u64::MAX) <= Duration::MAX);
}

#[test]
fn the_calendar_names_its_documents() {
    let gate = gate();
    let week = Interval::new(oslo("2026-11-27T00:00"), oslo("2026-12-03T00:00"));
    let entries = gate.calendar(week);
    let names: Vec<&str> = entries.iter().map(|entry| &*entry.document).collect();
    assert_eq!(
        names,
        ["ChangeWindow/closed", "ChangeWindow/no-friday-night", "Freeze/black-friday"]
    );
    let open = gate.open_times(&gate.rollouts[0], week);
    let expected = [
        Interval::new(oslo("2026-12-01T06:00"), oslo("2026-12-01T08:00")),
        Interval::new(oslo("2026-12-01T21:00"), oslo("2026-12-02T08:00")),
        Interval::new(oslo("2026-12-02T21:00"), oslo("2026-12-03T00:00")),
    ];
    assert_eq!(open, expected);
}

proptest! {
    /// The next opening is open, and the time before it is not.
    #[test]
    fn the_next_opening_is_the_next(
        now in oslo("2026-11-15T00:00").0..oslo("2026-12-10T00:00").0,
        share in 0.0..1.0f64,
        margin in 0u64..5400,
        with_override in any::<bool>(),
    ) {
        let mut gate = gate();
        if with_override {
            gate.overrides.push(exception("2026-11-25T19:00", "2026-11-27T07:00"));
            gate = gate.verified(|_, _, _| true);
        }
        let clock = Clock::Holdover(Duration::from_secs(margin));
        let running = StoreState::Running;
        let stands = |at: Timestamp| gate.of_rollout(&gate.rollouts[0], running, clock, at);
        let now = Timestamp(now);
        let Some(next) = stands(now).next_open else { panic!("it opens some time") };
        prop_assert!(stands(next).held_by.is_empty());
        prop_assert!(stands(now).held_by.is_empty() == (next == now));
        #[expect(clippy::cast_possible_truncation, reason = "any moment between will do")]
        let between = Timestamp(now.0 + ((next.0 - now.0) as f64 * share) as i64);
        prop_assert!(between == next || !stands(between).held_by.is_empty());
    }
}

//! Stories of the reconcile loop, and seeded days of one store with power cuts.
//!
//! Stories read as they happen. `simulation` runs the loop against a disk whose every write may be
//! the last one, with good, bad and deadly bundles, and checks after each step what must always
//! hold; `gates` has health, rings and the clock, `polling` the load that stores are together.

mod gates;
mod polling;
mod simulation;

use std::time::{Duration, Instant};

use super::*;
use crate::schedule::tests::draw::epoch;

const SPEC: ProbationSpec = ProbationSpec {
    least: Duration::from_secs(120),
    requests: 200,
    most: Duration::from_secs(1800),
    health: HealthSpec { samples: 50, points: 5 },
};

/// So many deaths of the young are a loop.
const SHORT_DEATHS: u32 = 3;

const NOW: Wall = Wall(1_795_000_000);

fn revision(sequence: u64) -> Revision {
    Revision {
        digest: format!("sha256:{sequence}").into(),
        sequence: Some(sequence),
        created_at: Wall(NOW.0 + sequence),
    }
}

fn facts(requests: u64, errors: u64) -> Facts {
    Facts { requests, errors, ..Facts::default() }
}

/// A store on its first day: nothing on disk.
fn fresh() -> Reconciler {
    Reconciler::new(&OnDisk::default().boot(NOW), SPEC)
}

fn effects(loop_: &mut Reconciler) -> Vec<Effect> {
    std::iter::from_fn(|| loop_.poll_effect()).collect()
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// A store that runs 41 as last known good, with a busy ten minutes behind it.
fn settled() -> (Reconciler, Instant) {
    let (mut store, now) = (fresh(), epoch());
    store.handle_swapped(revision(41), &facts(0, 0), now);
    store.handle_facts(&facts(300, 3), now + minutes(3));
    store.handle_facts(&facts(600, 6), now + minutes(13));
    effects(&mut store);
    assert_eq!(store.lkg(), Some(&revision(41)));
    store.memory_mut().lived();
    (store, now + minutes(13))
}

/// The same store with 42 on probation from now on.
fn on_probation() -> (Reconciler, Instant) {
    let (mut store, now) = settled();
    store.handle_swapped(revision(42), &facts(600, 6), now);
    effects(&mut store);
    (store, now)
}

#[test]
fn a_good_bundle_becomes_last_known_good() {
    let (mut store, now) = (fresh(), epoch());
    assert_eq!(store.examine(&revision(1)), Ok(()));
    store.handle_swapped(revision(1), &facts(0, 0), now);
    let digest = revision(1).digest;
    let pointed = [Effect::PointCurrent(Arc::clone(&digest)), Effect::Remember];
    assert_eq!(effects(&mut store), pointed);
    assert_eq!(store.examine(&revision(1)), Err(Refusal::Running));
    store.handle_facts(&facts(500, 0), now + minutes(1));
    assert_eq!(effects(&mut store), [], "two minutes are the least");
    store.handle_facts(&facts(500, 0), now + minutes(2));
    let promoted = [
        Effect::PointLkg(Arc::clone(&digest)),
        Effect::Remember,
        Effect::Say(Event::Promoted(digest)),
    ];
    assert_eq!(effects(&mut store), promoted);
    assert_eq!(store.probation(), None);
}

#[test]
fn at_night_a_bundle_is_kept_but_not_called_good() {
    let (mut store, now) = on_probation();
    store.handle_facts(&facts(610, 6), now + minutes(29));
    assert_eq!(effects(&mut store), []);
    assert_eq!(store.poll_timeout(), Some(now + minutes(30)));
    store.handle_facts(&facts(611, 6), now + minutes(30));
    let said = effects(&mut store);
    assert!(matches!(&said[..], [Effect::Remember, Effect::Say(Event::Kept(..))]), "{said:?}");
    assert_eq!(store.lkg(), Some(&revision(41)));
    assert_eq!(store.running(), Some(&revision(42)));
    let applied = store.memory().applied.as_ref().expect("it is known");
    assert_eq!(applied.stage, Stage::Kept);
    // In the morning the tills are busy, and it turns out to be good.
    store.handle_facts(&facts(900, 8), now + minutes(600));
    effects(&mut store);
    assert_eq!(store.lkg(), Some(&revision(42)));
}

#[test]
fn errors_of_a_bad_bundle_are_no_excuse_for_the_next() {
    let (mut store, now) = on_probation();
    store.handle_facts(&facts(640, 40), now + minutes(1));
    store.handle_swapped(revision(43), &facts(640, 40), now + minutes(1));
    effects(&mut store);
    store.handle_facts(&facts(940, 300), now + minutes(4));
    assert_eq!(effects(&mut store), [Effect::RollBack(revision(41).digest)]);
}

#[test]
fn a_bad_bundle_is_rolled_back_once_and_never_taken_again() {
    let (mut store, now) = on_probation();
    store.handle_facts(&facts(700, 56), now + minutes(1));
    assert_eq!(effects(&mut store), [Effect::RollBack(revision(41).digest)]);
    store.handle_rolled_back(true);
    let done = effects(&mut store);
    assert_eq!(done[..2], [Effect::PointCurrent(revision(41).digest), Effect::Remember]);
    assert!(
        matches!(&done[2], Effect::Say(Event::RolledBack(digest, _)) if **digest == *"sha256:42")
    );
    assert_eq!(store.running(), Some(&revision(41)));
    // The source still has it, and the loop is level-triggered.
    assert!(matches!(store.examine(&revision(42)), Err(Refusal::Denied(_))));
    assert_eq!(store.examine(&revision(43)), Ok(()), "the fix is a new commit");
    store.handle_swapped(revision(43), &facts(700, 56), now + minutes(2));
    assert!(store.memory().denied.is_empty(), "the grudge ends with the next sequence");
    let older = Refusal::Older { offered: 42, accepted: 43 };
    assert_eq!(store.examine(&revision(42)), Err(older));
}

#[test]
fn a_rollback_that_cannot_be_done_leaves_what_runs() {
    let (mut store, now) = on_probation();
    store.handle_facts(&facts(700, 90), now + minutes(1));
    effects(&mut store);
    store.handle_rolled_back(false);
    let said = effects(&mut store);
    assert!(matches!(&said[..], [Effect::Remember, Effect::Say(Event::NoWayBack(..))]), "{said:?}");
    assert_eq!(store.running(), Some(&revision(42)));
    // Told twice, it does nothing more.
    store.handle_rolled_back(true);
    assert_eq!(effects(&mut store), []);
}

#[test]
fn a_newer_bundle_ends_the_probation_of_the_one_before() {
    let (mut store, now) = on_probation();
    store.handle_swapped(revision(43), &facts(601, 6), now + minutes(1));
    effects(&mut store);
    assert_eq!(store.running(), Some(&revision(43)));
    assert_eq!(store.poll_timeout(), Some(now + minutes(31)));
    store.handle_facts(&facts(900, 6), now + minutes(4));
    effects(&mut store);
    assert_eq!(store.lkg(), Some(&revision(43)));
}

#[test]
fn numbers_never_go_back_and_are_never_used_twice() {
    let (store, _) = settled();
    let older = Refusal::Older { offered: 40, accepted: 41 };
    assert_eq!(store.examine(&revision(40)), Err(older));
    let other = Revision { digest: "sha256:other".into(), ..revision(41) };
    assert_eq!(store.examine(&other), Err(Refusal::SameSequence(41)));
    let unordered = Revision { digest: "sha256:folder".into(), sequence: None, ..revision(1) };
    assert_eq!(store.examine(&unordered), Ok(()));
}

fn pin(digest: &Digest, lasts: u64) -> Pin {
    Pin {
        digest: Arc::clone(digest),
        since: NOW,
        until: Wall(NOW.0 + lasts),
        lasts,
        spent: 0,
        reason: "a busy evening".into(),
        ticket: "CHG-1".into(),
        actor: "token:ops".into(),
    }
}

#[test]
fn a_pin_holds_a_store_until_it_ends() {
    let (mut store, _) = settled();
    let digest = revision(41).digest;
    store.handle_pin(Some(pin(&digest, 100)));
    assert_eq!(store.examine(&revision(42)), Err(Refusal::Pinned(digest)));
    // What would be refused anyway is refused for that.
    let older = Refusal::Older { offered: 40, accepted: 41 };
    assert_eq!(store.examine(&revision(40)), Err(older));
    let ten = Duration::from_secs(10);
    assert_eq!(store.handle_time(Wall(NOW.0 + 99), true, ten), None);
    let over = store.handle_time(Wall(NOW.0 + 100), true, ten).expect("it is over");
    assert_eq!((over.spent, store.memory().pin.is_none()), (20, true));
    assert_eq!(store.examine(&revision(42)), Ok(()));
}

#[test]
fn no_clock_ends_a_pin_early_or_makes_it_last_for_ever() {
    let (mut store, _) = settled();
    let digest = revision(41).digest;
    let (tick, far) = (Duration::from_secs(30), Wall(NOW.0 + 1_000_000));
    store.handle_pin(Some(pin(&digest, 100)));
    for _ in 0..3 {
        assert_eq!(store.handle_time(far, false, tick), None, "nobody believes that clock");
    }
    assert!(store.memory().pin.as_ref().is_some_and(|pin| pin.is_half_over(NOW, false)));
    assert!(store.handle_time(Wall(0), false, tick).is_some(), "it has had its time");
    store.handle_pin(Some(pin(&digest, 100)));
    assert!(store.handle_time(far, true, Duration::ZERO).is_some(), "a clock that is right");
}

#[test]
fn who_goes_back_by_order_stays_there() {
    let (mut store, now) = settled();
    store.handle_swapped(revision(42), &Facts::default(), now);
    store.handle_pin(Some(pin(&revision(41).digest, 100)));
    store.handle_returned(revision(41), &Facts::default(), now);
    assert_eq!(store.running(), Some(&revision(41)));
    assert!(store.probation().is_none(), "the last known good has proven itself");
    assert_eq!(store.memory().highest.as_ref().map(|(highest, _)| *highest), Some(42));
    assert!(matches!(store.examine(&revision(42)), Err(Refusal::Pinned(_))));
    // One that was thrown out comes back if somebody insists, and is watched.
    store.memory_mut().deny(&revision(40), &"bad".into());
    store.handle_returned(revision(40), &Facts::default(), now);
    assert!(store.memory().denial("sha256:40").is_none() && store.probation().is_some());
}

#[test]
fn what_was_in_effect_is_remembered_and_bounded() {
    let mut memory = Memory::default();
    let run = |sequence: u64| Run {
        digest: revision(sequence).digest,
        effective: "sha256:effective".into(),
        sequence: Some(sequence),
        revision: "main".into(),
        since: NOW,
        fate: Fate::Watched,
    };
    for sequence in 0..100 {
        memory.runs(run(sequence));
        memory.runs(run(sequence));
    }
    assert_eq!(memory.runs.len(), RUNS_MAX);
    memory.fares(&revision(99).digest, Fate::Good);
    assert_eq!(memory.runs.last().map(|run| run.fate), Some(Fate::Good));
    let done = |number: u64| Done {
        id: number.to_string().into(),
        statement: "sha256:x".into(),
        until: Wall(number),
        action: "Unpin".into(),
        ended: None,
        told: false,
    };
    for number in 1..=DONE_MAX as u64 {
        assert!(memory.does(done(number), Wall(0)));
    }
    assert!(!memory.does(done(1000), Wall(0)), "none is forgotten that may come again");
    assert!(memory.does(done(1000), Wall(10)), "ten are over for certain");
    assert_eq!(memory.done.len(), DONE_MAX - 9);
}

#[test]
fn bad_digests_are_not_collected_without_end() {
    let mut memory = Memory::default();
    for sequence in 0..100 {
        memory.deny(&revision(sequence), &"bad".into());
    }
    assert_eq!(memory.denied.len(), DENIED_MAX);
    assert!(memory.denial("sha256:99").is_some() && memory.denial("sha256:0").is_none());
}

/// What is on disk after 41 was promoted and then 42 swapped in, in the order of the writes.
fn disk(memory: &Memory, current: u64, lkg: u64) -> OnDisk {
    let sound = |sequence| Bundle { revision: revision(sequence), intact: true };
    OnDisk {
        current: Some(sound(current)),
        lkg: Some(sound(lkg)),
        present: vec![revision(41), revision(42)],
        memory: Some(memory.clone()),
        torn: false,
    }
}

/// The crash matrix, row by row, as far as it is a decision.
#[test]
fn every_row_of_the_crash_matrix() {
    let (mut store, now) = settled();
    let before = store.memory().clone();
    store.handle_swapped(revision(42), &facts(600, 6), now);
    let during = store.memory().clone();
    store.handle_facts(&facts(1000, 6), now + minutes(3));
    let after = store.memory().clone();
    let lkg = |boot: &Boot| matches!(&boot.serve, Serve::Lkg(one) if *one == revision(41));

    // Staged, not swapped: the old one serves.
    let boot = disk(&before, 41, 41).boot(NOW);
    assert_eq!(boot.serve, Serve::Current(revision(41)));
    assert_eq!(Reconciler::new(&boot, SPEC).examine(&revision(42)), Ok(()));
    // The pointer was replaced, the memory was not: un-probed.
    let boot = disk(&before, 42, 41).boot(NOW);
    assert!(lkg(&boot) && boot.remarks == [Remark::Unproven], "{boot:?}");
    assert_eq!(Reconciler::new(&boot, SPEC).examine(&revision(42)), Ok(()));
    // In probation: once is an attempt, twice is enough.
    let boot = disk(&during, 42, 41).boot(NOW);
    assert!(lkg(&boot) && boot.remarks == [Remark::Unproven], "{boot:?}");
    assert_eq!(boot.memory.attempts, [(revision(42).digest, 1)]);
    assert_eq!(Reconciler::new(&boot, SPEC).examine(&revision(42)), Ok(()), "level-triggered");
    let mut again = boot.memory.clone();
    again.boots = Boots::default();
    let boot = disk(&again, 42, 41).boot(NOW);
    let store = Reconciler::new(&boot, SPEC);
    assert!(lkg(&boot));
    assert!(matches!(store.examine(&revision(42)), Err(Refusal::Denied(_))));
    assert_eq!(store.examine(&revision(43)), Ok(()));
    // Promoted, and `lkg` points there, but that was not written down.
    assert_eq!(disk(&during, 42, 42).boot(NOW).serve, Serve::Current(revision(42)));
    // After promotion.
    let boot = disk(&after, 42, 42).boot(NOW);
    assert_eq!((boot.serve, boot.remarks), (Serve::Current(revision(42)), vec![]));
    // The memory is torn: lkg serves, and nothing older than what is there comes back.
    let torn = OnDisk { memory: None, torn: true, ..disk(&after, 42, 41) };
    let boot = torn.boot(NOW);
    assert!(lkg(&boot) && boot.remarks == [Remark::MemoryLost, Remark::Unproven], "{boot:?}");
    let older = Refusal::Older { offered: 40, accepted: 42 };
    assert_eq!(Reconciler::new(&boot, SPEC).examine(&revision(40)), Err(older));
}

#[test]
fn what_was_ordered_back_outlives_restarts() {
    let (mut store, now) = settled();
    store.handle_swapped(revision(42), &facts(600, 6), now);
    store.handle_facts(&facts(1000, 6), now + minutes(3));
    effects(&mut store);
    assert_eq!(store.lkg(), Some(&revision(42)));
    store.handle_returned(revision(41), &facts(1000, 6), now + minutes(4));
    store.handle_pin(Some(pin(&revision(41).digest, 86_400)));
    let first = store.poll_effect();
    assert_eq!(first, Some(Effect::PointCurrent(revision(41).digest)), "before any memory");
    let mut memory = store.memory().clone();
    for start in 0..4 {
        memory.boots = Boots::default();
        let boot = disk(&memory, 41, 42).boot(NOW);
        assert_eq!(boot.serve, Serve::Current(revision(41)), "start {start}");
        assert_eq!((&boot.remarks[..], &boot.memory.attempts[..]), (&[][..], &[][..]));
        let store = Reconciler::new(&boot, SPEC);
        assert_eq!(store.examine(&revision(42)), Err(Refusal::Pinned(revision(41).digest)));
        memory = boot.memory;
    }
    // Only a process that keeps dying leaves it.
    memory.boots = Boots { short: SHORT_DEATHS, first: NOW };
    let boot = disk(&memory, 41, 42).boot(NOW);
    assert_eq!(boot.serve, Serve::Lkg(revision(42)));
}

#[test]
fn a_start_without_the_candidate_is_none_of_its_attempts() {
    let (store, _) = on_probation();
    let boot = disk(store.memory(), 42, 41).boot(NOW);
    let mut store = Reconciler::new(&boot, SPEC);
    assert_eq!(effects(&mut store), [Effect::PointCurrent(revision(41).digest)]);
    let mut memory = boot.memory;
    for _ in 0..3 {
        memory.boots = Boots::default();
        memory = disk(&memory, 41, 41).boot(NOW).memory;
    }
    assert_eq!(memory.attempts, [(revision(42).digest, 1)]);
    let again = disk(&memory, 41, 41).boot(NOW);
    assert_eq!(Reconciler::new(&again, SPEC).examine(&revision(42)), Ok(()));
}

#[test]
fn damaged_bundles_are_passed_over() {
    let (store, _) = settled();
    let mut found = disk(store.memory(), 41, 41);
    found.current.as_mut().expect("is there").intact = false;
    let boot = found.clone().boot(NOW);
    assert_eq!(boot.serve, Serve::Lkg(revision(41)));
    assert_eq!(boot.remarks, [Remark::CurrentDamaged]);
    found.lkg.as_mut().expect("is there").intact = false;
    let boot = found.boot(NOW);
    assert_eq!((boot.serve, boot.lkg), (Serve::Minimal, None));
    assert_eq!(boot.remarks, [Remark::CurrentDamaged, Remark::LkgDamaged]);
    assert_eq!(OnDisk::default().boot(NOW).serve, Serve::Minimal);
}

#[test]
fn a_process_that_keeps_dying_leaves_what_kills_it() {
    let (mut store, now) = on_probation();
    store.handle_facts(&facts(601, 6), now + minutes(30));
    let whole = store.memory().clone();
    let mut memory = whole.clone();
    let mut served = Vec::new();
    for start in 0..8 {
        let boot = disk(&memory, 42, 41).boot(Wall(NOW.0 + start * 60));
        served.push(boot.serve.revision().and_then(|one| one.sequence));
        memory = boot.memory;
    }
    let (current, lkg) = (Some(42), Some(41));
    assert_eq!(served, [current, current, current, lkg, lkg, lkg, None, None]);
    memory.lived();
    let boot = disk(&memory, 42, 41).boot(NOW);
    assert_eq!(boot.serve, Serve::Minimal, "what kills it does not come back by itself");
    let store = Reconciler::new(&boot, SPEC);
    assert!(matches!(store.examine(&revision(42)), Err(Refusal::Denied(_))));
    assert_eq!(store.examine(&revision(43)), Ok(()));
    // Slow deaths are no loop.
    let mut memory = whole;
    for start in 0..8 {
        let boot = disk(&memory, 42, 41).boot(Wall(NOW.0 + start * 700));
        assert_eq!(boot.serve, Serve::Current(revision(42)), "start {start}");
        memory = boot.memory;
    }
}

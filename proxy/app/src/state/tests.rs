//! The disk of a store: what is torn, damaged or somebody else's is known for what it is.
//!
//! That a process may be killed at any point of its writes, and what the next one does then, is
//! shown with the whole program in `tests/tests/policy_crash.rs`; a full disk in
//! `tests/tests/policy_sources.rs`, one that can only be read in `tests/tests/policy_machine.rs`.

use std::sync::Arc;

use tillgate_core::reconcile::{
    Applied, Boot, HealthSpec, ProbationSpec, Reconciler, Refusal, Remark, Serve, Stage, Wall,
};

use super::*;
use crate::bundle::verify::tests::bundle;

const SPEC: ProbationSpec = ProbationSpec {
    least: std::time::Duration::ZERO,
    requests: 1,
    most: std::time::Duration::from_secs(1800),
    health: HealthSpec { samples: 1, points: 5 },
};

const NOW: Wall = Wall(1_795_300_000);

/// A state directory of this test's own, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tillgate-state-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn state(&self) -> StateDir {
        StateDir::new(&self.0)
    }

    fn boot(&self) -> Boot {
        self.state().prepare().unwrap();
        let boot = self.state().look(|_| true).boot(NOW);
        self.state().remember(&boot.memory).unwrap();
        boot
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn archive(sequence: u64) -> Archive {
    let archive = bundle(sequence, &"# a policy\n".repeat(400));
    // Who signed it is not looked at here, but that somebody did.
    Archive { signatures: b"{}".to_vec(), ..archive }
}

fn known(sequence: u64) -> Revision {
    let archive = archive(sequence);
    revision(&archive, &Manifest::read(&archive.manifest).unwrap())
}

/// A store that runs 41 as last known good.
fn settled(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    let Boot { serve, mut memory, .. } = scratch.boot();
    assert_eq!(serve, Serve::Minimal);
    let state = scratch.state();
    let digest = state.stage(&archive(41)).unwrap();
    for pointer in [Pointer::Current, Pointer::Lkg] {
        state.point(pointer, &digest).unwrap();
    }
    memory.highest = Some((41, Digest::clone(&digest)));
    memory.applied = Some(Applied { digest, stage: Stage::Promoted });
    memory.lived();
    state.remember(&memory).unwrap();
    assert_eq!(scratch.boot().serve, Serve::Current(known(41)));
    scratch
}

fn may_take(boot: &Boot, sequence: u64) -> Result<(), Refusal> {
    Reconciler::new(boot, SPEC).examine(&known(sequence))
}

#[test]
fn torn_empty_and_foreign_files_are_told() {
    for (name, bytes) in [("empty", &b""[..]), ("zeros", &[0; 4096]), ("html", b"<html>")] {
        let scratch = settled(name);
        fs::write(scratch.0.join(MEMORY), bytes).unwrap();
        let boot = scratch.boot();
        assert_eq!(boot.serve, Serve::Lkg(known(41)), "{name}");
        assert!(boot.remarks.contains(&Remark::MemoryLost), "{name}: {:?}", boot.remarks);
        assert!(matches!(may_take(&boot, 40), Err(Refusal::Older { accepted: 41, .. })), "{name}");

        let scratch = settled(&format!("bundle-{name}"));
        let folder = scratch.state().folder(&known(41).digest).unwrap();
        fs::write(folder.join(ARCHIVE), bytes).unwrap();
        let boot = scratch.boot();
        assert_eq!(boot.serve, Serve::Minimal, "{name}");
        assert!(boot.remarks.contains(&Remark::CurrentDamaged), "{name}");
        // The same one comes again, whole.
        scratch.state().stage(&archive(41)).unwrap();
        scratch.state().read(&known(41).digest).unwrap();
    }
}

#[test]
fn what_is_damaged_of_two_is_passed_over() {
    for (pointer, damaged, serves) in
        [("current", 42, Serve::Lkg(known(41))), ("lkg", 41, Serve::Current(known(42)))]
    {
        let scratch = settled(&format!("two-{pointer}"));
        let state = scratch.state();
        let mut memory = scratch.boot().memory;
        let digest = state.stage(&archive(42)).unwrap();
        state.point(Pointer::Current, &digest).unwrap();
        memory.applied = Some(Applied { digest, stage: Stage::Kept });
        state.remember(&memory).unwrap();
        let folder = state.folder(&known(damaged).digest).unwrap();
        fs::write(folder.join(ARCHIVE), b"torn").unwrap();
        let boot = scratch.boot();
        assert_eq!(boot.serve, serves);
        assert_eq!(boot.remarks.len(), 1, "{:?}", boot.remarks);
    }
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_a_start_goes_on() {
    let nowhere = StateDir::new("/proc/tillgate");
    assert!(nowhere.prepare().is_err() && nowhere.remember(&Memory::default()).is_err());
    assert_eq!(nowhere.look(|_| true).boot(NOW).serve, Serve::Minimal);
}

#[test]
fn a_bundle_of_another_digest_is_not_taken_for_it() {
    let scratch = settled("other");
    let state = scratch.state();
    let other = state.stage(&archive(43)).unwrap();
    let (from, to) = (state.folder(&other).unwrap(), state.folder(&known(41).digest).unwrap());
    fs::copy(from.join(ARCHIVE), to.join(ARCHIVE)).unwrap();
    assert_eq!(scratch.boot().serve, Serve::Minimal);
    for digest in ["sha256:../../etc", "", "sha256:", "../x"] {
        assert!(state.read(digest).is_err(), "{digest:?}");
    }
}

#[test]
fn old_bundles_make_room_but_never_those_in_use() {
    let scratch = settled("prune");
    let state = scratch.state();
    let kept: Digest = Arc::clone(&known(42).digest);
    for sequence in 42..60 {
        state.stage(&archive(sequence)).unwrap();
        state.prune(std::slice::from_ref(&kept)).unwrap();
    }
    assert!(state.present().len() <= BUNDLES_MAX, "{}", state.present().len());
    for sequence in [41, 42, 59] {
        assert!(state.read(&known(sequence).digest).is_ok(), "{sequence}");
    }
    for index in 0..10_u8 {
        state.quarantine(&[index]).unwrap();
    }
    assert_eq!(by_age(&scratch.0.join("quarantine")).len(), QUARANTINE_MAX);
}

//! The crash matrix on a real disk, with real processes that die at each point.
//!
//! The process is this test program itself, started anew as [`child`] with the name of a step
//! after which it kills itself without a word; or under a file size limit, so that the kernel
//! kills it in the middle of a write. Each row is printed as it was found:
//! `cargo test -p tillgate --lib -- --nocapture --test-threads=1 state::tests`.
//!
//! - fetch and verify, staged, symlink without memory, probation (twice), promoted:
//!   [`each_row_of_the_crash_matrix_with_a_process_that_is_killed`]
//! - inside a write: [`a_process_that_is_killed_inside_a_write_leaves_nothing_half`]
//! - memory or bundle torn, empty, something else: [`torn_empty_and_foreign_files_are_told`],
//!   [`what_is_damaged_of_two_is_passed_over`]
//! - full disk: [`a_full_disk_is_an_error_and_changes_nothing`], and the whole program in
//!   `tests/tests/policy_sources.rs`, with kill -9 at any moment and again and again
//! - read-only disk, clock in 1970 or 2100: `tests/tests/policy_machine.rs`

use std::process::{Command, ExitStatus};
use std::sync::Arc;

use tillgate_core::reconcile::{
    Applied, Boot, Effect, Facts, HealthSpec, ProbationSpec, Reconciler, Refusal, Remark, Serve,
    Stage, Wall,
};
use tillgate_net::clock;

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

    /// What a process that takes 42 leaves behind when it dies after `step`.
    fn dies_after(&self, step: &str) -> ExitStatus {
        self.child(step, "exec \"$@\"")
    }

    fn child(&self, step: &str, shell: &str) -> ExitStatus {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", shell, "sh"]).arg(program);
        command.args(["--exact", "state::tests::child", "--ignored", "--nocapture"]);
        command.env("TILLGATE_STEP", step).env("TILLGATE_STATE", &self.0);
        command.output().unwrap().status
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Tells a row of the matrix, as it was found.
#[allow(clippy::print_stdout, reason = "the matrix is what these tests are for")]
fn row(died: &str, boot: &Boot) {
    let serves = match &boot.serve {
        Serve::Current(one) => format!("{} (current)", one.sequence.unwrap_or_default()),
        Serve::Lkg(one) => format!("{} (last known good)", one.sequence.unwrap_or_default()),
        Serve::Minimal => "the minimal policy".to_owned(),
    };
    println!("{died:<44} serves {serves:<22} {:?}", boot.remarks);
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

fn facts(requests: u64) -> Facts {
    Facts { requests, ..Facts::default() }
}

/// Takes the bundle `sequence` and does with the disk what the loop says; dies after `step`.
fn take(state: &StateDir, store: &mut Reconciler, sequence: u64, step: &str) {
    let die = |done: &str| {
        if done == step {
            let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            unreachable!("the signal cannot be caught");
        }
    };
    die("fetched");
    assert_eq!(store.examine(&known(sequence)), Ok(()));
    state.stage(&archive(sequence)).unwrap();
    die("staged");
    store.handle_swapped(known(sequence), &facts(0), clock::now());
    write(state, store, die);
    die("in probation");
    store.handle_facts(&facts(100), clock::now());
    write(state, store, |done| die(&format!("promotion: {done}")));
    die("promoted");
}

fn write(state: &StateDir, store: &mut Reconciler, die: impl Fn(&str)) {
    while let Some(effect) = store.poll_effect() {
        match effect {
            Effect::PointCurrent(digest) => {
                state.point(Pointer::Current, &digest).unwrap();
                die("pointed");
            }
            Effect::PointLkg(digest) => {
                state.point(Pointer::Lkg, &digest).unwrap();
                die("pointed");
            }
            Effect::Remember => {
                state.remember(store.memory()).unwrap();
                die("remembered");
            }
            Effect::RollBack(_) | Effect::Say(_) => {}
        }
    }
}

/// The process that dies; not a test of its own.
#[test]
#[ignore = "started by the others, with a place to die"]
fn child() {
    let (Ok(step), Ok(root)) = (std::env::var("TILLGATE_STEP"), std::env::var("TILLGATE_STATE"))
    else {
        return;
    };
    let state = StateDir::new(root);
    state.prepare().unwrap();
    let boot = state.look(|_| true).boot(NOW);
    state.remember(&boot.memory).unwrap();
    let mut store = Reconciler::new(&boot, SPEC);
    store.memory_mut().lived();
    take(&state, &mut store, 42, &step);
}

/// A store that runs 41 as last known good.
fn settled(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    let boot = scratch.boot();
    assert_eq!(boot.serve, Serve::Minimal);
    let mut store = Reconciler::new(&boot, SPEC);
    store.memory_mut().lived();
    take(&scratch.state(), &mut store, 41, "never");
    assert_eq!(scratch.boot().serve, Serve::Current(known(41)));
    scratch
}

fn may_take(boot: &Boot, sequence: u64) -> Result<(), Refusal> {
    Reconciler::new(boot, SPEC).examine(&known(sequence))
}

#[test]
fn each_row_of_the_crash_matrix_with_a_process_that_is_killed() {
    let current = |sequence| Serve::Current(known(sequence));
    let lkg = Serve::Lkg(known(41));
    for (step, serves, remarks) in [
        ("fetched", current(41), vec![]),
        ("staged", current(41), vec![]),
        ("pointed", lkg.clone(), vec![Remark::Unproven]),
        ("remembered", lkg.clone(), vec![Remark::Unproven]),
        ("in probation", lkg, vec![Remark::Unproven]),
        ("promotion: pointed", current(42), vec![]),
        ("promotion: remembered", current(42), vec![]),
        ("promoted", current(42), vec![]),
    ] {
        let scratch = settled(&step.replace([' ', ':'], "-"));
        let status = scratch.dies_after(step);
        assert!(!status.success(), "{step}: {status}");
        let boot = scratch.boot();
        row(&format!("killed after: {step}"), &boot);
        assert_eq!((&boot.serve, &boot.remarks), (&serves, &remarks), "after {step}");
        if serves != current(42) {
            assert_eq!(may_take(&boot, 42), Ok(()), "after {step} it is tried again");
        }
        if step == "in probation" {
            assert!(!scratch.dies_after(step).success());
            let boot = scratch.boot();
            row("killed after: in probation, once more", &boot);
            assert!(matches!(may_take(&boot, 42), Err(Refusal::Denied(_))), "twice is enough");
        }
    }
}

#[test]
fn a_process_that_is_killed_inside_a_write_leaves_nothing_half() {
    let scratch = settled("inside");
    let status = scratch.child("never", "ulimit -f 0; exec \"$@\"");
    assert!(!status.success(), "{status}");
    let torn = scratch.0.join(format!("{TEMPORARY}{MEMORY}"));
    assert_eq!(fs::metadata(&torn).unwrap().len(), 0, "it died in the middle of a write");
    let boot = scratch.boot();
    row("killed in the middle of a write", &boot);
    assert_eq!(boot.serve, Serve::Current(known(41)));
    assert!(!torn.exists());
    assert_eq!(may_take(&boot, 42), Ok(()));
}

#[test]
fn torn_empty_and_foreign_files_are_told() {
    for (name, bytes) in [("empty", &b""[..]), ("zeros", &[0; 4096]), ("html", b"<html>")] {
        let scratch = settled(name);
        fs::write(scratch.0.join(MEMORY), bytes).unwrap();
        let boot = scratch.boot();
        row(&format!("state.json is: {name}"), &boot);
        assert_eq!(boot.serve, Serve::Lkg(known(41)), "{name}");
        assert!(boot.remarks.contains(&Remark::MemoryLost), "{name}: {:?}", boot.remarks);
        assert!(matches!(may_take(&boot, 40), Err(Refusal::Older { accepted: 41, .. })), "{name}");

        let scratch = settled(&format!("bundle-{name}"));
        let folder = scratch.state().folder(&known(41).digest).unwrap();
        fs::write(folder.join(ARCHIVE), bytes).unwrap();
        let boot = scratch.boot();
        row(&format!("the one bundle is: {name}"), &boot);
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
        row(&format!("{pointer} is damaged, the other one is not"), &boot);
        assert_eq!(boot.serve, serves);
        assert_eq!(boot.remarks.len(), 1, "{:?}", boot.remarks);
    }
}

#[test]
fn a_full_disk_is_an_error_and_changes_nothing() {
    let scratch = settled("full");
    // The limit without its signal: writes fail, as they do on a full disk.
    let status = scratch.child("never", "trap '' XFSZ; ulimit -f 0; exec \"$@\"");
    assert_eq!(status.code(), Some(101), "it is told, not killed");
    let boot = scratch.boot();
    row("the disk is full", &boot);
    assert_eq!(boot.serve, Serve::Current(known(41)));
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

//! The whole way of a policy, from outside: sources that have it, lie, hang or are gone; a disk
//! that is read-only, torn or killed under; a policy that does harm; the next process.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tillgate_config::bundle::{decode_memory, wall_text};
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;
use tillgate_tests::chain::{Chain, Mood, approval, hostile, tillgate};
use tillgate_tests::follower::{self, answers, applied, condition, is_good, shown};
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::program::{Program, get, policy, signal};
use tillgate_tests::{eventually, now};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A probation that a test can wait for.
const SOON: &str = "  probation: {least: 1s, requests: 20, most: 1h}\n";

fn start(bootstrap: PathBuf) -> Program {
    follower::start(PROGRAM, bootstrap, |_| {})
}

#[test]
fn a_store_follows_its_web_server_and_believes_it_nothing() {
    let (chain, origin) = (Chain::new("web"), Origin::answering(OK));
    let text = |host: &str| policy(host, origin.address);
    let program = start(chain.bootstrap(&[chain.http()], SOON));
    assert_eq!(program.get("a.example").status, 404, "the minimal policy knows no route");
    condition(&program, "Minimal", "minimal");
    chain.publish(chain.bundle(7, &text("a.example"), "ci", &[]));
    applied(&program, 7);
    answers(&program, "a.example", 200);
    eventually("what is in effect is not sent again", || {
        (chain.sent.lock().unwrap().1 >= 2).then_some(())
    });
    assert_eq!(chain.sent.lock().unwrap().0, 1);

    for (mood, part) in [
        (Mood::Text(200, "<html>Welcome to the hotel</html>"), "a web page"),
        (Mood::Endless, "longer than it may be"),
        (Mood::Hangs, "no answer within 1s"),
        (Mood::Text(500, ""), "500"),
    ] {
        chain.feels(mood);
        condition(&program, "FetchFailed/central", part);
        assert_eq!(program.get("a.example").status, 200);
    }
    chain.publish(chain.bundle(8, &text("b.example"), "ci", &[]));
    applied(&program, 8);
    answers(&program, "b.example", 200);
    answers(&program, "a.example", 404);
    let line = program.line(&["policy in effect", "sequence=8"]);
    assert!(line.contains("INFO") && line.contains("central"), "{line}");
}

#[test]
fn whatever_is_wrong_with_a_bundle_what_runs_stays_and_the_condition_says_why() {
    let (chain, origin) = (Chain::new("lies"), Origin::answering(OK));
    let text = policy("a.example", origin.address);
    let program = start(chain.bootstrap(&[chain.stick("")], ""));
    chain.put(&chain.bundle(7, &text, "ci", &[]));
    applied(&program, 7);
    let slip = text.replace("up: 5Mbit/s", "up: 5Mbps");
    let other = text.replace("store-0412", "store-0999");
    let bundles: [(Vec<u8>, &str, &str); 8] = [
        (chain.bundle(8, &slip, "ci", &[]), "Invalid", "store.yaml:"),
        (chain.bundle(8, &text, "eve", &[]), "SignatureMissing", "0 of 1 signatures"),
        (chain.bundle(8, &text, "release", &[]), "SignatureMissing", "0 of 1 signatures"),
        (chain.bundle(8, &other, "ci", &["--store", "store-0999"]), "OtherStore", "0999"),
        (chain.bundle(8, &other, "ci", &[]), "Invalid", "store-0412"),
        (chain.bundle(6, &text, "ci", &[]), "OldSequence", "6 is older than 7"),
        (chain.bundle(7, &format!("{text}# x\n"), "ci", &[]), "SameSequence", "other content"),
        (
            chain.bundle(8, &text, "ci", &["--min-gateway-version", "99.0.0"]),
            "NeedsUpgrade",
            "99.0.0",
        ),
    ];
    for (bytes, reason, part) in bundles {
        chain.put(&bytes);
        eventually(&format!("{reason} with {part:?}\n{}", program.log()), || {
            let refused = &shown(&program)["refused"];
            let why = refused["why"].as_str()?;
            (refused["reason"] == reason && why.contains(part)).then_some(())
        });
        condition(&program, "Rejected", part);
        assert_eq!(program.get("a.example").status, 200);
        assert_eq!(shown(&program)["applied"]["sequence"], 7);
    }
    for (bytes, part) in [
        (hostile("../../etc/passwd"), "without `..`"),
        (hostile("/etc/passwd"), "must be relative"),
        (b"<html>".to_vec(), "a web page"),
        (Vec::new(), "nothing"),
        (vec![0x1f, 0x8b, 8, 0, 0, 0], "damaged"),
        (vec![0; 2 << 20], "has more than"),
    ] {
        chain.put(&bytes);
        condition(&program, "FetchFailed/stick", part);
        assert_eq!(program.get("a.example").status, 200);
    }
    assert!(!chain.folder.join("etc").exists());
    chain.put(&chain.bundle(9, &text.replace("a.example", "b.example"), "ci", &[]));
    applied(&program, 9);
    answers(&program, "b.example", 200);
}

/// The policy as a whole: a ring before this store's, and guards. `more` is of its rollout.
fn whole(more: &str) -> String {
    format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: Bundle\nmetadata: {{name: chain}}\nspec:\n  \
         schemaVersion: v1alpha1\n  minGatewayVersion: \"0.1.0\"\n  guards: {{maxCapacityDrop: \
         50%}}\n  rollout:\n    rings:\n      - {{name: lab, storeSelector: {{matchLabels: {{ring: \
         lab}}}}}}\n      - {{name: broad, storeSelector: {{}}, approvals: {{required: 1, roles: \
         [release-manager]}}}}\n    promotion: {{mode: Signed}}\n{more}"
    )
}

/// The class of payments with this guarantee.
fn payments(share: u8) -> String {
    format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: TrafficClass\nmetadata: {{name: \
         payment}}\nspec: {{priority: 1000, critical: true, guarantee: {{up: {share}%, down: \
         10%}}}}\n"
    )
}

#[test]
fn policy_goes_out_by_ring_and_guards_want_a_signature() {
    let (chain, origin) = (Chain::new("rings"), Origin::answering(OK));
    let text =
        |host: &str, share, more| policy(host, origin.address) + &payments(share) + &whole(more);
    let program = start(chain.bootstrap(&[chain.stick("")], ""));
    chain.put(&chain.bundle(1, &text("a.example", 20, ""), "ci", &[]));
    applied(&program, 1);
    // The ring before has it; this store waits for a promotion by somebody who may.
    let second = chain.bundle(2, &text("b.example", 20, ""), "ci", &[]);
    chain.put(&second);
    condition(&program, "Held", "ring broad");
    assert_eq!(program.get("a.example").status, 200);
    assert_eq!(shown(&program)["waiting"]["sequence"], 2);
    let file = chain.folder.join("made.tar.gz").display().to_string();
    let promote = |key: &str| {
        let private = chain.folder.join(format!("{key}.pem")).display().to_string();
        tillgate(&["promote", &file, "--through", "broad", "--key", &private, "--key-id", key]);
        chain.put(&fs::read(&file).unwrap());
    };
    promote("ci");
    condition(&program, "Held", "has 0");
    promote("release");
    applied(&program, 2);
    answers(&program, "b.example", 200);
    // A fix that cannot wait, with a signature that says so.
    let immediate = "    immediate: true\n";
    chain.put(&chain.bundle(3, &text("c.example", 20, immediate), "ci", &[]));
    condition(&program, "Held", "sequence 3");
    chain.sign("release");
    applied(&program, 3);
    // The guards of the policy, and who may overrule them.
    chain.put(&chain.bundle(4, &text("c.example", 2, immediate), "ci", &[]));
    condition(&program, "Held", "sequence 4");
    promote("release");
    condition(&program, "Rejected", "by more than 50%");
    chain.sign("release");
    applied(&program, 4);
}

/// A freeze of policy, for good.
const FREEZE: &str = "---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze\nmetadata: {name: \
                      always}\nspec:\n  appliesTo: {rollouts: [config]}\n  from: \
                      \"2020-01-01T00:00:00\"\n  until: \"2099-01-01T00:00:00\"\n  timeZone: \
                      UTC\n  reason: the end of time\n";

#[test]
fn an_override_that_comes_in_a_policy_lets_that_very_policy_in() {
    let (chain, origin) = (Chain::new("override"), Origin::answering(OK));
    let frozen = format!("{FREEZE}  approvals: {{required: 1, roles: [release-manager]}}\n");
    let text = |host: &str| policy(host, origin.address) + &frozen;
    let program = start(chain.bootstrap(&[chain.stick("")], ""));
    chain.put(&chain.bundle(1, &text("a.example"), "ci", &[]));
    applied(&program, 1);
    let now = clock::wall_seconds();
    let exception = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Override\nmetadata: {{name: hotfix}}\nspec:\n  \
         suspends: [{{kind: Freeze, name: always}}]\n  allStores: true\n  appliesTo: {{rollouts: \
         [config]}}\n  reason: a tax\n  ticket: CHG-1\n  validFrom: '{}'\n  expiresAt: '{}'\n",
        wall_text(Wall(now - 600)),
        wall_text(Wall(now + 3600)),
    );
    let file = chain.folder.join("override.yaml").display().to_string();
    fs::write(&file, &exception).unwrap();
    let with = |sequence, key: &str| {
        let key = chain.folder.join(format!("{key}.pem")).display().to_string();
        let approvals = approval(&file, "release-manager", &key, "release");
        let all = format!("{}---\n{exception}  approvals:\n{approvals}", text("b.example"));
        chain.put(&chain.bundle(sequence, &all, "ci", &[]));
    };
    // Somebody else's signature under the name of who may; then his own.
    with(2, "eve");
    condition(&program, "Held", "Freeze/always");
    assert_eq!(shown(&program)["waiting"]["sequence"], 2);
    with(3, "release");
    applied(&program, 3);
    answers(&program, "b.example", 200);
    condition(&program, "OverrideActive", "Override/hotfix until");
    // What comes next needs it, too, and may be without it: the running policy has it.
    chain.put(&chain.bundle(4, &text("c.example"), "ci", &[]));
    applied(&program, 4);
    // That one has none.
    chain.put(&chain.bundle(5, &text("d.example"), "ci", &[]));
    condition(&program, "Held", "Freeze/always");
    assert_eq!(shown(&program)["applied"]["sequence"], 4);
}

#[test]
fn a_freeze_of_config_holds_policy_too() {
    let (chain, origin) = (Chain::new("freeze"), Origin::answering(OK));
    let text = policy("a.example", origin.address) + FREEZE;
    let program = start(chain.bootstrap(&[chain.stick("")], ""));
    let first = chain.bundle(1, &text, "ci", &[]);
    chain.put(&first);
    applied(&program, 1);
    chain.put(&chain.bundle(2, &format!("{text}# 2\n"), "ci", &[]));
    condition(&program, "Held", "Freeze/always");
    assert_eq!(shown(&program)["applied"]["sequence"], 1);
    assert_eq!(shown(&program)["waiting"]["sequence"], 2);
    // Its source has taken it back: it does not come when the freeze is over.
    chain.put(&first);
    eventually("nothing waits", || shown(&program)["waiting"].is_null().then_some(()));
    let conditions = shown(&program)["conditions"].clone();
    let held = conditions.as_array().unwrap().iter().find(|one| one["type"] == "Held").cloned();
    assert!(held.is_none_or(|one| one["status"] == "False"), "{conditions}");
}

#[test]
fn a_policy_that_does_harm_is_taken_back_and_not_tried_again() {
    let (chain, origin) = (Chain::new("harm"), Origin::answering(OK));
    let good = policy("a.example", origin.address);
    let mut program = start(chain.bootstrap(&[chain.stick("")], SOON));
    chain.put(&chain.bundle(7, &good, "ci", &[]));
    applied(&program, 7);
    is_good(&program, 7, || assert_eq!(program.get("a.example").status, 200));
    // A baseline: the last known good at work, over two looks at its health.
    let began = now();
    eventually("a baseline", || {
        (0..20).for_each(|_| assert_eq!(program.get("a.example").status, 200));
        (began.elapsed() > Duration::from_secs(12)).then_some(())
    });
    // Valid, signed, and its backend is a port where nobody listens.
    chain.put(&chain.bundle(8, &policy("a.example", nobody()), "ci", &[]));
    applied(&program, 8);
    eventually("the policy is rolled back", || {
        program.get("a.example");
        (shown(&program)["applied"]["sequence"] == 7).then_some(())
    });
    condition(&program, "RolledBack", "critical requests failed");
    program.line(&["policy rolled back"]);
    answers(&program, "a.example", 200);
    assert_eq!(shown(&program)["denied"][0]["sequence"], 8);
    // Also not after a restart, and not before a fix with a higher sequence.
    program.kill();
    let program = start(program.policy.clone());
    assert_eq!(condition(&program, "Rejected", "rolled back"), "Denied");
    answers(&program, "a.example", 200);
    chain.put(&chain.bundle(9, &good, "ci", &[]));
    applied(&program, 9);
    answers(&program, "a.example", 200);
}

#[test]
fn a_start_needs_no_network_and_no_clock() {
    let (chain, origin) = (Chain::new("boot"), Origin::answering(OK));
    // As made in most of an hour: for this store's clock that is a floor that it is below.
    let later = wall_text(Wall(clock::wall_seconds() + 3000));
    let made = ["--created-at", &later];
    let text = policy("a.example", origin.address);
    let mut program = start(chain.bootstrap(&[chain.stick("")], SOON));
    chain.put(&chain.bundle(7, &text, "ci", &made));
    applied(&program, 7);
    is_good(&program, 7, || drop(program.get("a.example")));
    program.kill();
    fs::remove_dir_all(chain.folder.join("stick")).unwrap();
    chain.feels(Mood::Hangs);
    // Who waits for the server waits longer than this test.
    let program = start(chain.bootstrap(&[chain.http_within("10m"), chain.stick("")], SOON));
    let http = program.address("http");
    assert_eq!(get(http, "a.example").status, 200);
    applied(&program, 7);
    // Where somebody keeps the clock it is right, and the date is not.
    if !clock::is_kept() {
        condition(&program, "ClockUntrusted", "clock");
    }
}

#[test]
fn a_process_that_is_killed_anywhere_begins_again_with_a_whole_policy() {
    // Twice each: a third death within a minute is a reason to mistrust the policy.
    for life in 0..5 {
        let (chain, origin) = (Chain::new(&format!("kill-{life}")), Origin::answering(OK));
        let bootstrap = chain.bootstrap(&[chain.stick("")], SOON);
        let text = policy("a.example", origin.address);
        chain.put(&chain.bundle(1, &text, "ci", &[]));
        let mut program = start(bootstrap.clone());
        applied(&program, 1);
        is_good(&program, 1, || drop(program.get("a.example")));
        for round in [2, 3] {
            chain.put(&chain.bundle(round, &format!("{text}# {round}\n"), "ci", &[]));
            // Somewhere on the way: a look is a second, a debounce half of one.
            let until = now() + Duration::from_millis(moment(life * 2 + round) % 2200);
            eventually("a moment to die", || (now() >= until).then_some(()));
            program.kill();
            for pointer in ["current", "lkg"] {
                let archive = chain.state().join(pointer).join("bundle.tar.gz");
                tillgate(&["bundle", "inspect", &archive.display().to_string()]);
            }
            program = start(bootstrap.clone());
            assert_eq!(program.get("a.example").status, 200, "life {life}, round {round}");
            for damage in ["MemoryLost", "CurrentDamaged", "LkgDamaged"] {
                assert!(!program.log().contains(damage), "{}", program.log());
            }
        }
    }
}

/// A moment of each round's own (SplitMix64).
fn moment(seed: u64) -> u64 {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

#[test]
fn a_process_that_keeps_dying_goes_back_to_what_did_not_kill_it() {
    let (chain, origin) = (Chain::new("loop"), Origin::answering(OK));
    let bootstrap = chain.bootstrap(&[chain.stick("")], SOON);
    chain.put(&chain.bundle(1, &policy("a.example", origin.address), "ci", &[]));
    let mut program = start(bootstrap.clone());
    applied(&program, 1);
    for _ in 0..8 {
        program.kill();
        program = start(bootstrap.clone());
        program.address("http");
    }
    condition(&program, "BootLoop", "");
}

#[test]
fn a_process_that_is_told_to_stop_has_not_died() {
    // The end waits for no slow disk: what does not reach it in time counts as a death.
    eventually("it stops four times in a row", || {
        let chain = Chain::new("told");
        let bootstrap = chain.bootstrap(&[chain.stick("")], SOON);
        for _ in 0..4 {
            let mut program = start(bootstrap.clone());
            eventually("policy is looked after", || shown(&program)["clock"].as_str().map(drop));
            program.signal("TERM");
            assert!(program.ended());
            assert!(!program.log().contains("BootLoop"), "{}", program.log());
            let memory = fs::read(chain.state().join("state.json")).unwrap();
            if decode_memory(&memory).unwrap().boots.short > 0 {
                return None;
            }
        }
        Some(())
    });
}

#[test]
fn a_disk_that_cannot_be_written_is_told_and_no_reason_to_stop() {
    let (chain, origin) = (Chain::new("full"), Origin::answering(OK));
    let text = policy("a.example", origin.address);
    let bootstrap = chain.bootstrap(&[chain.stick("")], "");
    chain.put(&chain.bundle(7, &text, "ci", &[]));
    let mut program = start(bootstrap.clone());
    applied(&program, 7);
    program.kill();
    // No file may grow any more, as on a full disk; the signal for that is ignored.
    let full = |command: &mut Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        *command = shell;
    };
    let start = || Program::start_as(PROGRAM, "--bootstrap", bootstrap.clone(), &[], full);
    // It had not proven itself, and is not tried from the disk; its source has it still.
    let mut program = start();
    condition(&program, "StateUnwritten", "large");
    applied(&program, 7);
    answers(&program, "a.example", 200);
    program.kill();
    // A disk that was full from the first day: better from memory than not at all.
    fs::remove_dir_all(chain.state()).unwrap();
    let program = start();
    applied(&program, 7);
    answers(&program, "a.example", 200);
    assert_eq!(condition(&program, "Unkept", "large"), "StageFailed");
    chain.put(&chain.bundle(8, &format!("{text}# 8\n"), "ci", &[]));
    assert_eq!(condition(&program, "Rejected", "disk"), "StageFailed");
    assert_eq!(shown(&program)["applied"]["sequence"], 7);
    assert_eq!(program.get("a.example").status, 200);
}

#[test]
fn the_next_process_takes_the_policy_over_and_follows_it_further() {
    let (chain, origin) = (Chain::new("next"), Origin::answering(OK));
    let text = |host: &str| policy(host, origin.address);
    let mut program = start(chain.bootstrap(&[chain.stick("")], SOON));
    chain.put(&chain.bundle(7, &text("a.example"), "ci", &[]));
    applied(&program, 7);
    is_good(&program, 7, || drop(program.get("a.example")));
    let http = program.address("http");
    program.signal("USR2");
    let line = program.line(&["another process has taken over"]);
    let next: u32 = line.split("process=").nth(1).unwrap().trim().parse().expect("a number");
    assert!(program.ended(), "{}", program.log());
    assert_eq!(get(http, "a.example").status, 200);
    chain.put(&chain.bundle(8, &text("b.example"), "ci", &[]));
    eventually("the next process follows the source", || {
        (get(http, "b.example").status == 200).then_some(())
    });
    signal(next, "TERM");
    eventually("the next process ends", || {
        std::net::TcpStream::connect(http).is_err().then_some(())
    });
}

#[test]
fn a_bootstrap_says_everything_that_is_wrong_with_it() {
    let chain = Chain::new("wrong");
    let bootstrap = chain.bootstrap(
        &[
            "{name: a, type: Directory, interval: 1s}".into(),
            "{name: b, type: Git, interval: 1s}".into(),
        ],
        "",
    );
    let mut program = start(bootstrap);
    assert!(!program.ended());
    program.line(&["the source `a` has no `path`"]);
    program.line(&["the source `b` has no `url`"]);
}

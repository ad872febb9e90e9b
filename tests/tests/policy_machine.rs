//! A store whose own machine is not well: its clock shows 1970 or 2100, its disk can only be read.
//! It serves all the same, from what it has, at once; and says what is wrong.

use tillgate_config::bundle::wall_text;
use tillgate_core::reconcile::Wall;
use tillgate_tests::chain::{Chain, Mood};
use tillgate_tests::follower::{answers, applied, condition, is_good, shown, start};
use tillgate_tests::machine::{READ_ONLY, follows_clock_of, runs_behind, sets_clock_ahead};
use tillgate_tests::origin::Origin;
use tillgate_tests::program::{get, policy};
use tillgate_tests::tls::{Authority, Volume, Wants, server};
use tillgate_tests::{eventually, skipped};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A probation that a test can wait for.
const SOON: &str = "  probation: {least: 1s, requests: 20, most: 1h}\n";

/// A freeze that is over in 2100 and has not begun in 1970: who cannot know the time keeps it.
const FREEZE: &str = "---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze\nmetadata: {name: \
                      peak}\nspec:\n  appliesTo: {rollouts: [config]}\n  from: \
                      \"2098-11-20T00:00:00\"\n  until: \"2099-12-01T00:00:00\"\n  timeZone: \
                      UTC\n  reason: the peak\n";

/// From now to 1970, and to 2100.
fn years() -> [(&'static str, i64); 2] {
    let now = i64::try_from(tillgate_net::clock::wall_seconds()).expect("this century");
    [("1970", 3600 - now), ("2100", 4_102_444_800 - now)]
}

/// The day that is so many days from now, as a certificate has it.
fn day(ahead: i64) -> (i32, u8, u8) {
    let now = tillgate_net::clock::wall_seconds();
    let text = wall_text(Wall(now.saturating_add_signed(ahead * 86_400)));
    let number = |from, to| text[from..to].parse::<u16>().expect("digits");
    let small = |from, to| u8::try_from(number(from, to)).expect("of a date");
    (number(0, 4).into(), small(5, 7), small(8, 10))
}

#[test]
fn a_start_with_a_clock_in_1970_or_2100_serves_from_disk_and_waits_for_nobody() {
    for (year, ahead) in years() {
        let (chain, origin) = (Chain::new(&format!("clock-{year}")), Origin::answering(OK));
        let text = policy("a.example", origin.address) + FREEZE;
        let bootstrap = chain.bootstrap(&[chain.http()], SOON);
        let mut program = start(PROGRAM, bootstrap.clone(), |_| {});
        chain.publish(chain.bundle(7, &text, "ci", &[]));
        applied(&program, 7);
        is_good(&program, 7, || drop(program.get("a.example")));
        program.kill();
        chain.feels(Mood::Hangs);

        // Who waits for this source waits longer than this test.
        let bootstrap = chain.bootstrap(&[chain.http_within("10m")], SOON);
        let mut can = true;
        let program = start(PROGRAM, bootstrap, |command| can = sets_clock_ahead(command, ahead));
        if !can {
            skipped("no C compiler to put another clock before the program");
            return;
        }
        assert_eq!(get(program.address("http"), "a.example").status, 200);
        assert!(program.log().contains(&format!("{year}-01-01T")), "it is: {}", program.log());
        applied(&program, 7);
        let clock = shown(&program)["clock"].clone();
        assert!(clock == "Untrusted" || (clock == "Holdover" && year == "2100"), "{year}: {clock}");
        chain.publish(chain.bundle(8, &text.replace("a.example", "b.example"), "ci", &[]));
        if clock == "Untrusted" {
            // A time that has passed comes again, or it was never right: what needs a time waits.
            condition(&program, "ClockUntrusted", "clock");
            condition(&program, "Held", "Freeze/peak");
            assert_eq!(program.get("a.example").status, 200);
        } else {
            // It has only gone on: nothing contradicts it, and signatures need no clock.
            applied(&program, 8);
            answers(&program, "b.example", 200);
        }
    }
}

#[test]
fn a_first_start_in_1970_takes_the_policy_and_learns_from_it_what_has_passed() {
    let (chain, origin) = (Chain::new("clock-first"), Origin::answering(OK));
    let (_, ahead) = years()[0];
    let mut can = true;
    let bootstrap = chain.bootstrap(&[chain.http()], SOON);
    let program = start(PROGRAM, bootstrap, |command| can = sets_clock_ahead(command, ahead));
    if !can {
        skipped("no C compiler to put another clock before the program");
        return;
    }
    condition(&program, "ClockUntrusted", "clock");
    let text = policy("a.example", origin.address);
    chain.publish(chain.bundle(7, &text, "ci", &["--created-at", "2026-11-20T20:58:12Z"]));
    applied(&program, 7);
    answers(&program, "a.example", 200);
    let memory = std::fs::read_to_string(chain.state().join("state.json")).expect("it is written");
    assert!(memory.contains("\"clockFloor\": 1795208292"), "the bundle's date: {memory}");
}

#[test]
fn over_https_in_1970_and_2100_certificates_are_judged_by_what_has_surely_passed() {
    let (chain, origin) = (Chain::new("clock-tls"), Origin::answering(OK));
    let authority = Authority::default();
    let identity = authority.issue_within(&["127.0.0.1"], day(-2), day(30));
    let files = Volume::new(&[("ca.crt", &authority.pem)]);
    let wants = Wants { identity: Some(&identity), ..Wants::default() };
    let server = chain.secure(server(&wants, None));
    let source = format!(
        "{{name: central, type: HTTPBundle, url: \"https://{}/0412\", interval: 1s, timeout: 5s, \
         spread: 0s}}",
        server.address
    );
    let bootstrap = chain.bootstrap(&[source, chain.stick("")], SOON);
    let mut can = true;
    let mut begin = |ahead| {
        let program = start(PROGRAM, bootstrap.clone(), |command| {
            can = sets_clock_ahead(command, ahead);
            command.env("SSL_CERT_FILE", files.path("ca.crt"));
        });
        can.then_some(program)
    };
    let bundle =
        |sequence, host: &str| chain.bundle(sequence, &policy(host, origin.address), "ci", &[]);
    let [(_, to_1970), (_, to_2100)] = years();
    chain.publish(bundle(7, "a.example"));
    let Some(mut program) = begin(to_1970) else {
        skipped("no C compiler to put another clock before the program");
        return;
    };
    // It was never told the time, and the certificate is of the day before yesterday.
    condition(&program, "FetchFailed/central", "is valid only from");
    // A signed date is a time that has passed.
    chain.put(&bundle(6, "stick.example"));
    applied(&program, 7);
    answers(&program, "a.example", 200);
    is_good(&program, 7, || drop(program.get("a.example")));
    program.kill();
    // The disk knows it, too.
    std::fs::remove_file(chain.folder.join("stick/bundle.tar.gz")).expect("it was put there");
    chain.publish(bundle(8, "b.example"));
    let mut program = begin(to_1970).expect("it could be done");
    applied(&program, 8);
    is_good(&program, 8, || drop(program.get("b.example")));
    program.kill();
    // In 2100 every certificate has expired: what runs stays, and it is said why ...
    chain.publish(bundle(9, "c.example"));
    let mut program = begin(to_2100).expect("it could be done");
    condition(&program, "FetchFailed/central", "expired on");
    assert_eq!(program.get("b.example").status, 200);
    program.signal("TERM");
    assert!(program.ended(), "{}", program.log());
    // ... and nobody has vouched for that year: it is forgotten as soon as the clock is right.
    let program = begin(0).expect("it could be done");
    applied(&program, 9);
    answers(&program, "c.example", 200);
}

#[test]
fn a_jump_of_the_clock_is_known_after_a_restart() {
    let (chain, origin) = (Chain::new("clock-jump"), Origin::answering(OK));
    let bootstrap = chain.bootstrap(&[chain.stick("")], SOON);
    chain.put(&chain.bundle(7, &policy("a.example", origin.address), "ci", &[]));
    let ahead = chain.folder.join("ahead");
    std::fs::write(&ahead, "0").expect("room");
    let mut can = true;
    let mut begin =
        || start(PROGRAM, bootstrap.clone(), |command| can = follows_clock_of(command, &ahead));
    let mut program = begin();
    applied(&program, 7);
    if shown(&program)["clock"] == "Untrusted" {
        skipped("a machine whose clock nobody can believe");
        return;
    }
    std::fs::write(&ahead, "7200").expect("room");
    condition(&program, "ClockUntrusted", "clock");
    program.kill();
    let program = begin();
    applied(&program, 7);
    assert_eq!(shown(&program)["clock"], "Untrusted", "nobody has vouched for it since");
    if !can {
        skipped("no C compiler to put another clock before the program");
    }
}

#[test]
fn a_first_policy_is_served_although_the_disk_takes_nothing_and_kept_as_soon_as_it_does() {
    let (chain, origin) = (Chain::new("first-full"), Origin::answering(OK));
    std::fs::create_dir_all(chain.state()).expect("room");
    let bundles = chain.state().join("bundles");
    std::fs::write(&bundles, "no folder").expect("room");
    let text = policy("a.example", origin.address);
    let bootstrap = chain.bootstrap(&[chain.stick("")], SOON);
    chain.put(&chain.bundle(7, &text, "ci", &[]));
    let mut program = start(PROGRAM, bootstrap.clone(), |_| {});
    applied(&program, 7);
    assert_eq!(condition(&program, "Unkept", "a restart loses it"), "StageFailed");
    is_good(&program, 7, || drop(program.get("a.example")));
    // What runs stays when another one comes that the disk does not take, either.
    chain.put(&chain.bundle(8, &format!("{text}# 8\n"), "ci", &[]));
    assert_eq!(condition(&program, "Rejected", "disk"), "StageFailed");
    assert_eq!(shown(&program)["applied"]["sequence"], 7);
    std::fs::remove_file(chain.folder.join("stick/bundle.tar.gz")).expect("it was put there");
    std::fs::remove_file(&bundles).expect("it is there");
    std::fs::create_dir(&bundles).expect("room");
    eventually("it is on disk", || {
        ["current", "lkg"]
            .iter()
            .all(|pointer| chain.state().join(pointer).join("bundle.tar.gz").exists())
            .then_some(())
    });
    eventually("nothing is unkept", || {
        let conditions = shown(&program)["conditions"].clone();
        let found = conditions.as_array()?.iter().find(|one| one["type"] == "Unkept")?.clone();
        (found["status"] == "False").then_some(())
    });
    program.kill();
    let program = start(PROGRAM, bootstrap, |_| {});
    applied(&program, 7);
    answers(&program, "a.example", 200);
}

/// What waits for the end of a freeze of so many seconds meets a disk that takes nothing; `None`
/// if the freeze was over before that could be seen.
fn waits_for(seconds: u64) -> Option<()> {
    let (chain, origin) = (Chain::new(&format!("held-full-{seconds}")), Origin::answering(OK));
    let over = tillgate_net::clock::wall_seconds() + seconds;
    let is_over = || tillgate_net::clock::wall_seconds() >= over;
    let freeze = FREEZE.replace("2098-11-20T00:00:00", "2020-01-01T00:00:00");
    let until = wall_text(Wall(over));
    let freeze = freeze.replace("2099-12-01T00:00:00", until.trim_end_matches('Z'));
    let text = policy("a.example", origin.address) + &freeze;
    let patient = chain.http_within("20s");
    let program = start(PROGRAM, chain.bootstrap(&[patient], ""), |_| {});
    chain.publish(chain.bundle(1, &text, "ci", &[]));
    applied(&program, 1);
    chain.publish(chain.bundle(2, &text.replace("a.example", "b.example"), "ci", &[]));
    eventually("it is held, or was", || {
        let told = shown(&program)["conditions"].clone();
        let held = told.as_array()?.iter().find(|one| one["type"] == "Held");
        let is_held = held.is_some_and(|one| {
            one["status"] == "True" && one["message"].to_string().contains("Freeze/peak")
        });
        (is_held || is_over()).then_some(())
    });
    // The freeze ends, and the disk takes nothing; its source has given it, and does not again.
    let (bundles, away) = (chain.state().join("bundles"), chain.state().join("away"));
    std::fs::rename(&bundles, &away).expect("it is there");
    std::fs::write(&bundles, "no folder").expect("room");
    if is_over() {
        return None;
    }
    eventually("the freeze is over", || is_over().then_some(()));
    assert_eq!(condition(&program, "Rejected", "disk"), "StageFailed");
    assert_eq!(shown(&program)["waiting"]["sequence"], 2);
    let sent = chain.sent.lock().expect("no panic").0;
    std::fs::remove_file(&bundles).expect("it is there");
    std::fs::rename(&away, &bundles).expect("it is there");
    applied(&program, 2);
    answers(&program, "b.example", 200);
    assert_eq!((chain.sent.lock().expect("no panic").0, sent), (2, 2));
    Some(())
}

#[test]
fn what_has_waited_is_tried_again_until_the_disk_takes_it() {
    let seen = [12, 30, 50].into_iter().find_map(waits_for);
    assert!(seen.is_some(), "it waited long enough to be seen");
}

#[test]
fn a_disk_that_can_only_be_read_is_served_from_and_told() {
    let (chain, origin) = (Chain::new("read-only"), Origin::answering(OK));
    let text = policy("a.example", origin.address);
    let bootstrap = chain.bootstrap(&[chain.stick("")], SOON);
    chain.put(&chain.bundle(7, &text, "ci", &[]));
    let mut program = start(PROGRAM, bootstrap.clone(), |_| {});
    applied(&program, 7);
    is_good(&program, 7, || drop(program.get("a.example")));
    program.kill();
    // Killed again on the way: what cannot be counted must not stop the next start, either.
    for _ in 0..4 {
        let mut can = true;
        let change = |command: &mut _| can = runs_behind(command, READ_ONLY, &chain.state());
        let mut program = start(PROGRAM, bootstrap.clone(), change);
        if !can {
            skipped("no user namespaces to make a folder read-only for root");
            return;
        }
        assert_eq!(get(program.address("http"), "a.example").status, 200);
        applied(&program, 7);
        condition(&program, "StateUnwritten", "Read-only file system");
        program.kill();
    }
    let change = |command: &mut _| assert!(runs_behind(command, READ_ONLY, &chain.state()));
    let program = start(PROGRAM, bootstrap, change);
    chain.put(&chain.bundle(8, &format!("{text}# 8\n"), "ci", &[]));
    assert_eq!(condition(&program, "Rejected", "disk"), "StageFailed");
    assert_eq!(program.get("a.example").status, 200);
    assert_eq!(shown(&program)["applied"]["sequence"], 7);
}

//! What a till sees while a server dies, freezes, errs or flaps, and after it is back.

use tillgate_tests::moody::Mood;
use tillgate_tests::{eventually, now};

use super::scene::{OWN_KEY, SHARED_KEY, STAYS, Scene, call};

#[test]
fn a_killed_replica_costs_at_most_the_calls_it_held() {
    let mut scene = Scene::new("");
    let till = scene.till(false);
    till.wait(10);
    scene.local.kill();
    till.wait(25);
    let calls = scene.end_in_tier_1(till);
    let lost: Vec<_> = calls.0.iter().filter(|call| call.has_failed()).collect();
    // What it did not take is asked elsewhere.
    assert!(!lost.iter().any(|call| call.text.contains("connect_refused")), "{lost:?}");
    assert!(calls.by("local") >= 10 && calls.by("cloud") >= 20);
    scene.expect_no_second_execution();
    let metrics = scene.gateway.admin("/metrics").text();
    assert!(metrics.contains("tillgate_tier_shifts_total{route=\"pricing\""), "{metrics}");
}

#[test]
fn a_frozen_replica_loses_some_calls_without_a_key() {
    let scene = Scene::new("");
    drop(scene.turn(Mood::Frozen, false, 25));
    scene.local.turn(Mood::Well);
    eventually("what was frozen has thawed", || (scene.local.ledger().len() > 10).then_some(()));
    scene.expect_no_second_execution();
}

#[test]
fn a_frozen_replica_loses_nothing_with_a_key_that_all_know() {
    let scene = Scene::keen(SHARED_KEY);
    let calls = scene.turn(Mood::Frozen, true, 25);
    assert_eq!(calls.failed(), 0, "each was answered within the rule's time");
    assert!(calls.by("cloud") > 0);
}

#[test]
fn a_key_that_only_one_backend_knows_never_reaches_the_other() {
    let scene = Scene::new(OWN_KEY);
    let till = scene.till(true);
    till.wait(10);
    scene.local.turn(Mood::Frozen);
    till.wait(15);
    scene.local.turn(Mood::Well);
    till.wait(5);
    drop(till.end());
    let (local, cloud) = (scene.local.ledger(), scene.cloud.ledger());
    assert!(!cloud.is_empty());
    assert!(!local.iter().any(|call| cloud.contains(call)), "a call was executed by both");
}

#[test]
fn three_errors_are_the_most_that_a_till_sees() {
    let scene = Scene::new(STAYS);
    let till = scene.till(false);
    till.wait(10);
    scene.local.turn(Mood::Failing);
    let turned = now();
    till.wait(20);
    let calls = scene.end_in_tier_1(till);
    assert!(scene.status().contains("gateway_errors"), "{}", scene.status());
    // Calls overlap, so more than three may fail; none that begins after three in a row did.
    let before = calls.0.iter().filter(|call| call.began < turned).map(|call| call.ended);
    let quiet = before.max().map_or(turned, |last| last.max(turned));
    let failed = calls.0.iter().filter(|call| call.has_failed() && call.ended > quiet);
    let mut failed: Vec<_> = failed.map(|call| call.ended).collect();
    failed.sort_unstable();
    let late = failed.get(2).map_or(0, |third| calls.failed_since(*third));
    assert_eq!(late, 0, "after the third of {failed:?}");

    let scene = Scene::new(&format!("{SHARED_KEY}      retry: {{codes: [503]}}\n"));
    assert_eq!(scene.turn(Mood::Failing, true, 20).failed(), 0);
}

#[test]
fn a_reset_after_the_request_was_read_is_repeated_only_with_a_key() {
    for (rule, keyed) in [("", false), (SHARED_KEY, true)] {
        let scene = Scene::new(rule);
        let failed = scene.turn(Mood::Resetting, keyed, 20).failed();
        if keyed {
            assert_eq!(failed, 0);
        } else {
            assert!(failed > 0, "nothing is asked twice");
            scene.expect_no_second_execution();
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_no_answer_and_counts() {
    let scene = Scene::new("");
    scene.local.turn(Mood::Halving);
    let ask = || {
        let mut wire = scene.gateway.wire();
        wire.send(
            "POST /price HTTP/1.1\r\nHost: pay.example\r\nX-Call: half\r\nContent-Length: 0\r\n\r\n",
        );
        wire.reply().complete
    };
    assert!(!ask(), "half an answer is never made whole");
    eventually("the endpoint is out", || ask().then_some(()));
    scene.wait_for_tier(1);
}

#[test]
fn a_flapping_replica_makes_no_ping_pong() {
    let scene = Scene::new(SHARED_KEY);
    let till = scene.till(true);
    for _ in 0..3 {
        scene.local.turn(Mood::Frozen);
        till.wait(15);
        scene.local.turn(Mood::Well);
        till.wait(15);
    }
    let calls = till.end();
    assert_eq!(calls.failed(), 0);
    let series = "tillgate_tier_shifts_total{route=\"pricing\",rule=\"all\",shift=\"failback\"";
    assert!(!scene.gateway.admin("/metrics").text().contains(series), "nothing came back");
}

#[test]
fn it_comes_back_after_dwell_and_ramp() {
    let scene_rule = "      failover: {holdDown: 500ms, ramp: 500ms}\n";
    let mut scene = Scene::new(scene_rule);
    scene.local.kill();
    let till = scene.till(false);
    till.wait(5);
    scene.wait_for_tier(1);
    scene.local.revive();
    scene.wait_for_tier(0);
    till.wait(10);
    let calls = till.end();
    assert!(calls.failed() <= 1, "{} failed", calls.failed());
    scene.expect_no_second_execution();
}

#[test]
fn when_both_are_down_the_first_to_return_is_used() {
    let mut scene = Scene::new("");
    scene.local.kill();
    scene.cloud.kill();
    assert_eq!(call(scene.gateway.http, 1_000_000, false).status, 502);
    eventually("all is lost", || {
        (scene.status().matches("\"state\":\"out\"").count() >= 4).then_some(())
    });
    scene.cloud.revive();
    eventually("the cloud answers", || {
        (call(scene.gateway.http, 1_000_001, false).text.starts_with("cloud")).then_some(())
    });
}

#[test]
fn a_health_path_that_says_no_is_believed_and_told() {
    let scene = Scene::new("");
    scene.local.turn(Mood::Lying);
    scene.wait_for_tier(1);
    assert!(scene.status().contains("probe_status"), "{}", scene.status());
    assert_eq!(call(scene.gateway.http, 2_000_000, false).text, "cloud 2000000");
}

#[test]
fn a_health_path_that_says_yes_does_not_help_against_real_calls() {
    let scene = Scene::keen(SHARED_KEY);
    let calls = scene.turn(Mood::Hollow, true, 40);
    assert_eq!(calls.failed(), 0, "each was answered within the rule's time");
    assert!(calls.by("cloud") > 0);
}

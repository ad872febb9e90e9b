//! What a rule or a backend may ask for: hedges, sessions, fresh data, patience, bounds.

use std::time::Duration;

use tillgate_tests::gateway::Gateway;
use tillgate_tests::moody::{Mood, Moody};
use tillgate_tests::{dawdle, eventually};

use super::scene::{Calls, OWN_KEY, SHARED_KEY, Scene, call, compiled, policy};

#[test]
fn a_hedged_call_does_not_wait_for_a_slow_replica() {
    let scene = Scene::new(&format!("{SHARED_KEY}      retry: {{hedge: {{after: 100ms}}}}\n"));
    scene.local.turn(Mood::Holding);
    let called = call(scene.gateway.http, 5_000_000, true);
    assert_eq!(called.text, "cloud 5000000");
    eventually("it is known to be slow", || (!scene.status().contains("suspect\"")).then_some(()));
    let address = scene.gateway.http;
    let unkeyed = std::thread::spawn(move || call(address, 5_000_001, false));
    // Far longer than a hedge waits.
    dawdle(Duration::from_millis(500));
    scene.local.turn(Mood::Well);
    let unkeyed = unkeyed.join().expect("no panic");
    assert_eq!(unkeyed.text, "local 5000001", "it must not be executed twice");
}

/// Asks within this session, or for one: the answer, and the session it is in.
fn ask_within(gateway: &Gateway, basket: Option<&str>) -> (String, Option<String>) {
    let basket = basket.map_or(String::new(), |basket| format!("X-Basket: {basket}\r\n"));
    let reply = gateway.ask(&format!(
        "POST /price HTTP/1.1\r\nHost: pay.example\r\nX-Call: b\r\n{basket}Content-Length: \
         0\r\n\r\n"
    ));
    (reply.text(), reply.header("x-basket").map(str::to_owned))
}

#[test]
fn a_session_stays_where_it_began_until_that_is_out() {
    let persistence = "      sessionPersistence: {type: Header, sessionName: X-Basket}\n      \
                       failover: {holdDown: 300ms, ramp: 0s}\n";
    let mut scene = Scene::new(persistence);
    let (text, basket) = ask_within(&scene.gateway, None);
    assert_eq!(text, "local b");
    let basket = basket.expect("a session begins");
    assert_eq!(ask_within(&scene.gateway, Some(&basket)).0, "local b");
    scene.local.kill();
    scene.wait_for_tier(1);
    let (text, moved) = ask_within(&scene.gateway, Some(&basket));
    let moved = moved.expect("it begins anew");
    assert_eq!(text, "cloud b");
    scene.local.revive();
    let till = scene.till(false);
    scene.wait_for_tier(0);
    drop(till.end());
    assert_eq!(
        ask_within(&scene.gateway, Some(&moved)).0,
        "cloud b",
        "a failback moves no session"
    );
}

#[test]
fn data_that_is_too_old_is_not_used() {
    let scene = Scene::new("      failover: {maxDataAge: 1m}\n");
    scene.local.data_is_old(55);
    eventually("the age is known", || scene.status().contains("dataAgeSeconds\":5").then_some(()));
    assert!(call(scene.gateway.http, 3_000_000, false).text.starts_with("local"));
    scene.local.data_is_old(61);
    scene.wait_for_tier(1);
    assert!(scene.status().contains("data_too_old"), "{}", scene.status());
    assert!(call(scene.gateway.http, 3_000_001, false).text.starts_with("cloud"));
}

#[test]
fn answers_to_calls_say_how_old_the_data_is_too() {
    let scene = Scene::new("      failover: {maxDataAge: 1m}\n");
    scene.local.answers_are_old(61);
    assert!(call(scene.gateway.http, 6_000_000, false).text.starts_with("local"));
    scene.wait_for_tier(1);
    assert!(call(scene.gateway.http, 6_000_001, false).text.starts_with("cloud"));
}

#[test]
fn a_server_that_asks_for_time_gets_it_or_is_not_asked_again() {
    let scene = Scene::new(&format!("{OWN_KEY}      retry: {{codes: [503]}}\n"));
    scene.local.turn(Mood::Failing);
    scene.local.asks_for_time(60);
    let called = call(scene.gateway.http, 7_000_000, true);
    // Half a minute is what the rule gives: who waited would get 504 then.
    assert_eq!(called.status, 503, "its client does not wait for a minute");
    scene.local.asks_for_time(5);
    let asked = std::thread::spawn({
        let address = scene.gateway.http;
        move || call(address, 7_000_001, true)
    });
    let tries = "tillgate_retries_total{route=\"pricing\",reason=\"answer\"}";
    scene.gateway.expect_metric(tries, 1.0);
    scene.local.turn(Mood::Well);
    let called = asked.join().expect("no panic");
    assert_eq!(called.text, "local 7000001");
    let took = called.ended - called.began;
    assert!(took >= Duration::from_secs(5), "{took:?}");
}

/// The policy with a bound on the local backend.
fn bounded(local: &Moody, cloud: &Moody, bound: &str) -> String {
    let check = "  healthCheck:\n";
    policy(local.address, cloud.address, "").replacen(
        check,
        &format!("  circuitBreaker: {bound}\n{check}"),
        1,
    )
}

#[test]
fn a_backend_takes_as_many_calls_as_it_may_and_says_so_at_once() {
    let (local, cloud) = (Moody::start("local"), Moody::start("cloud"));
    let bound = "{maxParallelRequests: 1, maxPendingRequests: 0}";
    let gateway = Gateway::start(compiled(&bounded(&local, &cloud, bound)));
    local.turn(Mood::Holding);
    let address = gateway.http;
    let first = std::thread::spawn(move || call(address, 8_000_000, false));
    eventually("it is executed", || (!local.ledger().is_empty()).then_some(()));
    let mut wire = gateway.wire();
    wire.send("POST /price HTTP/1.1\r\nHost: pay.example\r\nContent-Length: 0\r\n\r\n");
    let refused = wire.reply();
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.text().contains("backend_full"), "{}", refused.text());
    local.turn(Mood::Well);
    assert_eq!(first.join().expect("no panic").text, "local 8000000");
}

#[test]
fn calls_that_queue_for_a_frozen_backend_leave_for_the_next_tier() {
    let (local, cloud) = (Moody::start("local"), Moody::start("cloud"));
    let bound = "{maxParallelRequests: 1, maxPendingRequests: 100}";
    // Those in the queue wait until it is known that the server is out.
    let patient = "---\napiVersion: tillgate.dev/v1alpha1\nkind: TrafficClass\nmetadata: {name: \
                   patient}\nspec: {priority: 300, queue: {maxWait: 30s}}\n";
    let text = bounded(&local, &cloud, bound).replace("Class: payment", "Class: patient") + patient;
    let gateway = Gateway::start(compiled(&text));
    assert!(call(gateway.http, 9_000_000, false).text.starts_with("local"));
    local.turn(Mood::Frozen);
    let address = gateway.http;
    let asked = (1..=20).map(|id| std::thread::spawn(move || call(address, 9_000_000 + id, false)));
    let asked: Vec<_> = asked.collect();
    let calls = Calls(asked.into_iter().map(|call| call.join().expect("no panic")).collect());
    assert!(calls.failed() <= 1, "only the one that had the place: {}", calls.failed());
    assert!(calls.by("cloud") >= 19, "{}", calls.by("cloud"));
    local.turn(Mood::Well);
    assert!(local.ledger().len() <= 2, "{:?}", local.ledger());
}

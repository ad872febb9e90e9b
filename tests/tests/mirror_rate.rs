//! How fast the fetches of a rollout may go: caps, turns, budgets, busy tills, closed windows; and
//! what is fetched before anybody asks.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use tillgate_config::effective::Effective;
use tillgate_core::civil::Timestamp;
use tillgate_core::mirror::MirrorSpec;
use tillgate_core::units::BitRate;
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::mirror::{
    blob_path, bytes, code, compile, folder, freeze, freeze_of, gate_of, get, image, moment,
    policy_of, seconds_now, store, used_before,
};
use tillgate_tests::origin::Origin;
use tillgate_tests::registry::{Registry, Twist};
use tillgate_tests::wire::Wire;

/// A store of one rollout with these fields.
fn braked(
    (registry, folder): (&Registry, &tempfile::TempDir),
    (release, digest): (&str, &str),
    fields: &str,
    documents: &str,
) -> Effective {
    used_before(folder);
    let mut effective = store(registry, folder, |_| ()).digest(release).build();
    effective.gate = gate_of(release, &[("pos/checkout", digest)], fields, documents);
    effective
}

fn rollout(gateway: &Gateway) -> Value {
    let told: Value = serde_json::from_str(&gateway.admin("/v1/rollouts").text()).expect("JSON");
    told["rollouts"][0].clone()
}

/// How long a pull of it takes.
fn pull(gateway: &Gateway, digest: &str, size: usize) -> Duration {
    let before = tillgate_tests::now();
    let reply = get(gateway, &blob_path(digest));
    assert!(reply.complete && reply.body.len() == size, "{} {}", reply.status, reply.body.len());
    tillgate_tests::now() - before
}

#[test]
fn a_cap_holds_for_all_fetches_of_a_rollout_and_no_other() {
    let (registry, folder) = (Registry::start(), folder());
    let (one, two) = (registry.blob(&bytes(1, 400_000)), registry.blob(&bytes(2, 400_000)));
    let config = braked(
        (&registry, &folder),
        ("pos-47", &one),
        "  limits: {rate: {down: 4Mbit/s, up: 1Mbit/s}}\n",
        "",
    );
    let gateway = Gateway::start(config);
    eventually("it is looked at", || (rollout(&gateway)["slowedBy"] == "limit").then_some(()));
    let before = tillgate_tests::now();
    thread::scope(|scope| {
        for one in [&one, &two] {
            scope.spawn(|| pull(&gateway, one, 400_000));
        }
    });
    // 800 KB at 4 Mbit/s are 1.6 s, and no timer is early.
    let both = tillgate_tests::now() - before;
    assert!(both > Duration::from_millis(1_300), "{both:?}");
    // At the cap it would take longer than this test has patience.
    let free = registry.blob(&bytes(3, 32_000_000));
    let path = format!("/v2/other/app/blobs/{free}");
    let before = tillgate_tests::now();
    assert!(get(&gateway, &path).complete);
    assert!(tillgate_tests::now() - before < tillgate_tests::PATIENCE);
}

#[test]
fn a_held_release_trickles_if_the_policy_says_so() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = image(&registry, "pos/checkout", "47", &[bytes(4, 200_000)]);
    let layer = registry.blob(&bytes(4, 200_000));
    let fields = "  whenHeld: {action: Throttle, rate: 2Mbit/s}\n";
    let config = braked((&registry, &folder), ("pos-47", &digest), fields, &freeze(3600));
    let gateway = Gateway::start(config);
    eventually("it is held", || (rollout(&gateway)["slowedBy"] == "held").then_some(()));
    assert_eq!(get(&gateway, "/v2/pos/checkout/manifests/47").status, 200);
    let took = pull(&gateway, &layer, 200_000);
    assert!(took > Duration::from_millis(600), "0.8 s of it: {took:?}");
    let told = rollout(&gateway);
    assert_eq!((&told["gate"], &told["heldBy"][0]), (&"Held".into(), &"Freeze/peak".into()));
}

#[test]
fn fetches_of_a_rollout_wait_for_its_turns_and_can_be_seen() {
    let (registry, folder) = (Registry::start(), folder());
    let blobs: Vec<String> = (0..4u64).map(|seed| registry.blob(&bytes(seed, 3_000))).collect();
    // Nobody is answered before the test has seen who waits.
    let open = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let gate = std::sync::Arc::clone(&open);
    registry.twist(move |_, _| {
        eventually("it is opened", || {
            gate.load(std::sync::atomic::Ordering::Relaxed).then_some(())
        });
        Twist::Honest
    });
    let fields = "  limits: {concurrentPulls: 1}\n";
    let gateway = Gateway::start(braked((&registry, &folder), ("pos-47", &blobs[0]), fields, ""));
    eventually("it is looked at", || (rollout(&gateway)["name"] == "pos").then_some(()));
    thread::scope(|scope| {
        for blob in &blobs {
            scope.spawn(|| pull(&gateway, blob, 3_000));
        }
        gateway.expect_metric(r#"tillgate_rollout_pulls{rollout="pos",state="waiting"}"#, 3.0);
        gateway.expect_metric(r#"tillgate_rollout_pulls{rollout="pos",state="running"}"#, 1.0);
        assert_eq!(rollout(&gateway)["pulls"], serde_json::json!({"running": 1, "waiting": 3}));
        open.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    gateway.expect_metric(r#"tillgate_rollout_pulls{rollout="pos",state="running"}"#, 0.0);
}

#[test]
fn a_days_bytes_on_a_metered_line_are_remembered() {
    let (registry, folder) = (Registry::start(), folder());
    let (one, two) = (registry.blob(&bytes(1, 60_000)), registry.blob(&bytes(2, 60_000)));
    let config = || {
        let fields = "  limits: {meteredBytesPerDay: 50Ki}\n";
        let mut config = braked((&registry, &folder), ("pos-47", &one), fields, "");
        config.links[0].metered = true;
        config
    };
    let gateway = Gateway::start(config());
    pull(&gateway, &one, 60_000);
    let refused = |gateway: &Gateway| {
        let held = get(gateway, &blob_path(&two));
        assert_eq!((held.status, &*code(&held)), (429, "HELD"));
        let text = held.text();
        assert!(text.contains("Rollout/pos limits.meteredBytesPerDay"), "{text}");
    };
    refused(&gateway);
    eventually("it is written down", || {
        let spent = std::fs::read_to_string(folder.path().join("images/spent")).ok()?;
        (spent.contains("60000") && spent.contains("pos ")).then_some(())
    });
    drop(gateway);
    let gateway = Gateway::start(config());
    refused(&gateway);
    // What is here costs nothing, and what is of no rollout has no such bound.
    pull(&gateway, &one, 60_000);
    assert_eq!(get(&gateway, &format!("/v2/other/app/blobs/{two}")).status, 200);
}

#[test]
fn busy_tills_push_bulk_to_its_floor_and_let_it_back() {
    let (registry, folder) = (Registry::start(), folder());
    let till = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let digest = registry.blob(&bytes(1, 1_000));
    let mut config = store(&registry, &folder, |_| ())
        .cloud("pay", "pay.example", "payment", till.address)
        .build();
    let fields = "  pauseWhile: {trafficClass: payment, requestsPerSecond: 10}\n";
    config.gate = gate_of("pos-47", &[("pos/checkout", &digest)], fields, "");
    let gateway = Gateway::start(config);
    eventually("nothing slows it", || {
        let told = rollout(&gateway);
        (told["name"] == "pos" && told["slowedBy"].is_null()).then_some(())
    });
    let mut wire = gateway.wire();
    let told = eventually("bulk is at its floor", || {
        wire.send("POST /pay HTTP/1.1\r\nHost: pay.example\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
        let told = rollout(&gateway);
        (told["slowedBy"] == "busy").then_some(told)
    });
    // 5 % of the line of 1 Gbit/s is the class's guarantee.
    assert_eq!(told["bitsPerSecondMax"], 50_000_000);
    eventually("it comes back", || rollout(&gateway)["slowedBy"].is_null().then_some(()));
}

#[test]
fn a_rollout_that_pauses_holds_what_has_begun_when_its_window_closes() {
    let (registry, folder) = (Registry::start(), folder());
    let (one, two) = (bytes(1, 900_000), bytes(2, 5_000));
    let (first, second) = (registry.blob(&one), registry.blob(&two));
    let digest = image(&registry, "pos/checkout", "47", &[one.clone(), two]);
    let fields = "  onWindowClose: Pause\n  limits: {rate: {down: 2Mbit/s, up: 1Mbit/s}}\n";
    let config = |name: &str, documents: &str| {
        let mut config = braked((&registry, &folder), ("pos-47", &digest), fields, documents);
        config.digest = name.into();
        config
    };
    let gateway = Gateway::start(config("open", ""));
    eventually("it is looked at", || (rollout(&gateway)["slowedBy"] == "limit").then_some(()));
    let mut till = Wire::connect(gateway.listeners["registry"]);
    till.send(format!("GET {} HTTP/1.1\r\nHost: gw\r\n\r\n", blob_path(&first)));
    assert_eq!(till.head().status, 200);
    gateway.control.reload(config("closed", &freeze(3600))).unwrap();
    eventually("it trickles", || (rollout(&gateway)["slowedBy"] == "closed").then_some(()));
    let held = get(&gateway, &blob_path(&second));
    assert_eq!((held.status, &*code(&held)), (429, "HELD"));
    assert!(held.text().contains("Freeze/peak"), "{}", held.text());
    // It opens again, and goes on where it was.
    gateway.control.reload(config("open again", "")).unwrap();
    assert!(till.read_exact(900_000) == one);
    assert_eq!(registry.body_bytes(), 900_000);
}

#[test]
fn an_opened_release_is_fetched_before_anybody_asks_and_a_held_one_is_not() {
    let (registry, folder) = (Registry::start(), folder());
    let layers = [bytes(1, 70_000), bytes(2, 30_000)];
    let digest = image(&registry, "pos/checkout", "47", &layers);
    let config = |name: &str, documents: &str| {
        let mut config =
            braked((&registry, &folder), ("pos-47", &digest), "  prefetch: true\n", documents);
        config.digest = name.into();
        config
    };
    let gateway = Gateway::start(config("frozen", &freeze(3600)));
    eventually("it is held", || (rollout(&gateway)["gate"] == "Held").then_some(()));
    assert_eq!(rollout(&gateway)["images"][0]["state"], "Unknown");
    assert!(registry.asked("").is_empty());
    gateway.control.reload(config("open", "")).unwrap();
    let told = eventually("all of it is here", || {
        let told = rollout(&gateway)["images"][0].clone();
        (told["state"] == "Complete").then_some(told)
    });
    assert_eq!((&told["bytes"], &told["totalBytes"]), (&100_000.into(), &100_000.into()));
    assert_eq!(told["repository"], "pos/checkout");
    gateway.expect_metric(r#"tillgate_rollout_image_bytes{rollout="pos",state="here"}"#, 100_000.0);
    let before = registry.asked("").len();
    for layer in &layers {
        let layer = tillgate_net::mirror::digest_of(layer).to_string();
        assert_eq!(get(&gateway, &blob_path(&layer)).status, 200);
    }
    assert_eq!((registry.asked("").len(), registry.body_bytes()), (before, 100_000));
    let fleet = tillgate::cli::ask(
        ["tillgate", "rollouts", "--admin", &gateway.admin.to_string()].map(Into::into),
    );
    let fleet = fleet.expect("a command");
    assert_eq!(fleet.code, 0, "{}", fleet.stderr);
    assert!(fleet.stdout.contains("pos-47") && fleet.stdout.contains("100 %"), "{}", fleet.stdout);
}

#[test]
fn after_a_freeze_a_store_with_a_ramp_begins_in_its_own_turn_and_lets_clients_in_at_once() {
    let (registry, folder) = (Registry::start(), folder());
    let layer = bytes(1, 70_000);
    let digest = image(&registry, "pos/checkout", "47", std::slice::from_ref(&layer));
    used_before(&folder);
    let config = |name: &str, ended: i64| {
        let freeze = freeze_of("{rollouts: ['*']}", Timestamp(seconds_now() - ended));
        let fields = format!("  prefetch: true\n  releasedAt: '{}'\n", moment(-10 * 86_400));
        let text = policy_of("pos-48", &[("pos/checkout", &digest)], &fields, &freeze);
        // Of 24 hours this store's part is far more than a minute's.
        let text = text.replace("storeSelector: {}}", "storeSelector: {}, ramp: {over: 24h}}");
        let mut effective = store(&registry, &folder, |_| ()).digest(name).build();
        effective.gate = compile(&text).gate;
        effective
    };
    let gateway = Gateway::start(config("lately", 5));
    let told =
        eventually("it is open", || Some(rollout(&gateway)).filter(|told| told["gate"] == "Open"));
    assert!(told["prefetchFrom"].is_string() && told["prefetching"] == false, "{told}");
    let asked = || registry.asked("").len();
    assert_eq!(asked(), 0);
    // Whoever asks does not wait.
    assert_eq!(get(&gateway, &format!("/v2/pos/checkout/manifests/{digest}")).status, 200);
    assert_eq!(asked(), 1, "nothing is fetched ahead yet");
    gateway.control.reload(config("long ago", 31 * 60)).unwrap();
    eventually("all of it is here", || {
        (rollout(&gateway)["images"][0]["state"] == "Complete").then_some(())
    });
    assert!(rollout(&gateway)["prefetchFrom"].is_null());
}

#[test]
fn a_store_that_is_rebuilt_has_no_cap_until_it_runs_something() {
    let (registry, folder, other) =
        (Registry::start(), folder(), tempfile::TempDir::new().unwrap());
    let digest = image(&registry, "pos/checkout", "47", &[bytes(1, 70_000)]);
    let limits = "  limits: {rate: {down: 4Mbit/s, up: 1Mbit/s}}\n";
    let empty = || {
        let mut effective = store(&registry, &other, |_| ()).build();
        effective.gate = gate_of("pos-47", &[("pos/checkout", &digest)], limits, "");
        effective
    };
    let rebuilt = Gateway::start(empty());
    let told = eventually("it is looked at", || {
        Some(rollout(&rebuilt)).filter(|told| told["gate"] == "Open")
    });
    assert!(told["slowedBy"].is_null() && told["bitsPerSecondMax"].is_null(), "{told}");
    let used = Gateway::start(braked((&registry, &folder), ("pos-47", &digest), limits, ""));
    eventually("others have one", || (rollout(&used)["slowedBy"] == "limit").then_some(()));
}

#[test]
fn a_cap_of_what_goes_into_the_store_is_no_cap_of_the_line() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.blob(&bytes(9, 500_000));
    let slow = |spec: &mut MirrorSpec| spec.serves.rate = Some(BitRate::from_mbit(4));
    let gateway = Gateway::start(store(&registry, &folder, slow).build());
    let mut till = Wire::connect(gateway.listeners["registry"]);
    till.send(format!("GET {} HTTP/1.1\r\nHost: gw\r\n\r\n", blob_path(&digest)));
    assert_eq!(till.head().status, 200);
    // A second of it, while the fetch is long done.
    gateway.expect_metric("tillgate_mirror_blobs", 1.0);
    assert_eq!(till.read_exact(500_000).len(), 500_000);
}

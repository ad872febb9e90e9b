//! Pulls through the registry mirror: fetched once, resumed, checked. A registry that lies never
//! makes a client take a wrong image for complete, and who reads slowly or leaves harms nobody.

use std::thread;
use std::time::Duration;

use tillgate_core::mirror::MirrorSpec;
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::mirror::{
    OneBlob, ask_with, blob_path, bytes, folder, get, served, start, store,
};
use tillgate_tests::registry::{Registry, Twist};
use tillgate_tests::wire::Wire;

/// Large enough to be on its way for some time, and never a multiple of anything.
const SIZE: usize = 1_500_007;

#[test]
fn thirty_tills_cost_the_line_one_image() {
    let scene = OneBlob::new(1, SIZE);
    let OneBlob { registry, gateway, .. } = &scene;
    thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                let reply = scene.pull();
                assert!(reply.complete && reply.status == 200);
                assert!(reply.body == scene.content, "not the blob");
                assert_eq!(reply.header("docker-content-digest"), Some(&*scene.digest));
            });
        }
    });
    assert_eq!(registry.body_bytes(), SIZE as u64);
    assert_eq!(registry.asked("/blobs/").len(), 1);
    gateway.expect_metric("tillgate_mirror_fetched_bytes_total", SIZE as f64);
    eventually("it is in its place", || {
        (gateway.metric("tillgate_mirror_blobs") > 0.0).then_some(())
    });
    scene.pull_whole();
    gateway.expect_metric("tillgate_mirror_cache_bytes", SIZE as f64);
    assert!(gateway.metric(&served("hit")) >= 1.0);
    assert_eq!(registry.body_bytes(), SIZE as u64);
}

#[test]
fn parts_heads_and_what_the_client_has_are_answered_from_disk() {
    let scene = OneBlob::new(2, 100_000);
    let OneBlob { gateway, content, digest, .. } = &scene;
    let ask = |method, fields: &str| ask_with(gateway, method, &scene.path(), fields);
    assert_eq!(ask("HEAD", "").header("content-length"), Some("100000"));
    let part = ask("GET", "Range: bytes=10-19\r\n");
    assert_eq!((part.status, &part.body[..]), (206, &content[10..20]));
    assert_eq!(part.header("content-range"), Some("bytes 10-19/100000"));
    let end = ask("GET", "Range: bytes=-5\r\n");
    assert_eq!((end.status, &end.body[..]), (206, &content[99_995..]));
    let beyond = ask("GET", "Range: bytes=100000-\r\n");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */100000")));
    let known = ask("GET", &format!("If-None-Match: \"{digest}\"\r\n"));
    assert_eq!((known.status, known.body.len()), (304, 0));
    let base = get(gateway, "/v2/");
    assert_eq!(
        (base.status, base.header("docker-distribution-api-version")),
        (200, Some("registry/2.0"))
    );
}

#[test]
fn a_cut_is_resumed_and_no_byte_comes_twice() {
    let scene = OneBlob::new(3, SIZE);
    let OneBlob { registry, gateway, .. } = &scene;
    registry.twist(|_, number| match number {
        0 => Twist::Cut(700_000),
        1 => Twist::Close,
        2 => Twist::Cut(300_001),
        _ => Twist::Honest,
    });
    scene.pull_whole();
    assert_eq!(registry.body_bytes(), SIZE as u64);
    let asked = registry.asked("/blobs/");
    let ranges: Vec<Option<&str>> = asked.iter().map(|request| request.header("range")).collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=700000-"), Some("bytes=700000-"), Some("bytes=1000001-")]
    );
    gateway.expect_metric("tillgate_mirror_resumes_total", 3.0);
    gateway.expect_metric("tillgate_mirror_repeated_bytes_total", 0.0);
}

#[test]
fn a_registry_without_ranges_still_ends_right() {
    let scene = OneBlob::new(4, 400_000);
    scene.registry.twist(|_, number| if number == 0 { Twist::Cut(150_000) } else { Twist::Whole });
    scene.pull_whole();
    scene.gateway.expect_metric("tillgate_mirror_repeated_bytes_total", 150_000.0);
}

#[test]
fn a_gateway_that_died_goes_on_where_it_was() {
    let mut scene = OneBlob::new(5, SIZE);
    scene.registry.twist(|_, number| if number == 0 { Twist::Cut(900_000) } else { Twist::Close });
    let mut till = scene.begin_pull();
    assert_eq!(till.read_exact(900_000), scene.content[..900_000]);
    scene.gateway.control.stop();
    scene.gateway.ended();
    let rest = till.read_to_end().unwrap_or_else(|rest| rest);
    assert!(900_000 + rest.len() < SIZE, "a pull that was cut looks complete");
    scene.registry.be_honest();
    scene.gateway = start(&scene.registry, &scene.folder);
    scene.pull_whole();
    assert_eq!(scene.registry.body_bytes(), SIZE as u64);
}

#[test]
fn a_lying_registry_never_yields_a_complete_pull() {
    let scene = OneBlob::new(6, 300_000);
    let OneBlob { registry, gateway, .. } = &scene;
    let mut lies = 0.0;
    for twist in [Twist::Corrupt, Twist::Short(1), Twist::Short(299_999)] {
        registry.twist(move |_, _| twist.clone());
        let reply = scene.pull();
        assert!(!reply.complete || reply.status == 502, "{} {}", reply.status, reply.body.len());
        lies += 1.0;
        gateway.expect_metric("tillgate_mirror_mismatches_total", lies);
        gateway.expect_metric("tillgate_mirror_blobs", 0.0);
    }
    registry.be_honest();
    scene.pull_whole();
}

#[test]
fn what_nobody_waits_for_is_given_up_if_the_policy_says_so() {
    const SIZE: usize = 300_000;
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(8, SIZE);
    let digest = registry.blob(&content);
    // It would take minutes.
    registry.twist(|_, _| Twist::Cut(1_000));
    let abandons = |spec: &mut MirrorSpec| spec.fetches.abandon = Some(Duration::from_millis(1));
    let gateway = Gateway::start(store(&registry, &folder, abandons).build());
    let mut wire = Wire::connect(gateway.listeners["registry"]);
    wire.send(format!("GET {} HTTP/1.1\r\nHost: gw\r\n\r\n", blob_path(&digest)));
    assert_eq!(wire.head().status, 200);
    let asked = registry.asked("").len();
    eventually("it goes on while somebody waits", || {
        (registry.asked("").len() > asked + 1).then_some(())
    });
    wire.reset();
    gateway.expect_metric(r#"tillgate_mirror_fetches{state="running"}"#, 0.0);
    assert!(registry.body_bytes() < SIZE as u64);
    registry.be_honest();
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content, "{}", reply.line);
    assert_eq!(registry.body_bytes(), SIZE as u64, "it is gone on with");
}

#[test]
fn a_slow_reader_slows_nobody_and_leaving_ends_nothing() {
    let scene = OneBlob::new(7, 6_000_000);
    let mut slow = scene.begin_pull();
    // It reads nothing more; another one leaves in the middle.
    scene.begin_pull().reset();
    scene.pull_whole();
    assert_eq!(scene.registry.body_bytes(), 6_000_000);
    assert!(slow.read_exact(6_000_000) == scene.content);
}

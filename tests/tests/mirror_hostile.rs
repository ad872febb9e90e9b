//! The mirror on bad days: hostile names, crowds, bounds that are met, and disks that are somebody
//! else's.

use std::io::Read as _;
use std::thread;
use std::time::Duration;

use tillgate_tests::gateway::Gateway;
use tillgate_tests::mirror::{ask_with, blob_path, bytes, code, folder, get, served, start, store};
use tillgate_tests::registry::{Registry, Twist};
use tillgate_tests::wire::Wire;

#[test]
fn hostile_requests_are_refused_before_they_are_asked_for() {
    let (registry, folder) = (Registry::start(), folder());
    let gateway = start(&registry, &folder);
    let digest = format!("sha256:{}", "ab".repeat(32));
    let long = "a".repeat(300);
    for (path, status, expected) in [
        ("/v2/../../etc/passwd/manifests/a", 400, "NAME_INVALID"),
        ("/v2/a/%2e%2e/manifests/a", 400, "NAME_INVALID"),
        ("/v2/UPPER/manifests/a", 400, "NAME_INVALID"),
        (&format!("/v2/{long}/manifests/a"), 400, "NAME_INVALID"),
        ("/v2/a/manifests/..", 400, "MANIFEST_INVALID"),
        ("/v2/a/blobs/sha256:00", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/../../x", 405, "UNSUPPORTED"),
        ("/v2/_catalog", 405, "UNSUPPORTED"),
        ("/", 405, "UNSUPPORTED"),
        (&format!("/v2/a/blobs/{digest}?ns=other.example"), 404, "NAME_UNKNOWN"),
    ] {
        let reply = get(&gateway, path);
        assert_eq!((reply.status, &*code(&reply)), (status, expected), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let fields = "Content-Length: 0\r\n";
        let reply = ask_with(&gateway, method, &format!("/v2/a/blobs/{digest}"), fields);
        assert_eq!((reply.status, &*code(&reply)), (405, "UNSUPPORTED"));
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
    assert!(registry.asked("").is_empty());
}

#[test]
fn a_disk_that_another_process_has_stops_caching_and_no_pull() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(10, 300_000);
    let digest = registry.blob(&content);
    let first = start(&registry, &folder);
    let second = start(&registry, &folder);
    second.expect_metric("tillgate_mirror_caching", 0.0);
    for round in 1..=2 {
        let reply = get(&second, &blob_path(&digest));
        assert!(reply.complete && reply.body == content);
        assert_eq!(registry.body_bytes(), round * 300_000);
    }
    second.expect_metric(&served("past_disk"), 2.0);
    registry.twist(|_, _| Twist::Corrupt);
    let wrong = get(&second, &blob_path(&digest));
    assert!(!wrong.complete && wrong.body.len() < 300_000);
    drop(first);
}

#[test]
fn hundreds_at_once_for_one_blob_and_for_as_many() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(11, 40_000);
    let digest = registry.blob(&content);
    let each: Vec<String> =
        (0..200u64).map(|seed| registry.blob(&bytes(seed + 100, 2000))).collect();
    let gateway = start(&registry, &folder);
    let address = gateway.listeners["registry"];
    let open = |path: String| {
        let mut wire = Wire::connect(address);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n"));
        wire
    };
    let mut one: Vec<Wire> = (0..200).map(|_| open(blob_path(&digest))).collect();
    let mut many: Vec<Wire> = each.iter().map(|digest| open(blob_path(digest))).collect();
    assert!(one.iter_mut().all(|wire| wire.reply().body == content));
    for wire in &mut many {
        let reply = wire.reply();
        assert!(reply.complete && reply.body.len() == 2000, "{reply:?}");
    }
    assert_eq!(registry.body_bytes(), 40_000 + 200 * 2000);
    gateway.expect_metric(r#"tillgate_mirror_fetches{state="running"}"#, 0.0);
    gateway.expect_metric(r#"tillgate_mirror_fetches{state="waiting"}"#, 0.0);
}

#[test]
fn too_many_waiting_fetches_and_late_first_bytes_are_told_to_come_again() {
    let (registry, folder) = (Registry::start(), folder());
    let digests: Vec<String> = (0..3u8).map(|seed| registry.blob(&[seed; 100])).collect();
    // It never answers.
    registry.twist(|_, _| Twist::Say(String::new()));
    let gateway = Gateway::start(
        store(&registry, &folder, |spec| {
            (spec.fetches.running_max, spec.fetches.waiting_max) = (1, 1);
            spec.fetches.first_byte = Duration::from_millis(300);
        })
        .build(),
    );
    let mut wires: Vec<Wire> = Vec::new();
    for (digest, running, waiting) in [(&digests[0], 1.0, 0.0), (&digests[1], 1.0, 1.0)] {
        let mut wire = Wire::connect(gateway.listeners["registry"]);
        wire.send(format!("GET {} HTTP/1.1\r\nHost: gw\r\n\r\n", blob_path(digest)));
        wires.push(wire);
        gateway.expect_metric(r#"tillgate_mirror_fetches{state="running"}"#, running);
        gateway.expect_metric(r#"tillgate_mirror_fetches{state="waiting"}"#, waiting);
    }
    let full = get(&gateway, &blob_path(&digests[2]));
    assert_eq!((full.status, &*code(&full)), (429, "TOOMANYREQUESTS"));
    assert!(full.text().contains("maxWaiting"), "{}", full.text());
    for wire in &mut wires {
        let late = wire.reply();
        assert_eq!((late.status, &*code(&late)), (429, "TOOMANYREQUESTS"));
        assert!(late.header("retry-after").is_some());
    }
}

#[test]
fn a_directory_of_somebody_else_is_a_clear_error_at_the_start() {
    let (registry, folder) = (Registry::start(), folder());
    let directory = folder.path().join("images");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("letters.txt"), "dear").unwrap();
    let Err(error) = tillgate::build(store(&registry, &folder, |_| ()).build()) else {
        panic!("it starts in somebody's letters");
    };
    assert!(error.to_string().contains("no image cache"), "{error}");
    let mut letters = String::new();
    let file = std::fs::File::open(directory.join("letters.txt"));
    file.unwrap().read_to_string(&mut letters).unwrap();
    assert_eq!(letters, "dear");
}

#[test]
fn what_is_sent_into_the_store_keeps_its_rate_and_its_turns() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(12, 1_000_000);
    let digest = registry.blob(&content);
    let gateway = Gateway::start(
        store(&registry, &folder, |spec| {
            spec.serves.rate = Some(tillgate_core::units::BitRate::from_mbit(20));
            spec.serves.running_max = Some(2);
        })
        .build(),
    );
    let before = tillgate_tests::now();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let reply = get(&gateway, &blob_path(&digest));
                assert!(reply.complete && reply.body == content, "{}", reply.status);
            });
        }
    });
    // 3 MB at 20 Mbit/s are 1.2 s, and no timer is early.
    let took = tillgate_tests::now() - before;
    assert!(took >= Duration::from_millis(1000), "{took:?}");
    gateway.expect_metric(r#"tillgate_mirror_pulls{state="running"}"#, 0.0);
}

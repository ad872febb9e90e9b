//! The mirror on bad days: hostile names, crowds, bounds that are met, and disks that are somebody
//! else's.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use tillgate_core::mirror::MirrorSpec;
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2::Client;
use tillgate_tests::mirror::{
    ask_with, blob_path, bytes, code, folder, freeze, gate, get, served, start, store,
};
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
        ("/v2/p%C3%B6s/manifests/a", 400, "NAME_INVALID"),
        ("/v2/a/manifests/%F0%9F%8D%95", 400, "MANIFEST_INVALID"),
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
    // Bytes that no path has are no HTTP, whoever is asked.
    assert_eq!(get(&gateway, "/v2/p\u{f6}s/manifests/a").status, 400);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let fields = "Content-Length: 0\r\n";
        let reply = ask_with(&gateway, method, &format!("/v2/a/blobs/{digest}"), fields);
        assert_eq!((reply.status, &*code(&reply)), (405, "UNSUPPORTED"));
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
    assert!(registry.asked("").is_empty());
}

#[test]
fn a_client_that_never_ends_its_question_is_cut_off() {
    let (registry, folder) = (Registry::start(), folder());
    let mut impatient = store(&registry, &folder, |_| ()).build();
    for spec in impatient.listeners.iter_mut().filter(|spec| &*spec.name == "registry") {
        spec.limits.header_timeout = Duration::from_millis(300);
    }
    let gateway = Gateway::start(impatient);
    let mut wire = Wire::connect(gateway.listeners["registry"]);
    wire.send("GET /v2/pos/checkout/tags/list HTTP/1.1\r\nHost: gw\r\nX-Slow: ");
    drop(wire.read_to_end());
    gateway.expect_metric(r#"tillgate_connections_timed_out_total{listener="registry"}"#, 1.0);
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

/// A gateway whose cache is to be in `directory`, which cannot be: it pulls all the same, keeps
/// nothing and says why.
fn past(directory: &Path, why: &str) -> Gateway {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(14, 200_000);
    let digest = registry.blob(&content);
    let gateway = Gateway::start(
        store(&registry, &folder, |spec| spec.cache.directory = directory.into()).build(),
    );
    for _ in 0..2 {
        let reply = get(&gateway, &blob_path(&digest));
        assert!(reply.complete && reply.body == content, "{}", reply.status);
    }
    assert_eq!(registry.body_bytes(), 400_000, "nothing is kept");
    gateway.expect_metric("tillgate_mirror_caching", 0.0);
    gateway.expect_metric(&served("past_disk"), 2.0);
    let told = gateway.admin("/v1/rollouts").text();
    assert!(told.contains(why), "{told}");
    registry.twist(|_, _| Twist::Corrupt);
    assert!(!get(&gateway, &blob_path(&digest)).complete, "it is checked all the same");
    gateway
}

#[test]
fn a_directory_with_other_things_is_left_alone_and_stops_no_pull() {
    let folder = folder();
    let letters = folder.path().join("letters.txt");
    std::fs::write(&letters, "dear").unwrap();
    let gateway = past(folder.path(), "no image cache and not empty");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was written there: {left:?}");
    assert_eq!(std::fs::read_to_string(&letters).unwrap(), "dear");
    std::fs::remove_file(&letters).unwrap();
    gateway.expect_metric("tillgate_mirror_caching", 1.0);
    assert!(gateway.admin("/v1/rollouts").text().contains(r#""why":null"#));
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

/// Bytes of memory that this process has in use.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("a process has some");
    let pages: u64 = text.split(' ').nth(1).expect("a second word").parse().expect("a number");
    pages * 4096
}

/// So many requests at the same time, over a hundred connections; the statuses, and what they were
/// answered with if that is the same for all of a status.
fn crowd(gateway: &Gateway, paths: &[String]) -> BTreeMap<u16, usize> {
    let address = gateway.listeners["registry"];
    let all = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for paths in paths.chunks(paths.len() / 100) {
            let all = &all;
            scope.spawn(move || {
                let request = |path: &String| {
                    let uri = format!("http://gw{path}");
                    Request::get(uri).body(Full::default()).expect("a request")
                };
                let answers = Client::connect(address).ask_all(paths.iter().map(request).collect());
                let mut all = all.lock().expect("no panic");
                for answer in answers {
                    assert!(answer.complete);
                    *all.entry(answer.head.status.as_u16()).or_default() += 1;
                }
            });
        }
    });
    all.into_inner().expect("no panic")
}

/// What one request more may cost in memory, client included: the product, not the crowd, decides
/// how large it gets.
const BYTES_A_REQUEST: u64 = 30_000;

#[test]
fn ten_thousand_at_once_for_one_blob_are_one_fetch() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.blob(&bytes(11, 4_000));
    let gateway = start(&registry, &folder);
    let before = resident();
    let answers = crowd(&gateway, &vec![blob_path(&digest); 10_000]);
    assert_eq!(answers, BTreeMap::from([(200, 10_000)]));
    assert_eq!(registry.body_bytes(), 4_000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 10_000 * BYTES_A_REQUEST, "{grown} bytes more");
}

#[test]
fn ten_thousand_at_once_for_as_many_blobs_wait_in_a_bounded_queue() {
    let (registry, folder) = (Registry::start(), folder());
    // It never answers.
    registry.twist(|_, _| Twist::Say(String::new()));
    let gateway = Gateway::start(
        store(&registry, &folder, |spec| {
            (spec.fetches.running_max, spec.fetches.waiting_max) = (4, 1000);
            spec.fetches.first_byte = Duration::from_secs(3);
        })
        .build(),
    );
    let digest = |number: u64| tillgate_net::mirror::digest_of(&number.to_le_bytes()).to_string();
    let paths: Vec<String> = (0..10_000).map(|number| blob_path(&digest(number))).collect();
    let before = resident();
    assert_eq!(crowd(&gateway, &paths), BTreeMap::from([(429, 10_000)]));
    let grown = resident().saturating_sub(before);
    assert!(grown < 10_000 * BYTES_A_REQUEST, "{grown} bytes more");
    gateway.expect_metric(r#"tillgate_mirror_fetches{state="waiting"}"#, 1000.0);
    gateway.expect_metric(r#"tillgate_mirror_fetches{state="running"}"#, 4.0);
    let refused = gateway.metric(r#"tillgate_mirror_refusals_total{code="TOOMANYREQUESTS"}"#);
    assert!((refused - 10_000.0).abs() < 1e-9, "{refused}");
}

#[test]
fn ten_thousand_at_once_for_one_held_manifest_are_told_when_and_hold_up_nobody() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":2}"#);
    let content = bytes(15, 4_000);
    let blob = registry.blob(&content);
    let mut effective = store(&registry, &folder, |_| ()).build();
    effective.gate = gate(&[("pos/checkout", &digest)], &freeze(3600));
    let gateway = Gateway::start(effective);
    let path = format!("/v2/pos/checkout/manifests/{digest}");
    thread::scope(|scope| {
        let crowd = scope.spawn(|| crowd(&gateway, &vec![path.clone(); 10_000]));
        while !crowd.is_finished() {
            let reply = get(&gateway, &blob_path(&blob));
            assert!(reply.complete && reply.body == content, "{}", reply.status);
        }
        let answers = crowd.join().expect("no panic");
        assert_eq!(answers, BTreeMap::from([(429, 10_000)]));
    });
    let held = r#"tillgate_gate_held_total{rollout="pos",held_by="Freeze/peak"}"#;
    gateway.expect_metric(held, 10_000.0);
    let told = get(&gateway, &path).text();
    assert!(told.contains(r#""nextOpen":"2"#), "{told}");
    assert!(registry.asked("/manifests/").is_empty());
}

/// When somebody goes away.
#[derive(Clone, Copy, Debug)]
enum Goes {
    Never,
    AtOnce,
    InTheMiddle,
    BeforeTheLastByte,
}

const GOES: [Goes; 4] = [Goes::Never, Goes::AtOnce, Goes::InTheMiddle, Goes::BeforeTheLastByte];

#[test]
fn whoever_goes_away_whenever_leaves_the_cache_right() {
    for seed in 1..=2 {
        let mut draw = fastrand::Rng::with_seed(seed);
        let (registry, folder) = (Registry::start(), folder());
        let pairs = GOES.iter().flat_map(|till| GOES.map(|upstream| (*till, upstream)));
        let days: Vec<_> = pairs
            .map(|pair| {
                let size = draw.usize(50_000..400_000);
                let content = bytes(draw.u64(..), size);
                (pair, registry.blob(&content), content, draw.usize(1..size), draw.usize(1..size))
            })
            .collect();
        let cuts: BTreeMap<String, Twist> = days
            .iter()
            .map(|((_, upstream), digest, content, _, at)| {
                let twist = match upstream {
                    Goes::Never => Twist::Honest,
                    Goes::AtOnce => Twist::Close,
                    Goes::InTheMiddle => Twist::Cut(*at),
                    Goes::BeforeTheLastByte => Twist::Cut(content.len() - 1),
                };
                (digest.clone(), twist)
            })
            .collect();
        let seen = Mutex::new(std::collections::BTreeSet::new());
        registry.twist(move |request, _| {
            let cut = cuts.iter().find(|(digest, _)| request.line.contains(&**digest));
            let (digest, twist) = cut.expect("a blob of this day");
            // Only the first time: what is tried again ends.
            let is_first = seen.lock().expect("no panic").insert(digest.clone());
            if is_first { twist.clone() } else { Twist::Honest }
        });
        let gateway = start(&registry, &folder);
        thread::scope(|scope| {
            for ((till, upstream), digest, content, at, _) in &days {
                let gateway = &gateway;
                scope.spawn(move || {
                    let path = blob_path(digest);
                    let mut wire = Wire::connect(gateway.listeners["registry"]);
                    wire.send(format!("GET {path} HTTP/1.1\r\nHost: gw\r\n\r\n"));
                    let upto = match till {
                        Goes::Never => content.len(),
                        Goes::AtOnce => 0,
                        Goes::InTheMiddle => *at,
                        Goes::BeforeTheLastByte => content.len() - 1,
                    };
                    if upto > 0 {
                        assert_eq!(wire.head().status, 200, "{till:?} {upstream:?}");
                        assert!(wire.read_exact(upto) == content[..upto], "{till:?} {upstream:?}");
                    }
                    wire.reset();
                    let reply = get(gateway, &path);
                    assert!(reply.complete && reply.body == *content, "{till:?} {upstream:?}");
                });
            }
        });
        gateway.expect_metric("tillgate_mirror_blobs", 16.0);
        gateway.expect_metric("tillgate_mirror_repeated_bytes_total", 0.0);
        let all: usize = days.iter().map(|(_, _, content, _, _)| content.len()).sum();
        assert_eq!(registry.body_bytes(), all as u64, "seed {seed}");
        registry.twist(|_, _| Twist::Close);
        for (pair, digest, content, _, _) in &days {
            let reply = get(&gateway, &blob_path(digest));
            assert!(reply.complete && reply.body == *content, "seed {seed}, {pair:?}");
        }
    }
}

#[test]
fn a_cache_of_another_user_is_not_touched_and_stops_no_pull() {
    let folder = folder();
    let ours = std::fs::metadata(folder.path()).unwrap().uid();
    // Who may not give it away has one that is somebody else's: the root's.
    let given = chown(folder.path(), Some(65_534), None).is_ok();
    let somebodys = if given { folder.path() } else { Path::new("/usr") };
    let gateway = past(somebodys, "belongs to the user");
    if given {
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        chown(folder.path(), Some(ours), None).unwrap();
        gateway.expect_metric("tillgate_mirror_caching", 1.0);
    }
}

#[test]
fn a_full_disk_stops_caching_and_no_pull() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(13, 300_000);
    let digest = registry.blob(&content);
    let full = |spec: &mut MirrorSpec| spec.cache.free_bytes_min = u64::MAX / 2;
    let gateway = Gateway::start(store(&registry, &folder, full).build());
    for _ in 0..2 {
        let reply = get(&gateway, &blob_path(&digest));
        assert!(reply.complete && reply.body == content, "{}", reply.status);
    }
    gateway.expect_metric("tillgate_mirror_blobs", 0.0);
    assert!(gateway.metric(&served("past_disk")) >= 1.0);
    registry.twist(|_, _| Twist::Corrupt);
    assert!(!get(&gateway, &blob_path(&digest)).complete);
    registry.be_honest();
    let room = store(&registry, &folder, |_| ()).digest("sha256:room").build();
    gateway.control.reload(room).unwrap();
    eventually("it is kept again", || {
        get(&gateway, &blob_path(&digest));
        (gateway.metric("tillgate_mirror_blobs") > 0.0).then_some(())
    });
}

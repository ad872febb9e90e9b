//! Pulls through the registry mirror: fetched once, resumed, checked, and answered when the
//! registry is away. A registry that lies never makes a client take a wrong image for complete.

use std::io::Read as _;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::Gate;
use tillgate_core::mirror::{Direct, Login, MirrorSpec, Unknown};
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::registry::{Registry, Twist};
use tillgate_tests::store::Store;
use tillgate_tests::wire::{Reply, Wire};

/// Large enough to be on its way for some time, and never a multiple of anything.
const SIZE: usize = 1_500_007;

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..size).map(next).collect()
}

fn store(registry: &Registry, folder: &TempDir, change: impl FnOnce(&mut MirrorSpec)) -> Store {
    let directory = folder.path().join("images");
    Store::default()
        .backend("registry", Location::Cloud, BackendProtocol::Http, registry.address)
        .mirror("docker.io", &directory, |spec| {
            spec.fetches.stall = Duration::from_secs(2);
            change(spec);
        })
}

fn start(registry: &Registry, folder: &TempDir) -> Gateway {
    Gateway::start(store(registry, folder, |_| ()).build())
}

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

fn ask_with(gateway: &Gateway, method: &str, path: &str, fields: &str) -> Reply {
    let mut wire = Wire::connect(gateway.listeners["registry"]);
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n{fields}\r\n"));
    if method == "HEAD" { wire.head() } else { wire.reply() }
}

fn get(gateway: &Gateway, path: &str) -> Reply {
    ask_with(gateway, "GET", path, "")
}

fn blob_path(digest: &str) -> String {
    format!("/v2/pos/checkout/blobs/{digest}")
}

/// The code of an OCI error.
fn code(reply: &Reply) -> String {
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    let text = reply.text();
    let rest = text.split("\"code\":\"").last().expect("a code");
    rest.split('"').next().expect("a closing quote").to_owned()
}

fn served(result: &str) -> String {
    format!(r#"tillgate_mirror_requests_total{{result="{result}"}}"#)
}

#[test]
fn thirty_tills_cost_the_line_one_image() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(1, SIZE);
    let digest = registry.blob(&content);
    let gateway = start(&registry, &folder);
    thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                let reply = get(&gateway, &blob_path(&digest));
                assert!(reply.complete && reply.status == 200);
                assert!(reply.body == content, "not the blob");
                assert_eq!(reply.header("docker-content-digest"), Some(&*digest));
            });
        }
    });
    assert_eq!(registry.body_bytes(), SIZE as u64);
    assert_eq!(registry.asked("/blobs/").len(), 1);
    gateway.expect_metric("tillgate_mirror_fetched_bytes_total", SIZE as f64);
    eventually("it is in its place", || {
        (gateway.metric("tillgate_mirror_blobs") > 0.0).then_some(())
    });
    let again = get(&gateway, &blob_path(&digest));
    assert!(again.body == content);
    gateway.expect_metric("tillgate_mirror_cache_bytes", SIZE as f64);
    assert!(gateway.metric(&served("hit")) >= 1.0);
    assert_eq!(registry.body_bytes(), SIZE as u64);
}

#[test]
fn parts_heads_and_what_the_client_has_are_answered_from_disk() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(2, 100_000);
    let digest = registry.blob(&content);
    let gateway = start(&registry, &folder);
    let path = blob_path(&digest);
    assert_eq!(ask_with(&gateway, "HEAD", &path, "").header("content-length"), Some("100000"));
    let part = ask_with(&gateway, "GET", &path, "Range: bytes=10-19\r\n");
    assert_eq!((part.status, &part.body[..]), (206, &content[10..20]));
    assert_eq!(part.header("content-range"), Some("bytes 10-19/100000"));
    let end = ask_with(&gateway, "GET", &path, "Range: bytes=-5\r\n");
    assert_eq!((end.status, &end.body[..]), (206, &content[99_995..]));
    let beyond = ask_with(&gateway, "GET", &path, "Range: bytes=100000-\r\n");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */100000")));
    let known = ask_with(&gateway, "GET", &path, &format!("If-None-Match: \"{digest}\"\r\n"));
    assert_eq!((known.status, known.body.len()), (304, 0));
    let base = get(&gateway, "/v2/");
    assert_eq!(
        (base.status, base.header("docker-distribution-api-version")),
        (200, Some("registry/2.0"))
    );
}

#[test]
fn a_cut_is_resumed_and_no_byte_comes_twice() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(3, SIZE);
    let digest = registry.blob(&content);
    registry.twist(|_, number| match number {
        0 => Twist::Cut(700_000),
        1 => Twist::Close,
        2 => Twist::Cut(300_001),
        _ => Twist::Honest,
    });
    let gateway = start(&registry, &folder);
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content);
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
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(4, 400_000);
    let digest = registry.blob(&content);
    registry.twist(|_, number| if number == 0 { Twist::Cut(150_000) } else { Twist::Whole });
    let gateway = start(&registry, &folder);
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content);
    gateway.expect_metric("tillgate_mirror_repeated_bytes_total", 150_000.0);
}

#[test]
fn a_gateway_that_died_goes_on_where_it_was() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(5, SIZE);
    let digest = registry.blob(&content);
    registry.twist(|_, number| if number == 0 { Twist::Cut(900_000) } else { Twist::Close });
    let gateway = start(&registry, &folder);
    let mut till = Wire::connect(gateway.listeners["registry"]);
    till.send(format!("GET {} HTTP/1.1\r\nHost: gw\r\n\r\n", blob_path(&digest)));
    assert_eq!(till.head().status, 200);
    assert_eq!(till.read_exact(900_000), content[..900_000]);
    drop(gateway);
    let rest = till.read_to_end().unwrap_or_else(|rest| rest);
    assert!(900_000 + rest.len() < SIZE, "a pull that was cut looks complete");
    registry.be_honest();
    let gateway = start(&registry, &folder);
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content);
    assert_eq!(registry.body_bytes(), SIZE as u64);
}

#[test]
fn a_lying_registry_never_yields_a_complete_pull() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(6, 300_000);
    let digest = registry.blob(&content);
    let gateway = start(&registry, &folder);
    let mut lies = 0.0;
    for twist in [Twist::Corrupt, Twist::Short(1), Twist::Short(299_999)] {
        registry.twist(move |_, _| twist.clone());
        let reply = get(&gateway, &blob_path(&digest));
        assert!(!reply.complete || reply.status == 502, "{} {}", reply.status, reply.body.len());
        lies += 1.0;
        gateway.expect_metric("tillgate_mirror_mismatches_total", lies);
        gateway.expect_metric("tillgate_mirror_blobs", 0.0);
    }
    registry.be_honest();
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content);
}

#[test]
fn a_slow_reader_slows_nobody_and_leaving_ends_nothing() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(7, 6_000_000);
    let digest = registry.blob(&content);
    let gateway = start(&registry, &folder);
    let request = format!("GET {} HTTP/1.1\r\nHost: gw\r\n\r\n", blob_path(&digest));
    let mut slow = Wire::connect(gateway.listeners["registry"]);
    slow.send(&request);
    assert_eq!(slow.head().status, 200);
    // It reads nothing more; another one leaves in the middle.
    let mut leaving = Wire::connect(gateway.listeners["registry"]);
    leaving.send(&request);
    assert_eq!(leaving.head().status, 200);
    leaving.reset();
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content);
    assert_eq!(registry.body_bytes(), 6_000_000);
    assert!(slow.read_exact(6_000_000) == content);
}

#[test]
fn what_a_registry_refuses_is_told_in_its_own_words() {
    let (registry, folder) = (Registry::start(), folder());
    let gateway = start(&registry, &folder);
    let blob = blob_path(&format!("sha256:{}", "ab".repeat(32)));
    let said = |line: &str, fields: &str| {
        Twist::Say(format!("HTTP/1.1 {line}\r\n{fields}Content-Length: 0\r\n\r\n"))
    };
    let missing = get(&gateway, &blob);
    assert_eq!((missing.status, &*code(&missing)), (404, "BLOB_UNKNOWN"));
    let missing = get(&gateway, "/v2/pos/checkout/manifests/latest");
    assert_eq!((missing.status, &*code(&missing)), (404, "MANIFEST_UNKNOWN"));
    let missing = get(&gateway, "/v2/pos/checkout/tags/list");
    assert_eq!((missing.status, &*code(&missing)), (404, "NAME_UNKNOWN"));
    let forbids = said("403 Forbidden", "");
    registry.twist(move |_, _| forbids.clone());
    let forbidden = get(&gateway, &blob);
    assert_eq!((forbidden.status, &*code(&forbidden)), (403, "DENIED"));
    let busy = said("429 Too Many Requests", "Retry-After: 90\r\n");
    registry.twist(move |_, _| busy.clone());
    let held = get(&gateway, &blob);
    assert_eq!((held.status, &*code(&held)), (429, "TOOMANYREQUESTS"));
    assert_eq!(held.header("retry-after"), Some("90"));
    let broken = said("500 Internal Server Error", "");
    registry.twist(move |_, _| broken.clone());
    let failed = get(&gateway, "/v2/pos/checkout/manifests/latest");
    assert_eq!((failed.status, &*code(&failed)), (502, "UNAVAILABLE"));
    gateway.expect_metric(r#"tillgate_mirror_refusals_total{code="DENIED"}"#, 1.0);
}

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
fn a_tag_is_asked_for_once_in_a_while_and_known_while_the_registry_is_away() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":2}"#);
    let impatient = |spec: &mut MirrorSpec| spec.tags.fresh = Duration::ZERO;
    let path = "/v2/pos/checkout/manifests/47";
    let gateway = start(&registry, &folder);
    let first = get(&gateway, path);
    assert_eq!((first.status, first.text().as_str()), (200, r#"{"schemaVersion":2}"#));
    assert_eq!(first.header("docker-content-digest"), Some(&*digest));
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    assert_eq!(first.header("content-type"), Some(media_type));
    assert_eq!(get(&gateway, path).status, 200);
    assert_eq!(ask_with(&gateway, "HEAD", path, "").header("content-length"), Some("19"));
    assert_eq!(registry.asked("/manifests/").len(), 1, "fresh for a minute");
    // Always asked for: by HEAD, as long as it is the same.
    let always = store(&registry, &folder, impatient).digest("sha256:always").build();
    gateway.control.reload(always).unwrap();
    assert_eq!(get(&gateway, path).status, 200);
    assert!(registry.asked("/manifests/")[1].line.starts_with("HEAD "));
    let moved = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":3}"#);
    assert_eq!(get(&gateway, path).header("docker-content-digest"), Some(&*moved));
    // The line is down, and the gateway is another one.
    registry.twist(|_, _| Twist::Close);
    let stale = get(&gateway, path);
    assert_eq!(stale.header("docker-content-digest"), Some(&*moved));
    assert!(stale.header("warning").is_some());
    drop(gateway);
    let gateway = Gateway::start(store(&registry, &folder, impatient).build());
    let stale = get(&gateway, path);
    assert_eq!((stale.status, stale.header("docker-content-digest")), (200, Some(&*moved)));
    gateway.expect_metric(&served("stale"), 1.0);
    let by_digest = get(&gateway, &format!("/v2/pos/checkout/manifests/{moved}"));
    assert_eq!((by_digest.status, by_digest.header("warning")), (200, None));
    // It is gone for good: nobody is told otherwise.
    registry
        .twist(|_, _| Twist::Say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()));
    assert_eq!(get(&gateway, path).status, 404);
}

#[test]
fn a_wrong_manifest_is_no_manifest() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":2}"#);
    registry.twist(|_, _| Twist::Corrupt);
    let gateway = start(&registry, &folder);
    for reference in ["47", &digest] {
        let reply = get(&gateway, &format!("/v2/pos/checkout/manifests/{reference}"));
        assert_eq!((reply.status, &*code(&reply)), (502, "DIGEST_MISMATCH"));
    }
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 5 << 20);
    registry.twist(move |_, _| Twist::Say(format!("{large}{}", "x".repeat(5 << 20))));
    let reply = get(&gateway, "/v2/pos/checkout/manifests/48");
    assert_eq!((reply.status, &*code(&reply)), (502, "SIZE_INVALID"));
}

#[test]
fn tokens_are_asked_for_as_the_registry_says_and_asked_for_again() {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(8, 50_000);
    let digest = registry.blob(&content);
    let secret = folder.path().join("password");
    std::fs::write(&secret, "open sesame\n").unwrap();
    let realm = format!("http://{}/token", registry.address);
    registry.twist(move |request, number| {
        if request.line.contains("/token?") {
            let pair = request.header("authorization");
            // store:open sesame
            assert_eq!(pair, Some("Basic c3RvcmU6b3BlbiBzZXNhbWU="), "{request:?}");
            let body = format!(r#"{{"token":"t{number}","expires_in":3600}}"#);
            let length = body.len();
            return Twist::Say(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        }
        // The first token is good for one request.
        let token = request.header("authorization");
        if token.is_some_and(|token| token == "Bearer t1" && number <= 2 || token == "Bearer t4") {
            return Twist::Honest;
        }
        Twist::Say(format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer \
             realm=\"{realm}\",service=\"registry.example\",scope=\"repository:pos/checkout:pull\"\
             \r\nContent-Length: 0\r\n\r\n"
        ))
    });
    let login = Login { username: "store".into(), password_file: secret.as_path().into() };
    let gateway = Gateway::start(
        store(&registry, &folder, |spec| spec.upstreams[0].login = Some(login)).build(),
    );
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content, "{} {}", reply.status, reply.text());
    let other = registry.blob(b"another");
    assert_eq!(get(&gateway, &blob_path(&other)).text(), "another");
    let asked = registry.asked("/token");
    assert_eq!(asked.len(), 2);
    assert_eq!(
        asked[0].line,
        "GET /token?service=registry.example&scope=repository:pos/checkout:pull HTTP/1.1"
    );
    std::fs::remove_file(&secret).unwrap();
    registry.be_honest();
    assert_eq!(get(&gateway, &blob_path(&registry.blob(b"third"))).text(), "third");
}

#[test]
fn a_redirect_is_followed_without_the_registrys_token() {
    let (registry, cdn, folder) = (Registry::start(), Registry::start(), folder());
    let content = bytes(9, 200_000);
    let digest = cdn.blob(&content);
    let to = format!("http://{}/v2/store/blobs/{digest}?sig=a%2Fb", cdn.address);
    registry.twist(move |_, _| {
        Twist::Say(format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
        ))
    });
    cdn.twist(|_, number| if number == 0 { Twist::Cut(100_000) } else { Twist::Honest });
    let gateway = start(&registry, &folder);
    let reply = get(&gateway, &blob_path(&digest));
    assert!(reply.complete && reply.body == content, "{} {}", reply.status, reply.text());
    assert_eq!(cdn.body_bytes(), 200_000);
    let asked = cdn.asked("sig=a%2Fb");
    assert_eq!(asked[1].header("range"), Some("bytes=100000-"));
    assert!(asked.iter().all(|request| request.header("authorization").is_none()));
    let host = cdn.address.to_string();
    assert_eq!(asked[0].header("host"), Some(&*host));
    // Round and round.
    let registry_address = registry.address;
    registry.twist(move |_, number| {
        Twist::Say(format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{registry_address}/v2/x/{number}\r\n\
             Content-Length: 0\r\n\r\n"
        ))
    });
    let reply = get(&gateway, "/v2/pos/checkout/manifests/1");
    assert_eq!((reply.status, &*code(&reply)), (502, "UNAVAILABLE"));
}

#[test]
fn lists_are_passed_on_in_pages_that_lead_to_us() {
    let (registry, folder) = (Registry::start(), folder());
    registry.twist(|request, _| {
        assert!(request.line.starts_with("GET /v2/pos/checkout/tags/list?n=1000"), "{request:?}");
        let tags: Vec<String> = (0..10_000).map(|tag| format!("\"{tag}\"")).collect();
        let body = format!(r#"{{"name":"pos/checkout","tags":[{}]}}"#, tags.join(","));
        Twist::Say(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
             Link: <http://a.example/v2/pos/checkout/tags/list?last=9999&n=1000>; rel=\"next\"\
             \r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    });
    let gateway = start(&registry, &folder);
    let reply = get(&gateway, "/v2/pos/checkout/tags/list?ns=docker.io&n=50000");
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("\"9999\""));
    assert_eq!(
        reply.header("link"),
        Some("</v2/pos/checkout/tags/list?n=1000&last=9999&ns=docker.io>; rel=\"next\"")
    );
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
fn a_served_registry_is_reached_through_the_mirror_alone() {
    let (registry, folder) = (Registry::start(), folder());
    let connect = |gateway: &Gateway, host: &str| {
        let mut wire = Wire::connect(gateway.forward);
        wire.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        wire.head()
    };
    let gateway = start(&registry, &folder);
    let at = registry.address.to_string();
    for host in ["docker.io:443", "Index.Docker.io:443", &at] {
        let mut wire = Wire::connect(gateway.forward);
        wire.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let reply = wire.reply();
        assert_eq!((reply.status, &*reply.reason()), (403, "registry_reserved"), "{host}");
        assert!(reply.text().contains("allowDirect"));
    }
    let direct = |spec: &mut MirrorSpec| spec.upstreams[0].direct = Direct::Allowed;
    let open = store(&registry, &folder, direct).digest("sha256:open").build();
    gateway.control.reload(open).unwrap();
    assert_eq!(connect(&gateway, &at).status, 200);
}

#[test]
fn a_hostname_of_the_http_entry_is_the_mirror_and_others_are_not() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.blob(b"layer");
    let named = |spec: &mut MirrorSpec| spec.hostnames = vec!["images.store.example".into()];
    let gateway = Gateway::start(store(&registry, &folder, named).build());
    let ask = |host: &str| {
        let path = blob_path(&digest);
        gateway.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    assert_eq!(ask("Images.Store.example:8080").text(), "layer");
    assert_eq!(ask("other.example").status, 404);
    assert_eq!(ask("other.example").reason(), "unknown_host");
}

#[test]
fn prefixes_and_ns_choose_the_registry() {
    let (hub, own, folder) = (Registry::start(), Registry::start(), folder());
    let (one, two) = (hub.blob(b"hub's"), own.blob(b"own"));
    let directory = folder.path().join("images");
    let store = Store::default()
        .backend("own", Location::Local, BackendProtocol::Http, own.address)
        .backend("hub", Location::Cloud, BackendProtocol::Http, hub.address)
        .mirror("docker.io", &directory, |spec| {
            let mut second = spec.upstreams[0].clone();
            second.registry = "registry.example:5000".into();
            second.prefix = Some("own".into());
            second.backend = tillgate_core::backend::BackendId(0);
            second.host = own.address.to_string().into();
            spec.upstreams.push(second);
        });
    let gateway = Gateway::start(store.build());
    assert_eq!(get(&gateway, &format!("/v2/library/a/blobs/{one}")).text(), "hub's");
    assert_eq!(get(&gateway, &format!("/v2/own/pos/a/blobs/{two}")).text(), "own");
    assert!(own.asked("GET /v2/pos/a/blobs/").len() == 1);
    let third = own.blob(b"by name");
    let path = format!("/v2/own/b/blobs/{third}?ns=registry.example%3A5000");
    assert_eq!(get(&gateway, &path).text(), "by name");
    assert_eq!(own.asked("GET /v2/own/b/blobs/").len(), 1);
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

/// The gate of a store with a rollout of `images` (repository and digest) and these documents.
fn gate(images: &[(&str, &str)], documents: &str) -> Gate {
    let images: Vec<String> = images
        .iter()
        .map(|(repository, digest)| format!("{{repository: {repository}, digest: '{digest}'}}"))
        .collect();
    let text = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Etc/UTC\n  links:\n    \
         - {{name: primary, capacity: {{up: 5Mbit/s, down: 20Mbit/s}}}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: pos}}\nspec:\n  \
         artifacts: [{{registry: docker.io, repositories: ['pos/**']}}]\n  \
         trafficClass: image-pull\n  release: {{name: pos-47, images: [{}]}}\n  \
         whenHeld: {{action: Hold, retryAfter: 15m}}\n  \
         rings: [{{name: broad, storeSelector: {{}}}}]\n  promotion: {{mode: Manual}}\n  \
         releasedThrough: broad\n{documents}",
        images.join(", ")
    );
    let effective = tillgate_config::load_text("gate.yaml", &text);
    effective.map_err(|report| report.to_text()).expect("a gate").gate
}

/// A freeze that ends in so many seconds.
fn freeze(seconds: i64) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let at = |seconds: i64| {
        let at = Timestamp(i64::try_from(now).expect("before the end of time") + seconds);
        at.to_string().trim_end_matches('Z').to_owned()
    };
    format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze\nmetadata: {{name: peak}}\nspec:\n  \
         appliesTo: {{rollouts: ['*']}}\n  from: '{}'\n  until: '{}'\n  timeZone: Etc/UTC\n  \
         reason: a test\n",
        at(-3600),
        at(seconds)
    )
}

#[test]
fn a_frozen_release_is_held_and_opens_by_itself() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":2}"#);
    let mut effective = store(&registry, &folder, |_| ()).build();
    effective.gate = gate(&[("pos/checkout", &digest)], &freeze(3));
    let gateway = Gateway::start(effective);
    let began = tillgate_tests::now();
    for reference in ["47", &digest] {
        let held = get(&gateway, &format!("/v2/pos/checkout/manifests/{reference}"));
        let text = held.text();
        assert_eq!((held.status, &*code(&held)), (429, "HELD"), "{text}");
        assert!(text.contains(r#""heldBy":["Freeze/peak"]"#), "{text}");
        assert!(text.contains(r#""code":"TOOMANYREQUESTS""#), "{text}");
        // It comes back when it opens, not in the rollout's quarter of an hour.
        let wait: u64 = held.header("retry-after").expect("when").parse().unwrap();
        assert!((1..=3).contains(&wait), "{wait}");
    }
    assert!(registry.asked("GET /v2/pos/checkout/manifests/sha256").is_empty());
    gateway.expect_metric(r#"tillgate_failures_total{class="image-pull",reason="pull_held"}"#, 2.0);
    eventually("it opens by itself", || {
        (get(&gateway, "/v2/pos/checkout/manifests/47").status == 200).then_some(())
    });
    let took = tillgate_tests::now() - began;
    assert!(took <= Duration::from_secs(4), "{took:?}");
}

#[test]
fn what_lies_on_disk_as_a_whole_is_never_held() {
    let (registry, folder) = (Registry::start(), folder());
    let (layer, config) = (registry.blob(b"layer"), registry.blob(b"config"));
    let body = format!(r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{layer}"}}]}}"#);
    let manifest = registry.manifest("pos/checkout", "47", &body);
    let index = format!(r#"{{"manifests":[{{"digest":"{manifest}"}}]}}"#);
    let index = registry.manifest("pos/checkout", "48", &index);
    let gateway = start(&registry, &folder);
    let path = |reference: &str| format!("/v2/pos/checkout/manifests/{reference}");
    for reference in [&*index, &manifest] {
        assert_eq!(get(&gateway, &path(reference)).status, 200);
    }
    let frozen = |digest: &str| {
        let mut effective = store(&registry, &folder, |_| ()).digest(digest).build();
        effective.gate = gate(&[("pos/checkout", &index)], &freeze(3600));
        effective
    };
    gateway.control.reload(frozen("sha256:frozen")).unwrap();
    // Its layers are not there yet.
    assert_eq!(get(&gateway, &path(&manifest)).status, 429);
    for digest in [&layer, &config] {
        assert_eq!(get(&gateway, &blob_path(digest)).status, 200, "a pull that has begun ends");
    }
    eventually("all of it is there", || {
        (gateway.metric("tillgate_mirror_blobs") >= 2.0).then_some(())
    });
    assert_eq!(get(&gateway, &path(&manifest)).status, 200);
    assert_eq!(get(&gateway, &path(&index)).status, 200, "by its index too");
    // The box that is replaced asks another process.
    drop(gateway);
    registry.twist(|_, _| Twist::Close);
    let gateway = Gateway::start(frozen("sha256:frozen"));
    for reference in [&*index, &manifest] {
        assert_eq!(get(&gateway, &path(reference)).status, 200);
    }
}

#[test]
fn an_index_releases_what_it_names_and_nothing_else_is_released() {
    let (registry, folder) = (Registry::start(), folder());
    let manifest = registry.manifest("pos/checkout", "amd64", r#"{"layers":[]}"#);
    let index = format!(r#"{{"manifests":[{{"digest":"{manifest}"}}]}}"#);
    let index = registry.manifest("pos/checkout", "47", &index);
    let stray = registry.manifest("pos/checkout", "48", r#"{"schemaVersion":2}"#);
    let other = registry.manifest("pos/secret", "1", r#"{"schemaVersion":1}"#);
    let gated = |change: fn(&mut MirrorSpec), digest: &str| {
        let mut effective = store(&registry, &folder, change).digest(digest).build();
        let prohibition = "---\napiVersion: tillgate.dev/v1alpha1\nkind: Prohibition\n\
             metadata: {name: no-secrets}\nspec:\n  storeSelector:\n    \
             matchExpressions: [{key: closed, operator: DoesNotExist}]\n  \
             artifacts: [{registry: docker.io, repositories: [pos/secret]}]\n  \
             reason: not for stores\n";
        effective.gate = gate(&[("pos/checkout", &index)], prohibition);
        effective
    };
    let gateway = Gateway::start(gated(|_| (), "sha256:one"));
    let path = |repository: &str, digest: &str| format!("/v2/{repository}/manifests/{digest}");
    assert_eq!(get(&gateway, &path("pos/checkout", &manifest)).status, 429, "nobody named it yet");
    assert_eq!(get(&gateway, &path("pos/checkout", &index)).status, 200);
    assert_eq!(get(&gateway, &path("pos/checkout", &manifest)).status, 200);
    let unknown = get(&gateway, &path("pos/checkout", &stray));
    assert_eq!((unknown.status, &*code(&unknown)), (429, "HELD"));
    assert!(unknown.text().contains("UnknownArtifact"), "{}", unknown.text());
    let forbidden = get(&gateway, &path("pos/secret", &other));
    assert_eq!((forbidden.status, &*code(&forbidden)), (403, "DENIED"));
    assert!(forbidden.text().contains("Prohibition/no-secrets"), "{}", forbidden.text());
    let allow = |spec: &mut MirrorSpec| spec.upstreams[0].unknown = Unknown::Allow;
    gateway.control.reload(gated(allow, "sha256:two")).unwrap();
    assert_eq!(get(&gateway, &path("pos/checkout", &stray)).status, 200);
    assert_eq!(get(&gateway, &path("pos/secret", &other)).status, 403);
}

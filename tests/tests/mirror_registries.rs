//! The mirror and its registries: tags while one is away, tokens, redirects, lists, which one a
//! name means, and that there is no way to them past the mirror.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tillgate_config::effective::ListenerProtocol;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::mirror::{Direct, Login, MirrorSpec};
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::mirror::{ask_with, blob_path, bytes, code, folder, get, served, start, store};
use tillgate_tests::registry::{Registry, Twist};
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Wants};
use tillgate_tests::wire::Wire;

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
    // It wants something that we do not have.
    let stranger = said("401 Unauthorized", "");
    registry.twist(move |_, _| stranger.clone());
    for path in [&blob, "/v2/pos/checkout/manifests/latest"] {
        let denied = get(&gateway, path);
        assert_eq!((denied.status, &*code(&denied)), (403, "DENIED"), "{path}");
    }
    let busy = said("429 Too Many Requests", "Retry-After: 90\r\n");
    registry.twist(move |_, _| busy.clone());
    let held = get(&gateway, &blob);
    assert_eq!((held.status, &*code(&held)), (429, "TOOMANYREQUESTS"));
    assert_eq!(held.header("retry-after"), Some("90"));
    let broken = said("500 Internal Server Error", "");
    registry.twist(move |_, _| broken.clone());
    let failed = get(&gateway, "/v2/pos/checkout/manifests/latest");
    assert_eq!((failed.status, &*code(&failed)), (502, "UNAVAILABLE"));
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 5 * 1024 * 1024);
    registry.twist(move |_, _| Twist::Say(large.clone() + &" ".repeat(5 * 1024 * 1024)));
    let large = get(&gateway, "/v2/pos/checkout/manifests/latest");
    assert_eq!((large.status, &*code(&large)), (502, "SIZE_INVALID"));
    for (code, times) in [
        ("BLOB_UNKNOWN", 1.0),
        ("MANIFEST_UNKNOWN", 1.0),
        ("NAME_UNKNOWN", 1.0),
        ("DENIED", 3.0),
        ("TOOMANYREQUESTS", 1.0),
        ("UNAVAILABLE", 1.0),
        ("SIZE_INVALID", 1.0),
    ] {
        let series = format!(r#"tillgate_mirror_refusals_total{{code="{code}"}}"#);
        gateway.expect_metric(&series, times);
    }
}

#[test]
fn a_registry_that_is_slow_to_answer_is_not_waited_for_for_ever() {
    let (registry, folder) = (Registry::start(), folder());
    // Never a head.
    registry.twist(|_, _| Twist::Say(String::new()));
    let gateway = Gateway::start(
        store(&registry, &folder, |spec| {
            spec.fetches.response = Duration::from_millis(200);
            spec.fetches.patience = Duration::from_millis(300);
        })
        .build(),
    );
    let digest = format!("sha256:{}", "ab".repeat(32));
    for path in [&blob_path(&digest), "/v2/pos/checkout/manifests/latest"] {
        let slow = get(&gateway, path);
        assert_eq!((slow.status, &*code(&slow)), (502, "UNAVAILABLE"), "{path}");
    }
    gateway.expect_metric(r#"tillgate_mirror_refusals_total{code="UNAVAILABLE"}"#, 2.0);
    gateway.expect_metric(r#"tillgate_mirror_fetches{state="running"}"#, 0.0);
}

#[test]
fn tokens_are_asked_for_as_the_registry_says_and_asked_for_again() {
    tokens("open sesame\n", |file| Login::Account {
        username: "store".into(),
        password_file: file,
    });
}

#[test]
fn an_account_may_be_a_secret_of_the_machine() {
    tokens("store:open sesame\n", |file| Login::Secret { name: "hub".into(), file: Some(file) });
    let (registry, folder) = (Registry::start(), folder());
    registry.twist(|_, _| {
        Twist::Say(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\n\
             Content-Length: 0\r\n\r\n"
                .to_owned(),
        )
    });
    for (text, why) in [(None, "no secret `hub`"), (Some("storeopensesame"), "user:password")] {
        let file = folder.path().join("secret");
        std::fs::write(&file, text.unwrap_or_default()).unwrap();
        let file = text.map(|_| file.as_path().into());
        let login = Login::Secret { name: "hub".into(), file };
        let gateway = Gateway::start(
            store(&registry, &folder, |spec| spec.upstreams[0].login = Some(login)).build(),
        );
        let denied = get(&gateway, "/v2/pos/checkout/manifests/latest");
        assert_eq!((denied.status, &*code(&denied)), (403, "DENIED"));
        let told = denied.text();
        assert!(told.contains(why) && !told.contains("sesame"), "{told}");
    }
}

/// Pulls with tokens for which an account is needed, that of a file with this content.
fn tokens(content_of_file: &str, login: impl FnOnce(Arc<Path>) -> Login) {
    let (registry, folder) = (Registry::start(), folder());
    let content = bytes(8, 50_000);
    let digest = registry.blob(&content);
    let secret = folder.path().join("password");
    std::fs::write(&secret, content_of_file).unwrap();
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
    let login = login(secret.as_path().into());
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
fn a_served_registry_is_reached_through_the_mirror_alone() {
    let (registry, folder) = (Registry::start(), folder());
    let connect = |gateway: &Gateway, host: &str| {
        let mut wire = Wire::connect(gateway.forward);
        wire.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        wire.head()
    };
    let gateway = start(&registry, &folder);
    let at = registry.address.to_string();
    for host in ["docker.io:443", "Index.Docker.io:443", "registry-1.docker.io:443", &at] {
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
fn tls_that_is_passed_on_does_not_lead_past_the_mirror_either() {
    let (registry, folder) = (Registry::start(), folder());
    let config = store(&registry, &folder, |_| ())
        .listener("tls", ListenerProtocol::TlsPassthrough, None, |_| ())
        .build();
    let gateway = Gateway::start(config);
    let config = tls::client(&Authority::default(), &Wants::default());
    let mut wire = Wire::connect(gateway.listeners["tls"]);
    wire.send(tls::hello("index.docker.io", &config));
    let alert = wire.read_to_end().unwrap_or_else(|rest| rest);
    assert!(alert.len() == 7 && alert[0] == 21, "{alert:?}");
    eventually("it is counted", || {
        gateway.admin("/metrics").text().contains(r#"reason="registry_reserved"} 1"#).then_some(())
    });
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

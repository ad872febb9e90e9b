//! Commands about the mirror: what lies in its cache, and what clients are to be told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsString;

use tillgate_tests::mirror::{blob_path, bytes, folder, get, start};
use tillgate_tests::registry::Registry;

/// Exit code and what it says, on both streams.
fn ask(words: &[&str]) -> (u8, String) {
    let words = ["tillgate"].iter().chain(words).map(OsString::from);
    let answer = tillgate::cli::ask(words).expect("a command");
    (answer.code, answer.stdout + &answer.stderr)
}

#[test]
fn a_cache_is_listed_checked_and_made_smaller() {
    let (registry, folder) = (Registry::start(), folder());
    let directory = folder.path().join("images");
    let cache = directory.to_str().unwrap();
    let (code, said) = ask(&["cache", "ls", cache]);
    assert!(code != 0 && said.contains("images"), "there is none yet: {said}");
    let gateway = start(&registry, &folder);
    let digests = [(1, 30_000), (2, 20_000), (3, 10_000)].map(|(seed, size)| {
        let digest = registry.blob(&bytes(seed, size));
        assert_eq!(get(&gateway, &blob_path(&digest)).status, 200);
        digest
    });
    gateway.expect_metric("tillgate_mirror_blobs", 3.0);
    let (code, said) = ask(&["cache", "ls", cache]);
    assert_eq!(code, 0, "{said}");
    assert!(digests.iter().all(|digest| said.contains(digest)), "{said}");
    assert!(said.contains("3 blobs, 0 half"), "{said}");
    assert_eq!(ask(&["cache", "verify", cache]), (0, "3 blobs checked, 0 damaged\n".to_owned()));
    let (code, said) = ask(&["cache", "gc", cache, "--size", "1Ki"]);
    assert!(
        code != 0 && said.contains("a gateway has this cache"),
        "it makes room by itself: {said}"
    );
    drop(gateway);
    let hex = digests[1].strip_prefix("sha256:").unwrap();
    let file = directory.join("blobs").join(&hex[..2]).join(hex);
    let mut damaged = std::fs::read(&file).unwrap();
    damaged[7] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let (code, said) = ask(&["cache", "verify", cache]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("{} damaged\n", digests[1])), "{said}");
    let (code, said) = ask(&["cache", "verify", cache, "--delete"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("damaged, deleted") && !file.exists(), "{said}");
    let (code, said) = ask(&["cache", "gc", cache, "--size", "35Ki"]);
    assert_eq!(code, 0, "{said}");
    let (_, said) = ask(&["cache", "ls", cache]);
    assert!(said.contains("1 blobs, 0 half"), "of two, one fits: {said}");
}

#[test]
fn what_refers_to_a_manifest_is_passed_on() {
    use tillgate_tests::registry::Twist;
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":2}"#);
    let index = r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:ab"}]}"#;
    registry.twist(move |request, _| {
        assert!(request.line.contains("/referrers/"), "{request:?}");
        Twist::Say(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\n\
             OCI-Filters-Applied: artifactType\r\nContent-Length: {}\r\n\r\n{index}",
            index.len()
        ))
    });
    let gateway = start(&registry, &folder);
    let path = format!("/v2/pos/checkout/referrers/{digest}?artifactType=application/x%2Bsig");
    let reply = get(&gateway, &path);
    assert_eq!((reply.status, reply.text().as_str()), (200, index));
    assert_eq!(
        reply.header("content-type"),
        Some("application/vnd.oci.image.index.v1+json"),
        "{reply:?}"
    );
    assert_eq!(reply.header("oci-filters-applied"), Some("artifactType"));
    let asked = registry.asked("/referrers/");
    let line = format!(
        "GET /v2/pos/checkout/referrers/{digest}?artifactType=application/x%2Bsig HTTP/1.1"
    );
    assert_eq!(asked[0].line, line);
}

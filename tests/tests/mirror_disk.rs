//! Disks that take nothing: pulls go on past them, whole and checked, and the scrape says so.
//!
//! A user namespace of its own has a mount of its own, so that this needs no root, and root is no
//! exception to it. Where the system forbids that, the tests say SKIPPED.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::Command;

use tillgate_tests::eventually;
use tillgate_tests::machine::{READ_ONLY, runs_behind};
use tillgate_tests::mirror::{blob_path, bytes, folder};
use tillgate_tests::program::Program;
use tillgate_tests::registry::{Registry, Twist};
use tillgate_tests::wire::{Reply, Wire};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

fn may_mount(mounts: &str, folder: &Path) -> bool {
    let may = runs_behind(&mut Command::new("true"), mounts, folder);
    if !may {
        tillgate_tests::skipped("no user namespace with mounts of its own here");
    }
    may
}

/// A gateway with a mirror of `registry`, whose cache in `folder` is behind `mounts`.
fn gateway(name: &str, registry: &Registry, folder: &Path, mounts: &str) -> Program {
    let policy = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Etc/UTC\n  links:\n    \
         - {{name: primary, capacity: {{up: 50Mbit/s, down: 500Mbit/s}}}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: RegistryMirror\nmetadata: {{name: images}}\n\
         spec:\n  hostnames: [images.example]\n  registries:\n    \
         - {{host: registry.example, url: 'http://{}', location: Local}}\n  \
         cache: {{directory: {}, size: 1Gi, minFree: 1k}}\n",
        registry.address,
        folder.join("images").display()
    );
    Program::start_with(PROGRAM, name, &policy, &[], |command| {
        assert!(runs_behind(command, mounts, folder), "it could before");
    })
}

fn get(program: &Program, path: &str) -> Reply {
    let mut wire = Wire::connect(program.address("http"));
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: images.example\r\nConnection: close\r\n\r\n"));
    wire.reply()
}

fn metric(program: &Program, series: &str) -> f64 {
    let mut wire = Wire::connect(program.address("admin"));
    wire.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    let text = wire.reply().text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

const PAST_DISK: &str = r#"tillgate_mirror_requests_total{result="past_disk"}"#;

#[test]
fn a_read_only_disk_stops_caching_and_no_pull() {
    let (registry, folder) = (Registry::start(), folder());
    if !may_mount(READ_ONLY, folder.path()) {
        return;
    }
    let content = bytes(21, 400_000);
    let digest = registry.blob(&content);
    // With nothing there, and with a cache that was ours to write once.
    for is_there in [false, true] {
        if is_there {
            let mut before = gateway("disk-before", &registry, folder.path(), "true");
            let reply = get(&before, &blob_path(&digest));
            assert!(reply.complete && reply.body == content);
            eventually("it is kept", || {
                (metric(&before, "tillgate_mirror_blobs") == 1.0).then_some(())
            });
            before.signal("TERM");
            assert!(before.ended());
        }
        let mut program = gateway("disk-read-only", &registry, folder.path(), READ_ONLY);
        for _ in 0..2 {
            let reply = get(&program, &blob_path(&digest));
            assert!(reply.complete && reply.body == content, "{} {is_there}", reply.status);
        }
        assert!(metric(&program, PAST_DISK) >= 2.0, "{}", program.log());
        assert_eq!(metric(&program, "tillgate_mirror_caching"), 0.0);
        program.line(&["no image is kept"]);
        registry.twist(|_, _| Twist::Corrupt);
        assert!(!get(&program, &blob_path(&digest)).complete, "it is checked all the same");
        registry.be_honest();
        program.signal("TERM");
        assert!(program.ended());
    }
}

#[test]
fn a_disk_that_fills_up_stops_caching_and_no_pull() {
    let (registry, folder) = (Registry::start(), folder());
    let small = "mount -t tmpfs -o size=1m,mode=700 none \"$0\"";
    if !may_mount(small, folder.path()) {
        return;
    }
    let program = gateway("disk-full", &registry, folder.path(), small);
    // Each would fit alone; then one that never does.
    for (seed, size) in [(1, 600_000), (2, 700_000), (3, 3_000_000)] {
        let content = bytes(seed, size);
        let digest = registry.blob(&content);
        for _ in 0..2 {
            let reply = get(&program, &blob_path(&digest));
            assert!(reply.complete && reply.body == content, "{size}: {}", reply.status);
        }
    }
    assert!(metric(&program, PAST_DISK) >= 1.0, "{}", program.log());
    assert!(metric(&program, "tillgate_mirror_blobs") >= 1.0, "the small ones are kept");
}

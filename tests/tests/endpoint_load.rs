//! A thousand sidecars that wait and two hundred dashboards that listen: what that holds, and how
//! soon all of them know of a change. Numbers, so in a command of its own:
//! `cargo test -p tillgate-tests --test endpoint_load -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the numbers are what it is for")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tillgate_tests::endpoint::{self, Caller, NAME, Wanted, write_secret};
use tillgate_tests::program::Program;
use tillgate_tests::tls::{self, Authority, Wants};
use tillgate_tests::wire::Wire;
use tillgate_tests::{eventually, now};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

const POLLS: usize = 1000;
const STREAMS: usize = 200;

/// What it should hold at most; a build without optimisation holds more.
const AIM_KIB: u64 = 20 * 1024;

fn policy(folder: &TempDir, down: &str) -> String {
    let wanted =
        Wanted { auth: "Token", has_ca: false, tokens: &[("viewer", "viewer")], hooks: &[], down };
    endpoint::policy(|name| folder.path().join(name).display().to_string(), &wanted)
}

/// Resident memory of a process.
fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[test]
#[ignore = "numbers; it has a command of its own"]
fn a_thousand_wait_and_two_hundred_listen() {
    tillgate_net::listen::raise_open_files().unwrap();
    let folder = TempDir::new().unwrap();
    let authority = Authority::default();
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    for (name, text) in [("tls.crt", &identity.chain), ("tls.key", &identity.key)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let token = "viewer-0123456789abcdef0123456789abcdef";
    write_secret(&folder.path().join("viewer"), token);
    let program = Program::start(PROGRAM, "endpoint-load", &policy(&folder, "20Mbit/s"), &[]);
    let config = tls::client(&authority, &Wants::default());
    let address = program.address("config-endpoint");
    let caller = Caller { config: Arc::clone(&config), address };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let tag = caller.ask("GET", "/v1/config", &bearer, "").header("etag").unwrap().to_owned();
    let before = resident_kib(program.id());

    let held = format!("{bearer}If-None-Match: {tag}\r\nPrefer: wait=120\r\n");
    let mut polls: Vec<Wire> =
        (0..POLLS).map(|_| caller.send("GET", "/v1/config", &held, "")).collect();
    let mut streams: Vec<Wire> =
        (0..STREAMS).map(|_| caller.send("GET", "/v1/config/events", &bearer, "")).collect();
    for stream in &mut streams {
        stream.read_until("\"sequence\":1}\n\n");
    }
    eventually("all of them wait", || {
        let metrics = caller.ask("GET", "/metrics", &bearer, "").text();
        metrics.contains(&format!("tillgate_config_poll_waiters {POLLS}\n")).then_some(())
    });
    let more = resident_kib(program.id()) - before;

    fs::write(&program.policy, policy(&folder, "30Mbit/s")).unwrap();
    program.signal("HUP");
    let first = streams.remove(0).read_until("\"sequence\":2}\n\n");
    let since = now();
    for poll in &mut polls {
        assert_eq!(poll.reply().status, 200);
    }
    for stream in &mut streams {
        stream.read_until("\"sequence\":2}\n\n");
    }
    let woken = since.elapsed();
    assert!(first.contains("event: config"));
    println!(
        "{POLLS} polls and {STREAMS} streams: {more} KiB more (the aim is {AIM_KIB}), all awake \
         after {woken:?}"
    );
    assert!(woken <= Duration::from_secs(1), "{woken:?}");
}

//! What a store tells its centre, how it proves that, how a hand-made change is found, and what
//! the centre may have it do: against a web server that takes reports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tillgate_config::bundle::{decode_memory, encode_memory, hex, wall_text};
use tillgate_core::reconcile::{Done, Ended, Memory, Wall};
use tillgate_tests::collector::{Arrived, Collector, reasons};
use tillgate_tests::endpoint::{everything, write_secret};
use tillgate_tests::eventually;
use tillgate_tests::operated::Operated;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

/// A store that reports to `collector`, with a key of its own.
fn store(name: &str, collector: &Collector) -> (Operated, Vec<u8>) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = pair.serialize_pem();
    let store = Operated::new(PROGRAM, name, |chain| {
        let key = chain.folder.join("store.pem");
        write_secret(&key, &pem);
        collector.reporting(&format!(", keyFile: {}", key.display()))
    });
    (store, pair.public_key_raw().to_vec())
}

/// Whether `signature` in base64 is of the key over `prefix` and `message`.
fn is_signed(key: &[u8], prefix: &[u8], message: &[u8], signature: &str) -> bool {
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let (_, found) = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == rustls::SignatureScheme::ED25519)
        .unwrap();
    let signature = STANDARD.decode(signature).unwrap();
    let message = [prefix, message].concat();
    found[0].verify_signature(key, &message, &signature).is_ok()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[test]
fn a_store_tells_its_centre_what_it_runs_and_proves_it() {
    let collector = Collector::default();
    let (mut store, key) = store("report", &collector);
    let first = collector.report("of the start", 0, |report| report["trigger"] == "Start").report;
    assert_eq!((&first["kind"], &first["storeId"]), (&json!("StoreStatus"), &json!("store-0412")));
    assert_eq!((&first["applied"], &first["compliance"]), (&Value::Null, &json!("Unknown")));
    store.good(7, "a.example");
    let report =
        collector.report("of the policy", 0, |report| report["lastKnownGood"]["sequence"] == 7);
    let Arrived { report, body, signature } = report;
    let effective = store.ask("viewer", "GET", "/v1/config", "", "");
    let effective = effective.header("tillgate-digest").unwrap().to_owned();
    assert_eq!(report["applied"]["effectiveDigest"], *effective);
    assert_eq!(report["desired"]["revision"], "main@sha1:7");
    assert_eq!(report["attempted"]["result"], "Applied");
    assert_eq!(report["links"][0]["state"], "Up");
    let pointer =
        fs::symlink_metadata(store.chain.state().join("lkg")).unwrap().modified().unwrap();
    let since = wall_text(Wall(tillgate_net::clock::seconds_of(pointer)));
    assert_eq!(report["lastKnownGood"]["since"], *since);
    let clock = &report["clock"];
    assert!(clock["state"] != "Synced" || clock["lastSync"].is_string(), "{clock}");
    assert!(!tillgate_net::clock::is_kept() || clock["source"] == "System", "{clock}");
    assert!(body.len() < 8192, "{} bytes", body.len());
    assert!(is_signed(&key, b"tillgate-report-v1\n", &body, &signature.unwrap()));
    // The flags of the test's command line are a change by hand, too, and the only one.
    assert_eq!(reasons(&report["drift"]), ["FlagOverride"]);
    assert_eq!(report["compliance"], "Drifted");

    // A challenge is answered with a signature over it and over what the report says.
    let challenge = [7_u8; 32];
    let count = collector.count();
    collector.answers(&json!({"challenge": STANDARD.encode(challenge), "wantDetail": true}));
    // The first report that has them does not arrive.
    collector.refuses("HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    let proof = collector.report("with a proof", count, |report| report["attestation"].is_object());
    let said = &proof.report;
    let mut text = challenge.to_vec();
    for value in [
        said["applied"]["effectiveDigest"].as_str().unwrap(),
        &said["applied"]["sequence"].to_string(),
        said["bootId"].as_str().unwrap(),
        said["audit"]["head"].as_str().unwrap(),
    ] {
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    let signature = said["attestation"]["signature"].as_str().unwrap();
    let hash = bytes(&hex(&text));
    assert!(is_signed(&key, b"tillgate-attestation-v1\n", &hash, signature));
    assert_eq!(said["detail"]["store"], "store-0412");
    let next = collector.report("without one", collector.count(), |_| true);
    assert!(next.report["attestation"].is_null() && next.report["detail"].is_null());

    is_told_from_disk(&store, &collector);

    // A centre that is busy gets the newest later, and numbers never go back.
    is_busy(&mut store, &collector);
}

/// The head of the audit log that the centre is told is on disk: a loss of power cannot take it
/// away.
fn is_told_from_disk(store: &Operated, collector: &Collector) {
    store.ask("operator", "POST", "/v1/reconcile", "", "");
    let look = store.records().iter().find(|one| one["action"] == "Fetch").cloned().unwrap();
    let told = collector.report("with the record of that", 0, |report| {
        report["audit"]["seq"].as_u64() >= look["seq"].as_u64()
    });
    let head = fs::read_to_string(store.chain.state().join("audit/head")).unwrap();
    let on_disk: u64 = head.split_once(' ').unwrap().0.parse().unwrap();
    assert!(told.report["audit"]["seq"].as_u64().unwrap() <= on_disk, "{head}");
}

fn is_busy(store: &mut Operated, collector: &Collector) {
    collector.refuses("HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    let metrics = |part: &str| {
        eventually(part, || {
            let text = store.ask("viewer", "GET", "/metrics", "", "").text();
            text.contains(part).then_some(())
        });
    };
    metrics("tillgate_report_total{result=\"busy\"} 1");
    metrics("tillgate_compliance_state{state=\"Drifted\"} 1");
    metrics("tillgate_drift_items{reason=\"FlagOverride\"} 1");
    let last = collector.report("after that", collector.count(), |_| true).report;
    store.restart();
    let anew = collector.report("of the next start", collector.count(), |report| {
        report["bootId"] != last["bootId"]
    });
    let number = |report: &Value| report["reportSeq"].as_u64().unwrap();
    assert!(number(&anew.report) > number(&last), "{} {}", anew.report, last);
}

#[test]
fn a_report_says_what_the_store_was_given_and_what_stands_by() {
    let collector = Collector::default();
    let (store, _) = store("given", &collector);
    let images = store.chain.folder.join("images");
    let line = "    - {name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}\n";
    let text = store.policy("a.example");
    assert!(text.contains(line));
    let text = text.replace(line, &[line, &line.replace("primary", "lte")].concat());
    store.put_text(7, &(text + &everything(&images)));
    // Of what no machine has pulled nothing was given.
    let report = collector.report("of a whole policy", 0, |report| {
        report["rollouts"][0]["imagesServed"] == json!({})
    });
    let links = report.report["links"].as_array().unwrap();
    let states: Vec<(&Value, &Value)> =
        links.iter().map(|link| (&link["name"], &link["state"])).collect();
    assert_eq!(states, [(&json!("primary"), &json!("Up")), (&json!("lte"), &json!("Standby"))]);
    assert!(report.body.len() < 8192, "{} bytes", report.body.len());
}

/// Does `change` with the file, waits for the drift of this reason, here and at the centre, and
/// puts the file back.
#[track_caller]
fn found(store: &Operated, collector: &Collector, file: &Path, reason: &str, change: &[u8]) {
    let before = fs::read(file).unwrap();
    fs::write(file, change).unwrap();
    let drift = store.get("/v1/drift");
    assert!(reasons(&drift["items"]).contains(&reason.to_owned()), "{drift}");
    assert_eq!(drift["compliance"], "Drifted");
    let count = collector.count();
    let told = |report: &Value| reasons(&report["drift"]).contains(&reason.to_owned());
    let report = collector.report(reason, count, told).report;
    assert_eq!(report["compliance"], "Drifted");
    fs::write(file, before).unwrap();
    let drift = store.get("/v1/drift");
    assert_eq!(reasons(&drift["items"]), ["FlagOverride"], "it is as it was: {drift}");
}

#[test]
fn a_change_by_hand_is_found_and_told() {
    let collector = Collector::default();
    let (store, _) = store("drift", &collector);
    store.good(7, "a.example");
    assert_eq!(reasons(&store.get("/v1/drift")["items"]), ["FlagOverride"]);
    let bundle = store.current();
    let good = fs::read(&bundle).unwrap();
    // Somebody swaps the bundle on disk for one of his own, for the next start.
    let own = tillgate_tests::program::policy("evil.example", store.chain.address());
    let eves = store.chain.bundle(7, &own, "eve", &[]);
    found(&store, &collector, &bundle, "BundleChanged", &eves);
    // One bit of it.
    let mut torn = good.clone();
    let middle = torn.len() / 2;
    torn[middle] ^= 1;
    found(&store, &collector, &bundle, "BundleChanged", &torn);
    // The memory, to lift the floor of sequences.
    let memory = store.chain.state().join("state.json");
    let count = collector.count();
    // It is told, and written anew: the process knows better than the disk. A write that was under
    // way puts it right before anybody has seen it.
    let mut reported = count;
    eventually("the memory is told", || {
        fs::write(&memory, b"tillgate-state-v1 0\n{}\n").unwrap();
        collector.report("the next", reported, |_| true);
        let told = collector.reasons(count);
        reported = collector.count();
        told.contains(&"MemoryChanged".to_owned()).then_some(())
    });
    eventually("the memory is whole again", || {
        (reasons(&store.get("/v1/drift")["items"]) == ["FlagOverride"]).then_some(())
    });
    // A link to nowhere.
    let link = store.chain.state().join("current");
    let target = fs::read_link(&link).unwrap();
    fs::remove_file(&link).unwrap();
    assert!(reasons(&store.get("/v1/drift")["items"]).contains(&"PointerChanged".to_owned()));
    std::os::unix::fs::symlink(target, &link).unwrap();
    assert_eq!(reasons(&store.get("/v1/drift")["items"]), ["FlagOverride"]);
    // A sidecar that runs something else than it was sent, whatever it was sent.
    let other = format!("sha256:{}", "ab".repeat(32));
    let body = json!({"bootId": "one", "activeDigest": other}).to_string();
    let registered = store.ask("sidecar", "PUT", "/v1/instances/sidecar", "", &body);
    assert_eq!(registered.status, 204, "{}", registered.text());
    let drift = store.get("/v1/drift");
    let item = drift["items"].as_array().unwrap().iter().find(|one| one["observed"] == *other);
    assert_eq!(item.unwrap()["reason"], "InstancePending");
    collector.report("the sidecar", 0, |report| report["instances"]["pending"] == 1);
}

#[test]
fn every_question_about_drift_is_answered_by_a_look_that_began_after_it() {
    let collector = Collector::default();
    let (store, _) = store("crowd", &collector);
    store.good(7, "a.example");
    let link = store.chain.state().join("current");
    let target = fs::read_link(&link).unwrap();
    // More at once than orders may wait.
    let all = |is_there: bool| {
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..24)
                .map(|_| scope.spawn(|| reasons(&store.get("/v1/drift")["items"])))
                .collect();
            for one in asked {
                let found = one.join().unwrap();
                assert_eq!(found.contains(&"PointerChanged".to_owned()), is_there, "{found:?}");
            }
        });
    };
    for _ in 0..3 {
        fs::remove_file(&link).unwrap();
        all(true);
        std::os::unix::fs::symlink(&target, &link).unwrap();
        all(false);
    }
}

#[test]
fn a_centre_has_a_store_do_something_once() {
    let collector = Collector::default();
    let (mut store, _) = store("operate", &collector);
    store.good(7, "a.example");
    store.good(8, "b.example");
    let made = store.chain.folder.join("made.tar.gz");
    let without = fs::read(&made).unwrap();
    store.operate("eve", "forged", &["--action", "rollback"]);
    let forged = collector.outcome(0, "forged");
    assert_eq!(
        (&forged["state"], &forged["outcome"]["result"]),
        (&json!("Refused"), &json!("forged"))
    );
    store.operate("ci", "role", &["--action", "rollback"]);
    assert_eq!(collector.outcome(0, "role")["state"], "Refused", "its key signs bundles");
    store.operate("boss", "other", &["--action", "unpin"]);
    let none = collector.outcome(0, "other");
    assert_eq!(
        (&none["state"], &none["outcome"]["why"]),
        (&json!("Failed"), &json!("the store is not pinned"))
    );
    assert_eq!(store.shown()["applied"]["sequence"], 8);

    store.operate("boss", "back", &["--action", "rollback", "--to", "previous", "--for", "2h"]);
    let back = collector.outcome(0, "back");
    assert_eq!(back["state"], "Succeeded", "{back}");
    store.applied(7);
    assert_eq!(store.get("/v1/pin")["actor"], "key:boss");
    // It is told once, in a report that the centre has taken.
    let count = collector.count() + 1;
    let report = collector.report("the next one", count, |_| true).report;
    assert_eq!(report["operations"], json!([]));

    // Once: not after a restart, not when it is taken away and comes again, not with other words.
    let with = fs::read(&made).unwrap();
    let unpinned = store.ask("operator", "DELETE", "/v1/pin", "", "");
    assert_eq!(unpinned.status, 204);
    store.applied(8);
    store.restart();
    store.applied(8);
    let count = collector.count();
    store.chain.put(&without);
    // A report comes every second; a look at the stick, and one more, take two.
    collector.report("without it", count + 5, |_| true);
    store.chain.put(&with);
    let replayed = collector.outcome(count, "back");
    assert_eq!(
        (&replayed["state"], &replayed["outcome"]["result"]),
        (&json!("Refused"), &json!("replayed"))
    );
    assert_eq!(store.shown()["applied"]["sequence"], 8, "it was not done again");
    let count = collector.count();
    store.operate("boss", "back", &["--action", "pin"]);
    assert_eq!(collector.outcome(count, "back")["state"], "Refused", "its id was used");
    let records = store.records();
    let is = |one: &&Value| one["operation"] == "back";
    let told: Vec<(&Value, &Value)> =
        records.iter().filter(is).map(|one| (&one["action"], &one["result"])).collect();
    assert_eq!(told[0], (&json!("Operation"), &json!("Begun")), "before it was done");
    assert_eq!(told[1], (&json!("Operation"), &json!("Succeeded")));
    assert!(told[2..].iter().all(|one| *one == (&json!("VerifyFailed"), &json!("Refused"))));
}

/// How often something was begun, as the audit log has it.
fn begun(store: &Operated, id: &str) -> usize {
    let is = |one: &&Value| one["operation"] == id && one["result"] == "Begun";
    store.records().iter().filter(is).count()
}

#[test]
fn a_store_that_has_lost_its_memory_does_nothing_again() {
    let collector = Collector::default();
    let (mut store, _) = store("forgetful", &collector);
    store.good(7, "a.example");
    store.good(8, "b.example");
    store.operate("boss", "back", &["--action", "rollback", "--to", "previous", "--for", "2h"]);
    assert_eq!(collector.outcome(0, "back")["state"], "Succeeded");
    store.applied(7);
    assert_eq!(store.ask("operator", "DELETE", "/v1/pin", "", "").status, 204);
    store.applied(8);

    // The audit log knows what was done: it is answered, and not done again.
    let count = collector.count();
    store.restart_after(|state| fs::remove_file(state.join("state.json")).unwrap());
    let again = collector.outcome(count, "back");
    assert_eq!(
        (&again["state"], &again["outcome"]["result"]),
        (&json!("Succeeded"), &json!("remembered")),
        "{again}"
    );
    store.applied(8);
    assert_eq!((begun(&store, "back"), &store.get("/v1/pin")["pinned"]), (1, &json!(false)));
    let conditions = store.shown()["conditions"].to_string();
    assert!(conditions.contains("MemoryLost"), "{conditions}");

    // Both are gone: what was signed before this memory began may have been done.
    let count = collector.count();
    store.restart_after(|state| {
        fs::remove_dir_all(state.join("audit")).unwrap();
        let memory = Memory { clock_known: true, ..Memory::default() };
        fs::write(state.join("state.json"), encode_memory(&memory)).unwrap();
    });
    let refused = collector.outcome(count, "back");
    assert_eq!(
        (&refused["state"], &refused["outcome"]["result"]),
        (&json!("Refused"), &json!("predates")),
        "{refused}"
    );
    store.applied(8);
    assert_eq!((begun(&store, "back"), &store.get("/v1/pin")["pinned"]), (0, &json!(false)));
    // Signed anew, it counts.
    store.operate("boss", "anew", &["--action", "pin", "--for", "2h"]);
    assert_eq!(collector.outcome(count, "anew")["state"], "Succeeded");
}

/// The one file of the audit log.
fn audit_file(state: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(state.join("audit")).unwrap().map(|one| one.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "ndjson")).min().unwrap()
}

/// Cuts the last two lines off, in place.
fn cut(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let left = text.lines().rev().skip(2).map(|line| line.len() + 1).sum::<usize>();
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(left as u64).unwrap();
}

#[test]
fn an_audit_log_that_was_cut_is_missed_written_down_and_told() {
    let collector = Collector::default();
    let (mut store, _) = store("cut", &collector);
    store.good(7, "a.example");
    let state = store.chain.state();
    let is_told = |store: &Operated, after: usize| {
        let drift = store.get("/v1/drift");
        assert!(reasons(&drift["items"]).contains(&"AuditChanged".to_owned()), "{drift}");
        let told = |report: &Value| reasons(&report["drift"]).contains(&"AuditChanged".to_owned());
        let report = collector.report("the cut", after, told).report;
        assert_eq!(report["compliance"], "Drifted");
        let metrics = store.ask("viewer", "GET", "/metrics", "", "").text();
        for line in [
            "tillgate_drift_items{reason=\"AuditChanged\"} 1",
            "tillgate_audit_records_total{action=\"ChainBroken\"} 1",
        ] {
            assert!(metrics.contains(line), "{line}\n{metrics}");
        }
        assert!(store.records().iter().any(|one| one["action"] == "ChainBroken"));
    };
    // While it runs, and while it does not.
    cut(&audit_file(&state));
    is_told(&store, 0);
    let count = collector.count();
    store.restart_after(|state| cut(&audit_file(state)));
    is_told(&store, count);
    // The remedy: it is moved away for whoever examines it. A new one begins and says so, and the
    // next start has nothing to tell.
    let count = collector.count();
    store.restart_after(|state| {
        fs::rename(state.join("audit"), state.join("audit.kept")).unwrap();
    });
    is_told(&store, count);
    store.restart();
    assert_eq!(reasons(&store.get("/v1/drift")["items"]), ["FlagOverride"]);
}

#[test]
fn a_power_cut_loses_no_outcome_of_an_operation() {
    let collector = Collector::default();
    let (mut store, _) = store("untold", &collector);
    store.good(7, "a.example");
    store.operate("boss", "told", &["--action", "unpin"]);
    assert_eq!(collector.outcome(0, "told")["state"], "Failed");
    let memory =
        |state: &Path| decode_memory(&fs::read(state.join("state.json")).unwrap()).unwrap();
    eventually("it is known that the centre knows", || {
        let done = memory(&store.chain.state()).done;
        done.iter().any(|one| &*one.id == "told" && one.told).then_some(())
    });
    // As it is on disk when the power goes between two writes, and before a report.
    store.restart_after(|state| {
        let mut memory = memory(state);
        let last = Done { id: "cut".into(), ended: None, told: false, ..memory.done[0].clone() };
        let outcome = "{\"pinned\":false}".into();
        let ended = Some(Ended { state: "Succeeded".into(), at: Wall(1), outcome });
        memory.done.extend([Done { id: "ended".into(), ended, ..last.clone() }, last]);
        fs::write(state.join("state.json"), encode_memory(&memory)).unwrap();
    });
    let cut = collector.outcome(0, "cut");
    assert_eq!((&cut["state"], &cut["action"]), (&json!("Interrupted"), &json!("Unpin")));
    let ended = collector.outcome(0, "ended");
    assert_eq!(
        (&ended["state"], &ended["outcome"]),
        (&json!("Succeeded"), &json!({"pinned": false}))
    );
    eventually("all are told", || {
        memory(&store.chain.state()).done.iter().all(|one| one.told).then_some(())
    });
}

#[test]
fn a_centre_asks_a_store_for_an_explanation_and_for_help() {
    let collector = Collector::default();
    let (store, _) = store("help", &collector);
    store.good(7, "a.example");
    store.operate("boss", "why", &["--action", "explain", "--url", "http://a.example/"]);
    let why = collector.outcome(0, "why");
    assert_eq!(why["outcome"]["route"], "api", "{why}");
    let words = ["--action", "explain", "--url", "POST", "http://b.example/"];
    store.operate("boss", "way", &[&words[..], &["--via", "forward-proxy"]].concat());
    let way = collector.outcome(0, "way");
    assert_eq!(way["outcome"]["via"], "forward-proxy", "{way}");
    assert_eq!(way["outcome"]["request"]["method"], "POST", "{way}");
    let image = format!("r.example/pos/checkout@sha256:{}", "a".repeat(64));
    let words = ["--action", "explain", "--image", &image, "--at", "2026-11-27T20:10:00Z"];
    store.operate("boss", "pull", &words);
    let pull = collector.outcome(0, "pull");
    assert_eq!(pull["outcome"]["image"]["repository"], "pos/checkout", "{pull}");
    assert_eq!(pull["outcome"]["at"], "2026-11-27T20:10:00Z");
    store.operate("boss", "help", &["--action", "support-bundle"]);
    let help = collector.outcome(0, "help");
    let content = STANDARD.decode(help["outcome"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(hex(&content), help["outcome"]["sha256"].as_str().unwrap());
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(content.as_slice());
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    let bundle: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bundle["status"]["store"], "store-0412");
    assert!(bundle["log"].to_string().contains("policy in effect"), "{}", bundle["log"]);
    assert!(bundle["audit"].to_string().contains("LkgPromote"), "{}", bundle["audit"]);
    assert!(bundle["config"]["effective"].is_object());
    for secret in ["operator", "viewer", "store.pem", "tls.key"] {
        let secret = fs::read_to_string(store.chain.folder.join(secret)).unwrap();
        let secret = secret.lines().nth(1).or_else(|| secret.lines().next()).unwrap();
        assert!(!text.contains(secret), "a secret is in it");
    }
}

#[test]
fn what_its_source_has_taken_back_is_not_desired_any_more() {
    let collector = Collector::default();
    let (mut store, _) = store("desired", &collector);
    store.good(7, "a.example");
    let stick = store.chain.folder.join("stick/bundle.tar.gz");
    let good = fs::read(&stick).unwrap();
    let slip = store.policy("a.example").replace("up: 5Mbit/s", "up: 5Mbps");
    store.chain.put(&store.chain.bundle(8, &slip, "ci", &[]));
    let bad = collector.report("of the slip", 0, |report| report["desired"]["sequence"] == 8);
    assert_eq!(bad.report["applied"]["sequence"], 7);
    let success = |store: &Operated, value: u8| {
        eventually(&format!("{value}"), || {
            let line = format!("tillgate_config_last_apply_success {value}\n");
            store.metrics().contains(&line).then_some(())
        });
    };
    success(&store, 0);
    assert_eq!(store.shown()["refused"]["sequence"], 8);
    let count = collector.count();
    store.chain.put(&good);
    let back = |report: &Value| report["desired"]["sequence"] == 7;
    let back = collector.report("of the way back", count, back).report;
    assert_eq!(back["attempted"], json!({"sequence": 7, "result": "Applied"}));
    success(&store, 1);
    assert_eq!(store.shown()["refused"], Value::Null);
    // A start from the disk alone knows, too, and since when.
    let since = back["applied"]["since"].clone();
    store.restart_after(|_| fs::remove_file(stick).unwrap());
    success(&store, 1);
    let metrics = store.metrics();
    let name = "tillgate_config_last_apply_timestamp_seconds ";
    let at = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let at = Wall(at.split('.').next().unwrap().parse().unwrap());
    assert_eq!(json!(wall_text(at)), since);
}

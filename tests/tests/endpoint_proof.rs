//! What a store can prove: every attack on its records and its doors is refused, counted and told,
//! every kind of record is really written, and a support bundle has no secret in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tillgate_core::civil::Timestamp;
use tillgate_tests::collector::{Collector, reasons};
use tillgate_tests::endpoint::{Caller, NAME, write_secret};
use tillgate_tests::eventually;
use tillgate_tests::mirror::{freeze_of, moment, seconds_now};
use tillgate_tests::operated::Operated;
use tillgate_tests::program::policy;
use tillgate_tests::tls::{self, Wants};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

/// A store that reports to `collector` and takes webhooks of `hub`.
fn store(name: &str, collector: &Collector) -> Operated {
    Operated::new(PROGRAM, name, |chain| {
        let hub = chain.folder.join("hub");
        write_secret(&hub, "hub-0123456789abcdef0123456789abcdef");
        let hub = hub.display();
        let doors = format!("    hooks: [{{name: hub, type: GitHub, secretFiles: [{hub}]}}]\n");
        doors + &collector.reporting("")
    })
}

/// Waits until a scrape has this line.
#[track_caller]
fn counted(store: &Operated, line: &str) {
    eventually(line, || store.metrics().contains(line).then_some(()));
}

/// Waits for a record of the audit log with these fields.
#[track_caller]
fn recorded(store: &Operated, fields: &Value) -> Value {
    eventually(&format!("a record with {fields}"), || {
        let has = |record: &Value| {
            fields.as_object().unwrap().iter().all(|(name, value)| record[name] == *value)
        };
        store.records().into_iter().find(has)
    })
}

#[test]
fn a_tampered_audit_line_is_refused_counted_and_told() {
    let collector = Collector::default();
    let store = store("proof-audit", &collector);
    store.good(7, "a.example");
    let folder = store.chain.state().join("audit");
    let file = fs::read_dir(&folder).unwrap().map(|one| one.unwrap().path());
    let file = file.filter(|path| path.extension().is_some_and(|end| end == "ndjson")).min();
    let file = file.unwrap();
    let audit = || {
        let words = ["tillgate".into(), "audit".into(), folder.clone().into_os_string()];
        tillgate::cli::ask(words).unwrap()
    };
    assert_eq!(audit().code, 0, "{:?}", audit());
    // Who was it? Not ci.
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"signers\":[\"ci\"]"), "{text}");
    fs::write(&file, text.replacen("\"signers\":[\"ci\"]", "\"signers\":[\"eve\"]", 1)).unwrap();
    // Refused.
    let refused = audit();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("the record before is not what it was"), "{refused:?}");
    // Counted.
    counted(&store, "tillgate_audit_records_total{action=\"ChainBroken\"} 1");
    counted(&store, "tillgate_drift_items{reason=\"AuditChanged\"} 1");
    // Told: here, to the centre, and in the log itself.
    let drift = store.get("/v1/drift");
    assert!(reasons(&drift["items"]).contains(&"AuditChanged".to_owned()), "{drift}");
    let is_told = |report: &Value| reasons(&report["drift"]).contains(&"AuditChanged".to_owned());
    assert_eq!(collector.report("the line", 0, is_told).report["compliance"], "Drifted");
    let found = recorded(&store, &json!({"action": "ChainBroken"}));
    assert!(found["reason"].as_str().unwrap().contains("ndjson:"), "{found}");
}

#[test]
fn a_replayed_operation_is_refused_counted_and_told() {
    let collector = Collector::default();
    let store = store("proof-replay", &collector);
    store.good(7, "a.example");
    let made = store.chain.folder.join("made.tar.gz");
    let without = fs::read(&made).unwrap();
    store.operate("boss", "once", &["--action", "pin", "--for", "2h"]);
    assert_eq!(collector.outcome(0, "once")["state"], "Succeeded");
    let with = fs::read(&made).unwrap();
    assert_eq!(store.ask("operator", "DELETE", "/v1/pin", "", "").status, 204);
    let count = collector.count();
    store.chain.put(&without);
    // A report comes every second; a look at the stick, and one more, take two.
    collector.report("without it", count + 5, |_| true);
    store.chain.put(&with);
    let replayed = collector.outcome(count, "once");
    assert_eq!(
        (&replayed["state"], &replayed["outcome"]["result"]),
        (&json!("Refused"), &json!("replayed"))
    );
    assert_eq!(store.get("/v1/pin")["pinned"], false, "it was not done again");
    counted(&store, "tillgate_remote_operations_total{result=\"replayed\"} 1");
    recorded(&store, &json!({"action": "VerifyFailed", "operation": "once", "result": "Refused"}));
}

#[test]
fn a_forged_hook_is_refused_counted_and_told() {
    let collector = Collector::default();
    let store = store("proof-hook", &collector);
    let forged = format!("X-Hub-Signature-256: sha256={}\r\n", "ab".repeat(32));
    let answer = store.ask("viewer", "POST", "/v1/hooks/hub", &forged, "{}");
    assert_eq!(answer.status, 401, "{}", answer.text());
    counted(&store, "tillgate_endpoint_requests_total{result=\"unauthenticated\"} 1");
    let found = recorded(&store, &json!({"action": "VerifyFailed", "actor": "hook:hub"}));
    assert_eq!(found["count"], 1, "{found}");
    store.program.line(&["WARN", "a webhook came with a wrong signature"]);
    // Nobody has looked for a policy because of it.
    assert!(!store.records().iter().any(|one| one["action"] == "Fetch"));
}

#[test]
fn an_old_certificate_is_refused_counted_and_told() {
    let collector = Collector::default();
    let store = store("proof-old", &collector);
    let old = store.authority.issue_until(&["tillgate://viewer/anna"], (2001, 1, 1));
    let good = store.authority.issue(&["tillgate://viewer/anna"]);
    let address = store.program.address("config-endpoint");
    let config = |identity| {
        tls::client(&store.authority, &Wants { identity: Some(identity), ..Wants::default() })
    };
    let anna = Caller { config: config(&good), address };
    assert_eq!(anna.get("/v1/status").status, 200);
    // With TLS 1.3 a client learns of it with its first answer, which does not come.
    let shaken = tls::connect(address, NAME, &config(&old));
    let answered = shaken.is_ok_and(|mut it| {
        it.wire.try_send("GET /v1/status HTTP/1.1\r\nHost: gateway\r\n\r\n")
            && it.wire.waits_for_more()
    });
    assert!(!answered, "an old certificate opens nothing");
    let result = "result=\"expired_certificate\"";
    counted(
        &store,
        &format!("tillgate_tls_handshakes_total{{listener=\"config-endpoint\",{result}}} 1"),
    );
    let line = store.program.line(&["WARN", "has expired", "config-endpoint"]);
    for part in ["URI:tillgate://viewer/anna", "01 Jan 2001", "renew it"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// A route in a freeze, and maybe an exception that says to be signed by the release manager and is
/// by this key.
fn frozen(store: &Operated, host: &str, exception: Option<&str>) -> String {
    let until = Timestamp(seconds_now() + 3600);
    let freeze = freeze_of("{routes: [api]}", until);
    // What is critical, no calendar may hold.
    let text = policy(host, store.origin.address);
    let mut text = text.replace("trafficClass: payment", "trafficClass: default") + &freeze;
    if let Some(key) = exception {
        let document = format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Override\nmetadata: {{name: hotfix}}\n\
             spec:\n  suspends: [{{kind: Freeze, name: peak}}]\n  allStores: true\n  \
             appliesTo: {{routes: [api]}}\n  reason: a test\n  ticket: CHG-1\n  \
             validFrom: '{}'\n  expiresAt: '{}'\n",
            moment(-60),
            moment(3600)
        );
        let file = store.chain.folder.join("override.yaml");
        fs::write(&file, &document).unwrap();
        let key = store.chain.folder.join(format!("{key}.pem")).display().to_string();
        let words = ["tillgate", "approve", file.to_str().unwrap(), "--role", "release-manager"];
        let words = words.into_iter().chain(["--key", &key, "--key-id", "release"]);
        let answer = tillgate::cli::ask(words.map(Into::into).collect::<Vec<_>>()).unwrap();
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        let approvals: String = answer.stdout.lines().map(|line| format!("    {line}\n")).collect();
        text.push_str(&format!("---\n{document}  approvals:\n{approvals}"));
    }
    text
}

/// The status of the answer to an operator, or to a viewer who asks about a policy.
fn status(store: &Operated, method: &str, path: &str, body: &str) -> u16 {
    let (role, media) = match path {
        "/v1/validate" => ("viewer", "application/yaml"),
        _ => ("operator", "application/json"),
    };
    let token = fs::read_to_string(store.chain.folder.join(role)).unwrap();
    let headers =
        format!("Authorization: Bearer {token}\r\nIf-Match: *\r\nContent-Type: {media}\r\n");
    let config = tls::client(&store.authority, &Wants::default());
    let caller = Caller { config, address: store.program.address("config-endpoint") };
    caller.ask(method, path, &headers, body).status
}

/// What people ask of a store that has had two policies.
fn people_ask(store: &Operated) {
    assert_eq!(status(store, "POST", "/v1/reconcile", ""), 202);
    assert_eq!(status(store, "POST", "/v1/validate", "nothing: here\n"), 422);
    let hold = json!({"reason": "a test", "ticket": "CHG-1", "expiresAt": moment(3600)});
    assert_eq!(status(store, "PUT", "/v1/pin", &hold.to_string()), 200);
    assert_eq!(status(store, "DELETE", "/v1/pin", ""), 204);
    let mut back = hold;
    back["to"] = json!("previous");
    assert_eq!(status(store, "POST", "/v1/rollback", &back.to_string()), 202);
    assert_eq!(status(store, "DELETE", "/v1/pin", ""), 204);
}

/// What is said of the exception, and whether its signature counts.
fn told(store: &Operated) -> Value {
    let one = store.get("/v1/overrides")["overrides"][0].clone();
    let approval = &one["approvals"][0];
    assert_eq!(
        (&approval["keyId"], &approval["role"]),
        (&json!("release"), &json!("release-manager"))
    );
    json!([one["state"], approval["counts"]])
}

#[test]
fn an_exception_that_others_have_signed_is_not_told_to_be_over() {
    let store = Operated::new(PROGRAM, "proof-unapproved", |_| String::new());
    store.put_text(7, &frozen(&store, "a.example", Some("eve")));
    store.applied(7);
    assert_eq!(told(&store), json!(["Unapproved", false]));
}

/// An exception counts, and does no longer; then something holds the rule.
fn an_exception_comes_and_goes(store: &Operated) {
    for (sequence, exception) in [(10, true), (11, false)] {
        let text = frozen(store, "b.example", exception.then_some("release"));
        store.chain.put(&store.chain.bundle(sequence, &text, "ci", &[]));
        store.applied(sequence);
        let action = if exception { "OverrideUsed" } else { "OverrideExpired" };
        let found = recorded(store, &json!({"action": action, "override": "hotfix"}));
        assert!(!exception || found["rule"] == "ServiceRoute/api/all", "{found}");
        if exception {
            assert_eq!(told(store), json!(["Active", true]));
        }
    }
    recorded(store, &json!({"action": "GateOpen"}));
    recorded(store, &json!({"action": "GateHeld"}));
}

const ACTIONS: [&str; 16] = [
    "Fetch",
    "VerifyFailed",
    "Validate",
    "Apply",
    "Reject",
    "Rollback",
    "Pin",
    "Unpin",
    "OverrideUsed",
    "OverrideExpired",
    "GateOpen",
    "GateHeld",
    "LkgPromote",
    "ClockState",
    "KeyRotated",
    "BreakBootLoop",
];

#[test]
fn every_action_of_the_audit_log_is_really_written() {
    let collector = Collector::default();
    let mut store = store("proof-actions", &collector);
    store.good(7, "a.example");
    store.good(8, "b.example");
    people_ask(&store);
    store.applied(8);
    // Bundles of somebody else, and of before.
    let text = policy("c.example", store.origin.address);
    store.chain.put(&store.chain.bundle(9, &text, "eve", &[]));
    recorded(&store, &json!({"action": "VerifyFailed"}));
    store.chain.put(&store.chain.bundle(3, &text, "ci", &[]));
    recorded(&store, &json!({"action": "Reject"}));
    an_exception_comes_and_goes(&store);
    // Another token counts.
    write_secret(&store.chain.folder.join("sidecar"), "another-0123456789abcdef0123456789");
    recorded(&store, &json!({"action": "KeyRotated"}));
    // It keeps dying young.
    for _ in 0..4 {
        store.restart();
    }
    recorded(&store, &json!({"action": "BreakBootLoop"}));
    let records = store.records();
    let found: BTreeSet<&str> =
        records.iter().filter_map(|record| record["action"].as_str()).collect();
    for action in ACTIONS {
        assert!(found.contains(action), "{action} is missing in {found:?}");
    }
    let is_dated = |record: &Value| record["clock"].is_string() && record["at"].is_string();
    assert!(records.iter().all(is_dated));
}

const HEADER_SECRET: &str = "planted-in-a-header-rule";
const BODY_SECRET: &str = "planted-in-an-answer";
const REASON_SECRET: &str = "planted-in-a-reason";
const CARD: &str = "4111 1111 1111 1111";
const ID_SECRET: &str = "q7Zr0pXv2mK9sLw4tYb8nHc3";

#[test]
fn a_support_bundle_has_no_secret_wherever_it_was_put() {
    let collector = Collector::default();
    let store = store("proof-support", &collector);
    let text = policy("a.example", store.origin.address);
    let rule = format!(
        "  rules:\n    - name: all\n      filters:\n        \
         requestHeaderModifier: {{set: [{{name: X-Upstream, value: {HEADER_SECRET}}}]}}\n      \
         backendRefs: [{{name: api}}]\n    - name: answer\n      \
         matches: [{{path: {{value: /answer}}}}]\n      \
         filters: {{directResponse: {{statusCode: 200, body: {BODY_SECRET}}}}}\n"
    );
    let at = text.rfind("  rules:").unwrap();
    store.chain.put(&store.chain.bundle(7, &(text[..at].to_owned() + &rule), "ci", &[]));
    store.applied(7);
    let reason = format!("password={REASON_SECRET}, card {CARD}");
    let pin = json!({"reason": reason, "ticket": "CHG-1", "expiresAt": moment(3600)}).to_string();
    let pinned = store.ask("operator", "PUT", "/v1/pin", "If-Match: *\r\n", &pin);
    assert_eq!(pinned.status, 200, "{}", pinned.text());
    // The id of an operation goes into the log and the audit log.
    store.operate("eve", ID_SECRET, &["--action", "unpin"]);
    assert_eq!(collector.outcome(0, ID_SECRET)["state"], "Refused");
    store.operate("boss", "help", &["--action", "support-bundle"]);
    let help = collector.outcome(0, "help");
    let text = unpacked(&help["outcome"]);
    let raw = [
        store.get("/v1/config").to_string(),
        store.get("/v1/status").to_string(),
        serde_json::to_string(&store.records()).unwrap(),
        store.program.log(),
    ]
    .concat();
    for secret in [HEADER_SECRET, BODY_SECRET, REASON_SECRET, CARD, ID_SECRET] {
        assert!(raw.contains(secret), "{secret} was not planted");
        assert!(!text.contains(secret), "{secret} is in the bundle: {text}");
    }
    for own in ["operator", "viewer", "hub", "tls.key"] {
        let own = secret_of(&store.chain.folder.join(own));
        assert!(!text.contains(&own), "a secret of the store is in it");
    }
    let bundle: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bundle["status"]["store"], "store-0412");
    let pinned = |one: &&Value| one["action"] == "Pin";
    let pin = bundle["audit"].as_array().unwrap().iter().find(pinned).unwrap();
    assert_eq!((&pin["ticket"], &pin["actor"]), (&json!("CHG-1"), &json!("token:operator")));
}

fn secret_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines().nth(1).or_else(|| text.lines().next()).unwrap().to_owned()
}

fn unpacked(outcome: &Value) -> String {
    let content = STANDARD.decode(outcome["content"].as_str().unwrap()).unwrap();
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(content.as_slice());
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    text
}

/// What dashboards and alarms of a chain are built on, with its labels.
const METRICS: [(&str, &[&str]); 27] = [
    ("config_info", &["revision", "digest", "sequence"]),
    ("config_last_apply_success", &[]),
    ("config_last_apply_timestamp_seconds", &[]),
    ("config_apply_total", &["result", "reason"]),
    ("config_apply_duration_seconds_count", &["phase"]),
    ("config_age_seconds", &[]),
    ("config_lkg_age_seconds", &[]),
    ("config_validation_errors_total", &["kind"]),
    ("source_fetch_total", &["source", "result"]),
    ("source_last_success_timestamp_seconds", &["source"]),
    ("source_backoff_seconds", &["source"]),
    ("signature_verify_total", &["result", "key_id"]),
    ("compliance_state", &["state"]),
    ("drift_items", &["reason"]),
    ("instances", &["state"]),
    ("config_poll_waiters", &[]),
    ("gate_state", &["rollout", "state"]),
    ("gate_held_total", &["rollout", "held_by"]),
    ("window_active", &["window", "effect"]),
    ("freeze_active", &["freeze"]),
    ("override_active", &["override"]),
    ("clock_state", &["state"]),
    ("clock_offset_seconds", &["source"]),
    ("audit_records_total", &["action"]),
    ("report_total", &["result"]),
    ("report_last_success_timestamp_seconds", &[]),
    ("build_info", &["version"]),
];

#[test]
fn what_dashboards_are_built_on_is_there_with_its_labels() {
    let shown = [tillgate_tests::metered::policy(), tillgate_tests::metered::rollouts()];
    let text: String = shown.iter().map(|metrics| metrics.encode().unwrap()).collect();
    for (name, labels) in METRICS {
        let name = format!("tillgate_{name}");
        let is_it = |line: &&str| {
            let rest = line.strip_prefix(&name);
            rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        };
        let line = text.lines().find(is_it);
        let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
        for label in labels {
            assert!(line.contains(&format!("{label}=\"")), "{label} of {line}");
        }
    }
}

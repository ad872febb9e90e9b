//! Enrolment, with the real program: a token once, then the certificate itself, for ever.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use tillgate_net::tls::shown;
use tillgate_tests::endpoint::{NAME, write_secret};
use tillgate_tests::eventually;
use tillgate_tests::operated::{JSON, Operated, csr, enrol};
use tillgate_tests::program::{Program, get};
use tillgate_tests::wire::Reply;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

/// A certificate whose end a test can wait for.
const SHORT: &str = "    enrolment: {certificateLifetime: 20s}\n";

/// A store with a route.
fn store(name: &str, more: &str) -> Operated {
    let store = Operated::new(PROGRAM, name, |_| more.to_owned());
    store.put(1, "api.example");
    store.applied(1);
    store
}

/// Puts the token into the file of a sidecar.
fn put(store: &Operated, token: &str) -> PathBuf {
    let file = store.chain.folder.join("enrol-token");
    write_secret(&file, token);
    file
}

fn state(store: &Operated) -> PathBuf {
    store.chain.folder.join("sidecar-state")
}

fn sidecar(store: &Operated) -> Program {
    let from = format!("https://{}", store.program.address("config-endpoint"));
    let at = |name: &str| store.chain.folder.join(name).display().to_string();
    let (ca, token, state) = (at("ca.crt"), at("enrol-token"), state(store).display().to_string());
    let arguments = [
        ["--config-from", &from],
        ["--ca", &ca],
        ["--server-name", NAME],
        ["--enrol-token-file", &token],
        ["--state", &state],
    ];
    Program::start_sidecar(PROGRAM, arguments.as_flattened())
}

/// What the sidecar says of its certificate.
fn enrolment(sidecar: &Program) -> Value {
    let status: Value = serde_json::from_str(&sidecar.status()).unwrap();
    status["policy"]["sidecar"]["enrolment"].clone()
}

/// The records of `action`.
fn records(store: &Operated, action: &str) -> Vec<Value> {
    store.records().into_iter().filter(|record| record["action"] == action).collect()
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

/// The names in what was answered.
#[track_caller]
fn names(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 201, "{}", reply.text());
    let certificate = shown(body(reply)["certificate"].as_str().unwrap()).unwrap();
    certificate.sans.iter().map(ToString::to_string).collect()
}

const NAMES: [&str; 2] = ["URI:tillgate://sidecar/pos-1", "URI:tillgate://workload/pos/checkout"];

#[test]
fn a_sidecar_shows_its_token_once_and_starts_again_with_what_it_has() {
    let store = store("enrol-once", "");
    let token = store.mint(&["pos-1", "--workload", "pos/checkout", "--for", "2h"]);
    let file = put(&store, &token);
    // What others can read is not shown.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut program = sidecar(&store);
    eventually("it says what to do", || {
        enrolment(&program)["failing"].as_str()?.contains("chmod 600").then_some(())
    });
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let one = store.sidecar_in_sync();
    assert_eq!((&one["id"], &one["workload"]), (&json!("pos-1"), &json!("pos/checkout")));
    eventually("it serves", || {
        (get(program.address("http"), "api.example").status == 200).then_some(())
    });
    let kept = state(&store).join("identity.pem");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let minted = &records(&store, "EnrolToken")[0];
    assert_eq!((&minted["actor"], &minted["id"]), (&json!("token:operator"), &json!("pos-1")));
    let first = &records(&store, "Enrol")[0];
    assert_eq!((&first["actor"], &first["id"]), (&json!("enrolment:pos-1"), &json!("pos-1")));
    let told = store.program.log() + &program.log() + &store.metrics() + &program.status();
    assert!(!told.contains(&token), "the token is told");

    // Nobody has the token any more, and nobody needs it.
    program.kill();
    fs::remove_file(file).unwrap();
    let before = fs::read(&kept).unwrap();
    let again = sidecar(&store);
    store.put(2, "moved.example");
    eventually("it follows again", || {
        (get(again.address("http"), "moved.example").status == 200).then_some(())
    });
    assert_eq!(enrolment(&again)["id"], "pos-1");
    assert_eq!(fs::read(&kept).unwrap(), before, "what it has is good for a day");
    assert_eq!(records(&store, "Enrol").len(), 1);
}

#[test]
fn a_token_is_exchanged_once_and_names_come_from_it_alone() {
    let store = store("enrol-names", "");
    let caller = store.caller();
    let token = store.mint(&["pos-1", "--workload", "pos/checkout"]);
    // What a request says of names is not read.
    let key = rcgen_key();
    let mut wishes = rcgen::CertificateParams::default();
    let wish = "tillgate://operator/root".try_into().unwrap();
    wishes.subject_alt_names = vec![rcgen::SanType::URI(wish)];
    let wishes = wishes.serialize_request(&key).unwrap().pem().unwrap();
    // What cannot be signed costs no token.
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = rcgen::CertificateParams::default().serialize_request(&other).unwrap();
    for (csr, status) in [("nonsense", 400), (&*other.pem().unwrap(), 422)] {
        let reply = enrol(&caller, Some(&token), csr);
        assert_eq!((reply.status, reply.header("content-type")), (status, Some(PROBLEM)));
    }
    // Whoever comes at the same time, one key alone gets a certificate.
    let wishes: Vec<String> = [wishes].into_iter().chain((0..7).map(|_| csr().1)).collect();
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let (caller, token) = (&caller, &*token);
        let ask = |csr| scope.spawn(move || enrol(caller, Some(token), csr));
        let asked: Vec<_> = wishes.iter().map(String::as_str).map(ask).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let taken: Vec<usize> = (0..8).filter(|one| replies[*one].status == 201).collect();
    assert_eq!(replies.iter().filter(|reply| reply.status == 401).count(), 7);
    let [taken] = taken[..] else { panic!("{taken:?}") };
    assert_eq!(names(&replies[taken]), NAMES);
    // Who has that key may not have heard the answer.
    let first = enrol(&caller, Some(&token), &wishes[taken]);
    assert_eq!(names(&first), NAMES);
    let told = body(&first);
    assert!(told["authority"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert!(told["renewAfter"].as_str() < told["notAfter"].as_str(), "{told}");

    let again = enrol(&caller, Some(&token), &csr().1);
    assert_eq!(again.status, 401);
    assert!(again.text().contains("exchanged before"), "{}", again.text());
    let refused = &records(&store, "VerifyFailed")[0];
    assert_eq!(
        (&refused["id"], &refused["reason"]),
        (&json!("pos-1"), &json!("token shown again"))
    );
    let metrics = store.metrics();
    for line in [
        "tillgate_enrolments_total{result=\"first\"} 2",
        "tillgate_enrolments_total{result=\"refused\"} 8",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

const PROBLEM: &str = "application/problem+json";

fn rcgen_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

#[test]
fn whoever_shows_nothing_that_counts_gets_nothing() {
    let store = store("enrol-wrong", "");
    let (caller, csr) = (store.caller(), csr().1);
    let operator = fs::read_to_string(store.chain.folder.join("operator")).unwrap();
    for wrong in [None, Some("tillgate-enrol-guessed"), Some(&*operator), Some("a.b.c")] {
        assert_eq!(enrol(&caller, wrong, &csr).status, 401, "{wrong:?}");
    }
    // A sidecar's certificate of another authority is somebody else's to renew.
    let elsewhere = store.certified(&["tillgate://sidecar/pos-1"]);
    assert_eq!(enrol(&elsewhere, None, &csr).status, 403);
    let token = store.mint(&["pos-1"]);
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let ask = |headers: &str, body: &str| {
        caller.ask("POST", "/v1/enrol", &format!("{bearer}{headers}"), body).status
    };
    assert_eq!(ask("Content-Type: text/plain\r\n", "x"), 415);
    assert_eq!(ask(JSON, &" ".repeat(17 * 1024)), 413);
    assert_eq!(ask(JSON, "{\"csr\":1}"), 400);
    for (words, part) in [
        (&["a/b"][..], "400"),
        (&["pod_shop.basket"], "400"),
        (&["pos-1", "--workload", "checkout"], "400"),
        (&["pos-1", "--for", "169h"], "422"),
    ] {
        let refused = store.command("operator", &[&["enrol"], words].concat());
        assert!(refused.code != 0 && refused.stderr.contains(part), "{}", refused.stderr);
        assert_eq!(refused.stdout, "");
    }
    let viewer = store.command("viewer", &["enrol", "pos-1"]);
    assert!(viewer.stderr.contains("403"), "{}", viewer.stderr);
    assert_eq!(names(&enrol(&caller, Some(&token), &csr)), NAMES[..1], "it was not spent");
}

#[test]
fn a_certificate_speaks_for_its_own_id_and_is_renewed_for_it_alone() {
    let store = store("enrol-renewal", "");
    let one = store.enrolled(&["pos-1", "--workload", "pos/checkout"]);
    let register = |id: &str| {
        let body = json!({"bootId": "one"}).to_string();
        one.ask("PUT", &format!("/v1/instances/{id}"), JSON, &body).status
    };
    assert_eq!((register("pos-2"), register("pos-1")), (403, 204));
    assert_eq!(one.get("/v1/config").status, 200);
    assert_eq!(one.get("/v1/config?workload=pos/prices").status, 403);
    assert_eq!(one.get("/v1/status").status, 403);
    // A token that does not count is not made good by the certificate.
    assert_eq!(enrol(&one, Some("tillgate-enrol-guessed"), &csr().1).status, 401);
    let renewed = enrol(&one, None, &csr().1);
    assert_eq!(names(&renewed), NAMES);
    let record = &records(&store, "EnrolRenew")[0];
    assert_eq!((&record["actor"], &record["id"]), (&json!("certificate:pos-1"), &json!("pos-1")));
    // Whoever asks on and on does not fill the audit log, and is in nobody's way.
    let refused = (0..8).map(|_| enrol(&one, None, &csr().1)).find(|reply| reply.status == 429);
    let wait = refused.unwrap().header("retry-after").unwrap().parse::<u64>().unwrap();
    assert!((3_000..=3_601).contains(&wait), "{wait}");
    assert_eq!(records(&store, "EnrolRenew").len(), 7);
    store.enrolled(&["pos-2"]);
}

#[test]
fn tokens_and_the_authority_outlive_the_gateway() {
    let mut store = store("enrol-restart", "");
    let spent = store.mint(&["pos-1"]);
    assert_eq!(enrol(&store.caller(), Some(&spent), &csr().1).status, 201);
    let kept = store.mint(&["pos-2"]);
    let one = store.enrolled(&["pos-3"]);
    store.restart();
    assert_eq!(enrol(&store.caller(), Some(&spent), &csr().1).status, 401);
    assert_eq!(enrol(&store.caller(), Some(&kept), &csr().1).status, 201);
    assert_eq!(enrol(&one, None, &csr().1).status, 201, "signed before the restart");
}

#[test]
fn a_torn_authority_is_told_and_left_as_it_is() {
    let mut store = store("enrol-torn", "");
    let one = store.enrolled(&["pos-1"]);
    let mut whole = Vec::new();
    store.restart_after(|state| {
        let file = state.join("enrolment/authority.pem");
        whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    });
    let file = store.chain.state().join("enrolment/authority.pem");
    store.program.line(&["ERROR", "authority.pem", "move it away"]);
    let refused = store.command("operator", &["enrol", "pos-2"]);
    assert!(refused.stderr.contains("503") && refused.stderr.contains("authority.pem"));
    assert_eq!(fs::read(&file).unwrap(), whole[..whole.len() / 2]);
    // Everything else goes on.
    store.applied(1);
    assert_eq!(store.program.get("api.example").status, 200);
    assert_eq!(store.get("/v1/status")["store"], "store-0412");
    store.restart_after(|_| fs::write(&file, &whole).unwrap());
    assert_eq!(enrol(&one, None, &csr().1).status, 201);
}

#[test]
fn a_sidecar_renews_in_time_without_anybody() {
    let store = store("enrol-renews", SHORT);
    put(&store, &store.mint(&["pos-1"]));
    let program = sidecar(&store);
    let first = eventually("it is enrolled", || {
        enrolment(&program)["notAfter"].as_str().map(str::to_owned)
    });
    eventually("it has renewed twice", || (records(&store, "EnrolRenew").len() > 1).then_some(()));
    eventually("it says so", || {
        (enrolment(&program)["notAfter"].as_str().unwrap() > &*first).then_some(())
    });
    store.sidecar_in_sync();
    assert_eq!(records(&store, "Enrol").len(), 1);
    // The gateway takes the new one on connections that are opened with it.
    let digest = store.sidecar_in_sync()["activeDigest"].clone();
    store.put(2, "moved.example");
    eventually("it follows", || {
        let one = store.get("/v1/instances")["instances"][0].clone();
        (one["state"] == "in_sync" && one["activeDigest"] != digest).then_some(())
    });
    assert_eq!(get(program.address("http"), "moved.example").status, 200);
}

#[test]
fn a_certificate_that_has_run_out_ends_nothing_and_another_token_helps() {
    let mut store = store("enrol-late", SHORT);
    put(&store, &store.mint(&["pos-1"]));
    let program = sidecar(&store);
    store.sidecar_in_sync();
    store.program.kill();
    let says = |part: &str| {
        eventually(&format!("it says {part}"), || {
            let failing = enrolment(&program)["failing"].as_str()?.to_owned();
            failing.contains(part).then_some(failing)
        })
    };
    let failing = says("has run out");
    assert!(failing.contains("tillgate enrol pos-1"), "{failing}");
    assert_eq!(get(program.address("http"), "api.example").status, 200);
    store.restart();
    // The gateway refuses it, and the token that was spent.
    store.program.line(&["a client's certificate has expired", "sidecar/pos-1"]);
    says("minted");
    assert_eq!(get(program.address("http"), "api.example").status, 200);
    put(&store, &store.mint(&["pos-1"]));
    eventually("it has another one", || enrolment(&program)["failing"].is_null().then_some(()));
    store.sidecar_in_sync();
}

#[test]
fn with_another_authority_a_sidecar_takes_the_next_token() {
    let mut store = store("enrol-anew", "");
    put(&store, &store.mint(&["pos-1"]));
    let program = sidecar(&store);
    store.sidecar_in_sync();
    store.restart_after(|state| fs::remove_file(state.join("enrolment/authority.pem")).unwrap());
    eventually("it says that it needs one", || {
        enrolment(&program)["failing"].as_str()?.contains("minted").then_some(())
    });
    put(&store, &store.mint(&["pos-1"]));
    store.sidecar_in_sync();
    assert_eq!(records(&store, "Enrol").len(), 2);
    assert!(enrolment(&program)["failing"].is_null());
}

//! An operator keeps a store on what it runs, takes it back to what it ran, and reads its past:
//! over TLS and from the command line, with a policy that comes from a source.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;
use tillgate_tests::eventually;
use tillgate_tests::operated::Operated;
use tillgate_tests::wire::Reply;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

fn store(name: &str) -> Operated {
    Operated::new(PROGRAM, name, |_| String::new())
}

/// A moment so many hours from now.
fn hours(hours: i64) -> String {
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    wall_text(Wall(since.checked_add_signed(hours * 3600).unwrap()))
}

fn hold(more: Value) -> String {
    let mut body = json!({"reason": "a busy evening", "ticket": "CHG-1", "expiresAt": hours(24)});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

fn tag(store: &Operated) -> String {
    let shown = store.ask("operator", "GET", "/v1/pin", "", "");
    format!("If-Match: {}\r\n", shown.header("etag").expect("a tag"))
}

#[track_caller]
fn refused(reply: &Reply, status: u16, part: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(reply.text().contains(part), "{}", reply.text());
}

#[test]
fn a_pin_needs_eyes_and_an_end_and_survives_a_power_cut() {
    let mut store = store("pin");
    let put = |store: &Operated, headers: &str, body: &str| {
        store.ask("operator", "PUT", "/v1/pin", headers, body)
    };
    refused(&put(&store, "If-Match: *\r\n", &hold(json!({}))), 409, "no policy yet");
    store.good(7, "a.example");
    refused(&put(&store, "", &hold(json!({}))), 428, "If-Match");
    refused(&put(&store, "If-Match: \"sha256:00\"\r\n", &hold(json!({}))), 412, "look again");
    let seen = tag(&store);
    for (more, status, part) in [
        (json!({"expiresAt": hours(8 * 24)}), 409, "at most 7 days"),
        (json!({"expiresAt": hours(-1)}), 409, "later than now"),
        (json!({"expiresAt": "tomorrow"}), 400, "expiresAt"),
        (json!({"reason": " "}), 400, "reason"),
        (json!({"digest": "sha256:00"}), 404, "never in effect"),
        (json!({"more": 1}), 400, "more"),
    ] {
        refused(&put(&store, &seen, &hold(more)), status, part);
    }
    assert_eq!(store.ask("viewer", "PUT", "/v1/pin", &seen, &hold(json!({}))).status, 403);
    let pinned = put(&store, &seen, &hold(json!({"digest": "current"})));
    assert_eq!(pinned.status, 200, "{}", pinned.text());
    refused(&put(&store, &seen, &hold(json!({}))), 412, "look again");
    assert_eq!(store.get("/v1/pin")["actor"], "token:operator");

    // Sources are asked all the same; what they give waits, and can be looked at.
    store.put(8, "b.example");
    let waits = |store: &Operated| {
        eventually("8 waits", || (store.shown()["waiting"]["sequence"] == 8).then_some(()));
        assert_eq!(store.shown()["applied"]["sequence"], 7);
    };
    waits(&store);
    let difference = store.get("/v1/revisions/current/diff/candidate");
    assert!(difference["changes"].to_string().contains("b.example"), "{difference}");
    assert_eq!(store.get("/v1/revisions/candidate")["manifest"]["sequence"], 8);
    let metrics = store.ask("viewer", "GET", "/metrics", "", "").text();
    assert!(metrics.contains("tillgate_config_pinned 1"));

    store.restart();
    waits(&store);
    assert_eq!(store.get("/v1/pin")["ticket"], "CHG-1");
    let conditions = store.shown()["conditions"].clone();
    let is_pinned = |one: &Value| one["type"] == "Pinned" && one["status"] == "True";
    assert!(conditions.as_array().unwrap().iter().any(is_pinned), "{conditions}");

    refused(&store.ask("operator", "DELETE", "/v1/pin", &seen, ""), 412, "look again");
    assert_eq!(store.ask("operator", "DELETE", "/v1/pin", &tag(&store), "").status, 204);
    store.applied(8);
    refused(&store.ask("operator", "DELETE", "/v1/pin", "", ""), 404, "not pinned");
    let records = store.records();
    for action in ["Pin", "Unpin"] {
        let found = records.iter().find(|one| one["action"] == action).expect(action);
        assert_eq!(
            (&found["actor"], &found["ticket"]),
            (&json!("token:operator"), &json!("CHG-1"))
        );
    }
}

#[test]
fn a_store_goes_back_by_order_and_forward_again() {
    let store = store("rollback");
    store.good(7, "a.example");
    store.good(8, "b.example");
    let back =
        |to: &str| store.ask("operator", "POST", "/v1/rollback", "", &hold(json!({"to": to})));
    refused(&back("lkg"), 409, "runs already");
    refused(&back("sha256:00"), 404, "never in effect");
    let stale = "If-Match: \"sha256:00\"\r\n";
    let body = hold(json!({"to": "previous"}));
    refused(&store.ask("operator", "POST", "/v1/rollback", stale, &body), 412, "look again");
    let accepted = back("previous");
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let place = accepted.header("location").unwrap().to_owned();
    let ended = eventually("the operation ends", || {
        let operation = store.get(&place);
        (operation["state"] == "Succeeded").then_some(operation)
    });
    assert_eq!((&ended["kind"], &ended["actor"]), (&json!("Rollback"), &json!("token:operator")));
    store.applied(7);
    assert_eq!(store.program.get("a.example").status, 200);
    assert_eq!(store.program.get("b.example").status, 404);
    let config = store.ask("viewer", "GET", "/v1/config", "", "");
    assert_eq!(config.header("tillgate-sequence"), Some("7"));
    assert_eq!(config.header("tillgate-revision"), Some("main@sha1:7"));
    let bearer = store.bearer("viewer");
    let mut events = store.caller().send("GET", "/v1/config/events", &bearer, "");
    let told = events.read_until("}\n\n");
    assert!(told.contains("\"sequence\":7"), "{told}");

    // The newer one is not forgotten: it waits for the end of the pin.
    assert_eq!(store.get("/v1/revisions/candidate")["manifest"]["sequence"], 8);
    let unpinned = store.command("operator", &["pin", "--remove"]);
    assert_eq!(unpinned.code, 0, "{unpinned:?}");
    store.applied(8);
    let records = store.records();
    let rollback = records.iter().find(|one| one["action"] == "Rollback").unwrap();
    assert_eq!(rollback["reason"], "a busy evening");
    assert!(records.iter().any(|one| one["action"] == "LkgPromote"));
    let apply = records.iter().rfind(|one| one["action"] == "Apply").unwrap();
    assert_eq!((&apply["sequence"], &apply["signers"]), (&json!(8), &json!(["ci"])));
}

#[test]
fn a_power_cut_undoes_no_rollback() {
    let mut store = store("rollback-cut");
    store.good(7, "a.example");
    store.good(8, "b.example");
    let body = hold(json!({"to": "previous"}));
    let accepted = store.ask("operator", "POST", "/v1/rollback", "", &body);
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    store.applied(7);
    // Nobody has asked for anything since: it is on probation.
    for cut in 1..=2 {
        store.restart();
        eventually("8 waits", || (store.shown()["waiting"]["sequence"] == 8).then_some(()));
        assert_eq!(store.shown()["applied"]["sequence"], 7, "cut {cut}");
        let pin = store.get("/v1/pin");
        assert_eq!((&pin["pinned"], &pin["digest"]), (&json!(true), &pin["running"]), "cut {cut}");
        let drift = store.get("/v1/drift")["items"].to_string();
        assert!(!drift.contains("PinNotRunning") && !drift.contains("PointerChanged"), "{drift}");
    }
    assert_eq!(store.ask("operator", "DELETE", "/v1/pin", "", "").status, 204);
    store.applied(8);
}

#[test]
fn an_order_that_a_restart_would_undo_is_not_called_done() {
    let store = store("unwritten");
    store.good(7, "a.example");
    store.good(8, "b.example");
    let memory = store.chain.state().join("state.json");
    fs::remove_file(&memory).unwrap();
    // Nothing can be put in the place of a folder that has something in it.
    fs::create_dir_all(memory.join("in the way")).unwrap();
    let put = || store.ask("operator", "PUT", "/v1/pin", "If-Match: *\r\n", &hold(json!({})));
    let body = hold(json!({"to": "previous"}));
    let unwritten = put();
    refused(&unwritten, 503, "cannot be written");
    assert_eq!(unwritten.header("retry-after"), Some("60"));
    refused(&store.ask("operator", "POST", "/v1/rollback", "", &body), 503, "a restart undoes it");
    store.applied(7);
    fs::remove_dir_all(&memory).unwrap();
    assert_eq!(put().status, 200);
    assert_eq!(store.ask("operator", "DELETE", "/v1/pin", "", "").status, 204);
}

#[test]
fn what_runs_from_memory_alone_is_shown_and_can_be_kept() {
    let store = store("unkept");
    let bundles = store.chain.state().join("bundles");
    let _ = fs::remove_dir_all(&bundles);
    fs::write(&bundles, "no folder").unwrap();
    store.put(7, "a.example");
    store.applied(7);
    eventually("that is told", || {
        store.shown()["conditions"].to_string().contains("a restart loses it").then_some(())
    });
    let shown = store.get("/v1/revisions/current");
    assert_eq!(shown["manifest"]["sequence"], 7, "{shown}");
    let bundle = shown["bundle"].as_str().unwrap();
    assert_eq!(store.get(&format!("/v1/revisions/{bundle}"))["digest"], shown["digest"]);
    assert_eq!(store.get("/v1/revisions/current/diff/current")["changes"], json!([]));
    let body = hold(json!({"digest": "current"}));
    let pinned = store.ask("operator", "PUT", "/v1/pin", "If-Match: *\r\n", &body);
    assert_eq!(pinned.status, 200, "{}", pinned.text());
    let back = hold(json!({"to": "current"}));
    refused(&store.ask("operator", "POST", "/v1/rollback", "", &back), 409, "runs already");
}

#[test]
fn the_past_is_that_of_the_disk_and_what_is_gone_is_known_as_such() {
    let mut store = store("past");
    store.good(7, "a.example");
    store.good(8, "b.example");
    store.restart();
    let list = store.get("/v1/revisions");
    let all = list["revisions"].as_array().unwrap().clone();
    let sequences: Vec<u64> = all.iter().map(|one| one["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [8, 7], "{list}");
    assert_eq!((&all[0]["fate"], &all[0]["current"]), (&json!("LastKnownGood"), &json!(true)));
    assert_eq!(all[0]["names"], json!(["current", "lkg"]));
    assert_eq!(all[1]["names"], json!(["previous"]));
    // By the digest of its config, of its bundle, and by name; compiled anew after the start.
    for name in [all[1]["digest"].as_str().unwrap(), all[1]["bundle"].as_str().unwrap(), "previous"]
    {
        let shown = store.get(&format!("/v1/revisions/{name}"));
        assert_eq!((&shown["sequence"], &shown["digest"]), (&json!(7), &all[1]["digest"]));
        assert_eq!(shown["manifest"]["revision"], "main@sha1:7");
    }
    let difference = store.get("/v1/revisions/previous/diff/lkg");
    assert!(difference["changes"].to_string().contains("b.example"), "{difference}");
    let history = store.command("viewer", &["history"]);
    assert!(history.stdout.contains("main@sha1:8  LastKnownGood (current, lkg)"), "{history:?}");

    let bundle = all[1]["bundle"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    fs::remove_dir_all(store.chain.state().join("bundles").join(bundle)).unwrap();
    let gone = store.ask("viewer", "GET", "/v1/revisions/previous", "", "");
    refused(&gone, 410, "not kept any more");
    let unknown = store.ask("viewer", "GET", "/v1/revisions/sha256:00", "", "");
    refused(&unknown, 404, "sha256:00");
    let back = hold(json!({"to": "previous"}));
    refused(&store.ask("operator", "POST", "/v1/rollback", "", &back), 410, "not kept any more");
}

#[test]
fn a_person_pins_and_goes_back_from_the_command_line() {
    let store = store("held");
    store.good(7, "a.example");
    store.good(8, "b.example");
    assert_eq!(store.command("operator", &["pin"]).stdout, "not pinned\n");
    let why = ["--reason", "a busy evening", "--ticket", "CHG-2", "--for", "2h"];
    let pin: Vec<&str> = ["pin"].into_iter().chain(why).collect();
    let refused = store.command("viewer", &pin);
    assert!(refused.code == 2 && refused.stderr.contains("403"), "{refused:?}");
    let pinned = store.command("operator", &pin);
    assert_eq!(pinned.code, 0, "{pinned:?}");
    let line = store.command("operator", &["pin"]).stdout;
    assert!(line.starts_with("pinned to sha256:") && line.contains("(CHG-2)"), "{line}");
    let status = store.command("viewer", &["status"]);
    assert!(status.stdout.contains(&line), "{status:?}");
    let back: Vec<&str> = ["rollback", "previous"].into_iter().chain(why).collect();
    let done = store.command("operator", &back);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.starts_with("Rollback: Succeeded: sha256:"), "{done:?}");
    store.applied(7);
    let again =
        store.command("operator", &["rollback", "sha256:00", "--reason", "x", "--ticket", "y"]);
    assert!(again.code == 2 && again.stderr.contains("never in effect"), "{again:?}");
}

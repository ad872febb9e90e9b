//! The config endpoint: who may ask what, what is shown to whom, and what happens to who asks
//! wrongly. A whole gateway, TLS on the wire, certificates of an authority of our own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};
use tillgate_config::effective::{Effective, ListenerProtocol};
use tillgate_config::load_text;
use tillgate_tests::endpoint::{self, Caller, NAME, Wanted, write_secret};
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::tls::{self, Authority, Volume, Wants};
use tillgate_tests::wire::{Reply, Wire};

const TOKEN: &str = "grafana-0123456789abcdef0123456789";

/// A store with an endpoint, and everyone who asks it.
struct Site {
    gateway: Gateway,
    authority: Authority,
    files: Volume,
    address: SocketAddr,
}

fn policy(files: &Volume, auth: &str, down: &str) -> String {
    let tokens: &[_] = if auth == "Token" { &[("grafana", "viewer")] } else { &[] };
    let wanted = Wanted { auth, has_ca: true, tokens, hooks: &[], down };
    endpoint::policy(|name| files.path(name).display().to_string(), &wanted)
}

fn compiled(text: &str) -> Effective {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let effective = load_text("store.yaml", text).unwrap();
    [ListenerProtocol::Http, ListenerProtocol::ForwardProxy, ListenerProtocol::Admin]
        .into_iter()
        .fold(effective, |effective, protocol| effective.with_listener(protocol, any))
}

impl Site {
    fn new(auth: &str) -> Self {
        let authority = Authority::default();
        let identity = authority.issue(&[NAME]);
        let files = Volume::new(&[
            ("ca.crt", &authority.pem),
            ("tls.crt", &identity.chain),
            ("tls.key", &identity.key),
        ]);
        write_secret(&files.path("grafana"), TOKEN);
        let gateway = Gateway::start(compiled(&policy(&files, auth, "20Mbit/s")));
        let address = gateway.listeners["config-endpoint"];
        Self { gateway, authority, files, address }
    }

    /// Another capacity, which a sidecar does not see.
    fn reload(&self, down: &str) -> Effective {
        let effective = compiled(&policy(&self.files, "Token", down));
        self.gateway.control.reload(effective.clone()).unwrap();
        effective
    }

    fn client(&self, names: &[&str]) -> Arc<ClientConfig> {
        let identity = (!names.is_empty()).then(|| self.authority.issue(names));
        tls::client(&self.authority, &Wants { identity: identity.as_ref(), ..Wants::default() })
    }

    fn caller(&self, role: &str) -> Caller {
        let name = format!("tillgate://{role}/pos-1");
        Caller { config: self.client(&[&name]), address: self.address }
    }

    fn nobody(&self) -> Caller {
        Caller { config: self.client(&[]), address: self.address }
    }
}

fn read(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("{}", reply.text()))
}

#[track_caller]
fn refused(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = read(reply);
    assert_eq!(problem["status"], status);
    for field in ["type", "title", "detail"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
}

const INSTANCE: &str = r#"{"bootId":"one","workload":"pos/checkout"}"#;

#[test]
fn a_certificate_without_a_role_or_a_wrong_token_opens_nothing() {
    let site = Site::new("Token");
    for names in [&["viewer.example"][..], &["tillgate://root/anna"], &["tillgate://viewer"]] {
        let caller = Caller { config: site.client(names), address: site.address };
        refused(&caller.get("/v1/status"), 403);
    }
    let ask = |token: &str| {
        site.nobody().ask("GET", "/v1/status", &format!("Authorization: {token}\r\n"), "")
    };
    assert_eq!(ask(&format!("Bearer {TOKEN}")).status, 200);
    let wrong = ask(&format!("Bearer {TOKEN}x"));
    refused(&wrong, 401);
    assert_eq!(wrong.header("www-authenticate"), Some("Bearer realm=\"tillgate\""));
    refused(&ask("Basic YTpi"), 401);
    // A token that is shown is what counts, whatever the certificate says.
    let viewer = site.caller("viewer");
    refused(&viewer.ask("GET", "/v1/status", "Authorization: Bearer x\r\n", ""), 401);

    // A new token counts when its file is whole, and the old one does not any more.
    let fresh = "grafana-fresh-0123456789abcdef01234567";
    write_secret(&site.files.path("grafana"), "short");
    write_secret(&site.files.path("grafana"), fresh);
    eventually("the new token counts", || {
        (ask(&format!("Bearer {fresh}")).status == 200).then_some(())
    });
    refused(&ask(&format!("Bearer {TOKEN}")), 401);
}

#[test]
fn with_mutual_there_is_no_connection_without_a_certificate_that_counts() {
    let site = Site::new("Mutual");
    assert_eq!(site.caller("viewer").get("/v1/status").status, 200);
    let stranger = Authority::default().issue(&["tillgate://viewer/pos-1"]);
    let wants = Wants { identity: Some(&stranger), ..Wants::default() };
    let ended = site.authority.issue_until(&["tillgate://viewer/pos-1"], (2020, 1, 1));
    let late = Wants { identity: Some(&ended), ..Wants::default() };
    for wants in [Wants::default(), wants, late] {
        let config = tls::client(&site.authority, &wants);
        // With TLS 1.3 the client only learns of it after its own part of the handshake.
        if let Ok(shaken) = tls::connect(site.address, NAME, &config) {
            let mut wire = shaken.wire;
            wire.try_send("GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n");
            let text = wire.read_to_end().unwrap_or_else(|text| text);
            assert!(text.is_empty(), "{}", String::from_utf8_lossy(&text));
        }
    }
}

#[test]
fn who_asks_wrongly_is_told_why() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    for method in ["PUT", "POST", "PATCH", "DELETE"] {
        let reply = viewer.ask(method, "/v1/config", "Content-Length: 0\r\n", "");
        refused(&reply, 405);
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
    refused(&viewer.get("/v1/nothing"), 404);
    refused(&viewer.get("/v1/schema/Nothing"), 404);
    refused(&viewer.get("/v1/revisions/sha256:00"), 404);
    refused(&viewer.ask("GET", "/v1/status", "Accept: text/html\r\n", ""), 406);
    refused(&viewer.ask("GET", "/v1/status", "Accept: application/json;q=0\r\n", ""), 406);
    let versioned = |version: u8| {
        let media = format!("application/vnd.tillgate.config.v{version}+json");
        (viewer.ask("GET", "/v1/config", &format!("Accept: {media}\r\n"), ""), media)
    };
    let (first, media) = versioned(1);
    assert_eq!((first.status, first.header("content-type")), (200, Some(&*media)));
    refused(&versioned(2).0, 406);
    for (accept, wanted) in [
        (format!("{media}, text/plain"), &*media),
        (format!("application/json;q=0.5, {media}"), &*media),
        (format!("application/json, {media};q=0.5"), "application/json"),
        (format!("{media};q=0, */*"), "application/json"),
        ("*/*".to_owned(), "application/json"),
    ] {
        let reply = viewer.ask("GET", "/v1/config", &format!("Accept: {accept}\r\n"), "");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(wanted)), "{accept}");
    }
    for accept in ["*/*", "application/*", "text/html, application/json;q=0.1"] {
        let reply = viewer.ask("GET", "/v1/status", &format!("Accept: {accept}\r\n"), "");
        assert_eq!(reply.status, 200, "{accept}");
    }
    refused(&viewer.get("/v1/config?wait=soon"), 400);
    refused(&viewer.get("/v1/config?role=root"), 400);
    refused(&viewer.get("/v1/windows?from=yesterday"), 400);
    refused(&viewer.ask("POST", "/v1/validate", "Content-Type: text/html\r\n", "x"), 415);
    refused(&viewer.ask("POST", "/v1/validate", "", "x"), 415);
    // Told before it is sent.
    let long = "Content-Type: text/yaml\r\nContent-Length: 1048577\r\n";
    refused(&viewer.ask("POST", "/v1/validate", long, ""), 413);
    let gzip = "Content-Type: application/gzip\r\n";
    refused(&viewer.ask("POST", "/v1/validate", gzip, "no archive"), 400);
    let sidecar = site.caller("sidecar");
    let json = "Content-Type: application/json\r\n";
    refused(&sidecar.ask("PUT", "/v1/instances/pos-2", json, INSTANCE), 403);
    let deep = "[".repeat(10_000);
    for wrong in ["{", "[]", r#"{"bootId":1}"#, r#"{"bootId":"a","more":1}"#, &deep] {
        refused(&sidecar.ask("PUT", "/v1/instances/pos-1", json, wrong), 400);
    }
}

#[test]
fn what_is_too_long_or_too_slow_is_refused_as_a_problem() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    refused(&viewer.get(&format!("/v1/config?workload={}", "x".repeat(9000))), 414);
    let fields: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    refused(&viewer.ask("GET", "/v1/config", &fields, ""), 431);
    // Its body never comes to its end.
    let slow = "Content-Type: application/json\r\nContent-Length: 100\r\n";
    let mut wire = site.caller("sidecar").send("PUT", "/v1/instances/pos-1", slow, "");
    wire.send("{");
    refused(&wire.reply(), 408);
}

#[test]
fn a_stream_without_news_is_kept_alive() {
    let site = Site::new("Token");
    let mut wire = site.caller("viewer").send("GET", "/v1/config/events", "", "");
    wire.head();
    wire.read_until("\"sequence\":null}\n\n");
    let beat = wire.read_until("\n\n");
    assert!(beat.contains(": still here") && !beat.contains("data:"), "{beat}");
}

#[test]
fn a_slice_is_what_the_caller_may_see() {
    let site = Site::new("Token");
    let (viewer, sidecar) = (site.caller("viewer"), site.caller("sidecar"));
    let whole = viewer.get("/v1/config");
    let digest = whole.header("tillgate-digest").unwrap().to_owned();
    assert_eq!(whole.header("etag"), Some(&*format!("\"{digest}\"")));
    assert_eq!(*digest, *site.gateway.control.digest());
    assert_eq!(tillgate_config::bundle::digest(&whole.body), digest);
    assert!(read(&whole)["links"].is_object());
    let slice = sidecar.get("/v1/config");
    for hidden in ["links", "listeners", "process", "configEndpoint"] {
        assert!(read(&slice).get(hidden).is_none(), "{hidden}");
    }
    assert_ne!(slice.header("etag"), whole.header("etag"));
    assert_eq!(viewer.get("/v1/config?role=sidecar").body, slice.body);
    refused(&sidecar.get("/v1/config?role=viewer"), 403);
    let text = whole.text();
    assert!(!text.contains(TOKEN) && text.contains("tls.key"), "paths, never what is in them");

    let known = format!("If-None-Match: \"{digest}\"\r\n");
    let same = viewer.ask("GET", "/v1/config", &known, "");
    assert_eq!((same.status, same.body.len()), (304, 0));
    let head = viewer.ask("HEAD", "/v1/config", "", "");
    assert_eq!(head.header("content-length"), Some(&*whole.body.len().to_string()));
    let packed = viewer.ask("GET", "/v1/config", "Accept-Encoding: gzip\r\n", "");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(packed.header("etag"), Some(&*format!("\"{digest}-gzip\"")));
    assert!(packed.body.len() < whole.body.len());
    assert!(packed.body.starts_with(&[0x1f, 0x8b]));
}

#[test]
fn probes_say_what_was_looked_at() {
    let site = Site::new("Token");
    let nobody = site.nobody();
    for (path, checks) in [
        ("/livez", &["ping"][..]),
        ("/readyz", &["traffic", "workers", "memory"]),
        ("/startupz", &["workers"]),
    ] {
        let verbose = format!("{path}?verbose");
        for (plain, told) in [
            (nobody.get(path), nobody.get(&verbose)),
            (site.gateway.admin(path), site.gateway.admin(&verbose)),
        ] {
            assert_eq!((plain.status, &*plain.text()), (200, "ok\n"));
            let text = told.text();
            let found: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("[+]")?.strip_suffix(" ok"))
                .collect();
            assert_eq!((told.status, &*found), (200, checks), "{text}");
            assert!(text.ends_with(&format!("{} check passed\n", &path[1..])), "{text}");
        }
    }
}

#[test]
fn a_change_wakes_who_sees_it_and_nobody_else() {
    let site = Site::new("Token");
    let (viewer, sidecar) = (site.caller("viewer"), site.caller("sidecar"));
    let held = |caller: &Caller, seconds: u32| {
        let tag = caller.get("/v1/config").header("etag").unwrap().to_owned();
        let headers = format!("If-None-Match: {tag}\r\nPrefer: wait={seconds}\r\n");
        caller.send("GET", "/v1/config", &headers, "")
    };
    // Longer than anybody here waits for a reply.
    let mut waiting: Vec<Wire> = (0..40).map(|_| held(&viewer, 120)).collect();
    let blind = held(&sidecar, 120);
    site.gateway.expect_metric("tillgate_config_poll_waiters", 41.0);
    let effective = site.reload("30Mbit/s");
    for wire in &mut waiting {
        let reply = wire.reply();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("tillgate-digest"), Some(&*effective.digest));
        assert_eq!(reply.header("preference-applied"), Some("wait=120"));
        // Its connection goes on.
        wire.send("GET /v1/config?role=sidecar HTTP/1.1\r\nHost: gateway\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
    }
    site.gateway.expect_metric("tillgate_config_poll_waiters", 1.0);
    drop(blind);
    site.gateway.expect_metric("tillgate_config_poll_waiters", 0.0);
    assert_eq!(held(&sidecar, 1).reply().status, 304, "nothing new in its time");

    let tag = viewer.get("/v1/config").header("etag").unwrap().to_owned();
    let headers = format!("If-None-Match: {tag}\r\n");
    let mut head = viewer.send("HEAD", "/v1/config?wait=120", &headers, "");
    site.gateway.expect_metric("tillgate_config_poll_waiters", 1.0);
    let effective = site.reload("40Mbit/s");
    let reply = head.head();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("tillgate-digest"), Some(&*effective.digest));
    let length = viewer.get("/v1/config").body.len().to_string();
    assert_eq!(reply.header("content-length"), Some(&*length));
    head.send("GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n");
    assert_eq!(head.reply().text(), "ok\n");
}

#[test]
fn a_policy_that_takes_a_token_away_is_not_shown_to_it() {
    // Gone with the token, and still there with a role that may not ask this.
    for (name, role, status) in [("other", "viewer", 401), ("grafana", "auditor", 403)] {
        let site = Site::new("Token");
        write_secret(&site.files.path("other"), "other-0123456789abcdef0123456789abcdef");
        let grafana = format!("Authorization: Bearer {TOKEN}\r\n");
        let viewer = site.nobody();
        let first = viewer.ask("GET", "/v1/config", &grafana, "");
        let tag = first.header("etag").unwrap();
        let waits = format!("{grafana}If-None-Match: {tag}\r\nPrefer: wait=120\r\n");
        let mut held = viewer.send("GET", "/v1/config", &waits, "");
        let mut stream = viewer.send("GET", "/v1/config/events", &grafana, "");
        stream.head();
        stream.read_until("\"sequence\":null}\n\n");
        site.gateway.expect_metric("tillgate_config_poll_waiters", 1.0);

        let wanted = Wanted {
            auth: "Token",
            has_ca: true,
            tokens: &[(name, role)],
            hooks: &[],
            down: "30Mbit/s",
        };
        let text = endpoint::policy(|file| site.files.path(file).display().to_string(), &wanted);
        site.gateway.control.reload(compiled(&text)).unwrap();
        refused(&held.reply(), status);
        let rest = stream.read_until("0\r\n\r\n");
        assert!(!rest.contains("sequence"), "{rest}");
        site.gateway.expect_metric("tillgate_config_event_streams", 0.0);
    }
}

#[test]
fn events_tell_digests() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    let mut wire = viewer.send("GET", "/v1/config/events", "", "");
    assert_eq!(wire.head().header("content-type"), Some("text/event-stream"));
    let first = wire.read_until("}\n\n");
    assert!(first.contains("event: config\nid: "), "{first}");
    assert!(first.contains(&*site.gateway.control.digest()), "{first}");
    // It came in no bundle.
    assert!(first.contains("\"sequence\":null"), "{first}");
    let effective = site.reload("30Mbit/s");
    let second = wire.read_until("}\n\n");
    assert!(second.contains(&*effective.digest), "{second}");
    let id = |event: &str| {
        let mut lines = event.lines().filter_map(|line| line.strip_prefix("id: "));
        lines.next().unwrap().to_owned()
    };
    let (boot, number) =
        id(&second).split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!((&*number, id(&first)), ("2", format!("{boot}-1")));
    site.gateway.expect_metric("tillgate_config_event_streams", 1.0);
    drop(wire);
    site.gateway.expect_metric("tillgate_config_event_streams", 0.0);
    // Who has the newest hears of the next one alone.
    let since = |last: &str| {
        let header = format!("Last-Event-ID: {last}\r\n");
        let mut wire = viewer.send("GET", "/v1/config/events", &header, "");
        wire.head();
        wire
    };
    let mut wire = since(&format!("{boot}-2"));
    site.gateway.expect_metric("tillgate_config_event_streams", 1.0);
    site.reload("40Mbit/s");
    let third = wire.read_until("}\n\n");
    assert!(!third.contains(&format!("id: {boot}-2\n")), "{third}");
    // Who had the third config of another process, or of one that counted alone, has not this one.
    for last in ["3", "0123456789abcdef-3"] {
        let told = since(last).read_until("}\n\n");
        assert_eq!(id(&told), format!("{boot}-3"), "{last}");
    }
}

#[test]
fn instances_say_what_they_run() {
    let site = Site::new("Token");
    let (sidecar, viewer) = (site.caller("sidecar"), site.caller("viewer"));
    let json = "Content-Type: application/json\r\n";
    let digest = sidecar.get("/v1/config").header("tillgate-digest").unwrap().to_owned();
    let ack = json!({"digest": digest, "sequence": 1, "result": "Applied"}).to_string();
    refused(&sidecar.ask("POST", "/v1/instances/pos-1/ack", json, &ack), 409);
    assert_eq!(sidecar.ask("PUT", "/v1/instances/pos-1", json, INSTANCE).status, 204);
    let state = || read(&viewer.get("/v1/instances"))["instances"][0].clone();
    let drift = || read(&viewer.get("/v1/drift"));
    assert_eq!(state()["state"], "pending");
    assert_eq!(drift()["compliance"], "Pending");
    assert_eq!(sidecar.ask("POST", "/v1/instances/pos-1/ack", json, &ack).status, 204);
    assert_eq!((&state()["state"], &state()["id"]), (&json!("in_sync"), &json!("pos-1")));
    let in_sync = drift();
    assert_eq!((&in_sync["compliance"], &in_sync["items"]), (&json!("InSync"), &json!([])));
    site.gateway.expect_metric("tillgate_instances{state=\"in_sync\"}", 1.0);
    let other = format!("sha256:{}", "0".repeat(64));
    let unsent = json!({"digest": other, "result": "Applied"}).to_string();
    refused(&sidecar.ask("POST", "/v1/instances/pos-1/ack", json, &unsent), 409);
    let error = json!({"code": "LISTENER_BIND", "message": "127.0.0.1:8443 in use"});
    let nack = json!({"digest": digest, "result": "Rejected", "error": error,
                      "activeDigest": other});
    assert_eq!(sidecar.ask("POST", "/v1/instances/pos-1/ack", json, &nack.to_string()).status, 204);
    assert_eq!(state()["state"], "nacked");
    assert_eq!(drift()["compliance"], "Failed");
    assert_eq!(drift()["items"][0]["reason"], "InstanceRejected");
    assert_eq!(state()["error"]["code"], "LISTENER_BIND");
    let twice = INSTANCE.replace("one", "two");
    refused(&sidecar.ask("PUT", "/v1/instances/pos-1", json, &twice), 409);
}

#[test]
fn a_policy_is_checked_and_planned_and_nothing_changes() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    let before = site.gateway.control.digest();
    let yaml = "Content-Type: application/yaml\r\n";
    let next = policy(&site.files, "Token", "30Mbit/s");
    let valid = viewer.ask("POST", "/v1/validate", yaml, &next);
    assert_eq!((valid.status, &read(&valid)["valid"]), (200, &json!(true)));
    let wrong = next.replace("30Mbit/s", "30Mbps").replace("Europe/Oslo", "Europe/Olso");
    let invalid = viewer.ask("POST", "/v1/validate", yaml, &wrong);
    refused(&invalid, 422);
    let first = &read(&invalid)["errors"][0];
    for field in ["file", "line", "column", "path", "message"] {
        assert!(first.get(field).is_some(), "{first}");
    }
    // A document that cannot be read is one error; what is wrong with what can be is all told.
    let two = next.replace("Europe/Oslo", "Europe/Olso") + "---\nkind: Nothing\n";
    let both = read(&viewer.ask("POST", "/v1/validate", yaml, &two));
    assert_eq!(both["errors"].as_array().unwrap().len(), 2, "{both}");
    let two = next.replace("30Mbit/s", "30Mbps").replace("workers:", "wokers:");
    let both = read(&viewer.ask("POST", "/v1/validate", yaml, &two));
    assert_eq!(both["errors"].as_array().unwrap().len(), 2, "{both}");

    let plan = viewer.ask("POST", "/v1/plan", yaml, &next);
    assert_eq!(plan.status, 200, "{}", plan.text());
    let plan = read(&plan);
    let paths: Vec<&str> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["path"].as_str().unwrap())
        .collect();
    assert!(paths.contains(&"links.primary.capacity.down"), "{paths:?}");
    let nothing = json!({
        "listenersDrained": [], "listenersOpened": [], "connectionsDrained": [],
        "classesResized": [], "gatesOpened": [], "gatesClosed": [], "needsRestart": false,
    });
    assert_eq!(plan["impact"], nothing);
    let other = next.replace("store-0412", "store-0977");
    refused(&viewer.ask("POST", "/v1/plan", yaml, &other), 422);
    assert_eq!(site.gateway.control.digest(), before);
}

/// One more way in.
const TILLS: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: Listener
metadata: {name: tills}
spec: {address: \"127.0.0.1:0\", protocol: HTTP}
";

/// Nothing moves, neither releases nor a rule.
const FROZEN: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: Freeze
metadata: {name: always}
spec:
  appliesTo: {rollouts: [\"*\"], routes: [payments/all]}
  from: \"2020-11-20T00:00:00\"
  until: \"2099-12-01T06:00:00\"
  timeZone: Store
  reason: nothing moves
";

#[test]
fn a_plan_tells_whose_connections_end_and_which_gates_move() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    // The release alone: today may be any day.
    let release = HELD.rsplit("---\n").next().unwrap().replace("pos-47", "pos-46");
    // What is critical nothing may hold.
    let route = ROUTE.replace("trafficClass: payment", "trafficClass: default");
    let plain = policy(&site.files, "Token", "20Mbit/s") + &route + "---\n" + &release;
    site.gateway.control.reload(compiled(&(plain.clone() + FROZEN + TILLS))).unwrap();
    let tills = eventually("it listens", || {
        let status: Value = serde_json::from_str(&site.gateway.admin("/v1/status").text()).unwrap();
        let all = status["listeners"].as_array().unwrap().clone();
        let found = all.into_iter().find(|one| one["name"] == "tills")?;
        found["address"].as_str().unwrap().parse::<SocketAddr>().ok()
    });
    let clients = [Wire::connect(tills), Wire::connect(tills)];
    site.gateway.expect_metric("tillgate_connections{listener=\"tills\"}", 2.0);
    let planned = |text: &str| {
        let plan = viewer.ask("POST", "/v1/plan", "Content-Type: application/yaml\r\n", text);
        assert_eq!(plan.status, 200, "{}", plan.text());
        read(&plan)["impact"].clone()
    };
    // Without the freeze, and without the way in.
    let impact = planned(&plain);
    assert_eq!(impact["listenersDrained"], json!(["tills"]), "{impact:#}");
    let address = tills.to_string();
    let ends = json!([{"listener": "tills", "address": address, "connections": 2}]);
    assert_eq!(impact["connectionsDrained"], ends);
    drop(clients);
    let opened = &impact["gatesOpened"];
    assert_eq!(opened[0]["document"], "Rollout/pos", "{impact:#}");
    assert_eq!(opened[0]["release"], "pos-46");
    assert_eq!(opened[1]["rule"], "ServiceRoute/payments/all", "{impact:#}");
    assert_eq!(impact["gatesClosed"], json!([]));
    // The other way round.
    site.gateway.control.reload(compiled(&plain)).unwrap();
    let impact = planned(&(plain.clone() + FROZEN));
    let closed = &impact["gatesClosed"];
    assert_eq!(closed[0]["heldBy"], json!(["Freeze/always"]), "{impact:#}");
    // Another release is a gate of its own.
    let impact = planned(&plain.replace("pos-46", "pos-47"));
    assert_eq!(impact["gatesOpened"][0]["release"], "pos-47");
}

#[test]
fn the_past_is_listed_and_compared() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    let effective = site.reload("30Mbit/s");
    let list = read(&viewer.get("/v1/revisions"));
    let list = list["revisions"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0]["digest"], json!(&*effective.digest));
    assert_eq!((&list[0]["current"], &list[1]["current"]), (&json!(true), &json!(false)));
    let path = format!("/v1/revisions/{}/diff/current", list[1]["digest"].as_str().unwrap());
    let difference = read(&viewer.get(&path));
    assert_eq!(
        difference["changes"],
        json!([{"path": "links.primary.capacity.down",
                "before": "20Mbit/s", "after": "30Mbit/s"}])
    );
    assert_eq!(read(&viewer.get("/v1/revisions/previous/diff/current")), difference);
    assert_eq!(read(&viewer.get("/v1/revisions/previous/diff/previous"))["changes"], json!([]));
    let one = read(&viewer.get("/v1/revisions/current"));
    assert_eq!(one["effective"]["links"]["primary"]["capacity"]["down"], "30Mbit/s");
    let windows = read(&viewer.get("/v1/windows?from=2026-11-16T00:00:00Z"));
    assert_eq!(windows["timeZone"], "Europe/Oslo");
    let schema = viewer.get("/v1/schema/TrafficClass");
    assert_eq!(read(&schema)["title"], "TrafficClass");
    let known = format!("If-None-Match: {}\r\n", schema.header("etag").unwrap());
    assert_eq!(viewer.ask("GET", "/v1/schema/TrafficClass", &known, "").status, 304);
}

/// A route to a server that is not there.
const ROUTE: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: payments}
spec: {location: Cloud, protocol: HTTP, endpoints: [{ip: {address: 10.9.0.1, port: 9000}}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: ServiceRoute
metadata: {name: payments}
spec:
  hostnames: [pay.example]
  trafficClass: payment
  rules: [{name: all, backendRefs: [{name: payments}]}]
";

/// A release in the middle of a freeze.
const HELD: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: Freeze
metadata: {name: peak}
spec:
  appliesTo: {rollouts: [\"*\"]}
  from: \"2026-11-20T00:00:00\"
  until: \"2026-12-01T06:00:00\"
  timeZone: Store
  reason: Black Friday
---
apiVersion: tillgate.dev/v1alpha1
kind: Rollout
metadata: {name: pos}
spec:
  artifacts: [{registry: r.example, repositories: [\"pos/**\"]}]
  trafficClass: image-pull
  release:
    name: pos-47
    images:
      - repository: pos/checkout
        digest: sha256:9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b
  rings: [{name: all, storeSelector: {}}]
  promotion: {mode: Signed}
";

#[test]
fn a_pull_is_explained_for_another_time_and_a_line_with_what_waits() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    let asked = |question: &Value| {
        let json = "Content-Type: application/json\r\n";
        viewer.ask("POST", "/v1/explain", json, &question.to_string())
    };
    let ask = |question: &Value| {
        let reply = asked(question);
        assert_eq!(reply.status, 200, "{}", reply.text());
        read(&reply)
    };
    let image = json!({"repository": "pos/checkout"});
    refused(&asked(&json!({"image": image})), 400);
    let text = policy(&site.files, "Token", "20Mbit/s") + HELD;
    let friday = ask(&json!({"image": image, "at": "2026-11-27T20:10:00Z", "bundle": text}));
    assert_eq!((&friday["verdict"], &friday["hypothetical"]), (&json!("Held"), &json!(true)));
    assert_eq!(friday["heldBy"][0]["document"], "Freeze/peak");
    assert_eq!(friday["nextOpen"], "2026-12-01T05:00:00Z");
    assert_eq!(friday["told"]["status"], 429);
    // The same policy runs: the same answer, and another one at another time.
    site.gateway.control.reload(compiled(&(text + ROUTE))).unwrap();
    let running = ask(&json!({"image": image, "at": "2026-11-27T20:10:00Z"}));
    assert_eq!(running["heldBy"][0]["document"], "Freeze/peak");
    let later = ask(&json!({"image": image, "at": "2026-12-02T01:00:00Z"}));
    assert_eq!((&later["verdict"], &later["told"]["status"]), (&json!("Open"), &json!(200)));
    for wrong in [json!({"image": image, "at": "soon"}), json!({"image": image, "http": {}})] {
        refused(&asked(&wrong), 400);
    }
    let http = json!({"authority": "pay.example", "path": "/"});
    let request = ask(&json!({"http": http, "source": {"workload": "pos/checkout"}}));
    let line = &request["now"]["links"][0];
    assert_eq!((&line["name"], &line["state"]), (&json!("primary"), &json!("Up")), "{request}");
    assert_eq!((&line["queue"]["waiting"], &line["queue"]["parked"]), (&json!(0), &json!(0)));
}

#[test]
fn a_request_is_explained_here_and_under_another_policy() {
    let site = Site::new("Token");
    let viewer = site.caller("viewer");
    let ask = |question: &Value| {
        let json = "Content-Type: application/json\r\n";
        let reply = viewer.ask("POST", "/v1/explain", json, &question.to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
        read(&reply)
    };
    let http = json!({"method": "POST", "authority": "pay.example", "path": "/v1/charge",
                      "headers": {"idempotency-key": "7"}});
    let nowhere = ask(&json!({"http": http}));
    assert!(nowhere["refused"].is_string(), "{nowhere}");
    let text = policy(&site.files, "Token", "20Mbit/s") + ROUTE;
    let other = ask(&json!({"http": http, "policy": text}));
    assert_eq!((&other["route"], &other["hypothetical"]), (&json!("payments"), &json!(true)));
    assert_eq!(other["trafficClass"]["name"], "payment");
    assert!(other.get("now").is_none(), "nothing lives under a policy that does not run");

    site.gateway.control.reload(compiled(&text)).unwrap();
    let here = ask(&json!({"http": http}));
    assert_eq!((&here["rule"], &here["hypothetical"]), (&json!("all"), &json!(false)));
    assert!(here["origin"].as_str().unwrap().starts_with("store.yaml:"), "{here}");
    assert_eq!(here["now"]["endpoints"][0]["backend"], "payments", "{here}");
    let json = "Content-Type: application/json\r\n";
    for wrong in [
        json!({}),
        json!({"http": {"authority": "a b", "path": "/"}}),
        json!({"http": {"authority": "a", "path": "/", "method": "G T"}}),
    ] {
        refused(&viewer.ask("POST", "/v1/explain", json, &wrong.to_string()), 400);
    }
    let bad = json!({"http": http, "policy": "kind: Nothing\n"}).to_string();
    refused(&viewer.ask("POST", "/v1/explain", json, &bad), 422);
}

//! What people do with the config endpoint of a running program: they ask it from the command
//! line, tell it to look for another policy, and check what it wrote down.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use tillgate_tests::chain::Mood;
use tillgate_tests::endpoint::{self, Caller, NAME, Wanted, write_secret};
use tillgate_tests::eventually;
use tillgate_tests::operated::Operated;
use tillgate_tests::program::Program;
use tillgate_tests::tls::{self, Authority, Wants};
use tillgate_tests::wire::Reply;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

struct Site {
    program: Program,
    folder: TempDir,
    config: Arc<ClientConfig>,
}

fn policy(folder: &TempDir, down: &str) -> String {
    let wanted = Wanted {
        auth: "Token",
        has_ca: false,
        tokens: &[("viewer", "viewer"), ("operator", "operator"), ("auditor", "auditor")],
        hooks: &[("lab", "GitLab"), ("hub", "GitHub")],
        down,
    };
    endpoint::policy(|name| folder.path().join(name).display().to_string(), &wanted)
}

impl Site {
    fn new(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let authority = Authority::default();
        let identity = authority.issue(&[NAME, "127.0.0.1"]);
        for (name, text) in
            [("ca.crt", &authority.pem), ("tls.crt", &identity.chain), ("tls.key", &identity.key)]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        for name in ["viewer", "operator", "auditor", "lab", "hub"] {
            let text = format!("{name}-0123456789abcdef0123456789abcdef");
            write_secret(&folder.path().join(name), &text);
        }
        let program = Program::start(PROGRAM, name, &policy(&folder, "20Mbit/s"), &[]);
        // It has read its policy; what is written to the file from here on is another one.
        program.address("config-endpoint");
        let config = tls::client(&authority, &Wants::default());
        Self { program, folder, config }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let address = self.program.address("config-endpoint");
        Caller { config: Arc::clone(&self.config), address }.ask(method, path, headers, body)
    }

    fn as_role(&self, role: &str, method: &str, path: &str) -> Reply {
        let token = fs::read_to_string(self.folder.path().join(role)).unwrap();
        self.ask(method, path, &format!("Authorization: Bearer {token}\r\n"), "")
    }

    /// A command of the program, with the means to ask this gateway.
    fn command(&self, role: &str, words: &[&str]) -> tillgate::cli::policy::Answer {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let url = format!("https://{}", self.program.address("config-endpoint"));
        let means = ["--endpoint", &url, "--ca", &at("ca.crt"), "--token-file", &at(role)];
        let all = ["tillgate"].iter().chain(words).chain(&means).map(std::ffi::OsString::from);
        tillgate::cli::ask(all.collect::<Vec<_>>()).expect("the arguments make sense")
    }

    fn audit(&self) -> PathBuf {
        self.folder.path().join("audit")
    }
}

fn read(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("{}", reply.text()))
}

#[test]
fn a_gateway_is_asked_from_the_command_line() {
    let site = Site::new("endpoint-asked");
    let status = site.command("viewer", &["status"]);
    assert_eq!(status.code, 0, "{}", status.stderr);
    assert!(status.stdout.contains("store-0412, Tillgate"), "{}", status.stdout);
    assert!(status.stdout.contains("line primary: up 5Mbit/s, down 20Mbit/s"));
    let machine = site.command("viewer", &["status", "--output", "json"]);
    let machine: Value = serde_json::from_str(&machine.stdout).unwrap();
    assert_eq!(machine["store"], "store-0412");

    // What would change, and a mistake with its place.
    let next = site.folder.path().join("next.yaml");
    fs::write(&next, policy(&site.folder, "30Mbit/s")).unwrap();
    let plan = site.command("viewer", &["plan", next.to_str().unwrap()]);
    assert_eq!(plan.stdout, "links.primary.capacity.down: 20Mbit/s -> 30Mbit/s\n", "{plan:?}");
    fs::write(&next, policy(&site.folder, "30Mbps")).unwrap();
    let plan = site.command("viewer", &["plan", next.to_str().unwrap()]);
    assert_eq!(plan.code, 1);
    assert!(plan.stderr.contains("policy.yaml:7:") && plan.stderr.contains("30Mbit/s"), "{plan:?}");

    // What has changed.
    fs::write(&site.program.policy, policy(&site.folder, "40Mbit/s")).unwrap();
    assert_eq!(site.as_role("operator", "POST", "/v1/reconcile").status, 202);
    eventually("the other policy runs", || {
        (site.command("viewer", &["history"]).stdout.lines().count() == 2).then_some(())
    });
    let diff = site.command("viewer", &["diff"]);
    assert_eq!(diff.stdout, "links.primary.capacity.down: 20Mbit/s -> 40Mbit/s\n");
    assert_eq!(diff.code, 1);
    let same = site.command("viewer", &["diff", "current", "current"]);
    assert_eq!((same.code, &*same.stdout), (0, "no difference\n"));
    let windows = site.command("viewer", &["windows", "--from", "2026-11-16T00:00:00Z"]);
    assert!(windows.stdout.contains("nothing holds a change"), "{windows:?}");

    let explained = site.command("viewer", &["explain", "http://pay.example/"]);
    assert_eq!(explained.code, 1, "{explained:?}");
    assert!(explained.stdout.starts_with("no rule: "), "{explained:?}");

    let refused = site.command("auditor", &["status"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("403"), "{refused:?}");
}

/// What the program says without a gateway.
fn offline(words: &[&str]) -> tillgate::cli::policy::Answer {
    let all = ["tillgate"].iter().chain(words).map(std::ffi::OsString::from);
    tillgate::cli::ask(all.collect::<Vec<_>>()).expect("the arguments make sense")
}

#[test]
fn what_the_mirror_answers_is_no_question_of_routes() {
    let site = Site::new("endpoint-explained-mirror");
    let everything = endpoint::everything(&site.folder.path().join("images"));
    let file = site.folder.path().join("next.yaml");
    fs::write(&file, policy(&site.folder, "20Mbit/s") + &everything).unwrap();
    let file = file.display().to_string();
    let ask = |output: &str, url: &str| {
        let answer = offline(&["explain", "--config", &file, "--output", output, url]);
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.stdout
    };
    let json = |url| serde_json::from_str::<Value>(&ask("json", url)).unwrap();
    let url = "http://images.example/v2/pos/checkout/manifests/47";
    let shown = json(url);
    let mirror = json!({
        "name": "images", "registry": "r.example", "repository": "pos/checkout", "rollout": "pos",
    });
    assert_eq!((&shown["mirror"], &shown["trafficClass"]["name"]), (&mirror, &json!("image-pull")));
    assert_eq!(json("http://images.example/v2/")["mirror"]["repository"], json!(null));
    let text = ask("text", url);
    let origin = shown["origin"].as_str().unwrap();
    assert!(text.contains(&format!("RegistryMirror/images ({origin})")), "{text}");
    assert!(text.contains("tillgate explain --image r.example/pos/checkout@"), "{text}");
}

#[test]
fn the_same_question_has_the_same_answer_with_and_without_a_gateway() {
    let site = Site::new("endpoint-explained");
    let everything = endpoint::everything(&site.folder.path().join("images"));
    // Without a mirror, which knows what the store has of an image.
    let (documents, _) = everything.rsplit_once("---\n").unwrap();
    let file = site.folder.path().join("next.yaml");
    fs::write(&file, policy(&site.folder, "20Mbit/s") + documents).unwrap();
    let at = ["--at", "2026-11-27T20:10:00Z"];
    let forbidden = format!("r.example/pos/old@sha256:{}", "a".repeat(64));
    let questions = [
        &["explain", "POST", "http://pay.example/charge", "-H", "Idempotency-Key: 7"][..],
        &["explain", "GET", "/quote", "-H", "Host: pay.example"],
        &["explain", "http://nobody.example/"],
        &["explain", "http://packages.example/", "--certificate-name", "DNS:till-7.store.example"],
        &["explain", "--via", "forward-proxy", "http://packages.example/"],
        &["explain", "CONNECT", "nobody.example:443"],
        &["explain", "--image", "pos/checkout"],
        &["explain", "--image", &forbidden],
    ];
    let file = file.display().to_string();
    for output in ["text", "json"] {
        for words in questions {
            let words = [words, &at, &["--config", &file, "--output", output]].concat();
            let (here, there) = (offline(&words), site.command("viewer", &words));
            assert_eq!(here, there, "{words:?}");
            assert!(!here.stdout.is_empty() || here.code == 2, "{here:?}");
        }
    }
    // A fleet, for one of its stores.
    let fleet = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/examples/fleet/policy");
    let words = ["explain", "--dir", fleet, "--store", "0412", "--image", "pos/checkout"];
    let words = [&words[..], &at].concat();
    let (here, there) = (offline(&words), site.command("viewer", &words));
    assert_eq!(here, there);
    assert!(here.stdout.contains("Freeze/black-friday-2026 by Override/"), "{here:?}");

    // What runs is explained as its file is, and how things are is told beside.
    let own = site.program.policy.display().to_string();
    fs::copy(&file, &own).unwrap();
    assert_eq!(site.as_role("operator", "POST", "/v1/reconcile").status, 202);
    eventually("it runs", || {
        let shown = site.command("viewer", &["explain", "http://pay.example/"]);
        (shown.code == 0).then_some(())
    });
    // A day after the exception: without keys whoever reads a policy takes its approvals for right,
    // and this gateway believes nobody's.
    let at = ["--at", "2026-11-29T20:10:00Z"];
    for words in questions {
        let read = |answer: tillgate::cli::policy::Answer| {
            let mut shown: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
            // The flags of the process are no part of the file.
            let now = shown.as_object_mut().and_then(|it| {
                it.remove("hypothetical");
                it.remove("digest");
                it.remove("now")
            });
            (answer.code, answer.stderr, shown, now)
        };
        let words = [words, &at, &["--output", "json"]].concat();
        let there = read(site.command("viewer", &words));
        let here = read(offline(&[&words[..], &["--config", &own]].concat()));
        assert_eq!((&here.0, &here.2), (&there.0, &there.2), "{words:?}");
        let is_request = there.2["request"].is_object();
        assert_eq!(there.3.is_some_and(|now| now.is_object()), is_request);
    }
}

#[test]
fn an_explanation_takes_its_turn_behind_a_policy_that_is_looked_at() {
    let site = Site::new("endpoint-turns");
    let long: String = (0..1000)
        .map(|number| {
            format!(
                "---\napiVersion: tillgate.dev/v1alpha1\nkind: ServiceRoute\n\
                 metadata: {{name: r{number}}}\nspec:\n  hostnames: [h{number}.example]\n  \
                 rules: [{{name: all, filters: {{requestRedirect: {{scheme: https, \
                 statusCode: 301}}}}}}]\n"
            )
        })
        .collect();
    let long = policy(&site.folder, "20Mbit/s") + &long;
    let token = fs::read_to_string(site.folder.path().join("viewer")).unwrap();
    let ask = |path: &str, kind: &str, body: &str| {
        let headers = format!("Authorization: Bearer {token}\r\nContent-Type: {kind}\r\n");
        site.ask("POST", path, &headers, body)
    };
    let question = json!({"http": {"authority": "pay.example", "path": "/"}}).to_string();
    let turned = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            eventually("the policy has the turn", || {
                let reply = ask("/v1/explain", "application/json", &question);
                (reply.status == 429).then_some(reply)
            })
        });
        while !asking.is_finished() {
            let looked = ask("/v1/validate", "application/yaml", &long);
            assert!([200, 429].contains(&looked.status), "{}", looked.text());
        }
        asking.join().unwrap()
    });
    assert!(turned.header("retry-after").is_some(), "{}", turned.text());
    assert_eq!(ask("/v1/explain", "application/json", &question).status, 200);
}

#[test]
fn windows_and_changes_are_the_same_with_and_without_a_gateway() {
    let site = Site::new("endpoint-compared");
    let file = |name: &str| site.folder.path().join(name).display().to_string();
    let (before, after) = (file("before.yaml"), file("after.yaml"));
    let everything = endpoint::everything(&site.folder.path().join("images"));
    let (documents, _) = everything.rsplit_once("---\n").unwrap();
    fs::copy(&site.program.policy, &before).unwrap();
    fs::write(&after, policy(&site.folder, "30Mbit/s") + documents).unwrap();
    let read = |answer: tillgate::cli::policy::Answer| -> Value {
        serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{}", answer.stderr))
    };
    let json = ["--output", "json"];
    let here = |words: &[&str]| read(offline(&[words, &json].concat()));
    let there = |words: &[&str]| read(site.command("viewer", &[words, &json].concat()));

    // What it would change, and what it has changed.
    let changes = here(&["diff", &before, &after])[0]["changes"].clone();
    assert!(changes.to_string().contains("links.primary.capacity.down"), "{changes}");
    assert!(changes.to_string().contains("egress"), "{changes}");
    assert_eq!(here(&["plan", &before, &after])["effects"][0]["changes"], changes);
    assert_eq!(there(&["plan", &after])["changes"], changes);
    fs::copy(&after, &site.program.policy).unwrap();
    assert_eq!(site.as_role("operator", "POST", "/v1/reconcile").status, 202);
    eventually("it runs", || {
        (site.command("viewer", &["history"]).stdout.lines().count() == 2).then_some(())
    });
    assert_eq!(there(&["diff"])["changes"], changes);

    // Without the exception, whose approval this gateway does not believe.
    let times = ["--from", "2026-11-16T00:00:00Z", "--until", "2026-12-07T00:00:00Z"];
    let mut windows = here(&[&["windows", &after][..], &times].concat());
    let excepted = windows["rollouts"][0]["nextOpen"].take();
    assert_eq!(excepted, "2026-11-27T18:00:00Z");
    let mut live = there(&[&["windows"][..], &times].concat());
    assert_eq!(live["rollouts"][0]["nextOpen"].take(), "2099-12-01T05:00:00Z");
    assert_eq!(live, windows);
    assert_eq!(windows["windows"][0]["document"], "Freeze/peak", "{windows}");
    assert_eq!(windows["rules"][0]["heldBy"][0], "Freeze/peak", "{windows}");
}

#[test]
fn an_operator_and_a_hook_say_look_now() {
    let site = Site::new("endpoint-look");
    assert_eq!(site.as_role("viewer", "POST", "/v1/reconcile").status, 403);
    let accepted = site.as_role("operator", "POST", "/v1/reconcile");
    assert_eq!(accepted.status, 202);
    let place = accepted.header("location").unwrap().to_owned();
    let ended = eventually("the operation ends", || {
        let operation = read(&site.as_role("viewer", "GET", &place));
        (operation["state"] == "Succeeded").then_some(operation)
    });
    assert_eq!(ended["actor"], "token:operator");
    let digest = read(&site.as_role("viewer", "GET", "/v1/status"))["digest"].clone();
    assert_eq!(ended["digest"], digest);
    assert_eq!(site.as_role("viewer", "GET", "/v1/operations/none").status, 404);
    let is_in_effect = |value: u8| {
        let metrics = site.as_role("viewer", "GET", "/metrics").text();
        metrics.contains(&format!("tillgate_config_last_apply_success {value}\n"))
    };
    assert!(is_in_effect(1), "the newest policy of the file");

    // A policy that is refused is an operation that failed, with the reason.
    fs::write(&site.program.policy, policy(&site.folder, "40Mbps")).unwrap();
    let place = site.as_role("operator", "POST", "/v1/reconcile");
    let place = place.header("location").unwrap().to_owned();
    eventually("the operation fails", || {
        let operation = read(&site.as_role("viewer", "GET", &place));
        let why = operation["error"].as_str()?.contains("40Mbit/s");
        (operation["state"] == "Failed" && why).then_some(())
    });
    assert!(is_in_effect(0));

    let kind = "Content-Type: application/json\r\n";
    let hook = |name: &str, header: String, body: &str| {
        site.ask("POST", &format!("/v1/hooks/{name}"), &format!("{kind}{header}"), body).status
    };
    fs::write(&site.program.policy, policy(&site.folder, "50Mbit/s")).unwrap();
    let token = fs::read_to_string(site.folder.path().join("lab")).unwrap();
    assert_eq!(hook("lab", format!("X-Gitlab-Token: {token}\r\n"), "{}"), 202);
    eventually("the hook is heard", || {
        let status = read(&site.as_role("viewer", "GET", "/v1/status"));
        (status["links"][0]["down"]["capacity"] == "50Mbit/s").then_some(())
    });
    assert_eq!(hook("lab", format!("X-Gitlab-Token: {token}x\r\n"), "{}"), 401);
    let forged = format!("X-Hub-Signature-256: sha256={}\r\n", "00".repeat(32));
    assert_eq!(hook("hub", forged, "{}"), 401);
    assert_eq!(hook("hub", String::new(), "{}"), 401);
    assert_eq!(hook("none", String::new(), "{}"), 404);
    // Nothing of its body is waited for.
    assert_eq!(hook("none", "Content-Length: 10\r\n".to_owned(), ""), 404);
    let long = &"x".repeat(64 * 1024 + 1);
    assert_eq!(hook("lab", String::new(), long), 413);
    let no_kind = site.ask("POST", "/v1/hooks/lab", "", "{}");
    assert_eq!(no_kind.status, 415);
}

/// A store that asks a web server once an hour, or a stick that is not there.
fn far(name: &str) -> Operated {
    let sources = |chain: &tillgate_tests::chain::Chain| {
        // What a look finds does not depend on how slow the machine is.
        let central = chain.http_within("30s").replace("interval: 1s", "interval: 1h");
        vec![central.replace(", spread: 0s", ""), chain.stick("")]
    };
    Operated::asking(PROGRAM, name, sources, |_| String::new())
}

/// Where to ask what becomes of a look that an operator wants, as soon as one may want another.
fn look(store: &Operated) -> String {
    eventually("a look is taken", || {
        let reply = store.ask("operator", "POST", "/v1/reconcile", "", "");
        if reply.status == 429 {
            return None;
        }
        assert_eq!(reply.status, 202, "{}", reply.text());
        Some(reply.header("location").unwrap().to_owned())
    })
}

/// How an operation has ended.
fn ended(store: &Operated, place: &str) -> Value {
    eventually(&format!("{place} ends\n{}", store.program.log()), || {
        let operation = store.get(place);
        operation["ended"].is_string().then_some(operation)
    })
}

#[test]
fn an_operation_says_what_became_of_what_every_source_has() {
    let store = far("endpoint-sources");
    let bundle =
        |sequence, text: &str| Mood::Bundle(store.chain.bundle(sequence, text, "ci", &[]).into());
    let text = store.policy("a.example");
    let slip = bundle(8, &text.replace("up: 5Mbit/s", "up: 5Mbps"));
    store.chain.feels(bundle(7, &text));
    store.applied(7);
    let mut looks = BTreeSet::from([look(&store)]);
    assert_eq!(ended(&store, looks.first().unwrap())["state"], "Succeeded");

    // The stick answers every second that it has nothing, and the web server some time later, that
    // it has what is refused. Who asks meanwhile gets the same operation, and the log has one.
    store.chain.feels(slip);
    let place = eventually("two ask before one has ended", || {
        let (place, again) = (look(&store), look(&store));
        looks.extend([place.clone(), again.clone()]);
        (place == again).then_some(place)
    });
    let refused = ended(&store, &place);
    assert_eq!(refused["state"], "Failed", "{refused}");
    let why = refused["error"].as_str().unwrap();
    assert!(why.starts_with("central: ") && why.contains("5Mbps"), "{why}");
    let is_look = |one: &&Value| one["action"] == "Fetch" && one["actor"] == "token:operator";
    assert_eq!(store.records().iter().filter(is_look).count(), looks.len());
    // The web server has nothing new, which is what is refused.
    assert_eq!(ended(&store, &look(&store))["error"], refused["error"]);

    store.chain.feels(bundle(9, &store.policy("b.example")));
    let taken = ended(&store, &look(&store));
    assert_eq!(taken["state"], "Succeeded", "{taken}");
    assert_eq!(store.shown()["applied"]["sequence"], 9, "before it is said");
    assert_eq!(taken["digest"], store.get("/v1/status")["digest"]);

    store.chain.feels(Mood::Nothing);
    let lost = ended(&store, &look(&store));
    let why = lost["error"].as_str().unwrap();
    assert!(why.contains("central: the server answers 404") && why.contains("stick: "), "{why}");
}

#[test]
fn an_operator_has_a_source_asked_that_is_left_alone_for_an_hour() {
    let store = far("endpoint-urged");
    let text = store.policy("a.example");
    let bundle = |sequence| Mood::Bundle(store.chain.bundle(sequence, &text, "ci", &[]).into());
    let (first, next) = (bundle(7), bundle(8));
    store.chain.feels(first);
    store.applied(7);
    store.chain.feels(Mood::Nothing);
    assert_eq!(ended(&store, &look(&store))["state"], "Failed");
    store.chain.feels(next);
    assert_eq!(ended(&store, &look(&store))["state"], "Succeeded");
    assert_eq!(store.shown()["applied"]["sequence"], 8);
    // Not if the server itself has said when it wants to be asked.
    store.chain.feels(Mood::Later(3600));
    assert_eq!(ended(&store, &look(&store))["state"], "Failed");
    let rests = ended(&store, &look(&store));
    let why = rests["error"].as_str().unwrap_or_default();
    assert!(why.contains("central: the server answers 503"), "{rests}");
}

#[test]
fn what_happened_is_written_down_and_cannot_be_changed() {
    let site = Site::new("endpoint-audit");
    fs::write(&site.program.policy, policy(&site.folder, "30Mbit/s")).unwrap();
    site.as_role("operator", "POST", "/v1/reconcile");
    let forged = format!(
        "Content-Type: application/json\r\nX-Hub-Signature-256: sha256={}\r\n",
        "00".repeat(32)
    );
    assert_eq!(site.ask("POST", "/v1/hooks/hub", &forged, "{}").status, 401);
    let records = eventually("all of it is there", || {
        let reply = site.as_role("auditor", "GET", "/v1/audit");
        assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
        let text = reply.text();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= 4).then_some(lines)
    });
    let has = |action: &str, actor: &str| {
        records.iter().any(|one| one["action"] == action && one["actor"] == actor)
    };
    assert!(has("Apply", "policy") && has("Fetch", "token:operator"), "{records:?}");
    assert!(has("VerifyFailed", "hook:hub"), "{records:?}");
    let numbers: Vec<u64> = records.iter().map(|one| one["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers[..4], [1, 2, 3, 4]);
    let after = site.as_role("auditor", "GET", "/v1/audit?after=1&limit=1").text();
    assert!(after.starts_with("{\"seq\":2,") && after.lines().count() == 1, "{after}");
    assert_eq!(site.as_role("auditor", "GET", "/v1/audit?after=x").status, 400);
    assert_eq!(site.as_role("operator", "GET", "/v1/audit").status, 403);

    let check = || {
        let words = ["tillgate", "audit", site.folder.path().join("audit").to_str().unwrap()]
            .map(std::ffi::OsString::from);
        tillgate::cli::ask(words).unwrap()
    };
    let whole = check();
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let status = read(&site.as_role("viewer", "GET", "/v1/status"));
    let head = status["audit"]["head"].as_str().unwrap();
    assert!(whole.stdout.contains(head), "{} and {head}", whole.stdout);
    assert_eq!(status["audit"]["failure"], json!(null));

    let mut files = fs::read_dir(site.audit()).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|file| file.extension().is_some_and(|it| it == "ndjson")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("hook:hub", "hook:bub")).unwrap();
    let broken = check();
    assert_eq!(broken.code, 1);
    assert!(broken.stderr.contains("the record before is not what it was"), "{}", broken.stderr);
}

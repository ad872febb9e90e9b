//! No credential reads more than its role: every route, every role and nobody, by token and by
//! certificate, under a small policy, one with everything in it, and before there ever was one.
//!
//! The table of what was answered is printed: `-- --nocapture` shows it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the table is for people")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use tillgate_tests::endpoint::{Caller, everything, write_secret};
use tillgate_tests::operated::Operated;
use tillgate_tests::wire::Reply;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

const ROLES: [&str; 4] = ["viewer", "sidecar", "operator", "auditor"];

/// What a sidecar's slice has, whatever the policy.
const SLICE: [&str; 6] = ["backends", "classes", "gateway", "routes", "store", "timeZone"];

/// What every route opens to whom, for people to review. The walk compares it with the document,
/// and what each caller gets with both.
const TABLE: &str = "\
GET /livez: everyone
GET /metrics: viewer operator
GET /readyz: everyone
GET /startupz: everyone
GET /v1/audit: auditor
GET /v1/config: viewer sidecar operator
GET /v1/config/events: viewer sidecar operator
GET /v1/drift: viewer operator
POST /v1/enrol: everyone
POST /v1/enrolments: operator
POST /v1/explain: viewer operator
POST /v1/hooks/{receiver}: everyone
GET /v1/instances: viewer operator
PUT /v1/instances/{id}: sidecar
POST /v1/instances/{id}/ack: sidecar
GET /v1/openapi.json: viewer sidecar operator auditor
GET /v1/operations/{id}: viewer operator
GET /v1/overrides: viewer operator
DELETE /v1/pin: operator
GET /v1/pin: operator
PUT /v1/pin: operator
POST /v1/plan: viewer operator
POST /v1/reconcile: operator
GET /v1/revisions: viewer operator
GET /v1/revisions/{digest}: viewer operator
GET /v1/revisions/{digest}/diff/{other}: viewer operator
POST /v1/rollback: operator
GET /v1/schema/{name}: viewer sidecar operator auditor
GET /v1/status: viewer operator
POST /v1/validate: viewer operator
GET /v1/windows: viewer operator
";

/// Path and body with which a route can be asked.
fn question(path: &str, digest: &str) -> (String, String, &'static str) {
    let asked = path
        .replace("{id}", "sidecar")
        .replace("{digest}", "current")
        .replace("{other}", "current")
        .replace("{name}", "all.json")
        .replace("{receiver}", "hub");
    let (json, yaml) = ("application/json", "application/yaml");
    let body = match path {
        "/v1/instances/{id}" => json!({"bootId": "one", "workload": "pos/checkout"}),
        "/v1/instances/{id}/ack" => json!({"digest": digest, "result": "Applied"}),
        "/v1/pin" | "/v1/rollback" => {
            json!({"reason": "x", "ticket": "y", "expiresAt": "2026-11-28T06:00:00Z"})
        }
        "/v1/explain" => json!({"http": {"authority": "pay.example", "path": "/"}}),
        "/v1/enrol" => json!({"csr": "of nobody"}),
        "/v1/enrolments" => json!({"id": "pos-1", "workload": "pos/checkout"}),
        "/v1/validate" | "/v1/plan" => return (asked, "kind: Store\n".to_owned(), yaml),
        _ => return (asked, String::new(), json),
    };
    (asked, body.to_string(), json)
}

/// Somebody who asks.
struct Asker {
    /// None for nobody.
    role: Option<&'static str>,
    caller: Caller,
    /// What it shows in every question.
    bearer: String,
    /// Its certificate is one of the store's own authority.
    is_own: bool,
}

fn askers(store: &Operated) -> Vec<Asker> {
    let nobody = Asker { role: None, caller: store.caller(), bearer: String::new(), is_own: false };
    let by_token = ROLES.map(|role| Asker {
        role: Some(role),
        caller: store.caller(),
        bearer: store.bearer(role),
        is_own: false,
    });
    let by_certificate = ROLES.map(|role| Asker {
        role: Some(role),
        // An instance has the name that its credential has.
        caller: store.certified(&[&format!("tillgate://{role}/{role}")]),
        bearer: String::new(),
        is_own: false,
    });
    let enrolled = Asker {
        role: Some("sidecar"),
        caller: store.enrolled(&["sidecar"]),
        bearer: String::new(),
        is_own: true,
    };
    [nobody].into_iter().chain(by_token).chain(by_certificate).chain([enrolled]).collect()
}

/// A method of a path, as the document has it.
struct Asked<'a> {
    method: String,
    path: &'a str,
    operation: &'a Value,
    roles: Vec<&'a str>,
}

fn all(document: &Value) -> Vec<Asked<'_>> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let roles = operation["x-tillgate-roles"].as_array().unwrap();
            let roles = roles.iter().map(|role| role.as_str().unwrap()).collect();
            all.push(Asked { method: method.to_uppercase(), path, operation, roles });
        }
    }
    all.sort_by(|a, b| (a.path, &a.method).cmp(&(b.path, &b.method)));
    all
}

/// Asks, and reads what is answered, but for a stream, which has no end.
fn send(asker: &Asker, asked: &Asked<'_>, digest: &str) -> Reply {
    let (path, body, media) = question(asked.path, digest);
    let headers = format!("{}Content-Type: {media}\r\n", asker.bearer);
    let mut wire = asker.caller.send(&asked.method, &path, &headers, &body);
    let is_stream = asked.path.ends_with("/events") && asker.role.is_some_and(|it| it != "auditor");
    if asked.method == "HEAD" || is_stream { wire.head() } else { wire.reply() }
}

/// Asks everything as everybody; a line for each route, with what each was answered.
fn walk(store: &Operated, has_policy: bool) -> String {
    let read = |reply: &Reply| -> Value { serde_json::from_slice(&reply.body).unwrap() };
    let document = read(&store.ask("auditor", "GET", "/v1/openapi.json", "", ""));
    let config = store.ask("sidecar", "GET", "/v1/config", "", "");
    let digest = config.header("tillgate-digest").unwrap_or("none").to_owned();
    let files = ["viewer", "sidecar", "operator", "auditor", "hub", "tls.key"];
    let files = files.map(|name| store.chain.folder.join(name));
    let authority = store.chain.state().join("enrolment/authority.pem");
    let mut secrets = vec![store.mint(&["pos-2"])];
    for file in files.into_iter().chain([authority]) {
        let text = fs::read_to_string(file).unwrap();
        // Of a key, any line but the first, which says that it is one.
        secrets.extend(text.lines().find(|line| !line.starts_with('-')).map(str::to_owned));
    }
    assert_eq!(secrets.len(), 8);
    let askers = askers(store);
    let mut lines = String::new();
    for asked in all(&document) {
        let mut statuses = Vec::new();
        for asker in &askers {
            let reply = send(asker, &asked, &digest);
            let (status, role) = (reply.status, asker.role);
            let case = format!("{} {} as {role:?}: {status}", asked.method, asked.path);
            let may = |role| asked.roles.contains(&role);
            let is_open = asked.roles.is_empty() || role.is_some_and(may);
            // A hook is opened by its signature and an enrolment by a token of its own, which
            // nobody has here; a certificate is renewed if it is the store's own.
            let by_token = !asker.bearer.is_empty();
            let has_none = match asked.path {
                "/v1/enrol" => role.is_none() || by_token,
                path => path.starts_with("/v1/hooks/"),
            };
            let is_open = is_open && (asked.path != "/v1/enrol" || asker.is_own);
            let wanted = match (has_none, is_open, role) {
                (true, ..) | (_, false, None) => Some(401),
                (_, false, Some(_)) => Some(403),
                (_, true, _) => None,
            };
            let fits = wanted.map_or(!matches!(status, 401 | 403), |wanted| status == wanted);
            assert!(fits, "{case}: {}", reply.text());
            let documented = asked.operation["responses"].get(status.to_string());
            assert!(documented.is_some(), "{case} is not documented");
            let lacks_policy = !has_policy && asked.path == "/v1/config" && is_open;
            assert_eq!(status >= 500, lacks_policy, "{case}: {}", reply.text());
            let text = reply.text();
            assert!(secrets.iter().all(|secret| !text.contains(secret)), "{case} shows a secret");
            statuses.push(status.to_string());
        }
        let of = |number: usize| {
            let (token, certificate) = (&statuses[1 + number], &statuses[5 + number]);
            if token == certificate { token.clone() } else { format!("{token}/{certificate}") }
        };
        // The store's own certificate opens what a sidecar's token does, and the way to the next.
        let (own, sidecar) = (&statuses[9], &statuses[2]);
        assert_eq!(own, if asked.path == "/v1/enrol" { "400" } else { sidecar }, "{}", asked.path);
        let each: String = (0..ROLES.len()).map(|number| format!("{:>9}", of(number))).collect();
        let route = format!("{} {}", asked.method, asked.path);
        lines.push_str(&format!("{route:<46}{:>9}{each}\n", statuses[0]));
    }
    lines
}

fn show(title: &str, lines: &str) {
    let roles: String = ROLES.iter().map(|role| format!("{role:>9}")).collect();
    println!("\n{title}\n{:<46}{:>9}{roles}\n{lines}", "", "nobody");
}

/// A store whose endpoint has a receiver of webhooks, too.
fn store(name: &str) -> Operated {
    Operated::new(PROGRAM, name, |chain| {
        let hub = chain.folder.join("hub");
        write_secret(&hub, "hub-0123456789abcdef0123456789abcdef");
        format!(
            "    hooks:\n      - {{name: hub, type: GitHub, secretFiles: [{}]}}\n",
            hub.display()
        )
    })
}

/// The keys of what a sidecar gets.
fn slice(store: &Operated) -> BTreeSet<String> {
    let reply = store.ask("sidecar", "GET", "/v1/config", "", "");
    let shown: Value = serde_json::from_slice(&reply.body).unwrap();
    shown.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_document_opens_each_route_to_the_roles_of_the_table() {
    let store = store("roles-table");
    let document = store.ask("auditor", "GET", "/v1/openapi.json", "", "");
    let document: Value = serde_json::from_slice(&document.body).unwrap();
    let lines = all(&document).into_iter().filter(|asked| asked.method != "HEAD").map(|asked| {
        let roles = match asked.roles.as_slice() {
            [] => "everyone".to_owned(),
            roles => roles.join(" "),
        };
        format!("{} {}: {roles}\n", asked.method, asked.path)
    });
    assert_eq!(lines.collect::<String>(), TABLE);
}

#[test]
fn under_a_small_policy() {
    let store = store("roles-small");
    store.put(1, "api.example");
    store.applied(1);
    assert!(slice(&store).iter().eq(SLICE));
    show("a policy of one route", &walk(&store, true));
}

#[test]
fn under_a_policy_with_everything_in_it() {
    let store = store("roles-everything");
    let images = store.chain.folder.join("images");
    store.put_text(1, &(store.policy("api.example") + &everything(&images)));
    store.applied(1);
    assert!(slice(&store).iter().eq(SLICE));
    let lines = walk(&store, true);
    show("mirror, release, freeze, override, held rules, egress, hooks", &lines);
}

#[test]
fn before_there_ever_was_a_policy() {
    let store = store("roles-never");
    let none = store.ask("sidecar", "GET", "/v1/config", "", "");
    assert_eq!(none.status, 503, "{}", none.text());
    assert!(none.header("retry-after").is_some());
    show("no policy yet: the built-in minimal one serves", &walk(&store, false));
}

#[test]
fn a_sidecar_asks_for_its_own_part_alone() {
    let store = store("roles-own");
    store.put(1, "api.example");
    store.applied(1);
    let get = |caller: &Caller, query: &str| caller.get(&format!("/v1/config?{query}")).status;
    let json = "Content-Type: application/json\r\n";
    let register = |caller: &Caller, workload: &str| {
        let body = json!({"bootId": "one", "workload": workload}).to_string();
        caller.ask("PUT", "/v1/instances/pos-1", json, &body).status
    };
    // Its certificate says what it stands beside.
    let named = ["tillgate://sidecar/pos-1", "tillgate://workload/pos/checkout"];
    let named = store.certified(&named);
    assert_eq!(get(&named, "workload=pos/checkout&role=sidecar"), 200);
    assert_eq!(get(&named, "workload=pos/prices&role=sidecar"), 403);
    assert_eq!(get(&named, "workload=pos%2Fprices"), 403);
    assert_eq!((register(&named, "pos/prices"), register(&named, "pos/checkout")), (403, 204));
    assert_eq!(get(&named, "workload=checkout"), 400);
    // Of another one nothing is known until it registers.
    let claims = store.certified(&["tillgate://sidecar/pos-2"]);
    assert_eq!(get(&claims, "workload=pos/prices"), 403);
    let body = json!({"bootId": "two", "workload": "pos/prices"}).to_string();
    assert_eq!(claims.ask("PUT", "/v1/instances/pos-2", json, &body).status, 204);
    assert_eq!(get(&claims, "workload=pos/prices"), 200);
    assert_eq!(get(&claims, "workload=pos/checkout"), 403);
    // Who sees everything may look at any part, which is the sidecar's.
    let viewer = store.certified(&["tillgate://viewer/anna"]);
    let part = viewer.get("/v1/config?workload=pos/prices");
    assert_eq!(part.body, claims.get("/v1/config").body);
    assert_eq!(get(&viewer, "workload=pos/prices&role=viewer"), 400);
}

//! The policy language from outside: every file in `tests/policy/bad` with the full text of the
//! answer beside it, every good file and example with its effective config, and the properties
//! that no example shows.
//!
//! A changed answer is a changed snapshot: `TILLGATE_BLESS=1 cargo test -p tillgate-tests --test
//! policy` writes them anew, and the diff is reviewed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tillgate_config::effective::{ListenerProtocol, Origin};
use tillgate_config::{Effective, check_text, load_text};
use tillgate_core::backend::Location;
use tillgate_core::filter::Action;
use tillgate_core::matching::{EgressVerdict, Found, RequestFacts};
use tillgate_core::tls::ClientIdentity;

fn policy_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policy").join(name)
}

fn examples_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples")
}

/// Name and text of every policy in `dir`, by name.
fn policies(dir: &Path) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// Compares `text` with the snapshot, or writes it when blessed. What differs is returned.
fn snapshot(path: &Path, text: &str) -> Option<String> {
    if std::env::var_os("TILLGATE_BLESS").is_some() {
        fs::write(path, text).unwrap();
        return None;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    (expected != text).then(|| {
        let gone = expected.lines().filter(|line| !text.lines().any(|now| now == *line));
        let new = text.lines().filter(|line| !expected.lines().any(|was| was == *line));
        let lines: Vec<String> = gone
            .map(|line| format!("- {line}"))
            .chain(new.map(|line| format!("+ {line}")))
            .collect();
        format!("{} is not what is committed:\n{}", path.display(), lines.join("\n"))
    })
}

fn no_orphans(dir: &Path, policies: &[(String, String)]) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(policies.iter().any(|(name, _)| name == stem), "{} has no policy", path.display());
    }
}

#[test]
fn every_bad_file_is_refused_with_this_answer() {
    let dir = policy_dir("bad");
    let policies = policies(&dir);
    assert!(policies.len() >= 40);
    let mut differences = Vec::new();
    for (name, text) in &policies {
        let checked = check_text(&format!("{name}.yaml"), text);
        assert_eq!(checked.effective, None, "{name} is refused");
        assert!(!checked.report.errors.is_empty(), "{name} has a reason");
        let answer =
            format!("{}{name}.yaml: {}\n", checked.report.to_text(), checked.report.summary());
        differences.extend(snapshot(&dir.join(name).with_extension("txt"), &answer));
    }
    no_orphans(&dir, &policies);
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// Messages start in lower case (or with the value), and tell the operator what to do after a
/// colon, a semicolon or a question.
#[test]
fn every_message_says_what_to_do() {
    for (name, text) in policies(&policy_dir("bad")).iter().chain(&policies(&policy_dir("good"))) {
        let report = check_text(name, text).report;
        for finding in report.errors.iter().chain(&report.lints) {
            let message = &finding.message;
            let first = message.chars().next().unwrap();
            let kinds = ["TLS ", "Backend/", "TelemetryPolicy/", "TrafficClass/"];
            let named = kinds.iter().any(|kind| message.starts_with(kind));
            assert!(first == '`' || first.is_lowercase() || named, "{name}: {message}");
            let advice = message.split_once([':', ';']).map_or("", |(_, advice)| advice);
            assert!(advice.len() > 8, "{name}: {message}");
            assert!(!message.ends_with('.'), "{name}: {message}");
        }
    }
}

#[test]
fn every_good_file_means_this() {
    let good = policy_dir("good");
    let mut differences = Vec::new();
    for (name, text) in policies(&good) {
        differences
            .extend(snapshot(&good.join(&name).with_extension("txt"), &meaning(&name, &text)));
    }
    no_orphans(&good, &policies(&good));
    let beside = policy_dir("examples");
    for (name, text) in policies(&examples_dir()) {
        differences
            .extend(snapshot(&beside.join(&name).with_extension("txt"), &meaning(&name, &text)));
        assert!(check_text(&name, &text).report.is_empty(), "the example {name} has no lints");
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

fn meaning(name: &str, text: &str) -> String {
    let checked = check_text(&format!("{name}.yaml"), text);
    let Some(effective) = checked.effective else { panic!("{name}:\n{}", checked.report) };
    for path in effective.paths() {
        assert!(effective.origin(&path).is_some(), "{name}: where does {path} come from?");
    }
    for path in effective.origins.keys() {
        let known = |one: &String| {
            one.strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        assert!(effective.paths().iter().any(known), "{name}: what is {path}?");
    }
    format!("{}{}", checked.report.to_text(), effective.to_yaml())
}

fn good(name: &str) -> String {
    fs::read_to_string(policy_dir("good").join(name).with_extension("yaml")).unwrap()
}

fn load(text: &str) -> Effective {
    load_text("policy.yaml", text).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn the_digest_follows_the_meaning_and_not_the_spelling() {
    let text = good("issue");
    let before = load(&text).digest;
    let mut documents: Vec<&str> = text.split("---\n").collect();
    documents.reverse();
    let turned = documents.join("---\n# another comment\n").replace("5Mbit/s", "5000kbit/s");
    assert_eq!(load(&turned).digest, before, "order, comments and spelling mean nothing");
    assert_ne!(load(&text.replace("up: 5Mbit/s", "up: 6Mbit/s")).digest, before);
    assert!(before.starts_with("sha256:") && before.len() == 7 + 64);
}

#[test]
fn flags_replace_addresses_and_nothing_else() {
    let config = load(&good("everything"));
    let moved =
        config.clone().with_listener(ListenerProtocol::Http, "127.0.0.1:1".parse().unwrap());
    assert_eq!(moved.listeners[0].limits, config.listeners[0].limits);
    assert_eq!(moved.listeners[0].address.port(), 1);
    assert_eq!(moved.origin("listeners.http.address"), Some(&Origin::Flag("--http".into())));
    assert_ne!(moved.digest, config.digest);
    let open = load(&good("issue"))
        .with_listener(ListenerProtocol::ForwardProxy, "0.0.0.0:3128".parse().unwrap());
    assert!(open.open_forward_proxy().is_some(), "no EgressPolicy, not loopback: a start error");
    assert!(config.open_forward_proxy().is_none(), "an EgressPolicy says what may be reached");
}

#[test]
fn the_quick_start_does_what_its_comments_say() {
    let text = fs::read_to_string(examples_dir().join("quickstart.yaml")).unwrap();
    let config = load(&text);
    let headers = http::HeaderMap::new();
    for (host, class, port) in [
        ("pay.example", "payment", 9000),
        ("registry.example", "image-pull", 9001),
        ("metrics.example", "metrics", 9002),
    ] {
        let method = http::Method::GET;
        let facts = RequestFacts {
            host,
            path: "/",
            query: "",
            method: &method,
            headers: &headers,
            client: None,
        };
        let rule = config.routes.rule(config.routes.find(facts).unwrap());
        assert_eq!(&*config.classes.get(rule.class.unwrap()).name, class);
        let backend = config.backend(rule.tiers[0][0].backend);
        assert_eq!(backend.endpoints[0].port, port);

        let egress = config.egress.as_ref().unwrap();
        let EgressVerdict::Rule(by_name) = egress.by_host(host, 443) else { panic!("{host}") };
        assert_eq!(egress.by_host("10.9.0.1", port), EgressVerdict::AskAddress);
        let verdict = egress.by_address("10.9.0.1".parse().unwrap(), port);
        assert_eq!(verdict, EgressVerdict::Rule(by_name));
        let rule = &egress.rules[by_name];
        assert_eq!(&*config.classes.get(rule.class.unwrap()).name, class);
        assert_eq!(rule.location, Location::Cloud);
    }
}

/// What the rules of `dataplane.yaml` in the examples do to requests.
#[test]
fn the_data_plane_example_does_what_its_comments_say() {
    let text = fs::read_to_string(examples_dir().join("dataplane.yaml")).unwrap();
    let config = load(&text);
    let till =
        ClientIdentity { sans: vec!["DNS:t7.tills.store.example".into()], ..Default::default() };
    let headers = http::HeaderMap::new();
    let meet = |host, path, query, client| {
        let method = &http::Method::GET;
        let facts = RequestFacts { host, path, query, method, headers: &headers, client };
        config.routes.find_match(facts).unwrap()
    };
    let name = |found: Found| &*config.routes.rule(found.rule).name;
    let orders = "orders.store.example";
    let of_till = meet(orders, "/v1/quote", "", Some(&till));
    assert_eq!(name(of_till), "tills");
    assert_eq!(name(meet(orders, "/v1/quote", "preview=yes", Some(&till))), "canary");
    assert_eq!(name(meet(orders, "/v1/quote", "preview=no", None)), "everyone-else");

    let rewrite = config.routes.rule(of_till.rule).filters.rewrite.as_ref().unwrap();
    let path = &config.routes.alternative(of_till).path;
    let new = rewrite.path.as_ref().unwrap().apply("/v1/quote", path);
    assert_eq!(
        (new.as_str(), rewrite.host.as_deref()),
        ("/store/v1/quote", Some("orders.api.example"))
    );

    let moved = config.routes.rule(meet("kiosk.store.example", "/shop/7", "", None).rule);
    let Action::Redirect(redirect) = &moved.action else { panic!("{moved:?}") };
    assert_eq!((redirect.status.as_u16(), moved.tiers.len()), (301, 0));
    let listener = |name: &str| config.listeners.iter().find(|one| &*one.name == name).unwrap();
    let backend = |name: &str| &config.backend(listener(name).backend.unwrap()).name;
    assert_eq!((&**backend("card-host"), &**backend("dns")), ("card-host", "dns"));
    assert_eq!(listener("https").tls.as_ref().unwrap().certificates.len(), 2);
    let log = &config.telemetry.access_log;
    let sampling = |class| log.of(config.classes.id(class).unwrap()).unwrap().sampling.value();
    assert_eq!((sampling("payment"), sampling("image-pull")), (100, 1));
}

/// A value that the digest did not follow could change without anybody noticing.
#[test]
fn every_value_of_the_data_plane_changes_the_digest() {
    let text = good("dataplane");
    let before = load(&text).digest;
    for (was, is) in [
        ("bufferMemory: 128Mi", "bufferMemory: 64Mi"),
        ("maxRequests: 20", "maxRequests: 21"),
        ("maxConnections: 30", "maxConnections: 31"),
        ("mode: Required", "mode: Optional"),
        ("certFile: /tls/a.crt", "certFile: /tls/c.crt"),
        ("caFile: /tls/ca.crt", "caFile: /tls/cb.crt"),
        ("minVersion: \"1.3\"", "minVersion: \"1.2\""),
        ("10.0.0.0/28", "10.0.0.0/27"),
        ("maxUriSize: 4Ki", "maxUriSize: 5Ki"),
        ("maxBodySize: 1Mi", "maxBodySize: 2Mi"),
        ("minBodyRate: 64kbit/s", "minBodyRate: 65kbit/s"),
        ("bodyTimeout: 20s", "bodyTimeout: 21s"),
        ("maxStreamResets: 50", "maxStreamResets: 51"),
        ("connectTimeout: 3s", "connectTimeout: 4s"),
        ("trafficClass: auth", "trafficClass: control"),
        ("idleTimeout: 5s", "idleTimeout: 6s"),
        ("maxSessions: 64", "maxSessions: 65"),
        ("maxSessionsPerClient: 16", "maxSessionsPerClient: 17"),
        ("proxyProtocol: V1", "proxyProtocol: V2"),
        ("family: IPv6", "family: Auto"),
        ("refresh: 10s", "refresh: 11s"),
        ("timeout: 2s", "timeout: 3s"),
        ("tls: {mode: Simple}", "tls: {mode: Simple, sni: other.example}"),
        ("tls: {mode: Simple}", "tls: {mode: None}"),
        ("idleTime: 30s", "idleTime: 31s"),
        ("tcpUserTimeout: 10s", "tcpUserTimeout: 11s"),
        ("keyFile: /tls/b.key", "keyFile: /tls/c.key"),
        ("value: \"7 & 8\"", "value: \"7\""),
        ("spiffe://store/till", "spiffe://store/tell"),
        ("name: x-a, value: \"1\"", "name: x-a, value: \"2\""),
        ("remove: [server]", "remove: [via]"),
        ("replacePrefixMatch: /", "replacePrefixMatch: /v9"),
        ("hostname: api.example\n          path", "hostname: apj.example\n          path"),
        ("type: Header\n", "type: Cookie\n"),
        ("absoluteTimeout: 8h", "absoluteTimeout: 9h"),
        ("interval: 1m", "interval: 2m"),
        ("burst: 5", "burst: 6"),
        ("maxKeys: 100", "maxKeys: 101"),
        ("name: x-till}", "name: x-tell}"),
        ("scheme: https\n", "scheme: http\n"),
        ("port: 8443\n          path", "port: 8444\n          path"),
        ("statusCode: 308", "statusCode: 307"),
        ("contentType: application/json", "contentType: text/html"),
        ("ok\":true", "ok\":false"),
        ("statusCode: 410", "statusCode: 404"),
    ] {
        assert!(text.contains(was), "{was}");
        let after = load(&text.replacen(was, is, 1)).digest;
        assert_ne!(after, before, "{was}");
    }
}

#[test]
fn the_highest_matching_precedence_wins_as_a_whole() {
    let config = load(&good("selectors"));
    let class = config.classes.get(config.classes.id("bulk").unwrap());
    assert_eq!(class.priority, 340, "50 and 60 do not select the store, 40 beats 10 and 20");
}

#[test]
fn built_in_classes_have_their_order_and_can_be_replaced() {
    let config = load(&good("store-only"));
    let names: Vec<(&str, u16)> =
        config.classes.iter().map(|(_, class)| (&*class.name, class.priority)).collect();
    let expected = [
        ("payment", 1000),
        ("auth", 900),
        ("pos-interactive", 800),
        ("control", 700),
        ("replication", 600),
        ("default", 500),
        ("image-pull", 200),
        ("metrics", 100),
    ];
    assert_eq!(names, expected);
    let config = load(&good("everything"));
    let payment = config.classes.get(config.classes.id("payment").unwrap());
    assert_eq!((payment.weight, config.classes.len()), (3, 9));
}

#[test]
fn a_report_is_also_json() {
    let text = fs::read_to_string(policy_dir("bad").join("everything-at-once.yaml")).unwrap();
    let report = check_text("store.yaml", &text).report.to_json();
    let error = &report["errors"][0];
    assert_eq!(error["file"], "store.yaml");
    assert_eq!(error["line"], 5);
    assert_eq!(error["column"], 13);
    assert_eq!(error["path"], "Store/store-0412 spec.timeZone");
    assert!(error["message"].as_str().unwrap().contains("Europe/Olso"));
    assert_eq!(report["errors"].as_array().unwrap().len(), 5);
}

#[test]
fn a_file_larger_than_any_policy_is_refused_at_once() {
    let text = format!("{}# {}\n", good("issue"), "x".repeat(4 * 1024 * 1024));
    let report = load_text("large.yaml", &text).unwrap_err();
    assert!(report.errors[0].message.contains("more than the 4194304"), "{report}");
}

/// One change to a policy that a tired person or a broken editor could make.
fn mutate(text: &str, (at, length, what): (usize, usize, u8)) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = at % (chars.len() + 1);
    let end = (at + length).min(chars.len());
    let piece: String = chars[at..end].iter().collect();
    let (head, tail) = (chars[..at].iter(), chars[end..].iter());
    let middle = match what % 8 {
        0 => String::new(),
        1 => format!("{piece}{piece}"),
        2 => piece.to_uppercase(),
        3 => piece.replace(char::is_whitespace, ""),
        4 => format!("{piece}\u{1b}[31m\u{0}\u{2028}é"),
        5 => format!("{piece}: [{{\"'"),
        6 => format!("&a {piece} *a"),
        _ => "\n---\n".to_owned(),
    };
    head.collect::<String>() + &middle + &tail.collect::<String>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever happens to a file, the answer is a config or a reason, and both can be shown.
    #[test]
    fn no_change_to_a_file_breaks_the_reader(
        which in 0..6usize,
        changes in proptest::collection::vec((any::<usize>(), 1..40usize, any::<u8>()), 1..4),
    ) {
        let names =
            ["everything", "selectors", "links", "issue", "dataplane", "telemetry-collector"];
        let name = names[which];
        let text = changes.into_iter().fold(good(name), |text, change| mutate(&text, change));
        let checked = check_text("changed.yaml", &text);
        prop_assert_eq!(checked.effective.is_none(), !checked.report.errors.is_empty());
        let shown = checked.report.to_text();
        prop_assert!(!shown.contains('\u{1b}'), "no escape sequence reaches a terminal");
        for finding in &checked.report.errors {
            if let Some(place) = &finding.place {
                prop_assert!(place.line >= 1 && place.column >= 1);
            }
        }
        if let Some(effective) = checked.effective {
            prop_assert!(effective.paths().iter().all(|path| effective.origin(path).is_some()));
        }
    }
}

//! Windows and freezes in front of routes and of rules of the egress policy: what is held, what a
//! client is told, how it opens, and that nothing else waits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tillgate_config::effective::Effective;
use tillgate_core::civil::Timestamp;
use tillgate_net::upstream::Resolver;
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::mirror::{freeze_of, seconds_now, window_of};
use tillgate_tests::origin::Origin;
use tillgate_tests::tls::{self, Authority, Wants};
use tillgate_tests::wire::{Reply, Wire};

/// A window of half an hour, in three hours.
fn later(applies_to: &str) -> String {
    window_of("night", applies_to, seconds_now(), 180..210)
}

/// A store whose route `prices` has the rules `file` and `quote`, and whose egress policy has the
/// rules `packages` and `payments`, all of them at `origin`.
fn policy(origin: SocketAddr, documents: &str) -> String {
    let port = origin.port();
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Etc/UTC\n  links:\n    \
         - {{name: primary, capacity: {{up: 50Mbit/s, down: 200Mbit/s}}}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: prices}}\n\
         spec:\n  location: Local\n  protocol: HTTP\n  \
         endpoints: [{{ip: {{address: 127.0.0.1, port: {port}}}}}]\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: ServiceRoute\nmetadata: {{name: prices}}\n\
         spec:\n  hostnames: [prices.example]\n  trafficClass: default\n  rules:\n    \
         - {{name: file, matches: [{{path: {{value: /file}}}}], \
         backendRefs: [{{name: prices}}]}}\n    \
         - {{name: quote, trafficClass: payment, backendRefs: [{{name: prices}}]}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: tills}}\n\
         spec:\n  trafficPolicy: Deny\n  rules:\n    \
         - {{name: packages, destinations: [{{cidrs: [127.0.0.1/32]}}, \
         {{hostnames: [packages.example]}}], trafficClass: image-pull}}\n    \
         - {{name: payments, destinations: [{{cidrs: [127.0.0.2/32]}}], trafficClass: payment}}\n\
         {documents}"
    )
}

/// What a policy is, on ports of the kernel's choice.
fn compiled(text: &str) -> Effective {
    let mut effective = tillgate_config::load_text("gate.yaml", text)
        .map_err(|report| report.to_text())
        .expect("a policy");
    for spec in &mut effective.listeners {
        spec.address.set_port(0);
    }
    effective
}

fn get(gateway: &Gateway, path: &str) -> Reply {
    gateway
        .ask(&format!("GET {path} HTTP/1.1\r\nHost: prices.example\r\nConnection: close\r\n\r\n"))
}

fn connect(gateway: &Gateway, target: &str) -> Reply {
    let mut wire = Wire::connect(gateway.forward);
    wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    wire.reply()
}

/// A rule that is frozen for so many seconds is held, and not for long after; `None` if they were
/// over before that could be seen, or it opened late, as it does where nothing is on time.
fn is_held_for(seconds: i64) -> Option<()> {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let until = Timestamp(seconds_now() + seconds);
    let is_over = || seconds_now() >= until.0;
    let frozen = freeze_of("{routes: [prices/file]}", until);
    let gateway = Gateway::start(compiled(&policy(origin.address, &frozen)));
    let held = get(&gateway, "/file/today");
    if is_over() {
        return None;
    }
    assert_eq!((held.status, &*held.reason()), (429, "change_held"), "{}", held.text());
    let wait: i64 = held.header("retry-after").expect("when").parse().unwrap();
    // Not before, and up to 40 % later: many wait for the same moment.
    assert!((1..=seconds * 7 / 5 + 1).contains(&wait), "it comes back when it opens: {wait}");
    let text = held.text();
    assert!(text.contains(r#""heldBy":["Freeze/peak"]"#), "{text}");
    assert!(text.contains(&format!(r#""nextOpen":"{until}""#)), "{text}");
    assert!(text.contains("ServiceRoute/prices/file is held by Freeze/peak"), "{text}");
    assert_eq!(get(&gateway, "/quote").status, 200, "the other rule is not named");
    let rule = r#"rule="ServiceRoute/prices/file""#;
    gateway.expect_metric(
        &format!(r#"tillgate_gate_rule_held_total{{{rule},held_by="Freeze/peak"}}"#),
        1.0,
    );
    gateway.expect_metric(r#"tillgate_failures_total{class="default",reason="change_held"}"#, 1.0);
    let (open, active) =
        (format!("tillgate_gate_rule_open{{{rule}}}"), r#"tillgate_freeze_active{freeze="peak"}"#);
    eventually("it is told while it lasts", || {
        let is_told = gateway.metric(&open) < 0.5 && gateway.metric(active) > 0.5;
        (is_told || is_over()).then_some(())
    });
    let opened = eventually("it opens by itself", || {
        let asked = seconds_now();
        (get(&gateway, "/file/today").status == 200).then_some(asked)
    });
    // A second is what is promised; another is for a busy machine, and one for whole seconds.
    let late = opened - until.0;
    assert!(late >= -1, "{late} s after its time");
    gateway.expect_metric(&open, 1.0);
    gateway.expect_metric(active, 0.0);
    (late <= 3).then_some(())
}

#[test]
fn a_frozen_rule_of_a_route_is_held_with_its_reason_and_opens_by_itself() {
    let seen = [12, 12, 12, 40].into_iter().find_map(is_held_for);
    assert!(seen.is_some(), "held long enough to be seen, and open in time");
}

#[test]
fn a_rule_of_the_egress_policy_waits_for_its_window_in_every_way_through() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let closed = later("{egressRules: [packages]}");
    let listener = "---\napiVersion: tillgate.dev/v1alpha1\nkind: Listener\n\
         metadata: {name: tls}\nspec: {address: '127.0.0.1:18443', protocol: TLSPassthrough}\n";
    let text = policy(origin.address, &format!("{closed}{listener}"));
    let here = std::net::IpAddr::from([127, 0, 0, 1]);
    let lookup = Resolver::new(Box::new(move |_| Box::pin(async move { Ok(vec![here]) })));
    let gateway = Gateway::start_resolving(compiled(&text), Arc::new(lookup));
    let at = |host: &str| format!("{host}:{}", origin.address.port());
    let held = connect(&gateway, &at("127.0.0.1"));
    assert_eq!((held.status, &*held.reason()), (429, "change_held"), "{}", held.text());
    assert!(held.text().contains("outside ChangeWindow/night"), "{}", held.text());
    let wait: u64 = held.header("retry-after").expect("when").parse().unwrap();
    assert!((720..=1080).contains(&wait), "15 minutes, more or less: {wait}");
    let mut wire = Wire::connect(gateway.forward);
    let host = at("127.0.0.1");
    wire.send(format!("GET http://{host}/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    let plain = wire.reply();
    assert_eq!((plain.status, &*plain.reason()), (429, "change_held"));
    let mut wire = Wire::connect(gateway.listeners["tls"]);
    let hello =
        tls::hello("packages.example", &tls::client(&Authority::default(), &Wants::default()));
    wire.send(hello);
    let alert = wire.read_to_end().unwrap_or_else(|rest| rest);
    // Access denied (RFC 8446, 6.2): the policy says no.
    assert!(alert.len() == 7 && alert[0] == 21 && alert[6] == 49, "{alert:?}");
    assert_eq!(connect(&gateway, &at("127.0.0.2")).status, 502, "not held: nobody listens there");
    gateway
        .expect_metric(r#"tillgate_failures_total{class="image-pull",reason="change_held"}"#, 3.0);
    // Another policy opens it at once; what has begun then goes on past the end of its window.
    let around = window_of("night", "{egressRules: [packages]}", seconds_now(), -60..60);
    let open = policy(origin.address, &format!("{around}{listener}"));
    gateway.control.reload(compiled(&open)).unwrap();
    let mut begun = Wire::connect(gateway.forward);
    begun.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(begun.head().status, 200);
    gateway.control.reload(compiled(&text)).unwrap();
    assert_eq!(connect(&gateway, &host).status, 429);
    begun.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(begun.reply().status, 200, "it finishes");
}

#[test]
fn a_rule_that_is_closed_by_name_is_not_even_looked_up() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let text = policy(origin.address, &later("{egressRules: [packages]}"));
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let lookup = Resolver::new(Box::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(vec![std::net::IpAddr::from([127, 0, 0, 1])]) })
    }));
    let gateway = Gateway::start_resolving(compiled(&text), Arc::new(lookup));
    let target = format!("packages.example:{}", origin.address.port());
    let held = connect(&gateway, &target);
    assert_eq!((held.status, &*held.reason()), (429, "change_held"), "{}", held.text());
    let mut wire = Wire::connect(gateway.forward);
    wire.send(format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    assert_eq!(wire.reply().status, 429);
    gateway
        .expect_metric(r#"tillgate_failures_total{class="image-pull",reason="change_held"}"#, 2.0);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    gateway.control.reload(compiled(&policy(origin.address, ""))).unwrap();
    let mut open = Wire::connect(gateway.forward);
    open.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    assert_eq!(open.head().status, 200);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn windows_and_explain_say_the_same_as_the_data_path() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let closed = later("{routes: [prices/file], egressRules: [packages]}");
    let text = policy(origin.address, &closed);
    let gateway = Gateway::start(compiled(&text));
    let told: serde_json::Value =
        serde_json::from_str(&gateway.admin("/v1/windows").text()).unwrap();
    let rules = told["rules"].as_array().unwrap();
    let names: Vec<&str> = rules.iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    assert_eq!(names, ["ServiceRoute/prices/file", "EgressPolicy/packages"]);
    for rule in rules {
        assert_eq!(rule["gate"], "Held");
        assert_eq!(rule["heldBy"][0], "outside ChangeWindow/night");
        assert_eq!(rule["intervals"].as_array().unwrap().len(), 7, "once a day: {rule}");
        assert_eq!(rule["nextOpen"], rule["intervals"][0]["from"]);
    }
    let held = get(&gateway, "/file");
    let body: serde_json::Value = serde_json::from_str(&held.text()).unwrap();
    assert_eq!(body["nextOpen"], rules[0]["nextOpen"], "one evaluator");
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("store.yaml");
    std::fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();
    let ask = |words: &[&str]| {
        let words = ["tillgate"].iter().chain(words);
        tillgate::cli::ask(words.map(std::ffi::OsString::from)).expect("a command")
    };
    let url = "http://prices.example/file";
    let explained = ask(&["explain", "--config", file, "--output", "json", "GET", url]).stdout;
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained["gate"]["gate"], "Held", "{explained}");
    assert_eq!(explained["gate"]["nextOpen"], rules[0]["nextOpen"]);
    let free = ask(&["explain", "--config", file, "GET", "http://prices.example/quote"]).stdout;
    assert!(!free.contains("Held"), "{free}");
    let windows = ask(&["windows", file]).stdout;
    assert!(windows.contains("ServiceRoute/prices/file: held by outside"), "{windows}");
    assert!(windows.contains("EgressPolicy/packages: held by outside"), "{windows}");
    let valid = ask(&["validate", file]);
    assert_eq!(valid.code, 0, "{}", valid.stderr);
    assert!(!(valid.stdout + &valid.stderr).contains("not in effect"), "there is no mirror here");
}

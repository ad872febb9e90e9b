//! Explained and real decisions are the same, for a hundred thousand generated requests, and as
//! many of the forward proxy.
//!
//! Policies and requests are drawn from small pools, so that they meet often. Each request is
//! decided by the code of the data path, by the explanation, and by a reference that reads the
//! precedence from the documentation and tries every rule in turn. A failure names its seed.

use std::sync::Arc;

use fastrand::Rng;
use http::request::Parts;
use http::{HeaderMap, Method, Request};
use tillgate_config::load_text;
use tillgate_core::matching::{
    EgressTable, EgressVerdict, HostPattern, Natural, PathMatch, RequestFacts, RequestMatch,
    TrafficPolicy, natural_class,
};
use tillgate_core::retry::{Methods, RetrySpec};
use tillgate_net::http::headers;
use tillgate_net::metrics::{Metrics, PolicyMeters, RolloutMeters};

use super::*;
use crate::doors::Doors;
use crate::wall::StoreClock;

const POLICIES: u64 = 100;
const REQUESTS: usize = 1000;

const HOSTS: [&str; 6] =
    ["a.example", "b.example", "\"*.example\"", "\"*.deep.example\"", "\"*\"", "10.0.0.1"];
const PATHS: [&str; 8] = ["/", "/v1", "/v1/", "/v1/x", "/v10", "/v2", "/v2/app", "/api/v1/write"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const CLASSES: [&str; 3] = ["payment", "pos-interactive", "image-pull"];

const HEAD: &str = "apiVersion: tillgate.dev/v1alpha1\nkind: ";

fn policy(rng: &mut Rng) -> String {
    let mut text = format!(
        "{HEAD}Store\nmetadata: {{name: s}}\nspec:\n  timeZone: UTC\n  links: [{{name: primary, \
         capacity: {{up: 5Mbit/s, down: 20Mbit/s}}}}]\n"
    );
    for (name, location) in [("near", "Local"), ("far", "Cloud")] {
        text.push_str(&format!(
            "---\n{HEAD}Backend\nmetadata: {{name: {name}}}\nspec: {{location: {location}, \
             protocol: HTTP, endpoints: [{{ip: {{address: 10.1.0.1, port: 80}}}}]}}\n"
        ));
    }
    for route in 0..rng.usize(2..6) {
        let host = HOSTS[rng.usize(..HOSTS.len())];
        text.push_str(&format!(
            "---\n{HEAD}ServiceRoute\nmetadata: {{name: r{route}}}\nspec:\n  hostnames: \
             [{host}]\n{}  rules:\n",
            if rng.bool() {
                format!("  trafficClass: {}\n", pick(rng, &CLASSES))
            } else {
                String::new()
            }
        ));
        for rule in 0..rng.usize(1..4) {
            text.push_str(&format!("    - name: n{rule}\n      matches:\n"));
            for _ in 0..rng.usize(1..3) {
                text.push_str(&format!("        - {}\n", conditions(rng)));
            }
            let refs = match rng.u8(..3) {
                0 => "{name: near}",
                1 => "{name: far}",
                _ => "{name: near}, {name: far, fallback: true}",
            };
            text.push_str(pick(rng, &REPEATS));
            text.push_str(&format!("      backendRefs: [{refs}]\n"));
        }
    }
    text + &egress_policy(rng) + FREEZES
}

/// What a rule says of calls that were sent.
const REPEATS: [&str; 4] = [
    "",
    "      retry: {unsafeMethods: true}\n",
    "      idempotency: {header: Idempotency-Key}\n",
    "      idempotency: {header: Idempotency-Key, scope: AllBackends}\n",
];

/// One that began long ago and ends when nobody runs this any more, one that is over.
const FREEZES: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: Freeze
metadata: {name: peak}
spec:
  appliesTo: {routes: [r0/n0], egressRules: [e0]}
  from: \"2020-11-20T00:00:00\"
  until: \"2099-12-01T06:00:00\"
  timeZone: Store
  reason: the busy week
---
apiVersion: tillgate.dev/v1alpha1
kind: Freeze
metadata: {name: over}
spec:
  appliesTo: {routes: [r1/n0], egressRules: [e1]}
  from: \"2020-11-20T00:00:00\"
  until: \"2020-12-01T06:00:00\"
  timeZone: Store
  reason: another week
";

fn egress_policy(rng: &mut Rng) -> String {
    let mut text = format!(
        "---\n{HEAD}EgressPolicy\nmetadata: {{name: tills}}\nspec:\n  trafficPolicy: {}\n  \
         rules:\n",
        pick(rng, &["Allow", "Deny"])
    );
    for rule in 0..rng.usize(2..6) {
        let ports = pick(rng, &["", ", ports: [80]", ", ports: [443, 8080]"]);
        let place = if rng.u8(..4) == 0 {
            format!("cidrs: [{}]", pick(rng, &["10.0.0.0/8", "10.0.0.0/30", "192.0.2.0/24"]))
        } else {
            format!("hostnames: [{}]", pick(rng, &HOSTS))
        };
        text.push_str(&format!("    - name: e{rule}\n      destinations: [{{{place}{ports}}}]\n"));
        if rng.bool() {
            text.push_str(&format!("      trafficClass: {}\n", pick(rng, &CLASSES)));
        }
        text.push_str(&format!("      location: {}\n", pick(rng, &["Local", "Cloud"])));
    }
    text
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

fn conditions(rng: &mut Rng) -> String {
    let kind = if rng.u8(..4) == 0 { "Exact" } else { "PathPrefix" };
    let mut text = format!("{{path: {{type: {kind}, value: {}}}", pick(rng, &PATHS));
    if rng.u8(..3) == 0 {
        text.push_str(&format!(", method: {}", pick(rng, &METHODS)));
    }
    if rng.u8(..3) == 0 {
        text.push_str(&format!(", headers: [{{name: x-lane, value: \"{}\"}}]", rng.u8(..2)));
    }
    if rng.u8(..4) == 0 {
        text.push_str(&format!(", queryParams: [{{name: q, value: \"{}\"}}]", rng.u8(..2)));
    }
    text.push('}');
    text
}

fn asked(rng: &mut Rng) -> Parts {
    let host = ["a.example", "A.Example", "b.example:8080", "x.deep.example", "c.test", "10.0.0.1"];
    let path = [
        "/",
        "/v1",
        "/v1/",
        "/v1/x",
        "/v1/x/y",
        "/v10",
        "/v2/app/manifests/1",
        "/v2",
        "/api/v1/write",
    ];
    let query = ["", "?q=0", "?q=1", "?a=b&q=0"];
    let target = format!("{}{}", pick(rng, &path), pick(rng, &query));
    let mut request = Request::builder().method(pick(rng, &METHODS)).uri(target);
    request = request.header("host", pick(rng, &host));
    if rng.bool() {
        request = request.header("x-lane", rng.u8(..3).to_string());
    }
    if rng.bool() {
        request = request.header("idempotency-key", pick(rng, &["7", " "]));
    }
    request.body(()).unwrap().into_parts().0
}

/// The same for the forward proxy.
fn asked_of_proxy(rng: &mut Rng) -> Parts {
    let host = ["a.example", "A.Example", "x.deep.example", "c.test", "10.0.0.1", "192.0.2.7"];
    let (host, port) = (pick(rng, &host), pick(rng, &[":80", ":443", ":8080"]));
    let path = pick(rng, &["/", "/v2/app/manifests/1", "/api/v1/write"]);
    let request = match rng.u8(..3) {
        0 => Request::builder().method(Method::CONNECT).uri(format!("{host}{port}")),
        _ => {
            let method = pick(rng, &METHODS);
            Request::builder().method(method).uri(format!("http://{host}{port}{path}"))
        }
    };
    request.body(()).unwrap().into_parts().0
}

/// The precedence as the documentation says it: a larger key is more precise.
fn precision(host: &HostPattern, one: &RequestMatch) -> impl Ord + use<> {
    let host = match host {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Suffix(suffix) => suffix.len(),
        HostPattern::Any => 0,
    };
    let path = match &one.path {
        PathMatch::Exact(_) => usize::MAX,
        PathMatch::Prefix(path) => path.trim_end_matches('/').len(),
    };
    (host, path, one.method.is_some(), one.headers.len(), one.query.len())
}

/// Every rule in turn; the most precise that holds.
fn reference(effective: &Effective, facts: RequestFacts<'_>) -> Option<(usize, usize)> {
    let mut best = None;
    for (rule, of) in effective.routes.rules.iter().enumerate() {
        for host in of.hosts.iter().filter(|host| host.matches(facts.host)) {
            for (alternative, one) in of.matches.iter().enumerate() {
                let holds = one.conditions().all(|condition| condition.holds(facts));
                assert_eq!(holds, one.matches(facts), "each condition and all of them");
                let key = precision(host, one);
                if holds && best.as_ref().is_none_or(|(known, _)| key > *known) {
                    best = Some((key, (rule, alternative)));
                }
            }
        }
    }
    best.map(|(_, found)| found)
}

/// Every rule of the egress policy in turn: a name, the longest suffix, the longest network, `*`;
/// in each of them a port before every port. Without an address networks cannot be asked.
fn egress_reference(table: &EgressTable, host: &str, port: u16) -> EgressVerdict {
    let address: Option<std::net::IpAddr> = host.parse().ok();
    let mut best = None;
    let all = table.rules.iter().enumerate();
    for (rule, one) in all.flat_map(|(rule, of)| of.destinations.iter().map(move |it| (rule, it))) {
        if !one.ports.is_empty() && !one.ports.contains(&port) {
            continue;
        }
        let hosts = one.hosts.iter().filter(|pattern| pattern.matches(host));
        let hosts = hosts.map(|pattern| match pattern {
            HostPattern::Exact(_) => (3, 0),
            HostPattern::Suffix(suffix) => (2, suffix.len()),
            HostPattern::Any => (0, 0),
        });
        let networks = one.networks.iter().filter(|it| address.is_some_and(|ip| it.contains(&ip)));
        let networks = networks.map(|network| (1, usize::from(network.prefix_len())));
        for (kind, length) in hosts.chain(networks) {
            let key = (kind, length, !one.ports.is_empty());
            if best.is_none_or(|(known, _)| key > known) {
                best = Some((key, rule));
            }
        }
    }
    let has_networks = table.rules.iter().flat_map(|it| &it.destinations);
    let has_networks = has_networks.map(|it| it.networks.len()).sum::<usize>() > 0;
    match (best, table.traffic_policy) {
        (Some(((1.., ..), rule)), _) => EgressVerdict::Rule(rule),
        _ if address.is_none() && has_networks => EgressVerdict::AskAddress,
        (Some((_, rule)), _) => EgressVerdict::Rule(rule),
        (None, TrafficPolicy::Allow) => EgressVerdict::Allowed,
        (None, TrafficPolicy::Deny) => EgressVerdict::Denied,
    }
}

/// Where a call may be executed a second time, as the documentation says it.
fn repeat_reference(retry: &RetrySpec, method: &Method, headers: &HeaderMap) -> &'static str {
    let key = headers.get("idempotency-key").is_some_and(|value| value == "7");
    match (&retry.idempotency, retry.methods) {
        _ if *method != Method::POST => "every backend of the rule",
        (Some(spec), _) if key && spec.scope == Scope::Backend => "the same backend",
        (Some(_), _) if key => "every backend of the rule",
        (_, Methods::All) => "every backend of the rule",
        (_, Methods::Idempotent) => "nowhere",
    }
}

/// The class of a request that nothing names one for.
fn natural_reference(effective: &Effective, facts: RequestFacts<'_>) -> ClassId {
    let name = match natural_class(facts) {
        Some(Natural::ImagePull) => "image-pull",
        Some(Natural::Metrics) => "metrics",
        None => "default",
    };
    effective.classes.id(name).unwrap()
}

/// A policy as real requests meet it.
struct Site {
    effective: Effective,
    doors: Doors,
    clock: Arc<StoreClock>,
}

impl Site {
    fn new(effective: Effective) -> Self {
        let meters = PolicyMeters::register(&Metrics::new("0"));
        let clock = Arc::new(StoreClock::new(meters, Arc::default()));
        let doors = Doors::new(&effective, Arc::clone(&clock), RolloutMeters::default());
        Self { effective, doors, clock }
    }
}

/// A request of the forward proxy, by its real decisions, the reference and what is told.
fn compare_egress(site: &Site, head: &Parts, case: &str, in_full: bool) -> EgressVerdict {
    let effective = &site.effective;
    let asked = egress::Asked::by_proxy(effective, "forward-proxy", head).unwrap();
    let place = &asked.place;
    let host = tillgate_core::matching::canonical_host(&place.host);
    let table = effective.egress.as_ref().unwrap();
    let expected = egress_reference(table, &host, place.port);
    let verdict = asked.verdict().unwrap_or(EgressVerdict::Denied);
    assert_eq!(verdict, expected, "{case}");
    let near = table.near(&host, host.parse().ok(), place.port);
    let nearest = near.first().filter(|one| one.takes_port).map(|one| one.rule);
    match verdict {
        EgressVerdict::Rule(rule) => assert_eq!(nearest, Some(rule), "{case}"),
        EgressVerdict::AskAddress => {}
        EgressVerdict::Allowed | EgressVerdict::Denied => assert_eq!(nearest, None, "{case}"),
    }
    let rule = if let EgressVerdict::Rule(rule) = verdict { Some(rule) } else { None };
    let unnamed = if head.method == Method::CONNECT {
        effective.classes.id("default").unwrap()
    } else {
        natural_reference(effective, serve::facts(&host, head, None))
    };
    let class = rule.and_then(|rule| table.rules[rule].class).unwrap_or(unnamed);
    assert_eq!(asked.class(verdict), class, "{case}");
    if in_full {
        let shown = egress::by_proxy(effective, "forward-proxy", head, site.clock.now());
        let is_held = site.doors.pass_egress(rule).is_err();
        let told = match verdict {
            EgressVerdict::Denied => "Denied",
            EgressVerdict::AskAddress => "ByAddress",
            EgressVerdict::Rule(_) if is_held => "Held",
            EgressVerdict::Rule(_) | EgressVerdict::Allowed => "Passes",
        };
        assert_eq!(shown["verdict"], told, "{case}: {shown}");
        assert_eq!(shown["egressRule"], json!(rule.map(|rule| &*table.rules[rule].name)), "{case}");
        if matches!(verdict, EgressVerdict::Allowed | EgressVerdict::Rule(_)) {
            assert_eq!(shown["trafficClass"]["name"], *effective.classes.get(class).name, "{case}");
        }
    }
    verdict
}

fn compare(site: &Site, head: &Parts, case: &str, in_full: bool) -> bool {
    let effective = &site.effective;
    let natural = NaturalClasses::of(&effective.classes);
    let real = serve::classify(effective, natural, head, None);
    let explained = Explanation::of(effective, head, None);
    let host = headers::host_of(head).unwrap();
    let facts = serve::facts(&host, head, None);
    let expected = reference(effective, facts);
    let (Ok((found, class)), Ok(explained)) = (&real, &explained) else {
        assert!(real.is_err() && explained.is_err() && expected.is_none(), "{case}");
        let near = effective.routes.near(facts, None);
        assert!(near.iter().all(|one| !one.missed.is_empty()), "{case}: it matches");
        return false;
    };
    assert_eq!((found, class), (&explained.found, &explained.class), "{case}");
    let met = (usize::from(found.rule.0), usize::from(found.alternative));
    assert_eq!(Some(met), expected, "{case}");
    let rule = effective.routes.rule(found.rule);
    let natural = natural_reference(effective, facts);
    assert_eq!(*class, rule.class.unwrap_or(natural), "{case}");
    // What real tries ask.
    let repeat = rule.retry.repeat(&head.method, &head.headers);
    assert_eq!(explained.permission.repeat(), repeat, "{case}");
    let expected = repeat_reference(&rule.retry, &head.method, &head.headers);
    assert_eq!(explained.place(), expected, "{case}");
    for near in effective.routes.near(facts, Some(*found)) {
        assert_ne!(near.rule, found.rule);
        assert!(near.missed.iter().all(|condition| !condition.holds(facts)), "{case}");
    }
    if in_full {
        let shown = explained.to_json(site.clock.now());
        let all = effective.to_json();
        let whole = &all["effective"];
        let written = &whole["classes"][&*effective.classes.get(*class).name];
        assert_eq!(shown["trafficClass"]["maxWait"], written["queue"]["maxWait"], "{case}");
        assert_eq!(explained.shown, whole["routes"][&*rule.route][&*rule.name], "{case}");
        let is_held = site.doors.pass_route(found.rule).is_err();
        assert_eq!(shown["gate"]["gate"] == "Held", is_held, "{case}: {}", shown["gate"]);
        assert_eq!((&shown["route"], &shown["rule"]), (&json!(*rule.route), &json!(*rule.name)));
        assert_eq!(shown["trafficClass"]["name"], *effective.classes.get(*class).name);
        let tiers = shown["tiers"].as_array().unwrap();
        assert_eq!(tiers.len(), rule.tiers.len());
        for (shown, tier) in tiers.iter().zip(&rule.tiers) {
            let backend = effective.backend(tier[0].backend);
            assert_eq!(shown[0]["backend"], *backend.name);
            let crosses = backend.location == Location::Cloud;
            assert_eq!(shown[0]["line"], if crosses { json!("primary") } else { Value::Null });
        }
        let conditions = shown["because"].as_array().unwrap().len();
        assert_eq!(conditions, 1 + effective.routes.alternative(*found).conditions().count());
    }
    true
}

#[test]
fn a_hundred_thousand_requests_are_decided_as_they_are_explained() {
    let (mut policies, mut seed, mut met, mut ruled) = (0, 0, 0, 0);
    while policies < POLICIES {
        seed += 1;
        let mut rng = Rng::with_seed(seed);
        // Rules that contradict each other are refused by the language.
        let Ok(effective) = load_text("generated", &policy(&mut rng)) else { continue };
        policies += 1;
        let site = Site::new(effective);
        for number in 0..REQUESTS {
            let head = asked(&mut rng);
            let case = format!("seed {seed}, request {number}: {} {:?}", head.uri, head.headers);
            met += usize::from(compare(&site, &head, &case, number % 100 == 0));
            let head = asked_of_proxy(&mut rng);
            let case = format!("seed {seed}, request {number}: {} {}", head.method, head.uri);
            let verdict = compare_egress(&site, &head, &case, number % 10 == 0);
            ruled += usize::from(matches!(verdict, EgressVerdict::Rule(_)));
        }
    }
    // Neither almost all nor almost none.
    let all = REQUESTS * usize::try_from(POLICIES).unwrap();
    for met in [met, ruled] {
        assert!((all / 10..all * 9 / 10).contains(&met), "{met} of {all} met a rule");
    }
}

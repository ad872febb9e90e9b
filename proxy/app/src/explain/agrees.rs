//! Explained and real decisions are the same, for a hundred thousand generated requests.
//!
//! Policies and requests are drawn from small pools, so that they meet often. Each request is
//! decided by the code of the data path, by the explanation, and by a reference that reads the
//! precedence from the documentation and tries every rule in turn. A failure names its seed.

use fastrand::Rng;
use http::Request;
use http::request::Parts;
use tillgate_config::load_text;
use tillgate_core::matching::{HostPattern, PathMatch, RequestFacts, RequestMatch};
use tillgate_net::http::headers;

use super::*;

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
            text.push_str(&format!("      backendRefs: [{refs}]\n"));
        }
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

fn compare(effective: &Effective, head: &Parts, case: &str, in_full: bool) -> bool {
    let natural = NaturalClasses::of(&effective.classes);
    let real = serve::classify(effective, natural, head, None);
    let explained = Explanation::of(effective, head);
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
    for near in effective.routes.near(facts, Some(*found)) {
        assert_ne!(near.rule, found.rule);
        assert!(near.missed.iter().all(|condition| !condition.holds(facts)), "{case}");
    }
    if in_full {
        let shown = explained.to_json((Clock::Synced, crate::cli::windows::now()));
        let rule = effective.routes.rule(found.rule);
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
    let (mut policies, mut seed, mut met) = (0, 0, 0);
    while policies < POLICIES {
        seed += 1;
        let mut rng = Rng::with_seed(seed);
        // Rules that contradict each other are refused by the language.
        let Ok(effective) = load_text("generated", &policy(&mut rng)) else { continue };
        policies += 1;
        for number in 0..REQUESTS {
            let head = asked(&mut rng);
            let case = format!("seed {seed}, request {number}: {} {:?}", head.uri, head.headers);
            met += usize::from(compare(&effective, &head, &case, number % 100 == 0));
        }
    }
    // Neither almost all nor almost none.
    let all = REQUESTS * usize::try_from(POLICIES).unwrap();
    assert!((all / 10..all * 9 / 10).contains(&met), "{met} of {all} met a rule");
}

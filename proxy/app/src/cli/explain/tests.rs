//! Questions about the policy of a payment route with a replica in the store.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::cli::scratch::Scratch;

const POLICY: &str = "\
apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {name: store-0412}
spec:
  timeZone: Europe/Oslo
  links: [{name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}]
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: pricing-local}
spec:
  location: Local
  protocol: HTTP
  endpoints: [{ip: {address: 127.0.0.1, port: 9500}}]
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: pricing-cloud}
spec:
  location: Cloud
  protocol: HTTP
  endpoints: [{ip: {address: 10.9.0.1, port: 9600}}]
---
apiVersion: tillgate.dev/v1alpha1
kind: ServiceRoute
metadata: {name: pricing}
spec:
  hostnames: [pay.example]
  trafficClass: payment
  rules:
    - name: all
      timeouts: {request: 3s}
      idempotency: {header: Idempotency-Key}
      backendRefs: [{name: pricing-local}, {name: pricing-cloud, fallback: true}]
    - name: moved
      matches: [{path: {value: /old}}]
      filters: {requestRedirect: {scheme: https, statusCode: 301}}
";

fn own(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn ask(policy: &str, headers: &[&str], request: &[&str], output: Output) -> Answer {
    ask_by(policy, (None, &[]), (headers, request), output)
}

/// The same by a way, from a client whose certificate has such names.
fn ask_by(
    policy: &str,
    (via, names): (Option<&str>, &[&str]),
    (headers, request): (&[&str], &[&str]),
    output: Output,
) -> Answer {
    let config = Scratch::new("store.yaml", policy.as_bytes());
    let (headers, request) = (own(headers), own(request));
    run(&Options {
        config: Some(config.path.clone()),
        store: None,
        about: About {
            headers,
            via: via.map(str::to_owned),
            certificate_names: own(names),
            at: None,
        },
        image: None,
        output,
        request,
        remote: Remote::default(),
    })
}

fn json(policy: &str, headers: &[&str], request: &[&str]) -> Value {
    let answer = ask(policy, headers, request, Output::Json);
    assert_eq!(answer.code, 0, "{}{}", answer.stderr, answer.stdout);
    serde_json::from_str(&answer.stdout).unwrap()
}

const URL: &str = "http://pay.example/price";
const KEYED: &[&str] = &["Idempotency-Key: 7"];

#[test]
fn a_key_without_a_scope_is_said_to_stay_in_its_backend() {
    let shown = json(POLICY, KEYED, &["POST", URL]);
    assert_eq!((&shown["route"], &shown["rule"]), (&"pricing".into(), &"all".into()));
    assert_eq!(shown["trafficClass"]["name"], "payment");
    assert_eq!(shown["retry"]["permission"]["where"], "the same backend");
    let key = &shown["idempotency"];
    assert_eq!((&key["scope"], &key["scopeIsWritten"]), (&"Backend".into(), &false.into()));
    let means = key["means"].as_str().unwrap();
    assert!(means.contains("never sent to another tier"), "{means}");
    assert!(means.contains("write `scope: AllBackends`"), "{means}");
    let origin = shown["origin"].as_str().unwrap();
    let file = Path::new(origin.split(':').next().unwrap());
    assert_eq!(file.file_name().unwrap(), "store.yaml");
    assert_eq!(origin.split(':').nth(1).map(str::parse), Some(Ok(31)), "{origin}");
}

#[test]
fn each_permission_has_its_reason() {
    let shared = POLICY.replace("Key}", "Key, scope: AllBackends}");
    let all = POLICY.replace("timeouts:", "retry: {unsafeMethods: true}\n      timeouts:");
    let off = POLICY.replace("timeouts:", "retry: {attempts: 0}\n      timeouts:");
    for (policy, headers, method, place, why) in [
        (POLICY, &[][..], "GET", "every backend of the rule", "GET is idempotent"),
        (POLICY, &[], "POST", "nowhere", "carries no `idempotency-key`"),
        (POLICY, KEYED, "POST", "the same backend", "each backend remembers"),
        (&shared, KEYED, "POST", "every backend of the rule", "all backends remember"),
        (&all, &[], "POST", "every backend of the rule", "unsafeMethods"),
        (&off, &[], "PUT", "every backend of the rule", "`retry.attempts` is 0"),
    ] {
        let permission = &json(policy, headers, &[method, URL])["retry"]["permission"];
        assert_eq!(permission["where"], place, "{method}");
        assert!(permission["why"].as_str().unwrap().contains(why), "{permission}");
    }
}

#[test]
fn people_read_where_it_goes() {
    let answer = ask(POLICY, &["Host: pay.example"], &["POST", "/price"], Output::Text);
    for line in [
        "tier 1     pricing-local (Local, HTTP, weight 1): 127.0.0.1:9500",
        "tier 2     pricing-cloud (Cloud across primary, HTTP, weight 1): 10.9.0.1:9600",
        "key        idempotency-key, scope Backend (not written, so the default)",
    ] {
        assert!(answer.stdout.lines().any(|one| one == line), "{line}\n{}", answer.stdout);
    }
    assert!(answer.stdout.contains("request 3s"), "{}", answer.stdout);
    let moved = ask(POLICY, &[], &["http://pay.example/old"], Output::Text);
    assert!(moved.stdout.contains("answer") && !moved.stdout.contains("tier"), "{}", moved.stdout);
}

#[test]
fn what_meets_no_rule_or_is_no_request_is_told() {
    let nobody = ask(POLICY, &[], &["http://nobody.example/"], Output::Text);
    assert_eq!(nobody.code, 1);
    assert!(nobody.stdout.contains("no ServiceRoute has the host nobody.example"));
    for (headers, request, says) in [
        (&[][..], &["/price"][..], "names no host"),
        (&[], &["a b", URL], "is no method"),
        (&["Idempotency-Key"], &[URL], "is no field"),
    ] {
        let answer = ask(POLICY, headers, request, Output::Text);
        assert_eq!(answer.code, 2);
        assert!(answer.stderr.contains(says), "{}", answer.stderr);
    }
    let bad = ask(&POLICY.replace("5Mbit/s", "5Mbps"), &[], &[URL], Output::Text);
    assert_eq!(bad.code, 1, "{}", bad.stderr);
}

/// A pull in a store of the example fleet.
fn pulled(store: &str, image: &str, at: &str, output: Output) -> Answer {
    let fleet = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/examples/fleet/policy");
    run(&Options {
        config: Some(fleet),
        store: Some(store.to_owned()),
        about: About {
            headers: Vec::new(),
            via: None,
            certificate_names: Vec::new(),
            at: Some(at.to_owned()),
        },
        image: Some(image.to_owned()),
        output,
        request: Vec::new(),
        remote: Remote::default(),
    })
}

#[test]
fn a_held_image_is_explained_for_another_time() {
    let at_noon = "2026-11-28T12:10:00Z";
    let answer = pulled("0412", "pos/checkout", at_noon, Output::Json);
    assert_eq!(answer.code, 1, "{}", answer.stderr);
    let shown: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!((&shown["verdict"], &shown["at"]), (&"Held".into(), &at_noon.into()));
    let ring = &shown["rollout"]["ring"];
    assert_eq!((&shown["told"]["status"], ring), (&429.into(), &"pilot".into()));
    let list = |name: &str| shown[name].as_array().unwrap().clone();
    let held: Vec<Value> = list("heldBy").into_iter().map(|it| it["document"].clone()).collect();
    assert_eq!(held, ["Freeze/black-friday-2026", "outside ChangeWindow/closed-hours"]);
    // The freeze ends at six in the morning of Oslo, while the store is closed.
    assert_eq!(shown["nextOpen"], "2026-12-01T05:00:00Z");
    let calendar = list("calendar");
    let freeze = calendar.iter().find(|it| it["document"] == held[0]).unwrap();
    assert_eq!(freeze["isActive"], true);
    let origin = freeze["origin"].as_str().unwrap();
    assert!(origin.contains("71-freeze-black-friday.yaml:5"), "{origin}");
    let text = pulled("0412", "pos/checkout", at_noon, Output::Text).stdout;
    assert!(text.contains("opens      2026-12-01T05:00:00Z"), "{text}");

    // The evening before there is an exception for one store and one image.
    let friday = "2026-11-27T20:10:00Z";
    let hotfix = pulled("0412", "pos/checkout", friday, Output::Text);
    let by = "suspended  Freeze/black-friday-2026 by Override/hotfix-tax-0412";
    assert_eq!(hotfix.code, 0, "{}", hotfix.stdout);
    assert!(hotfix.stdout.contains(by) && !hotfix.stdout.contains("opens"), "{}", hotfix.stdout);
    assert_eq!(pulled("0412", "pos/pricing", friday, Output::Text).code, 1);
    let night = pulled("0412", "pos/checkout", "2026-12-02T01:00:00Z", Output::Json);
    assert_eq!(night.code, 0, "{}", night.stdout);
    let verdict = |store: &str, image: &str| {
        let image = format!("{image}@sha256:{}", "0".repeat(64));
        let answer = pulled(store, &image, friday, Output::Json);
        serde_json::from_str::<Value>(&answer.stdout).unwrap()["verdict"].clone()
    };
    assert_eq!(verdict("0412", "pos/checkout"), "Unknown");
    assert_eq!(verdict("3105", "registry.fjordmart.example/vision/faces"), "Prohibited");
    for wrong in ["nobody/knows", "pos/checkout@sha256:1"] {
        assert_eq!(pulled("0412", wrong, friday, Output::Text).code, 2, "{wrong}");
    }
}

#[test]
fn what_else_nearly_matched_is_told() {
    let shown = json(POLICY, &[], &["http://pay.example/old"]);
    assert_eq!(shown["because"], serde_json::json!(["host pay.example", "path prefix /old"]));
    assert_eq!(shown["rejected"][0]["because"], "it matches too, but less precisely");
    let other = json(POLICY, &[], &["http://pay.example/price"]);
    assert_eq!(other["rejected"][0]["because"], "not path prefix /old");
    assert!(other["rejected"][0]["origin"].as_str().unwrap().contains("store.yaml:"), "{other}");
}

const EGRESS: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: EgressPolicy
metadata: {name: tills}
spec:
  trafficPolicy: Deny
  rules:
    - name: updates
      destinations: [{hostnames: [updates.example], ports: [80, 443]}]
      trafficClass: image-pull
    - {name: rest, destinations: [{hostnames: [\"*.example\"], ports: [443]}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: Freeze
metadata: {name: peak}
spec:
  appliesTo: {egressRules: [updates]}
  from: \"2020-11-20T00:00:00\"
  until: \"2099-12-01T06:00:00\"
  timeZone: Store
  reason: the busy week
---
apiVersion: tillgate.dev/v1alpha1
kind: Listener
metadata: {name: tills-tls}
spec: {address: \"127.0.0.1:18443\", protocol: TLSPassthrough, trafficClass: payment}
";

fn through(policy: &str, via: Option<&str>, request: &[&str]) -> (Value, u8) {
    let answer = ask_by(policy, (via, &[]), (&[], request), Output::Json);
    let shown = serde_json::from_str(&answer.stdout);
    (shown.unwrap_or_else(|_| panic!("{}", answer.stderr)), answer.code)
}

#[test]
fn what_the_forward_proxy_decides_is_explained() {
    let policy = POLICY.to_owned() + EGRESS;
    let (held, code) = through(&policy, Some("forward-proxy"), &["http://updates.example/x"]);
    assert_eq!((&held["verdict"], code), (&"Held".into(), 0), "{held}");
    assert_eq!((&held["egressRule"], &held["line"]), (&"updates".into(), &"primary".into()));
    assert_eq!(held["because"], serde_json::json!(["host updates.example", "port 80"]));
    assert_eq!(held["gate"]["heldBy"][0], "Freeze/peak");
    assert_eq!(held["trafficClass"]["name"], "image-pull");
    let line = policy.lines().position(|one| one.contains("name: updates")).unwrap() + 1;
    assert!(held["origin"].as_str().unwrap().contains(&format!("store.yaml:{line}:")), "{held}");
    let rejected = &held["rejected"][0];
    assert_eq!((&rejected["rule"], &rejected["because"]), (&"rest".into(), &"not port 443".into()));
    // A client asks a proxy for an `https` URL by CONNECT.
    let (tunnel, _) = through(&policy, Some("forward-proxy"), &["https://a.example/x"]);
    let (asked, _) = through(&policy, None, &["CONNECT", "a.example:443"]);
    for part in ["request", "via", "destination", "verdict", "because"] {
        assert_eq!(tunnel[part], asked[part]);
    }
    assert_eq!((&tunnel["verdict"], &tunnel["egressRule"]), (&"Passes".into(), &"rest".into()));
    assert_eq!(tunnel["trafficClass"]["name"], "default");
    let (denied, code) = through(&policy, None, &["CONNECT", "a.example:22"]);
    assert_eq!((&denied["refused"], code), (&"egress_denied".into(), 1), "{denied}");
    assert_eq!(denied["rejected"][0]["rule"], "rest");
    // TLS that is passed on names no port.
    let (passed, _) = through(&policy, Some("tls-passthrough"), &["b.example"]);
    assert_eq!(
        (&passed["verdict"], &passed["destination"]["port"]),
        (&"Passes".into(), &443.into())
    );
    assert_eq!(
        (&passed["via"], &passed["trafficClass"]["name"]),
        (&"tills-tls".into(), &"payment".into())
    );
    let (named, _) = through(&policy, Some("tills-tls"), &["b.example"]);
    assert_eq!((&named["via"], &named["because"]), (&passed["via"], &passed["because"]));
    for (via, says) in [("nobody", "no listener is called"), ("admin", "no route and no rule")] {
        let answer = ask_by(&policy, (Some(via), &[]), (&[], &[URL]), Output::Json);
        assert!(answer.code == 2 && answer.stderr.contains(says), "{answer:?}");
    }
    let none = ask_by(POLICY, (Some("tls-passthrough"), &[]), (&[], &[URL]), Output::Json);
    assert!(none.stderr.contains("no listener passes TLS on"), "{none:?}");
}

#[test]
fn who_does_not_say_the_way_hears_of_the_forward_proxy() {
    let policy = POLICY.to_owned() + EGRESS;
    let asked = ["http://updates.example/x"];
    let (shown, code) = through(&policy, None, &asked);
    assert_eq!((&shown["refused"], code), (&"unknown_host".into(), 1), "{shown}");
    let there = &shown["forwardProxy"];
    assert_eq!((&there["verdict"], &there["egressRule"]), (&"Held".into(), &"updates".into()));
    let text = ask(&policy, &[], &asked, Output::Text).stdout;
    assert!(text.contains("held       EgressPolicy, rule updates ("), "{text}");
    for (policy, via) in [(&*policy, Some("http")), (POLICY, None)] {
        let (shown, _) = through(policy, via, &asked);
        assert!(shown["refused"] == "unknown_host" && shown["forwardProxy"].is_null(), "{shown}");
    }
}

#[test]
fn without_a_lookup_every_network_that_may_decide_is_told() {
    let networks = "    - {name: office, destinations: [{cidrs: [10.0.0.0/8]}], location: Local}\n";
    let policy = POLICY.to_owned()
        + &EGRESS.replace(
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze",
            &format!("{networks}---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze"),
        );
    let (shown, code) = through(&policy, None, &["CONNECT", "files.test:445"]);
    assert_eq!((&shown["verdict"], code), (&"ByAddress".into(), 0), "{shown}");
    let all = shown["byAddress"].as_array().unwrap();
    let told = |one: &Value| (one["addresses"][0].clone(), one["verdict"].clone());
    let expected = [("10.0.0.0/8", "Passes"), ("every other", "Denied")];
    assert_eq!(
        all.iter().map(told).collect::<Vec<_>>(),
        expected.map(|(a, b)| (a.into(), b.into()))
    );
    assert_eq!((&all[0]["egressRule"], &all[0]["line"]), (&"office".into(), &Value::Null));
    // An address needs none.
    let (there, _) = through(&policy, None, &["CONNECT", "10.1.2.3:445"]);
    assert_eq!((&there["verdict"], &there["egressRule"]), (&"Passes".into(), &"office".into()));
}

/// A listener that asks its clients for certificates.
const ASKING: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: Listener
metadata: {name: https}
spec:
  address: 127.0.0.1:8443
  protocol: HTTP
  tls:
    certificates: [{certFile: /etc/tillgate/pos.crt, keyFile: /etc/tillgate/pos.key}]
    clientCertificates: {mode: Optional, caFile: /etc/tillgate/tills-ca.crt}
";

#[test]
fn a_rule_for_a_certificate_is_met_by_its_name() {
    let policy = POLICY.replace(
        "    - name: moved\n",
        "    - name: till\n      \
         matches: [{clientCertificate: {san: \"DNS:*.tills.example\"}}]\n      \
         backendRefs: [{name: pricing-local}]\n    - name: moved\n",
    ) + ASKING;
    let rule = |names: &[&str]| {
        let answer = ask_by(&policy, (None, names), (&[], &[URL]), Output::Json);
        let shown: Value = serde_json::from_str(&answer.stdout).expect(&answer.stderr);
        shown["rule"].clone()
    };
    assert_eq!(rule(&[]), "all");
    assert_eq!(rule(&["URI:spiffe://store/till", "DNS:Till-7.tills.example"]), "till");
    assert_eq!(rule(&["DNS:till-7.other.example"]), "all");
    for wrong in ["till-7", "DNS:*.tills.example"] {
        let answer = ask_by(&policy, (None, &[wrong]), (&[], &[URL]), Output::Json);
        assert!(answer.code == 2 && answer.stderr.contains("`certificate`"), "{answer:?}");
    }
}

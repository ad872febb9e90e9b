//! Slices of real policies, as a sidecar takes them.

use std::path::PathBuf;

use tillgate_core::backend::Location;
use tillgate_core::filter::Action;
use tillgate_core::retry::Repeat;

use super::*;
use crate::load_text;

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
metadata: {name: local}
spec: {location: Local, protocol: HTTP, endpoints: [{fqdn: {hostname: prices.store, port: 9500}}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: cloud}
spec: {location: Cloud, protocol: HTTP, endpoints: [{ip: {address: 10.9.0.1, port: 9600}}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: beside}
spec: {location: Local, protocol: HTTP, endpoints: [{ip: {address: 127.0.0.1, port: 9700}}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: secret}
spec:
  location: Local
  protocol: HTTP2
  endpoints: [{ip: {address: 10.1.0.1, port: 9800}}]
  tls: {mode: Simple, sni: a.store, caFile: /tls/ca.pem}
---
apiVersion: tillgate.dev/v1alpha1
kind: ServiceRoute
metadata: {name: pricing}
spec:
  hostnames: [pay.example, \"*.pay.example\"]
  trafficClass: payment
  rules:
    - name: both
      timeouts: {request: 3s, backendRequest: 1s}
      idempotency: {header: Idempotency-Key, scope: AllBackends}
      retry: {attempts: 2, codes: [503], hedge: {}}
      backendRefs: [{name: local}, {name: cloud, fallback: true}]
    - name: far
      matches: [{path: {value: /far}}]
      timeouts: {request: 3s, backendRequest: 1s}
      backendRefs: [{name: cloud}]
    - name: changed
      matches: [{path: {value: /changed}, method: GET}]
      filters: {urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}
      backendRefs: [{name: local}, {name: cloud, fallback: true}]
    - name: near
      matches: [{path: {value: /near}}]
      filters: {urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}
      backendRefs: [{name: local}]
    - name: here
      matches: [{path: {value: /here}}]
      backendRefs: [{name: beside}]
    - name: grown
      matches: [{path: {value: /grown}}]
      backendRefs: [{name: secret}]
    - name: moved
      matches: [{path: {value: /old}}]
      filters: {requestRedirect: {scheme: https, statusCode: 301}}
";

fn beside(gateway: &str) -> Beside {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Beside {
        gateway: gateway.into(),
        ca_file: None,
        server_name: None,
        http: at(17080),
        forward_proxy: at(17128),
        admin: at(17020),
    }
}

fn taken(policy: &str, gateway: &str) -> Effective {
    let slice = load_text("p", policy).unwrap().for_sidecar();
    load(&slice.text, &beside(gateway)).unwrap_or_else(|report| panic!("{report}\n{}", slice.text))
}

/// The tiers of each rule, as names with their endpoints.
fn tiers(config: &Effective, rule: &str) -> Vec<Vec<String>> {
    let rule = config.routes.rules.iter().find(|one| &*one.name == rule).unwrap();
    let shown = |one: &tillgate_core::matching::BackendRef| {
        let backend = config.backend(one.backend);
        format!("{} {}", backend.name, backend.endpoints[0])
    };
    rule.tiers.iter().map(|tier| tier.iter().map(shown).collect()).collect()
}

#[test]
fn a_try_of_the_gateway_is_all_of_its_tries() {
    let config = taken(POLICY, "gateway.store");
    let both = config.routes.rules.iter().find(|one| &*one.name == "both").unwrap();
    assert!(both.timeouts.backend_request.is_some(), "servers of the store have no more time");
    let tries_itself =
        |name: &str| config.backends.iter().find(|one| &*one.name == name).unwrap().tries_itself;
    assert!(tries_itself("tillgate-gateway") && tries_itself("tillgate-gateway-http2"));
    assert!(!tries_itself("local") && !tries_itself("tillgate-gateway-proxy"));
}

#[test]
fn what_is_across_the_line_goes_through_the_gateway() {
    let config = taken(POLICY, "gateway.store");
    let (near, through) = ("local prices.store:9500", "tillgate-gateway gateway.store:8080");
    for (rule, expected) in [
        ("both", vec![vec![near], vec![through]]),
        ("far", vec![vec![through]]),
        // The gateway must see what it changes as the client wrote it.
        ("changed", vec![vec![through]]),
        ("near", vec![vec![near]]),
        // Another machine's loopback, and what needs a file of the gateway's.
        ("here", vec![vec![through]]),
        ("grown", vec![vec!["tillgate-gateway-http2 gateway.store:8080"]]),
        ("moved", vec![]),
    ] {
        assert_eq!(tiers(&config, rule), expected, "{rule}");
    }
    assert!(config.backends.iter().all(|one| one.location == Location::Local));
    let find = |name: &str| config.routes.rules.iter().find(|one| &*one.name == name).unwrap();
    let (both, far, changed) = (find("both"), find("far"), find("changed"));
    assert_eq!((both.retry.attempts, far.retry.attempts), (2, 0), "the gateway tries again");
    assert_eq!(far.timeouts.backend_request, None);
    assert!(changed.filters.is_empty() && !find("near").filters.is_empty());
    assert!(matches!(find("moved").action, Action::Redirect(_)));
    // What is followed here is what the gateway follows.
    let own = load_text("p", POLICY).unwrap();
    let theirs = own.routes.rules.iter().find(|one| *one.name == *both.name).unwrap();
    assert_eq!((&theirs.matches, &theirs.hosts), (&both.matches, &both.hosts));
    assert_eq!((&theirs.timeouts, &theirs.retry), (&both.timeouts, &both.retry));
    assert_eq!(theirs.failover, both.failover);
    let (local, there) = (&own.backends, &config.backends);
    let find = |all: &[tillgate_core::backend::BackendSpec]| {
        all.iter().find(|one| &*one.name == "local").unwrap().clone()
    };
    assert_eq!(find(local), find(there));
}

#[test]
fn a_key_that_one_backend_remembers_permits_nothing_where_one_stands_for_several() {
    let again = |policy: &str| {
        let config = taken(policy, "gateway.store");
        let rule = config.routes.rules.iter().find(|rule| &*rule.name == "both").unwrap();
        let key = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("idempotency-key"),
            http::HeaderValue::from_static("7"),
        )]);
        rule.retry.repeat(&http::Method::POST, &key)
    };
    assert_eq!(again(POLICY), Repeat::Anywhere);
    assert_eq!(again(&POLICY.replace("AllBackends", "Backend")), Repeat::Nowhere);
}

#[test]
fn what_windows_hold_is_held_by_the_gateway() {
    let frozen = format!(
        "{POLICY}---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze\n\
         metadata: {{name: peak}}\nspec:\n  \
         appliesTo: {{routes: [pricing/near]}}\n  from: \
         \"2026-11-20T00:00:00\"\n  until: \"2026-12-01T06:00:00\"\n  \
         timeZone: Store\n  reason: peak\n"
    );
    // What is critical cannot be held.
    let rule = "    - name: near\n";
    let frozen = frozen.replace(rule, &format!("{rule}      trafficClass: replication\n"));
    let config = taken(&frozen, "gateway.store");
    assert_eq!(tiers(&config, "near"), [["tillgate-gateway gateway.store:8080"]]);
    assert_eq!(tiers(&config, "both")[0], ["local prices.store:9500"]);
}

#[test]
fn on_the_gateways_machine_its_loopback_is_ours() {
    for gateway in ["127.0.0.1", "::1", "localhost"] {
        let config = taken(POLICY, gateway);
        assert_eq!(tiers(&config, "here"), [["beside 127.0.0.1:9700"]]);
    }
}

#[test]
fn tunnels_are_handed_to_the_gateway() {
    let config = taken(POLICY, "10.0.0.1");
    assert!(config.listeners.iter().all(|one| one.protocol != ListenerProtocol::ForwardProxy));
    let relay = config.listeners.iter().find(|one| &*one.name == RELAY).unwrap();
    let backend = config.backend(relay.backend.unwrap());
    assert_eq!(backend.endpoints[0].to_string(), "10.0.0.1:3128");
    assert_eq!((relay.address.port(), relay.protocol), (17128, ListenerProtocol::Tcp));
    assert!(config.egress.is_none() && config.mirror.is_none());
}

#[test]
fn a_sidecar_does_not_learn_where_the_servers_of_others_are() {
    let slice = load_text("p", POLICY).unwrap().for_sidecar();
    assert!(!slice.text.contains("10.9.0.1"), "{}", slice.text);
    let moved = POLICY.replace("10.9.0.1", "10.9.0.2");
    assert_eq!(load_text("p", &moved).unwrap().for_sidecar().digest, slice.digest);
}

#[test]
fn a_first_start_and_a_slice_that_is_none() {
    let beside = beside("gateway.store");
    let minimal = minimal(&beside).unwrap();
    assert!(minimal.routes.rules.is_empty());
    let names: Vec<&str> = minimal.listeners.iter().map(|one| &*one.name).collect();
    assert_eq!(names, ["http", "admin"]);
    for text in ["", "<html>", "{}", "[]", r#"{"store":"s","timeZone":"Mars/Base"}"#] {
        assert!(load(text, &beside).is_err(), "{text}");
    }
    let strange = r#"{"store":"s","timeZone":"UTC","classes":{"x":{"priority":1,"speed":9}}}"#;
    let report = load(strange, &beside).unwrap_err();
    assert!(report.errors[0].path.contains("TrafficClass/x"), "{report}");
}

/// Every policy that is shown or tested anywhere.
#[test]
fn every_policy_gives_a_slice_that_a_sidecar_takes() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut open = vec![root.join("examples"), root.join("../tests/policy")];
    let mut taken = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let Ok(config) = load_text(&path.display().to_string(), &text) else { continue };
            let slice = config.for_sidecar();
            for gateway in ["gateway.store", "127.0.0.1"] {
                if let Err(report) = load(&slice.text, &beside(gateway)) {
                    panic!("{}: {report}", path.display());
                }
            }
            taken += 1;
        }
    }
    assert!(taken >= 10, "only {taken} policies were found");
}

//! What `docker/` gives an operator: manifests that parse, whose policies compile, and whose
//! ports, probes and rights fit to what the policies say and the program needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tillgate_config::effective::ListenerProtocol;
use tillgate_config::{Effective, load_text, yaml};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker")
}

fn text(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn documents(file: &str) -> Vec<Value> {
    let (name, text): (Arc<str>, _) = (file.into(), text(file));
    let read = |chunk| yaml::typed(&name, chunk).unwrap_or_else(|finding| panic!("{finding:?}"));
    yaml::split(&text).into_iter().map(read).collect()
}

fn policy(file: &str, text: &str) -> Effective {
    load_text(file, text).unwrap_or_else(|report| panic!("{}", report.to_text()))
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The config map of this name, compiled.
fn policy_of(all: &[Value], name: &Value) -> Effective {
    let is_it = |document: &&Value| {
        document["kind"] == "ConfigMap" && document["metadata"]["name"] == *name
    };
    let map = all.iter().find(is_it).expect("the volume's config map is in the file");
    policy("store.yaml", at(map, "/data/store.yaml").as_str().expect("a text"))
}

fn check_pod(all: &[Value], pod: &Value) {
    assert_eq!(at(pod, "/securityContext/runAsNonRoot"), true);
    assert_eq!(at(pod, "/automountServiceAccountToken"), false);
    let effective = policy_of(all, at(pod, "/volumes/0/configMap/name"));
    let grace = at(pod, "/terminationGracePeriodSeconds").as_u64().expect("a number");
    assert!(grace > effective.process.drain_timeout.as_secs(), "it is killed while it drains");
    let containers = list(&pod["containers"]).iter().chain(list(&pod["initContainers"]));
    for container in containers.clone() {
        assert_eq!(at(container, "/securityContext/allowPrivilegeEscalation"), false);
        assert_eq!(at(container, "/securityContext/readOnlyRootFilesystem"), true);
        assert_eq!(list(at(container, "/securityContext/capabilities/drop")), ["ALL"]);
    }
    let gateway = containers.clone().find(|container| container["name"] == "gateway");
    check_gateway(gateway.expect("a gateway"), pod, &effective);
}

fn check_gateway(gateway: &Value, pod: &Value, effective: &Effective) {
    let mount = at(gateway, "/volumeMounts/0");
    assert_eq!(mount["name"], at(pod, "/volumes/0/name").clone());
    let args = list(&gateway["args"]);
    let path = format!("{}/store.yaml", mount["mountPath"].as_str().expect("a path"));
    assert!(args.windows(2).any(|two| two[0] == "--config" && two[1] == *path), "{args:?}");
    assert!(gateway.pointer("/resources/limits/memory").is_some());
    for port in list(&gateway["ports"]) {
        let name = port["name"].as_str().expect("a name");
        let listener = effective.listeners.iter().find(|spec| &*spec.name == name);
        let listener = listener.unwrap_or_else(|| panic!("no listener {name}"));
        assert_eq!(port["containerPort"], listener.address.port());
        assert!(listener.address.ip().is_unspecified(), "{name} is reached from outside");
        assert!(listener.address.port() > 1023, "{name} would need a right that it does not have");
    }
    for (probe, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]
    {
        let get = &gateway[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), &"admin".into()), "{probe}");
    }
    let admin = effective.listeners.iter().find(|spec| &*spec.name == "admin");
    assert_eq!(admin.expect("an admin listener").protocol, ListenerProtocol::Admin);
}

#[test]
fn manifests_fit_to_their_policies() {
    for file in ["kubernetes/gateway.yaml", "kubernetes/sidecar.yaml"] {
        let all = documents(file);
        for document in &all {
            for field in ["/apiVersion", "/kind", "/metadata/name"] {
                assert!(at(document, field).is_string(), "{file}: {field}");
            }
        }
        let pods: Vec<_> =
            all.iter().filter_map(|document| document.pointer("/spec/template/spec")).collect();
        assert_eq!(pods.len(), 1, "{file}");
        check_pod(&all, pods[0]);
    }
}

#[test]
fn a_budget_and_a_service_select_the_gateway() {
    let all = documents("kubernetes/gateway.yaml");
    let of = |kind: &str| all.iter().find(|document| document["kind"] == kind).expect("one");
    let labels = at(of("Deployment"), "/spec/template/metadata/labels");
    assert_eq!(at(of("Deployment"), "/spec/selector/matchLabels"), labels);
    assert_eq!(at(of("PodDisruptionBudget"), "/spec/selector/matchLabels"), labels);
    assert_eq!(at(of("Service"), "/spec/selector"), labels);
    assert_eq!(at(of("Deployment"), "/spec/replicas"), 1, "two would shape one line twice");
}

#[test]
fn the_demo_has_what_it_mounts_and_publishes() {
    let compose = documents("compose.yaml").remove(0);
    let effective = policy("store.yaml", &text("demo/policy/store.yaml"));
    for service in ["gateway", "pos"] {
        for mount in list(at(&compose, &format!("/services/{service}/volumes"))) {
            let path = mount.as_str().and_then(|mount| mount.split(':').next()).expect("a path");
            assert!(folder().join(path).exists(), "{path}");
        }
    }
    let mounts = list(at(&compose, "/services/gateway/volumes"));
    assert_eq!(mounts[0], "./demo/policy:/etc/tillgate:ro", "a folder: changes arrive");
    for port in list(at(&compose, "/services/gateway/ports")) {
        let inside = port.as_str().and_then(|port| port.rsplit(':').next()).expect("a port");
        let is_it = |spec: &&tillgate_config::effective::ListenerSpec| {
            spec.address.port().to_string() == inside && spec.address.ip().is_unspecified()
        };
        assert!(effective.listeners.iter().any(|spec| is_it(&spec)), "{inside}");
    }
    assert_eq!(list(at(&compose, "/services/gateway/cap_drop")), ["ALL"]);
}

#[test]
fn the_image_is_built_from_named_versions_and_runs_without_rights() {
    let file = text("Dockerfile");
    let rust = env!("CARGO_PKG_RUST_VERSION");
    let from: Vec<_> = file.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert_eq!(from, [&*format!("rust:{rust}-bookworm AS build"), "debian:12-slim"]);
    let user = file.lines().rfind(|line| line.starts_with("USER ")).expect("a user");
    assert!(!user.contains("root") && !user.contains(" 0"), "{user}");
    assert!(file.contains("--locked"), "what was tested is what is built");
}

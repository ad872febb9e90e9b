//! What `docker/` gives an operator: manifests that parse, whose policies compile, and whose
//! ports, probes and rights fit to what the policies say and the program needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tillgate_config::effective::ListenerProtocol;
use tillgate_config::{Effective, load_text, yaml};
use tillgate_core::tls::TrustAnchors;

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

/// What is true of every pod.
fn check_pod(file: &str, pod: &Value) {
    assert_eq!(at(pod, "/securityContext/runAsNonRoot"), true);
    assert_eq!(at(pod, "/automountServiceAccountToken"), false);
    let volumes: Vec<&Value> = list(&pod["volumes"]).iter().map(|one| &one["name"]).collect();
    for container in containers(pod) {
        assert_eq!(at(container, "/securityContext/allowPrivilegeEscalation"), false);
        assert_eq!(at(container, "/securityContext/readOnlyRootFilesystem"), true);
        assert_eq!(list(at(container, "/securityContext/capabilities/drop")), ["ALL"]);
        for mount in list(&container["volumeMounts"]) {
            assert!(volumes.contains(&&mount["name"]), "{file}: {mount}");
        }
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["containers"]).iter().chain(list(&pod["initContainers"]))
}

/// The container that runs the program, whose arguments it understands.
fn program<'a>(pod: &'a Value, name: &str) -> (&'a Value, Vec<String>) {
    let found = containers(pod).find(|container| container["name"] == name).expect("it is there");
    let args = list(&found["args"]).iter().map(|arg| arg.as_str().expect("a text").to_owned());
    let args: Vec<String> = args.collect();
    let all = ["tillgate".to_owned()].into_iter().chain(args.iter().cloned());
    tillgate::cli::understands(all.map(Into::into)).unwrap_or_else(|error| panic!("{error}"));
    assert!(found.pointer("/resources/limits/memory").is_some());
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
        let get = &found[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), &"admin".into()), "{probe}");
    }
    (found, args)
}

/// Where a mount of `container` that holds `path` comes from, and the path below it.
fn mounted<'a>(pod: &'a Value, container: &'a Value, path: &str) -> (&'a Value, String) {
    let is_above = |mount: &&Value| {
        path.starts_with(&format!("{}/", mount["mountPath"].as_str().expect("a path")))
            || mount["mountPath"] == *path
    };
    let mount = list(&container["volumeMounts"]).iter().find(is_above);
    let mount = mount.unwrap_or_else(|| panic!("nothing is mounted for {path}"));
    let volume = list(&pod["volumes"]).iter().find(|one| one["name"] == mount["name"]);
    let below = path.strip_prefix(mount["mountPath"].as_str().expect("a path"));
    (volume.expect("it is there"), below.expect("it is above").trim_start_matches('/').to_owned())
}

#[test]
fn the_gateway_fits_to_its_policy() {
    let all = documents("kubernetes/gateway.yaml");
    let pod = pod(&all);
    check_pod("gateway.yaml", pod);
    let effective = policy_of(&all, at(pod, "/volumes/0/configMap/name"));
    let grace = at(pod, "/terminationGracePeriodSeconds").as_u64().expect("a number");
    assert!(grace > effective.process.drain_timeout.as_secs(), "it is killed while it drains");
    let (gateway, args) = program(pod, "gateway");
    assert_eq!(at(gateway, "/startupProbe/httpGet/path"), "/readyz");
    let file = args.windows(2).find(|two| two[0] == "--config").expect("a policy")[1].clone();
    let (volume, name) = mounted(pod, gateway, &file);
    assert_eq!((&volume["name"], &*name), (&"policy".into(), "store.yaml"));
    let endpoint = effective.config_endpoint().expect("sidecars ask somewhere");
    let pair = &endpoint.listener.tls.as_ref().expect("always").certificates[0];
    let tokens = endpoint.tokens.iter().map(|token| &token.file);
    for file in [&pair.cert_file, &pair.key_file].into_iter().chain(tokens) {
        let (volume, _) = mounted(pod, gateway, &file.display().to_string());
        assert!(volume["secret"].is_object(), "{}", file.display());
    }
    let authority = endpoint.enrolment.directory.as_ref().expect("sidecars are enrolled");
    for kept in [&endpoint.audit_directory, authority] {
        let kept = kept.display().to_string();
        assert!(mounted(pod, gateway, &kept).0["persistentVolumeClaim"].is_object(), "{kept}");
    }
    // What the API server is asked with: its authority, and the gateway's own token for it.
    let accounts = endpoint.enrolment.service_accounts.as_ref().expect("those of pods");
    let keys = accounts.jwks_url.as_ref().expect("keys are fetched");
    let TrustAnchors::File(ca) = &keys.roots else { panic!("a cluster has its own authority") };
    let (volume, file) = mounted(pod, gateway, &ca.display().to_string());
    assert_eq!(projected(volume, "configMap", &file)["name"], "kube-root-ca.crt");
    let token = keys.token_file.as_ref().expect("a token").display().to_string();
    let (volume, file) = mounted(pod, gateway, &token);
    let token = projected(volume, "serviceAccountToken", &file);
    assert!(token["audience"].is_null(), "the API server is its own audience");
    let all: Vec<_> = effective.listeners.iter().chain([&endpoint.listener]).collect();
    for port in list(&gateway["ports"]) {
        let name = port["name"].as_str().expect("a name");
        let listener = all.iter().find(|spec| &*spec.name == name);
        let listener = listener.unwrap_or_else(|| panic!("no listener {name}"));
        assert_eq!(port["containerPort"], listener.address.port());
        assert!(listener.address.ip().is_unspecified(), "{name} is reached from outside");
        assert!(listener.address.port() > 1023, "{name} would need a right that it does not have");
    }
    let admin = effective.listeners.iter().find(|spec| &*spec.name == "admin");
    assert_eq!(admin.expect("an admin listener").protocol, ListenerProtocol::Admin);
}

#[test]
fn the_sidecar_fits_to_its_gateway() {
    let all = documents("kubernetes/sidecar.yaml");
    let pod = pod(&all);
    check_pod("sidecar.yaml", pod);
    let (sidecar, args) = program(pod, "tillgate");
    assert_eq!(args[0], "sidecar");
    assert_eq!(sidecar["restartPolicy"], "Always", "a sidecar, not a step before the start");
    assert_eq!(at(sidecar, "/startupProbe/httpGet/path"), "/startupz");
    let flag = |name: &str| {
        let text = args.iter().find_map(|arg| arg.strip_prefix(&format!("--{name}=")));
        text.unwrap_or_else(|| panic!("no --{name}")).to_owned()
    };
    // The authority from a config map, the token from the kubelet, room for slices on disk.
    let (volume, file) = mounted(pod, sidecar, &flag("ca"));
    projected(volume, "configMap", &file);
    let (volume, file) = mounted(pod, sidecar, &flag("enrol-token-file"));
    let token = projected(volume, "serviceAccountToken", &file);
    assert!(mounted(pod, sidecar, &flag("state")).0["emptyDir"].is_object());
    let admin: std::net::SocketAddr = flag("admin").parse().expect("an address");
    assert!(admin.ip().is_unspecified(), "probes come from the node");
    assert_eq!(at(sidecar, "/ports/0/containerPort"), admin.port());

    // The gateway has the address that is asked, and knows the token's audience and account.
    let of = documents("kubernetes/gateway.yaml");
    let effective = policy_of(&of, &"tillgate-store".into());
    let endpoint = effective.config_endpoint().expect("an endpoint");
    let service = of.iter().find(|document| document["kind"] == "Service").expect("one");
    let (name, space) = (at(service, "/metadata/name"), at(service, "/metadata/namespace"));
    let (name, space) = (name.as_str().expect("a text"), space.as_str().expect("a text"));
    let port = endpoint.listener.address.port();
    assert_eq!(flag("config-from"), format!("https://{name}.{space}.svc:{port}"));
    let is_open =
        |wanted: u16| list(at(service, "/spec/ports")).iter().any(|one| one["port"] == wanted);
    assert!(effective.listeners.iter().all(|spec| is_open(spec.address.port())) && is_open(port));
    let accounts = endpoint.enrolment.service_accounts.as_ref().expect("those of pods");
    assert_eq!(token["audience"], *accounts.audience);
    let is_it = |document: &&Value| {
        document["kind"] == "ServiceAccount"
            && at(document, "/metadata/name") == at(pod, "/serviceAccountName")
    };
    let own = at(all.iter().find(is_it).expect("the account is in the file"), "/metadata");
    let text = |field: &str| own[field].as_str().expect("a text");
    let name = format!("{}/{}", text("namespace"), text("name"));
    assert!(accounts.workload_of(&name).is_some() && !accounts.accounts.is_empty(), "{name}");
}

/// What of this kind a projected volume puts into `file`.
fn projected<'a>(volume: &'a Value, kind: &str, file: &str) -> &'a Value {
    let puts = |source: &&Value| {
        source["path"] == *file || list(&source["items"]).iter().any(|item| item["path"] == *file)
    };
    let sources = list(at(volume, "/projected/sources")).iter();
    sources.filter_map(|one| one.get(kind)).find(puts).unwrap_or_else(|| panic!("{kind}: {file}"))
}

/// The pod of the one deployment in a file, all of whose documents have names.
fn pod(all: &[Value]) -> &Value {
    for document in all {
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            assert!(at(document, field).is_string(), "{field}");
        }
    }
    let mut pods = all.iter().filter_map(|document| document.pointer("/spec/template/spec"));
    let (Some(pod), None) = (pods.next(), pods.next()) else { panic!("not one pod") };
    pod
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
    assert!(file.contains("bench/pgo"), "it is built as it is measured");
    let build = text("../bench/pgo");
    assert!(build.contains("--locked"), "what was tested is what is built");
}

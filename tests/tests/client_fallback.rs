//! Real clients whose mirror holds an image: they fall back to the registry itself, and the gateway
//! does not let them through; with `allowDirect` it does.
//!
//! skopeo, podman and containerd (`ctr`) come from the distribution, so this is a command of its
//! own: `cargo test -p tillgate-tests --test client_fallback -- --ignored --nocapture`. A client
//! that is not installed is SKIPPED aloud; where `CI` is set that is a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was found is said aloud")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tillgate_config::effective::Effective;
use tillgate_net::upstream::Resolver;
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::mirror::freeze;
use tillgate_tests::registry::{Registry, Twist};

/// The registry's name; only the gateway can look it up.
const HOST: &str = "registry.example";

/// In the registry.
const REPOSITORY: &str = "pos/checkout";

/// A registry with one image, a gateway in front of it, and a folder.
struct Store {
    registry: Registry,
    digest: String,
    folder: TempDir,
}

impl Store {
    fn new() -> Self {
        let registry = Registry::start();
        registry.twist(|request, _| {
            if request.line.starts_with("GET /v2/ ") {
                return Twist::Say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned());
            }
            Twist::Honest
        });
        // An archive without a file: it ends at once, and zeros follow.
        let layer = vec![0; 200_000];
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},
                 "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            registry.blob(&layer)
        );
        let part = |kind: &str, content: &[u8]| {
            let (digest, size) = (registry.blob(content), content.len());
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}",
                     "digest":"{digest}","size":{size}}}"#
            )
        };
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
                 "config":{},"layers":[{}]}}"#,
            part("config.v1+json", config.as_bytes()),
            part("layer.v1.tar", &layer)
        );
        let digest = registry.manifest(REPOSITORY, "47", &body);
        Self { registry, digest, folder: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A gateway that mirrors the registry; its release is frozen.
    fn gateway(&self, fields: &str) -> Gateway {
        let at = self.registry.address;
        let text = format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\n\
             spec:\n  timeZone: Etc/UTC\n  links:\n    \
             - {{name: primary, capacity: {{up: 50Mbit/s, down: 200Mbit/s}}}}\n\
             ---\napiVersion: tillgate.dev/v1alpha1\nkind: RegistryMirror\n\
             metadata: {{name: images}}\nspec:\n  address: 127.0.0.1:5000\n  registries:\n    \
             - {{host: '{HOST}:{}', url: 'http://{at}', location: Local{fields}}}\n  \
             cache: {{directory: {}, size: 1Gi, minFree: 1Mi}}\n\
             ---\napiVersion: tillgate.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: pos}}\n\
             spec:\n  artifacts: [{{registry: '{HOST}:{}', repositories: ['pos/**']}}]\n  \
             trafficClass: image-pull\n  release: {{name: pos-47, \
             images: [{{repository: {REPOSITORY}, digest: '{}'}}]}}\n  \
             whenHeld: {{action: Hold, retryAfter: 1s}}\n  \
             rings: [{{name: broad, storeSelector: {{}}}}]\n  promotion: {{mode: Manual}}\n  \
             releasedThrough: broad\n{}",
            at.port(),
            self.path("images").display(),
            at.port(),
            self.digest,
            freeze(3600)
        );
        let effective = tillgate_config::load_text("store.yaml", &text);
        let mut effective: Effective = effective.map_err(|report| report.to_text()).unwrap();
        for spec in &mut effective.listeners {
            spec.address.set_port(0);
        }
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let lookup = Resolver::new(Box::new(move |_| Box::pin(async move { Ok(vec![here]) })));
        Gateway::start_resolving(effective, Arc::new(lookup))
    }

    /// What the clients call the image. The port is that of the registry, so that they reach it
    /// when they may.
    fn image(&self) -> String {
        format!("{HOST}:{}/{REPOSITORY}", self.registry.address.port())
    }

    /// For podman and skopeo: the mirror first, then the registry.
    fn registries_conf(&self, gateway: &Gateway) -> PathBuf {
        let file = self.path("registries.conf");
        let registry = format!("{HOST}:{}", self.registry.address.port());
        let text = format!(
            "[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\ninsecure = true\n\n\
             [[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
            gateway.listeners["registry-mirror"]
        );
        fs::write(&file, text).unwrap();
        file
    }
}

/// Through the gateway, as everything in the store goes.
fn proxied(command: &mut Command, gateway: &Gateway, home: &Path) {
    let proxy = format!("http://{}", gateway.forward);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        command.env(name, &proxy);
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    command.env("HOME", home).env("XDG_RUNTIME_DIR", home).stdin(Stdio::null());
}

/// A client pulls the image, or tells why not.
type Pull = fn(&Store, &Gateway) -> Output;

fn skopeo(store: &Store, gateway: &Gateway) -> Output {
    let mut command = Command::new("skopeo");
    proxied(&mut command, gateway, store.folder.path());
    command.arg("--registries-conf").arg(store.registries_conf(gateway));
    command.args(["--insecure-policy", "copy", "--retry-times=0"]);
    command.arg(format!("docker://{}:47", store.image()));
    command.arg(format!("dir:{}", store.path("skopeo").display()));
    command.output().unwrap()
}

fn podman(store: &Store, gateway: &Gateway) -> Output {
    let mut command = Command::new("podman");
    proxied(&mut command, gateway, store.folder.path());
    command.env("CONTAINERS_REGISTRIES_CONF", store.registries_conf(gateway));
    let policy = store.path("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    command.arg("--root").arg(store.path("podman"));
    command.arg("--runroot").arg(store.path("podman-run"));
    command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
    command.args(["pull", "--signature-policy"]).arg(policy);
    command.arg(format!("{}:47", store.image()));
    command.output().unwrap()
}

/// containerd, for as long as this lives.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn containerd(store: &Store, gateway: &Gateway) -> Output {
    let socket = store.path("containerd.sock");
    let config = store.path("containerd.toml");
    fs::write(
        &config,
        format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
            store.path("containerd").display(),
            store.path("containerd-state").display(),
            socket.display()
        ),
    )
    .unwrap();
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&config).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _daemon = Daemon(command.spawn().unwrap());
    let ctr = || {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&socket);
        command
    };
    eventually("containerd answers", || {
        ctr().arg("version").output().is_ok_and(|said| said.status.success()).then_some(())
    });
    let registry = format!("{HOST}:{}", store.registry.address.port());
    let folder = store.path("hosts").join(&registry);
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join("hosts.toml"),
        format!(
            "server = \"http://{registry}\"\n\n[host.\"http://{}\"]\n  \
             capabilities = [\"pull\", \"resolve\"]\n",
            gateway.listeners["registry-mirror"]
        ),
    )
    .unwrap();
    let mut command = ctr();
    proxied(&mut command, gateway, store.folder.path());
    command.args(["content", "fetch", "--hosts-dir"]).arg(store.path("hosts"));
    command.arg(format!("{}:47", store.image()));
    command.output().unwrap()
}

/// Whether a client can be played, said aloud if not.
fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success());
    if !here {
        tillgate_tests::skipped(&format!("{program} is not installed"));
    }
    here
}

fn told(output: &Output) -> String {
    [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat()
}

fn falls_back(program: &str, pull: Pull) {
    if !is_here(program) {
        return;
    }
    let store = Store::new();
    let gateway = store.gateway("");
    let refused = pull(&store, &gateway);
    assert!(!refused.status.success(), "{}", told(&refused));
    let failures = |reason: &str| {
        let text = gateway.admin("/metrics").text();
        let of = |line: &&str| line.contains(&format!("reason=\"{reason}\""));
        let counts = text.lines().filter(of).filter_map(|line| line.rsplit_once(' '));
        counts.map(|(_, count)| count.parse::<f64>().unwrap()).sum::<f64>()
    };
    let held = failures("pull_held");
    assert!(held >= 1.0, "it asked the mirror first: {}", told(&refused));
    assert!(failures("registry_reserved") >= 1.0, "then the registry: {}", told(&refused));
    // The gateway looks up what the tag stands for; nobody gets further.
    assert!(store.registry.asked("/blobs/").is_empty(), "nothing of the image came");
    drop(gateway);
    let gateway = store.gateway(", allowDirect: true");
    let pulled = pull(&store, &gateway);
    assert!(pulled.status.success(), "with allowDirect it may: {}", told(&pulled));
    assert!(store.registry.body_bytes() > 100_000, "past the mirror, which holds it");
    println!("{program}: held {held} times, fell back, was refused; let through with allowDirect");
}

#[test]
#[ignore = "needs a client of the distribution; it has a command of its own"]
fn skopeo_does_not_get_past_a_held_mirror() {
    falls_back("skopeo", skopeo);
}

#[test]
#[ignore = "needs a client of the distribution; it has a command of its own"]
fn podman_does_not_get_past_a_held_mirror() {
    falls_back("podman", podman);
}

#[test]
#[ignore = "needs a client of the distribution; it has a command of its own"]
fn containerd_does_not_get_past_a_held_mirror() {
    falls_back("containerd", containerd);
}

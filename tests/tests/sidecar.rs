//! A proxy beside a workload: it runs what its gateway says, keeps it, says so, goes on without
//! the gateway, and never opens a connection across the line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;
use tillgate_config::effective::{Effective, ListenerProtocol};
use tillgate_config::load_text;
use tillgate_core::backend::{BackendSpec, Host, Location};
use tillgate_tests::endpoint::{self, Caller, NAME, Wanted, write_secret};
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::program::{Program, get};
use tillgate_tests::tls::{self, Authority, Wants};
use tillgate_tests::wire::Wire;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const SIDECAR: &str = "sidecar-0123456789abcdef0123456789";
const VIEWER: &str = "viewer-0123456789abcdef01234567890";

/// Where the server across the line is, as far as the language knows.
const FAR_AWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)), 9000);

/// A gateway whose ports stay the same when it comes back, and what is around it.
struct Site {
    folder: TempDir,
    near: Origin,
    far: Far,
    config: Arc<ClientConfig>,
    /// HTTP entry, forward proxy, config endpoint.
    ports: [u16; 3],
}

/// A server across the line, which knows who connects.
struct Far {
    origin: Origin,
    /// Connections that were not opened by this process, where the gateway is.
    by_others: Arc<AtomicUsize>,
}

impl Far {
    fn start() -> Self {
        let by_others = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&by_others);
        let origin = Origin::start(move |mut wire, _| {
            let own = inodes("self");
            // Of one that is closed meanwhile nobody can tell whose it was.
            let others = table("self").into_iter().any(|(local, remote, inode)| {
                (local, remote) == (wire.peer(), wire.local())
                    && inode != "0"
                    && !own.contains(&inode)
            });
            if others {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            while wire.waits_for_more() {
                wire.reply();
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfar");
            }
        });
        Self { origin, by_others }
    }
}

/// The sockets that a process has open.
fn inodes(process: &str) -> BTreeSet<String> {
    fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect()
}

/// Both ends of every TCP connection that a process could see, and its socket.
fn table(process: &str) -> Vec<(SocketAddr, SocketAddr, String)> {
    let address = |text: &str| {
        let (ip, port) = text.split_once(':').unwrap();
        let ip = u32::from_str_radix(ip, 16).unwrap().swap_bytes();
        SocketAddr::from((Ipv4Addr::from(ip), u16::from_str_radix(port, 16).unwrap()))
    };
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // A state of 0A is a listener.
    lines
        .filter(|line| line[3] != "0A")
        .map(|line| (address(line[1]), address(line[2]), line[9].to_owned()))
        .collect()
}

/// Both ends of the TCP connections of a process.
fn sockets(process: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let own = inodes(process);
    let all = table(process).into_iter().filter(|(_, _, inode)| own.contains(inode));
    all.map(|(local, remote, _)| (local, remote)).collect()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Site {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let authority = Authority::default();
        let identity = authority.issue(&[NAME, "127.0.0.1"]);
        let files =
            [("ca.crt", &authority.pem), ("tls.crt", &identity.chain), ("tls.key", &identity.key)];
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        write_secret(&folder.path().join("pos-1"), SIDECAR);
        write_secret(&folder.path().join("viewer"), VIEWER);
        Self {
            folder,
            near: Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnear"),
            far: Far::start(),
            config: tls::client(&authority, &Wants::default()),
            ports: [nobody(), nobody(), nobody()].map(|address| address.port()),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A server in the store and one across the line, by `names`.
    fn store(&self, names: [&str; 2]) -> Effective {
        self.store_and(names, "", self.far.origin.address)
    }

    /// The same and `more` documents; all that is across the line is at `far`.
    fn store_and(&self, names: [&str; 2], more: &str, far: SocketAddr) -> Effective {
        let tokens = &[("pos-1", "sidecar"), ("viewer", "viewer")];
        let wanted = Wanted { auth: "Token", has_ca: false, tokens, hooks: &[], down: "20Mbit/s" };
        let [http, forward, endpoint] = self.ports;
        let mut text = endpoint::policy(|name| self.path(name), &wanted);
        text = text.replace("listen: 127.0.0.1:0", &format!("listen: 127.0.0.1:{endpoint}"));
        let head = "---\napiVersion: tillgate.dev/v1alpha1\nkind: ";
        let servers = [("near", "Local", self.near.address), ("far", "Cloud", FAR_AWAY)];
        for ((name, location, at), host) in servers.into_iter().zip(names) {
            text.push_str(&format!(
                "{head}Backend\nmetadata: {{name: {name}}}\nspec: {{location: {location}, protocol: \
                 HTTP, endpoints: [{{ip: {{address: {}, port: {}}}}}]}}\n{head}ServiceRoute\n\
                 metadata: {{name: {name}}}\nspec:\n  hostnames: [{host}]\n  trafficClass: \
                 payment\n  rules: [{{name: all, backendRefs: [{{name: {name}}}]}}]\n",
                at.ip(),
                at.port()
            ));
        }
        let mut effective = load_text("store.yaml", &(text + more)).unwrap();
        // The language knows that loopback is not across a line.
        let across = |one: &&mut BackendSpec| one.location == Location::Cloud;
        for spec in effective.backends.iter_mut().filter(across) {
            spec.endpoints[0].host = Host::Ip(far.ip());
            spec.endpoints[0].port = far.port();
        }
        effective
            .with_listener(ListenerProtocol::Http, loopback(http))
            .with_listener(ListenerProtocol::ForwardProxy, loopback(forward))
            .with_listener(ListenerProtocol::Admin, loopback(0))
    }

    fn gateway(&self) -> Gateway {
        Gateway::start(self.store(["near.example", "far.example"]))
    }

    fn sidecar(&self) -> Program {
        let from = format!("https://127.0.0.1:{}", self.ports[2]);
        let (ca, token, state) = (self.path("ca.crt"), self.path("pos-1"), self.path("state"));
        let arguments = [
            ["--config-from", &from],
            ["--ca", &ca],
            ["--server-name", NAME],
            ["--token-file", &token],
            ["--id", "pos-1"],
            ["--workload", "pos/checkout"],
            ["--state", &state],
        ];
        Program::start_sidecar(PROGRAM, arguments.as_flattened())
    }

    /// What the gateway thinks of the one sidecar there is.
    fn instance(&self) -> Value {
        let address = loopback(self.ports[2]);
        let caller = Caller { config: Arc::clone(&self.config), address };
        let bearer = format!("Authorization: Bearer {VIEWER}\r\n");
        let all = caller.ask("GET", "/v1/instances", &bearer, "");
        let all: Value = serde_json::from_slice(&all.body).unwrap();
        let mut one = all["instances"][0].clone();
        one["wanted"] = all["digest"].clone();
        one
    }

    #[track_caller]
    fn instance_is(&self, state: &str) -> Value {
        eventually(&format!("the gateway knows that the sidecar is {state}"), || {
            let one = self.instance();
            (one["state"] == state).then_some(one)
        })
    }
}

#[track_caller]
fn answers(sidecar: &Program, host: &str, text: &str) {
    let reply = get(sidecar.address("http"), host);
    assert_eq!((reply.status, reply.text().as_str()), (200, text), "{host}");
}

#[test]
fn a_sidecar_runs_what_its_gateway_says_and_nothing_across_the_line() {
    let site = Site::new();
    let gateway = site.gateway();
    let sidecar = site.sidecar();
    answers(&sidecar, "near.example", "near");
    let by_gateway =
        gateway.metric("tillgate_requests_total{class=\"payment\",route=\"near\",code=\"200\"}");
    assert_eq!(by_gateway, 0.0, "servers of the store are asked directly");
    answers(&sidecar, "far.example", "far");
    gateway.expect_metric(
        "tillgate_requests_total{class=\"payment\",route=\"far\",code=\"200\"}",
        1.0,
    );
    // A tunnel is the gateway's to open.
    let mut wire = Wire::connect(sidecar.address("gateway-proxy"));
    let target = site.far.origin.address;
    wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    assert_eq!(wire.head().status, 200);
    wire.send("GET / HTTP/1.1\r\nHost: far\r\nConnection: close\r\n\r\n");
    assert_eq!(wire.reply().text(), "far");
    // It says what it runs, and that is what it should.
    let one = site.instance_is("in_sync");
    assert_eq!((&one["id"], &one["workload"]), (&"pos-1".into(), &"pos/checkout".into()));
    assert_eq!(one["activeDigest"], one["wanted"]);
    // Another config reaches it without being asked for twice.
    gateway.control.reload(site.store(["near.example", "moved.example"])).unwrap();
    eventually("the new route is there", || {
        (get(sidecar.address("http"), "moved.example").status == 200).then_some(())
    });
    assert_eq!(get(sidecar.address("http"), "far.example").status, 404);
    site.instance_is("in_sync");

    assert_eq!(site.far.by_others.load(Ordering::SeqCst), 0, "somebody else crosses the line");
    assert!(site.far.origin.connections() > 0);
    let allowed: BTreeSet<u16> = site.ports.into_iter().chain([site.near.address.port()]).collect();
    let own = ["http", "gateway-proxy", "admin"].map(|name| sidecar.address(name).port());
    for (local, remote) in sockets(&sidecar.id().to_string()) {
        let is_client = own.contains(&local.port());
        assert!(is_client || allowed.contains(&remote.port()), "{local} -> {remote}");
    }
}

/// A rule whose server in the store is gone, so that the gateway tries the one across the line.
const BOTH: &str = "---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {name: gone}
spec: {location: Local, protocol: HTTP, endpoints: [{ip: {address: 127.0.0.1, port: GONE}}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: ServiceRoute
metadata: {name: both}
spec:
  hostnames: [both.example]
  trafficClass: payment
  rules:
    - name: all
      timeouts: {request: 40s, backendRequest: 5s}
      retry: {attempts: 3}
      backendRefs: [{name: gone}, {name: far, fallback: true}]
";

#[test]
fn the_time_of_one_try_does_not_end_those_of_the_gateway() {
    let site = Site::new();
    // It is silent twice, and answers the third time that it is asked.
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let moody = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            let request = wire.reply();
            if request.line.starts_with("HEAD") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            } else if counted.fetch_add(1, Ordering::SeqCst) >= 2 {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthird");
            } else {
                wire.waits_for_more();
            }
        }
    });
    let more = BOTH.replace("GONE", &nobody().port().to_string());
    let names = ["near.example", "far.example"];
    let gateway = Gateway::start(site.store_and(names, &more, moody.address));
    let sidecar = site.sidecar();
    answers(&sidecar, "near.example", "near");
    assert_eq!(get(sidecar.address("http"), "both.example").text(), "third");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let metrics = gateway.admin("/metrics").text();
    let is_it = |line: &&str| {
        line.starts_with("tillgate_requests_total") && line.contains("route=\"both\"")
    };
    let lines: Vec<&str> = metrics.lines().filter(is_it).collect();
    let [line] = lines[..] else { panic!("it was asked more than once: {lines:?}") };
    assert!(line.contains("code=\"200\"") && line.ends_with(" 1"), "{line}");
}

#[test]
fn a_sidecar_starts_and_serves_without_its_gateway() {
    let site = Site::new();
    let gateway = site.gateway();
    let mut sidecar = site.sidecar();
    answers(&sidecar, "near.example", "near");
    site.instance_is("in_sync");
    drop(gateway);
    answers(&sidecar, "near.example", "near");
    sidecar.kill();

    let sidecar = site.sidecar();
    answers(&sidecar, "near.example", "near");
    let far = get(sidecar.address("http"), "far.example");
    assert!((502..=504).contains(&far.status), "{}", far.text());
    assert_eq!(site.far.by_others.load(Ordering::SeqCst), 0, "it went across the line by itself");
    eventually("it says that nobody answers", || {
        let status: Value = serde_json::from_str(&sidecar.status()).unwrap();
        let asking = status["policy"]["sidecar"]["asking"].as_str().unwrap_or_default();
        asking.contains("cannot be reached").then_some(())
    });

    // It comes back with something else.
    let changed = site.store(["near.example", "moved.example"]);
    let _gateway = Gateway::start(changed);
    eventually("the sidecar follows again", || {
        (get(sidecar.address("http"), "moved.example").status == 200).then_some(())
    });
    site.instance_is("in_sync");
}

#[test]
fn what_cannot_be_taken_is_refused_and_what_ran_stays() {
    let site = Site::new();
    let gateway = site.gateway();
    let sidecar = site.sidecar();
    let active = site.instance_is("in_sync")["activeDigest"].clone();
    // A name that no policy could have: of a version that this one does not know, say.
    let mut strange = site.store(["near.example", "far.example"]);
    strange.routes.rules[0].name = "no name".into();
    gateway.control.reload(strange.with_workers(2)).unwrap();
    let one = site.instance_is("nacked");
    assert_eq!(one["activeDigest"], active, "what ran stays");
    assert_eq!(one["error"]["code"], "INVALID_CONFIG");
    assert!(one["error"]["path"].as_str().unwrap().contains("ServiceRoute/"), "{one}");
    assert_eq!(one["refusedDigest"], one["wanted"]);
    answers(&sidecar, "near.example", "near");
    // What can be taken is taken.
    gateway.control.reload(site.store(["near.example", "far.example"])).unwrap();
    assert_eq!(site.instance_is("in_sync")["activeDigest"], active);
}

#[test]
fn a_first_start_without_a_gateway_answers_probes() {
    let site = Site::new();
    let sidecar = site.sidecar();
    let admin = sidecar.address("admin");
    eventually("it is ready with nothing", || {
        let mut wire = Wire::connect(admin);
        wire.send("GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        (wire.reply().status == 200).then_some(())
    });
    assert_eq!(get(sidecar.address("http"), "near.example").status, 404);
    let _gateway = site.gateway();
    eventually("the gateway has come", || {
        (get(sidecar.address("http"), "near.example").status == 200).then_some(())
    });
}

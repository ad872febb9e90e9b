//! The program as a process: its arguments, its log, its signals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tillgate_tests::origin::Origin;
use tillgate_tests::wire::{Reply, Wire};
use tillgate_tests::{PATIENCE, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

/// A running `tillgate gateway` with a policy file of its own.
struct Process {
    child: Child,
    policy: PathBuf,
    log: Arc<Mutex<String>>,
}

impl Process {
    fn start(name: &str, policy: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tillgate-{}-{name}.yaml", std::process::id()));
        fs::write(&path, policy).expect("the temporary folder can be written");
        let mut child = Command::new(PROGRAM)
            .args(["gateway", "--workers", "2", "--access-log", "--config"])
            .arg(&path)
            .args(["--http", "127.0.0.1:0", "--forward-proxy", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = written.lock().expect("no panic while writing");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, policy: path, log }
    }

    fn log(&self) -> String {
        self.log.lock().expect("no panic while writing").clone()
    }

    /// Waits for a line with all of `parts`; returns it.
    #[track_caller]
    fn line(&self, parts: &[&str]) -> String {
        eventually(&format!("a line with {parts:?} in\n{}", self.log()), || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(String::from)
        })
    }

    /// Where a listener is, from the log.
    fn address(&self, name: &str) -> SocketAddr {
        let line = self.line(&["listening", &format!("name=\"{name}\"")]);
        let rest = line.split("address=").nth(1).expect("an address");
        rest.split(' ').next().expect("a word").parse().expect("an address")
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill is there").success());
    }

    fn get(&self, host: &str) -> Reply {
        let mut wire = Wire::connect(self.address("http"));
        wire.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        wire.reply()
    }

    /// Waits for its end; whether it was a success.
    #[track_caller]
    fn ended(&mut self) -> bool {
        eventually("the process ends", || self.child.try_wait().expect("ours")).success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.policy);
    }
}

fn policy(host: &str, origin: SocketAddr) -> String {
    format!(
        "apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {{name: store-0412}}
spec:
  timeZone: Europe/Oslo
  links:
    - {{name: primary, capacity: {{up: 5Mbit/s, down: 20Mbit/s}}}}
---
apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {{name: api}}
spec:
  location: Local
  protocol: HTTP
  endpoints:
    - ip: {{address: {}, port: {}}}
---
apiVersion: tillgate.dev/v1alpha1
kind: ServiceRoute
metadata: {{name: api}}
spec:
  hostnames: [{host}]
  trafficClass: payment
  rules:
    - name: all
      backendRefs: [{{name: api}}]
",
        origin.ip(),
        origin.port()
    )
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_hangup_reloads_and_a_bad_file_changes_nothing() {
    let origin = Origin::answering(OK);
    let mut process = Process::start("reload", &policy("one.example", origin.address));
    assert_eq!(process.get("one.example").status, 200);
    assert_eq!(process.get("two.example").status, 404);

    fs::write(&process.policy, policy("two.example", origin.address)).expect("written");
    process.signal("HUP");
    process.line(&["INFO", "config reloaded", "digest=\"sha256:"]);
    assert_eq!(process.get("two.example").status, 200);
    assert_eq!(process.get("one.example").status, 404);

    fs::write(&process.policy, "kind: Stroe\n").expect("written");
    process.signal("HUP");
    process.line(&["ERROR", "config refused, the running one stays"]);
    assert_eq!(process.get("two.example").status, 200);

    fs::remove_file(&process.policy).expect("it was there");
    let refused = process.log().matches("config refused").count();
    process.signal("HUP");
    eventually("a file that vanished is refused too", || {
        (process.log().matches("config refused").count() > refused).then_some(())
    });
    assert_eq!(process.get("two.example").status, 200);

    process.signal("TERM");
    assert!(process.ended(), "{}", process.log());
    process.line(&["stopped"]);
}

#[test]
fn the_access_log_has_one_line_for_each_request_and_nothing_of_its_content() {
    let origin = Origin::answering(OK);
    let process = Process::start("access", &policy("api.example", origin.address));
    let mut wire = Wire::connect(process.address("http"));
    wire.send(
        "POST /card/4111111111111111?cvv=123 HTTP/1.1\r\nHost: api.example\r\n\
         Authorization: Bearer hush\r\nContent-Length: 6\r\n\r\nsecret",
    );
    assert_eq!(wire.reply().status, 200);
    let line = process.line(&["tillgate::access", "route=\"api\""]);
    for part in ["class=\"payment\"", "backend=\"api\"", "status=200", "up_bytes=6", "down_bytes=2"]
    {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let log = process.log();
    assert_eq!(log.matches("tillgate::access").count(), 1, "{log}");
    for secret in ["4111", "123 ", "hush", "secret", "api.example"] {
        assert!(!line.contains(secret), "{secret} is in {line}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            wire.head();
        }
    });
    let mut process = Process::start("stop", &policy("api.example", origin.address));
    let mut wire = Wire::connect(process.address("http"));
    wire.send("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    eventually("the request is at the server", || (origin.connections() > 0).then_some(()));
    process.signal("TERM");
    process.line(&["draining", "connections=1"]);
    let start = tillgate_tests::now();
    process.signal("INT");
    assert!(process.ended());
    assert!(start.elapsed() < PATIENCE / 2, "it did not wait for the drain's deadline");
    wire.expect_end();
}

#[test]
fn a_process_at_rest_is_small() {
    let origin = Origin::answering(OK);
    let process = Process::start("small", &policy("api.example", origin.address));
    assert_eq!(process.get("api.example").status, 200);
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id()));
    let status = status.expect("a running process");
    // Memory of its own: the mapped pages of an unoptimised program say nothing about a release.
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes: u64 =
        resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).expect("a size");
    assert!(kilobytes <= 4 * 1024, "{kilobytes} KiB");
}

#[test]
fn arguments_that_make_no_sense_are_explained() {
    let run = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = run(&["gateway", "--config", "/no/such/file.yaml"]);
    assert!(code == Some(1) && text.contains("/no/such/file.yaml"), "{code:?} {text}");
    let (code, text) = run(&["gateway"]);
    assert!(code == Some(2) && text.contains("--config"), "{code:?} {text}");
    let (code, text) = run(&["gateway", "--config", "x", "--http", "8080"]);
    assert!(code == Some(2) && text.contains("--http"), "{code:?} {text}");
    let (code, _) = run(&["validate", "/no/such/file.yaml"]);
    assert_eq!(code, Some(2));
}

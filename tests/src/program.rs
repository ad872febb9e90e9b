//! The program as a process: its arguments, its log, its signals.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::eventually;
use crate::wire::{Reply, Wire};

/// A running `tillgate gateway` with a policy file of its own.
pub struct Program {
    child: Child,
    /// Its policy file.
    pub policy: PathBuf,
    /// It goes with the program.
    is_own: bool,
    log: Text,
    said: Text,
}

type Text = Arc<Mutex<String>>;

/// Free ports of loopback.
const ANYWHERE: [&str; 6] =
    ["--http", "127.0.0.1:0", "--forward-proxy", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

impl Program {
    /// Starts `program` on free ports of loopback, with `more` arguments.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(program: &str, name: &str, policy: &str, more: &[&str]) -> Self {
        Self::start_with(program, name, policy, more, |_| {})
    }

    /// The same; `change` has the last word on the command.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with(
        program: &str,
        name: &str,
        policy: &str,
        more: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let path = scratch(name).with_extension("yaml");
        fs::write(&path, policy).expect("the temporary folder can be written");
        Self::start_as(program, "--config", path, more, change)
    }

    /// Starts `program` with the file of its policy, or of its sources, as `flag` says.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_as(
        program: &str,
        flag: &str,
        path: PathBuf,
        more: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = gateway(program, flag, &path);
        command.args(ANYWHERE).args(more);
        change(&mut command);
        let mut program = Self::spawn(command);
        (program.policy, program.is_own) = (path, flag == "--config");
        program
    }

    /// Starts `program` with the file of its sources, and its HTTP entry and its forward proxy
    /// where sidecars find them after every start.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_at(program: &str, bootstrap: PathBuf, entries: [SocketAddr; 2]) -> Self {
        let mut command = gateway(program, "--bootstrap", &bootstrap);
        let [http, forward_proxy] = entries.map(|address| address.to_string());
        command.args(["--http", &http, "--forward-proxy", &forward_proxy]);
        command.args(["--admin", "127.0.0.1:0"]);
        let mut program = Self::spawn(command);
        program.policy = bootstrap;
        program
    }

    /// Starts `program` as a sidecar on free ports of loopback.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_sidecar(program: &str, more: &[&str]) -> Self {
        let mut command = piped(program);
        command.arg("sidecar").args(ANYWHERE).args(more);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let log = child.stderr.take().map(collect).unwrap_or_default();
        let said = child.stdout.take().map(collect).unwrap_or_default();
        Self { child, policy: PathBuf::new(), is_own: false, log, said }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic while writing").clone()
    }

    /// What it has written to standard output.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic while writing").clone()
    }

    /// Waits for a log line with all of `parts`; returns it.
    #[track_caller]
    pub fn line(&self, parts: &[&str]) -> String {
        eventually(&format!("a line with {parts:?} in\n{}", self.log()), || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(String::from)
        })
    }

    /// Where a listener is, from the log.
    #[track_caller]
    pub fn address(&self, name: &str) -> SocketAddr {
        let line = self.line(&[" listening", &format!("name=\"{name}\"")]);
        let rest = line.split("address=").nth(1).expect("an address");
        rest.split(' ').next().expect("a word").parse().expect("an address")
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Asks for `/` of `host`.
    #[track_caller]
    pub fn get(&self, host: &str) -> Reply {
        get(self.address("http"), host)
    }

    /// The status document.
    #[track_caller]
    pub fn status(&self) -> String {
        let mut wire = Wire::connect(self.address("admin"));
        wire.send("GET /v1/status HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        wire.reply().text()
    }

    /// Ends it without a word, as a power cut does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// If the system cannot say.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("ours").is_some()
    }

    /// Waits for its end; whether it was a success.
    #[track_caller]
    pub fn ended(&mut self) -> bool {
        eventually("the process ends", || self.child.try_wait().expect("ours")).success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.is_own {
            let _ = fs::remove_file(&self.policy);
        }
    }
}

fn piped(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Sends `name` to the process `id`.
///
/// # Panics
/// If there is no such process.
pub fn signal(id: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &id.to_string()]).status();
    assert!(sent.expect("kill is there").success());
}

/// Asks `address` for `/` of `host`, on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, host: &str) -> Reply {
    let mut wire = Wire::connect(address);
    wire.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    wire.reply()
}

/// A path of this test's own in the temporary folder.
pub fn scratch(name: &str) -> PathBuf {
    let path: &Path = &std::env::temp_dir();
    path.join(format!("tillgate-{}-{name}", std::process::id()))
}

/// A gateway with two workers.
fn gateway(program: &str, flag: &str, path: &Path) -> Command {
    let mut command = piped(program);
    command.args(["gateway", "--workers", "2", flag]).arg(path);
    command
}

fn collect(pipe: impl Read + Send + 'static) -> Text {
    let text = Text::default();
    let written = Arc::clone(&text);
    let lines = BufReader::new(pipe).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut text = written.lock().expect("no panic while writing");
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

/// A policy of one route from `host` to a server inside the store.
pub fn policy(host: &str, origin: SocketAddr) -> String {
    let store = "apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {name: store-0412}
spec:
  timeZone: Europe/Oslo
  links:
    - {name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}
---
";
    store.to_owned() + &route("api", host, origin)
}

/// The route alone, and the server as a backend; both have this name.
pub fn route(name: &str, host: &str, origin: SocketAddr) -> String {
    format!(
        "apiVersion: tillgate.dev/v1alpha1
kind: Backend
metadata: {{name: {name}}}
spec:
  location: Local
  protocol: HTTP
  endpoints:
    - ip: {{address: {}, port: {}}}
---
apiVersion: tillgate.dev/v1alpha1
kind: ServiceRoute
metadata: {{name: {name}}}
spec:
  hostnames: [{host}]
  trafficClass: payment
  rules:
    - name: all
      backendRefs: [{{name: {name}}}]
",
        origin.ip(),
        origin.port()
    )
}

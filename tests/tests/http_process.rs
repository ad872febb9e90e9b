//! The program as a process: its arguments, its log, its signals.

use std::fs;
use std::process::{Command, Stdio};

use tillgate_tests::origin::Origin;
use tillgate_tests::program::{Program, policy};
use tillgate_tests::tls::{Authority, Volume};
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

fn start(name: &str, policy: &str) -> Program {
    Program::start(PROGRAM, name, policy, &[])
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_hangup_reloads_and_a_bad_file_changes_nothing() {
    let origin = Origin::answering(OK);
    let mut process = start("reload", &policy("one.example", origin.address));
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
    let policy = policy("api.example", origin.address);
    let process = Program::start(PROGRAM, "access", &policy, &["--access-log"]);
    let mut wire = Wire::connect(process.address("http"));
    wire.send(
        "POST /card/4111111111111111?cvv=123 HTTP/1.1\r\nHost: api.example\r\n\
         Authorization: Bearer hush\r\nContent-Length: 6\r\n\r\nsecret",
    );
    assert_eq!(wire.reply().status, 200);
    let said = eventually("a line of access log", || {
        Some(process.said()).filter(|said| said.ends_with("}\n"))
    });
    assert_eq!(said.lines().count(), 1, "{said}");
    let line: serde_json::Value = serde_json::from_str(&said).expect("a line is JSON");
    for (field, value) in [("class", "payment"), ("route", "api"), ("rule", "all")] {
        assert_eq!(line[field], value, "{said}");
    }
    assert_eq!((&line["status"], &line["tries"]), (&200.into(), &1.into()), "{said}");
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&6.into(), &2.into()), "{said}");
    for secret in ["4111", "cvv", "hush", "secret", "api.example"] {
        assert!(!said.contains(secret), "{secret} is in {said}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            wire.head();
        }
    });
    let mut process = start("stop", &policy("api.example", origin.address));
    let mut wire = Wire::connect(process.address("http"));
    wire.send("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    eventually("the request is at the server", || (origin.connections() > 0).then_some(()));
    process.signal("TERM");
    process.line(&["draining", "connections=1"]);
    let start = tillgate_tests::now();
    process.signal("INT");
    assert!(process.ended());
    assert!(start.elapsed() < PATIENCE / 4, "it did not wait for the drain's deadline");
    wire.expect_end();
}

#[test]
fn a_process_at_rest_is_small() {
    let origin = Origin::answering(OK);
    let process = start("small", &policy("api.example", origin.address));
    assert_eq!(process.get("api.example").status, 200);
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()));
    let status = status.expect("a running process");
    // Memory of its own: the mapped pages of an unoptimised program say nothing about a release.
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes: u64 =
        resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).expect("a size");
    assert!(kilobytes <= 4 * 1024, "{kilobytes} KiB");
}

#[test]
fn workers_stay_on_a_cpu_each_when_told_to() {
    let origin = Origin::answering(OK);
    let policy = policy("api.example", origin.address);
    let program = Program::start(PROGRAM, "pinned", &policy, &["--pin-workers"]);
    assert_eq!(program.get("api.example").status, 200);
    let tasks = fs::read_dir(format!("/proc/{}/task", program.id())).expect("a running process");
    let mut pinned = Vec::new();
    for task in tasks {
        let task = task.expect("a thread").path();
        let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
        if read("comm").starts_with("worker-") {
            let status = read("status");
            let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            pinned.push(cpus.expect("every thread has one").trim().to_owned());
        }
    }
    assert_eq!(pinned.len(), 2, "{pinned:?}");
    assert!(pinned.iter().all(|cpus| cpus.parse::<usize>().is_ok()), "one CPU each: {pinned:?}");
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

#[test]
fn clients_that_no_file_is_left_for_are_counted_said_once_and_served_later() {
    let origin = Origin::answering(OK);
    let policy = policy("api.example", origin.address);
    let process = Program::start_with(PROGRAM, "files", &policy, &[], |command| {
        let mut narrow = Command::new("sh");
        narrow.args(["-c", "ulimit -n 96 && exec \"$0\" \"$@\""]).arg(command.get_program());
        narrow.args(command.get_args()).stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = narrow;
    });
    let (http, admin) = (process.address("http"), process.address("admin"));
    let mut clients: Vec<_> = (0..150).map(|_| Wire::connect(http)).collect();
    process.line(&["WARN", "connections wait that cannot be taken", "name=\"http\"", "ulimit"]);
    // As some leave, those that wait are taken.
    clients.drain(..120);
    let last = clients.last_mut().expect("thirty are left");
    last.send("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(last.reply().status, 200);
    let mut scrape = Wire::connect(admin);
    scrape.send("GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n");
    let scrape = scrape.reply().text();
    let series = r#"tillgate_connections_not_taken_total{listener="http",reason="process_files"} "#;
    let count = scrape.lines().find_map(|line| line.strip_prefix(series)).expect("the series");
    assert!(count.parse::<f64>().expect("a number") >= 1.0, "{count}");
    let lines = process.log();
    let said = lines.lines().filter(|line| line.contains("cannot be taken"));
    assert_eq!(said.filter(|line| line.contains("name=\"http\"")).count(), 1, "{lines}");
}

#[test]
fn a_policy_that_cannot_be_read_to_its_end_stops_neither_probes_nor_the_end() {
    let origin = Origin::answering(OK);
    let mut process = start("hangs", &policy("api.example", origin.address));
    let admin = process.address("admin");
    // A pipe that nobody writes to is what a file system that hangs looks like.
    fs::remove_file(&process.policy).expect("it was there");
    let made = Command::new("mkfifo").arg(&process.policy).status().expect("mkfifo is there");
    assert!(made.success());
    process.signal("HUP");
    let path = format!("/proc/{}/task", process.id());
    eventually("a thread waits for the file", || {
        let threads = fs::read_dir(&path).expect("it runs").flatten();
        let waits = |thread: fs::DirEntry| {
            let call = fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
            call.contains("fifo") || call.contains("partner")
        };
        let mut threads = threads.peekable();
        // Where the kernel does not tell, the answers below count alone.
        let tells = fs::read_to_string(format!("{path}/{}/wchan", process.id()));
        (tells.is_ok_and(|call| call == "0") || threads.any(waits)).then_some(())
    });
    for path in ["/livez", "/readyz"] {
        let mut probe = Wire::connect(admin);
        probe.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n"));
        assert_eq!(probe.reply().status, 200);
    }
    assert_eq!(process.get("api.example").status, 200);
    process.signal("TERM");
    assert!(process.ended(), "{}", process.log());
}

#[test]
fn who_is_refused_is_told_without_being_asked_for() {
    let origin = Origin::answering(OK);
    let files = Volume::pair(&Authority::default().issue(&["pos.example"]));
    let (chain, key) = (files.path("tls.crt"), files.path("tls.key"));
    let document = |kind: &str, name: &str, spec: &str| {
        let head = "apiVersion: tillgate.dev/v1alpha1";
        format!("---\n{head}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    };
    let listener = |name: &str, spec: &str| {
        document("Listener", name, &format!("address: \"127.0.0.1:0\", {spec}"))
    };
    let trust = "proxyProtocol: {trustedSources: [127.0.0.0/8]}";
    let tls = format!("certFile: {}, keyFile: {}", chain.display(), key.display());
    let policy = [
        policy("api.example", origin.address),
        listener("secure", &format!("protocol: HTTP, tls: {{certificates: [{{{tls}}}]}}")),
        listener("announced", &format!("protocol: HTTP, {trust}")),
        listener("card", &format!("protocol: TCP, backendRef: {{name: card}}, {trust}")),
        document(
            "Backend",
            "card",
            &format!(
                "location: Local, protocol: TCP, \
                 endpoints: [{{ip: {{address: 127.0.0.1, port: {}}}}}]",
                origin.address.port()
            ),
        ),
        listener("narrow", "protocol: HTTP, limits: {maxConnectionsPerClient: 1}"),
    ];
    let process = start("refused", &policy.concat());
    for name in ["secure", "announced", "card"] {
        let reason = if name == "secure" { "not_tls" } else { "proxy_invalid" };
        let mut wire = Wire::connect(process.address(name));
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let listener = format!("listener=\"{name}\"");
        process.line(&["WARN", &listener, reason, "client=127.0.0.1", "count=1"]);
    }
    let narrow = process.address("narrow");
    let mut first = Wire::connect(narrow);
    first.send("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(first.reply().status, 200);
    Wire::connect(narrow).expect_end();
    process.line(&["WARN", "listener=\"narrow\"", "client_crowds", "client=127.0.0.1"]);
}

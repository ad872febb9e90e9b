//! The access log and traces, from outside.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;

use tillgate::access::FIELDS;
use tillgate_config::effective::{
    ClassLog, ClientAddress, Effective, ListenerProtocol, LogOutput, LoggedHeader, OtlpEndpoint,
    TracingSpec,
};
use tillgate_core::backend::{BackendProtocol, Endpoint, Host, Location};
use tillgate_core::tls::{ServerTls, TlsVersion};
use tillgate_core::units::Percent;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::{nobody, nobody_udp};
use tillgate_tests::program::{Program, policy, scratch};
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Volume, Wants};
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A config that logs some classes to a file.
struct Logged {
    effective: Effective,
    path: PathBuf,
}

/// A class, how many of its requests are logged, and header fields (redacted or not).
type Class<'a> = (&'a str, u8, &'a [(&'static str, bool)]);

impl Logged {
    fn new(name: &str, store: Store, classes: &[Class<'_>]) -> Self {
        let path = scratch(name);
        let _ = fs::remove_file(&path);
        let mut effective = store.build();
        let count = effective.classes.iter().count();
        let mut logs = vec![None; count];
        for (class, sampling, headers) in classes {
            let id = effective.classes.id(class).expect("a built-in class");
            let headers = headers.iter().map(|(name, redacted)| LoggedHeader {
                name: http::HeaderName::from_static(name),
                redacted: *redacted,
            });
            logs[id.index()] =
                Some(ClassLog { sampling: percent(*sampling), headers: headers.collect() });
        }
        effective.telemetry.access_log.classes = logs;
        effective.telemetry.access_log.output = LogOutput::File(path.as_path().into());
        Self { effective, path }
    }
}

fn percent(value: u8) -> Percent {
    Percent::new(value).expect("a percentage")
}

/// Waits for `count` lines.
fn lines(path: &PathBuf, count: usize) -> Vec<serde_json::Value> {
    eventually(&format!("{count} lines in {}", path.display()), || {
        let text = fs::read_to_string(path).ok()?;
        (text.lines().count() >= count && text.ends_with('\n'))
            .then(|| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
    })
}

fn get(host: &str) -> String {
    format!("GET /?pan=4111111111111111 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_line_says_what_happened_and_only_what_policy_names() {
    let origin = Origin::answering(OK);
    let store = Store::default().local("pay", "pay.example", "payment", origin.address);
    let headers: &[_] =
        &[("user-agent", false), ("x-till", true), ("authorization", false), ("x-note", false)];
    let logged = Logged::new("named", store, &[("payment", 100, headers)]);
    let gateway = Gateway::start(logged.effective.clone());
    let reply = gateway.ask(&format!(
        "POST /card HTTP/1.1\r\nHost: pay.example\r\nContent-Length: 6\r\nUser-Agent: till \"7\"\r\n\
         X-Till: 7\r\nAuthorization: Bearer hush\r\nX-Note: pan 4111 1111 1111 1111\r\n\
         X-Request-Id: abc\r\nTraceparent: {PARENT}\r\nConnection: close\r\n\r\nsecret"
    ));
    assert_eq!(reply.status, 200);
    let lines = lines(&logged.path, 1);
    let line = lines[0].as_object().expect("an object");
    assert_eq!(line.len(), FIELDS.len());
    for field in FIELDS {
        assert!(line.contains_key(field.name), "{} is missing", field.name);
    }
    let is = |name: &str, value: serde_json::Value| assert_eq!(line[name], value, "{name}");
    is("kind", "request".into());
    is("request_id", "abc".into());
    is("trace_id", PARENT[3..35].into());
    is("class", "payment".into());
    is("route", "pay".into());
    is("rule", "all".into());
    is("backend", "pay".into());
    is("endpoint", origin.address.to_string().into());
    is("status", 200.into());
    is("reason", serde_json::Value::Null);
    is("client", "127.0.0.1".into());
    is("bytes_up", 6.into());
    is("bytes_down", 2.into());
    is("tries", 1.into());
    is("critical", true.into());
    is("sampled", true.into());
    let times = ["duration_ms", "first_byte_ms", "queued_ms"].map(|name| line[name].as_f64());
    let [Some(whole), Some(first), Some(queued)] = times else { panic!("{line:?}") };
    assert!(0.0 < first && first <= whole && queued <= whole, "{line:?}");
    is(
        "headers",
        serde_json::json!({
            "user-agent": "till \"7\"",
            "x-till": "[redacted]",
            "authorization": "[redacted]",
            "x-note": "pan [redacted]",
        }),
    );
    let text = fs::read_to_string(&logged.path).expect("the log");
    // Part of a card's number may also be that of a port.
    for secret in ["4111 1111", "4111111111111111", "hush", "secret", "/card", "pay.example"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    let _ = fs::remove_file(&logged.path);
}

#[test]
fn a_line_of_a_datagram_session_names_the_server_that_answered() {
    let endpoint = |at: SocketAddr| Endpoint { host: Host::Ip(at.ip()), port: at.port() };
    // The client's address picks the first one, so one of the two orders begins with nobody.
    for begins_with_nobody in [true, false] {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        server.set_nonblocking(true).expect("a socket does not block");
        let at = server.local_addr().expect("a bound socket");
        let mut order = [nobody_udp(), at];
        if !begins_with_nobody {
            order.reverse();
        }
        let store = Store::default()
            .backend("radius", Location::Cloud, BackendProtocol::Udp, at)
            .change_backend(|backend| backend.endpoints = order.map(endpoint).to_vec())
            .listener("radius", ListenerProtocol::Udp, Some("payment"), |_| ());
        let logged = Logged::new("datagrams", store, &[("payment", 100, &[])]);
        let mut gateway = Gateway::start(logged.effective.clone());
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        client.connect(gateway.listeners["radius"]).expect("an address");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        let (_, from) = eventually("it is asked", || {
            client.send(b"hello").expect("the datagram is taken");
            server.recv_from(&mut [0; 16]).ok()
        });
        server.send_to(b"welcome", from).expect("the session is there");
        client.recv(&mut [0; 16]).expect("the answer comes");
        gateway.control.drain();
        gateway.ended();
        assert_eq!(lines(&logged.path, 1)[0]["endpoint"], at.to_string());
        let _ = fs::remove_file(&logged.path);
    }
}

#[test]
fn a_line_says_how_its_client_speaks_tls() {
    let origin = Origin::answering(OK);
    let identity = Authority::default();
    let pair = Volume::pair(&identity.issue(&["pay.example"]));
    let tls = ServerTls {
        certificates: vec![pair.key_pair()],
        client_certificates: None,
        min_version: TlsVersion::V1_2,
    };
    let store = Store::default().local("pay", "pay.example", "payment", origin.address).https(tls);
    let mut logged = Logged::new("tls", store, &[("payment", 100, &[])]);
    logged.effective.telemetry.access_log.client = ClientAddress::Prefix;
    let gateway = Gateway::start(logged.effective.clone());
    let config = tls::client(&identity, &Wants { alpn: vec!["http/1.1"], ..Wants::default() });
    let mut wire = tls::connect(gateway.http, "pay.example", &config).expect("a handshake").wire;
    wire.send("GET / HTTP/1.1\r\nHost: pay.example\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
    drop(wire);
    let line = lines(&logged.path, 1).remove(0);
    let _ = fs::remove_file(&logged.path);
    assert_eq!(line["tls_version"], "1.3");
    assert_eq!(line["tls_alpn"], "http/1.1");
    assert_eq!(line["tls_sni"], "pay.example");
    assert_eq!(line["client"], "127.0.0.0/24", "no more than the policy wants");
}

#[test]
fn classes_are_sampled_and_failures_always_logged() {
    let origin = Origin::answering(OK);
    let store = Store::default()
        .local("pay", "pay.example", "payment", origin.address)
        .local("bulk", "bulk.example", "metrics", origin.address)
        .local("none", "none.example", "default", origin.address)
        .local("failed", "failed.example", "default", nobody())
        .local("few", "few.example", "image-pull", origin.address)
        .local("broken", "broken.example", "image-pull", nobody());
    let logged = Logged::new(
        "sampled",
        store,
        &[("payment", 100, &[]), ("image-pull", 1, &[]), ("default", 0, &[])],
    );
    let gateway = Gateway::start(logged.effective.clone());
    for _ in 0..20 {
        assert_eq!(gateway.ask(&get("bulk.example")).status, 200);
        assert_eq!(gateway.ask(&get("none.example")).status, 200);
        assert_eq!(gateway.ask(&get("failed.example")).status, 502);
        assert_eq!(gateway.ask(&get("few.example")).status, 200);
        assert_eq!(gateway.ask(&get("broken.example")).status, 502);
    }
    assert_eq!(gateway.ask(&get("pay.example")).status, 200);
    let lines = eventually("the last request is logged", || {
        Some(lines(&logged.path, 41))
            .filter(|lines| lines.iter().any(|line| line["class"] == "payment"))
    });
    let of = |route: &str| lines.iter().filter(|line| line["route"] == route).count();
    assert_eq!((of("pay"), of("broken"), of("bulk")), (1, 20, 0));
    assert_eq!((of("failed"), of("none")), (20, 0), "of 0 % only failures");
    assert!(of("few") < 10, "one in a hundred is wanted: {}", of("few"));
    let broken = lines.iter().find(|line| line["route"] == "broken").expect("counted above");
    assert_eq!(broken["reason"], "connect_refused");
    assert_eq!(broken["blame"], "backend");
    let _ = fs::remove_file(&logged.path);
}

#[test]
fn trace_context_is_passed_on_as_it_is_where_nothing_is_traced() {
    let origin = Origin::echoing();
    let store = Store::default().local("a", "a.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let reply = gateway.ask(&format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\nTraceparent: {PARENT}\r\nTracestate: v=1\r\n\
         Connection: close\r\n\r\n"
    ));
    let text = reply.text();
    assert!(text.contains(PARENT) && text.contains("v=1"), "{text}");
    let none = gateway.ask("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    assert!(!none.text().contains("traceparent"), "{}", none.text());
}

fn traced(store: Store, collector: SocketAddr, sampling: u8) -> Effective {
    let mut effective = store.build();
    effective.telemetry.tracing = Some(TracingSpec {
        endpoint: OtlpEndpoint {
            tls: false,
            server: Endpoint { host: Host::Ip(collector.ip()), port: collector.port() },
            path: "/v1/traces".into(),
        },
        location: Location::Cloud,
        sampling: percent(sampling),
        class: effective.classes.id("metrics").expect("a built-in class"),
    });
    effective
}

/// The value of `traceparent` that a server got.
fn seen(text: &str) -> String {
    let lower = text.to_lowercase();
    let value = lower.split("traceparent: ").nth(1).expect("a traceparent");
    value.lines().next().expect("a line").trim().to_owned()
}

#[test]
fn spans_go_to_the_collector_in_their_class_and_name_their_parents() {
    let (tell, told) = mpsc::channel();
    let collector = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            let request = wire.reply();
            let kind = request.header("content-type").unwrap_or_default().to_owned();
            let _ = tell.send((request.line.clone(), kind, request.body.clone()));
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let origin = Origin::echoing();
    let store = Store::default().local("a", "a.example", "default", origin.address);
    let gateway = Gateway::start(traced(store, collector.address, 0));
    let reply = gateway.ask(&format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\nTraceparent: {PARENT}\r\nTracestate: v=1\r\n\
         Connection: close\r\n\r\n"
    ));
    let text = reply.text();
    let next = seen(&text);
    assert!(next.starts_with(&PARENT[..36]) && next.ends_with("-01"), "{next}");
    assert_ne!(&next[36..52], &PARENT[36..52], "the next one's parent is our span");
    assert!(text.contains("v=1"), "{text}");
    // Not sampled by the policy, and nobody else says so: no span, but a context.
    let own = gateway.ask("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    assert!(seen(&own.text()).ends_with("-00"), "{}", own.text());

    let (line, kind, body) = told.recv_timeout(PATIENCE).expect("an export");
    assert_eq!((&*line, &*kind), ("POST /v1/traces HTTP/1.1", "application/x-protobuf"));
    let holds = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    let hex = |text: &str| u128::from_str_radix(text, 16).expect("hex").to_be_bytes();
    assert!(holds(&hex(&PARENT[3..35])), "the trace");
    assert!(holds(&hex(&next[36..52])[8..]), "our span");
    assert!(holds(&hex(&PARENT[36..52])[8..]), "its parent");
    for name in ["http.request.method", "GET", "tillgate.class", "default", "service.name"] {
        assert!(holds(name.as_bytes()), "{name}");
    }
    gateway.expect_metric(r#"tillgate_trace_spans_total{result="exported"}"#, 1.0);
    eventually("the export crossed the line in its class", || {
        let text = gateway.admin("/metrics").text();
        let prefix = "tillgate_link_traffic_bytes_total{";
        let mut found = text.lines().filter(|line| line.starts_with(prefix));
        found.any(|line| line.contains("class=\"metrics\"") && !line.ends_with(" 0")).then_some(())
    });
}

#[test]
fn spans_for_a_collector_with_tls_never_travel_in_the_clear() {
    let collector = Origin::start(|mut wire, _| {
        assert_eq!(wire.read_exact(1), [22], "a handshake, and nothing else");
        wire.send(OK);
    });
    let origin = Origin::answering(OK);
    let store = Store::default().local("a", "a.example", "default", origin.address);
    let mut effective = traced(store, collector.address, 100);
    let tracing = effective.telemetry.tracing.as_mut().expect("set above");
    tracing.endpoint.tls = true;
    let gateway = Gateway::start(effective);
    let mut wire = gateway.wire();
    // Enough for more than one batch, so that the first one was tried.
    for _ in 0..6000 {
        wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
    }
    eventually("spans wait for a way that there is not", || {
        (gateway.metric(r#"tillgate_trace_spans_total{result="dropped"}"#) > 0.0).then_some(())
    });
    assert!(collector.connections() > 0, "it was asked");
    gateway.expect_metric(r#"tillgate_trace_spans_total{result="exported"}"#, 0.0);
}

/// A policy that traces everything to a collector.
fn traced_policy(origin: &Origin, collector: &str) -> String {
    format!(
        "{}---\napiVersion: tillgate.dev/v1alpha1\nkind: TelemetryPolicy\n\
         metadata: {{name: store}}\nspec:\n  \
         tracing: {{endpoint: '{collector}/v1/traces', sampling: 100%}}\n",
        policy("a.example", origin.address)
    )
}

#[test]
fn a_collector_with_tls_is_vouched_for_by_the_systems_authorities() {
    let authority = Authority::default();
    let identity = authority.issue(&["127.0.0.1"]);
    let files = Volume::new(&[("ca.crt", &authority.pem)]);
    let config = tls::server(&Wants { identity: Some(&identity), ..Wants::default() }, None);
    let (tell, told) = mpsc::channel();
    let collector = Origin::start(move |wire, _| {
        let Some(mut wire) = tls::accept(wire, &config) else { return };
        while wire.waits_for_more() {
            let _ = tell.send(wire.reply().line.clone());
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let origin = Origin::answering(OK);
    let policy = traced_policy(&origin, &format!("https://{}", collector.address));
    let program = Program::start_with(PROGRAM, "traced", &policy, &[], |command| {
        command.env("SSL_CERT_FILE", files.path("ca.crt")).env_remove("SSL_CERT_DIR");
    });
    let mut wire = Wire::connect(program.address("http"));
    wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
    let line = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}", program.log()));
    assert_eq!(line, "POST /v1/traces HTTP/1.1");
}

#[test]
fn what_waits_when_the_process_ends_is_sent_once() {
    let origin = Origin::answering(OK);
    // A process does not wait for long at its end; where that was too short, another one may try.
    let sent = eventually("what waits is sent", || {
        let (tell, told) = mpsc::channel();
        let collector = Origin::start(move |mut wire, _| {
            while wire.waits_for_more() {
                let _ = tell.send(wire.reply().line.clone());
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let policy = traced_policy(&origin, &format!("http://{}", collector.address));
        let mut program = Program::start(PROGRAM, "traced-end", &policy, &[]);
        assert_eq!(program.get("a.example").status, 200);
        program.signal("TERM");
        assert!(program.ended(), "{}", program.log());
        // When it is gone as well, everything has been told.
        drop(collector);
        let sent: Vec<String> = std::iter::from_fn(|| told.recv_timeout(PATIENCE).ok()).collect();
        (!sent.is_empty()).then_some(sent)
    });
    assert_eq!(sent, ["POST /v1/traces HTTP/1.1"], "once");
}

#[test]
fn a_collector_that_is_away_costs_nothing_but_its_spans() {
    let origin = Origin::answering(OK);
    let store = Store::default().local("a", "a.example", "default", origin.address);
    let gateway = Gateway::start(traced(store, nobody(), 100));
    let mut wire = gateway.wire();
    for _ in 0..6000 {
        wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
    }
    eventually("what does not fit is dropped", || {
        let dropped = gateway.metric(r#"tillgate_trace_spans_total{result="dropped"}"#);
        (dropped > 0.0).then_some(())
    });
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

#[test]
fn a_policy_names_class_header_and_file_and_a_signal_opens_it_anew() {
    let origin = Origin::answering(OK);
    let (path, moved) = (scratch("policy.log"), scratch("policy.log.1"));
    let policy = format!(
        "{}---
apiVersion: tillgate.dev/v1alpha1
kind: TelemetryPolicy
metadata: {{name: store}}
spec:
  accessLogging:
    - {{trafficClasses: [payment], sampling: 100%, headers: [user-agent, cookie]}}
  accessLogOutput: {{path: {}}}
",
        policy("a.example", origin.address),
        path.display()
    );
    let program = Program::start(PROGRAM, "logged", &policy, &[]);
    let http = program.address("http");
    let ask = || {
        let mut wire = Wire::connect(http);
        wire.send(
            "GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: till\r\nCookie: a=hush\r\n\r\n",
        );
        assert_eq!(wire.reply().status, 200);
    };
    ask();
    let line = &lines(&path, 1)[0];
    assert_eq!(line["headers"]["user-agent"], "till");
    assert_eq!(line["headers"]["cookie"], "[redacted]");
    fs::rename(&path, &moved).expect("renamed");
    program.signal("USR1");
    eventually("the file is there anew", || path.exists().then_some(()));
    ask();
    assert_eq!(lines(&path, 1).len(), 1);
    assert_eq!(lines(&moved, 1).len(), 1);
    for path in [path, moved] {
        let _ = fs::remove_file(path);
    }
}

/// Lines of `log` that a program has dropped.
fn dropped(admin: SocketAddr, log: &str) -> u64 {
    let mut wire = Wire::connect(admin);
    wire.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    let text = wire.reply().text();
    let series = format!("tillgate_log_lines_dropped_total{{log=\"{log}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.expect("the series is there").parse().expect("a number")
}

#[test]
fn an_access_log_that_nobody_reads_holds_up_no_request() {
    let origin = Origin::answering(OK);
    let (full, _never_read) = UnixStream::pair().expect("two ends");
    let policy = policy("a.example", origin.address);
    let program = Program::start_with(PROGRAM, "stuck", &policy, &["--access-log"], |command| {
        command.stdout(OwnedFd::from(full));
    });
    let mut wire = Wire::connect(program.address("http"));
    let admin = program.address("admin");
    let mut asked = 0;
    while asked < 50_000 && (asked % 500 != 0 || dropped(admin, "access") == 0) {
        wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
        asked += 1;
    }
    assert!(dropped(admin, "access") > 0, "after {asked} requests");
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_request() {
    let origin = Origin::answering(OK);
    let (full, _never_read) = UnixStream::pair().expect("two ends");
    let policy = policy("a.example", origin.address);
    let (http, admin) = (nobody(), nobody());
    let _program = Program::start_with(PROGRAM, "mute", &policy, &["--log", "debug"], |command| {
        // Nobody reads where it listens, so it is told.
        let mut arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        for (flag, address) in [("--http", http), ("--admin", admin)] {
            let place = arguments.iter().position(|word| word == flag).expect("it is given");
            arguments[place + 1] = address.to_string().into();
        }
        let mut told = std::process::Command::new(PROGRAM);
        told.args(arguments).stderr(OwnedFd::from(full));
        *command = told;
    });
    eventually("it listens", || std::net::TcpStream::connect(admin).ok());
    let mut asked = 0;
    while asked < 50_000 && (asked % 500 != 0 || dropped(admin, "process") == 0) {
        // Each of these is a line at level DEBUG.
        let mut wire = Wire::connect(http);
        wire.send("no request\r\n\r\n");
        let _ = wire.read_to_end();
        asked += 1;
    }
    assert!(dropped(admin, "process") > 0, "after {asked} connections");
    assert_eq!(tillgate_tests::program::get(http, "a.example").status, 200);
}

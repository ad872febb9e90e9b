//! Failover end to end: two servers with moods, a till that calls all the time, and both servers'
//! ledgers, which say what was executed where.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tillgate_config::{Effective, load_text};
use tillgate_core::backend::Location;
use tillgate_tests::eventually;
use tillgate_tests::frames::{End, Frames, code, field, fields, flag, kind};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2;
use tillgate_tests::moody::{Mood, Moody};
use tillgate_tests::wire::Wire;

/// The pace of a till: 25 calls a second.
const PACE: Duration = Duration::from_millis(40);

/// The policy of the issue, with the servers where they are here; both inside the store, so that
/// no line is needed.
fn policy(local: &Moody, cloud: &Moody, rule: &str) -> String {
    let backend = |name: &str, server: &Moody| {
        format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\nspec:\n  \
             location: Local\n  protocol: HTTP\n  endpoints: [{{ip: {{address: 127.0.0.1, port: \
             {}}}}}]\n  healthCheck:\n    active: {{http: {{path: /health}}, interval: 200ms, \
             timeout: 200ms, unhealthyThreshold: 2, healthyThreshold: 2}}\n    dataAge: {{header: \
             X-Data-Age}}\n---\n",
            server.address.port()
        )
    };
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Europe/Oslo\n  links: [{{name: primary, capacity: {{up: 5Mbit/s, down: \
         20Mbit/s}}}}]\n  gateway: {{workers: 2}}\n---\n{}{}apiVersion: \
         tillgate.dev/v1alpha1\nkind: \
         ServiceRoute\nmetadata: {{name: pricing}}\nspec:\n  hostnames: [pay.example]\n  \
         trafficClass: payment\n  rules:\n    - name: all\n      timeouts: {{request: 3s}}\n      \
         backendRefs: [{{name: pricing-local}}, {{name: pricing-cloud, fallback: true}}]\n{rule}",
        backend("pricing-local", local),
        backend("pricing-cloud", cloud),
    )
}

const SHARED_KEY: &str = "      idempotency: {header: Idempotency-Key, scope: AllBackends}\n";
const OWN_KEY: &str = "      idempotency: {header: Idempotency-Key, scope: Backend}\n";

fn compiled(text: &str) -> Effective {
    let config = load_text("store.yaml", text).unwrap_or_else(|report| panic!("{report}"));
    config
        .with_listener(tillgate_config::effective::ListenerProtocol::Http, any())
        .with_listener(tillgate_config::effective::ListenerProtocol::ForwardProxy, any())
        .with_listener(tillgate_config::effective::ListenerProtocol::Admin, any())
}

fn any() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Two servers and a gateway between them and a till.
struct Scene {
    local: Moody,
    cloud: Moody,
    gateway: Gateway,
}

impl Scene {
    fn new(rule: &str) -> Self {
        let (local, cloud) = (Moody::start("local"), Moody::start("cloud"));
        let gateway = Gateway::start(compiled(&policy(&local, &cloud, rule)));
        let scene = Self { local, cloud, gateway };
        // The habits of the servers are known after a second of steady calls.
        let till = scene.till(false);
        eventually("habits are known", || {
            scene.status().contains("\"suspiciousSilenceMs\":100.0").then_some(())
        });
        assert_eq!(till.end().failed(), 0);
        scene
    }

    fn till(&self, keyed: bool) -> Till {
        Till::start(self.gateway.http, keyed)
    }

    fn status(&self) -> String {
        self.gateway.admin("/v1/status").text()
    }

    #[track_caller]
    fn wait_for_tier(&self, tier: u32) {
        let wanted = format!("\"activeTier\":{tier}");
        eventually(&wanted, || self.status().contains(&wanted).then_some(()));
    }

    /// No call is in both ledgers, or twice in one.
    #[track_caller]
    fn expect_no_second_execution(&self) {
        let mut all = [self.local.ledger(), self.cloud.ledger()].concat();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "a call was executed twice");
    }
}

/// A till that calls every 40 ms, each call on a connection of its own.
struct Till {
    over: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Called>>>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Called {
    status: u16,
    text: String,
    took: Duration,
}

struct Calls(Vec<Called>);

impl Calls {
    fn failed(&self) -> usize {
        self.0.iter().filter(|call| call.status != 200).count()
    }

    fn slowest(&self) -> Duration {
        self.0.iter().map(|call| call.took).max().unwrap_or_default()
    }

    fn by(&self, name: &str) -> usize {
        self.0.iter().filter(|call| call.text.starts_with(name)).count()
    }
}

static NEXT_CALL: AtomicUsize = AtomicUsize::new(0);

impl Till {
    fn start(address: std::net::SocketAddr, keyed: bool) -> Self {
        let (over, calls) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Called>>>::default());
        let (ends, made) = (Arc::clone(&over), Arc::clone(&calls));
        let thread = std::thread::spawn(move || {
            let mut under_way = Vec::new();
            while !ends.load(Ordering::SeqCst) {
                let id = NEXT_CALL.fetch_add(1, Ordering::SeqCst);
                let made = Arc::clone(&made);
                under_way.push(std::thread::spawn(move || {
                    let called = call(address, id, keyed);
                    made.lock().expect("no panic").push(called);
                }));
                // Its pace, not a wait for anything.
                std::thread::sleep(PACE);
            }
            under_way.into_iter().for_each(|call| call.join().expect("no panic"));
        });
        Self { over, calls, thread }
    }

    fn wait(&self, calls: usize) {
        let begun = self.calls.lock().expect("no panic").len();
        eventually("calls are answered", || {
            (self.calls.lock().expect("no panic").len() >= begun + calls).then_some(())
        });
    }

    fn end(self) -> Calls {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic");
        Calls(self.calls.lock().expect("no panic").clone())
    }
}

fn call(address: std::net::SocketAddr, id: usize, keyed: bool) -> Called {
    let began = tillgate_tests::now();
    let key = if keyed { format!("Idempotency-Key: {id}\r\n") } else { String::new() };
    let mut wire = Wire::connect(address);
    wire.send(format!(
        "POST /price HTTP/1.1\r\nHost: pay.example\r\nX-Call: {id}\r\n{key}Content-Length: \
         5\r\n\r\nhello"
    ));
    let reply = wire.reply();
    Called { status: reply.status, text: reply.text(), took: began.elapsed() }
}

#[test]
fn a_killed_replica_costs_at_most_the_calls_it_held() {
    let mut scene = Scene::new("");
    let till = scene.till(false);
    till.wait(10);
    scene.local.kill();
    till.wait(25);
    scene.wait_for_tier(1);
    let calls = till.end();
    assert!(calls.failed() <= 1, "{} failed", calls.failed());
    assert!(calls.by("local") >= 10 && calls.by("cloud") >= 20);
    scene.expect_no_second_execution();
    let metrics = scene.gateway.admin("/metrics").text();
    assert!(metrics.contains("tillgate_tier_shifts_total{route=\"pricing\""), "{metrics}");
}

#[test]
fn a_frozen_replica_loses_some_calls_without_a_key() {
    let scene = Scene::new("");
    let till = scene.till(false);
    till.wait(10);
    scene.local.turn(Mood::Frozen);
    till.wait(25);
    scene.wait_for_tier(1);
    let calls = till.end();
    assert!(calls.failed() <= 10, "{} failed", calls.failed());
    scene.local.turn(Mood::Well);
    eventually("what was frozen has thawed", || (scene.local.ledger().len() > 10).then_some(()));
    scene.expect_no_second_execution();
}

#[test]
fn a_frozen_replica_loses_nothing_with_a_key_that_all_know() {
    let scene = Scene::new(SHARED_KEY);
    let till = scene.till(true);
    till.wait(10);
    scene.local.turn(Mood::Frozen);
    till.wait(25);
    scene.wait_for_tier(1);
    let calls = till.end();
    assert_eq!(calls.failed(), 0);
    assert!(calls.slowest() < Duration::from_millis(1500), "{:?}", calls.slowest());
}

#[test]
fn a_key_that_only_one_backend_knows_never_reaches_the_other() {
    let scene = Scene::new(OWN_KEY);
    let till = scene.till(true);
    till.wait(10);
    scene.local.turn(Mood::Frozen);
    till.wait(15);
    scene.local.turn(Mood::Well);
    till.wait(5);
    drop(till.end());
    let (local, cloud) = (scene.local.ledger(), scene.cloud.ledger());
    assert!(!cloud.is_empty());
    assert!(!local.iter().any(|call| cloud.contains(call)), "a call was executed by both");
}

#[test]
fn three_errors_are_the_most_that_a_till_sees() {
    let scene = Scene::new("");
    let till = scene.till(false);
    till.wait(10);
    scene.local.turn(Mood::Failing);
    till.wait(20);
    scene.wait_for_tier(1);
    assert!(scene.status().contains("gateway_errors"), "{}", scene.status());
    let calls = till.end();
    assert!(calls.failed() <= 3, "{} failed", calls.failed());

    let scene = Scene::new(&format!("{SHARED_KEY}      retry: {{codes: [503]}}\n"));
    let till = scene.till(true);
    till.wait(10);
    scene.local.turn(Mood::Failing);
    till.wait(20);
    scene.wait_for_tier(1);
    assert_eq!(till.end().failed(), 0);
}

#[test]
fn a_reset_after_the_request_was_read_is_repeated_only_with_a_key() {
    for (rule, keyed) in [("", false), (SHARED_KEY, true)] {
        let scene = Scene::new(rule);
        let till = scene.till(keyed);
        till.wait(10);
        scene.local.turn(Mood::Resetting);
        till.wait(20);
        scene.wait_for_tier(1);
        let failed = till.end().failed();
        if keyed {
            assert_eq!(failed, 0);
        } else {
            assert!((1..=5).contains(&failed), "{failed} failed");
            scene.expect_no_second_execution();
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_no_answer_and_counts() {
    let scene = Scene::new("");
    scene.local.turn(Mood::Halving);
    let ask = || {
        let mut wire = scene.gateway.wire();
        wire.send(
            "POST /price HTTP/1.1\r\nHost: pay.example\r\nX-Call: half\r\nContent-Length: 0\r\n\r\n",
        );
        wire.reply().complete
    };
    assert!(!ask(), "half an answer is never made whole");
    eventually("the endpoint is out", || ask().then_some(()));
    scene.wait_for_tier(1);
}

#[test]
fn a_flapping_replica_makes_no_ping_pong() {
    let scene = Scene::new(SHARED_KEY);
    let till = scene.till(true);
    for _ in 0..3 {
        scene.local.turn(Mood::Frozen);
        till.wait(15);
        scene.local.turn(Mood::Well);
        till.wait(15);
    }
    let calls = till.end();
    assert_eq!(calls.failed(), 0);
    let series = "tillgate_tier_shifts_total{route=\"pricing\",rule=\"all\",shift=\"failback\"";
    assert!(!scene.gateway.admin("/metrics").text().contains(series), "nothing came back");
}

#[test]
fn it_comes_back_after_dwell_and_ramp() {
    let scene_rule = "      failover: {holdDown: 500ms, ramp: 500ms}\n";
    let mut scene = Scene::new(scene_rule);
    scene.local.kill();
    let till = scene.till(false);
    till.wait(5);
    scene.wait_for_tier(1);
    scene.local.revive();
    scene.wait_for_tier(0);
    till.wait(10);
    let calls = till.end();
    assert!(calls.failed() <= 1, "{} failed", calls.failed());
    scene.expect_no_second_execution();
}

#[test]
fn when_both_are_down_the_first_to_return_is_used() {
    let mut scene = Scene::new("");
    scene.local.kill();
    scene.cloud.kill();
    assert_eq!(call(scene.gateway.http, 1_000_000, false).status, 502);
    eventually("all is lost", || {
        (scene.status().matches("\"state\":\"out\"").count() >= 4).then_some(())
    });
    scene.cloud.revive();
    eventually("the cloud answers", || {
        (call(scene.gateway.http, 1_000_001, false).text.starts_with("cloud")).then_some(())
    });
}

#[test]
fn a_health_path_that_says_no_is_believed_and_told() {
    let scene = Scene::new("");
    scene.local.turn(Mood::Lying);
    scene.wait_for_tier(1);
    assert!(scene.status().contains("probe_status"), "{}", scene.status());
    assert_eq!(call(scene.gateway.http, 2_000_000, false).text, "cloud 2000000");
}

#[test]
fn a_health_path_that_says_yes_does_not_help_against_real_calls() {
    let scene = Scene::new(SHARED_KEY);
    let till = scene.till(true);
    till.wait(10);
    scene.local.turn(Mood::Hollow);
    till.wait(40);
    scene.wait_for_tier(1);
    let calls = till.end();
    assert_eq!(calls.failed(), 0);
    assert!(calls.slowest() < Duration::from_millis(2500), "{:?}", calls.slowest());
}

#[test]
fn a_hedged_call_does_not_wait_for_a_slow_replica() {
    let scene = Scene::new(&format!("{SHARED_KEY}      retry: {{hedge: {{after: 100ms}}}}\n"));
    scene.local.turn(Mood::Slow);
    let called = call(scene.gateway.http, 5_000_000, true);
    assert_eq!(called.text, "cloud 5000000");
    eventually("it is known to be slow", || (!scene.status().contains("suspect\"")).then_some(()));
    let unkeyed = call(scene.gateway.http, 5_000_001, false);
    assert_eq!(unkeyed.text, "local 5000001", "it must not be executed twice");
}

#[test]
fn a_session_stays_where_it_began_until_that_is_out() {
    let persistence = "      sessionPersistence: {type: Header, sessionName: X-Basket}\n      \
                       failover: {holdDown: 300ms, ramp: 0s}\n";
    let mut scene = Scene::new(persistence);
    let ask = |basket: Option<&str>| {
        let basket = basket.map_or(String::new(), |basket| format!("X-Basket: {basket}\r\n"));
        let reply = scene.gateway.ask(&format!(
            "POST /price HTTP/1.1\r\nHost: pay.example\r\nX-Call: b\r\n{basket}Content-Length: \
             0\r\n\r\n"
        ));
        (reply.text(), reply.header("x-basket").map(str::to_owned))
    };
    let (text, basket) = ask(None);
    let basket = basket.expect("a session begins");
    assert_eq!((text.as_str(), ask(Some(&basket)).0.as_str()), ("local b", "local b"));
    scene.local.kill();
    scene.wait_for_tier(1);
    let ask = |basket: &str| {
        let reply = scene.gateway.ask(&format!(
            "POST /price HTTP/1.1\r\nHost: pay.example\r\nX-Call: b\r\nX-Basket: \
             {basket}\r\nContent-Length: 0\r\n\r\n"
        ));
        (reply.text(), reply.header("x-basket").map(str::to_owned))
    };
    let (text, moved) = ask(&basket);
    let moved = moved.expect("it begins anew");
    assert_eq!(text, "cloud b");
    scene.local.revive();
    let till = scene.till(false);
    scene.wait_for_tier(0);
    drop(till.end());
    assert_eq!(ask(&moved).0, "cloud b", "a failback moves no session");
}

#[test]
fn data_that_is_too_old_is_not_used() {
    let scene = Scene::new("      failover: {maxDataAge: 1m}\n");
    scene.local.data_is_old(55);
    eventually("the age is known", || scene.status().contains("dataAgeSeconds\":5").then_some(()));
    assert!(call(scene.gateway.http, 3_000_000, false).text.starts_with("local"));
    scene.local.data_is_old(61);
    scene.wait_for_tier(1);
    assert!(scene.status().contains("data_too_old"), "{}", scene.status());
    assert!(call(scene.gateway.http, 3_000_001, false).text.starts_with("cloud"));
}

#[test]
fn a_reload_keeps_what_is_known() {
    let mut scene = Scene::new("");
    scene.local.kill();
    let till = scene.till(false);
    scene.wait_for_tier(1);
    till.wait(3);
    let changed = policy(&scene.local, &scene.cloud, "      rateLimits: [{requests: 10000}]\n");
    scene.gateway.control.reload(compiled(&changed)).expect("a good config");
    till.wait(5);
    assert!(scene.status().contains("\"activeTier\":1"), "{}", scene.status());
    drop(till.end());
}

#[test]
fn the_access_log_names_every_try() {
    let telemetry = |path: &str| {
        format!(
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: TelemetryPolicy\nmetadata: {{name: \
             all}}\nspec:\n  accessLogOutput: {{path: {path}}}\n  accessLogging:\n    - \
             {{trafficClasses: \
             [\"*\"], sampling: 100%}}\n"
        )
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let (mut local, cloud) = (Moody::start("local"), Moody::start("cloud"));
    let text = policy(&local, &cloud, "") + &telemetry(&path.display().to_string());
    let gateway = Gateway::start(compiled(&text));
    local.kill();
    assert!(call(gateway.http, 4_000_000, false).text.starts_with("cloud"));
    let line = eventually("the line is written", || {
        std::fs::read_to_string(&path).ok().filter(|text| text.contains("earlier_tries"))
    });
    assert!(line.contains("\"earlier_tries\":\"pricing-local 127.0.0.1:"), "{line}");
    assert!(line.contains("connect_refused\""), "{line}");
}

#[test]
fn answers_to_calls_say_how_old_the_data_is_too() {
    let scene = Scene::new("      failover: {maxDataAge: 1m}\n");
    scene.local.answers_are_old(61);
    assert!(call(scene.gateway.http, 6_000_000, false).text.starts_with("local"));
    scene.wait_for_tier(1);
    assert!(call(scene.gateway.http, 6_000_001, false).text.starts_with("cloud"));
}

#[test]
fn a_server_that_asks_for_time_gets_it_or_is_not_asked_again() {
    let scene = Scene::new(&format!("{OWN_KEY}      retry: {{codes: [503]}}\n"));
    scene.local.turn(Mood::Failing);
    scene.local.asks_for_time(60);
    let called = call(scene.gateway.http, 7_000_000, true);
    assert_eq!(called.status, 503, "its client does not wait for a minute");
    assert!(called.took < Duration::from_secs(1), "{:?}", called.took);
    scene.local.asks_for_time(1);
    let asked = std::thread::spawn({
        let address = scene.gateway.http;
        move || call(address, 7_000_001, true)
    });
    let tries = "tillgate_retries_total{route=\"pricing\",reason=\"answer\"}";
    scene.gateway.expect_metric(tries, 1.0);
    scene.local.turn(Mood::Well);
    let called = asked.join().expect("no panic");
    assert_eq!(called.text, "local 7000001");
    assert!(called.took >= Duration::from_secs(1), "{:?}", called.took);
}

/// The policy with a bound on the local backend.
fn bounded(local: &Moody, cloud: &Moody, bound: &str) -> String {
    let check = "  healthCheck:\n";
    policy(local, cloud, "").replacen(check, &format!("  circuitBreaker: {bound}\n{check}"), 1)
}

#[test]
fn a_backend_takes_as_many_calls_as_it_may_and_says_so_at_once() {
    let (local, cloud) = (Moody::start("local"), Moody::start("cloud"));
    let bound = "{maxParallelRequests: 1, maxPendingRequests: 0}";
    let gateway = Gateway::start(compiled(&bounded(&local, &cloud, bound)));
    local.turn(Mood::Slow);
    let address = gateway.http;
    let first = std::thread::spawn(move || call(address, 8_000_000, false));
    eventually("it is executed", || (!local.ledger().is_empty()).then_some(()));
    let mut wire = gateway.wire();
    wire.send("POST /price HTTP/1.1\r\nHost: pay.example\r\nContent-Length: 0\r\n\r\n");
    let refused = wire.reply();
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.text().contains("backend_full"), "{}", refused.text());
    assert_eq!(first.join().expect("no panic").text, "local 8000000");
}

#[test]
fn calls_that_queue_for_a_frozen_backend_leave_for_the_next_tier() {
    let (local, cloud) = (Moody::start("local"), Moody::start("cloud"));
    let bound = "{maxParallelRequests: 1, maxPendingRequests: 100}";
    let gateway = Gateway::start(compiled(&bounded(&local, &cloud, bound)));
    assert!(call(gateway.http, 9_000_000, false).text.starts_with("local"));
    local.turn(Mood::Frozen);
    let address = gateway.http;
    let asked = (1..=20).map(|id| std::thread::spawn(move || call(address, 9_000_000 + id, false)));
    let asked: Vec<_> = asked.collect();
    let calls = Calls(asked.into_iter().map(|call| call.join().expect("no panic")).collect());
    assert!(calls.failed() <= 1, "only the one that had the place: {}", calls.failed());
    assert!(calls.by("cloud") >= 19, "{}", calls.by("cloud"));
    local.turn(Mood::Well);
    assert!(local.ledger().len() <= 2, "{:?}", local.ledger());
}

#[test]
fn an_endpoint_that_a_reload_removes_has_no_gauge() {
    let scene = Scene::new("");
    let gauge = |server: &Moody| format!("endpoint=\"{}\"}} 1", server.address);
    let shows = |server: &Moody| scene.gateway.admin("/metrics").text().contains(&gauge(server));
    assert!(shows(&scene.local));
    let other = Moody::start("other");
    let changed = policy(&other, &scene.cloud, "");
    scene.gateway.control.reload(compiled(&changed)).expect("a good config");
    assert!(shows(&other) && shows(&scene.cloud) && !shows(&scene.local));
}

/// A server of HTTP/2 in frames; `serve` gets each connection after its greeting.
fn frames(serve: impl Fn(Frames, usize) + Send + Sync + 'static) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || {
                let mut frames = Frames::new(stream);
                frames.preface();
                frames.greet(&[]);
                serve(frames, number);
            });
        }
    });
    address
}

/// One backend of gRPC, one endpoint.
fn single(address: std::net::SocketAddr) -> String {
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Europe/Oslo\n  links: [{{name: primary, capacity: {{up: 5Mbit/s, down: \
         20Mbit/s}}}}]\n---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: \
         rpc}}\nspec:\n  location: Local\n  protocol: GRPC\n  endpoints: [{{ip: {{address: \
         127.0.0.1, port: {}}}}}]\n  healthCheck: {{active: {{http: {{path: /health}}, interval: \
         200ms, timeout: 200ms, unhealthyThreshold: 2}}}}\n---\napiVersion: \
         tillgate.dev/v1alpha1\nkind: ServiceRoute\nmetadata: {{name: rpc}}\nspec:\n  hostnames: \
         [rpc.example]\n  trafficClass: payment\n  rules:\n    - name: all\n      backendRefs: \
         [{{name: rpc}}]\n",
        address.port()
    )
}

/// A call by gRPC, as the fields of its head.
fn grpc_head() -> Vec<u8> {
    fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/s/Pay"),
        (":authority", "rpc.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// `:status: 200`, then the field.
fn grpc_answer(name: &str, value: &str) -> Vec<u8> {
    let kind = field("content-type", "application/grpc");
    [vec![0x88], kind, field(name, value)].concat()
}

/// Answers probes, which have no body; the next call's stream, when its request is there.
fn next_call(frames: &mut Frames) -> Option<u32> {
    loop {
        let frame = frames.frame()?;
        let is_whole = frame.flags & flag::END_STREAM != 0;
        if frame.kind == kind::HEADERS && is_whole {
            let all = flag::END_HEADERS | flag::END_STREAM;
            frames.send(kind::HEADERS, all, frame.stream, grpc_answer("x-probe", "1"));
        } else if frame.kind == kind::DATA && is_whole {
            return Some(frame.stream);
        }
    }
}

#[test]
fn a_call_that_its_only_server_did_not_look_at_goes_there_on_a_new_connection() {
    for refuses in [false, true] {
        let (tell, told) = mpsc::channel();
        let (turned_away, tell) = (AtomicBool::new(false), Mutex::new(tell));
        let address = frames(move |mut frames, number| {
            while let Some(stream) = next_call(&mut frames) {
                let _ = tell.lock().expect("no panic").send(number);
                let first = !turned_away.swap(true, Ordering::SeqCst);
                match (first, refuses) {
                    (true, true) => {
                        let refused = code::REFUSED_STREAM.to_be_bytes();
                        frames.send(kind::RST_STREAM, flag::NONE, stream, refused);
                    }
                    (true, false) => {
                        // The last one that it has looked at is none of ours.
                        frames.send(kind::GOAWAY, flag::NONE, 0, [0; 8]);
                        return;
                    }
                    (false, _) => {
                        let all = flag::END_HEADERS | flag::END_STREAM;
                        let answer = grpc_answer("grpc-status", "0");
                        frames.send(kind::HEADERS, all, stream, answer);
                    }
                }
            }
        });
        let gateway = Gateway::start(compiled(&single(address)));
        let request = http::Request::post("http://rpc.example/s/Pay")
            .header("content-type", "application/grpc")
            .body(http_body_util::Full::from(&b"\0\0\0\0\0"[..]))
            .expect("a valid request");
        let answer = h2::Client::connect(gateway.http).ask(request);
        let status = answer.head.headers.get("grpc-status").map(http::HeaderValue::as_bytes);
        assert_eq!(status, Some(&b"0"[..]), "refuses {refuses}: {answer:?}");
        let connections: Vec<usize> = told.try_iter().collect();
        assert_eq!(connections.len(), 2, "it was sent twice and executed once");
        assert_ne!(connections[0], connections[1], "refuses {refuses}");
    }
}

#[test]
fn a_stream_on_a_server_that_is_out_ends_though_its_client_talks() {
    let frozen = Arc::<AtomicBool>::default();
    let freezes = Arc::clone(&frozen);
    let address = frames(move |mut frames, _| {
        while let Some(frame) = frames.frame() {
            if frame.kind != kind::HEADERS || freezes.load(Ordering::SeqCst) {
                continue;
            }
            let is_probe = frame.flags & flag::END_STREAM != 0;
            let flags = flag::END_HEADERS | if is_probe { flag::END_STREAM } else { flag::NONE };
            frames.send(kind::HEADERS, flags, frame.stream, grpc_answer("x-probe", "1"));
        }
    });
    let gateway = Gateway::start(compiled(&single(address)));
    let mut client = Frames::connect(gateway.http);
    client.send(kind::HEADERS, flag::END_HEADERS, 1, grpc_head());
    client.until(kind::HEADERS);
    frozen.store(true, Ordering::SeqCst);
    let series = "tillgate_failures_total{class=\"payment\",reason=\"backend_ejected\"}";
    eventually("the stream is ended", || {
        client.send(kind::DATA, flag::NONE, 1, [0, 0, 0, 0, 0]);
        (gateway.metric(series) > 0.5).then_some(())
    });
    assert_eq!(client.ping().err().filter(|end| *end == End::Closed), None, "the client's own");
}

/// A server across a line that can be cut: packets of what was open then arrive nowhere any more,
/// as behind a router that was switched.
struct Far {
    address: std::net::SocketAddr,
    cut: Arc<AtomicBool>,
    /// Connections that were open before the last cut are dead.
    era: Arc<AtomicUsize>,
}

impl Far {
    fn start() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&any().into()).expect("a free port");
        // The fewer wait to be accepted, the sooner nobody else gets an answer.
        socket.listen(1).expect("a bound socket listens");
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().expect("a bound socket");
        let (cut, era) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (is_cut, now) = (Arc::clone(&cut), Arc::clone(&era));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (born, now) = (now.load(Ordering::SeqCst), Arc::clone(&now));
                std::thread::spawn(move || serve_far(&mut Wire::new(stream), born, &now));
                while is_cut.load(Ordering::SeqCst) {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            }
        });
        Self { address, cut, era }
    }

    /// Nothing comes back from here on, not even to who wants to connect.
    fn cut(&self) -> Vec<std::net::TcpStream> {
        self.cut.store(true, Ordering::SeqCst);
        self.era.fetch_add(1, Ordering::SeqCst);
        let brief = Duration::from_millis(100);
        let connect = || std::net::TcpStream::connect_timeout(&self.address, brief).ok();
        std::iter::from_fn(connect).take(64).collect()
    }

    fn mend(&self, waiting: Vec<std::net::TcpStream>) {
        drop(waiting);
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn serve_far(wire: &mut Wire, born: usize, era: &AtomicUsize) {
    while wire.waits_for_more() {
        wire.reply();
        if era.load(Ordering::SeqCst) != born {
            // It keeps the connection, and nothing ever comes across it again.
            std::thread::park_timeout(tillgate_tests::PATIENCE);
            return;
        }
        if !wire.try_send(format!("HTTP/1.1 200 OK\r\nX-Era: {born}\r\nContent-Length: 0\r\n\r\n"))
        {
            return;
        }
    }
}

/// Connections are replaced, not asked by PING whether they live: an answer to a PING takes as
/// long as a new connection, and one that gets none has to be replaced after that.
#[test]
fn after_a_line_was_down_no_call_meets_a_connection_from_before() {
    let far = Far::start();
    let mut effective = compiled(&single(far.address).replace("protocol: GRPC", "protocol: HTTP"));
    // A policy may not say so of an address of this machine.
    effective.backends[0].location = Location::Cloud;
    let gateway = Gateway::start(effective);
    let ask = || {
        let reply = gateway.ask("GET / HTTP/1.1\r\nHost: rpc.example\r\n\r\n");
        (reply.status, reply.header("x-era").map(str::to_owned))
    };
    assert_eq!(ask(), (200, Some("0".to_owned())));
    let waiting = far.cut();
    gateway.expect_metric("tillgate_link_down{link=\"primary\"}", 1.0);
    far.mend(waiting);
    gateway.expect_metric("tillgate_link_down{link=\"primary\"}", 0.0);
    let began = tillgate_tests::now();
    assert_eq!(ask(), (200, Some("1".to_owned())));
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[test]
fn a_server_across_a_line_that_is_frozen_is_not_the_lines_fault() {
    let server = Moody::start("cloud");
    let text = single(server.address).replace("protocol: GRPC", "protocol: HTTP");
    let mut effective = compiled(&text);
    effective.backends[0].location = Location::Cloud;
    let gateway = Gateway::start(effective);
    let state = || gateway.admin("/v1/status").text();
    eventually("it was probed on a connection that is kept", || {
        gateway.admin("/metrics").text().contains("result=\"good\"} 2").then_some(())
    });
    server.turn(Mood::Frozen);
    eventually("it is out", || state().contains("\"state\":\"out\"").then_some(()));
    assert!(state().contains("probe_timeout"), "its kernel takes connections: {}", state());
    assert!(gateway.metric("tillgate_link_down{link=\"primary\"}") < 0.5);
}

/// A server of gRPC that answers calls with this status, as soon as it may.
fn status_server(status: &'static str, may: mpsc::Receiver<()>) -> std::net::SocketAddr {
    let may = Mutex::new(may);
    frames(move |mut frames, _| {
        while let Some(stream) = next_call(&mut frames) {
            let _ = may.lock().expect("no panic").recv_timeout(tillgate_tests::PATIENCE);
            let all = flag::END_HEADERS | flag::END_STREAM;
            frames.send(kind::HEADERS, all, stream, grpc_answer("grpc-status", status));
        }
    })
}

/// What the status says of what failed last at the second server.
fn status_of_cloud(gateway: &Gateway) -> String {
    let text = gateway.admin("/v1/status").text();
    text[text.find("pricing-cloud").unwrap_or(0)..].to_owned()
}

#[test]
fn a_hedge_that_fails_in_grpcs_words_does_not_win() {
    let (answer_slow, slow) = mpsc::channel();
    let (answer_fast, fast) = mpsc::channel();
    let [local, cloud] =
        [("0", slow), ("14", fast)].map(|(status, may)| status_server(status, may));
    let (a, b) = (Moody::start("a"), Moody::start("b"));
    let rule = format!("{SHARED_KEY}      retry: {{hedge: {{after: 100ms}}}}\n");
    let text = policy(&a, &b, &rule)
        .replace(&format!("port: {}", a.address.port()), &format!("port: {}", local.port()))
        .replace(&format!("port: {}", b.address.port()), &format!("port: {}", cloud.port()))
        .replace("protocol: HTTP", "protocol: GRPC");
    let gateway = Gateway::start(compiled(&text));
    let (http, hedges) =
        (gateway.http, "tillgate_retries_total{route=\"pricing\",reason=\"hedge\"}");
    let asked = std::thread::spawn(move || {
        let request = http::Request::post("http://pay.example/s/Pay")
            .header("content-type", "application/grpc")
            .header("idempotency-key", "7")
            .body(http_body_util::Full::from(&b"\0\0\0\0\0"[..]))
            .expect("a valid request");
        h2::Client::connect(http).ask(request)
    });
    gateway.expect_metric(hedges, 1.0);
    answer_fast.send(()).expect("the second server waits");
    eventually("the second answer has come", || {
        status_of_cloud(&gateway).contains("gateway_errors").then_some(())
    });
    answer_slow.send(()).expect("the first server waits");
    let answer = asked.join().expect("no panic");
    let status = answer.head.headers.get("grpc-status").map(http::HeaderValue::as_bytes);
    assert_eq!(status, Some(&b"0"[..]), "{answer:?}");
}

//! Two servers with moods, a gateway, and a till that calls all the time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tillgate_config::effective::ListenerProtocol;
use tillgate_config::{Effective, load_text};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::moody::{Mood, Moody};
use tillgate_tests::wire::Wire;
use tillgate_tests::{dawdle, eventually, now};

/// The pace of a till: 25 calls a second.
const PACE: Duration = Duration::from_millis(40);

/// Calls that all backends know by their key: as many as there are may be repeated at once.
pub(crate) const SHARED_KEY: &str = "      idempotency: {header: Idempotency-Key, scope: \
                                     AllBackends}\n      failover: {holdDown: 10m, \
                                     minRetriesPerSecond: 1000}\n";
/// What has failed does not come back while a test lasts.
pub(crate) const STAYS: &str = "      failover: {holdDown: 10m}\n";
pub(crate) const OWN_KEY: &str = "      idempotency: {header: Idempotency-Key, scope: Backend}\n";

/// The least that a failover takes, with the servers where they are here; both inside the store, so
/// that no line is needed. A pause of two seconds is no failure.
pub(crate) fn policy(local: SocketAddr, cloud: SocketAddr, rule: &str) -> String {
    let backend = |name: &str, address: SocketAddr| {
        format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\nspec:\n  \
             location: Local\n  protocol: HTTP\n  endpoints: [{{ip: {{address: 127.0.0.1, port: \
             {}}}}}]\n  healthCheck:\n    active: {{http: {{path: /health}}, interval: 200ms, \
             timeout: 2s, unhealthyThreshold: 2, healthyThreshold: 2}}\n    passive: {{stall: \
             {{floor: 2s}}}}\n    dataAge: {{header: X-Data-Age}}\n---\n",
            address.port()
        )
    };
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Europe/Oslo\n  links: [{{name: primary, capacity: {{up: 5Mbit/s, down: \
         20Mbit/s}}}}]\n  gateway: {{workers: 2}}\n---\n{}{}apiVersion: \
         tillgate.dev/v1alpha1\nkind: \
         ServiceRoute\nmetadata: {{name: pricing}}\nspec:\n  hostnames: [pay.example]\n  \
         trafficClass: payment\n  rules:\n    - name: all\n      timeouts: {{request: 30s}}\n      \
         backendRefs: [{{name: pricing-local}}, {{name: pricing-cloud, fallback: true}}]\n{rule}",
        backend("pricing-local", local),
        backend("pricing-cloud", cloud),
    )
}

/// One backend, one endpoint.
pub(crate) fn single(address: SocketAddr, protocol: &str) -> String {
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Europe/Oslo\n  links: [{{name: primary, capacity: {{up: 5Mbit/s, down: \
         20Mbit/s}}}}]\n---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: \
         rpc}}\nspec:\n  location: Local\n  protocol: {protocol}\n  endpoints: [{{ip: {{address: \
         127.0.0.1, port: {}}}}}]\n  healthCheck: {{active: {{http: {{path: /health}}, interval: \
         200ms, timeout: 2s, unhealthyThreshold: 2}}}}\n---\napiVersion: \
         tillgate.dev/v1alpha1\nkind: ServiceRoute\nmetadata: {{name: rpc}}\nspec:\n  hostnames: \
         [rpc.example]\n  trafficClass: payment\n  rules:\n    - name: all\n      backendRefs: \
         [{{name: rpc}}]\n",
        address.port()
    )
}

pub(crate) fn compiled(text: &str) -> Effective {
    let config = load_text("store.yaml", text).unwrap_or_else(|report| panic!("{report}"));
    config
        .with_listener(ListenerProtocol::Http, any())
        .with_listener(ListenerProtocol::ForwardProxy, any())
        .with_listener(ListenerProtocol::Admin, any())
}

pub(crate) fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Two servers and a gateway between them and a till.
pub(crate) struct Scene {
    pub(crate) local: Moody,
    pub(crate) cloud: Moody,
    pub(crate) gateway: Gateway,
}

impl Scene {
    pub(crate) fn new(rule: &str) -> Self {
        Self::with(rule, "2s")
    }

    /// One that suspects silence as soon as stores do. What is repeated bears a mistake; a rule
    /// without a shared key does not.
    pub(crate) fn keen(rule: &str) -> Self {
        Self::with(rule, "100ms")
    }

    fn with(rule: &str, floor: &str) -> Self {
        let (local, cloud) = (Moody::start("local"), Moody::start("cloud"));
        let text = policy(local.address, cloud.address, rule)
            .replace("stall: {floor: 2s}", &format!("stall: {{floor: {floor}}}"));
        let gateway = Gateway::start(compiled(&text));
        let scene = Self { local, cloud, gateway };
        // The habits of the servers are known after a second of steady calls.
        let till = scene.till(true);
        eventually("habits are known", || {
            let status = scene.status();
            let mut told = status.split("\"suspiciousSilenceMs\":").skip(1);
            told.any(|rest| rest.starts_with(|first: char| first.is_ascii_digit())).then_some(())
        });
        assert_eq!(till.end().failed(), 0);
        scene
    }

    pub(crate) fn till(&self, keyed: bool) -> Till {
        Till::start(self.gateway.http, keyed)
    }

    pub(crate) fn status(&self) -> String {
        self.gateway.admin("/v1/status").text()
    }

    /// A till calls while the first server turns, until calls go to the second; what came of it.
    pub(crate) fn turn(&self, mood: Mood, keyed: bool, calls: usize) -> Calls {
        let till = self.till(keyed);
        till.wait(10);
        self.local.turn(mood);
        till.wait(calls);
        self.end_in_tier_1(till)
    }

    /// Waits until calls go to the second server; what came of the till's. None of those that
    /// began afterwards has failed.
    #[track_caller]
    pub(crate) fn end_in_tier_1(&self, till: Till) -> Calls {
        self.wait_for_tier(1);
        let since = now();
        till.wait(5);
        let calls = till.end();
        assert_eq!(calls.failed_since(since), 0, "of those that began in tier 1");
        calls
    }

    #[track_caller]
    pub(crate) fn wait_for_tier(&self, tier: u32) {
        let wanted = format!("\"activeTier\":{tier}");
        eventually(&wanted, || self.status().contains(&wanted).then_some(()));
    }

    /// No call is in both ledgers, or twice in one.
    #[track_caller]
    pub(crate) fn expect_no_second_execution(&self) {
        let mut all = [self.local.ledger(), self.cloud.ledger()].concat();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "a call was executed twice");
    }
}

/// A till that calls every 40 ms, each call on a connection of its own.
pub(crate) struct Till {
    over: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Called>>>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

impl Called {
    pub(crate) const fn has_failed(&self) -> bool {
        self.status != 200
    }
}

pub(crate) struct Calls(pub(crate) Vec<Called>);

impl Calls {
    pub(crate) fn failed(&self) -> usize {
        self.0.iter().filter(|call| call.has_failed()).count()
    }

    /// Of those that began then or later.
    pub(crate) fn failed_since(&self, since: Instant) -> usize {
        self.0.iter().filter(|call| call.began >= since && call.has_failed()).count()
    }

    pub(crate) fn by(&self, name: &str) -> usize {
        self.0.iter().filter(|call| call.text.starts_with(name)).count()
    }
}

static NEXT_CALL: AtomicUsize = AtomicUsize::new(0);

impl Till {
    pub(crate) fn start(address: SocketAddr, keyed: bool) -> Self {
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
                dawdle(PACE);
            }
            under_way.into_iter().for_each(|call| call.join().expect("no panic"));
        });
        Self { over, calls, thread }
    }

    /// Until so many calls are answered that begin from here on.
    #[track_caller]
    pub(crate) fn wait(&self, calls: usize) {
        let since = now();
        eventually("calls are answered", || {
            let made = self.calls.lock().expect("no panic");
            (made.iter().filter(|call| call.began >= since).count() >= calls).then_some(())
        });
    }

    pub(crate) fn end(self) -> Calls {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic");
        Calls(self.calls.lock().expect("no panic").clone())
    }
}

pub(crate) fn call(address: SocketAddr, id: usize, keyed: bool) -> Called {
    let began = now();
    let key = if keyed { format!("Idempotency-Key: {id}\r\n") } else { String::new() };
    let mut wire = Wire::connect(address);
    wire.send(format!(
        "POST /price HTTP/1.1\r\nHost: pay.example\r\nX-Call: {id}\r\n{key}Content-Length: \
         5\r\n\r\nhello"
    ));
    let reply = wire.reply();
    Called { status: reply.status, text: reply.text(), began, ended: now() }
}

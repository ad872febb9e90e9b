//! Two servers with moods, a gateway, and a till that calls all the time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tillgate_config::effective::ListenerProtocol;
use tillgate_config::{Effective, load_text};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::moody::{Mood, Moody};
use tillgate_tests::wire::Wire;
use tillgate_tests::{dawdle, eventually};

/// The pace of a till: 25 calls a second.
const PACE: Duration = Duration::from_millis(40);

pub(crate) const SHARED_KEY: &str =
    "      idempotency: {header: Idempotency-Key, scope: AllBackends}\n";
pub(crate) const OWN_KEY: &str = "      idempotency: {header: Idempotency-Key, scope: Backend}\n";

/// The least that a failover takes, with the servers where they are here; both inside the store, so
/// that no line is needed.
pub(crate) fn policy(local: SocketAddr, cloud: SocketAddr, rule: &str) -> String {
    let backend = |name: &str, address: SocketAddr| {
        format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\nspec:\n  \
             location: Local\n  protocol: HTTP\n  endpoints: [{{ip: {{address: 127.0.0.1, port: \
             {}}}}}]\n  healthCheck:\n    active: {{http: {{path: /health}}, interval: 200ms, \
             timeout: 200ms, unhealthyThreshold: 2, healthyThreshold: 2}}\n    dataAge: {{header: \
             X-Data-Age}}\n---\n",
            address.port()
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

/// One backend, one endpoint.
pub(crate) fn single(address: SocketAddr, protocol: &str) -> String {
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Europe/Oslo\n  links: [{{name: primary, capacity: {{up: 5Mbit/s, down: \
         20Mbit/s}}}}]\n---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: \
         rpc}}\nspec:\n  location: Local\n  protocol: {protocol}\n  endpoints: [{{ip: {{address: \
         127.0.0.1, port: {}}}}}]\n  healthCheck: {{active: {{http: {{path: /health}}, interval: \
         200ms, timeout: 200ms, unhealthyThreshold: 2}}}}\n---\napiVersion: \
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
        let (local, cloud) = (Moody::start("local"), Moody::start("cloud"));
        let gateway = Gateway::start(compiled(&policy(local.address, cloud.address, rule)));
        let scene = Self { local, cloud, gateway };
        // The habits of the servers are known after a second of steady calls.
        let till = scene.till(false);
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
        self.wait_for_tier(1);
        till.end()
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
    pub(crate) took: Duration,
}

pub(crate) struct Calls(pub(crate) Vec<Called>);

impl Calls {
    pub(crate) fn failed(&self) -> usize {
        self.0.iter().filter(|call| call.status != 200).count()
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

    pub(crate) fn wait(&self, calls: usize) {
        let begun = self.calls.lock().expect("no panic").len();
        eventually("calls are answered", || {
            (self.calls.lock().expect("no panic").len() >= begun + calls).then_some(())
        });
    }

    pub(crate) fn end(self) -> Calls {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic");
        Calls(self.calls.lock().expect("no panic").clone())
    }
}

pub(crate) fn call(address: SocketAddr, id: usize, keyed: bool) -> Called {
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

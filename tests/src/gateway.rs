//! A whole gateway in this process, on ports of the kernel's choice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tillgate::{Control, build_resolving};
use tillgate_config::effective::Effective;
use tillgate_net::upstream::Resolver;

use crate::wire::{Reply, Wire};

/// A running gateway; it is ended when this is dropped.
pub struct Gateway {
    /// The HTTP entry.
    pub http: SocketAddr,
    /// The forward proxy.
    pub forward: SocketAddr,
    /// Probes, metrics, status.
    pub admin: SocketAddr,
    /// Every listener, by name.
    pub listeners: BTreeMap<String, SocketAddr>,
    /// To reload and drain it.
    pub control: Control,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Runs a gateway with `effective`.
    ///
    /// # Panics
    /// If it cannot start.
    pub fn start(effective: Effective) -> Self {
        Self::start_resolving(effective, Arc::default())
    }

    /// The same, with another way to look names up.
    ///
    /// # Panics
    /// If it cannot start.
    pub fn start_resolving(effective: Effective, resolver: Arc<Resolver>) -> Self {
        let endpoint = effective.config_endpoint().into_iter().map(|endpoint| &endpoint.listener);
        let all = effective.listeners.iter().chain(endpoint);
        let names: Vec<_> = all.map(|spec| spec.name.clone()).collect();
        let bound = build_resolving(effective, resolver).expect("the config can be served");
        let address = |name: &str| bound.address(name).expect("every listener is bound");
        let listeners = names.iter().map(|name| (name.to_string(), address(name))).collect();
        let (http, forward, admin) = (address("http"), address("forward-proxy"), address("admin"));
        let control = bound.control();
        let thread = std::thread::spawn(move || {
            bound.run(std::future::pending()).expect("threads can be had");
        });
        let gateway = Self { http, forward, admin, listeners, control, thread: Some(thread) };
        crate::eventually("the gateway is ready", || {
            (gateway.admin("/readyz").status == 200).then_some(())
        });
        gateway
    }

    /// Asks the admin listener.
    pub fn admin(&self, path: &str) -> Reply {
        let mut wire = Wire::connect(self.admin);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"));
        wire.reply()
    }

    /// The value of one series in a scrape, 0 if it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// Waits until a series has this value.
    #[track_caller]
    pub fn expect_metric(&self, series: &str, value: f64) {
        let what = format!("{series} is {value}");
        crate::eventually(&what, || ((self.metric(series) - value).abs() < 1e-9).then_some(()));
    }

    /// A connection to the HTTP entry.
    pub fn wire(&self) -> Wire {
        Wire::connect(self.http)
    }

    /// Sends one request to the HTTP entry and reads the whole answer.
    pub fn ask(&self, request: &str) -> Reply {
        let mut wire = self.wire();
        wire.send(request);
        wire.reply()
    }

    /// Waits until the gateway has ended by itself.
    pub fn ended(&mut self) {
        let thread = self.thread.take().expect("ended once");
        crate::eventually("the gateway has ended", || thread.is_finished().then_some(()));
        thread.join().expect("no panic");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the gateway panicked");
        }
    }
}

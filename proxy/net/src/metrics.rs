//! Instruments of the data plane: one registry, and handles that are resolved once.
//!
//! Whoever compiles a config asks here for the handles of its routes, classes and backends and
//! keeps them; on the path of a request there is no lookup. Labels are closed sets: names from
//! the policy, our own reasons, and a fixed list of status codes ([`CODES`]); never a host, a
//! path or a client. Gauges move through [`Held`] guards, so that no path forgets to go down.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tillgate_core::units::{Direction, PerDirection};

use crate::error::TABLE;
use crate::http::server::NotTaken;

mod endpoint;
mod failover;
mod floods;
mod known;
mod lines;
mod meters;
mod mirror;
mod policy;
mod report;
mod rollouts;
mod telemetry;
mod tls;

pub use self::endpoint::{Answered, EndpointMeters, Enrolled, InstanceState};
pub use self::failover::FailoverMeters;
pub use self::floods::FloodMeter;
pub use self::lines::LineCollector;
pub use self::meters::{ClassMeter, Held, ListenerMeter, RequestMeter, UpstreamMeter};
pub use self::mirror::{MirrorMeters, Served};
pub use self::policy::{Applying, PolicyMeters, SourceMeter};
pub use self::report::ReportMeters;
pub use self::rollouts::RolloutMeters;
pub use self::telemetry::TelemetryMeters;
pub use self::tls::TlsMeters;
pub(crate) use self::tls::{TlsFileMeter, TlsListenerMeter};

/// A label value: a name from the policy.
pub type Label = Arc<str>;

/// Status codes that get their own series; every other one is counted as `other`, and a request
/// that ended without an answer as `none`.
pub const CODES: [u16; 38] = [
    101, 200, 201, 202, 203, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406,
    408, 409, 410, 411, 412, 413, 414, 415, 417, 422, 425, 429, 431, 500, 501, 502, 503, 504, 507,
];

/// Upper bounds of the request duration in seconds: 1 ms (a local call) to 60 s (a till's own
/// limit), about three to a decade, finer where a payment's added delay is judged.
const DURATION_BUCKETS: [f64; 17] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 15.0,
    60.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    class: Label,
    route: Label,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    class: Label,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    class: Label,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerReasonLabels {
    listener: Label,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FloodLabels {
    listener: Label,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    backend: Label,
    class: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DialFailureLabels {
    backend: Label,
    class: Label,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DigestLabels {
    digest: Label,
}

type Durations = Family<ClassLabels, Histogram, fn() -> Histogram>;

/// Every instrument of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    duration: Durations,
    in_flight: Family<ClassLabels, Gauge>,
    lasting: Family<ClassLabels, Gauge>,
    failures: Family<FailureLabels, Counter>,
    bytes: Family<BytesLabels, Counter>,
    tunnels: Family<ClassLabels, Gauge>,
    connections: Family<ListenerLabels, Gauge>,
    accepted: Family<ListenerLabels, Counter>,
    refused: Family<ListenerLabels, Counter>,
    crowded: Family<ListenerLabels, Counter>,
    client_timeouts: Family<ListenerLabels, Counter>,
    not_taken: Family<ListenerReasonLabels, Counter>,
    rejected: Family<ListenerReasonLabels, Counter>,
    datagrams_dropped: Family<ListenerReasonLabels, Counter>,
    floods: Family<FloodLabels, Counter>,
    malformed: Family<ListenerLabels, Counter>,
    upstream: Family<UpstreamLabels, Gauge>,
    dials: Family<UpstreamLabels, Counter>,
    reuses: Family<UpstreamLabels, Counter>,
    dial_failures: Family<DialFailureLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    config: Family<DigestLabels, Gauge>,
    tls: Arc<TlsMeters>,
    /// Panics that ended one connection each.
    pub panics: Counter,
}

/// What the program was built of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
    /// The version of the policy language that it reads.
    pub schema_version: &'static str,
    /// The version of its database of time zones.
    pub tzdb: &'static str,
}

impl From<&'static str> for Build {
    fn from(version: &'static str) -> Self {
        Self { version, ..Self::default() }
    }
}

impl Metrics {
    /// All instruments, registered, with `build` as the build info.
    pub fn new(build: impl Into<Build>) -> Arc<Self> {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("tillgate")),
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            in_flight: Family::default(),
            lasting: Family::default(),
            failures: Family::default(),
            bytes: Family::default(),
            tunnels: Family::default(),
            connections: Family::default(),
            accepted: Family::default(),
            refused: Family::default(),
            crowded: Family::default(),
            client_timeouts: Family::default(),
            not_taken: Family::default(),
            rejected: Family::default(),
            datagrams_dropped: Family::default(),
            floods: Family::default(),
            malformed: Family::default(),
            upstream: Family::default(),
            dials: Family::default(),
            reuses: Family::default(),
            dial_failures: Family::default(),
            reloads: Family::default(),
            config: Family::default(),
            tls: Arc::default(),
            panics: Counter::default(),
        };
        metrics.register(&build.into());
        Arc::new(metrics)
    }

    /// Instruments of TLS.
    pub const fn tls(&self) -> &Arc<TlsMeters> {
        &self.tls
    }

    /// Adds to what a scrape shows.
    pub fn with_registry<R>(&self, add: impl FnOnce(&mut Registry) -> R) -> R {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The text of a scrape (OpenMetrics).
    ///
    /// # Errors
    /// Only if formatting into memory fails, which it does not.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// Handles for requests of one class on one route.
    pub fn request(&self, class: &Label, route: &Label) -> RequestMeter {
        RequestMeter {
            requests: self.requests.clone(),
            class: Arc::clone(class),
            route: Arc::clone(route),
            codes: [const { OnceLock::new() }; CODES.len() + 2],
        }
    }

    /// Handles for everything that is counted by class alone.
    pub fn class(&self, class: &Label) -> ClassMeter {
        let labels = ClassLabels { class: Arc::clone(class) };
        let bytes = |direction: Direction| {
            let class = Arc::clone(class);
            self.bytes.get_or_create_owned(&BytesLabels { class, direction: direction.label() })
        };
        ClassMeter {
            duration: self.duration.get_or_create_owned(&labels),
            ended: AtomicU64::new(0),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            lasting: self.lasting.get_or_create_owned(&labels),
            tunnels: self.tunnels.get_or_create_owned(&labels),
            bytes: PerDirection { up: bytes(Direction::Up), down: bytes(Direction::Down) },
            failures: self.failures.clone(),
            class: Arc::clone(class),
            reasons: [const { OnceLock::new() }; TABLE.len()],
        }
    }

    /// Handles for one listener.
    pub fn listener(&self, listener: &Label) -> ListenerMeter {
        let labels = ListenerLabels { listener: Arc::clone(listener) };
        // There from the start: an alert on it must not wait for the first one.
        let (listener_label, reason) = (Arc::clone(listener), NotTaken::ProcessFiles.label());
        let files = ListenerReasonLabels { listener: listener_label, reason };
        drop(self.not_taken.get_or_create_owned(&files));
        ListenerMeter {
            connections: self.connections.get_or_create_owned(&labels),
            accepted: self.accepted.get_or_create_owned(&labels),
            refused: self.refused.get_or_create_owned(&labels),
            crowded: self.crowded.get_or_create_owned(&labels),
            timeouts: self.client_timeouts.get_or_create_owned(&labels),
            floods: FloodMeter::new(|kind| {
                let listener = Arc::clone(listener);
                self.floods.get_or_create_owned(&FloodLabels { listener, kind })
            }),
            malformed: self.malformed.get_or_create_owned(&labels),
            panics: self.panics.clone(),
            not_taken: self.not_taken.clone(),
            rejected: self.rejected.clone(),
            datagrams_dropped: self.datagrams_dropped.clone(),
            listener: Arc::clone(listener),
        }
    }

    /// Handles for connections of one class to one backend.
    pub fn upstream(&self, backend: &Label, class: &Label) -> UpstreamMeter {
        let labels = UpstreamLabels { backend: Arc::clone(backend), class: Arc::clone(class) };
        UpstreamMeter {
            open: self.upstream.get_or_create_owned(&labels),
            dials: self.dials.get_or_create_owned(&labels),
            reuses: self.reuses.get_or_create_owned(&labels),
            failures: self.dial_failures.clone(),
            labels,
        }
    }

    /// Counts one attempt to load a config.
    pub fn reloaded(&self, accepted: Result<&Label, ()>) {
        let result = if accepted.is_ok() { "accepted" } else { "rejected" };
        self.reloads.get_or_create_owned(&ReloadLabels { result }).inc();
        if let Ok(digest) = accepted {
            self.config.clear();
            let labels = DigestLabels { digest: Arc::clone(digest) };
            self.config.get_or_create_owned(&labels).set(1);
        }
    }

    fn register(&self, build: &Build) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = [
            ("version", build.version),
            ("schema_version", build.schema_version),
            ("tzdb", build.tzdb),
        ];
        let known = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
        let text = "versions of the running program, of its policy language, of its time zones";
        registry.register("build", text, Info::new(known));
        self.register_requests(&mut registry);
        self.register_connections(&mut registry);
        self.register_upstream(&mut registry);
        self.tls.register(&mut registry);
        registry.register(
            "config_reloads",
            "attempts to load a config, by result",
            self.reloads.clone(),
        );
        registry.register("config", "1 for the digest of the running config", self.config.clone());
        registry.register(
            "panics",
            "panics, each of which ended one connection",
            self.panics.clone(),
        );
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "finished requests and tunnels, by class, route and status code",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "from a request's head to the last byte of its response, by class",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register(
            "requests_in_flight",
            "requests that have begun and not ended, by class",
            self.in_flight.clone(),
        );
        registry.register(
            "class_connections",
            "tunnels, WebSockets, TCP and UDP sessions that have begun and not ended, by class",
            self.lasting.clone(),
        );
        registry.register(
            "failures",
            "requests and tunnels that ended before their time, by class and reason",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "traffic",
            "body and tunnel bytes, by class and direction (up leaves the store)",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "tunnels",
            "open tunnels (CONNECT, TLS passthrough, TCP), by class",
            self.tunnels.clone(),
        );
    }

    fn register_connections(&self, registry: &mut Registry) {
        registry.register(
            "connections",
            "open client connections, by listener",
            self.connections.clone(),
        );
        registry.register(
            "connections_accepted",
            "client connections taken, by listener",
            self.accepted.clone(),
        );
        registry.register(
            "connections_refused",
            "client connections closed at once because the listener is full",
            self.refused.clone(),
        );
        registry.register(
            "connections_crowded",
            "client connections closed at once because their client has as many as it may",
            self.crowded.clone(),
        );
        registry.register(
            "connections_not_taken",
            "client connections that could not be taken (no file or memory left, client gone)",
            self.not_taken.clone(),
        );
        registry.register(
            "connections_timed_out",
            "client connections closed because a request's head or its reader was too slow",
            self.client_timeouts.clone(),
        );
        registry.register(
            "connections_malformed",
            "client connections closed because what came is not HTTP, beyond refused requests",
            self.malformed.clone(),
        );
        registry.register(
            "connections_rejected",
            "client connections closed for what they began with, by listener and reason",
            self.rejected.clone(),
        );
        registry.register(
            "datagrams_dropped",
            "datagrams that went nowhere for a reason other than the line, by listener and reason",
            self.datagrams_dropped.clone(),
        );
        registry.register(
            "http2_floods",
            "client connections closed because of an HTTP/2 flood, by listener and kind",
            self.floods.clone(),
        );
    }

    fn register_upstream(&self, registry: &mut Registry) {
        registry.register(
            "upstream_connections",
            "open connections to servers, by backend and class",
            self.upstream.clone(),
        );
        registry.register(
            "upstream_dials",
            "connections begun to servers, by backend and class",
            self.dials.clone(),
        );
        registry.register(
            "upstream_reuses",
            "requests sent on a connection that was open already",
            self.reuses.clone(),
        );
        registry.register(
            "upstream_dial_failures",
            "connections to servers that did not come about, by reason",
            self.dial_failures.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::meters::CODE_LABELS;
    use super::*;
    use crate::error::Failure;

    #[test]
    fn code_labels_are_the_codes() {
        for (code, label) in CODES.iter().zip(CODE_LABELS) {
            assert_eq!(code.to_string(), label);
        }
        assert!(CODES.is_sorted());
    }

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let metrics = Metrics::new(Build { version: "1.2.3", schema_version: "v1", tzdb: "2026b" });
        let class: Label = "payment".into();
        let meter = metrics.request(&class, &"pay".into());
        meter.count(Some(200));
        meter.count(Some(299));
        meter.count(None);
        metrics.class(&class).fail(Failure::ConnectRefused);
        let text = metrics.encode().unwrap();
        for line in [
            r#"tillgate_requests_total{class="payment",route="pay",code="200"} 1"#,
            r#"tillgate_requests_total{class="payment",route="pay",code="other"} 1"#,
            r#"tillgate_requests_total{class="payment",route="pay",code="none"} 1"#,
            r#"tillgate_failures_total{class="payment",reason="connect_refused"} 1"#,
            r#"tillgate_build_info{version="1.2.3",schema_version="v1",tzdb="2026b"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

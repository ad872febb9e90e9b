//! Handles on instruments, as who counts keeps them: resolved once, without a lookup after that.
//!
//! Each is of one class, route, listener or backend; what has one more label (a status code, a
//! reason) finds its instrument when it is first counted.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tillgate_core::units::PerDirection;

use super::{
    CODES, DialFailureLabels, FailureLabels, FloodMeter, Label, ListenerReasonLabels,
    RequestLabels, UpstreamLabels,
};
use crate::error::{Failure, TABLE};
use crate::http::server::NotTaken;

/// Counts the requests of one class on one route, by status code.
#[derive(Debug)]
pub struct RequestMeter {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) class: Label,
    pub(super) route: Label,
    pub(super) codes: [OnceLock<Counter>; CODES.len() + 2],
}

impl RequestMeter {
    /// Counts one request that ended with `code`, or without an answer.
    pub fn count(&self, code: Option<u16>) {
        let index = match code {
            Some(code) => CODES.binary_search(&code).unwrap_or(CODES.len()),
            None => CODES.len() + 1,
        };
        self.codes[index].get_or_init(|| self.resolve(index)).inc();
    }

    /// Of which class and route.
    pub const fn of(&self) -> (&Label, &Label) {
        (&self.class, &self.route)
    }

    /// The status codes that this handle has counted, each with its series' count.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = CODE_LABELS.iter().zip(&self.codes);
        labels.filter_map(|(label, code)| Some((*label, code.get()?.get())))
    }

    fn resolve(&self, index: usize) -> Counter {
        let code = CODE_LABELS.get(index).copied().unwrap_or("other");
        let labels =
            RequestLabels { class: Arc::clone(&self.class), route: Arc::clone(&self.route), code };
        self.requests.get_or_create_owned(&labels)
    }
}

/// The labels of [`CODES`], then `other` and `none`.
pub(super) const CODE_LABELS: [&str; CODES.len() + 2] = [
    "101", "200", "201", "202", "203", "204", "206", "301", "302", "303", "304", "307", "308",
    "400", "401", "403", "404", "405", "406", "408", "409", "410", "411", "412", "413", "414",
    "415", "417", "422", "425", "429", "431", "500", "501", "502", "503", "504", "507", "other",
    "none",
];

/// What is counted by class alone.
#[derive(Debug)]
pub struct ClassMeter {
    /// From a request's head to the last byte of its response.
    pub duration: Histogram,
    /// Requests that have ended; in no scrape, `duration` has it there.
    pub ended: AtomicU64,
    /// Requests that have begun and not ended.
    pub in_flight: Gauge,
    /// The same of what lasts: tunnels, WebSockets, connections of bytes, sessions of datagrams.
    pub lasting: Gauge,
    /// Open tunnels.
    pub tunnels: Gauge,
    /// Body and tunnel bytes.
    pub bytes: PerDirection<Counter>,
    pub(super) failures: Family<FailureLabels, Counter>,
    pub(super) class: Label,
    pub(super) reasons: [OnceLock<Counter>; TABLE.len()],
}

impl ClassMeter {
    /// Counts one failure.
    pub fn fail(&self, failure: Failure) {
        let counter = self.reasons[failure as usize].get_or_init(|| {
            let class = Arc::clone(&self.class);
            self.failures.get_or_create_owned(&FailureLabels { class, reason: failure.reason() })
        });
        counter.inc();
    }
}

/// What is counted by listener.
#[derive(Clone, Debug)]
pub struct ListenerMeter {
    /// Open client connections.
    pub connections: Gauge,
    /// Taken.
    pub accepted: Counter,
    /// Closed at once, the listener is full.
    pub refused: Counter,
    /// Closed at once, their client has as many as it may.
    pub crowded: Counter,
    /// Closed for being too slow.
    pub timeouts: Counter,
    /// Closed for HTTP/2 floods.
    pub floods: FloodMeter,
    /// Closed because what came is not HTTP, without an answer of ours.
    pub malformed: Counter,
    /// Panics of connections.
    pub panics: Counter,
    pub(super) not_taken: Family<ListenerReasonLabels, Counter>,
    pub(super) rejected: Family<ListenerReasonLabels, Counter>,
    pub(super) datagrams_dropped: Family<ListenerReasonLabels, Counter>,
    pub(super) listener: Label,
}

impl ListenerMeter {
    /// Counts a connection that was closed for what it began with. Not a hot path: a lookup is
    /// fine.
    pub fn reject(&self, failure: Failure) {
        self.rejected.get_or_create_owned(&self.labels(failure.reason())).inc();
    }

    /// Counts a connection that could not be taken; a cold path, too.
    pub(crate) fn not_taken(&self, why: NotTaken) {
        self.not_taken.get_or_create_owned(&self.labels(why.label())).inc();
    }

    /// The listener's name.
    pub(crate) fn name(&self) -> &str {
        &self.listener
    }

    /// Counts a datagram that went nowhere, for a reason of our own.
    pub fn drop_datagram(&self, reason: &'static str) {
        self.datagrams_dropped.get_or_create_owned(&self.labels(reason)).inc();
    }

    fn labels(&self, reason: &'static str) -> ListenerReasonLabels {
        ListenerReasonLabels { listener: Arc::clone(&self.listener), reason }
    }
}

/// What is counted by backend and class.
#[derive(Debug)]
pub struct UpstreamMeter {
    /// Open connections.
    pub open: Gauge,
    /// Connections begun.
    pub dials: Counter,
    /// Requests on connections that were open already.
    pub reuses: Counter,
    pub(super) failures: Family<DialFailureLabels, Counter>,
    pub(super) labels: UpstreamLabels,
}

impl UpstreamMeter {
    /// Counts one connection that did not come about. Not a hot path: a lookup is fine.
    pub fn dial_failed(&self, failure: Failure) {
        let labels = DialFailureLabels {
            backend: Arc::clone(&self.labels.backend),
            class: Arc::clone(&self.labels.class),
            reason: failure.reason(),
        };
        self.failures.get_or_create_owned(&labels).inc();
    }
}

/// One unit of a gauge, given back on drop.
#[derive(Debug)]
pub struct Held(Gauge);

impl Held {
    /// Adds one to `gauge` until this is dropped.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

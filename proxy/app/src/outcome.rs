//! Exactly one outcome per request and per tunnel.
//!
//! An [`Outcome`] is made with the request and filled in on its way; when it ends, by its body's
//! end or by being dropped, it writes one set of metrics, one line of access log if its class is
//! logged, and one span if it is traced. It keeps the config that the request began with, so that
//! nothing of it is copied; what only logs and spans need is kept apart, for who wants them.

mod record;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use prometheus_client::metrics::gauge::Gauge;
use tillgate_core::backend::BackendId;
use tillgate_core::class::ClassId;
use tillgate_core::load::Load;
use tillgate_core::matching::RuleId;
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::body::Observer;
use tillgate_net::http::grpc::Speech;
use tillgate_net::http::headers;
use tillgate_net::http::server::{InFlight, Place};
use tillgate_net::metrics::Held;
use tillgate_net::tls::Agreed;

use self::record::Record;
use crate::running::Running;
use crate::tries::Visit;

/// What a log line says beside the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answered through the HTTP entry.
    Request,
    /// Absolute-form through the forward proxy.
    Forward,
    /// CONNECT.
    Tunnel,
    /// TLS passed on unread.
    Passthrough,
    /// A connection of raw bytes.
    Tcp,
    /// A session of datagrams.
    Udp,
    /// A request that became a WebSocket.
    WebSocket,
    /// Answered by the registry mirror.
    Pull,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Forward => "forward",
            Self::Tunnel => "tunnel",
            Self::Passthrough => "passthrough",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::WebSocket => "websocket",
            Self::Pull => "pull",
        }
    }

    /// Whether it may stay for hours by its nature, so that it must not take a request's place.
    const fn lasts(self) -> bool {
        match self {
            Self::Tunnel | Self::Passthrough | Self::Tcp | Self::Udp | Self::WebSocket => true,
            Self::Request | Self::Forward | Self::Pull => false,
        }
    }
}

/// Which rule decided.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    /// None (yet).
    None,
    /// A rule of a route.
    Rule(RuleId),
    /// A rule of the egress policy, or the policy as a whole.
    Egress(Option<usize>),
    /// A listener of bytes or datagrams, by its place in the config.
    Listener(usize),
    /// The registry mirror.
    Mirror,
}

/// How one request or tunnel went. See the module.
#[derive(Debug)]
pub(crate) struct Outcome {
    kind: Kind,
    /// Counted among what lasts, not among requests.
    lasts: bool,
    written: bool,
    speech: Speech,
    class: ClassId,
    status: Option<u16>,
    failure: Option<Failure>,
    backend: Option<(BackendId, usize)>,
    /// Where it is now.
    visit: Option<Visit>,
    by: By,
    started: Instant,
    flow: InFlight,
    in_flight: Option<Held>,
    running: Arc<Running>,
    /// Only where requests are logged or traced.
    record: Option<Box<Record>>,
}

impl Outcome {
    /// For a request of which nothing is known yet but that it is here.
    pub(crate) fn new(kind: Kind, flow: InFlight, running: Arc<Running>) -> Self {
        let class = running.default_class();
        let lasts = kind.lasts();
        Self {
            kind,
            lasts,
            written: false,
            speech: Speech::Http,
            class,
            status: None,
            failure: None,
            backend: None,
            visit: None,
            by: By::None,
            started: flow.born(),
            flow,
            in_flight: Some(Held::new(gauge(&running, class, lasts))),
            record: None,
            running,
        }
    }

    /// Remembers who asks, where requests are logged or traced; continues the trace in `head`, or
    /// begins one.
    pub(crate) fn attend(&mut self, head: &mut Parts, client: std::net::SocketAddr, place: &Place) {
        if self.running.observes() {
            let agreed = place.agreed().cloned();
            self.record = Some(Box::new(Record::new(&self.running, head, client, agreed)));
        }
    }

    /// Its ClientHello, which is passed on unread, names this server.
    pub(crate) fn asks_for(&mut self, server: &impl std::fmt::Display) {
        if let Some(record) = &mut self.record {
            let name = Some(server.to_string().into());
            record.agreed = Some(Agreed { name, ..Agreed::default() });
        }
    }

    /// The same for a connection or a session of which nothing is seen but bytes.
    pub(crate) fn attend_bytes(&mut self, client: std::net::SocketAddr) {
        if self.running.observes() {
            self.record = Some(Box::new(Record::of_bytes(&self.running, client)));
        }
    }

    /// Its client is told of failures in these words.
    pub(crate) fn speak(&mut self, speech: Speech) {
        self.speech = speech;
    }

    /// In whose words its client is told of failures.
    pub(crate) const fn speech(&self) -> Speech {
        self.speech
    }

    /// It asks to become a WebSocket, and counts as one from now on.
    pub(crate) fn will_last(&mut self) {
        self.lasts = true;
        self.in_flight = Some(Held::new(gauge(&self.running, self.class, true)));
    }

    /// Whether there are as many of its class as may be, which counts it; of what.
    pub(crate) fn is_one_too_many(&self) -> Option<Failure> {
        let spec = &self.running.class(self.class).spec;
        let (most, failure) = if self.lasts {
            (spec.connections_max, Failure::ConnectionsFull)
        } else {
            (spec.requests_max, Failure::RequestsFull)
        };
        let now = gauge(&self.running, self.class, self.lasts).get();
        most.is_some_and(|most| now > i64::from(most)).then_some(failure)
    }

    /// It became a WebSocket.
    pub(crate) fn is_websocket(&mut self) {
        self.kind = Kind::WebSocket;
        if let Some(visit) = &mut self.visit {
            visit.stream(self.flow.flow());
        }
    }

    /// It is of this class, by this rule.
    pub(crate) fn classify(&mut self, class: ClassId, by: By) {
        if class != self.class {
            self.in_flight = Some(Held::new(gauge(&self.running, class, self.lasts)));
            self.class = class;
        }
        self.by = by;
    }

    /// Decides whether it is logged even if it goes well, and keeps the header fields for that.
    pub(crate) fn sample(&mut self, headers: &HeaderMap) {
        if let Some(record) = &mut self.record {
            record.sample(&self.running, self.class, headers);
        }
    }

    /// It goes there.
    pub(crate) fn send_to(&mut self, backend: BackendId, endpoint: usize) {
        self.backend = Some((backend, endpoint));
    }

    /// It is counted where it went for as long as this is kept.
    pub(crate) fn visit(&mut self, visit: Visit) {
        self.visit = Some(visit);
    }

    /// The load of where it is.
    pub(crate) fn load(&self) -> Option<&Arc<Load>> {
        self.visit.as_ref().map(Visit::load)
    }

    /// The try at its present server has ended like this, and it is sent again.
    pub(crate) fn tried(&mut self, ended: &'static str) {
        if let (Some(record), Some(at)) = (&mut self.record, self.backend) {
            record.tries.push((at, ended));
        }
    }

    /// Its answer may go on for ever, so it ends when its server is found dead.
    pub(crate) fn keep_stream(&mut self, headers: &HeaderMap, length: Option<u64>) {
        let Some(visit) = &mut self.visit else { return };
        let is_events = || {
            let kind = headers.get(http::header::CONTENT_TYPE);
            kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
        };
        if length.is_none() && (self.speech == Speech::Grpc || is_events()) {
            visit.stream(self.flow.flow());
        }
    }

    /// The request's name for people, as the server is told it in `head`.
    pub(crate) fn identify(&mut self, head: &Parts) {
        if let Some(record) = &mut self.record {
            record.request_id = headers::request_id(&head.headers).cloned();
        }
    }

    /// The client gets this status.
    pub(crate) fn answer(&mut self, status: http::StatusCode) {
        self.status = Some(status.as_u16());
        if let Some(record) = &mut self.record {
            record.answered_at.get_or_insert_with(clock::now);
        }
    }

    /// It failed; the answer, if there is one, says so.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        if let Some(status) = failure.status() {
            self.answer(status);
        }
    }

    /// The request's life, to share with what moves its bytes.
    pub(crate) const fn flow(&self) -> &InFlight {
        &self.flow
    }

    fn write(&mut self) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        if let Some(mut visit) = self.visit.take() {
            match self.failure {
                None => {}
                Some(Failure::BackendBodyCut) => visit.cut(),
                Some(_) => visit.is_unfinished(),
            }
        }
        let took = clock::now().saturating_duration_since(self.started);
        let (up, down) = (self.flow.up(), self.flow.down());
        match &self.by {
            By::None => self.running.no_route_meter(),
            By::Rule(rule) => self.running.route_meter(*rule, self.class),
            By::Egress(rule) => self.running.egress_meter(*rule, self.class),
            By::Listener(index) => self.running.listener_meter(*index),
            By::Mirror => self.running.mirror_meter(self.class),
        }
        .count(self.status);
        let meter = &self.running.class(self.class).meter;
        meter.duration.observe(took.as_secs_f64());
        meter.ended.fetch_add(1, Ordering::Relaxed);
        if up > 0 {
            meter.bytes.up.inc_by(up);
        }
        if down > 0 {
            meter.bytes.down.inc_by(down);
        }
        if let Some(failure) = self.failure {
            meter.fail(failure);
        }
        if let Some(record) = self.record.take() {
            record.write(self, took);
        }
    }
}

/// Where one of `class` is counted while it is under way.
fn gauge(running: &Running, class: ClassId, lasts: bool) -> &Gauge {
    let meter = &running.class(class).meter;
    if lasts { &meter.lasting } else { &meter.in_flight }
}

impl Observer for Outcome {
    fn hold(&self, bytes: Bytes) -> Bytes {
        self.flow.hold(bytes)
    }

    fn end(mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.failure.get_or_insert(failure);
        }
        self.write();
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.written {
            let why = if std::thread::panicking() {
                Failure::Internal
            } else {
                self.flow.ended().unwrap_or(Failure::ClientGone)
            };
            self.failure.get_or_insert(why);
            self.write();
        }
    }
}

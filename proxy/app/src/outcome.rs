//! Exactly one outcome per request and per tunnel.
//!
//! An [`Outcome`] is made with the request and filled in on its way; when it ends, by its body's
//! end or by being dropped, it writes one set of metrics and one access-log line. The line holds
//! no header value, no path, no host and no byte of a body.

use std::sync::Arc;
use std::time::Instant;

use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::body::Observer;
use tillgate_net::http::server::InFlight;
use tillgate_net::metrics::{ClassMeter, Held, Label, RequestMeter};

/// What a log line says beside the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answered through the HTTP entry.
    Request,
    /// Absolute-form through the forward proxy.
    Forward,
    /// CONNECT.
    Tunnel,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Forward => "forward",
            Self::Tunnel => "tunnel",
        }
    }
}

/// How one request or tunnel went. See the module.
#[derive(Debug)]
pub(crate) struct Outcome {
    kind: Kind,
    started: Instant,
    flow: InFlight,
    class: Label,
    class_meter: Arc<ClassMeter>,
    meter: Arc<RequestMeter>,
    in_flight: Option<Held>,
    route: Label,
    backend: Option<Label>,
    status: Option<u16>,
    failure: Option<Failure>,
    written: bool,
}

impl Outcome {
    /// For a request of which nothing is known yet but that it is here.
    pub(crate) fn new(
        kind: Kind,
        flow: InFlight,
        class: (&Label, &Arc<ClassMeter>),
        meter: Arc<RequestMeter>,
    ) -> Self {
        Self {
            kind,
            started: flow.born(),
            flow,
            class: Arc::clone(class.0),
            class_meter: Arc::clone(class.1),
            meter,
            in_flight: Some(Held::new(&class.1.in_flight)),
            route: "none".into(),
            backend: None,
            status: None,
            failure: None,
            written: false,
        }
    }

    /// It is of this class, on this route.
    pub(crate) fn classify(
        &mut self,
        class: (&Label, &Arc<ClassMeter>),
        meter: Arc<RequestMeter>,
        route: &Label,
    ) {
        self.in_flight = Some(Held::new(&class.1.in_flight));
        self.class = Arc::clone(class.0);
        self.class_meter = Arc::clone(class.1);
        self.meter = meter;
        self.route = Arc::clone(route);
    }

    /// It goes there.
    pub(crate) fn send_to(&mut self, backend: &Label) {
        self.backend = Some(Arc::clone(backend));
    }

    /// The client gets this status.
    pub(crate) fn answer(&mut self, status: http::StatusCode) {
        self.status = Some(status.as_u16());
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
        let took = clock::now().saturating_duration_since(self.started);
        let (up, down) = (self.flow.up(), self.flow.down());
        self.meter.count(self.status);
        self.class_meter.duration.observe(took.as_secs_f64());
        self.class_meter.bytes.up.inc_by(up);
        self.class_meter.bytes.down.inc_by(down);
        if let Some(failure) = self.failure {
            self.class_meter.fail(failure);
        }
        tracing::debug!(
            target: "tillgate::access",
            kind = self.kind.label(),
            class = &*self.class,
            route = &*self.route,
            backend = self.backend.as_deref(),
            status = self.status,
            reason = self.failure.map(Failure::reason),
            blame = self.failure.map(|failure| failure.row().blame.label()),
            up_bytes = up,
            down_bytes = down,
            duration_ms = took.as_secs_f64() * 1000.0,
            "done"
        );
    }
}

impl Observer for Outcome {
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

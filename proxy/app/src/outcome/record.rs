//! What logs and spans want to know of a request, beyond what metrics need.
//!
//! Made only where a class is logged or spans are exported. At the end it becomes a line of the
//! access log (by sampling, or because it failed) and a span (as its trace says).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use tillgate_core::backend::BackendId;
use tillgate_core::class::ClassId;
use tillgate_core::trace::{Parent, TraceContext};
use tillgate_net::clock;
use tillgate_net::error::{Blame, Failure};
use tillgate_net::otlp::{Span, Value};
use tillgate_net::tls::Agreed;

use super::{By, Outcome};
use crate::access::{self, Line, Shown};
use crate::running::{self, Running};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// See the module.
#[derive(Debug)]
pub(super) struct Record {
    client: IpAddr,
    pub(super) agreed: Option<Agreed>,
    /// Of a request.
    method: Option<http::Method>,
    trace: Option<TraceContext>,
    /// The caller's trace where none is continued here.
    passed: Option<u128>,
    sampled: bool,
    headers: Option<Shown>,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) answered_at: Option<Instant>,
    /// Where it was before, and why it did not stay.
    pub(super) tries: Vec<((BackendId, usize), &'static str)>,
}

impl Record {
    pub(super) fn new(
        running: &Running,
        head: &mut Parts,
        client: SocketAddr,
        agreed: Option<Agreed>,
    ) -> Self {
        Self {
            agreed,
            method: Some(head.method.clone()),
            ..Self::begin(running, &mut head.headers, client)
        }
    }

    pub(super) fn of_bytes(running: &Running, client: SocketAddr) -> Self {
        Self::begin(running, &mut HeaderMap::new(), client)
    }

    fn begin(running: &Running, headers: &mut HeaderMap, client: SocketAddr) -> Self {
        let parent = parent(headers);
        let trace = running.effective.telemetry.tracing.as_ref().map(|tracing| {
            let draws = [fastrand::u64(..), fastrand::u64(..), fastrand::u64(..)];
            let trace = TraceContext::begin(parent, tracing.sampling, draws);
            carry(headers, trace);
            trace
        });
        Self {
            client: client.ip().to_canonical(),
            agreed: None,
            method: None,
            trace,
            passed: parent.map(|parent| parent.trace),
            sampled: false,
            headers: None,
            request_id: None,
            answered_at: None,
            tries: Vec::new(),
        }
    }

    pub(super) fn sample(&mut self, running: &Running, class: ClassId, headers: &HeaderMap) {
        let Some(log) = running.effective.telemetry.access_log.of(class) else { return };
        self.sampled = fastrand::u8(0..100) < log.sampling.value();
        if self.sampled && !log.headers.is_empty() {
            self.headers = Some(access::show(log, headers));
        }
    }

    pub(super) fn write(self, outcome: &Outcome, took: Duration) {
        let running = &outcome.running;
        if self.trace.is_some_and(|trace| trace.sampled) {
            running.spans.put(self.span(outcome, took));
        }
        let logged = running.effective.telemetry.access_log.of(outcome.class).is_some();
        if logged && (self.sampled || outcome.failure.is_some()) {
            running.access.put(self.line(outcome, took));
        }
    }

    fn line(&self, outcome: &Outcome, took: Duration) -> Vec<u8> {
        let (running, flow) = (&outcome.running, &outcome.flow);
        let class = &running.class(outcome.class).spec;
        let route = outcome.route();
        let rule = if let By::Rule(rule) = outcome.by {
            Some(&*running.effective.routes.rule(rule).name)
        } else {
            None
        };
        let server = outcome.server();
        let first = self.answered_at.map(|at| at.saturating_duration_since(outcome.started));
        let line = Line {
            kind: outcome.kind.label(),
            request_id: self.request_id.as_ref(),
            trace: self.trace.map(|trace| trace.trace).or(self.passed),
            class: &class.name,
            route: &route,
            rule,
            backend: server.as_ref().map(|(backend, _)| &**backend),
            endpoint: server.as_ref().map(|(_, endpoint)| endpoint.clone()),
            status: outcome.status,
            reason: outcome.failure.map(Failure::reason),
            blame: outcome.failure.map(|failure| failure.row().blame.label()),
            client: Some(
                running.access.client(running.effective.telemetry.access_log.client, self.client),
            ),
            tls: self.agreed.as_ref(),
            bytes: (flow.up(), flow.down()),
            duration: took,
            first_byte: first,
            // By a coarser clock than the whole.
            queued: flow.queued_for().min(took),
            line: flow.line_waited(),
            tries: flow.tries(),
            earlier: self.earlier(running),
            critical: class.critical,
            sampled: self.sampled,
            headers: self.headers.as_ref(),
        };
        line.write()
    }

    /// The tries before the last one.
    fn earlier(&self, running: &Running) -> Option<String> {
        let tell = |((backend, endpoint), ended): &((BackendId, usize), &str)| {
            let spec = running.effective.backend(*backend);
            let endpoint = spec.endpoints.get(*endpoint).map(ToString::to_string);
            format!("{} {} {ended}", spec.name, endpoint.unwrap_or_default())
        };
        let all: Vec<String> = self.tries.iter().map(tell).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Attributes have the names of OpenTelemetry's semantic conventions where there is one.
    fn span(&self, outcome: &Outcome, took: Duration) -> Span {
        let trace = self.trace.expect("only a sampled trace has a span");
        let running = &outcome.running;
        let name = outcome.route();
        let class = Arc::clone(&running.class(outcome.class).spec.name);
        let mut attributes = vec![
            ("tillgate.kind", Value::Static(outcome.kind.label())),
            ("tillgate.class", Value::Text(class)),
        ];
        if let Some(method) = &self.method {
            attributes.push(("http.request.method", Value::Text(method.as_str().into())));
        }
        if let Some(status) = outcome.status {
            attributes.push(("http.response.status_code", Value::Number(status.into())));
        }
        if let Some(failure) = outcome.failure {
            attributes.push(("error.type", Value::Static(failure.reason())));
        }
        if let Some((backend, endpoint)) = outcome.server() {
            attributes.push(("tillgate.backend", Value::Text(backend)));
            attributes.push(("server.address", Value::Text(endpoint.into())));
        }
        let failed = outcome.failure.is_some_and(|one| one.row().blame != Blame::Client)
            || outcome.status.is_some_and(|status| status >= 500);
        let end = clock::wall();
        Span {
            trace: trace.trace,
            span: trace.span,
            parent: trace.parent,
            name,
            start: end.checked_sub(took).unwrap_or(end),
            end,
            failed,
            attributes,
        }
    }
}

impl Outcome {
    fn route(&self) -> Arc<str> {
        match &self.by {
            By::None => "none".into(),
            By::Rule(rule) => Arc::clone(&self.running.effective.routes.rule(*rule).route),
            By::Egress(rule) => self.running.egress_name(*rule),
            By::Listener(index) => self.running.listener_name(*index),
            By::Mirror => running::MIRROR.into(),
        }
    }

    /// The backend and the endpoint, as text.
    fn server(&self) -> Option<(Arc<str>, String)> {
        let (backend, endpoint) = self.backend?;
        let spec = self.running.effective.backend(backend);
        let endpoint = spec.endpoints.get(endpoint).map(ToString::to_string);
        Some((Arc::clone(&spec.name), endpoint.unwrap_or_default()))
    }
}

/// The caller's trace. Two fields are none (section 3.2.1 of the recommendation).
fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut fields = headers.get_all(TRACEPARENT).iter();
    let field = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    Parent::parse(field.as_bytes())
}

/// Passes our span on as the next one's parent. What vendors say of the trace stays, unless the
/// trace is another one now.
fn carry(headers: &mut HeaderMap, trace: TraceContext) {
    if trace.parent.is_none() {
        headers.remove(TRACESTATE);
    }
    if let Ok(value) = HeaderValue::try_from(trace.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
}

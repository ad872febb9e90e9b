//! Spans on their way to a collector: OTLP over HTTP, in a class of its own on the line.
//!
//! Requests hand a finished span over and go on; what does not fit into the queue is dropped and
//! counted. One task takes batches from the queue. While the collector is away it waits longer and
//! longer, and keeps the one batch that it has.

use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tillgate_config::defaults;
use tillgate_config::effective::TracingSpec;
use tillgate_net::http::post::Post;
use tillgate_net::metrics::TelemetryMeters;
use tillgate_net::otlp::{self, Span, Value};
use tillgate_net::upstream::resolver::ChosenBy;
use tillgate_net::upstream::{self, How};
use tokio::sync::mpsc;

use crate::gateway::Gateway;
use crate::send::explain;

/// Spans that wait: twenty seconds of a busy store, some 2 MiB.
const SPANS_MAX: usize = 4096;

/// Spans of one message: some 100 KiB, a few milliseconds of a line.
const BATCH_MAX: usize = 512;

/// A span waits this long for others to share a message with.
const BATCH_EVERY: Duration = Duration::from_secs(5);

/// How long the collector may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// After the first failure; doubled after each further one.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A collector that is back is found within this.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Failures after which a batch is given up: some two minutes of a collector that is away.
const TRIES_MAX: u32 = 7;

/// The queue of spans.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    sender: mpsc::Sender<Span>,
    meters: TelemetryMeters,
}

impl Spans {
    /// A queue, and its end for [`run`].
    pub(crate) fn new(meters: TelemetryMeters) -> (Self, mpsc::Receiver<Span>) {
        let (sender, receiver) = mpsc::channel(SPANS_MAX);
        (Self { sender, meters }, receiver)
    }

    /// Exports `span` some time soon, or drops it.
    pub(crate) fn put(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.meters.spans_dropped.inc();
        }
    }
}

/// A connection to the collector that it was made for.
struct Way {
    to: TracingSpec,
    post: Post,
}

/// Exports what comes, until the gateway is gone.
pub(crate) async fn run(
    gateway: Weak<Gateway>,
    mut spans: mpsc::Receiver<Span>,
    meters: TelemetryMeters,
) {
    let mut way = None;
    while let Some(first) = spans.recv().await {
        let mut batch = vec![first];
        let full = async {
            while batch.len() < BATCH_MAX {
                let Some(span) = spans.recv().await else { break };
                batch.push(span);
            }
        };
        // Late is fine: it goes with what there is.
        let _ = tokio::time::timeout(BATCH_EVERY, full).await;
        let count = batch.len() as u64;
        if export(&gateway, &mut way, &batch).await {
            meters.spans_exported.inc_by(count);
        } else {
            meters.spans_failed.inc_by(count);
        }
    }
}

/// Sends one batch, patiently. Whether it was taken.
async fn export(gateway: &Weak<Gateway>, way: &mut Option<Way>, batch: &[Span]) -> bool {
    let mut pause = BACK_OFF;
    for turn in 1..=TRIES_MAX {
        let Some(there) = gateway.upgrade() else { return false };
        let Some(spec) = there.running().effective.telemetry.tracing.clone() else {
            return false;
        };
        match attempt(&there, way, &spec, batch).await {
            Ok(status) if status.is_success() => return true,
            Ok(status) if !is_passing(status) => {
                tracing::warn!(%status, collector = %spec.endpoint, "spans were refused");
                return false;
            }
            Ok(status) => tracing::debug!(%status, "the collector is busy"),
            Err(why) if turn == 1 => {
                tracing::warn!(collector = %spec.endpoint, why, "spans cannot be exported now");
            }
            Err(why) => tracing::debug!(why, "spans cannot be exported yet"),
        }
        *way = None;
        drop(there);
        if turn < TRIES_MAX {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }
    false
}

/// What the protocol says may be tried again (OTLP 1.x, "Retryable Response Codes").
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

async fn attempt(
    gateway: &Arc<Gateway>,
    way: &mut Option<Way>,
    spec: &TracingSpec,
    batch: &[Span],
) -> Result<StatusCode, String> {
    let known = way.take().filter(|way| way.to == *spec && way.post.is_open());
    let mut post = match known {
        Some(way) => way.post,
        None => connect(gateway, spec).await?,
    };
    let store = Arc::clone(&gateway.running().effective.store);
    let resource = [
        ("service.name", Value::Static("tillgate")),
        ("service.version", Value::Static(env!("CARGO_PKG_VERSION"))),
        ("service.instance.id", Value::Text(store)),
    ];
    let body = Bytes::from(otlp::encode(&resource, batch));
    let request = Request::post(&*spec.endpoint.path)
        .header(header::HOST, spec.endpoint.server.to_string())
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, concat!("tillgate/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let status = post.send(request, ANSWER_TIMEOUT).await.map_err(|error| explain(&error))?;
    *way = Some(Way { to: spec.clone(), post });
    Ok(status)
}

/// Opens a connection of the export's class, across the line if the collector is.
async fn connect(gateway: &Gateway, spec: &TracingSpec) -> Result<Post, String> {
    if spec.endpoint.tls {
        // Never in the clear where the policy says otherwise.
        return Err("TLS to a collector is not carried; use an http endpoint".to_owned());
    }
    let server = &spec.endpoint.server;
    let patience = defaults::CONNECT_TIMEOUT;
    let resolver = gateway.resolver();
    let found = resolver.resolve(&server.host, server.port, ChosenBy::Policy, patience).await;
    let addresses = found.map_err(|error| explain(&error))?;
    let lane = gateway.running().lane(spec.location, spec.class).map(|(_, lane)| lane);
    let how = How { lane: lane.as_ref(), connect_timeout: patience, tcp: defaults::TCP };
    let dialled = upstream::dial(&addresses, how).await;
    let stream = dialled.map_err(|error| explain(&error))?;
    Post::begin(stream).await.map_err(|error| explain(&error))
}

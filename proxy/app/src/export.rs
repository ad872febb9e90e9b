//! Spans on their way to a collector: OTLP over HTTP, in a class of its own on the line.
//!
//! Requests hand a finished span over and go on; what does not fit into the queue is dropped and
//! counted. One task takes batches from the queue. While the collector is away it waits longer and
//! longer, and keeps the one batch that it has. At the end of the process what waits is sent once.

use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc as threads};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tillgate_config::defaults;
use tillgate_config::effective::TracingSpec;
use tillgate_core::tls::{ClientTls, TlsVersion, TrustAnchors};
use tillgate_net::http::post::Post;
use tillgate_net::metrics::TelemetryMeters;
use tillgate_net::otlp::{Batch, Span, Value};
use tillgate_net::tls::{Application, Connector};
use tillgate_net::upstream::resolver::ChosenBy;
use tillgate_net::upstream::{self, How, Opening};
use tokio::sync::{mpsc, watch};

use crate::gateway::Gateway;
use crate::send::explain;

/// Spans that wait: twenty seconds of a busy store, some 2 MiB.
const SPANS_MAX: usize = 4096;

/// Spans of one message, and bytes of them: a twentieth of a second of a line of 20 Mbit/s.
const BATCH_MAX: usize = 512;
const BATCH_BYTES: usize = 128 * 1024;

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

/// How long the process waits at its end for spans to be sent: a round trip and a handshake on a
/// line that is far, and less than anybody waits before they kill it.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The collector's name among the backends, in the metrics of TLS.
const COLLECTOR: &str = "telemetry/tracing";

/// The queue of spans.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    sender: mpsc::Sender<Span>,
    meters: TelemetryMeters,
    end: Arc<End>,
}

/// How the process's end is told, and what comes back.
#[derive(Debug)]
struct End {
    tell: watch::Sender<bool>,
    done: Mutex<threads::Receiver<()>>,
}

/// The other end of the queue.
#[derive(Debug)]
pub(crate) struct Queue {
    spans: mpsc::Receiver<Span>,
    ends: watch::Receiver<bool>,
    /// Dropped when nothing is left to be sent.
    _done: threads::SyncSender<()>,
}

impl Queue {
    /// The next one; at the end none is waited for.
    async fn next(&mut self) -> Option<Span> {
        tokio::select! {
            biased;
            span = self.spans.recv() => span,
            () = ended(&mut self.ends) => self.spans.try_recv().ok(),
        }
    }
}

/// The process ends.
async fn ended(ends: &mut watch::Receiver<bool>) {
    // Nobody who could tell is left only when nothing is.
    let _ = ends.wait_for(|ends| *ends).await;
}

impl Spans {
    /// A queue, and its end for [`run`].
    pub(crate) fn new(meters: TelemetryMeters) -> (Self, Queue) {
        let (sender, spans) = mpsc::channel(SPANS_MAX);
        let (tell, ends) = watch::channel(false);
        let (_done, done) = threads::sync_channel(1);
        let end = Arc::new(End { tell, done: Mutex::new(done) });
        (Self { sender, meters, end }, Queue { spans, ends, _done })
    }

    /// Sends what waits, once, and not for long. Blocks: at the end of the process alone.
    pub(crate) fn flush(&self) {
        self.end.tell.send_replace(true);
        let done = self.end.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.recv_timeout(LAST_WORDS) == Err(threads::RecvTimeoutError::Timeout) {
            tracing::warn!("the last spans were not exported in time");
        }
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
    /// For its sessions, as long as somebody may come back to them.
    _tls: Option<Arc<Connector>>,
}

/// Exports what comes, until the process ends or the gateway is gone.
pub(crate) async fn run(gateway: Weak<Gateway>, mut queue: Queue, meters: TelemetryMeters) {
    let mut way = None;
    while let Some(first) = queue.next().await {
        let mut batch = Batch::default();
        batch.push(&first);
        let full = async {
            while batch.count() < BATCH_MAX && batch.bytes() < BATCH_BYTES {
                let Some(span) = queue.next().await else { break };
                batch.push(&span);
            }
        };
        // Late is fine: it goes with what there is.
        let _ = tokio::time::timeout(BATCH_EVERY, full).await;
        let count = batch.count() as u64;
        if export(&gateway, &mut way, &batch, &mut queue.ends).await {
            meters.spans_exported.inc_by(count);
        } else {
            meters.spans_failed.inc_by(count);
        }
    }
}

/// Sends one batch, patiently unless the process ends. Whether it was taken.
async fn export(
    gateway: &Weak<Gateway>,
    way: &mut Option<Way>,
    batch: &Batch,
    ends: &mut watch::Receiver<bool>,
) -> bool {
    let mut pause = BACK_OFF;
    for turn in 1..=TRIES_MAX {
        let Some(there) = gateway.upgrade() else { return false };
        let Some(spec) = there.running().effective.telemetry.tracing.clone() else {
            return false;
        };
        let is_last = *ends.borrow();
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
        if is_last {
            return false;
        }
        if turn < TRIES_MAX {
            let _ = tokio::time::timeout(pause, ended(ends)).await;
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
    batch: &Batch,
) -> Result<StatusCode, String> {
    let known = way.take().filter(|way| way.to == *spec && way.post.is_open());
    let mut there = match known {
        Some(way) => way,
        None => connect(gateway, spec).await?,
    };
    let store = Arc::clone(&gateway.running().effective.store);
    let resource = [
        ("service.name", Value::Static("tillgate")),
        ("service.version", Value::Static(env!("CARGO_PKG_VERSION"))),
        ("service.instance.id", Value::Text(store)),
    ];
    let body = Bytes::from(batch.encode(&resource));
    let request = Request::post(&*spec.endpoint.path)
        .header(header::HOST, spec.endpoint.server.to_string())
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, concat!("tillgate/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let sent = there.post.send(request, ANSWER_TIMEOUT).await;
    let status = sent.map_err(|error| explain(&error))?;
    *way = Some(there);
    Ok(status)
}

/// TLS to a collector: the system's authorities vouch for it. They are files, and this is the
/// thread that drives the lines.
async fn trust_system(gateway: &Gateway) -> Result<Arc<Connector>, String> {
    let tls = Arc::clone(&gateway.tls);
    let made = tokio::task::spawn_blocking(move || {
        let wanted = ClientTls {
            sni: None,
            roots: TrustAnchors::System,
            certificate: None,
            min_version: TlsVersion::V1_2,
        };
        tls.connector(&COLLECTOR.into(), &wanted, Application::Http1)
    });
    made.await.map_err(|error| explain(&error))?.map_err(|error| explain(&error))
}

/// Opens a connection of the export's class, across the line if the collector is.
async fn connect(gateway: &Gateway, spec: &TracingSpec) -> Result<Way, String> {
    let server = &spec.endpoint.server;
    let connector = if spec.endpoint.tls { Some(trust_system(gateway).await?) } else { None };
    let patience = defaults::CONNECT_TIMEOUT;
    let resolver = gateway.resolver();
    let found = resolver.resolve(&server.host, server.port, ChosenBy::Policy, patience).await;
    let addresses = found.map_err(|error| explain(&error))?;
    let lane = gateway.running().lane(spec.location, spec.class).map(|(_, lane)| lane);
    let how = How { lane: lane.as_ref(), connect_timeout: patience, tcp: defaults::TCP };
    let tls = connector.as_deref().map(|tls| (tls, &server.host));
    let opening = Opening { announce: None, tls, http1: true };
    let dialled = upstream::dial_opening(&addresses, how, opening).await;
    let stream = dialled.map_err(|error| explain(&error))?;
    let post = Post::begin(stream).await.map_err(|error| explain(&error))?;
    Ok(Way { to: spec.clone(), post, _tls: connector })
}

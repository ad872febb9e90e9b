//! `/v1/config/events`: server-sent events, one for each config, with its digest alone.
//!
//! For tools and dashboards. There is no queue: whoever reads slowly gets the newest digest when
//! it reads on. A comment every 15 s keeps the connection known on the way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::Frame;
use tillgate_net::drain::Phase;
use tillgate_net::http::server::InFlight;
use tillgate_net::metrics::Held;
use tokio::sync::mpsc;

use super::entrance::Pass;
use super::problem::Problem;
use super::routes::EVENTS;
use super::{Ask, Desk, Endpoint, News, lock};

/// Open streams: dashboards and tools; sidecars wait with `/v1/config`.
pub(super) const STREAMS_MAX: i64 = 256;

/// Proxies and firewalls on the way forget a connection after half a minute of silence or more.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// One is on its way while the next one is made.
const UNDER_WAY: usize = 1;

const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Opens a stream. The request that opened it lives as long as the stream.
pub(super) fn open(
    desk: &Arc<Desk>,
    ask: &Ask,
    flow: Option<InFlight>,
) -> Result<Response, Problem> {
    let meters = &desk.endpoint().meters;
    if meters.streams.get() >= STREAMS_MAX {
        let seconds = 5 + fastrand::u64(0..10);
        let detail = "too many streams are open: ask again later, or use /v1/config with a wait";
        return Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, seconds, detail));
    }
    let held = Held::new(&meters.streams);
    let last = ask.head.headers.get(LAST_EVENT).and_then(|id| {
        // Numbers of another process say nothing of what this one has run.
        let (boot, number) = id.to_str().ok()?.split_once('-')?;
        number.parse().ok().filter(|_| *boot == *desk.endpoint().boot)
    });
    let (events, rest) = mpsc::channel(UNDER_WAY);
    tokio::spawn(tell(Arc::clone(desk), ask.pass.clone(), last, events));
    let body = EventBody { rest, _held: held, _flow: flow };
    let mut answer = Response::new(Body::new(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// Sends events until the reader is gone, or may not read them any more, or the gateway stops.
/// `last` is what the reader has.
async fn tell(desk: Arc<Desk>, pass: Pass, mut last: Option<u64>, events: mpsc::Sender<Bytes>) {
    let mut news: News = desk.endpoint().news();
    loop {
        let sequence = *news.borrow_and_update();
        let slices = desk.endpoint().slices(desk.running().as_ref());
        let Ok(who) = pass.who(&desk) else { return };
        if last != Some(sequence) {
            let digest = Arc::clone(&slices.of(&who, None).digest);
            if events.send(event(desk.endpoint(), sequence, &digest)).await.is_err() {
                return;
            }
            last = Some(sequence);
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEARTBEAT) => {
                if events.send(Bytes::from_static(b": still here\n\n")).await.is_err() {
                    return;
                }
            }
            () = events.closed() => return,
            () = desk.gateway.drain.reached(Phase::Draining) => return,
        }
    }
}

/// The config of this number; `sequence` is that of the bundle that it came in, as
/// `Tillgate-Sequence` has it.
fn event(endpoint: &Endpoint, number: u64, digest: &str) -> Bytes {
    let sequence = lock(&endpoint.past).bundle().and_then(|bundle| bundle.sequence);
    let data = serde_json::json!({ "digest": digest, "sequence": sequence });
    format!("event: config\nid: {}-{number}\ndata: {data}\n\n", endpoint.boot).into()
}

struct EventBody {
    rest: mpsc::Receiver<Bytes>,
    _held: Held,
    _flow: Option<InFlight>,
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().rest.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

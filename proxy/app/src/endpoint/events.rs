//! `/v1/config/events`: server-sent events, one for each config, with its digest alone.
//!
//! For tools and dashboards. There is no queue: whoever reads slowly gets the newest digest when
//! it reads on. A comment every 15 s keeps the connection known on the way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
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

use super::entrance::Pass;
use super::problem::Problem;
use super::routes::EVENTS;
use super::{Ask, Desk, Endpoint, News, lock};

/// Open streams: dashboards and tools; sidecars wait with `/v1/config`.
pub(super) const STREAMS_MAX: i64 = 256;

/// Proxies and firewalls on the way forget a connection after half a minute of silence or more.
const HEARTBEAT: Duration = Duration::from_secs(15);

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
    let (desk, pass, news) = (Arc::clone(desk), ask.pass.clone(), desk.endpoint().news());
    let teller = Teller { desk, pass, last, news };
    let body = EventBody { next: Box::pin(teller.next()), flow, _held: held };
    let mut answer = Response::new(Body::new(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// Knows what its reader has.
struct Teller {
    desk: Arc<Desk>,
    pass: Pass,
    /// The number of the last event.
    last: Option<u64>,
    news: News,
}

impl Teller {
    /// The next event or sign of life; none when the reader may not read them any more, or the
    /// gateway stops.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            let number = *self.news.borrow_and_update();
            let slices = self.desk.endpoint().slices(self.desk.running().as_ref());
            let who = self.pass.who(&self.desk).ok()?;
            if self.last != Some(number) {
                let digest = Arc::clone(&slices.of(&who, None).digest);
                let event = event(self.desk.endpoint(), number, &digest);
                self.last = Some(number);
                return Some((event, self));
            }
            tokio::select! {
                changed = self.news.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep(HEARTBEAT) => {
                    return Some((Bytes::from_static(b": still here\n\n"), self));
                }
                () = self.desk.gateway.drain.reached(Phase::Draining) => return None,
            }
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

/// The next event to come, and who tells the one after it.
type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Teller)>> + Send>>;

/// Asks for an event when the reader has taken the last one.
struct EventBody {
    next: Next,
    flow: Option<InFlight>,
    _held: Held,
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some((bytes, teller)) = ready!(this.next.as_mut().poll(cx)) else {
            return Poll::Ready(None);
        };
        if let Some(flow) = &this.flow {
            // It lives as long as its reader reads.
            flow.moved_down(bytes.len());
        }
        this.next = Box::pin(teller.next());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

//! What a replica answers: health, calls over HTTP and gRPC, and the answers that go wrong.
//!
//! A call is written into the book as read, as executed, and as answered when the last of its
//! answer was handed over.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{Sleep, sleep};

use super::ledger::{Event, NOBODY};
use super::scene::Behaviour;
use super::serve::Replica;
use crate::origin::{PAYMENT_ANSWER, noise};

/// Number of a call.
pub(super) const CALL: &str = "x-call";
/// Which tier has answered.
pub(super) const TIER: &str = "x-tier";
pub(super) const GRPC: &str = "application/grpc";
/// Method of the service, as a path.
pub(super) const PATH: &str = "/lab.Payments/Pay";

/// How long a slow replica takes.
const SLOW: Duration = Duration::from_secs(2);
/// For the first half of an answer to arrive before the reset, which would overtake it.
const HALFWAY: Duration = Duration::from_millis(20);
/// gRPC's UNAVAILABLE.
const UNAVAILABLE: &str = "14";

/// Health in protobuf: `status: SERVING`.
const SERVING: [u8; 2] = [8, 1];

/// One answer. An error ends the connection (h1) or the stream (h2) without one.
pub(super) async fn answer(
    replica: Arc<Replica>,
    request: Request<Incoming>,
    broken: Arc<AtomicBool>,
) -> io::Result<Response<Reply>> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/grpc.health.v1.Health/Check" {
        return Ok(grpc(Reply::of(framed(&SERVING)).with_status()));
    }
    if head.method != Method::POST {
        return Ok(Response::new(Reply::of(Bytes::from_static(b"well\n"))));
    }
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let call = text(CALL).and_then(|number| number.parse().ok()).unwrap_or(NOBODY);
    let is_grpc = text("content-type").is_some_and(|kind| kind.starts_with(GRPC));
    // Half a request is none.
    drop(body.collect().await.map_err(io::Error::other)?);
    replica.book.note(Event::Read, call);
    let behaviour = replica.behaviour();
    if behaviour == Behaviour::Unavailable {
        return Ok(marked(&replica, refusal(is_grpc)));
    }
    replica.book.note(Event::Executed, call);
    match behaviour {
        Behaviour::Slow => sleep(SLOW).await,
        Behaviour::ResetAfterRead => {
            broken.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Behaviour::ResetMidBody => {
            let mut response = Response::new(Reply::half(broken));
            response.headers_mut().insert("content-length", PAYMENT_ANSWER.into());
            return Ok(marked(&replica, response));
        }
        Behaviour::Well | Behaviour::Closed | Behaviour::Unavailable => {}
    }
    let payload = noise().slice(..PAYMENT_ANSWER);
    let done = Some((Arc::clone(&replica), call));
    let response = if is_grpc {
        grpc(Reply { done, ..Reply::of(framed(&payload)).with_status() })
    } else {
        Response::new(Reply { done, ..Reply::of(payload) })
    };
    Ok(marked(&replica, response))
}

/// A message of gRPC with its prefix.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or_default());
    bytes.put_slice(message);
    bytes.freeze()
}

fn grpc(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static(GRPC));
    response
}

fn refusal(is_grpc: bool) -> Response<Reply> {
    let mut response = Response::new(Reply::default());
    if is_grpc {
        response.headers_mut().insert("content-type", HeaderValue::from_static(GRPC));
        response.headers_mut().insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
    } else {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn marked(replica: &Replica, mut response: Response<Reply>) -> Response<Reply> {
    response.headers_mut().insert(TIER, HeaderValue::from_static(replica.tier.name()));
    response
}

/// The body of an answer.
#[derive(Default)]
pub(super) struct Reply {
    parts: VecDeque<Part>,
    /// Whose answer this is, to be noted at its end.
    done: Option<(Arc<Replica>, u64)>,
}

enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    Pause(Pin<Box<Sleep>>),
    Break(Arc<AtomicBool>),
}

impl Reply {
    fn of(data: Bytes) -> Self {
        Self { parts: VecDeque::from([Part::Data(data)]), done: None }
    }

    fn half(broken: Arc<AtomicBool>) -> Self {
        let half = Part::Data(noise().slice(..PAYMENT_ANSWER / 2));
        let pause = Part::Pause(Box::pin(sleep(HALFWAY)));
        Self { parts: VecDeque::from([half, pause, Part::Break(broken)]), done: None }
    }

    /// With gRPC's "all is well" at the end.
    fn with_status(mut self) -> Self {
        let status = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        self.parts.push_back(Part::Trailers(status));
        self
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(Part::Pause(pause)) = self.parts.front_mut() {
            ready!(pause.as_mut().poll(context));
            self.parts.pop_front();
        }
        let frame = match self.parts.pop_front() {
            None | Some(Part::Pause(_)) => return Poll::Ready(None),
            Some(Part::Data(data)) => Frame::data(data),
            Some(Part::Trailers(fields)) => Frame::trailers(fields),
            Some(Part::Break(broken)) => {
                broken.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
            }
        };
        if self.parts.is_empty()
            && let Some((replica, call)) = self.done.take()
        {
            replica.book.note(Event::Answered, call);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let data = |part: &Part| match part {
            Part::Data(data) => Some(data.len() as u64),
            Part::Trailers(_) | Part::Pause(_) | Part::Break(_) => None,
        };
        // Trailers are possible without a length alone.
        let lengths: Option<Vec<u64>> = self.parts.iter().map(data).collect();
        lengths.map_or_else(SizeHint::default, |all| SizeHint::with_exact(all.iter().sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_in_front() {
        assert_eq!(&framed(&SERVING)[..], [0, 0, 0, 0, 2, 8, 1]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_plain_answers_have_a_length() {
        let plain = Reply::of(Bytes::from_static(b"12345"));
        assert_eq!(plain.size_hint().exact(), Some(5));
        assert_eq!(plain.with_status().size_hint().exact(), None);
        assert_eq!(Reply::default().size_hint().exact(), Some(0));
        assert_eq!(Reply::half(Arc::default()).size_hint().exact(), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn half_an_answer_breaks_the_connection() {
        let broken = Arc::new(AtomicBool::new(false));
        let mut reply = Reply::half(Arc::clone(&broken));
        let half = reply.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(half.len(), PAYMENT_ANSWER / 2);
        assert!(!broken.load(Ordering::Relaxed), "not before the half was sent");
        assert!(reply.frame().await.unwrap().is_err());
        assert!(broken.load(Ordering::Relaxed));
    }
}

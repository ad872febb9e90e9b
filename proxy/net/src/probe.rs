//! Probes: is this server well?
//!
//! In: a target, what to ask it, and how long that may take. Out: a report for the board. A probe
//! goes the way of every request: through a pool (its own), over TLS where there is some, across
//! the line in the class of its target. Time that it waits for its line is not the server's, so a
//! probe that is late for that reason says nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use tillgate_core::failover::ProbeReport;
use tillgate_core::freshness::AgeSource;
use tillgate_core::health::{Expected, Loss, ProbeKind, Probed};

use crate::clock;
use crate::error::{DialError, Failure};
use crate::http::body::RequestBody;
use crate::http::client::{Pool, SendError, Target, Wire};
use crate::http::flow::Flow;
use crate::http::head::{HeadLimits, Look, Watch, until_head_watched};
use crate::http::headers;
use crate::protobuf::Message;
use crate::upstream::{self, How};

/// Bytes of an answer that are read; a longer one is as good, but its connection is not kept.
const ANSWER_MAX: usize = 64 * 1024;

/// Who asks.
const AGENT: HeaderValue = HeaderValue::from_static("tillgate-probe");

/// The value of `grpc.health.v1.HealthCheckResponse.SERVING`.
const SERVING: u8 = 1;

/// What is asked, and of whom.
pub struct Probe {
    /// The server, as its calls reach it, but in the class of probes.
    pub target: Arc<Target>,
    /// What is asked.
    pub kind: ProbeKind,
    /// Where the answer says how old the server's data is.
    pub data_age: Option<AgeSource>,
    /// The last one left its connection open, so the next one opens none.
    pub kept: AtomicBool,
}

/// Which connection a probe may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// One that is open, if there is one.
    Any,
    /// A new one: old ones may only look alive.
    Fresh,
}

impl Probe {
    /// Asks. `None`: nothing was found out, because the line had no room.
    pub async fn run(&self, pool: &Pool, on: On, within: Duration) -> Option<ProbeReport> {
        let began = clock::now();
        if on == On::Fresh {
            self.distrust(pool);
        }
        let found = match &self.kind {
            ProbeKind::Tcp => self.connect(pool, within).await,
            ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => {
                let first = self.ask(pool, within).await;
                let left = within.saturating_sub(clock::now().saturating_duration_since(began));
                match first {
                    // A server closes a connection that it has kept for long enough.
                    Found { probed: Probed::Lost(Loss::Reset), .. } if on == On::Any => {
                        self.distrust(pool);
                        self.ask(pool, left).await
                    }
                    found => found,
                }
            }
        };
        if found.probed == Probed::Good {
            self.kept.store(true, Ordering::Relaxed);
        } else {
            self.distrust(pool);
        }
        let Found { probed, heard_at, data_age, waits } = found;
        (!waits).then_some(ProbeReport { probed, began, heard_at, data_age })
    }

    /// What it finds open may only look alive.
    fn distrust(&self, pool: &Pool) {
        self.kept.store(false, Ordering::Relaxed);
        pool.distrust(&self.target);
    }

    async fn connect(&self, pool: &Pool, within: Duration) -> Found {
        let target = &self.target;
        let addresses = match pool.resolver().addresses(&target.endpoint, &target.dns).await {
            Ok(addresses) => addresses,
            Err(error) => return Found::lost(error.failure()),
        };
        let how = How { lane: target.lane.as_ref(), connect_timeout: within, tcp: target.tcp };
        match upstream::dial(&addresses, how).await {
            Ok(_) => Found::heard(Probed::Good),
            Err(DialError::QueueTimeout { .. } | DialError::LineFull { .. }) => Found::waiting(),
            Err(error) => Found::lost(error.failure()),
        }
    }

    async fn ask(&self, pool: &Pool, within: Duration) -> Found {
        let flow = Arc::new(Flow::new(clock::now()));
        let mut request = Some(self.request(&flow));
        let exchange = async {
            let (response, lease) = pool.exchange(&self.target, &mut request, &flow).await?;
            let (head, body) = response.into_parts();
            let rest = Limited::new(body, ANSWER_MAX).collect().await;
            let (bytes, trailers) = match rest {
                Ok(rest) => {
                    lease.give_back();
                    let trailers = rest.trailers().cloned();
                    (rest.to_bytes(), trailers)
                }
                Err(_) => (Bytes::new(), None),
            };
            Ok::<_, SendError>((head, bytes, trailers))
        };
        let mut late = Late { at: clock::now() + within, step: within / 4, waits: false };
        let limits = HeadLimits { request: None, backend_request: None };
        match until_head_watched(exchange, limits, &flow, None, &mut late).await {
            Ok(Ok((head, body, trailers))) => {
                let data_age = self.data_age.as_ref().and_then(|source| {
                    source.in_headers(&head.headers).or_else(|| source.in_document(&body))
                });
                let probed = match &self.kind {
                    ProbeKind::Grpc { .. } => serving(&head.headers, trailers.as_ref(), &body),
                    ProbeKind::Http { expected, .. } => judge(expected, head.status),
                    ProbeKind::Tcp => Probed::Good,
                };
                Found { data_age, ..Found::heard(probed) }
            }
            Ok(Err(SendError::Dial(
                DialError::QueueTimeout { .. }
                | DialError::QueueFull { .. }
                | DialError::LineFull { .. },
            ))) => Found::waiting(),
            Ok(Err(error)) => Found::lost(error.failure()),
            Err(_) if late.waits => Found::waiting(),
            Err(_) => {
                let sent = flow.owed_since().filter(|_| flow.tries() > 0);
                let loss = if sent.is_some() { Loss::Timeout } else { Loss::ConnectTimeout };
                // Of a new connection the server's kernel has said a word; an old one is silent.
                let is_new = !self.kept.load(Ordering::Relaxed);
                Found { heard_at: sent.filter(|_| is_new), ..Found::silent(loss) }
            }
        }
    }

    fn request(&self, flow: &Arc<Flow>) -> Request<RequestBody> {
        let endpoint = &self.target.endpoint;
        let (method, path, host, body) = match &self.kind {
            ProbeKind::Http { method, path, host, .. } => {
                (method.clone(), &**path, host.as_deref(), None)
            }
            ProbeKind::Grpc { service } => {
                (Method::POST, "/grpc.health.v1.Health/Check", None, Some(check(service)))
            }
            ProbeKind::Tcp => (Method::HEAD, "/", None, None),
        };
        let host = host.map_or_else(|| endpoint.to_string(), str::to_owned);
        let mut request = Request::new(RequestBody::fixed(body, flow));
        let is_grpc = matches!(self.kind, ProbeKind::Grpc { .. });
        *request.method_mut() = method;
        let fields = request.headers_mut();
        fields.insert(USER_AGENT, AGENT);
        if is_grpc {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            fields.insert(TE, HeaderValue::from_static("trailers"));
        }
        let target = match self.target.wire {
            Wire::Http1 => {
                if let Ok(host) = HeaderValue::try_from(&*host) {
                    fields.insert(HOST, host);
                }
                path.parse::<Uri>().map_err(http::Error::from)
            }
            Wire::Http2 => Uri::builder()
                .scheme(headers::uri_scheme(self.target.dialect().scheme))
                .authority(host)
                .path_and_query(path)
                .build(),
        };
        // A path and a host of the policy were parsed before.
        *request.uri_mut() = target.unwrap_or_default();
        request
    }
}

/// What came of asking.
struct Found {
    probed: Probed,
    heard_at: Option<Instant>,
    data_age: Option<Duration>,
    /// It waited for its line.
    waits: bool,
}

impl Found {
    fn heard(probed: Probed) -> Self {
        Self { probed, heard_at: Some(clock::now()), data_age: None, waits: false }
    }

    fn silent(loss: Loss) -> Self {
        Self { probed: Probed::Lost(loss), heard_at: None, data_age: None, waits: false }
    }

    fn waiting() -> Self {
        Self { waits: true, ..Self::silent(Loss::Timeout) }
    }

    fn lost(failure: Failure) -> Self {
        let loss = failure.loss().unwrap_or(Loss::Protocol);
        // A connection may also be broken by this side, when its line is dead.
        let is_word = matches!(loss, Loss::Refused | Loss::Protocol);
        Self { heard_at: is_word.then(clock::now), ..Self::silent(loss) }
    }
}

/// Calls a probe back that is late, unless it waits for its line.
struct Late {
    at: Instant,
    step: Duration,
    waits: bool,
}

impl Watch for Late {
    fn look(&mut self, flow: &Flow, now: Instant) -> Look {
        self.waits = !flow.is_queued() && flow.excuse();
        if now < self.at {
            return Look::At(self.at.min(now + self.step));
        }
        Look::Leave
    }
}

fn judge(expected: &Expected, status: StatusCode) -> Probed {
    if expected.takes(status) { Probed::Good } else { Probed::Unwell(status) }
}

/// The message of a `HealthCheckRequest`, framed.
fn check(service: &str) -> Bytes {
    let mut request = Message::default();
    // A field that is empty is left out.
    if !service.is_empty() {
        request.text(1, service);
    }
    let field = request.into_bytes();
    let mut message = BytesMut::with_capacity(field.len() + 5);
    message.put_u8(0);
    message.put_u32(u32::try_from(field.len()).unwrap_or(0));
    message.put_slice(&field);
    message.freeze()
}

/// Whether a `HealthCheckResponse` says `SERVING`.
fn serving(headers: &HeaderMap, trailers: Option<&HeaderMap>, body: &[u8]) -> Probed {
    let status = trailers.and_then(|fields| fields.get("grpc-status"));
    let status = status.or_else(|| headers.get("grpc-status")).map(HeaderValue::as_bytes);
    // The frame's five bytes, then the field 1 as a number.
    let serves = status == Some(b"0") && body.get(5..7) == Some(&[0x08, SERVING]);
    if serves { Probed::Good } else { Probed::NotServing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_service_is_asked_in_its_own_words() {
        assert_eq!(&check("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&check("pay")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'p', b'a', b'y']);
        let long = check(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
        assert_eq!(long.len(), 208);
        assert_eq!(&check(&"x".repeat(127))[5..7], [0x0a, 127]);
        let ok = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        let none = HeaderMap::new();
        assert_eq!(serving(&none, Some(&ok), &[0, 0, 0, 0, 2, 8, 1]), Probed::Good);
        assert_eq!(serving(&none, Some(&ok), &[0, 0, 0, 0, 2, 8, 2]), Probed::NotServing);
        assert_eq!(serving(&none, None, &[0, 0, 0, 0, 2, 8, 1]), Probed::NotServing);
        assert_eq!(serving(&ok, None, &[]), Probed::NotServing);
    }
}

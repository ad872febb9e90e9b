//! From a request of a connection to its [`Caller`]: what all requests of the connection share,
//! what is refused before anybody looks at it, and what its answer decides about the connection.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tillgate_core::filter::Scheme;
use tillgate_core::tls::ClientIdentity;
use tokio::sync::Notify;

use super::super::headers;
use super::framing::Malformed;
use super::watch::{InFlight, Watch};
use super::{Caller, ClientIo, Limits, Place};
use crate::clock;
use crate::drain::{Phase, Ticket};

/// What the requests of one connection have in common.
pub(super) struct Requests {
    pub(super) watch: Arc<Watch>,
    pub(super) ticket: Arc<Ticket>,
    pub(super) place: Arc<Place>,
    pub(super) limits: Limits,
    /// It drains, and its first request has not come yet: the client is owed that one.
    pub(super) owed: AtomicBool,
    /// The request that was owed has come.
    pub(super) first: Notify,
    peer: SocketAddr,
    name: HeaderValue,
    scheme: Scheme,
    identity: Option<Arc<ClientIdentity>>,
}

impl Requests {
    /// Those that will come by `stream`.
    pub(super) fn new(
        peer: SocketAddr,
        stream: &ClientIo,
        mut place: Place,
        ticket: Ticket,
    ) -> Self {
        let limits = place.entry.limits();
        let (scheme, identity) = match stream {
            ClientIo::Plain(_) => (Scheme::Http, None),
            ClientIo::Tls(session) => {
                place.agreed = Some(Box::new(session.agreed()));
                (Scheme::Https, session.client().cloned())
            }
        };
        let watch = Watch::new(clock::now(), Some((Arc::clone(&place.entry), limits)));
        Self {
            watch: Arc::new(watch),
            owed: AtomicBool::new(ticket.phases().phase() >= Phase::Draining),
            first: Notify::new(),
            ticket: Arc::new(ticket),
            place: Arc::new(place),
            limits,
            peer,
            name: headers::client_name(peer.ip()),
            scheme,
            identity,
        }
    }

    /// Who sent `request`, and what its answer decides.
    pub(super) fn caller<B>(&self, request: &Request<B>) -> (Caller, Switch) {
        if self.owed.load(Ordering::Relaxed) {
            self.first.notify_one();
        }
        let (flow, mut refused) = Watch::begin(&self.watch, clock::now());
        match request.version() {
            Version::HTTP_10 => self.watch.is_old(),
            Version::HTTP_2 => refused = refused.or_else(|| bad_head(request, &self.limits)),
            _ => {}
        }
        if let Some(why) = refused {
            tracing::debug!(peer = %self.peer, why = why.detail(), "refused a request");
        }
        let identity = self.identity.as_ref().filter(|identity| self.counts(identity));
        let has_ended = self.identity.is_some() && identity.is_none();
        let mut switch = Switch::of(request, &flow, &self.watch);
        // By HTTP/2 the field would mean nothing.
        let is_plain = matches!(switch, Switch::None) && request.version() != Version::HTTP_2;
        if has_ended && is_plain {
            switch = Switch::Last;
        }
        let caller = Caller {
            peer: self.peer,
            name: self.name.clone(),
            flow,
            identity: identity.cloned(),
            ticket: Arc::clone(&self.ticket),
            place: Arc::clone(&self.place),
            scheme: self.scheme,
            refused,
        };
        (caller, switch)
    }

    /// Whether the client's certificate still counts.
    fn counts(&self, identity: &ClientIdentity) -> bool {
        self.place.entry.tls.as_ref().is_some_and(|tls| tls.counts(identity))
    }

    /// The client's certificate has ended on a connection of HTTP/2, where no answer can end it;
    /// by HTTP/1 the next answer is the last.
    pub(super) fn has_lost_client(&self) -> bool {
        self.watch.speaks_http2()
            && self.identity.as_ref().is_some_and(|identity| !self.counts(identity))
    }

    /// No more of them come: the connection broke.
    pub(super) fn have_ended(&self, error: &(dyn Error + 'static)) {
        self.watch.has_ended(error);
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            self.place.entry.meter.malformed.inc();
        }
        tracing::debug!(peer = %self.peer, %error, "client connection ended");
    }
}

/// What is wrong with the head of a request by HTTP/2, which no [`Framing`](super::Framing) has
/// seen.
fn bad_head<B>(request: &Request<B>, limits: &Limits) -> Option<Malformed> {
    let (headers, uri) = (request.headers(), request.uri());
    if headers.len() > limits.headers_max {
        return Some(Malformed::TooManyFields);
    }
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = headers.iter().map(|(name, value)| field_bytes(name.as_str().len(), value.len()));
    let bytes = fields.fold(authority + target, usize::saturating_add);
    if bytes > usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX) {
        return Some(Malformed::HeadTooLarge);
    }
    bad_target(request, limits.uri_bytes_max)
}

/// What HTTP/2 counts for a field (RFC 9113 section 6.5.2).
const fn field_bytes(name: usize, value: usize) -> usize {
    name + value + 32
}

/// What is wrong with the target of a request by HTTP/2, whose `:path` may be anything that looks
/// like part of a path.
fn bad_target<B>(request: &Request<B>, uri_bytes_max: usize) -> Option<Malformed> {
    // CONNECT has none.
    let target = request.uri().path_and_query()?.as_str();
    if target.len() > uri_bytes_max {
        return Some(Malformed::TargetTooLong);
    }
    let of_server = target == "*" && request.method() == Method::OPTIONS;
    let fits = target.starts_with('/') || of_server;
    (!fits).then_some(Malformed::Target)
}

/// What an answer decides about a connection or stream whose client may go on in another protocol.
#[derive(Debug)]
pub(super) enum Switch {
    /// Nothing: its next bytes are a request.
    None,
    /// Its next request belongs on another one: the client has to show another certificate.
    Last,
    /// A successful answer opens a tunnel.
    Connect,
    /// `101` does.
    Upgrade,
    /// A successful answer makes a tunnel of this stream of HTTP/2.
    Stream(InFlight),
}

impl Switch {
    fn of<B>(request: &Request<B>, flow: &InFlight, watch: &Watch) -> Self {
        if watch.speaks_http2() {
            let connects = request.method() == Method::CONNECT;
            if connects { Self::Stream(flow.clone()) } else { Self::None }
        } else if !watch.may_switch() {
            Self::None
        } else if request.method() == Method::CONNECT {
            Self::Connect
        } else {
            Self::Upgrade
        }
    }

    /// What a client of HTTP/1 sends next was not looked at, so it is a tunnel's or nobody's.
    pub(super) fn settle<B>(self, mut answer: Response<B>) -> Response<B> {
        let opens = match self {
            Self::None => true,
            Self::Last => false,
            Self::Connect => answer.status().is_success(),
            Self::Upgrade => answer.status() == StatusCode::SWITCHING_PROTOCOLS,
            Self::Stream(flow) => {
                if answer.status().is_success() {
                    flow.becomes_tunnel();
                }
                true
            }
        };
        if !opens {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

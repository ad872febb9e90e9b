//! From a request of a connection to its [`Caller`]: what all requests of the connection share,
//! what is refused before anybody looks at it, and what its answer decides about the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tillgate_core::filter::Scheme;
use tillgate_core::tls::ClientIdentity;

use super::framing::Malformed;
use super::watch::Watch;
use super::{Caller, Place};
use crate::clock;
use crate::drain::Ticket;

/// What the requests of one connection have in common.
pub(super) struct Requests<'a> {
    pub(super) watch: &'a Arc<Watch>,
    pub(super) ticket: Arc<Ticket>,
    pub(super) place: &'a Arc<Place>,
    pub(super) peer: SocketAddr,
    pub(super) name: HeaderValue,
    pub(super) scheme: Scheme,
    pub(super) identity: Option<Arc<ClientIdentity>>,
}

impl Requests<'_> {
    /// Who sent `request`, and what its answer decides.
    pub(super) fn caller<B>(&self, request: &Request<B>, uri_bytes_max: usize) -> (Caller, Switch) {
        let (flow, mut refused) = Watch::begin(self.watch, clock::now());
        match request.version() {
            Version::HTTP_10 => self.watch.is_old(),
            Version::HTTP_2 => refused = refused.or(bad_target(request, uri_bytes_max)),
            _ => {}
        }
        if let Some(why) = refused {
            tracing::debug!(peer = %self.peer, why = why.detail(), "refused a request");
        }
        let identity = self.identity.as_ref().filter(|identity| self.counts(identity));
        let has_ended = self.identity.is_some() && identity.is_none();
        let caller = Caller {
            peer: self.peer,
            name: self.name.clone(),
            flow,
            identity: identity.cloned(),
            ticket: Arc::clone(&self.ticket),
            place: Arc::clone(self.place),
            scheme: self.scheme,
            refused,
        };
        let mut switch = Switch::of(request, self.watch);
        // By HTTP/2 the field would mean nothing.
        if has_ended && switch == Switch::None && request.version() != Version::HTTP_2 {
            switch = Switch::Last;
        }
        (caller, switch)
    }

    /// Whether the client's certificate still counts.
    fn counts(&self, identity: &ClientIdentity) -> bool {
        self.place.entry.tls.as_ref().is_some_and(|tls| tls.counts(identity))
    }
}

/// What is wrong with the target of a request by HTTP/2, which no [`Framing`](super::Framing) has
/// seen, and whose `:path` may be anything that looks like part of a path.
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

/// What an answer decides about an HTTP/1 connection whose client may go on in another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// Nothing: its next bytes are a request.
    None,
    /// Its next request belongs on another one: the client has to show another certificate.
    Last,
    /// A successful answer opens a tunnel.
    Connect,
    /// `101` does.
    Upgrade,
}

impl Switch {
    fn of<B>(request: &Request<B>, watch: &Watch) -> Self {
        if !watch.may_switch() {
            Self::None
        } else if request.method() == Method::CONNECT {
            Self::Connect
        } else {
            Self::Upgrade
        }
    }

    /// What the client sends next was not looked at, so it is a tunnel's or nobody's.
    pub(super) fn settle<B>(self, mut answer: Response<B>) -> Response<B> {
        let opens = match self {
            Self::None => true,
            Self::Last => false,
            Self::Connect => answer.status().is_success(),
            Self::Upgrade => answer.status() == StatusCode::SWITCHING_PROTOCOLS,
        };
        if !opens {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

//! Connections to servers: a bounded pool that keeps destinations, classes and lines apart.
//!
//! One [`Shelf`] per (endpoint, class, link, protocol, TLS identity). A request takes an idle
//! connection, or dials its own and takes whichever comes first: the dialled one or one that is
//! given back.
//! Beyond `connections_max` requests wait in order of arrival, timed by their class; beyond
//! `waiting_max` they are refused. A request of which nothing was sent goes to the next
//! connection by itself. Everything here may be shared by all workers: a connection's task stays
//! on the worker that dialled it, the handle to send on it travels.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tillgate_core::backend::{DnsSpec, Endpoint, PoolLimit, ProxyProtocol, TcpSpec};
use tillgate_core::class::ClassId;
use tillgate_core::filter::Scheme;
use tillgate_core::link::LinkId;

use super::body::RequestBody;
use super::flow::Flow;
use crate::clock;
use crate::error::{DialError, Failure};
use crate::metrics::{Held, UpstreamMeter};
use crate::shaped::LineWait;
use crate::tls::{Connector, Refusal};
use crate::upstream::{Lane, Resolver};

mod key;
mod open;
mod shelf;
mod sockets;

use key::{Key, Sought, make_room};
use open::Allowance;
use shelf::{Shelf, StreamSlot};

/// A request that finds only connections which close under it gives up after this many; each
/// try costs nothing, but a server that closes every connection at once must not loop us.
const TRIES_MAX: usize = 8;

/// How long a connection may take to be ready again after its response has ended (the rest of a
/// request's body may still be on its way).
const SETTLE: Duration = Duration::from_secs(30);

/// What a server speaks on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/1.1: one request at a time on a connection.
    Http1,
    /// HTTP/2 with prior knowledge: many.
    Http2,
}

/// How requests to a server are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// What it speaks.
    pub wire: Wire,
    /// As what it is asked; HTTP/2 says so in every request.
    pub scheme: Scheme,
}

/// Where a request goes, and how: all that a pool needs to know.
pub struct Target {
    /// The server. An address here is dialled as it is.
    pub endpoint: Endpoint,
    /// Its addresses in the order in which to try them; `None`: ask by name.
    pub addresses: Option<Arc<[SocketAddr]>>,
    /// The class; a connection never changes it.
    pub class: ClassId,
    /// The line, `None` inside the store.
    pub link: Option<LinkId>,
    /// The same as a thing that moves bytes. Present exactly if `link` is.
    pub lane: Option<Lane>,
    /// What the server speaks.
    pub wire: Wire,
    /// TLS on the connection, if any.
    pub tls: Option<Arc<Connector>>,
    /// Bounds of the pool.
    pub limit: PoolLimit,
    /// Idle connections to open ahead of need when the last one is taken.
    pub spares: usize,
    /// How long a request may wait for a connection.
    pub max_wait: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How its name is resolved.
    pub dns: DnsSpec,
    /// Settings of sockets to it.
    pub tcp: TcpSpec,
    /// Whose requests alone a connection carries, and how the server is told so in front of them;
    /// `None`: anybody's.
    pub client: Option<(ProxyProtocol, SocketAddr)>,
    /// Where to count.
    pub meter: Arc<UpstreamMeter>,
}

impl Target {
    /// How requests to it are written.
    pub const fn dialect(&self) -> Dialect {
        let scheme = if self.tls.is_some() { Scheme::Https } else { Scheme::Http };
        Dialect { wire: self.wire, scheme }
    }

    /// The same for the requests of one client connection alone. Nothing is kept for the next
    /// one: an idle connection would wait for somebody who does not come back.
    #[must_use]
    pub fn for_client(&self, version: ProxyProtocol, client: SocketAddr) -> Self {
        Self {
            client: Some((version, client)),
            spares: 0,
            limit: PoolLimit { idle_timeout: Duration::ZERO, ..self.limit },
            ..self.with_connect_timeout(self.connect_timeout)
        }
    }

    /// The same with another patience for connecting.
    #[must_use]
    pub fn with_connect_timeout(&self, connect_timeout: Duration) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            addresses: self.addresses.clone(),
            lane: self.lane.clone(),
            tls: self.tls.clone(),
            meter: Arc::clone(&self.meter),
            connect_timeout,
            ..*self
        }
    }
}

/// Why a request got no response's head.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There was no connection; nothing was sent.
    #[error("no connection")]
    Dial(#[from] DialError),
    /// It was sent, at least in part.
    #[error("no answer")]
    Exchange(#[source] hyper::Error),
    /// The server ended the connection because of the certificate it was shown, or was not.
    #[error(
        "the server refuses the client certificate, or its absence; check the backend's \
         `tls.clientCertificate` and the authorities of the server"
    )]
    ClientCertificate,
    /// The last of several connections closed before anything was sent.
    #[error("every connection closes before a request is sent")]
    NeverSent,
    /// An HTTP/2 server says that it has not looked at it.
    #[error("the server took no further stream")]
    Refused(#[source] hyper::Error),
}

impl SendError {
    fn of(error: hyper::Error) -> Self {
        let h2 = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        // RFC 9113 section 8.7: a refused stream, or one above the last of a GOAWAY, was not
        // processed. The library tells the latter by the connection's error.
        let is_unseen = h2.is_some_and(|error: &h2::Error| {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            error.is_remote() && (refused || error.is_go_away())
        });
        if is_unseen { Self::Refused(error) } else { Self::Exchange(error) }
    }

    /// Whether nothing of the request can have been executed.
    pub const fn is_unsent(&self) -> bool {
        match self {
            Self::Dial(_) | Self::ClientCertificate | Self::NeverSent | Self::Refused(_) => true,
            Self::Exchange(_) => false,
        }
    }

    /// Its row's name in the failure table.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Dial(error) => error.failure(),
            Self::ClientCertificate => Failure::TlsClientCertificate,
            Self::Exchange(error) if error.is_parse() => Failure::BackendProtocol,
            Self::Exchange(_) | Self::NeverSent | Self::Refused(_) => Failure::BackendClosed,
        }
    }
}

/// All connections to servers that one worker, or all of them together, keep.
pub struct Pool {
    shelves: Mutex<HashMap<Key, Arc<Shelf>>>,
    resolver: Arc<Resolver>,
}

/// What a pool holds, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShelfSnapshot {
    /// The server.
    pub endpoint: Endpoint,
    /// The class.
    pub class: ClassId,
    /// The line.
    pub link: Option<LinkId>,
    /// Open connections, those being dialled included.
    pub open: usize,
    /// Of these, idle.
    pub idle: usize,
    /// Requests that wait for one.
    pub waiting: usize,
}

impl Pool {
    /// An empty pool.
    pub fn new(resolver: Arc<Resolver>) -> Self {
        Self { shelves: Mutex::default(), resolver }
    }

    /// The names-to-addresses seam this pool uses.
    pub const fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    /// Sends `request` to `target` and waits for the response's head. The lease must be kept
    /// with the response's body. Nothing here is timed but the wait for a connection. `request`
    /// is there as long as nothing of it was sent: also after an error, or when this is dropped.
    ///
    /// # Errors
    /// [`SendError`] says whether anything of the request was sent.
    pub async fn exchange(
        &self,
        target: &Arc<Target>,
        request: &mut Option<Request<RequestBody>>,
        flow: &Flow,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let shelf = self.shelf(target);
        let mut refused = false;
        for _ in 0..TRIES_MAX {
            let queued = flow.queue();
            let mut connection = shelf.checkout(target, &self.resolver).await?;
            drop(queued);
            let Some(message) = request.take() else { break };
            flow.mark_sent(connection.line.clone());
            let answer = match &mut connection.sender {
                Sender::Http1(sender) => sender.try_send_request(message).await,
                Sender::Http2(sender) => sender.try_send_request(message).await,
            };
            match answer {
                Ok(response) => {
                    connection.answered();
                    return Ok((response, Lease { connection: Some(connection) }));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => {
                        *request = Some(unsent);
                        refused = connection.is_refused();
                    }
                    None => {
                        if connection.is_closed() && !flow.is_cut_by_client() {
                            shelf.evict(clock::now());
                        }
                        if connection.is_refused() {
                            return Err(SendError::ClientCertificate);
                        }
                        let error = SendError::of(error.into_error());
                        if matches!(error, SendError::Refused(_)) {
                            // Whoever asks again finds another connection.
                            shelf.evict(clock::now());
                        }
                        return Err(error);
                    }
                },
            }
        }
        Err(if refused { SendError::ClientCertificate } else { SendError::NeverSent })
    }

    /// Closes connections that have been idle or open for too long, replaces those of critical
    /// classes ahead of need, and forgets destinations without any. To be called every second
    /// or so, on a worker.
    pub fn sweep(&self, now: Instant) {
        let shelves: Vec<_> = self.lock().values().cloned().collect();
        for shelf in &shelves {
            shelf.sweep(now, &self.resolver);
        }
        drop(shelves);
        self.lock().retain(|_, shelf| Arc::strong_count(shelf) > 1 || !shelf.is_empty());
    }

    /// Opens nothing ahead of need until a request comes by: after a reload nobody may want it.
    pub fn cool(&self) {
        for shelf in self.lock().values() {
            shelf.cool();
        }
    }

    /// Closes every idle connection to `endpoint`; busy ones take no further request.
    pub fn evict(&self, endpoint: &Endpoint) {
        let found: Vec<_> = self
            .lock()
            .iter()
            .filter(|(key, _)| key.endpoint == *endpoint)
            .map(|(_, shelf)| Arc::clone(shelf))
            .collect();
        for shelf in found {
            shelf.evict(clock::now());
        }
    }

    /// Has a connection open to `target` for a request that may come any time. To be called every
    /// second or so, for as long as that is so.
    pub fn keep_warm(&self, target: &Arc<Target>) {
        self.shelf(target).keep_warm(target, &self.resolver, clock::now());
    }

    /// Closes every idle connection across a line; busy ones take no further request. What was
    /// open when the line failed, or before it was switched, looks alive and may not be, and
    /// nobody can tell in less time than a new connection takes.
    pub fn evict_line(&self, link: LinkId) {
        let shelves = self.lock();
        let across = shelves.iter().filter(|(key, _)| key.rest.link == Some(link));
        let found: Vec<_> = across.map(|(_, shelf)| Arc::clone(shelf)).collect();
        drop(shelves);
        for shelf in found {
            shelf.evict(clock::now());
        }
    }

    /// Closes every idle connection that `target` would use: one like them went silent, and the
    /// next request must not find out about the others one by one.
    pub fn distrust(&self, target: &Target) {
        self.shelf(target).evict(clock::now());
    }

    /// Counts the connection of a request that has become a tunnel, which outlives its lease.
    pub fn hold(&self, target: &Arc<Target>) -> Hold {
        let held = Held::new(&target.meter.open);
        Hold { _held: held, _counted: self.shelf(target).hold(target, &self.resolver) }
    }

    /// What there is, in no particular order.
    pub fn snapshot(&self) -> Vec<ShelfSnapshot> {
        let shelves = self.lock();
        shelves
            .iter()
            .map(|(key, shelf)| {
                let (open, idle, waiting) = shelf.counts();
                let (class, link) = (key.rest.class, key.rest.link);
                ShelfSnapshot { endpoint: key.endpoint.clone(), class, link, open, idle, waiting }
            })
            .collect()
    }

    fn shelf(&self, target: &Target) -> Arc<Shelf> {
        let (sought, mut shelves) = (Sought::of(target), self.lock());
        if let Some(shelf) = shelves.get(&sought) {
            return Arc::clone(shelf);
        }
        let gone = sought.addresses.and_then(|_| make_room(&mut shelves));
        let shelf = Arc::clone(shelves.entry(Key::from(&sought)).or_default());
        drop(shelves);
        if let Some(gone) = gone {
            gone.evict(clock::now());
        }
        shelf
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Shelf>>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use by one request, until the response's body has ended.
#[derive(Debug)]
pub struct Lease {
    connection: Option<Connection>,
}

impl Lease {
    /// Whether other requests are on the connection as well.
    pub fn is_shared(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.stream.is_some())
    }

    /// The response has ended: the connection serves the next request, as soon as it can.
    /// Dropping a lease instead closes an HTTP/1 connection, whose rest nobody reads.
    pub fn give_back(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let shelf = Arc::clone(&connection.shelf);
        let Sender::Http1(sender) = &mut connection.sender else { return };
        if sender.is_ready() {
            shelf.offer(connection);
        } else if !sender.is_closed() {
            tokio::spawn(async move {
                let Sender::Http1(sender) = &mut connection.sender else { return };
                if let Ok(Ok(())) = tokio::time::timeout(SETTLE, sender.ready()).await {
                    shelf.offer(connection);
                }
            });
        }
    }
}

/// A connection that has become a tunnel, as one of its target's until dropped.
pub struct Hold {
    _held: Held,
    _counted: shelf::Opened,
}

/// The sending half of one connection.
struct Connection {
    sender: Sender,
    /// One of its streams, counted until the response has ended.
    stream: Option<StreamSlot>,
    /// Its line, if it crosses one.
    line: Option<LineWait>,
    /// Whether its server refuses our certificate, if it is one of TLS.
    refusal: Option<Refusal>,
    shelf: Arc<Shelf>,
    born: Instant,
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("born", &self.born).finish_non_exhaustive()
    }
}

impl Connection {
    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Whether its server has refused our certificate before it answered anything: then it has
    /// not seen what was sent.
    fn is_refused(&self) -> bool {
        self.refusal.as_ref().is_some_and(Refusal::is_known)
    }

    /// A response has begun.
    fn answered(&self) {
        if let Some(stream) = &self.stream {
            stream.answered();
        }
    }

    fn is_usable(&self, now: Instant, limit: &PoolLimit) -> bool {
        let Sender::Http1(sender) = &self.sender else { return false };
        sender.is_ready() && now.saturating_duration_since(self.born) < limit.age_max
    }
}

/// What a dial ends with.
struct Fresh {
    sender: FreshSender,
    line: Option<LineWait>,
    refusal: Option<Refusal>,
}

enum FreshSender {
    Http1(http1::SendRequest<RequestBody>),
    /// With what the server said about its streams.
    Http2(http2::SendRequest<RequestBody>, Arc<Allowance>),
}

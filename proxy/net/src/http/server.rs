//! Serving clients: HTTP/1.1 and HTTP/2 on one port, in the clear (HTTP/2 with prior knowledge) or
//! inside of TLS (by ALPN), within limits.
//!
//! [`serve`] takes connections from one socket and runs each as its own task. hyper frames the
//! messages; the time limits are ours, because they need to tell a connection that idles from
//! one that sends half a head or never reads: a [`Watch`] per connection knows, and is asked a
//! few times a second at most. A connection that overstays is closed; nothing else notices.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Entries;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tillgate_core::filter::Scheme;
use tillgate_core::listener::ProxyTrust;
use tillgate_core::tls::ClientIdentity;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

pub(crate) use self::accept::{NotTaken, take_connections};
use self::connection::{Client, serve_connection};
pub(crate) use self::floods::Flood;
use crate::clock;
use crate::drain::{Drain, Ticket};
use crate::error::Failure;
use crate::memory::Ledger;
use crate::metrics::{Held, ListenerMeter};
use crate::proxy_protocol;
use crate::rarely::ByReason;
use crate::tls::{Agreed, Terminator};
use crate::udp::Sessions;

mod accept;
mod beside;
mod connection;
mod floods;
mod framing;
mod intake;
mod limits;
mod parking;
mod requests;
mod streams;
mod watch;

pub use self::framing::Malformed;
pub use self::limits::Limits;
pub use self::parking::{Later, Patient, Reply};
pub use self::watch::{ClientIo, ClientStream, InFlight};

/// One listener, as all of its workers share it.
#[derive(Debug)]
pub struct Entry {
    /// Bounds on its clients; a reload changes them.
    limits: RwLock<Limits>,
    /// Where to count.
    pub meter: ListenerMeter,
    /// When to stop.
    pub drain: Drain,
    /// Whose PROXY headers name the client; nobody's if not set.
    trust: OnceLock<ProxyTrust>,
    /// Who takes connections from the same sockets instead; see [`Entry::pass_on`].
    next: OnceLock<Option<Arc<Entry>>>,
    /// When it was said that connections cannot be taken.
    said: Mutex<Option<Instant>>,
    /// Which refusals of clients were told, and when.
    told: ByReason,
    /// Of a listener of datagrams.
    pub(crate) sessions: Sessions,
    tls: Option<Arc<Terminator>>,
    memory: Arc<Ledger>,
    open: AtomicUsize,
    /// Connections by client, as many entries as there are connections at most.
    clients: Mutex<HashMap<IpAddr, usize>>,
    /// Requests under way.
    requests: AtomicUsize,
}

/// Who sent a request, and its life.
#[derive(Debug)]
pub struct Caller {
    /// The client's address.
    pub peer: SocketAddr,
    /// The same as `X-Forwarded-For` says it.
    pub name: HeaderValue,
    /// The request's life; keep it until the response has ended.
    pub flow: InFlight,
    /// What its verified certificate says, if it showed one that has not ended since.
    pub identity: Option<Arc<ClientIdentity>>,
    /// A ticket for what outlives the connection.
    pub ticket: Arc<Ticket>,
    /// The connection's place among its listener's; a tunnel keeps it to its own end.
    pub place: Arc<Place>,
    /// How it came.
    pub scheme: Scheme,
    /// The request stands for one that cannot be told: it is to be answered with this.
    pub refused: Option<Malformed>,
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Bodies of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// The answer to one request. There always is one.
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Caller,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

impl Entry {
    /// A listener without connections, in the clear or with TLS that ends here.
    pub fn new(
        limits: Limits,
        meter: ListenerMeter,
        drain: Drain,
        tls: Option<Arc<Terminator>>,
        memory: Arc<Ledger>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits: RwLock::new(limits),
            meter,
            drain,
            trust: OnceLock::new(),
            next: OnceLock::new(),
            said: Mutex::new(None),
            told: ByReason::default(),
            sessions: Sessions::default(),
            tls,
            memory,
            open: AtomicUsize::new(0),
            clients: Mutex::default(),
            requests: AtomicUsize::new(0),
        })
    }

    /// Connections of these sources begin with a PROXY header, from now on and for good.
    pub fn trust(&self, trust: ProxyTrust) {
        // A listener with another trust is another listener.
        let _ = self.trust.set(trust);
    }

    /// The bounds now.
    pub fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other bounds: at once for new connections and for the times of open ones; an open one keeps
    /// the sizes that it began with.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// A place for one more connection of `peer`, if there is one. Counted either way.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let Some(mut place) = self.admit_uncounted() else {
            self.meter.refused.inc();
            return None;
        };
        let speaks_for_others = self.trust.get().is_some_and(|trust| trust.trusts(peer));
        if !speaks_for_others && !place.is_for(peer) {
            return None;
        }
        self.meter.accepted.inc();
        Some(place)
    }

    pub(crate) fn admit_uncounted(self: &Arc<Self>) -> Option<Place> {
        let most = self.limits().connections_max;
        // In one step: one that is refused keeps its place from nobody, not even for a moment.
        let counted = |open| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, counted).ok()?;
        let (entry, held) = (Arc::clone(self), Held::new(&self.meter.connections));
        Some(Place { entry, client: None, agreed: None, _held: held })
    }

    /// Whether `client` has as many connections as it may.
    pub(crate) fn is_crowded_by(&self, client: IpAddr) -> bool {
        let most = self.limits().connections_per_client_max;
        self.clients().get(&client.to_canonical()).is_some_and(|open| *open >= most)
    }

    /// Counts a client that is refused because it has as many connections as it may, and tells of
    /// it now and then.
    pub(crate) fn tell_crowd(&self, client: IpAddr) {
        self.meter.crowded.inc();
        self.tell(Failure::ClientCrowds, client, &"it has as many connections as it may");
    }

    /// Counts a connection that is closed for what it began with, and tells of it now and then.
    pub fn turn_away(&self, failure: Failure, client: IpAddr, why: &dyn fmt::Display) {
        self.meter.reject(failure);
        self.tell(failure, client, why);
    }

    fn tell(&self, failure: Failure, client: IpAddr, why: &dyn fmt::Display) {
        let (listener, reason) = (self.meter.name(), failure.reason());
        // Who only connects and leaves is a health check, mostly.
        let is_news = failure != Failure::ClientGone;
        let told = || self.told.happens(reason, clock::now());
        if let Some(count) = is_news.then(told).flatten() {
            tracing::warn!(listener, reason, %client, %why, count, "a client is refused");
        } else {
            tracing::debug!(listener, reason, %client, %why, "a client is refused");
        }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client connection of a listener, counted while it or a tunnel made of it lives.
#[derive(Debug)]
pub struct Place {
    entry: Arc<Entry>,
    /// Among whose connections it is counted.
    client: Option<IpAddr>,
    agreed: Option<Box<Agreed>>,
    _held: Held,
}

impl Place {
    /// Its listener.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// How its client speaks TLS; `None` in the clear.
    pub fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_deref()
    }

    /// Counts it as one of `client`'s; no if that one has as many as it may.
    #[must_use]
    pub fn is_for(&mut self, client: IpAddr) -> bool {
        let is_for = self.becomes_of(client);
        if !is_for {
            self.entry.tell_crowd(client.to_canonical());
        }
        is_for
    }

    /// The same, which tells nobody.
    #[must_use]
    pub(crate) fn becomes_of(&mut self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        if self.client == Some(client) {
            return true;
        }
        self.forget_client();
        let most = self.entry.limits().connections_per_client_max;
        let mut clients = self.entry.clients();
        let open = clients.entry(client).or_insert(0);
        if *open >= most {
            return false;
        }
        *open += 1;
        drop(clients);
        self.client = Some(client);
        true
    }

    fn forget_client(&mut self) {
        let Some(client) = self.client.take() else { return };
        if let Entries::Occupied(mut open) = self.entry.clients().entry(client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.forget_client();
        self.entry.open.fetch_sub(1, Ordering::AcqRel);
        if std::thread::panicking() {
            self.entry.meter.panics.inc();
        }
    }
}

/// Takes connections from `listener` until the drain begins.
///
/// # Errors
/// Only if the runtime cannot watch the socket.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    entry: Arc<Entry>,
    handler: Arc<H>,
) -> std::io::Result<()> {
    serve_each(listener, entry, move |client, place, ticket| {
        serve_connection(client, place, ticket, handler)
    })
    .await
}

/// [`serve`] for a handler that lets questions wait: their connections keep little meanwhile.
///
/// # Errors
/// Only if the runtime cannot watch the socket.
pub async fn serve_patient<H: Patient>(
    listener: TcpListener,
    entry: Arc<Entry>,
    handler: Arc<H>,
) -> std::io::Result<()> {
    serve_each(listener, entry, move |client, place, ticket| {
        parking::serve_connection(client, place, ticket, handler)
    })
    .await
}

/// Takes connections, and lets `run` serve each.
async fn serve_each<R, F>(listener: TcpListener, entry: Arc<Entry>, run: R) -> std::io::Result<()>
where
    R: FnOnce(Client, Place, Ticket) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // Of this worker: one handshake's arithmetic at a time, requests in between.
    let turns = Arc::new(Semaphore::new(1));
    take_connections(listener, &entry, |stream, peer, place| {
        let (entry, run) = (&place.entry, run.clone());
        let ticket = entry.drain.ticket();
        // Answers must not wait for acknowledgements of earlier ones.
        let _ = stream.set_nodelay(true);
        if entry.trust.get().is_some() {
            let arrival = Arrival { stream, peer, place, ticket };
            tokio::spawn(serve_announced(arrival, run, Arc::clone(&turns)));
        } else if entry.tls.is_some() {
            let arrival = Arrival { stream, peer, place, ticket };
            tokio::spawn(serve_arrival(arrival, run, Arc::clone(&turns)));
        } else {
            let client = Client { peer, stream: ClientIo::Plain(stream) };
            tokio::spawn(run(client, place, ticket));
        }
    })
    .await
}

/// A connection that was just taken.
struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    ticket: Ticket,
}

/// Serves a connection whose PROXY header says who the client is; it is in front of TLS.
async fn serve_announced<R, F>(mut arrival: Arrival, run: R, turns: Arc<Semaphore>)
where
    R: FnOnce(Client, Place, Ticket) -> F,
    F: Future<Output = ()>,
{
    let entry = Arc::clone(&arrival.place.entry);
    let Some(trust) = entry.trust.get() else { return };
    let within = entry.limits().header_timeout;
    let peer = arrival.peer;
    let accepted = tokio::select! {
        accepted = proxy_protocol::accept(&mut arrival.stream, peer, trust, within) => accepted,
        () = arrival.ticket.cut(|| false) => return,
    };
    match accepted {
        Ok(client) => {
            arrival.peer = client;
            if trust.trusts(peer.ip()) && !arrival.place.is_for(client.ip()) {
                return;
            }
            serve_arrival(arrival, run, turns).await;
        }
        Err(refused) => entry.turn_away(refused.failure(), peer.ip(), &refused),
    }
}

/// Shakes hands with a client where TLS ends here, then serves it. The handshake's state is large
/// and short-lived, so it has a box of its own; what was agreed on has one as well. A drain that
/// begins meanwhile lets it finish: the client is owed the answer to its first request.
async fn serve_arrival<R, F>(arrival: Arrival, run: R, turns: Arc<Semaphore>)
where
    R: FnOnce(Client, Place, Ticket) -> F,
    F: Future<Output = ()>,
{
    let Arrival { stream, peer, place, ticket } = arrival;
    let stream = match place.entry.tls.clone() {
        None => ClientIo::Plain(stream),
        Some(tls) => {
            let within = place.entry.limits().header_timeout;
            let shaken = Box::pin(tls.accept((stream, peer), within, &turns));
            let session = tokio::select! {
                session = shaken => session,
                () = ticket.cut(|| false) => None,
            };
            let Some(session) = session else { return };
            ClientIo::Tls(session)
        }
    };
    drop(turns);
    run(Client { peer, stream }, place, ticket).await;
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;
    use crate::metrics::Metrics;

    struct Nobody;

    impl Handler for Nobody {
        type Body = Empty<Bytes>;

        async fn handle(self: Arc<Self>, _: Request<Incoming>, _: Caller) -> Response<Self::Body> {
            Response::new(Empty::new())
        }
    }

    #[test]
    fn an_idle_client_connection_stays_small() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let limits = Limits::FOR_ONE;
            let memory = Ledger::new(1 << 20);
            let meter = Metrics::new("0").listener(&"http".into());
            let entry = Entry::new(limits, meter, Drain::default(), None, Arc::clone(&memory));
            let peer = stream.peer_addr().unwrap();
            let place = entry.admit(peer.ip()).unwrap();
            let ticket = entry.drain.ticket();
            let client = Client { peer, stream: ClientIo::Plain(stream) };
            let connection = serve_connection(client, place, ticket, Arc::new(Nobody));
            // Held for every open connection, so growth should be a decision.
            let size = std::mem::size_of_val(&connection);
            assert!(size <= 4096, "{size} bytes");

            // With TLS the handshake and the session are elsewhere; this is what is left of them.
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let entry = Entry::new(limits, entry.meter.clone(), Drain::default(), None, memory);
            let (place, ticket) = (entry.admit(peer.ip()).unwrap(), entry.drain.ticket());
            let turns = Arc::new(Semaphore::new(1));
            let arrival = Arrival { stream, peer, place, ticket };
            let run =
                |client, place, ticket| serve_connection(client, place, ticket, Arc::new(Nobody));
            let secure = serve_arrival(arrival, run, turns);
            let more = std::mem::size_of_val(&secure) - size;
            assert!(more <= 320, "{more} bytes");
        });
    }
}

//! Datagrams: forwarded in sessions, so that replies find their client.
//!
//! In: a socket, its [`Entry`] (sessions are its connections) and a [`Router`]. A client has
//! a session with a connected socket of its own, so the kernel takes replies from its server alone.
//! Workers have sockets of their own (`SO_REUSEPORT`) and share the sessions, so that a client
//! keeps its session also when the kernel gives it to another worker.
//!
//! Nothing waits here. What the line has no room for is dropped, by class; what a full socket does
//! not take is dropped; when the listener is full, the session that was silent for longest and does
//! not wait for an answer makes room; of a client that has its part, one of its own. What ICMP
//! reports ends no session: the next datagram goes to the next of the backend's addresses, as after
//! a server that does not answer its client; new sessions pass over one that answers nobody.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::SockRef;
use tillgate_core::sessions::{Key as _, SessionTable};
use tokio::net::UdpSocket;

use self::session::Session;
use self::silence::Servers;
use crate::drain::Phase;
use crate::error::Failure;
use crate::http::server::{Entry, InFlight, Place};
use crate::upstream::Lane;

mod session;
mod silence;

/// The largest datagram there is (RFC 768, less no header): nothing is ever cut.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Datagrams taken in one go before others on this worker have their turn.
const BURST: usize = 64;

/// The sessions of one listener, of all workers together: a client may change its worker when
/// sockets come and go, and the longest silent session of all makes room.
#[derive(Default)]
pub struct Sessions {
    all: Mutex<SessionTable<SocketAddr, Arc<Session>>>,
    servers: Servers,
}

/// Whether a session to that server is still what its client would get now. Asked with every
/// datagram, so it has to be cheap.
pub type Holds = Box<dyn Fn(SocketAddr) -> bool + Send + Sync>;

/// Where a client's datagrams go.
pub struct Route<R> {
    /// The addresses of one server after the other, the first one to begin with. Never empty.
    pub addresses: Vec<SocketAddr>,
    /// Whether that is still so; where it is not, the next datagram begins a new session.
    pub holds: Holds,
    /// The line, if they are across one.
    pub lane: Option<Lane>,
    /// Counts, and remembers when something moved; says how long nothing may.
    pub flow: InFlight,
    /// Told how the session ended.
    pub record: R,
}

/// What remembers a session.
pub trait Record: Send + 'static {
    /// The session has ended; `at` says which of the route's addresses it used last.
    fn end(self, at: usize, result: Result<(), Failure>);
}

/// Says where a new client's datagrams go.
pub trait Router: Send + Sync + 'static {
    /// Is told how a session ended.
    type Record: Record;

    /// The route of a new client's session; it must not wait.
    ///
    /// # Errors
    /// Why there is none; the datagram is dropped for that reason.
    fn route(&self, client: SocketAddr) -> Result<Route<Self::Record>, Failure>;
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, SessionTable<SocketAddr, Arc<Session>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

/// One worker's part of a listener.
struct Forwarder {
    socket: UdpSocket,
    entry: Arc<Entry>,
    /// Where datagrams from servers are read to, one at a time.
    buffer: Mutex<Vec<u8>>,
}

/// Forwards datagrams of `socket` until the drain begins. Sessions that are owed an answer go on
/// until they have it.
///
/// # Errors
/// Only if the runtime cannot watch the socket.
pub async fn serve<R: Router>(
    socket: std::net::UdpSocket,
    entry: Arc<Entry>,
    router: Arc<R>,
) -> io::Result<()> {
    let forwarder = Arc::new(Forwarder {
        socket: UdpSocket::from_std(socket)?,
        entry,
        buffer: Mutex::new(vec![0; DATAGRAM_BYTES_MAX]),
    });
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut draining = std::pin::pin!(forwarder.entry.drain.reached(Phase::Draining));
    loop {
        tokio::select! {
            () = &mut draining => return Ok(()),
            ready = forwarder.socket.readable() => ready?,
        }
        for _ in 0..BURST {
            match forwarder.socket.try_recv_from(&mut buffer) {
                Ok((bytes, client)) => forwarder.take(&router, client, &buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What ICMP says of a reply to a client that has left.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Forwarder {
    /// Passes a client's datagram on, in its session or a new one.
    fn take<R: Router>(self: &Arc<Self>, router: &Arc<R>, client: SocketAddr, datagram: &[u8]) {
        let known = self.sessions().touch(&client).map(Arc::clone);
        let session = match known.filter(|session| session.is_open()) {
            Some(session) if session.holds() => session,
            outdated => {
                if let Some(outdated) = outdated {
                    self.forget(client, &outdated);
                    drop(outdated.give_up_place());
                }
                match self.open(router, client) {
                    Ok(session) => session,
                    Err(reason) => return self.entry.meter.drop_datagram(reason),
                }
            }
        };
        if let Err(reason) = session.send(datagram) {
            self.entry.meter.drop_datagram(reason);
        }
    }

    fn open<R: Router>(
        self: &Arc<Self>,
        router: &Arc<R>,
        client: SocketAddr,
    ) -> Result<Arc<Session>, &'static str> {
        let full = || {
            self.entry.meter.refused.inc();
            "table_full"
        };
        let crowds = || {
            self.entry.tell_crowd(client.ip());
            Failure::ClientCrowds.reason()
        };
        let is_crowd = self.entry.is_crowded_by(client.ip());
        let free = if is_crowd { None } else { self.entry.admit_uncounted() };
        let crowd = is_crowd.then_some(client);
        if free.is_none() && who_leaves(&self.sessions(), crowd).is_none() {
            return Err(if is_crowd { crowds() } else { full() });
        }
        // Nobody leaves for a client that cannot be served.
        let route = router.route(client).map_err(Failure::reason)?;
        let Route { addresses, holds, lane, flow, record } = route;
        let Some(place) = free.or_else(|| self.room(crowd)) else {
            record.end(0, Err(Failure::RequestsFull));
            return Err(full());
        };
        let Some(place) = self.place_of(client, place) else {
            record.end(0, Err(Failure::ClientCrowds));
            return Err(crowds());
        };
        let servers = &self.entry.sessions.servers;
        let opened = Session::open((addresses, holds), servers, lane, flow, place);
        let session = match opened {
            Ok(session) => Arc::new(session),
            Err(error) => {
                tracing::debug!(%error, "no socket for a session");
                record.end(0, Err(Failure::ConnectUnreachable));
                return Err(Failure::ConnectUnreachable.reason());
            }
        };
        self.entry.meter.accepted.inc();
        self.sessions().insert(client, Arc::clone(&session));
        let ticket = self.entry.drain.ticket();
        let forwarder = Arc::clone(self);
        tokio::spawn(session::run(forwarder, client, Arc::clone(&session), ticket, record));
        Ok(session)
    }

    /// The place of a session that ends for it; of a crowd's own if it is for one of a `crowd`.
    fn room(&self, crowd: Option<SocketAddr>) -> Option<Place> {
        // Found and taken in one go: another worker looks for one, too.
        let next = || {
            let mut sessions = self.sessions();
            let leaves = who_leaves(&sessions, crowd)?;
            sessions.remove(&leaves)
        };
        let mut leaving = std::iter::from_fn(next);
        // One that has ended by itself has no place any more, but has left room.
        leaving.find_map(|session| session.give_up_place()).or_else(|| self.entry.admit_uncounted())
    }

    /// The place as one of `client`'s.
    fn place_of(&self, client: SocketAddr, mut place: Place) -> Option<Place> {
        if place.becomes_of(client.ip()) {
            return Some(place);
        }
        // Another worker has taken that client's last one in this moment: one of its own leaves.
        drop(place);
        let mut own = self.room(Some(client))?;
        own.becomes_of(client.ip()).then_some(own)
    }

    /// Passes a server's datagram on.
    fn reply(&self, client: SocketAddr, datagram: &[u8]) {
        // As in a session: tokio must not be asked whether the socket takes it.
        if SockRef::from(&self.socket).send_to(datagram, &client.into()).is_err() {
            self.entry.meter.drop_datagram("client_socket");
        }
    }

    /// Forgets a session that has ended, unless its client has another one by now.
    fn forget(&self, client: SocketAddr, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        if sessions.get(&client).is_some_and(|known| Arc::ptr_eq(known, session)) {
            sessions.remove(&client);
        }
    }

    fn sessions(&self) -> MutexGuard<'_, SessionTable<SocketAddr, Arc<Session>>> {
        self.entry.sessions.lock()
    }

    fn buffer(&self) -> MutexGuard<'_, Vec<u8>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose session was silent for longest and waits for nothing; which of its own if one of a `crowd`
/// asks.
fn who_leaves(
    sessions: &SessionTable<SocketAddr, Arc<Session>>,
    crowd: Option<SocketAddr>,
) -> Option<SocketAddr> {
    let may_leave = |session: &Arc<Session>| session.may_leave();
    let leaves = match crowd {
        Some(one) => sessions.longest_silent_of(&one.client(), may_leave),
        None => sessions.longest_silent(may_leave),
    };
    leaves.copied()
}

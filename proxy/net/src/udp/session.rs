//! One client's datagrams to one server and back.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tillgate_core::schedule::Policed;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::silence::{self, Servers, Silence};
use super::{BURST, Forwarder, Holds, Record};
use crate::clock;
use crate::drain::{Phase, Ticket};
use crate::error::Failure;
use crate::http::server::{InFlight, Place};
use crate::link::Policer;
use crate::shaped::dial::bind_to_line;
use crate::upstream::Lane;

/// For how long a session that is owed an answer makes no room for others. A client that asks
/// again does so sooner; one that nobody answers must not hold its place for longer.
const WAITS_MAX: Duration = Duration::from_secs(10);

/// One session. The listener sends on it, its own task receives.
pub(super) struct Session {
    socket: UdpSocket,
    addresses: Vec<SocketAddr>,
    /// What all sessions know of each of them.
    servers: Vec<Arc<Silence>>,
    /// Which of them is used.
    at: AtomicUsize,
    holds: Holds,
    policer: Option<Policer>,
    flow: InFlight,
    /// When the first datagram was sent after which nothing has come (by
    /// [`clock::lately_millis`]); zero = none was.
    owed_since: AtomicU64,
    /// What this session has asked the present server.
    silence: Silence,
    /// An ICMP error has come, and no answer since.
    refused: AtomicBool,
    /// `None` once it has made room for another.
    place: Mutex<Option<Place>>,
    over: Notify,
}

impl Session {
    /// A session towards the first of `addresses` that can be had, those that answer nobody last.
    pub(super) fn open(
        (addresses, holds): (Vec<SocketAddr>, Holds),
        servers: &Servers,
        lane: Option<Lane>,
        flow: InFlight,
        place: Place,
    ) -> io::Result<Self> {
        let servers = servers.of(&addresses);
        let mut opened = Err(io::ErrorKind::AddrNotAvailable.into());
        for at in silence::in_turn(&servers) {
            opened = connected(addresses[at], lane.as_ref()).map(|socket| (at, socket));
            if opened.is_ok() {
                break;
            }
        }
        let (at, socket) = opened?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            addresses,
            servers,
            at: AtomicUsize::new(at),
            holds,
            policer: lane.map(|lane| Policer::new(&lane.link, &lane.class)),
            flow,
            owed_since: AtomicU64::new(0),
            silence: Silence::default(),
            refused: AtomicBool::new(false),
            place: Mutex::new(Some(place)),
            over: Notify::new(),
        })
    }

    /// Whether it still has its place.
    pub(super) fn is_open(&self) -> bool {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether its client would get the same session now.
    pub(super) fn holds(&self) -> bool {
        (self.holds)(self.addresses[self.at.load(Ordering::Relaxed)])
    }

    pub(super) fn is_owed_an_answer(&self) -> bool {
        self.owed_for().is_some()
    }

    /// Whether it may make room for another one.
    pub(super) fn may_leave(&self) -> bool {
        self.owed_for().is_none_or(|owed| owed >= WAITS_MAX)
    }

    /// For how long it has been owed an answer, if it is.
    fn owed_for(&self) -> Option<Duration> {
        since(&self.owed_since)
    }

    /// For how long it has been of no use: what its client sends counts only if it is answered.
    fn silent_for(&self) -> Duration {
        let moved = || clock::now().saturating_duration_since(self.flow.moved_at());
        self.owed_for().unwrap_or_else(moved)
    }

    fn has_asked(&self) {
        let now = clock::lately_millis();
        if self.owed_since.load(Ordering::Relaxed) == 0 {
            self.owed_since.store(now, Ordering::Relaxed);
        }
        self.silence.asked(now);
        self.server().asked(now);
    }

    fn is_answered(&self) {
        self.owed_since.store(0, Ordering::Relaxed);
        self.silence.ends();
        self.server().ends();
        self.refused.store(false, Ordering::Relaxed);
    }

    /// What all sessions know of the present server.
    fn server(&self) -> &Silence {
        &self.servers[self.at.load(Ordering::Relaxed)]
    }

    /// Ends it for the sake of another one.
    pub(super) fn give_up_place(&self) -> Option<Place> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.over.notify_one();
        place
    }

    /// Sends a datagram to the server, if the line has room for its class.
    pub(super) fn send(&self, datagram: &[u8]) -> Result<(), &'static str> {
        if let Some(policer) = &self.policer
            && policer.may_send(datagram.len()) == Policed::Drop
        {
            // The line counts it.
            return Ok(());
        }
        if self.silence.is_long(clock::lately_millis()) {
            self.turn();
        }
        // Past tokio, which believes that a new socket cannot be written to until it was told.
        let socket = SockRef::from(&self.socket);
        let mut sent = socket.send(datagram);
        if sent.as_ref().is_err_and(|error| is_report(error.kind())) {
            // That was about an earlier one; this one has not been tried.
            self.is_refused();
            sent = socket.send(datagram);
        }
        match sent {
            Ok(bytes) => {
                self.has_asked();
                self.flow.moved_up(bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err("server_socket"),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Err("oversize"),
            Err(_) => Err("unreachable"),
        }
    }

    /// The server cannot be reached.
    fn is_refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
        self.turn();
    }

    /// What follows goes to the next address that this socket reaches: one of the other family
    /// needs another socket.
    fn turn(&self) {
        self.silence.ends();
        let (at, count) = (self.at.load(Ordering::Relaxed), self.addresses.len());
        for next in (1..count).map(|step| (at + step) % count) {
            if SockRef::from(&self.socket).connect(&self.addresses[next].into()).is_ok() {
                self.at.store(next, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Passes on what has come from the server; whether it was all.
    fn receive(&self, forwarder: &Forwarder, client: SocketAddr) -> bool {
        let mut buffer = forwarder.buffer();
        for _ in 0..BURST {
            match self.socket.try_recv(&mut buffer) {
                Ok(bytes) => {
                    if let Some(policer) = &self.policer {
                        policer.received(bytes);
                    }
                    self.is_answered();
                    self.flow.moved_down(bytes);
                    forwarder.reply(client, &buffer[..bytes]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => self.is_refused(),
            }
        }
        false
    }
}

/// A socket that hears `to` alone.
fn connected(to: SocketAddr, lane: Option<&Lane>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(lane) = lane {
        bind_to_line(&socket, &lane.link.spec(), &lane.class, to)?;
    }
    socket.connect(&to.into())?;
    Ok(socket)
}

/// How long ago `stamp` was, if it was set.
fn since(stamp: &AtomicU64) -> Option<Duration> {
    let stamp = stamp.load(Ordering::Relaxed);
    let age = clock::lately_millis().saturating_sub(stamp);
    (stamp != 0).then(|| Duration::from_millis(age))
}

/// Whether an error of a send is what ICMP said of an earlier one.
fn is_report(kind: io::ErrorKind) -> bool {
    let kinds = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::NetworkUnreachable,
    ];
    kinds.contains(&kind)
}

/// Passes a server's datagrams on until the session is over.
pub(super) async fn run<R: Record>(
    forwarder: Arc<Forwarder>,
    client: SocketAddr,
    session: Arc<Session>,
    ticket: Ticket,
    record: R,
) {
    let leaving = Leaving { forwarder, client, session };
    let result = until_over(&leaving.forwarder, client, &leaving.session, &ticket).await;
    let at = leaving.session.at.load(Ordering::Relaxed);
    drop(leaving);
    drop(ticket);
    record.end(at, result);
}

/// Takes a session out of the table, also after a panic.
struct Leaving {
    forwarder: Arc<Forwarder>,
    client: SocketAddr,
    session: Arc<Session>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.forwarder.forget(self.client, &self.session);
        drop(self.session.give_up_place());
    }
}

async fn until_over(
    forwarder: &Forwarder,
    client: SocketAddr,
    session: &Session,
    ticket: &Ticket,
) -> Result<(), Failure> {
    let mut phases = ticket.phases();
    let mut idle = std::pin::pin!(tokio::time::sleep(session.flow.idle_limit()));
    loop {
        tokio::select! {
            ready = session.socket.readable() => {
                if ready.is_err() {
                    return Err(Failure::ConnectUnreachable);
                }
                if !session.receive(forwarder, client) {
                    tokio::task::yield_now().await;
                }
                let is_draining = phases.phase() > Phase::Open;
                if is_draining && !session.is_owed_an_answer() {
                    return Ok(());
                }
            }
            () = &mut idle => {
                let left = session.flow.idle_limit().saturating_sub(session.silent_for());
                if left.is_zero() {
                    return ended(session);
                }
                idle.as_mut().reset((clock::now() + left).into());
            }
            () = session.over.notified() => return ended(session),
            phase = phases.changed() => match phase {
                Phase::Open => {}
                Phase::Draining if session.is_owed_an_answer() => {}
                Phase::Draining => return Ok(()),
                Phase::CutBulk if session.flow.is_critical() => {}
                Phase::CutBulk | Phase::CutAll => return Err(Failure::Drained),
            },
        }
    }
}

/// How a session ended that nobody broke off: silence is its normal end.
fn ended(session: &Session) -> Result<(), Failure> {
    let was_refused = session.refused.load(Ordering::Relaxed);
    if was_refused { Err(Failure::ConnectRefused) } else { Ok(()) }
}

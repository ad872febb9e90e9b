//! Listening sockets: bound before anything is served, one per worker on the same port.
//!
//! In: an address and how many sockets share it (`SO_REUSEPORT`, the kernel spreads connections),
//! or sockets that somebody else has bound. Out: sockets whose address is known, also for port 0.
//! A port that somebody else listens on is an error even if he allows sharing: two gateways on one
//! port would each get half.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, SockRef, Type};

use crate::sockopt;

/// Connections that may wait in the kernel until a worker takes them. Only bursts of new
/// connections wait here; 1024 is what a till hall opens at once after a power cut.
const BACKLOG: i32 = 1024;

/// Free ports that are tried where any will do.
const PORTS_TRIED: usize = 8;

/// What a listening socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Connections (TCP).
    Stream,
    /// Datagrams (UDP).
    Datagram,
}

/// One listening socket, non-blocking.
#[derive(Debug)]
pub enum Socket {
    /// It takes connections.
    Stream(TcpListener),
    /// It takes datagrams.
    Datagram(UdpSocket),
}

impl Socket {
    /// A descriptor that this process was given.
    ///
    /// # Errors
    /// If it is not a socket of the internet, or one that does not listen.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = SockRef::from(&descriptor);
        let internet = socket.local_addr()?.as_socket().is_some();
        let kind = socket.r#type()?;
        let listens = kind == Type::STREAM && socket.is_listener()?;
        if !internet || (kind == Type::STREAM && !listens) {
            let text = "not a socket that listens for the internet";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        if listens {
            // What was queued stays; only the room changes.
            socket.listen(BACKLOG)?;
            Ok(Self::Stream(TcpListener::from(descriptor)))
        } else {
            Ok(Self::Datagram(UdpSocket::from(descriptor)))
        }
    }

    /// What it carries.
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Stream(_) => Transport::Stream,
            Self::Datagram(_) => Transport::Datagram,
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Stream(socket) => socket.local_addr(),
            Self::Datagram(socket) => socket.local_addr(),
        }
    }

    /// The same socket once more: it listens until the last of them is closed.
    ///
    /// # Errors
    /// If this process may not open more files.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Stream(socket) => socket.try_clone().map(Self::Stream),
            Self::Datagram(socket) => socket.try_clone().map(Self::Datagram),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(socket) => socket.as_fd(),
            Self::Datagram(socket) => socket.as_fd(),
        }
    }
}

/// Sockets that share one address.
#[derive(Debug)]
pub struct Shared {
    /// Where they listen; the port is real even if 0 was asked for.
    pub address: SocketAddr,
    /// What they carry.
    pub transport: Transport,
    sockets: Vec<Socket>,
}

/// Lets this process open as many files, and so sockets, as it may; returns how many that is.
///
/// # Errors
/// What the kernel says; the limit is then what it was.
pub fn raise_open_files() -> io::Result<u64> {
    sockopt::raise_open_files()
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("{address} is in use by another process")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address is not of this machine.
    #[error("{address} is not an address of this machine")]
    NotOurs {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Ports below 1024 need a privilege.
    #[error("{address} needs a privilege that this user does not have")]
    Denied {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else the kernel says.
    #[error("{address} cannot be listened on")]
    Other {
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
}

/// Whether somebody else may listen on the port that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nobody.
    Nobody,
    /// A listener of our own on the same port that is about to end.
    Ours,
}

impl Shared {
    /// Binds `address` for `count` workers (at least one).
    ///
    /// # Errors
    /// [`ListenError`] names the address and what is wrong with it.
    pub fn bind(
        address: SocketAddr,
        transport: Transport,
        count: usize,
        beside: Beside,
    ) -> Result<Self, ListenError> {
        // Somebody else may be given a port before it is ours that was found free.
        let tries = if address.port() == 0 { PORTS_TRIED } else { 1 };
        let bind = || bind(address, transport, count, beside);
        let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        let mut bound = bind();
        for _ in 1..tries {
            if bound.as_ref().is_err_and(is_taken) {
                bound = bind();
            }
        }
        bound.map_err(|source| {
            let kind = source.kind();
            if kind == io::ErrorKind::AddrInUse {
                ListenError::InUse { address }
            } else if kind == io::ErrorKind::AddrNotAvailable {
                ListenError::NotOurs { address }
            } else if kind == io::ErrorKind::PermissionDenied {
                ListenError::Denied { address }
            } else {
                ListenError::Other { address, source }
            }
        })
    }

    /// Sockets that are bound already, all to one address; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(sockets: Vec<Socket>) -> io::Result<Option<Self>> {
        let Some(first) = sockets.first() else { return Ok(None) };
        let (address, transport) = (first.local_addr()?, first.transport());
        Ok(Some(Self { address, transport, sockets }))
    }

    /// The sockets.
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// The sockets dealt out to `workers`: every worker gets one at least, and no socket is left
    /// out, for what the kernel puts into its queue must be taken by somebody.
    ///
    /// # Errors
    /// If this process may not open more files.
    pub fn deal(&self, workers: usize) -> io::Result<Vec<Vec<Socket>>> {
        let workers = workers.max(1);
        let mut hands: Vec<Vec<Socket>> = (0..workers).map(|_| Vec::new()).collect();
        for place in 0..workers.max(self.sockets.len()) {
            let socket = &self.sockets[place % self.sockets.len()];
            hands[place % workers].push(socket.try_clone()?);
        }
        Ok(hands)
    }
}

fn bind(
    address: SocketAddr,
    transport: Transport,
    count: usize,
    beside: Beside,
) -> io::Result<Shared> {
    let mut address = address;
    if beside == Beside::Nobody {
        // Without SO_REUSEPORT first: it fails if anybody listens there, sharing or not.
        let probe = socket(address, transport)?;
        probe.bind(&address.into())?;
        address = probe.local_addr()?.as_socket().unwrap_or(address);
    }
    let sockets = (0..count.max(1))
        .map(|_| {
            let socket = socket(address, transport)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.set_nonblocking(true)?;
            if transport == Transport::Datagram {
                return Ok(Socket::Datagram(UdpSocket::from(socket)));
            }
            socket.listen(BACKLOG)?;
            Ok(Socket::Stream(TcpListener::from(socket)))
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok(Shared { address, transport, sockets })
}

fn socket(address: SocketAddr, transport: Transport) -> io::Result<socket2::Socket> {
    let (kind, protocol) = match transport {
        Transport::Stream => (Type::STREAM, Protocol::TCP),
        Transport::Datagram => (Type::DGRAM, Protocol::UDP),
    };
    let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if transport == Transport::Stream {
        // Connections of a process before this one may still be in TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: SocketAddr, count: usize) -> Result<Shared, ListenError> {
        Shared::bind(address, Transport::Stream, count, Beside::Nobody)
    }

    #[test]
    fn a_port_in_use_is_refused_although_it_could_be_shared() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_ne!(first.address.port(), 0);
        assert_eq!(first.sockets().len(), 2);
        let error = bind(first.address, 1).unwrap_err();
        assert!(matches!(error, ListenError::InUse { address } if address == first.address));
        Shared::bind(first.address, Transport::Stream, 1, Beside::Ours).unwrap();
    }

    #[test]
    fn every_worker_has_a_socket_and_every_socket_a_worker() {
        let shared = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        for (workers, wanted) in [(1, vec![2]), (2, vec![1, 1]), (3, vec![1, 1, 1])] {
            let hands = shared.deal(workers).unwrap();
            assert_eq!(hands.iter().map(Vec::len).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn only_what_listens_is_adopted() {
        let address = "127.0.0.1:0".parse().unwrap();
        let bound = socket(address, Transport::Stream).unwrap();
        bound.bind(&address.into()).unwrap();
        Socket::adopt(bound.into()).unwrap_err();
        let datagrams = UdpSocket::bind(address).unwrap();
        assert_eq!(Socket::adopt(datagrams.into()).unwrap().transport(), Transport::Datagram);
        let listener = TcpListener::bind(address).unwrap();
        assert_eq!(Socket::adopt(listener.into()).unwrap().transport(), Transport::Stream);
        let (local, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        Socket::adopt(local.into()).unwrap_err();
    }
}

//! Listening sockets: bound before anything is served, one per worker on the same port.
//!
//! In: an address and how many sockets share it (`SO_REUSEPORT`, the kernel spreads connections).
//! Out: sockets whose address is known, also for port 0. A port that somebody else listens on
//! is an error even if he allows sharing: two gateways on one port would each get half.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::sockopt;

/// Connections that may wait in the kernel until a worker takes them. Only bursts of new
/// connections wait here; 1024 is what a till hall opens at once after a power cut.
const BACKLOG: i32 = 1024;

/// Sockets that share one address.
#[derive(Debug)]
pub struct Shared {
    /// Where they listen; the port is real even if 0 was asked for.
    pub address: SocketAddr,
    /// One per worker, non-blocking.
    pub sockets: Vec<TcpListener>,
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

impl Shared {
    /// Binds `address` for `count` workers (at least one).
    ///
    /// # Errors
    /// [`ListenError`] names the address and what is wrong with it.
    pub fn bind(address: SocketAddr, count: usize) -> Result<Self, ListenError> {
        bind(address, count).map_err(|source| {
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
}

fn bind(address: SocketAddr, count: usize) -> io::Result<Shared> {
    // Without SO_REUSEPORT first: it fails if anybody listens there, sharing or not.
    let probe = socket(address)?;
    probe.bind(&address.into())?;
    let address = match probe.local_addr()?.as_socket() {
        Some(address) => address,
        None => address,
    };
    drop(probe);
    let sockets = (0..count.max(1))
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(TcpListener::from(socket))
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok(Shared { address, sockets })
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused_although_it_could_be_shared() {
        let first = Shared::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_ne!(first.address.port(), 0);
        assert_eq!(first.sockets.len(), 2);
        let error = Shared::bind(first.address, 1).unwrap_err();
        assert!(matches!(error, ListenError::InUse { address } if address == first.address));
    }
}

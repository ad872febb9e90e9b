//! Listening sockets that this process did not bind itself.
//!
//! A service manager names them after listeners and decides their address; a process before this
//! one hands on what it listened on, and there a socket counts only for the address that the
//! config says. What nobody wants is closed, and said.

use std::net::SocketAddr;

use tillgate_net::handover::Named;
use tillgate_net::listen::{Socket, Transport};

/// Who has bound them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    ServiceManager,
    Predecessor,
}

/// Sockets to take before binding anything.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<(Origin, Named)>,
}

impl Inherited {
    /// Sockets of a service manager.
    #[must_use]
    pub(crate) fn activated(mut self, sockets: Vec<Named>) -> Self {
        self.sockets.extend(sockets.into_iter().map(|one| (Origin::ServiceManager, one)));
        self
    }

    /// Sockets of the process before this one.
    #[must_use]
    pub(crate) fn handed_over(mut self, sockets: Vec<Named>) -> Self {
        self.sockets.extend(sockets.into_iter().map(|one| (Origin::Predecessor, one)));
        self
    }

    /// Those for the listener `name` at `address`. All of them listen at one address.
    pub(crate) fn take(
        &mut self,
        name: &str,
        address: SocketAddr,
        transport: Transport,
    ) -> Vec<Socket> {
        let place = |socket: &Socket| socket.local_addr().ok();
        let fits = |(origin, (named, socket)): &(Origin, Named)| {
            let at = place(socket);
            let there = at == Some(address);
            let any_port = address.port() == 0 && at.is_some_and(|at| at.ip() == address.ip());
            let named = **named == *name;
            socket.transport() == transport
                && match origin {
                    Origin::ServiceManager => named || there,
                    Origin::Predecessor => there || named && any_port,
                }
        };
        let Some(first) = self.sockets.iter().find(|one| fits(one)) else { return Vec::new() };
        let at = place(&first.1.1);
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for one in self.sockets.drain(..) {
            if fits(&one) && place(&one.1.1) == at {
                taken.push(one.1.1);
            } else {
                left.push(one);
            }
        }
        self.sockets = left;
        taken
    }

    /// Closes what nobody has taken.
    pub(crate) fn close_rest(self) {
        for (origin, (name, socket)) in self.sockets {
            let Ok(address) = socket.local_addr() else { continue };
            let name = &*name;
            match origin {
                Origin::ServiceManager => tracing::warn!(
                    name,
                    %address,
                    "a socket of the service manager belongs to no listener; name it after one"
                ),
                Origin::Predecessor => {
                    tracing::info!(name, %address, "no listener of this config; closed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn named(name: &str) -> (Named, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        ((name.into(), Socket::Stream(socket)), address)
    }

    #[test]
    fn a_service_manager_decides_the_address_and_a_predecessor_does_not() {
        let ((activated, _), (old, at)) = (named("http"), named("old"));
        let mut inherited = Inherited::default().activated(vec![activated]).handed_over(vec![old]);
        let wanted = "127.0.0.1:8080".parse().unwrap();
        assert!(inherited.take("http", wanted, Transport::Datagram).is_empty());
        assert_eq!(inherited.take("http", wanted, Transport::Stream).len(), 1);
        assert!(inherited.take("old", wanted, Transport::Stream).is_empty());
        assert_eq!(inherited.take("renamed", at, Transport::Stream).len(), 1);
        assert!(inherited.sockets.is_empty());
    }

    #[test]
    fn a_free_port_of_the_predecessor_is_kept_by_name() {
        let ((first, _), (second, at)) = (named("one"), named("two"));
        let mut inherited = Inherited::default().handed_over(vec![first, second]);
        let any = "127.0.0.1:0".parse().unwrap();
        let taken = inherited.take("two", any, Transport::Stream);
        assert_eq!(taken[0].local_addr().unwrap(), at);
    }
}

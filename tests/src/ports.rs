//! Addresses of loopback at which nobody listens, and which nobody else takes meanwhile.
//!
//! A port that was chosen and let go is the next test's. These stay bound until the process ends
//! and refuse whoever comes. A server may be told to listen at a TCP one: with `SO_REUSEADDR`, as
//! servers set it, the kernel lets it in beside a socket that does not listen.

use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Socket, Type};

/// Where TCP connections are refused until somebody listens there on purpose.
///
/// # Panics
/// If there is no free port.
pub fn nobody() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket takes options");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("bound").as_socket().expect("IPv4");
    // It is closed with the process.
    std::mem::forget(socket);
    address
}

/// Where datagrams are refused: the socket hears itself alone, so that to anybody else the kernel
/// says that there is no such port.
///
/// # Panics
/// If there is no free port.
pub fn nobody_udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("a bound socket");
    socket.connect(address).expect("it is here");
    std::mem::forget(socket);
    address
}

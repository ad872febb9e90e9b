//! Opening a WAN connection: a place on the line, the socket's options, the first window.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tillgate_core::class::ClassSpec;
use tillgate_core::link::LinkSpec;
use tillgate_core::units::{Direction, MSS, PerDirection};
use tillgate_core::window::{WINDOW_MIN, first_window};
use tokio::net::{TcpSocket, TcpStream};

use super::{ShapedStream, receive::ReceiveWindow};
use crate::clock;
use crate::link::dial::NoPlace;
use crate::link::{Link, Registration, lone_window};

/// Part of a second of the flow's rate that may wait unsent in the kernel: more would sit in
/// front of a later payment, less would leave the line idle between two grants.
const UNSENT_TIME: Duration = Duration::from_millis(5);

/// Why a connection across the line could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The peer said no.
    #[error("the server refused the connection; check that it listens there")]
    Refused(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}; check the line, the address and `timeouts.connect`")]
    TimedOut(Duration),
    /// No route, or a network element said so.
    #[error("the server cannot be reached; check the line and the address")]
    Unreachable(#[source] io::Error),
    /// Waited for a place on the line for as long as the class allows.
    #[error("no place on the line within {0:?}; check the class's `queue.maxWait`")]
    QueueTimeout(Duration),
    /// Too many connections of the class wait for a place on the line.
    #[error("too many connections of this class wait for the line")]
    QueueFull,
    /// The socket itself could not be had.
    #[error("the socket could not be set up; check the link's `device` and `source`")]
    Socket(#[source] io::Error),
}

impl ShapedStream {
    /// Opens a connection of `class` to `to` across `link`.
    ///
    /// Waits for a place on the line first (bulk classes only, at most `class.queue.max_wait`),
    /// then at most `connect_timeout` for the peer.
    ///
    /// # Errors
    /// [`ConnectError`] tells the cases apart. Nothing was sent to the peer in any of them but
    /// the handshake.
    pub async fn connect(
        link: &Arc<Link>,
        class: &ClassSpec,
        to: SocketAddr,
        connect_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let place = link.place(class).await.map_err(|error| match error {
            NoPlace::WaitedTooLong(waited) => ConnectError::QueueTimeout(waited),
            NoPlace::QueueFull => ConnectError::QueueFull,
        })?;
        let spec = link.spec();
        let socket = open_socket(&spec, class, to).map_err(ConnectError::Socket)?;
        let window = if class.critical { None } else { Some(prepare_bulk(link, &spec, &place)) };
        if let Some(window) = &window {
            window.prepare(&socket).map_err(ConnectError::Socket)?;
        }
        let began = clock::now();
        let socket = dial(socket, to, connect_timeout).await?;
        let connected_in = clock::now().saturating_duration_since(began);
        if let Some(window) = &window {
            window.opened(&socket);
            let unsent = unsent_bytes(link, &place);
            // An older kernel without the option only queues a little more.
            let _ = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(unsent);
        }
        let mut stream = Self {
            socket,
            place: Arc::new(place),
            window,
            pacing: 0,
            connected_in,
            sampled_at: clock::now() - super::SAMPLE_EVERY,
            acks: PerDirection::default(),
            asks_since: PerDirection::default(),
        };
        stream.maintain();
        Ok(stream)
    }
}

/// A socket with the options that must be set before it connects.
fn open_socket(spec: &LinkSpec, class: &ClassSpec, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(device) = &spec.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(source) = spec.source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if let Some(dscp) = class.dscp {
        let tos = u32::from(dscp) << 2;
        match to.ip() {
            IpAddr::V4(_) => socket.set_tos_v4(tos)?,
            IpAddr::V6(_) => socket.set_tclass_v6(tos)?,
        }
    }
    Ok(socket)
}

/// Aims the window of a bulk connection that is about to be opened.
fn prepare_bulk(link: &Link, spec: &LinkSpec, place: &Registration) -> ReceiveWindow {
    // Its place makes it count: this allocation already includes it.
    link.allocate();
    let aimed = place.shared.window.load(Ordering::Relaxed).max(WINDOW_MIN);
    let first = first_window(spec.shaped_rate().down).min(aimed);
    ReceiveWindow::new(first, lone_window(spec, link.base_rtt()), link.window_ratio())
}

fn unsent_bytes(link: &Link, place: &Registration) -> u32 {
    let up = link.direction(Direction::Up);
    let pacing = place.shared.pacing.load(Ordering::Relaxed);
    let in_time = pacing / 1000 * u64::try_from(UNSENT_TIME.as_millis()).unwrap_or(0);
    let bytes = in_time.min(up.quantum()).max(MSS);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

async fn dial(
    socket: Socket,
    to: SocketAddr,
    connect_timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    match tokio::time::timeout(connect_timeout, socket.connect(to)).await {
        Err(_) => Err(ConnectError::TimedOut(connect_timeout)),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(why(error, connect_timeout)),
    }
}

/// Which of the cases an error of `connect` is.
fn why(error: io::Error, connect_timeout: Duration) -> ConnectError {
    let kind = error.kind();
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&kind);
    if is(&[io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset]) {
        ConnectError::Refused(error)
    } else if is(&[io::ErrorKind::TimedOut]) {
        ConnectError::TimedOut(connect_timeout)
    } else if is(&[
        io::ErrorKind::AddrNotAvailable,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::InvalidInput,
    ]) {
        ConnectError::Socket(error)
    } else {
        ConnectError::Unreachable(error)
    }
}

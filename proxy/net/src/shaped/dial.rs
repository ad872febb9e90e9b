//! Opening a WAN connection: a place on the line, the socket's options, the first window.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tillgate_core::backend::TcpSpec;
use tillgate_core::class::ClassSpec;
use tillgate_core::link::LinkSpec;
use tillgate_core::units::{Direction, MSS, PerDirection};
use tillgate_core::window::{WINDOW_MIN, first_window};
use tokio::net::{TcpSocket, TcpStream};

use super::{ShapedStream, receive::ReceiveWindow};
use crate::clock;
use crate::error::DialError;
use crate::link::dial::NoPlace;
use crate::link::{Link, Registration, lone_window};
use crate::sockopt;
use crate::upstream::race;

/// Part of a second of the flow's rate that may wait unsent in the kernel: more would sit in
/// front of a later payment, less would leave the line idle between two grants.
const UNSENT_TIME: Duration = Duration::from_millis(5);
/// But so much always: the kernel wakes a writer when less than half of it is left.
const UNSENT_LEAST: u64 = 2 * MSS;

impl ShapedStream {
    /// Opens a connection of `class` across `link` to the first of `addresses` that takes it
    /// (RFC 8305).
    ///
    /// Waits for a place on the line first (bulk classes only, at most `class.queue.max_wait`);
    /// all attempts share it. Each then has at most `connect_timeout`.
    ///
    /// # Errors
    /// [`DialError`] tells the cases apart, with the address it is about. Nothing was sent to any
    /// peer in any of them but the handshake.
    pub async fn connect(
        link: &Arc<Link>,
        class: &ClassSpec,
        addresses: &[SocketAddr],
        connect_timeout: Duration,
        tcp: &TcpSpec,
    ) -> Result<Self, DialError> {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let first = addresses.first().copied().unwrap_or(nowhere);
        let place = link.place(class).await.map_err(|error| match error {
            NoPlace::WaitedTooLong(after) => {
                DialError::QueueTimeout { to: first.to_string(), after }
            }
            NoPlace::QueueFull => DialError::LineFull { to: first.to_string() },
        })?;
        let spec = link.spec();
        let aimed = if class.critical { None } else { Some(aim(link, &spec, &place)) };
        let attempt = |to| {
            let (spec, aimed) = (&spec, aimed.as_ref());
            open(spec, class, to, aimed, connect_timeout, tcp)
        };
        let nobody = || {
            let source = io::ErrorKind::AddrNotAvailable.into();
            Err(DialError::Unreachable { to: nowhere.to_string(), source })
        };
        let won = race::race(addresses, attempt).await;
        let (socket, window, connected_in) = won.unwrap_or_else(nobody)?;
        if window.is_some() {
            let unsent = unsent_bytes(link, &place);
            // An older kernel without the option only queues a little more.
            let _ = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(unsent);
        }
        let mut stream = Self {
            socket,
            place: Arc::new(place),
            window,
            pacing: 0,
            in_packet: 0,
            connected_in,
            sampled_at: clock::now() - super::SAMPLE_EVERY,
            acks: PerDirection::default(),
            asks_since: PerDirection::default(),
        };
        stream.maintain();
        Ok(stream)
    }
}

/// One attempt to reach one address.
async fn open(
    spec: &LinkSpec,
    class: &ClassSpec,
    to: SocketAddr,
    aimed: Option<&Aimed>,
    connect_timeout: Duration,
    tcp: &TcpSpec,
) -> Result<(TcpStream, Option<ReceiveWindow>, Duration), DialError> {
    let refused = |source| DialError::Socket { to: to.to_string(), source };
    let socket = open_socket(spec, class, to).map_err(refused)?;
    sockopt::keep_alive(&socket, tcp).map_err(refused)?;
    let window = aimed.map(|aimed| ReceiveWindow::new(aimed.first, aimed.most, aimed.ratio));
    if let Some(window) = &window {
        window.prepare(&socket).map_err(refused)?;
    }
    let began = clock::now();
    let socket = dial(socket, to, connect_timeout).await?;
    let connected_in = clock::now().saturating_duration_since(began);
    if let Some(window) = &window {
        window.opened(&socket);
    }
    Ok((socket, window, connected_in))
}

/// The window that a bulk connection begins with.
struct Aimed {
    first: u64,
    most: u64,
    ratio: f64,
}

/// A socket with the options that must be set before it connects.
fn open_socket(spec: &LinkSpec, class: &ClassSpec, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    bind_to_line(&socket, spec, class, to)?;
    Ok(socket)
}

/// Makes what a socket sends to `to` leave by the line of `spec`, marked as of `class`.
pub(crate) fn bind_to_line(
    socket: &Socket,
    spec: &LinkSpec,
    class: &ClassSpec,
    to: SocketAddr,
) -> io::Result<()> {
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
    Ok(())
}

/// Aims the window of a bulk connection that is about to be opened.
fn aim(link: &Link, spec: &LinkSpec, place: &Registration) -> Aimed {
    // Its place makes it count: this allocation already includes it.
    link.allocate();
    let aimed = place.shared.window.load(Ordering::Relaxed).max(WINDOW_MIN);
    let first = first_window(spec.shaped_rate().down).min(aimed);
    Aimed { first, most: lone_window(spec, link.base_rtt()), ratio: link.window_ratio() }
}

fn unsent_bytes(link: &Link, place: &Registration) -> u32 {
    let up = link.direction(Direction::Up);
    let pacing = place.shared.pacing.load(Ordering::Relaxed);
    let in_time = pacing / 1000 * u64::try_from(UNSENT_TIME.as_millis()).unwrap_or(0);
    let bytes = in_time.min(up.quantum()).max(UNSENT_LEAST);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

async fn dial(
    socket: Socket,
    to: SocketAddr,
    connect_timeout: Duration,
) -> Result<TcpStream, DialError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    match tokio::time::timeout(connect_timeout, socket.connect(to)).await {
        Err(_) => Err(DialError::TimedOut { to: to.to_string(), after: connect_timeout }),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(why(to, error, connect_timeout)),
    }
}

/// Which of the cases an error of `connect` is.
fn why(to: SocketAddr, source: io::Error, after: Duration) -> DialError {
    let (kind, to) = (source.kind(), to.to_string());
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&kind);
    if is(&[io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset]) {
        DialError::Refused { to, source }
    } else if is(&[io::ErrorKind::TimedOut]) {
        DialError::TimedOut { to, after }
    } else if is(&[
        io::ErrorKind::AddrNotAvailable,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::InvalidInput,
    ]) {
        DialError::Socket { to, source }
    } else {
        DialError::Unreachable { to, source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use socket2::SockRef;
    use tillgate_core::class::ClassTable;
    use tillgate_core::units::BitRate;
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::link::testing;

    fn tcp() -> TcpSpec {
        TcpSpec {
            keepalive_idle: Duration::from_secs(61),
            keepalive_interval: Duration::from_secs(11),
            keepalive_probes: 4,
            user_timeout: Duration::from_secs(31),
        }
    }

    #[tokio::test]
    async fn what_a_peer_does_not_take_stays_out_of_the_kernel() {
        for piece in [1 << 10, 16 << 10] {
            fill(&vec![0; piece]).await;
        }
    }

    /// Writes `piece` by `piece` until a peer that does not read takes no more.
    async fn fill(piece: &[u8]) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(1).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let bulk = testing::class("image-pull");
        let classes = ClassTable::new(vec![bulk.clone()]).unwrap();
        let line =
            LinkSpec { capacity: PerDirection::both(BitRate::from_mbit(10)), ..testing::line() };
        let link = Link::new(&line, &classes);
        let patience = Duration::from_secs(60);
        let dialled = ShapedStream::connect(&link, &bulk, &[address], patience, &tcp()).await;
        let (mut stream, (peer, _)) = (dialled.unwrap(), listener.accept().unwrap());
        let most = UNSENT_LEAST + MSS + link.direction(Direction::Up).quantum();
        let mut written = 0;
        // The peer's window fills, and then nothing is taken any more.
        let within = Duration::from_millis(250);
        while let Ok(more) = tokio::time::timeout(within, stream.write(piece)).await {
            written += more.unwrap() as u64;
            let unsent = written - sockopt::readable_bytes(peer.as_fd()).unwrap();
            assert!(unsent <= most, "{unsent} of {written} bytes wait in the kernel");
        }
        assert!(written > most, "{written}");
    }

    #[tokio::test]
    async fn a_connection_across_the_line_has_the_settings_of_its_backend() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [listener.local_addr().unwrap()];
        let tcp = tcp();
        let bulk = testing::class("image-pull");
        let critical = ClassSpec { critical: true, ..testing::class("payment") };
        let classes = ClassTable::new(vec![critical.clone(), bulk.clone()]).unwrap();
        let link = Link::new(&testing::line(), &classes);
        for class in [critical, bulk] {
            let patience = Duration::from_secs(60);
            let dialled = ShapedStream::connect(&link, &class, &addresses, patience, &tcp).await;
            let stream = dialled.unwrap();
            let socket = SockRef::from(&stream.socket);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(tcp.user_timeout));
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), tcp.keepalive_idle);
        }
    }
}

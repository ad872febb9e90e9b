//! A TCP connection across the line that asks before it moves a byte.
//!
//! [`ShapedStream`] sits directly on the socket, below TLS and HTTP, and carries one class. A
//! write asks the uplink's scheduler and hands the kernel no more than was granted; a read asks
//! the downlink's, and on bulk connections it also keeps the kernel's receive window at what the
//! link aims for, because reads alone cannot stop a sender. Bytes that were granted and did not
//! move go back. Dropping the stream gives its place on the line back.
//!
//! Opening a connection is [`ShapedStream::connect`]; waiting for a place on the line or for the
//! initial window never counts against the connect timeout.

mod acks;
pub(crate) mod dial;
mod receive;

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tillgate_core::schedule::FlowId;
use tillgate_core::units::{Direction, MSS, PerDirection};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use self::acks::AckTax;
use self::receive::ReceiveWindow;
use crate::clock;
use crate::link::Registration;
use crate::link::direction::LinkDirection;
use crate::sockopt;

/// How often a stream looks at its socket's `TCP_INFO`.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// Tells whether a WAN connection waits for its line, for as long as the connection lives.
#[derive(Clone, Debug)]
pub struct LineWait {
    place: Weak<Registration>,
}

impl LineWait {
    /// Whether bytes of the connection wait for a grant or for their turn right now.
    pub fn is_waiting(&self) -> bool {
        let Some(place) = self.place.upgrade() else { return false };
        Direction::BOTH.into_iter().any(|direction| {
            let flow = *place.shared.flows.get(direction);
            place.link.direction(direction).is_waiting(flow)
        })
    }

    /// For how long bytes of the connection have waited for grants since its start.
    pub fn waited(&self) -> Duration {
        let place = self.place.upgrade();
        let micros = place.map_or(0, |place| place.shared.waited_micros.load(Ordering::Relaxed));
        Duration::from_micros(micros)
    }
}

/// One WAN connection. See the module.
#[derive(Debug)]
pub struct ShapedStream {
    socket: TcpStream,
    place: Arc<Registration>,
    /// `None` for critical classes: the kernel sizes their window.
    window: Option<ReceiveWindow>,
    pacing: u64,
    /// Bytes in the last packet of the kernel's queue, which are not the end of it.
    in_packet: u64,
    connected_in: Duration,
    sampled_at: Instant,
    /// Acknowledgements that each direction's payload causes on the other.
    acks: PerDirection<AckTax>,
    /// Since when a grant has been waited for.
    asks_since: PerDirection<Option<Instant>>,
}

impl ShapedStream {
    /// The connection's least round-trip time, once the kernel has measured it.
    pub fn rtt(&self) -> Option<Duration> {
        self.place.shared.rtt()
    }

    /// How long the peer took to take the connection; what it waited for the line is not in it.
    pub const fn connected_in(&self) -> Duration {
        self.connected_in
    }

    /// To ask whether this connection waits for its line, from where its bytes are not seen.
    pub fn line_wait(&self) -> LineWait {
        LineWait { place: Arc::downgrade(&self.place) }
    }

    /// The socket's peer.
    ///
    /// # Errors
    /// What the operating system says, for example when the peer is gone.
    pub fn peer_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.peer_addr()
    }

    pub(crate) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn shaper(&self, direction: Direction) -> (&LinkDirection, FlowId) {
        let flow = *self.place.shared.flows.get(direction);
        (self.place.link.direction(direction), flow)
    }

    /// Counts `bytes` that moved, and charges the other direction for their acknowledgements.
    fn moved(&mut self, direction: Direction, bytes: u64) {
        self.place.shared.moved.get(direction).fetch_add(bytes, Ordering::Relaxed);
        let (tax, acks_go) = match direction {
            Direction::Down => (&mut self.acks.down, Direction::Up),
            Direction::Up => (&mut self.acks.up, Direction::Down),
        };
        let acks = tax.owed_for(bytes);
        self.place.link.direction(acks_go).charge_acks(acks);
    }

    /// Asks for `want` bytes at most; counts how long that takes.
    fn poll_take(
        &mut self,
        direction: Direction,
        want: u64,
        now: Instant,
        context: &mut Context<'_>,
    ) -> Poll<u64> {
        let (shaper, flow) = self.shaper(direction);
        let taken = shaper.poll_take(flow, want, context);
        let since = match direction {
            Direction::Up => &mut self.asks_since.up,
            Direction::Down => &mut self.asks_since.down,
        };
        if taken.is_pending() {
            since.get_or_insert(now);
        } else if let Some(since) = since.take() {
            let waited = now.saturating_duration_since(since).as_micros();
            let waited = u64::try_from(waited).unwrap_or(u64::MAX);
            self.place.shared.waited_micros.fetch_add(waited, Ordering::Relaxed);
        }
        taken
    }

    /// Looks at the socket and follows what the link aims for. Cheap unless it is time. Returns
    /// the time.
    fn maintain(&mut self) -> Instant {
        let now = clock::now();
        let due = now.saturating_duration_since(self.sampled_at) >= SAMPLE_EVERY;
        if due {
            self.sampled_at = now;
            let info = sockopt::tcp_info(self.socket.as_fd()).ok();
            if let Some(info) = info.filter(|info| !info.min_rtt.is_zero()) {
                let micros = u64::try_from(info.min_rtt.as_micros()).unwrap_or(u64::MAX);
                self.place.shared.rtt_micros.store(micros, Ordering::Relaxed);
            }
            if let Some(info) = info {
                self.acks.down.learn(info.bare_acks_sent);
                self.acks.up.learn(info.bare_acks_received);
            }
            if let (Some(window), Some(info)) = (&mut self.window, info)
                && let Some(ratio) = window.learn(&self.socket, info.receive_window)
            {
                self.place.link.learned_window_ratio(ratio);
            }
            self.pace();
        }
        if let Some(window) = &mut self.window {
            window.aim(self.place.shared.window.load(Ordering::Relaxed));
        }
        now
    }

    fn pace(&mut self) {
        let pacing = self.place.shared.pacing.load(Ordering::Relaxed);
        if pacing != self.pacing {
            self.pacing = pacing;
            let rate = if pacing == 0 { u64::MAX } else { pacing };
            // A kernel without pacing still has the low-water mark; nothing else to do.
            let _ = sockopt::set_max_pacing_rate(self.socket.as_fd(), rate);
        }
    }

    /// Gives `bytes` to the kernel.
    ///
    /// The kernel looks at the low-water mark of what is unsent only where a packet of its queue
    /// begins, and lengthens the last one to 64 KiB: so much would wait there whenever its
    /// congestion control pauses (BBR does for 200 ms every ten seconds, to measure), and leave
    /// beside what is granted afterwards. `MSG_EOR` ends the packet, and the mark counts; not
    /// before there is a segment in it, because what is less would travel on its own.
    fn try_send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let in_packet = self.in_packet + bytes.len() as u64;
        let ends = self.window.is_some() && in_packet >= MSS;
        let flags = if ends { libc::MSG_EOR } else { 0 };
        let send = || socket2::SockRef::from(&self.socket).send_with_flags(bytes, flags);
        let sent = self.socket.try_io(Interest::WRITABLE, send)?;
        // It ends nothing where it has not taken all of it.
        let has_ended = ends && sent == bytes.len();
        self.in_packet = if has_ended { 0 } else { self.in_packet + sent as u64 };
        Ok(sent)
    }

    /// Reads at most `most` bytes into `buffer`.
    fn poll_read_most(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: u64,
    ) -> Poll<io::Result<u64>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let result = Pin::new(&mut self.socket).poll_read(context, &mut part);
        let read = part.filled().len();
        buffer.advance(read);
        result.map_ok(|()| read as u64)
    }
}

impl AsyncRead for ShapedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let now = this.maintain();
        loop {
            ready!(this.socket.poll_read_ready(context))?;
            let readable = sockopt::readable_bytes(this.socket.as_fd())?;
            if readable == 0 {
                // The end, an error, or a readiness that is no longer true; what came in since
                // is paid for afterwards.
                let read = ready!(this.poll_read_most(context, buffer, MSS))?;
                let (shaper, flow) = this.shaper(Direction::Down);
                shaper.charge_unasked(read);
                shaper.count_moved(flow, read);
                this.received(read);
                return Poll::Ready(Ok(()));
            }
            let room = u64::try_from(buffer.remaining()).unwrap_or(u64::MAX);
            let (shaper, _) = this.shaper(Direction::Down);
            let want = readable.min(room).min(shaper.quantum());
            let granted = ready!(this.poll_take(Direction::Down, want, now, context));
            let read = match this.poll_read_most(context, buffer, granted) {
                Poll::Ready(result) => result,
                Poll::Pending => Ok(0),
            };
            let (shaper, flow) = this.shaper(Direction::Down);
            shaper.refund(flow, granted - *read.as_ref().unwrap_or(&0));
            let read = read?;
            if read > 0 {
                this.received(read);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl ShapedStream {
    /// Counts what was read, and opens the window further where it may grow: that much more will
    /// arrive, so the line is charged for it now.
    fn received(&mut self, bytes: u64) {
        self.moved(Direction::Down, bytes);
        if let Some(window) = &mut self.window {
            let opened = window.drained(&self.socket, bytes);
            self.place.link.direction(Direction::Down).charge_unasked(opened);
        }
    }
}

impl AsyncWrite for ShapedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let now = this.maintain();
        loop {
            ready!(this.socket.poll_write_ready(context))?;
            let (shaper, _) = this.shaper(Direction::Up);
            let want = u64::try_from(buffer.len()).unwrap_or(u64::MAX).min(shaper.quantum());
            let granted = ready!(this.poll_take(Direction::Up, want, now, context));
            let length = usize::try_from(granted).unwrap_or(usize::MAX).min(buffer.len());
            let result = this.try_send(&buffer[..length]);
            let written = *result.as_ref().unwrap_or(&0) as u64;
            let (shaper, flow) = this.shaper(Direction::Up);
            shaper.refund(flow, granted - written);
            match result {
                Ok(written) => {
                    this.moved(Direction::Up, written as u64);
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

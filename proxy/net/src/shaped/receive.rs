//! The receive window of one bulk connection: from payload bytes aimed at to `SO_RCVBUF`.
//!
//! How much window a byte of `SO_RCVBUF` gives depends on the kernel and on the packets that
//! arrive, so it is learned from the window the peer was really told. A window never shrinks
//! below what was promised: the buffer is raised at once and lowered only as data drains, or the
//! kernel would have to drop what it asked for.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockRef, Socket};
use tillgate_core::units::MSS;
use tokio::net::TcpStream;

use crate::sockopt;

/// Bounds of the window bytes per byte of `SO_RCVBUF`.
const RATIO_MIN: f64 = 0.5;
const RATIO_MAX: f64 = 1.6;
/// Weight of a new sample.
const RATIO_EWMA: f64 = 0.25;
/// The window that a scale factor of 0 can say.
const WINDOW_UNSCALED: u64 = 65_535;

/// See the module.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    ratio: f64,
    /// Payload bytes that may be under way or unread, and how many there should be.
    window: u64,
    aimed: u64,
    /// What `SO_RCVBUF` is set to (the kernel doubles it).
    requested: u64,
    /// The largest window that the connection's scale factor can say.
    window_max: u64,
    /// Samples to skip until the window has settled after a change.
    settling: u8,
}

impl ReceiveWindow {
    /// For a connection that begins with `window` and never needs more than `lone_window`, with the
    /// `ratio` that other connections learned.
    pub(super) fn new(window: u64, lone_window: u64, ratio: f64) -> Self {
        let unscaled = lone_window <= WINDOW_UNSCALED;
        Self {
            ratio,
            window,
            aimed: window,
            requested: scaled(window, 1.0 / ratio),
            window_max: if unscaled { WINDOW_UNSCALED } else { u64::MAX },
            settling: 2,
        }
    }

    /// Before connecting. Where a window of 64 KiB will always do, the buffer is set now, so that
    /// even the first window is small; the kernel then chooses no window scale. Otherwise the
    /// kernel must choose one from its own limits, which it only does for a buffer it sizes
    /// itself; its first window is about a quarter of `tcp_rmem[1]`.
    pub(super) fn prepare(&self, socket: &Socket) -> io::Result<()> {
        if self.window_max == WINDOW_UNSCALED {
            socket.set_recv_buffer_size(usize::try_from(self.requested).unwrap_or(usize::MAX))?;
        }
        Ok(())
    }

    /// The connection was opened.
    pub(super) fn opened(&self, socket: &TcpStream) {
        set(socket, self.requested);
    }

    /// The window the link aims for from now on; 0 = nothing decided yet.
    pub(super) fn aim(&mut self, window: u64) {
        if window > 0 {
            self.aimed = window.min(self.window_max);
        }
    }

    /// `bytes` were read: the window moves towards its aim by at most that much, so that a window
    /// grows no faster than it doubles in a round trip, and closes only as data drains. Returns
    /// by how much it was opened.
    pub(super) fn drained(&mut self, socket: &TcpStream, bytes: u64) -> u64 {
        if self.aimed > self.window {
            let opened = bytes.min(self.aimed - self.window);
            self.window += opened;
            self.apply(socket);
            return opened;
        }
        self.window -= bytes.min(self.window - self.aimed);
        self.apply(socket);
        0
    }

    /// Compares the window that the peer was told with the buffer that was asked for.
    /// Returns the ratio when there was something to learn.
    pub(super) fn learn(&mut self, socket: &TcpStream, told: Option<u32>) -> Option<f64> {
        if self.settling > 0 {
            self.settling -= 1;
            return None;
        }
        let unread = sockopt::readable_bytes(socket.as_fd()).ok()?;
        let window = u64::from(told?) + unread;
        // The kernel doubles what was asked for, and may have cut it at `rmem_max`.
        let granted = SockRef::from(socket).recv_buffer_size().ok()? as u64 / 2;
        if window >= self.window_max || granted == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "a ratio of two sizes below 2^30")]
        let sample = window as f64 / granted as f64;
        if !(RATIO_MIN..=RATIO_MAX).contains(&sample) {
            // An older promise that has not drained yet, or a window that is not open yet.
            return None;
        }
        self.ratio += RATIO_EWMA * (sample - self.ratio);
        Some(self.ratio)
    }

    /// Sets the buffer for the window, if it is off by more than a segment or an eighth.
    fn apply(&mut self, socket: &TcpStream) {
        let requested = scaled(self.window, 1.0 / self.ratio);
        if requested.abs_diff(self.requested) < MSS.max(self.requested / 8) {
            return;
        }
        self.requested = requested;
        self.settling = 2;
        set(socket, requested);
        let clamp = u32::try_from(scaled(requested, RATIO_MAX)).unwrap_or(u32::MAX);
        // The clamp follows the buffer only on some kernels; a failure leaves it as it was.
        let _ = sockopt::set_window_clamp(socket.as_fd(), clamp);
    }
}

fn set(socket: &TcpStream, bytes: u64) {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    // The kernel bounds it by rmem_max without an error; a closed socket fails on its next read.
    let _ = SockRef::from(socket).set_recv_buffer_size(bytes);
}

fn scaled(bytes: u64, factor: f64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes below 2^40 times a ratio near one"
    )]
    let result = (bytes as f64 * factor) as u64;
    result
}

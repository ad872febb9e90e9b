//! What a client sent, on its way from the socket to hyper, past [`Framing`].
//!
//! Bytes that may pass lie in hyper's buffer from the start; the first part of a head is kept
//! here until the rest has come, at most a head's bound, and so are a connection's first bytes
//! (hyper asks for 24 of them, to tell its versions apart). A head that is refused is replaced,
//! and what follows it is never read as a request.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::framing::{Framing, IN_ITS_PLACE, Malformed, Seen};
use super::watch::Watch;

/// What is read at a time of a head that does not come whole: most heads, and one page.
const PART_BYTES: usize = 4096;

/// What is still read, and thrown away, from a client that has its last answer and goes on
/// sending: closing a socket with bytes unread would take the answer back, and simple clients look
/// for one only after they have sent everything. More than any call of a till, and the limit in
/// time is the listener's `headerTimeout`.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Intake {
    framing: Framing,
    /// The first part of a head.
    held: Vec<u8>,
    /// What may pass, and how much of it has.
    passing: Vec<u8>,
    passed: usize,
    /// Why the body under way cannot go on.
    broken: Option<Malformed>,
    lingered: usize,
}

impl Intake {
    pub(super) const fn new(framing: Framing) -> Self {
        Self {
            framing,
            held: Vec::new(),
            passing: Vec::new(),
            passed: 0,
            broken: None,
            lingered: 0,
        }
    }

    /// Reads until a connection's first bytes tell what it speaks.
    pub(super) fn poll_first<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        watch: &Watch,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.framing.is_first() {
            if ready!(self.poll_part(stream, watch, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into `buf` what may pass.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        watch: &Watch,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.passed < self.passing.len() {
                self.pass(buf);
                return Poll::Ready(Ok(()));
            }
            if let Some(why) = self.broken {
                let error = io::Error::new(io::ErrorKind::InvalidData, why.detail());
                return Poll::Ready(Err(error));
            }
            if self.framing.is_lost() {
                // hyper must not take this for the client's end: its answer is on the way.
                return Poll::Pending;
            }
            if self.framing.wants_whole(self.held.len()) {
                if ready!(self.poll_part(stream, watch, cx))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
            let fresh = &buf.filled()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            watch.has_read();
            let seen = self.framing.see(fresh);
            let kept = match seen {
                Seen::Pass => fresh.len(),
                Seen::Hold(at) | Seen::Refuse(at, _) | Seen::Break(at, _) => at,
            };
            if matches!(seen, Seen::Hold(_)) {
                self.held.extend_from_slice(&fresh[kept..]);
            }
            buf.set_filled(before + kept);
            self.settle(seen, watch);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads more of what is held; returns how much, zero at the end.
    fn poll_part<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        watch: &Watch,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.held.reserve(PART_BYTES);
        // The future keeps nothing between polls, so a new one each time loses nothing.
        let read = ready!(pin!(stream.read_buf(&mut self.held)).poll(cx))?;
        if read > 0 {
            watch.has_read();
            let seen = self.framing.see(&self.held);
            let rest = match seen {
                Seen::Pass => Vec::new(),
                Seen::Hold(at) => self.held.split_off(at),
                Seen::Refuse(at, _) | Seen::Break(at, _) => {
                    self.held.truncate(at);
                    Vec::new()
                }
            };
            (self.passing, self.passed) = (std::mem::replace(&mut self.held, rest), 0);
            self.settle(seen, watch);
        }
        Poll::Ready(Ok(read))
    }

    /// After the last answer to a client that is still sending: reads on until it ends, too.
    pub(super) fn poll_linger<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut waste = [0; PART_BYTES];
        while self.framing.is_unfinished() && self.lingered < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    self.lingered += buf.filled().len();
                    // Its end is a client's last word, too.
                    self.framing.see(buf.filled());
                }
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }

    fn settle(&mut self, seen: Seen, watch: &Watch) {
        match seen {
            Seen::Pass | Seen::Hold(_) => {}
            Seen::Refuse(_, why) => {
                watch.refuse(self.framing.heads(), why);
                self.passing.extend_from_slice(IN_ITS_PLACE);
            }
            Seen::Break(_, why) => {
                self.broken = Some(why);
                watch.break_body(self.framing.heads(), why);
            }
        }
        if self.framing.is_opaque() {
            watch.is_opaque_after(self.framing.heads());
        }
    }

    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.passing[self.passed..];
        let bytes = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..bytes]);
        self.passed += bytes;
        if self.passed == self.passing.len() {
            (self.passing, self.passed) = (Vec::new(), 0);
        }
    }
}

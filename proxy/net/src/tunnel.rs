//! Tunnels: bytes both ways between two connections, nothing seen of them.
//!
//! Each direction has one bounded buffer that exists only while bytes are in it, passes an end
//! of stream on as a half-close, and stops reading while the other side does not take. The
//! tunnel ends when both directions have, when nothing moved for its idle limit, or on order.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::clock;
use crate::error::Failure;
use crate::http::flow::Flow;

/// What one direction holds at most: a few grants of the line, small enough that a thousand
/// tunnels whose readers all stand still stay within 16 MiB. In whole segments, so that what is
/// sent on does not end in a small one each time: at 20/5 Mbit/s that and the small size are
/// worth 4 ms of the payments' p99.
const BUFFER_BYTES: usize = 5 * 1448;

/// Copies until both sides have ended. `client` is the store's side, `server` the far one;
/// `early` is what the client sent before the tunnel stood.
///
/// # Errors
/// Why it ended before its time.
pub async fn run<C, S>(
    client: &mut C,
    server: &mut S,
    early: Vec<u8>,
    flow: &Flow,
) -> Result<(), Failure>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Half { buffer: early, ..Half::default() };
    let mut down = Half::default();
    let mut idle = pin!(tokio::time::sleep(flow.idle_limit()));
    poll_fn(|cx| {
        if let Poll::Ready(failure) = flow.poll_ended(cx) {
            return Poll::Ready(Err(failure));
        }
        let up_done = match up.poll(cx, client, server, |bytes| flow.moved_up(bytes)) {
            Poll::Ready(Err(end)) => return Poll::Ready(Err(end.failure(Failure::ClientGone))),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let down_done = match down.poll(cx, server, client, |bytes| flow.moved_down(bytes)) {
            Poll::Ready(Err(end)) => return Poll::Ready(Err(end.failure(Failure::BackendClosed))),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if up_done && down_done {
            return Poll::Ready(Ok(()));
        }
        while idle.as_mut().poll(cx).is_ready() {
            flow.excuse();
            let still = clock::now().saturating_duration_since(flow.moved_at());
            let Some(left) = flow.idle_limit().checked_sub(still).filter(|left| !left.is_zero())
            else {
                return Poll::Ready(Err(Failure::IdleTimeout));
            };
            let again = idle.deadline() + left;
            idle.as_mut().reset(again);
        }
        Poll::Pending
    })
    .await
}

/// Which side of a direction failed.
enum End {
    Reading,
    Writing,
}

impl End {
    /// The failure, if reading means `source` is to blame.
    fn failure(self, source: Failure) -> Failure {
        match (self, source) {
            (Self::Reading, source) => source,
            (Self::Writing, Failure::ClientGone) => Failure::BackendClosed,
            (Self::Writing, _) => Failure::ClientGone,
        }
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    buffer: Vec<u8>,
    start: usize,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    Closing,
    Done,
}

impl Half {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: impl Fn(usize),
    ) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| End::Writing)?;
                    self.state = State::Done;
                }
                State::Copying if self.start < self.buffer.len() => {
                    let rest = &self.buffer[self.start..];
                    let wrote = ready!(Pin::new(&mut *to).poll_write(cx, rest));
                    let bytes = wrote.map_err(|_| End::Writing)?;
                    if bytes == 0 {
                        return Poll::Ready(Err(End::Writing));
                    }
                    self.start += bytes;
                    moved(bytes);
                }
                State::Copying => match self.poll_fill(cx, from) {
                    Poll::Ready(Ok(0)) => {
                        self.buffer = Vec::new();
                        self.state = State::Closing;
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Reading)),
                    Poll::Pending => {
                        // Nothing to hold: an idle tunnel keeps no buffer.
                        self.buffer = Vec::new();
                        return match Pin::new(&mut *to).poll_flush(cx) {
                            Poll::Ready(Err(_)) => Poll::Ready(Err(End::Writing)),
                            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                        };
                    }
                },
            }
        }
    }

    fn poll_fill<R>(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        self.start = 0;
        self.buffer.clear();
        self.buffer.reserve_exact(BUFFER_BYTES);
        // The future keeps nothing between polls, so a new one each time loses nothing.
        pin!(from.read_buf(&mut self.buffer)).poll(cx)
    }
}

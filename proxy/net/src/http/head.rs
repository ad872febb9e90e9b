//! Waiting for a response's head, with every limit that can end the wait.
//!
//! In: the exchange under way, the limits of its rule, the request's flow. Out: what the exchange
//! ends with, or why it was not waited for any longer. Time that the request's body waits for the
//! line does not count against the server: its limit starts again with every piece that left.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::flow::{Flow, Gate};
use crate::clock;
use crate::error::Failure;

/// A server that knows nothing of `100 Continue` says nothing; after this the body goes anyway
/// (RFC 9110 section 10.1.1 forbids waiting for ever, and clients such as curl wait one second).
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// A connection that waits for its line is not seen when the wait ends, so it is looked at this
/// many times within a server's limit: the limit is exact to that part.
const LOOKS: u32 = 8;

/// How long a response's head may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// From the end of the request's head, all included.
    pub request: Option<Duration>,
    /// From the last that was sent of one try.
    pub backend_request: Option<Duration>,
}

/// Looks after a call that waits.
pub trait Watch {
    /// What to do about it now.
    fn look(&mut self, flow: &Flow, now: Instant) -> Look;

    /// Ready when it should look before the time that it said; else whoever polled last is woken.
    fn poll_change(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// What to do about a call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Its server is dead, and another one is not.
    Leave,
    /// Look again then.
    At(Instant),
    /// Nothing.
    Never,
}

/// A call that nobody looks after.
pub struct Unwatched;

impl<W: Watch> Watch for &mut W {
    fn look(&mut self, flow: &Flow, now: Instant) -> Look {
        W::look(self, flow, now)
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        W::poll_change(self, cx)
    }
}

impl Watch for Unwatched {
    fn look(&mut self, _: &Flow, _: Instant) -> Look {
        Look::Never
    }
}

/// Waits for `exchange`, within `limits`, until `flow` is told to end. Opens `gate` if the server
/// stays silent.
///
/// # Errors
/// The limit that ran out, or the order to end.
pub const fn until_head<'a, F: Future>(
    exchange: F,
    limits: HeadLimits,
    flow: &'a Flow,
    gate: Option<&'a Arc<Gate>>,
) -> UntilHead<'a, F, Unwatched> {
    until_head_watched(exchange, limits, flow, gate, Unwatched)
}

/// The same with somebody who may call it back.
///
/// # Errors
/// The limit that ran out, the order to end, or [`Failure::BackendStalled`] if `watch` says so.
pub const fn until_head_watched<'a, F: Future, W: Watch>(
    exchange: F,
    limits: HeadLimits,
    flow: &'a Flow,
    gate: Option<&'a Arc<Gate>>,
    watch: W,
) -> UntilHead<'a, F, W> {
    UntilHead { exchange, timer: None, wait: Wait { limits, flow, gate, watch } }
}

pin_project! {
    /// See [`until_head`]. Written out, because what is waited for is large: an `async fn` keeps
    /// it twice, once as it was given and once where it is polled.
    #[must_use = "nothing is waited for until it is polled"]
    pub struct UntilHead<'a, F, W> {
        #[pin]
        exchange: F,
        #[pin]
        timer: Option<Sleep>,
        wait: Wait<'a, W>,
    }
}

struct Wait<'a, W> {
    limits: HeadLimits,
    flow: &'a Flow,
    gate: Option<&'a Arc<Gate>>,
    watch: W,
}

impl<F: Future, W: Watch> Future for UntilHead<'_, F, W> {
    type Output = Result<F::Output, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.exchange.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if let Poll::Ready(failure) = this.wait.flow.poll_ended(cx) {
            return Poll::Ready(Err(failure));
        }
        loop {
            if this.wait.watch.poll_change(cx).is_ready() {
                this.timer.set(None);
            }
            if let Some(armed) = this.timer.as_mut().as_pin_mut()
                && armed.poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            match this.wait.next_limit(clock::now()) {
                Next::Expired(failure) => return Poll::Ready(Err(failure)),
                Next::At(at) => {
                    this.timer.set(Some(tokio::time::sleep_until(at.into())));
                }
                Next::Never => {
                    this.timer.set(None);
                    if this.wait.watch.poll_change(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

enum Next {
    Expired(Failure),
    At(Instant),
    Never,
}

impl<W: Watch> Wait<'_, W> {
    fn next_limit(&mut self, now: Instant) -> Next {
        let Self { limits, flow, gate, watch } = self;
        let request = limits.request.map(|limit| flow.born() + limit);
        if request.is_some_and(|at| at <= now) {
            return Next::Expired(Failure::RequestTimeout);
        }
        let mut next = request;
        let mut sooner = |at: Instant| next = Some(next.map_or(at, |known| known.min(at)));
        flow.excuse();
        let owed = flow.owed_since();
        match watch.look(flow, now) {
            Look::Leave => return Next::Expired(Failure::BackendStalled),
            Look::At(at) => sooner(at),
            Look::Never => {}
        }
        if let Some(gate) = gate.filter(|gate| gate.is_closed()) {
            let patience = owed.unwrap_or(now) + CONTINUE_PATIENCE;
            if patience <= now {
                gate.open();
            } else {
                sooner(patience);
            }
        }
        if let Some(limit) = limits.backend_request {
            // Not sent yet: look again when it could have run out at the earliest.
            let at = owed.unwrap_or(now) + limit;
            if at <= now {
                return Next::Expired(Failure::BackendTimeout);
            }
            sooner(if flow.has_line() { at.min(now + limit / LOOKS) } else { at });
        }
        next.map_or(Next::Never, Next::At)
    }
}

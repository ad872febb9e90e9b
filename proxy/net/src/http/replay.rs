//! A request's body that is kept until the answer comes, so that it can be sent again.
//!
//! In: a client's body. Out: readers of it, of which each begins at the start. What was read is
//! kept up to a bound; a larger body passes as if nobody kept it, and cannot be sent again. Only
//! the newest reader goes on where nobody has read yet: an older one belongs to a try that is
//! given up.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::body::BodyError;

/// See the module.
#[derive(Debug)]
pub struct Replay {
    state: Mutex<State>,
    bytes_max: usize,
}

#[derive(Debug)]
struct State {
    incoming: Incoming,
    pieces: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Too large, or broken: nothing can be sent again.
    gone: bool,
    reader: u32,
}

/// What is kept of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    Whole,
    /// All that has come so far.
    SoFar,
    /// Not all.
    Gone,
}

impl Replay {
    /// `incoming`, of which up to `bytes_max` are kept.
    pub fn new(incoming: Incoming, bytes_max: usize) -> Arc<Self> {
        let state = State {
            incoming,
            pieces: Vec::new(),
            bytes: 0,
            trailers: None,
            ended: false,
            gone: false,
            reader: 0,
        };
        Arc::new(Self { state: Mutex::new(state), bytes_max })
    }

    /// What is kept.
    pub fn kept(&self) -> Kept {
        let state = self.lock();
        match (state.gone, state.ended || state.incoming.is_end_stream()) {
            (true, _) => Kept::Gone,
            (false, true) => Kept::Whole,
            (false, false) => Kept::SoFar,
        }
    }

    /// A reader from the start; those before it do not go on.
    pub(super) fn read(self: &Arc<Self>) -> Reader {
        let mut state = self.lock();
        state.reader += 1;
        Reader { replay: Arc::clone(self), number: state.reader, next: 0, told_trailers: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps a piece that was read, if it may; how many more pieces are kept.
    fn keep(&mut self, piece: &Bytes, bytes_max: usize) -> usize {
        if self.gone {
            return 0;
        }
        self.bytes += piece.len();
        if self.bytes <= bytes_max {
            self.pieces.push(piece.clone());
            return 1;
        }
        self.gone = true;
        self.pieces = Vec::new();
        0
    }
}

/// Reads a kept body once.
#[derive(Debug)]
pub(super) struct Reader {
    replay: Arc<Replay>,
    number: u32,
    next: usize,
    told_trailers: bool,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl Reader {
    /// The next piece; `hold` takes each that comes from the client into account, once.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        hold: impl FnOnce(Bytes) -> Bytes,
    ) -> Polled {
        let Self { replay, number, next, told_trailers } = self;
        let mut state = replay.lock();
        if let Some(piece) = state.pieces.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if state.ended {
            let trailers = state.trailers.clone().filter(|_| !*told_trailers);
            *told_trailers = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if state.reader != *number {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        match ready!(Pin::new(&mut state.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let frame = frame.map_data(hold);
                if let Some(piece) = frame.data_ref() {
                    *next += state.keep(piece, replay.bytes_max);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    state.trailers = Some(trailers.clone());
                    (state.ended, *told_trailers) = (true, true);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                state.gone = true;
                Poll::Ready(Some(Err(BodyError::Cut(error))))
            }
            None => {
                state.ended = true;
                Poll::Ready(None)
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.replay.lock();
        let has_read = self.next >= state.pieces.len();
        let has_trailers = state.trailers.is_some() && !self.told_trailers;
        has_read && !has_trailers && (state.ended || state.incoming.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.replay.lock();
        let left = state.pieces.iter().skip(self.next).map(Bytes::len).sum::<usize>() as u64;
        let mut hint =
            if state.ended { SizeHint::with_exact(0) } else { state.incoming.size_hint() };
        // In this order: the lower bound is never above the upper one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + left);
        }
        hint.set_lower(hint.lower() + left);
        hint
    }
}

//! A blob's bytes on their way to a client.
//!
//! A [`Reader`] reads one chunk at a time, when the client has taken the last one, so that a slow
//! client costs one chunk and nobody else anything. Many readers read smaller chunks: what all of
//! them hold together is bounded.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::hands::Hands;
use super::live::Live;
use crate::error::Failure;

/// Bytes that all readers together aim to hold: a quarter of the memory for bodies.
const CHUNKS_BYTES: usize = 16 * 1024 * 1024;

/// What one reader reads at once while there are few: fewer hand-overs between threads than this
/// saves nothing any more, and it fills a gigabit for two milliseconds.
const CHUNK_MAX: usize = 256 * 1024;

/// What it reads while there are thousands.
const CHUNK_MIN: usize = 4 * 1024;

/// Where the bytes of an answer come from, when not from a server.
pub trait Source: Send + Unpin + std::fmt::Debug {
    /// The next piece; never an empty one. `None` after the last.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>>;

    /// Bytes that are still to come.
    fn left(&self) -> u64;
}

/// How many read at this moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers(Arc<AtomicUsize>);

impl Readers {
    fn enter(&self) -> Place {
        self.0.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }
}

#[derive(Debug)]
struct Place(Readers);

impl Place {
    fn chunk(&self) -> usize {
        let readers = self.0.0.load(Ordering::Relaxed).max(1);
        (CHUNKS_BYTES / readers).clamp(CHUNK_MIN, CHUNK_MAX)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// See the module.
pub struct Reader {
    file: Arc<File>,
    live: Option<Arc<Live>>,
    hands: Hands,
    left: Range<u64>,
    first: Option<Bytes>,
    reading: Option<Reading>,
    place: Place,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader of `bytes` of a blob that is whole.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) async fn whole(
        open: impl FnOnce() -> io::Result<File> + Send + 'static,
        bytes: Range<u64>,
        hands: Hands,
        readers: &Readers,
    ) -> io::Result<Self> {
        let place = readers.enter();
        let (start, chunk) = (bytes.start, chunk(place.chunk(), &bytes));
        // One hand-over for both: the first byte should not wait twice.
        let (file, first) = hands
            .run(move || {
                let file = open()?;
                let first = if chunk == 0 { Bytes::new() } else { read_at(&file, start, chunk)? };
                Ok((file, first))
            })
            .await?;
        let first = (!first.is_empty()).then_some(first);
        let file = Arc::new(file);
        Ok(Self { file, live: None, hands, left: bytes, first, reading: None, place })
    }

    /// A reader of `bytes` of a blob that comes.
    pub(super) fn following(
        live: Arc<Live>,
        file: Arc<File>,
        bytes: Range<u64>,
        hands: Hands,
        readers: &Readers,
    ) -> Self {
        let place = readers.enter();
        Self { file, live: Some(live), hands, left: bytes, first: None, reading: None, place }
    }

    fn read_on(&self) -> Reading {
        let (file, hands, left) = (Arc::clone(&self.file), self.hands.clone(), self.left.clone());
        let (live, most) = (self.live.clone(), self.place.chunk());
        Box::pin(async move {
            let mut end = left.end;
            if let Some(live) = live {
                let readable = live.readable_from(left.start).await;
                end = end
                    .min(readable.map_err(|why| why.failure.unwrap_or(Failure::BackendBodyCut))?);
            }
            let wanted = chunk(most, &(left.start..end));
            if wanted == 0 {
                // It is whole, and shorter than it was said to be.
                return Err(Failure::BackendBodyCut);
            }
            let read = hands.run(move || read_at(&file, left.start, wanted)).await;
            read.map_err(|error| {
                tracing::error!(%error, "a blob of the image cache cannot be read");
                Failure::BackendBodyCut
            })
        })
    }
}

fn chunk(most: usize, bytes: &Range<u64>) -> usize {
    usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(usize::MAX).min(most)
}

/// `bytes` of the file at `from`, or what there is.
///
/// # Errors
/// If there is nothing.
pub(super) fn read_at(file: &File, from: u64, bytes: usize) -> io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(bytes);
    while buffer.len() < bytes {
        let at = from + buffer.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at) {
            Ok(0) => break,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    buffer.truncate(bytes);
    if buffer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter"));
    }
    Ok(buffer.into())
}

impl Source for Reader {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(first) = self.first.take() {
            self.left.start += first.len() as u64;
            return Poll::Ready(Some(Ok(first)));
        }
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let mut reading = self.reading.take().unwrap_or_else(|| self.read_on());
        if let Poll::Ready(read) = reading.as_mut().poll(cx) {
            if let Ok(bytes) = &read {
                self.left.start += bytes.len() as u64;
            }
            return Poll::Ready(Some(read));
        }
        self.reading = Some(reading);
        Poll::Pending
    }

    fn left(&self) -> u64 {
        self.left.end.saturating_sub(self.left.start)
    }
}

/// All of `source`.
///
/// # Errors
/// How it broke.
#[cfg(test)]
pub(super) async fn all(mut source: impl Source) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match std::future::poll_fn(|cx| source.poll_next(cx)).await {
            Some(Ok(more)) => bytes.extend_from_slice(&more),
            Some(Err(failure)) => return Err(failure),
            None => return Ok(bytes),
        }
    }
}

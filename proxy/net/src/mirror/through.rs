//! A registry's body on its way to one client, past the disk, under the rule of the cache: the
//! last byte only after the digest was checked.
//!
//! Nothing is resumed here: a cut breaks the client's connection, and it asks again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest::{Context as Hash, SHA256};
use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tillgate_core::mirror::Digest;

use super::read::Source;
use crate::error::Failure;
use crate::http::client::Lease;

/// See the module.
pub struct Through {
    body: Incoming,
    lease: Option<Lease>,
    hash: Hash,
    digest: Digest,
    left: u64,
    /// Came, and waits for what follows.
    held: Option<Bytes>,
    /// Where bytes that come are counted.
    fetched: Counter,
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Through").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Through {
    /// `body` is all of the blob `digest`, `total` bytes.
    pub fn new(body: Incoming, lease: Lease, digest: Digest, total: u64, fetched: Counter) -> Self {
        let (hash, lease) = (Hash::new(&SHA256), Some(lease));
        Self { body, lease, hash, digest, left: total, held: None, fetched }
    }

    fn give(&mut self, bytes: Bytes) -> Poll<Option<Result<Bytes, Failure>>> {
        let given = bytes.len() as u64;
        let Some(left) = self.left.checked_sub(given) else {
            return Poll::Ready(Some(Err(Failure::DigestMismatch)));
        };
        self.left = left;
        Poll::Ready(Some(Ok(bytes)))
    }

    fn end(&mut self) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        if super::of(&self.hash.clone().finish()) != self.digest {
            return Poll::Ready(Some(Err(Failure::DigestMismatch)));
        }
        match self.held.take() {
            Some(last) => self.give(last),
            None if self.left == 0 => Poll::Ready(None),
            None => Poll::Ready(Some(Err(Failure::BackendBodyCut))),
        }
    }
}

impl Source for Through {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        loop {
            if self.lease.is_none() {
                return self.end();
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    if bytes.is_empty() {
                        continue;
                    }
                    self.hash.update(&bytes);
                    self.fetched.inc_by(bytes.len() as u64);
                    if let Some(before) = self.held.replace(bytes) {
                        return self.give(before);
                    }
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(Failure::BackendBodyCut))),
                None => return self.end(),
            }
        }
    }

    fn left(&self) -> u64 {
        self.left
    }
}

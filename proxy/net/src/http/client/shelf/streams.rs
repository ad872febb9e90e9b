//! The HTTP/2 part of a shelf: connections that carry several requests, and who gets a stream.
//!
//! In: what servers say of their streams, and who waits. Out: a stream for whoever waits longest,
//! and for whom to dial because the open connections will not do. It dials nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hyper::client::conn::http2;
use tillgate_core::backend::PoolLimit;

use super::{Shelf, State};
use crate::clock;
use crate::http::body::RequestBody;
use crate::http::client::open::Allowance;
use crate::http::client::{Connection, Sender, Wire};
use crate::shaped::LineWait;
use crate::tls::Refusal;

/// Streams on one HTTP/2 connection before another is opened, whatever the server would allow:
/// what RFC 9113 section 6.5.2 recommends as the least a server should allow.
pub(in super::super) const STREAMS_MAX: u32 = 100;

/// One HTTP/2 connection.
pub(super) struct Multiplexed {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) allowance: Arc<Allowance>,
    pub(super) line: Option<LineWait>,
    pub(super) refusal: Option<Refusal>,
    pub(super) streams: Arc<AtomicUsize>,
    pub(super) born: Instant,
    pub(super) since: Instant,
}

/// One stream of an HTTP/2 connection, counted while it lives; then it is for whoever waits.
/// Never to be dropped under the shelf's lock.
pub(in super::super) struct StreamSlot {
    streams: Arc<AtomicUsize>,
    allowance: Arc<Allowance>,
    shelf: Arc<Shelf>,
}

impl StreamSlot {
    /// Whether its server takes WebSockets, as soon as it has said so.
    pub(in super::super) async fn takes_sockets(&self) -> bool {
        self.allowance.takes_sockets().await
    }

    /// The server has answered on it.
    pub(in super::super) fn answered(&self) {
        if self.allowance.settle() {
            self.shelf.has_streams();
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
        self.shelf.has_streams();
    }
}

impl Multiplexed {
    pub(super) fn take(&mut self, shelf: &Arc<Shelf>) -> Option<Connection> {
        let used = self.streams.load(Ordering::Acquire);
        if self.sender.is_closed() || used >= self.streams_max() {
            return None;
        }
        self.streams.fetch_add(1, Ordering::AcqRel);
        self.since = clock::lately();
        let stream = Some(StreamSlot {
            streams: Arc::clone(&self.streams),
            allowance: Arc::clone(&self.allowance),
            shelf: Arc::clone(shelf),
        });
        let sender = Sender::Http2(self.sender.clone());
        let (line, refusal) = (self.line.clone(), self.refusal.clone());
        Some(Connection {
            sender,
            stream,
            line,
            refusal,
            shelf: Arc::clone(shelf),
            born: self.born,
        })
    }

    fn streams_max(&self) -> usize {
        self.allowance.streams().min(STREAMS_MAX as usize)
    }

    pub(super) fn is_kept(&mut self, now: Instant, limit: &PoolLimit) -> bool {
        let busy = self.streams.load(Ordering::Acquire) > 0;
        if busy {
            self.since = now;
        }
        !self.sender.is_closed()
            && now.saturating_duration_since(self.born) < limit.age_max
            && now.saturating_duration_since(self.since) < limit.idle_timeout
    }
}

impl State {
    /// Gives free streams to those who wait longest. A stream that nobody wants any more comes
    /// back, to be dropped without the lock.
    pub(super) fn share_streams(&mut self, shelf: &Arc<Shelf>, now: Instant) -> Option<Connection> {
        let limit = self.limit?;
        while !self.waiting.is_empty() {
            let connection = self.take_stream(shelf, now, &limit)?;
            if let Err(unwanted) = self.hand_out(connection) {
                return Some(unwanted);
            }
        }
        None
    }

    /// Whether connections under way will have a stream for one more who waits. A server that
    /// has not said how many it takes is given the time to say it.
    pub(super) fn streams_to_come(&self) -> bool {
        self.awaits_word() || self.waiting.len() < self.dialing * self.streams_each()
    }

    /// Whether a server has not said yet how many streams it takes.
    fn awaits_word(&self) -> bool {
        let mut open = self.shared.iter().filter(|shared| !shared.sender.is_closed());
        open.any(|shared| !shared.allowance.is_known())
    }

    /// What a further connection will carry: as many streams as the least of the known ones.
    fn streams_each(&self) -> usize {
        let known = self.shared.iter().filter(|shared| shared.allowance.is_known());
        known.map(Multiplexed::streams_max).min().unwrap_or(STREAMS_MAX as usize)
    }

    /// Who of those who wait for a stream gets a connection dialled, already counted as open.
    pub(super) fn reserve_dials(&mut self) -> Vec<u64> {
        let mut chosen = Vec::new();
        let Some((target, _)) = &self.dial else { return chosen };
        let connections_max = target.limit.connections_max as usize;
        if target.wire == Wire::Http1 || self.awaits_word() {
            return chosen;
        }
        self.waiting.retain(|waiter| !waiter.tell.is_closed());
        let each = self.streams_each();
        for (ahead, waiter) in self.waiting.iter_mut().enumerate() {
            if self.open >= connections_max {
                break;
            }
            if !waiter.dials && ahead >= self.dialing * each {
                waiter.dials = true;
                self.open += 1;
                self.dialing += 1;
                chosen.push(waiter.id);
            }
        }
        chosen
    }
}

//! The connections of one destination and class: idle ones, those being dialled, who waits.
//!
//! All bookkeeping happens under one short lock; dialling and waiting happen outside it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::backend::PoolLimit;
use tokio::sync::oneshot;

use super::open::open;
use super::{Connection, Fresh, FreshSender, Sender, Target, Wire};
use crate::clock;
use crate::error::DialError;
use crate::upstream::Resolver;

mod streams;

use self::streams::Multiplexed;
pub(super) use self::streams::{STREAMS_MAX, StreamSlot};

/// A critical class keeps its connections ahead of need for this long after a request: a till
/// that is used once in ten minutes must not pay for a handshake each time.
const WARM: Duration = Duration::from_secs(3600);

/// After a failed dial, nothing is opened ahead of need for this long.
const COLD: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// From the last request that came by.
    limit: Option<PoolLimit>,
    /// Connections, those being dialled included.
    open: usize,
    /// Of these, being dialled.
    dialing: usize,
    /// HTTP/1, the last used one last: the others may grow old and go.
    idle: Vec<Idle>,
    /// HTTP/2.
    shared: Vec<Multiplexed>,
    waiting: VecDeque<Waiter>,
    next_waiter: u64,
    /// How to dial for those who wait: as the last of them would.
    dial: Option<(Arc<Target>, Arc<Resolver>)>,
    /// Connections born until then take no further request.
    evicted_at: Option<Instant>,
    /// What critical requests were sent to last, and when.
    warm: Option<(Arc<Target>, Instant)>,
    /// A dial failed: nothing is opened ahead of need until then.
    cold_until: Option<Instant>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Waiter {
    id: u64,
    dials: bool,
    tell: oneshot::Sender<Result<Connection, DialError>>,
}

/// How a checkout goes on after the lock.
enum Next {
    Take(Connection),
    Wait { id: u64, dials: bool, told: oneshot::Receiver<Result<Connection, DialError>> },
    Full(usize),
}

impl Shelf {
    /// A connection for one request: idle, given back, or dialled; whichever comes first.
    pub(super) async fn checkout(
        self: &Arc<Self>,
        target: &Arc<Target>,
        resolver: &Arc<Resolver>,
    ) -> Result<Connection, DialError> {
        let (next, spares) = self.reserve(target, resolver, clock::lately());
        for _ in 0..spares {
            self.spawn_dial(target, resolver, None);
        }
        match next {
            Next::Take(connection) => {
                target.meter.reuses.inc();
                Ok(connection)
            }
            Next::Full(waiting) => {
                Err(DialError::QueueFull { to: target.endpoint.to_string(), waiting })
            }
            Next::Wait { id, dials, told } => {
                if dials {
                    self.spawn_dial(target, resolver, Some(id));
                }
                // Its own dial may be waiting for the line's permission first.
                let patience =
                    if dials { target.max_wait + target.connect_timeout } else { target.max_wait };
                match tokio::time::timeout(patience, told).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) | Err(_) => Err(DialError::QueueTimeout {
                        to: target.endpoint.to_string(),
                        after: patience,
                    }),
                }
            }
        }
    }

    fn reserve(
        self: &Arc<Self>,
        target: &Arc<Target>,
        resolver: &Arc<Resolver>,
        now: Instant,
    ) -> (Next, usize) {
        let mut state = self.lock();
        if target.spares > 0 {
            state.warm = Some((Arc::clone(target), now));
        }
        state.limit = Some(target.limit);
        let connections_max = target.limit.connections_max as usize;
        let taken = match target.wire {
            Wire::Http1 => state.take_idle(now, &target.limit),
            Wire::Http2 => state.take_stream(self, now, &target.limit),
        };
        if let Some(connection) = taken {
            let spares = state.reserve_spares(target, connections_max);
            return (Next::Take(connection), spares);
        }
        state.waiting.retain(|waiter| !waiter.tell.is_closed());
        let shares_a_dial = target.wire == Wire::Http2 && state.streams_to_come();
        let dials = state.open < connections_max && !shares_a_dial;
        let queued = state.waiting.iter().filter(|waiter| !waiter.dials).count();
        if !dials && queued >= target.limit.waiting_max as usize {
            return (Next::Full(queued), 0);
        }
        let (tell, told) = oneshot::channel();
        let id = state.next_waiter;
        state.next_waiter += 1;
        state.waiting.push_back(Waiter { id, dials, tell });
        if dials {
            state.open += 1;
            state.dialing += 1;
        }
        state.dial = Some((Arc::clone(target), Arc::clone(resolver)));
        let spares = if dials { state.reserve_spares(target, connections_max) } else { 0 };
        (Next::Wait { id, dials, told }, spares)
    }

    /// A connection that can carry a request: for whoever waits longest, else it idles.
    pub(super) fn offer(&self, connection: Connection) {
        self.lock().offer(connection);
    }

    /// There may be free streams: for those who wait longest. If there are too few, connections
    /// are dialled for the others.
    fn has_streams(self: &Arc<Self>) {
        let mut state = self.lock();
        let unwanted = state.share_streams(self, clock::now());
        let dials = state.reserve_dials();
        let how = state.dial.clone().filter(|_| !dials.is_empty());
        drop(state);
        drop(unwanted);
        if let Some((target, resolver)) = how {
            for waiter in dials {
                self.spawn_dial(&target, &resolver, Some(waiter));
            }
        }
    }

    pub(super) fn sweep(self: &Arc<Self>, now: Instant, resolver: &Arc<Resolver>) {
        let mut state = self.lock();
        let Some(limit) = state.limit else { return };
        let mut gone = Vec::new();
        let kept = std::mem::take(&mut state.idle);
        for idle in kept {
            let fresh = now.saturating_duration_since(idle.since) < limit.idle_timeout;
            if fresh && idle.connection.is_usable(now, &limit) {
                state.idle.push(idle);
            } else {
                gone.push(idle);
            }
        }
        state.shared.retain_mut(|shared| shared.is_kept(now, &limit));
        let warm = state.warm.take_if(|(_, used)| now.saturating_duration_since(*used) > WARM);
        drop(warm);
        let ahead = state.warm.clone().map(|(target, _)| {
            let connections_max = target.limit.connections_max as usize;
            (state.reserve_spares(&target, connections_max), target)
        });
        drop(state);
        drop(gone);
        if let Some((spares, target)) = ahead {
            for _ in 0..spares {
                self.spawn_dial(&target, resolver, None);
            }
        }
    }

    pub(super) fn evict(&self, now: Instant) {
        let mut state = self.lock();
        state.evicted_at = Some(now);
        let idle = std::mem::take(&mut state.idle);
        let shared = std::mem::take(&mut state.shared);
        drop(state);
        tracing::debug!(idle = idle.len(), shared = shared.len(), "evicted connections");
    }

    /// Has a connection open for a request that may come any time, as if one had come now.
    pub(super) fn keep_warm(
        self: &Arc<Self>,
        target: &Arc<Target>,
        resolver: &Arc<Resolver>,
        now: Instant,
    ) {
        let mut state = self.lock();
        state.limit.get_or_insert(target.limit);
        state.warm = Some((Arc::clone(target), now));
        let is_cold = state.shared.is_empty() && state.dialing == 0 && !state.is_spared(now);
        let dials = match target.wire {
            Wire::Http1 => state.reserve_spares(target, target.limit.connections_max as usize),
            Wire::Http2 if is_cold => {
                state.open += 1;
                state.dialing += 1;
                1
            }
            Wire::Http2 => 0,
        };
        drop(state);
        for _ in 0..dials {
            self.spawn_dial(target, resolver, None);
        }
    }

    /// Opens nothing ahead of need until the next request.
    pub(super) fn cool(&self) {
        self.lock().warm = None;
    }

    /// Counts a connection of `target` that is no more one of HTTP.
    pub(super) fn hold(self: &Arc<Self>, target: &Arc<Target>, resolver: &Arc<Resolver>) -> Opened {
        self.lock().open += 1;
        let (target, resolver) = (Arc::clone(target), Arc::clone(resolver));
        Opened { shelf: Arc::clone(self), target, resolver }
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.open == 0 && state.waiting.is_empty() && state.warm.is_none()
    }

    /// Open, idle, waiting.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.open, state.idle.len(), state.waiting.len())
    }

    fn spawn_dial(
        self: &Arc<Self>,
        target: &Arc<Target>,
        resolver: &Arc<Resolver>,
        waiter: Option<u64>,
    ) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let shelf = Arc::clone(self);
        let (target, resolver) = (Arc::clone(target), Arc::clone(resolver));
        runtime.spawn(async move {
            let opened = Opened {
                shelf: Arc::clone(&shelf),
                target: Arc::clone(&target),
                resolver: Arc::clone(&resolver),
            };
            // `opened` leaves the count right whether the dial fails or the connection ends.
            match open(&target, &resolver, opened).await {
                Ok(fresh) => shelf.dialled(fresh, clock::now()),
                Err(error) => {
                    target.meter.dial_failed(error.failure());
                    shelf.dial_failed((&target, &resolver), waiter, error);
                }
            }
        });
    }

    fn dialled(self: &Arc<Self>, fresh: Fresh, now: Instant) {
        let mut state = self.lock();
        let Fresh { sender, line, refusal } = fresh;
        match sender {
            FreshSender::Http1(sender) => {
                let (sender, shelf) = (Sender::Http1(sender), Arc::clone(self));
                state.offer(Connection { sender, stream: None, line, refusal, shelf, born: now });
                state.dial_ended();
            }
            FreshSender::Http2(sender, allowance) => {
                let (streams, born, since) = (Arc::default(), now, now);
                state.shared.push(Multiplexed {
                    sender,
                    allowance,
                    line,
                    refusal,
                    streams,
                    born,
                    since,
                });
                let unwanted = state.share_streams(self, now);
                state.dial_ended();
                drop(state);
                drop(unwanted);
                self.has_streams();
            }
        }
    }

    fn dial_failed(
        self: &Arc<Self>,
        (target, resolver): (&Arc<Target>, &Arc<Resolver>),
        waiter: Option<u64>,
        error: DialError,
    ) {
        let mut state = self.lock();
        let place = state.waiting.iter().position(|waiting| Some(waiting.id) == waiter);
        let told = place.and_then(|place| state.waiting.remove(place));
        state.cold_until = Some(clock::now() + COLD);
        state.dial_ended();
        drop(state);
        if let Some(waiter) = told {
            // It may have left meanwhile.
            let _ = waiter.tell.send(Err(error));
        } else {
            tracing::debug!(%error, "a connection that nobody waits for did not come about");
        }
        // Whose dial this was may have the connection of another, who then has nobody's.
        self.dial_for_next(target, resolver);
    }

    /// Dials for the first who waits without a dial of his own, if there is a place.
    fn dial_for_next(self: &Arc<Self>, target: &Arc<Target>, resolver: &Arc<Resolver>) {
        let mut state = self.lock();
        let limit = target.limit.connections_max as usize;
        let next = if state.open < limit {
            state.waiting.iter_mut().find(|waiter| !waiter.dials && !waiter.tell.is_closed())
        } else {
            None
        };
        let Some(next) = next else { return };
        next.dials = true;
        let id = next.id;
        state.open += 1;
        state.dialing += 1;
        drop(state);
        self.spawn_dial(target, resolver, Some(id));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_idle(&mut self, now: Instant, limit: &PoolLimit) -> Option<Connection> {
        while let Some(idle) = self.idle.pop() {
            let fresh = now.saturating_duration_since(idle.since) < limit.idle_timeout;
            if fresh && idle.connection.is_usable(now, limit) {
                return Some(idle.connection);
            }
        }
        None
    }

    fn take_stream(
        &mut self,
        shelf: &Arc<Shelf>,
        now: Instant,
        limit: &PoolLimit,
    ) -> Option<Connection> {
        self.shared.retain_mut(|shared| shared.is_kept(now, limit));
        self.shared.iter_mut().find_map(|shared| shared.take(shelf))
    }

    /// Whether nothing is opened ahead of need, because the last dial failed.
    fn is_spared(&self, now: Instant) -> bool {
        self.cold_until.is_some_and(|until| now < until)
    }

    /// How many connections to open ahead of need, already counted as open.
    fn reserve_spares(&mut self, target: &Target, connections_max: usize) -> usize {
        if target.spares == 0 || target.wire == Wire::Http2 || !self.idle.is_empty() {
            return 0;
        }
        if self.is_spared(clock::lately()) {
            return 0;
        }
        let waiting = self.waiting.iter().filter(|waiter| waiter.dials).count();
        let ahead = self.dialing.saturating_sub(waiting);
        let room = connections_max.saturating_sub(self.open);
        let spares = target.spares.saturating_sub(ahead).min(room);
        self.open += spares;
        self.dialing += spares;
        spares
    }

    fn offer(&mut self, connection: Connection) {
        if self.evicted_at.is_some_and(|evicted| connection.born <= evicted) {
            return;
        }
        if let Err(connection) = self.hand_out(connection) {
            self.idle.push(Idle { connection, since: clock::lately() });
        }
    }

    /// A dial has ended. Whoever began it may still wait, because its connection went to one who
    /// waited longer: then nothing is under way for him, and he is next when a place is free.
    fn dial_ended(&mut self) {
        self.dialing = self.dialing.saturating_sub(1);
        let mut under_way = self.dialing;
        for waiter in self.waiting.iter_mut().filter(|waiter| waiter.dials) {
            if under_way == 0 {
                waiter.dials = false;
            } else {
                under_way -= 1;
            }
        }
    }

    fn hand_out(&mut self, mut connection: Connection) -> Result<(), Connection> {
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.tell.send(Ok(connection)) {
                Ok(()) => return Ok(()),
                Err(Ok(unwanted)) => connection = unwanted,
                Err(Err(_)) => return Ok(()),
            }
        }
        Err(connection)
    }
}

/// Counts one connection of a shelf, from before its dial until its task has ended.
pub(super) struct Opened {
    shelf: Arc<Shelf>,
    target: Arc<Target>,
    resolver: Arc<Resolver>,
}

impl Opened {
    /// The server has said how many streams it takes.
    pub(super) fn has_streams(&self) {
        self.shelf.has_streams();
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = self.shelf.lock();
        state.open = state.open.saturating_sub(1);
        drop(state);
        // The place goes to the first who waits without a dial of his own.
        self.shelf.dial_for_next(&self.target, &self.resolver);
    }
}

#[cfg(test)]
mod tests;

//! What a client connection does with its time: idle, half a head, a reader that does not read.
//!
//! The socket reports reads and writes, the requests in flight report their bytes; [`Watch::judge`]
//! says whether somebody has overstayed. It keeps times, it sets no timer.

use std::error::Error;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::flow::Flow;
use super::super::pace::{self, Demand};
use super::framing::Malformed;
use super::{Entry, Limits};
use crate::clock;
use crate::error::Failure;
use crate::memory::{Ledger, Rank};

mod stream;

pub use self::stream::{ClientIo, ClientStream};

/// How a client connection spends its time. All times are milliseconds after `born`, plus one;
/// zero = not.
#[derive(Debug)]
pub(super) struct Watch {
    born: Instant,
    /// The same by [`clock::lately_millis`].
    born_millis: u64,
    /// First byte since the last request ended.
    head_since: AtomicU64,
    idle_since: AtomicU64,
    /// The client has not taken what we wrote since then.
    stalled_since: AtomicU64,
    /// How long the last request let its client stand still.
    stall_limit: AtomicU64,
    speaks_http2: AtomicBool,
    /// Its client floods us, and it was told to end.
    is_flooded: AtomicBool,
    /// A request began on HTTP/2, and its task has not.
    is_fresh: AtomicBool,
    /// One became a tunnel, and the task that sends its bytes has not begun.
    tunnel: Mutex<Option<Arc<Flow>>>,
    /// Its answers end with the connection, so only a reset tells one that was cut.
    is_old: AtomicBool,
    resets: AtomicBool,
    /// The last request may turn the connection into something else.
    may_switch: AtomicBool,
    overstays: AtomicBool,
    begun: AtomicU64,
    /// The number of the request that stands for a refused one, plus one; zero = none.
    refused: AtomicU64,
    /// The number of the request whose body broke.
    broken: AtomicU64,
    /// A [`Malformed`]: what is wrong with either.
    why: AtomicU8,
    flows: Mutex<Vec<Arc<Flow>>>,
    /// What its listener shares, and the bounds that the connection began with; of what is no
    /// connection of HTTP, none.
    listener: Option<(Arc<Entry>, Limits)>,
}

/// What to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// In order: nothing is under way.
    Finish,
    Close,
}

impl Watch {
    pub(super) fn new(born: Instant, listener: Option<(Arc<Entry>, Limits)>) -> Self {
        let born_millis = clock::lately_millis();
        Self {
            born,
            born_millis,
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(1),
            stalled_since: AtomicU64::new(0),
            stall_limit: AtomicU64::new(0),
            speaks_http2: AtomicBool::new(false),
            is_flooded: AtomicBool::new(false),
            is_fresh: AtomicBool::new(false),
            tunnel: Mutex::new(None),
            is_old: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            may_switch: AtomicBool::new(false),
            overstays: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            why: AtomicU8::new(0),
            flows: Mutex::new(Vec::new()),
            listener,
        }
    }

    /// A request's head is complete; or it stands for one that is refused, and why.
    pub(super) fn begin(watch: &Arc<Self>, now: Instant) -> (InFlight, Option<Malformed>) {
        let flow = Arc::new(Flow::new(now));
        let number = watch.begun.fetch_add(1, Ordering::Relaxed) + 1;
        watch.head_since.store(0, Ordering::Relaxed);
        watch.is_fresh.store(true, Ordering::Relaxed);
        watch.flows().push(Arc::clone(&flow));
        let is_beyond = watch.listener.as_ref().is_some_and(|(entry, limits)| {
            entry.requests.fetch_add(1, Ordering::Relaxed) >= limits.requests_max
        });
        let why = || Malformed::from_number(watch.why.load(Ordering::Relaxed));
        let is = |other: &AtomicU64| other.load(Ordering::Relaxed) == number;
        let refused = if is(&watch.refused) { why() } else { None };
        if is(&watch.broken)
            && let Some(why) = why()
        {
            flow.malformed_by_client(why);
        }
        (InFlight { life: Arc::new(Life { flow, is_beyond, watch: Arc::clone(watch) }) }, refused)
    }

    /// How the connection ended; a flood that nobody has counted is.
    pub(super) fn has_ended(&self, error: &(dyn Error + 'static)) {
        let Some((entry, _)) = &self.listener else { return };
        if !self.is_flooded.load(Ordering::Relaxed) {
            entry.meter.floods.note(error);
        }
    }

    /// The request that has just begun, if its task has not.
    pub(super) fn take_fresh(&self) -> Option<Arc<Flow>> {
        let is_fresh = self.is_fresh.swap(false, Ordering::Relaxed);
        is_fresh.then(|| self.flows().last().cloned()).flatten()
    }

    /// The request that has just become a tunnel, if the task that sends its bytes has not begun.
    pub(super) fn take_tunnel(&self) -> Option<Arc<Flow>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The request after `heads` others is not one.
    pub(super) fn refuse(&self, heads: u64, why: Malformed) {
        self.why.store(why as u8, Ordering::Relaxed);
        self.refused.store(heads + 1, Ordering::Relaxed);
    }

    /// The body of the last of `heads` requests, which may not have begun yet, is not one.
    pub(super) fn break_body(&self, heads: u64, why: Malformed) {
        self.why.store(why as u8, Ordering::Relaxed);
        self.broken.store(heads, Ordering::Relaxed);
        for flow in self.flows().iter() {
            flow.malformed_by_client(why);
        }
    }

    /// What follows `heads` requests is not HTTP/1.
    pub(super) fn is_opaque_after(&self, heads: u64) {
        let flag = if heads == 0 { &self.speaks_http2 } else { &self.may_switch };
        flag.store(true, Ordering::Relaxed);
    }

    /// Whether the client speaks HTTP/2.
    pub(super) fn speaks_http2(&self) -> bool {
        self.speaks_http2.load(Ordering::Relaxed)
    }

    /// Whether what follows the request is not HTTP/1, unless its answer says so.
    pub(super) fn may_switch(&self) -> bool {
        self.may_switch.load(Ordering::Relaxed)
    }

    /// The client speaks HTTP/1.0.
    pub(super) fn is_old(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }

    /// The connection ends before its time.
    pub(super) fn breaks(&self) {
        if self.is_old.load(Ordering::Relaxed) {
            self.resets.store(true, Ordering::Relaxed);
        }
    }

    /// Orders everything in flight to end.
    pub(super) fn end_all(&self, failure: Failure) {
        for flow in self.flows().iter() {
            flow.end(failure);
        }
    }

    /// Whether a request's head has ever been complete.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != 0
    }

    /// Its client has overstayed; whether that is news.
    pub(super) fn overstays(&self) -> bool {
        !self.overstays.swap(true, Ordering::Relaxed)
    }

    pub(super) fn has_critical(&self) -> bool {
        self.flows().iter().any(|flow| flow.is_critical())
    }

    /// Whether somebody has overstayed. Requests that stand still are told to end at their limit;
    /// the connection is closed if they do not (their reader does not read). A stream that does
    /// not end is no reason to end the others of its connection. One that idles is told to end
    /// (GOAWAY, TLS's last word), and has as long for that as for a head.
    pub(super) fn judge(&self, now: Instant, limits: &Limits) -> Verdict {
        let since = |time: &AtomicU64| {
            let time = time.load(Ordering::Relaxed).checked_sub(1)?;
            Some(now.saturating_duration_since(self.born + Duration::from_millis(time)))
        };
        let flows = self.flows();
        let last_limit = Duration::from_millis(self.stall_limit.load(Ordering::Relaxed));
        let stall_limit = flows.iter().map(|flow| flow.idle_limit()).fold(last_limit, Ord::max);
        if since(&self.stalled_since)
            .is_some_and(|stalled| stalled > stall_limit.max(limits.header_timeout))
        {
            return Verdict::Close;
        }
        let speaks_http2 = self.speaks_http2.load(Ordering::Relaxed);
        let mut overdue = 0;
        for flow in flows.iter() {
            if self.judge_flow(flow, now, limits) {
                overdue += 1;
            }
        }
        if !flows.is_empty() {
            // Streams of HTTP/2 go one by one.
            let all = overdue == flows.len() && !speaks_http2;
            return if all { Verdict::Close } else { Verdict::Keep };
        }
        let first = self.begun.load(Ordering::Relaxed) == 0;
        let head = if first { since(&self.idle_since) } else { since(&self.head_since) };
        let head_late = !speaks_http2 && head.is_some_and(|head| head > limits.header_timeout);
        let idle_late = |limit: Duration| since(&self.idle_since).is_some_and(|idle| idle > limit);
        if head_late || idle_late(limits.idle_timeout.saturating_add(limits.header_timeout)) {
            Verdict::Close
        } else if idle_late(limits.idle_timeout) {
            Verdict::Finish
        } else {
            Verdict::Keep
        }
    }

    /// Tells a request to end that stands still or is too slow; whether it was told before and
    /// still has not.
    fn judge_flow(&self, flow: &Flow, now: Instant, limits: &Limits) -> bool {
        let demand = Demand { rate_min: limits.body_rate_min, timeout: limits.body_timeout };
        pace::judge(flow, demand, flow.lives_for(now));
        let late = now.saturating_duration_since(flow.moved_at()) > flow.idle_limit();
        if flow.ended().is_some() {
            let overdue = late || flow.is_ending_for(now) > limits.header_timeout;
            if overdue {
                flow.abort();
            }
            return overdue;
        }
        if flow.is_late(now) {
            flow.end(Failure::RequestTimeout);
        } else if late && !flow.excuse() {
            flow.end(Failure::IdleTimeout);
        }
        false
    }

    /// Whether a request is to be dropped whose client takes nothing. On HTTP/1 that is the
    /// connection.
    fn is_aborted(&self) -> bool {
        !self.speaks_http2.load(Ordering::Relaxed)
            && self.flows().iter().any(|flow| flow.is_aborted())
    }

    fn finish(&self, flow: &Arc<Flow>) {
        if let Some((entry, _)) = &self.listener {
            entry.requests.fetch_sub(1, Ordering::Relaxed);
        }
        let mut flows = self.flows();
        if let Some(place) = flows.iter().position(|known| Arc::ptr_eq(known, flow)) {
            flows.swap_remove(place);
        }
        let limit = u64::try_from(flow.idle_limit().as_millis()).unwrap_or(u64::MAX);
        self.stall_limit.store(limit, Ordering::Relaxed);
        if flows.is_empty() {
            self.head_since.store(0, Ordering::Relaxed);
            self.idle_since.store(self.stamp(), Ordering::Relaxed);
        }
    }

    pub(super) fn has_read(&self) {
        // One task writes this: no need to do it in one step.
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.stamp(), Ordering::Relaxed);
        }
    }

    fn has_written(&self) {
        if self.stalled_since.load(Ordering::Relaxed) != 0 {
            self.stalled_since.store(0, Ordering::Relaxed);
        }
    }

    fn is_stalled(&self) {
        if self.stalled_since.load(Ordering::Relaxed) == 0 {
            self.stalled_since.store(self.stamp(), Ordering::Relaxed);
        }
    }

    fn stamp(&self) -> u64 {
        clock::lately_millis().saturating_sub(self.born_millis) + 1
    }

    fn flows(&self) -> MutexGuard<'_, Vec<Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's [`Flow`], known to its client's connection while one of these lives: a request is
/// over when its answer and its own body are.
#[derive(Clone, Debug)]
pub struct InFlight {
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    flow: Arc<Flow>,
    /// There were as many requests as the listener takes already.
    is_beyond: bool,
    watch: Arc<Watch>,
}

impl InFlight {
    /// For what is no request of a connection, but the connection itself, or a session.
    pub fn alone(now: Instant) -> Self {
        Watch::begin(&Arc::new(Watch::new(now, None)), now).0
    }

    /// The flow, to share with what moves its bytes.
    pub fn flow(&self) -> &Arc<Flow> {
        &self.life.flow
    }

    /// Whether there were as many requests as the listener takes already.
    pub fn is_beyond(&self) -> bool {
        self.life.is_beyond
    }

    /// How many bytes the listener takes of its body.
    pub fn body_bytes_max(&self) -> u64 {
        let limits = self.life.watch.listener.as_ref().map(|(_, limits)| limits);
        limits.and_then(|limits| limits.body_bytes_max).unwrap_or(u64::MAX)
    }

    /// It becomes a tunnel on a stream of HTTP/2, as soon as hyper has its answer.
    pub(super) fn becomes_tunnel(&self) {
        let mut tunnel = self.life.watch.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
        *tunnel = Some(Arc::clone(self.flow()));
    }

    /// How it is weighed when memory runs out.
    pub fn set_rank(&self, rank: Rank) {
        self.account.set_rank(rank);
    }

    /// What the process holds of bodies.
    fn memory(&self) -> Option<&Arc<Ledger>> {
        self.life.watch.listener.as_ref().map(|(entry, _)| &entry.memory)
    }

    /// Whether there is room for what a request of this rank may hold.
    pub fn is_admitted(&self, rank: Rank) -> bool {
        self.memory().is_none_or(|memory| memory.admits(rank))
    }

    /// A piece of a body that goes from one side to the other, accounted for from here on.
    pub fn hold(&self, bytes: Bytes) -> Bytes {
        let Some(amount) = self.account.pass(bytes.len()) else { return bytes };
        match self.memory() {
            Some(memory) => memory.charge(self.flow(), bytes, amount),
            None => bytes,
        }
    }
}

impl Deref for InFlight {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.life.flow
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.watch.finish(&self.flow);
    }
}

#[cfg(test)]
mod tests;

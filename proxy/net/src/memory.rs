//! What the process holds of bodies, and who has to go when that is too much.
//!
//! Counted is what was taken from one side and not yet handed to the other's socket, in whole
//! [`UNIT`]s of each request: a piece that completes one carries its [`Charge`] until hyper drops
//! it, however that comes about. Not counted, because other limits bound it: less than a unit of
//! each request, heads, one HTTP/2 window of each upload and of each answer of an HTTP/2 server,
//! TLS records, tunnels (two buffers of 7 KiB), kernel buffers. Below [`FREE`] nobody is refused;
//! from there on classes are, the lowest first; beyond the ceiling the largest holder of the lowest
//! class present is ended, until what is left fits.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::error::Failure;
use crate::http::flow::Flow;

/// What is not worth counting. A request of a till never gets here; a body of 64 KiB is counted
/// four times, at a tenth of a microsecond each.
const UNIT: u32 = 16 * 1024;

/// Part of the ceiling, in quarters, up to which every class is admitted.
const FREE: u64 = 3;

/// Holders that are listed before anybody looks who is gone.
const HOLDERS_MIN: usize = 64;

/// How important a class is when memory runs out: 0 goes first, 255 last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub u8);

impl Rank {
    /// The last to go.
    pub const HIGHEST: Self = Self(u8::MAX);

    /// Of the `place`th of `places` classes by priority, the lowest being number zero.
    pub fn of(place: usize, places: usize) -> Self {
        let highest = places.saturating_sub(1).max(1);
        let rank = place.min(highest) * usize::from(u8::MAX) / highest;
        u8::try_from(rank).map_or(Self::HIGHEST, Self)
    }
}

/// The process's account.
#[derive(Debug, Default)]
pub struct Ledger {
    ceiling: Gauge<i64, AtomicI64>,
    held: Gauge<i64, AtomicI64>,
    /// Of that, what belongs to requests that were told to end.
    leaving: AtomicI64,
    holders: Mutex<Vec<Weak<Flow>>>,
}

impl Ledger {
    /// Nothing is held; at most `ceiling` may be.
    pub fn new(ceiling: u64) -> Arc<Self> {
        let ledger = Self::default();
        ledger.set_ceiling(ceiling);
        Arc::new(ledger)
    }

    /// Another ceiling.
    pub fn set_ceiling(&self, bytes: u64) {
        self.ceiling.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The ceiling.
    pub fn ceiling(&self) -> u64 {
        u64::try_from(self.ceiling.get()).unwrap_or(0)
    }

    /// Bytes held.
    pub fn held(&self) -> u64 {
        u64::try_from(self.held.get()).unwrap_or(0)
    }

    /// Puts both into the scrape.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "buffered",
            "held of bodies between clients and servers, beyond 16 KiB of each request",
            Unit::Bytes,
            self.held.clone(),
        );
        registry.register_with_unit(
            "buffered_max",
            "most that may be held of bodies; near it requests are shed by class",
            Unit::Bytes,
            self.ceiling.clone(),
        );
    }

    /// Bytes held by requests that may go on.
    fn staying(&self) -> u64 {
        let held = self.held.get().saturating_sub(self.leaving.load(Ordering::Relaxed));
        u64::try_from(held).unwrap_or(0)
    }

    /// Whether a new request of this rank may begin.
    pub fn admits(&self, rank: Rank) -> bool {
        let ceiling = self.ceiling();
        let free = ceiling / 4 * FREE;
        let bound = free + (ceiling - free) / u64::from(u8::MAX) * u64::from(rank.0);
        self.staying() <= bound
    }

    /// `amount` more is held by `flow` until `bytes`, the last of it, is dropped. Ends whoever
    /// must go.
    pub(crate) fn charge(self: &Arc<Self>, flow: &Arc<Flow>, bytes: Bytes, amount: i64) -> Bytes {
        let is_new = {
            let mut share = flow.account.share();
            share.held += amount;
            if share.leaves {
                self.leaving.fetch_add(amount, Ordering::Relaxed);
            }
            !std::mem::replace(&mut share.listed, true)
        };
        self.held.inc_by(amount);
        if is_new {
            self.list(flow);
        }
        if self.staying() > self.ceiling() {
            self.shed();
        }
        let charge = Charge { ledger: Arc::clone(self), flow: Arc::clone(flow), amount };
        Bytes::from_owner(Held { bytes, _charge: charge })
    }

    /// Remembers who holds something, and forgets who is gone.
    fn list(&self, flow: &Arc<Flow>) {
        let mut holders = self.holders();
        if holders.len() == holders.capacity() {
            holders.retain(|holder| holder.strong_count() > 0);
            // Half of it is free then, so that this costs little for each holder.
            let room = holders.len().max(HOLDERS_MIN);
            holders.reserve(room);
        }
        holders.push(Arc::downgrade(flow));
    }

    /// Ends requests until the rest fits: the lowest rank first, and of that the largest.
    fn shed(&self) {
        let mut candidates: Vec<(Rank, i64, Arc<Flow>)> = self
            .holders()
            .iter()
            .filter_map(Weak::upgrade)
            .map(|flow| {
                let held = flow.account.share().held;
                (flow.account.rank(), held, flow)
            })
            .collect();
        candidates.sort_unstable_by_key(|(rank, held, _)| (*rank, std::cmp::Reverse(*held)));
        for (_, _, flow) in candidates {
            if self.staying() <= self.ceiling() {
                break;
            }
            let mut share = flow.account.share();
            if share.held > 0 && !std::mem::replace(&mut share.leaves, true) {
                self.leaving.fetch_add(share.held, Ordering::Relaxed);
                drop(share);
                flow.end(Failure::MemoryShed);
                flow.abort();
            }
        }
    }

    fn holders(&self) -> MutexGuard<'_, Vec<Weak<Flow>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one request holds.
#[derive(Debug)]
pub(crate) struct Account {
    /// Bytes that went by since the last charge.
    loose: AtomicU32,
    rank: AtomicU8,
    share: Mutex<Share>,
}

#[derive(Debug, Default)]
struct Share {
    held: i64,
    /// It was told to end.
    leaves: bool,
    listed: bool,
}

impl Default for Account {
    /// Of a request whose class is not known: it has no body from a server yet.
    fn default() -> Self {
        let rank = AtomicU8::new(Rank::HIGHEST.0);
        Self { loose: AtomicU32::new(0), rank, share: Mutex::default() }
    }
}

impl Account {
    /// Its class is known.
    pub(crate) fn set_rank(&self, rank: Rank) {
        self.rank.store(rank.0, Ordering::Relaxed);
    }

    fn rank(&self) -> Rank {
        Rank(self.rank.load(Ordering::Relaxed))
    }

    /// Another `bytes` went by; the sum, if that is worth a charge.
    pub(crate) fn pass(&self, bytes: usize) -> Option<i64> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX / 2);
        // Two sides of one request may come at once; what one of them misses, the next sees.
        let sum = self.loose.load(Ordering::Relaxed).saturating_add(bytes);
        if sum < UNIT {
            self.loose.store(sum, Ordering::Relaxed);
            return None;
        }
        self.loose.store(0, Ordering::Relaxed);
        Some(i64::from(sum))
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are accounted for until they are dropped.
struct Held {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Charge {
    ledger: Arc<Ledger>,
    flow: Arc<Flow>,
    amount: i64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.held.dec_by(self.amount);
        let mut share = self.flow.account.share();
        share.held -= self.amount;
        if share.leaves {
            self.ledger.leaving.fetch_sub(self.amount, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const PIECE: i64 = 64 * 1024;

    fn flow(rank: u8) -> Arc<Flow> {
        let flow = Arc::new(Flow::new(clock::now()));
        flow.account.set_rank(Rank(rank));
        flow
    }

    fn hold(ledger: &Arc<Ledger>, flow: &Arc<Flow>, amount: i64) -> Bytes {
        ledger.charge(flow, Bytes::from_static(b"body"), amount)
    }

    #[test]
    fn what_is_held_is_what_was_not_dropped() {
        let ledger = Ledger::new(1 << 30);
        let flow = flow(0);
        let one = hold(&ledger, &flow, PIECE);
        assert_eq!(one, "body");
        let two = hold(&ledger, &flow, PIECE);
        let slice = one.slice(1..2);
        drop(one);
        assert_eq!(ledger.held.get(), 2 * PIECE, "hyper may keep a part of it");
        drop(slice);
        assert_eq!(ledger.held.get(), PIECE);
        drop(two);
        assert_eq!((ledger.held.get(), flow.account.share().held), (0, 0));
    }

    #[test]
    fn small_bodies_are_not_counted_and_large_ones_in_units() {
        let account = Account::default();
        assert_eq!(account.pass(1024), None);
        assert_eq!(account.pass(16 * 1024), Some(17 * 1024));
        assert!((0..15).all(|_| account.pass(1024).is_none()));
        assert_eq!(account.pass(1024), Some(16 * 1024));
    }

    #[test]
    fn the_lowest_class_goes_first_and_of_it_the_largest() {
        let ledger = Ledger::new(10 * PIECE.unsigned_abs());
        let (payment, pull, small_pull) = (flow(255), flow(0), flow(0));
        let mut bodies = vec![hold(&ledger, &payment, 5 * PIECE)];
        bodies.push(hold(&ledger, &small_pull, PIECE));
        bodies.push(hold(&ledger, &pull, 4 * PIECE));
        assert!([&payment, &pull, &small_pull].iter().all(|flow| flow.ended().is_none()));
        bodies.push(hold(&ledger, &payment, PIECE));
        assert_eq!(pull.ended(), Some(Failure::MemoryShed));
        assert!(pull.is_aborted());
        assert!(payment.ended().is_none() && small_pull.ended().is_none());
        // What the first leaves counts already, so nobody else goes for it.
        bodies.push(hold(&ledger, &payment, 3 * PIECE));
        assert!(small_pull.ended().is_none());
        bodies.push(hold(&ledger, &payment, PIECE));
        assert!(small_pull.ended().is_some() && payment.ended().is_none());
        bodies.push(hold(&ledger, &payment, PIECE));
        assert_eq!(payment.ended(), Some(Failure::MemoryShed), "then even payments");
        bodies.clear();
        assert_eq!((ledger.held.get(), ledger.staying()), (0, 0));
        assert_eq!(ledger.leaving.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn lower_classes_are_refused_sooner() {
        let ledger = Ledger::new(100 * PIECE.unsigned_abs());
        let flow = flow(0);
        let bulk = Rank::of(0, 3);
        let _some = hold(&ledger, &flow, 75 * PIECE);
        assert!(ledger.admits(bulk) && ledger.admits(Rank::HIGHEST));
        let _more = hold(&ledger, &flow, 5 * PIECE);
        assert!(!ledger.admits(bulk) && ledger.admits(Rank::of(1, 3)));
        let _much = hold(&ledger, &flow, 15 * PIECE);
        assert!(!ledger.admits(Rank::of(1, 3)) && ledger.admits(Rank::of(2, 3)));
        ledger.set_ceiling(1000 * PIECE.unsigned_abs());
        assert!(ledger.admits(bulk));
    }

    #[test]
    fn the_list_of_holders_is_as_long_as_there_are_holders() {
        let ledger = Ledger::new(1 << 30);
        let keep: Vec<_> = (0..100).map(|_| flow(0)).collect();
        let bodies: Vec<_> = keep.iter().map(|flow| hold(&ledger, flow, PIECE)).collect();
        for _ in 0..10_000 {
            drop(hold(&ledger, &flow(0), PIECE));
        }
        assert!(ledger.holders().len() <= 1_000, "{}", ledger.holders().len());
        assert_eq!(ledger.held.get(), 100 * PIECE);
        drop(bodies);
    }
}

//! How much one backend is asked at one time: places, and a short queue for them.
//!
//! In: a call with its rank. Out: a place for as long as it takes, at once where there is one;
//! else the call waits, as long as its class lets it, and the highest rank is served first. Lower
//! ranks meet both bounds earlier: the last quarter of the places and of the queue is theirs in
//! proportion, so that bulk is refused first and payments last. Where there is room, a place
//! costs two additions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tillgate_core::backend::CircuitSpec;
use tokio::sync::oneshot;

use crate::memory::Rank;

/// Part of the places, in quarters, that is for every rank.
const FREE: u32 = 3;

/// See the module.
#[derive(Debug)]
pub struct Circuit {
    requests_max: AtomicU32,
    waiting_max: AtomicU32,
    retries_max: AtomicU32,
    busy: AtomicU32,
    retries: AtomicU32,
    /// As many as there are in `queue`.
    waiting: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// By rank, then by arrival; the highest rank last, and of it the latest first.
    waiters: BTreeMap<(Rank, u64), oneshot::Sender<Place>>,
    arrivals: u64,
}

/// What a call is to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first try of a call.
    First,
    /// A further one.
    Further,
}

/// There is no place.
#[derive(Debug, thiserror::Error)]
pub enum Full {
    /// Too many wait already.
    #[error("{0} requests wait for a place")]
    Queue(u32),
    /// None was free in time.
    #[error("no place within {0:?}")]
    Late(Duration),
    /// As many further tries as there may be.
    #[error("as many further tries as maxParallelRetries are under way")]
    Retries,
}

impl Circuit {
    /// An empty one.
    pub fn new(spec: CircuitSpec) -> Arc<Self> {
        Arc::new(Self {
            requests_max: AtomicU32::new(spec.requests_max),
            waiting_max: AtomicU32::new(spec.waiting_max),
            retries_max: AtomicU32::new(spec.retries_max),
            busy: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
        })
    }

    /// Other bounds; who is in stays.
    pub fn reconfigure(self: &Arc<Self>, spec: CircuitSpec) {
        self.requests_max.store(spec.requests_max, Ordering::Relaxed);
        self.waiting_max.store(spec.waiting_max, Ordering::Relaxed);
        self.retries_max.store(spec.retries_max, Ordering::Relaxed);
        // There may be more room than before.
        self.hand_out();
    }

    /// Calls that have a place.
    pub fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    /// A place, if there is one now and nobody waits for it.
    ///
    /// # Errors
    /// [`Full::Retries`]: a further try never waits for other further tries.
    pub fn try_enter(self: &Arc<Self>, rank: Rank, turn: Turn) -> Result<Option<Place>, Full> {
        let further = self.count(turn)?;
        if self.waiting.load(Ordering::Acquire) > 0 || !self.takes_one(rank) {
            return Ok(None);
        }
        Ok(Some(Place { circuit: Some(Arc::clone(self)), further }))
    }

    /// Counts one more of `rank`, if there is room. In one step, so that who gets none keeps it
    /// from nobody for a moment. In one order with `waiting` (`SeqCst`): of whoever waits and
    /// whoever leaves at the same time one sees the other.
    fn takes_one(&self, rank: Rank) -> bool {
        let bound = part(self.requests_max.load(Ordering::Relaxed), rank);
        let counted = |busy| (busy < bound).then_some(busy + 1);
        self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, counted).is_ok()
    }

    /// Counts a further try, also while it waits for its place.
    fn count(self: &Arc<Self>, turn: Turn) -> Result<Option<Further>, Full> {
        if turn == Turn::First {
            return Ok(None);
        }
        let most = self.retries_max.load(Ordering::Relaxed);
        let counted = |retries| (retries < most).then_some(retries + 1);
        let update = self.retries.fetch_update(Ordering::AcqRel, Ordering::Acquire, counted);
        update.map_err(|_| Full::Retries)?;
        let further = Further { circuit: Arc::clone(self) };
        Ok(Some(further))
    }

    /// A place, waited for if need be.
    ///
    /// # Errors
    /// [`Full`] says why there is none.
    pub async fn enter(
        self: &Arc<Self>,
        rank: Rank,
        turn: Turn,
        max_wait: Duration,
    ) -> Result<Place, Full> {
        if let Some(place) = self.try_enter(rank, turn)? {
            return Ok(place);
        }
        let further = self.count(turn)?;
        let told = {
            let mut queue = self.lock();
            queue.waiters.retain(|_, waiter| !waiter.is_closed());
            let waiting = u32::try_from(queue.waiters.len()).unwrap_or(u32::MAX);
            if waiting >= part(self.waiting_max.load(Ordering::Relaxed), rank) {
                self.waiting.store(waiting, Ordering::SeqCst);
                return Err(Full::Queue(waiting));
            }
            let (tell, told) = oneshot::channel();
            // Of one rank whoever came first has the highest number.
            let number = u64::MAX - queue.arrivals;
            queue.arrivals += 1;
            queue.waiters.insert((rank, number), tell);
            self.waiting.store(waiting + 1, Ordering::SeqCst);
            told
        };
        // A place may have become free before anybody knew of the one who waits.
        self.hand_out();
        match tokio::time::timeout(max_wait, told).await {
            Ok(Ok(mut place)) => {
                place.further = further;
                Ok(place)
            }
            Ok(Err(_)) | Err(_) => Err(Full::Late(max_wait)),
        }
    }

    /// Gives free places to those who wait, the highest rank first.
    fn hand_out(self: &Arc<Self>) {
        let mut queue = self.lock();
        while let Some(((rank, _), _)) = queue.waiters.last_key_value() {
            if !self.takes_one(*rank) {
                break;
            }
            let Some((_, waiter)) = queue.waiters.pop_last() else { break };
            let place = Place { circuit: Some(Arc::clone(self)), further: None };
            if let Err(mut unwanted) = waiter.send(place) {
                // It is given back here: the queue is held.
                unwanted.circuit = None;
                self.busy.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let waiting = u32::try_from(queue.waiters.len()).unwrap_or(u32::MAX);
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of `all` that a rank may use; at least one.
fn part(all: u32, rank: Rank) -> u32 {
    let free = all / 4 * FREE + all % 4 * FREE / 4;
    let rest = u64::from(all - free) * u64::from(rank.0) / u64::from(u8::MAX);
    (free + u32::try_from(rest).unwrap_or(0)).max(u32::from(all > 0))
}

/// A call's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    /// `None`: it was given back already.
    circuit: Option<Arc<Circuit>>,
    /// It is a further try's, and counted as one.
    further: Option<Further>,
}

/// A further try, counted until this is dropped.
#[derive(Debug)]
struct Further {
    circuit: Arc<Circuit>,
}

impl Drop for Further {
    fn drop(&mut self) {
        self.circuit.retries.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(circuit) = self.circuit.take() else { return };
        circuit.busy.fetch_sub(1, Ordering::SeqCst);
        self.further = None;
        if circuit.waiting.load(Ordering::SeqCst) > 0 {
            circuit.hand_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: CircuitSpec = CircuitSpec { requests_max: 4, waiting_max: 4, retries_max: 1 };
    const BULK: Rank = Rank(0);
    const WAIT: Duration = Duration::from_secs(5);

    #[test]
    fn the_last_quarter_is_for_the_highest() {
        assert_eq!((part(1024, Rank::HIGHEST), part(1024, BULK)), (1024, 768));
        assert_eq!((part(4, BULK), part(1, BULK), part(0, BULK)), (3, 1, 0));
        let circuit = Circuit::new(SPEC);
        let enter = |rank| circuit.try_enter(rank, Turn::First).unwrap();
        let held: Vec<_> = (0..3).map(|_| enter(BULK).unwrap()).collect();
        assert!(enter(BULK).is_none());
        let payment = enter(Rank::HIGHEST);
        assert!(payment.is_some() && enter(Rank::HIGHEST).is_none());
        drop((held, payment));
        assert_eq!(circuit.busy(), 0);
    }

    #[test]
    fn further_tries_have_a_bound_of_their_own() {
        let circuit = Circuit::new(SPEC);
        let first = circuit.try_enter(Rank::HIGHEST, Turn::Further).unwrap();
        assert!(matches!(circuit.try_enter(Rank::HIGHEST, Turn::Further), Err(Full::Retries)));
        drop(first);
        assert!(circuit.try_enter(Rank::HIGHEST, Turn::Further).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_further_try_counts_as_one_also_after_it_has_waited() {
        let circuit = Circuit::new(CircuitSpec { requests_max: 1, ..SPEC });
        let held = circuit.try_enter(Rank::HIGHEST, Turn::First).unwrap();
        let waits = circuit.enter(Rank::HIGHEST, Turn::Further, WAIT);
        let frees = async {
            tokio::task::yield_now().await;
            let other = circuit.enter(Rank::HIGHEST, Turn::Further, WAIT).await;
            assert!(matches!(other, Err(Full::Retries)), "one waits already");
            drop(held);
        };
        let (place, ()) = tokio::join!(waits, frees);
        assert!(matches!(circuit.try_enter(Rank::HIGHEST, Turn::Further), Err(Full::Retries)));
        drop(place);
        assert!(circuit.try_enter(Rank::HIGHEST, Turn::Further).unwrap().is_some());
        assert_eq!((circuit.busy(), circuit.retries.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn the_highest_rank_is_served_first_and_then_who_waits_longest() {
        let circuit = Circuit::new(CircuitSpec { requests_max: 1, ..SPEC });
        let held = circuit.try_enter(Rank::HIGHEST, Turn::First).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, rank) in [("bulk", BULK), ("first", Rank(200)), ("second", Rank(200))] {
            let (circuit, order) = (Arc::clone(&circuit), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let place = circuit.enter(rank, Turn::First, WAIT).await.unwrap();
                order.lock().unwrap().push(name);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for one in waiting {
            one.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["first", "second", "bulk"]);
        assert_eq!(circuit.busy(), 0);
    }

    #[tokio::test]
    async fn who_waits_gets_a_place_when_the_bound_is_raised() {
        let circuit = Circuit::new(CircuitSpec { requests_max: 1, ..SPEC });
        let held = circuit.try_enter(Rank::HIGHEST, Turn::First).unwrap();
        let raised = async {
            tokio::task::yield_now().await;
            circuit.reconfigure(SPEC);
        };
        let (place, ()) = tokio::join!(circuit.enter(Rank::HIGHEST, Turn::First, WAIT), raised);
        assert!(place.is_ok() && held.is_some());
    }

    #[test]
    fn who_is_refused_keeps_a_place_from_nobody() {
        let circuit = Circuit::new(SPEC);
        let enter = |rank| circuit.try_enter(rank, Turn::First).unwrap();
        let held: Vec<_> = (0..3).map(|_| enter(BULK).unwrap()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..50_000).for_each(|_| assert!(enter(BULK).is_none())));
            scope.spawn(|| (0..50_000).for_each(|_| assert!(enter(Rank::HIGHEST).is_some())));
        });
        drop(held);
        assert_eq!(circuit.busy(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_a_slow_one_in_time() {
        let circuit = Circuit::new(CircuitSpec { requests_max: 1, waiting_max: 1, ..SPEC });
        let held = circuit.try_enter(Rank::HIGHEST, Turn::First).unwrap();
        let short = Duration::from_millis(20);
        let late = circuit.enter(Rank::HIGHEST, Turn::First, short);
        let full = async {
            tokio::task::yield_now().await;
            circuit.enter(Rank::HIGHEST, Turn::First, WAIT).await
        };
        let (late, full) = tokio::join!(late, full);
        assert!(matches!(late, Err(Full::Late(_))) && matches!(full, Err(Full::Queue(1))));
        drop(held);
        assert!(circuit.enter(Rank::HIGHEST, Turn::First, WAIT).await.is_ok());
        assert_eq!(circuit.busy(), 0);
    }
}

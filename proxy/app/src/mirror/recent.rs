//! Answers that take long to find: each is found once a second, however many want it.
//!
//! Whoever asks first has it found, beside the thread that he is on; the others wait for the same.
//! Nobody's leaving stops that, so that no crowd which comes and goes begins it again and again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tillgate_net::clock;
use tokio::sync::watch;

/// What is older is found again: what opens is told to do so within a second.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Answers that are kept: more than a policy has images.
const KEPT_MAX: usize = 1024;

type Told<V> = watch::Receiver<Option<V>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Recent<K, V>(Mutex<BTreeMap<K, (Instant, Told<V>)>>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, V: Clone> Recent<K, V> {
    /// The answer to `key`; `begin` has it found and sent. `None`: that broke off.
    pub(super) async fn get(
        &self,
        key: K,
        begin: impl FnOnce(watch::Sender<Option<V>>),
    ) -> Option<V> {
        let mut told = self.told(key, begin, clock::now());
        let answer = told.wait_for(Option::is_some).await.ok()?;
        answer.clone()
    }

    fn told(&self, key: K, begin: impl FnOnce(watch::Sender<Option<V>>), now: Instant) -> Told<V> {
        // What is still looked for is waited for, however long it takes; what broke off is not.
        let is_good = |at: Instant, told: &Told<V>| match told.borrow().is_some() {
            true => now.saturating_duration_since(at) < FRESH_FOR,
            false => told.has_changed().is_ok(),
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, told)) = kept.get(&key)
            && is_good(*at, told)
        {
            return told.clone();
        }
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (at, told)| is_good(*at, told));
        }
        let (tell, told) = watch::channel(None);
        if kept.len() < KEPT_MAX {
            kept.insert(key, (now, told.clone()));
        }
        drop(kept);
        begin(tell);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_who_ask_at_once_have_it_found_once() {
        let recent = Recent::default();
        let mut found = Vec::new();
        let now = clock::now();
        let mut told: Vec<Told<u32>> =
            (0..10_000).map(|_| recent.told("a", |tell| found.push(tell), now)).collect();
        assert_eq!(found.len(), 1);
        found[0].send_replace(Some(7));
        assert!(told.iter_mut().all(|told| *told.borrow_and_update() == Some(7)));
        let soon = now + FRESH_FOR / 2;
        assert_eq!(*recent.told("a", |_| panic!("it is fresh"), soon).borrow(), Some(7));
        recent.told("b", |tell| found.push(tell), soon);
        let later = now + FRESH_FOR;
        recent.told("a", |tell| found.push(tell), later);
        assert_eq!(found.len(), 3, "it is old, and another one is another one");
        // Nobody finds it any more.
        found.clear();
        recent.told("a", |tell| found.push(tell), later);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn few_are_kept() {
        let recent = Recent::default();
        let now = clock::now();
        for key in 0..2 * KEPT_MAX {
            recent.told(key, |tell| _ = tell.send_replace(Some(())), now);
        }
        let kept = || recent.0.lock().unwrap().len();
        assert_eq!(kept(), KEPT_MAX);
        recent.told(2 * KEPT_MAX, |tell| _ = tell.send_replace(Some(())), now + FRESH_FOR);
        assert_eq!(kept(), 1);
    }
}

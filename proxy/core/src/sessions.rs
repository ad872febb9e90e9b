//! Sessions of datagrams: who is known, and who makes room when there is none.
//!
//! A session is what makes replies find their client. In go keys (client addresses) as they send;
//! out come their sessions, or the one that ends so that a new client gets a place: of those that
//! may end, the one that has been silent for longest. Which may is the caller's word; one that is
//! owed an answer should not, because its client would wait in vain, while one that has its answer
//! loses nothing that the next datagram does not bring back. Of a client that has as many as it
//! may one of its own ends, so that it costs nobody else a place.
//!
//! It keeps no time: order is enough. How long a silent session lives is the caller's timer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Candidates that are asked before a new client is refused: a flood of clients that are never
/// answered must not make every new one cost a walk through all of them.
const ASKED_MAX: usize = 32;

/// A key that belongs to somebody who may have several.
pub trait Key: Ord + Clone {
    /// Who that is.
    type Client: Ord + Clone;

    /// Whose key it is.
    fn client(&self) -> Self::Client;
}

impl Key for SocketAddr {
    type Client = IpAddr;

    fn client(&self) -> IpAddr {
        self.ip().to_canonical()
    }
}

/// Sessions by key, in the order of their last use.
#[derive(Clone, Debug)]
pub struct SessionTable<K: Key, S> {
    known: BTreeMap<K, Entry<S>>,
    by_use: BTreeMap<u64, K>,
    /// The same, each client's together.
    by_client: BTreeMap<(K::Client, u64), K>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Entry<S> {
    session: S,
    used: u64,
}

impl<K: Key, S> Default for SessionTable<K, S> {
    fn default() -> Self {
        let (known, by_use, by_client) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { known, by_use, by_client, next: 0 }
    }
}

impl<K: Key, S> SessionTable<K, S> {
    /// The session of `key`, which is used now.
    pub fn touch(&mut self, key: &K) -> Option<&S> {
        let entry = self.known.get_mut(key)?;
        if let Some(key) = self.by_use.remove(&entry.used) {
            self.by_client.remove(&(key.client(), entry.used));
            entry.used = self.next;
            self.by_client.insert((key.client(), self.next), key.clone());
            self.by_use.insert(self.next, key);
            self.next += 1;
        }
        Some(&entry.session)
    }

    /// The session of `key`, without using it.
    pub fn get(&self, key: &K) -> Option<&S> {
        self.known.get(key).map(|entry| &entry.session)
    }

    /// A new session, used now; returns the one that was there.
    pub fn insert(&mut self, key: K, session: S) -> Option<S> {
        let before = self.remove(&key);
        self.by_use.insert(self.next, key.clone());
        self.by_client.insert((key.client(), self.next), key.clone());
        self.known.insert(key, Entry { session, used: self.next });
        self.next += 1;
        before
    }

    /// Forgets a session.
    pub fn remove(&mut self, key: &K) -> Option<S> {
        let entry = self.known.remove(key)?;
        self.by_use.remove(&entry.used);
        self.by_client.remove(&(key.client(), entry.used));
        Some(entry.session)
    }

    /// The key of the session that has been silent for longest of those that `may_end`; of the
    /// longest silent ones only so many are asked, so one may be missed.
    pub fn longest_silent(&self, may_end: impl Fn(&S) -> bool) -> Option<&K> {
        self.first(self.by_use.values(), may_end)
    }

    /// The same of those that `client` has.
    pub fn longest_silent_of(
        &self,
        client: &K::Client,
        may_end: impl Fn(&S) -> bool,
    ) -> Option<&K> {
        let its = (client.clone(), 0)..=(client.clone(), u64::MAX);
        self.first(self.by_client.range(its).map(|(_, key)| key), may_end)
    }

    fn first<'a>(
        &'a self,
        keys: impl Iterator<Item = &'a K>,
        may_end: impl Fn(&S) -> bool,
    ) -> Option<&'a K> {
        let mut asked = keys.take(ASKED_MAX);
        asked.find(|key| self.known.get(key).is_some_and(|entry| may_end(&entry.session)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Key for u8 {
        type Client = Self;

        fn client(&self) -> Self {
            *self % 4
        }
    }

    impl Key for i32 {
        type Client = Self;

        fn client(&self) -> Self {
            *self
        }
    }

    #[test]
    fn ports_of_one_address_are_one_client() {
        let of = |address: &str| address.parse::<SocketAddr>().unwrap().client();
        assert_eq!(of("192.0.2.7:1"), of("192.0.2.7:2"));
        assert_eq!(of("192.0.2.7:1"), of("[::ffff:192.0.2.7]:1"));
        assert_ne!(of("192.0.2.7:1"), of("192.0.2.8:1"));
    }

    #[test]
    fn the_longest_silent_that_may_end_makes_room() {
        let mut table = SessionTable::default();
        for (client, answered) in [(1, false), (2, true), (3, true)] {
            table.insert(client, answered);
        }
        table.touch(&2);
        for client in [3, 2] {
            assert_eq!(table.longest_silent(|answered| *answered), Some(&client));
            assert_eq!(table.remove(&client), Some(true));
        }
        assert_eq!(table.longest_silent(|answered| *answered), None, "1 is owed an answer");
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_crowd_that_waits_is_not_searched_through() {
        let mut table = SessionTable::default();
        for client in 0..1000 {
            table.insert(client, false);
        }
        table.insert(1000, true);
        let asked = std::cell::Cell::new(0);
        let found = table.longest_silent(|answered| {
            asked.set(asked.get() + 1);
            *answered
        });
        assert_eq!((found, asked.get()), (None, ASKED_MAX));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Touch(u8),
        Insert(u8, bool),
        Remove(u8),
        MakeRoom,
        MakeRoomOf(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<u8>().prop_map(Step::Touch),
            (any::<u8>(), any::<bool>()).prop_map(|(key, ends)| Step::Insert(key, ends)),
            any::<u8>().prop_map(Step::Remove),
            Just(Step::MakeRoom),
            (0..4_u8).prop_map(Step::MakeRoomOf),
        ]
    }

    proptest! {
        /// Against a list in the order of use.
        #[test]
        fn it_is_a_list_in_the_order_of_use(steps in prop::collection::vec(step(), 0..300)) {
            let mut table = SessionTable::default();
            let mut model: Vec<(u8, bool)> = Vec::new();
            for step in steps {
                let place =
                    |model: &[(u8, bool)], key| model.iter().position(|one| one.0 == key);
                match step {
                    Step::Touch(key) => {
                        let found = place(&model, key).map(|at| model.remove(at));
                        model.extend(found);
                        prop_assert_eq!(table.touch(&key).copied(), found.map(|one| one.1));
                    }
                    Step::Insert(key, ends) => {
                        let before = place(&model, key).map(|at| model.remove(at).1);
                        model.push((key, ends));
                        prop_assert_eq!(table.insert(key, ends), before);
                    }
                    Step::Remove(key) => {
                        let before = place(&model, key).map(|at| model.remove(at).1);
                        prop_assert_eq!(table.remove(&key), before);
                    }
                    Step::MakeRoom => {
                        let found = model.iter().take(ASKED_MAX).position(|one| one.1);
                        let before = found.map(|at| model.remove(at));
                        let silent = table.longest_silent(|ends| *ends).copied();
                        let left = silent.and_then(|key| Some((key, table.remove(&key)?)));
                        prop_assert_eq!(left, before);
                    }
                    Step::MakeRoomOf(client) => {
                        let its = model.iter().enumerate().filter(|(_, one)| one.0 % 4 == client);
                        let found = its.take(ASKED_MAX).find(|(_, one)| one.1);
                        let before = found.map(|(at, _)| at).map(|at| model.remove(at));
                        let silent = table.longest_silent_of(&client, |ends| *ends).copied();
                        let left = silent.and_then(|key| Some((key, table.remove(&key)?)));
                        prop_assert_eq!(left, before);
                    }
                }
                prop_assert_eq!(table.by_client.len(), model.len());
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.is_empty(), model.is_empty());
                for (key, ends) in &model {
                    prop_assert_eq!(table.get(key), Some(ends));
                }
            }
        }
    }
}

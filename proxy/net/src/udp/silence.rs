//! Servers that are asked and do not answer: known for each session, and for each server by all
//! sessions together, because many clients ask each question from another port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock;

/// A server that has answered nothing for so long is passed over where there is another one: more
/// than any answer takes across a store's line, less than clients go on asking.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Datagrams that must have gone there unanswered meanwhile: one alone may have been lost.
const UNANSWERED_MIN: u32 = 2;

/// A silent server that nobody has asked for so long is asked by the next session.
const AGAIN: Duration = Duration::from_secs(10);

/// What was asked so long before the next is not counted with it.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Servers that are remembered though no session is theirs: DNS may give others again and again.
const KNOWN_MAX: usize = 256;

/// What was asked since something was answered.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When the first of it was asked, and the last, by [`clock::lately_millis`].
    since: AtomicU64,
    last: AtomicU64,
    asked: AtomicU32,
}

impl Silence {
    pub(super) fn asked(&self, now: u64) {
        // What nobody has asked for again was lost, or wanted no answer.
        let is_old = age(&self.last, now) >= FORGOTTEN;
        if self.asked.fetch_add(1, Ordering::Relaxed) == 0 || is_old {
            self.since.store(now, Ordering::Relaxed);
            self.asked.store(1, Ordering::Relaxed);
        }
        self.last.store(now, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) {
        self.asked.store(0, Ordering::Relaxed);
    }

    /// Whether nothing is answered, though more than one thing was asked.
    pub(super) fn is_long(&self, now: u64) -> bool {
        self.asked.load(Ordering::Relaxed) >= UNANSWERED_MIN && age(&self.since, now) >= SILENCE_MAX
    }

    fn may_begin(&self, now: u64) -> bool {
        !self.is_long(now) || age(&self.last, now) >= AGAIN
    }
}

fn age(stamp: &AtomicU64, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(stamp.load(Ordering::Relaxed)))
}

/// The servers of one listener.
#[derive(Debug, Default)]
pub(super) struct Servers(Mutex<HashMap<SocketAddr, Arc<Silence>>>);

impl Servers {
    /// What is known of each of `addresses`.
    pub(super) fn of(&self, addresses: &[SocketAddr]) -> Vec<Arc<Silence>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, silence| Arc::strong_count(silence) > 1);
        }
        addresses.iter().map(|one| Arc::clone(known.entry(*one).or_default())).collect()
    }
}

/// With which a session begins: those that answer, or may by now, before the others.
pub(super) fn in_turn(servers: &[Arc<Silence>]) -> Vec<usize> {
    let now = clock::lately_millis();
    let mut all: Vec<usize> = (0..servers.len()).collect();
    all.sort_by_key(|one| !servers[*one].may_begin(now));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_nobody_is_passed_over_and_asked_again_now_and_then() {
        let silence = Silence::default();
        silence.asked(100_000);
        assert!(!silence.is_long(159_999), "one datagram may have been lost");
        silence.asked(160_000);
        assert!(!silence.is_long(190_000), "that was long ago");
        silence.ends();
        silence.asked(1_000);
        silence.asked(2_000);
        assert!(!silence.is_long(3_999) && silence.may_begin(3_999));
        assert!(silence.is_long(4_000) && !silence.may_begin(4_000));
        silence.asked(9_000);
        assert!(!silence.may_begin(18_999) && silence.may_begin(19_000));
        // Whoever tries it does so for all.
        silence.asked(19_000);
        assert!(!silence.may_begin(19_001));
        silence.ends();
        assert!(silence.may_begin(19_002));
        silence.asked(20_000);
        assert!(!silence.is_long(60_000), "it is counted anew");
    }

    #[test]
    fn servers_that_nobody_uses_are_forgotten() {
        let servers = Servers::default();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let held = servers.of(&[address(1)]);
        for port in 2..=600 {
            servers.of(&[address(port)]);
        }
        assert!(servers.0.lock().unwrap().len() <= KNOWN_MAX);
        assert!(Arc::ptr_eq(&held[0], &servers.of(&[address(1)])[0]), "this one is in use");
        let two = servers.of(&[address(1), address(2)]);
        assert_eq!(in_turn(&two), [0, 1]);
        let now = clock::lately_millis();
        (0..2).for_each(|_| two[0].asked(now));
        two[0].since.store(now.saturating_sub(3_000), Ordering::Relaxed);
        assert_eq!(in_turn(&two), [1, 0], "what answers nobody is the last to be asked");
    }
}

//! Names become addresses, with the system's resolver.
//!
//! In: a name. Out: its addresses. The last good answer is remembered and used while it is asked
//! for again, because a till that calls once in ten minutes must not wait for DNS, nor meet an
//! empty list because DNS is away. A name is asked for once at a time, and names that clients
//! choose never take all of the threads on which the system's resolver blocks.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::backend::Host;
use tokio::sync::{Semaphore, watch};

use crate::clock;
use crate::error::DialError;

/// How long an answer is used before the system is asked again. The system's resolver tells no
/// lifetime; half a minute is what internal zones commonly use.
const FRESH: Duration = Duration::from_secs(30);

/// Names remembered, and names asked for at one time, at most.
const NAMES_MAX: usize = 1024;

/// Lookups of names that clients chose, at one time. A runtime that resolves must have more
/// blocking threads than these, so that the rest is free for backends.
pub const CLIENT_LOOKUPS: usize = 4;

/// Who chose a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChosenBy {
    /// The policy.
    Policy,
    /// A client of the forward proxy: it may be any name, also one that never resolves.
    Client,
}

/// See the module.
#[derive(Debug)]
pub struct Resolver {
    known: Mutex<HashMap<Arc<str>, Known>>,
    asking: Mutex<Asking>,
    client_lookups: Semaphore,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    at: Instant,
}

type Answer = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

/// Lookups under way, and where to wait for them.
type Asking = HashMap<(Arc<str>, ChosenBy), watch::Receiver<Option<Answer>>>;

impl Default for Resolver {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            asking: Mutex::default(),
            client_lookups: Semaphore::new(CLIENT_LOOKUPS),
        }
    }
}

impl Resolver {
    /// The addresses of `host` with `port`, never empty.
    ///
    /// # Errors
    /// [`DialError::Resolve`], if the name had no address before and has none now, or none came
    /// `within` that time.
    pub async fn resolve(
        self: &Arc<Self>,
        host: &Host,
        port: u16,
        chosen_by: ChosenBy,
        within: Duration,
    ) -> Result<Arc<[SocketAddr]>, DialError> {
        let name = match host {
            Host::Ip(address) => return Ok(Arc::new([SocketAddr::new(*address, port)])),
            Host::Name(name) => name,
        };
        let known = self.known().get(name).cloned();
        if let Some(Known { addresses, at }) = known {
            if clock::now().saturating_duration_since(at) >= FRESH {
                // Nobody waits for the answer.
                drop(self.ask(name, chosen_by));
            }
            return Ok(with_port(&addresses, port));
        }
        let failed = |source| DialError::Resolve { name: name.to_string(), source };
        let mut asked = self.ask(name, chosen_by).map_err(failed)?;
        let answer = tokio::time::timeout(within, asked.wait_for(Option::is_some)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer.clone(),
            Ok(Err(_)) => None,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        match answer {
            Some(Ok(addresses)) => Ok(with_port(&addresses, port)),
            Some(Err(source)) => Err(failed(io::Error::new(source.kind(), source))),
            None => Err(failed(io::Error::other("the lookup broke off"))),
        }
    }

    /// Asks the system for `name`, or joins those who do.
    fn ask(
        self: &Arc<Self>,
        name: &Arc<str>,
        chosen_by: ChosenBy,
    ) -> io::Result<watch::Receiver<Option<Answer>>> {
        let mut asking = self.asking();
        let key = (Arc::clone(name), chosen_by);
        if let Some(asked) = asking.get(&key) {
            return Ok(asked.clone());
        }
        if asking.len() >= NAMES_MAX {
            return Err(io::Error::other("too many names are being asked for"));
        }
        let (tell, asked) = watch::channel(None);
        asking.insert(key.clone(), asked.clone());
        drop(asking);
        let resolver = Arc::clone(self);
        // Apart from who asks: the system's lookup cannot be cancelled, so neither is this.
        tokio::spawn(async move {
            let answer = resolver.look_up(&key.0, chosen_by).await;
            if let Ok(addresses) = &answer {
                resolver.remember(&key.0, addresses);
            }
            resolver.asking().remove(&key);
            // Those who asked may have left.
            let _ = tell.send(Some(answer));
        });
        Ok(asked)
    }

    async fn look_up(&self, name: &Arc<str>, chosen_by: ChosenBy) -> Answer {
        let permit = match chosen_by {
            ChosenBy::Policy => None,
            ChosenBy::Client => self.client_lookups.acquire().await.ok(),
        };
        let found = tokio::net::lookup_host((&**name, 0)).await;
        drop(permit);
        let addresses: Arc<[SocketAddr]> = found.map_err(Arc::new)?.collect();
        if addresses.is_empty() {
            return Err(Arc::new(io::Error::other("the answer is empty")));
        }
        Ok(addresses)
    }

    /// Keeps an answer; of too many the oldest goes.
    fn remember(&self, name: &Arc<str>, addresses: &Arc<[SocketAddr]>) {
        let mut known = self.known();
        if known.len() >= NAMES_MAX && !known.contains_key(name) {
            let oldest = known.iter().min_by_key(|(_, known)| known.at);
            if let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) {
                known.remove(&oldest);
            }
        }
        let entry = Known { addresses: Arc::clone(addresses), at: clock::now() };
        known.insert(Arc::clone(name), entry);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_port(addresses: &Arc<[SocketAddr]>, port: u16) -> Arc<[SocketAddr]> {
    addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.into())
    }

    #[tokio::test]
    async fn a_stale_answer_is_used_at_once_and_outlives_a_failure() {
        let resolver = Arc::new(Resolver::default());
        let address = SocketAddr::from(([192, 0, 2, 1], 0));
        let at = clock::now().checked_sub(FRESH * 2).unwrap();
        let known = Known { addresses: Arc::new([address]), at };
        resolver.known().insert("pos.invalid".into(), known);
        for _ in 0..2 {
            let within = Duration::ZERO;
            let host = name("pos.invalid");
            let found = resolver.resolve(&host, 443, ChosenBy::Policy, within).await.unwrap();
            assert_eq!(*found, [SocketAddr::new(address.ip(), 443)]);
            assert!(resolver.asking().len() <= 1, "asked for once at a time");
        }
    }

    #[tokio::test]
    async fn of_too_many_names_the_oldest_is_forgotten() {
        let resolver = Arc::new(Resolver::default());
        let addresses: Arc<[SocketAddr]> = Arc::new([SocketAddr::from(([192, 0, 2, 1], 0))]);
        for i in 0..=NAMES_MAX {
            resolver.remember(&format!("host-{i}").into(), &addresses);
        }
        assert_eq!(resolver.known().len(), NAMES_MAX);
        assert!(resolver.known().contains_key(&*format!("host-{NAMES_MAX}")));
    }

    #[tokio::test]
    async fn names_of_clients_leave_room_for_those_of_the_policy() {
        let resolver = Arc::new(Resolver::default());
        let all = u32::try_from(CLIENT_LOOKUPS).unwrap();
        let taken = resolver.client_lookups.acquire_many(all).await.unwrap();
        let soon = Duration::from_millis(10);
        let client = resolver.resolve(&name("localhost"), 80, ChosenBy::Client, soon).await;
        assert!(client.is_err(), "it waits for its turn");
        let patient = Duration::from_secs(20);
        let found = resolver.resolve(&name("localhost"), 80, ChosenBy::Policy, patient).await;
        assert!(found.unwrap().iter().all(|address| address.ip().is_loopback()));
        drop(taken);
    }
}

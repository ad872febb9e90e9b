//! Names become addresses, with the system's resolver or another one in its place.
//!
//! In: a name. Out: its addresses. The last good answer is used while it is asked for again, and
//! for ever where no other comes: a till that calls once in ten minutes must not wait for DNS,
//! nor meet an empty list because DNS is away. Names of the policy are asked for ahead of need, by
//! [`Resolver::keep_fresh`]; the system's resolver tells no lifetimes, so at a fixed interval, with
//! jitter. Of a name that clients choose an answer that nobody has renewed for minutes is used only
//! if no other can be had. A name is asked for once at a time, and names that clients choose never
//! take all of the threads on which the system's resolver blocks, nor the place of one of the
//! policy.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillgate_core::backend::{DnsSpec, Endpoint, Host};
use tokio::sync::{Notify, Semaphore, watch};

use crate::clock;
use crate::error::DialError;

/// How long an answer about a name that nobody keeps fresh is used before the system is asked
/// again: half a minute is what internal zones commonly use.
const FRESH: Duration = Duration::from_secs(30);

/// How long such an answer is used without waiting for a newer one: servers of public names move
/// within minutes, and a name that is used all the time is renewed long before.
const STALE: Duration = Duration::from_secs(5 * 60);

/// After a lookup that failed, the next one; twice as long after each further one, up to the
/// interval of the name.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Part of an interval, in percent, by which it is longer or shorter by chance: stores that start
/// together (after a power cut in the street, after a rollout) must not ask together for ever.
const JITTER_PERCENT: u32 = 20;

/// Names remembered, and names of clients asked for at one time, at most; those of the policy have
/// their bound there.
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

/// One lookup under way.
pub type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Asks for the addresses of a name.
pub type Lookup = Box<dyn Fn(Arc<str>) -> Looking + Send + Sync>;

/// See the module.
pub struct Resolver {
    lookup: Lookup,
    known: Mutex<HashMap<Arc<str>, Known>>,
    asking: Mutex<Asking>,
    client_lookups: Semaphore,
    kept: Mutex<HashMap<Arc<str>, DnsSpec>>,
    kept_changed: Notify,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    at: Instant,
    /// When somebody has waited for a newer one in vain.
    failed: Option<Instant>,
}

type Answer = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

/// Lookups under way, and where to wait for them.
type Asking = HashMap<(Arc<str>, ChosenBy), watch::Receiver<Option<Answer>>>;

impl Default for Resolver {
    /// The system's.
    fn default() -> Self {
        Self::new(Box::new(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((&*name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        }))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// One that asks `lookup`.
    pub fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            known: Mutex::default(),
            asking: Mutex::default(),
            client_lookups: Semaphore::new(CLIENT_LOOKUPS),
            kept: Mutex::default(),
            kept_changed: Notify::new(),
        }
    }

    /// Keeps answers about these names fresh from now on, and no others; see
    /// [`Self::keep_fresh`].
    pub fn keep(&self, names: impl IntoIterator<Item = (Arc<str>, DnsSpec)>) {
        let mut kept: HashMap<Arc<str>, DnsSpec> = HashMap::new();
        for (name, spec) in names {
            // Of two backends on one name the more impatient counts.
            let known = kept.entry(name).or_insert(spec);
            known.refresh = known.refresh.min(spec.refresh);
            known.timeout = known.timeout.min(spec.timeout);
        }
        *self.kept() = kept;
        self.kept_changed.notify_one();
    }

    /// Asks for the names of [`Self::keep`] ahead of need, until dropped.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut running: HashMap<Arc<str>, (DnsSpec, Keeper)> = HashMap::new();
        loop {
            let wanted = self.kept().clone();
            running.retain(|name, (spec, _)| wanted.get(name) == Some(spec));
            for (name, spec) in wanted {
                let begin = || {
                    let keeping = Arc::clone(&self).keep_one(Arc::clone(&name), spec);
                    (spec, Keeper(tokio::spawn(keeping).abort_handle()))
                };
                running.entry(Arc::clone(&name)).or_insert_with(begin);
            }
            self.kept_changed.notified().await;
        }
    }

    async fn keep_one(self: Arc<Self>, name: Arc<str>, spec: DnsSpec) {
        let mut retry = RETRY_AFTER;
        loop {
            let asked = self.ask(&name, ChosenBy::Policy);
            let answered = match asked {
                Ok(asked) => self.answer(asked, spec.timeout).await,
                Err(error) => Err(error),
            };
            let pause = match answered {
                Ok(_) => {
                    retry = RETRY_AFTER;
                    spec.refresh
                }
                Err(error) => {
                    tracing::debug!(name = &*name, %error, "the name did not resolve");
                    let pause = retry.min(spec.refresh);
                    retry = retry.saturating_mul(2).min(spec.refresh);
                    pause
                }
            };
            tokio::time::sleep(spread(pause, fastrand::u64(..))).await;
        }
    }

    /// The addresses of a backend's endpoint, of the families it may use. Only a name that never
    /// had an answer is waited for.
    ///
    /// # Errors
    /// [`DialError::Resolve`], if there is none.
    pub async fn addresses(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        dns: &DnsSpec,
    ) -> Result<Arc<[SocketAddr]>, DialError> {
        let found =
            self.resolve(&endpoint.host, endpoint.port, ChosenBy::Policy, dns.timeout).await?;
        of_family(found, dns).ok_or_else(|| DialError::Resolve {
            name: endpoint.to_string(),
            source: io::Error::other("it has no address of the backend's `family`"),
        })
    }

    /// The same without waiting: `None` while there is no answer yet; it is asked for then.
    pub fn addresses_now(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        dns: &DnsSpec,
    ) -> Option<Arc<[SocketAddr]>> {
        let name = match &endpoint.host {
            Host::Ip(address) => return Some(Arc::new([SocketAddr::new(*address, endpoint.port)])),
            Host::Name(name) => name,
        };
        let known = self.known().get(name).map(|known| Arc::clone(&known.addresses));
        match known {
            Some(addresses) => of_family(with_port(&addresses, endpoint.port), dns),
            None => {
                // Nobody waits for the answer.
                drop(self.ask(name, ChosenBy::Policy));
                None
            }
        }
    }

    /// The addresses of `host` with `port`, never empty. What is known is told at once, and renewed
    /// beside; of a name that nobody keeps fresh, not after [`STALE`].
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
        if let Some(Known { addresses, at, failed }) = &known {
            let since = |then: Instant| clock::now().saturating_duration_since(then);
            let is_kept = || self.kept().contains_key(name);
            if since(*at) < FRESH || is_kept() {
                return Ok(with_port(addresses, port));
            }
            // While DNS is away not everybody waits for it.
            if since(*at) < STALE || failed.is_some_and(|then| since(then) < FRESH) {
                // Nobody waits for the answer.
                drop(self.ask(name, chosen_by));
                return Ok(with_port(addresses, port));
            }
        }
        let answered = match self.ask(name, chosen_by) {
            Ok(asked) => self.answer(asked, within).await,
            Err(error) => Err(error),
        };
        match (answered, known) {
            (Ok(addresses), _) => Ok(with_port(&addresses, port)),
            (Err(error), Some(known)) => {
                tracing::debug!(name = &**name, %error, "no newer answer; the last one is used");
                if let Some(known) = self.known().get_mut(name) {
                    known.failed = Some(clock::now());
                }
                Ok(with_port(&known.addresses, port))
            }
            (Err(source), None) => Err(DialError::Resolve { name: name.to_string(), source }),
        }
    }

    /// Waits for the answer of a lookup under way.
    async fn answer(
        &self,
        mut asked: watch::Receiver<Option<Answer>>,
        within: Duration,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let answer = match tokio::time::timeout(within, asked.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            Ok(Err(_)) => None,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        match answer {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(source)) => Err(io::Error::new(source.kind(), source)),
            None => Err(io::Error::other("the lookup broke off")),
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
        // Of one that nobody does any more nothing will come.
        if let Some(asked) = asking.get(&key).filter(|asked| asked.has_changed().is_ok()) {
            return Ok(asked.clone());
        }
        let of_clients = || asking.keys().filter(|(_, by)| *by == ChosenBy::Client).count();
        if chosen_by == ChosenBy::Client && of_clients() >= NAMES_MAX {
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
        let found = (self.lookup)(Arc::clone(name)).await;
        drop(permit);
        let found = found.map_err(Arc::new)?;
        let addresses: Arc<[SocketAddr]> =
            found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
        if addresses.is_empty() {
            return Err(Arc::new(io::Error::other("the answer is empty")));
        }
        Ok(addresses)
    }

    /// Keeps an answer; of too many the oldest goes, but none that is kept fresh.
    fn remember(&self, name: &Arc<str>, addresses: &Arc<[SocketAddr]>) {
        let kept = self.kept();
        let mut known = self.known();
        if known.len() >= NAMES_MAX && !known.contains_key(name) {
            let others = known.iter().filter(|(name, _)| !kept.contains_key(*name));
            let oldest = others.min_by_key(|(_, known)| known.at);
            if let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) {
                known.remove(&oldest);
            }
        }
        let entry = Known { addresses: Arc::clone(addresses), at: clock::now(), failed: None };
        known.insert(Arc::clone(name), entry);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Arc<str>, DnsSpec>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one name fresh as long as it lives.
struct Keeper(tokio::task::AbortHandle);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A pause that is longer or shorter than `pause` by up to [`JITTER_PERCENT`].
fn spread(pause: Duration, draw: u64) -> Duration {
    let steps = u64::from(2 * JITTER_PERCENT + 1);
    let percent = u32::try_from(draw % steps).unwrap_or(0) + 100 - JITTER_PERCENT;
    pause.saturating_mul(percent) / 100
}

/// Those that `dns` allows, if there are any.
fn of_family(addresses: Arc<[SocketAddr]>, dns: &DnsSpec) -> Option<Arc<[SocketAddr]>> {
    if addresses.iter().all(|address| dns.family.takes(address.ip())) {
        return Some(addresses);
    }
    let taken = addresses.iter().filter(|address| dns.family.takes(address.ip()));
    let taken: Arc<[SocketAddr]> = taken.copied().collect();
    (!taken.is_empty()).then_some(taken)
}

fn with_port(addresses: &Arc<[SocketAddr]>, port: u16) -> Arc<[SocketAddr]> {
    addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tillgate_core::backend::AddressFamily;

    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.into())
    }

    #[tokio::test]
    async fn a_stale_answer_is_used_at_once_and_outlives_a_failure() {
        let resolver = Arc::new(Resolver::default());
        let address = SocketAddr::from(([192, 0, 2, 1], 0));
        let at = clock::now().checked_sub(FRESH * 2).unwrap();
        let known = Known { addresses: Arc::new([address]), at, failed: None };
        resolver.known().insert("pos.invalid".into(), known);
        for _ in 0..2 {
            let within = Duration::ZERO;
            let host = name("pos.invalid");
            let found = resolver.resolve(&host, 443, ChosenBy::Policy, within).await.unwrap();
            assert_eq!(*found, [SocketAddr::new(address.ip(), 443)]);
            assert!(resolver.asking().len() <= 1, "asked for once at a time");
        }
    }

    const DNS: DnsSpec = DnsSpec {
        family: AddressFamily::Auto,
        refresh: Duration::from_millis(20),
        timeout: Duration::from_secs(20),
    };

    fn endpoint(text: &str) -> Endpoint {
        Endpoint { host: name(text), port: 443 }
    }

    /// A resolver that gives what `answers` holds, and counts.
    fn fake(answers: &Arc<Mutex<Vec<IpAddr>>>, asked: &Arc<AtomicUsize>) -> Arc<Resolver> {
        let (answers, asked) = (Arc::clone(answers), Arc::clone(asked));
        Arc::new(Resolver::new(Box::new(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            let found = answers.lock().unwrap().clone();
            let down = || Err(io::Error::other("the resolver is down"));
            Box::pin(async move { if found.is_empty() { down() } else { Ok(found) } })
        })))
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..4000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not in time: {what}");
    }

    #[tokio::test]
    async fn names_of_the_policy_are_known_before_they_are_needed_and_for_ever() {
        let (one, two): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let answers = Arc::new(Mutex::new(vec![one]));
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = fake(&answers, &asked);
        let keeping = tokio::spawn(Arc::clone(&resolver).keep_fresh());
        resolver.keep([("pos.example".into(), DNS)]);
        let pos = endpoint("pos.example");
        let now = || resolver.addresses_now(&pos, &DNS).map(|found| found[0].ip());
        until("the first answer", || now() == Some(one)).await;
        *answers.lock().unwrap() = vec![two];
        until("the next answer", || now() == Some(two)).await;

        answers.lock().unwrap().clear();
        let before = asked.load(Ordering::SeqCst);
        until("lookups that fail", || asked.load(Ordering::SeqCst) > before + 3).await;
        assert_eq!(now(), Some(two), "the last answer stays");
        let found = resolver.addresses(&pos, &DNS).await.unwrap();
        assert_eq!(*found, [SocketAddr::new(two, 443)]);
        *answers.lock().unwrap() = vec![one];
        until("an answer again", || now() == Some(one)).await;

        resolver.keep([]);
        let kept = || asked.load(Ordering::SeqCst);
        let mut last = kept();
        for _ in 0..200 {
            tokio::time::sleep(DNS.refresh * 3).await;
            if std::mem::replace(&mut last, kept()) == kept() {
                keeping.abort();
                return;
            }
        }
        panic!("a name that is gone from the policy is still asked for");
    }

    #[tokio::test]
    async fn a_name_of_a_client_is_asked_for_anew_after_minutes_and_kept_where_that_fails() {
        let (one, two): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let answers = Arc::new(Mutex::new(vec![two]));
        let resolver = fake(&answers, &Arc::default());
        let host = name("cdn.example");
        let found = || async {
            let within = Duration::from_secs(20);
            resolver.resolve(&host, 443, ChosenBy::Client, within).await.unwrap()[0].ip()
        };
        let remember = |age: Duration| {
            let at = clock::now().checked_sub(age).unwrap();
            let addresses = Arc::new([SocketAddr::new(one, 0)]);
            let known = Known { addresses, at, failed: None };
            resolver.known().insert("cdn.example".into(), known);
        };
        remember(STALE / 2);
        assert_eq!(found().await, one, "told at once");
        until("it is renewed beside", || resolver.asking().is_empty()).await;
        remember(STALE);
        assert_eq!(found().await, two, "worth waiting for");
        answers.lock().unwrap().clear();
        remember(STALE);
        assert_eq!(found().await, one, "better than nothing");
        let at_once = resolver.resolve(&host, 443, ChosenBy::Client, Duration::ZERO).await;
        assert_eq!(at_once.unwrap()[0].ip(), one);
        assert_eq!(resolver.asking().len(), 1, "asked for beside");
    }

    #[tokio::test]
    async fn a_backend_uses_the_families_it_may() {
        let (v4, v6): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), "2001:db8::1".parse().unwrap());
        let answers = Arc::new(Mutex::new(vec![v6, v4]));
        let resolver = fake(&answers, &Arc::default());
        for (family, wanted) in [
            (AddressFamily::Auto, vec![v6, v4]),
            (AddressFamily::Ipv4, vec![v4]),
            (AddressFamily::Ipv6, vec![v6]),
        ] {
            let dns = DnsSpec { family, ..DNS };
            let found = resolver.addresses(&endpoint("pos.example"), &dns).await.unwrap();
            let found: Vec<_> = found.iter().map(SocketAddr::ip).collect();
            assert_eq!(found, wanted, "{family:?}");
        }
        let resolver = fake(&Arc::new(Mutex::new(vec![v6])), &Arc::default());
        let dns = DnsSpec { family: AddressFamily::Ipv4, ..DNS };
        let none = resolver.addresses(&endpoint("pos.example"), &dns).await.unwrap_err();
        assert!(matches!(none, DialError::Resolve { .. }), "{none}");
    }

    #[test]
    fn pauses_differ_but_not_much() {
        let pause = Duration::from_secs(30);
        let drawn: Vec<_> = (0..1000).map(|draw| spread(pause, draw)).collect();
        assert_eq!(drawn.iter().min(), Some(&Duration::from_secs(24)));
        assert_eq!(drawn.iter().max(), Some(&Duration::from_secs(36)));
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
        // The oldest now is of the policy: it stays.
        resolver.keep([("host-1".into(), DNS)]);
        resolver.remember(&"one-more".into(), &addresses);
        assert!(resolver.known().contains_key("host-1"));
        assert_eq!(resolver.known().len(), NAMES_MAX);
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

//! How often requests of one rule may come: a token bucket (GCRA) for each client.
//!
//! In: who asks ([`Asker`]). Out: [`Verdict`], with what the client is told about it: the fields
//! `RateLimit-Policy` and `RateLimit` of the IETF draft "RateLimit header fields for HTTP". Clients
//! are known by a keyed hash alone: no address, no header value and no certificate is kept. The
//! table of keys is bounded ([`table`]) and shared by the workers behind one short lock for each
//! limit; rules without a limit never come here.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hash, Hasher as _};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};
use tillgate_core::limit::{RateKey, RateLimit};
use tillgate_core::tls::ClientIdentity;

use crate::clock;

mod table;

use self::table::Table;

/// What a limited rule says about itself.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What is left of it.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Bits of an IPv6 address that a device picks itself, as often as it likes (RFC 4291).
const IPV6_DEVICE_BITS: u32 = 64;

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// From where.
    pub address: IpAddr,
    /// With which verified certificate.
    pub identity: Option<&'a ClientIdentity>,
    /// What it says.
    pub headers: &'a HeaderMap,
}

/// Whether a request may pass now, and what its client is told in either case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None` = it passes; else how long to wait.
    pub wait: Option<Duration>,
    policy: HeaderValue,
    left: String,
}

impl Verdict {
    /// Tells the client: of an answer that passed, what is left; of a refusal, also when to come
    /// again.
    pub fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.policy.clone());
        // Digits and names of ours are always a valid value.
        if let Ok(left) = HeaderValue::from_str(&self.left) {
            headers.insert(RATE_LIMIT, left);
        }
        if let Some(wait) = self.wait {
            headers.insert(RETRY_AFTER, seconds(wait).into());
        }
    }
}

/// Whole seconds, never less than it takes.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The limits of one rule, as all workers share them.
#[derive(Debug)]
pub struct RuleLimits<C: Clock = Ticks> {
    limits: Vec<Limit<C>>,
    specs: Vec<RateLimit>,
    policy: HeaderValue,
    hasher: RandomState,
}

#[derive(Debug)]
struct Limit<C: Clock> {
    name: String,
    key: RateKey,
    quota: Quota,
    bucket: RateLimiter<u64, Table, C, StateInformationMiddleware>,
}

impl<C: Clock + Clone> RuleLimits<C> {
    /// Limits that nobody has used yet.
    pub fn new(specs: &[RateLimit], clock: &C) -> Self {
        let mut limits: Vec<Limit<C>> = Vec::new();
        for spec in specs {
            let kind = kind(&spec.key);
            let same = limits.iter().filter(|other| self::kind(&other.key) == kind).count();
            let name = if same == 0 { kind.to_owned() } else { format!("{kind}-{}", same + 1) };
            limits.push(Limit::new(name, spec, clock.clone()));
        }
        let policy = limits.iter().map(Limit::policy).collect::<Vec<_>>().join(", ");
        // Digits and names of ours are always a valid value.
        let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(""));
        Self { limits, specs: specs.to_vec(), policy, hasher: RandomState::new() }
    }

    /// Takes a token of each limit, in order; the first that has none refuses. Tokens that were
    /// taken before stay taken, as those of a request that came.
    pub fn check(&self, asker: Asker<'_>) -> Verdict {
        let mut left = String::with_capacity(48 * self.limits.len());
        for limit in &self.limits {
            let key = self.key(&limit.key, asker);
            if let Err(wait) = limit.take(key, &mut left) {
                return Verdict { wait: Some(wait), policy: self.policy.clone(), left };
            }
        }
        Verdict { wait: None, policy: self.policy.clone(), left }
    }

    /// The number that a client is known by. Keyed by chance, so that nobody can choose it.
    fn key(&self, key: &RateKey, asker: Asker<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        match key {
            RateKey::ClientAddress => network(asker.address).hash(&mut hasher),
            RateKey::Header(name) => {
                asker.headers.get(name).map(HeaderValue::as_bytes).hash(&mut hasher);
            }
            RateKey::ClientCertificate => match asker.identity {
                Some(identity) => (1_u8, &*identity.fingerprint).hash(&mut hasher),
                None => (0_u8, network(asker.address)).hash(&mut hasher),
            },
            RateKey::Route => {}
        }
        hasher.finish()
    }
}

/// What one client is, as an address.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> IPV6_DEVICE_BITS << IPV6_DEVICE_BITS,
    }
}

const fn kind(key: &RateKey) -> &'static str {
    match key {
        RateKey::ClientAddress => "address",
        RateKey::Header(_) => "header",
        RateKey::ClientCertificate => "certificate",
        RateKey::Route => "route",
    }
}

impl<C: Clock> Limit<C> {
    fn new(name: String, spec: &RateLimit, clock: C) -> Self {
        let burst = NonZeroU32::new(spec.burst).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::with_period(spec.refill()).expect("a refill is never zero").allow_burst(burst);
        let bucket = RateLimiter::new(quota, Table::new(spec.keys_max, spec.refill()), clock);
        Self { name, key: spec.key.clone(), quota, bucket }
    }

    /// `q` requests in any `w` seconds: the burst, and how long a whole one takes to come back.
    fn policy(&self) -> String {
        let window = seconds(self.quota.burst_size_replenished_in()).max(1);
        format!("\"{}\";q={};w={window}", self.name, self.quota.burst_size())
    }

    /// Takes a token, and writes what is left of them: `r` now, whole again after `t` seconds; of
    /// none, when the next one comes.
    fn take(&self, key: u64, left: &mut String) -> Result<(), Duration> {
        let separator = if left.is_empty() { "" } else { ", " };
        let (remaining, after, verdict) = match self.bucket.check_key(&key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = self.quota.burst_size().get().saturating_sub(remaining);
                let whole = self.quota.replenish_interval().saturating_mul(missing);
                (remaining, whole, Ok(()))
            }
            Err(until) => {
                let wait = until.wait_time_from(self.bucket.clock().now());
                (0, wait, Err(wait))
            }
        };
        // Writing into a string cannot fail.
        let _ = write!(left, "{separator}\"{}\";r={remaining};t={}", self.name, seconds(after));
        verdict
    }
}

/// The process's clock, as the buckets read it.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    born: Instant,
}

impl Ticks {
    /// Counts from now.
    pub fn new(now: Instant) -> Self {
        Self { born: now }
    }
}

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        clock::now().saturating_duration_since(self.born).into()
    }
}

/// Of its route, and of the rule in it.
type RuleName = (Arc<str>, Arc<str>);

/// The limits of all rules in effect, so that a reload keeps the buckets of a rule whose limits
/// stay what they are.
#[derive(Debug)]
pub struct Book {
    ticks: Ticks,
    rules: Mutex<Vec<(RuleName, Weak<RuleLimits>)>>,
}

impl Book {
    /// An empty one.
    pub fn new(now: Instant) -> Self {
        Self { ticks: Ticks::new(now), rules: Mutex::new(Vec::new()) }
    }

    /// The limits of a rule: those in use, if they are the same. `None` = it has none.
    pub fn of(
        &self,
        route: &Arc<str>,
        rule: &Arc<str>,
        specs: &[RateLimit],
    ) -> Option<Arc<RuleLimits>> {
        if specs.is_empty() {
            return None;
        }
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded by the configs that are still in use.
        rules.retain(|(_, limits)| limits.strong_count() > 0);
        let known = rules
            .iter()
            .filter(|((known, name), _)| known == route && name == rule)
            .find_map(|(_, limits)| limits.upgrade().filter(|limits| limits.specs == specs));
        let limits = known.unwrap_or_else(|| {
            let limits = Arc::new(RuleLimits::new(specs, &self.ticks));
            rules.push(((Arc::clone(route), Arc::clone(rule)), Arc::downgrade(&limits)));
            limits
        });
        Some(limits)
    }
}

#[cfg(test)]
mod tests;

//! Limits on how often something may happen, as policy says them.
//!
//! Plain values; who counts and where is the shell's. A limit is a token bucket per key: `burst`
//! tokens at most, refilled at `requests` per `interval`; a request takes one or is answered 429.

use std::time::Duration;

use http::HeaderName;

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// The client's address (the one in the PROXY header where one is trusted).
    ClientAddress,
    /// The value of this header; requests without it share one bucket.
    Header(HeaderName),
    /// The client's certificate; clients without one are counted by their address.
    ClientCertificate,
    /// Nothing: all requests of the rule together.
    Route,
}

/// How often requests of one rule may come, for each key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Requests per `interval`, above zero.
    pub requests: u32,
    /// Above zero.
    pub interval: Duration,
    /// Requests that may come at once, above zero.
    pub burst: u32,
    /// What is counted.
    pub key: RateKey,
    /// Keys that are remembered; beyond, the ones least recently seen make room.
    pub keys_max: u32,
}

impl RateLimit {
    /// Time in which one token comes back: never zero.
    pub fn refill(&self) -> Duration {
        (self.interval / self.requests.max(1)).max(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_evenly_and_never_at_once() {
        let limit = |requests, interval| RateLimit {
            requests,
            interval,
            burst: 1,
            key: RateKey::Route,
            keys_max: 1,
        };
        assert_eq!(limit(10, Duration::from_secs(1)).refill(), Duration::from_millis(100));
        assert_eq!(limit(u32::MAX, Duration::from_secs(1)).refill(), Duration::from_nanos(1));
    }
}

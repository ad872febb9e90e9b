//! One judgement per WAN line, shared by all endpoints behind it.
//!
//! In: which endpoints have gone silent and since when, and when a byte last came across the
//! line, from anybody. Out: whether the line is down. It is when two endpoints (or the only one)
//! are silent and not one byte came since: then no endpoint is to blame, and all of them are
//! usable at once when the line is back. An answer of any kind, also a refusal, is a byte.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::load::EndpointId;

/// Silent endpoints that are enough for a judgement, where there are as many.
const WITNESSES: usize = 2;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    /// Since when endpoints have been asked in vain.
    silent: BTreeMap<EndpointId, Instant>,
    heard_at: Option<Instant>,
    down_since: Option<Instant>,
}

impl Outage {
    /// Since when the line has been down, if it is.
    pub const fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    /// Whether an endpoint is silent, so that another one would make a judgement.
    pub fn has_witness(&self) -> bool {
        !self.silent.is_empty()
    }

    /// An endpoint was asked `since` then and has not answered; `endpoints` is how many there are
    /// behind the line. Returns whether the line is judged down just now.
    pub fn handle_silence(
        &mut self,
        endpoint: EndpointId,
        since: Instant,
        endpoints: usize,
        now: Instant,
    ) -> bool {
        self.silent.insert(endpoint, since);
        let heard_at = self.heard_at;
        self.silent.retain(|_, since| heard_at.is_none_or(|heard| heard < *since));
        let is_down = self.silent.len() >= WITNESSES.min(endpoints.max(1));
        let news = is_down && self.down_since.is_none();
        if news {
            self.down_since = Some(now);
        }
        news
    }

    /// A byte came across the line then. Returns whether the line is back just now.
    pub fn handle_byte(&mut self, at: Instant) -> bool {
        if self.heard_at.is_some_and(|heard| heard >= at) {
            return false;
        }
        self.heard_at = Some(at);
        self.silent.retain(|_, since| at < *since);
        // What came just before the judgement is no return.
        self.down_since.take_if(|down| *down < at).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::tests::draw::epoch;

    const A: EndpointId = EndpointId(1);
    const B: EndpointId = EndpointId(2);

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn two_silent_endpoints_and_no_byte_are_a_dead_line() {
        let (mut line, zero) = (Outage::default(), epoch());
        assert!(!line.handle_byte(zero));
        assert!(!line.handle_silence(A, zero + ms(10), 5, zero + ms(200)));
        assert!(line.handle_silence(B, zero + ms(20), 5, zero + ms(220)));
        assert!(!line.handle_silence(A, zero + ms(10), 5, zero + ms(300)), "known already");
        assert_eq!(line.down_since(), Some(zero + ms(220)));
        assert!(line.handle_byte(zero + ms(900)));
        assert_eq!(line.down_since(), None);
    }

    #[test]
    fn whoever_else_is_heard_proves_the_line() {
        let (mut line, zero) = (Outage::default(), epoch());
        line.handle_byte(zero + ms(100));
        assert!(!line.handle_silence(A, zero + ms(10), 2, zero + ms(200)));
        assert!(!line.handle_silence(B, zero + ms(20), 2, zero + ms(220)), "a pull goes on");
        assert!(!line.handle_silence(A, zero + ms(150), 2, zero + ms(300)));
        line.handle_byte(zero + ms(310));
        assert!(!line.handle_silence(B, zero + ms(160), 2, zero + ms(320)));
        assert_eq!(line.down_since(), None);
    }

    #[test]
    fn the_only_endpoint_is_witness_enough() {
        let (mut line, zero) = (Outage::default(), epoch());
        assert!(line.handle_silence(A, zero + ms(10), 1, zero + ms(200)));
        assert!(!line.handle_byte(zero + ms(200)), "that was before");
        assert!(line.handle_byte(zero + ms(201)));
    }
}

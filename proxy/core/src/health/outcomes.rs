//! What real calls say of an endpoint: failures in a row, and their part of a sliding window.
//!
//! In: failures as they happen, and a counter of all good answers, which the path of a request
//! can afford. Out: why the endpoint is to be taken out, if it is. Calls that got no answer are
//! counted apart from answers with an error: the one says that the way or the process is broken,
//! the other that the process says no.

use std::time::{Duration, Instant};

use super::{Cause, Outcome, PassiveSpec};

/// Parts of the window; the oldest is forgotten as a whole.
const PARTS: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    good: u32,
    failed: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Outcomes {
    /// Answers 502, 503 and 504 in a row; all of 500 and above; calls without an answer.
    gateway_errors: u32,
    server_errors: u32,
    lost: u32,
    parts: [Part; PARTS],
    /// Where in `parts` calls are counted now, and since when.
    part: usize,
    part_since: Instant,
    good_seen: u32,
}

impl Outcomes {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            gateway_errors: 0,
            server_errors: 0,
            lost: 0,
            parts: [Part::default(); PARTS],
            part: 0,
            part_since: now,
            good_seen: 0,
        }
    }

    /// So many good answers there were ever. To be told now and then, so that each is counted
    /// when it came, and forgotten with its part of the window.
    pub(super) fn handle_good(&mut self, good_ever: u32, window: Duration, now: Instant) {
        self.slide(window, now);
        let good = good_ever.wrapping_sub(self.good_seen);
        self.good_seen = good_ever;
        if good > 0 {
            let part = &mut self.parts[self.part];
            part.good = part.good.saturating_add(good);
            (self.gateway_errors, self.server_errors, self.lost) = (0, 0, 0);
        }
    }

    /// A call has failed; whether that is enough.
    pub(super) fn handle_failure(
        &mut self,
        outcome: Outcome,
        good_ever: u32,
        spec: &PassiveSpec,
        now: Instant,
    ) -> Option<Cause> {
        self.handle_good(good_ever, spec.window, now);
        let part = &mut self.parts[self.part];
        part.failed = part.failed.saturating_add(1);
        match outcome {
            Outcome::Good => {}
            Outcome::Lost(_) => self.lost += 1,
            Outcome::ServerError => {
                (self.gateway_errors, self.lost) = (0, 0);
                self.server_errors += 1;
            }
            Outcome::GatewayError => {
                self.lost = 0;
                self.gateway_errors += 1;
                self.server_errors += 1;
            }
        }
        if let Outcome::Lost(loss) = outcome
            && self.lost >= spec.local_failures
        {
            return Some(Cause::Lost(loss));
        }
        if self.gateway_errors >= spec.gateway_errors {
            return Some(Cause::GatewayErrors);
        }
        if self.server_errors >= spec.server_errors {
            return Some(Cause::ServerErrors);
        }
        self.is_ratio_reached(spec).then_some(Cause::Ratio)
    }

    /// It is out: what led to it shall not count again.
    pub(super) fn forget(&mut self) {
        (self.gateway_errors, self.server_errors, self.lost) = (0, 0, 0);
        self.parts = [Part::default(); PARTS];
    }

    fn is_ratio_reached(&self, spec: &PassiveSpec) -> bool {
        let (mut calls, mut failed) = (0_u64, 0_u64);
        for part in self.parts {
            calls += u64::from(part.good) + u64::from(part.failed);
            failed += u64::from(part.failed);
        }
        calls >= spec.volume.into() && failed * 100 >= calls * u64::from(spec.ratio.value())
    }

    fn slide(&mut self, window: Duration, now: Instant) {
        let each = (window / 10).max(Duration::from_millis(1));
        let mut steps = 0;
        while now.saturating_duration_since(self.part_since) >= each && steps < PARTS {
            self.part = (self.part + 1) % PARTS;
            self.parts[self.part] = Part::default();
            self.part_since += each;
            steps += 1;
        }
        if steps == PARTS {
            self.part_since = now;
        }
    }
}

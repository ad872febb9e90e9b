//! The acknowledgement tax: what payload in one direction costs in the other.
//!
//! Acknowledgements are sent by kernels and ask nobody, so they are charged as payload moves. How
//! many there are depends on the window: with small windows and paced reads the kernel sends an
//! update for nearly every segment. So the number is learned from the connection's own counters.

use tillgate_core::units::MSS;

/// Before anything was learned: one for two full segments (RFC 1122, 4.2.3.2).
const BYTES_PER_ACK_START: u64 = 2 * MSS;
/// Bounds of what is believed.
const BYTES_PER_ACK_MIN: u64 = MSS / 2;
const BYTES_PER_ACK_MAX: u64 = 64 * MSS;
/// Payload that a sample must cover to count.
const SAMPLE_BYTES: u64 = 8 * MSS;

/// One direction of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct AckTax {
    bytes_per_ack: u64,
    /// Payload not charged yet.
    untaxed: u64,
    /// Payload since the last sample, and the counter at that time.
    sampled: u64,
    counter: u32,
}

impl Default for AckTax {
    fn default() -> Self {
        Self { bytes_per_ack: BYTES_PER_ACK_START, untaxed: 0, sampled: 0, counter: 0 }
    }
}

impl AckTax {
    /// How many acknowledgements to charge for now that `bytes` have moved.
    pub(super) fn owed_for(&mut self, bytes: u64) -> u64 {
        self.sampled += bytes;
        self.untaxed += bytes;
        let owed = self.untaxed / self.bytes_per_ack;
        self.untaxed %= self.bytes_per_ack;
        owed
    }

    /// Takes in the connection's counter of segments without payload.
    pub(super) fn learn(&mut self, counter: u32) {
        if self.sampled < SAMPLE_BYTES {
            return;
        }
        let acks = u64::from(counter.wrapping_sub(self.counter));
        let seen = self.sampled / acks.max(1);
        let seen = seen.clamp(BYTES_PER_ACK_MIN, BYTES_PER_ACK_MAX);
        self.bytes_per_ack = (3 * self.bytes_per_ack + seen) / 4;
        self.sampled = 0;
        self.counter = counter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_one_for_two_segments_until_it_knows_better() {
        let mut tax = AckTax::default();
        assert_eq!(tax.owed_for(MSS), 0);
        assert_eq!(tax.owed_for(MSS), 1);
    }

    #[test]
    fn follows_the_kernel_that_acknowledges_every_segment() {
        let mut tax = AckTax::default();
        let mut counter = u32::MAX - 5;
        tax.counter = counter;
        for _ in 0..40 {
            tax.owed_for(10 * MSS);
            counter = counter.wrapping_add(10);
            tax.learn(counter);
        }
        assert!(tax.bytes_per_ack.abs_diff(MSS) < MSS / 10, "{tax:?}");
    }

    #[test]
    fn a_silent_peer_does_not_make_payload_free() {
        let mut tax = AckTax::default();
        for _ in 0..100 {
            tax.owed_for(100 * MSS);
            tax.learn(0);
        }
        assert!(tax.owed_for(64 * MSS) >= 1);
    }
}

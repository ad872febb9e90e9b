//! One direction of an emulated WAN line, as a value that is given the time.
//!
//! A packet waits in a drop-tail buffer, is serialised at the line's rate, and arrives one
//! propagation delay later. In go packets with their IP length and the moment of arrival; out
//! come departures (with the time each packet queued, the ground truth of every run) and the
//! packets that are due. It reads no clock and no random number: both are arguments.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::sys::{NANOS_PER_SEC, Nanos};

/// What one direction of the line does to packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Bits of IP packets a second.
    pub rate_bps: u64,
    /// One-way propagation delay.
    pub delay_us: u64,
    /// Size of the drop-tail buffer, as time at the current rate.
    pub buffer_ms: u64,
    /// Random loss, packets in a million.
    pub loss_ppm: u64,
}

/// What became of a packet that was offered to the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Queued,
    /// Lost at random.
    Lost,
    /// The buffer was full.
    Full,
}

/// A packet has left the buffer: it is fully on the wire at `at`, after `queued` of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    pub at: Nanos,
    pub queued: Nanos,
    pub bytes: u64,
}

struct Waiting<F> {
    frame: F,
    bytes: u64,
    arrived: Nanos,
}

/// The buffer, the transmitter and the wire of one direction.
pub struct Pipe<F> {
    shape: Shape,
    queue: VecDeque<Waiting<F>>,
    queued_bytes: u64,
    /// When the head of the queue will have been transmitted; only meaningful with a head.
    head_done: Nanos,
    flying: VecDeque<(Nanos, F)>,
}

impl<F> Pipe<F> {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            queue: VecDeque::new(),
            queued_bytes: 0,
            head_done: 0,
            flying: VecDeque::new(),
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Offers a packet of `bytes` IP bytes. `draw` is a random number that decides about loss.
    /// Call [`Pipe::advance`] with the same `now` first.
    pub fn offer(&mut self, frame: F, bytes: u64, draw: u64, now: Nanos) -> Offer {
        if draw % 1_000_000 < self.shape.loss_ppm {
            return Offer::Lost;
        }
        // An empty buffer always takes one packet, or a tiny buffer would pass nothing at all.
        if !self.queue.is_empty() && self.queued_bytes + bytes > self.buffer_bytes() {
            return Offer::Full;
        }
        if self.queue.is_empty() {
            self.head_done = now + self.transmission(bytes);
        }
        self.queued_bytes += bytes;
        self.queue.push_back(Waiting { frame, bytes, arrived: now });
        Offer::Queued
    }

    /// Puts everything on the wire that was transmitted by `now`; tells each departure.
    pub fn advance(&mut self, now: Nanos, mut departed: impl FnMut(Departure)) {
        while self.head_done <= now {
            let Some(head) = self.queue.pop_front() else { return };
            let at = self.head_done;
            self.queued_bytes -= head.bytes;
            let started = at.saturating_sub(self.transmission(head.bytes));
            departed(Departure {
                at,
                queued: started.saturating_sub(head.arrived),
                bytes: head.bytes,
            });
            // A delay that shrinks does not let packets overtake each other.
            let earliest = self.flying.back().map_or(0, |(due, _)| *due);
            let due = (at + self.shape.delay_us * 1_000).max(earliest);
            self.flying.push_back((due, head.frame));
            if let Some(next) = self.queue.front() {
                self.head_done = at + self.transmission(next.bytes);
            }
        }
    }

    /// The next packet that has arrived at the far end.
    pub fn poll_due(&mut self, now: Nanos) -> Option<F> {
        match self.flying.front() {
            Some((due, _)) if *due <= now => self.flying.pop_front().map(|(_, frame)| frame),
            _ => None,
        }
    }

    /// When to call [`Pipe::advance`] and [`Pipe::poll_due`] again; `None` = the line is empty.
    /// Departures are computed, not awaited, so only arrivals at the far end need a wake-up.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let flying = self.flying.front().map(|(due, _)| *due);
        let head = self.queue.front().map(|_| self.head_done + self.shape.delay_us * 1_000);
        flying.or(head)
    }

    /// Changes the line while packets are on it. The rest of a half-sent packet goes at the new
    /// rate. Call [`Pipe::advance`] with the same `now` first.
    pub fn reshape(&mut self, shape: Shape, now: Nanos) {
        if !self.queue.is_empty() {
            let rest = u128::from(self.head_done.saturating_sub(now));
            let scaled = rest * u128::from(self.shape.rate_bps) / u128::from(shape.rate_bps.max(1));
            self.head_done = now + u64::try_from(scaled).unwrap_or(Nanos::MAX / 2);
        }
        self.shape = shape;
    }

    fn buffer_bytes(&self) -> u64 {
        self.shape.rate_bps / 8 * self.shape.buffer_ms / 1_000
    }

    fn transmission(&self, bytes: u64) -> Nanos {
        bytes * 8 * NANOS_PER_SEC / self.shape.rate_bps.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::NANOS_PER_MS;

    const LUCKY: u64 = 999_999;

    fn shape() -> Shape {
        // 1,500 bytes take 12 ms; the buffer holds 31,250 bytes.
        Shape { rate_bps: 1_000_000, delay_us: 20_000, buffer_ms: 250, loss_ppm: 0 }
    }

    fn departures<F>(pipe: &mut Pipe<F>, now: Nanos) -> Vec<Departure> {
        let mut seen = Vec::new();
        pipe.advance(now, |one| seen.push(one));
        seen
    }

    #[test]
    fn one_packet_takes_its_transmission_and_the_delay() {
        let mut pipe = Pipe::new(shape());
        assert_eq!(pipe.offer("a", 1_500, LUCKY, 0), Offer::Queued);
        assert_eq!(pipe.poll_timeout(), Some(32 * NANOS_PER_MS));
        let seen = departures(&mut pipe, 32 * NANOS_PER_MS);
        assert_eq!(seen, [Departure { at: 12 * NANOS_PER_MS, queued: 0, bytes: 1_500 }]);
        assert_eq!(pipe.poll_due(32 * NANOS_PER_MS - 1), None);
        assert_eq!(pipe.poll_due(32 * NANOS_PER_MS), Some("a"));
        assert_eq!(pipe.poll_timeout(), None);
    }

    #[test]
    fn the_second_packet_waits_for_the_first() {
        let mut pipe = Pipe::new(shape());
        pipe.offer(1, 1_500, LUCKY, 0);
        pipe.offer(2, 750, LUCKY, 2 * NANOS_PER_MS);
        let seen = departures(&mut pipe, NANOS_PER_SEC);
        assert_eq!(seen[1].queued, 10 * NANOS_PER_MS);
        assert_eq!(seen[1].at, 18 * NANOS_PER_MS);
        assert_eq!(pipe.poll_due(NANOS_PER_SEC), Some(1));
        assert_eq!(pipe.poll_due(NANOS_PER_SEC), Some(2));
    }

    #[test]
    fn a_full_buffer_drops_the_newest_and_passes_the_line_rate() {
        let mut pipe = Pipe::new(shape());
        let mut full = 0;
        for frame in 0..100 {
            if pipe.offer(frame, 1_500, LUCKY, 0) == Offer::Full {
                full += 1;
            }
        }
        // 31,250 bytes of buffer hold twenty packets.
        assert_eq!(full, 80);
        let seen = departures(&mut pipe, NANOS_PER_SEC);
        assert_eq!(seen.len(), 20);
        assert_eq!(seen[19].queued, 19 * 12 * NANOS_PER_MS);
    }

    #[test]
    fn loss_follows_the_draw() {
        let mut pipe = Pipe::new(Shape { loss_ppm: 10_000, ..shape() });
        assert_eq!(pipe.offer((), 100, 9_999, 0), Offer::Lost);
        assert_eq!(pipe.offer((), 100, 10_000, 0), Offer::Queued);
    }

    #[test]
    fn a_new_rate_applies_to_the_rest_of_the_packet_on_the_transmitter() {
        let mut pipe = Pipe::new(shape());
        pipe.offer((), 1_500, LUCKY, 0);
        let half = 6 * NANOS_PER_MS;
        assert!(departures(&mut pipe, half).is_empty());
        pipe.reshape(Shape { rate_bps: 2_000_000, ..shape() }, half);
        assert_eq!(departures(&mut pipe, NANOS_PER_SEC)[0].at, 9 * NANOS_PER_MS);
    }

    #[test]
    fn a_shorter_delay_keeps_the_order() {
        let mut pipe = Pipe::new(shape());
        pipe.offer(1, 1_500, LUCKY, 0);
        departures(&mut pipe, 12 * NANOS_PER_MS);
        pipe.reshape(Shape { delay_us: 0, ..shape() }, 12 * NANOS_PER_MS);
        pipe.offer(2, 125, LUCKY, 12 * NANOS_PER_MS);
        departures(&mut pipe, 13 * NANOS_PER_MS);
        assert_eq!(pipe.poll_due(31 * NANOS_PER_MS), None);
        assert_eq!(pipe.poll_due(32 * NANOS_PER_MS), Some(1));
        assert_eq!(pipe.poll_due(32 * NANOS_PER_MS), Some(2));
    }
}

//! What really happened on the line: the queue delay of every packet, and a log by 100 ms.
//!
//! Written by the emulator, read by the experiment. Bounded: about ten minutes of a busy line;
//! then the oldest samples go first.

use std::collections::VecDeque;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::emulator::Direction;
use crate::line::Departure;
use crate::stats::{Quantiles, real};
use crate::sys::{NANOS_PER_MS, Nanos};

/// Ten minutes at some 5,000 packets a second.
const SAMPLES_MAX: usize = 3_000_000;
/// Ten minutes of intervals.
const TICKS_MAX: usize = 6_000;
const TICK: Nanos = 100 * NANOS_PER_MS;

/// Queue delay of one direction over a span of time, in milliseconds, and what it carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueReport {
    pub queue_ms: Quantiles,
    pub bytes: u64,
    pub drops: u64,
}

/// Both directions.
#[derive(Debug, Default)]
pub struct Truth {
    down: Record,
    up: Record,
}

/// One direction.
#[derive(Debug)]
pub struct Record {
    departures: VecDeque<Departure>,
    drops: VecDeque<Nanos>,
    ticks: VecDeque<Tick>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tick {
    index: u64,
    packets: u64,
    bytes: u64,
    drops: u64,
    queued_sum: Nanos,
    queued_max: Nanos,
}

impl Truth {
    pub fn direction(&mut self, direction: Direction) -> &mut Record {
        match direction {
            Direction::Down => &mut self.down,
            Direction::Up => &mut self.up,
        }
    }

    pub fn report(&self, from: Nanos, to: Nanos) -> [QueueReport; 2] {
        [self.down.report(from, to), self.up.report(from, to)]
    }

    /// One line for each 100 ms and direction: when, the queue in ms, bytes, drops.
    pub fn log(&self) -> String {
        let mut text = String::from("direction at_ms queue_max_ms queue_mean_ms bytes drops\n");
        for (name, record) in [("down", &self.down), ("up", &self.up)] {
            for tick in &record.ticks {
                let mean = real(tick.queued_sum) / real(tick.packets.max(1)) / 1e6;
                let max = real(tick.queued_max) / 1e6;
                let at = tick.index * (TICK / NANOS_PER_MS);
                let (bytes, drops) = (tick.bytes, tick.drops);
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{name} {at} {max:.2} {mean:.2} {bytes} {drops}");
            }
        }
        text
    }
}

impl Default for Record {
    fn default() -> Self {
        // Room for a minute and more: growing would copy, and the line would stand still meanwhile.
        Self {
            departures: VecDeque::with_capacity(400_000),
            drops: VecDeque::with_capacity(50_000),
            ticks: VecDeque::with_capacity(TICKS_MAX),
        }
    }
}

impl Record {
    pub fn departed(&mut self, departure: Departure) {
        let tick = self.tick(departure.at);
        tick.packets += 1;
        tick.bytes += departure.bytes;
        tick.queued_sum += departure.queued;
        tick.queued_max = tick.queued_max.max(departure.queued);
        if self.departures.len() == SAMPLES_MAX {
            self.departures.pop_front();
        }
        self.departures.push_back(departure);
    }

    pub fn dropped(&mut self, now: Nanos) {
        self.tick(now).drops += 1;
        if self.drops.len() == SAMPLES_MAX {
            self.drops.pop_front();
        }
        self.drops.push_back(now);
    }

    fn report(&self, from: Nanos, to: Nanos) -> QueueReport {
        let span = from..to;
        let inside = || self.departures.iter().filter(|one| span.contains(&one.at));
        QueueReport {
            queue_ms: Quantiles::of_micros(inside().map(|one| one.queued / 1_000)),
            bytes: inside().map(|one| one.bytes).sum(),
            drops: self.drops.iter().filter(|at| span.contains(at)).count() as u64,
        }
    }

    fn tick(&mut self, at: Nanos) -> &mut Tick {
        let index = at / TICK;
        if self.ticks.back().is_none_or(|last| last.index < index) {
            if self.ticks.len() == TICKS_MAX {
                self.ticks.pop_front();
            }
            self.ticks.push_back(Tick { index, ..Tick::default() });
        }
        self.ticks.back_mut().expect("one was pushed if there was none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_only_its_span() {
        let mut truth = Truth::default();
        let record = truth.direction(Direction::Up);
        for ms in 0..10 {
            let at = ms * NANOS_PER_MS;
            record.departed(Departure { at, queued: ms * NANOS_PER_MS, bytes: 100 });
        }
        record.dropped(5 * NANOS_PER_MS);
        let [down, up] = truth.report(5 * NANOS_PER_MS, 8 * NANOS_PER_MS);
        assert_eq!(down, QueueReport::default());
        assert_eq!((up.bytes, up.drops, up.queue_ms.count), (300, 1, 3));
        assert!((up.queue_ms.max - 7.0).abs() < 0.1, "{up:?}");
        assert!(truth.log().contains("up 0 9.00 4.50 1000 1"), "{}", truth.log());
    }
}

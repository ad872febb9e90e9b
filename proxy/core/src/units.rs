//! Units as types: rates in bits per second, percentages of a line.
//!
//! A rate is what a policy author writes (`20Mbit/s`) and what the scheduler divides by; bytes
//! and bits never meet without one of the conversions here. Arithmetic saturates instead of
//! wrapping: a line of 1 bit/s and one of 2^64 bit/s are both merely odd.

use std::fmt;
use std::time::Duration;

/// Payload bytes of a full TCP segment on a 1500-byte MTU with timestamps (RFC 7323):
/// 1500 - 20 (IPv4) - 20 (TCP) - 12 (timestamps).
pub const MSS: u64 = 1448;

/// IP and TCP header bytes charged for each started segment (IPv4 20 + TCP 20 + timestamps 12).
pub const SEGMENT_OVERHEAD: u64 = 52;

/// Below this many bytes, bits times nanoseconds fit into 64 bits.
const SMALL_BYTES: u64 = 1 << 31;

/// A data rate in bits per second (decimal, SI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BitRate(u64);

impl BitRate {
    /// A rate of `bits` per second. Zero means "no rate": what takes forever.
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// A rate of `mbit` million bits per second.
    pub const fn from_mbit(mbit: u64) -> Self {
        Self(mbit * 1_000_000)
    }

    /// Bits per second.
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }

    /// Whole bytes per second, rounded down.
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }

    /// `percent` of this rate, rounded down.
    pub fn percent(self, percent: Percent) -> Self {
        self.scale(u64::from(percent.0), 100)
    }

    /// This rate times `numerator / denominator`, rounded down, saturating.
    /// A zero denominator gives the rate itself.
    pub fn scale(self, numerator: u64, denominator: u64) -> Self {
        if denominator == 0 {
            return self;
        }
        let scaled = u128::from(self.0) * u128::from(numerator) / u128::from(denominator);
        Self(u64::try_from(scaled).unwrap_or(u64::MAX))
    }

    /// The time `wire_bytes` take at this rate, in nanoseconds, rounded up and saturating.
    /// A zero rate takes `u64::MAX` nanoseconds.
    pub fn nanos_for(self, wire_bytes: u64) -> u64 {
        if self.0 == 0 {
            return u64::MAX;
        }
        if wire_bytes < SMALL_BYTES {
            // What a grant needs; a division of 128 bits would cost more than the grant.
            return (wire_bytes * 8 * 1_000_000_000).div_ceil(self.0);
        }
        let bits = u128::from(wire_bytes) * 8 * 1_000_000_000;
        u64::try_from(bits.div_ceil(u128::from(self.0))).unwrap_or(u64::MAX)
    }

    /// The time `wire_bytes` take at this rate.
    pub fn time_for(self, wire_bytes: u64) -> Duration {
        Duration::from_nanos(self.nanos_for(wire_bytes))
    }

    /// The bytes that pass in `time`, rounded down, saturating.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * time.as_nanos() / 8 / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for BitRate {
    /// The policy language's own spelling, with the largest unit that stays exact to three
    /// decimals: `20Mbit/s`, `1.5Mbit/s`, `512kbit/s`, `1bit/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")];
        for (size, name) in units {
            if self.0 >= size && (self.0 * 1000).is_multiple_of(size) {
                let thousandths = (self.0 / (size / 1000)) % 1000;
                let whole = self.0 / size;
                if thousandths == 0 {
                    return write!(f, "{whole}{name}");
                }
                let fraction = format!("{thousandths:03}");
                return write!(f, "{whole}.{}{name}", fraction.trim_end_matches('0'));
            }
        }
        write!(f, "{}bit/s", self.0)
    }
}

/// A whole percentage, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(u8);

impl Percent {
    /// One hundred percent.
    pub const FULL: Self = Self(100);

    /// `value` percent; `None` above 100.
    pub const fn new(value: u8) -> Option<Self> {
        if value <= 100 { Some(Self(value)) } else { None }
    }

    /// The number before the percent sign.
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// The two directions of a line, seen from the store: `Up` leaves it, `Down` enters it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the store to the cloud.
    Up,
    /// From the cloud to the store.
    Down,
}

impl Direction {
    /// Both directions, `Up` first.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// The label in metrics and status: `up` or `down`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// One value for each direction of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PerDirection<T> {
    /// From the store to the cloud.
    pub up: T,
    /// From the cloud to the store.
    pub down: T,
}

impl<T> PerDirection<T> {
    /// The value of `direction`.
    pub const fn get(&self, direction: Direction) -> &T {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

impl<T: Copy> PerDirection<T> {
    /// The same value in both directions.
    pub const fn both(value: T) -> Self {
        Self { up: value, down: value }
    }
}

/// Bytes on the line for `payload` bytes of a stream: the payload plus its part of the headers of
/// full segments, at least those of one, each with `link_overhead` bytes of framing (0 where the
/// capacity is counted in IP packets). Proportional, because where one write or read ends says
/// nothing about where the segments of a busy stream end.
pub const fn wire_bytes(payload: u64, link_overhead: u64) -> u64 {
    if payload == 0 {
        return 0;
    }
    let header = SEGMENT_OVERHEAD + link_overhead;
    let headers = (payload.saturating_mul(header)).div_ceil(MSS);
    payload.saturating_add(if headers > header { headers } else { header })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_print_as_a_policy_writes_them() {
        let shown = |bits| BitRate::from_bits_per_second(bits).to_string();
        assert_eq!(shown(20_000_000), "20Mbit/s");
        assert_eq!(shown(1_500_000), "1.5Mbit/s");
        assert_eq!(shown(512_000), "512kbit/s");
        assert_eq!(shown(2_000_000_000), "2Gbit/s");
        assert_eq!(shown(1_234_567), "1234.567kbit/s");
        assert_eq!(shown(999), "999bit/s");
        assert_eq!(shown(0), "0bit/s");
    }

    #[test]
    fn one_full_segment_takes_six_milliseconds_at_two_megabit() {
        let time = BitRate::from_mbit(2).time_for(wire_bytes(MSS, 0));
        assert_eq!(time, Duration::from_millis(6));
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(BitRate::from_bits_per_second(0).nanos_for(1), u64::MAX);
        assert_eq!(BitRate::from_bits_per_second(u64::MAX).scale(3, 2).bits_per_second(), u64::MAX);
        assert_eq!(BitRate::from_bits_per_second(1).nanos_for(u64::MAX), u64::MAX);
        assert_eq!(Percent::new(101), None);
    }
}

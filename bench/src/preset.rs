//! The lines that the lab knows by name, and how a line is written on the command line.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::emulator::Line;
use crate::line::Shape;
use crate::stats::{real, whole};

/// A line as people write it: `20/5` is 20 Mbit/s down and 5 up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LineSpec {
    pub down_mbit: f64,
    pub up_mbit: f64,
    pub rtt_ms: f64,
    pub buffer_ms: u64,
    pub loss_ppm: u64,
}

impl LineSpec {
    /// The three lines of every comparison.
    pub const STANDARD: [&'static str; 3] = ["2/1", "20/5", "50/10"];

    /// With the round trip and the buffer of the comparisons.
    pub const fn of_mbit(down_mbit: f64, up_mbit: f64) -> Self {
        Self { down_mbit, up_mbit, rtt_ms: 40.0, buffer_ms: 250, loss_ppm: 0 }
    }

    pub fn line(self) -> Line {
        let shape = |mbit: f64| Shape {
            rate_bps: whole(mbit * 1e6),
            delay_us: whole(self.rtt_ms * 500.0),
            buffer_ms: self.buffer_ms,
            loss_ppm: self.loss_ppm,
        };
        Line { down: shape(self.down_mbit), up: shape(self.up_mbit) }
    }

    /// So many body bytes over so much time, as a share of the line's downlink or uplink.
    pub fn share(mbit: f64, bytes: u64, seconds: f64) -> f64 {
        real(bytes) * 8.0 / seconds / (mbit * 1e6)
    }
}

impl FromStr for LineSpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((down, up)) = text.split_once('/') else {
            bail!("{text:?} is not DOWN/UP in Mbit/s; try 20/5");
        };
        let number = |part: &str| -> Result<f64> {
            let mbit: f64 = part.parse().with_context(|| format!("{part:?} is not Mbit/s"))?;
            ensure!((0.05..=1_000.0).contains(&mbit), "{mbit} is not in 0.05 to 1000 Mbit/s");
            Ok(mbit)
        };
        Ok(Self::of_mbit(number(down)?, number(up)?))
    }
}

impl std::fmt::Display for LineSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}/{}", self.down_mbit, self.up_mbit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_and_prints() {
        let line: LineSpec = "2.5/1".parse().unwrap();
        assert_eq!(line.line().down.rate_bps, 2_500_000);
        assert_eq!(line.line().up.delay_us, 20_000);
        assert_eq!(line.to_string(), "2.5/1");
        for bad in ["20", "a/b", "0/1", "1/-1", "5000/1"] {
            assert!(bad.parse::<LineSpec>().is_err(), "{bad}");
        }
    }
}

//! Random draws and seeds: everything a simulated day needs of chance, repeatable.
//!
//! A failing seed is printed by whoever panics; replay it with `TILLGATE_SEED`, and keep it by a
//! line in `seeds.txt` (`suite seed what it found`).

use std::panic::AssertUnwindSafe;
use std::time::Instant;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        let width = u128::from(high - low) + 1;
        low + u64::try_from((u128::from(self.bits()) * width) >> 64).expect("below the width")
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.between(0, len as u64 - 1)).expect("an index")
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Nanoseconds to the next event of a Poisson process with this mean gap.
    pub(crate) fn exponential(&mut self, mean_ns: u64) -> u64 {
        #[expect(clippy::cast_precision_loss, reason = "a draw")]
        let uniform = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a draw"
        )]
        let gap = (-(1.0 - uniform).ln() * mean_ns as f64) as u64;
        gap
    }
}

/// The instant at which simulated time begins. Its value never matters.
#[expect(clippy::disallowed_methods, reason = "no other way to make an instant; used as zero")]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

/// Runs `property` for the kept seeds of `suite` and `ordinary` further ones.
pub(crate) fn each_seed(suite: &str, ordinary: u64, property: impl Fn(u64)) {
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text:?}")))
    };
    if let Some(seed) = number("TILLGATE_SEED") {
        return property(seed);
    }
    let kept = include_str!("seeds.txt").lines().filter_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        let seed = rest.split(' ').next()?;
        (name == suite).then(|| seed.parse().expect("seeds.txt: suite seed reason"))
    });
    let mut failed = Vec::new();
    for seed in kept.chain(0..number("TILLGATE_SEEDS").unwrap_or(ordinary)) {
        if std::panic::catch_unwind(AssertUnwindSafe(|| property(seed))).is_err() {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "{suite}: TILLGATE_SEED replays one of the failed seeds {failed:?}");
}

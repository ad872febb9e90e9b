//! What a row of probes says.
//!
//! In: good and bad probes. Out: whether the endpoint is healthy by them. Thresholds count probes
//! in a row; until the first probe it is.

/// See the module.
#[derive(Clone, Debug)]
pub struct Probes {
    healthy: bool,
    good: u32,
    bad: u32,
}

impl Default for Probes {
    fn default() -> Self {
        Self { healthy: true, good: 0, bad: 0 }
    }
}

impl Probes {
    /// Whether it is healthy by its probes.
    pub const fn are_good(&self) -> bool {
        self.healthy
    }

    pub(super) fn handle_good(&mut self, threshold: u32) {
        self.good = self.good.saturating_add(1);
        self.bad = 0;
        self.healthy |= self.good >= threshold;
    }

    pub(super) fn handle_bad(&mut self, threshold: u32) {
        self.bad = self.bad.saturating_add(1);
        self.good = 0;
        self.healthy &= self.bad < threshold;
    }

    /// It takes as many good ones as after a failure.
    pub(super) const fn distrust(&mut self) {
        (self.healthy, self.good) = (false, 0);
    }
}

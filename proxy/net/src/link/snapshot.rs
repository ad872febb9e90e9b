//! What a line can tell about itself: the shapes behind `/v1/status` and the link metrics.

use std::sync::Arc;
use std::time::Duration;

use tillgate_core::units::{BitRate, PerDirection};

/// Upper bounds of the wait histogram's buckets, in seconds: from a tenth of a quantum to what a
/// starved class sees.
pub const WAIT_BUCKETS: [f64; 14] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

/// A line at one moment.
#[derive(Clone, Debug)]
pub struct LinkSnapshot {
    /// Name in policy.
    pub name: Arc<str>,
    /// Each way.
    pub directions: PerDirection<DirectionSnapshot>,
    /// Least round-trip time seen, if any was measured.
    pub base_rtt: Option<Duration>,
    /// Open WAN connections.
    pub connections: usize,
    /// Connections that wait to be dialled, all classes.
    pub dials_waiting: usize,
    /// Sum of the receive windows of bulk flows, in bytes.
    pub window_sum_bytes: u64,
    /// Most that this sum may be, in bytes.
    pub window_sum_max_bytes: u64,
}

/// One direction of a line.
#[derive(Clone, Debug, Default)]
pub struct DirectionSnapshot {
    /// What the line carries, by policy.
    pub capacity: BitRate,
    /// What is handed out: capacity less headroom.
    pub shaped: BitRate,
    /// Per class, in the order of their slots; a removed class keeps its counters.
    pub classes: Vec<ClassSnapshot>,
}

/// A class on one direction of a line.
#[derive(Clone, Debug)]
pub struct ClassSnapshot {
    /// Name in policy.
    pub name: Arc<str>,
    /// Whether the running config has it.
    pub present: bool,
    /// Wire rate over about the last second.
    pub rate: BitRate,
    /// Counters since start.
    pub counters: ClassCounters,
}

/// Counters of one class on one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassCounters {
    /// Payload bytes moved.
    pub bytes: u64,
    /// Grants given.
    pub grants: u64,
    /// Open flows.
    pub flows: u64,
    /// Flows out of turn.
    pub parked: u64,
    /// Datagrams that were dropped because the line had no room for their class.
    pub dropped: u64,
    /// Time from asking for a grant to having it.
    pub waits: WaitHistogram,
}

/// Time waited, in [`WAIT_BUCKETS`].
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitHistogram {
    /// Observations per bucket, not cumulative; the last one is beyond every bound.
    pub buckets: [u64; WAIT_BUCKETS.len() + 1],
    /// Observations.
    pub count: u64,
    /// All of them together.
    pub sum: Duration,
}

impl WaitHistogram {
    /// Counts one wait.
    pub(crate) fn observe(&mut self, waited: Duration) {
        let seconds = waited.as_secs_f64();
        let bucket =
            WAIT_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(WAIT_BUCKETS.len());
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum += waited;
    }
}

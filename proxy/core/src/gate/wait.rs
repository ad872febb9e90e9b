//! When whoever is held may ask again.

use std::time::Duration;

use crate::civil::Timestamp;

/// A held client asks again by then, whatever the policy says: windows are added at any time.
pub const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Part by which waits differ, in percent: tills that were held together must not come together.
const JITTER_PERCENT: u32 = 20;

/// `usual`, longer or shorter by `draw`; who would come later than it `opens` comes when it does.
pub fn retry_after(
    usual: Duration,
    opens: Option<Timestamp>,
    now: Timestamp,
    draw: u32,
) -> Duration {
    let wait = spread(usual, draw).min(RETRY_MAX);
    match opens {
        Some(at) => wait.min(now.until(at).max(Duration::from_secs(1))),
        None => wait,
    }
}

/// `wait`, longer or shorter by chance.
pub fn spread(wait: Duration, draw: u32) -> Duration {
    let percent = 100 - JITTER_PERCENT + draw % (2 * JITTER_PERCENT + 1);
    wait * percent / 100
}

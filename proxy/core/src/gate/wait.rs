//! When whoever is held may ask again.

use std::time::Duration;

use super::Opening;
use crate::civil::Timestamp;

/// A held client asks again by then, whatever the policy says: windows are added at any time.
pub const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Part by which waits differ, in percent: tills that were held together must not come together.
const JITTER_PERCENT: u32 = 20;

/// How something held stands is looked at again by then: other documents may hold it by now.
const STANDING: Duration = Duration::from_secs(10);

/// `usual`, longer or shorter by `draw`; who would come later than it `opens` comes soon after it
/// does: never before, and not all in the same second.
pub fn retry_after(
    usual: Duration,
    opens: Option<Timestamp>,
    now: Timestamp,
    draw: u32,
) -> Duration {
    let wait = spread(usual, draw).min(RETRY_MAX);
    let Some(at) = opens else { return wait };
    let opening = now.until(at).max(Duration::from_secs(1));
    let later = draw / STEPS % STEPS;
    if wait < opening { wait } else { opening + opening * later / 100 }
}

/// `wait`, longer or shorter by chance.
pub fn spread(wait: Duration, draw: u32) -> Duration {
    wait * (100 - JITTER_PERCENT + draw % STEPS) / 100
}

/// Waits that differ by a percent.
const STEPS: u32 = 2 * JITTER_PERCENT + 1;

impl Opening<'_> {
    /// Until when this answer may be used again. What is open is cheap to ask about, and a window
    /// may end at any time; what is held takes a search, and stays so until it opens.
    pub fn stands_until(&self, now: Timestamp) -> Timestamp {
        if self.held_by.is_empty() {
            return now.plus(Duration::from_secs(1));
        }
        let later = now.plus(STANDING);
        self.next_open.map_or(later, |at| at.min(later))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn whoever_waits_for_an_opening_comes_after_it_and_not_all_at_once() {
        let (usual, now) = (Duration::from_secs(900), Timestamp(1_000_000));
        let opens = now.plus(Duration::from_secs(600));
        let waits =
            |opens| (0..STEPS * STEPS).map(move |draw| retry_after(usual, opens, now, draw));
        let before = waits(Some(opens)).filter(|wait| *wait < Duration::from_secs(600));
        assert_eq!(before.count(), 0, "the usual wait is longer by more than the jitter");
        let seconds: BTreeSet<u64> = waits(Some(opens)).map(|wait| wait.as_secs()).collect();
        assert_eq!((seconds.first(), seconds.last()), (Some(&600), Some(&840)));
        assert_eq!(seconds.len(), 41, "a percent apart");
        let usually: BTreeSet<u64> = waits(None).map(|wait| wait.as_secs()).collect();
        assert_eq!((usually.first(), usually.last()), (Some(&720), Some(&1080)));
        let far = now.plus(Duration::from_secs(86_400));
        assert!(waits(Some(far)).eq(waits(None)), "long before it, the usual wait counts");
        assert_eq!(retry_after(usual, Some(now), now, 0), Duration::from_secs(1), "never at once");
    }
}

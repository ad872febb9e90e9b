//! How one blob comes to the disk: asked for, cut, resumed, checked.
//!
//! In: what the registry answers, bytes as they come, cuts, the result of the check, the time, a
//! draw. Out: the next [`Step`]. The machine knows how much is on disk and what the whole must be;
//! it never lets bytes be written twice, nor counts anything as whole before its digest is right.
//! Until the first answer fits nothing was shown to a reader, so that far (and no further) what an
//! earlier process left may be thrown away.

use std::time::{Duration, Instant};

use http::StatusCode;

/// A try that brought this much (or the rest) was a good one.
const PROGRESS: u64 = 64 * 1024;

/// After the first cut; doubled after each further one that brought nothing.
const BACK_OFF: Duration = Duration::from_millis(250);

/// A line that is back is found within this.
const BACK_OFF_MAX: Duration = Duration::from_secs(8);

/// A registry that asks for more patience than this is asked anyway: clients wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Refusals that may pass (429, 5xx) before a fetch that has brought nothing is given up.
const REFUSALS_MAX: u32 = 3;

/// See the module.
#[derive(Clone, Debug)]
pub struct Fetch {
    on_disk: u64,
    total: Option<u64>,
    /// Of the next or present answer: bytes that are on disk already.
    skip: u64,
    /// Bytes that came and were on disk.
    again: u64,
    /// Bytes of good progress since the try began.
    brought: u64,
    failures: u32,
    refusals: u32,
    good_at: Instant,
    patience: Duration,
    shown: bool,
    ranges: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for the blob, from this byte on.
    Send {
        /// Zero: the whole.
        from: u64,
    },
    /// Throw away what is on disk, then ask for the whole.
    Restart,
    /// The answer fits: readers may begin, take its body.
    Take,
    /// Nothing for this long, then [`Fetch::again`].
    Wait(Duration),
    /// All is there: check the digest.
    Check,
    /// It is what it should be.
    Done,
    /// It is over.
    Failed(Why),
}

/// Why a fetch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The registry does not have it.
    Unknown,
    /// The registry does not let us.
    Denied,
    /// The registry is busy, for so long.
    Busy(Duration),
    /// The registry answered with this.
    Refused(StatusCode),
    /// What came is not what the digest says; nothing of it may be kept.
    Mismatch,
    /// The registry says different things of one blob; nothing of it may be kept.
    Lied,
    /// Nothing came for too long; what is on disk may be kept.
    Silent,
    /// Nobody waits for it any more, and the policy says that it is not finished for that.
    Abandoned,
}

impl Why {
    /// Whether what is on disk is worth nothing.
    pub const fn discards(self) -> bool {
        matches!(self, Self::Mismatch | Self::Lied)
    }
}

/// The head of a registry's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its `Content-Length`.
    pub length: Option<u64>,
    /// Its `Content-Range`, read.
    pub range: Option<(Option<u64>, Option<u64>)>,
    /// Its `Retry-After` in seconds.
    pub retry_after: Option<Duration>,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As announced.
    Whole,
    /// Before, or nothing came at all.
    Cut,
}

impl Fetch {
    /// A fetch of which `on_disk` bytes were left by an earlier one, of `total` if that was known.
    pub fn begin(
        on_disk: u64,
        total: Option<u64>,
        patience: Duration,
        now: Instant,
    ) -> (Self, Step) {
        let fetch = Self {
            on_disk,
            total,
            skip: 0,
            again: 0,
            brought: 0,
            failures: 0,
            refusals: 0,
            good_at: now,
            patience,
            shown: false,
            ranges: true,
        };
        let step = match total {
            Some(total) if total == on_disk => Step::Check,
            Some(total) if total < on_disk => Step::Restart,
            _ => Step::Send { from: on_disk },
        };
        (fetch, step)
    }

    /// Bytes on disk.
    pub const fn on_disk(&self) -> u64 {
        self.on_disk
    }

    /// Bytes of the whole, once known.
    pub const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Bytes that came although they were on disk: a registry without ranges.
    pub const fn repeated(&self) -> u64 {
        self.again
    }

    /// What was on disk is thrown away.
    pub fn restarted(&mut self) -> Step {
        (self.on_disk, self.total, self.skip) = (0, None, 0);
        Step::Send { from: 0 }
    }

    /// The wait is over.
    pub fn again(&mut self) -> Step {
        self.brought = 0;
        Step::Send { from: if self.ranges { self.on_disk } else { 0 } }
    }

    /// The registry answered.
    pub fn head(&mut self, head: &Head, now: Instant, draw: u64) -> Step {
        match head.status {
            StatusCode::OK => self.fits(0, head.length),
            StatusCode::PARTIAL_CONTENT => match head.range {
                Some((Some(start), total)) if start <= self.on_disk => {
                    let ends = head.length.and_then(|length| start.checked_add(length));
                    match (total, ends) {
                        // Less than the rest is no error: the next request asks on from there.
                        (Some(total), Some(end)) if end > total => self.lied(),
                        (total, _) => self.take(start, total),
                    }
                }
                // A part that nobody asked for. The whole cannot be misunderstood.
                _ if self.ranges && self.on_disk > 0 => {
                    self.ranges = false;
                    Step::Send { from: 0 }
                }
                _ => self.lied(),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total = head.range.and_then(|(_, total)| total);
                if total.is_some_and(|total| total == self.on_disk) && self.on_disk > 0 {
                    self.total = total;
                    Step::Check
                } else {
                    self.lied()
                }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Step::Failed(Why::Unknown),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Step::Failed(Why::Denied),
            status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                self.refused(head, now, draw)
            }
            status => Step::Failed(Why::Refused(status)),
        }
    }

    /// An answer whose body begins at `start`, with `length` bytes to the end of the whole.
    fn fits(&mut self, start: u64, length: Option<u64>) -> Step {
        self.take(start, length.and_then(|length| start.checked_add(length)))
    }

    fn take(&mut self, start: u64, total: Option<u64>) -> Step {
        match (self.total, total) {
            (Some(known), Some(told)) if known != told => return self.lied(),
            (None, Some(told)) if told < self.on_disk => return self.lied(),
            (None, Some(told)) => self.total = Some(told),
            _ => {}
        }
        self.skip = self.on_disk - start;
        self.shown = true;
        self.brought = 0;
        Step::Take
    }

    /// What an earlier process left may be to blame, once.
    fn lied(&self) -> Step {
        if !self.shown && self.on_disk > 0 { Step::Restart } else { Step::Failed(Why::Lied) }
    }

    fn refused(&mut self, head: &Head, now: Instant, draw: u64) -> Step {
        self.refusals += 1;
        let wait = head.retry_after.unwrap_or_default();
        if !self.shown && (self.refusals > REFUSALS_MAX || wait > RETRY_AFTER_MAX) {
            return Step::Failed(if head.status == StatusCode::TOO_MANY_REQUESTS {
                Why::Busy(wait)
            } else {
                Why::Refused(head.status)
            });
        }
        match self.pause(now, draw) {
            Some(pause) => Step::Wait(pause.max(wait.min(RETRY_AFTER_MAX))),
            None => Step::Failed(Why::Silent),
        }
    }

    /// `bytes` of the body came. Returns how many of them, from the front, are on disk already;
    /// the rest is to be written.
    ///
    /// # Errors
    /// There are more than the whole may have.
    pub fn came(&mut self, bytes: u64) -> Result<u64, Why> {
        let skipped = bytes.min(self.skip);
        let fresh = bytes - skipped;
        let all = self.on_disk.checked_add(fresh).ok_or(Why::Lied)?;
        if self.total.is_some_and(|total| all > total) {
            return Err(Why::Lied);
        }
        self.skip -= skipped;
        self.again += skipped;
        Ok(skipped)
    }

    /// So many bytes were written.
    pub fn wrote(&mut self, bytes: u64, now: Instant) {
        self.on_disk += bytes;
        self.brought += bytes;
        if self.brought >= PROGRESS || self.total == Some(self.on_disk) {
            self.brought = 0;
            self.failures = 0;
            self.good_at = now;
        }
    }

    /// The body is over.
    pub fn ended(&mut self, end: End, now: Instant, draw: u64) -> Step {
        match (self.total, end) {
            (Some(total), _) if total == self.on_disk => Step::Check,
            (None, End::Whole) if self.skip == 0 => {
                self.total = Some(self.on_disk);
                Step::Check
            }
            _ => self.lost(now, draw),
        }
    }

    /// No answer, or none that helps.
    pub fn lost(&mut self, now: Instant, draw: u64) -> Step {
        self.pause(now, draw).map_or(Step::Failed(Why::Silent), Step::Wait)
    }

    /// How long to wait until the next try; `None`: nothing came for too long.
    fn pause(&mut self, now: Instant, draw: u64) -> Option<Duration> {
        if now.saturating_duration_since(self.good_at) >= self.patience {
            return None;
        }
        let pause = BACK_OFF.saturating_mul(1 << self.failures.min(10)).min(BACK_OFF_MAX);
        self.failures += 1;
        // Half of it by chance: stores that lost one registry must not come back as one.
        let part = u32::try_from(draw >> 32).unwrap_or(u32::MAX);
        let chance = (pause / 2).mul_f64(f64::from(part) / f64::from(u32::MAX));
        Some(pause / 2 + chance)
    }

    /// The digest of all that is on disk was computed.
    pub const fn checked(&self, right: bool) -> Step {
        if right { Step::Done } else { Step::Failed(Why::Mismatch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::draw::epoch;

    const PATIENCE: Duration = Duration::from_secs(300);

    fn head(status: u16) -> Head {
        let status = StatusCode::from_u16(status).unwrap();
        Head { status, length: None, range: None, retry_after: None }
    }

    fn whole(length: u64) -> Head {
        Head { length: Some(length), ..head(200) }
    }

    fn rest(start: u64, total: u64) -> Head {
        Head { length: Some(total - start), range: Some((Some(start), Some(total))), ..head(206) }
    }

    #[test]
    fn a_cut_is_resumed_where_it_was_cut() {
        let now = epoch();
        let (mut fetch, step) = Fetch::begin(0, None, PATIENCE, now);
        assert_eq!(step, Step::Send { from: 0 });
        assert_eq!(fetch.head(&whole(100), now, 0), Step::Take);
        assert_eq!(fetch.came(60), Ok(0));
        fetch.wrote(60, now);
        assert_eq!(fetch.ended(End::Cut, now, 0), Step::Wait(BACK_OFF / 2));
        assert_eq!(fetch.again(), Step::Send { from: 60 });
        assert_eq!(fetch.head(&rest(60, 100), now, 0), Step::Take);
        assert_eq!(fetch.came(40), Ok(0));
        fetch.wrote(40, now);
        assert_eq!(fetch.ended(End::Whole, now, 0), Step::Check);
        assert_eq!((fetch.checked(true), fetch.repeated()), (Step::Done, 0));
    }

    #[test]
    fn a_registry_without_ranges_sends_again_what_is_not_written_again() {
        let now = epoch();
        let (mut fetch, step) = Fetch::begin(60, Some(100), PATIENCE, now);
        assert_eq!(step, Step::Send { from: 60 });
        assert_eq!(fetch.head(&whole(100), now, 0), Step::Take);
        assert_eq!((fetch.came(50), fetch.came(50)), (Ok(50), Ok(10)));
        fetch.wrote(40, now);
        assert_eq!((fetch.ended(End::Whole, now, 0), fetch.repeated()), (Step::Check, 60));
    }

    #[test]
    fn what_an_earlier_process_left_is_checked_or_thrown_away() {
        let now = epoch();
        let begin = |on_disk, total| Fetch::begin(on_disk, total, PATIENCE, now);
        assert_eq!(begin(100, Some(100)).1, Step::Check);
        assert_eq!(begin(101, Some(100)).1, Step::Restart);
        let (mut fetch, _) = begin(60, Some(100));
        assert_eq!(fetch.head(&rest(60, 99), now, 0), Step::Restart);
        assert_eq!(fetch.restarted(), Step::Send { from: 0 });
        assert_eq!(fetch.head(&whole(99), now, 0), Step::Take);
        let (mut fetch, _) = begin(60, None);
        let end = Head { range: Some((None, Some(60))), ..head(416) };
        assert_eq!(fetch.head(&end, now, 0), Step::Check);
        let (mut fetch, _) = begin(60, None);
        assert_eq!(fetch.head(&head(416), now, 0), Step::Restart);
        let (mut fetch, _) = begin(60, None);
        assert_eq!(fetch.head(&rest(61, 100), now, 0), Step::Send { from: 0 });
        assert_eq!(fetch.head(&whole(100), now, 0), Step::Take);
    }

    #[test]
    fn after_a_reader_has_begun_a_lie_is_a_failure() {
        let now = epoch();
        let (mut fetch, _) = Fetch::begin(0, None, PATIENCE, now);
        assert_eq!(fetch.head(&whole(100), now, 0), Step::Take);
        fetch.wrote(10, now);
        assert_eq!(fetch.came(91), Err(Why::Lied));
        assert_eq!(fetch.head(&rest(10, 101), now, 0), Step::Failed(Why::Lied));
        assert_eq!(fetch.head(&head(416), now, 0), Step::Failed(Why::Lied));
        assert!(Why::Lied.discards() && Why::Mismatch.discards() && !Why::Silent.discards());
    }

    #[test]
    fn a_body_of_no_announced_length_ends_where_it_ends() {
        let now = epoch();
        let (mut fetch, _) = Fetch::begin(0, None, PATIENCE, now);
        assert_eq!(fetch.head(&head(200), now, 0), Step::Take);
        fetch.wrote(10, now);
        assert_eq!(fetch.ended(End::Whole, now, 0), Step::Check);
        assert_eq!((fetch.total(), fetch.checked(false)), (Some(10), Step::Failed(Why::Mismatch)));
    }

    #[test]
    fn refusals_end_a_fetch_that_nobody_reads_yet_and_no_other() {
        let now = epoch();
        let mut fetch = Fetch::begin(0, None, PATIENCE, now).0;
        let busy = Head { retry_after: Some(Duration::from_secs(5)), ..head(429) };
        for _ in 0..REFUSALS_MAX {
            assert_eq!(fetch.head(&busy, now, 0), Step::Wait(Duration::from_secs(5)));
        }
        assert_eq!(fetch.head(&busy, now, 0), Step::Failed(Why::Busy(Duration::from_secs(5))));
        let mut fetch = Fetch::begin(0, None, PATIENCE, now).0;
        assert_eq!(fetch.head(&whole(100), now, 0), Step::Take);
        for _ in 0..50 {
            assert!(matches!(fetch.head(&head(503), now, u64::MAX), Step::Wait(_)));
        }
        assert_eq!(fetch.head(&head(503), now + PATIENCE, 0), Step::Failed(Why::Silent));
        for (status, why) in [
            (404, Why::Unknown),
            (403, Why::Denied),
            (401, Why::Denied),
            (418, Why::Refused(StatusCode::IM_A_TEAPOT)),
        ] {
            let mut fetch = Fetch::begin(0, None, PATIENCE, now).0;
            assert_eq!(fetch.head(&head(status), now, 0), Step::Failed(why));
        }
    }

    #[test]
    fn pauses_grow_and_only_real_progress_shortens_them() {
        let now = epoch();
        let (mut fetch, _) = Fetch::begin(0, None, PATIENCE, now);
        let pause = |fetch: &mut Fetch| {
            let step = fetch.ended(End::Cut, now, u64::MAX);
            let Step::Wait(pause) = step else { panic!("{step:?}") };
            pause
        };
        fetch.head(&whole(1 << 20), now, 0);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            fetch.wrote(1, now);
            pauses.push(pause(&mut fetch));
            fetch.again();
        }
        assert_eq!(pauses[0], BACK_OFF);
        assert!(pauses.is_sorted() && pauses[6] == BACK_OFF_MAX, "{pauses:?}");
        fetch.wrote(PROGRESS, now);
        assert_eq!(pause(&mut fetch), BACK_OFF);
    }
}

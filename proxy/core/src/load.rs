//! What is known of one endpoint without a lock.
//!
//! Workers write here what happens to their calls, and read where calls may go: a handful of
//! relaxed atomics, nothing else, because every request passes here. Who decides (the
//! [`Board`](crate::failover::Board)) reads it in its own time and writes the verdict back.
//! Numbers that race lose at most one sample. Time is given, as everywhere; it is kept in
//! microseconds since an epoch that all loads of a process share.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::health::Probed;

mod samples;

pub use samples::Samples;

/// One endpoint of one backend, for as long as the process lives; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

/// An endpoint in one of its lives: which one a call began in is kept with it, so that its end does
/// not count for a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The endpoint.
    pub id: EndpointId,
    /// Renewed when it is taken out.
    pub generation: u32,
}

/// Whether calls may go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// They may.
    Usable = 0,
    /// One at a time, to find out whether it is well.
    Trial = 1,
    /// Not now: it went silent, and a probe finds out.
    Suspect = 2,
    /// They may not.
    Out = 3,
}

impl Verdict {
    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Usable,
            1 => Self::Trial,
            2 => Self::Suspect,
            _ => Self::Out,
        }
    }
}

/// How fast the mean of latencies forgets: half of it after seven seconds (linkerd's number).
const MEMORY: Duration = Duration::from_secs(10);

/// Latency that an answer which says "not now" counts for at least: an endpoint that refuses
/// within a millisecond is not fast.
const PENALTY: Duration = Duration::from_secs(1);

/// How long a call waits at an endpoint that is out and says nothing to anybody: longer than
/// nearly every answer, short enough for a second try.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same where others are still answered: a till waits a few seconds for both tries.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// Microseconds before the epoch that data may be of: 35 years.
const BEFORE: u64 = 1 << 50;

/// See the module.
#[derive(Debug)]
pub struct Load {
    id: EndpointId,
    epoch: Instant,
    verdict: AtomicU8,
    trial_taken: AtomicBool,
    /// What the last probe said.
    answers_probes: AtomicBool,
    /// See [`Stamp`].
    generation: AtomicU32,
    /// Calls that are not over.
    calls: AtomicU32,
    /// Of these, those whose answer goes on for as long as it likes.
    streams: AtomicU32,
    /// Of these, those whose answer has begun and does not go on.
    owing: AtomicU32,
    owing_since: AtomicU64,
    /// The last byte of any call.
    heard_at: AtomicU64,
    /// Microseconds as `f32` above, milliseconds of the epoch below.
    latency: AtomicU64,
    /// Good answers; wraps.
    good: AtomicU32,
    /// Microseconds of silence that are suspicious; zero: not known.
    stall_after: AtomicU32,
    /// The 95th percentile in microseconds; zero: not known.
    p95: AtomicU32,
    /// Of which moment its data is, in microseconds since [`BEFORE`] the epoch; zero: not known.
    data_of: AtomicU64,
    samples: Samples,
}

impl Load {
    /// An endpoint of which nothing is known, so that it is usable.
    pub fn new(id: EndpointId, epoch: Instant) -> Self {
        Self {
            id,
            epoch,
            verdict: AtomicU8::new(Verdict::Usable as u8),
            trial_taken: AtomicBool::new(false),
            answers_probes: AtomicBool::new(true),
            generation: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            streams: AtomicU32::new(0),
            owing: AtomicU32::new(0),
            owing_since: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            good: AtomicU32::new(0),
            stall_after: AtomicU32::new(0),
            p95: AtomicU32::new(0),
            data_of: AtomicU64::new(0),
            samples: Samples::default(),
        }
    }

    /// Which endpoint it is.
    pub const fn id(&self) -> EndpointId {
        self.id
    }

    /// Whether calls may go there.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.verdict.load(Relaxed))
    }

    /// To be kept with a call that goes there now.
    pub fn stamp(&self) -> Stamp {
        Stamp { id: self.id, generation: self.generation.load(Relaxed) }
    }

    /// The board has renewed it.
    pub fn publish_generation(&self, generation: u32) {
        self.generation.store(generation, Relaxed);
    }

    /// The board has decided.
    pub fn publish(&self, verdict: Verdict) {
        self.verdict.store(verdict as u8, Relaxed);
    }

    /// Whether the last probe was good.
    pub fn answers_probes(&self) -> bool {
        self.answers_probes.load(Relaxed)
    }

    /// What the last probe said.
    pub fn publish_probe(&self, probed: Probed) {
        self.answers_probes.store(probed == Probed::Good, Relaxed);
    }

    /// A call goes there: it counts until [`Self::leave`].
    pub fn enter(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    /// A call is over.
    pub fn leave(&self) {
        self.calls.fetch_sub(1, Relaxed);
    }

    /// Calls that are not over.
    pub fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }

    /// A call's answer has begun and goes on for as long as it likes, until
    /// [`Self::stream_ended`]: nobody waits for its end.
    pub fn stream_begins(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// Such an answer is over.
    pub fn stream_ended(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// Calls that wait for an answer, or for the rest of one.
    pub fn waiting(&self) -> u32 {
        self.calls().saturating_sub(self.streams.load(Relaxed))
    }

    /// The next piece of an answer's body is owed from now on, until [`Self::paid`].
    pub fn owe(&self, now: Instant) {
        if self.owing.fetch_add(1, Relaxed) == 0 {
            self.owing_since.store(self.micros(now), Relaxed);
        }
    }

    /// It came, or is not waited for any more.
    pub fn paid(&self) {
        self.owing.fetch_sub(1, Relaxed);
    }

    /// A byte came.
    pub fn heard(&self, now: Instant) {
        self.heard_at.store(self.micros(now), Relaxed);
    }

    /// When a byte came last; `None`: never.
    pub fn heard_at(&self) -> Option<Instant> {
        let at = self.heard_at.load(Relaxed);
        (at > 0).then(|| self.epoch + Duration::from_micros(at))
    }

    /// Since when bytes are owed and none has come; `None`: nothing is owed.
    pub fn silent_since(&self) -> Option<Instant> {
        if self.owing.load(Relaxed) == 0 {
            return None;
        }
        let since = self.owing_since.load(Relaxed).max(self.heard_at.load(Relaxed));
        Some(self.epoch + Duration::from_micros(since))
    }

    /// How much silence is suspicious; `None`: nobody knows (yet).
    pub fn stall_after(&self) -> Option<Duration> {
        let micros = self.stall_after.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    /// For how long a call that was sent then waits for a byte before it may be taken away, if its
    /// endpoint is out: as long as silence there is usual, but less if nobody hears anything.
    pub fn patience(&self, sent: Instant) -> Duration {
        let is_mute = self.heard_at().is_none_or(|heard| heard <= sent);
        let most = if is_mute { PATIENCE } else { PATIENCE_MAX };
        self.stall_after().map_or(PATIENCE, |after| after.min(most))
    }

    /// The board has decided.
    pub fn publish_stall_after(&self, after: Option<Duration>) {
        let micros = after.map_or(0, |after| short_micros(after).max(1));
        self.stall_after.store(micros, Relaxed);
    }

    /// The 95th percentile of times to an answer; `None`: nobody knows (yet).
    pub fn p95(&self) -> Option<Duration> {
        let micros = self.p95.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    /// The board has found out.
    pub fn publish_p95(&self, p95: Option<Duration>) {
        self.p95.store(p95.map_or(0, |p95| short_micros(p95).max(1)), Relaxed);
    }

    /// An answer of worth has begun after `took`.
    pub fn answered(&self, took: Duration, now: Instant) {
        self.samples.add(took);
        self.observe(took, now);
        self.heard(now);
    }

    /// An answer of worth has come to its end.
    pub fn succeeded(&self) {
        self.good.fetch_add(1, Relaxed);
    }

    /// An answer came that says "not now": its server has failed, or wants to be spared.
    pub fn refused(&self, took: Duration, now: Instant) {
        self.observe(took.max(PENALTY), now);
        self.heard(now);
    }

    /// No answer came.
    pub fn lost(&self, now: Instant) {
        self.observe(PENALTY, now);
    }

    /// Good answers ever; wraps.
    pub fn good(&self) -> u32 {
        self.good.load(Relaxed)
    }

    /// Times to good answers.
    pub const fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The mean latency that balance goes by: peaks count at once and are forgotten slowly.
    pub fn latency(&self) -> Duration {
        let (micros, _) = unpack(self.latency.load(Relaxed));
        Duration::from_secs_f32(micros.max(0.0) / 1e6)
    }

    /// What one more call costs here, in no particular unit.
    pub fn cost(&self) -> f32 {
        let (micros, _) = unpack(self.latency.load(Relaxed));
        let calls = u16::try_from(self.calls()).unwrap_or(u16::MAX);
        // An endpoint that nobody knows is tried at once, by one call.
        micros.max(1.0) * (f32::from(calls) + 1.0)
    }

    /// One call at a time may find out whether it is well; whether this is it.
    pub fn take_trial(&self) -> bool {
        !self.trial_taken.load(Relaxed) && !self.trial_taken.swap(true, Relaxed)
    }

    /// Whether a call is showing right now what it is worth.
    pub fn is_on_trial(&self) -> bool {
        self.trial_taken.load(Relaxed)
    }

    /// The trial is over, whatever it has shown.
    pub fn end_trial(&self) {
        self.trial_taken.store(false, Relaxed);
    }

    /// Its data is this old now.
    pub fn learn_data_age(&self, age: Duration, now: Instant) {
        let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        self.data_of.store((BEFORE + self.micros(now)).saturating_sub(age).max(1), Relaxed);
    }

    /// It does not say any more how old its data is.
    pub fn forget_data_age(&self) {
        self.data_of.store(0, Relaxed);
    }

    /// Changes when it says how old its data is.
    pub fn data_mark(&self) -> u64 {
        self.data_of.load(Relaxed)
    }

    /// How old its data is; `None`: it does not say.
    pub fn data_age(&self, now: Instant) -> Option<Duration> {
        let of = self.data_of.load(Relaxed);
        let age = (BEFORE + self.micros(now)).saturating_sub(of);
        (of > 0).then(|| Duration::from_micros(age))
    }

    fn observe(&self, took: Duration, now: Instant) {
        let (before, at) = unpack(self.latency.load(Relaxed));
        let sample = took.as_secs_f32() * 1e6;
        let now = u32::try_from(self.micros(now) / 1000 % u64::from(u32::MAX)).unwrap_or(0);
        let after = if sample > before {
            sample
        } else {
            let passed = f32::from(u16::try_from(now.wrapping_sub(at)).unwrap_or(u16::MAX));
            // At least a hundredth of each sample counts, however close they are.
            let kept = (-passed / (MEMORY.as_secs_f32() * 1e3)).exp().min(0.99);
            before * kept + sample * (1.0 - kept)
        };
        self.latency.store(pack(after, now), Relaxed);
    }

    fn micros(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
    }
}

fn pack(micros: f32, millis: u32) -> u64 {
    u64::from(micros.to_bits()) << 32 | u64::from(millis)
}

fn unpack(both: u64) -> (f32, u32) {
    let high = u32::try_from(both >> 32).unwrap_or(0);
    let low = u32::try_from(both & u64::from(u32::MAX)).unwrap_or(0);
    (f32::from_bits(high), low)
}

/// Microseconds in half a word: 71 minutes at most, which is longer than any limit here.
fn short_micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn load() -> (Load, Instant) {
        let epoch = crate::schedule::tests::draw::epoch();
        (Load::new(EndpointId(1), epoch), epoch)
    }

    #[test]
    fn silence_counts_from_the_last_byte_or_from_the_first_call_that_waits() {
        let (load, zero) = load();
        assert_eq!(load.silent_since(), None, "nothing is owed");
        load.owe(zero + ms(10));
        load.owe(zero + ms(20));
        assert_eq!(load.silent_since(), Some(zero + ms(10)));
        load.heard(zero + ms(30));
        assert_eq!(load.silent_since(), Some(zero + ms(30)));
        load.paid();
        load.paid();
        assert_eq!(load.silent_since(), None);
        load.owe(zero + ms(90));
        assert_eq!(load.silent_since(), Some(zero + ms(90)), "what was heard before is no silence");
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let (load, zero) = load();
        load.answered(ms(2), zero);
        load.answered(ms(100), zero + ms(1));
        assert!(load.latency() > ms(99), "{:?}", load.latency());
        for second in 1..=60 {
            load.answered(ms(2), zero + ms(second * 1000));
        }
        assert!(load.latency() < ms(3), "{:?}", load.latency());
    }

    #[test]
    fn who_refuses_quickly_is_not_fast() {
        let (refusing, zero) = load();
        let (working, _) = load();
        refusing.refused(ms(1), zero);
        working.answered(ms(50), zero);
        assert!(refusing.cost() > working.cost());
    }

    #[test]
    fn calls_under_way_cost() {
        let (busy, zero) = load();
        let (idle, _) = load();
        busy.answered(ms(10), zero);
        idle.answered(ms(15), zero);
        assert!(busy.cost() < idle.cost());
        busy.enter();
        assert!(busy.cost() > idle.cost());
    }

    #[test]
    fn one_trial_at_a_time() {
        let (load, _) = load();
        assert!(load.take_trial());
        assert!(!load.take_trial());
        load.end_trial();
        assert!(load.take_trial());
    }

    #[test]
    fn a_stream_is_no_call_that_waits() {
        let (load, _) = load();
        load.enter();
        load.enter();
        load.stream_begins();
        assert_eq!((load.calls(), load.waiting()), (2, 1));
        load.stream_ended();
        load.leave();
        assert_eq!((load.calls(), load.waiting()), (1, 1));
    }

    #[test]
    fn data_grows_old_by_itself() {
        let (load, zero) = load();
        assert_eq!(load.data_age(zero), None);
        load.learn_data_age(ms(500), zero + ms(1000));
        assert_eq!(load.data_age(zero + ms(3000)), Some(ms(2500)));
    }
}

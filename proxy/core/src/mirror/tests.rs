//! Seeded days of one blob: readers that leave, a registry that cuts, lies and refuses, a process
//! that dies. `TILLGATE_SEED=n` replays one.
//!
//! The model is the whole shell in miniature: a file, readers that see what is on disk but never
//! the last byte before the check, and a registry that has the true bytes. After every step: what
//! a reader has is the file's beginning; a reader that was told the end has the true blob; the
//! cache has the true blob or none. At the end of an honest day every reader that stayed has it,
//! and no byte came twice beyond what a registry without ranges makes.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::fetch::{End, Fetch, Head, Step, Why};
use crate::schedule::tests::draw::{Draw, each_seed, epoch};

const PATIENCE: Duration = Duration::from_secs(600);

/// What happens on a day, beside chance.
#[derive(Clone, Copy, Debug)]
struct Day {
    readers_leave: [bool; 2],
    registry_cuts: bool,
    process_dies: bool,
    honesty: Honesty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Honesty {
    Honest,
    /// Ranges are ignored.
    NoRanges,
    /// One byte is wrong.
    Corrupts,
    /// The whole is shorter than it should be, and said to be.
    Truncates,
    /// Says another length every time.
    Lies,
}

struct World {
    draw: Draw,
    day: Day,
    truth: Vec<u8>,
    /// What the registry sends.
    sends: Vec<u8>,
    file: Vec<u8>,
    cached: Option<Vec<u8>>,
    readers: Vec<Reader>,
    sent: u64,
    now: Instant,
    cuts_left: u64,
    deaths_left: u64,
}

#[derive(Default)]
struct Reader {
    has: Vec<u8>,
    ended: Option<Result<(), ()>>,
    leaves_at: Option<usize>,
}

impl World {
    fn new(seed: u64, day: Day) -> Self {
        let mut draw = Draw::new(seed);
        let size = draw.between(1, 60_000);
        let truth: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut sends = truth.clone();
        match day.honesty {
            Honesty::Corrupts => {
                let at = draw.index(sends.len());
                sends[at] ^= 1;
            }
            Honesty::Truncates => sends.truncate(draw.index(truth.len())),
            Honesty::Honest | Honesty::NoRanges | Honesty::Lies => {}
        }
        let readers = day.readers_leave.map(|leaves| Reader {
            leaves_at: leaves.then(|| draw.index(truth.len())),
            ..Reader::default()
        });
        let cuts_left = if day.registry_cuts { draw.between(1, 4) } else { 0 };
        let deaths_left = u64::from(day.process_dies);
        Self {
            draw,
            day,
            truth,
            sends,
            file: Vec::new(),
            cached: None,
            readers: readers.into(),
            sent: 0,
            now: epoch(),
            cuts_left,
            deaths_left,
        }
    }

    /// One process, until its fetch is over or it dies. Whether it is over.
    fn process(&mut self) -> Result<Step, ()> {
        let total = self.draw.chance(50).then_some(self.sends.len() as u64);
        let total = total.filter(|_| !self.file.is_empty() && self.day.honesty != Honesty::Lies);
        let (mut fetch, mut step) = Fetch::begin(self.file.len() as u64, total, PATIENCE, self.now);
        loop {
            step = match step {
                Step::Send { from } => self.exchange(&mut fetch, from)?,
                Step::Restart => {
                    assert!(self.readers.iter().all(|reader| reader.has.is_empty()));
                    self.file.clear();
                    fetch.restarted()
                }
                Step::Wait(pause) => {
                    self.now += pause;
                    fetch.again()
                }
                Step::Check => fetch.checked(self.file == self.truth),
                Step::Take => unreachable!("taken inside the exchange"),
                Step::Done => {
                    self.cached = Some(std::mem::take(&mut self.file));
                    self.show(Some(Ok(())));
                    return Ok(step);
                }
                Step::Failed(why) => {
                    if why.discards() {
                        self.file.clear();
                    }
                    self.show(Some(Err(())));
                    return Ok(step);
                }
            };
        }
    }

    /// One request and its body.
    fn exchange(&mut self, fetch: &mut Fetch, from: u64) -> Result<Step, ()> {
        assert!(from == 0 || from == fetch.on_disk());
        let head = self.head(from);
        let step = fetch.head(&head, self.now, self.draw.bits());
        if step != Step::Take {
            return Ok(step);
        }
        let start = if head.status == StatusCode::OK { 0 } else { index(from) };
        let mut at = start;
        while at < self.sends.len() {
            if self.cuts_left > 0 && self.draw.chance(15) {
                self.cuts_left -= 1;
                return Ok(fetch.ended(End::Cut, self.now, self.draw.bits()));
            }
            if self.deaths_left > 0 && self.draw.chance(10) {
                self.deaths_left -= 1;
                return Err(());
            }
            let end = (at + self.draw.index(15_000) + 1).min(self.sends.len());
            self.sent += (end - at) as u64;
            let skipped = match fetch.came((end - at) as u64) {
                Ok(skipped) => index(skipped),
                Err(why) => return Ok(Step::Failed(why)),
            };
            let fresh = self.sends[at + skipped..end].to_vec();
            self.file.extend_from_slice(&fresh);
            fetch.wrote(fresh.len() as u64, self.now);
            at = end;
            self.show(None);
        }
        Ok(fetch.ended(End::Whole, self.now, self.draw.bits()))
    }

    fn head(&mut self, from: u64) -> Head {
        let all = self.sends.len() as u64;
        let lie = if self.day.honesty == Honesty::Lies { self.draw.between(1, 3) } else { 0 };
        let told = all + lie;
        if from == 0 || self.day.honesty == Honesty::NoRanges {
            return Head {
                status: StatusCode::OK,
                length: Some(told),
                range: None,
                retry_after: None,
            };
        }
        if from >= all {
            return Head {
                status: StatusCode::RANGE_NOT_SATISFIABLE,
                length: None,
                range: Some((None, Some(told))),
                retry_after: None,
            };
        }
        Head {
            status: StatusCode::PARTIAL_CONTENT,
            length: Some(told - from),
            range: Some((Some(from), Some(told))),
            retry_after: None,
        }
    }

    /// Readers read as far as they may and want; `end` is how the blob ended, if it did.
    fn show(&mut self, end: Option<Result<(), ()>>) {
        let whole = self.cached.as_ref().unwrap_or(&self.file);
        for reader in &mut self.readers {
            if reader.ended.is_some() {
                continue;
            }
            if end == Some(Err(())) {
                // Its connection is broken.
                reader.ended = end;
                continue;
            }
            // The last byte only with the check.
            let most = if end.is_some() { whole.len() } else { whole.len().saturating_sub(1) };
            let wants = if end.is_some() { most } else { self.draw.index(most + 1) };
            let upto = reader.leaves_at.map_or(wants, |at| wants.min(at));
            if upto > reader.has.len() {
                reader.has.extend_from_slice(&whole[reader.has.len()..upto]);
            }
            assert!(whole.starts_with(&reader.has));
            if reader.leaves_at == Some(reader.has.len()) {
                reader.ended = Some(Err(()));
            } else {
                reader.ended = end;
            }
        }
    }

    /// The process has died, and with it every connection of a reader.
    fn die(&mut self) {
        for reader in &mut self.readers {
            if reader.ended.is_none() {
                // It comes again, from the beginning.
                reader.has.clear();
            }
        }
        // What was not yet handed to the kernel is lost.
        let keep = self.file.len() - self.draw.index(self.file.len() + 1).min(1000);
        self.file.truncate(keep);
    }

    fn check(&self) {
        if let Some(cached) = &self.cached {
            assert_eq!(*cached, self.truth, "the cache holds what is not the blob");
        }
        for reader in &self.readers {
            if reader.ended == Some(Ok(())) {
                assert_eq!(reader.has, self.truth, "a reader took a wrong blob for complete");
            }
        }
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

fn live(seed: u64, day: Day) {
    let mut world = World::new(seed, day);
    let mut lost = 0;
    let ended = loop {
        match world.process() {
            Ok(step) => break step,
            Err(()) => {
                let before = world.file.len();
                world.die();
                lost += (before - world.file.len()) as u64;
            }
        }
        world.check();
    };
    world.check();
    if matches!(day.honesty, Honesty::Honest | Honesty::NoRanges) {
        assert_eq!(ended, Step::Done, "{day:?}");
        assert_eq!(world.cached.as_ref(), Some(&world.truth));
        for reader in &world.readers {
            let leaves = reader.leaves_at.is_some();
            assert_eq!(reader.ended, Some(if leaves { Err(()) } else { Ok(()) }), "{day:?}");
        }
    } else {
        assert!(
            matches!(ended, Step::Failed(Why::Mismatch | Why::Lied | Why::Silent)),
            "{ended:?}"
        );
        assert_eq!(world.cached, None);
    }
    if day.honesty == Honesty::Honest {
        let size = world.truth.len() as u64;
        assert_eq!(world.sent, size + lost, "bytes came twice on {day:?}");
    }
}

#[test]
fn all_combinations_of_aborts_leave_the_cache_right() {
    each_seed("mirror", 40, |seed| {
        for bits in 0..16u8 {
            let bit = |at: u8| bits >> at & 1 == 1;
            for honesty in [
                Honesty::Honest,
                Honesty::NoRanges,
                Honesty::Corrupts,
                Honesty::Truncates,
                Honesty::Lies,
            ] {
                let day = Day {
                    readers_leave: [bit(0), bit(1)],
                    registry_cuts: bit(2),
                    process_dies: bit(3),
                    honesty,
                };
                live(seed, day);
            }
        }
    });
}

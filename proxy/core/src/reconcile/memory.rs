//! What survives a restart.
//!
//! The disk holds bundles, two pointers (`current`, `lkg`) and a [`Memory`]; `start.rs` decides
//! from them what a start serves. All of it is bounded, so that the file is small.

use std::sync::Arc;

use super::wall::Wall;
use super::{Digest, Revision};

mod start;

pub use self::start::{Boot, Bundle, OnDisk, Remark, Serve};

mod pin;

pub use self::pin::Pin;

/// Digests that are remembered as bad: a store sees few, and old ones end with the next sequence.
pub const DENIED_MAX: usize = 16;

/// Times in effect that are remembered: the bundles that are kept, and as many that are not any
/// more, so that it can be told which of the two a digest is.
pub const RUNS_MAX: usize = 32;

/// Operations that are remembered: each lasts a week at most, and people send few.
pub const DONE_MAX: usize = 256;

/// Starts without a minute of life, within [`SHORT_WITHIN`], after which `current` is not trusted.
const SHORT_BOOTS_MAX: u32 = 3;

/// The time in which they must fall, in seconds.
const SHORT_WITHIN: u64 = 600;

/// How far a revision got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was being watched.
    InProbation,
    /// It ended its probation without a verdict.
    Kept,
    /// It is, or was, last known good.
    Promoted,
}

/// The revision that `current` should lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which.
    pub digest: Digest,
    /// How far it got.
    pub stage: Stage,
}

/// A digest that is not tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Which.
    pub digest: Digest,
    /// Its number.
    pub sequence: Option<u64>,
    /// Why.
    pub why: Arc<str>,
}

/// How a revision did while it was in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was watched, or still is.
    Watched,
    /// It became last known good.
    Good,
    /// It stayed without that honour.
    Kept,
    /// It did harm.
    RolledBack,
}

impl Fate {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Watched, Self::Good, Self::Kept, Self::RolledBack];

    /// Its name in answers and on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watched => "Watched",
            Self::Good => "LastKnownGood",
            Self::Kept => "Kept",
            Self::RolledBack => "RolledBack",
        }
    }
}

/// A time during which a revision was in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which.
    pub digest: Digest,
    /// Digest of the config that it was here.
    pub effective: Digest,
    /// Its number.
    pub sequence: Option<u64>,
    /// Where it came from, as `main@sha1:…`.
    pub revision: Arc<str>,
    /// Since when.
    pub since: Wall,
    /// How it did.
    pub fate: Fate,
}

/// A signed operation that was carried out or refused for good: never again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its id.
    pub id: Arc<str>,
    /// Digest of what was signed.
    pub statement: Digest,
    /// Until when it could be carried out; it is remembered until then.
    pub until: Wall,
    /// What it does.
    pub action: Arc<str>,
    /// What came of it; `None` while it is carried out.
    pub ended: Option<Ended>,
    /// Whether who gave it knows, or nobody is to be told.
    pub told: bool,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// In a word.
    pub state: Arc<str>,
    /// When.
    pub at: Wall,
    /// More of it, as JSON; empty once it was told.
    pub outcome: Arc<str>,
}

/// Starts that did not live for a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boots {
    /// How many in a row.
    pub short: u32,
    /// When the first of them was.
    pub first: Wall,
}

/// What must survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The highest sequence that was accepted, and what it was.
    pub highest: Option<(u64, Digest)>,
    /// What `current` should lead to.
    pub applied: Option<Applied>,
    /// Bad ones, oldest first.
    pub denied: Vec<Denied>,
    /// Starts that a digest on probation has not survived.
    pub attempts: Vec<(Digest, u8)>,
    /// A pin.
    pub pin: Option<Pin>,
    /// What was in effect, oldest first.
    pub runs: Vec<Run>,
    /// Operations that are not carried out again.
    pub done: Vec<Done>,
    /// When this memory began, by a clock that was believed; `None` until one is. What was asked
    /// of the store before may have been done by a process that nothing is known of any more.
    pub began: Option<Wall>,
    /// Number and hash of the last record of the audit log that was on disk then.
    pub audited: Option<(u64, Digest)>,
    /// Number of the last status report.
    pub reports: u64,
    /// No honest clock shows an earlier time.
    pub floor: Wall,
    /// Whether any clock was ever trusted here.
    pub clock_known: bool,
    /// Whether it has jumped, and nobody has vouched for it since.
    pub clock_jumped: bool,
    /// What it showed when somebody vouched for it last.
    pub clock_vouched: Option<Wall>,
    /// Starts in a row that came to nothing.
    pub boots: Boots,
}

impl Memory {
    /// A revision is in effect from now on. The same one, still in effect, is no other time.
    pub fn runs(&mut self, run: Run) {
        let is_same = |last: &Run| last.digest == run.digest && last.effective == run.effective;
        if self.runs.last().is_some_and(is_same) {
            return;
        }
        if self.runs.len() >= RUNS_MAX {
            self.runs.remove(0);
        }
        self.runs.push(run);
    }

    /// What is in effect now, or was last, did so.
    pub fn fares(&mut self, digest: &str, fate: Fate) {
        let last = self.runs.iter_mut().rev().find(|run| *run.digest == *digest);
        if let Some(run) = last {
            run.fate = fate;
        }
    }

    /// Remembers `done`, unless there are too many that may still come again. Those whose time was
    /// over at `floor`, which has certainly passed, are forgotten.
    pub fn does(&mut self, done: Done, floor: Wall) -> bool {
        self.done.retain(|one| one.until > floor);
        if self.done.len() >= DONE_MAX {
            return false;
        }
        self.done.push(done);
        true
    }

    /// What is known from elsewhere of operations that were carried out: oldest first, the last
    /// ones count.
    pub fn recalls(&mut self, found: Vec<Done>) {
        let is_known = |id: &str| self.done.iter().any(|done| *done.id == *id);
        let mut fresh: Vec<Done> = found.into_iter().filter(|one| !is_known(&one.id)).collect();
        fresh.retain(|one| one.until > self.floor);
        let room = DONE_MAX.saturating_sub(self.done.len());
        let over = fresh.len().saturating_sub(room);
        self.done.extend(fresh.drain(over..));
    }

    /// The operation `id` has come to an end.
    pub fn ends(&mut self, id: &str, ended: Ended) {
        let Some(done) = self.done.iter_mut().find(|done| *done.id == *id) else { return };
        let outcome = if done.told { "".into() } else { ended.outcome };
        done.ended = Some(Ended { outcome, ..ended });
    }

    /// Whoever gave the operation `id` knows that it came to `state`.
    pub fn tells(&mut self, id: &str, state: &str) {
        let Some(done) = self.done.iter_mut().find(|done| *done.id == *id) else { return };
        if let Some(ended) = done.ended.as_mut().filter(|ended| *ended.state == *state) {
            ended.outcome = "".into();
            done.told = true;
        }
    }

    /// Why `digest` is not tried again, if so.
    pub fn denial(&self, digest: &str) -> Option<&Denied> {
        self.denied.iter().find(|denied| &*denied.digest == digest)
    }

    /// `revision` is swapped in: older grudges end with a higher sequence.
    pub(super) fn accept(&mut self, revision: &Revision) {
        if let Some(sequence) = revision.sequence {
            self.denied.retain(|denied| denied.sequence.is_none_or(|old| old >= sequence));
            if self.highest.as_ref().is_none_or(|(highest, _)| *highest < sequence) {
                self.highest = Some((sequence, Arc::clone(&revision.digest)));
            }
        }
        self.attempts.retain(|(digest, _)| *digest == revision.digest);
        self.floor = self.floor.max(revision.created_at);
        let digest = Arc::clone(&revision.digest);
        self.applied = Some(Applied { digest, stage: Stage::InProbation });
    }

    /// The probation of `digest` is over.
    pub(super) fn settle(&mut self, digest: &Digest, stage: Stage) {
        self.attempts.retain(|(tried, _)| tried != digest);
        match stage {
            Stage::Promoted => self.fares(digest, Fate::Good),
            Stage::Kept => self.fares(digest, Fate::Kept),
            Stage::InProbation => {}
        }
        self.applied = Some(Applied { digest: Arc::clone(digest), stage });
    }

    /// `revision` is not tried again.
    pub fn deny(&mut self, revision: &Revision, why: &Arc<str>) {
        self.fares(&revision.digest, Fate::RolledBack);
        self.denied.retain(|denied| denied.digest != revision.digest);
        if self.denied.len() >= DENIED_MAX {
            self.denied.remove(0);
        }
        self.denied.push(Denied {
            digest: Arc::clone(&revision.digest),
            sequence: revision.sequence,
            why: Arc::clone(why),
        });
    }

    /// The process has lived for a minute.
    pub const fn lived(&mut self) {
        self.boots.short = 0;
    }

    /// One more start; how often in a row it came to nothing, this one not counted.
    fn start(&mut self, wall: Wall) -> u32 {
        let before = self.boots.short;
        let too_late = wall.0.saturating_sub(self.boots.first.0) > SHORT_WITHIN;
        if before == 0 || (too_late && before < SHORT_BOOTS_MAX) {
            self.boots = Boots { short: 1, first: wall };
            return 0;
        }
        self.boots.short += 1;
        before
    }

    /// A start found `digest` on probation: it did not survive that.
    fn attempt(&mut self, digest: &Digest) -> u8 {
        match self.attempts.iter_mut().find(|(tried, _)| tried == digest) {
            Some((_, count)) => {
                *count = count.saturating_add(1);
                *count
            }
            None => {
                self.attempts.push((Arc::clone(digest), 1));
                1
            }
        }
    }
}

//! What was asked for and takes its time: pending, running, succeeded or failed.
//!
//! Two kinds: to look for another policy, and to go back to an earlier one. Whoever asks to look
//! while one looks gets the same operation. It ends when every source was asked after the last who
//! asked for it, and has answered: what was asked before may have been read too early.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::past::moment;

/// Operations that can still be asked about.
const KEPT: usize = 64;

/// How long others may join one: who asks without end would keep it from ending.
const JOINED: Duration = Duration::from_secs(60);

/// New ones that people may ask for in [`APART`]: each is a record on disk.
const NEW_MAX: usize = 10;

/// See [`NEW_MAX`].
const APART: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reconcile,
    Rollback,
}

#[derive(Debug)]
struct Operation {
    id: Arc<str>,
    kind: Kind,
    actor: Arc<str>,
    state: State,
    begun: SystemTime,
    ended: Option<SystemTime>,
    /// The digest that is in effect since, or why there is none.
    outcome: Option<String>,
    /// What was found and waits for its time.
    held: Option<String>,
    /// When it was asked for first, and last.
    asked: (Instant, Instant),
    /// The sources that were asked since, and have answered.
    heard: BTreeSet<usize>,
}

impl Operation {
    fn end(&mut self, outcome: Outcome<'_>, now: SystemTime) {
        if self.state == State::Running {
            self.state = if outcome.is_ok() { State::Succeeded } else { State::Failed };
            self.ended = Some(now);
            self.held = outcome.ok().and_then(|(_, held)| held).map(str::to_owned);
            self.outcome = Some(outcome.map_or_else(|why| why, |(digest, _)| digest).to_owned());
        }
    }

    /// Whether it looks, or will.
    fn looks(&self) -> bool {
        self.kind == Kind::Reconcile && self.ended.is_none()
    }
}

/// What came of it: the digest in effect and what waits for its time, or why there is no other.
pub(crate) type Outcome<'a> = Result<(&'a str, Option<&'a str>), &'a str>;

/// A look that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Whom it was at, of so many.
    pub(crate) source: usize,
    pub(crate) of: usize,
    pub(crate) began: Instant,
}

/// Why nobody may ask now, and in how many seconds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Busy {
    pub(super) why: &'static str,
    pub(super) seconds: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Operations {
    /// Newest first.
    all: VecDeque<Operation>,
    /// Of this process, so that an id of the one before names nothing.
    boot: u32,
    last: u64,
}

impl Operations {
    pub(super) fn new(boot: u32) -> Self {
        Self { all: VecDeque::new(), boot, last: 0 }
    }

    /// The operation that looks already, or another one; and whether it is new.
    ///
    /// # Errors
    /// If somebody asks without end.
    pub(super) fn begin(
        &mut self,
        actor: &Arc<str>,
        (at, now): (Instant, SystemTime),
    ) -> Result<(Arc<str>, bool), Busy> {
        if let Some(one) = self.all.iter_mut().find(|one| one.looks()) {
            if at.saturating_duration_since(one.asked.0) >= JOINED {
                let why = "a look that was asked for again and again has to end first";
                return Err(Busy { why, seconds: APART.as_secs() });
            }
            one.asked.1 = at;
            one.heard.clear();
            return Ok((Arc::clone(&one.id), false));
        }
        let mut looks = self.all.iter().filter(|one| one.kind == Kind::Reconcile);
        let age = looks.nth(NEW_MAX - 1).map(|one| at.saturating_duration_since(one.asked.0));
        if let Some(left) = age.and_then(|age| APART.checked_sub(age)) {
            let why = "this was asked for more often than a store can need";
            return Err(Busy { why, seconds: left.as_secs() + 1 });
        }
        Ok((self.add(Kind::Reconcile, State::Pending, actor, (at, now)), true))
    }

    /// What is done at once; its id.
    pub(super) fn add_running(
        &mut self,
        kind: Kind,
        actor: &Arc<str>,
        now: (Instant, SystemTime),
    ) -> Arc<str> {
        self.add(kind, State::Running, actor, now)
    }

    fn add(
        &mut self,
        kind: Kind,
        state: State,
        actor: &Arc<str>,
        (at, now): (Instant, SystemTime),
    ) -> Arc<str> {
        self.last += 1;
        let id: Arc<str> = format!("{:08x}-{}", self.boot, self.last).into();
        self.all.push_front(Operation {
            id: Arc::clone(&id),
            kind,
            actor: Arc::clone(actor),
            state,
            begun: now,
            ended: None,
            outcome: None,
            held: None,
            asked: (at, at),
            heard: BTreeSet::new(),
        });
        self.all.truncate(KEPT);
        id
    }

    /// What waited is done now.
    pub(super) fn run(&mut self) {
        for one in self.all.iter_mut().filter(|one| one.state == State::Pending) {
            one.state = State::Running;
        }
    }

    /// Somebody has looked: an operation that waits for nobody else ends so.
    pub(super) fn looked(&mut self, look: Look, outcome: Outcome<'_>, now: SystemTime) {
        let waits = |one: &&mut Operation| one.looks() && one.asked.1 <= look.began;
        for one in self.all.iter_mut().filter(waits) {
            one.heard.insert(look.source);
            if one.heard.len() >= look.of {
                one.end(outcome, now);
            }
        }
    }

    /// The operation `id` has ended.
    pub(super) fn end_one(&mut self, id: &str, outcome: Outcome<'_>, now: SystemTime) {
        if let Some(one) = self.all.iter_mut().find(|one| *one.id == *id) {
            one.end(outcome, now);
        }
    }

    pub(super) fn show(&self, id: &str) -> Option<Value> {
        let one = self.all.iter().find(|one| *one.id == *id)?;
        let told = |state| one.outcome.as_ref().filter(|_| one.state == state);
        Some(json!({
            "id": &*one.id,
            "kind": format!("{:?}", one.kind),
            "actor": &*one.actor,
            "state": format!("{:?}", one.state),
            "begun": moment(one.begun),
            "ended": one.ended.map(moment),
            "digest": told(State::Succeeded),
            "held": one.held,
            "error": told(State::Failed),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> (Instant, SystemTime) {
        let passed = Duration::from_secs(seconds);
        (start + passed, SystemTime::UNIX_EPOCH + passed)
    }

    #[test]
    fn a_look_ends_when_every_source_was_asked_after_the_last_who_wanted_it() {
        let start = tillgate_net::clock::now();
        let (at, actor) = (|seconds| at(start, seconds), "token:ops".into());
        let look = |source, began| Look { source, of: 2, began: at(began).0 };
        let mut all = Operations::new(7);
        let (id, is_new) = all.begin(&actor, at(10)).unwrap();
        assert!(is_new);
        assert_eq!(all.begin(&actor, at(11)), Ok((Arc::clone(&id), false)));
        all.run();
        let state = |all: &Operations| all.show(&id).unwrap()["state"].clone();
        all.looked(look(0, 9), Ok(("sha256:ab", None)), at(12).1);
        all.looked(look(1, 12), Ok(("sha256:ab", None)), at(12).1);
        all.looked(look(1, 13), Ok(("sha256:ab", None)), at(13).1);
        assert_eq!(state(&all), "Running", "the first was asked before");
        // Who comes later gets the same one, and what was read before is not enough for him.
        assert_eq!(all.begin(&actor, at(14)), Ok((Arc::clone(&id), false)));
        all.looked(look(0, 14), Err("no such file"), at(15).1);
        assert_eq!(state(&all), "Running");
        all.looked(look(1, 15), Ok(("sha256:ab", Some("a freeze"))), at(16).1);
        let shown = all.show(&id).unwrap();
        assert_eq!((&shown["state"], &shown["held"]), (&json!("Succeeded"), &json!("a freeze")));
        all.looked(look(1, 16), Err("too late"), at(17).1);
        assert_eq!(all.show(&id).unwrap()["digest"], "sha256:ab");
        let (next, is_new) = all.begin(&actor, at(18)).unwrap();
        assert!(is_new && next != id);
    }

    #[test]
    fn who_asks_without_end_is_told_to_wait() {
        let start = tillgate_net::clock::now();
        let (at, actor) = (|seconds| at(start, seconds), "token:ops".into());
        let mut all = Operations::new(7);
        let (first, _) = all.begin(&actor, at(0)).unwrap();
        assert!(all.begin(&actor, at(59)).is_ok());
        assert!(all.begin(&actor, at(60)).is_err(), "it would never end");
        let end = |all: &mut Operations, seconds| {
            all.run();
            let look = Look { source: 0, of: 1, began: at(seconds).0 };
            all.looked(look, Ok(("", None)), at(seconds).1);
        };
        end(&mut all, 60);
        for _ in 0..NEW_MAX {
            assert!(all.begin(&actor, at(100)).unwrap().1);
            end(&mut all, 100);
        }
        assert_eq!(all.begin(&actor, at(104)).unwrap_err().seconds, 7);
        assert!(all.begin(&actor, at(111)).unwrap().1);
        for round in 0..KEPT as u64 {
            end(&mut all, 200 + 20 * round);
            all.begin(&actor, at(210 + 20 * round)).unwrap();
        }
        assert_eq!((all.all.len(), all.show(&first)), (KEPT, None));
    }
}

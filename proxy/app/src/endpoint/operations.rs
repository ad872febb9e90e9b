//! What was asked for and takes its time: pending, running, succeeded or failed.
//!
//! Two kinds: to look for another policy, and to go back to an earlier one. Whoever asks to look
//! while one waits gets the same operation; one that runs already may have read the source too
//! early, so another follows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::past::moment;

/// Operations that can still be asked about.
const KEPT: usize = 64;

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
}

impl Operation {
    fn end(&mut self, outcome: Result<&str, &str>, now: SystemTime) {
        if self.state == State::Running {
            self.state = if outcome.is_ok() { State::Succeeded } else { State::Failed };
            self.ended = Some(now);
            self.outcome = Some(outcome.unwrap_or_else(|why| why).to_owned());
        }
    }
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

    /// The operation that waits, or another one; and whether it is new.
    pub(super) fn begin(&mut self, actor: &Arc<str>, now: SystemTime) -> (Arc<str>, bool) {
        if let Some(waiting) = self.all.iter().find(|one| one.state == State::Pending) {
            return (Arc::clone(&waiting.id), false);
        }
        (self.add(Kind::Reconcile, State::Pending, actor, now), true)
    }

    /// What is done at once; its id.
    pub(super) fn add_running(
        &mut self,
        kind: Kind,
        actor: &Arc<str>,
        now: SystemTime,
    ) -> Arc<str> {
        self.add(kind, State::Running, actor, now)
    }

    fn add(&mut self, kind: Kind, state: State, actor: &Arc<str>, now: SystemTime) -> Arc<str> {
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

    /// Whoever looked is done.
    pub(super) fn end(&mut self, outcome: Result<&str, &str>, now: SystemTime) {
        let looks = |one: &&mut Operation| one.kind == Kind::Reconcile;
        for one in self.all.iter_mut().filter(looks) {
            one.end(outcome, now);
        }
    }

    /// The operation `id` has ended.
    pub(super) fn end_one(&mut self, id: &str, outcome: Result<&str, &str>, now: SystemTime) {
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
            "error": told(State::Failed),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_one_waits_gets_the_same_one() {
        let now = SystemTime::UNIX_EPOCH;
        let actor: Arc<str> = "token:ops".into();
        let mut all = Operations::new(7);
        let (first, is_new) = all.begin(&actor, now);
        assert!(is_new);
        assert_eq!(all.begin(&actor, now), (Arc::clone(&first), false));
        all.run();
        assert_eq!(all.show(&first).unwrap()["state"], "Running");
        let (second, is_new) = all.begin(&actor, now);
        assert!(is_new && second != first, "what runs may have read too early");
        all.end(Ok("sha256:ab"), now);
        assert_eq!(all.show(&first).unwrap()["state"], "Succeeded");
        assert_eq!(all.show(&first).unwrap()["digest"], "sha256:ab");
        assert_eq!(all.show(&second).unwrap()["state"], "Pending");
        all.run();
        all.end(Err("no such file"), now);
        assert_eq!(all.show(&second).unwrap()["error"], "no such file");
        for _ in 0..2 * KEPT {
            all.begin(&actor, now);
            all.run();
            all.end(Ok(""), now);
        }
        assert_eq!((all.all.len(), all.show(&first)), (KEPT, None));
    }
}

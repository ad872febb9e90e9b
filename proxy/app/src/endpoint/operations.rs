//! What was asked for and takes its time: pending, running, succeeded or failed.
//!
//! There is one kind so far: to look for another policy. Whoever asks while one waits gets the
//! same operation; one that runs already may have read the source too early, so another follows.

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

#[derive(Debug)]
struct Operation {
    id: Arc<str>,
    actor: Arc<str>,
    state: State,
    begun: SystemTime,
    ended: Option<SystemTime>,
    /// The digest that is in effect since, or why there is none.
    outcome: Option<String>,
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
        if let Some(waiting) = self.all.front().filter(|one| one.state == State::Pending) {
            return (Arc::clone(&waiting.id), false);
        }
        self.last += 1;
        let id: Arc<str> = format!("{:08x}-{}", self.boot, self.last).into();
        self.all.push_front(Operation {
            id: Arc::clone(&id),
            actor: Arc::clone(actor),
            state: State::Pending,
            begun: now,
            ended: None,
            outcome: None,
        });
        self.all.truncate(KEPT);
        (id, true)
    }

    /// What waited is done now.
    pub(super) fn run(&mut self) {
        for one in self.all.iter_mut().filter(|one| one.state == State::Pending) {
            one.state = State::Running;
        }
    }

    /// What was done has ended.
    pub(super) fn end(&mut self, outcome: Result<&str, &str>, now: SystemTime) {
        for one in self.all.iter_mut().filter(|one| one.state == State::Running) {
            one.state = if outcome.is_ok() { State::Succeeded } else { State::Failed };
            one.ended = Some(now);
            one.outcome = Some(outcome.unwrap_or_else(|why| why).to_owned());
        }
    }

    pub(super) fn show(&self, id: &str) -> Option<Value> {
        let one = self.all.iter().find(|one| *one.id == *id)?;
        let told = |state| one.outcome.as_ref().filter(|_| one.state == state);
        Some(json!({
            "id": &*one.id,
            "kind": "Reconcile",
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

//! One call on its way through the tiers: where it goes first, and where after a failure.
//!
//! In: the rule's plan and what it says of retries, how each try ended, chance and time. Out: the
//! next endpoint and the pause before it, or why there is none. Another endpoint is asked at
//! once; the same one only after a pause.

use std::time::{Duration, Instant};

use super::plan::{Ask, Choice, Plan};
use crate::backend::BackendId;
use crate::load::{EndpointId, Verdict};
use crate::retry::{Body, Course, Ended, Next, Repeat, RetrySpec, Stop};

/// Endpoints that one call may try.
const TRIED_MAX: usize = 16;

/// A server that asks for more time than this is not waited for: its answer goes to the client,
/// who can tell what to do with so much time. Nobody at a checkout looks at a till for longer.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug)]
pub struct Trip<'a> {
    plan: &'a Plan,
    spec: &'a RetrySpec,
    course: Course,
    tried: [EndpointId; TRIED_MAX],
    count: usize,
    /// The same endpoint was asked again without having looked at the call.
    asked_again: bool,
}

/// How a try went.
#[derive(Clone, Copy, Debug)]
pub struct TryEnd {
    /// Where it was.
    pub at: Choice,
    /// How it ended.
    pub ended: Ended,
    /// Whether the request can be sent once more.
    pub body: Body,
    /// How long the server wants to be left alone.
    pub retry_after: Option<Duration>,
    /// How long the client still waits; `None`: for ever.
    pub left: Option<Duration>,
}

impl<'a> Trip<'a> {
    /// A call that may be repeated like this.
    pub const fn new(plan: &'a Plan, spec: &'a RetrySpec, repeat: Repeat) -> Self {
        let tried = [EndpointId(u32::MAX); TRIED_MAX];
        Self { plan, spec, course: Course::new(repeat), tried, count: 0, asked_again: false }
    }

    /// Where the call may be executed a second time.
    pub const fn repeat(&self) -> Repeat {
        self.course.repeat()
    }

    /// Where it goes first; `None`: nowhere.
    pub fn begin(&mut self, draw: u64, now: Instant) -> Option<Choice> {
        let choice = self.plan.pick(self.ask(None, draw), now)?;
        self.remember(choice);
        Some(choice)
    }

    /// It begins where its session is, if it may; `None`: it does not.
    pub fn begin_at(&mut self, choice: Choice, now: Instant) -> Option<Choice> {
        let choice = self.plan.keep(choice, self.course.repeat(), now)?;
        self.plan.face.count_call();
        self.remember(choice);
        Some(choice)
    }

    /// Where it goes after a try that ended like this, and after which pause.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub fn next(
        &mut self,
        end: TryEnd,
        draw: u64,
        now: Instant,
    ) -> Result<(Choice, Duration), Stop> {
        let backend = self.plan.backend(end.at);
        let withdraw = || self.plan.face.try_withdraw(now);
        let next = self.course.handle_end(end.ended, backend, self.spec, end.body, withdraw);
        let (only, number) = match next {
            Next::Stop(stop) => return Err(stop),
            Next::Again { only, number } => (only, number),
        };
        let other = self.plan.pick(self.ask(only, draw), now);
        let choice = match other {
            Some(choice) => choice,
            // What did not look at it may do so once more, on another connection.
            None if end.ended == Ended::Unseen && !self.asked_again => {
                self.asked_again = true;
                Choice { trial: false, ..end.at }
            }
            None if matches!(end.ended, Ended::Unsent | Ended::Unseen) => {
                return Err(Stop::NoOther);
            }
            None => Choice { trial: false, ..end.at },
        };
        let same = choice.is_same(end.at);
        let mut pause = Duration::ZERO;
        if other.is_none() || number > 1 {
            pause = self.spec.backoff(number, draw.rotate_left(29));
        }
        let asked = end.retry_after.filter(|_| same).unwrap_or_default();
        pause = pause.max(asked);
        if asked > RETRY_AFTER_MAX || end.left.is_some_and(|left| left <= pause) {
            self.plan.put_back(choice);
            return Err(Stop::TooLate);
        }
        self.remember(choice);
        Ok((choice, pause))
    }

    /// Where a call that waits goes on, and after which pause, if it is taken away from its
    /// endpoint now; `None`: it stays. Only an endpoint that is out is left, for one that
    /// promises more; a call of which something was sent, only when not one byte came for as long
    /// as that is suspicious. Leaving is a further try, so everything that one needs (permission,
    /// budget, time) is asked for first: a call that may not go on keeps its chance where it is.
    pub fn leave(
        &mut self,
        at: Choice,
        waits: Waits,
        draw: u64,
        now: Instant,
    ) -> Option<(Choice, Duration)> {
        let load = self.plan.load(at);
        if load.verdict() != Verdict::Out {
            return None;
        }
        let (sent, ended) = match waits.since {
            None => (Sent::No, Ended::Unsent),
            Some(since) if since + load.patience(since) <= now => (Sent::Yes, Ended::Lost),
            Some(_) => return None,
        };
        if !self.is_other(at, sent, now) {
            return None;
        }
        let mut trip = self.clone();
        let end = TryEnd { at, ended, body: waits.body, retry_after: None, left: waits.left };
        let next = trip.next(end, draw, now).ok()?;
        *self = trip;
        Some(next)
    }

    fn is_other(&self, at: Choice, sent: Sent, now: Instant) -> bool {
        let only = match (sent, self.course.repeat()) {
            (Sent::No, _) => self.course.executor(),
            (Sent::Yes, Repeat::Nowhere) => return false,
            (Sent::Yes, Repeat::SameBackend) => Some(self.plan.backend(at)),
            (Sent::Yes, Repeat::Anywhere) => None,
        };
        if sent == Sent::Yes && self.course.again() >= self.spec.attempts {
            return false;
        }
        self.plan.has_better(at, self.ask(only, 0), now)
    }

    /// A second try beside the first: somewhere else, if it may.
    pub fn beside(&mut self, at: Choice, body: Body, draw: u64, now: Instant) -> Option<Choice> {
        if body == Body::Gone || !self.is_other(at, Sent::Yes, now) {
            return None;
        }
        let only = match self.course.repeat() {
            Repeat::SameBackend => Some(self.plan.backend(at)),
            Repeat::Nowhere | Repeat::Anywhere => None,
        };
        let choice = self.plan.pick(self.ask(only, draw), now)?;
        let usable = self.plan.load(choice).verdict() == Verdict::Usable;
        if choice.trial || !usable || !self.plan.face.try_withdraw(now) {
            self.plan.put_back(choice);
            return None;
        }
        self.course.handle_hedge(self.plan.backend(at));
        self.remember(choice);
        Some(choice)
    }

    fn ask(&self, only: Option<BackendId>, draw: u64) -> Ask<'_> {
        Ask { repeat: self.course.repeat(), tried: &self.tried[..self.count], only, draw }
    }

    fn remember(&mut self, choice: Choice) {
        if self.count < TRIED_MAX {
            self.tried[self.count] = self.plan.load(choice).id();
            self.count += 1;
        }
    }
}

/// A call that waits for its endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Since when an answer is owed; `None`: nothing of it was sent.
    pub since: Option<Instant>,
    /// Whether the request can be sent once more.
    pub body: Body,
    /// How long the client still waits; `None`: for ever.
    pub left: Option<Duration>,
}

/// Whether anything of a call was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Something was, perhaps.
    Yes,
    /// Nothing was.
    No,
}

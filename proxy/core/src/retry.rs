//! Whether a call is sent again, where to, and after which pause.
//!
//! In: what may be repeated by the rule, and how each try ended. Out: the next step. A call of
//! which not one byte was sent is always tried elsewhere: that is no second execution. A call
//! that was sent is repeated only if its method is idempotent (RFC 9110 section 9.2.2), if it
//! carries the rule's idempotency key, or if the rule allows it in so many words; a key protects
//! only where it is remembered. All further tries of a rule live off one [`Budget`].

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::backend::BackendId;
use crate::hedge::HedgeSpec;
use crate::units::Percent;

mod budget;

pub use budget::{Budget, BudgetSpec};

/// When calls of a rule are sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySpec {
    /// Further tries of a call that was sent.
    pub attempts: u32,
    /// The first pause; each further one may be twice as long.
    pub backoff_base: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Answers after which a call is sent again.
    pub codes: Vec<StatusCode>,
    /// Which methods may be repeated without a key.
    pub methods: Methods,
    /// Which header carries the key, and where it is remembered.
    pub idempotency: Option<Idempotency>,
    /// How much of the traffic further tries may be.
    pub budget: BudgetSpec,
    /// Larger bodies are not kept, and so never sent again.
    pub buffer_bytes: u32,
    /// A second try beside a slow one.
    pub hedge: Option<HedgeSpec>,
}

/// Which methods may be repeated without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Those that are idempotent by their definition.
    Idempotent,
    /// All: the rule says so.
    All,
}

/// A header that makes calls repeatable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Its name.
    pub header: HeaderName,
    /// Where the key is remembered.
    pub scope: Scope,
}

/// Where a key is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Inside one backend.
    Backend,
    /// By all backends of the rule together.
    AllBackends,
}

/// What a budget saves, it keeps for so long.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// Where a call may be executed a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Nowhere.
    Nowhere,
    /// By the backend that may have executed it.
    SameBackend,
    /// Everywhere.
    Anywhere,
}

/// Why a call may be executed a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Its method is idempotent.
    Method,
    /// It carries the rule's key, which is remembered there.
    Key(Scope),
    /// The rule says so of every call.
    Rule,
    /// It may not.
    None,
}

impl Permission {
    /// Where.
    pub const fn repeat(self) -> Repeat {
        match self {
            Self::Method | Self::Rule | Self::Key(Scope::AllBackends) => Repeat::Anywhere,
            Self::Key(Scope::Backend) => Repeat::SameBackend,
            Self::None => Repeat::Nowhere,
        }
    }
}

impl RetrySpec {
    /// Nothing that was sent is sent again.
    pub const fn never() -> Self {
        Self {
            attempts: 0,
            backoff_base: Duration::ZERO,
            backoff_max: Duration::ZERO,
            codes: Vec::new(),
            methods: Methods::Idempotent,
            idempotency: None,
            budget: BudgetSpec { percent: Percent::FULL, min_per_second: 0 },
            buffer_bytes: 0,
            hedge: None,
        }
    }

    /// Where a call may be executed a second time.
    pub fn repeat(&self, method: &Method, headers: &HeaderMap) -> Repeat {
        self.permission(method, headers).repeat()
    }

    /// Why a call may be executed a second time, if it may.
    pub fn permission(&self, method: &Method, headers: &HeaderMap) -> Permission {
        if method.is_idempotent() {
            return Permission::Method;
        }
        let keyed = |key: &&Idempotency| {
            headers.get(&key.header).is_some_and(|value| !value.as_bytes().trim_ascii().is_empty())
        };
        // A key says more than a permission for all: whoever sends one relies on its memory.
        match (self.idempotency.as_ref().filter(keyed).map(|key| key.scope), self.methods) {
            (Some(scope), _) => Permission::Key(scope),
            (None, Methods::All) => Permission::Rule,
            (None, Methods::Idempotent) => Permission::None,
        }
    }

    /// The longest pause before the `number`th further try, counted from one.
    pub fn longest_backoff(&self, number: u32) -> Duration {
        let doubled = self.backoff_base.saturating_mul(1 << number.saturating_sub(1).min(16));
        doubled.min(self.backoff_max)
    }

    /// Of that any part, by chance ("full jitter").
    pub fn backoff(&self, number: u32, draw: u64) -> Duration {
        let longest = self.longest_backoff(number);
        let ceiling = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(draw % ceiling.saturating_add(1))
    }
}

/// How one try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing of it was sent, and it would be no use to ask there again.
    Unsent,
    /// Its server has not looked at it: it refused the connection or the stream, or went away in
    /// order. A new connection may find it, or its successor, in a better mood.
    Unseen,
    /// It was sent, and no answer came.
    Lost,
    /// With this answer.
    Answered(StatusCode),
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// What the try ended with is passed on.
    Stop(Stop),
    /// One more try.
    Again {
        /// In this backend only; `None`: anywhere.
        only: Option<BackendId>,
        /// Whether the pause of a try at the same server applies: this was the `number`th
        /// further try of one that was sent.
        number: u32,
    },
}

/// Why there is no further try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The answer is one.
    Answer,
    /// It may have been executed, and must not be twice.
    Forbidden,
    /// Its body is not there any more.
    BodyGone,
    /// As many tries as it may have.
    Attempts,
    /// Too much of the traffic is further tries.
    Budget,
    /// There is nowhere else to go.
    NoOther,
    /// The client would not wait for it.
    TooLate,
}

impl Stop {
    /// As printed in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Forbidden => "not_idempotent",
            Self::BodyGone => "body_gone",
            Self::Attempts => "attempts",
            Self::Budget => "budget",
            Self::NoOther => "no_other",
            Self::TooLate => "too_late",
        }
    }
}

/// The tries of one call.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    repeat: Repeat,
    /// Further tries of what was sent.
    again: u32,
    /// Tries of which nothing was sent.
    unsent: u32,
    /// Who may have executed it.
    executor: Option<BackendId>,
}

/// Tries that may fail before anything is sent: more endpoints than a rule commonly has. Each
/// costs a refused connection; a server that does nothing but refuse must not loop us.
const UNSENT_MAX: u32 = 8;

impl Course {
    /// A call that may be repeated like this.
    pub const fn new(repeat: Repeat) -> Self {
        Self { repeat, again: 0, unsent: 0, executor: None }
    }

    /// Where it may be executed a second time.
    pub const fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// Further tries so far of what was sent.
    pub const fn again(&self) -> u32 {
        self.again
    }

    /// Who may have executed it.
    pub const fn executor(&self) -> Option<BackendId> {
        self.executor
    }

    /// A second try begins beside one at `backend`.
    pub const fn handle_hedge(&mut self, backend: BackendId) {
        self.executor = Some(backend);
        self.again += 1;
    }

    /// A try at `backend` has ended; `body` is what became of the request's. `withdraw` takes one
    /// try from the budget, if there is one.
    pub fn handle_end(
        &mut self,
        ended: Ended,
        backend: BackendId,
        spec: &RetrySpec,
        body: Body,
        withdraw: impl FnOnce() -> bool,
    ) -> Next {
        if let Ended::Answered(status) = ended
            && !spec.codes.contains(&status)
        {
            return Next::Stop(Stop::Answer);
        }
        let unseen = matches!(ended, Ended::Unsent | Ended::Unseen);
        if !unseen {
            self.executor = Some(backend);
        }
        if body == Body::Gone {
            return Next::Stop(Stop::BodyGone);
        }
        let only = match (self.executor, self.repeat) {
            (None, _) => None,
            (Some(_), Repeat::Nowhere) => return Next::Stop(Stop::Forbidden),
            (Some(executor), Repeat::SameBackend) => Some(executor),
            (Some(_), Repeat::Anywhere) => None,
        };
        if unseen {
            self.unsent += 1;
            if self.unsent >= UNSENT_MAX {
                return Next::Stop(Stop::Attempts);
            }
            return Next::Again { only, number: self.again + 1 };
        }
        if self.again >= spec.attempts {
            return Next::Stop(Stop::Attempts);
        }
        if !withdraw() {
            return Next::Stop(Stop::Budget);
        }
        self.again += 1;
        Next::Again { only, number: self.again }
    }
}

/// Whether a request's body can be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It can.
    Kept,
    /// It was too large to keep, or is a stream.
    Gone,
}

#[cfg(test)]
mod tests;

//! Looks after a call that waits: its server's silence is told, and when that server is dead, the
//! call is taken away from it, if it may go on elsewhere.
//!
//! A call that is answered soon sets one timer and nothing else. One that waits for longer than it
//! should is woken by what others find out; until then it costs a look a second.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tillgate_core::failover::{Choice, Trip, Waits};
use tillgate_core::load::{Load, Verdict};
use tillgate_core::retry::Body;
use tillgate_net::http::flow::Flow;
use tillgate_net::http::head::{Look, Watch};
use tokio::sync::futures::Notified;

use super::Left;
use crate::failover::Failover;
use crate::send::Keeper;

/// Until a call that nothing was sent of is looked at for the first time: connecting and waiting
/// for a place are nearly always over by then.
const SOON: Duration = Duration::from_millis(100);

/// Between two looks at a call that is woken by news: budgets fill and data grows old without any.
const SELDOM: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Attend<'t, 'f> {
    trip: Trip<'t>,
    failover: &'f Failover,
    load: &'f Load,
    at: Choice,
    body: Keeper,
    /// Connections it had been sent on before this try.
    tries: u32,
    /// How long its client waits in all.
    limit: Option<Duration>,
    has_looked: bool,
    /// News of endpoints.
    news: Option<Pin<Box<Notified<'f>>>>,
    next: Option<(Choice, Duration)>,
}

impl<'t, 'f> Attend<'t, 'f> {
    pub(super) fn new(
        trip: Trip<'t>,
        (failover, load): (&'f Failover, &'f Load),
        at: Choice,
        (body, tries, limit): (Keeper, u32, Option<Duration>),
    ) -> Self {
        let (has_looked, news, next) = (false, None, None);
        Self { trip, failover, load, at, body, tries, limit, has_looked, news, next }
    }

    /// Where the call goes on, if it was taken away.
    pub(super) fn into_left(self) -> Option<Left<'t>> {
        let Self { trip, next, .. } = self;
        next.map(|next| Left { trip, next })
    }

    /// From now on it is woken by what is found out.
    fn listen(&mut self) {
        if self.news.is_none() {
            self.news = Some(Box::pin(self.failover.news.notified()));
        }
    }

    /// Whether it goes on elsewhere.
    fn leaves(&mut self, since: Option<Instant>, flow: &Flow, now: Instant) -> bool {
        if self.load.verdict() != Verdict::Out {
            return false;
        }
        let body = if since.is_some() { self.body.get() } else { Body::Kept };
        let had = now.saturating_duration_since(flow.born());
        let left = self.limit.map(|limit| limit.saturating_sub(had));
        let waits = Waits { since, body, left };
        self.next = self.trip.leave(self.at, waits, fastrand::u64(..), now);
        self.next.is_some()
    }

    /// Nothing of it was sent: it waits for a place or a connection.
    fn look_at_queue(&mut self, flow: &Flow, now: Instant) -> Look {
        if !std::mem::replace(&mut self.has_looked, true) {
            return Look::At(now + SOON);
        }
        self.listen();
        if self.leaves(None, flow, now) { Look::Leave } else { Look::At(now + SELDOM) }
    }

    /// It was sent, and its server owes an answer since then.
    fn look_at_silence(&mut self, since: Instant, flow: &Flow, now: Instant) -> Look {
        let patience = since + self.load.patience(since);
        let is_patient = now < patience;
        if !is_patient {
            self.listen();
        }
        if self.leaves(Some(since), flow, now) {
            return Look::Leave;
        }
        // A byte of another call shows that its server lives.
        let heard = self.load.heard_at().map_or(since, |heard| heard.max(since));
        let suspicious = self.load.stall_after().map(|after| heard + after);
        if suspicious.is_some_and(|at| at <= now) {
            self.failover.suspect(self.load, since, now);
        }
        let ahead = suspicious.filter(|at| *at > now).unwrap_or(now + SELDOM);
        Look::At(if is_patient { ahead.min(patience) } else { ahead.min(now + SELDOM) })
    }
}

impl Watch for Attend<'_, '_> {
    fn look(&mut self, flow: &Flow, now: Instant) -> Look {
        // What comes back from a closed connection waits for the next one and was not sent.
        if flow.tries() <= self.tries || flow.is_queued() {
            return self.look_at_queue(flow, now);
        }
        match flow.owed_since() {
            Some(since) => self.look_at_silence(since, flow, now),
            // It is its client's turn.
            None => Look::At(now + SELDOM),
        }
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(news) = &mut self.news else { return Poll::Pending };
        let polled = news.as_mut().poll(cx);
        if polled.is_ready() {
            self.news = None;
        }
        polled
    }
}

//! Two tries at one time: a second one beside one that is slow.
//!
//! Whoever answers well first has won; the other one is dropped, which cancels it. What a try has
//! shown that nobody waits for is remembered all the same.

use std::pin::pin;
use std::time::Duration;

use tillgate_core::failover::{Choice, Trip};
use tillgate_core::health::Outcome as Ending;
use tillgate_core::retry::Body;
use tillgate_net::circuit::Turn;
use tillgate_net::clock;

use super::{Going, Left, Tried, Tries};
use crate::outcome::Outcome;
use crate::problem::Refusal;
use crate::send::{self, Message};

impl Tries<'_> {
    /// Begins a second try beside the first one after a while; who answers well first has won.
    pub(super) async fn hedge<'t>(
        &self,
        (first, at): (impl Future<Output = Tried<'t>>, Choice),
        after: Duration,
        message: &mut Message,
        trip: &mut Trip<'t>,
        outcome: &Outcome,
    ) -> Result<Tried<'t>, Refusal> {
        let mut first = pin!(first);
        tokio::select! {
            biased;
            tried = &mut first => return Ok(tried),
            () = tokio::time::sleep(after) => {}
        }
        let body = message.keeper(outcome.speech());
        let has_body = if body.is_whole() { Body::Kept } else { Body::Gone };
        let other = trip.beside(at, has_body, fastrand::u64(..), clock::now());
        let Some(other) = other else { return Ok(first.await) };
        let (target, turn, visit) = (self.target(other), Turn::Further, self.enter(other));
        let going = Going { at: other, target, turn, visit };
        let sending = message.ready(going.target.dialect(), self.socket, outcome)?;
        let flow = outcome.flow();
        let second = self.attempt(going, sending, (body, trip.clone()), flow);
        let mut second = pin!(self.made(second, flow));
        self.running.failover.meters.retry(&self.rule.1.route, "hedge");
        let (tried, is_first) = tokio::select! {
            tried = &mut first => (tried, true),
            tried = &mut second => (tried, false),
        };
        if tried.is_good(outcome.speech()) {
            return Ok(tried);
        }
        // Whoever is left may do better; what the other has shown is not lost.
        self.forgo(tried, outcome);
        let mut last = if is_first { second.await } else { first.await };
        // Where it was to go on was found without the other try, so it is looked for again.
        self.put_back(last.left.take());
        Ok(last)
    }

    /// Remembers how a try went that nobody waits for.
    fn forgo(&self, tried: Tried<'_>, outcome: &Outcome) {
        match &tried.result {
            Ok(reply) => {
                let ending = Ending::of_status(send::status_of(&reply.head, outcome.speech()));
                self.answered(&tried.visit, ending, tried.began);
            }
            Err(unanswered) => {
                let failed = (unanswered.refusal.failure, unanswered.unsent);
                // The call goes on in the other try.
                let _ = self.lost(&tried.visit, failed, tried.began, outcome);
            }
        }
        self.put_back(tried.left);
    }

    /// A call does not go on there.
    fn put_back(&self, left: Option<Left<'_>>) {
        if let Some(left) = left {
            self.plan().put_back(left.next.0);
        }
    }
}

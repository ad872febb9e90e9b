//! Who asks one source, again and again, at the times that the poll's machine says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tillgate_core::reconcile::{Hint, Poll, PollSpec, Polled};
use tillgate_net::clock;
use tillgate_net::metrics::SourceMeter;
use tokio::sync::{mpsc, oneshot, watch};

use super::wall;
use crate::gateway::Gateway;
use crate::sources::directory::LOOK_EVERY;
use crate::sources::{FetchError, Fetched, Source, SourceSpec};

/// What a question may take beyond the source's own patience before it is given up: what it waits
/// for the line does not count there.
const PATIENCE_FACTOR: u32 = 2;

/// And for what else there is.
const MARGIN: Duration = Duration::from_secs(30);

/// What is heard of a source.
pub(super) enum Said {
    /// It has answered.
    Answers(Answer),
    /// It is not asked because somebody wants that: it has failed, and is left alone.
    Rests { source: usize, at: Instant },
}

/// What a source gave, and where to say that it need not give it again.
pub(super) struct Answer {
    pub(super) source: usize,
    /// When it was asked.
    pub(super) began: Instant,
    pub(super) result: Result<Fetched, FetchError>,
    pub(super) took: Duration,
    /// By how many seconds this machine's clock is ahead of its own, if it has proven who it is.
    pub(super) ahead: Option<f64>,
    pub(super) settles: oneshot::Sender<bool>,
}

/// One source, and when it is asked.
pub(super) struct Watched {
    pub(super) number: usize,
    pub(super) spec: SourceSpec,
    pub(super) source: Source,
    pub(super) poll: Poll,
    pub(super) meter: SourceMeter,
}

impl Watched {
    /// When a source is asked. `hash` is of the store; `something` = it has a policy.
    pub(super) fn poll(spec: &SourceSpec, hash: u64, something: bool) -> Poll {
        let poll = if spec.is_near() {
            PollSpec { interval: LOOK_EVERY, long_poll: Duration::ZERO, spread: Duration::ZERO }
        } else {
            let (interval, long_poll) = (spec.interval, spec.long_poll);
            PollSpec { interval, long_poll, spread: spec.spread }
        };
        Poll::new(poll, hash, something && !spec.is_near(), clock::now())
    }

    /// Asks until nobody listens. A change of `hints` is a word that there is something new; it
    /// counts those of people.
    pub(super) async fn ask(
        mut self,
        gateway: Arc<Gateway>,
        answers: mpsc::Sender<Said>,
        mut hints: watch::Receiver<u64>,
    ) {
        let mut known = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.poll.poll_timeout().into()) => {}
                hinted = hints.changed() => {
                    if hinted.is_err() {
                        return;
                    }
                    let (source, at) = (self.number, clock::now());
                    let before = std::mem::replace(&mut known, *hints.borrow_and_update());
                    let hint = if known > before { Hint::Operator } else { Hint::Webhook };
                    let is_asked = self.poll.hint(hint, at);
                    if !is_asked && answers.send(Said::Rests { source, at }).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            let began = clock::now();
            self.poll.begin(began);
            let most = (self.spec.timeout + self.spec.long_poll) * PATIENCE_FACTOR + MARGIN;
            let asked = tokio::time::timeout(most, self.source.fetch(&gateway)).await;
            let result = asked.unwrap_or_else(|_| {
                Err(format!("no answer within {most:?}, the line's waits included").into())
            });
            self.note(&result);
            let (settles, settled) = oneshot::channel();
            let took = clock::now().saturating_duration_since(began);
            let (source, ahead) = (self.number, self.source.ahead());
            let answer = Answer { source, began, result, took, ahead, settles };
            if answers.send(Said::Answers(answer)).await.is_err() {
                return;
            }
            if settled.await.unwrap_or(false) {
                self.source.settle();
            }
        }
    }

    fn note(&mut self, result: &Result<Fetched, FetchError>) {
        let polled = match result {
            Ok(Fetched::Same { held } | Fetched::Bundle { held, .. }) => {
                Polled::Answered { held: *held }
            }
            // A look costs nothing, and a stick that is put in shall count.
            Err(_) if self.spec.is_near() => Polled::Answered { held: false },
            Err(error) => Polled::Failed { retry_after: error.retry_after },
        };
        self.poll.handle_polled(polled, fastrand::u64(..), clock::now());
        match result {
            Ok(Fetched::Same { .. }) => self.meter.not_modified.inc(),
            Ok(Fetched::Bundle { .. }) => self.meter.updated.inc(),
            Err(_) => self.meter.error.inc(),
        };
        if result.is_ok() {
            self.meter.answered.set(wall().0 as f64);
        }
        self.meter.back_off.set(self.poll.back_off().as_secs_f64());
    }
}

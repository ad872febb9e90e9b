//! A call at an endpoint: counted while it lasts, and what it shows of the endpoint told once.
//!
//! An answer is good when it has come to its end; one that may go on for ever is settled when it
//! begins. Whatever becomes of the call, its place and its trial are given back.

use std::sync::Arc;

use tillgate_core::failover::Choice;
use tillgate_core::health::{Loss, Outcome as Ending};
use tillgate_core::load::{Load, Stamp, Verdict};
use tillgate_net::circuit::Place;
use tillgate_net::clock;
use tillgate_net::http::flow::Flow;
use tillgate_net::http::grpc::Speech;

use crate::failover::Failover;
use crate::send::{self, Reply, Unanswered};

/// A call at an endpoint, counted there for as long as this lives.
#[derive(Debug)]
pub(crate) struct Visit {
    load: Arc<Load>,
    /// The endpoint as it was when the call came there.
    stamp: Stamp,
    trial: bool,
    failover: Arc<Failover>,
    /// Its place at the backend.
    pub(super) place: Option<Place>,
    /// It is answered well, if nothing comes in between until its end.
    good: bool,
    /// Its answer goes on for as long as it likes.
    streams: bool,
}

impl Visit {
    pub(super) fn enter(load: &Arc<Load>, at: Choice, failover: &Arc<Failover>) -> Self {
        load.enter();
        let failover = Arc::clone(failover);
        let (stamp, load) = (load.stamp(), Arc::clone(load));
        Self { load, stamp, trial: at.trial, failover, place: None, good: false, streams: false }
    }

    pub(crate) const fn load(&self) -> &Arc<Load> {
        &self.load
    }

    pub(super) const fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(super) fn answers(&mut self, result: &Result<Reply, Unanswered>, speech: Speech) {
        let status = result.as_ref().map(|reply| send::status_of(&reply.head, speech));
        self.good = status.is_ok_and(|status| Ending::of_status(status) == Ending::Good);
    }

    /// Its answer goes on for as long as it likes, so what there is of it has to do; and nobody
    /// waits for its end.
    pub(crate) fn stream(&mut self, flow: &Arc<Flow>) {
        self.settle();
        if !std::mem::replace(&mut self.streams, true) {
            self.load.stream_begins();
        }
        self.failover.keep_stream(self.load.id(), flow);
    }

    fn settle(&mut self) {
        if std::mem::take(&mut self.good) {
            self.load.succeeded();
            if self.load.verdict() != Verdict::Usable {
                self.failover.tell(self.stamp, Ending::Good);
            }
        }
        if std::mem::take(&mut self.trial) {
            self.load.end_trial();
        }
    }

    /// It has ended before its answer, for a reason that says nothing of its server.
    pub(crate) const fn is_unfinished(&mut self) {
        self.good = false;
    }

    /// Its answer broke off.
    pub(crate) fn cut(&mut self) {
        self.good = false;
        self.load.lost(clock::now());
        self.failover.tell(self.stamp, Ending::Lost(Loss::Reset));
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.streams {
            self.load.stream_ended();
        }
        self.load.leave();
        self.settle();
    }
}

//! What happens beside a connection while it is served: the drain's phases, and the time that its
//! client takes.

use std::sync::atomic::Ordering;

use super::requests::Requests;
use super::watch::Verdict;
use crate::clock;
use crate::drain::Phase;
use crate::error::Failure;

/// What a connection's task hears beside its connection.
pub(super) enum Beside {
    Phase(Phase),
    /// The request that was owed has come.
    First,
    Tick,
}

/// What is to be done about it.
pub(super) enum Answer {
    Nothing,
    /// The current request is the last one.
    Finish,
    Close,
}

impl Beside {
    /// What follows from it.
    pub(super) fn answer(self, requests: &Requests) -> Answer {
        let Requests { watch, owed, .. } = requests;
        match self {
            Self::Phase(Phase::Open) => Answer::Nothing,
            Self::Phase(Phase::Draining) if watch.has_begun() => Answer::Finish,
            Self::Phase(Phase::Draining) => {
                owed.store(true, Ordering::Relaxed);
                Answer::Nothing
            }
            Self::Phase(Phase::CutBulk) if watch.has_critical() => Answer::Nothing,
            Self::Phase(Phase::CutBulk | Phase::CutAll) => {
                watch.end_all(Failure::Drained);
                Answer::Close
            }
            Self::First => {
                owed.store(false, Ordering::Relaxed);
                Answer::Finish
            }
            Self::Tick if owed.swap(false, Ordering::Relaxed) => Answer::Finish,
            Self::Tick if requests.has_lost_client() => Answer::Finish,
            Self::Tick => {
                let entry = &requests.place.entry;
                let verdict = watch.judge(clock::now(), &entry.limits());
                if verdict != Verdict::Keep && watch.overstays() {
                    entry.meter.timeouts.inc();
                }
                match verdict {
                    Verdict::Keep => Answer::Nothing,
                    Verdict::Finish => Answer::Finish,
                    Verdict::Close => Answer::Close,
                }
            }
        }
    }
}

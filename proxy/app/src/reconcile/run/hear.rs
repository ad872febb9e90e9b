//! What sources say, and what whoever asked to look learns of it.
//!
//! An operation ends when every source was asked after it was asked for. It has failed if a source
//! gives what is refused, or if none has what runs or what may run later: one that has nothing, as
//! a stick that is not there, takes nothing from the others.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_core::reconcile::Wall;
use tillgate_net::{clock, threads};

use super::Loop;
use crate::endpoint::Look;
use crate::reconcile::wall;
use crate::reconcile::watch::{Answer, Said};

/// Clocks that are no further apart, in seconds, are right, both of them: `Date` tells whole
/// seconds, and a line may be slow.
const CLOCKS_AGREE: f64 = 30.0;

/// What a source said last.
pub(super) struct SourceState {
    pub(super) name: Arc<str>,
    /// Whether it can ever be asked.
    pub(super) is_asked: bool,
    pub(super) answered: Option<u64>,
    pub(super) heard: Option<Instant>,
    pub(super) error: Option<String>,
    /// The policy that it gave last, as the status has it.
    pub(super) has: Value,
    /// Why what it gave last is not taken, if it never will be.
    pub(super) refused: Option<String>,
}

/// How what a source has stands to what runs.
enum Stance {
    /// It runs.
    Runs,
    /// It waits for its time, which is all that is known to be wrong with it.
    Waits(String),
    /// It is refused.
    Refused(String),
    /// There is none, or another one than what runs.
    Other(String),
}

impl SourceState {
    /// One that was not asked yet; `never` = why it cannot be.
    pub(super) fn new(name: Arc<str>, never: Option<String>) -> Self {
        Self {
            name,
            is_asked: never.is_none(),
            answered: None,
            heard: None,
            error: never,
            has: Value::Null,
            refused: None,
        }
    }

    /// As the status has it.
    pub(super) fn show(&self) -> Value {
        json!({
            "name": &*self.name,
            "lastAnswer": self.answered.map(|at| wall_text(Wall(at))),
            "error": self.error,
        })
    }
}

impl Loop {
    /// Takes what a source says, and ends what waited for that.
    pub(super) fn hears(&mut self, said: Said) {
        let (source, began) = match said {
            Said::Answers(answer) => {
                let look = (answer.source, answer.began);
                self.hear(answer);
                look
            }
            Said::Rests { source, at } => (source, at),
        };
        self.looked(source, began);
    }

    /// Nobody can be asked: whoever asked to look learns that at once.
    pub(super) fn looks_nowhere(&self) {
        self.looked(0, clock::now());
    }

    fn looked(&self, source: usize, began: Instant) {
        let of = self.sources.values().filter(|state| state.is_asked).count();
        let digest = Arc::clone(&self.gateway.running().effective.digest);
        let found = self.found_now();
        let outcome = found.as_ref().map(|held| (&*digest, held.as_deref()));
        let outcome = outcome.map_err(String::as_str);
        self.gateway.endpoint.looked(Look { source, of, began }, outcome);
    }

    /// What is to be said of all that the sources have now: what waits, or why nothing of it runs.
    fn found_now(&self) -> Result<Option<String>, String> {
        let (mut runs, mut waits, mut refused, mut others) = (false, vec![], vec![], vec![]);
        for (number, state) in &self.sources {
            let told = |why: &str| format!("{}: {why}", state.name);
            match self.stance(*number, state) {
                Stance::Runs => runs = true,
                Stance::Waits(why) => waits.push(why),
                Stance::Refused(why) => refused.push(told(&why)),
                Stance::Other(why) => others.push(told(&why)),
            }
        }
        if !refused.is_empty() {
            return Err(refused.join("; "));
        }
        if !runs && waits.is_empty() {
            return Err(others.join("; "));
        }
        Ok((!waits.is_empty()).then(|| waits.join("; ")))
    }

    fn stance(&self, number: usize, state: &SourceState) -> Stance {
        if let Some(why) = &state.error {
            return Stance::Other(why.clone());
        }
        if let Some(why) = &state.refused {
            return Stance::Refused(why.clone());
        }
        let running = self.machine.running();
        if running.is_some_and(|running| state.has["digest"] == *running.digest) {
            return Stance::Runs;
        }
        if self.waiting.as_ref().is_some_and(|waiting| waiting.source == number) {
            let why = self.conditions.message("Held").unwrap_or("its policy waits");
            return Stance::Waits(why.to_owned());
        }
        Stance::Other(match state.has["sequence"].as_u64() {
            Some(sequence) => format!("it has sequence {sequence}, which is not in effect"),
            None => "it has no policy".to_owned(),
        })
    }

    fn hear(&mut self, answer: Answer) {
        let Answer { source, result, took, ahead, settles, .. } = answer;
        let Some(state) = self.sources.get_mut(&source) else { return };
        let (name, kind) = (Arc::clone(&state.name), format!("FetchFailed/{}", state.name));
        if let Some(ahead) = ahead {
            self.meters.offset(&name, ahead);
            if ahead.abs() <= CLOCKS_AGREE {
                self.gateway.clock.is_vouched();
            }
        }
        let settled = match result {
            Err(error) => {
                state.error = Some(error.why.clone());
                if self.conditions.raise(&kind, "FetchFailed", &error.why) {
                    tracing::warn!(source = &*name, why = error.why, "no policy from a source");
                }
                if let Some(bytes) = error.instead {
                    self.quarantine(&bytes);
                }
                false
            }
            Ok(fetched) => {
                state.error = None;
                state.answered = Some(wall().0);
                state.heard = Some(clock::now());
                if self.conditions.is(&kind) {
                    tracing::info!(source = &*name, "a source answers again");
                    self.conditions.clear(&kind);
                }
                self.offer(source, fetched, took)
            }
        };
        // A source that has ended does not listen.
        let _ = settles.send(settled);
        threads::release_freed();
    }
}

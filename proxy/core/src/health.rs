//! The health of one endpoint: what probes say, what real calls say, and who is believed.
//!
//! In: results of probes, outcomes of calls, silence, time. Out: a [`Verdict`], with its cause,
//! for status and logs. Failing calls count whatever probes say; a passing probe alone never
//! brings an endpoint back: that takes good probes *and* good real calls, one at a time. Failing
//! probes count whatever calls say. Nothing here knows of other endpoints, tiers or lines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::breaker::{Breaker, BreakerState};
use crate::load::Verdict;
use crate::stall::Stall;

mod outcomes;
mod probes;
mod spec;

use outcomes::Outcomes;
pub use probes::Probes;
pub use spec::{Expected, HealthSpec, PassiveSpec, ProbeKind, ProbeSpec};

/// How a real call ended, as far as its server is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; below 500 everything is an answer.
    Good,
    /// It answered 502, 503 or 504.
    GatewayError,
    /// It answered 500, 501 or above 504.
    ServerError,
    /// It did not answer.
    Lost(Loss),
}

impl Outcome {
    /// What an answer of this status is.
    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Good,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its name has no address.
    Unresolved,
    /// Nothing listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// No connection in time.
    ConnectTimeout,
    /// The connection ended or broke.
    Reset,
    /// No answer in time.
    Timeout,
    /// What came is not an answer.
    Protocol,
}

impl Loss {
    /// Whether nothing at all came back, so that the line may be to blame.
    pub const fn is_silence(self) -> bool {
        matches!(self, Self::Unreachable | Self::ConnectTimeout | Self::Timeout)
    }

    /// As printed in status, metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// It is well.
    Good,
    /// It answered, but not well.
    Unwell(StatusCode),
    /// It says by gRPC that it does not serve.
    NotServing,
    /// It did not answer.
    Lost(Loss),
}

impl Probed {
    /// As printed in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unwell(_) => "status",
            Self::NotServing => "not_serving",
            Self::Lost(loss) => loss.label(),
        }
    }
}

/// Why an endpoint is not usable, or was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A probe failed as often as it may.
    Probe(Probed),
    /// Calls did not get an answer.
    Lost(Loss),
    /// Answers 502, 503, 504 in a row.
    GatewayErrors,
    /// Answers of 500 and above in a row.
    ServerErrors,
    /// Too many of the calls of the window failed.
    Ratio,
    /// It went silent, and a probe found nothing better.
    Stall,
    /// A call that was to show whether it is well again failed.
    Trial,
}

impl Cause {
    /// As printed in status, metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Probe(Probed::Good) => "probe",
            Self::Probe(Probed::Unwell(_)) => "probe_status",
            Self::Probe(Probed::NotServing) => "probe_not_serving",
            Self::Probe(Probed::Lost(Loss::Unresolved)) => "probe_unresolved",
            Self::Probe(Probed::Lost(Loss::Refused)) => "probe_refused",
            Self::Probe(Probed::Lost(Loss::Unreachable)) => "probe_unreachable",
            Self::Probe(Probed::Lost(Loss::ConnectTimeout)) => "probe_connect_timeout",
            Self::Probe(Probed::Lost(Loss::Reset)) => "probe_reset",
            Self::Probe(Probed::Lost(Loss::Timeout)) => "probe_timeout",
            Self::Probe(Probed::Lost(Loss::Protocol)) => "probe_protocol",
            Self::Lost(loss) => loss.label(),
            Self::GatewayErrors => "gateway_errors",
            Self::ServerErrors => "server_errors",
            Self::Ratio => "failure_ratio",
            Self::Stall => "stall",
            Self::Trial => "trial_failed",
        }
    }

    /// Whether nothing at all came back, so that the line may be to blame.
    pub const fn is_silence(self) -> bool {
        match self {
            Self::Probe(Probed::Lost(loss)) | Self::Lost(loss) => loss.is_silence(),
            Self::Stall => true,
            Self::Probe(_)
            | Self::GatewayErrors
            | Self::ServerErrors
            | Self::Ratio
            | Self::Trial => false,
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Health {
    spec: Arc<HealthSpec>,
    probes: Probes,
    outcomes: Outcomes,
    breaker: Breaker,
    stall: Stall,
    /// Since when its silence has been under suspicion.
    suspect_since: Option<Instant>,
    /// What took it out last, and when.
    cause: Option<Cause>,
    failed_at: Option<Instant>,
    last_failure: Option<(Cause, Instant)>,
}

impl Health {
    /// An endpoint of which nothing bad is known.
    pub fn new(spec: Arc<HealthSpec>, now: Instant) -> Self {
        let passive = spec.passive;
        Self {
            probes: Probes::default(),
            outcomes: Outcomes::new(now),
            breaker: Breaker::new(passive.breaker),
            stall: Stall::new(passive.stall),
            suspect_since: None,
            cause: None,
            failed_at: None,
            last_failure: None,
            spec,
        }
    }

    /// Another config: what is known stays.
    pub fn reconfigure(&mut self, spec: Arc<HealthSpec>) {
        self.breaker.reconfigure(spec.passive.breaker);
        self.stall.reconfigure(spec.passive.stall);
        if spec.active.is_none() {
            self.probes = Probes::default();
            self.suspect_since = None;
        }
        self.spec = spec;
    }

    /// Its config.
    pub const fn spec(&self) -> &Arc<HealthSpec> {
        &self.spec
    }

    /// Whether calls may go there.
    pub const fn verdict(&self) -> Verdict {
        if !self.probes.are_good() {
            return Verdict::Out;
        }
        match self.breaker.state() {
            BreakerState::Open { .. } => Verdict::Out,
            _ if self.suspect_since.is_some() => Verdict::Suspect,
            BreakerState::HalfOpen => Verdict::Trial,
            BreakerState::Closed => Verdict::Usable,
        }
    }

    /// Why it is not usable, or was not the last time.
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// What failed last, and when.
    pub const fn last_failure(&self) -> Option<(Cause, Instant)> {
        self.last_failure
    }

    /// Good calls, one at a time, that it still has to answer to be usable.
    pub const fn trials_missing(&self) -> u32 {
        match self.breaker.state() {
            BreakerState::Closed => 0,
            BreakerState::Open { .. } | BreakerState::HalfOpen => self.breaker.missing(),
        }
    }

    /// How it is with silence.
    pub const fn stall(&self) -> &Stall {
        &self.stall
    }

    /// What probes say.
    pub const fn probes(&self) -> &Probes {
        &self.probes
    }

    /// A probe that began then has ended. `draw` is chance.
    pub fn handle_probe(&mut self, probed: Probed, began: Instant, draw: u64, now: Instant) {
        let Some(active) = self.spec.active.clone() else { return };
        let suspected = self.suspect_since.take().is_some();
        let cause = Cause::Probe(probed);
        if probed == Probed::Good {
            // One that was under way when it failed says nothing of the time after.
            if self.failed_at.is_none_or(|failed| failed <= began) {
                self.probes.handle_good(active.healthy_threshold);
            }
            if suspected {
                self.stall.handle_alive();
            }
            return;
        }
        self.last_failure = Some((cause, now));
        let was_good = self.probes.are_good();
        self.probes.handle_bad(active.unhealthy_threshold);
        if suspected {
            self.fail(Cause::Stall, draw, now);
        } else if was_good && !self.probes.are_good() {
            self.fail(cause, draw, now);
        }
    }

    /// A call has ended, that did not begin before it failed last ([`Self::generation`]). Good
    /// ones need only be told while it is not usable; `good_ever` counts them all (and wraps).
    /// `others` says whether it may be taken out beside those that are.
    pub fn handle_outcome(
        &mut self,
        outcome: Outcome,
        (good_ever, others): (u32, Others),
        draw: u64,
        now: Instant,
    ) {
        if outcome == Outcome::Good {
            self.breaker.handle_success();
            return;
        }
        let found = self.outcomes.handle_failure(outcome, good_ever, &self.spec.passive, now);
        let found = found.filter(|_| others == Others::Enough);
        let cause = match outcome {
            Outcome::Lost(loss) => Cause::Lost(loss),
            Outcome::GatewayError => Cause::GatewayErrors,
            Outcome::ServerError | Outcome::Good => Cause::ServerErrors,
        };
        self.last_failure = Some((cause, now));
        match self.breaker.state() {
            BreakerState::HalfOpen => self.fail(Cause::Trial, draw, now),
            BreakerState::Closed => {
                if let Some(cause) = found {
                    self.fail(cause, draw, now);
                }
            }
            BreakerState::Open { .. } => self.breaker.trip(draw, now),
        }
    }

    /// Which of its lives this is. A call that began in an earlier one, and ends now, tells
    /// of a server that failed or recovered long ago. Wraps.
    pub const fn generation(&self) -> u32 {
        self.breaker.generation()
    }

    /// What is under way now was on a line that is or was down.
    pub const fn handle_outage(&mut self) {
        self.breaker.renew();
    }

    /// Whether calls have taken it out.
    pub fn is_ejected(&self) -> bool {
        let by_calls = self.cause.is_some_and(|cause| !matches!(cause, Cause::Probe(_)));
        by_calls && self.breaker.state() != BreakerState::Closed
    }

    /// So many good answers there were ever (wraps). To be told every second.
    pub fn handle_good(&mut self, good_ever: u32, now: Instant) {
        self.outcomes.handle_good(good_ever, self.spec.passive.window, now);
    }

    /// No probe could find out why it is silent.
    pub const fn handle_undecided(&mut self) {
        if self.suspect_since.take().is_some() {
            self.stall.handle_undecided();
        }
    }

    /// It owes bytes and has been silent for longer than it should. Returns whether a probe must
    /// decide now.
    pub fn handle_silence(&mut self, now: Instant) -> bool {
        if self.spec.active.is_none() || self.verdict() >= Verdict::Suspect {
            return false;
        }
        self.suspect_since = Some(now);
        true
    }

    /// It passes its probes and answers no call. `draw` is chance.
    pub fn condemn(&mut self, draw: u64, now: Instant) {
        self.last_failure = Some((Cause::Stall, now));
        self.fail(Cause::Stall, draw, now);
    }

    /// What its answers have taken lately, and whether a byte came since the last time.
    pub const fn handle_habit(&mut self, answers: u64, p99: Option<Duration>, heard: Heard) {
        self.stall.handle_habit(answers, p99);
        if matches!(heard, Heard::Yes) {
            self.stall.handle_byte();
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.breaker.handle_timeout(now);
    }

    /// When [`Self::handle_timeout`] changes something.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.breaker.poll_timeout()
    }

    /// Whatever was held against it was the line's fault.
    pub fn absolve(&mut self) {
        self.breaker.close();
        self.probes = Probes::default();
        self.suspect_since = None;
    }

    /// Whether all that is held against it may be the fault of its line, if that is down: it was
    /// silent, or what was heard was said by somebody on this side.
    pub fn may_be_its_line(&self) -> bool {
        let said_here = |cause: Cause| {
            use Loss::{Reset, Unresolved};
            matches!(
                cause,
                Cause::Probe(Probed::Lost(Unresolved | Reset)) | Cause::Lost(Unresolved | Reset)
            )
        };
        self.is_only_silent() || self.verdict() == Verdict::Out && self.cause.is_some_and(said_here)
    }

    /// Whether only silence is held against it.
    pub fn is_only_silent(&self) -> bool {
        self.verdict() >= Verdict::Suspect
            && (self.suspect_since.is_some() || self.cause.is_some_and(Cause::is_silence))
    }

    fn fail(&mut self, cause: Cause, draw: u64, now: Instant) {
        self.cause = Some(cause);
        self.failed_at = Some(now);
        self.stall.handle_verdict();
        self.breaker.trip(draw, now);
        self.outcomes.forget();
        self.suspect_since = None;
        if self.spec.active.is_some() {
            // Probes that passed before it failed prove nothing.
            self.probes.distrust();
        }
    }
}

/// Whether a backend keeps enough endpoints if one more is taken out by calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// It does.
    Enough,
    /// It does not, by its config.
    TooFew,
}

/// Whether a byte came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It did.
    Yes,
    /// It did not.
    No,
}

#[cfg(test)]
mod tests;

//! How endpoints are watched: what policy says, as values.
//!
//! Probes ask endpoints, real calls show what they are worth, and an endpoint may say how old its
//! data is. Nothing is decided here.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::breaker::BreakerSpec;
use crate::freshness::AgeSource;
use crate::stall::StallSpec;
use crate::units::Percent;

/// How the endpoints of a backend are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// By probes; `None`: not at all, and silence is not looked at.
    pub active: Option<ProbeSpec>,
    /// By real calls.
    pub passive: PassiveSpec,
    /// Where it says how old its data is; `None`: nowhere.
    pub data_age: Option<AgeSource>,
}

/// Probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    /// What is asked.
    pub kind: ProbeKind,
    /// From one probe to the next.
    pub interval: Duration,
    /// A probe without an answer by then has failed.
    pub timeout: Duration,
    /// Failed probes in a row after which it is unhealthy; at least one.
    pub unhealthy_threshold: u32,
    /// Good probes in a row after which it is healthy again; at least one.
    pub healthy_threshold: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// An HTTP request.
    Http {
        /// By this method.
        method: http::Method,
        /// For what.
        path: Arc<str>,
        /// With this `Host`; `None`: the endpoint's own.
        host: Option<Arc<str>>,
        /// Which answers are good.
        expected: Expected,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service; empty: the server as a whole.
        service: Arc<str>,
    },
    /// A TCP connection.
    Tcp,
}

/// Which answers to a probe are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any: whoever answers is alive.
    Any,
    /// Below 400.
    Success,
    /// These.
    Statuses(Vec<StatusCode>),
}

impl Expected {
    /// Whether this one is.
    pub fn takes(&self, status: StatusCode) -> bool {
        match self {
            Self::Any => true,
            Self::Success => status.as_u16() < 400,
            Self::Statuses(statuses) => statuses.contains(&status),
        }
    }
}

/// Watching real calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveSpec {
    /// Answers 502, 503 or 504 in a row after which it is out.
    pub gateway_errors: u32,
    /// Answers of 500 and above in a row after which it is out.
    pub server_errors: u32,
    /// Calls without an answer (refused, reset, timed out) in a row after which it is out.
    pub local_failures: u32,
    /// The window that the ratio is taken over.
    pub window: Duration,
    /// Part of the calls in the window that have failed, from which it is out.
    pub ratio: Percent,
    /// With fewer calls in the window, the ratio says nothing.
    pub volume: u32,
    /// Part of a backend's endpoints that calls may take out at one time; one may always be.
    pub ejected_max: Percent,
    /// How long it is out, and what brings it back.
    pub breaker: BreakerSpec,
    /// Silence.
    pub stall: StallSpec,
}

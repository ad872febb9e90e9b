//! Telemetry as one gateway runs it: which requests are logged and traced, and where to.
//!
//! Resolved by class, so that nothing is looked up per request: a class that is not listed is not
//! logged, one with a sampling of 0 % only where it fails. Without a `TelemetryPolicy` nothing is
//! logged or traced.

use std::path::Path;
use std::sync::Arc;

use http::HeaderName;
use tillgate_core::backend::{Endpoint, Location};
use tillgate_core::class::ClassId;
use tillgate_core::units::Percent;

/// Access log and traces.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TelemetrySpec {
    /// One line for each sampled request.
    pub access_log: AccessLogSpec,
    /// Spans; `None` = none are made. W3C trace context is passed on in any case.
    pub tracing: Option<TracingSpec>,
}

/// The access log: JSON lines.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AccessLogSpec {
    /// Where lines go.
    pub output: LogOutput,
    /// How much of a client's address they show.
    pub client: ClientAddress,
    /// What is logged, by [`ClassId`]; beyond its end nothing is.
    pub classes: Vec<Option<ClassLog>>,
}

impl AccessLogSpec {
    /// What is logged of `class`; `None` if nothing is.
    pub fn of(&self, class: ClassId) -> Option<&ClassLog> {
        self.classes.get(class.index())?.as_ref()
    }
}

/// How much of a client's address a line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAddress {
    /// All of it: devices of a store are not persons, and whoever looks for a fault needs to know
    /// which one.
    #[default]
    Full,
    /// Its network.
    Prefix,
    /// A hash with a key that nobody keeps.
    Hash,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum LogOutput {
    /// Standard output.
    #[default]
    Stdout,
    /// This file, appended to; opened anew on SIGHUP, so that it can be rotated.
    File(Arc<Path>),
}

/// What is logged of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassLog {
    /// How many of its requests; those that fail are logged in any case.
    pub sampling: Percent,
    /// Request headers beyond the fields that every line has, in the order of the policy.
    pub headers: Vec<LoggedHeader>,
}

/// A request header in the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedHeader {
    /// Its name.
    pub name: HeaderName,
    /// Only that it was there is logged, never its value.
    pub redacted: bool,
}

/// Spans over OTLP/HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingSpec {
    /// Where they go.
    pub endpoint: OtlpEndpoint,
    /// Where the collector is: across the line its connections are shaped.
    pub location: Location,
    /// How many of the requests that bring no trace context of their own.
    pub sampling: Percent,
    /// Class of the export on the line.
    pub class: ClassId,
}

/// The URL of a collector, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// `https`: with the system's authorities.
    pub tls: bool,
    /// Host and port.
    pub server: Endpoint,
    /// Path, as `/v1/traces`.
    pub path: Arc<str>,
}

impl std::fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.server, self.path)
    }
}

impl super::Effective {
    /// The same config with every request logged of the classes that log nothing, as
    /// `--access-log` says. The digest follows.
    #[must_use]
    pub fn with_whole_access_log(mut self) -> Self {
        let logs = &mut self.telemetry.access_log.classes;
        let whole = ClassLog { sampling: Percent::FULL, headers: Vec::new() };
        for (id, _) in self.classes.iter() {
            match logs.get_mut(id.index()) {
                Some(Some(_)) => {}
                Some(log) => *log = Some(whole.clone()),
                None => logs.push(Some(whole.clone())),
            }
        }
        let path = "telemetry.accessLog".to_owned();
        self.origins.insert(path, super::Origin::Flag("--access-log".into()));
        self.with_digest()
    }
}

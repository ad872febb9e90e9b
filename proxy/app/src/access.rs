//! The access log: one JSON line for each request and tunnel that is sampled or has failed.
//!
//! What is logged of a class is decided when a config is compiled; a request of a class that is
//! not logged costs nothing here. A line never holds a path, a query, a body or the value of a
//! header that the policy does not name; of those that it names, secrets and card numbers never.

mod line;
mod redact;

use std::sync::OnceLock;

use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use tillgate_config::effective::{ClassLog, LogOutput};

pub(crate) use self::line::Line;
pub use self::line::{FIELDS, Field};
use crate::spool::{Output, Spool};

/// The process's access log; its thread runs from the first config that wants one.
#[derive(Debug)]
pub(crate) struct AccessLog {
    spool: OnceLock<Spool>,
    dropped: Counter,
}

/// Header fields as a line shows them, made when the request is here.
pub(crate) type Shown = Box<[(http::HeaderName, String)]>;

impl AccessLog {
    /// No log yet; dropped lines are counted in `dropped`.
    pub(crate) const fn new(dropped: Counter) -> Self {
        Self { spool: OnceLock::new(), dropped }
    }

    /// Writes to `output` from here on, if `wanted` lines are.
    pub(crate) fn follow(&self, output: &LogOutput, wanted: Wanted) {
        let output = Output::Policy(output.clone());
        if let Some(spool) = self.spool.get() {
            return spool.move_to(output);
        }
        if wanted == Wanted::No {
            return;
        }
        match Spool::start("access-log", output) {
            Ok(spool) => {
                spool.count_drops(self.dropped.clone());
                // Only the admin thread comes here.
                let _ = self.spool.set(spool);
            }
            Err(error) => tracing::error!(%error, "no access log: its thread cannot start"),
        }
    }

    /// Opens its file anew.
    pub(crate) fn reopen(&self) {
        if let Some(spool) = self.spool.get() {
            spool.reopen();
        }
    }

    /// Writes `line` some time soon, or drops it.
    pub(crate) fn put(&self, line: Vec<u8>) {
        if let Some(spool) = self.spool.get() {
            spool.put(line);
        }
    }

    /// Waits, not for long, until everything is written.
    pub(crate) fn flush(&self) {
        if let Some(spool) = self.spool.get() {
            spool.flush();
        }
    }
}

/// Whether any class is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One at least.
    Yes,
    /// None.
    No,
}

/// The fields of `headers` that a class logs. Values are shown only as far as that is harmless.
pub(crate) fn show(log: &ClassLog, headers: &HeaderMap) -> Shown {
    let shown = log.headers.iter().filter_map(|wanted| {
        let value = headers.get(&wanted.name)?;
        let secret = wanted.redacted || redact::is_secret(&wanted.name);
        let text = if secret { redact::HIDDEN.to_owned() } else { redact::harmless(value) };
        Some((wanted.name.clone(), text))
    });
    shown.collect()
}

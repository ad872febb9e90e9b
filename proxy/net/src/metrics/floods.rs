//! HTTP/2 floods of one listener's clients, by kind.
//!
//! What is counted above h2 is told by its finder; what h2 found itself shows as the error that
//! its connection ended with.

use std::error::Error;

use prometheus_client::metrics::counter::Counter;

use crate::http::server::Flood;

/// See the module.
#[derive(Clone, Debug)]
pub struct FloodMeter {
    resets: Counter,
    frames: Counter,
    other: Counter,
}

impl FloodMeter {
    pub(super) fn new(counter: impl Fn(&'static str) -> Counter) -> Self {
        Self { resets: counter("resets"), frames: counter("frames"), other: counter("other") }
    }

    /// A connection is told to end.
    pub(crate) fn count(&self, flood: Flood) {
        match flood {
            Flood::Resets => self.resets.inc(),
            Flood::Frames => self.frames.inc(),
        };
    }

    /// A connection ended with `error`, which may be what h2 says of a flood.
    pub(crate) fn note(&self, error: &(dyn Error + 'static)) {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let found = error.downcast_ref::<h2::Error>();
            if found.is_some_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)) {
                self.other.inc();
                return;
            }
            cause = error.source();
        }
    }
}

//! What the rollout gate says of a pull, in the words that the mirror acts on.
//!
//! The gate looks at windows, freezes, rings and overrides; here is only its answer. A pull is
//! held before its first byte, never in the middle, and never by silence.

use std::sync::Arc;
use std::time::Duration;

use crate::civil::Timestamp;

/// May this manifest be pulled now?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allowed,
    /// Not now: 429 with `Retry-After`.
    Held {
        /// The rollout in charge, if there is one.
        rollout: Option<Arc<str>>,
        /// What holds it, as `Freeze/black-friday-2026`; never empty.
        by: Vec<String>,
        /// For people.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
        /// When it opens, if that is known.
        opens: Option<Timestamp>,
    },
    /// Never here: 403.
    Prohibited {
        /// What says so, as `Prohibition/cve-2026-1234`.
        by: String,
        /// For people.
        reason: String,
    },
}

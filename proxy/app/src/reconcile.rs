//! Policy on its way from its sources into effect, and back if it does harm.
//!
//! ```text
//! source → verify → compile → ring → guards → disk → one pointer → probation → last known good
//! ```
//!
//! The decisions are `tillgate_core::reconcile`'s; here is who asks sources, reads and writes the
//! disk, swaps, and tells. All of it has a thread and a runtime of its own: neither a payment nor
//! a probe ever waits for it. Whatever fails leaves what runs as it is, and a condition says why.

mod boot;
mod candidate;
mod facts;
mod office;
mod operations;
mod questions;
mod report;
mod run;
mod shown;
mod spec;
mod support;
mod watch;

pub(crate) use self::boot::{Booted, Finish};
pub(crate) use self::office::{Found, Hold, Office, Order, OrderError, Tags};
pub(crate) use self::run::Told;
pub(crate) use self::shown::Shown;
pub(crate) use self::spec::Spec;

use tillgate_core::reconcile::Wall;
use tillgate_net::clock;

/// What the wall clock shows.
fn wall() -> Wall {
    Wall(clock::wall_seconds())
}

//! Tillgate wires here: arguments, the effective config, the gateway process.
//!
//! [`build`] takes an effective config and nothing else, and returns a [`Bound`]: every socket is
//! bound and its address known, nothing is served yet. [`Bound::run`] serves until it is told to
//! stop and everything has drained.

pub mod access;
mod admin;
mod admission;
mod bound;
mod bundle;
pub mod cli;
mod client;
mod datagram;
mod disk;
mod doors;
mod endpoint;
mod explain;
mod export;
mod failover;
mod forward;
mod gateway;
mod inherited;
mod lines;
mod listeners;
mod mirror;
mod notify;
mod outcome;
mod problem;
mod reconcile;
pub mod reload;
mod running;
mod send;
mod serve;
mod sidecar;
#[cfg(test)]
mod skipped;
mod sources;
mod spool;
mod state;
mod stream;
mod takeover;
mod telemetry;
mod tries;
mod tunnel;
mod wall;
mod watch;

pub use endpoint::SecretError;

pub use bound::{Bound, BuildError, Control, build, build_resolving};
pub use bundle::approvals::Approvers;
pub use mirror::contents as manifest;

//! The lab: what Tillgate and its rivals do on a store's line, measured.
//!
//! A WAN line emulated packet by packet between network namespaces ([`emulator`], [`testbed`]),
//! services at its far end ([`origin`]), a store's devices at its near end ([`load`]), and runs
//! that put a proxy between them ([`system`], [`experiment`]). Real kernel TCP everywhere.
//! The product never depends on this crate.

mod asking;
pub mod calibrate;
pub mod certificate;
pub mod cli;
pub mod compare;
mod cost;
pub mod demo;
pub mod emulator;
mod endpoint;
pub mod experiment;
pub mod failover;
mod fleet;
pub mod hostile;
pub mod htb;
pub mod line;
pub mod load;
pub mod netlink;
pub mod origin;
pub mod out;
pub mod policy;
pub mod preset;
pub mod process;
mod reload;
pub mod report;
pub mod rivals;
pub mod rollout;
pub mod stats;
pub mod sys;
pub mod system;
pub mod testbed;
pub mod truth;
pub mod verdict;

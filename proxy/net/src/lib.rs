//! Tillgate moves bytes here: listeners, HTTP, pools, tunnels and the shaped WAN connection.
//!
//! This crate drives the machines of `tillgate-core` with real sockets and real time. It knows
//! how to move bytes, never who deserves what.

pub mod circuit;
pub mod clock;
mod delegate;
pub mod drain;
pub mod error;
mod gather;
pub mod handover;
pub mod http;
pub mod limit;
pub mod link;
pub mod listen;
pub mod memory;
pub mod metrics;
pub mod mirror;
pub mod otlp;
pub mod placed;
pub mod probe;
mod protobuf;
pub mod proxy_protocol;
pub mod rarely;
mod seldom;
pub mod shaped;
mod sockopt;
pub mod tcp;
pub mod threads;
pub mod tls;
pub mod tunnel;
pub mod udp;
pub mod upstream;

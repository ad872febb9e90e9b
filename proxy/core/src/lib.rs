//! Tillgate decides here.
//!
//! Every decision of the proxy (who may send on the line, how large a window a flow gets, which
//! route and class a request has) is a plain value or state machine that is *given* the time and
//! the facts and *returns* what should happen. Nothing in this crate opens a socket, reads a
//! clock, draws a random number or logs, so that a whole bad day is a test of ten lines.

pub mod backend;
pub mod balance;
pub mod breaker;
pub mod calendar;
pub mod civil;
pub mod class;
pub mod endpoint;
pub mod failover;
pub mod filter;
pub mod freshness;
pub mod gate;
pub mod health;
pub mod hedge;
pub mod limit;
pub mod link;
pub mod listener;
pub mod load;
pub mod matching;
pub mod mirror;
pub mod outage;
pub mod reconcile;
pub mod retry;
pub mod schedule;
pub mod sessions;
pub mod share;
pub mod stall;
pub mod tls;
pub mod trace;
pub mod units;
pub mod window;

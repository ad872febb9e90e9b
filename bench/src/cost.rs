//! `lab cost`: what Tillgate costs a processor.
//!
//! Two questions. [`shaping`]: what does asking for every byte cost at 1 Gbit/s, against plain
//! TCP? [`requests`]: what does a request cost, beside HAProxy, nginx and Envoy in the same run?
//! Loopback only; no namespaces.

mod contestant;
pub(crate) mod floor;
mod load;
mod requests;
mod shaping;

use anyhow::Result;
use clap::{Args, ValueEnum};

/// Arguments of `lab cost`.
#[derive(Debug, Args)]
pub(crate) struct CostArgs {
    /// Only one of the two questions.
    #[arg(long)]
    only: Option<Question>,
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Length of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Connections of the shaping measurement.
    #[arg(long, default_value_t = 16)]
    flows: usize,
    #[command(flatten)]
    requests: requests::RequestArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    Shaping,
    Requests,
}

/// Measures and prints.
///
/// # Errors
/// When sockets, threads or programs cannot be had.
pub(crate) fn run(args: &CostArgs) -> Result<()> {
    if args.only != Some(Question::Shaping) {
        requests::run(&args.requests, args.runs, args.seconds)?;
    }
    if args.only != Some(Question::Requests) {
        shaping::run(args.runs, args.seconds, args.flows)?;
    }
    Ok(())
}

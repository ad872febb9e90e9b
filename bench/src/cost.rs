//! `lab cost`: what Tillgate costs a machine.
//!
//! Three questions. [`shaping`]: what does asking for every byte cost at 1 Gbit/s, against plain
//! TCP? [`requests`]: what does a request cost, beside HAProxy, nginx and Envoy in the same run?
//! [`memory`]: what do 10,000 idle connections hold, beside the same? Loopback only.

mod contestant;
pub(crate) mod floor;
mod load;
mod memory;
mod requests;
mod shaping;

use anyhow::Result;
use clap::{Args, ValueEnum};

/// Arguments of `lab cost`.
#[derive(Debug, Args)]
pub(crate) struct CostArgs {
    /// Only one of the three questions.
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
    #[command(flatten)]
    memory: memory::MemoryArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    Shaping,
    Requests,
    Memory,
}

/// Measures and prints.
///
/// # Errors
/// When sockets, threads or programs cannot be had.
pub(crate) fn run(args: &CostArgs) -> Result<()> {
    let asked = |question| args.only.is_none_or(|only| only == question);
    if asked(Question::Requests) {
        requests::run(&args.requests, args.runs, args.seconds)?;
    }
    if asked(Question::Memory) {
        memory::run(&args.memory, &args.requests)?;
    }
    if asked(Question::Shaping) {
        shaping::run(args.runs, args.seconds, args.flows)?;
    }
    Ok(())
}

//! The command line: `gateway`, and the commands that only read policy.
//!
//! [`run`] is the whole program; the lab starts the same one inside its own process.

mod gateway;
mod stopgap;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The store's network proxy: payments first, everything else on what is left.
#[derive(Debug, Parser)]
#[command(name = "tillgate", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway of one store.
    Gateway(gateway::Options),
}

/// Runs the program with `args`, the first of which is its name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error; nothing else can be done
            // if the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command {
        Command::Gateway(options) => gateway::run(&options),
    }
}

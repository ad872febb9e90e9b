//! The command line: `gateway`, and the commands that only read policy.
//!
//! [`run`] is the whole program; the lab starts the same one inside its own process.

mod gateway;
pub mod policy;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
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
    /// Check policy files; each is a policy of its own.
    Validate {
        /// The files.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// How the report looks.
        #[arg(long, value_enum, default_value_t)]
        output: policy::Output,
    },
    /// Show the effective config of a policy file, with the origin of every value.
    Config {
        /// The policy file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// How it looks.
        #[arg(long, value_enum, default_value_t)]
        output: policy::ConfigFormat,
    },
    /// Show the JSON Schema of one kind of document, or of any.
    Schema {
        /// The kind, such as `TrafficClass`.
        #[arg(value_name = "KIND")]
        kind: Option<String>,
    },
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
        Command::Validate { files, output } => say(&policy::validate(&files, output)),
        Command::Config { file, output } => {
            say(&policy::config(&file, output, policy::Overrides::default()))
        }
        Command::Schema { kind } => say(&policy::schema(kind.as_deref())),
    }
}

/// Writes an answer where it belongs. Nobody listens if that fails (`tillgate config | head`).
fn say(answer: &policy::Answer) -> ExitCode {
    let _ = std::io::stdout().write_all(answer.stdout.as_bytes());
    let _ = std::io::stderr().write_all(answer.stderr.as_bytes());
    ExitCode::from(answer.code)
}

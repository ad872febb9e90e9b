//! The command line: `gateway`, and the commands that only read policy.
//!
//! [`run`] is the whole program; the lab starts the same one inside its own process.

mod approve;
mod ask;
mod audit;
mod bundle;
mod client;
mod enrol;
mod explain;
mod files;
pub mod fleet;
mod gateway;
mod hold;
mod images;
mod operate;
pub mod policy;
mod promote;
mod rollouts;
#[cfg(test)]
mod scratch;
mod sidecar;
pub(crate) mod windows;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// The text of a policy file, for whoever else reads one.
pub(crate) fn read_policy(file: &std::path::Path) -> Result<String, String> {
    files::read(file)
}

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
    /// Run the proxy beside one workload, with the config that a gateway gives it.
    Sidecar(sidecar::Options),
    /// Build, sign, verify and look into the bundles that stores fetch.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Sign that a bundle may go on to further rings.
    Promote(promote::Options),
    /// Sign that a store shall do something, once, and say so in its next report: stay, follow
    /// again, go back, explain, send what people need to help.
    Operate(operate::Options),
    /// Sign an override or a promotion of rings: prints the approval to add to the document.
    Approve(approve::Options),
    /// Check policy files; each is a policy of its own, a folder is a fleet.
    Validate {
        /// The files or folders.
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// How the report looks.
        #[arg(long, value_enum, default_value_t)]
        output: policy::Output,
    },
    /// Show the effective config of one store, with the origin of every value.
    Config {
        /// The policy: a file, or the folder of a fleet.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// The store, by name or id; needed where there are several.
        #[arg(long, value_name = "STORE")]
        store: Option<String>,
        /// How it looks.
        #[arg(long, value_enum, default_value_t)]
        output: policy::ConfigFormat,
    },
    /// Show what would happen to a request: its rule, class, timeouts, whether it may be sent again
    /// and why, and where it goes. Exit code 1 says that it meets no rule.
    Explain(explain::Options),
    /// Show what a running gateway does right now.
    Status(Asked),
    /// Show the configs that a running gateway has run, newest first.
    History(Asked),
    /// Show whether a running gateway stays on what it runs, let it stay there for a while, or
    /// let it follow its sources again.
    Pin(hold::PinOptions),
    /// Take a running gateway back to what it ran before, and let it stay there for a while.
    Rollback(hold::RollbackOptions),
    /// Have a running gateway mint a token with which one sidecar gets a certificate, once, and
    /// print it.
    Enrol(enrol::Options),
    /// Check that an audit log is what was written. Exit code 1 says that it is not.
    Audit {
        /// Its folder.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        /// How it looks.
        #[arg(long, value_enum, default_value_t)]
        output: policy::Output,
    },
    /// Compile a fleet: the digest of every store's effective config.
    Compile(Compile),
    /// Show what is different between two policies, store by store, or between two configs that
    /// a running gateway has run. Exit code 1 says that something is.
    Diff(Diff),
    /// Show how many stores each change selects, what it does there, and whether a guard
    /// refuses it; or what a policy would change in a running gateway.
    Plan(Plan),
    /// Show when a store may change: windows, freezes, and how each rollout stands.
    Windows(Windows),
    /// Show how the rollouts of a running gateway stand, and how far their images are: in a
    /// terminal a table that follows.
    Rollouts(rollouts::Options),
    /// Print what container runtimes need to pull through the registry mirror.
    MirrorConfig {
        /// The policy: a file, or the folder of a fleet.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// The store, by name or id; needed where there are several.
        #[arg(long, value_name = "STORE")]
        store: Option<String>,
        /// How the store's machines reach the mirror, such as `http://gateway.example:5000`.
        #[arg(long, value_name = "URL")]
        address: Option<String>,
        /// One runtime instead of all.
        #[arg(long, value_enum)]
        client: Option<images::Client>,
    },
    /// Look at, check or shrink the images on disk.
    Cache {
        #[command(subcommand)]
        command: images::CacheCommand,
    },
    /// Show the JSON Schema of one kind of document, or of any.
    Schema {
        /// The kind, such as `TrafficClass`.
        #[arg(value_name = "KIND")]
        kind: Option<String>,
    },
    /// Write a completion script for a shell to standard output.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual page to standard output, to be read by `man -l -`.
    Man,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
struct Compile {
    /// The policy: a file, or the folder of a fleet.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// One store, by name or id.
    #[arg(long, value_name = "STORE", group = "which")]
    store: Option<String>,
    /// Every store.
    #[arg(long, group = "which")]
    all_stores: bool,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: policy::Output,
}

/// A running gateway, asked.
#[derive(Debug, clap::Args)]
struct Asked {
    #[command(flatten)]
    remote: ask::Remote,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: policy::Output,
}

#[derive(Debug, clap::Args)]
struct Diff {
    /// The policy as it is: a file or a folder. With --endpoint: a digest, `current`, `lkg`,
    /// `candidate` or `previous`, which is the default.
    #[arg(value_name = "OLD", required_unless_present = "endpoint")]
    old: Option<PathBuf>,
    /// The policy as it is to be. With --endpoint: a digest or a name, `current` by default.
    #[arg(value_name = "NEW", required_unless_present = "endpoint")]
    new: Option<PathBuf>,
    /// One store, by name or id.
    #[arg(long, value_name = "STORE", conflicts_with = "endpoint")]
    store: Option<String>,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: policy::Output,
    #[command(flatten)]
    remote: ask::Remote,
}

#[derive(Debug, clap::Args)]
struct Plan {
    /// The policy as it is: a file or a folder. With --endpoint the only one: the policy as it is
    /// to be, a file or a bundle.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The policy as it is to be.
    #[arg(value_name = "NEW", required_unless_present = "endpoint", conflicts_with = "endpoint")]
    new: Option<PathBuf>,
    /// Refuse a document that changes more stores than this at once.
    #[arg(long, value_name = "N", conflicts_with = "endpoint")]
    max_stores: Option<usize>,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: policy::Output,
    #[command(flatten)]
    remote: ask::Remote,
}

#[derive(Debug, clap::Args)]
struct Windows {
    /// The policy: a file, or the folder of a fleet; none with --endpoint.
    #[arg(value_name = "PATH", required_unless_present = "endpoint", conflicts_with = "endpoint")]
    path: Option<PathBuf>,
    /// The store, by name or id; needed where there are several.
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// From when on, as `2026-11-16T00:00:00Z`; now without it.
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// Until when; a week without it.
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
    /// One rollout.
    #[arg(long, value_name = "ROLLOUT")]
    rollout: Option<String>,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: policy::Output,
    #[command(flatten)]
    remote: ask::Remote,
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
    if let Command::Gateway(options) = &arguments.command {
        return gateway::run(options);
    }
    if let Command::Sidecar(options) = &arguments.command {
        return sidecar::run(options);
    }
    if let Command::Rollouts(options) = &arguments.command
        && options.follows()
    {
        return rollouts::follow(options);
    }
    say(&answer(arguments.command))
}

/// What a command that only reads policy says to `args`, the first of which is the program's
/// name; `None` for the others, and for mistakes in the arguments themselves.
pub fn ask(args: impl IntoIterator<Item = OsString>) -> Option<policy::Answer> {
    let command = Arguments::try_parse_from(args).ok()?.command;
    (!matches!(command, Command::Gateway(_) | Command::Sidecar(_))).then(|| answer(command))
}

/// Whether the program would take `args`, the first of which is its name.
///
/// # Errors
/// What it would say of them.
pub fn understands(args: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    Arguments::try_parse_from(args).map(|_| ()).map_err(|error| error.to_string())
}

fn answer(command: Command) -> policy::Answer {
    match command {
        Command::Gateway(_) | Command::Sidecar(_) => policy::Answer::default(),
        Command::Bundle(command) => bundle::run(&command),
        Command::Promote(options) => promote::run(&options),
        Command::Operate(options) => operate::run(&options),
        Command::Approve(options) => approve::run(&options),
        Command::Validate { paths, output } => policy::validate(&paths, output),
        Command::Config { path, store, output } => {
            let overrides = policy::Overrides::default();
            if path.is_dir() || store.is_some() {
                fleet::config(&path, store.as_deref(), output, overrides)
            } else {
                policy::config(&path, output, overrides)
            }
        }
        Command::Explain(options) => explain::run(&options),
        Command::Compile(Compile { path, store, output, .. }) => {
            fleet::compile(&path, store.as_deref(), output)
        }
        Command::Status(Asked { remote, output }) => {
            remote.ask(&ask::Question::new("/v1/status", ask::shown::status), output)
        }
        Command::History(Asked { remote, output }) => {
            remote.ask(&ask::Question::new("/v1/revisions", ask::shown::history), output)
        }
        Command::Pin(options) => hold::pin(&options),
        Command::Rollback(options) => hold::rollback(&options),
        Command::Enrol(options) => enrol::run(&options),
        Command::Rollouts(options) => rollouts::look(&options),
        Command::Audit { folder, output } => audit::check(&folder, output),
        Command::Diff(options) => diff(&options),
        Command::Plan(options) => plan(&options),
        Command::Windows(options) => shown_windows(&options),
        Command::MirrorConfig { path, store, address, client } => {
            images::mirror_config(&path, store.as_deref(), address.as_deref(), client)
        }
        Command::Cache { command } => images::cache(&command),
        Command::Schema { kind } => policy::schema(kind.as_deref()),
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
    }
}

fn diff(options: &Diff) -> policy::Answer {
    let Diff { old, new, store, output, remote } = options;
    if remote.endpoint.is_some() {
        let name = |given: &Option<PathBuf>, default: &str| {
            given.as_ref().map_or_else(|| default.to_owned(), |name| name.display().to_string())
        };
        let (old, new) = (name(old, "previous"), name(new, "current"));
        return remote.ask(&ask::Question::difference(&old, &new), *output);
    }
    // The arguments are not taken without them.
    let (Some(old), Some(new)) = (old, new) else { return policy::Answer::default() };
    fleet::diff(old, new, store.as_deref(), *output)
}

fn plan(options: &Plan) -> policy::Answer {
    let Plan { old, new, max_stores, output, remote } = options;
    match new {
        Some(new) => fleet::plan(old, new, *max_stores, *output),
        None => remote.ask(&ask::Question::plan(old), *output),
    }
}

fn shown_windows(options: &Windows) -> policy::Answer {
    let Windows { path, store, from, until, rollout, output, remote } = options;
    let times = windows::Times {
        from: from.as_deref(),
        until: until.as_deref(),
        rollout: rollout.as_deref(),
    };
    match path {
        Some(path) => windows::windows(path, store.as_deref(), &times, *output),
        None => remote.ask(&ask::Question::windows(&times), *output),
    }
}

fn completions(shell: clap_complete::Shell) -> policy::Answer {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tillgate", &mut bytes);
    policy::Answer {
        stdout: String::from_utf8_lossy(&bytes).into_owned(),
        ..policy::Answer::default()
    }
}

/// The page of the program and those of its commands, one after the other.
fn man() -> policy::Answer {
    let mut bytes = Vec::new();
    let mut program = Arguments::command();
    program.build();
    pages(&program, &mut bytes);
    policy::Answer {
        stdout: String::from_utf8_lossy(&bytes).into_owned(),
        ..policy::Answer::default()
    }
}

/// The page of `command`, and those of the commands that it has.
fn pages(command: &clap::Command, bytes: &mut Vec<u8>) {
    // Writing into memory cannot fail.
    let _ = clap_mangen::Man::new(command.clone()).render(bytes);
    for one in command.get_subcommands() {
        pages(one, bytes);
    }
}

/// Writes an answer where it belongs. Nobody listens if that fails (`tillgate config | head`).
fn say(answer: &policy::Answer) -> ExitCode {
    let _ = std::io::stdout().write_all(answer.stdout.as_bytes());
    let _ = std::io::stderr().write_all(answer.stderr.as_bytes());
    ExitCode::from(answer.code)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    /// Every command, those of commands included, as its words.
    fn commands(of: &clap::Command, words: &[String]) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for one in of.get_subcommands() {
            let words = [words, &[one.get_name().to_owned()]].concat();
            found.push(words.clone());
            found.extend(commands(one, &words));
        }
        found
    }

    fn said(words: &[&str]) -> String {
        let words = ["tillgate"].iter().chain(words).map(Into::into);
        let answer = ask(words).expect("a command that ends");
        assert_eq!((answer.code, &*answer.stderr), (0, ""));
        answer.stdout
    }

    fn program() -> clap::Command {
        let mut program = Arguments::command();
        program.build();
        program
    }

    #[test]
    fn the_manual_has_a_page_for_every_command_with_every_flag() {
        let program = program();
        let manual = said(&["man"]).replace("\\-", "-");
        for words in commands(&program, &[]) {
            let page = format!(".TH tillgate-{} ", words.join("-"));
            let found = manual.split_once(&page).unwrap_or_else(|| panic!("no page {page}"));
            let text = found.1.split("\n.TH ").next().unwrap();
            let mut command = &program;
            for word in &words {
                command = command.find_subcommand(word).unwrap();
            }
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(text.contains(&format!("--{flag}")), "{words:?} has no --{flag}");
            }
        }
    }

    #[test]
    fn each_shell_is_told_every_command_and_flag() {
        let program = program();
        let all = commands(&program, &[]);
        assert!(all.len() > 20, "{all:?}");
        for shell in clap_complete::Shell::value_variants() {
            let script = said(&["completions", &shell.to_string()]);
            for words in &all {
                let name = words.last().unwrap();
                let is_there = |word: &&str| *word == name;
                let mut found = script.split(|char: char| !(char.is_alphanumeric() || char == '-'));
                assert!(found.any(|word| is_there(&word)), "{shell} has no {name}");
            }
            for flag in ["--prometheus", "--min-gateway-version", "--bootstrap"] {
                let bare = flag.trim_start_matches("--");
                assert!(script.contains(bare), "{shell} has no {flag}");
            }
        }
    }

    #[test]
    fn bash_completes_with_it() {
        let script = said(&["completions", "bash"]);
        // As bash does it when the tab key is pressed after these words.
        let complete = |words: &str, at: usize| {
            let line = format!(
                "{script}\nCOMP_WORDS=({words})\nCOMP_CWORD={at}\n\
                 _tillgate tillgate \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{at}-1]}}\"\n\
                 echo \"${{COMPREPLY[@]}}\"\n"
            );
            let said = std::process::Command::new("bash").args(["-c", &line]).output();
            said.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let Some(found) = complete("tillgate pro", 1) else {
            return crate::skipped::skipped("no bash on this machine");
        };
        assert_eq!(found, "promote");
        let found = complete("tillgate bundle ver", 2).unwrap();
        assert_eq!(found, "verify");
        let found = complete("tillgate promote --thr", 2).unwrap();
        assert_eq!(found, "--through");
    }
}

//! `tillgate gateway`: load, bind, serve; SIGHUP loads again, SIGTERM drains, the second ends.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tillgate_config::effective::Effective;
use tillgate_net::listen::raise_open_files as raise_limit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;

use super::policy::{self, Overrides};
use crate::serve::explain;
use crate::telemetry::{self, AccessLog, LogFormat, LogOptions};
use crate::{Control, build};

/// Flags of `tillgate gateway`. Those that name addresses override the file.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The policy file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the HTTP entry listens.
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where the forward proxy listens.
    #[arg(long, value_name = "ADDR")]
    forward_proxy: Option<SocketAddr>,
    /// Where probes, metrics and status are served.
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Worker threads of the data plane [default: one per CPU this process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// What is logged: error, warn, info, debug, trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
    /// How a log line looks.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Write one line per request and tunnel.
    #[arg(long)]
    access_log: bool,
}

/// Runs the gateway until it has drained.
pub(crate) fn run(options: &Options) -> ExitCode {
    let access = if options.access_log { AccessLog::On } else { AccessLog::Off };
    telemetry::start(LogOptions { level: options.log, format: options.log_format, access });
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> Result<(), String> {
    let effective = load(options)?;
    for field in &effective.not_in_effect {
        tracing::warn!(field = &*field.field, "accepted, but not in effect yet");
    }
    raise_open_files(&effective);
    let bound = build(effective).map_err(|error| explain(&error))?;
    let control = bound.control();
    let arm = || Ok(until_told(Signals::register()?, control, options.clone()));
    bound.run_armed(arm).map_err(|error| format!("the gateway cannot start its threads: {error}"))
}

/// Sockets that serve no client directly: listeners, timers' and runtimes' own, log, resolver.
const FILES_APART: u64 = 128;

/// Takes all the files there are, and says so if the listeners' clients would not fit.
fn raise_open_files(effective: &Effective) {
    let files = match raise_limit() {
        Ok(files) => files,
        Err(error) => return tracing::warn!(%error, "the limit of open files stays as it is"),
    };
    let clients = effective.listeners.iter().map(|spec| u64::from(spec.limits.connections_max));
    // Each client's connection may have one to a server.
    let wanted = clients.sum::<u64>() * 2 + FILES_APART;
    if files < wanted {
        tracing::warn!(
            files,
            wanted,
            "too few open files for all connections; raise `ulimit -Hn` or lower maxConnections"
        );
    }
}

fn load(options: &Options) -> Result<Effective, String> {
    let file = &options.config;
    let effective = policy::load(file).map_err(|report| {
        let text = report.to_text();
        format!("{}: {}\n{}", file.display(), report.summary(), text.trim_end())
    })?;
    let flags = Overrides {
        http: options.http,
        forward_proxy: options.forward_proxy,
        admin: options.admin,
        workers: options.workers,
    };
    Ok(flags.apply(effective))
}

/// What the operating system tells a process; until registered, each of them kills it.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Ready when the process shall drain. SIGHUP reloads meanwhile; a second SIGTERM or SIGINT ends
/// everything at once.
async fn until_told(signals: Signals, control: Control, options: Options) {
    let Signals { mut hangup, mut terminate, mut interrupt } = signals;
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&control, &options),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("told to stop twice: ending everything now");
        control.stop();
    });
}

fn reload(control: &Control, options: &Options) {
    match load(options) {
        // A refused config is logged and counted where it is refused.
        Ok(effective) => drop(control.reload(effective)),
        Err(why) => control.reload_failed(&why),
    }
}

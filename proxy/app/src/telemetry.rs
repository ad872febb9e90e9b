//! Logs to standard error: one line per event, text for people or JSON for machines.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) level: LevelFilter,
    pub(crate) format: LogFormat,
    pub(crate) access: AccessLog,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Whether each request gets a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    /// It does.
    On,
    /// Only at level DEBUG.
    Off,
}

/// Starts logging. A second call in one process changes nothing.
pub(crate) fn start(options: LogOptions) {
    let access = match options.access {
        AccessLog::On => LevelFilter::DEBUG,
        AccessLog::Off => options.level,
    };
    let filter = Targets::new()
        .with_default(options.level.min(LevelFilter::INFO))
        .with_target("tillgate", options.level)
        .with_target("tillgate_net", options.level)
        .with_target("tillgate::access", access);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry();
    let started = match options.format {
        LogFormat::Text => registry.with(lines.with_filter(filter)).try_init(),
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_filter(filter)).try_init()
        }
    };
    drop(started);
}

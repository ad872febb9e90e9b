//! The process's own log, to standard error: one line per event, text for people or JSON for
//! machines.
//!
//! Lines are formatted where they happen and written by a thread of their own: a terminal that
//! stands still holds up nobody. What does not fit into the queue is dropped and counted.

use std::collections::VecDeque;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::spool::{Output, Spool};

/// What is logged, and how, as flags say it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct LogFlags {
    /// What is logged: error, warn, info, debug, trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
    /// How a log line looks.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl LogFlags {
    /// Runs `serve` with the log, which is told why it fails.
    pub(crate) fn around(self, serve: impl FnOnce(&ProcessLog) -> Result<(), String>) -> ExitCode {
        let log = LogOptions { level: self.log, format: self.log_format };
        let Ok(log) = ProcessLog::start(log) else {
            // There is no log to say so.
            return ExitCode::FAILURE;
        };
        match serve(&log) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                // It is the command that says so, not its log.
                tracing::error!(target: "tillgate", "{why}");
                ExitCode::FAILURE
            }
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) level: LevelFilter,
    pub(crate) format: LogFormat,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Lines that are kept, and bytes of each: what happened lately, in a quarter of a megabyte.
const RECENT_LINES: usize = 256;
const RECENT_LINE_BYTES: usize = 1024;

/// The last lines of a log, for whoever helps from afar.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<Box<[u8]>>>);

impl Recent {
    fn put(&self, line: &[u8]) {
        let line = line[..line.len().min(RECENT_LINE_BYTES)].into();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= RECENT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// All of them, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned()).collect()
    }
}

/// The log of this process; what was said is written before it is dropped.
#[derive(Debug)]
pub(crate) struct ProcessLog {
    spool: Spool,
    recent: Arc<Recent>,
}

impl ProcessLog {
    /// Starts logging. A second call in one process changes nothing.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn start(options: LogOptions) -> io::Result<Self> {
        let spool = Spool::start("log", Output::Stderr)?;
        let filter = Targets::new()
            .with_default(options.level.min(LevelFilter::INFO))
            .with_target("tillgate", options.level)
            .with_target("tillgate_net", options.level);
        let recent = Arc::<Recent>::default();
        let writer = Lines(spool.clone(), Arc::clone(&recent));
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
        let registry = tracing_subscriber::registry();
        let started = match options.format {
            LogFormat::Text => registry.with(lines.with_filter(filter)).try_init(),
            LogFormat::Json => {
                registry.with(lines.json().flatten_event(true).with_filter(filter)).try_init()
            }
        };
        drop(started);
        Ok(Self { spool, recent })
    }

    /// Its last lines.
    pub(crate) const fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Where its lines go.
    pub(crate) const fn spool(&self) -> &Spool {
        &self.spool
    }
}

impl Drop for ProcessLog {
    fn drop(&mut self) {
        self.spool.flush();
    }
}

/// Hands each event's line to a spool.
#[derive(Debug)]
struct Lines(Spool, Arc<Recent>);

/// One event on its way; it is written in one piece.
struct Line<'a>(&'a Spool, &'a Recent);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0, &self.1)
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.put(bytes);
        self.0.put(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

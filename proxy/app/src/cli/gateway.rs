//! `tillgate gateway`: load, bind, serve, until it is told to stop.
//!
//! Policy is one file (`--config`), or comes from sources that a `--bootstrap` names. SIGHUP or
//! another content of the file loads again, SIGTERM drains, the second ends; SIGUSR1
//! opens log files anew, SIGUSR2 starts the next process and hands the sockets over.

mod told;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use clap::Args;
use tillgate_config::effective::{Effective, Secrets};
use tillgate_net::handover;
use tillgate_net::listen::raise_open_files as raise_limit;

use self::told::{Begun, Policy, Reader, Signals, Told};
use super::policy::{self, Overrides};
use crate::bound::build_with;
use crate::bundle::approvals::{Approvers, find_secrets};
use crate::inherited::Inherited;
use crate::notify::Notify;
use crate::reconcile::{Booted, Spec};
use crate::send::explain;
use crate::takeover::{self, Predecessor, activation};
use crate::telemetry::{LogFlags, ProcessLog};
use crate::watch::Watch;

/// Flags of `tillgate gateway`. Those that name addresses override the file.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("policy").required(true))]
pub(crate) struct Options {
    /// The policy file, for a store without a fleet.
    #[arg(long, value_name = "FILE", group = "policy")]
    config: Option<PathBuf>,
    /// The file that says where the store's policy comes from, and whose signatures count.
    #[arg(long, value_name = "FILE", group = "policy")]
    bootstrap: Option<PathBuf>,
    /// Beside `--config`, a Bootstrap whose keys count: for approvals of overrides and promotions
    /// in the policy. Without one no approval counts, and what needs one stays closed.
    #[arg(long, value_name = "FILE", conflicts_with = "bootstrap")]
    trust: Option<PathBuf>,
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
    /// Keep each worker on one CPU of those that this process may use.
    #[arg(long)]
    pin_workers: bool,
    /// A unix socket by which the next process of this gateway takes over without refusing a
    /// connection, and this one from the one before.
    #[arg(long, value_name = "PATH")]
    handover: Option<PathBuf>,
    #[command(flatten)]
    log: LogFlags,
    /// Log every request and tunnel as one JSON line, of the classes too that no policy names.
    #[arg(long)]
    access_log: bool,
}

/// Runs the gateway until it has drained.
pub(crate) fn run(options: &Options) -> ExitCode {
    options.log.around(|log| serve(options, log))
}

fn serve(options: &Options, log: &ProcessLog) -> Result<(), String> {
    let (effective, policy) = match (&options.bootstrap, &options.config) {
        (Some(file), _) => from_sources(file, options)?,
        (None, Some(file)) => {
            // Before it is read, so that no change after that is missed.
            let files = [Some(file), options.trust.as_ref()];
            let watch = Watch::new(files.into_iter().flatten().cloned().collect());
            (load(file, options)?, Policy::File(file.clone(), Mutex::new(watch)))
        }
        (None, None) => return Err("name a --config or a --bootstrap".to_owned()),
    };
    for field in &effective.not_in_effect {
        tracing::warn!(field = &*field.field, "accepted, but not in effect yet");
    }
    raise_open_files(&effective);
    let program = takeover::program()
        .map_err(|error| format!("nobody says where this program lies: {error}"))?;
    let (inherited, predecessor) = inherit(options)?;
    let bound =
        build_with(effective, inherited, Arc::default()).map_err(|error| explain(&error))?;
    let bound = if options.pin_workers { bound.pinned() } else { bound };
    let control = bound.control();
    control.logs_to(log);
    if let Policy::File(..) = policy {
        control.reads_a_file();
    }
    let gives_way = Arc::<AtomicBool>::default();
    let notify = Notify::from_environment();
    let reader = Reader {
        control: control.clone(),
        options: options.clone(),
        notify: notify.clone(),
        policy,
    };
    let reader = Arc::new(reader);
    let told = Told {
        control,
        options: options.clone(),
        notify,
        predecessor,
        program: program.into(),
        reader: Arc::clone(&reader),
        gives_way: Arc::clone(&gives_way),
    };
    let arm = || Ok(told.until_stopped(Signals::register()?));
    bound
        .run_armed(arm)
        .map_err(|error| format!("the gateway cannot start its threads: {error}"))?;
    reader.end();
    if gives_way.load(Ordering::Relaxed) {
        return Err("the process before waits no longer and goes on; this one has ended: start \
                    it again, and see what kept it from serving in time"
            .to_owned());
    }
    Ok(())
}

/// Sockets that others have bound for this process.
fn inherit(options: &Options) -> Result<(Inherited, Option<Predecessor>), String> {
    let activated = handover::activated(&activation(), std::process::id())
        .map_err(|error| format!("the service manager's sockets cannot be used: {error}"))?;
    let mut inherited = Inherited::default().activated(activated);
    let wrong = |error| format!("the process before does not hand over its sockets: {error}");
    let predecessor = Predecessor::find(options.handover.as_deref()).map_err(wrong)?;
    if let Some(predecessor) = &predecessor {
        inherited = inherited.handed_over(predecessor.sockets().map_err(wrong)?);
    }
    Ok((inherited, predecessor))
}

/// Sockets that serve no client directly: listeners, timers' and runtimes' own, log, resolver.
const FILES_APART: u64 = 128;

/// Takes all the files there are, and says so if the listeners' clients would not fit.
pub(super) fn raise_open_files(effective: &Effective) {
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

/// Boots from the disk of a store of a fleet.
fn from_sources(file: &Path, options: &Options) -> Result<(Effective, Policy), String> {
    let spec = Spec::read(file)?;
    for field in &spec.not_in_effect {
        tracing::warn!(field, "accepted, but not in effect yet");
    }
    let flags = options.clone();
    let endpoint = spec.endpoint.clone();
    let finish = move |effective| finish(effective, &flags).with_machine_endpoint(endpoint.clone());
    let booted = Booted::new(spec, Arc::new(finish));
    Ok((booted.effective(), Policy::Sources(Mutex::new(Begun::Not(Box::new(booted))))))
}

/// The same config in which the approvals count that keys of the file `trust` have signed.
fn believe(effective: Effective, trust: Option<&Path>) -> Result<Effective, String> {
    let Some(file) = trust else {
        if effective.gate.wants_approvals() {
            tracing::warn!("the policy has approvals, and no --trust says whose count: none does");
        }
        return Ok(find_secrets(effective, &Secrets::new()));
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let approvers = Approvers::read(&file.display().to_string(), &text)?;
    Ok(approvers.believe(effective))
}

fn load(file: &Path, options: &Options) -> Result<Effective, String> {
    let effective = policy::load(file).map_err(|report| {
        let text = report.to_text();
        format!("{}: {}\n{}", file.display(), report.summary(), text.trim_end())
    })?;
    Ok(finish(believe(effective, options.trust.as_deref())?, options))
}

/// What flags say against every policy.
fn finish(effective: Effective, options: &Options) -> Effective {
    let flags = Overrides {
        http: options.http,
        forward_proxy: options.forward_proxy,
        admin: options.admin,
        workers: options.workers,
    };
    let effective = flags.apply(effective);
    if options.access_log { effective.with_whole_access_log() } else { effective }
}

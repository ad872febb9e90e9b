//! `tillgate sidecar`: the proxy beside one workload, with the config that its gateway gives it.
//!
//! It asks servers of the store itself and hands everything else to the gateway. SIGTERM drains,
//! the second ends; SIGUSR1 opens log files anew.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use clap::Args;
use tillgate_config::sidecar::Beside;
use tillgate_core::endpoint::is_name;
use tokio::signal::unix::{SignalKind, signal};

use super::gateway::raise_open_files;
use crate::Control;
use crate::bound::build_with;
use crate::client::{Address, Credentials};
use crate::inherited::Inherited;
use crate::notify::Notify;
use crate::send::explain;
use crate::sidecar::{Booted, Finish, Spec};
use crate::telemetry::{LogFlags, ProcessLog};

/// Flags of `tillgate sidecar`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The config endpoint of the store's gateway, as `https://gateway:17443`.
    #[arg(id = "endpoint", long = "config-from", visible_alias = "config-endpoint")]
    #[arg(value_name = "URL", required = true)]
    config_from: String,
    #[command(flatten)]
    credentials: Credentials,
    /// The file of a token of `tillgate enrol`: exchanged once for a certificate, which is kept in
    /// `--state` and renewed; who this is comes with it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token_file", "cert", "id"])]
    enrol_token_file: Option<PathBuf>,
    /// The name of this instance, as its token or certificate has it [default: the machine's].
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// What it stands beside, as `pos/checkout`.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    workload: Option<String>,
    /// Where the config is kept, so that it starts without its gateway.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/tillgate/sidecar")]
    state: PathBuf,
    /// Where the HTTP entry listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:17080")]
    http: SocketAddr,
    /// Where connections for the gateway's forward proxy are taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:17128")]
    forward_proxy: SocketAddr,
    /// Where probes, metrics and status are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:17020")]
    admin: SocketAddr,
    /// Worker threads: what one workload sends fits one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    #[arg(default_value_t = 1)]
    workers: u16,
    #[command(flatten)]
    log: LogFlags,
    /// Log every request as one JSON line.
    #[arg(long)]
    access_log: bool,
}

/// After the drain: for the disk to know that this end was wanted. One that hangs is not waited
/// for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What follows the gateway, once it has begun: tells when it has ended.
type Follower = OnceLock<Mutex<mpsc::Receiver<()>>>;

/// Runs the sidecar until it has drained.
pub(crate) fn run(options: &Options) -> ExitCode {
    options.log.around(|log| serve(options, log))
}

fn serve(options: &Options, log: &ProcessLog) -> Result<(), String> {
    let booted = Booted::new(spec(options)?, finish(options))?;
    let effective = booted.effective();
    raise_open_files(&effective);
    let bound = build_with(effective, Inherited::default(), Arc::default());
    let bound = bound.map_err(|error| explain(&error))?;
    let control = bound.control();
    control.logs_to(log);
    let follower: Arc<Follower> = Arc::default();
    let arm = || until_stopped(control, booted, Arc::clone(&follower));
    let ran = bound.run_armed(arm);
    if let Some(ended) = follower.get() {
        // Late or gone: then this end counts as one that nobody wanted.
        let _ = ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LAST_WORDS);
    }
    ran.map_err(|error| format!("the sidecar cannot start its threads: {error}"))
}

fn spec(options: &Options) -> Result<Spec, String> {
    let address = Address::of(&options.config_from)?;
    let credentials = options.credentials.clone();
    let id = options.id.clone().unwrap_or_else(machine);
    if !is_name(&id) {
        return Err(format!(
            "`{id}` cannot name an instance: use letters, digits, `-`, `.` and `_` with `--id`"
        ));
    }
    let beside = Beside {
        gateway: address.host.as_str().into(),
        ca_file: credentials.ca.as_deref().map(Arc::from),
        server_name: credentials.server_name.as_deref().map(Arc::from),
        http: options.http,
        forward_proxy: options.forward_proxy,
        admin: options.admin,
    };
    let (state, workload) = (options.state.clone(), options.workload.clone());
    let spec = Spec { address, credentials, beside, state, id, workload, enrolling: None };
    Ok(match &options.enrol_token_file {
        Some(file) => spec.enrolled_by(file.clone()),
        None => spec,
    })
}

/// The machine's name, which is that of the pod or the container.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn finish(options: &Options) -> Finish {
    let (workers, access_log) = (options.workers, options.access_log);
    Arc::new(move |effective| {
        let effective = effective.with_workers(workers);
        if access_log { effective.with_whole_access_log() } else { effective }
    })
}

/// Registers the signals; ready when the sidecar shall drain.
fn until_stopped(
    control: Control,
    booted: Booted,
    follower: Arc<Follower>,
) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let notify = Notify::from_environment();
    Ok(async move {
        control.serves().await;
        notify.ready();
        match control.beside(booted) {
            Ok(ended) => drop(follower.set(Mutex::new(ended))),
            Err(error) => {
                tracing::error!(%error, "no thread to ask the gateway; what runs stays");
            }
        }
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = control.drains() => break,
                _ = reopen.recv() => control.reopen_logs(),
            }
        }
        notify.stopping();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("told to stop twice: ending everything now");
            control.stop();
        });
    })
}

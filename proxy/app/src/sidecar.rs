//! A proxy beside a workload, which runs what its gateway says.
//!
//! It boots from its disk, follows the gateway's slices by long poll, says what it made of each
//! and what it really runs, and goes on for ever with what it has if the gateway is gone. It has a
//! thread of its own for that: neither a request nor a probe ever waits for it. What a slice means
//! is `tillgate_config::sidecar`'s; whatever is wrong with one, what runs stays.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tillgate_config::Report;
use tillgate_config::effective::Effective;
use tillgate_config::sidecar::{self as language, Beside};
use tillgate_net::clock;
use tillgate_net::drain::Phase;
use tillgate_net::metrics::Metrics;
use tillgate_net::tls::Tls;

pub(crate) use self::enrol::Enrolling;
use self::follow::Follower;
use self::identity::Place;
use self::kept::{Kept, Slice};
use self::line::{Asked, Line};
use crate::client::{Address, Credentials};
use crate::gateway::Gateway;

mod enrol;
mod follow;
mod identity;
mod kept;
mod line;

/// A first start waits so long for its gateway; then probes must succeed, or the workload would
/// not start because the gateway is down.
const FIRST_SLICE_WITHIN: Duration = Duration::from_secs(10);

/// Between two questions of a first start.
const FIRST_AGAIN: Duration = Duration::from_millis(500);

/// What flags on the command line say against every slice.
pub(crate) type Finish = Arc<dyn Fn(Effective) -> Effective + Send + Sync>;

/// Which gateway, and as whom.
pub(crate) struct Spec {
    pub(crate) address: Address,
    pub(crate) credentials: Credentials,
    pub(crate) beside: Beside,
    /// Where slices are kept.
    pub(crate) state: PathBuf,
    /// The name of this instance: the one in its credential.
    pub(crate) id: String,
    /// What it stands beside, as `pos/checkout`.
    pub(crate) workload: Option<String>,
    /// Where its credential comes from, if from nobody else.
    pub(crate) enrolling: Option<Arc<Enrolling>>,
}

impl Spec {
    /// The same, with a certificate that the token in `file` is exchanged for once, and that is
    /// kept and renewed.
    pub(crate) fn enrolled_by(mut self, file: PathBuf) -> Self {
        let place = Place::new(&self.state);
        let own = Some(place.file());
        let (address, bare) = (self.address.clone(), self.credentials.clone());
        self.credentials = Credentials { cert: own.clone(), key: own, ..self.credentials };
        self.enrolling = Some(Arc::new(Enrolling::new(address, bare, file, place)));
        self
    }

    /// The name of this instance, and what it stands beside.
    fn who(&self) -> (String, Option<String>) {
        let held = self.enrolling.as_ref().and_then(|enrolling| enrolling.held());
        let Some(held) = held else { return (self.id.clone(), self.workload.clone()) };
        let workload = held.workload.map(|own| own.to_string());
        (held.id.to_string(), workload.or_else(|| self.workload.clone()))
    }
}

/// A sidecar that knows what it serves.
pub(crate) struct Booted {
    spec: Spec,
    kept: Kept,
    finish: Finish,
    effective: Effective,
    /// The digest of the slice that it serves.
    active: Option<Arc<str>>,
    /// The digest of one that ended the process again and again.
    suspect: Option<Arc<str>>,
}

impl Booted {
    /// Decides what is served: what the disk has, else what the gateway gives in time, else
    /// nothing but probes.
    ///
    /// # Errors
    /// If there can be no runtime, or a flag does not fit.
    pub(crate) fn new(spec: Spec, finish: Finish) -> Result<Self, String> {
        let kept = Kept::open(spec.state.clone());
        let died = kept.begin();
        let mut slices = kept.slices();
        let suspect = (died >= kept::DEATHS_MAX && !slices.is_empty()).then(|| slices.remove(0));
        if died >= kept::DEATHS_MAX * 2 {
            slices.clear();
        }
        let compiled = |slice: Slice| match language::load(&slice.text, &spec.beside) {
            Ok(effective) => Some((effective, slice.digest)),
            Err(report) => {
                let digest = &*slice.digest;
                tracing::error!(digest, "a slice on disk cannot be served: {}", why(&report));
                None
            }
        };
        let mut found = slices.into_iter().find_map(compiled);
        if found.is_none() && suspect.is_none() {
            found = first(&spec)?.and_then(|slice| {
                kept.keep(&slice);
                compiled(slice)
            });
        }
        let suspect = suspect.map(|slice| slice.digest);
        let (effective, active) = match found {
            Some((effective, digest)) => (effective, Some(digest)),
            None => {
                tracing::warn!("no slice yet: nothing but probes is served");
                (language::minimal(&spec.beside).map_err(|report| why(&report))?, None)
            }
        };
        let effective = finish(effective);
        Ok(Self { spec, kept, finish, effective, active, suspect })
    }

    /// What to serve.
    pub(crate) fn effective(&self) -> Effective {
        self.effective.clone()
    }

    /// Begins to follow the gateway, on a thread of its own, until this one drains. What it returns
    /// tells that the disk knows of that.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start(self, gateway: Arc<Gateway>) -> io::Result<mpsc::Receiver<()>> {
        let runtime = crate::bound::runtime()?;
        let (end, ended) = mpsc::channel();
        thread::Builder::new().name("policy".into()).spawn(move || {
            runtime.block_on(async move {
                let drain = Arc::clone(&gateway);
                let mut follower = Follower::new(self, gateway);
                tokio::select! {
                    () = follower.run() => {}
                    () = drain.drain.reached(Phase::Draining) => {}
                }
                follower.end();
            });
            let _ = end.send(());
            // A file system or a resolver that hangs must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(ended)
    }
}

/// The first slice, if the gateway gives one in time.
fn first(spec: &Spec) -> Result<Option<Slice>, String> {
    let runtime = crate::bound::runtime().map_err(|error| error.to_string())?;
    let tls = Tls::new(&Metrics::new(env!("CARGO_PKG_VERSION")));
    let mut line = Line::new(spec, Arc::clone(&tls));
    let until = clock::now() + FIRST_SLICE_WITHIN;
    let asked = async {
        let mut told = String::new();
        loop {
            if let Some(enrolling) = spec.enrolling.as_ref().filter(|it| it.held().is_none()) {
                enrolling.step(&tls).await;
            }
            match line.config(&[]).await {
                Ok(Asked::Slice(slice)) => return slice,
                Ok(Asked::Same { .. }) => {}
                Err(error) if error.why == told => {}
                Err(error) => {
                    tracing::warn!("no slice from the gateway: {}", error.why);
                    told = error.why;
                }
            }
            tokio::time::sleep(FIRST_AGAIN).await;
        }
    };
    let asked = runtime.block_on(async { tokio::time::timeout_at(until.into(), asked).await }).ok();
    runtime.shutdown_background();
    Ok(asked)
}

/// The first thing that is wrong, in a line.
fn why(report: &Report) -> String {
    report.errors.first().map_or_else(String::new, |one| match one.path.as_str() {
        "" => one.message.clone(),
        path => format!("{}: {path}", one.message),
    })
}

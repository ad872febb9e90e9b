//! TLS: the one module that knows rustls.
//!
//! In: what policy says of listeners and backends, as files. Out: [`Terminator`]s that end TLS of
//! clients and [`Connector`]s that begin it to servers, each on files that may change under it:
//! [`Tls::check_files`] takes what is whole and refuses the rest, and what was running goes on.
//! [`hello`] reads what a client says first where TLS is passed on. The provider is explicit
//! (aws-lc-rs, post-quantum key exchange first), and so is the time that certificates are judged
//! by: a box without a battery begins in 1970. Nothing here is global.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use tillgate_core::tls::{ClientTls, ServerTls};

use crate::clock::Floor;
use crate::metrics::{Metrics, TlsMeters};

mod authority;
mod certificate;
mod client;
mod error;
mod files;
pub mod hello;
mod own;
mod pairs;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod verifier;

pub use self::authority::{Authority, AuthorityError};
pub use self::certificate::{GRACE, counts, may_renew, shown};
pub(crate) use self::client::unless_late;
pub use self::client::{Application, Connector, Refusal, ServerStream};
pub(crate) use self::error::HandshakeEnd;
pub use self::error::TlsError;
pub use self::files::FileError;
pub use self::request::{OwnKey, RequestError, RequestedKey};
pub use self::server::{Agreed, ClientSession, Terminator};

/// TLS of the process: what all listeners and backends share.
#[derive(Debug)]
pub struct Tls {
    ground: Ground,
    meters: Arc<TlsMeters>,
    /// The system's authorities, read when a backend first needs them.
    system_roots: OnceLock<Arc<RootCertStore>>,
    /// Everything on files, for as long as somebody uses it.
    on_files: Mutex<Vec<Weak<dyn OnFiles>>>,
    connectors: Mutex<Connectors>,
    /// The store's own authority, where it has one.
    own: OnceLock<CertificateDer<'static>>,
}

/// What every config of rustls stands on.
#[derive(Clone, Debug)]
struct Ground {
    provider: Arc<CryptoProvider>,
    floor: Arc<Floor>,
    /// An authority whose certificates count without a file.
    own: Option<CertificateDer<'static>>,
}

impl Ground {
    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.floor) as Arc<dyn TimeProvider>
    }
}

impl TimeProvider for Floor {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.wall_seconds())))
    }
}

/// Connectors by what makes them equal: pools and sessions outlive a reload of the policy.
#[derive(Debug, Default)]
struct Connectors {
    known: HashMap<(Arc<str>, ClientTls, Application), Weak<Connector>>,
    next: u32,
}

/// Something whose files may change while it runs.
trait OnFiles: std::fmt::Debug + Send + Sync {
    /// Looks at the files and takes what is new and whole.
    fn check(&self);
}

impl Tls {
    /// TLS without any listener or backend yet; its instruments are added to `metrics`.
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            ground: Ground {
                provider: Arc::new(aws_lc_rs::default_provider()),
                floor: Arc::default(),
                own: None,
            },
            meters: Arc::clone(metrics.tls()),
            system_roots: OnceLock::new(),
            on_files: Mutex::default(),
            connectors: Mutex::default(),
            own: OnceLock::new(),
        })
    }

    /// What `authority` has signed counts at the config endpoint, for as long as the process
    /// lives.
    pub fn trust(&self, authority: &Authority) {
        let _ = self.own.set(authority.der().clone());
    }

    /// Certificates are judged by the wall clock, but by no time before this.
    pub const fn floor(&self) -> &Arc<Floor> {
        &self.ground.floor
    }

    /// TLS of the listener called `name`, with its files read.
    ///
    /// # Errors
    /// [`FileError`] names the listener, the file and what to do.
    pub fn terminator(
        &self,
        name: &Arc<str>,
        spec: &ServerTls,
    ) -> Result<Arc<Terminator>, FileError> {
        self.terminator_with(name, spec, None)
    }

    /// The same of the config endpoint, where certificates of the store's own authority count
    /// beside those of the configured ones.
    ///
    /// # Errors
    /// As of any other.
    pub fn endpoint_terminator(
        &self,
        name: &Arc<str>,
        spec: &ServerTls,
    ) -> Result<Arc<Terminator>, FileError> {
        self.terminator_with(name, spec, self.own.get())
    }

    fn terminator_with(
        &self,
        name: &Arc<str>,
        spec: &ServerTls,
        own: Option<&CertificateDer<'static>>,
    ) -> Result<Arc<Terminator>, FileError> {
        let ground = Ground { own: own.cloned(), ..self.ground.clone() };
        let terminator = Arc::new(Terminator::new(name, spec, &ground, &self.meters)?);
        self.watch(Arc::downgrade(&terminator) as Weak<dyn OnFiles>);
        Ok(terminator)
    }

    /// TLS to the servers of the backend called `name`, which speak `application` inside. What
    /// was made for the same spec before and is still in use is given again.
    ///
    /// # Errors
    /// [`FileError`] names the backend, the file and what to do.
    pub fn connector(
        &self,
        name: &Arc<str>,
        spec: &ClientTls,
        application: Application,
    ) -> Result<Arc<Connector>, FileError> {
        let key = (Arc::clone(name), spec.clone(), application);
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = connectors.known.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let id = connectors.next;
        let connector = Connector::new(id, name, spec, application, self)?;
        let connector = Arc::new(connector);
        connectors.next += 1;
        connectors.known.retain(|_, connector| connector.strong_count() > 0);
        connectors.known.insert(key, Arc::downgrade(&connector));
        drop(connectors);
        self.watch(Arc::downgrade(&connector) as Weak<dyn OnFiles>);
        Ok(connector)
    }

    /// Looks at every file in use and takes what is new and whole; the rest stays as it runs.
    /// Reads files: not for a thread that serves.
    pub fn check_files(&self) {
        let live: Vec<_> = {
            let mut on_files = self.on_files();
            on_files.retain(|one| one.strong_count() > 0);
            on_files.iter().filter_map(Weak::upgrade).collect()
        };
        for one in live {
            one.check();
        }
    }

    /// The system's authorities.
    fn system_roots(&self) -> Result<Arc<RootCertStore>, files::Problem> {
        if let Some(roots) = self.system_roots.get() {
            return Ok(Arc::clone(roots));
        }
        let roots = Arc::new(files::system_roots()?);
        Ok(Arc::clone(self.system_roots.get_or_init(|| roots)))
    }

    fn watch(&self, one: Weak<dyn OnFiles>) {
        self.on_files().push(one);
    }

    fn on_files(&self) -> MutexGuard<'_, Vec<Weak<dyn OnFiles>>> {
        self.on_files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

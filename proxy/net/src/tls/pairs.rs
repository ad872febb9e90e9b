//! Things made of files that may change: looked at now and then, replaced when whole.
//!
//! A [`Watched`] knows what it saw last, good or bad, so that every change is judged, counted and
//! logged once. [`Certificates`] are the pairs of one listener and choose among themselves by the
//! name that a client asks for.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use tillgate_core::tls::KeyPair;

use super::certificate::{Facts, earliest_end};
use super::files::{self, Contents, FileError, Part, Problem};
use crate::clock;
use crate::metrics::TlsFileMeter;

/// Why a thing could not be made, and from which of its files.
pub(super) type Unusable = (usize, Problem);

type Make<T> = Box<dyn Fn(&Contents) -> Result<T, Unusable> + Send + Sync>;

/// Some files that make one thing.
pub(super) struct Watched<T> {
    paths: Vec<Arc<Path>>,
    make: Make<T>,
    /// Of what was judged last; `None`: a file could not be read.
    seen: Option<u64>,
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    pub(super) fn new(
        paths: Vec<Arc<Path>>,
        make: impl Fn(&Contents) -> Result<T, Unusable> + Send + Sync + 'static,
    ) -> Self {
        Self { paths, make: Box::new(make), seen: None }
    }

    /// Makes it for the first time.
    pub(super) fn load(&mut self, owner: &str) -> Result<T, FileError> {
        let (seen, made) = self.read();
        self.seen = seen;
        made.map_err(|unusable| self.name(owner, unusable))
    }

    /// Makes it anew if a file has changed, and says what came of it.
    pub(super) fn look(&mut self, meter: &TlsFileMeter) -> Option<T> {
        let before = self.seen;
        let contents = Contents::read(&self.paths);
        if contents.as_ref().ok().map(|contents| contents.digest) == before {
            return None;
        }
        let (seen, made) = self.read();
        if seen == before {
            return None;
        }
        self.seen = seen;
        match made {
            Ok(made) => {
                meter.accepted.inc();
                let files = &self.paths;
                tracing::info!(owner = meter.owner, ?files, "certificates reloaded");
                Some(made)
            }
            Err(unusable) => {
                meter.refused.inc();
                let error = self.name(&meter.owner, unusable);
                let why = std::error::Error::source(&error).map(ToString::to_string);
                let why = why.unwrap_or_default();
                tracing::error!(why, "{error}; what was running stays");
                None
            }
        }
    }

    /// A second reading tells files that were being swapped from files that are wrong.
    fn read(&self) -> (Option<u64>, Result<T, Unusable>) {
        let once = || match Contents::read(&self.paths) {
            Ok(contents) => (Some(contents.digest), (self.make)(&contents)),
            Err(unusable) => (None, Err(unusable)),
        };
        let first = once();
        if first.1.is_ok() { first } else { once() }
    }

    fn name(&self, owner: &str, (index, problem): Unusable) -> FileError {
        let path = self.paths.get(index).or(self.paths.first());
        FileError::new(owner, path.map_or(Path::new(""), |path| path), problem)
    }
}

/// A chain with its key, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// The first moment at which a part of the chain is no longer valid.
    pub(super) not_after: Option<SystemTime>,
    dns_names: Vec<String>,
}

/// The files of one pair.
pub(super) fn watch_pair(of: &KeyPair, provider: &Arc<CryptoProvider>) -> Watched<Pair> {
    let paths = vec![Arc::clone(&of.cert_file), Arc::clone(&of.key_file)];
    let provider = Arc::clone(provider);
    let file = Arc::clone(&of.cert_file);
    Watched::new(paths, move |contents| {
        let at = |(part, problem)| (usize::from(part == Part::Key), problem);
        let key = files::pair(contents.file(0), contents.file(1), &provider).map_err(at)?;
        let unreadable = |error| (0, Problem::Unreadable(error));
        let own = key.cert.first().map(Facts::of).transpose().map_err(unreadable)?;
        let not_after = earliest_end(&key.cert).map_err(unreadable)?;
        if let Some(end) = not_after.filter(|end| *end < clock::wall()) {
            let (file, expired) = (file.display(), httpdate::fmt_http_date(end));
            tracing::warn!(%file, expired, "a certificate has expired; peers refuse it until it is renewed");
        }
        let dns_names = own.map(|own| own.dns_names).unwrap_or_default();
        Ok(Pair { key: Arc::new(key), not_after, dns_names })
    })
}

/// The pairs of one listener, by the names they are for.
#[derive(Debug)]
pub(super) struct Certificates {
    pairs: Vec<Pair>,
    /// Whole names; and for `*.example.com` the key `.example.com`.
    by_name: HashMap<String, Vec<usize>>,
}

impl Certificates {
    pub(super) fn new(pairs: Vec<Pair>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, pair) in pairs.iter().enumerate() {
            for name in &pair.dns_names {
                let key = name.strip_prefix('*').unwrap_or(name);
                by_name.entry(key.to_owned()).or_default().push(index);
            }
        }
        Self { pairs, by_name }
    }

    /// The pair for `host`: by its whole name, else by a wildcard for its first label, else the
    /// first. Of several for one name, the first whose key the client can check (an ECDSA pair
    /// beside an RSA one).
    pub(super) fn find(
        &self,
        host: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let by_name = |host: &str| {
            let whole = self.by_name.get(host);
            let wildcard = || self.by_name.get(&host[host.find('.')?..]);
            whole.or_else(wildcard)
        };
        let known = host.and_then(by_name).map_or(&[][..], Vec::as_slice);
        let fits = |index: &&usize| {
            let pair = self.pairs.get(**index);
            pair.is_some_and(|pair| pair.key.key.choose_scheme(schemes).is_some())
        };
        let chosen = if known.len() > 1 { known.iter().find(fits) } else { None };
        let index = chosen.or(known.first()).copied().unwrap_or(0);
        self.pairs.get(index).map(|pair| Arc::clone(&pair.key))
    }
}

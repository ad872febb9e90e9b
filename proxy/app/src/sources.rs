//! Where policy comes from: a folder, a web server, a Git repository.
//!
//! A source is asked when the reconcile loop says so, and answers with an archive or with why not.
//! It believes nothing: what a web server or a folder gives is checked by the loop against the
//! manifest's signatures; only Git checks by itself who signed the commit, because there the
//! commit is what is signed. Each keeps across errors what was activated last, so that a server
//! that recovers is not asked for everything by everybody.

pub(crate) mod apart;
pub(crate) mod directory;
pub(crate) mod git;
pub(crate) mod http;
pub(crate) mod relay;
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tillgate_config::bundle::{Manifest, SCHEMA_VERSION, wall_text};
use tillgate_core::reconcile::Wall;

use crate::bundle::{Archive, Files, entries};
use crate::gateway::Gateway;

/// What of a source is in every kind of it.
#[derive(Clone, Debug)]
pub(crate) struct SourceSpec {
    pub(crate) name: Arc<str>,
    pub(crate) place: Place,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) long_poll: Duration,
    pub(crate) spread: Duration,
    pub(crate) allow_unsigned: bool,
}

/// Where it is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Directory(PathBuf),
    Http(String),
    Git { url: String, folder: Option<String>, reference: String, signers: Signers, ssh: Ssh },
}

/// How a server is reached by `ssh://`: files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ssh {
    /// The private key.
    pub(crate) identity: Option<Arc<Path>>,
    /// The server's keys.
    pub(crate) known_hosts: Option<Arc<Path>>,
}

/// Whose signatures of commits and tags count: the files of their keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signers {
    /// As `ssh-keygen` has them.
    pub(crate) ssh: Option<Arc<Path>>,
    /// As `gpg` exports them.
    pub(crate) open_pgp: Option<Arc<Path>>,
}

impl Signers {
    /// Whether anybody's counts.
    pub(crate) const fn any(&self) -> bool {
        self.ssh.is_some() || self.open_pgp.is_some()
    }

    /// The files, for people.
    pub(crate) fn shown(&self) -> String {
        let files = [&self.ssh, &self.open_pgp].into_iter().flatten();
        files.map(|file| file.display().to_string()).collect::<Vec<_>>().join(" or ")
    }
}

impl SourceSpec {
    /// Whether its commits are what is signed.
    pub(crate) const fn is_git(&self) -> bool {
        matches!(self.place, Place::Git { .. })
    }

    /// Whether it is looked at all the time, because a look costs nothing.
    pub(crate) const fn is_near(&self) -> bool {
        matches!(self.place, Place::Directory(_))
    }
}

/// What a source gave.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// Nothing new. Whether the question was held, as it was asked to.
    Same { held: bool },
    /// A bundle.
    Bundle { archive: Archive, proof: Proof, held: bool },
}

/// Who answers for a bundle that a source gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Its own signatures.
    Signatures,
    /// The signature of the commit it was made from.
    Commit,
    /// Nobody; the operator allows that.
    Nobody,
}

/// Why a source gave nothing.
#[derive(Debug)]
pub(crate) struct FetchError {
    pub(crate) why: String,
    /// When it wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
    /// What it gave instead, to be looked at.
    pub(crate) instead: Option<Vec<u8>>,
}

impl From<String> for FetchError {
    fn from(why: String) -> Self {
        Self { why, retry_after: None, instead: None }
    }
}

/// What a source gave last, by whatever tells it from others (a digest, a commit, a tag), and what
/// of that need not be given again.
#[derive(Debug, Default)]
pub(crate) struct Given {
    last: Option<String>,
    settled: Option<String>,
}

impl Given {
    fn gives(&mut self, name: Option<String>) {
        self.last = name;
    }

    /// What was given last is in effect, or never will be.
    fn settle(&mut self) {
        self.settled.clone_from(&self.last);
    }

    fn settled(&self) -> Option<&str> {
        self.settled.as_deref()
    }

    fn is_settled(&self, name: &str) -> bool {
        self.settled() == Some(name)
    }
}

/// A source.
#[derive(Debug)]
pub(crate) enum Source {
    Directory(directory::Directory),
    Http(Box<http::HttpBundle>),
    Git(Box<git::Git>),
}

impl Source {
    /// The source that `spec` describes, never asked; what it must keep is kept below `state`.
    ///
    /// # Errors
    /// Why it can never give anything.
    pub(crate) fn new(spec: &SourceSpec, state: &Path) -> Result<Self, String> {
        Ok(match &spec.place {
            Place::Directory(path) => {
                if let Some(why) = directory::refused(path) {
                    return Err(why);
                }
                let looker = directory::Looker::new(path.clone(), spec.allow_unsigned);
                Self::Directory(directory::Directory::new(looker))
            }
            Place::Http(url) => {
                Self::Http(Box::new(http::HttpBundle::new(url, spec.timeout, spec.long_poll)?))
            }
            Place::Git { .. } => Self::Git(Box::new(git::Git::new(spec, state)?)),
        })
    }

    /// Asks it; at most so long as it may take.
    pub(crate) async fn fetch(&mut self, gateway: &Arc<Gateway>) -> Result<Fetched, FetchError> {
        match self {
            Self::Directory(source) => source.ask(()).await,
            Self::Http(source) => source.fetch(gateway).await,
            Self::Git(source) => source.fetch(gateway).await,
        }
    }

    /// By how many seconds this machine's clock is ahead of its own, by its last answer, if it has
    /// proven who it is.
    pub(crate) fn ahead(&self) -> Option<f64> {
        match self {
            Self::Http(source) => source.ahead(),
            Self::Directory(_) | Self::Git(_) => None,
        }
    }

    /// What it gave last is in effect, or never will be: the same need not be sent again.
    pub(crate) fn settle(&mut self) {
        match self {
            Self::Directory(source) => source.settle(),
            Self::Http(source) => source.settle(),
            Self::Git(source) => source.settle(),
        }
    }
}

/// A bundle made here from files that came without a manifest.
pub(crate) fn wrap(files: Files, revision: String, sequence: u64, created_at: Wall) -> Archive {
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION.to_owned(),
        revision,
        sequence,
        created_at: wall_text(created_at),
        scope: None,
        min_gateway_version: "0.0.0".to_owned(),
        files: entries(&files),
        effective_digest: None,
        compiler_version: None,
    };
    Archive { manifest: manifest.to_text().into_bytes(), files, ..Archive::default() }
}

//! Certificates, keys and authorities in files: read whole, or refused with a remedy.
//!
//! Files are read again every few seconds and compared by content, so symlink swaps, edits in
//! place and file systems without events are all the same. What was swapped between two reads is
//! read once more before it is refused.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::certificate::Unreadable;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// A file with more is not read: the bundle of a whole operating system is a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why files cannot be used, and by whom.
#[derive(Debug, thiserror::Error)]
#[error("{owner}: {path} cannot be used; {remedy}", path = .path.display(), remedy = .problem.remedy())]
pub struct FileError {
    /// The listener or the backend, as `listener https`.
    owner: String,
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    #[source]
    problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it has more than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not PEM, or is cut short")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("it has no certificate")]
    NoCertificate,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the key does not belong to the first certificate")]
    Mismatch,
    #[error("rustls does not take it")]
    Refused(#[source] rustls::Error),
    #[error("no authority in it can be used")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("the system has no certificate authorities")]
    NoSystemRoots,
    #[error("`sni` is not a host name")]
    InvalidName,
}

impl Problem {
    /// What the operator can do.
    fn remedy(&self) -> &'static str {
        match self {
            Self::Read(_) => "check that it exists and that this user may read it",
            Self::TooLarge => "name a file with certificates alone",
            Self::Pem(_) | Self::NoCertificate | Self::Unreadable(_) | Self::Verifier(_) => {
                "write certificates in PEM (-----BEGIN CERTIFICATE-----), the own one first"
            }
            Self::Mismatch => "write both files of a pair, by a rename of each or a symlink swap",
            Self::Refused(_) => {
                "use an RSA (2048 bits or more), ECDSA or Ed25519 key in PKCS#8, \
                                 PKCS#1 or SEC1 form"
            }
            Self::InvalidName => "write a host name, as in the server's certificate",
            Self::NoSystemRoots => "install ca-certificates, or name a `caFile`",
        }
    }
}

impl FileError {
    pub(super) fn new(owner: &str, path: &Path, problem: Problem) -> Self {
        Self { owner: owner.to_owned(), path: path.to_owned(), problem }
    }
}

/// The bytes of some files at one moment, and what tells them from others.
#[derive(Debug)]
pub(super) struct Contents {
    files: Vec<Vec<u8>>,
    pub(super) digest: u64,
}

impl Contents {
    /// Reads all of `paths`; the error is of the first one that cannot be read.
    pub(super) fn read(paths: &[Arc<Path>]) -> Result<Self, (usize, Problem)> {
        let mut hasher = DefaultHasher::new();
        let mut files = Vec::with_capacity(paths.len());
        for (index, path) in paths.iter().enumerate() {
            let bytes = read(path).map_err(|problem| (index, problem))?;
            hasher.write_usize(bytes.len());
            hasher.write(&bytes);
            files.push(bytes);
        }
        Ok(Self { files, digest: hasher.finish() })
    }

    pub(super) fn file(&self, index: usize) -> &[u8] {
        self.files.get(index).map_or(&[], Vec::as_slice)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let file = File::open(path).map_err(Problem::Read)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Problem::Read)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Problem::TooLarge);
    }
    Ok(bytes)
}

/// The certificates of a file, at least one.
pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let all = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(Problem::Pem)?;
    if all.is_empty() { Err(Problem::NoCertificate) } else { Ok(all) }
}

/// A chain and its key, known to belong together.
pub(super) fn pair(
    chain: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, (Part, Problem)> {
    let chain = certificates(chain).map_err(|problem| (Part::Chain, problem))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| (Part::Key, Problem::Pem(e)))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let mismatch = matches!(error, rustls::Error::InconsistentKeys(_));
        (Part::Key, if mismatch { Problem::Mismatch } else { Problem::Refused(error) })
    })
}

/// Which file of a pair is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Chain,
    Key,
}

/// The authorities of a file.
pub(super) fn roots(bytes: &[u8]) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(bytes)? {
        roots.add(certificate).map_err(Problem::Refused)?;
    }
    Ok(roots)
}

/// The system's authorities. Single ones that cannot be used are passed over, as everywhere.
pub(super) fn system_roots() -> Result<RootCertStore, Problem> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate authority of the system was passed over");
    }
    let mut roots = RootCertStore::empty();
    let (taken, passed_over) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(taken, passed_over, "certificate authorities of the system");
    if roots.is_empty() { Err(Problem::NoSystemRoots) } else { Ok(roots) }
}

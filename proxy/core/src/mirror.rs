//! The registry mirror, as far as it decides: images of many registries, fetched once per store.
//!
//! Here are the values that policy compiles to, and the machines behind them: what a client asks
//! for ([`ask`]), how a blob's fetch goes on after a cut ([`fetch`]), what the cache keeps
//! ([`ledger`]), who waits ([`queue`], [`budget`]), what a tag meant last ([`tags`]), and what the
//! gate says of a pull ([`verdict`]). Bytes, files and sockets are the shell's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{BackendId, Endpoint, Host};
use crate::class::ClassId;
use crate::matching::canonical_host;
use crate::units::BitRate;

pub mod ask;
pub mod brake;
pub mod budget;
pub mod busy;
pub mod challenge;
pub mod digest;
pub mod fetch;
pub mod ledger;
pub mod pace;
pub mod queue;
pub mod range;
pub mod refusal;
pub mod tags;
pub mod verdict;

#[cfg(test)]
mod tests;

pub use self::digest::Digest;
pub use self::refusal::Code;
pub use self::verdict::Verdict;

/// The mirror of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSpec {
    /// Name in policy and logs.
    pub name: Arc<str>,
    /// Hosts of the HTTP entry that are the mirror's, canonical; beside its own listeners.
    pub hostnames: Vec<Arc<str>>,
    /// Registries that it serves; never empty, the first serves who names none.
    pub upstreams: Vec<UpstreamSpec>,
    /// What is kept on disk.
    pub cache: CacheSpec,
    /// How long a tag is believed.
    pub tags: TagSpec,
    /// Bounds and patience of fetches.
    pub fetches: FetchSpec,
    /// Bounds of what it sends into the store.
    pub serves: ServeSpec,
}

/// Whether clients of the store may reach a served registry past the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// Tunnels to it are refused: a runtime that falls back past a held pull undoes the hold.
    Refused,
    /// The policy says so.
    Allowed,
}

/// What becomes of images that no rollout has released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are held.
    Hold,
    /// They are pulled.
    Allow,
}

/// One registry that is mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// What image names call it, as in `ns=docker.io`; canonical.
    pub registry: Arc<str>,
    /// First segment of repository names that mean it; `None` = no prefix does.
    pub prefix: Option<Arc<str>>,
    /// Where it is.
    pub backend: BackendId,
    /// The `Host` that it is asked with.
    pub host: Arc<str>,
    /// Class of its fetches.
    pub class: ClassId,
    /// What tokens are asked for with, where it wants some.
    pub login: Option<Login>,
    /// Whether the store may reach it past the mirror.
    pub direct: Direct,
    /// What becomes of images that no rollout has released, where rollouts name this registry.
    pub unknown: Unknown,
}

/// An account at a registry. Files are read again when they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// The policy's.
    Account {
        /// No secret.
        username: Arc<str>,
        /// Holds the password or access token.
        password_file: Arc<Path>,
    },
    /// The machine's own.
    Secret {
        /// As its Bootstrap calls it.
        name: Arc<str>,
        /// Holds `user:password`; `None` = no Bootstrap has such a secret.
        file: Option<Arc<Path>>,
    },
}

/// Blobs on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Absolute; the mirror's alone.
    pub directory: Arc<Path>,
    /// Bytes of blobs and manifests together.
    pub bytes_max: u64,
    /// Bytes that stay free on its file system, whatever `bytes_max` says.
    pub free_bytes_min: u64,
}

/// How long a tag is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagSpec {
    /// Without asking again.
    pub fresh: Duration,
    /// Where the registry cannot be asked.
    pub stale: Duration,
}

/// Bounds and patience of fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSpec {
    /// Blobs that are fetched at the same time.
    pub running_max: u32,
    /// Blobs that wait for their turn; more are answered 429.
    pub waiting_max: u32,
    /// How long a client waits for a blob's first byte before it is told to come again. Its fetch
    /// goes on.
    pub first_byte: Duration,
    /// Until a connection is there.
    pub connect: Duration,
    /// Until a response's head is there.
    pub response: Duration,
    /// A body of which nothing comes for this long, the line's doing left out, is cut and resumed.
    pub stall: Duration,
    /// A fetch without progress for this long is given up; what is on disk stays.
    pub patience: Duration,
    /// A fetch that nobody waits for any more is given up after this; `None` = it is finished.
    pub abandon: Option<Duration>,
    /// Bytes a day on metered lines; `None` = no budget.
    pub day_bytes_max: Option<u64>,
}

/// Bounds of what a mirror sends into the store's own network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeSpec {
    /// Of all blobs together.
    pub rate: Option<BitRate>,
    /// Blobs at the same time; others wait.
    pub running_max: Option<u32>,
}

impl MirrorSpec {
    /// Whether requests of the HTTP entry for `host` (canonical) are the mirror's.
    pub fn serves(&self, host: &str) -> bool {
        self.hostnames.iter().any(|known| **known == *host)
    }

    /// The registry that `ns` names, else the one of the repository's first segment, else the
    /// first one; with the repository's name there. `None`: `ns` names none that is mirrored.
    pub fn find<'a>(&self, ns: Option<&str>, repository: &'a str) -> Option<(usize, &'a str)> {
        if let Some(ns) = ns {
            let ns = canonical_host(ns);
            let place = self.upstreams.iter().position(|one| *one.registry == *ns)?;
            return Some((place, repository));
        }
        let prefixed = repository.split_once('/').and_then(|(first, rest)| {
            let fits = |one: &UpstreamSpec| one.prefix.as_deref() == Some(first);
            Some((self.upstreams.iter().position(fits)?, rest))
        });
        Some(prefixed.unwrap_or((0, repository)))
    }
}

impl UpstreamSpec {
    /// Whether a tunnel to `host` (canonical) and `port` leads to this registry, which is reached
    /// at `endpoints`.
    pub fn is_at(&self, host: &str, port: u16, endpoints: &[Endpoint]) -> bool {
        let own = |name: &str| host_part(name) == host;
        let endpoint = |one: &Endpoint| match &one.host {
            Host::Name(name) => **name == *host,
            // An address may be that of many services; a port tells them apart.
            Host::Ip(ip) => one.port == port && host.parse() == Ok(*ip),
        };
        // Docker Hub has more names than that of its images.
        let others = ["index.docker.io", "registry-1.docker.io"];
        let hub = *self.registry == *"docker.io" && others.contains(&host);
        hub || own(&self.registry) || own(&self.host) || endpoints.iter().any(endpoint)
    }
}

/// A host without its port.
fn host_part(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

//! `mirror-config`: what container runtimes need to be told to pull through the mirror.
//! `cache`: a look into the images on disk.
//!
//! The texts are complete files, so that they can be copied as they are. None of them falls back to
//! the registry itself: a pull that is held stays held.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use tillgate_config::Effective;
use tillgate_config::defaults::MIRROR_LISTENER;
use tillgate_config::scalar::Size;
use tillgate_core::mirror::MirrorSpec;
use tillgate_net::clock;
use tillgate_net::mirror::inspect::{self, Contents};
use tillgate_net::mirror::{Disk, Found, Layout};

use super::fleet;
use super::policy::Answer;
use crate::send::explain;

/// A container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Client {
    /// hosts.toml.
    Containerd,
    /// registries.conf: podman, skopeo, CRI-O, buildah.
    Podman,
    /// daemon.json.
    Docker,
    /// registries.yaml.
    K3s,
}

/// What to do with the images on disk.
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// List blobs, half blobs and tags, the last used first.
    Ls {
        /// The cache's directory.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// Read every blob and compare it with its digest.
    Verify {
        /// The cache's directory.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
        /// Delete what is damaged.
        #[arg(long)]
        delete: bool,
    },
    /// Delete half blobs, then what was used longest ago, until the rest fits. The gateway does
    /// this by itself; it must not be running.
    Gc {
        /// The cache's directory.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
        /// What may stay, such as `10Gi`.
        #[arg(long, value_name = "SIZE")]
        size: Size,
    },
}

/// Prints the configuration of `clients`, or of all.
pub(super) fn mirror_config(
    path: &Path,
    store: Option<&str>,
    address: Option<&str>,
    client: Option<Client>,
) -> Answer {
    let effective = match fleet::one(path, store) {
        Ok((_, checked)) => checked.effective,
        Err(answer) => return answer,
    };
    let Some(effective) = effective else { return Answer::refusal("there is no config") };
    let Some(mirror) = &effective.mirror else {
        return Answer::refusal(&format!("{} has no RegistryMirror", path.display()));
    };
    let Some(url) = address.map(str::to_owned).or_else(|| own_url(&effective, mirror)) else {
        return Answer::refusal(
            "say how the store's machines reach the mirror: --address http://gateway.example:5000",
        );
    };
    let url = url.trim_end_matches('/');
    let clients = client.map_or_else(|| Client::value_variants().to_vec(), |one| vec![one]);
    let texts = clients.into_iter().map(|client| text(client, mirror, &effective, url));
    Answer::success(texts.collect::<Vec<_>>().join("\n"))
}

/// Where clients find the mirror, if the policy says it in a way that they can use.
fn own_url(effective: &Effective, mirror: &MirrorSpec) -> Option<String> {
    let own = effective.listeners.iter().find(|one| &*one.name == MIRROR_LISTENER);
    if let Some(own) = own.filter(|own| !own.address.ip().is_unspecified()) {
        let scheme = if own.tls.is_some() { "https" } else { "http" };
        return Some(format!("{scheme}://{}", own.address));
    }
    let entry = effective.listeners.iter().find(|one| &*one.name == "http")?;
    let scheme = if entry.tls.is_some() { "https" } else { "http" };
    Some(format!("{scheme}://{}:{}", mirror.hostnames.first()?, entry.address.port()))
}

fn text(client: Client, mirror: &MirrorSpec, effective: &Effective, url: &str) -> String {
    match client {
        Client::Containerd => containerd(mirror, url),
        Client::Podman => podman(mirror, effective, url),
        Client::Docker => docker(mirror, url),
        Client::K3s => k3s(mirror, url),
    }
}

fn containerd(mirror: &MirrorSpec, url: &str) -> String {
    let mut text = String::new();
    for registry in &mirror.upstreams {
        let name = &registry.registry;
        let _ = write!(
            text,
            "# containerd: /etc/containerd/certs.d/{name}/hosts.toml\n\
             # `server` is the mirror too, so that nothing falls back past a held image.\n\
             server = \"{url}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n\n"
        );
    }
    text
}

fn podman(mirror: &MirrorSpec, effective: &Effective, url: &str) -> String {
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let insecure = if url.starts_with("http://") { "insecure = true\n" } else { "" };
    let file = "/etc/containers/registries.conf.d/tillgate.conf";
    let mut text = format!("# podman, skopeo, CRI-O, buildah: {file}\n");
    for (index, registry) in mirror.upstreams.iter().enumerate() {
        let name = &registry.registry;
        let location = match (&registry.prefix, index) {
            (Some(prefix), _) => format!("{host}/{prefix}"),
            (None, 0) => host.to_owned(),
            (None, _) => {
                let backend = &effective.backend(registry.backend).name;
                let _ = writeln!(
                    text,
                    "# {name} ({backend}) needs a `prefix` in the RegistryMirror: this client cannot \
                     say which registry it means.\n"
                );
                continue;
            }
        };
        let _ = writeln!(
            text,
            "[[registry]]\nprefix = \"{name}\"\nlocation = \"{location}\"\n{insecure}"
        );
    }
    text
}

fn docker(mirror: &MirrorSpec, url: &str) -> String {
    let first = mirror.upstreams.first().map_or("", |one| &*one.registry);
    if first != "docker.io" {
        return "# Docker mirrors docker.io alone: name it first in the RegistryMirror.\n"
            .to_owned();
    }
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let insecure = if url.starts_with("http://") {
        format!(",\n  \"insecure-registries\": [\"{host}\"]")
    } else {
        String::new()
    };
    format!(
        "# Docker: /etc/docker/daemon.json (docker.io alone; it falls back to the registry, which \
         the gateway refuses)\n{{\n  \"registry-mirrors\": [\"{url}\"]{insecure}\n}}\n"
    )
}

fn k3s(mirror: &MirrorSpec, url: &str) -> String {
    let mut text = "# k3s, RKE2: /etc/rancher/k3s/registries.yaml\nmirrors:\n".to_owned();
    for registry in &mirror.upstreams {
        let _ = writeln!(text, "  \"{}\":\n    endpoint: [\"{url}\"]", registry.registry);
    }
    text
}

/// Runs a `cache` command.
pub(super) fn cache(command: &CacheCommand) -> Answer {
    let done = match command {
        CacheCommand::Ls { directory } => ls(directory),
        CacheCommand::Verify { directory, delete } => verify(directory, *delete),
        CacheCommand::Gc { directory, size } => gc(directory, size.0),
    };
    done.unwrap_or_else(|error| Answer::refusal(&explain(&*error)))
}

type Failed = Box<dyn std::error::Error>;

fn ls(directory: &Path) -> Result<Answer, Failed> {
    let Contents { blobs, parts, manifests, tags } = inspect::look(&Layout::of(directory)?)?;
    let now = clock::wall_seconds();
    let ago = |at: u64| age(Duration::from_secs(now.saturating_sub(at)));
    let mut text = format!("{:<71} {:>10}  {}\n", "BLOB", "SIZE", "USED");
    for (digest, blob) in &blobs {
        let _ = writeln!(text, "{digest} {:>10}  {} ago", size(blob.bytes), ago(blob.used));
    }
    for (digest, part) in &parts {
        let _ = writeln!(text, "{digest} {:>10}  half, {} ago", size(part.bytes), ago(part.used));
    }
    for (tag, digest, at) in &tags {
        let _ = writeln!(text, "{tag} is {digest}, {} ago", ago(*at));
    }
    let bytes: u64 = blobs.iter().chain(&parts).map(|(_, blob)| blob.bytes).sum();
    let _ = writeln!(
        text,
        "{} blobs, {} half, {} manifests, {} tags, {}",
        blobs.len(),
        parts.len(),
        manifests.len(),
        tags.len(),
        size(bytes)
    );
    Ok(Answer::success(text))
}

fn verify(directory: &Path, delete: bool) -> Result<Answer, Failed> {
    let layout = Layout::of(directory)?;
    let (mut text, mut wrong) = (String::new(), 0);
    let blobs = inspect::look(&layout)?.blobs;
    for (digest, _) in &blobs {
        if inspect::is_right(&layout, digest)? {
            continue;
        }
        wrong += 1;
        let done = if delete {
            inspect::delete_blob(&layout, digest)?;
            "damaged, deleted"
        } else {
            "damaged"
        };
        let _ = writeln!(text, "{digest} {done}");
    }
    let _ = writeln!(text, "{} blobs checked, {wrong} damaged", blobs.len());
    let code = u8::from(wrong > 0 && !delete);
    Ok(Answer { code, ..Answer::success(text) })
}

fn gc(directory: &Path, bytes_max: u64) -> Result<Answer, Failed> {
    // Looked at first: a directory that is no cache is not made one.
    Layout::of(directory)?;
    match Disk::open(directory)? {
        Found::Ours(disk) => {
            let freed = inspect::shrink(&disk, bytes_max)?;
            let (blobs, bytes) = (freed.blobs, size(freed.bytes));
            Ok(Answer::success(format!("{blobs} blobs deleted, {bytes} freed\n")))
        }
        Found::Busy => Ok(Answer::refusal(
            "a gateway has this cache and makes room by itself; lower its `cache.size`, or stop it",
        )),
        Found::ReadOnly(error) => Err(error.into()),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut unit = 0;
    let (mut whole, mut tenths) = (bytes, 0);
    while whole >= 1024 && unit < UNITS.len() - 1 {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{whole} B") } else { format!("{whole}.{tenths} {}", UNITS[unit]) }
}

fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!([0, 1023, 1536, 3 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]);
        let ages = [5, 600, 9000, 700_000].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5 s", "10 min", "2 h", "8 days"]);
    }
}

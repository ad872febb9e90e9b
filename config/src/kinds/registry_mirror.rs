//! `RegistryMirror`: the gateway as the store's registry.
//!
//! Which registries it stands for, where their blobs are kept, and what may go around it. Which
//! images may be pulled, and when, is said by `Rollout`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::StoreSelector;
use super::document::document;
use super::listener::ListenerTls;
use crate::scalar::{
    DirectoryPath, FilePath, Flag, HostText, ListenAddress, Name, Rate, RegistryHost, Size,
    SourceUrl, Whole,
};

document! {
    /// The gateway as the store's registry. One applies to a store.
    "RegistryMirror", RegistryMirrorDoc, RegistryMirrorKind::RegistryMirror, RegistryMirrorSpec
}

/// The gateway as the store's registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryMirrorSpec {
    /// Which stores this applies to; absent = every store.
    #[serde(default)]
    pub store_selector: Option<StoreSelector>,
    /// Of several RegistryMirrors that apply, the highest counts, as a whole.
    #[serde(default)]
    pub precedence: Option<Whole<0, 1000>>,
    /// Where it listens by itself.
    #[serde(default)]
    pub address: Option<ListenAddress>,
    /// TLS on that listener.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Its names on the HTTP entry.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub hostnames: Option<Vec<HostText>>,
    /// The registries it stands for.
    #[schemars(length(min = 1, max = 64))]
    pub registries: Vec<RegistryDoc>,
    /// What is kept on disk.
    pub cache: MirrorCache,
    /// Bounds towards the store's own network.
    #[serde(default)]
    pub limits: Option<MirrorLimits>,
}

/// A registry that the mirror stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryDoc {
    /// Its host, as images name it.
    pub host: RegistryHost,
    /// Where it is; `https://` and the host without it.
    #[serde(default)]
    pub url: Option<SourceUrl>,
    /// Class of pulls that no Rollout names; `image-pull` without it.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// Authorities that may have signed its certificate, in PEM; the system's without it.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
    /// Secret of the Bootstrap that holds `user:password`.
    #[serde(default)]
    pub credentials_secret: Option<Name>,
    /// What happens to images that no Rollout names; `Hold` without it.
    #[serde(default)]
    pub unknown_artifacts: Option<UnknownArtifacts>,
    /// Tills may also reach it around the mirror; `false` without it, because a runtime that
    /// falls back past a held mirror undoes the gate.
    #[serde(default)]
    pub allow_direct: Option<Flag>,
}

/// What happens to images that no Rollout names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum UnknownArtifacts {
    /// They are held and reported.
    Hold,
    /// They are pulled.
    Allow,
}

/// What is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorCache {
    /// Where.
    pub directory: DirectoryPath,
    /// How much.
    pub size: Size,
}

/// Bounds towards the store's own network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MirrorLimits {
    /// The most that the mirror sends into the store.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Pulls by the store's machines at the same time; the others wait in a queue.
    #[serde(default)]
    pub concurrent_pulls: Option<Whole<1, 10_000>>,
}

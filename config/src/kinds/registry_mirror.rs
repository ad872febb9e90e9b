//! `RegistryMirror`: the gateway as the store's registry.
//!
//! Which registries it stands for, where their blobs are kept, and what may go around it. Which
//! images may be pulled, and when, is said by `Rollout`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::StoreSelector;
use super::backend::Location;
use super::document::document;
use super::listener::ListenerTls;
use crate::scalar::{
    DirectoryPath, DurationText, FilePath, Flag, HostText, ImagePrefix, ListenAddress, Name, Rate,
    RegistryHost, Size, SourceUrl, Username, Whole,
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
    /// The registries it stands for. The first one serves clients that name none, as Docker does.
    #[schemars(length(min = 1, max = 64))]
    pub registries: Vec<RegistryDoc>,
    /// What is kept on disk.
    pub cache: MirrorCache,
    /// How long a tag is believed.
    #[serde(default)]
    pub tags: Option<TagsDoc>,
    /// Bounds of fetches.
    #[serde(default)]
    pub fetches: Option<FetchesDoc>,
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
    /// Inside the store (never shaped) or across the WAN line; `Cloud` without it.
    #[serde(default)]
    pub location: Option<Location>,
    /// First segment of repository names that mean this registry, for clients that cannot say
    /// `ns=`.
    #[serde(default)]
    pub prefix: Option<ImagePrefix>,
    /// Class of pulls that no Rollout names; `image-pull` without it.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// Authorities that may have signed its certificate, in PEM; the system's without it.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
    /// An account, where the registry wants one.
    #[serde(default)]
    pub auth: Option<RegistryAuth>,
    /// In place of `auth`: the secret of the Bootstrap whose file holds `user:password`.
    #[serde(default)]
    pub credentials_secret: Option<Name>,
    /// What happens to images that no Rollout has released, where Rollouts name this registry;
    /// `Hold` without it.
    #[serde(default)]
    pub unknown_artifacts: Option<UnknownArtifacts>,
    /// Tills may also reach it around the mirror; `false` without it, because a runtime that
    /// falls back past a held mirror undoes the gate.
    #[serde(default)]
    pub allow_direct: Option<Flag>,
}

/// An account at a registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryAuth {
    /// Its name.
    pub username: Username,
    /// A file with its password or access token; read again whenever it is needed.
    pub password_file: FilePath,
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
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MirrorCache {
    /// Where: a directory of the mirror's own, made if there is none.
    pub directory: DirectoryPath,
    /// How much; what was used longest ago makes room.
    pub size: Size,
    /// What stays free on its file system.
    #[serde(default)]
    pub min_free: Option<Size>,
}

/// How long a tag is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TagsDoc {
    /// Without asking the registry again.
    #[serde(default)]
    pub ttl: Option<DurationText>,
    /// After that, while the registry cannot be asked.
    #[serde(default)]
    pub stale_if_error: Option<DurationText>,
}

/// Bounds of fetches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FetchesDoc {
    /// Blobs that are fetched at the same time.
    #[serde(default)]
    pub max_running: Option<Whole<1, 1000>>,
    /// Blobs that wait for their turn; more are answered 429.
    #[serde(default)]
    pub max_waiting: Option<Whole<0, 100_000>>,
    /// A client that has no first byte after this is told to come again; the fetch goes on.
    #[serde(default)]
    pub first_byte_timeout: Option<DurationText>,
    /// Until a connection to the registry is there.
    #[serde(default)]
    pub connect_timeout: Option<DurationText>,
    /// Until the head of its answer is there.
    #[serde(default)]
    pub response_timeout: Option<DurationText>,
    /// A body of which nothing comes for this long is cut and gone on with.
    #[serde(default)]
    pub stall_timeout: Option<DurationText>,
    /// A fetch without progress for this long is given up.
    #[serde(default)]
    pub give_up: Option<DurationText>,
    /// A fetch that no client waits for any more is given up after this, and gone on with when one
    /// asks again; without it, it is finished.
    #[serde(default)]
    pub abandon_after: Option<DurationText>,
    /// Bytes a day over metered lines; fetches beyond are held until the store's midnight.
    #[serde(default)]
    pub metered_per_day: Option<Size>,
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

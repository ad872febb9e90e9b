//! `Bootstrap`: the one file that a store is provisioned with.
//!
//! It lies on the store's own disk and is no part of the policy: where policy comes from, whose
//! signatures count, where state is kept, and what serves when nothing else is there.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::config_endpoint::ConfigEndpointDoc;
use super::document::document;
use crate::effective::Secrets;
use crate::scalar::{
    Address, DirectoryPath, DurationText, FilePath, Flag, GitReference, HostText, Name,
    PublicKeyText, RelativePath, SourceUrl, StoreId, Whole,
};

document! {
    /// The one file that a store is provisioned with.
    "Bootstrap", BootstrapDoc, BootstrapKind::Bootstrap, BootstrapSpec
}

/// What a store knows by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// The store: the label `storeId` of its Store document, or that document's name.
    pub store_id: StoreId,
    /// What this process is.
    pub role: RoleDoc,
    /// Where policies, state and the audit log are kept.
    pub state_dir: DirectoryPath,
    /// Where policy comes from, tried in this order.
    #[schemars(length(min = 1, max = 16))]
    pub sources: Vec<SourceDoc>,
    /// Whose signatures count.
    pub trust: TrustDoc,
    /// Where sidecars and tools ask.
    #[serde(default)]
    pub config_endpoint: Option<ConfigEndpointDoc>,
    /// Where this store reports to.
    #[serde(default)]
    pub reporting: Option<ReportingDoc>,
    /// Secrets by name, for credentials in the policy.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub secrets: Option<Vec<SecretDoc>>,
    /// What is served while there is no policy at all.
    #[serde(default, rename = "static")]
    pub fixed: Option<StaticDoc>,
    /// How a new policy is watched before it is the last known good.
    #[serde(default)]
    pub probation: Option<ProbationDoc>,
}

impl BootstrapSpec {
    /// Its secrets by name. Of two with one name the first counts.
    pub fn secrets(&self) -> Secrets {
        let all = self.secrets.iter().flatten().rev();
        all.map(|one| (one.name.0.as_str().into(), Arc::clone(&one.file.0))).collect()
    }
}

/// How a new policy is watched before it is the last known good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbationDoc {
    /// At least so long; 2m without it.
    #[serde(default)]
    pub least: Option<DurationText>,
    /// And until so many critical requests were seen; 200 without it.
    #[serde(default)]
    pub requests: Option<Whole<1, 1_000_000>>,
    /// At most so long; 30m without it.
    #[serde(default)]
    pub most: Option<DurationText>,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RoleDoc {
    /// The gateway of a store.
    Gateway,
    /// Beside one workload; its config comes from the gateway.
    Sidecar,
    /// A gateway without a fleet.
    Standalone,
}

/// A place that policy comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourceDoc {
    /// Its name.
    pub name: Name,
    /// What it is.
    #[serde(rename = "type")]
    pub source_type: SourceType,
    /// Where; with `HTTPBundle`, `OCIArtifact` and `Git`.
    #[serde(default)]
    pub url: Option<SourceUrl>,
    /// Where on this disk; with `Directory`. Which folder of the repository; with `Git`.
    #[serde(default)]
    pub path: Option<RelativePath>,
    /// Branch, tag or commit; with `Git`.
    #[serde(default, rename = "ref")]
    pub reference: Option<GitReference>,
    /// How often it is asked.
    pub interval: DurationText,
    /// How long one fetch may take; 60s without it.
    #[serde(default)]
    pub timeout: Option<DurationText>,
    /// How long the server may hold the question until there is something new; 0s without it.
    #[serde(default)]
    pub long_poll: Option<DurationText>,
    /// The longest random delay of the first fetch after an outage; 10m without it.
    #[serde(default)]
    pub spread: Option<DurationText>,
    /// Take policy without a signature, which is reported as a condition; `false` without it.
    #[serde(default)]
    pub allow_unsigned: Option<Flag>,
    /// Whose signatures of commits and tags count: a file of SSH keys as `ssh-keygen(1)` has
    /// `ALLOWED SIGNERS`; with `Git`.
    #[serde(default)]
    pub allowed_signers: Option<FilePath>,
    /// Whose signatures of commits and tags count, too: a file of OpenPGP public keys, as
    /// `gpg --export --armor` writes it; with `Git`.
    #[serde(default)]
    pub keyring: Option<FilePath>,
    /// The private key for `ssh://`; with `Git`.
    #[serde(default)]
    pub identity: Option<FilePath>,
    /// The keys of the server for `ssh://`, as `known_hosts` has them; those that the machine knows
    /// without it; with `Git`.
    #[serde(default)]
    pub known_hosts: Option<FilePath>,
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SourceType {
    /// A signed bundle on a web server.
    #[serde(rename = "HTTPBundle")]
    HttpBundle,
    /// A signed bundle in a registry.
    #[serde(rename = "OCIArtifact")]
    OciArtifact,
    /// A repository.
    Git,
    /// A folder: a ConfigMap, a checkout, a stick.
    Directory,
}

/// Whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrustDoc {
    /// Signatures of different keys that a bundle needs.
    pub threshold: Whole<1, 16>,
    /// The keys.
    #[schemars(length(min = 1, max = 64))]
    pub keys: Vec<KeyDoc>,
    /// Counts up with every change of the keys.
    #[serde(default)]
    pub root_version: Option<Whole<1, 1_000_000>>,
}

/// A public key and what it may sign.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyDoc {
    /// Its name in signatures.
    pub id: Name,
    /// Its kind.
    pub algorithm: KeyAlgorithm,
    /// The key: a SubjectPublicKeyInfo in base64, with or without the lines of PEM around it.
    pub public_key: PublicKeyText,
    /// What it may sign.
    #[schemars(length(min = 1))]
    pub roles: Vec<KeyRole>,
    /// The roles of people in which its approvals of overrides and promotions count; any without
    /// it.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub approves_as: Option<Vec<Name>>,
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum KeyAlgorithm {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
}

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyRole {
    /// Bundles.
    Bundle,
    /// RingPromotions.
    RingPromotion,
    /// Overrides.
    Override,
    /// Operations: what a store is told to do once, from afar.
    Operation,
}

/// Where a store reports to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReportingDoc {
    /// The collector.
    pub url: SourceUrl,
    /// How often without a change; 15m without it.
    #[serde(default)]
    pub heartbeat: Option<DurationText>,
    /// Class of the reports; `control` without it.
    #[serde(default)]
    pub traffic_class: Option<Name>,
    /// The store's own private key (PKCS#8 in PEM, Ed25519 or P-256), readable by its owner alone:
    /// it signs what the collector challenges the store to prove. Without it nothing is proven.
    #[serde(default)]
    pub key_file: Option<FilePath>,
    /// Authorities that may have signed the collector's certificate, in PEM; the system's without
    /// it.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
}

/// A secret in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretDoc {
    /// Its name in the policy.
    pub name: Name,
    /// The file that holds it.
    pub file: FilePath,
}

/// What is served while there is no policy at all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StaticDoc {
    /// Hosts of payments; their traffic goes first.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub payment_hosts: Option<Vec<HostText>>,
    /// Ports of payments; their traffic goes first.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub payment_ports: Option<Vec<Whole<1, 65_535>>>,
    /// Servers of names that are asked instead of the system's.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub resolvers: Option<Vec<Address>>,
}

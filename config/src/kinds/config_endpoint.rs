//! The config endpoint: where sidecars and tools ask a store what it runs.
//!
//! Said by a `Bootstrap` for a store of a fleet, and by a `Store` where the policy is one file.
//! Certificates, tokens and secrets are paths: the policy itself holds none.

use schemars::JsonSchema;
use serde::Deserialize;

use super::service_accounts::ServiceAccountsDoc;
use super::tls::CertificateDoc;
use crate::scalar::{DurationText, FilePath, ListenAddress, Name, WorkloadText};

/// Where sidecars and tools ask.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigEndpointDoc {
    /// Address and port.
    pub listen: ListenAddress,
    /// How they prove who they are.
    pub client_auth: EndpointAuth,
    /// What it shows to them; it speaks nothing but TLS.
    pub certificate: CertificateDoc,
    /// Authorities that may have signed the callers' certificates, in PEM.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
    /// Tokens; with `Token`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub tokens: Option<Vec<EndpointTokenDoc>>,
    /// Where the audit log is kept; with a Bootstrap, `audit` in its `stateDir` without it.
    #[serde(default)]
    pub audit_directory: Option<FilePath>,
    /// Who may say that there is something new.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub hooks: Option<Vec<HookDoc>>,
    /// How sidecars get certificates of the store's own authority; with `Token`.
    #[serde(default)]
    pub enrolment: Option<EnrolmentDoc>,
}

/// Enrolment of sidecars.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EnrolmentDoc {
    /// How long a sidecar's certificate is good, from 10 s to 30 days; it is renewed at half of
    /// it. 24 h without it.
    #[serde(default)]
    pub certificate_lifetime: Option<DurationText>,
    /// Where the authority is kept; with a Bootstrap, `enrolment` in its `stateDir` without it.
    #[serde(default)]
    pub directory: Option<FilePath>,
    /// Pods of a cluster, whose sidecars show the tokens of their service accounts.
    #[serde(default)]
    pub service_accounts: Option<ServiceAccountsDoc>,
}

/// How callers prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum EndpointAuth {
    /// By a certificate; without one there is no connection.
    Mutual,
    /// By a token, or by a certificate where `caFile` says whose.
    Token,
}

/// A token and what it opens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointTokenDoc {
    /// Who has it, as the audit log says.
    pub name: Name,
    /// What it opens.
    #[schemars(length(min = 1))]
    pub roles: Vec<EndpointRole>,
    /// What a sidecar stands beside, as `pos/checkout`: it may say no other of itself, and asks
    /// for no other's config.
    #[serde(default)]
    pub workload: Option<WorkloadText>,
    /// The file that holds it, readable by its owner alone.
    pub file: FilePath,
}

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointRole {
    /// Reads what runs here.
    Viewer,
    /// A proxy beside a workload.
    Sidecar,
    /// Does what the policy leaves to people.
    Operator,
    /// Reads the audit log.
    Auditor,
}

/// A receiver of webhooks: `/v1/hooks/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HookDoc {
    /// Its name.
    pub name: Name,
    /// Whose signature it checks.
    #[serde(rename = "type")]
    pub hook_type: HookType,
    /// Files of its secrets, readable by their owner alone; two while one replaces the other.
    #[schemars(length(min = 1, max = 2))]
    pub secret_files: Vec<FilePath>,
}

/// Whose signature a receiver checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HookType {
    /// `X-Hub-Signature-256`.
    GitHub,
    /// `X-Signature`, as Flux sends it.
    Generic,
    /// `X-Gitlab-Token`.
    GitLab,
}

//! Service accounts of a Kubernetes cluster, whose tokens sidecars show to get a certificate.
//!
//! A token is what the kubelet projects into a pod. Names are those of Kubernetes; the cluster's
//! keys are a path, as everything of the endpoint that comes from elsewhere.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::scalar::{ClaimText, FilePath, SourceUrl, WorkloadText};

/// The service accounts of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceAccountsDoc {
    /// Who signs the tokens: `issuer` in `/.well-known/openid-configuration` of the API server.
    pub issuer: ClaimText,
    /// Whom the projected tokens are for; `tillgate` without it.
    #[serde(default)]
    pub audience: Option<ClaimText>,
    /// The cluster's keys: what `kubectl get --raw /openid/v1/jwks` says. Read again when it
    /// changes.
    #[serde(default)]
    pub jwks_file: Option<FilePath>,
    /// Or where they are fetched from: `https://kubernetes.default.svc/openid/v1/jwks`. What came
    /// last is kept on disk, and counts while nobody answers.
    #[serde(default)]
    pub jwks_url: Option<SourceUrl>,
    /// Authorities of that server, in PEM; the system's without it.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
    /// The token that is shown to it; read again every time.
    #[serde(default)]
    pub token_file: Option<FilePath>,
    /// Those that may come; without it each of the cluster may.
    #[serde(default)]
    #[schemars(length(min = 1, max = 1000))]
    pub accounts: Option<Vec<AccountDoc>>,
}

/// A service account that may come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountDoc {
    /// Its namespace and name, as `shop/basket`.
    pub name: WorkloadText,
    /// What its sidecars stand beside; without it the workload is called as the account.
    #[serde(default)]
    pub workload: Option<WorkloadText>,
}

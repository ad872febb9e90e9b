//! Sidecars in Kubernetes: whose tokens count, and which workload an account is.
//!
//! A pod shows the token that its kubelet projects for it; the cluster's keys say whether it is
//! real. The token names a service account and no Deployment, so the account is what a workload is
//! known by, unless the policy says another name. Nothing here knows what a token looks like.

use std::path::Path;
use std::sync::Arc;

use crate::tls::TrustAnchors;

/// The service accounts of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountsSpec {
    /// Who signs their tokens, as the tokens say.
    pub issuer: Arc<str>,
    /// Whom tokens must be for.
    pub audience: Arc<str>,
    /// The cluster's public keys.
    pub jwks_file: Arc<Path>,
    /// Where they are fetched from, to be kept in that file.
    pub jwks_url: Option<JwksUrl>,
    /// Those that may come; none: each of the cluster.
    pub accounts: Vec<AccountSpec>,
}

/// Where the keys of a cluster are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    /// `https://` alone.
    pub url: Arc<str>,
    /// Who may have signed the certificate of that server.
    pub roots: TrustAnchors,
    /// The token that is shown to it.
    pub token_file: Option<Arc<Path>>,
}

/// A service account that may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSpec {
    /// Namespace and name, as `shop/basket`.
    pub name: Arc<str>,
    /// The workload that its sidecars stand beside.
    pub workload: Arc<str>,
}

impl ServiceAccountsSpec {
    /// The workload of the account `name`, as `shop/basket`; `None` where it may not come.
    pub fn workload_of(&self, name: &str) -> Option<Arc<str>> {
        if self.accounts.is_empty() {
            return Some(name.into());
        }
        let found = self.accounts.iter().find(|account| *account.name == *name);
        found.map(|account| Arc::clone(&account.workload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_its_workload_unless_the_policy_says_another() {
        let account = |name: &str, workload: &str| AccountSpec {
            name: name.into(),
            workload: workload.into(),
        };
        let mut spec = ServiceAccountsSpec {
            issuer: "https://cluster".into(),
            audience: "tillgate".into(),
            jwks_file: Path::new("/jwks.json").into(),
            jwks_url: None,
            accounts: Vec::new(),
        };
        assert_eq!(spec.workload_of("shop/basket").as_deref(), Some("shop/basket"));
        spec.accounts = vec![account("shop/robot", "shop/basket"), account("pos/till", "pos/till")];
        assert_eq!(spec.workload_of("shop/robot").as_deref(), Some("shop/basket"));
        assert_eq!(spec.workload_of("pos/till").as_deref(), Some("pos/till"));
        assert_eq!(spec.workload_of("shop/basket"), None, "it is not on the list");
    }
}

//! Service accounts whose tokens are exchanged for a certificate.
//!
//! In: what the endpoint's document says. Out: the core's values. Refused is what nobody could use:
//! an account that is there twice, keys from nowhere or from two places, or on an open way.

use std::path::Path;
use std::sync::Arc;

use tillgate_core::endpoint::service_accounts::{AccountSpec, JwksUrl, ServiceAccountsSpec};
use tillgate_core::tls::TrustAnchors;

use super::Output;
use super::endpoint::once;
use crate::defaults;
use crate::document::Spot;
use crate::kinds::service_accounts::{AccountDoc, ServiceAccountsDoc};
use crate::scalar::FilePath;

/// What is kept of a cluster, in the store's own folder.
const KEPT: &str = "cluster-jwks.json";

/// Whose tokens count; `directory` is where the store keeps what belongs to enrolment.
pub(super) fn compile(
    given: &ServiceAccountsDoc,
    spot: &Spot<'_>,
    directory: Option<&Path>,
    out: &mut Output,
) -> Option<ServiceAccountsSpec> {
    let keys = keys(given, spot, directory, out);
    let accounts = accounts(given, &spot.key("accounts"), out);
    let audience = given.audience.as_ref().map(|audience| audience.0.as_str());
    let path = "configEndpoint.enrolment.serviceAccounts.audience";
    let default = defaults::ENROLMENT_AUDIENCE;
    let audience = out.value(path, &spot.key("audience"), audience, default).into();
    let (jwks_file, jwks_url) = keys?;
    let issuer = given.issuer.0.as_str().into();
    Some(ServiceAccountsSpec { issuer, audience, jwks_file, jwks_url, accounts })
}

/// The file of the keys, and where they come from if nobody else puts them there.
fn keys(
    given: &ServiceAccountsDoc,
    spot: &Spot<'_>,
    directory: Option<&Path>,
    out: &mut Output,
) -> Option<(Arc<Path>, Option<JwksUrl>)> {
    let file = given.jwks_file.as_ref().map(|file| Arc::clone(&file.0));
    let (url, file) = match (&given.jwks_url, file) {
        (None, None) => {
            out.error(spot.key("issuer").finding(
                "nothing says where the cluster's keys are: add `jwksFile`, or `jwksUrl` with the \
                 address of its API server",
            ));
            return None;
        }
        (Some(_), Some(_)) => {
            out.error(
                spot.key("jwksUrl").finding(
                    "the cluster's keys come from one place: remove `jwksFile` or `jwksUrl`",
                ),
            );
            return None;
        }
        (None, Some(file)) => {
            let fetching = [("caFile", &given.ca_file), ("tokenFile", &given.token_file)];
            for (field, _) in fetching.iter().filter(|(_, value)| value.is_some()) {
                let message = format!(
                    "with `jwksFile` nobody is asked for keys: remove `{field}`, or write `jwksUrl`"
                );
                out.error(spot.key(field).finding(message));
            }
            return Some((file, None));
        }
        (Some(url), None) => (url, directory.map(|directory| directory.join(KEPT).into())),
    };
    let url_spot = spot.key("jwksUrl");
    if !url.0.starts_with("https://") {
        out.error(
            url_spot.finding(
                "whoever can change the keys on their way lets himself in: write `https://`",
            ),
        );
    }
    let path = |file: &FilePath| Arc::clone(&file.0);
    let roots =
        given.ca_file.as_ref().map_or(TrustAnchors::System, |file| TrustAnchors::File(path(file)));
    let token_file = given.token_file.as_ref().map(path);
    Some((file?, Some(JwksUrl { url: url.0.as_str().into(), roots, token_file })))
}

/// Those that may come; `list` is where they are named.
fn accounts(given: &ServiceAccountsDoc, list: &Spot<'_>, out: &mut Output) -> Vec<AccountSpec> {
    let accounts = given.accounts.as_deref().unwrap_or_default();
    once(accounts.iter().map(|account| &*account.name.0), list, out);
    accounts.iter().map(account).collect()
}

fn account(given: &AccountDoc) -> AccountSpec {
    let workload = given.workload.as_ref().unwrap_or(&given.name);
    AccountSpec { name: given.name.0.as_str().into(), workload: workload.0.as_str().into() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tillgate_core::tls::TrustAnchors;

    use crate::compile::endpoint::tests::bootstrap;

    const ENROLMENT: &str = "    enrolment:
      serviceAccounts:
        issuer: https://kubernetes.default.svc
        jwksUrl: https://kubernetes.default.svc/openid/v1/jwks
        caFile: /sa/ca.crt
";

    #[test]
    fn fetched_keys_are_kept_in_the_stores_own_folder() {
        let read = |text: &str| crate::bootstrap_endpoint("boot.yaml", text);
        let text = bootstrap().replace("Mutual", "Token") + ENROLMENT;
        let enrolment = read(&text).unwrap().unwrap().enrolment;
        let accounts = enrolment.service_accounts.unwrap();
        assert_eq!(&*accounts.audience, "tillgate");
        assert_eq!(accounts.jwks_file.parent(), enrolment.directory.as_deref());
        let url = accounts.jwks_url.unwrap();
        assert_eq!(url.roots, TrustAnchors::File(Path::new("/sa/ca.crt").into()));
        assert_eq!(
            (&*url.url, url.token_file),
            ("https://kubernetes.default.svc/openid/v1/jwks", None)
        );
        let open = read(&text.replace("https://kubernetes.default.svc/", "http://k/"));
        assert!(open.unwrap_err().to_text().contains("write `https://`"));
    }
}

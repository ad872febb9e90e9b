//! The config endpoint: who may ask, and how they prove it.
//!
//! In: what a `Store` or a `Bootstrap` says. Out: a listener with TLS, tokens and receivers by
//! their files. What would open it by mistake is refused: tokens beside `Mutual`, which nobody
//! could use, and `Token` without any.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tillgate_core::endpoint::{
    EndpointSpec, EnrolmentSpec, HookKind, HookSpec, Role, Roles, TokenSpec,
};
use tillgate_core::listener::{ListenerProtocol, ListenerSpec};
use tillgate_core::tls::{ClientAuth, ClientCertificates, KeyPair, ServerTls};

use super::{Output, service_accounts};
use crate::defaults;
use crate::document::Spot;
use crate::kinds::config_endpoint::{
    ConfigEndpointDoc, EndpointAuth, EndpointRole, EndpointTokenDoc, HookDoc, HookType,
};
use crate::report::Finding;
use crate::scalar::FilePath;

/// Its name in metrics and logs.
pub(crate) const LISTENER: &str = "config-endpoint";

/// Where a Bootstrap's store keeps its authority.
const ENROLMENT: &str = "enrolment";

/// The endpoint at `spot`; `state` is where the store keeps things, if it says so.
pub(super) fn compile(
    given: &ConfigEndpointDoc,
    spot: &Spot<'_>,
    state: Option<&Path>,
    out: &mut Output,
) -> Option<EndpointSpec> {
    out.given("configEndpoint", spot, ());
    let clients = clients(given, spot, out);
    let audit = given.audit_directory.as_ref().map(|directory| Arc::clone(&directory.0));
    let audit = audit.or_else(|| state.map(|state| state.join("audit").into()));
    if audit.is_none() {
        out.error(spot.key("listen").finding(
            "nothing says where the audit log is kept: add `auditDirectory` with a folder of this \
             machine",
        ));
    }
    let enrolment = enrolment(given, spot, state, out);
    let tokens = given.tokens.as_deref().unwrap_or_default();
    let hooks = given.hooks.as_deref().unwrap_or_default();
    once(tokens.iter().map(|token| &*token.name.0), &spot.key("tokens"), out);
    once(hooks.iter().map(|hook| &*hook.name.0), &spot.key("hooks"), out);
    files(given, spot, out);
    for (index, token) in tokens.iter().enumerate() {
        if token.workload.is_some() && !token.roles.contains(&EndpointRole::Sidecar) {
            let message = "only a sidecar stands beside a workload: add the role `sidecar`, or \
                           remove `workload`";
            out.error(spot.key("tokens").index(index).key("workload").finding(message));
        }
    }
    let pair = &given.certificate;
    let tls = ServerTls {
        certificates: vec![KeyPair {
            cert_file: Arc::clone(&pair.cert_file.0),
            key_file: Arc::clone(&pair.key_file.0),
        }],
        client_certificates: clients,
        min_version: defaults::ENDPOINT_TLS,
    };
    let protocol = ListenerProtocol::ConfigEndpoint;
    let timeouts = defaults::stream_timeouts(protocol);
    let limits = defaults::ENDPOINT_LIMITS;
    let mut listener = ListenerSpec::plain(LISTENER, protocol, given.listen.0, timeouts, limits);
    listener.tls = Some(tls);
    Some(EndpointSpec {
        listener,
        tokens: tokens.iter().map(token).collect(),
        audit_directory: audit?,
        hooks: hooks.iter().map(hook).collect(),
        enrolment,
    })
}

/// Whoever has no certificate yet must get as far as showing a token, and the store must keep
/// what it signs with.
fn enrolment(
    given: &ConfigEndpointDoc,
    spot: &Spot<'_>,
    state: Option<&Path>,
    out: &mut Output,
) -> EnrolmentSpec {
    let is_open = given.client_auth == EndpointAuth::Token;
    let Some(asked) = &given.enrolment else {
        let directory = state.filter(|_| is_open).map(|state| state.join(ENROLMENT).into());
        let lifetime = defaults::CERTIFICATE_LIFETIME;
        return EnrolmentSpec { directory, lifetime, service_accounts: None };
    };
    let spot = spot.key("enrolment");
    let own = asked.directory.as_ref().map(|directory| Arc::clone(&directory.0));
    let directory = own.or_else(|| state.map(|state| state.join(ENROLMENT).into()));
    if !is_open {
        out.error(spot.finding(
            "with `Mutual` nobody without a certificate gets as far as asking for one: write \
             `clientAuth: Token`, or remove `enrolment`",
        ));
    } else if directory.is_none() {
        out.error(spot.finding(
            "nothing says where the store's authority is kept: add `directory` with a folder of \
             this machine",
        ));
    }
    let path = "configEndpoint.enrolment.certificateLifetime";
    let (lifetime_spot, given) = (spot.key("certificateLifetime"), asked.certificate_lifetime);
    let default = defaults::CERTIFICATE_LIFETIME;
    let lifetime = out.value(path, &lifetime_spot, given.map(|given| given.0), default);
    let (least, most) = defaults::CERTIFICATE_LIFETIMES;
    if lifetime < least || lifetime > most {
        let message = "a sidecar's certificate is good for `10s` to `720h`: write one of these";
        out.error(lifetime_spot.finding(message));
    }
    let spot = spot.key("serviceAccounts");
    let accounts = asked.service_accounts.as_ref();
    let service_accounts = accounts
        .and_then(|accounts| service_accounts::compile(accounts, &spot, directory.as_deref(), out));
    EnrolmentSpec { directory: directory.filter(|_| is_open), lifetime, service_accounts }
}

/// Whose certificates are asked for.
fn clients(
    given: &ConfigEndpointDoc,
    spot: &Spot<'_>,
    out: &mut Output,
) -> Option<ClientCertificates> {
    let mode = match given.client_auth {
        EndpointAuth::Mutual => ClientAuth::Required,
        EndpointAuth::Token => ClientAuth::Optional,
    };
    let spot = spot.key("clientAuth");
    let enrolment = given.enrolment.as_ref();
    let has_accounts = enrolment.is_some_and(|enrolment| enrolment.service_accounts.is_some());
    match (given.client_auth, &given.ca_file, &given.tokens) {
        (EndpointAuth::Mutual, None, _) => out.error(spot.finding(
            "nothing says who may have signed the callers' certificates: add `caFile` with the \
             authorities in PEM",
        )),
        (EndpointAuth::Mutual, Some(_), Some(_)) => out.error(spot.finding(
            "with `Mutual` nobody without a certificate gets as far as showing a token: write \
             `clientAuth: Token`, or remove `tokens`",
        )),
        (EndpointAuth::Token, _, None) if !has_accounts => out.error(spot.finding(
            "no token is named: add `tokens`, or write `clientAuth: Mutual` with `caFile`",
        )),
        (EndpointAuth::Mutual, Some(_), None) | (EndpointAuth::Token, _, _) => {}
    }
    let ca_file = Arc::clone(&given.ca_file.as_ref()?.0);
    Some(ClientCertificates { mode, ca_file })
}

/// Names are what the audit log and paths tell apart.
pub(super) fn once<'a>(names: impl Iterator<Item = &'a str>, list: &Spot<'_>, out: &mut Output) {
    let mut known = BTreeMap::new();
    for (index, name) in names.enumerate() {
        if let Some(first) = known.insert(name, index) {
            let message = format!("the name `{name}` is there twice: rename or remove one");
            let finding = list.index(index).key("name").finding(message);
            out.error(finding.related(list.index(first).key("name").place(), "is the first one"));
        }
    }
}

/// One secret in two places cannot be told apart: each file has one use.
fn files(given: &ConfigEndpointDoc, spot: &Spot<'_>, out: &mut Output) {
    let mut known: Vec<&FilePath> = Vec::new();
    let mut wrong: Vec<Finding> = Vec::new();
    let mut use_once = |file, spot: &dyn Fn() -> Finding| {
        if known.contains(&file) {
            wrong.push(spot());
        }
        known.push(file);
    };
    let message = |file: &FilePath| {
        format!(
            "the file `{}` has another use here already: give each token and secret its own",
            file.0.display()
        )
    };
    for (index, token) in given.tokens.iter().flatten().enumerate() {
        let spot = spot.key("tokens").index(index).key("file");
        use_once(&token.file, &|| spot.finding(message(&token.file)));
    }
    for (index, hook) in given.hooks.iter().flatten().enumerate() {
        for (place, file) in hook.secret_files.iter().enumerate() {
            let spot = spot.key("hooks").index(index).key("secretFiles").index(place);
            use_once(file, &|| spot.finding(message(file)));
        }
    }
    for finding in wrong {
        out.error(finding);
    }
}

fn token(given: &EndpointTokenDoc) -> TokenSpec {
    let role = |role: &EndpointRole| match role {
        EndpointRole::Viewer => Role::Viewer,
        EndpointRole::Sidecar => Role::Sidecar,
        EndpointRole::Operator => Role::Operator,
        EndpointRole::Auditor => Role::Auditor,
    };
    let roles: Vec<Role> = given.roles.iter().map(role).collect();
    TokenSpec {
        name: given.name.0.as_str().into(),
        roles: Roles::of(&roles),
        workload: given.workload.as_ref().map(|workload| workload.0.as_str().into()),
        file: Arc::clone(&given.file.0),
    }
}

fn hook(given: &HookDoc) -> HookSpec {
    HookSpec {
        name: given.name.0.as_str().into(),
        kind: match given.hook_type {
            HookType::GitHub => HookKind::GitHub,
            HookType::Generic => HookKind::Generic,
            HookType::GitLab => HookKind::GitLab,
        },
        secret_files: given.secret_files.iter().map(|file| Arc::clone(&file.0)).collect(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    const BOOTSTRAP: &str = "apiVersion: tillgate.dev/v1alpha1
kind: Bootstrap
metadata: {name: store-0412}
spec:
  storeId: \"0412\"
  role: Gateway
  stateDir: /var/lib/tillgate
  sources: [{name: usb, type: Directory, path: policy, interval: 1m}]
  trust: {threshold: 1, keys: [{id: ci, algorithm: Ed25519, publicKey: KEY, roles: [bundle]}]}
  configEndpoint:
    listen: 0.0.0.0:17443
    clientAuth: Mutual
    certificate: {certFile: /tls/a.crt, keyFile: /tls/a.key}
    caFile: /tls/ca.crt
";

    const KEY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    /// A Bootstrap with an endpoint, which ends within that.
    pub(in crate::compile) fn bootstrap() -> String {
        BOOTSTRAP.replace("KEY", KEY)
    }

    #[test]
    fn a_bootstrap_says_where_a_machine_is_asked() {
        let text = bootstrap();
        let endpoint = crate::bootstrap_endpoint("boot.yaml", &text).unwrap().unwrap();
        assert_eq!(endpoint.listener.address.port(), 17443);
        assert_eq!(&*endpoint.audit_directory, Path::new("/var/lib/tillgate/audit"));
        let without = text.split("  configEndpoint").next().unwrap();
        assert_eq!(crate::bootstrap_endpoint("boot.yaml", without).unwrap(), None);
        assert_eq!(endpoint.enrolment.directory, None, "nobody comes without a certificate");
        let tokens = "    tokens: [{name: ops, roles: [operator], file: /ops}]\n";
        let short = "    enrolment: {certificateLifetime: 9s}\n";
        let more = text.replace("Mutual", "Token") + tokens;
        let read = |text: &str| crate::bootstrap_endpoint("boot.yaml", text);
        let enrolment = read(&more).unwrap().unwrap().enrolment;
        assert_eq!(enrolment.directory.as_deref(), Some(Path::new("/var/lib/tillgate/enrolment")));
        assert_eq!(enrolment.lifetime.as_secs(), 86_400);
        for (text, why) in [(more + short, "10s"), (text.clone() + short, "`clientAuth: Token`")] {
            assert!(read(&text).unwrap_err().to_text().contains(why), "{text}");
        }
        let open = text.replace("    caFile: /tls/ca.crt\n", "");
        let wrong = crate::bootstrap_endpoint("boot.yaml", &open).unwrap_err();
        assert!(wrong.to_text().contains("boot.yaml:12:17"), "{wrong}");
    }

    #[test]
    fn what_a_machine_says_wins_and_is_no_part_of_the_policy() {
        let policy = "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {name: s}\n\
                      spec:\n  timeZone: UTC\n  \
                      links: [{name: a, capacity: {up: 1Mbit/s, down: 1Mbit/s}}]\n";
        let config = crate::load_text("p", policy).unwrap();
        let text = bootstrap();
        let own = crate::bootstrap_endpoint("boot.yaml", &text).unwrap();
        let local = config.clone().with_machine_endpoint(own.clone());
        assert_eq!(local.config_endpoint(), own.as_ref());
        assert_eq!((&local.digest, local.whole()), (&config.digest, config.whole()));
    }
}

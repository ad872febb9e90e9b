//! Whose approvals of overrides and promotions count, and what else a store's Bootstrap adds to a
//! policy: where the secrets lie that it names.
//!
//! The keys are those of the store's Bootstrap, never the policy's own: who may write policy may
//! not make himself an approver. A key counts for what its roles say, and as the person that it
//! belongs to.

use tillgate_config::effective::{Effective, Secrets};
use tillgate_core::gate::{Approval, Gate, Purpose};

use super::verify::{KeyRole, Trust, TrustedKey};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Approvers {
    trust: Trust,
    secrets: Secrets,
}

impl Approvers {
    /// Those of the Bootstrap in `text`; `file` is its name in messages.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(file: &str, text: &str) -> Result<Self, String> {
        let bootstrap = tillgate_config::load_bootstrap(file, text).map_err(|report| {
            let text = report.to_text();
            format!("{file}: {}\n{}", report.summary(), text.trim_end())
        })?;
        let trust = Trust::of(&bootstrap.spec.trust)
            .map_err(|wrong| format!("{file}: {}", wrong.join("\n")))?;
        Ok(Self { trust, secrets: bootstrap.spec.secrets() })
    }

    /// The same config, in which their approvals count and no others, and the secrets of the same
    /// Bootstrap are found.
    #[must_use]
    pub fn believe(&self, effective: Effective) -> Effective {
        let gate = self.trust.check(effective.gate);
        find_secrets(Effective { gate, ..effective }, &self.secrets)
    }
}

/// The same config with the places of the secrets that it names.
pub(crate) fn find_secrets(effective: Effective, secrets: &Secrets) -> Effective {
    let (effective, missing) = effective.with_secrets(secrets);
    for secret in missing {
        tracing::warn!(%secret, "the policy names a secret that no Bootstrap here has");
    }
    effective
}

impl Trust {
    /// The same gate, in which the approvals of its keys count and no others.
    pub(crate) fn check(&self, gate: Gate) -> Gate {
        let gate =
            gate.verified(|purpose, approval, message| self.approves(purpose, approval, message));
        for (document, approval) in gate.unapproved() {
            let (role, key) = (&*approval.role, &*approval.key_id);
            tracing::warn!(document, role, key, "an approval does not count");
        }
        gate
    }

    fn approves(&self, purpose: Purpose, approval: &Approval, message: &[u8]) -> bool {
        let wanted = match purpose {
            Purpose::Override => KeyRole::Override,
            Purpose::RingPromotion => KeyRole::RingPromotion,
        };
        let in_role = |one: &&TrustedKey| {
            one.roles.contains(&wanted)
                && one.approves_as.as_ref().is_none_or(|roles| roles.contains(&approval.role))
        };
        let mut known = self.keys.iter().filter(|one| *one.id == *approval.key_id).filter(in_role);
        known.any(|one| one.key.verifies(message, &approval.signature))
    }
}

#[cfg(test)]
mod tests {
    use tillgate_core::mirror::Login;

    use super::*;
    use crate::bundle::keys::PrivateKey;
    use crate::bundle::keys::tests::{ED25519_PRIVATE, ED25519_PUBLIC, P256_PRIVATE, P256_PUBLIC};

    fn bootstrap(second: &str) -> String {
        let squeeze = |pem: &str| -> String {
            pem.lines().filter(|line| !line.starts_with("-----")).collect()
        };
        format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Bootstrap\nmetadata: {{name: a}}\nspec:\n  \
             storeId: \"0412\"\n  role: Gateway\n  stateDir: /var/lib/tillgate\n  \
             sources: [{{name: a, type: Directory, path: policy, interval: 30s}}]\n  trust:\n    \
             threshold: 1\n    keys:\n      \
             - {{id: boss, algorithm: Ed25519, publicKey: {}, roles: [override]}}\n      \
             - {{id: ops, algorithm: ECDSA-P256, publicKey: {}, {second}}}\n",
            squeeze(ED25519_PUBLIC),
            squeeze(P256_PUBLIC)
        )
    }

    #[test]
    fn a_key_counts_for_what_it_may_sign_and_as_who_it_is() {
        let text = bootstrap("roles: [override, ring-promotion], approvesAs: [store-ops]");
        let approvers = Approvers::read("bootstrap.yaml", &text).unwrap();
        let (boss, ops) =
            (PrivateKey::read(ED25519_PRIVATE).unwrap(), PrivateKey::read(P256_PRIVATE).unwrap());
        let check = |key: &PrivateKey, id: &str, role: &str, signed_for, asked_for| {
            let message = |purpose: Purpose| purpose.message(role, "{\"spec\":{}}");
            let approval = Approval {
                role: role.into(),
                key_id: id.into(),
                signature: key.sign(&message(signed_for)).unwrap().into(),
            };
            approvers.trust.approves(asked_for, &approval, &message(asked_for))
        };
        let (exception, promotion) = (Purpose::Override, Purpose::RingPromotion);
        assert!(check(&boss, "boss", "release-manager", exception, exception));
        assert!(!check(&boss, "boss", "release-manager", promotion, promotion), "not its role");
        assert!(check(&ops, "ops", "store-ops", promotion, promotion));
        assert!(!check(&ops, "ops", "release-manager", exception, exception), "somebody else");
        assert!(!check(&ops, "ops", "store-ops", promotion, exception), "signed for another thing");
        assert!(!check(&ops, "boss", "store-ops", exception, exception), "not its key");
        assert!(!check(&boss, "nobody", "release-manager", exception, exception));
    }

    #[test]
    fn a_bootstrap_that_cannot_be_used_is_told() {
        assert!(Approvers::read("b.yaml", "kind: Store").unwrap_err().contains("b.yaml"));
        let none = Approvers::read("b.yaml", &bootstrap("roles: [fool]")).unwrap_err();
        assert!(none.contains("fool"), "{none}");
        let wrong = bootstrap("roles: [override]").replace("MCow", "MCox");
        assert!(Approvers::read("b.yaml", &wrong).unwrap_err().contains("the key `boss`"));
    }

    #[test]
    fn a_secret_is_found_by_the_name_that_the_policy_calls_it() {
        let policy = "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {name: a}\n\
             spec:\n  timeZone: Etc/UTC\n  links: [{name: primary, capacity: {up: 5Mbit/s, \
             down: 20Mbit/s}}]\n---\napiVersion: tillgate.dev/v1alpha1\nkind: RegistryMirror\n\
             metadata: {name: images}\nspec:\n  address: 127.0.0.1:5000\n  registries:\n    \
             - {host: registry.example, credentialsSecret: hub}\n    \
             - {host: other.example, credentialsSecret: lost}\n  \
             cache: {directory: /var/lib/tillgate/images, size: 1Gi}\n";
        let secrets = "roles: [override]}\n  \
             secrets: [{name: hub, file: /etc/tillgate/hub}";
        let text = bootstrap(secrets).replace("hub}}", "hub}]");
        let approvers = Approvers::read("b.yaml", &text).unwrap();
        let effective = tillgate_config::load_text("a.yaml", policy).unwrap();
        let (digest, unresolved) = (effective.digest.clone(), effective.not_in_effect.len());
        let effective = approvers.believe(effective);
        let logins = effective.mirror.as_ref().unwrap().upstreams.iter();
        let files: Vec<_> = logins
            .map(|one| match one.login.as_ref().unwrap() {
                Login::Secret { name, file } => (name.to_string(), file.clone()),
                Login::Account { .. } => panic!("no account is named"),
            })
            .collect();
        let hub = std::path::Path::new("/etc/tillgate/hub");
        assert_eq!(files, [("hub".into(), Some(hub.into())), ("lost".into(), None)]);
        assert_eq!((effective.digest, unresolved), (digest, 0), "where it lies is no policy");
    }
}

//! Whose approvals of overrides and promotions count.
//!
//! The keys are those of the store's Bootstrap, never the policy's own: who may write policy may
//! not make himself an approver. A key counts for what its roles say, and as the person that it
//! belongs to.

use tillgate_config::effective::Effective;
use tillgate_core::gate::{Approval, Gate, Purpose};

use super::verify::{KeyRole, Trust, TrustedKey};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Approvers(Trust);

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
        Ok(Self(trust))
    }

    /// The same config, in which their approvals count and no others.
    #[must_use]
    pub fn believe(&self, effective: Effective) -> Effective {
        let gate = self.0.check(effective.gate);
        Effective { gate, ..effective }
    }
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
            approvers.0.approves(asked_for, &approval, &message(asked_for))
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
}

//! What a store serves while it has no policy: the built-in minimal one.
//!
//! A first start without a source, or a disk that lost everything, must not close the tills. Two
//! kinds of traffic: what the `Bootstrap` calls payments goes first, everything else shares the
//! rest. The forward proxy passes everything on; there are no routes, because nobody has said
//! where to, and no registry mirror, so that no rollout moves.

use std::fmt::Write as _;

use crate::compile::host_text;
use crate::effective::{Effective, Origin};
use crate::kinds::BootstrapDoc;
use crate::load_text;
use crate::report::Report;

/// The line's numbers are policy, so they are unknown: with more than any line has, nothing is
/// held back here, and classes still go in their order where the host itself is the bottleneck.
const LINE: &str = "1Gbit/s";

/// What it is called where a file would be.
const NAME: &str = "the built-in minimal policy";

const HEAD: &str = "apiVersion: tillgate.dev/v1alpha1\nkind: ";

impl Effective {
    /// The minimal policy of the store that `bootstrap` is of.
    ///
    /// # Errors
    /// If what it says of payments does not fit together.
    pub fn minimal(bootstrap: &BootstrapDoc) -> Result<Self, Report> {
        load_text(NAME, &text(bootstrap))
    }

    /// Whether it is the minimal policy, so that nobody has said yet what this store shall run.
    pub fn is_minimal(&self) -> bool {
        self.origins.values().any(|one| matches!(one, Origin::File { file, .. } if **file == *NAME))
    }
}

fn text(bootstrap: &BootstrapDoc) -> String {
    let mut text = format!(
        "{HEAD}Store\nmetadata: {{name: {}}}\nspec:\n  timeZone: UTC\n  links: [{{name: primary, \
         capacity: {{up: {LINE}, down: {LINE}}}}}]\n---\n{HEAD}EgressPolicy\nmetadata: {{name: \
         minimal}}\nspec:\n  trafficPolicy: Allow\n",
        bootstrap.metadata.name.0
    );
    let Some(fixed) = &bootstrap.spec.fixed else { return text };
    let mut rules = String::new();
    if let Some(hosts) = &fixed.payment_hosts {
        let hosts: Vec<String> =
            hosts.iter().map(|host| format!("{:?}", host_text(&host.0))).collect();
        let _ = write!(
            rules,
            "    - name: payment-hosts\n      destinations: [{{hostnames: [{}]}}]\n      \
             trafficClass: payment\n",
            hosts.join(", ")
        );
    }
    if let Some(ports) = &fixed.payment_ports {
        let ports: Vec<String> = ports.iter().map(|port| port.fit::<u16>().to_string()).collect();
        let _ = write!(
            rules,
            "    - name: payment-ports\n      destinations: [{{cidrs: [0.0.0.0/0, \"::/0\"], \
             ports: [{}]}}]\n      trafficClass: payment\n",
            ports.join(", ")
        );
    }
    if !rules.is_empty() {
        text.push_str("  rules:\n");
        text.push_str(&rules);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load_bootstrap;

    fn bootstrap(fixed: &str) -> BootstrapDoc {
        let text = format!(
            "{HEAD}Bootstrap\nmetadata: {{name: store-0412}}\nspec:\n  storeId: \"0412\"\n  role: \
             Gateway\n  stateDir: /var/lib/tillgate\n  sources: [{{name: stick, type: Directory, \
             path: /media, interval: 30s}}]\n  trust: {{threshold: 1, keys: [{{id: ci, algorithm: \
             Ed25519, publicKey: MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=, \
             roles: [bundle]}}]}}\n{fixed}"
        );
        load_bootstrap("bootstrap.yaml", &text).expect("it is right")
    }

    #[test]
    fn a_store_without_policy_puts_payments_first_and_passes_the_rest() {
        let fixed = "  static: {paymentHosts: [\"pay.example\", \"*.acquirer.example\"], \
                     paymentPorts: [5015]}\n";
        let minimal = Effective::minimal(&bootstrap(fixed)).expect("it compiles");
        let payment = minimal.classes.id("payment").expect("built in");
        let egress = minimal.egress.as_ref().expect("there is one");
        assert_eq!(egress.rules.len(), 2);
        assert!(egress.rules.iter().all(|rule| rule.class == Some(payment)));
        assert!(minimal.routes.rules.is_empty() && minimal.mirror.is_none());
        assert!(minimal.is_minimal() && minimal.with_workers(2).is_minimal());
    }

    #[test]
    fn it_needs_nothing_said() {
        let minimal = Effective::minimal(&bootstrap("")).expect("it compiles");
        assert_eq!(&*minimal.store, "store-0412");
    }
}

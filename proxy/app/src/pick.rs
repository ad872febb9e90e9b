//! Which server of a rule gets a request: by weight among the first tier's backends, evenly
//! among a backend's endpoints. Chance is an argument. Health and failover will choose among
//! tiers here.

use tillgate_core::backend::{BackendId, BackendSpec};
use tillgate_core::matching::Rule;

/// A backend of the rule's first tier, in proportion to the weights; the first one if all are 0.
pub(crate) fn backend(rule: &Rule, draw: u64) -> BackendId {
    let tier = &rule.tiers[0];
    let total: u64 = tier.iter().map(|reference| u64::from(reference.weight)).sum();
    let mut left = if total == 0 { 0 } else { draw % total };
    for reference in tier {
        let weight = u64::from(reference.weight);
        if left < weight {
            return reference.backend;
        }
        left -= weight;
    }
    tier[0].backend
}

/// The index of one of the backend's endpoints.
pub(crate) fn endpoint(backend: &BackendSpec, draw: u64) -> usize {
    let count = backend.endpoints.len() as u64;
    usize::try_from(draw % count.max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tillgate_core::backend::Timeouts;
    use tillgate_core::matching::{BackendRef, HostPattern, PathMatch, RequestMatch};

    use super::*;

    fn rule(weights: &[u32]) -> Rule {
        let reference =
            |(id, weight): (u16, &u32)| BackendRef { backend: BackendId(id), weight: *weight };
        let timeouts = Timeouts {
            request: None,
            backend_request: None,
            connect: Duration::from_secs(1),
            idle: Duration::from_secs(1),
        };
        Rule::forward(
            ("r", "all"),
            vec![HostPattern::Any],
            vec![RequestMatch::on_path(PathMatch::Prefix("/".into()))],
            vec![(0..).zip(weights).map(reference).collect()],
            timeouts,
        )
    }

    #[test]
    fn weights_are_shares_and_zero_takes_nothing() {
        let rule = rule(&[1, 0, 3]);
        let picked: Vec<u16> = (0..8).map(|draw| backend(&rule, draw).0).collect();
        assert_eq!(picked, [0, 2, 2, 2, 0, 2, 2, 2]);
    }

    #[test]
    fn a_tier_without_weights_still_answers() {
        assert_eq!(backend(&rule(&[0, 0]), 7), BackendId(0));
    }
}

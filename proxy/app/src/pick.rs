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

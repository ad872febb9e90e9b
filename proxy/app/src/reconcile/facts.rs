//! How the store is, for the health gate: what has been counted, and who can serve what.

use std::collections::BTreeMap;

use tillgate_core::failover::EndpointStatus;
use tillgate_core::load::{EndpointId, Verdict};
use tillgate_core::reconcile::{Facts, RouteFact};
use tillgate_net::metrics::Label;

use crate::gateway::Gateway;
use crate::running::Running;

/// Why an endpoint is out although it answers: it is asked, and says no.
const ANSWERS: [&str; 4] = ["gateway_errors", "server_errors", "failure_ratio", "trial_failed"];

/// Counts that only grow, whatever configs come and go: a config's own begin anew with it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    seen: BTreeMap<(Label, Label, &'static str), u64>,
    requests: u64,
    errors: u64,
}

impl Tally {
    /// The store now.
    pub(super) fn facts(&mut self, gateway: &Gateway) -> Facts {
        let running = gateway.running();
        running.counted(|one| {
            let key = (Label::clone(one.class), Label::clone(one.route), one.code);
            let before = self.seen.insert(key, one.count).unwrap_or(0);
            let more = one.count.saturating_sub(before);
            // What no rule wants may be noise, or all that the policy has forgotten.
            if one.critical || one.unruled {
                self.requests += more;
            }
            if one.unruled || (one.critical && one.code.starts_with('5')) {
                self.errors += more;
            }
        });
        let board = gateway.failover().board();
        let endpoints: BTreeMap<EndpointId, EndpointStatus> =
            board.endpoints().map(|one| (one.load.id(), one)).collect();
        let lines: Vec<bool> = board.lines().map(|line| line.down_since.is_some()).collect();
        let cloud_down = !lines.is_empty() && lines.iter().all(|is_down| *is_down);
        drop(board);
        let routes = routes(&running, &endpoints);
        let (requests, errors) = (self.requests, self.errors);
        let refusals = gateway.endpoint.refusals();
        Facts { requests, errors, refusals, cloud_down, routes }
    }
}

fn routes(running: &Running, endpoints: &BTreeMap<EndpointId, EndpointStatus>) -> Vec<RouteFact> {
    let rules = running.effective.routes.rules.iter().zip(&running.wiring.plans);
    let critical = rules.filter(|(rule, plan)| {
        let class = rule.class.unwrap_or(running.default_class());
        !plan.tiers.is_empty() && running.class(class).spec.critical
    });
    let mut facts = Vec::new();
    for (rule, plan) in critical {
        let loads = || plan.tiers.iter().flatten().flat_map(|group| group.loads.iter());
        let says_no = |id: EndpointId| {
            let cause = endpoints.get(&id).and_then(|one| one.cause);
            cause.is_some_and(|cause| ANSWERS.contains(&cause))
        };
        facts.push(RouteFact {
            name: format!("{}/{}", rule.route, rule.name).into(),
            usable: loads().any(|load| load.verdict() != Verdict::Out),
            answers: loads().any(|load| says_no(load.id())),
        });
    }
    facts
}

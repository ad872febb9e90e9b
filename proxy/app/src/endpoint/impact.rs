//! What another policy would do to what is under way: connections that end, classes with other
//! numbers, images and rules that could move and cannot now, or the other way round.
//!
//! Listeners are compared by the code of the reload, gates by that of the data path. Approvals are
//! taken for right, in the other policy and in this one: whoever asks wants to know what the other
//! would do, and what is the same in both changes nothing.

use serde_json::{Value, json};
use tillgate_config::effective::{Effective, ListenerSpec};
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{Clock, Gate, Rollout, StoreState};

use crate::doors;
use crate::gateway::Gateway;

/// What `config` would mean after `running`.
pub(super) fn of(gateway: &Gateway, running: &Effective, config: &Effective) -> Value {
    let begins = |one: &ListenerSpec| {
        (one.name.clone(), one.address, one.protocol, one.tls.clone(), one.proxy_protocol.clone())
    };
    let known: Vec<_> = running.listeners.iter().map(begins).collect();
    let opened = config.listeners.iter().filter(|one| !known.contains(&begins(one)));
    let ends = gateway.listeners.ends(config);
    let resized = config.classes.iter().filter(|(_, class)| {
        running.classes.iter().any(|(_, old)| old.name == class.name && old != *class)
    });
    let stand = stand(running, config, gateway.clock.now());
    let [opens, closes] = ["Open", "Held"]
        .map(|gate| stand.iter().filter(|one| one["gate"] == gate).cloned().collect::<Vec<_>>());
    json!({
        "listenersDrained": ends.iter().map(|(one, _)| &*one.name).collect::<Vec<_>>(),
        "listenersOpened": opened.map(|one| &*one.name).collect::<Vec<_>>(),
        "connectionsDrained": drained(gateway, config, &ends),
        "classesResized": resized.map(|(_, class)| &*class.name).collect::<Vec<_>>(),
        "gatesOpened": opens,
        "gatesClosed": closes,
        "needsRestart": running.process.workers != config.process.workers,
    })
}

/// Connections of clients on listeners that would go, and those across the line to servers that
/// no backend names any more: both end as what they carry does.
fn drained(
    gateway: &Gateway,
    config: &Effective,
    ends: &[(crate::listeners::Listening, usize)],
) -> Value {
    let clients = ends.iter().filter(|(_, count)| *count > 0).map(|(one, count)| {
        json!({"listener": &*one.name, "address": one.address.to_string(), "connections": count})
    });
    let shelves = gateway.wan().snapshot();
    let is_named = |endpoint: &str| {
        let mut all = config.backends.iter().flat_map(|one| one.endpoints.iter());
        all.any(|one| one.to_string() == endpoint)
    };
    let servers = shelves.iter().filter(|shelf| shelf.open > 0).filter_map(|shelf| {
        let endpoint = shelf.endpoint.to_string();
        let class = gateway.class_name(shelf.class);
        let gone = !is_named(&endpoint);
        gone.then(|| {
            json!({
                "endpoint": endpoint, "class": class.as_deref(), "connections": shelf.open,
            })
        })
    });
    clients.chain(servers).collect()
}

/// Releases and rules that would stand another way than in `running`; a release that nobody had
/// is held there.
fn stand(
    running: &Effective,
    config: &Effective,
    (clock, moment): (Clock, Timestamp),
) -> Vec<Value> {
    let [old, new] = [running, config].map(|one| one.gate.clone().verified(|_, _, _| true));
    let is_open = |gate: &Gate, rollout: &Rollout| {
        gate.of_rollout(rollout, StoreState::Running, clock, moment).held_by.is_empty()
    };
    let mut found = Vec::new();
    for rollout in &new.rollouts {
        let release = &rollout.stages.release;
        let before = old.rollouts.iter().find(|one| one.name == rollout.name);
        let before = before.filter(|one| one.stages.release == *release);
        let was_open = before.is_some_and(|one| is_open(&old, one));
        let now = new.of_rollout(rollout, StoreState::Running, clock, moment);
        if was_open != now.held_by.is_empty() {
            let mut shown = doors::stands(&now);
            shown["document"] = json!(format!("Rollout/{}", rollout.name));
            shown["release"] = json!(&**release);
            found.push(shown);
        }
    }
    for passage in doors::guarded(config).chain(doors::guarded(running)) {
        let before = old.of_passage(passage, clock, moment);
        let after = new.of_passage(passage, clock, moment);
        let mut shown = doors::stands(&after);
        shown["rule"] = json!(passage.to_string());
        if before.held_by.is_empty() != after.held_by.is_empty() && !found.contains(&shown) {
            found.push(shown);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use tillgate_config::load_text;
    use tillgate_config::scalar::{Instant, Text as _};

    use super::*;

    /// A route that is frozen, and an exception for it with an approval of nobody's.
    const POLICY: &str = "\
apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {name: store-0412}
spec: {timeZone: UTC, links: [{name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: ServiceRoute
metadata: {name: prices}
spec:
  hostnames: [prices.example]
  rules: [{name: file, filters: {requestRedirect: {scheme: https, statusCode: 301}}}]
---
apiVersion: tillgate.dev/v1alpha1
kind: Freeze
metadata: {name: peak}
spec:
  appliesTo: {routes: [prices/file]}
  from: \"2026-11-20T00:00:00\"
  until: \"2026-12-01T06:00:00\"
  timeZone: Store
  reason: the busy week
---
apiVersion: tillgate.dev/v1alpha1
kind: Override
metadata: {name: hotfix}
spec:
  suspends: [{kind: Freeze, name: peak}]
  allStores: true
  appliesTo: {routes: [prices/file]}
  reason: wrong price
  ticket: CHG-1
  validFrom: \"2026-11-27T18:00:00Z\"
  expiresAt: \"2026-11-28T06:00:00Z\"
  approvals:
    - role: release-manager
      keyId: release
      signature: dW50cnVzdGVkIGNvbW1lbnQ6IHBsYWNlaG9sZGVyIHNpZ25hdHVyZSAx
";

    #[test]
    fn the_same_policy_changes_no_gate() {
        let at = (Clock::Synced, Instant::read("2026-11-27T20:10:00Z").unwrap().0);
        let config = load_text("store.yaml", POLICY).unwrap();
        // Nobody has the key here, so what runs does not count the approval.
        let running = config.clone();
        assert_eq!(stand(&running, &config, at), Vec::<Value>::new());
        let (frozen, _) = POLICY.rsplit_once("---\n").unwrap();
        let frozen = load_text("store.yaml", frozen).unwrap();
        let opened = stand(&frozen, &config, at);
        assert_eq!(opened.len(), 1, "{opened:?}");
        assert_eq!(
            (&opened[0]["gate"], &opened[0]["rule"]),
            (&json!("Open"), &json!("ServiceRoute/prices/file"))
        );
    }
}

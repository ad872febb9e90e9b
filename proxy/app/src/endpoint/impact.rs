//! What another policy would do to what is under way: connections that end, classes with other
//! numbers, images and rules that could move and cannot now, or the other way round.
//!
//! Listeners are compared by the code of the reload, gates by that of the data path. Approvals in
//! the other policy are taken for right: whoever asks wants to know what it would do.

use serde_json::{Value, json};
use tillgate_config::effective::{Effective, ListenerSpec};
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{Clock, Gate, Opening, Rollout, StoreState};

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
    let gate = config.gate.clone().verified(|_, _, _| true);
    let at = gateway.clock.now();
    let stand = stand(running, &Stands { config, gate: &gate, at });
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

/// How things would stand.
struct Stands<'a> {
    config: &'a Effective,
    gate: &'a Gate,
    at: (Clock, Timestamp),
}

impl Stands<'_> {
    fn rollout<'a>(&self, gate: &'a Gate, rollout: &'a Rollout) -> Opening<'a> {
        gate.of_rollout(rollout, StoreState::Running, self.at.0, self.at.1)
    }
}

/// Releases and rules that would stand another way than in `running`; a release that nobody had
/// is held there.
fn stand(running: &Effective, then: &Stands<'_>) -> Vec<Value> {
    let mut found = Vec::new();
    for rollout in &then.gate.rollouts {
        let release = &rollout.stages.release;
        let before = running.gate.rollouts.iter().find(|one| one.name == rollout.name);
        let before = before.filter(|one| one.stages.release == *release);
        let before = before.map(|one| then.rollout(&running.gate, one));
        let now = then.rollout(then.gate, rollout);
        let was_open = before.is_some_and(|opening| opening.held_by.is_empty());
        if was_open != now.held_by.is_empty() {
            let mut shown = doors::stands(&now);
            shown["document"] = json!(format!("Rollout/{}", rollout.name));
            shown["release"] = json!(&**release);
            found.push(shown);
        }
    }
    let (clock, now) = then.at;
    for passage in doors::guarded(then.config).chain(doors::guarded(running)) {
        let before = running.gate.of_passage(passage, clock, now);
        let after = then.gate.of_passage(passage, clock, now);
        let mut shown = doors::stands(&after);
        shown["rule"] = json!(passage.to_string());
        if before.held_by.is_empty() != after.held_by.is_empty() && !found.contains(&shown) {
            found.push(shown);
        }
    }
    found
}

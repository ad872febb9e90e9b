//! `/v1/drift`: where what runs is not what was wanted.
//!
//! The digest is computed anew from the config that answers requests, the rates are asked of the
//! schedulers themselves, the addresses of the bound sockets, and of each sidecar what it says that
//! it runs. Nothing is compared as text that has a value.

use serde_json::{Value, json};
use tillgate_core::units::Direction;
use tillgate_net::clock;
use tillgate_net::metrics::InstanceState;

use super::{Desk, lock};

/// One thing that is not as it should be.
struct Item {
    reason: &'static str,
    subject: String,
    desired: String,
    observed: String,
}

impl Item {
    fn to_json(&self) -> Value {
        json!({
            "reason": self.reason,
            "subject": self.subject,
            "desired": self.desired,
            "observed": self.observed,
        })
    }
}

/// All of it, and one word for it.
pub(super) fn show(desk: &Desk) -> Value {
    let mut items: Vec<Item> = digest(desk).into_iter().collect();
    items.extend(lines(desk));
    items.extend(listeners(desk));
    let is_drifted = !items.is_empty();
    let wanted = desk.endpoint().slices(&desk.running()).for_sidecars();
    let states = lock(&desk.endpoint().instances).states(&wanted, clock::now());
    let has = |wanted: InstanceState| states.iter().any(|(_, state, _)| *state == wanted);
    let compliance = if is_drifted {
        "Drifted"
    } else if has(InstanceState::Nacked) {
        "Failed"
    } else if has(InstanceState::Stale) {
        "Stale"
    } else if has(InstanceState::Pending) {
        "Pending"
    } else {
        "InSync"
    };
    for (id, state, active) in states {
        let reason = match state {
            InstanceState::InSync => continue,
            InstanceState::Pending => "InstancePending",
            InstanceState::Nacked => "InstanceRejected",
            InstanceState::Stale => "LeaseExpired",
        };
        items.push(Item {
            reason,
            subject: format!("instance {id}"),
            desired: wanted.to_string(),
            observed: active.map_or_else(|| "unknown".to_owned(), |active| active.to_string()),
        });
    }
    json!({
        "digest": &*desk.running().digest,
        "compliance": compliance,
        "items": items.iter().map(Item::to_json).collect::<Vec<_>>(),
    })
}

/// The digest of the values that requests are decided by.
fn digest(desk: &Desk) -> Option<Item> {
    let running = desk.running();
    let whole = running.whole().digest;
    (whole != running.digest).then(|| Item {
        reason: "ConfigChanged",
        subject: "config".to_owned(),
        desired: running.digest.to_string(),
        observed: whole.to_string(),
    })
}

/// What the schedulers hand out.
fn lines(desk: &Desk) -> Vec<Item> {
    let running = desk.gateway.running();
    let mut items = Vec::new();
    for spec in &running.effective.links {
        let Some((_, link)) = running.lines().get(&spec.name) else {
            items.push(Item {
                reason: "LineMissing",
                subject: format!("line {}", spec.name),
                desired: "driven".to_owned(),
                observed: "none".to_owned(),
            });
            continue;
        };
        let live = link.snapshot();
        for direction in Direction::BOTH {
            let wanted = *spec.capacity.get(direction);
            let observed = live.directions.get(direction).capacity;
            if wanted != observed {
                items.push(Item {
                    reason: "LineCapacity",
                    subject: format!("line {} {}", spec.name, direction.label()),
                    desired: wanted.to_string(),
                    observed: observed.to_string(),
                });
            }
        }
    }
    items
}

/// The sockets that are bound.
fn listeners(desk: &Desk) -> Vec<Item> {
    let running = desk.running();
    let shown = desk.gateway.listeners.shown();
    let missing = running.listeners.iter().filter(|spec| {
        let is_it = |address: std::net::SocketAddr| {
            // Port 0 is the kernel's choice.
            address.ip() == spec.address.ip()
                && (address.port() == spec.address.port() || spec.address.port() == 0)
        };
        !shown.iter().any(|one| one.name == spec.name && is_it(one.address))
    });
    missing
        .map(|spec| Item {
            reason: "ListenerMissing",
            subject: format!("listener {}", spec.name),
            desired: spec.address.to_string(),
            observed: "not bound".to_owned(),
        })
        .collect()
}

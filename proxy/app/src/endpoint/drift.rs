//! `/v1/drift`: where what runs is not what was wanted.
//!
//! The digest is computed anew from the config that answers requests, the rates are asked of the
//! schedulers themselves, the addresses of the bound sockets, and of each sidecar what it says that
//! it runs. Where policy comes from sources, the one who follows them adds what they have, and what
//! was changed on the disk. Nothing is compared as text that has a value.

use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_core::units::Direction;
use tillgate_net::clock;
use tillgate_net::metrics::InstanceState;

use super::{Desk, lock};
use crate::gateway::Gateway;
use crate::reconcile::Order;

/// How what runs stands to what was wanted; the later ones weigh more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    InSync,
    /// It will be, soon.
    Pending,
    /// Nobody knows any more.
    Stale,
    /// It was tried, and is not.
    Failed,
    /// Nobody has said yet what is wanted.
    Unknown,
    /// Something was changed by hand, or cannot be.
    Drifted,
}

impl State {
    /// Every name.
    pub(crate) const NAMES: [&'static str; 6] = [
        Self::InSync.name(),
        Self::Pending.name(),
        Self::Stale.name(),
        Self::Failed.name(),
        Self::Unknown.name(),
        Self::Drifted.name(),
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::InSync => "InSync",
            Self::Pending => "Pending",
            Self::Stale => "Stale",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
            Self::Drifted => "Drifted",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) state: State,
    pub(crate) reason: &'static str,
    pub(crate) subject: String,
    desired: String,
    pub(crate) observed: String,
}

impl Item {
    pub(crate) fn new(
        state: State,
        reason: &'static str,
        subject: &str,
        desired: &str,
        observed: String,
    ) -> Self {
        let (subject, desired) = (subject.to_owned(), desired.to_owned());
        Self { state, reason, subject, desired, observed }
    }

    fn drifted(reason: &'static str, subject: &str, desired: &str, observed: String) -> Self {
        Self::new(State::Drifted, reason, subject, desired, observed)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "reason": self.reason,
            "state": self.state.name(),
            "subject": self.subject,
            "desired": self.desired,
            "observed": self.observed,
        })
    }
}

/// One word for all of it.
pub(crate) fn state(items: &[Item]) -> State {
    items.iter().map(|item| item.state).max().unwrap_or(State::InSync)
}

/// `GET /v1/drift`.
pub(super) async fn show(desk: &Arc<Desk>) -> Value {
    let gateway = &desk.gateway;
    let shown = |state: &str, items: Vec<Value>| {
        let digest = Arc::clone(&gateway.running().effective.digest);
        json!({ "digest": &*digest, "compliance": state, "items": items })
    };
    if let Some(office) = gateway.policy.office() {
        // Who follows the sources looks at everything, now.
        if let Ok(found) = office.order(Order::Check, None, &"viewer".into()).await {
            let items = found["items"].as_array().cloned().unwrap_or_default();
            return shown(found["compliance"].as_str().unwrap_or_default(), items);
        }
    }
    let items: Vec<Item> = digest(gateway).1.into_iter().chain(live(gateway)).collect();
    let state = state(&items);
    let reasons = items.iter().map(|item| item.reason);
    gateway.endpoint.report_meters.stands(state.name(), &State::NAMES, reasons);
    shown(state.name(), items.iter().map(Item::to_json).collect())
}

/// What can be seen of the gateway itself, at once.
pub(crate) fn live(gateway: &Gateway) -> Vec<Item> {
    let mut items = lines(gateway);
    items.extend(listeners(gateway));
    items.extend(instances(gateway));
    if let Some(wrong) = lock(&gateway.endpoint.said).clone() {
        items.push(Item::drifted("SecretRefused", "secrets on disk", "can be used", wrong));
    }
    items
}

/// What sidecars say that they run.
fn instances(gateway: &Gateway) -> Vec<Item> {
    let now = clock::now();
    let Some(wanted) = gateway.endpoint.wanted(&gateway.running().effective, now) else {
        return Vec::new();
    };
    let states = lock(&gateway.endpoint.instances).states(&wanted, now);
    let item = |(id, state, active): (Arc<str>, InstanceState, Option<Arc<str>>)| {
        let (state, reason) = match state {
            InstanceState::InSync => return None,
            InstanceState::Pending => (State::Pending, "InstancePending"),
            InstanceState::Nacked => (State::Failed, "InstanceRejected"),
            InstanceState::Stale => (State::Stale, "LeaseExpired"),
        };
        let observed = active.map_or_else(|| "unknown".to_owned(), |active| active.to_string());
        Some(Item::new(state, reason, &format!("instance {id}"), &wanted, observed))
    };
    states.into_iter().filter_map(item).collect()
}

/// The digest of the values that requests are decided by. It takes some milliseconds.
pub(crate) fn digest(gateway: &Gateway) -> (Arc<str>, Option<Item>) {
    let running = gateway.running();
    let (wanted, whole) = (&running.effective.digest, running.effective.whole().digest);
    let differs = || Item::drifted("ConfigChanged", "config", wanted, whole.to_string());
    let item = (whole != *wanted).then(differs);
    (whole, item)
}

/// What the schedulers hand out.
fn lines(gateway: &Gateway) -> Vec<Item> {
    let running = gateway.running();
    let mut items = Vec::new();
    for spec in &running.effective.links {
        let Some((_, link)) = running.lines().get(&spec.name) else {
            let subject = format!("line {}", spec.name);
            items.push(Item::drifted("LineMissing", &subject, "driven", "none".to_owned()));
            continue;
        };
        let live = link.snapshot();
        for direction in Direction::BOTH {
            let wanted = *spec.capacity.get(direction);
            let observed = live.directions.get(direction).capacity;
            if wanted != observed {
                let subject = format!("line {} {}", spec.name, direction.label());
                let (wanted, found) = (wanted.to_string(), observed.to_string());
                items.push(Item::drifted("LineCapacity", &subject, &wanted, found));
            }
        }
    }
    items
}

/// The sockets that are bound.
fn listeners(gateway: &Gateway) -> Vec<Item> {
    let running = gateway.running();
    let shown = gateway.listeners.shown();
    let missing = running.effective.listeners.iter().filter(|spec| {
        let is_it = |address: std::net::SocketAddr| {
            // Port 0 is the kernel's choice.
            address.ip() == spec.address.ip()
                && (address.port() == spec.address.port() || spec.address.port() == 0)
        };
        !shown.iter().any(|one| one.name == spec.name && is_it(one.address))
    });
    missing
        .map(|spec| {
            let (subject, wanted) = (format!("listener {}", spec.name), spec.address.to_string());
            Item::drifted("ListenerMissing", &subject, &wanted, "not bound".to_owned())
        })
        .collect()
}

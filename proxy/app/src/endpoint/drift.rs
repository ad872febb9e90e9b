//! `/v1/drift`: where what runs is not what was wanted.
//!
//! The digest is computed anew from the config that answers requests, the rates are asked of the
//! schedulers themselves, the addresses of the bound sockets, and of each sidecar what it says that
//! it runs. Where policy comes from sources, the one who follows them adds what they have, and what
//! was changed on the disk. Nothing is compared as text that has a value.

use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use tillgate_core::link::LinkSpec;
use tillgate_core::units::{BitRate, Direction};
use tillgate_net::clock;
use tillgate_net::metrics::InstanceState;

use super::problem::Problem;
use super::{Desk, lock};
use crate::disk::read_bounded;
use crate::gateway::Gateway;

/// Where the kernel shows what its network devices are.
const DEVICES: &str = "/sys/class/net";

/// A number.
const SPEED_BYTES_MAX: u64 = 64;

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

/// `GET /v1/drift`: what a look finds that begins after the question.
pub(super) async fn show(desk: &Arc<Desk>) -> Result<Value, Problem> {
    let gateway = &desk.gateway;
    if let Some(office) = gateway.policy.office() {
        // Who follows the sources looks at everything.
        return office.look().await.map_err(|_| unseen());
    }
    let gateway = Arc::clone(gateway);
    let looked = desk.endpoint().read_apart(move || {
        gateway.endpoint.check_audit();
        let items: Vec<Item> = digest(&gateway).1.into_iter().chain(live(&gateway)).collect();
        let state = state(&items);
        let reasons = items.iter().map(|item| item.reason);
        gateway.endpoint.report_meters.stands(state.name(), &State::NAMES, reasons);
        let items: Vec<Value> = items.iter().map(Item::to_json).collect();
        let digest = Arc::clone(&gateway.running().effective.digest);
        json!({ "digest": &*digest, "compliance": state.name(), "items": items })
    });
    looked.await.map_err(|_| unseen())
}

fn unseen() -> Problem {
    let detail = "nobody could look whether everything is as it should be: ask again";
    Problem::later(StatusCode::SERVICE_UNAVAILABLE, 5, detail)
}

/// What can be seen of the gateway itself, at once.
pub(crate) fn live(gateway: &Gateway) -> Vec<Item> {
    let mut items = lines(gateway);
    items.extend(listeners(gateway));
    items.extend(instances(gateway));
    if let Some(wrong) = lock(&gateway.endpoint.said).clone() {
        items.push(Item::drifted("SecretRefused", "secrets on disk", "can be used", wrong));
    }
    items.extend(gateway.endpoint.audit_item());
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
        items.extend(below_declared(Path::new(DEVICES), spec));
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

/// Whether the device that a line names runs slower than the line shall: a cable or a switch that
/// has fallen back. Devices without a speed of their own say nothing.
fn below_declared(devices: &Path, spec: &LinkSpec) -> Option<Item> {
    let device = spec.device.as_deref()?;
    let shown = read_bounded(&devices.join(device).join("speed"), SPEED_BYTES_MAX).ok()?;
    let mbit: u64 = std::str::from_utf8(&shown).ok()?.trim().parse().ok()?;
    let speed = BitRate::from_mbit(mbit);
    let wanted = *Direction::BOTH.map(|one| spec.capacity.get(one)).into_iter().max()?;
    let observed = format!("{device} runs at {speed}");
    let subject = format!("line {}", spec.name);
    (speed < wanted)
        .then(|| Item::drifted("LinkBelowDeclared", &subject, &wanted.to_string(), observed))
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

#[cfg(test)]
mod tests {
    use tillgate_core::link::LinkRole;
    use tillgate_core::units::{PerDirection, Percent};

    use super::*;

    #[test]
    fn a_device_that_has_fallen_back_is_below_what_its_line_shall_carry() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut spec = LinkSpec {
            name: "primary".into(),
            role: LinkRole::Primary,
            capacity: PerDirection { up: BitRate::from_mbit(5), down: BitRate::from_mbit(100) },
            headroom: Percent::new(5).unwrap(),
            overhead_bytes: 0,
            metered: false,
            device: Some("wan0".into()),
            source: None,
        };
        std::fs::create_dir(folder.path().join("wan0")).unwrap();
        let looks = |spec: &LinkSpec, speed: &str| {
            std::fs::write(folder.path().join("wan0/speed"), speed).unwrap();
            below_declared(folder.path(), spec).map(|item| (item.reason, item.observed))
        };
        let slow = ("LinkBelowDeclared", "wan0 runs at 10Mbit/s".to_owned());
        assert_eq!(looks(&spec, "10\n"), Some(slow));
        for speed in ["100\n", "1000\n", "-1\n", ""] {
            assert_eq!(looks(&spec, speed), None, "{speed}");
        }
        spec.device = Some("gone0".into());
        assert_eq!(looks(&spec, "10\n"), None);
        spec.device = None;
        assert_eq!(looks(&spec, "10\n"), None);
    }
}

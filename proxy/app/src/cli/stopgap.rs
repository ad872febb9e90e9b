//! Stopgap until the policy loader is here: reads just enough of a single-file policy to run.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tillgate_config::effective::{
    Effective, ListenerLimits, ListenerProtocol, ListenerSpec, ProcessSpec,
};
use tillgate_core::backend::{
    BackendId, BackendProtocol, BackendSpec, Endpoint, Host, Location, PoolLimit, Timeouts,
};
use tillgate_core::class::{ClassSpec, ClassTable, Metered, QueueLimit, Share};
use tillgate_core::link::{LinkRole, LinkSpec};
use tillgate_core::matching::{BackendRef, HostPattern, PathMatch, RequestMatch, RouteTable, Rule};
use tillgate_core::units::{BitRate, PerDirection, Percent};

fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = &text[text.find(key)? + key.len()..];
    Some(rest.trim_start().split([',', '}', ']', '\n']).next()?.trim())
}

fn mbit(text: &str) -> BitRate {
    let number: f64 = text.trim_end_matches("Mbit/s").parse().unwrap_or(1.0);
    BitRate::from_bits_per_second((number * 1e6) as u64)
}

pub(crate) fn load(path: &Path) -> Result<Effective, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let class = |name: &str, priority, critical, floor: (u8, u8)| ClassSpec {
        name: name.into(),
        priority,
        weight: 1,
        critical,
        guarantee: PerDirection {
            up: Share::Percent(Percent::new(floor.0).unwrap_or_default()),
            down: Share::Percent(Percent::new(floor.1).unwrap_or_default()),
        },
        ceiling: PerDirection::both(Share::Percent(Percent::FULL)),
        queue: QueueLimit {
            max_wait: Duration::from_secs(if critical { 2 } else { 300 }),
            limit_bytes: 1 << 20,
        },
        dscp: None,
        metered: Metered::Allow,
    };
    let classes = ClassTable::new(vec![
        class("payment", 1000, true, (20, 10)),
        class("auth", 900, true, (10, 10)),
        class("pos-interactive", 800, true, (20, 20)),
        class("control", 700, false, (1, 1)),
        class("replication", 600, false, (1, 1)),
        class("default", 500, false, (1, 1)),
        class("image-pull", 200, false, (1, 1)),
        class("metrics", 100, false, (1, 1)),
    ])
    .unwrap_or_default();
    let mut backends: Vec<BackendSpec> = Vec::new();
    let mut rules = Vec::new();
    let mut capacity = PerDirection::both(BitRate::from_mbit(10));
    for document in text.split("\n---") {
        let kind = after(document, "kind:").unwrap_or_default();
        let name: Arc<str> = after(document, "name:").unwrap_or_default().into();
        if kind == "Store" {
            capacity.up = mbit(after(document, "up:").unwrap_or_default());
            capacity.down = mbit(after(document, "down:").unwrap_or_default());
        } else if kind == "Backend" {
            let ip: IpAddr =
                after(document, "address:").and_then(|t| t.parse().ok()).ok_or("no address")?;
            let port = after(document, "port:").and_then(|t| t.parse().ok()).ok_or("no port")?;
            let local = after(document, "location:") == Some("Local");
            backends.push(BackendSpec {
                name,
                location: if local { Location::Local } else { Location::Cloud },
                protocol: BackendProtocol::Http,
                endpoints: vec![Endpoint { host: Host::Ip(ip), port }],
                pool: PoolLimit {
                    connections_max: 128,
                    waiting_max: 1024,
                    idle_timeout: Duration::from_secs(90),
                    age_max: Duration::from_secs(3600),
                },
            });
        } else if kind == "ServiceRoute" {
            let host = after(document, "hostnames: [").unwrap_or_default();
            let reference = after(document, "backendRefs: [{name:").unwrap_or_default();
            let backend =
                backends.iter().position(|b| *b.name == *reference).ok_or("no backend")?;
            rules.push(Rule {
                route: name,
                name: "all".into(),
                hosts: vec![HostPattern::Exact(host.into())],
                matches: vec![RequestMatch {
                    path: PathMatch::Prefix("/".into()),
                    method: None,
                    headers: vec![],
                }],
                class: after(document, "trafficClass:").and_then(|c| classes.id(c)),
                tiers: vec![vec![BackendRef { backend: BackendId(backend as u16), weight: 1 }]],
                timeouts: Timeouts {
                    request: None,
                    backend_request: None,
                    connect: Duration::from_secs(5),
                    idle: Duration::from_secs(300),
                },
            });
        }
    }
    let listener = |name: &str, protocol, port| ListenerSpec {
        name: name.into(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        protocol,
        limits: ListenerLimits {
            connections_max: 4096,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            header_bytes_max: 16 * 1024,
            headers_max: 100,
            streams_max: 100,
        },
    };
    Ok(Effective {
        store: "stopgap".into(),
        time_zone: "UTC".into(),
        process: ProcessSpec { workers: None, drain_timeout: Duration::from_secs(25) },
        listeners: vec![
            listener("http", ListenerProtocol::Http, 8080),
            listener("forward-proxy", ListenerProtocol::ForwardProxy, 3128),
            listener("admin", ListenerProtocol::Admin, 9900),
        ],
        links: vec![LinkSpec {
            name: "primary".into(),
            role: LinkRole::Primary,
            capacity,
            headroom: Percent::new(5).unwrap_or_default(),
            overhead_bytes: 0,
            metered: false,
            device: None,
            source: None,
        }],
        classes,
        backends,
        routes: RouteTable::new(rules).ok_or("too many rules")?,
        egress: None,
        origins: std::collections::BTreeMap::new(),
        not_in_effect: vec![],
        digest: "sha256:stopgap".into(),
    })
}

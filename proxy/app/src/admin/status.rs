//! `/v1/status`: what the gateway does right now, for people and scripts.

use serde_json::{Value, json};
use tillgate_core::units::Direction;
use tillgate_net::http::client::ShelfSnapshot;
use tillgate_net::link::snapshot::{ClassSnapshot, LinkSnapshot};
use tillgate_net::metrics::Build;

use crate::gateway::Gateway;

pub(crate) mod failover;

/// The status document.
pub(crate) fn of(gateway: &Gateway) -> Value {
    let running = gateway.running();
    let effective = &running.effective;
    let links: Vec<Value> =
        running.lines().iter().map(|link| show_link(&link.snapshot())).collect();
    let listeners: Vec<Value> = gateway
        .listeners
        .shown()
        .iter()
        .map(|listening| {
            json!({ "name": &*listening.name, "address": listening.address.to_string() })
        })
        .collect();
    let backends: Vec<Value> = effective
        .backends
        .iter()
        .map(|backend| {
            json!({
                "name": &*backend.name,
                "location": format!("{:?}", backend.location),
                "endpoints": backend.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    let connections: Vec<Value> =
        gateway.wan().snapshot().iter().map(|shelf| show_shelf(gateway, shelf)).collect();
    let not_in_effect: Vec<&str> =
        effective.not_in_effect.iter().map(|field| &*field.field).collect();
    json!({
        "store": &*effective.store,
        "version": env!("CARGO_PKG_VERSION"),
        "digest": &*effective.digest,
        "ready": gateway.not_ready().is_none(),
        "notReady": gateway.not_ready(),
        "buffered": {
            "bytes": gateway.memory().held(),
            "bytesMax": gateway.memory().ceiling(),
        },
        "links": links,
        "listeners": listeners,
        "backends": backends,
        "failover": failover::of(gateway),
        "policy": gateway.policy.value(),
        "wanConnections": connections,
        "notInEffect": not_in_effect,
        "audit": gateway.endpoint.audited(),
    })
}

fn show_link(link: &LinkSnapshot) -> Value {
    let direction = |direction: Direction| {
        let shown = link.directions.get(direction);
        json!({
            "capacity": shown.capacity.to_string(),
            "shaped": shown.shaped.to_string(),
            "classes": shown.classes.iter().filter(|class| class.present)
                .map(|class| show_class(class, shown.shaped.bits_per_second()))
                .collect::<Vec<_>>(),
        })
    };
    json!({
        "name": &*link.name,
        "up": direction(Direction::Up),
        "down": direction(Direction::Down),
        "baseRttMs": link.base_rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        "connections": link.connections,
        "dialsWaiting": link.dials_waiting,
        "windowSumBytes": link.window_sum_bytes,
        "windowSumMaxBytes": link.window_sum_max_bytes,
    })
}

/// What of `class` waits on the line called `name`: requests for a connection, flows for a turn.
pub(crate) fn queue(gateway: &Gateway, name: &str, class: &str) -> Value {
    let running = gateway.running();
    let links = running.lines().iter().map(|link| link.snapshot());
    let Some(link) = links.into_iter().find(|link| *link.name == *name) else { return Value::Null };
    let of = |direction: Direction| {
        link.directions.get(direction).classes.iter().find(|one| *one.name == *class)
    };
    let wait = |direction| of(direction).map_or(0.0, mean_wait_ms);
    let parked = Direction::BOTH.map(|one| of(one).map_or(0, |class| class.counters.parked));
    let shelves = gateway.wan().snapshot();
    let is_ours =
        |shelf: &&ShelfSnapshot| gateway.class_name(shelf.class).as_deref() == Some(class);
    json!({
        "waiting": shelves.iter().filter(is_ours).map(|shelf| shelf.waiting).sum::<usize>(),
        "parked": parked.into_iter().sum::<u64>(),
        "meanWaitMs": {"up": wait(Direction::Up), "down": wait(Direction::Down)},
    })
}

fn mean_wait_ms(class: &ClassSnapshot) -> f64 {
    let waits = &class.counters.waits;
    waits.sum.as_secs_f64() * 1000.0 / waits.count.max(1) as f64
}

fn show_class(class: &ClassSnapshot, line: u64) -> Value {
    let counters = &class.counters;
    let rate = class.rate.bits_per_second();
    json!({
        "name": &*class.name,
        "rateBitsPerSecond": rate,
        "sharePercent": rate as f64 * 100.0 / line.max(1) as f64,
        "bytes": counters.bytes,
        "grants": counters.grants,
        "flows": counters.flows,
        "parked": counters.parked,
        "meanWaitMs": mean_wait_ms(class),
    })
}

fn show_shelf(gateway: &Gateway, shelf: &ShelfSnapshot) -> Value {
    json!({
        "endpoint": shelf.endpoint.to_string(),
        "class": gateway.class_name(shelf.class).as_deref(),
        "open": shelf.open,
        "idle": shelf.idle,
        "waiting": shelf.waiting,
    })
}

/// What this program was built of.
pub(crate) fn build() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION"),
        schema_version: tillgate_config::bundle::SCHEMA_VERSION,
        tzdb: tillgate_config::zones::database_version().unwrap_or_default(),
    }
}

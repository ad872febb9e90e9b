//! The effective config as plain data, in the order a person reads it.
//!
//! Names are keys, so that a diff of two configs shows what changed and not what moved. Both the
//! digest and the texts are made from this one tree.

use std::net::IpAddr;

use tillgate_core::backend::Location;
use tillgate_core::class::{ClassId, ClassSpec, Metered};
use tillgate_core::link::{LinkRole, LinkSpec};
use tillgate_core::matching::{EgressDestination, EgressTable, TrafficPolicy};

use super::Effective;
use crate::compile::{host_text, share_text};
use crate::scalar::{dscp_text, duration_text, size_text};

mod endpoint;
mod entry;
mod gate;
mod health;
mod mirror;
mod rules;

pub(super) use rules::of_rule;

/// A value of the effective config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn number(value: impl Into<u64>) -> Value {
    Value::Number(value.into())
}

fn optional<T>(value: Option<T>, show: impl Fn(T) -> Value) -> Value {
    value.map_or(Value::Null, show)
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn named<'a, T: 'a>(
    items: impl IntoIterator<Item = &'a T>,
    entry: impl Fn(&'a T) -> (String, Value),
) -> Value {
    Value::Map(items.into_iter().map(entry).collect())
}

fn list<'a, T: 'a>(items: impl IntoIterator<Item = &'a T>, show: impl Fn(&'a T) -> Value) -> Value {
    Value::List(items.into_iter().map(show).collect())
}

/// The whole config, without origins and digest.
pub(super) fn of(config: &Effective) -> Value {
    let mut all = own(config);
    all.extend(shared(config));
    // In the order a person reads it.
    let order = [
        "store",
        "timeZone",
        "process",
        "configEndpoint",
        "listeners",
        "links",
        "classes",
        "backends",
        "routes",
        "egress",
        "telemetry",
        "gate",
    ];
    all.sort_by_key(|(key, _)| order.iter().position(|name| name == key));
    Value::Map(all)
}

/// The sections that may differ from store to store although the same documents are selected.
pub(super) fn own(config: &Effective) -> Vec<(String, Value)> {
    let process = map([
        ("workers", optional(config.process.workers, number)),
        ("drainTimeout", text(duration_text(config.process.drain_timeout))),
        ("bufferMemory", text(size_text(config.process.buffer_bytes_max))),
    ]);
    let mut sections = vec![
        ("store".to_owned(), text(&config.store)),
        ("timeZone".to_owned(), text(&config.time_zone)),
        ("process".to_owned(), process),
        ("links".to_owned(), named(&config.links, |one| (one.name.to_string(), of_link(one)))),
    ];
    if let Some(endpoint) = &config.endpoint {
        sections.push(("configEndpoint".to_owned(), endpoint::of_endpoint(endpoint)));
    }
    if !config.gate.is_empty() {
        sections.push(("gate".to_owned(), gate::of(config)));
    }
    sections
}

/// The sections that follow from the selected documents alone.
pub(super) fn shared(config: &Effective) -> Vec<(String, Value)> {
    let classes = config.classes.iter().map(|(_, class)| (class.name.to_string(), of_class(class)));
    let egress = optional(config.egress.as_ref(), |egress| of_egress(egress, config));
    let listeners =
        named(&config.listeners, |one| (one.name.to_string(), entry::of_listener(one, config)));
    let backends = named(&config.backends, |one| (one.name.to_string(), entry::of_backend(one)));
    let mut all = vec![
        ("listeners".to_owned(), listeners),
        ("classes".to_owned(), Value::Map(classes.collect())),
        ("backends".to_owned(), backends),
        ("routes".to_owned(), rules::of_routes(config)),
        ("egress".to_owned(), egress),
        ("telemetry".to_owned(), entry::of_telemetry(config)),
    ];
    if let Some(spec) = &config.mirror {
        all.push(("mirror".to_owned(), mirror::of_mirror(spec, config)));
    }
    all
}

fn of_link(one: &LinkSpec) -> Value {
    let role = match one.role {
        LinkRole::Primary => "Primary",
        LinkRole::Backup => "Backup",
    };
    map([
        ("role", text(role)),
        ("capacity", map([("up", text(one.capacity.up)), ("down", text(one.capacity.down))])),
        ("headroom", text(one.headroom)),
        ("overhead", number(one.overhead_bytes)),
        ("metered", Value::Flag(one.metered)),
        ("device", optional(one.device.as_ref(), text)),
        ("source", optional(one.source.as_ref(), |source: &IpAddr| text(source))),
    ])
}

pub(super) fn of_class(one: &ClassSpec) -> Value {
    let pair = |pair: &tillgate_core::units::PerDirection<tillgate_core::class::Share>| {
        map([("up", text(share_text(pair.up))), ("down", text(share_text(pair.down)))])
    };
    let metered = match one.metered {
        Metered::Allow => "Allow",
        Metered::Deny => "Deny",
    };
    let queue = map([("maxWait", text(duration_text(one.queue.max_wait)))]);
    map([
        ("priority", number(one.priority)),
        ("weight", number(one.weight)),
        ("critical", Value::Flag(one.critical)),
        ("guarantee", pair(&one.guarantee)),
        ("ceiling", pair(&one.ceiling)),
        ("queue", queue),
        ("dscp", optional(one.dscp, |value| text(dscp_text(value)))),
        ("metered", text(metered)),
        ("maxRequests", optional(one.requests_max, number)),
        ("maxConnections", optional(one.connections_max, number)),
    ])
}

fn location(location: Location) -> Value {
    text(match location {
        Location::Local => "Local",
        Location::Cloud => "Cloud",
    })
}

fn class_name(class: Option<ClassId>, config: &Effective) -> Value {
    optional(class, |id| text(&config.classes.get(id).name))
}

fn of_egress(egress: &EgressTable, config: &Effective) -> Value {
    let policy = match egress.traffic_policy {
        TrafficPolicy::Allow => "Allow",
        TrafficPolicy::Deny => "Deny",
    };
    let rules = named(&egress.rules, |rule| {
        let value = map([
            ("destinations", list(&rule.destinations, of_destination)),
            ("trafficClass", class_name(rule.class, config)),
            ("location", location(rule.location)),
        ]);
        (rule.name.to_string(), value)
    });
    map([("trafficPolicy", text(policy)), ("rules", rules)])
}

fn of_destination(one: &EgressDestination) -> Value {
    let mut entries = Vec::new();
    if !one.hosts.is_empty() {
        entries.push(("hostnames".to_owned(), list(&one.hosts, |host| text(host_text(host)))));
    }
    if !one.networks.is_empty() {
        entries.push(("cidrs".to_owned(), list(&one.networks, text)));
    }
    if !one.ports.is_empty() {
        entries.push(("ports".to_owned(), list(&one.ports, |port| number(*port))));
    }
    Value::Map(entries)
}

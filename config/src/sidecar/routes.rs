//! Rules as a sidecar follows them.
//!
//! A rule that ends at servers of the store is followed here, whole. One that leads across the
//! line keeps its servers of the store, and the gateway stands for the rest. What the gateway must
//! see as the client wrote it (filters), or must remember (sessions), goes there whole: a change
//! that is made twice is another change.

use serde_json::{Map, Value, json};

use super::backends::Servers;
use super::{entries, filled};
use crate::scalar::{DurationText, Text as _};

/// The `spec` of the route with these rules; `None` if none of them concerns a sidecar.
pub(super) fn of(rules: &Value, servers: &mut Servers<'_>) -> Option<Value> {
    let hosts = entries(rules).next().map(|(_, rule)| rule["hostnames"].clone())?;
    let rules: Vec<Value> =
        entries(rules).filter_map(|(name, one)| rule(name, one, servers)).collect();
    (!rules.is_empty()).then(|| json!({"hostnames": hosts, "rules": rules}))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn rule(name: &str, given: &Value, servers: &mut Servers<'_>) -> Option<Value> {
    // Workloads show no certificates to the proxy beside them.
    let is_open = |one: &&Value| one["clientCertificate"].is_null();
    let matches: Vec<&Value> = list(&given["matches"]).iter().filter(is_open).collect();
    if matches.is_empty() {
        return None;
    }
    let mut rule = Map::new();
    rule.insert("name".to_owned(), json!(name));
    rule.insert("matches".to_owned(), json!(matches));
    if given["trafficClass"].is_string() {
        rule.insert("trafficClass".to_owned(), given["trafficClass"].clone());
    }
    let limits: Vec<&Value> = list(&given["rateLimits"])
        .iter()
        .filter(|one| one["key"]["type"] != "ClientCertificate")
        .collect();
    let tiers = list(&given["tiers"]);
    let refs = || tiers.iter().flat_map(list);
    let is_direct = |one: &Value| one["backend"].as_str().is_some_and(|it| servers.is_direct(it));
    let crosses = refs().any(|one| !is_direct(one));
    // Windows and freezes are the gateway's to keep.
    let is_whole = given["guarded"] == true
        || crosses
            && (given["filters"].is_object()
                || given["sessionPersistence"].is_object()
                || !refs().any(is_direct));
    if is_whole {
        through(given, tiers, &mut rule, servers);
        return Some(rule.into());
    }
    if !limits.is_empty() {
        rule.insert("rateLimits".to_owned(), json!(limits));
    }
    if let Some(filters) = filters(given) {
        rule.insert("filters".to_owned(), filters);
    }
    if !tiers.is_empty() {
        here(given, tiers, &mut rule, servers);
    }
    if crosses {
        if let Some(Value::Object(failover)) = rule.get_mut("failover") {
            // The gateway knows how old the data of its servers is.
            failover.remove("maxDataAge");
        }
        if given["idempotency"]["scope"] != "AllBackends" {
            // One backend here is several there: a key that each remembers for itself would be
            // executed twice if the gateway sent the repetition to another one.
            rule.remove("idempotency");
        }
    }
    Some(rule.into())
}

/// Every request of the rule goes to the gateway, which does all that the rule says.
fn through(
    given: &Value,
    tiers: &[Value],
    rule: &mut Map<String, Value>,
    servers: &mut Servers<'_>,
) {
    let first = tiers.iter().flat_map(list).find_map(|one| one["backend"].as_str());
    let name = servers.through(first.unwrap_or_default());
    rule.insert("backendRefs".to_owned(), json!([{ "name": name }]));
    rule.insert("retry".to_owned(), json!({"attempts": 0}));
    let mut timeouts = timeouts(given);
    // One try here is all tries of the gateway.
    timeouts.insert("backendRequest".to_owned(), json!("0s"));
    rule.insert("timeouts".to_owned(), timeouts.into());
}

/// The rule is followed here; the gateway stands for what is not the store's.
fn here(given: &Value, tiers: &[Value], rule: &mut Map<String, Value>, servers: &mut Servers<'_>) {
    let mut refs: Vec<Value> = Vec::new();
    for (number, tier) in tiers.iter().enumerate() {
        for one in list(tier) {
            let name = servers.reach(one["backend"].as_str().unwrap_or_default());
            let weight = one["weight"].as_u64().unwrap_or(1);
            if let Some(known) = refs.iter_mut().find(|known| known["name"] == *name) {
                // The gateway stands for several: what it was asked for first counts.
                if known["fallback"] == (number > 0) && number == 0 {
                    known["weight"] = json!(known["weight"].as_u64().unwrap_or(0) + weight);
                }
                continue;
            }
            refs.push(json!({"name": name, "weight": weight, "fallback": number > 0}));
        }
    }
    rule.insert("backendRefs".to_owned(), json!(refs));
    rule.insert("timeouts".to_owned(), timeouts(given).into());
    for field in ["failover", "idempotency", "sessionPersistence"] {
        if given[field].is_object() {
            rule.insert(field.to_owned(), filled(&given[field]).into());
        }
    }
    let mut retry = filled(&given["retry"]);
    if let Some(hedge) = retry.get_mut("hedge") {
        let after = hedge["after"].as_str().unwrap_or_default();
        // `p95, …` is what is meant where nothing is said.
        *hedge = if after.starts_with("p95") { json!({}) } else { json!({"after": after}) };
    }
    rule.insert("retry".to_owned(), retry.into());
}

/// A default may be longer than what is written beside it; the language refuses that of what is
/// written.
fn timeouts(given: &Value) -> Map<String, Value> {
    let mut timeouts = filled(&given["timeouts"]);
    let time = |value: &Value| value.as_str().and_then(|text| DurationText::read(text).ok());
    let (whole, one) = (time(&timeouts["request"]), time(&timeouts["backendRequest"]));
    if let (Some(whole), Some(one)) = (whole, one)
        && !whole.0.is_zero()
        && one.0 > whole.0
    {
        timeouts["backendRequest"] = timeouts["request"].clone();
    }
    timeouts
}

/// What the rule changes or answers by itself, as the language says it.
fn filters(given: &Value) -> Option<Value> {
    let mut filters = filled(&given["filters"]);
    if let Some(rewrite) = filters.get_mut("urlRewrite") {
        path(rewrite);
    }
    for (shown, said) in [("redirect", "requestRedirect"), ("response", "directResponse")] {
        if given[shown].is_object() {
            let mut value = given[shown].clone();
            path(&mut value);
            filters.insert(said.to_owned(), value);
        }
    }
    (!filters.is_empty()).then(|| filters.into())
}

/// The language names the kind of a path's change beside it.
fn path(holder: &mut Value) {
    let Some(path) = holder.get_mut("path").and_then(Value::as_object_mut) else { return };
    let is_full = path.contains_key("replaceFullPath");
    let kind = if is_full { "ReplaceFullPath" } else { "ReplacePrefixMatch" };
    path.insert("type".to_owned(), json!(kind));
}

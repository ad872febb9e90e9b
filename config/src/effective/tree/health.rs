//! What is done when servers fail, as plain data: watching, bounds, tiers, further tries.

use http::StatusCode;
use tillgate_core::backend::CircuitSpec;
use tillgate_core::failover::{FailoverSpec, Healthy};
use tillgate_core::freshness::AgeSource;
use tillgate_core::health::{Expected, HealthSpec, PassiveSpec, ProbeKind, ProbeSpec};
use tillgate_core::retry::{Methods, RetrySpec, Scope};

use super::{Value, list, map, number, text};
use crate::scalar::{duration_text, size_text};

type Entry = (String, Value);

fn entry(key: &str, value: Value) -> Entry {
    (key.to_owned(), value)
}

pub(super) fn of_health(health: &HealthSpec, active: &ProbeSpec) -> Value {
    let mut shown =
        vec![entry("active", of_probe(active)), entry("passive", of_passive(&health.passive))];
    if let Some(source) = &health.data_age {
        let (key, value) = match source {
            AgeSource::Header(name) => ("header", text(name)),
            AgeSource::Field(name) => ("field", text(name)),
        };
        shown.push(entry("dataAge", map([(key, value)])));
    }
    Value::Map(shown)
}

fn of_probe(probe: &ProbeSpec) -> Value {
    let status = |status: &StatusCode| number(status.as_u16());
    let kind = match &probe.kind {
        ProbeKind::Http { method, path, host, expected } => {
            let mut shown = vec![entry("method", text(method)), entry("path", text(path))];
            if let Some(host) = host {
                shown.push(entry("hostname", text(host)));
            }
            let expected = match expected {
                Expected::Any => text("any"),
                Expected::Success => text("below 400"),
                Expected::Statuses(statuses) => list(statuses, status),
            };
            shown.push(entry("expectedStatuses", expected));
            entry("http", Value::Map(shown))
        }
        ProbeKind::Grpc { service } => entry("grpc", map([("service", text(service))])),
        ProbeKind::Tcp => entry("tcp", text("connect")),
    };
    Value::Map(vec![
        kind,
        entry("interval", text(duration_text(probe.interval))),
        entry("timeout", text(duration_text(probe.timeout))),
        entry("unhealthyThreshold", number(probe.unhealthy_threshold)),
        entry("healthyThreshold", number(probe.healthy_threshold)),
    ])
}

fn of_passive(passive: &PassiveSpec) -> Value {
    let stall = map([
        ("floor", text(duration_text(passive.stall.floor))),
        ("multiplier", number(passive.stall.multiplier)),
    ]);
    map([
        ("consecutive5xxErrors", number(passive.server_errors)),
        ("consecutiveGatewayErrors", number(passive.gateway_errors)),
        ("consecutiveLocalOriginFailures", number(passive.local_failures)),
        ("failurePercentageThreshold", text(passive.ratio)),
        ("failurePercentageRequestVolume", number(passive.volume)),
        ("maxEjectionPercent", text(passive.ejected_max)),
        ("interval", text(duration_text(passive.window))),
        ("baseEjectionTime", text(duration_text(passive.breaker.base))),
        ("maxEjectionTime", text(duration_text(passive.breaker.max))),
        ("successfulTrials", number(passive.breaker.trials)),
        ("stall", stall),
    ])
}

pub(super) fn of_circuit(circuit: &CircuitSpec) -> Value {
    map([
        ("maxParallelRequests", number(circuit.requests_max)),
        ("maxPendingRequests", number(circuit.waiting_max)),
        ("maxParallelRetries", number(circuit.retries_max)),
    ])
}

pub(super) fn of_failover(failover: &FailoverSpec, retry: &RetrySpec) -> Value {
    let below = match failover.fallback_below {
        Healthy::Count(count) => number(count),
        Healthy::Part(part) => text(part),
    };
    let mut shown = vec![
        entry("fallbackBelow", below),
        entry("holdDown", text(duration_text(failover.hold_down))),
        entry("ramp", text(duration_text(failover.ramp))),
        entry("retryBudgetPercent", text(retry.budget.percent)),
        entry("minRetriesPerSecond", number(retry.budget.min_per_second)),
    ];
    if let Some(age) = failover.data_age_max {
        shown.push(entry("maxDataAge", text(duration_text(age))));
    }
    Value::Map(shown)
}

pub(super) fn of_retry(retry: &RetrySpec) -> Value {
    let mut shown = vec![
        entry("attempts", number(retry.attempts)),
        entry("backoff", text(duration_text(retry.backoff_base))),
        entry("maxBackoff", text(duration_text(retry.backoff_max))),
        entry("unsafeMethods", Value::Flag(retry.methods == Methods::All)),
        entry("bufferSize", text(size_text(retry.buffer_bytes.into()))),
    ];
    if !retry.codes.is_empty() {
        let code = |code: &StatusCode| number(code.as_u16());
        shown.push(entry("codes", list(&retry.codes, code)));
    }
    if let Some(hedge) = &retry.hedge {
        let after = if hedge.min == hedge.max {
            duration_text(hedge.max)
        } else {
            format!("p95, {} to {}", duration_text(hedge.min), duration_text(hedge.max))
        };
        shown.push(entry("hedge", map([("after", text(after))])));
    }
    Value::Map(shown)
}

pub(super) fn of_idempotency(retry: &RetrySpec) -> Option<Value> {
    let key = retry.idempotency.as_ref()?;
    let scope = match key.scope {
        Scope::Backend => "Backend",
        Scope::AllBackends => "AllBackends",
    };
    Some(map([("header", text(&key.header)), ("scope", text(scope))]))
}

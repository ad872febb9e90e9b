//! How the servers of a backend are watched, and how much they are asked at one time.
//!
//! In: the fields of a backend. Out: the core's values. A check that asks in two ways at once, or
//! in one that the protocol does not know, is refused, and so is a watch over what no route can
//! send to.

use std::sync::Arc;

use http::{Method, StatusCode};
use tillgate_core::backend::{BackendProtocol, CircuitSpec};
use tillgate_core::breaker::BreakerSpec;
use tillgate_core::freshness::AgeSource;
use tillgate_core::health::{Expected, HealthSpec, PassiveSpec, ProbeKind, ProbeSpec};
use tillgate_core::stall::StallSpec;

use crate::compile::Output;
use crate::defaults;
use crate::document::Spot;
use crate::kinds::BackendDoc;
use crate::kinds::health::{ActiveCheck, DataAge, HttpProbe, PassiveCheck, ProbeMethod};
use crate::scalar::Whole;

/// Of a backend that takes no HTTP, nothing is watched.
fn unwatched() -> HealthSpec {
    HealthSpec { active: None, passive: defaults::PASSIVE, data_age: None }
}

pub(super) fn health(
    backend: &BackendDoc,
    protocol: BackendProtocol,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> HealthSpec {
    let given = backend.spec.health_check.as_deref();
    let spot = spot.key("healthCheck");
    if !is_http(protocol) {
        if given.is_some() {
            out.error(spot.finding(
                "only backends of HTTP, HTTP2 and GRPC are watched, because only their calls have \
                 outcomes: remove `healthCheck`",
            ));
        }
        return unwatched();
    }
    let base = format!("{base}.healthCheck");
    let active = given.and_then(|given| given.active.as_ref());
    let active =
        self::active(active, protocol, (&spot.key("active"), &format!("{base}.active")), out);
    let passive = given.and_then(|given| given.passive).unwrap_or_default();
    let passive = self::passive(&passive, (&spot.key("passive"), &format!("{base}.passive")), out);
    let age = given.and_then(|given| given.data_age.as_ref());
    let data_age = data_age(age, &active.kind, (&spot.key("dataAge"), &base), out);
    HealthSpec { active: Some(active), passive, data_age }
}

/// Whether an HTTP route can send to it.
pub(super) const fn is_http(protocol: BackendProtocol) -> bool {
    matches!(protocol, BackendProtocol::Http | BackendProtocol::Http2 | BackendProtocol::Grpc)
}

fn active(
    given: Option<&ActiveCheck>,
    protocol: BackendProtocol,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> ProbeSpec {
    let path = |field: &str| format!("{base}.{field}");
    let threshold = |given: Option<Whole<1, 1000>>| given.map(Whole::fit);
    let kind = kind(given, protocol, (spot, base), out);
    ProbeSpec {
        kind,
        interval: out.positive(
            &path("interval"),
            &spot.key("interval"),
            given.and_then(|given| given.interval),
            defaults::PROBE_INTERVAL,
        ),
        timeout: out.positive(
            &path("timeout"),
            &spot.key("timeout"),
            given.and_then(|given| given.timeout),
            defaults::PROBE_TIMEOUT,
        ),
        unhealthy_threshold: out.value(
            &path("unhealthyThreshold"),
            &spot.key("unhealthyThreshold"),
            threshold(given.and_then(|given| given.unhealthy_threshold)),
            defaults::UNHEALTHY_THRESHOLD,
        ),
        healthy_threshold: out.value(
            &path("healthyThreshold"),
            &spot.key("healthyThreshold"),
            threshold(given.and_then(|given| given.healthy_threshold)),
            defaults::HEALTHY_THRESHOLD,
        ),
    }
}

fn kind(
    given: Option<&ActiveCheck>,
    protocol: BackendProtocol,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> ProbeKind {
    let (http, tcp, grpc) = match given {
        Some(given) => (given.http.as_ref(), given.tcp, given.grpc.as_ref()),
        None => (None, None, None),
    };
    let ways = [http.is_some(), tcp.is_some(), grpc.is_some()];
    if ways.iter().filter(|way| **way).count() > 1 {
        out.error(spot.finding(
            "a check asks in one way: keep one of `http`, `grpc` and `tcp`, and remove the others",
        ));
    }
    let of = |key: &str| (format!("{base}.{key}"), spot.key(key));
    if let Some(http) = http {
        let (path, spot) = of("http");
        return out.given(&path, &spot, http_probe(http));
    }
    if let Some(grpc) = grpc {
        let (path, spot) = of("grpc");
        if protocol == BackendProtocol::Http {
            out.error(spot.finding(
                "gRPC needs HTTP/2, but the backend has `protocol: HTTP`: write `protocol: GRPC`, or \
                 probe by `http`",
            ));
        }
        let service = grpc.service.as_deref().unwrap_or_default().into();
        return out.given(&path, &spot, ProbeKind::Grpc { service });
    }
    if tcp.is_some() {
        let (path, spot) = of("tcp");
        return out.given(&path, &spot, ProbeKind::Tcp);
    }
    let kind = ProbeKind::Http {
        method: Method::HEAD,
        path: defaults::PROBE_PATH.into(),
        host: None,
        expected: Expected::Any,
    };
    let (path, spot) = of("http");
    out.value(&path, &spot, None, kind)
}

fn http_probe(given: &HttpProbe) -> ProbeKind {
    let statuses = |list: &Vec<Whole<100, 599>>| {
        let status = |one: &Whole<100, 599>| StatusCode::from_u16(one.fit()).ok();
        Expected::Statuses(list.iter().filter_map(status).collect())
    };
    ProbeKind::Http {
        method: match given.method {
            Some(ProbeMethod::Head) => Method::HEAD,
            Some(ProbeMethod::Get) | None => Method::GET,
        },
        path: given.path.0.as_str().into(),
        host: given.hostname.as_ref().map(|name| name.0.as_str().into()),
        expected: given.expected_statuses.as_ref().map_or(Expected::Success, statuses),
    }
}

fn passive(given: &PassiveCheck, (spot, base): (&Spot<'_>, &str), out: &mut Output) -> PassiveSpec {
    let default = defaults::PASSIVE;
    let mut count = |field: &str, given: Option<Whole<1, 1000>>, default| {
        let given = given.map(Whole::fit);
        out.value(&format!("{base}.{field}"), &spot.key(field), given, default)
    };
    let server_errors =
        count("consecutive5xxErrors", given.consecutive_5xx_errors, default.server_errors);
    let gateway_errors = count(
        "consecutiveGatewayErrors",
        given.consecutive_gateway_errors,
        default.gateway_errors.min(server_errors),
    );
    let local_failures = count(
        "consecutiveLocalOriginFailures",
        given.consecutive_local_origin_failures,
        default.local_failures,
    );
    let trials = count("successfulTrials", given.successful_trials, default.breaker.trials);
    let path = |field: &str| format!("{base}.{field}");
    let ratio = given.failure_percentage_threshold.map(|percent| percent.0);
    if ratio.is_some_and(|ratio| ratio.value() == 0) {
        out.error(spot.key("failurePercentageThreshold").finding(
            "at 0% every server would be out after its first failure: write a part above zero, as \
             `50%`",
        ));
    }
    let volume = given.failure_percentage_request_volume.map(Whole::fit);
    PassiveSpec {
        gateway_errors,
        server_errors,
        local_failures,
        window: out.positive(
            &path("interval"),
            &spot.key("interval"),
            given.interval,
            default.window,
        ),
        ratio: out.value(
            &path("failurePercentageThreshold"),
            &spot.key("failurePercentageThreshold"),
            ratio,
            default.ratio,
        ),
        volume: out.value(
            &path("failurePercentageRequestVolume"),
            &spot.key("failurePercentageRequestVolume"),
            volume,
            default.volume,
        ),
        ejected_max: out.value(
            &path("maxEjectionPercent"),
            &spot.key("maxEjectionPercent"),
            given.max_ejection_percent.map(|percent| percent.0),
            default.ejected_max,
        ),
        breaker: breaker(given, trials, (spot, base), out),
        stall: stall(given, (&spot.key("stall"), &path("stall")), out),
    }
}

fn breaker(
    given: &PassiveCheck,
    trials: u32,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> BreakerSpec {
    let default = defaults::PASSIVE.breaker;
    let path = |field: &str| format!("{base}.{field}");
    let first = out.positive(
        &path("baseEjectionTime"),
        &spot.key("baseEjectionTime"),
        given.base_ejection_time,
        default.base,
    );
    if let Some(max) = given.max_ejection_time
        && max.0 < first
        && !max.0.is_zero()
    {
        out.error(spot.key("maxEjectionTime").finding(
            "a server would be out for longer the first time than ever: raise `maxEjectionTime`, \
             or lower `baseEjectionTime`",
        ));
    }
    let max = out.positive(
        &path("maxEjectionTime"),
        &spot.key("maxEjectionTime"),
        given.max_ejection_time,
        default.max.max(first),
    );
    BreakerSpec { base: first, max, trials }
}

fn stall(given: &PassiveCheck, (spot, base): (&Spot<'_>, &str), out: &mut Output) -> StallSpec {
    let given = given.stall.unwrap_or_default();
    let default = defaults::PASSIVE.stall;
    StallSpec {
        floor: out.positive(
            &format!("{base}.floor"),
            &spot.key("floor"),
            given.floor,
            default.floor,
        ),
        multiplier: out.value(
            &format!("{base}.multiplier"),
            &spot.key("multiplier"),
            given.multiplier.map(Whole::fit),
            default.multiplier,
        ),
    }
}

fn data_age(
    given: Option<&DataAge>,
    kind: &ProbeKind,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> Option<AgeSource> {
    let source = match given? {
        DataAge::Header(name) => AgeSource::Header(name.0.clone()),
        DataAge::Field(name) => AgeSource::Field(Arc::from(name.as_str())),
    };
    if let AgeSource::Field(name) = &source
        && (name.is_empty() || name.contains(['"', '\\']))
    {
        out.error(spot.key("field").finding(format!(
            "`{name}` is no name of a member: write it as in the document, as `replicationLag`"
        )));
    }
    let has_body = matches!(kind, ProbeKind::Http { method, .. } if *method == Method::GET);
    if matches!(source, AgeSource::Field(_)) && !has_body {
        out.error(spot.key("field").finding(
            "no probe reads a document that could hold this member: add `active.http` with the \
             path of one, or name a `header`",
        ));
    }
    Some(out.given(&format!("{base}.dataAge"), spot, source))
}

pub(super) fn circuit(
    backend: &BackendDoc,
    protocol: BackendProtocol,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> CircuitSpec {
    let given = backend.spec.circuit_breaker.as_ref();
    let spot = spot.key("circuitBreaker");
    if !is_http(protocol) {
        if given.is_some() {
            out.error(spot.finding(
                "only backends of HTTP, HTTP2 and GRPC have requests to bound: remove \
                 `circuitBreaker`, or use the limits of the listener",
            ));
        }
        return defaults::CIRCUIT;
    }
    let path = |field: &str| format!("{base}.circuitBreaker.{field}");
    CircuitSpec {
        requests_max: out.value(
            &path("maxParallelRequests"),
            &spot.key("maxParallelRequests"),
            given.and_then(|given| given.max_parallel_requests).map(Whole::fit),
            defaults::CIRCUIT.requests_max,
        ),
        waiting_max: out.value(
            &path("maxPendingRequests"),
            &spot.key("maxPendingRequests"),
            given.and_then(|given| given.max_pending_requests).map(Whole::fit),
            defaults::CIRCUIT.waiting_max,
        ),
        retries_max: out.value(
            &path("maxParallelRetries"),
            &spot.key("maxParallelRetries"),
            given.and_then(|given| given.max_parallel_retries).map(Whole::fit),
            defaults::CIRCUIT.retries_max,
        ),
    }
}

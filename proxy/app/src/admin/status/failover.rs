//! Where calls go right now, and why: rules and their tiers, endpoints, lines.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillgate_core::failover::{EndpointStatus, RuleStatus, TierState};
use tillgate_core::load::Verdict;
use tillgate_net::clock;

use crate::gateway::Gateway;

/// The part of the status document about failover.
pub(crate) fn of(gateway: &Gateway) -> Value {
    let now = clock::now();
    let running = gateway.running();
    let board = gateway.failover().board();
    let tiers_of = |name: &tillgate_core::failover::RuleName| -> Vec<Vec<String>> {
        let mut rules = running.effective.routes.rules.iter();
        let found = rules.find(|rule| (&rule.route, &rule.name) == (&name.0, &name.1));
        let name = |one: &tillgate_core::matching::BackendRef| {
            running.effective.backend(one.backend).name.to_string()
        };
        found.map_or_else(Vec::new, |rule| {
            rule.tiers.iter().map(|tier| tier.iter().map(name).collect()).collect()
        })
    };
    let rules: Vec<Value> = board
        .rules()
        .filter(|rule| !rule.states.is_empty())
        .map(|rule| show_rule(&rule, tiers_of(&rule.name), now))
        .collect();
    let endpoints: Vec<Value> = board.endpoints().map(|one| show_endpoint(&one, now)).collect();
    let lines: Vec<Value> = board
        .lines()
        .map(|line| {
            json!({
                "name": &*running.lines().name(line.link),
                "down": line.down_since.is_some(),
                "downForSeconds": line.down_since.map(|since| seconds(since, now)),
            })
        })
        .collect();
    json!({ "rules": rules, "endpoints": endpoints, "lines": lines })
}

fn show_rule(rule: &RuleStatus, tiers: Vec<Vec<String>>, now: Instant) -> Value {
    let state = |state: &TierState| match state {
        TierState::Usable => "usable",
        TierState::Ready => "on trial",
        TierState::Out => "out",
    };
    let tiers: Vec<Value> = tiers
        .into_iter()
        .zip(&rule.states)
        .map(|(backends, of)| json!({ "backends": backends, "state": state(of) }))
        .collect();
    let ramp = rule.ramp.map(|(tier, since, length)| {
        let passed = now.saturating_duration_since(since).as_secs_f64();
        let percent = passed * 100.0 / length.as_secs_f64().max(f64::MIN_POSITIVE);
        json!({ "tier": tier, "percent": percent.min(100.0).round() })
    });
    json!({
        "route": &*rule.name.0,
        "rule": &*rule.name.1,
        "activeTier": rule.active,
        "why": rule.cause,
        "sinceSeconds": seconds(rule.since, now),
        "tiers": tiers,
        "ramp": ramp,
        "returnsInSeconds": rule.returns_at.map(|at| until(at, now)),
        "flaps": rule.flaps,
    })
}

fn show_endpoint(one: &EndpointStatus, now: Instant) -> Value {
    let state = match one.verdict {
        Verdict::Usable => "usable",
        Verdict::Trial => "on trial",
        Verdict::Suspect => "suspect",
        Verdict::Out => "out",
    };
    let load = &one.load;
    let failure = one
        .last_failure
        .map(|(cause, at)| json!({ "cause": cause, "secondsAgo": seconds(at, now) }));
    json!({
        "backend": &*one.backend,
        "endpoint": one.endpoint.to_string(),
        "state": state,
        "why": one.cause,
        "sinceSeconds": seconds(one.since, now),
        "lastFailure": failure,
        "nextProbeInSeconds": one.next_probe.map(|at| until(at, now)),
        "triesAgainInSeconds": one.opens_at.map(|at| until(at, now)),
        "trialsMissing": one.trials_missing,
        "calls": load.calls(),
        "latencyMs": millis(load.latency()),
        "p95Ms": load.p95().map(millis),
        "suspiciousSilenceMs": load.stall_after().map(millis),
        "dataAgeSeconds": load.data_age(now).map(|age| age.as_secs()),
    })
}

fn seconds(since: Instant, now: Instant) -> f64 {
    rounded(now.saturating_duration_since(since))
}

fn until(at: Instant, now: Instant) -> f64 {
    rounded(at.saturating_duration_since(now))
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

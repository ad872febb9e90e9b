//! The proxies of the scenes, each configured as its own documentation recommends for a service
//! with a local replica and one across the line: health checks each second with thresholds of 2,
//! ejection by real failures, and every repeat that is safe.
//!
//! In scenes with a key all calls carry one, and the rivals are told to repeat them all.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::names::{self, NAME};
use super::replica;
use super::scene::{Contender, Fault, Keying, Protocol, Scene, Tier};
use crate::origin::Service;
use crate::policy::{self, TwoTiers};
use crate::preset::LineSpec;
use crate::process::{Ready, Scratch};
use crate::rivals::{ENVOY_HTTP, ENVOY_ROUTER, socket_address};
use crate::system::{self, ADMIN, ENTRY};

/// How the contender of a scene is started.
pub(super) fn command(scene: &Scene, line: LineSpec, scratch: &Scratch) -> Result<Command> {
    let mut command = match scene.contender.rival() {
        None => system::gateway(scratch, &tillgate(scene, line), Some(system::ENTRY))?,
        Some(rival) => rival.configured(scratch, &configuration(scene, scratch))?,
    };
    if scene.fault == Fault::DnsGone {
        names::show(&mut command, scratch)?;
    }
    Ok(command)
}

fn configuration(scene: &Scene, scratch: &Scratch) -> String {
    match scene.contender {
        Contender::Tillgate => String::new(),
        Contender::Envoy => format!("{:#}", envoy(scene)),
        Contender::Haproxy => haproxy(scene),
        Contender::Nginx => nginx(scene, &scratch.path().display().to_string()),
    }
}

/// How to tell that it is ready.
pub(super) const fn ready(contender: Contender) -> Ready {
    match contender {
        Contender::Tillgate => Ready::Says(ADMIN),
        Contender::Envoy | Contender::Haproxy | Contender::Nginx => Ready::Accepts(ENTRY),
    }
}

/// The policy of a scene: what an operator writes who tunes nothing.
fn tillgate(scene: &Scene, line: LineSpec) -> String {
    let (protocol, probe) = match scene.protocol {
        Protocol::H1 => ("HTTP", "http: {path: /health}"),
        Protocol::H2 => ("HTTP2", "http: {path: /health}"),
        Protocol::Grpc => ("GRPC", "grpc: {}"),
    };
    let by_address = |tier| {
        let at = replica::address(tier);
        format!("{{ip: {{address: {}, port: {}}}}}", at.ip(), at.port())
    };
    let cloud = if scene.fault == Fault::DnsGone {
        let port = replica::address(Tier::Cloud).port();
        format!("{{fqdn: {{hostname: {NAME}, port: {port}}}}}")
    } else {
        by_address(Tier::Cloud)
    };
    let mut rule = Vec::new();
    match scene.keying {
        Keying::None => {}
        Keying::Backend => rule.push("idempotency: {header: Idempotency-Key}"),
        Keying::AllBackends => {
            rule.push("idempotency: {header: Idempotency-Key, scope: AllBackends}");
        }
    }
    if scene.keying.is_keyed() && scene.fault == Fault::Unavailable {
        rule.push("retry: {codes: [502, 503, 504]}");
    }
    let service = TwoTiers {
        protocol,
        probe,
        local: &by_address(Tier::Local),
        cloud: &cloud,
        cloud_first: scene.fault.preferred() == Tier::Cloud,
        rule: &rule,
    };
    policy::for_two_tiers(line, &service)
}

/// The replica that is preferred, and the other one.
fn in_order(scene: &Scene) -> [SocketAddr; 2] {
    let order = match scene.fault.preferred() {
        Tier::Local => [Tier::Local, Tier::Cloud],
        Tier::Cloud => [Tier::Cloud, Tier::Local],
    };
    order.map(replica::address)
}

/// Priorities, active checks, outlier detection, no panic mode, and repeats on the other priority:
/// of what was not sent, and with a key of whatever failed.
///
/// By default a good health check ends an ejection, and with errors split by origin every new
/// connection after a reset clears the count of failures: both off, or a lying replica stays in.
/// By default no more than three repeats are under way, which is too few at 200 calls a second.
fn envoy(scene: &Scene) -> Value {
    let keyed = scene.keying.is_keyed();
    let mut retry = json!({
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.250s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.\
                          previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1}}});
    if keyed {
        retry["retry_on"] = json!("5xx,reset,connect-failure,refused-stream");
        retry["per_try_timeout"] = json!("1s");
    }
    let endpoints: Vec<Value> = (0..)
        .zip(in_order(scene))
        .map(|(priority, at)| {
            let address = socket_address(at);
            json!({"priority": priority, "lb_endpoints": [{"endpoint": {"address": address}}]})
        })
        .collect();
    let entry = socket_address(ENTRY);
    json!({"static_resources": {
        "listeners": [{"name": "entry", "address": entry, "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": ENVOY_HTTP, "stat_prefix": "entry",
                "route_config": {"virtual_hosts": [{
                    "name": "pay", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {
                        "cluster": "pricing", "timeout": "3s", "retry_policy": retry}}]}]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": ENVOY_ROUTER}}]}}]}]}],
        "clusters": [{
            "name": "pricing", "type": "STATIC", "connect_timeout": "0.5s",
            "load_assignment": {"cluster_name": "pricing", "endpoints": endpoints},
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "circuit_breakers": {"thresholds": [{
                "max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096,
                "max_retries": 4096}]},
            "health_checks": [{
                "timeout": "0.5s", "interval": "1s", "unhealthy_threshold": 2,
                "healthy_threshold": 2, "no_traffic_interval": "1s",
                "http_health_check": {"path": "/health"}}],
            "outlier_detection": {
                "consecutive_5xx": 2, "consecutive_gateway_failure": 2,
                "enforcing_consecutive_gateway_failure": 100,
                "successful_active_health_check_uneject_host": false,
                "interval": "0.5s", "base_ejection_time": "5s", "max_ejection_percent": 100}}]}})
}

/// Active checks, real answers observed with mark-down on errors, redispatch, and repeats of what
/// was not sent; with a key of whatever can be repeated. A server that is down returns late,
/// because good health alone would bring a lying replica back.
fn haproxy(scene: &Scene) -> String {
    let [first, second] = in_order(scene);
    // A repeat after the whole time that a till waits would come too late.
    let (repeat, try_for) = if scene.keying.is_keyed() {
        ("all-retryable-errors", "1s")
    } else {
        ("conn-failure", "3s")
    };
    format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 500ms\n  timeout client 60s\n  \
         timeout server {try_for}\n  timeout check 500ms\n  option http-keep-alive\n  \
         http-reuse safe\n\
         frontend entry\n  bind {ENTRY}\n  default_backend pricing\n\
         backend pricing\n  option httpchk GET /health\n  http-check expect status 200\n  \
         option redispatch 1\n  retries 2\n  retry-on {repeat}\n  \
         default-server check inter 1s fall 2 rise 10 fastinter 250ms downinter 4s \
         observe layer7 error-limit 2 on-error mark-down\n  \
         server first {first}\n  server second {second} backup\n"
    )
}

/// It has no active checks in its free edition: failures of real calls take a server out, and
/// the next one is tried where that is safe.
fn nginx(scene: &Scene, scratch: &str) -> String {
    let [first, second] = in_order(scene);
    let again = if scene.keying.is_keyed() {
        "error timeout http_502 http_503 http_504 non_idempotent"
    } else {
        "error timeout http_502 http_503 http_504"
    };
    let try_for = if scene.keying.is_keyed() { "1s" } else { "3s" };
    let host = Service::Payments.host();
    format!(
        "daemon off;\nuser root root;\nworker_processes 1;\npid {scratch}/nginx.pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000;\n  \
         client_body_temp_path {scratch}/a;\n  \
         proxy_temp_path {scratch}/b;\n  fastcgi_temp_path {scratch}/c;\n  \
         uwsgi_temp_path {scratch}/d;\n  scgi_temp_path {scratch}/e;\n  \
         upstream pricing {{\n    server {first} max_fails=2 fail_timeout=5s;\n    \
         server {second} backup;\n    keepalive 64;\n  }}\n  \
         server {{\n    listen {ENTRY};\n    server_name {host};\n    location / {{\n      \
         proxy_pass http://pricing;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      \
         proxy_connect_timeout 500ms;\n      proxy_read_timeout {try_for};\n      \
         proxy_next_upstream {again};\n      proxy_next_upstream_timeout 3s;\n    }}\n  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(fault: Fault, protocol: Protocol, keying: Keying) -> Scene {
        Scene { fault, rate: 25, protocol, keying, contender: Contender::Tillgate }
    }

    /// The policies are compiled by the product's own compiler, as `tillgate validate` would.
    #[test]
    fn every_policy_of_the_lab_is_a_good_one() {
        let line = LineSpec::of_mbit(20.0, 5.0);
        for fault in [Fault::Kill, Fault::LineCut, Fault::Unavailable, Fault::DnsGone] {
            for protocol in [Protocol::H1, Protocol::H2, Protocol::Grpc] {
                for keying in [Keying::None, Keying::Backend, Keying::AllBackends] {
                    let text = tillgate(&scene(fault, protocol, keying), line);
                    let loaded = tillgate_config::load_text("lab.yaml", &text);
                    assert!(loaded.is_ok(), "{text}\n{:?}", loaded.err());
                    let keyed = text.contains("idempotency:");
                    assert_eq!(keyed, keying.is_keyed(), "{text}");
                    let cloud_first = text.contains("backendRefs: [{name: pricing-cloud}");
                    assert_eq!(cloud_first, fault == Fault::LineCut, "{text}");
                    assert_eq!(text.contains("fqdn"), fault == Fault::DnsGone, "{text}");
                }
            }
        }
    }

    #[test]
    fn rivals_prefer_what_the_scene_prefers_and_repeat_what_it_permits() {
        let kill = scene(Fault::Kill, Protocol::H1, Keying::None);
        let cut = scene(Fault::LineCut, Protocol::H1, Keying::AllBackends);
        assert!(haproxy(&kill).contains("server second 10.9.0.1:9600 backup"));
        assert!(haproxy(&kill).contains("retry-on conn-failure\n"));
        assert!(haproxy(&cut).contains("server second 127.0.0.1:9500 backup"));
        assert!(nginx(&cut, "/tmp/x").contains("non_idempotent"));
        assert!(!nginx(&kill, "/tmp/x").contains("non_idempotent"));
        let text = envoy(&kill).to_string();
        assert!(!text.contains("5xx,reset"), "{text}");
        assert!(envoy(&cut).to_string().contains("5xx,reset"));
    }
}

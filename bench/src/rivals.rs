//! Other proxies in the form that their own documentation recommends for "protect one kind of
//! traffic": which program, which configuration for a line, and why one is absent.
//!
//! Everybody is told the true capacity. Configurations are text; nothing here is started.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::origin::Service;
use crate::preset::LineSpec;
use crate::process::Scratch;
use crate::stats::whole;
use crate::system::ENTRY;
use crate::testbed::CLOUD;

pub const NGINX_VARIABLE: &str = "TILLGATE_LAB_NGINX";
pub const HAPROXY_VARIABLE: &str = "TILLGATE_LAB_HAPROXY";
pub const ENVOY_VARIABLE: &str = "TILLGATE_LAB_ENVOY";

/// The first HAProxy with `filter bwlim-in` and `bwlim-out`.
const HAPROXY_MIN: (u32, u32) = (2, 7);
/// What nginx may send of the line: its own headers and the payments need the rest.
const NGINX_SHARE: f64 = 0.95;
/// What Envoy's fair share divides.
const ENVOY_SHARE: f64 = 0.90;
/// Payments against everything else in Envoy.
const ENVOY_WEIGHT: u32 = 50;

/// Types in Envoy's configuration.
pub(crate) const ENVOY_HTTP: &str = "type.googleapis.com/envoy.extensions.filters.network.\
                                     http_connection_manager.v3.HttpConnectionManager";
pub(crate) const ENVOY_ROUTER: &str =
    "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// The load that nginx must know, because its limits are per connection.
#[derive(Debug, Clone, Copy)]
pub struct Flows {
    pub pulls: usize,
    pub pushes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    Nginx,
    /// All bulk together limited to so many percent of the line.
    Haproxy(u32),
    Envoy,
}

impl Rival {
    /// Where its program is, or why it cannot take part.
    pub fn program(self) -> Result<PathBuf, String> {
        let (variable, name) = match self {
            Self::Nginx => (NGINX_VARIABLE, "nginx"),
            Self::Haproxy(_) => (HAPROXY_VARIABLE, "haproxy"),
            Self::Envoy => (ENVOY_VARIABLE, "envoy"),
        };
        let program = find(variable, name)?;
        if matches!(self, Self::Haproxy(_)) {
            let version = version_of(&program, "-v");
            let (major, minor) = HAPROXY_MIN;
            match parse_version(&version) {
                Some(found) if found >= HAPROXY_MIN => {}
                Some((a, b)) => {
                    return Err(format!(
                        "{} is HAProxy {a}.{b}, too old: bandwidth limits need {major}.{minor}",
                        program.display()
                    ));
                }
                None => return Err(format!("{} does not tell its version", program.display())),
            }
        }
        Ok(program)
    }

    /// What the program calls itself.
    pub fn version(self) -> String {
        let flag = if self == Self::Envoy { "--version" } else { "-v" };
        self.program().map(|program| version_of(&program, flag)).unwrap_or_default()
    }

    /// The command line, with its configuration written.
    pub fn command(self, scratch: &Scratch, line: LineSpec, flows: Flows) -> Result<Command> {
        let text = match self {
            Self::Nginx => {
                let program = self.program().map_err(anyhow::Error::msg)?;
                nginx(scratch.path(), line, flows, stream_module(&program).as_deref())
            }
            Self::Haproxy(percent) => haproxy(line, percent),
            Self::Envoy => serde_json::to_string_pretty(&envoy(line)).context("print JSON")?,
        };
        self.configured(scratch, &text)
    }

    /// The command line for a configuration, which is written: one worker, in the foreground.
    pub fn configured(self, scratch: &Scratch, configuration: &str) -> Result<Command> {
        let mut command = Command::new(self.program().map_err(anyhow::Error::msg)?);
        match self {
            Self::Nginx => {
                let file = scratch.write("nginx.conf", configuration)?;
                command.arg("-e").arg(scratch.path().join("nginx-error.log"));
                command.arg("-p").arg(scratch.path()).arg("-c").arg(file);
            }
            Self::Haproxy(_) => {
                let file = scratch.write("haproxy.cfg", configuration)?;
                command.arg("-db").arg("-f").arg(file);
            }
            Self::Envoy => {
                let file = scratch.write("envoy.json", configuration)?;
                command.arg("-c").arg(file).args(["--concurrency", "1", "-l", "warning"]);
                command.args(["--use-dynamic-base-id", "--disable-hot-restart"]);
            }
        }
        Ok(command)
    }
}

fn find(variable: &str, name: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{variable} names {}, which is no file", path.display()))
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let system = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    std::env::split_paths(&folders)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("no {name} in PATH, and {variable} is not set"))
}

/// The first line that a program says about its version, on whichever output.
fn version_of(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// Major and minor of the first word that starts like `2.7`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

/// nginx's stream module, where distributions put it.
fn stream_module(program: &Path) -> Option<PathBuf> {
    let beside = program.parent()?.join("../lib/nginx/modules");
    [beside, PathBuf::from("/usr/lib/nginx/modules"), PathBuf::from("/usr/lib64/nginx/modules")]
        .into_iter()
        .map(|folder| folder.join("ngx_stream_module.so"))
        .find(|path| path.is_file())
}

fn bytes_per_second(mbit: f64) -> u64 {
    whole(mbit * 1e6 / 8.0)
}

/// Its best case: it is told how many flows there will be, because it limits each of them.
/// Uploads can be limited only by the stream module, so metrics pass through that as well.
fn nginx(scratch: &Path, line: LineSpec, flows: Flows, stream: Option<&Path>) -> String {
    let per_flow =
        |mbit: f64, flows: usize| bytes_per_second(mbit * NGINX_SHARE) / (flows.max(1) as u64);
    let pull = per_flow(line.down_mbit, flows.pulls);
    let push = per_flow(line.up_mbit, flows.pushes);
    let scratch = scratch.display();
    let metrics = Service::Metrics.port();
    let (load, stream_block, metrics_upstream) = match stream {
        Some(module) => (
            format!("load_module {};\n", module.display()),
            format!(
                "stream {{\n  server {{\n    listen 127.0.0.1:8082;\n    \
                 proxy_pass {CLOUD}:{metrics};\n    proxy_upload_rate {push};\n  }}\n}}\n"
            ),
            "127.0.0.1:8082".to_owned(),
        ),
        None => (String::new(), String::new(), format!("{CLOUD}:{metrics}")),
    };
    let server = |service: Service, extra: &str| {
        let host = service.host();
        let upstream = host.split('.').next().unwrap_or(host);
        format!(
            "  server {{\n    listen {ENTRY} reuseport;\n    server_name {host};\n    \
             location / {{\n      proxy_pass http://{upstream};\n{extra}    }}\n  }}\n"
        )
        .replace(" reuseport", if service == Service::Payments { " reuseport" } else { "" })
    };
    format!(
        "{load}daemon off;\nuser root root;\nworker_processes 1;\npid {scratch}/nginx.pid;\n\
         error_log stderr warn;\nevents {{ worker_connections 1024; }}\n{stream_block}\
         http {{\n  access_log off;\n  client_max_body_size 0;\n  keepalive_requests 1000000;\n  \
         client_body_temp_path {scratch}/body;\n  proxy_temp_path {scratch}/proxy;\n  \
         fastcgi_temp_path {scratch}/f;\n  uwsgi_temp_path {scratch}/u;\n  \
         scgi_temp_path {scratch}/s;\n  \
         upstream pay {{ server {CLOUD}:9000; keepalive 64; keepalive_requests 1000000; }}\n  \
         upstream registry {{ server {CLOUD}:9001; }}\n  \
         upstream metrics {{ server {metrics_upstream}; }}\n  \
         proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  \
         proxy_set_header Host $host;\n  proxy_request_buffering off;\n  \
         proxy_max_temp_file_size 0;\n{}{}{}}}\n",
        server(Service::Payments, ""),
        // Reading from the origin is limited only with buffering, and then in memory.
        server(
            Service::Registry,
            &format!("      proxy_buffering on;\n      proxy_limit_rate {pull};\n")
        ),
        server(Service::Metrics, ""),
    )
}

/// One shared limit for all pulls and one for all uploads; payments are not limited.
fn haproxy(line: LineSpec, percent: u32) -> String {
    let limit = |mbit: f64| bytes_per_second(mbit * f64::from(percent) / 100.0);
    let (down, up) = (limit(line.down_mbit), limit(line.up_mbit));
    // The most that one connection can use: rate times round trip.
    let window = whole(line.down_mbit * 1e3 / 8.0 * line.rtt_ms).max(8_192);
    format!(
        "global\n  nbthread 1\n  maxconn 1000\n  tune.rcvbuf.server {window}\n\
         defaults\n  mode http\n  timeout connect 10s\n  timeout client 60s\n  \
         timeout server 60s\n  option http-keep-alive\n  http-reuse always\n\
         frontend entry\n  bind {ENTRY}\n  \
         use_backend registry if {{ hdr(host) -i registry.example }}\n  \
         use_backend metrics if {{ hdr(host) -i metrics.example }}\n  \
         default_backend payments\n\
         backend payments\n  server cloud {CLOUD}:9000\n\
         backend registry\n  \
         stick-table type integer size 10 expire 60s store bytes_out_rate(1s)\n  \
         filter bwlim-out bulk limit {down} key int(1) table registry min-size 2896\n  \
         http-response set-bandwidth-limit bulk\n  server cloud {CLOUD}:9001\n\
         backend metrics\n  stick-table type integer size 10 expire 60s store bytes_in_rate(1s)\n  \
         filter bwlim-in bulk limit {up} key int(1) table metrics min-size 2896\n  \
         http-request set-bandwidth-limit bulk\n  server cloud {CLOUD}:9002\n"
    )
}

/// An address in Envoy's configuration.
pub(crate) fn socket_address(at: SocketAddr) -> serde_json::Value {
    serde_json::json!({
        "socket_address": {"address": at.ip().to_string(), "port_value": at.port()}
    })
}

/// `bandwidth_share`: one limit in each direction, divided between tenants by weight.
fn envoy(line: LineSpec) -> serde_json::Value {
    use serde_json::json;
    let kib = |mbit: f64| bytes_per_second(mbit * ENVOY_SHARE) / 1_024;
    let limit = |name: &str, mbit: f64| {
        let rate = json!({"default_value": kib(mbit), "runtime_key": name});
        json!({"bucket_id": name, "kbps": rate})
    };
    let tenant = |name: &str| {
        json!({"action": {"name": name, "typed_config": {
            "@type": "type.googleapis.com/google.protobuf.StringValue", "value": name}}})
    };
    let hosts: Vec<_> = Service::ALL
        .iter()
        .map(|service| {
            json!({"name": service.host(), "domains": [service.host()], "routes": [{
                "match": {"prefix": "/"},
                "route": {"cluster": service.host(), "timeout": "0s"}}]})
        })
        .collect();
    let clusters: Vec<_> = Service::ALL
        .iter()
        .map(|service| {
            let address = socket_address((CLOUD, service.port()).into());
            json!({"name": service.host(), "type": "STATIC", "connect_timeout": "10s",
                "load_assignment": {"cluster_name": service.host(), "endpoints": [{
                    "lb_endpoints": [{"endpoint": {"address": address}}]}]}})
        })
        .collect();
    let share = json!({
        "@type":
            "type.googleapis.com/envoy.extensions.filters.http.bandwidth_share.v3.BandwidthShare",
        "request_limit": limit("up", line.up_mbit),
        "response_limit": limit("down", line.down_mbit),
        "fill_interval": "0.020s",
        "tenant_name_selector": {
            "matcher_tree": {
                "input": {"name": "host", "typed_config": {
                    "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                    "header_name": ":authority"}},
                "exact_match_map": {"map": {Service::Payments.host(): tenant("pos")}}},
            "on_no_match": tenant("bulk")},
        "tenant_configs": {"pos": {"weight": ENVOY_WEIGHT}, "bulk": {"weight": 1}}
    });
    json!({"static_resources": {
        "listeners": [{
            "name": "entry",
            "address": socket_address(ENTRY),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": ENVOY_HTTP,
                    "stat_prefix": "entry",
                    "stream_idle_timeout": "0s",
                    "route_config": {"name": "routes", "virtual_hosts": hosts},
                    "http_filters": [
                        {"name": "envoy.filters.http.bandwidth_share", "typed_config": share},
                        {"name": "envoy.filters.http.router",
                         "typed_config": {"@type": ENVOY_ROUTER}}
                    ]}}]}]}],
        "clusters": clusters}})
}

/// Whether the kernel's shaper can be used here.
pub fn has_traffic_control() -> Result<(), String> {
    let found = ["/sbin/tc", "/usr/sbin/tc"].iter().any(|path| fs::exists(path).unwrap_or(false));
    if found { Ok(()) } else { Err("no tc (package iproute2)".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        assert_eq!(parse_version("HAProxy version 3.0.11-1+deb13u3 2026/05/20"), Some((3, 0)));
        assert_eq!(parse_version("HAProxy version 2.6.12-1+deb12u4 2026"), Some((2, 6)));
        assert_eq!(parse_version("no number at all"), None);
    }

    #[test]
    fn limits_are_bytes_of_the_line() {
        let line = LineSpec::of_mbit(20.0, 5.0);
        let text = haproxy(line, 50);
        assert!(text.contains("limit 1250000 key"), "{text}");
        assert!(text.contains("limit 312500 key"), "{text}");
        let flows = Flows { pulls: 4, pushes: 2 };
        let text = nginx(Path::new("/tmp/x"), line, flows, Some(Path::new("/m.so")));
        assert!(text.contains("proxy_limit_rate 593750;"), "{text}");
        assert!(text.contains("proxy_upload_rate 296875;"), "{text}");
        let text = envoy(line).to_string();
        assert!(text.contains("\"default_value\":2197"), "{text}");
    }
}

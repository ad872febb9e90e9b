//! The proxies whose requests are counted, each with one worker and the least configuration that
//! does the same work: one route by host, kept-alive connections on both sides, no access log.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::floor;
use super::load::HOST;
use super::requests::Scenario;
use crate::process::{Process, Ready, Scratch};
use crate::rivals::{ENVOY_HTTP, ENVOY_ROUTER, Rival, socket_address};
use crate::sys;
use crate::system;

/// Where every proxy listens.
const ENTRY: &str = "127.0.0.1:8480";
const ADMIN: &str = "127.0.0.1:8490";
/// More clients than any measurement has; HAProxy wants to be told that it may get fewer.
const CLIENTS_MAX: usize = 16_384;

/// One of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contestant {
    Tillgate,
    /// A bare hyper proxy, for what our own stack costs without us. Plain HTTP/1.1 only.
    Floor,
    Haproxy,
    Nginx,
    Envoy,
}

/// A proxy that runs on its core.
pub(super) struct Running {
    process: Process,
}

impl Contestant {
    pub(super) const ALL: [Self; 5] =
        [Self::Tillgate, Self::Floor, Self::Haproxy, Self::Nginx, Self::Envoy];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Tillgate => "Tillgate",
            Self::Floor => "bare hyper",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }

    const fn rival(self) -> Option<Rival> {
        match self {
            Self::Tillgate | Self::Floor => None,
            Self::Haproxy => Some(Rival::Haproxy(100)),
            Self::Nginx => Some(Rival::Nginx),
            Self::Envoy => Some(Rival::Envoy),
        }
    }

    /// Why it cannot take part.
    pub(super) fn available(self) -> Result<(), String> {
        self.rival().map_or(Ok(()), |rival| rival.program().map(drop))
    }

    /// Whether it speaks what the scenario asks for.
    pub(super) const fn can(self, scenario: Scenario) -> bool {
        !matches!(self, Self::Floor) || !scenario.is_tls()
    }

    /// Starts it in front of `origin`, on `core`.
    pub(super) fn start(
        self,
        scenario: Scenario,
        origin: SocketAddr,
        core: usize,
        scratch: &Scratch,
    ) -> Result<Running> {
        let mut command;
        let tls = if scenario.is_tls() { Some(Certificate::write(scratch)?) } else { None };
        let tls = tls.as_ref();
        match self {
            Self::Tillgate => {
                let file = scratch.write("policy.yaml", &tillgate(origin, tls))?;
                command = system::program();
                command.arg("gateway").arg("--config").arg(file);
                command.args(["--admin", ADMIN, "--forward-proxy", "127.0.0.1:0"]);
            }
            Self::Floor => {
                command = Command::new("/proc/self/exe");
                command.arg(floor::ROLE).arg(ENTRY).arg(origin.to_string());
            }
            Self::Haproxy => {
                command = Rival::Haproxy(100).configured(scratch, &haproxy(origin, tls))?
            }
            Self::Nginx => {
                command = Rival::Nginx.configured(scratch, &nginx(scratch, origin, tls))?
            }
            Self::Envoy => {
                let text = serde_json::to_string_pretty(&envoy(origin, tls))?;
                command = Rival::Envoy.configured(scratch, &text)?;
            }
        }
        sys::pin_child(&mut command, core);
        let here = sys::current_net_ns()?;
        let mut process = Process::start(command, &here, scratch)?;
        process.wait_ready(Ready::Accepts(ENTRY.parse().context("a constant address")?))?;
        Ok(Running { process })
    }
}

impl Running {
    pub(super) fn address(&self) -> SocketAddr {
        ENTRY.parse().expect("a constant address")
    }

    /// Processor time so far.
    pub(super) fn cpu_micros(&self) -> f64 {
        self.process.cpu_micros()
    }

    /// Resident memory.
    pub(super) fn rss_mib(&self) -> f64 {
        self.process.rss_mib()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    pub(super) fn log_end(&self) -> String {
        self.process.log_end()
    }
}

/// A certificate that signs itself, as files.
struct Certificate {
    /// Of the certificate, of the key, and of both in one.
    cert: String,
    key: String,
    both: String,
}

impl Certificate {
    fn write(scratch: &Scratch) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()])?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let text = |path: std::path::PathBuf| path.display().to_string();
        Ok(Self {
            cert: text(scratch.write("cert.pem", &cert)?),
            key: text(scratch.write("key.pem", &key)?),
            both: text(scratch.write("both.pem", &format!("{cert}{key}"))?),
        })
    }
}

fn tillgate(origin: SocketAddr, tls: Option<&Certificate>) -> String {
    let (ip, port) = (origin.ip(), origin.port());
    let mut text = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\n\
         spec:\n  timeZone: Europe/Oslo\n  links:\n    \
         - {{name: primary, capacity: {{up: 100Mbit/s, down: 100Mbit/s}}}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: origin}}\n\
         spec:\n  location: Local\n  protocol: HTTP\n  endpoints:\n    \
         - ip: {{address: {ip}, port: {port}}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: ServiceRoute\nmetadata: {{name: pay}}\n\
         spec:\n  hostnames: [{HOST}]\n  trafficClass: payment\n  rules:\n    \
         - name: all\n      backendRefs: [{{name: origin}}]\n"
    );
    text.push_str(&format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: Listener\nmetadata: {{name: entry}}\n\
         spec:\n  address: {ENTRY}\n  protocol: HTTP\n  limits: {{maxConnections: {CLIENTS_MAX}, \
         maxConnectionsPerClient: {CLIENTS_MAX}}}\n"
    ));
    if let Some(Certificate { cert, key, .. }) = tls {
        text.push_str(&format!(
            "  tls:\n    certificates: [{{certFile: {cert}, keyFile: {key}}}]\n"
        ));
    }
    text
}

fn haproxy(origin: SocketAddr, tls: Option<&Certificate>) -> String {
    let bind = match tls {
        Some(tls) => format!("{ENTRY} ssl crt {} alpn h2,http/1.1", tls.both),
        None => ENTRY.to_owned(),
    };
    format!(
        "global\n  nbthread 1\n  maxconn {CLIENTS_MAX}\n  no strict-limits\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
         timeout server 60s\n  \
         option http-keep-alive\n  http-reuse always\n\
         frontend entry\n  bind {bind}\n  acl pay hdr(host) -i {HOST}\n  \
         option forwardfor\n  use_backend origin if pay\n\
         backend origin\n  server one {origin} maxconn 1024 pool-max-conn 128\n"
    )
}

fn nginx(scratch: &Scratch, origin: SocketAddr, tls: Option<&Certificate>) -> String {
    let scratch = scratch.path().display();
    let (listen, ssl) = match tls {
        Some(tls) => (
            format!("{ENTRY} ssl"),
            format!(
                "http2 on; ssl_certificate {}; ssl_certificate_key {}; \
                 ssl_session_tickets off; keepalive_requests 1000000000;",
                tls.cert, tls.key
            ),
        ),
        None => (ENTRY.to_owned(), "keepalive_requests 1000000000;".to_owned()),
    };
    // Before 1.25.1 there is no `http2 on`, but a word of `listen`.
    let old = Rival::Nginx.version().split("nginx/").nth(1).is_some_and(|version| {
        let mut parts = version.split('.').filter_map(|part| part.parse::<u32>().ok());
        (parts.next(), parts.next()) < (Some(1), Some(26))
    });
    let (listen, ssl) = if old && tls.is_some() {
        (format!("{listen} http2"), ssl.replace("http2 on; ", ""))
    } else {
        (listen, ssl)
    };
    format!(
        "daemon off;\nworker_processes 1;\npid {scratch}/nginx.pid;\n\
         events {{ worker_connections {CLIENTS_MAX}; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {scratch}/a;\n  \
         proxy_temp_path {scratch}/b;\n  fastcgi_temp_path {scratch}/c;\n  \
         uwsgi_temp_path {scratch}/d;\n  scgi_temp_path {scratch}/e;\n  \
         upstream origin {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}\n  \
         server {{\n    listen {listen};\n    server_name {HOST};\n    {ssl}\n    \
         location / {{\n      proxy_pass http://origin;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      \
         proxy_set_header X-Forwarded-For $remote_addr;\n    }}\n  }}\n}}\n"
    )
}

fn envoy(origin: SocketAddr, tls: Option<&Certificate>) -> serde_json::Value {
    let entry: SocketAddr = ENTRY.parse().expect("a constant address");
    let mut chain = serde_json::json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": ENVOY_HTTP,
            "stat_prefix": "entry", "codec_type": "AUTO", "use_remote_address": true,
            "route_config": {"virtual_hosts": [{
                "name": "pay", "domains": [HOST],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}]}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": ENVOY_ROUTER}}]}}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = serde_json::json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.\
                          DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [{
                        "certificate_chain": {"filename": tls.cert},
                        "private_key": {"filename": tls.key}}]}}});
    }
    serde_json::json!({"static_resources": {
        "listeners": [
            {"name": "entry", "address": socket_address(entry), "filter_chains": [chain]}],
        "clusters": [{
            "name": "origin", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket_address(origin)}}]}]}}]}})
}

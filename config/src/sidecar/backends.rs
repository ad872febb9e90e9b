//! Servers as a sidecar asks them: those of the store directly, all others through the gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Beside, document, filled};

/// The gateway as a server, by what is spoken to it; a policy's own names are longer or others.
const GATEWAY: &str = "tillgate-gateway";

/// Its forward proxy.
const PROXY: &str = "tillgate-gateway-proxy";

/// A gateway answers for servers that may be dead: what it says of them says nothing of it. So
/// only silence takes it out, and with one address never for long.
const WATCHED: &str = "10s";

/// The servers of a slice, and which of them are used.
pub(super) struct Servers<'a> {
    slice: &'a Value,
    beside: &'a Beside,
    used: BTreeMap<String, Value>,
}

impl<'a> Servers<'a> {
    pub(super) fn new(slice: &'a Value, beside: &'a Beside) -> Self {
        Self { slice, beside, used: BTreeMap::new() }
    }

    /// Whether the sidecar asks the backend called `name` itself.
    pub(super) fn is_direct(&self, name: &str) -> bool {
        let backend = &self.slice["backends"][name];
        let tls = &backend["tls"];
        let has_roots = tls["caFile"].as_str().is_none_or(|file| file == "system");
        let needs_files = !has_roots || !tls["clientCertificate"].is_null();
        let is_http = matches!(backend["protocol"].as_str(), Some("HTTP" | "HTTP2" | "GRPC"));
        let endpoints = backend["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_reached = |one: &Value| {
            self.beside.is_here() || one.as_str().is_none_or(|text| !is_loopback(text))
        };
        backend["location"] == "Local"
            && is_http
            && !needs_files
            && backend["proxyProtocol"].is_null()
            && !endpoints.is_empty()
            && endpoints.iter().all(is_reached)
    }

    /// The name under which the backend called `name` is asked.
    pub(super) fn reach(&mut self, name: &str) -> String {
        if !self.is_direct(name) {
            return self.through(name);
        }
        let backend = &self.slice["backends"][name];
        self.used.entry(name.to_owned()).or_insert_with(|| direct(backend));
        name.to_owned()
    }

    /// The name under which the gateway is asked what the backend called `name` is to answer.
    pub(super) fn through(&mut self, name: &str) -> String {
        let protocol = self.slice["backends"][name]["protocol"].as_str().unwrap_or("HTTP");
        let through = match protocol {
            "HTTP" => GATEWAY.to_owned(),
            other => format!("{GATEWAY}-{}", other.to_lowercase()),
        };
        let hop = &self.slice["gateway"]["http"];
        let spec = || {
            let mut spec = gateway(self.beside, hop, protocol);
            spec["healthCheck"] = json!({"active": {"interval": WATCHED}, "passive": {
                "consecutive5xxErrors": 1000, "consecutiveGatewayErrors": 1000,
                "failurePercentageThreshold": "100%",
            }});
            spec
        };
        self.used.entry(through.clone()).or_insert_with(spec);
        through
    }

    /// The backend that is the gateway's forward proxy, if it has one.
    pub(super) fn forward_proxy(&mut self) -> Option<&'static str> {
        let hop = &self.slice["gateway"]["forwardProxy"];
        if !hop["port"].is_u64() {
            return None;
        }
        self.used.insert(PROXY.to_owned(), gateway(self.beside, hop, "TCP"));
        Some(PROXY)
    }

    /// Those that are used.
    pub(super) fn documents(self) -> impl Iterator<Item = Value> {
        self.used.into_iter().map(|(name, spec)| document("Backend", &name, &spec))
    }
}

/// Whether the backend called `name` is the gateway, which tries servers by itself.
pub(super) fn is_gateway(name: &str) -> bool {
    let rest = name.strip_prefix(GATEWAY).filter(|_| name != PROXY);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether an endpoint is on the machine of whoever asks it.
fn is_loopback(endpoint: &str) -> bool {
    let address = endpoint.parse::<SocketAddr>();
    address.map_or_else(|_| endpoint.starts_with("localhost:"), |it| it.ip().is_loopback())
}

/// The gateway at `hop`. A gateway without such a listener is one that nobody reaches: what goes
/// there fails there.
fn gateway(beside: &Beside, hop: &Value, protocol: &str) -> Value {
    let port = if hop["port"].is_u64() { hop["port"].clone() } else { json!(1) };
    let mut spec = json!({
        "location": "Local", "protocol": protocol, "endpoints": [beside.endpoint(&port)],
    });
    if hop["tls"] == true {
        spec["tls"] = beside.tls();
    }
    spec
}

/// A backend of the store, as the language says it.
fn direct(backend: &Value) -> Value {
    let mut spec = filled(backend);
    let endpoint = |endpoint: &Value| endpoint.as_str().map_or(Value::Null, self::endpoint);
    let endpoints: Vec<Value> =
        backend["endpoints"].as_array().into_iter().flatten().map(endpoint).collect();
    if !endpoints.iter().any(|one| one["fqdn"].is_object()) {
        // Where there are no names nothing is resolved.
        spec.remove("dns");
    }
    spec.insert("endpoints".to_owned(), endpoints.into());
    if let Some(tls) = spec.get_mut("tls").and_then(Value::as_object_mut) {
        // The system's authorities are what the language says by saying nothing.
        tls.remove("caFile");
        tls.insert("mode".to_owned(), json!("Simple"));
    }
    if let Some(active) = spec.get_mut("healthCheck").and_then(|it| it.get_mut("active")) {
        probe(active);
    }
    spec.into()
}

/// A probe, as the language says it.
fn probe(active: &mut Value) {
    let Some(fields) = active.as_object_mut() else { return };
    if let Some(tcp) = fields.get_mut("tcp") {
        *tcp = json!({});
    }
    let Some(http) = fields.get_mut("http") else { return };
    match &http["expectedStatuses"] {
        // What it is where nothing is said of the probe.
        Value::String(text) if text == "any" => drop(fields.remove("http")),
        // What it is where a path is said and no status.
        Value::String(_) => drop(http.as_object_mut().map(|it| it.remove("expectedStatuses"))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {}
    }
}

/// `10.9.0.1:9000`, `[::1]:9000` or `prices.store:9000`.
fn endpoint(text: &str) -> Value {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return json!({"ip": {"address": address.ip().to_string(), "port": address.port()}});
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    json!({"fqdn": {"hostname": host, "port": port.parse::<u16>().unwrap_or(0)}})
}

//! What a proxy beside a workload runs, made of the slice that its gateway gives it.
//!
//! In: the slice, and how this machine reaches the gateway. Out: an effective config without a
//! line of its own. Servers in the store are asked directly; whatever is across the line, or needs
//! a file that only the gateway has, is asked through the gateway, which decides again by the same
//! rules. So a sidecar opens no connection across the line, and a store without its gateway still
//! reaches its own servers. The slice becomes documents of the language, so that nothing gets in
//! that a policy could not say.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tillgate_core::backend::Location;
use tillgate_core::listener::ListenerProtocol;

use crate::effective::Effective;
use crate::kinds::API_VERSION;
use crate::load_text;
use crate::report::Report;

mod backends;
mod routes;

use self::backends::Servers;

/// Its name in messages.
const FILE: &str = "slice";

/// The listener whose connections the gateway's forward proxy takes.
pub const RELAY: &str = "gateway-proxy";

/// There is no line here; the language wants one, and nothing is ever sent on it.
const NO_LINE: &str = "100Gbit/s";

/// Where a sidecar is, and how it reaches its gateway.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The gateway, as this machine calls it: a name or an address.
    pub gateway: Arc<str>,
    /// Who signs the gateway's certificates; `None` = the system's authorities.
    pub ca_file: Option<Arc<Path>>,
    /// The name in the gateway's certificates, if it is not `gateway`.
    pub server_name: Option<Arc<str>>,
    /// Where the HTTP entry listens.
    pub http: SocketAddr,
    /// Where connections for the gateway's forward proxy are taken.
    pub forward_proxy: SocketAddr,
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
}

impl Beside {
    /// Whether the gateway is on this machine: then its loopback is ours.
    fn is_here(&self) -> bool {
        let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
        self.gateway.parse().map_or(&*self.gateway == "localhost", is_loopback)
    }

    /// The gateway's `port` as an endpoint of the language.
    fn endpoint(&self, port: &Value) -> Value {
        match self.gateway.parse::<IpAddr>() {
            Ok(address) => json!({"ip": {"address": address.to_string(), "port": port}}),
            Err(_) => json!({"fqdn": {"hostname": &*self.gateway, "port": port}}),
        }
    }

    /// TLS to the gateway.
    fn tls(&self) -> Value {
        let mut tls = json!({"mode": "Simple"});
        if let Some(file) = &self.ca_file {
            tls["caFile"] = json!(file.display().to_string());
        }
        if let Some(name) = &self.server_name {
            tls["sni"] = json!(&**name);
        }
        tls
    }
}

/// What a sidecar runs before it has ever had a slice: nothing but probes.
///
/// # Errors
/// Never, but for a mistake in here.
pub fn minimal(beside: &Beside) -> Result<Effective, Report> {
    load(r#"{"store":"none","timeZone":"UTC"}"#, beside)
}

/// What a sidecar runs that has got `slice`.
///
/// # Errors
/// What is wrong with it, if it is no slice or of a version that this one does not know.
pub fn load(slice: &str, beside: &Beside) -> Result<Effective, Report> {
    let slice: Value = serde_json::from_str(slice)
        .map_err(|error| Report::of_error(format!("the slice is no JSON: {error}")))?;
    let documents = documents(&slice, beside);
    let text: Vec<String> = documents.iter().map(ToString::to_string).collect();
    let mut effective = load_text(FILE, &text.join("\n---\n"))?;
    // Its tunnels are the gateway's to open: connections are handed on as they are.
    effective.listeners.retain(|one| one.protocol != ListenerProtocol::ForwardProxy);
    effective.origins.retain(|path, _| !path.starts_with("listeners.forward-proxy"));
    for spec in effective.backends.iter_mut().filter(|one| backends::is_gateway(&one.name)) {
        spec.tries_itself = true;
    }
    if let Some(spec) = effective.backends.iter().find(|one| one.location == Location::Cloud) {
        let why = format!("the backend {} is across the line: a sidecar has none", spec.name);
        return Err(Report::of_error(why));
    }
    Ok(effective.with_digest())
}

fn document(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn entries(section: &Value) -> impl Iterator<Item = (&String, &Value)> {
    section.as_object().into_iter().flatten()
}

/// The same without what is not set, which the language says by leaving it out.
fn filled(value: &Value) -> Map<String, Value> {
    let set = entries(value).filter(|(_, value)| !value.is_null());
    set.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn documents(slice: &Value, beside: &Beside) -> Vec<Value> {
    let line = json!({"name": "none", "capacity": {"up": NO_LINE, "down": NO_LINE}});
    let store = json!({"timeZone": &slice["timeZone"], "links": [line]});
    let name = slice["store"].as_str().unwrap_or_default();
    let mut all = vec![document("Store", name, &store)];
    for (name, class) in entries(&slice["classes"]) {
        all.push(document("TrafficClass", name, &filled(class).into()));
    }
    let mut servers = Servers::new(slice, beside);
    for (name, rules) in entries(&slice["routes"]) {
        all.extend(
            routes::of(rules, &mut servers).map(|spec| document("ServiceRoute", name, &spec)),
        );
    }
    let listen = |address: SocketAddr, protocol: &str| {
        let address = address.to_string();
        json!({ "address": address, "protocol": protocol })
    };
    all.push(document("Listener", "http", &listen(beside.http, "HTTP")));
    all.push(document("Listener", "admin", &listen(beside.admin, "Admin")));
    // The one that a policy always has; it is taken away again.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    all.push(document("Listener", "forward-proxy", &listen(nowhere, "ForwardProxy")));
    if let Some(backend) = servers.forward_proxy() {
        let mut relay = listen(beside.forward_proxy, "TCP");
        relay["backendRef"] = json!({ "name": backend });
        all.push(document("Listener", RELAY, &relay));
    }
    all.extend(servers.documents());
    all
}

#[cfg(test)]
mod tests;

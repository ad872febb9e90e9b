//! The policy file of a store on the line under test, as an operator would write it.
//!
//! Text only: the lab knows the language from the outside and compiles nothing.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::origin::Service;
use crate::preset::LineSpec;
use crate::testbed::CLOUD;

/// What TLS on both sides of the gateway needs.
#[derive(Debug)]
pub struct TlsFiles {
    /// Where devices speak TLS.
    pub entry: SocketAddr,
    /// Whom the gateway trusts.
    pub authority: PathBuf,
    /// What it shows.
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// One store, its line, and a backend with a route for each service; the forward proxy classes
/// the same services by port. With `tls`, devices and services speak it.
pub fn for_line(line: LineSpec, tls: Option<&TlsFiles>) -> String {
    let mut text = store(line);
    for service in Service::ALL {
        let (name, class) = names(service);
        let host = service.host();
        let (port, secured) = match tls {
            None => (service.port(), String::new()),
            Some(files) => {
                let authority = files.authority.display();
                let field = format!("  tls: {{mode: Simple, sni: {host}, caFile: {authority}}}\n");
                (service.tls_port(), field)
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\n\
             spec:\n  location: Cloud\n  protocol: HTTP\n  endpoints:\n    \
             - ip: {{address: {CLOUD}, port: {port}}}\n{secured}\
             ---\napiVersion: tillgate.dev/v1alpha1\nkind: ServiceRoute\n\
             metadata: {{name: {name}}}\nspec:\n  hostnames: [{host}]\n  \
             trafficClass: {class}\n  rules:\n    - name: all\n      \
             backendRefs: [{{name: {name}}}]\n"
        );
    }
    if let Some(TlsFiles { entry, chain, key, .. }) = tls {
        let (chain, key) = (chain.display(), key.display());
        let _ = write!(
            text,
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: Listener\nmetadata: {{name: https}}\n\
             spec:\n  address: {entry}\n  protocol: HTTP\n  tls:\n    certificates:\n      \
             - {{certFile: {chain}, keyFile: {key}}}\n"
        );
    }
    text.push_str(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: EgressPolicy\n\
         metadata: {name: egress}\nspec:\n  trafficPolicy: Allow\n  rules:\n",
    );
    for service in Service::ALL {
        let (name, class) = names(service);
        let port = service.port();
        let _ = writeln!(
            text,
            "    - name: {name}\n      destinations:\n        \
             - {{cidrs: [{CLOUD}/32], ports: [{port}]}}\n      trafficClass: {class}"
        );
    }
    text
}

/// The document of the store and its line.
fn store(line: LineSpec) -> String {
    format!(
        "apiVersion: tillgate.dev/v1alpha1\n\
         kind: Store\n\
         metadata: {{name: store-0412}}\n\
         spec:\n  timeZone: Europe/Oslo\n  links:\n    \
         - {{name: primary, capacity: {{up: {}Mbit/s, down: {}Mbit/s}}}}\n",
        line.up_mbit, line.down_mbit
    )
}

/// A service with a replica in the store and one across the line.
#[derive(Debug, Clone)]
pub(crate) struct TwoTiers<'a> {
    /// The word of the language for what the servers speak.
    pub(crate) protocol: &'a str,
    pub(crate) probe: &'a str,
    /// Endpoints as the language writes them.
    pub(crate) local: &'a str,
    pub(crate) cloud: &'a str,
    /// Whether the one in the cloud is preferred.
    pub(crate) cloud_first: bool,
    /// Further lines of the rule.
    pub(crate) rule: &'a [&'a str],
}

/// The least that an operator writes for a service that falls back: no tuning of the failover.
pub(crate) fn for_two_tiers(line: LineSpec, service: &TwoTiers<'_>) -> String {
    let TwoTiers { protocol, probe, local, cloud, cloud_first, rule } = service;
    let mut text = store(line);
    for (name, location, endpoint) in
        [("pricing-local", "Local", local), ("pricing-cloud", "Cloud", cloud)]
    {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\n\
             spec:\n  location: {location}\n  protocol: {protocol}\n  endpoints: [{endpoint}]\n  \
             healthCheck:\n    active: {{{probe}, interval: 1s, timeout: 500ms, \
             unhealthyThreshold: 2, healthyThreshold: 2}}\n"
        );
        if endpoint.contains("fqdn") {
            text.push_str("  dns: {refresh: 1s}\n");
        }
    }
    let (first, second) = if *cloud_first {
        ("pricing-cloud", "pricing-local")
    } else {
        ("pricing-local", "pricing-cloud")
    };
    let host = Service::Payments.host();
    let _ = write!(
        text,
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: ServiceRoute\nmetadata: {{name: pricing}}\n\
         spec:\n  hostnames: [{host}]\n  trafficClass: payment\n  rules:\n    - name: all\n      \
         timeouts: {{request: 3s}}\n"
    );
    for line in *rule {
        let _ = writeln!(text, "      {line}");
    }
    let _ = writeln!(
        text,
        "      backendRefs: [{{name: {first}}}, {{name: {second}, fallback: true}}]"
    );
    text
}

fn names(service: Service) -> (&'static str, &'static str) {
    match service {
        Service::Payments => ("payments", "payment"),
        Service::Registry => ("registry", "image-pull"),
        Service::Metrics => ("metrics", "metrics"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_line_and_all_services() {
        let text = for_line(LineSpec::of_mbit(20.0, 5.0), None);
        assert!(text.contains("capacity: {up: 5Mbit/s, down: 20Mbit/s}"), "{text}");
        assert_eq!(text.matches("kind: Backend").count(), 3);
        assert_eq!(text.matches("kind: ServiceRoute").count(), 3);
        assert!(text.contains("hostnames: [registry.example]\n  trafficClass: image-pull"));
        assert!(
            text.contains("{cidrs: [10.9.0.1/32], ports: [9002]}\n      trafficClass: metrics")
        );
    }
}

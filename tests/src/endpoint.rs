//! Policies with a config endpoint, and callers who ask it over TLS.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::tls;
use crate::wire::{Reply, Wire};

/// The name in the gateway's certificate.
pub const NAME: &str = "gateway.example";

/// What a policy shall say of the endpoint; files are named, and lie in one folder.
pub struct Wanted<'a> {
    /// `Mutual` or `Token`.
    pub auth: &'a str,
    /// Whether `ca.crt` says whose certificates count.
    pub has_ca: bool,
    /// Names of tokens, which are their files, with their roles.
    pub tokens: &'a [(&'a str, &'a str)],
    /// Names of receivers, which are the files of their secrets, with their types.
    pub hooks: &'a [(&'a str, &'a str)],
    /// The line's capacity, to have something that changes.
    pub down: &'a str,
}

/// A policy of one line and an endpoint; `at` says where a file is.
pub fn policy(at: impl Fn(&str) -> String, wanted: &Wanted<'_>) -> String {
    let Wanted { auth, down, .. } = wanted;
    let mut text = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\n\
         spec:\n  timeZone: Europe/Oslo\n  links:\n    \
         - {{name: primary, capacity: {{up: 5Mbit/s, down: {down}}}}}\n  gateway:\n    \
         workers: 1\n    configEndpoint:\n      listen: 127.0.0.1:0\n      \
         clientAuth: {auth}\n      certificate: {{certFile: {}, keyFile: {}}}\n      \
         auditDirectory: {}\n",
        at("tls.crt"),
        at("tls.key"),
        at("audit")
    );
    if wanted.has_ca {
        text.push_str(&format!("      caFile: {}\n", at("ca.crt")));
    }
    if !wanted.tokens.is_empty() {
        text.push_str("      tokens:\n");
    }
    for (name, roles) in wanted.tokens {
        let file = at(name);
        text.push_str(&format!("        - {{name: {name}, roles: [{roles}], file: {file}}}\n"));
    }
    if !wanted.hooks.is_empty() {
        text.push_str("      hooks:\n");
    }
    for (name, kind) in wanted.hooks {
        let file = at(name);
        let hook = format!("        - {{name: {name}, type: {kind}, secretFiles: [{file}]}}\n");
        text.push_str(&hook);
    }
    text
}

/// Documents beside a store's own: a mirror whose cache is in `images`, a release that a freeze
/// holds and an exception to it, rules that are held, what may leave the store.
pub fn everything(images: &Path) -> String {
    include_str!("endpoint/everything.yaml").replace("IMAGES", &images.display().to_string())
}

/// Writes a secret that its owner alone may read, in one go.
///
/// # Panics
/// If the folder cannot be written.
pub fn write_secret(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).expect("a file");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&fresh, mode).expect("a mode");
    std::fs::rename(fresh, path).expect("a swap");
}

/// Somebody with a certificate, or without.
pub struct Caller {
    /// How it shakes hands.
    pub config: Arc<ClientConfig>,
    /// Where the endpoint is.
    pub address: SocketAddr,
}

impl Caller {
    /// Asks; nothing of the answer is read yet.
    ///
    /// # Panics
    /// If there is no connection.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Wire {
        let shaken = tls::connect(self.address, NAME, &self.config);
        let mut wire = shaken.expect("a handshake").wire;
        let length = match body {
            "" => String::new(),
            body => format!("Content-Length: {}\r\n", body.len()),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\n{headers}{length}\r\n");
        wire.send(head + body);
        wire
    }

    /// Asks, and reads the answer.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let mut wire = self.send(method, path, headers, body);
        if method == "HEAD" { wire.head() } else { wire.reply() }
    }

    /// Asks for `path`.
    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "")
    }
}

//! A store of a fleet, run by the program, with people who ask its config endpoint.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};
use tillgate_config::bundle::encode_memory;
use tillgate_core::reconcile::Memory;
use tillgate_net::tls::OwnKey;

use crate::chain::{Chain, tillgate};
use crate::endpoint::{Caller, NAME, write_secret};
use crate::eventually;
use crate::origin::Origin;
use crate::ports::nobody;
use crate::program::{Program, policy};
use crate::tls::{self, Authority, Identity, Wants};
use crate::wire::Reply;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A probation that a test can wait for.
const SOON: &str = "  probation: {least: 1s, requests: 5, most: 1h}\n";

/// See the module.
pub struct Operated {
    /// Where its policy comes from.
    pub chain: Chain,
    /// The gateway.
    pub program: Program,
    /// Who has signed its certificate.
    pub authority: Authority,
    /// The server behind its routes.
    pub origin: Origin,
    config: Arc<ClientConfig>,
    path: &'static str,
    /// Where its HTTP entry and its forward proxy are, as its config endpoint, after every start:
    /// a slice names them.
    entries: [SocketAddr; 2],
}

impl Operated {
    /// A store that looks into the folder `stick`; `more` is of its Bootstrap. `path` is the
    /// program.
    ///
    /// # Panics
    /// If it does not start.
    pub fn new(path: &'static str, name: &str, more: impl Fn(&Chain) -> String) -> Self {
        Self::asking(path, name, |chain| vec![chain.stick("")], more)
    }

    /// A store with these sources.
    ///
    /// # Panics
    /// If it does not start.
    pub fn asking(
        path: &'static str,
        name: &str,
        sources: impl Fn(&Chain) -> Vec<String>,
        more: impl Fn(&Chain) -> String,
    ) -> Self {
        let (chain, authority) = (Chain::new(name), Authority::default());
        let identity = authority.issue(&[NAME, "127.0.0.1"]);
        for (name, text) in
            [("ca.crt", &authority.pem), ("tls.crt", &identity.chain), ("tls.key", &identity.key)]
        {
            fs::write(chain.folder.join(name), text).expect("room");
        }
        let at = |name: &str| chain.folder.join(name).display().to_string();
        let mut endpoint = format!(
            "  configEndpoint:\n    listen: {}\n    clientAuth: Token\n    certificate: \
             {{certFile: {}, keyFile: {}}}\n    caFile: {}\n    tokens:\n",
            nobody(),
            at("tls.crt"),
            at("tls.key"),
            at("ca.crt")
        );
        for role in ["viewer", "operator", "auditor", "sidecar"] {
            write_secret(&chain.folder.join(role), &format!("{role}-0123456789abcdef0123456789ab"));
            let file = at(role);
            endpoint
                .push_str(&format!("      - {{name: {role}, roles: [{role}], file: {file}}}\n"));
        }
        let more = more(&chain);
        let bootstrap = chain.bootstrap(&sources(&chain), &format!("{SOON}{endpoint}{more}"));
        // A box whose clock was right before: the one of a test may be kept by nobody.
        let memory = Memory { clock_known: true, ..Memory::default() };
        fs::create_dir_all(chain.state()).expect("room");
        fs::write(chain.state().join("state.json"), encode_memory(&memory)).expect("room");
        let entries = [nobody(), nobody()];
        let program = Program::start_at(path, bootstrap, entries);
        let config = tls::client(&authority, &Wants::default());
        let origin = Origin::answering(OK);
        let store = Self { chain, program, authority, origin, config, path, entries };
        store.follows();
        store
    }

    /// Waits until it follows its sources, which it does once it serves.
    fn follows(&self) {
        eventually("policy is followed", || self.shown()["storeId"].is_string().then_some(()));
    }

    /// Ends the gateway as a power cut does, and starts it again.
    pub fn restart(&mut self) {
        self.restart_after(|_| {});
    }

    /// The same; meanwhile something happens to the state directory.
    pub fn restart_after(&mut self, change: impl FnOnce(&Path)) {
        self.program.kill();
        change(&self.chain.state());
        self.program = Program::start_at(self.path, self.program.policy.clone(), self.entries);
        self.follows();
    }

    /// Puts a policy for `host` on the stick.
    pub fn put(&self, sequence: u64, host: &str) {
        self.put_text(sequence, &self.policy(host));
    }

    /// The policy for `host`.
    pub fn policy(&self, host: &str) -> String {
        policy(host, self.origin.address)
    }

    /// Puts this policy on the stick.
    pub fn put_text(&self, sequence: u64, text: &str) {
        self.chain.put(&self.chain.bundle(sequence, text, "ci", &[]));
    }

    /// Puts one, and waits until it has proven itself.
    #[track_caller]
    pub fn good(&self, sequence: u64, host: &str) {
        self.put(sequence, host);
        eventually(&format!("{sequence} is last known good\n{}", self.program.log()), || {
            (0..5).for_each(|_| drop(self.program.get(host)));
            (self.shown()["lastKnownGood"]["sequence"] == sequence).then_some(())
        });
    }

    /// Puts an operation beside the bundle that was made last, signed with `key`.
    ///
    /// # Panics
    /// If the command refuses it.
    pub fn operate(&self, key: &str, id: &str, more: &[&str]) {
        let file = self.chain.folder.join("made.tar.gz").display().to_string();
        let private = self.chain.folder.join(format!("{key}.pem")).display().to_string();
        let usual =
            ["--store", "store-0412", "--reason", "cards fail", "--ticket", "INC-1", "--id", id];
        let signed = ["--key", &private, "--key-id", key];
        tillgate(&[&["operate", &file], more, &usual, &signed].concat());
        self.chain.put(&fs::read(&file).expect("a bundle"));
    }

    /// The metrics.
    pub fn metrics(&self) -> String {
        self.ask("viewer", "GET", "/metrics", "", "").text()
    }

    /// What the status says of the policy.
    pub fn shown(&self) -> Value {
        let status: Value = serde_json::from_str(&self.program.status()).expect("JSON");
        status["policy"].clone()
    }

    /// Waits until the policy of this sequence is in effect.
    #[track_caller]
    pub fn applied(&self, sequence: u64) {
        eventually(&format!("sequence {sequence} in effect\n{}", self.program.log()), || {
            (self.shown()["applied"]["sequence"] == sequence).then_some(())
        });
    }

    /// Somebody without a certificate.
    pub fn caller(&self) -> Caller {
        let address = self.program.address("config-endpoint");
        Caller { config: Arc::clone(&self.config), address }
    }

    /// Somebody with a certificate for `names`.
    pub fn certified(&self, names: &[&str]) -> Caller {
        self.with(&self.authority.issue(names))
    }

    /// Somebody with this certificate.
    pub fn with(&self, identity: &Identity) -> Caller {
        let wants = Wants { identity: Some(identity), ..Wants::default() };
        Caller { config: tls::client(&self.authority, &wants), ..self.caller() }
    }

    /// The header that proves a role.
    pub fn bearer(&self, role: &str) -> String {
        let token = fs::read_to_string(self.chain.folder.join(role)).expect("a token");
        format!("Authorization: Bearer {token}\r\n")
    }

    /// Asks the config endpoint.
    pub fn ask(&self, role: &str, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let media = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let headers = format!("{}{media}{headers}", self.bearer(role));
        self.caller().ask(method, path, &headers, body)
    }

    /// The document at `path`, as an operator reads it.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let reply = self.ask("operator", "GET", path, "", "");
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    /// The one sidecar there is, once it runs what it should, as far as the gateway knows.
    #[track_caller]
    pub fn sidecar_in_sync(&self) -> Value {
        eventually("the gateway knows that the sidecar runs what it should", || {
            let one = self.get("/v1/instances")["instances"][0].clone();
            (one["state"] == "in_sync").then_some(one)
        })
    }

    /// What an auditor reads.
    pub fn records(&self) -> Vec<Value> {
        let text = self.ask("auditor", "GET", "/v1/audit?limit=1000", "", "").text();
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    /// The token that an operator gets for `words`.
    #[track_caller]
    pub fn mint(&self, words: &[&str]) -> String {
        let minted = self.command("operator", &[&["enrol"], words].concat());
        assert_eq!((minted.code, minted.stderr.as_str()), (0, ""));
        let token = minted.stdout.strip_suffix('\n').expect("a line").to_owned();
        assert!(token.lines().count() == 1 && !token.contains(' '), "the token alone: {token}");
        token
    }

    /// Somebody with a certificate of the store's authority for such a token.
    #[track_caller]
    pub fn enrolled(&self, words: &[&str]) -> Caller {
        let (key, csr) = csr();
        let reply = enrol(&self.caller(), Some(&self.mint(words)), &csr);
        assert_eq!(reply.status, 201, "{}", reply.text());
        let told: Value = serde_json::from_slice(&reply.body).expect("JSON");
        let chain = told["certificate"].as_str().expect("a certificate").to_owned();
        self.with(&Identity { chain, key: key.pem() })
    }

    /// A command of the program, with the means to ask this gateway.
    pub fn command(&self, role: &str, words: &[&str]) -> tillgate::cli::policy::Answer {
        let at = |name: &str| self.chain.folder.join(name).display().to_string();
        let url = format!("https://{}", self.program.address("config-endpoint"));
        let (ca, token) = (at("ca.crt"), at(role));
        let means = ["--endpoint", &url, "--ca", &ca, "--token-file", &token];
        let all = ["tillgate"].iter().chain(words).chain(&means).map(OsString::from);
        tillgate::cli::ask(all.collect::<Vec<_>>()).expect("the arguments make sense")
    }

    /// The bundle that `current` leads to.
    ///
    /// # Panics
    /// If there is none.
    pub fn current(&self) -> PathBuf {
        let link = fs::read_link(self.chain.state().join("current")).expect("a bundle");
        self.chain.state().join(link).join("bundle.tar.gz")
    }
}

/// What says that a body is JSON.
pub const JSON: &str = "Content-Type: application/json\r\n";

/// A key, and a request for a certificate for it.
pub fn csr() -> (OwnKey, String) {
    let key = OwnKey::generate().expect("a key");
    let csr = key.request().expect("a request");
    (key, csr)
}

/// Asks for a certificate, with this token.
pub fn enrol(caller: &Caller, token: Option<&str>, csr: &str) -> Reply {
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let headers = bearer.unwrap_or_default() + JSON;
    caller.ask("POST", "/v1/enrol", &headers, &json!({ "csr": csr }).to_string())
}

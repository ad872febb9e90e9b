//! The effective config: everything one gateway runs on, and nothing it must look up.
//!
//! Compiling turns documents into this one immutable value; it is the only input of
//! `tillgate::build`. Live objects are made from it and can be compared with it. It holds no
//! text of the policy, but knows where every value came from ([`Effective::origins`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tillgate_core::backend::{BackendId, BackendSpec};
use tillgate_core::class::ClassTable;
use tillgate_core::endpoint::EndpointSpec;
use tillgate_core::gate::Gate;
use tillgate_core::link::LinkSpec;
pub use tillgate_core::listener::{
    ListenerLimits, ListenerProtocol, ListenerSpec, ProxyTrust, StreamTimeouts,
};
use tillgate_core::matching::{EgressTable, RouteTable};
use tillgate_core::mirror::{Login, MirrorSpec};

mod diff;
mod render;
mod slice;
mod telemetry;
mod tree;

pub use diff::{Change, changes};
pub(crate) use render::Written;
pub use slice::Slice;
pub use telemetry::{
    AccessLogSpec, ClassLog, ClientAddress, LogOutput, LoggedHeader, OtlpEndpoint, TelemetrySpec,
    TracingSpec,
};

/// Files of a machine's secrets, by the names that its Bootstrap gives them.
pub type Secrets = BTreeMap<Arc<str>, Arc<Path>>;

/// Everything one gateway runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Name of the `Store` document.
    pub store: Arc<str>,
    /// IANA name of the store's time zone.
    pub time_zone: Arc<str>,
    /// The process: workers, drain.
    pub process: ProcessSpec,
    /// Where sidecars and tools ask what runs here.
    pub endpoint: Option<EndpointSpec>,
    /// The same, as the machine's own Bootstrap says it: it wins, and is no part of the digest,
    /// because it is no part of the policy.
    pub machine_endpoint: Option<EndpointSpec>,
    /// What is listened on, in the order HTTP, forward proxy, admin, then others by name.
    pub listeners: Vec<ListenerSpec>,
    /// WAN lines in the order of the store's document; never empty.
    pub links: Vec<LinkSpec>,
    /// Traffic classes; built-in ones included.
    pub classes: ClassTable,
    /// Backends by [`BackendId`].
    pub backends: Vec<BackendSpec>,
    /// Rules of the HTTP entry.
    pub routes: RouteTable,
    /// Rules of the forward proxy. `None` = no `EgressPolicy` document: allowed on loopback
    /// listeners, a start error on any other.
    pub egress: Option<EgressTable>,
    /// Registries whose images are fetched once for the store.
    pub mirror: Option<MirrorSpec>,
    /// Access log and traces.
    pub telemetry: TelemetrySpec,
    /// What decides when the store changes: windows, freezes, rollouts.
    pub gate: Gate,
    /// Where each value came from, by path in the effective document
    /// (`classes.payment.guarantee.up` -> `store.yaml:12:5` or `built-in` or `default`).
    pub origins: BTreeMap<String, Origin>,
    /// Fields that are accepted but have no effect yet, each with its place.
    pub not_in_effect: Vec<NotInEffect>,
    /// `sha256:` + 64 hex digits over the canonical JSON form without origins.
    pub digest: Arc<str>,
}

impl Effective {
    /// The backend with this id.
    ///
    /// # Panics
    /// If the id is of another config: ids are handed out by the compiler alone.
    pub fn backend(&self, id: BackendId) -> &BackendSpec {
        &self.backends[usize::from(id.0)]
    }

    /// The same config with the listener of `protocol` moved to `address`, as a flag on the
    /// command line says. All its other values stay; without one, a listener with the defaults
    /// is added. The digest follows. Protocols that no flag names leave it as it is.
    #[must_use]
    pub fn with_listener(mut self, protocol: ListenerProtocol, address: SocketAddr) -> Self {
        let (name, flag) = match protocol {
            ListenerProtocol::Http => ("http", "--http"),
            ListenerProtocol::ForwardProxy => ("forward-proxy", "--forward-proxy"),
            ListenerProtocol::Admin => ("admin", "--admin"),
            ListenerProtocol::TlsPassthrough
            | ListenerProtocol::Tcp
            | ListenerProtocol::Udp
            | ListenerProtocol::ConfigEndpoint
            | ListenerProtocol::Registry => return self,
        };
        let found = self.listeners.iter_mut().find(|one| &*one.name == name);
        match found {
            Some(listener) => listener.address = address,
            None => self.listeners.push(ListenerSpec::plain(
                name,
                protocol,
                address,
                crate::defaults::stream_timeouts(protocol),
                crate::defaults::LIMITS,
            )),
        }
        let path = format!("listeners.{name}.address");
        self.origins.insert(path, Origin::Flag(flag.into()));
        self.with_digest()
    }

    /// The same config with this many worker threads, as `--workers` says.
    #[must_use]
    pub fn with_workers(mut self, workers: u16) -> Self {
        self.process.workers = Some(workers);
        self.origins.insert("process.workers".to_owned(), Origin::Flag("--workers".into()));
        self.with_digest()
    }

    /// The same config with what flags on the command line say in `running`: what another policy
    /// would be in the same process.
    #[must_use]
    pub fn with_flags_of(mut self, running: &Self) -> Self {
        let is_flag = |path: &str| matches!(running.origins.get(path), Some(Origin::Flag(_)));
        for one in &running.listeners {
            if is_flag(&format!("listeners.{}.address", one.name)) {
                self = self.with_listener(one.protocol, one.address);
            }
        }
        if let Some(workers) = running.process.workers.filter(|_| is_flag("process.workers")) {
            self = self.with_workers(workers);
        }
        if is_flag("telemetry.accessLog") { self.with_whole_access_log() } else { self }
    }

    /// The same config on a machine whose Bootstrap asks for an endpoint.
    #[must_use]
    pub fn with_machine_endpoint(self, endpoint: Option<EndpointSpec>) -> Self {
        Self { machine_endpoint: endpoint, ..self }
    }

    /// The same config on a machine whose Bootstrap has these secrets, by name. Returns also the
    /// names that the policy uses and the Bootstrap does not have.
    #[must_use]
    pub fn with_secrets(mut self, secrets: &Secrets) -> (Self, Vec<Arc<str>>) {
        let mut missing = Vec::new();
        let upstreams = self.mirror.iter_mut().flat_map(|mirror| &mut mirror.upstreams);
        for login in upstreams.filter_map(|one| one.login.as_mut()) {
            let Login::Secret { name, file } = login else { continue };
            *file = secrets.get(name).cloned();
            if file.is_none() {
                missing.push(Arc::clone(name));
            }
        }
        (self, missing)
    }

    /// Where sidecars and tools ask, whoever says so.
    pub fn config_endpoint(&self) -> Option<&EndpointSpec> {
        self.machine_endpoint.as_ref().or(self.endpoint.as_ref())
    }

    /// The forward-proxy listener that everyone on the network could use, if there is one: not
    /// on loopback, and no `EgressPolicy` to say what may be reached. A start error.
    pub fn open_forward_proxy(&self) -> Option<&ListenerSpec> {
        let open = |one: &&ListenerSpec| {
            one.protocol == ListenerProtocol::ForwardProxy && !one.address.ip().is_loopback()
        };
        self.listeners.iter().find(open).filter(|_| self.egress.is_none())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A document: file, line and column (1-based).
    File {
        /// As the user named it.
        file: Arc<str>,
        /// 1-based.
        line: u32,
        /// 1-based.
        column: u32,
    },
    /// A built-in document (the traffic classes).
    BuiltIn,
    /// A default of the language.
    Default,
    /// A command-line flag.
    Flag(Arc<str>),
}

impl fmt::Display for Origin {
    /// `store.yaml:12:5`, `built-in`, `default`, `flag --http`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::BuiltIn => f.write_str("built-in"),
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A field that parses but is not built yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotInEffect {
    /// Path of the field, as `LinkPolicy/standard-fibre spec.links[0].autorate`.
    pub field: Arc<str>,
    /// Where it stands.
    pub origin: Origin,
}

/// The process as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Worker threads of the data plane; `None` = one per CPU of the process's affinity.
    pub workers: Option<u16>,
    /// After SIGTERM: how long connections may take to finish; critical classes get all of it,
    /// the others half.
    pub drain_timeout: Duration,
    /// Bytes of bodies that all workers together may hold in user space. Near it, work is shed by
    /// class: bulk first, critical classes last.
    pub buffer_bytes_max: u64,
}

//! What the process listens on, while it runs: planned, bound, opened and taken away as a whole.
//!
//! A reload [plans](Listeners::plan) the next set: listeners that stay keep their sockets and
//! connections, new ones are bound, sockets of one address pass from a listener that goes to the
//! one that comes. Nothing is changed if one of them cannot be had. [`Listeners::commit`] then
//! swaps in one go: workers open what is new, and what is gone ends as its connections do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tillgate_config::effective::{Effective, ListenerProtocol, ListenerSpec};
use tillgate_net::drain::{Drain, Phase};
use tillgate_net::handover::Named;
use tillgate_net::http::server::{Entry, Limits};
use tillgate_net::listen::{Beside, ListenError, Shared, Socket, Transport};
use tillgate_net::memory::Ledger;
use tillgate_net::metrics::Metrics;
use tillgate_net::tls::Tls;
use tokio::sync::mpsc;

use crate::bound::{BuildError, refuse_open_proxy};
use crate::inherited::Inherited;

/// Sets of listeners that wait until a worker opens them. A worker looks at once, and reloads are
/// a second apart.
const ORDERS_MAX: usize = 16;

/// A listener that is bound, for whoever wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    pub(crate) name: Arc<str>,
    pub(crate) protocol: ListenerProtocol,
    pub(crate) address: SocketAddr,
}

impl Listening {
    /// Tells the log.
    pub(crate) fn say(&self) {
        let protocol = format!("{:?}", self.protocol);
        let (name, address) = (&*self.name, self.address);
        tracing::info!(name, %address, protocol, "listening");
    }
}

/// One listener as it runs.
#[derive(Clone)]
pub(crate) struct Live {
    spec: Arc<ListenerSpec>,
    shared: Arc<Shared>,
    entry: Arc<Entry>,
}

/// One worker's socket of a listener that is to be served from now on.
pub(crate) struct Opening {
    pub(crate) spec: Arc<ListenerSpec>,
    pub(crate) socket: Socket,
    pub(crate) entry: Arc<Entry>,
}

/// What a worker shall open, once for every set.
pub(crate) type Orders = mpsc::Receiver<Vec<Opening>>;

/// A set of listeners that is bound and not served yet.
pub(crate) struct Plan {
    next: Vec<Live>,
    /// By worker, the admin thread last.
    openings: Vec<Vec<Opening>>,
}

/// What a plan has changed.
pub(crate) struct Change {
    pub(crate) come: Vec<Listening>,
    /// They take no connection any more; those that they have are theirs to end.
    pub(crate) gone: Vec<(Listening, Drain)>,
}

/// See the module.
pub(crate) struct Listeners {
    live: Mutex<Vec<Live>>,
    /// Nothing comes to `live` any more; changed while that is locked.
    has_let_go: AtomicBool,
    shown: ArcSwap<Vec<Listening>>,
    /// By worker, the admin thread last.
    desks: Vec<mpsc::Sender<Vec<Opening>>>,
    drain: Drain,
    /// Probes and scrapes go on while the data plane drains.
    admin_drain: Drain,
}

/// A worker has too many sets of listeners to open.
#[derive(Debug, thiserror::Error)]
#[error("the workers are still busy with the reloads before; reload again in a second")]
pub struct Busy;

impl Listeners {
    /// None yet; with the desks of `workers` and of the admin thread.
    pub(crate) fn new(workers: usize, drain: Drain) -> (Self, Vec<Orders>) {
        let (desks, orders) = (0..=workers).map(|_| mpsc::channel(ORDERS_MAX)).unzip();
        let listeners = Self {
            live: Mutex::default(),
            has_let_go: AtomicBool::new(false),
            shown: ArcSwap::default(),
            desks,
            drain,
            admin_drain: Drain::default(),
        };
        (listeners, orders)
    }

    /// What is listened on.
    pub(crate) fn shown(&self) -> Arc<Vec<Listening>> {
        self.shown.load_full()
    }

    /// Binds what `effective` wants and is not there yet; sockets of `inherited` come first.
    ///
    /// # Errors
    /// [`BuildError`] names what cannot be had; nothing has changed then.
    pub(crate) fn plan(
        &self,
        effective: &Effective,
        metrics: &Metrics,
        tls: &Tls,
        memory: &Arc<Ledger>,
        inherited: &mut Inherited,
    ) -> Result<Plan, BuildError> {
        let now = self.live().clone();
        let own = effective.config_endpoint().map(|endpoint| &endpoint.listener);
        let wanted = || effective.listeners.iter().chain(own);
        let stays = |live: &Live| wanted().any(|spec| is_same(live, spec));
        let going: Vec<&Live> = now.iter().filter(|live| !stays(live)).collect();
        let workers = self.desks.len() - 1;
        let mut next = Vec::new();
        let mut openings: Vec<Vec<Opening>> = self.desks.iter().map(|_| Vec::new()).collect();
        for spec in wanted() {
            refuse_open_proxy(effective, spec.protocol, spec.address)?;
            if let Some(live) = now.iter().find(|live| is_same(live, spec)) {
                refuse_open_proxy(effective, spec.protocol, live.shared.address)?;
                next.push(Live { spec: Arc::new(spec.clone()), ..live.clone() });
                continue;
            }
            let is_admin =
                matches!(spec.protocol, ListenerProtocol::Admin | ListenerProtocol::ConfigEndpoint);
            let count = if is_admin { 1 } else { workers };
            let shared = sockets(spec, count, &going, inherited)
                .map_err(|source| BuildError::listen(&spec.name, source))?;
            refuse_open_proxy(effective, spec.protocol, shared.address)?;
            let drain = if is_admin { self.admin_drain.part() } else { self.drain.part() };
            let is_own = spec.protocol == ListenerProtocol::ConfigEndpoint;
            let terminator = |of| match is_own {
                true => tls.endpoint_terminator(&spec.name, of),
                false => tls.terminator(&spec.name, of),
            };
            let tls = spec.tls.as_ref().map(terminator).transpose()?;
            let (meter, memory) = (metrics.listener(&spec.name), Arc::clone(memory));
            let entry = Entry::new(limits(spec), meter, drain, tls, memory);
            if let Some(trust) = &spec.proxy_protocol {
                entry.trust(trust.clone());
            }
            let live = Live { spec: Arc::new(spec.clone()), shared, entry };
            let hands = live.shared.deal(count).map_err(|source| {
                let address = live.shared.address;
                BuildError::listen(&spec.name, ListenError::Other { address, source })
            })?;
            let first = if is_admin { workers } else { 0 };
            for (hand, sockets) in openings[first..].iter_mut().zip(hands) {
                hand.extend(sockets.into_iter().map(|socket| live.open(socket)));
            }
            next.push(live);
        }
        Ok(Plan { next, openings })
    }

    /// What `effective` would take away, each with the connections that it would have to end.
    pub(crate) fn ends(&self, effective: &Effective) -> Vec<(Listening, usize)> {
        let own = effective.config_endpoint().map(|endpoint| &endpoint.listener);
        let stays =
            |live: &Live| effective.listeners.iter().chain(own).any(|spec| is_same(live, spec));
        let live = self.live();
        let going = live.iter().filter(|live| !stays(live));
        going.map(|live| (live.show(), live.entry.drain.live())).collect()
    }

    /// Puts `plan` in effect after `swap` has put its config in effect.
    ///
    /// # Errors
    /// Nothing has changed then: if a worker is too busy, or `swap` failed.
    pub(crate) fn commit<E: From<Busy>>(
        &self,
        plan: Plan,
        swap: impl FnOnce() -> Result<(), E>,
    ) -> Result<Change, E> {
        let permits = self.desks.iter().map(mpsc::Sender::try_reserve);
        let permits = permits.collect::<Result<Vec<_>, _>>().map_err(|_| Busy)?;
        swap()?;
        let mut live = self.live();
        if self.has_let_go.load(Ordering::Relaxed) {
            // The drain has begun meanwhile: what was bound is closed again.
            return Ok(Change { come: Vec::new(), gone: Vec::new() });
        }
        for old in live.iter() {
            let is_next = |live: &&Live| Arc::ptr_eq(&old.shared, &live.shared) && !old.is(live);
            if let Some(next) = plan.next.iter().find(is_next) {
                old.entry.pass_on(next.begins_as(old).then(|| Arc::clone(&next.entry)));
            }
        }
        for (permit, openings) in permits.into_iter().zip(plan.openings) {
            permit.send(openings);
        }
        let shown = plan.next.iter().map(Live::show).collect();
        self.shown.store(Arc::new(shown));
        let before = std::mem::replace(&mut *live, plan.next);
        let now = live.clone();
        drop(live);
        for live in &now {
            live.entry.set_limits(limits(&live.spec));
        }
        let come = now.iter().filter(|live| !before.iter().any(|old| old.is(live)));
        let gone = before.iter().filter(|old| !now.iter().any(|live| old.is(live)));
        Ok(Change {
            come: come.map(Live::show).collect(),
            gone: gone.map(|old| (old.show(), old.entry.drain.clone())).collect(),
        })
    }

    /// Every listening socket once more, for the next process.
    ///
    /// # Errors
    /// If this process may not open more files.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<Named>> {
        let live = self.live();
        let sockets = live.iter().flat_map(|live| {
            live.shared.sockets().iter().map(|socket| (Arc::clone(&live.spec.name), socket))
        });
        sockets.map(|(name, socket)| Ok((name, socket.try_clone()?))).collect()
    }

    /// Keeps no socket: when the workers close theirs, the kernel refuses new connections, unless
    /// another process has them too.
    pub(crate) fn let_go(&self) {
        let mut live = self.live();
        self.has_let_go.store(true, Ordering::Relaxed);
        live.clear();
    }

    /// The admin listener stops taking connections: another process answers now.
    pub(crate) fn end_admin(&self) {
        self.admin_drain.advance(Phase::Draining);
    }

    fn live(&self) -> MutexGuard<'_, Vec<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
    }

    /// Whether connections that `old` takes can be served here.
    fn begins_as(&self, old: &Self) -> bool {
        self.spec.name == old.spec.name && self.spec.protocol == old.spec.protocol
    }

    fn show(&self) -> Listening {
        Listening {
            name: Arc::clone(&self.spec.name),
            protocol: self.spec.protocol,
            address: self.shared.address,
        }
    }

    fn open(&self, socket: Socket) -> Opening {
        Opening { spec: Arc::clone(&self.spec), socket, entry: Arc::clone(&self.entry) }
    }
}

/// Whether `live` goes on as `spec`. What it says of limits, timeouts, the class and the backend
/// reaches it while it runs; how a connection begins does not, so such a listener is another one
/// on the same sockets.
fn is_same(live: &Live, spec: &ListenerSpec) -> bool {
    let old = &live.spec;
    old.name == spec.name
        && old.address == spec.address
        && old.protocol == spec.protocol
        && old.tls == spec.tls
        && old.proxy_protocol == spec.proxy_protocol
}

/// What a protocol runs on.
const fn transport(protocol: ListenerProtocol) -> Transport {
    match protocol {
        ListenerProtocol::Udp => Transport::Datagram,
        ListenerProtocol::Http
        | ListenerProtocol::ForwardProxy
        | ListenerProtocol::Admin
        | ListenerProtocol::ConfigEndpoint
        | ListenerProtocol::TlsPassthrough
        | ListenerProtocol::Registry
        | ListenerProtocol::Tcp => Transport::Stream,
    }
}

/// The sockets of a listener that is new: handed on by somebody, taken over from a listener of
/// the same address that goes, or bound.
fn sockets(
    spec: &ListenerSpec,
    count: usize,
    going: &[&Live],
    inherited: &mut Inherited,
) -> Result<Arc<Shared>, ListenError> {
    let (address, transport) = (spec.address, transport(spec.protocol));
    let handed = inherited.take(&spec.name, address, transport);
    let handed = Shared::of(handed).map_err(|source| ListenError::Other { address, source })?;
    if let Some(shared) = handed {
        return Ok(Arc::new(shared));
    }
    let mut same = going.iter().filter(|live| live.shared.transport == transport);
    let (ip, port) = (address.ip(), address.port());
    let passes_on = |live: &&&Live| {
        let (old, wanted) = (live.shared.address, &live.spec);
        old == address || wanted.name == spec.name && wanted.address == address
    };
    if let Some(live) = same.clone().find(passes_on) {
        return Ok(Arc::clone(&live.shared));
    }
    let overlaps = same.any(|live| {
        let old = live.shared.address;
        let whole = old.ip().is_unspecified() || ip.is_unspecified();
        old.port() == port && (old.ip() == ip || whole)
    });
    let beside = if overlaps && port != 0 { Beside::Ours } else { Beside::Nobody };
    Shared::bind(address, transport, count, beside).map(Arc::new)
}

/// The bounds of a listener, as the data plane takes them.
fn limits(listener: &ListenerSpec) -> Limits {
    let of = &listener.limits;
    let is_datagrams = listener.protocol == ListenerProtocol::Udp;
    let (most, per_client) = if is_datagrams {
        (of.sessions_max, of.sessions_per_client_max)
    } else {
        (of.connections_max, of.connections_per_client_max)
    };
    Limits {
        connections_max: most as usize,
        connections_per_client_max: per_client as usize,
        header_timeout: of.header_timeout,
        idle_timeout: of.idle_timeout,
        header_bytes_max: of.header_bytes_max,
        headers_max: of.headers_max as usize,
        uri_bytes_max: of.uri_bytes_max as usize,
        streams_max: of.streams_max,
        stream_resets_max: of.stream_resets_max,
        requests_max: of.requests_max as usize,
        body_bytes_max: of.body_bytes_max,
        body_rate_min: of.body_rate_min,
        body_timeout: of.body_timeout,
    }
}

//! Datagrams to a declared backend: which server a client's session goes to, and as what.
//!
//! A client's address alone picks the server, whatever port it sends from: protocols that take
//! several rounds (EAP inside RADIUS) need the same server for all of them. The others stand by.
//! Nothing is waited for; a name without an answer yet costs the datagram that asked for it. A
//! session outlives neither a reload that sends its client elsewhere nor its server's address.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tillgate_core::backend::{BackendId, BackendSpec, Location};
use tillgate_core::link::LinkId;
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::body::Observer as _;
use tillgate_net::http::server::{Entry, InFlight};
use tillgate_net::udp::{self, Holds, Record, Route, Router};
use tillgate_net::upstream::resolver::Resolver;

use crate::admission;
use crate::gateway::Worker;
use crate::outcome::{By, Kind, Outcome};
use crate::running::Running;
use crate::serve;
use crate::stream::in_turn;

/// How often a session asks whether its server still has its address: names are looked up no more
/// often than that.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Serves one worker's socket of a listener of datagrams, until the listener drains.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    name: &Arc<str>,
    socket: UdpSocket,
    entry: Arc<Entry>,
) -> std::io::Result<()> {
    let datagrams = Arc::new(Datagrams { worker, name: Arc::clone(name) });
    udp::serve(socket, entry, datagrams).await
}

/// A listener of datagrams, on one worker.
struct Datagrams {
    worker: Arc<Worker>,
    name: Arc<str>,
}

impl Router for Datagrams {
    type Record = Session;

    fn route(&self, client: SocketAddr) -> Result<Route<Session>, Failure> {
        let running = self.worker.gateway().running();
        // Taken away a moment ago.
        let (spec, listener) = running.listener(&self.name).ok_or(Failure::Drained)?;
        let id = spec.backend.ok_or(Failure::Internal)?;
        let backend = running.effective.backend(id);
        let resolver = self.worker.gateway().resolver();
        let servers = in_turn(&backend.endpoints, draw_for(client));
        let known = servers.filter_map(|(index, endpoint)| {
            Some((index, resolver.addresses_now(endpoint, &backend.dns)?))
        });
        let known: Vec<_> = known.collect();
        let pairs = known.iter().flat_map(|(index, found)| found.iter().map(|one| (*index, *one)));
        let (servers, addresses): (Vec<_>, Vec<_>) = pairs.unzip();
        if addresses.is_empty() {
            return Err(Failure::ResolveFailed);
        }
        let flow = InFlight::alone(clock::now());
        let class = running.class(listener.class);
        flow.bind(spec.timeouts.idle, class.critical());
        let mut outcome = serve::begin(&running, Kind::Udp, flow.clone());
        outcome.attend_bytes(client);
        outcome.classify(listener.class, By::Listener(listener.index));
        outcome.sample(&HeaderMap::new());
        let memory = self.worker.gateway().memory();
        if let Err(no) = admission::fits_beside_http(&running, listener.class, memory, &outcome) {
            outcome.end(Err(no.failure));
            return Err(no.failure);
        }
        listener.upstream.dials.inc();
        let (link, lane) = running.lane(backend.location, listener.class).unzip();
        let holds = self.holds(&running, Purpose::new(backend, &class.spec.name, link));
        let record = Session { outcome, backend: id, servers };
        Ok(Route { addresses, holds, lane, flow, record })
    }
}

/// What the log and the metrics say of a session: its server is the one that it used last.
struct Session {
    outcome: Outcome,
    backend: BackendId,
    /// Whose each of its addresses is, by number.
    servers: Vec<usize>,
}

impl Record for Session {
    fn end(mut self, at: usize, result: Result<(), Failure>) {
        if let Some(server) = self.servers.get(at) {
            self.outcome.send_to(self.backend, *server);
        }
        self.outcome.end(result);
    }
}

impl Datagrams {
    /// Whether what a session was opened for is still so: looked at again after a reload, and now
    /// and then, because names change by themselves.
    fn holds(&self, running: &Arc<Running>, purpose: Purpose) -> Holds {
        let (worker, name) = (Arc::clone(&self.worker), Arc::clone(&self.name));
        let looked = Mutex::new((Arc::clone(running), clock::lately()));
        Box::new(move |server| {
            let gateway = worker.gateway();
            let (running, now) = (gateway.running(), clock::lately());
            let mut looked = looked.lock().unwrap_or_else(PoisonError::into_inner);
            let is_recent = now.saturating_duration_since(looked.1) < LOOK_EVERY;
            if is_recent && Arc::ptr_eq(&looked.0, &running) {
                return true;
            }
            let holds = purpose.holds(&running, &name, gateway.resolver(), server);
            *looked = (running, now);
            holds
        })
    }
}

/// What a session was opened for, by names, which a reload keeps; a line keeps its number.
#[derive(Debug, PartialEq, Eq)]
struct Purpose {
    backend: Arc<str>,
    location: Location,
    class: Arc<str>,
    link: Option<LinkId>,
}

impl Purpose {
    fn new(backend: &BackendSpec, class: &Arc<str>, link: Option<LinkId>) -> Self {
        Self {
            backend: Arc::clone(&backend.name),
            location: backend.location,
            class: Arc::clone(class),
            link,
        }
    }

    /// Whether the listener of this name would send its client there again, and `server` is one
    /// of those that it may choose from.
    fn holds(
        &self,
        running: &Running,
        listener: &str,
        resolver: &Arc<Resolver>,
        server: SocketAddr,
    ) -> bool {
        // Taken away a moment ago: what is open goes on to its end.
        let Some((spec, listener)) = running.listener(listener) else { return true };
        let Some(id) = spec.backend else { return true };
        let backend = running.effective.backend(id);
        let link = running.lane(backend.location, listener.class).map(|(link, _)| link);
        let class = &running.class(listener.class).spec.name;
        let mut found =
            backend.endpoints.iter().map(|one| resolver.addresses_now(one, &backend.dns));
        *self == Self::new(backend, class, link)
            && found.any(|found| found.is_some_and(|found| found.contains(&server)))
    }
}

/// The same for every port of one client, and in every process.
fn draw_for(client: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    client.ip().to_canonical().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_its_server_whatever_port_it_sends_from() {
        let draw = |address: &str| draw_for(address.parse().unwrap());
        assert_eq!(draw("192.0.2.7:1024"), draw("192.0.2.7:65000"));
        assert_eq!(draw("192.0.2.7:1024"), draw("[::ffff:192.0.2.7]:1"));
        let servers: std::collections::BTreeSet<_> =
            (0..100).map(|host| draw(&format!("192.0.2.{host}:1")) % 3).collect();
        assert_eq!(servers.len(), 3, "clients spread over servers");
    }
}

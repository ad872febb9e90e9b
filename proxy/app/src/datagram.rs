//! Datagrams to a declared backend: which server a client's session goes to, and as what.
//!
//! A client's address alone picks the server, whatever port it sends from: protocols that take
//! several rounds (EAP inside RADIUS) need the same server for all of them. The others stand by.
//! Nothing is waited for; a name without an answer yet costs the datagram that asked for it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use http::HeaderMap;
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::body::Observer as _;
use tillgate_net::http::server::{Entry, InFlight};
use tillgate_net::udp::{self, Route, Router};

use crate::admission;
use crate::gateway::Worker;
use crate::outcome::{By, Kind, Outcome};
use crate::serve;
use crate::stream::in_turn;

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
    type Record = Outcome;

    fn route(&self, client: SocketAddr) -> Result<Route<Outcome>, Failure> {
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
        let (first, _) = known.first().ok_or(Failure::ResolveFailed)?;
        let addresses = known.iter().flat_map(|(_, found)| found.to_vec()).collect();
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
        outcome.send_to(id, *first);
        listener.upstream.dials.inc();
        let lane = running.lane(backend.location, listener.class).map(|(_, lane)| lane);
        Ok(Route { addresses, lane, flow, record: outcome })
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

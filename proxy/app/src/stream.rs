//! Connections of bytes: TLS that is passed on unread, and raw TCP to a declared backend.
//!
//! Of TLS the ClientHello is read; the name in it is asked of the egress policy exactly as that of
//! a CONNECT is, by name before it is resolved and by address after, and what was read goes on
//! first. Behind ECH that is the name in front, which is where the connection goes. A hello without
//! a name goes nowhere: nothing else here says where it wants to go. Raw TCP goes to the listener's
//! backend, and whoever wants to may speak first. Each connection has exactly one outcome.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use http::HeaderMap;
use tillgate_config::defaults;
use tillgate_config::effective::{ListenerProtocol, ListenerSpec};
use tillgate_core::backend::{BackendId, Endpoint};
use tillgate_net::clock;
use tillgate_net::error::{DialError, Failure};
use tillgate_net::http::body::Observer as _;
use tillgate_net::http::server::{Entry, InFlight};
use tillgate_net::metrics::Held;
use tillgate_net::proxy_protocol::{self, Guarded};
use tillgate_net::tcp::{self, Client, Handler};
use tillgate_net::tls::hello::Alert;
use tillgate_net::tunnel;
use tillgate_net::upstream::{self, Announce, How, Opening, Upstream, break_off};

use crate::admission;
use crate::forward::{Asked, Place, Way};
use crate::gateway::Worker;
use crate::outcome::{By, Kind, Outcome};
use crate::running::{Listener, Running};
use crate::send;
use crate::serve;

/// Serves one worker's socket of a listener of bytes, until the listener drains.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    name: &Arc<str>,
    socket: TcpListener,
    entry: Arc<Entry>,
) -> std::io::Result<()> {
    let streams = Arc::new(Streams { worker, name: Arc::clone(name) });
    tcp::serve(socket, entry, defaults::TCP, streams).await
}

/// A listener of bytes, on one worker.
struct Streams {
    worker: Arc<Worker>,
    name: Arc<str>,
}

impl Handler for Streams {
    async fn handle(self: Arc<Self>, client: Client) {
        Box::pin(self.serve(client)).await;
    }
}

/// A connection that goes nowhere.
struct No {
    failure: Failure,
    /// What a client that speaks TLS is told.
    alert: Option<Alert>,
}

impl From<Failure> for No {
    fn from(failure: Failure) -> Self {
        Self { failure, alert: None }
    }
}

/// Both ends of a connection that goes somewhere.
struct Opened {
    server: Upstream,
    /// What the server gets before anything else.
    first: Vec<u8>,
    /// Counted as long as it lasts.
    _held: Vec<Held>,
    /// Whether the client may still turn out to have sent a PROXY header.
    guard: bool,
}

impl Streams {
    async fn serve(&self, mut client: Client) {
        let running = self.worker.gateway().running();
        // Taken away a moment ago: the client sees an end, as it would a moment later.
        let Some((spec, listener)) = running.listener(&self.name) else { return };
        let is_tls = spec.protocol == ListenerProtocol::TlsPassthrough;
        let kind = if is_tls { Kind::Passthrough } else { Kind::Tcp };
        let mut outcome = serve::begin(&running, kind, InFlight::alone(clock::now()));
        let class = running.class(listener.class);
        outcome.classify(listener.class, By::Listener(listener.index));
        outcome.flow().bind(spec.timeouts.idle, class.critical());
        let flow = Arc::clone(outcome.flow().flow());
        let ticket = client.ticket.split();
        let opened = tokio::select! {
            opened = self.open(&running, (spec, listener), &mut client, &mut outcome) => opened,
            () = ticket.cut(|| flow.is_critical()) => Err(Failure::Drained.into()),
        };
        drop(ticket);
        match opened {
            Ok(opened) => carry(client, opened, outcome).await,
            Err(no) => {
                if let Some(alert) = no.alert {
                    tcp::refuse(&mut client.stream, alert).await;
                }
                outcome.end(Err(no.failure));
            }
        }
    }

    async fn open(
        &self,
        running: &Running,
        (spec, listener): (&ListenerSpec, &Listener),
        client: &mut Client,
        outcome: &mut Outcome,
    ) -> Result<Opened, No> {
        let from = identify(spec, client).await?;
        outcome.attend_bytes(from);
        if spec.protocol == ListenerProtocol::TlsPassthrough {
            return self.open_named(running, (spec, listener), (client, from), outcome).await;
        }
        let id = spec.backend.ok_or(Failure::Internal)?;
        let backend = running.effective.backend(id);
        outcome.sample(&HeaderMap::new());
        let memory = self.worker.gateway().memory();
        admission::fits_beside_http(running, listener.class, memory, outcome)
            .map_err(|refusal| refusal.failure)?;
        let trust = spec.proxy_protocol.as_ref();
        let guard = trust.is_some_and(|trust| !trust.trusts(client.peer.ip()));
        let to = client.stream.local_addr().map_err(|_| Failure::ClientGone)?;
        let announce = |version| Announce { version, client: from, to: Some(to) };
        let announce = backend.proxy_protocol.map(announce);
        let server = self.dial(running, (spec, listener), id, announce, outcome).await?;
        let class = &running.class(listener.class).meter;
        let held = vec![Held::new(&class.tunnels), Held::new(&listener.upstream.open)];
        Ok(Opened { server, first: Vec::new(), _held: held, guard })
    }

    /// Passes TLS on to where its hello says.
    async fn open_named(
        &self,
        running: &Running,
        (spec, listener): (&ListenerSpec, &Listener),
        (client, from): (&mut Client, SocketAddr),
        outcome: &mut Outcome,
    ) -> Result<Opened, No> {
        let within = client.place.entry().limits().header_timeout;
        let (hello, first) = tcp::read_hello(&mut client.stream, within)
            .await
            .map_err(|(failure, alert)| No { failure, alert })?;
        let nameless =
            || No { failure: Failure::HelloNameless, alert: Some(Alert::UnrecognizedName) };
        let host = hello.sni.ok_or_else(nameless)?;
        outcome.asks_for(&host);
        let place = Place { host, port: spec.destination_port };
        let (connect, idle) = (spec.timeouts.connect, spec.timeouts.idle);
        let asked = Asked { place: &place, client: from.ip(), connect, idle };
        let gateway = self.worker.gateway();
        let found = Way::find(gateway, running, asked, || listener.class, outcome).await;
        let checked = found.and_then(|mut way| {
            way.avoid_ourselves(gateway, &place)?;
            Ok(way)
        });
        let fitting = checked.and_then(|way| {
            admission::fits_beside_http(running, way.class, gateway.memory(), outcome)?;
            Ok(way)
        });
        let way = fitting.map_err(|refusal| refuse(refusal.failure))?;
        outcome.sample(&HeaderMap::new());
        let dialled = wait(outcome, way.dial(running, connect)).await?;
        let server = dialled.map_err(|error| refuse(error.failure()))?;
        let held = vec![Held::new(&running.class(way.class).meter.tunnels)];
        Ok(Opened { server, first, _held: held, guard: false })
    }

    /// Connects to one of the backend's servers, inside of TLS if it has it: a random one first,
    /// then each of the others while none of them takes the connection. Of the client's bytes
    /// nothing was sent to any that does not.
    async fn dial(
        &self,
        running: &Running,
        (spec, listener): (&ListenerSpec, &Listener),
        id: BackendId,
        announce: Option<Announce>,
        outcome: &mut Outcome,
    ) -> Result<Upstream, No> {
        let backend = running.effective.backend(id);
        let lane = running.lane(backend.location, listener.class).map(|(_, lane)| lane);
        let connect_timeout = spec.timeouts.connect;
        let how = How { lane: lane.as_ref(), connect_timeout, tcp: backend.tcp };
        let connector = running.connector(id);
        let mut last = Failure::ConnectUnreachable;
        for (index, endpoint) in in_turn(&backend.endpoints, fastrand::u64(..)) {
            outcome.send_to(id, index);
            listener.upstream.dials.inc();
            let attempt = async {
                let resolver = self.worker.gateway().resolver();
                let addresses = resolver.addresses(endpoint, &backend.dns).await?;
                let tls = connector.as_deref().map(|tls| (tls, &endpoint.host));
                upstream::dial_opening(&addresses, how, Opening { announce, tls, http1: false })
                    .await
            };
            match wait(outcome, attempt).await? {
                Ok(server) => return Ok(server),
                Err(error) => {
                    last = error.failure();
                    listener.upstream.dial_failed(last);
                    let (backend, server) = (&*backend.name, endpoint.to_string());
                    let error = send::explain(&error);
                    tracing::debug!(backend, server, error, "no connection");
                }
            }
        }
        Err(last.into())
    }
}

/// Whose connection it is: the peer's, or of whom its PROXY header says.
async fn identify(spec: &ListenerSpec, client: &mut Client) -> Result<SocketAddr, Failure> {
    let Some(trust) = &spec.proxy_protocol else { return Ok(client.peer) };
    let is_trusted = trust.trusts(client.peer.ip());
    if spec.protocol == ListenerProtocol::Tcp && !is_trusted {
        // It may have nothing to say before the server speaks; it is watched later.
        return Ok(client.peer);
    }
    let within = client.place.entry().limits().header_timeout;
    let accepted = proxy_protocol::accept(&mut client.stream, client.peer, trust, within).await;
    let entry = Arc::clone(client.place.entry());
    let named = accepted.map_err(|refused| {
        let why = send::explain(&refused);
        entry.turn_away(refused.failure(), client.peer.ip(), &why);
        refused.failure()
    })?;
    if is_trusted && !client.place.is_for(named.ip()) {
        entry.meter.reject(Failure::ClientCrowds);
        return Err(Failure::ClientCrowds);
    }
    Ok(named)
}

/// Waits for a connection to a server. That time is ours, and limited by who lets it wait.
async fn wait(
    outcome: &Outcome,
    dial: impl Future<Output = Result<Upstream, DialError>>,
) -> Result<Result<Upstream, DialError>, No> {
    let queued = outcome.flow().queue();
    let dialled = dial.await;
    drop(queued);
    if let Ok(server) = &dialled {
        outcome.flow().mark_sent(server.line_wait());
    }
    Ok(dialled)
}

/// What a TLS client is told of a failure.
fn refuse(failure: Failure) -> No {
    let denied = [Failure::EgressDenied, Failure::RegistryReserved, Failure::ChangeHeld];
    let alert = if denied.contains(&failure) {
        Alert::AccessDenied
    } else if failure == Failure::ResolveFailed {
        Alert::UnrecognizedName
    } else {
        Alert::InternalError
    };
    No { failure, alert: Some(alert) }
}

/// All of `endpoints` with their places, beginning with the one that `draw` picks.
pub(crate) fn in_turn(
    endpoints: &[Endpoint],
    draw: u64,
) -> impl Iterator<Item = (usize, &Endpoint)> {
    let count = endpoints.len().max(1);
    let first = usize::try_from(draw % count as u64).unwrap_or(0);
    endpoints.iter().enumerate().cycle().skip(first).take(endpoints.len())
}

/// Carries bytes both ways to the end. What does not end in order is broken off on both sides:
/// bytes that end too early must not look like all of them.
async fn carry(mut client: Client, mut opened: Opened, outcome: Outcome) {
    let flow = Arc::clone(outcome.flow().flow());
    let first = std::mem::take(&mut opened.first);
    let copied = async {
        if opened.guard {
            let mut guarded = Guarded::new(&mut client.stream, Arc::clone(&flow));
            let copied = tunnel::run(&mut guarded, &mut opened.server, first, &flow).await;
            copied.map_err(|failure| flow.ended().unwrap_or(failure))
        } else {
            tunnel::run(&mut client.stream, &mut opened.server, first, &flow).await
        }
    };
    let result = tokio::select! {
        result = copied => result,
        () = client.ticket.cut(|| flow.is_critical()) => Err(Failure::Drained),
    };
    if let Err(failure) = result {
        if failure == Failure::ProxyUntrusted {
            let why = failure.row().meaning;
            client.place.entry().turn_away(failure, client.peer.ip(), &why);
        }
        break_off(&client.stream);
        opened.server.break_off();
    }
    // Whoever sees the outcome sees the connections gone.
    drop((client, opened));
    outcome.end(result);
}

#[cfg(test)]
mod tests {
    use tillgate_core::backend::Host;

    use super::*;

    #[test]
    fn every_server_has_its_turn_once() {
        let endpoint = |port| Endpoint { host: Host::Ip([192, 0, 2, 1].into()), port };
        let endpoints = [endpoint(1), endpoint(2), endpoint(3)];
        let ports = |draw| in_turn(&endpoints, draw).map(|(_, one)| one.port).collect::<Vec<_>>();
        assert_eq!(ports(0), [1, 2, 3]);
        assert_eq!(ports(5), [3, 1, 2]);
        assert_eq!(in_turn(&[], 5).count(), 0);
    }
}

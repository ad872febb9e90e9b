//! The forward proxy: CONNECT and absolute-form, classed by where they go.
//!
//! The egress policy is asked by name before anything is resolved, and by address after; the
//! address that was checked is the one that is dialled. Of a tunnel nothing is seen but bytes:
//! its class is its destination's. Plain requests in absolute-form go the way of every request,
//! and where no rule names a class their shape does.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, Uri};
use hyper::body::{Body as _, Incoming};
use hyper::ext::Protocol;
use tillgate_config::defaults;
use tillgate_config::effective::Effective;
use tillgate_core::backend::{Endpoint, Host, Location};
use tillgate_core::class::ClassId;
use tillgate_core::matching::{EgressRule, EgressVerdict, NaturalClasses, canonical_host};
use tillgate_net::error::{DialError, Failure};
use tillgate_net::http::body::ResponseBody;
use tillgate_net::http::head::{HeadLimits, until_head};
use tillgate_net::http::headers::{self, Origin};
use tillgate_net::http::server::Caller;
use tillgate_net::http::websocket::{self, Ask};
use tillgate_net::metrics::Held;
use tillgate_net::upstream::resolver::ChosenBy;
use tillgate_net::upstream::{self, How, Upstream};

use crate::admission;
use crate::gateway::{Gateway, Worker};
use crate::outcome::{By, Kind, Outcome};
use crate::problem::{self, Answer, Refusal};
use crate::running::{EGRESS_TIMEOUTS, Running, reserved};
use crate::send::{self, Call, explain};
use crate::serve;
use crate::tunnel::Tunnel;

/// Answers one request of the forward proxy.
pub(crate) async fn serve_request(
    worker: &Worker,
    request: Request<Incoming>,
    caller: Caller,
) -> Answer {
    if let Some(why) = caller.refused {
        let running = worker.gateway().running();
        let mut outcome = serve::begin(&running, Kind::Forward, caller.flow);
        outcome.attend(&mut request.into_parts().0, caller.peer, &caller.place);
        return problem::answer(&why.into(), outcome);
    }
    let is_extended = request.extensions().get::<Protocol>().is_some();
    if request.method() == Method::CONNECT && !is_extended {
        serve_connect(worker, request, caller).await
    } else {
        serve_plain(worker, request, caller).await
    }
}

async fn serve_connect(worker: &Worker, request: Request<Incoming>, caller: Caller) -> Answer {
    let running = worker.gateway().running();
    let mut outcome = serve::begin(&running, Kind::Tunnel, caller.flow);
    let (mut head, body) = request.into_parts();
    outcome.attend(&mut head, caller.peer, &caller.place);
    let mut request = Request::from_parts(head, body);
    let client = caller.peer.ip();
    let opened = async {
        let place = Place::of_connect(request.uri())?;
        let class = || running.default_class();
        let asked = Asked::by_proxy(&place, client);
        let way = Way::find(worker.gateway(), &running, asked, class, &mut outcome).await?;
        admission::fits(&running, way.class, 0, &outcome)?;
        outcome.sample(request.headers());
        let dial = way.dial(&running, EGRESS_TIMEOUTS.connect);
        let limits = HeadLimits { request: None, backend_request: None };
        let queued = outcome.flow().queue();
        let dialled = until_head(dial, limits, outcome.flow(), None).await;
        drop(queued);
        match dialled {
            Ok(Ok(server)) => {
                outcome.flow().mark_sent(server.line_wait());
                Ok((server, way))
            }
            Ok(Err(error)) => Err(Refusal::new(error.failure(), explain(&error))),
            Err(failure) => Err(failure.into()),
        }
    };
    match opened.await {
        Ok((server, way)) => {
            outcome.answer(http::StatusCode::OK);
            let upgraded = hyper::upgrade::on(&mut request);
            let held = Held::new(&running.class(way.class).meter.tunnels);
            let (ticket, kept) = (caller.ticket.split(), vec![Box::new(caller.place) as _]);
            let tunnel = Tunnel { outcome, ticket, held, kept };
            tokio::spawn(tunnel.run(upgraded, std::future::ready(Ok::<_, Infallible>(server))));
            Response::new(ResponseBody::empty())
        }
        Err(refusal) => problem::answer(&refusal, outcome),
    }
}

async fn serve_plain(worker: &Worker, request: Request<Incoming>, caller: Caller) -> Answer {
    let running = worker.gateway().running();
    let (mut head, body) = request.into_parts();
    let mut outcome = serve::begin(&running, Kind::Forward, caller.flow);
    outcome.attend(&mut head, caller.peer, &caller.place);
    let client = caller.peer.ip();
    let way = async {
        if let Ask::WebSocket(_) | Ask::Other(_) = websocket::asked(&mut head) {
            return Err(Failure::UpgradeUnsupported.into());
        }
        let place = Place::of_plain(&head)?;
        let class = || place.natural(running.natural, &head);
        let asked = Asked::by_proxy(&place, client);
        let way = Way::find(worker.gateway(), &running, asked, class, &mut outcome).await?;
        admission::fits(&running, way.class, body.size_hint().lower(), &outcome)?;
        Ok::<_, Refusal>(way)
    };
    let way = match way.await {
        Ok(way) => way,
        Err(refusal) => return problem::answer(&refusal, outcome),
    };
    outcome.sample(&head.headers);
    // By address, so that a connection is never used for addresses that were not checked.
    let Some(first) = way.addresses.first() else {
        return problem::answer(&Failure::Internal.into(), outcome);
    };
    let endpoint = Endpoint { host: Host::Ip(first.ip()), port: first.port() };
    let target = running.egress_target(way.rule, endpoint, &way.addresses, way.location, way.class);
    let pool = worker.pool(way.location);
    let timeouts = &EGRESS_TIMEOUTS;
    let call = Call { pool, target: &target, timeouts, tries_itself: false, socket: None };
    let origin = Origin { client: &caller.name, scheme: None };
    match send::send(call, (&mut head, body), origin, &mut outcome).await {
        Ok(reply) => send::relay(reply, outcome),
        Err(refusal) => problem::answer(&refusal, outcome),
    }
}

/// Where a client wants to go.
pub(crate) struct Place {
    /// In its canonical form.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A client's wish to go there.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) place: &'a Place,
    pub(crate) client: IpAddr,
    /// What finding the addresses may take.
    pub(crate) connect: Duration,
    /// How long nothing may move.
    pub(crate) idle: Duration,
}

impl<'a> Asked<'a> {
    const fn by_proxy(place: &'a Place, client: IpAddr) -> Self {
        let (connect, idle) = (EGRESS_TIMEOUTS.connect, EGRESS_TIMEOUTS.idle);
        Self { place, client, connect, idle }
    }
}

impl Place {
    /// Of a tunnel.
    ///
    /// # Errors
    /// If it names none.
    pub(crate) fn of_connect(uri: &Uri) -> Result<Self, Refusal> {
        let wrong = "CONNECT needs a target of the form host:port";
        let authority = uri.authority().ok_or_else(|| invalid(wrong))?;
        let port = authority.port_u16().filter(|port| *port != 0).ok_or_else(|| invalid(wrong))?;
        let host = headers::host_name(authority.as_str()).ok_or_else(|| invalid(wrong))?;
        Ok(Self { host: host.into_owned(), port })
    }

    /// Of a request in absolute-form.
    ///
    /// # Errors
    /// If it names none, or more than one.
    pub(crate) fn of_plain(head: &Parts) -> Result<Self, Refusal> {
        headers::host_of(head)?;
        Self::of_absolute(&head.uri)
    }

    /// The class of such a request where no rule names one: what its shape tells.
    pub(crate) fn natural(&self, natural: NaturalClasses, head: &Parts) -> ClassId {
        natural.class(serve::facts(&self.host, head, None))
    }

    fn of_absolute(uri: &Uri) -> Result<Self, Refusal> {
        let wrong = "the forward proxy needs a target of the form http://host/path, or CONNECT";
        if uri.scheme_str() != Some("http") {
            return Err(invalid(wrong));
        }
        let authority = uri.authority().ok_or_else(|| invalid(wrong))?;
        let host = headers::host_name(authority.as_str()).ok_or_else(|| invalid(wrong))?;
        let port = authority.port_u16().unwrap_or(80);
        if port == 0 { Err(invalid(wrong)) } else { Ok(Self { host: host.into_owned(), port }) }
    }

    pub(crate) fn as_host(&self) -> Host {
        let canonical = canonical_host(&self.host);
        canonical.parse().map_or_else(|_| Host::Name(canonical.as_ref().into()), Host::Ip)
    }
}

fn invalid(detail: &str) -> Refusal {
    Refusal::new(Failure::InvalidRequest, detail)
}

/// How a client gets there: what the policy said, about which addresses.
pub(crate) struct Way {
    /// All of them passed; never empty.
    pub(crate) addresses: Vec<SocketAddr>,
    rule: Option<usize>,
    pub(crate) class: ClassId,
    location: Location,
}

impl Way {
    /// Asks the policy by name, resolves, and asks by address where it must. Where it names no
    /// class, it is `unnamed`. What is known is noted on the outcome; what a window or freeze holds
    /// by name is not even resolved.
    pub(crate) async fn find(
        gateway: &Gateway,
        running: &Running,
        asked: Asked<'_>,
        unnamed: impl Fn() -> ClassId,
        outcome: &mut Outcome,
    ) -> Result<Self, Refusal> {
        let Asked { place, client, connect, idle } = asked;
        let effective = &running.effective;
        let by_host = by_name(effective, place)?;
        let mut mark = |verdict| mark(running, verdict, &unnamed, idle, outcome);
        if by_host != EgressVerdict::AskAddress {
            mark(by_host)?;
        }
        let resolved = gateway
            .resolver()
            .resolve(&place.as_host(), place.port, ChosenBy::Client, connect)
            .await
            .map_err(|error| Refusal::new(error.failure(), explain(&error)))?;
        let mut verdict = by_host;
        let mut addresses = resolved.to_vec();
        if by_host == EgressVerdict::AskAddress {
            verdict = by_address(effective, place, &mut addresses)?;
            mark(verdict)?;
        }
        if !client.to_canonical().is_loopback() {
            let is_named = |address: &SocketAddr| is_named(effective, verdict, place, address.ip());
            addresses.retain(|address| is_named(address) || !is_ours(*address, gateway));
            if addresses.is_empty() {
                return Err(denied(place));
            }
        }
        Ok(Self {
            addresses,
            rule: rule_of(verdict),
            class: class_of(effective, verdict, unnamed),
            location: location_of(effective, verdict),
        })
    }

    /// Leaves out addresses that lead back into this gateway, whoever asks.
    ///
    /// # Errors
    /// If no other is left.
    pub(crate) fn avoid_ourselves(
        &mut self,
        gateway: &Gateway,
        place: &Place,
    ) -> Result<(), Refusal> {
        self.addresses.retain(|address| !leads_back(*address, gateway));
        if self.addresses.is_empty() { Err(denied(place)) } else { Ok(()) }
    }

    /// Opens a connection of this way's own, to the first address that takes it.
    pub(crate) async fn dial(
        &self,
        running: &Running,
        connect_timeout: Duration,
    ) -> Result<Upstream, DialError> {
        let lane = running.lane(self.location, self.class).map(|(_, lane)| lane);
        let how = How { lane: lane.as_ref(), connect_timeout, tcp: defaults::TCP };
        upstream::dial(&self.addresses, how).await
    }
}

/// What a policy says of a place by its name, before anything is resolved.
///
/// # Errors
/// If it refuses it.
pub(crate) fn by_name(effective: &Effective, place: &Place) -> Result<EgressVerdict, Refusal> {
    let egress = effective.egress.as_ref();
    let by_host = egress.map_or(EgressVerdict::Allowed, |e| e.by_host(&place.host, place.port));
    if by_host == EgressVerdict::Denied {
        return Err(denied(place));
    }
    if let Some(registry) = reserved(effective, &canonical_host(&place.host), place.port) {
        let detail = format!(
            "{registry} is served by the RegistryMirror: pull through the mirror, or set its \
             allowDirect"
        );
        return Err(Refusal::new(Failure::RegistryReserved, detail));
    }
    Ok(by_host)
}

/// The same by its addresses, where its name does not say it. The first that may be dialled
/// decides; others of the same verdict may stand in for it, and no others are left.
///
/// # Errors
/// If it refuses all of them.
pub(crate) fn by_address(
    effective: &Effective,
    place: &Place,
    addresses: &mut Vec<SocketAddr>,
) -> Result<EgressVerdict, Refusal> {
    let egress = effective.egress.as_ref();
    let by_address = |address: &SocketAddr| {
        egress.map_or(EgressVerdict::Allowed, |e| e.by_address(address.ip(), address.port()))
    };
    let verdict = addresses
        .iter()
        .map(by_address)
        .find(|verdict| *verdict != EgressVerdict::Denied)
        .ok_or_else(|| denied(place))?;
    addresses.retain(|address| by_address(address) == verdict);
    Ok(verdict)
}

/// The rule of a verdict, if it is one's.
fn rule_of(verdict: EgressVerdict) -> Option<usize> {
    if let EgressVerdict::Rule(rule) = verdict { Some(rule) } else { None }
}

/// The same itself.
pub(crate) fn named(effective: &Effective, verdict: EgressVerdict) -> Option<&EgressRule> {
    effective.egress.as_ref()?.rules.get(rule_of(verdict)?)
}

/// The class of a verdict: the rule's, else what it is without one.
pub(crate) fn class_of(
    effective: &Effective,
    verdict: EgressVerdict,
    unnamed: impl Fn() -> ClassId,
) -> ClassId {
    named(effective, verdict).and_then(|rule| rule.class).unwrap_or_else(unnamed)
}

/// Where a verdict leads.
pub(crate) fn location_of(effective: &Effective, verdict: EgressVerdict) -> Location {
    named(effective, verdict).map_or(Location::Cloud, |rule| rule.location)
}

/// Notes on the outcome what is known now.
///
/// # Errors
/// If a window or freeze holds the rule.
fn mark(
    running: &Running,
    verdict: EgressVerdict,
    unnamed: impl Fn() -> ClassId,
    idle: Duration,
    outcome: &mut Outcome,
) -> Result<(), Refusal> {
    let rule = rule_of(verdict);
    let class = class_of(&running.effective, verdict, unnamed);
    outcome.classify(class, By::Egress(rule));
    outcome.flow().bind(idle, running.class(class).critical());
    running.doors.pass_egress(rule)
}

/// Whether the rule of a verdict was written for this very place.
pub(crate) fn is_named(
    effective: &Effective,
    verdict: EgressVerdict,
    place: &Place,
    address: IpAddr,
) -> bool {
    let host = canonical_host(&place.host);
    named(effective, verdict).is_some_and(|rule| rule.names(&host, place.port, address))
}

/// Whether nothing but this machine is there.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let ip = address.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

/// Whether `address` leads back into this gateway, or to what this machine offers itself alone.
/// Whoever may use the proxy from outside may not use those through it.
fn is_ours(address: SocketAddr, gateway: &Gateway) -> bool {
    is_own(address.ip()) || leads_back(address, gateway)
}

/// Whether one of our own listeners is there.
pub(crate) fn leads_back(address: SocketAddr, gateway: &Gateway) -> bool {
    let ip = address.ip().to_canonical();
    let shown = gateway.listeners.shown();
    let mut listeners = shown.iter().map(|listening| listening.address);
    listeners.any(|ours| {
        let every_address = ours.ip().is_unspecified();
        // Nothing is sent: what can be bound is an address of this machine.
        let is_local = || std::net::UdpSocket::bind((ip, 0)).is_ok();
        ours.port() == address.port()
            && (ours.ip().to_canonical() == ip || every_address && is_local())
    })
}

fn denied(place: &Place) -> Refusal {
    let detail = format!("the EgressPolicy refuses {}:{}", place.host, place.port);
    Refusal::new(Failure::EgressDenied, detail)
}

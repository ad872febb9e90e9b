//! Asking a registry: the request, the token it wants, the redirect it answers with.
//!
//! In: a place and what of it. Out: the head and body of the answer that is meant, whatever it
//! says, or why there is none. Everything goes through the pools and lines of all other requests,
//! in the mirror's class; a redirect to another host (an object store) is followed in the same
//! class, and never with the registry's token. A registry cannot lead us to what this machine
//! offers itself alone.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, LOCATION, RANGE, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tillgate_config::defaults;
use tillgate_core::backend::{Endpoint, Host, Timeouts};
use tillgate_core::class::ClassId;
use tillgate_core::link::{Destination, link_for};
use tillgate_core::matching::canonical_host;
use tillgate_core::mirror::challenge::Challenge;
use tillgate_core::mirror::{Code, FetchSpec, UpstreamSpec};
use tillgate_core::tls::{ClientTls, TrustAnchors};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::body::RequestBody;
use tillgate_net::http::client::{Lease, Pool, Target, Wire};
use tillgate_net::http::flow::Flow;
use tillgate_net::http::head::{HeadLimits, until_head};
use tillgate_net::http::headers;
use tillgate_net::mirror::Broken;
use tillgate_net::tls::{Application, Connector};
use tillgate_net::upstream::resolver::ChosenBy;

use super::serve::class_of;
use super::{Mirror, Place, token};
use crate::forward::leads_back;
use crate::gateway::Gateway;
use crate::running::Running;
use crate::send::explain;

/// Registries redirect once; some object stores once more.
const REDIRECTS_MAX: usize = 5;

/// A token server's answer.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tillgate/", env!("CARGO_PKG_VERSION")));

/// What is asked of a place.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) method: Method,
    /// From `/v2/` on.
    pub(super) path: String,
    pub(super) accept: Option<HeaderValue>,
    /// From this byte on; zero = all.
    pub(super) from: u64,
}

/// A registry's answer.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) head: response::Parts,
    pub(super) body: Incoming,
    pub(super) lease: Lease,
    pub(super) flow: Arc<Flow>,
}

/// TLS to hosts that a registry names, by the authorities that may have signed for them.
#[derive(Default)]
pub(super) struct Connectors(Mutex<HashMap<TrustAnchors, Arc<Connector>>>);

/// What a request needs to know of the config that it began with.
struct Way<'a> {
    gateway: Arc<Gateway>,
    running: Arc<Running>,
    place: &'a Place,
}

impl Way<'_> {
    fn fetches(&self) -> Option<&FetchSpec> {
        Some(&self.running.effective.mirror.as_ref()?.fetches)
    }

    fn upstream(&self) -> Option<&UpstreamSpec> {
        let upstreams = &self.running.effective.mirror.as_ref()?.upstreams;
        upstreams.iter().find(|one| one.registry == self.place.registry)
    }

    fn class(&self, upstream: &UpstreamSpec) -> ClassId {
        class_of(&self.running.effective, upstream, &self.place.repository)
    }
}

/// A URL taken apart.
struct Url {
    tls: bool,
    endpoint: Endpoint,
    /// As it is named in `Host`.
    authority: String,
    target: String,
}

impl Mirror {
    /// Asks the registry. To be called on the mirror's thread, whose the connection is.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn ask(&self, place: &Place, asking: &Asking) -> Result<Got, Broken> {
        let way = self.way(place)?;
        let mut authorization = self.tokens.get(place);
        let mut is_second = false;
        loop {
            let got = self.ask_registry(&way, asking, authorization.take()).await?;
            if got.head.status != StatusCode::UNAUTHORIZED || is_second {
                return self.redirected(&way, asking, got).await;
            }
            is_second = true;
            self.tokens.forget(place);
            let fields = got.head.headers.get_all(WWW_AUTHENTICATE).iter();
            let challenge = fields.filter_map(|field| Challenge::read(field.to_str().ok()?)).next();
            let Some(challenge) = challenge else { return Ok(got) };
            // Its body says what we know.
            drop(got);
            authorization = self.authorize(&way, &challenge).await?;
            if authorization.is_none() {
                let detail = format!(
                    "{} wants an account; add `auth` or `credentialsSecret` to it",
                    place.registry
                );
                return Err(Broken::new(Code::Denied, None, detail));
            }
        }
    }

    fn way<'a>(&self, place: &'a Place) -> Result<Way<'a>, Broken> {
        let Some(gateway) = self.gateway.upgrade() else {
            return Err(Broken::new(Code::Unavailable, Some(Failure::Drained), "stopping"));
        };
        let way = Way { running: gateway.running(), gateway, place };
        match way.upstream() {
            Some(_) => Ok(way),
            None => {
                let detail = format!("{} is not mirrored any more", place.registry);
                Err(Broken::new(Code::NameUnknown, None, detail))
            }
        }
    }

    async fn ask_registry(
        &self,
        way: &Way<'_>,
        asking: &Asking,
        authorization: Option<HeaderValue>,
    ) -> Result<Got, Broken> {
        let (Some(upstream), Some(mirror)) = (way.upstream(), &way.running.effective.mirror) else {
            return Err(gone());
        };
        let backend = way.running.effective.backend(upstream.backend);
        let timeouts = timeouts(&mirror.fetches);
        let endpoint = fastrand::usize(..backend.endpoints.len().max(1));
        let class = way.class(upstream);
        let target = way.running.target(upstream.backend, endpoint, class, &timeouts);
        let mut fields = fields(asking);
        if let Some(value) = authorization {
            fields.insert(AUTHORIZATION, value);
        }
        let host = &upstream.host;
        self.send(way, &target, (asking.method.clone(), host, &asking.path), fields).await
    }

    /// Sends one request and waits for the head of its answer.
    async fn send(
        &self,
        way: &Way<'_>,
        target: &Arc<Target>,
        (method, authority, path): (Method, &str, &str),
        mut fields: HeaderMap,
    ) -> Result<Got, Broken> {
        let flow = Arc::new(Flow::new(clock::now()));
        let scheme = headers::uri_scheme(target.dialect().scheme);
        let uri = match target.wire {
            Wire::Http1 => {
                let host = HeaderValue::try_from(authority).map_err(|_| invalid(authority))?;
                fields.insert(HOST, host);
                path.parse::<Uri>().ok()
            }
            Wire::Http2 => {
                let whole = Uri::builder().scheme(scheme).authority(authority);
                whole.path_and_query(path).build().ok()
            }
        };
        let mut request = Request::new(RequestBody::none(&flow));
        *request.method_mut() = method;
        *request.uri_mut() = uri.ok_or_else(|| invalid(path))?;
        *request.headers_mut() = fields;
        let pool: &Pool = if target.link.is_some() { way.gateway.wan() } else { &self.local };
        let response = way.fetches().map(|fetches| fetches.response);
        let limits = HeadLimits { request: None, backend_request: response };
        let mut request = Some(request);
        let exchange = pool.exchange(target, &mut request, &flow);
        match until_head(exchange, limits, &flow, None).await {
            Ok(Ok((response, lease))) => {
                let (head, body) = response.into_parts();
                Ok(Got { head, body, lease, flow })
            }
            Ok(Err(error)) => {
                let detail = format!("{authority}: {}", explain(&error));
                Err(Broken::new(Code::Unavailable, Some(error.failure()), detail))
            }
            Err(failure) => {
                let detail = format!("{authority}: {}", failure.row().meaning);
                Err(Broken::new(Code::Unavailable, Some(failure), detail))
            }
        }
    }

    /// Goes where the registry sends us, if it does.
    async fn redirected(
        &self,
        way: &Way<'_>,
        asking: &Asking,
        mut got: Got,
    ) -> Result<Got, Broken> {
        let Some(upstream) = way.upstream() else { return Err(gone()) };
        let backend = way.running.effective.backend(upstream.backend);
        let mut base = Url {
            tls: backend.tls.is_some(),
            endpoint: backend.endpoints[0].clone(),
            authority: upstream.host.to_string(),
            target: asking.path.clone(),
        };
        for _ in 0..REDIRECTS_MAX {
            if !got.head.status.is_redirection() || got.head.status == StatusCode::NOT_MODIFIED {
                return Ok(got);
            }
            let location = got.head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(location) = location else { return Ok(got) };
            let next = base.join(location).ok_or_else(|| invalid(location))?;
            if base.tls && !next.tls {
                let detail = format!("{} redirects out of TLS", base.authority);
                return Err(Broken::new(Code::Unavailable, Some(Failure::BackendProtocol), detail));
            }
            // The body of a redirect is for people.
            drop(got);
            got = self.ask_elsewhere(way, &next, asking.method.clone(), fields(asking)).await?;
            base = next;
        }
        let detail = format!("{} redirects for ever", upstream.registry);
        Err(Broken::new(Code::Unavailable, Some(Failure::BackendProtocol), detail))
    }

    /// Asks a host that a registry named.
    async fn ask_elsewhere(
        &self,
        way: &Way<'_>,
        url: &Url,
        method: Method,
        fields: HeaderMap,
    ) -> Result<Got, Broken> {
        let (Some(upstream), Some(mirror)) = (way.upstream(), &way.running.effective.mirror) else {
            return Err(gone());
        };
        let backend = way.running.effective.backend(upstream.backend);
        let timeouts = timeouts(&mirror.fetches);
        let own = backend.endpoints.iter().position(|endpoint| *endpoint == url.endpoint);
        let target = match own.filter(|_| url.tls == backend.tls.is_some()) {
            // The registry itself, as the policy knows it.
            Some(own) => way.running.target(upstream.backend, own, way.class(upstream), &timeouts),
            None => {
                let addresses = addresses(way, url, &mirror.fetches).await?;
                let roots = backend.tls.as_ref().map_or(&TrustAnchors::System, |tls| &tls.roots);
                let tls = if url.tls { Some(self.connector(way, roots)?) } else { None };
                let endpoint = url.endpoint.clone();
                let there = (endpoint, &addresses[..], backend.location);
                let (name, class) = (&backend.name, way.class(upstream));
                way.running.elsewhere(name, there, class, tls, timeouts.connect)
            }
        };
        self.send(way, &target, (method, &url.authority, &url.target), fields).await
    }

    fn connector(&self, way: &Way<'_>, roots: &TrustAnchors) -> Result<Arc<Connector>, Broken> {
        let mut known = self.connectors.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = known.get(roots) {
            return Ok(Arc::clone(connector));
        }
        let spec = ClientTls {
            sni: None,
            roots: roots.clone(),
            certificate: None,
            min_version: defaults::TLS_MIN_VERSION,
        };
        let made = way.gateway.tls.connector(&"mirror".into(), &spec, Application::Http1);
        let made = made.map_err(|error| {
            let failure = Some(Failure::TlsUntrusted);
            Broken::new(Code::Unavailable, failure, explain(&error))
        })?;
        known.insert(roots.clone(), Arc::clone(&made));
        Ok(made)
    }

    /// What the challenge asks for; `None`: an account that the policy does not have.
    async fn authorize(
        &self,
        way: &Way<'_>,
        challenge: &Challenge,
    ) -> Result<Option<HeaderValue>, Broken> {
        let Some(upstream) = way.upstream() else { return Err(gone()) };
        let denied = |detail: String| Broken::new(Code::Denied, None, detail);
        let basic = match &upstream.login {
            Some(login) => Some(token::basic(login).await.map_err(denied)?),
            None => None,
        };
        let Challenge::Bearer { realm, .. } = challenge else { return Ok(basic) };
        let backend = way.running.effective.backend(upstream.backend);
        let mut url = Url::whole(realm).ok_or_else(|| invalid(realm))?;
        if backend.tls.is_some() && !url.tls {
            let detail = format!("{} sends for a token out of TLS", upstream.registry);
            return Err(Broken::new(Code::Unavailable, Some(Failure::BackendProtocol), detail));
        }
        let target = challenge.token_target(&url.target, &way.place.repository);
        url.target = target.ok_or_else(|| invalid(realm))?;
        let mut fields = HeaderMap::from_iter([(USER_AGENT, AGENT)]);
        if let Some(basic) = basic {
            fields.insert(AUTHORIZATION, basic);
        }
        let got = self.ask_elsewhere(way, &url, Method::GET, fields).await?;
        let status = got.head.status;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(denied(format!("{} refuses a token: {status}", url.authority)));
        }
        let body = whole(got, TOKEN_BYTES_MAX, way.fetches()).await?;
        let token = token::read(&body).filter(|_| status.is_success());
        let Some((value, lasts)) = token else {
            let detail = format!("{} gives no token: {status}", url.authority);
            return Err(Broken::new(Code::Unavailable, Some(Failure::BackendProtocol), detail));
        };
        self.tokens.keep(way.place, value.clone(), lasts);
        Ok(Some(value))
    }
}

/// The whole body of an answer, if it is not larger than that.
///
/// # Errors
/// If it is, breaks, or takes too long.
pub(super) async fn whole(
    got: Got,
    bytes_max: usize,
    spec: Option<&FetchSpec>,
) -> Result<Bytes, Broken> {
    let Got { body, lease, flow, .. } = got;
    let collect = Limited::new(body, bytes_max).collect();
    // A small body that takes longer than a stalled one may is one.
    let patience = spec.map_or(defaults::MIRROR_FETCHES.stall, |spec| spec.stall);
    let limits = HeadLimits { request: None, backend_request: Some(patience) };
    match until_head(collect, limits, &flow, None).await {
        Ok(Ok(body)) => {
            lease.give_back();
            Ok(body.to_bytes())
        }
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("the answer is larger than {bytes_max} bytes");
            Err(Broken::new(Code::SizeInvalid, Some(Failure::BackendProtocol), detail))
        }
        Ok(Err(error)) => {
            let failure = Some(Failure::BackendBodyCut);
            Err(Broken::new(Code::Unavailable, failure, error.to_string()))
        }
        Err(failure) => Err(Broken::new(Code::Unavailable, Some(failure), failure.row().meaning)),
    }
}

/// Addresses of a host that a registry named, all of which may be dialled.
async fn addresses(way: &Way<'_>, url: &Url, spec: &FetchSpec) -> Result<Vec<SocketAddr>, Broken> {
    let resolver = way.gateway.resolver();
    let Endpoint { host, port } = &url.endpoint;
    let found = resolver.resolve(host, *port, ChosenBy::Client, spec.connect).await;
    let found = found
        .map_err(|error| Broken::new(Code::Unavailable, Some(error.failure()), explain(&error)))?;
    // A registry on this machine may send us to this machine.
    let upstream = way.upstream().map(|one| way.running.effective.backend(one.backend));
    let at_home = upstream.is_some_and(|backend| {
        backend.endpoints.iter().any(|one| matches!(one.host, Host::Ip(ip) if ip.is_loopback()))
    });
    let may = |address: &&SocketAddr| {
        (at_home || !is_own(address.ip())) && !leads_back(**address, &way.gateway)
    };
    let addresses: Vec<SocketAddr> = found.iter().filter(may).copied().collect();
    if addresses.is_empty() {
        let detail = format!("{} leads back into this machine", url.authority);
        return Err(Broken::new(Code::Unavailable, Some(Failure::EgressDenied), detail));
    }
    Ok(addresses)
}

/// Whether an address is this machine's for itself, or of no network that packets leave.
fn is_own(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local(),
    }
}

impl Url {
    fn whole(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = canonical_host(authority.host()).into_owned();
        let host = host.parse().map_or_else(|_| Host::Name(host.as_str().into()), Host::Ip);
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let authority = authority.as_str().to_owned();
        Some(Self { tls, endpoint: Endpoint { host, port }, authority, target })
    }

    /// Where a `Location` leads from here.
    fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next()?;
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.tls { "https" } else { "http" };
            return Self::whole(&format!("{scheme}://{rest}"));
        }
        if location.starts_with('/') {
            let (endpoint, authority) = (self.endpoint.clone(), self.authority.clone());
            return Some(Self { tls: self.tls, endpoint, authority, target: location.to_owned() });
        }
        Self::whole(location)
    }
}

fn fields(asking: &Asking) -> HeaderMap {
    let mut fields = HeaderMap::from_iter([(USER_AGENT, AGENT)]);
    if let Some(accept) = &asking.accept {
        fields.insert(ACCEPT, accept.clone());
    }
    if asking.from > 0
        && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", asking.from))
    {
        fields.insert(RANGE, range);
    }
    fields
}

const fn timeouts(spec: &FetchSpec) -> Timeouts {
    Timeouts {
        request: None,
        backend_request: Some(spec.response),
        connect: spec.connect,
        idle: spec.stall,
    }
}

fn gone() -> Broken {
    Broken::new(Code::NameUnknown, None, "the registry is not mirrored any more")
}

fn invalid(what: &str) -> Broken {
    let detail = format!("`{what}` cannot be asked for");
    Broken::new(Code::Unavailable, Some(Failure::BackendProtocol), detail)
}

/// Whether fetches from here cost a budget.
pub(super) fn is_metered(running: &Running, upstream: &UpstreamSpec) -> bool {
    let location = running.effective.backend(upstream.backend).location;
    let class = running.effective.classes.get(upstream.class);
    let link = link_for(Destination { location }, class, &running.effective.links);
    link.is_some_and(|link| running.effective.links[usize::from(link.0)].metered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(location: &str) -> Option<(bool, String, String, u16)> {
        let base = Url::whole("https://registry.example/v2/a").unwrap();
        let url = base.join(location)?;
        Some((url.tls, url.authority, url.target, url.endpoint.port))
    }

    #[test]
    fn locations_lead_somewhere_or_nowhere() {
        let to = |tls, authority: &str, target: &str, port| {
            Some((tls, authority.to_owned(), target.to_owned(), port))
        };
        assert_eq!(
            join("https://cdn.example/x?sig=a%2Fb"),
            to(true, "cdn.example", "/x?sig=a%2Fb", 443)
        );
        assert_eq!(join("http://cdn.example:8080"), to(false, "cdn.example:8080", "/", 8080));
        assert_eq!(join("//cdn.example/x#y"), to(true, "cdn.example", "/x", 443));
        assert_eq!(join("/elsewhere"), to(true, "registry.example", "/elsewhere", 443));
        for wrong in ["", "ftp://a/", "x", "https://u:p@cdn.example/", "https:///x"] {
            assert_eq!(join(wrong), None, "{wrong}");
        }
    }
}

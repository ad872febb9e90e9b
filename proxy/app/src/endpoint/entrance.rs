//! The one way in: path, method, caller, types, size, and then what the table says.
//!
//! Whatever is not in the table is refused, and whoever is not named there is, too. Nothing of a
//! body is read before it is known that its sender may send it; only a receiver of webhooks has to
//! read first, because the signature is over the body.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, RawPathParams, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tillgate_core::endpoint::{Roles, Who};
use tillgate_core::tls::ClientIdentity;
use tillgate_net::drain::Phase;
use tillgate_net::http::server::InFlight;
use tillgate_net::metrics::Answered;

use super::accept::taken;
use super::callers::{Asker, Credential};
use super::problem::Problem;
use super::routes::{self, Access, JSON, JSON_V1, Op, ROUTES, Route, Takes};
use super::{Ask, Desk, answers, asked, enrol, later, stopping};

/// A body is a few kibibytes from a machine of the same store.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// What the listener knows of a request.
#[derive(Clone)]
pub(super) struct Arrived {
    pub(super) certificate: Option<Arc<ClientIdentity>>,
    pub(super) flow: InFlight,
}

/// Every path of the table.
pub(super) fn router(desk: &Arc<Desk>) -> Router {
    let mut paths: Vec<&'static str> = ROUTES.iter().map(|route| route.path).collect();
    paths.dedup();
    let router =
        paths.into_iter().fold(Router::new(), |router, path| router.route(path, any(enter)));
    let absent = || async { Problem::absent("nothing is here; /v1/openapi.json lists what is") };
    router.fallback(absent).with_state(Arc::clone(desk))
}

/// How an answer counts.
pub(super) fn how(status: StatusCode) -> Answered {
    match status.as_u16() {
        401 => Answered::Unauthenticated,
        403 => Answered::Forbidden,
        400..=499 => Answered::Refused,
        500..=599 => Answered::Failed,
        _ => Answered::Served,
    }
}

async fn enter(
    State(desk): State<Arc<Desk>>,
    path: MatchedPath,
    values: Result<RawPathParams, axum::extract::rejection::RawPathParamsRejection>,
    request: Request<Body>,
) -> Response {
    let is_head = request.method() == Method::HEAD;
    let values = values.map(|values| {
        values.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    let answer = match values {
        Ok(values) => admit(&desk, path.as_str(), values, request).await,
        Err(_) => Err(Problem::malformed("the path is not valid UTF-8 when it is decoded")),
    };
    let answer = answer.unwrap_or_else(axum::response::IntoResponse::into_response);
    if is_head { later::then(answer, headless) } else { answer }
}

/// The same without its body.
fn headless(answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| head.status == StatusCode::OK) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

async fn admit(
    desk: &Arc<Desk>,
    path: &str,
    values: Vec<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let method = match request.method().as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let route = routes::at(path).find(|route| route.verb.name() == method);
    let route = route.ok_or_else(|| Problem::method(&routes::allowed(path)))?;
    let (mut head, body) = request.into_parts();
    let arrived = head.extensions.remove::<Arrived>();
    let certificate = arrived.as_ref().and_then(|arrived| arrived.certificate.as_ref());
    let pass = Pass::of(route, &head.headers, certificate);
    let who = match route.access {
        Access::Enrolment => enrol::asker(desk, &head.headers, &pass.credential).await?,
        Access::Everyone | Access::Signature | Access::AnyRole | Access::Roles(_) => {
            pass.who(desk)?
        }
    };
    let is_probe = route.access == Access::Everyone || route.op == Op::Metrics;
    if !is_probe && desk.gateway.drain.phase() != Phase::Open {
        return Err(stopping());
    }
    if !answers_with(route, &head.headers) {
        return Err(Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            format!("what `Accept` asks for is not sent here: ask for {}", offered(route)),
        ));
    }
    let reads = match route.access {
        Access::Signature => {
            // Nobody's secret could be meant, so nothing is read.
            let name = values.first().map_or("", |(_, name)| name);
            asked::receiver(&desk.endpoint().callers.load(), name)?;
            Some(desk.endpoint().hooks.try_acquire().map_err(|_| busy())?)
        }
        Access::Everyone | Access::Enrolment | Access::AnyRole | Access::Roles(_) => None,
    };
    let body = match &route.takes {
        None => Bytes::new(),
        Some(takes) => read(takes, &head, body).await?,
    };
    drop(reads);
    let ask = Ask { head, pass, who, path: values, body };
    answers::answer(desk, route.op, ask, arrived.map(|arrived| arrived.flow)).await
}

fn busy() -> Problem {
    let detail = "too many webhooks arrive at once: send it again";
    Problem::later(StatusCode::TOO_MANY_REQUESTS, 5, detail)
}

/// What a caller came in with. Who waits is asked for it again: what a policy takes away from a
/// caller is taken away before he sees that policy.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    pub(super) credential: Credential,
    /// What the route wants; `None` where everyone may ask, or the route judges by itself.
    wanted: Option<Roles>,
}

impl Pass {
    fn of(route: &Route, headers: &HeaderMap, certificate: Option<&Arc<ClientIdentity>>) -> Self {
        let wanted = match route.access {
            Access::Everyone | Access::Signature | Access::Enrolment => None,
            Access::AnyRole => Some(Roles::of(&tillgate_core::endpoint::Role::ALL)),
            Access::Roles(roles) => Some(roles),
        };
        Self { credential: Credential::of(headers, certificate), wanted }
    }

    /// Who asks, if they may now.
    pub(super) fn who(&self, desk: &Desk) -> Result<Who, Problem> {
        let Some(wanted) = self.wanted else {
            let (actor, name) = ("anyone".into(), "anyone".into());
            return Ok(Who { actor, name, roles: Roles::NONE, workload: None, account: None });
        };
        let floor = desk.gateway.tls.floor();
        match desk.endpoint().callers.load().find(&self.credential, floor) {
            Asker::Nobody => Err(Problem::unknown_caller()),
            Asker::Stranger => Err(Problem::forbidden(
                "the certificate names no role: it needs a name such as \
                 `URI:tillgate://viewer/anna`",
            )),
            Asker::Known(who) if who.roles.meets(wanted) => Ok(who),
            Asker::Known(_) => {
                let names: Vec<&str> = wanted.iter().map(|role| role.name()).collect();
                Err(Problem::forbidden(format!("only {} may ask this", names.join(" or "))))
            }
        }
    }
}

/// The media types that a route answers with.
fn offered(route: &Route) -> String {
    let types: Vec<&str> = route.answers.iter().filter_map(|(_, media)| *media).collect();
    types.join(" or ")
}

/// Whether the caller takes what the route sends. Refusals are sent to everybody.
fn answers_with(route: &Route, headers: &HeaderMap) -> bool {
    let mut sent = route.answers.iter().filter_map(|(_, media)| *media).peekable();
    let is_taken = |media: &str| taken(headers, media).weight > 0.0;
    sent.peek().is_none()
        || sent.any(|media| is_taken(media) || (media == JSON && is_taken(JSON_V1)))
}

/// The body, if it is of a type that is understood and not too long.
async fn read(takes: &Takes, head: &Parts, body: Body) -> Result<Bytes, Problem> {
    let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = media.map(|text| text.split(';').next().unwrap_or_default().trim());
    let is_known = media
        .is_some_and(|media| takes.types.iter().any(|known| known.eq_ignore_ascii_case(media)));
    if !is_known {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the body must be {}", takes.types.join(" or ")),
        ));
    }
    let too_long = || {
        let detail = format!("the body is longer than {} bytes", takes.bytes_max);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    if body.size_hint().lower() > takes.bytes_max as u64 {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_WITHIN, Limited::new(body, takes.bytes_max).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Problem::malformed("the body ended early")),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_WITHIN.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

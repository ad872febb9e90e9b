//! `/v1/explain`: what would happen to a request or a pull here, and why, without sending it.
//!
//! The decision is asked of the code that makes it for real requests and pulls, on the running
//! config or on one that the question brings along, now or at another time; what is alive and what
//! waits is told beside, as `/v1/status` has it. One question for all who ask: here, in a signed
//! operation, and on the command line without a gateway.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_config::fleet;
use tillgate_config::scalar::{Instant, SanText, Text as _};
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{Clock, Look};
use tillgate_core::tls::{ClientIdentity, SanMatch};

use super::problem::Problem;
use super::{Ask, Desk, checks};
use crate::admin::status;
use crate::explain::entrance::Entrance;
use crate::explain::{self, image};
use crate::gateway::Gateway;

/// What is asked: about a request, or about an image.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    http: Option<Head>,
    image: Option<Image>,
    /// Another time, as RFC 3339 has it.
    at: Option<String>,
    /// By which way the request comes: the name of a listener, or its kind.
    via: Option<String>,
    /// Whose request it is.
    source: Option<Source>,
    /// Another policy instead of the one that runs. Its approvals are taken for right: whoever asks
    /// wants to know what it would do.
    #[serde(alias = "policy")]
    bundle: Option<Documents>,
    /// The store that is meant, where that policy has several; this one without it.
    store: Option<String>,
}

/// The head of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    method: Option<String>,
    /// Of the URL: clients ask a proxy for `https` by CONNECT.
    #[serde(default)]
    scheme: Scheme,
    authority: String,
    /// CONNECT and TLS have none.
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// How a URL begins.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    #[default]
    Http,
    Https,
}

fn root() -> String {
    "/".to_owned()
}

/// An image to pull.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    registry: Option<String>,
    repository: String,
    digest: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// A sidecar's own rules are the gateway's.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    /// The names in the certificate that it shows, as `DNS:till-7.store.example`.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Vec<String>>,
}

impl Source {
    /// What its certificate says, in the form that rules compare.
    fn client(&self) -> Result<Option<ClientIdentity>, String> {
        let Some(names) = &self.certificate else { return Ok(None) };
        let one = |name: &String| match SanText::read(name) {
            Ok(SanText(SanMatch::Exact(name))) => Ok(name),
            Ok(SanText(SanMatch::DnsSuffix(_))) => {
                Err(format!("`certificate`: `{name}` stands for many names: write one"))
            }
            Err(why) => Err(format!("`certificate`: {why}")),
        };
        let sans = names.iter().map(one).collect::<Result<_, _>>()?;
        Ok(Some(ClientIdentity { sans, ..ClientIdentity::default() }))
    }
}

/// Documents of a policy.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Documents {
    /// As YAML.
    Text(String),
    /// As YAML, in several files.
    Files(Vec<File>),
    /// As JSON.
    List(Vec<Value>),
}

/// A file of a policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    file: String,
    text: String,
}

impl Documents {
    fn sources(self) -> Vec<fleet::Source> {
        let only = |text| vec![fleet::Source { file: checks::NAME.to_owned(), text }];
        match self {
            Self::Text(text) => only(text),
            Self::Files(files) => {
                let one = |File { file, text }| fleet::Source { file, text };
                files.into_iter().map(one).collect()
            }
            Self::List(list) => {
                only(list.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n"))
            }
        }
    }
}

/// What is asked about.
enum Subject<'a> {
    Request(Box<Parts>),
    Image(&'a Image),
}

impl Question {
    fn subject(&self) -> Result<Subject<'_>, String> {
        match (&self.http, &self.image) {
            (Some(http), None) => head(http).map(|head| Subject::Request(Box::new(head))),
            (None, Some(_)) if self.via.is_some() => {
                Err("`via` is a request's: every pull comes through the mirror".to_owned())
            }
            (None, Some(image)) => Ok(Subject::Image(image)),
            (Some(_), Some(_)) | (None, None) => {
                Err("ask about one thing: `http` is a request, `image` a pull".to_owned())
            }
        }
    }

    /// What would happen to the request with this head.
    fn requested(
        &self,
        config: &Effective,
        head: &Parts,
        when: (Clock, Timestamp),
    ) -> Result<Value, String> {
        let client = self.source.as_ref().map(Source::client).transpose()?.flatten();
        let entrance = Entrance::find(config, self.via.as_deref(), &head.method)?;
        let asked = explain::Asked { head, entrance, client: client.as_ref() };
        Ok(explain::of(config, &asked, when))
    }

    /// The moment that is meant; of another time it is known which one is meant.
    fn when(&self, now: impl FnOnce() -> (Clock, Timestamp)) -> Result<(Clock, Timestamp), String> {
        let at = self.at.as_deref().map(Instant::read).transpose();
        let at = at.map_err(|why| format!("`at`: {why}"))?;
        Ok(at.map_or_else(now, |at| (Clock::Synced, at.0)))
    }
}

/// The answer, with what it is an answer about.
fn said(mut shown: Value, question: &Question, config: &Effective, is_hypothetical: bool) -> Value {
    if let Some(source) = &question.source {
        shown["source"] = json!(source);
    }
    shown["digest"] = json!(&*config.digest);
    shown["hypothetical"] = json!(is_hypothetical);
    shown
}

/// The answer; a policy, and the search for the next opening, may take a processor for a while.
pub(super) async fn explain(desk: &Desk, ask: Ask) -> Result<Value, Problem> {
    let mut question: Question = ask.json()?;
    question.subject().map_err(Problem::malformed)?;
    let documents = question.bundle.take();
    let gateway = Arc::clone(&desk.gateway);
    checks::apart(desk, move || {
        let running = &gateway.running().effective;
        let Some(documents) = documents else {
            if let Some(store) = &question.store
                && **store != *running.store
            {
                let detail = format!("this gateway is of store {}: ask its own", running.store);
                return Err(Problem::malformed(detail));
            }
            return answer(&gateway, running, &question, false).map_err(Problem::malformed);
        };
        let store = question.store.take();
        let config = checks::compiled(&running.store, documents.sources(), store)?;
        answer(&gateway, &config, &question, true).map_err(Problem::malformed)
    })
    .await
}

/// What a gateway says of a question about `config`; on a thread that may wait for the disk.
fn answer(
    gateway: &Gateway,
    config: &Effective,
    question: &Question,
    is_hypothetical: bool,
) -> Result<Value, String> {
    let when = question.when(|| gateway.clock.now())?;
    let shown = match question.subject()? {
        Subject::Request(head) => {
            let mut shown = question.requested(config, &head, when)?;
            if !is_hypothetical {
                shown["now"] = now(gateway, config, &shown);
            }
            shown
        }
        Subject::Image(image) => apart(|| pull(gateway, config, image, when))?,
    };
    Ok(said(shown, question, config, is_hypothetical))
}

/// The answer without a gateway: nothing is alive, and the store has nothing of an image.
pub(crate) fn offline(
    config: &Effective,
    question: Value,
    now: Timestamp,
) -> Result<Value, String> {
    let question = read(question)?;
    let when = question.when(|| (Clock::Synced, now))?;
    let shown = match question.subject()? {
        Subject::Request(head) => question.requested(config, &head, when)?,
        Subject::Image(image) => {
            let image = image.find(config)?;
            image::of(config, &image, &image.judge(config, when), when)
        }
    };
    Ok(said(shown, &question, config, true))
}

fn read(question: Value) -> Result<Question, String> {
    serde_json::from_value(question).map_err(|error| format!("the question: {error}"))
}

/// A question that came from afar, about what runs; on a thread that may wait for the disk.
pub(crate) fn here(gateway: &Gateway, question: Value) -> Result<Value, String> {
    let question = read(question)?;
    if question.bundle.is_some() || question.store.is_some() {
        return Err("what is explained from afar is what runs".to_owned());
    }
    answer(gateway, &gateway.running().effective, &question, false)
}

/// Waits for what `asked` gives, on a thread with a runtime of its own.
fn apart<T: Send, F: Future<Output = Result<T, String>>>(
    asked: impl FnOnce() -> F + Send,
) -> Result<T, String> {
    let wait = || {
        let runtime = crate::bound::runtime().map_err(|error| error.to_string())?;
        runtime.block_on(asked())
    };
    let done = std::thread::scope(|scope| scope.spawn(wait).join());
    done.unwrap_or_else(|_| Err("it could not be looked at; the log says why".to_owned()))
}

impl Image {
    fn find(&self, config: &Effective) -> Result<image::Image, String> {
        let (registry, digest) = (self.registry.as_deref(), self.digest.as_deref());
        image::Image::find(config, registry, &self.repository, digest)
    }
}

/// What would happen to a pull: by what this store has and ran, whatever the policy.
async fn pull(
    gateway: &Gateway,
    config: &Effective,
    asked: &Image,
    at: (Clock, Timestamp),
) -> Result<Value, String> {
    let image = asked.find(config)?;
    let judged = match &gateway.mirror() {
        Some(mirror) => mirror.judge(config, (&image.place, &image.digest), at, Look::Ahead).await,
        None => image.judge(config, at),
    };
    Ok(image::of(config, &image, &judged, at))
}

/// How the rule, the servers of its backends and the lines to them are right now.
fn now(gateway: &Gateway, config: &Effective, shown: &Value) -> Value {
    let all = status::failover::of(gateway);
    let is_rule = |one: &&Value| one["route"] == shown["route"] && one["rule"] == shown["rule"];
    let rule = all["rules"].as_array().into_iter().flatten().find(is_rule).cloned();
    let mut rules = config.routes.rules.iter();
    let found = rules.find(|rule| shown["route"] == *rule.route && shown["rule"] == *rule.name);
    let backends: Vec<&str> = found
        .into_iter()
        .flat_map(|rule| rule.tiers.iter().flatten())
        .map(|one| &*config.backend(one.backend).name)
        .collect();
    let is_ours =
        |one: &&Value| one["backend"].as_str().is_some_and(|backend| backends.contains(&backend));
    let endpoints = all["endpoints"].as_array().into_iter().flatten().filter(is_ours);
    let class = shown["trafficClass"]["name"].as_str().unwrap_or_default();
    let lines = shown["tiers"].as_array().into_iter().flatten().flat_map(|tier| {
        tier.as_array().into_iter().flatten().filter_map(|one| one["line"].as_str())
    });
    let mut lines: Vec<&str> = lines.chain(shown["line"].as_str()).collect();
    lines.dedup();
    let links = lines.into_iter().map(|name| {
        let is_down = all["lines"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["name"] == *name && one["down"] == true);
        json!({
            "name": name,
            "state": if is_down { "Down" } else { "Up" },
            "queue": status::queue(gateway, name, class),
        })
    });
    json!({
        "rule": rule,
        "endpoints": endpoints.collect::<Vec<_>>(),
        "links": links.collect::<Vec<_>>(),
    })
}

fn head(given: &Head) -> Result<Parts, String> {
    let wrong = |what: &str| format!("`http` has {what}");
    let method = given.method.as_deref().unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| wrong("no method of HTTP"))?;
    let uri = Uri::builder().authority(given.authority.as_str());
    let uri = if method == Method::CONNECT {
        uri
    } else {
        let scheme = match given.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        uri.scheme(scheme).path_and_query(given.path.as_str())
    };
    let uri = uri.build().map_err(|_| wrong("no authority and path that make a URL"))?;
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in &given.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("no field names"))?;
        let value = HeaderValue::from_str(value).map_err(|_| wrong("no field values"))?;
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).map_err(|_| wrong("no request"))?.into_parts();
    Ok(head)
}

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
use serde::Deserialize;
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_config::fleet;
use tillgate_config::scalar::{Instant, Text as _};
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{Clock, Look};

use super::problem::Problem;
use super::{Ask, Desk, checks};
use crate::admin::status;
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
    /// Who asks; a sidecar's own rules are the gateway's.
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
    authority: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// An image to pull.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    registry: Option<String>,
    repository: String,
    digest: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    workload: String,
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
            (None, Some(image)) => Ok(Subject::Image(image)),
            (Some(_), Some(_)) | (None, None) => {
                Err("ask about one thing: `http` is a request, `image` a pull".to_owned())
            }
        }
    }

    /// The moment that is meant; of another time it is known which one is meant.
    fn when(&self, now: impl FnOnce() -> (Clock, Timestamp)) -> Result<(Clock, Timestamp), String> {
        let at = self.at.as_deref().map(Instant::read).transpose();
        let at = at.map_err(|why| format!("`at`: {why}"))?;
        Ok(at.map_or_else(now, |at| (Clock::Synced, at.0)))
    }
}

/// The answer, with what it is an answer about.
fn said(mut shown: Value, config: &Effective, is_hypothetical: bool) -> Value {
    shown["digest"] = json!(&*config.digest);
    shown["hypothetical"] = json!(is_hypothetical);
    shown
}

/// The answer.
pub(super) async fn explain(desk: &Desk, ask: Ask) -> Result<Value, Problem> {
    let mut question: Question = ask.json()?;
    let (bundle, store) = (question.bundle.take(), question.store.take());
    let is_hypothetical = bundle.is_some();
    let subject = question.subject().map_err(Problem::malformed)?;
    let when = question.when(|| desk.gateway.clock.now()).map_err(Problem::malformed)?;
    let running = desk.running();
    let config = match bundle {
        None if store.as_ref().is_some_and(|store| **store != *running.store) => {
            let detail = format!("this gateway is of store {}: ask its own", running.store);
            return Err(Problem::malformed(detail));
        }
        None => running,
        Some(documents) => Arc::new(checks::compiled(desk, documents.sources(), store).await?),
    };
    let mut shown = match subject {
        Subject::Request(head) => {
            let mut shown = explain::of(&config, &head, when);
            if !is_hypothetical {
                shown["now"] = now(&desk.gateway, &config, &shown);
            }
            shown
        }
        Subject::Image(image) => {
            pull(&desk.gateway, &config, image, when).await.map_err(Problem::malformed)?
        }
    };
    if let Some(source) = question.source {
        shown["source"] = json!({ "workload": source.workload });
    }
    Ok(said(shown, &config, is_hypothetical))
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
        Subject::Request(head) => explain::of(config, &head, when),
        Subject::Image(image) => {
            let image = image.find(config)?;
            image::of(config, &image, &image.judge(config, when), when)
        }
    };
    Ok(said(shown, config, true))
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
    let config = &gateway.running().effective;
    let when = question.when(|| gateway.clock.now())?;
    let shown = match question.subject()? {
        Subject::Request(head) => {
            let mut shown = explain::of(config, &head, when);
            shown["now"] = now(gateway, config, &shown);
            shown
        }
        Subject::Image(image) => apart(|| pull(gateway, config, image, when))?,
    };
    Ok(said(shown, config, false))
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
    let mut lines: Vec<&str> = lines.collect();
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
    let uri = Uri::builder()
        .scheme("http")
        .authority(given.authority.as_str())
        .path_and_query(given.path.as_str())
        .build()
        .map_err(|_| wrong("no authority and path that make a URL"))?;
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in &given.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("no field names"))?;
        let value = HeaderValue::from_str(value).map_err(|_| wrong("no field values"))?;
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).map_err(|_| wrong("no request"))?.into_parts();
    Ok(head)
}

//! `/v1/explain`: what would happen to a request or a pull here, and why, without sending it.
//!
//! The decision is asked of the code that makes it for real requests and pulls, on the running
//! config or on one that the question brings along, now or at another time; what is alive and what
//! waits is told beside, as `/v1/status` has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
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
    /// Another policy instead of the one that runs.
    #[serde(alias = "policy")]
    bundle: Option<Documents>,
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
    /// As JSON.
    List(Vec<Value>),
}

impl Documents {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::List(list) => {
                list.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n")
            }
        }
    }
}

/// The answer.
pub(super) async fn explain(desk: &Desk, ask: Ask) -> Result<Value, Problem> {
    let mut question: Question = ask.json()?;
    let at = question.at.as_deref().map(Instant::read).transpose();
    let at = at.map_err(|why| Problem::malformed(format!("`at`: {why}")))?;
    // Of another time it is known which one is meant.
    let when = at.map_or_else(|| desk.gateway.clock.now(), |at| (Clock::Synced, at.0));
    let bundle = question.bundle.take();
    let is_hypothetical = bundle.is_some();
    let config = match bundle {
        None => desk.running(),
        Some(documents) => Arc::new(checks::compiled(desk, documents.text()).await?),
    };
    let mut shown = match (&question.http, &question.image) {
        (Some(http), None) => {
            let mut shown = explain::of(&config, &head(http)?, when);
            if !is_hypothetical {
                shown["now"] = now(&desk.gateway, &config, &shown);
            }
            shown
        }
        (None, Some(image)) => pull(desk, &config, image, when).await?,
        (Some(_), Some(_)) | (None, None) => {
            let detail = "ask about one thing: `http` is a request, `image` a pull";
            return Err(Problem::malformed(detail));
        }
    };
    shown["digest"] = json!(&*config.digest);
    shown["hypothetical"] = json!(is_hypothetical);
    if let Some(source) = question.source {
        shown["source"] = json!({ "workload": source.workload });
    }
    Ok(shown)
}

/// A question that came from afar, about a request and what runs.
pub(crate) fn here(gateway: &Gateway, question: Value) -> Result<Value, String> {
    let question: Question =
        serde_json::from_value(question).map_err(|error| format!("the question: {error}"))?;
    let Question { at: None, http: Some(http), image: None, bundle: None, source: None } = question
    else {
        return Err("what is explained from afar is `http`, here and now".to_owned());
    };
    let config = &gateway.running().effective;
    let head = head(&http).map_err(|problem| problem.detail().to_owned())?;
    let mut shown = explain::of(config, &head, gateway.clock.now());
    shown["now"] = now(gateway, config, &shown);
    shown["digest"] = json!(&*config.digest);
    Ok(shown)
}

/// What would happen to a pull: by what this store has and ran, whatever the policy.
async fn pull(
    desk: &Desk,
    config: &Effective,
    asked: &Image,
    at: (Clock, Timestamp),
) -> Result<Value, Problem> {
    let (registry, digest) = (asked.registry.as_deref(), asked.digest.as_deref());
    let image = image::Image::find(config, registry, &asked.repository, digest);
    let image = image.map_err(Problem::malformed)?;
    let mirror = desk.gateway.mirror();
    let judged = match &mirror {
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

fn head(given: &Head) -> Result<http::request::Parts, Problem> {
    let wrong = |what: &str| Problem::malformed(format!("`http` has {what}"));
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

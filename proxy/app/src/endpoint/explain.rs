//! `/v1/explain`: what would happen to a request here, and why, without sending it.
//!
//! The decision is asked of the code that makes it for real requests, on the running config or on
//! one that the question brings along; what is alive is told beside, as `/v1/status` has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use tillgate_config::effective::Effective;

use super::problem::Problem;
use super::{Ask, Desk, checks};
use crate::admin::status::failover;
use crate::explain::Explanation;
use crate::gateway::Gateway;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    http: Head,
    /// Another policy, as YAML, instead of the one that runs.
    policy: Option<String>,
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

/// The answer.
pub(super) async fn explain(desk: &Desk, ask: Ask) -> Result<Value, Problem> {
    let question: Question = ask.json()?;
    let head = head(&question.http)?;
    let (config, is_hypothetical) = match question.policy {
        None => (desk.running(), false),
        Some(text) => (Arc::new(checks::compiled(desk, text).await?), true),
    };
    Ok(told(&desk.gateway, &config, &head, is_hypothetical))
}

/// The same for a question that came from afar, about what runs.
pub(crate) fn here(gateway: &Gateway, question: Value) -> Result<Value, String> {
    let question: Question =
        serde_json::from_value(question).map_err(|error| format!("the question: {error}"))?;
    if question.policy.is_some() {
        return Err("only what runs is explained from afar".to_owned());
    }
    let head = head(&question.http).map_err(|problem| problem.detail().to_owned())?;
    Ok(told(gateway, &gateway.running().effective, &head, false))
}

fn told(
    gateway: &Gateway,
    config: &Effective,
    head: &http::request::Parts,
    is_hypothetical: bool,
) -> Value {
    let mut shown = match Explanation::of(config, head) {
        Ok(explanation) => explanation.to_json(),
        Err(refusal) => json!({
            "refused": refusal.failure.reason(),
            "detail": refusal.detail,
        }),
    };
    shown["digest"] = json!(&*config.digest);
    shown["hypothetical"] = json!(is_hypothetical);
    if !is_hypothetical {
        shown["now"] = now(gateway, config, &shown);
    }
    shown
}

/// How the rule and the servers of its backends are right now.
fn now(gateway: &Gateway, config: &Effective, shown: &Value) -> Value {
    let all = failover::of(gateway);
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
    json!({ "rule": rule, "endpoints": endpoints.collect::<Vec<_>>() })
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

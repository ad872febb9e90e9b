//! The OpenAPI document (3.1), made from the table of routes.
//!
//! What a route takes, answers and refuses stands in the table alone; a test asks every route and
//! compares. Shapes of documents are here, because nothing else needs them as schemas.

use serde_json::{Map, Value, json};
use tillgate_config::scalar::{DurationText, SanText, Text as _};
use tillgate_core::endpoint::Role;

use super::routes::{Access, PROBLEM, Parameter, ROUTES, Route};

/// What any route may answer to who asks wrongly, or while the gateway stops.
const ALWAYS: [u16; 3] = [400, 406, 503];

/// The document.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for route in &ROUTES {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        let method = route.verb.name().to_ascii_lowercase();
        item[&method] = operation(route);
        if method == "get" {
            let mut head = operation(route);
            head["operationId"] = json!(format!("{:?}Head", route.op));
            bodiless(&mut head);
            item["head"] = head;
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tillgate config endpoint",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a store's gateway runs, since when and why. No route writes policy.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A client certificate with a name such as tillgate://viewer/anna.",
                },
                "token": {"type": "http", "scheme": "bearer"},
            },
            "schemas": schemas(),
        },
    })
}

fn bodiless(operation: &mut Value) {
    let Some(answers) = operation["responses"].as_object_mut() else { return };
    for answer in answers.values_mut().filter_map(Value::as_object_mut) {
        answer.remove("content");
    }
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = path_parameters(route.path);
    parameters.extend(route.query.iter().map(query_parameter));
    let mut operation = json!({
        "operationId": format!("{:?}", route.op),
        "summary": route.meaning,
        "parameters": parameters,
        "responses": responses(route),
        "security": security(route.access),
        "x-tillgate-roles": roles(route.access),
    });
    if let Some(takes) = &route.takes {
        let reference =
            json!({"schema": {"$ref": format!("#/components/schemas/{}", takes.schema)}});
        let content: Map<String, Value> =
            takes.types.iter().map(|media| ((*media).to_owned(), reference.clone())).collect();
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|one| one.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| {
            let schema = json!({"type": "string", "minLength": 1});
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect()
}

fn query_parameter(one: &Parameter) -> Value {
    // The table's schemas are constants that a test reads.
    let schema: Value = serde_json::from_str(one.schema).unwrap_or_default();
    json!({
        "name": one.name, "in": "query", "required": false,
        "schema": schema, "description": one.meaning,
    })
}

fn responses(route: &Route) -> Value {
    let mut all = Map::new();
    for (status, media) in route.answers {
        let answer = all.entry(status.to_string());
        let answer = answer.or_insert_with(|| json!({"description": "Done."}));
        if let Some(media) = media {
            answer["content"][*media] = json!({"schema": shape(route, media)});
        }
        if *status == 304 {
            answer["description"] = json!("What the caller has is what there is.");
        }
    }
    for status in refusals(route) {
        let media =
            if route.access == Access::Everyone && status == 503 { "text/plain" } else { PROBLEM };
        let schema = if media == PROBLEM {
            json!({"$ref": "#/components/schemas/Problem"})
        } else {
            json!({"type": "string"})
        };
        let answer =
            json!({"description": meaning(status), "content": {media: {"schema": schema}}});
        all.entry(status.to_string()).or_insert(answer);
    }
    Value::Object(all)
}

/// Every status with which a route may refuse.
pub(crate) fn refusals(route: &Route) -> Vec<u16> {
    let mut all: Vec<u16> = ALWAYS.into_iter().chain(route.errors.iter().copied()).collect();
    if matches!(route.access, Access::AnyRole | Access::Roles(_) | Access::Enrolment) {
        all.extend([401, 403]);
    }
    // A head or a target that is too long, and what HTTP itself forbids.
    all.extend([414, 431]);
    all.sort_unstable();
    all.dedup();
    all
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "What came cannot be read.",
        401 => "Nobody knows who asks.",
        403 => "Who asks may not.",
        404 => "There is no such thing.",
        406 => "What is accepted is not sent here.",
        408 => "The body came too slowly.",
        410 => "It was here, and is not kept any more.",
        412 => "What `If-Match` names is not what is.",
        409 => "The state of things is against it; `detail` says which.",
        413 => "The body is too long.",
        414 => "The target is too long.",
        415 => "The body is of a type that is not understood.",
        422 => "The policy is refused; `errors` has everything that is wrong.",
        428 => "`If-Match` is missing.",
        429 => "Too much at once; `Retry-After` says when to ask again.",
        431 => "The head is too long.",
        503 => "Not now: starting, stopping, or the state cannot be written.",
        _ => "Refused.",
    }
}

fn roles(access: Access) -> Value {
    let all: Vec<&str> = match access {
        Access::Roles(roles) => roles.iter().map(Role::name).collect(),
        Access::AnyRole => Role::ALL.map(Role::name).to_vec(),
        Access::Signature | Access::Enrolment | Access::Everyone => Vec::new(),
    };
    json!(all)
}

fn security(access: Access) -> Value {
    match access {
        Access::Roles(_) | Access::AnyRole | Access::Enrolment => {
            json!([{"certificate": []}, {"token": []}])
        }
        Access::Signature | Access::Everyone => json!([]),
    }
}

fn shape(route: &Route, media: &str) -> Value {
    if media == super::routes::JSON { json!({"type": "object"}) } else { json!({"type": "string"}) }
        .as_object()
        .map_or(Value::Null, |schema| {
            let mut schema = schema.clone();
            schema.insert("description".to_owned(), json!(route.meaning));
            Value::Object(schema)
        })
}

/// Who keeps a store on a revision says why and for how long. `required` is one more field.
fn held(required: Option<&str>) -> Value {
    let text = json!({"type": "string", "minLength": 1, "maxLength": 200});
    let name = required.unwrap_or("digest");
    let required: Vec<&str> =
        ["reason", "ticket", "expiresAt"].into_iter().chain(required).collect();
    json!({
        "type": "object", "required": required, "additionalProperties": false,
        "properties": {
            name: text, "reason": text, "ticket": text,
            "expiresAt": {"type": "string", "format": "date-time"},
        },
    })
}

/// For whom a token is to be minted, and for how long.
fn enrolment() -> Value {
    json!({
        "type": "object", "required": ["id"], "additionalProperties": false,
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}$"},
            "workload": {"type": "string", "pattern": "^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$"},
            "expiresIn": {"type": "string", "pattern": DurationText::PATTERN},
        },
    })
}

/// A refusal.
fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"}, "title": {"type": "string"},
            "status": {"type": "integer"}, "detail": {"type": "string"},
            "errors": {"type": "array", "items": {"type": "object", "properties": {
                "file": {"type": "string"}, "line": {"type": "integer"},
                "column": {"type": "integer"}, "path": {"type": "string"},
                "message": {"type": "string"},
            }}},
        },
    })
}

/// What `/v1/explain` is asked.
fn question(text: &Value) -> Value {
    json!({
        "type": "object", "additionalProperties": false,
        "oneOf": [{"required": ["http"]}, {"required": ["image"]}],
        "properties": {
            "http": {
                "type": "object", "required": ["authority"],
                "additionalProperties": false,
                "properties": {
                    "method": {"type": "string"}, "authority": {"type": "string"},
                    "scheme": {"enum": ["http", "https"], "default": "http"},
                    "path": {"type": "string"},
                    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "image": {
                "type": "object", "required": ["repository"], "additionalProperties": false,
                "properties": {"registry": text, "repository": text, "digest": text},
            },
            "at": {"type": "string", "format": "date-time"},
            "via": {
                "type": "string", "maxLength": 1024,
                "description": "`http`, `forward-proxy`, `tls-passthrough`, or a listener's \
                                name. Without it CONNECT is the forward proxy's, and all else \
                                the HTTP entry's.",
            },
            "source": {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "workload": text,
                    "certificate": {
                        "type": "array", "items": {
                            "type": "string", "pattern": SanText::PATTERN,
                        },
                    },
                },
            },
            "bundle": {
                "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
            },
            "store": text,
        },
    })
}

fn schemas() -> Value {
    let digest = json!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"});
    let text = json!({"type": "string", "maxLength": 1024});
    json!({
        "Policy": {"type": "string", "description": "Documents of a policy as YAML, or a bundle."},
        "Hook": {"description": "Whatever the sender sends: only its signature counts."},
        "Problem": problem(),
        "Question": question(&text),
        "Instance": {
            "type": "object", "required": ["bootId"], "additionalProperties": false,
            "properties": {
                "bootId": text, "workload": text, "version": text, "activeDigest": digest,
            },
        },
        "Enrolment": enrolment(),
        "CertificateRequest": {
            "type": "object", "required": ["csr"], "additionalProperties": false,
            "properties": {"csr": {"type": "string", "maxLength": 8192}},
        },
        "Pin": held(None),
        "Rollback": held(Some("to")),
        "Acknowledgement": {
            "type": "object", "required": ["digest", "result"], "additionalProperties": false,
            "properties": {
                "digest": digest, "sequence": {"type": "integer", "minimum": 0},
                "result": {"enum": ["Applied", "Rejected"]}, "activeDigest": digest,
                "error": {
                    "type": "object", "required": ["code", "message"],
                    "additionalProperties": false,
                    "properties": {"code": text, "message": text, "path": text},
                },
            },
        },
    })
}

//! Secrets are planted wherever one could come in, and none may be found; what is none stays.

use serde_json::json;

use super::*;

const TOKEN: &str = "q7Zr0pXv2mK9sLw4tYb8nHc3";
const CARD: &str = "4111 1111 1111 1111";
const PEM: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHb3\n-----END PRIVATE KEY-----";

fn cleaner() -> Cleaner {
    let redacted = REDACTED_HEADERS.into_iter().chain(["x-store-pin"]);
    Cleaner { headers: redacted.map(str::to_owned).collect() }
}

/// Every place of a bundle into which people or machines write.
fn planted() -> Value {
    let modifier = json!({"set": [{"name": "X-Upstream", "value": "plain-header-word"}]});
    let condition = format!(
        "from hub: https://ci:urlpassword@hub.example/p?sig=querysecret answers 401\n \
         12 |   value: snippetword\n    |          ^ Authorization: Bearer {TOKEN}"
    );
    json!({
        "config": {"effective": {
            "routes": {"pricing": {"filters": {"requestHeaderModifier": modifier}}},
            "matches": [{"headers": [{"name": "x-any", "value": "matched-header-word"}]}],
            "response": {"statusCode": 200, "body": "the till's word is bodyword"},
            "endpoint": {"tokens": {"grafana": {"file": "/etc/tillgate/grafana.token"}}},
            "tracing": {"endpoint": "https://otlp:otlppassword@otlp.example/v1/traces"},
            "apiKeys": ["listed-key"],
            "pins": {"x-store-pin": "4711-by-policy"},
        }},
        "status": {"policy": {
            "conditions": [{"type": "Rejected", "message": condition}],
            "sources": [{"error": format!("token={TOKEN} was refused")}],
            "pin": {"reason": "the password is password=hunter22 and the card 4111-1111-1111-1111"},
        }},
        "drift": [{"observed": format!("{PEM} was found"), "subject": CARD}],
        "audit": [{"actor": "token:ops", "reason": format!("Bearer {TOKEN}"), "ticket": TOKEN}],
        "log": [
            "WARN no policy from git url=https://bot:logpassword@git.example/x.git".to_owned(),
            "{\"password\":\"jsonpassword\",\"cookie\":\"a=cookieword; b=2\"}".to_owned(),
            "X-Store-Pin: loggedpin and more".to_owned(),
            "{\\\"token\\\":\\\"nestedword\\\"}".to_owned(),
            "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIcutoff".to_owned(),
            "key 0123456789abcdef0123456789abcdef".to_owned(),
            "basic dXNlcjpiYXNpY3dvcmQ= and eyJhbGciOi.payload".to_owned(),
        ],
    })
}

const SECRETS: [&str; 24] = [
    TOKEN,
    CARD,
    "4111-1111-1111-1111",
    "MC4CAQAwBQYDK2VwBCIEIHb3",
    "MHcCAQEEIIcutoff",
    "plain-header-word",
    "matched-header-word",
    "bodyword",
    "otlppassword",
    "listed-key",
    "4711-by-policy",
    "urlpassword",
    "querysecret",
    "snippetword",
    "hunter22",
    "logpassword",
    "jsonpassword",
    "cookieword",
    "loggedpin",
    "nestedword",
    "0123456789abcdef0123456789abcdef",
    "dXNlcjpiYXNpY3dvcmQ=",
    "eyJhbGciOi",
    "otlp:",
];

/// Every string of a document, and every name.
fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|one| strings(one, found)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            found.push(name.clone());
            strings(value, found);
        }),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => found.push(other.to_string()),
    }
}

fn has(value: &Value, secret: &str) -> bool {
    let mut found = Vec::new();
    strings(value, &mut found);
    found.iter().any(|text| text.contains(secret))
}

#[test]
fn no_secret_is_left_wherever_it_was_put() {
    let planted = planted();
    let cleaned = cleaner().clean(planted.clone());
    for secret in SECRETS {
        assert!(has(&planted, secret), "{secret} was not planted");
        assert!(!has(&cleaned, secret), "{secret} is left: {cleaned:#}");
    }
}

#[test]
fn what_people_need_to_help_stays() {
    let digest = format!("sha256:{}", "0411111111111111".repeat(4));
    let kept = json!({
        "digest": digest,
        "revision": "main@sha1:132f4e719209eb10b9485302f8593fc0e680f4fc",
        "actor": "token:grafana",
        "tokens": {"grafana": {"file": "/etc/tillgate/grafana.token", "roles": ["viewer"]}},
        "passwordFile": "/etc/tillgate/registry.password",
        "sessionName": "till",
        "at": "2026-11-27T20:10:00Z",
        "path": {"type": "PathPrefix", "value": "/v1/quote"},
        "line": "line primary: up 5Mbit/s, down 20Mbit/s; listener http on 127.0.0.1:8080",
        "folder": format!("/var/lib/tillgate/bundles/{}", "ab01".repeat(16)),
        "instance": "7f9c1c2e-0b1d-4c59-a9a4-3f6f0b8d2e11",
        "certificate": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "bytes": 4_111_111_111_111_111_u64,
    });
    assert_eq!(cleaner().clean(kept.clone()), kept);
}

#[test]
fn text_keeps_what_is_around_a_secret() {
    let cleaner = cleaner();
    for (line, wanted) in [
        (
            "no policy from https://ci:hunter2@git.example/x",
            "no policy from https://[redacted]@git.example/x",
        ),
        ("two http://a@b/ and ftp://c:d@e", "two http://[redacted]@b/ and ftp://[redacted]@e"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("GET /x?token=abc&b=1 done", "GET /x?token=[redacted]&b=1 done"),
        ("it says \"Password=ü\" twice", "it says \"Password=[redacted]\" twice"),
        ("mail a@b and https://plain.example/@x", "mail a@b and https://plain.example/@x"),
        ("a bearer of news", "a bearer [redacted] news"),
        ("", ""),
    ] {
        assert_eq!(cleaner.text(line), wanted);
    }
}

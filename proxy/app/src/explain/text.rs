//! An explanation for people: the same that machines get, a line for each thing.

use std::fmt::Write as _;

use serde_json::Value;

use super::Explanation;

impl Explanation<'_> {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let shown = self.to_json();
        let mut out = format!("{} {}\n", word(&shown["request"]["method"]), target(&shown));
        line(&mut out, "route", &named(&shown["route"], &shown["rule"], &shown["origin"]));
        line(&mut out, "matched", &plain(&shown["matched"]));
        let class = &shown["trafficClass"];
        let why = [word(&class["why"]), place(&class["origin"])].concat();
        line(&mut out, "class", &format!("{}: {why}", word(&class["name"])));
        if !shown["gate"].is_null() {
            line(&mut out, "gate", &plain(&shown["gate"]));
        }
        if !shown["answer"].is_null() {
            line(&mut out, "answer", &plain(&shown["answer"]));
            return out;
        }
        line(&mut out, "timeouts", &plain(&shown["timeouts"]));
        let (mut retry, key) = (shown["retry"].clone(), &shown["idempotency"]);
        let permission = retry["permission"].take();
        let (may, why) = (word(&permission["where"]), word(&permission["why"]));
        line(&mut out, "unsent", "always goes elsewhere: that is no second execution");
        line(&mut out, "sent again", &format!("{may}: {why}"));
        if let Some(fields) = retry.as_object_mut() {
            fields.remove("permission");
        }
        line(&mut out, "retry", &plain(&retry));
        if !key.is_null() {
            let written = key["scopeIsWritten"] == true;
            let scope = if written { "" } else { " (not written, so the default)" };
            let (header, name) = (word(&key["header"]), word(&key["scope"]));
            line(&mut out, "key", &format!("{header}, scope {name}{scope}"));
            line(&mut out, "", &word(&key["means"]));
        }
        for (number, tier) in shown["tiers"].as_array().into_iter().flatten().enumerate() {
            let name = format!("tier {}", number + 1);
            for one in tier.as_array().into_iter().flatten() {
                line(&mut out, &name, &backend(one));
            }
        }
        line(&mut out, "failover", &plain(&shown["failover"]));
        if !shown["sessionPersistence"].is_null() {
            line(&mut out, "session", &plain(&shown["sessionPersistence"]));
        }
        out
    }
}

fn line(out: &mut String, name: &str, text: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{name:<11}{text}");
}

fn target(shown: &Value) -> String {
    word(&shown["request"]["target"])
}

fn named(route: &Value, rule: &Value, origin: &Value) -> String {
    format!("{}, rule {}{}", word(route), word(rule), place(origin))
}

fn place(origin: &Value) -> String {
    origin.as_str().map_or(String::new(), |origin| format!(" ({origin})"))
}

fn backend(one: &Value) -> String {
    let endpoints = one["endpoints"].as_array().into_iter().flatten().map(word);
    let across = one["line"].as_str().map_or(String::new(), |line| format!(" across {line}"));
    format!(
        "{} ({}{across}, {}, weight {}): {}",
        word(&one["backend"]),
        word(&one["location"]),
        word(&one["protocol"]),
        one["weight"],
        endpoints.collect::<Vec<_>>().join(", ")
    )
}

/// A text without its quotes; anything else as it is.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `request 3s, retry.codes 503`: single values with the names that lead to them.
fn plain(value: &Value) -> String {
    fn descend(value: &Value, name: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    descend(value, &name, found);
                }
            }
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(plain_or_word).collect();
                found.push(format!("{name} [{}]", items.join("; ")));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                found.push(format!("{name} {}", word(value)));
            }
        }
    }
    let mut found = Vec::new();
    descend(value, "", &mut found);
    found.join(", ")
}

fn plain_or_word(value: &Value) -> String {
    if value.is_object() { plain(value) } else { word(value) }
}

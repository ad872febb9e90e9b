//! An explanation for people: the same that machines get, a line for each thing.

use std::fmt::Write as _;

use serde_json::Value;

/// For people, whatever was asked about, and whoever has answered.
pub(crate) fn of(shown: &Value) -> String {
    if shown["destination"].is_object() {
        egress(shown)
    } else if shown["refused"].is_string() {
        refused(shown)
    } else if shown["image"].is_object() {
        image(shown)
    } else if shown["mirror"].is_object() {
        mirror(shown)
    } else {
        request(shown)
    }
}

fn refused(shown: &Value) -> String {
    let mut out = format!("no rule: {}: {}\n", word(&shown["refused"]), word(&shown["detail"]));
    rejected(&mut out, shown);
    let other = &shown["forwardProxy"];
    if other.is_object() {
        out.push_str("but at the forward proxy:\n");
        out.push_str(&of(other));
    }
    out
}

/// What the registry mirror answers. Whether an image may be pulled now is a question of its own.
fn mirror(shown: &Value) -> String {
    let mut out = format!("{} {}\n", word(&shown["request"]["method"]), target(shown));
    let mirror = &shown["mirror"];
    let name = format!("RegistryMirror/{}{}", word(&mirror["name"]), place(&shown["origin"]));
    line(&mut out, "mirror", &name);
    let registry = word(&mirror["registry"]);
    line(&mut out, "registry", &registry);
    class(&mut out, &shown["trafficClass"]);
    if let Some(repository) = mirror["repository"].as_str() {
        let question = format!("tillgate explain --image {registry}/{repository}@sha256:… tells");
        line(&mut out, "gate", &question);
    }
    now(&mut out, &shown["now"]);
    out
}

/// What the egress policy decides.
fn egress(shown: &Value) -> String {
    let method = word(&shown["request"]["method"]);
    let mut out = format!("{method} {} by {}\n", target(shown), word(&shown["via"]));
    if shown["byAddress"].is_array() {
        line(&mut out, "by address", &words(&shown["because"]));
        for one in items(&shown["byAddress"]) {
            line(&mut out, "to", &words(&one["addresses"]));
            way(&mut out, one);
        }
    } else {
        way(&mut out, shown);
    }
    if let Some(why) = shown["unless"].as_str() {
        line(&mut out, "unless", why);
    }
    rejected(&mut out, shown);
    now(&mut out, &shown["now"]);
    out
}

/// What a verdict leads to.
fn way(out: &mut String, way: &Value) {
    let rule = way["egressRule"].as_str().map(|name| format!("EgressPolicy, rule {name}"));
    let rule = rule.unwrap_or_else(|| words(&way["because"]));
    let because = if way["egressRule"].is_null() { String::new() } else { words(&way["because"]) };
    let verdict = word(&way["verdict"]).to_lowercase();
    line(out, &verdict, &format!("{rule}{}", place(&way["origin"])));
    if !because.is_empty() {
        line(out, "matched", &because);
    }
    if way["trafficClass"].is_null() {
        return;
    }
    class(out, &way["trafficClass"]);
    if !way["gate"].is_null() {
        line(out, "gate", &plain(&way["gate"]));
    }
    let across = way["line"].as_str().unwrap_or("none: it stays in the store");
    line(out, "line", across);
}

fn class(out: &mut String, class: &Value) {
    let why = [word(&class["why"]), place(&class["origin"])].concat();
    let (name, priority) = (word(&class["name"]), &class["priority"]);
    line(out, "class", &format!("{name}, priority {priority}: {why}"));
}

fn request(shown: &Value) -> String {
    let mut out = format!("{} {}\n", word(&shown["request"]["method"]), target(shown));
    line(&mut out, "route", &named(&shown["route"], &shown["rule"], &shown["origin"]));
    line(&mut out, "matched", &words(&shown["because"]));
    rejected(&mut out, shown);
    class(&mut out, &shown["trafficClass"]);
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
    now(&mut out, &shown["now"]);
    out
}

/// How things are in a running gateway.
fn now(out: &mut String, now: &Value) {
    for (number, tier) in items(&now["rule"]["tiers"]).enumerate() {
        let is_active = now["rule"]["activeTier"] == number;
        let takes = if is_active { ", takes the calls" } else { "" };
        let state = format!("{}: {}{takes}", words(&tier["backends"]), word(&tier["state"]));
        line(out, &format!("now tier {}", number + 1), &state);
    }
    for one in items(&now["endpoints"]) {
        let (backend, address) = (word(&one["backend"]), word(&one["endpoint"]));
        let why = one["why"].as_str().map_or(String::new(), |why| format!(", {why}"));
        line(out, "server", &format!("{backend} {address}: {}{why}", word(&one["state"])));
    }
    for one in items(&now["links"]) {
        let (name, state) = (word(&one["name"]), word(&one["state"]));
        let queue = &one["queue"];
        line(
            out,
            "line",
            &format!(
                "{name}: {state}, {} waiting for a connection, {} for a turn, mean wait {} ms up, \
                 {} ms down",
                queue["waiting"],
                queue["parked"],
                queue["meanWaitMs"]["up"],
                queue["meanWaitMs"]["down"]
            ),
        );
    }
}

/// What else nearly matched.
fn rejected(out: &mut String, shown: &Value) {
    for one in items(&shown["rejected"]) {
        let (document, rule) = (word(&one["document"]), word(&one["rule"]));
        let because = word(&one["because"]);
        let text = format!("{document}, rule {rule}{}: {because}", place(&one["origin"]));
        line(out, "rejected", &text);
    }
}

fn image(shown: &Value) -> String {
    let image = &shown["image"];
    let (registry, repository) = (word(&image["registry"]), word(&image["repository"]));
    let mut out = format!("{registry}/{repository}@{}\n", word(&image["digest"]));
    line(&mut out, "at", &format!("{}, clock {}", word(&shown["at"]), word(&shown["clock"])));
    let told = &shown["told"];
    let reason = told["reason"].as_str().map_or(String::new(), |reason| format!(", {reason}"));
    let verdict = word(&shown["verdict"]);
    line(&mut out, "verdict", &format!("{verdict}: {}{reason}", told["status"]));
    for one in items(&shown["heldBy"]) {
        line(&mut out, "held by", &format!("{}{}", word(&one["document"]), place(&one["origin"])));
    }
    for one in items(&shown["suspended"]) {
        let (document, by) = (word(&one["document"]), word(&one["by"]));
        line(&mut out, "suspended", &format!("{document} by {by}"));
    }
    if let Some(next) = shown["nextOpen"].as_str().filter(|_| verdict != "Open") {
        line(&mut out, "opens", next);
    }
    let rollout = &shown["rollout"];
    if rollout.is_object() {
        let place = place(&rollout["origin"]);
        let (document, release) = (word(&rollout["document"]), word(&rollout["release"]));
        let names =
            if rollout["namesThisImage"] == true { "" } else { ", which has another image" };
        line(&mut out, "rollout", &format!("{document}{place}, release {release}{names}"));
        let ring = rollout["ring"].as_str().unwrap_or("none");
        let (rings, through) = (words(&rollout["rings"]), word(&rollout["releasedThrough"]));
        line(&mut out, "ring", &format!("{ring} of {rings}; released through {through}"));
        for one in items(&rollout["promotions"]) {
            let (name, through, at) = (word(&one["name"]), word(&one["through"]), word(&one["at"]));
            line(&mut out, "promotion", &format!("{name} through {through} at {at}"));
        }
    }
    for one in items(&shown["calendar"]) {
        let state = if one["isActive"] == true { "active" } else { "not active" };
        let (document, effect) = (word(&one["document"]), word(&one["effect"]));
        let reason = one["reason"].as_str().map_or(String::new(), |it| format!(": {it}"));
        let place = place(&one["origin"]);
        line(&mut out, &effect.to_lowercase(), &format!("{document}{place}, {state}{reason}"));
    }
    let store = &shown["store"];
    line(&mut out, "store has", &word(&store["holds"]));
    out
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn words(value: &Value) -> String {
    items(value).map(word).collect::<Vec<_>>().join(", ")
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

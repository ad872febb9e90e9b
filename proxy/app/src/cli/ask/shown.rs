//! What a gateway answers, for people: a few lines of text instead of a document.
//!
//! What is not there is shown as `-`; a newer gateway may say more than is shown here.

use serde_json::Value;

use crate::cli::policy::Answer;

/// A text as it is, anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    if value.is_null() {
        return "-".to_owned();
    }
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `/v1/status`, on one screen.
pub(crate) fn status(value: &Value) -> String {
    let why = value["notReady"].as_str();
    let ready = why.map_or_else(|| "ready".to_owned(), |why| format!("not ready: {why}"));
    let mut out = format!(
        "{}, Tillgate {}, {ready}\nconfig {}\n",
        text(&value["store"]),
        text(&value["version"]),
        text(&value["digest"])
    );
    let held = &value["policy"]["pin"];
    if held["pinned"] == true {
        out.push_str(&pin(held));
    }
    for link in list(&value["links"]) {
        out.push_str(&format!(
            "line {}: up {}, down {}, {} connections\n",
            text(&link["name"]),
            text(&link["up"]["capacity"]),
            text(&link["down"]["capacity"]),
            link["connections"]
        ));
        for (up, down) in list(&link["up"]["classes"]).zip(list(&link["down"]["classes"])) {
            let share = |one: &Value| one["sharePercent"].as_f64().unwrap_or_default();
            out.push_str(&format!(
                "  {:<18} up {:>5.1} %   down {:>5.1} %\n",
                text(&up["name"]),
                share(up),
                share(down)
            ));
        }
    }
    for one in list(&value["listeners"]) {
        out.push_str(&format!("listener {} {}\n", text(&one["name"]), text(&one["address"])));
    }
    for one in list(&value["notInEffect"]) {
        out.push_str(&format!("not in effect: {}\n", text(one)));
    }
    out
}

/// `/v1/revisions`, one a line.
pub(crate) fn history(value: &Value) -> String {
    let line = |one: &Value| {
        let mark = if one["current"] == true { "*" } else { " " };
        let mut line = format!(
            "{mark} {:>4}  {}  {}",
            text(&one["sequence"]),
            text(&one["since"]),
            text(&one["digest"])
        );
        if let Some(revision) = one["revision"].as_str() {
            line.push_str(&format!("  {revision}  {}", text(&one["fate"])));
            let names = list(&one["names"]).map(text).collect::<Vec<_>>().join(", ");
            let kept = if one["kept"] == true { names } else { "not kept".to_owned() };
            if !kept.is_empty() {
                line.push_str(&format!(" ({kept})"));
            }
        }
        line + "\n"
    };
    list(&value["revisions"]).map(line).collect()
}

/// `/v1/pin`, in a line.
pub(crate) fn pin(value: &Value) -> String {
    if value["pinned"] != true {
        return "not pinned\n".to_owned();
    }
    format!(
        "pinned to {} until {} by {}: {} ({})\n",
        text(&value["digest"]),
        text(&value["expiresAt"]),
        text(&value["actor"]),
        text(&value["reason"]),
        text(&value["ticket"])
    )
}

/// `/v1/operations/{id}`, in a line.
pub(crate) fn operation(value: &Value) -> String {
    let outcome = if value["error"].is_null() { &value["digest"] } else { &value["error"] };
    let held = value["held"].as_str().map(|why| format!(", and held: {why}")).unwrap_or_default();
    format!("{}: {}: {}{held}\n", text(&value["kind"]), text(&value["state"]), text(outcome))
}

/// A refusal that came as JSON, in a line.
pub(crate) fn refusal(answer: Answer) -> Answer {
    let problem: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
    let Some(detail) = problem["detail"].as_str() else { return answer };
    let stderr = format!("error: {} {}: {detail}\n", problem["status"], text(&problem["title"]));
    Answer { stdout: String::new(), stderr, ..answer }
}

/// Changes by path, as the offline `diff` writes them.
pub(super) fn changes(value: &Value) -> String {
    if !has_changes(value) {
        return "no difference\n".to_owned();
    }
    let line = |one: &Value| {
        format!("{}: {} -> {}\n", text(&one["path"]), text(&one["before"]), text(&one["after"]))
    };
    list(&value["changes"]).map(line).collect()
}

pub(super) fn has_changes(value: &Value) -> bool {
    list(&value["changes"]).next().is_some()
}

/// `/v1/explain`: meets no rule, or is not served now.
pub(in crate::cli) fn is_refused(value: &Value) -> bool {
    value["refused"].is_string() || value["told"]["status"].as_u64().is_some_and(|it| it != 200)
}

/// `/v1/plan`: changes, what they do to what is under way, and what the guards refuse.
pub(super) fn plan(value: &Value) -> String {
    let mut out = changes(value);
    let names = |of: &Value| list(of).map(text).collect::<Vec<_>>().join(", ");
    let impact = &value["impact"];
    for (what, of) in [
        ("listeners that end", &impact["listenersDrained"]),
        ("listeners that begin", &impact["listenersOpened"]),
        ("classes with other numbers", &impact["classesResized"]),
    ] {
        if list(of).next().is_some() {
            out.push_str(&format!("{what}: {}\n", names(of)));
        }
    }
    for one in list(&impact["connectionsDrained"]) {
        let at = if one["listener"].is_null() { &one["endpoint"] } else { &one["listener"] };
        out.push_str(&format!("connections that end at {}: {}\n", text(at), one["connections"]));
    }
    for (what, of) in [("opens", &impact["gatesOpened"]), ("held", &impact["gatesClosed"])] {
        for one in list(of) {
            let named = if one["rule"].is_null() { &one["document"] } else { &one["rule"] };
            let release = one["release"].as_str().map_or(String::new(), |it| format!(" {it}"));
            let by = if what == "held" {
                format!(" by {}", names(&one["heldBy"]))
            } else {
                String::new()
            };
            out.push_str(&format!("{what}{by}: {}{release}\n", text(named)));
        }
    }
    for one in list(&value["refusals"]) {
        out.push_str(&format!("refused: {}\n", text(&one["message"])));
    }
    out
}

pub(super) fn has_refusals(value: &Value) -> bool {
    list(&value["refusals"]).next().is_some()
}

/// `/v1/windows`: in UTC; the store's own clocks are in its policy.
pub(super) fn windows(value: &Value) -> String {
    let mut out = format!(
        "{} ({}), {} to {}\n",
        text(&value["store"]),
        text(&value["timeZone"]),
        text(&value["from"]),
        text(&value["until"])
    );
    let interval = |one: &Value| format!("  {} .. {}\n", text(&one["from"]), text(&one["until"]));
    for one in list(&value["windows"]) {
        out.push_str(&format!("\n{} {}\n", text(&one["document"]), text(&one["effect"])));
        out.extend(list(&one["intervals"]).map(interval));
    }
    for one in list(&value["rollouts"]) {
        let held = list(&one["heldBy"]).map(text).collect::<Vec<_>>().join(", ");
        let held = if held.is_empty() { "open".to_owned() } else { format!("held by {held}") };
        let ring = text(&one["ring"]);
        out.push_str(&format!("\n{}, ring {ring}: {held}\n", text(&one["document"])));
        out.extend(list(&one["intervals"]).map(interval));
    }
    if list(&value["windows"]).chain(list(&value["rollouts"])).next().is_none() {
        out.push_str("no windows, freezes or rollouts: nothing holds a change\n");
    }
    out
}

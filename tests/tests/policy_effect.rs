//! Nothing in a policy is without effect in silence: every leaf of every example changes the
//! effective config when it changes, or is listed as not in effect; and every value of the
//! effective config is read by the proxy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;
use tillgate_config::{Effective, check_text, yaml};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn documents(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(root(path)).unwrap();
    let file = path.into();
    yaml::split(&text).into_iter().map(|chunk| yaml::typed(&file, chunk).unwrap()).collect()
}

/// The documents as one policy: JSON is YAML.
fn compile(documents: &[Value]) -> Option<Effective> {
    let texts: Vec<String> = documents.iter().map(ToString::to_string).collect();
    check_text("example.yaml", &texts.join("\n---\n")).effective
}

/// A step from a document to a value in it.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// Every scalar below `value`, by its path.
fn leaves(value: &Value, path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    let mut below = |step: Step, value: &Value| {
        path.push(step);
        leaves(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| below(Step::Key(key.clone()), value));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| below(Step::Index(at), value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.push(path.clone());
        }
    }
}

fn at<'v>(document: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(document, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Index(index) => &mut value[*index],
    })
}

fn remove(document: &mut Value, path: &[Step]) {
    let (last, above) = path.split_last().unwrap();
    match (last, at(document, above)) {
        (Step::Key(key), Value::Object(object)) => drop(object.remove(key)),
        (Step::Index(index), Value::Array(items)) => drop(items.remove(*index)),
        (step, other) => panic!("{step:?} of {other}"),
    }
}

/// Other values for a leaf that says what is the default anyway: a larger number, the other
/// answer, another word of the same list.
fn others(leaf: &Value) -> Vec<Value> {
    const WORDS: [&[&str]; 13] = [
        &["Finish", "Pause"],
        &["Cookie", "Header"],
        &["PathPrefix", "Exact"],
        &["metrics", "control"],
        &["EF", "AF41"],
        &["1.2", "1.3"],
        &["Local", "Cloud"],
        &["Full", "Prefix"],
        &["stdout", "/var/log/tillgate.log"],
        &["RoundRobin", "LeastRequest"],
        &["Allow", "Deny"],
        &["Backend", "AllBackends"],
        &["Primary", "Backup"],
    ];
    let number = Regex::new("[0-9]+").unwrap();
    match leaf {
        Value::Bool(flag) => vec![Value::Bool(!flag)],
        Value::Number(number) => vec![Value::from(number.as_u64().unwrap() + 1)],
        Value::String(text) => {
            let lists = WORDS.iter().filter(|list| list.contains(&text.as_str()));
            let words = lists.flat_map(|list| list.iter().filter(|word| *word != text));
            let mut other: Vec<Value> = words.map(|word| Value::from(*word)).collect();
            let more = number.replace(text, |found: &regex::Captures<'_>| {
                (found[0].parse::<u64>().unwrap() + 1).to_string()
            });
            other.push(Value::from(more.into_owned()));
            other
        }
        Value::Null | Value::Array(_) | Value::Object(_) => panic!("{leaf} is no leaf"),
    }
}

fn text_of(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.push_str(&format!(".{key}")),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Words that the language has one of: they say aloud what a reader should know.
const ONLY: [&str; 3] = ["format", "onFull", "capacityFrom"];

/// Whether a field, or what it is part of, is listed as not in effect.
fn is_listed(effective: &Effective, document: &Value, path: &str) -> bool {
    let title = format!(
        "{}/{}",
        document["kind"].as_str().unwrap(),
        document["metadata"]["name"].as_str().unwrap_or_default()
    );
    effective.not_in_effect.iter().any(|one| {
        let whole = *one.field == *title;
        let field = one.field.strip_prefix(&*title).and_then(|rest| rest.strip_prefix(' '));
        // Some have a remark behind them.
        let field = field.map(|field| field.split(" (").next().unwrap());
        whole
            || field.is_some_and(|field| {
                path.strip_prefix(field)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
    })
}

/// Leaves of `documents` that may say anything.
fn idle_leaves(documents: &[Value]) -> Vec<String> {
    let before = compile(documents).expect("the example is valid");
    let mut idle = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let mut paths = Vec::new();
        leaves(&document["spec"], &mut vec![Step::Key("spec".into())], &mut paths);
        let is_only =
            |path: &[Step]| matches!(path.last(), Some(Step::Key(key)) if ONLY.contains(&&**key));
        for path in paths.into_iter().filter(|path| !is_only(path)) {
            let text = text_of(&path);
            let differs = |change: &dyn Fn(&mut Value)| {
                let mut documents = documents.to_vec();
                change(&mut documents[index]);
                // What is refused was understood, and what is said elsewhere has changed.
                compile(&documents).is_none_or(|after| after.digest != before.digest)
            };
            let leaf = at(&mut document.clone(), &path).clone();
            let has_effect = differs(&|document| remove(document, &path))
                || others(&leaf)
                    .iter()
                    .any(|other| differs(&|document| *at(document, &path) = other.clone()));
            if !has_effect && !is_listed(&before, document, &text) {
                idle.push(format!(
                    "{} {text}: {leaf} (document {index})",
                    document["kind"].as_str().unwrap()
                ));
            }
        }
    }
    idle
}

#[test]
fn every_leaf_of_the_single_files_has_an_effect_or_is_listed() {
    for file in ["config/examples/dataplane.yaml", "config/examples/quickstart.yaml"] {
        let idle = idle_leaves(&documents(file));
        assert!(
            idle.is_empty(),
            "{file}: without effect, and nobody says so:\n{}",
            idle.join("\n")
        );
    }
}

#[test]
fn every_leaf_of_the_fleet_has_an_effect_somewhere_or_is_listed() {
    let folder = "config/examples/fleet/policy";
    let mut shared = Vec::new();
    for part in ["base", "rollouts", "windows", "overrides"] {
        let mut files: Vec<PathBuf> =
            fs::read_dir(root(folder).join(part)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "yaml")) {
            let name = file.file_name().unwrap().to_str().unwrap();
            shared.extend(documents(&format!("{folder}/{part}/{name}")));
        }
    }
    let stores: Vec<Value> = ["no", "dk-fi"]
        .iter()
        .flat_map(|file| documents(&format!("{folder}/stores/{file}.yaml")))
        .collect();
    let mut idle: Option<Vec<String>> = None;
    for store in stores {
        let all: Vec<Value> = std::iter::once(store).chain(shared.iter().cloned()).collect();
        let here: Vec<String> =
            idle_leaves(&all).into_iter().filter(|leaf| !leaf.starts_with("Store ")).collect();
        // A document may be for other stores than this one.
        idle = Some(match idle {
            None => here,
            Some(others) => others.into_iter().filter(|leaf| here.contains(leaf)).collect(),
        });
    }
    let idle = idle.expect("there are stores");
    assert!(idle.is_empty(), "without effect, and nobody says so:\n{}", idle.join("\n"));
}

#[test]
fn a_leaf_without_effect_would_be_found() {
    let mut documents = documents("config/examples/dataplane.yaml");
    let policy = documents.iter_mut().find(|one| one["kind"] == "TelemetryPolicy").unwrap();
    // In the language, and not built.
    policy["spec"]["buffer"] = serde_json::json!({"limit": "1Mi"});
    let policy = policy.clone();
    let path = [Step::Key("spec".into()), Step::Key("buffer".into()), Step::Key("limit".into())];
    let effective = compile(&documents).expect("still valid");
    assert!(is_listed(&effective, &policy, &text_of(&path)));
    let at_place = documents.iter().position(|one| *one == policy).unwrap();
    remove(&mut documents[at_place], &path);
    let without = compile(&documents).expect("still valid");
    assert_eq!(without.digest, effective.digest, "it has no effect indeed");
    let unlisted = Effective { not_in_effect: Vec::new(), ..effective };
    assert!(!is_listed(&unlisted, &policy, &text_of(&path)), "and would be found");
}

/// Public fields of the structs in a source file.
fn fields_of(source: &str) -> Vec<String> {
    let field = Regex::new(r"(?m)^    pub (\w+): ").unwrap();
    let body = source.split("#[cfg(test)]").next().unwrap();
    field.captures_iter(body).map(|found| found[1].to_owned()).collect()
}

fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text.split("#[cfg(test)]").next().unwrap().to_owned()));
        }
    }
}

#[test]
fn every_value_of_the_effective_config_is_read_by_the_proxy() {
    let mut proxy = Vec::new();
    for folder in ["proxy/app/src", "proxy/net/src", "proxy/core/src"] {
        sources(&root(folder), &mut proxy);
    }
    let defined = [
        "config/src/effective.rs",
        "config/src/effective/telemetry.rs",
        "proxy/core/src/listener.rs",
        "proxy/core/src/tls.rs",
        "proxy/core/src/backend.rs",
        "proxy/core/src/class.rs",
        "proxy/core/src/link.rs",
        "proxy/core/src/limit.rs",
        "proxy/core/src/filter.rs",
        "proxy/core/src/retry.rs",
        "proxy/core/src/health.rs",
    ];
    let mut unread = Vec::new();
    let mut count = 0;
    for file in defined {
        let path = root(file);
        for field in fields_of(&fs::read_to_string(&path).unwrap()) {
            count += 1;
            // Read as `.field`, or taken apart by name.
            let read = Regex::new(&format!(r"\.{field}\b|[{{,]\s*{field}\s*[,:}}]")).unwrap();
            let elsewhere = proxy.iter().any(|(at, text)| {
                at.canonicalize().unwrap() != path.canonicalize().unwrap() && read.is_match(text)
            });
            let inside = fs::read_to_string(&path).unwrap();
            let itself = Regex::new(&format!(r"self\.{field}\b")).unwrap();
            if !elsewhere && !itself.is_match(&inside) {
                unread.push(format!("{file}: {field}"));
            }
        }
    }
    assert!(count > 100, "only {count} fields were found");
    // Of the config as a whole, for `tillgate config` and reports; no decision of the proxy.
    let for_people = [
        "config/src/effective.rs: origins",
        "config/src/effective.rs: field",
        "config/src/effective.rs: origin",
    ];
    unread.retain(|one| !for_people.contains(&one.as_str()));
    assert!(unread.is_empty(), "compiled, and read by nobody:\n{}", unread.join("\n"));
}

//! The JSON Schema: what is committed is what the types say, and it agrees with the parser.
//!
//! `TILLGATE_BLESS=1 cargo test -p tillgate-tests --test policy_schema` writes `config/schema/`.
//! The checker below knows just the words that our schemas use, and stops at any other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;
use tillgate_config::kinds::Kind;
use tillgate_config::{check_text, schema, yaml};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn the_committed_schemas_are_those_of_the_types() {
    let dir = root("config/schema");
    let mut files = vec![("all.json".to_owned(), schema::all())];
    files.extend(Kind::ALL.map(|kind| (schema::file_name(kind), schema::of_kind(kind))));
    for (name, value) in files {
        let text = format!("{value:#}\n");
        if std::env::var_os("TILLGATE_BLESS").is_some() {
            fs::write(dir.join(&name), &text).unwrap();
        }
        let committed = fs::read_to_string(dir.join(&name)).unwrap_or_default();
        assert!(committed == text, "config/schema/{name} is not that of the types: bless it");
    }
}

/// Why `value` does not fit `schema`, with the path; empty if it does.
fn misfits(schema: &Value, root: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Some(words) = schema.as_object() else {
        return if schema == &Value::Bool(false) {
            vec![format!("{path}: nothing fits")]
        } else {
            found
        };
    };
    for (word, rule) in words {
        match word.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "default" | "format" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').expect("local references");
                found.extend(misfits(root.pointer(pointer).unwrap(), root, value, path));
            }
            "allOf" | "anyOf" | "oneOf" => found.extend(combined(word, rule, root, value, path)),
            "properties"
            | "additionalProperties"
            | "propertyNames"
            | "patternProperties"
            | "required"
            | "items" => found.extend(inside(word, schema, root, value, path)),
            _ if !holds(word, rule, value) => found.push(format!("{path}: {word} {rule}")),
            _ => {}
        }
    }
    found
}

fn combined(word: &str, rule: &Value, root: &Value, value: &Value, path: &str) -> Vec<String> {
    let all: Vec<Vec<String>> =
        rule.as_array().unwrap().iter().map(|one| misfits(one, root, value, path)).collect();
    let fitting = all.iter().filter(|misfits| misfits.is_empty()).count();
    match word {
        "allOf" => all.concat(),
        "anyOf" if fitting == 0 => all.concat(),
        "oneOf" if fitting != 1 => vec![format!("{path}: {fitting} of oneOf fit")],
        _ => Vec::new(),
    }
}

fn inside(word: &str, schema: &Value, root: &Value, value: &Value, path: &str) -> Vec<String> {
    let rule = &schema[word];
    let below = |rule: &Value, key: &str, value: &Value| {
        misfits(rule, root, value, &format!("{path}.{key}"))
    };
    match (word, value) {
        ("items", Value::Array(items)) => items
            .iter()
            .enumerate()
            .flat_map(|(at, item)| below(rule, &at.to_string(), item))
            .collect(),
        ("required", Value::Object(object)) => rule
            .as_array()
            .unwrap()
            .iter()
            .filter(|name| !object.contains_key(name.as_str().unwrap()))
            .map(|name| format!("{path}: {name} is missing"))
            .collect(),
        ("properties", Value::Object(object)) => rule
            .as_object()
            .unwrap()
            .iter()
            .filter_map(|(key, rule)| Some(below(rule, key, object.get(key)?)))
            .flatten()
            .collect(),
        ("patternProperties", Value::Object(object)) => {
            let patterns = rule.as_object().unwrap();
            let fits = |pattern: &String, key: &String| Regex::new(pattern).unwrap().is_match(key);
            let pairs =
                patterns.iter().flat_map(|one| object.iter().map(move |entry| (one, entry)));
            pairs
                .filter(|((pattern, _), (key, _))| fits(pattern, key))
                .flat_map(|((_, rule), (key, value))| below(rule, key, value))
                .collect()
        }
        ("additionalProperties", Value::Object(object)) => {
            let known = |key: &String| {
                let named = schema["properties"].get(key).is_some();
                let patterns = schema["patternProperties"].as_object();
                named
                    || patterns.is_some_and(|all| {
                        all.keys().any(|pattern| Regex::new(pattern).unwrap().is_match(key))
                    })
            };
            let rest = object.iter().filter(|(key, _)| !known(key));
            rest.flat_map(|(key, value)| below(rule, key, value)).collect()
        }
        ("propertyNames", Value::Object(object)) => {
            object.keys().flat_map(|key| below(rule, key, &Value::String(key.clone()))).collect()
        }
        _ => Vec::new(),
    }
}

fn holds(word: &str, rule: &Value, value: &Value) -> bool {
    let length = |least: bool| {
        let size = value.as_array().map(|items| items.len() as u64);
        size.is_none_or(|size| {
            if least { size >= rule.as_u64().unwrap() } else { size <= rule.as_u64().unwrap() }
        })
    };
    match word {
        "type" => match rule.as_str().expect("one type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            other => panic!("a schema uses the type {other}"),
        },
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "pattern" => value
            .as_str()
            .is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)),
        "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().unwrap()),
        "maximum" => value.as_u64().is_none_or(|number| number <= rule.as_u64().unwrap()),
        "minItems" => length(true),
        "maxItems" => length(false),
        other => panic!("a schema uses the word {other}, which this test does not know"),
    }
}

/// What the schemas say against the documents of a file; `None` where it is no YAML at all.
fn schema_verdict(text: &str) -> Option<Vec<String>> {
    let file = "file".into();
    let mut found = Vec::new();
    for chunk in yaml::split(text.trim_start_matches('\u{feff}')) {
        yaml::no_tabs(&file, chunk).ok()?;
        let value: Value = yaml::typed(&file, chunk).ok()?;
        let kind = value["kind"].as_str().and_then(Kind::by_name);
        match kind {
            Some(kind) => {
                let schema = schema::of_kind(kind);
                found.extend(misfits(&schema, &schema, &value, kind.name()));
            }
            None => found.push("the kind is not in all.json".to_owned()),
        }
    }
    Some(found)
}

fn policies(dir: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = fs::read_dir(root(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn what_the_compiler_accepts_the_schema_accepts() {
    let fleet = ["", "/base", "/rollouts", "/windows", "/overrides", "/stores"]
        .map(|folder| format!("config/examples/fleet/policy{folder}"));
    let others = ["tests/policy/good", "config/examples", "config/examples/fleet/bootstrap"];
    for dir in fleet.iter().map(String::as_str).chain(others) {
        for (name, text) in policies(dir) {
            // Its whole point is texts that an editor reads as something else.
            if name.ends_with("lints.yaml") {
                continue;
            }
            let verdict = schema_verdict(&text).unwrap();
            assert!(verdict.is_empty(), "{name}: {verdict:#?}");
        }
    }
}

/// What a grammar refuses, an editor with the schema marks too. The exceptions are grammars that
/// a regular expression cannot say, or that only the parser sees.
#[test]
fn what_the_parser_refuses_the_schema_refuses() {
    let only_the_parser = [
        "address-is-a-name",
        "cidr-host-bits",
        "hours-date",
        "name-is-an-address",
        "number-octal",
        "rate-zero",
        "two-stores",
    ];
    for (name, text) in policies("tests/policy/bad") {
        let stem = Path::new(&name).file_stem().unwrap().to_str().unwrap().to_owned();
        let report = check_text(&name, &text).report;
        let Some(verdict) = schema_verdict(&text) else { continue };
        let by_grammar = report.errors.iter().any(|error| {
            let snippet = ["is not readable", "has no unit", "unknown", "does not fit", "missing"];
            snippet.iter().any(|words| error.message.contains(words))
        });
        if by_grammar && !only_the_parser.contains(&stem.as_str()) {
            assert!(!verdict.is_empty(), "{name}: the schema accepts it\n{report}");
        }
    }
}

#[test]
fn the_schema_of_everything_names_every_kind() {
    let all = schema::all();
    for kind in Kind::ALL {
        let file = schema::file_name(kind);
        assert!(root("config/schema").join(&file).exists());
        let switched =
            all["allOf"].as_array().unwrap().iter().any(|one| one["then"]["$ref"] == file);
        assert!(switched, "{file}");
    }
}

/// A mapping that takes unknown fields would let a typo through in editors.
#[test]
fn no_schema_takes_unknown_fields() {
    fn walk(value: &Value, path: &str) {
        match value {
            Value::Object(object) => {
                if object.contains_key("properties") && object.get("type").is_some() {
                    assert_eq!(
                        object.get("additionalProperties"),
                        Some(&Value::Bool(false)),
                        "{path}"
                    );
                }
                object.iter().for_each(|(key, value)| walk(value, &format!("{path}.{key}")));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for kind in Kind::ALL {
        let schema = schema::of_kind(kind);
        walk(&schema, kind.name());
        assert!(!schema.to_string().contains("\"null\""), "{}", kind.name());
    }
}

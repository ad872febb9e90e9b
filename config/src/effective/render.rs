//! The effective config as text: YAML for people (each value with its origin), JSON for
//! machines, and the canonical form that the digest is made of.
//! All three are written from one tree, so that none of them can leave a value out.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::tree::{self, Value};
use super::{Effective, Origin};
use crate::compile::step;

impl Effective {
    /// The same config with the digest of its values.
    #[must_use]
    pub(crate) fn with_digest(mut self) -> Self {
        self.digest = digest(&tree::of(&self));
        self
    }

    /// The config as JSON: `effective`, `origins` by path, `notInEffect`, `digest`.
    pub fn to_json(&self) -> Json {
        let origins: Map<String, Json> = self
            .origins
            .iter()
            .map(|(path, origin)| (path.clone(), json!(origin.to_string())))
            .collect();
        let not_in_effect: Vec<Json> = self
            .not_in_effect
            .iter()
            .map(|one| json!({"field": &*one.field, "origin": one.origin.to_string()}))
            .collect();
        json!({
            "digest": &*self.digest,
            "effective": to_json(&tree::of(self)),
            "origins": origins,
            "notInEffect": not_in_effect,
        })
    }

    /// One rule of a route, as [`Self::to_json`] shows it among all.
    pub fn rule_to_json(&self, rule: &tillgate_core::matching::Rule) -> Json {
        to_json(&tree::of_rule(rule, self))
    }

    /// One class, in the same way.
    pub fn class_to_json(&self, class: &tillgate_core::class::ClassSpec) -> Json {
        to_json(&tree::of_class(class))
    }

    /// The config as YAML, each value followed by its origin.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "# effective config of {}, {}", self.store, self.digest);
        for one in &self.not_in_effect {
            let _ = writeln!(out, "# not in effect: {} ({})", one.field, one.origin);
        }
        if let Value::Map(entries) = tree::of(self) {
            write_map(&mut out, &entries, 0, "", &|path| self.origin(path));
        }
        out
    }

    /// Where the value at `path` came from: its own origin, or that of what holds it.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        let mut path = path;
        loop {
            if let Some(origin) = self.origins.get(path) {
                return Some(origin);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// Where the document called `name` of a section of `holder` stands.
    pub fn origin_of(&self, holder: &str, section: &str, name: &str) -> Option<&Origin> {
        self.origins.get(&format!("{holder}.{section}.{}", step(name)))
    }

    /// The path of a rule, below which its values are.
    pub fn path_of_rule(&self, rule: &tillgate_core::matching::Rule) -> String {
        format!("routes.{}.{}", step(&rule.route), step(&rule.name))
    }

    /// The same of a rule of the egress policy.
    pub fn path_of_egress(&self, rule: &str) -> String {
        format!("egress.rules.{}", step(rule))
    }

    /// The paths of all single values, in the order of the YAML text.
    pub fn paths(&self) -> Vec<String> {
        fn descend(value: &Value, path: String, paths: &mut Vec<String>) {
            match value {
                Value::Map(entries) => {
                    for (key, value) in entries {
                        descend(value, join(&path, key), paths);
                    }
                }
                Value::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        descend(item, format!("{path}[{index}]"), paths);
                    }
                }
                Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) => {
                    paths.push(path);
                }
            }
        }
        let mut paths = Vec::new();
        descend(&tree::of(self), String::new(), &mut paths);
        paths
    }
}

fn digest(value: &Value) -> Arc<str> {
    shown(&Sha256::digest(canonical(value).as_bytes()))
}

pub(super) fn shown(hash: &[u8]) -> Arc<str> {
    let mut text = String::from("sha256:");
    for byte in hash {
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

/// The canonical form of the sections that many stores share, for the digests of all of them.
pub(crate) struct Written {
    /// By key.
    sections: Vec<(String, String)>,
    /// The digest of what comes before the first section of a store's own.
    begun: Sha256,
    /// How many of the sections that covers.
    covered: usize,
}

/// The first key of [`tree::own`] in order.
const FIRST_OWN: &str = "configEndpoint";

impl Written {
    pub(crate) fn new(config: &Effective) -> Self {
        let sections = tree::shared(config);
        let mut sections: Vec<(String, String)> =
            sections.into_iter().map(|(key, value)| (key, canonical(&value))).collect();
        sections.sort();
        let covered = sections.partition_point(|(key, _)| key.as_str() < FIRST_OWN);
        let mut begun = Sha256::new();
        for (position, section) in sections.iter().take(covered).enumerate() {
            add(&mut begun, position, section);
        }
        Self { sections, begun, covered }
    }

    /// The digest of `config`, which shares the sections.
    pub(crate) fn digest(&self, config: &Effective) -> Arc<str> {
        let own = tree::own(config).into_iter().map(|(key, value)| (key, canonical(&value)));
        let own: Vec<(String, String)> = own.collect();
        let mut rest: Vec<&(String, String)> =
            own.iter().chain(self.sections.iter().skip(self.covered)).collect();
        rest.sort();
        let mut hash = self.begun.clone();
        for (position, section) in rest.into_iter().enumerate() {
            add(&mut hash, self.covered + position, section);
        }
        hash.update(b"}");
        shown(&hash.finalize())
    }
}

/// The section at `position` of the canonical form.
fn add(hash: &mut Sha256, position: usize, (key, value): &(String, String)) {
    hash.update(if position == 0 { b"{" } else { b"," });
    hash.update(json!(key).to_string().as_bytes());
    hash.update(b":");
    hash.update(value.as_bytes());
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { step(key) } else { format!("{path}.{}", step(key)) }
}

pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<&(String, Value)> = entries.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let entry =
                |(key, value): &&(String, Value)| format!("{}:{}", json!(key), canonical(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
        }
        Value::List(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) => {
            to_json(value).to_string()
        }
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Flag(flag) => json!(flag),
        Value::Number(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
        }
    }
}

type Origins<'a> = dyn Fn(&str) -> Option<&'a Origin> + 'a;

fn write_map(
    out: &mut String,
    entries: &[(String, Value)],
    indent: usize,
    path: &str,
    origins: &Origins<'_>,
) {
    for (key, value) in entries {
        let path = join(path, key);
        let _ = write!(out, "{:indent$}{}:", "", scalar(&Value::Text(key.clone())));
        write_value(out, value, indent + 2, &path, origins);
    }
}

fn write_value(out: &mut String, value: &Value, indent: usize, path: &str, origins: &Origins<'_>) {
    match value {
        Value::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            write_map(out, entries, indent, path, origins);
        }
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            for (index, item) in items.iter().enumerate() {
                write_item(out, item, indent, &format!("{path}[{index}]"), origins);
            }
        }
        // Single values, and lists and mappings without content.
        Value::Null
        | Value::Flag(_)
        | Value::Number(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_) => {
            let _ = write!(out, " {}", scalar(value));
            match origins(path) {
                Some(origin) => drop(writeln!(out, "  # {origin}")),
                None => out.push('\n'),
            }
        }
    }
}

/// An item after its dash; the first entry of a mapping stands on the line of the dash.
fn write_item(out: &mut String, item: &Value, indent: usize, path: &str, origins: &Origins<'_>) {
    let _ = write!(out, "{:indent$}-", "");
    match item {
        Value::Map(entries) if !entries.is_empty() => {
            let mut block = String::new();
            write_map(&mut block, entries, indent + 2, path, origins);
            let _ = write!(out, " {}", block.trim_start());
        }
        Value::List(items) if !items.is_empty() => {
            let mut block = String::new();
            for (index, item) in items.iter().enumerate() {
                write_item(&mut block, item, indent + 2, &format!("{path}[{index}]"), origins);
            }
            let _ = write!(out, " {}", block.trim_start());
        }
        Value::Null
        | Value::Flag(_)
        | Value::Number(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_) => write_value(out, item, indent + 2, path, origins),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Flag(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) if is_plain(text) => text.clone(),
        Value::Text(text) => json!(text).to_string(),
        Value::List(_) => "[]".to_owned(),
        Value::Map(_) => "{}".to_owned(),
    }
}

/// A value in one line: `{role: Primary, metered: false}`.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::Map(entries) if !entries.is_empty() => {
            let entry = |(key, value): &(String, Value)| {
                format!("{}: {}", scalar(&Value::Text(key.clone())), inline(value))
            };
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Value::List(items) if !items.is_empty() => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Null
        | Value::Flag(_)
        | Value::Number(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_) => scalar(value),
    }
}

/// Whether every YAML parser reads `text` as this text without quotes.
fn is_plain(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_./%-".contains(&byte);
    let trap = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let edges = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        || (text.starts_with(|c: char| c.is_ascii_digit())
            && text.ends_with(['s', 'm', 'h', '%', 'i', 'k', 'M', 'G']));
    edges && text.bytes().all(word) && !trap.contains(&text.to_ascii_lowercase().as_str())
}

//! A support bundle without secrets: every string of it goes through here.
//!
//! First by what a value is: what a header rule sets or compares with, the body of an answer, a
//! field that is called after a secret. Then by how text looks: names and passwords in URLs, what
//! stands behind the name of a secret, keys in PEM, card numbers (as in the access log, with the
//! header fields that its policy redacts), and words that nobody would think of but a generator of
//! tokens. Hides too much rather than too little; digests, which are public, stay.

use std::collections::BTreeSet;

use serde_json::Value;
use tillgate_config::defaults::REDACTED_HEADERS;
use tillgate_config::effective::Effective;

use crate::access::{HIDDEN, without_cards};

/// Parts of names of secrets, in lower case and without dashes.
const NAMES: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "cookie",
    "signature",
    "bearer",
    "cardnumber",
];

/// Names that are one as a whole: as parts of others they mean something else. In a piece of a
/// policy that an error shows, `value` is what a header rule sets.
const WHOLE_NAMES: [&str; 10] =
    ["pwd", "auth", "sig", "jwt", "pan", "cvc", "cvv", "sessionid", "basic", "value"];

/// Ends of names of fields that say where a secret is, and not what.
const PLACES: [&str; 4] = ["file", "files", "name", "names"];

/// Fewer characters are guessed, and are words of people.
const OPAQUE_MIN: usize = 24;

/// Hexadecimal digits of a secret; identifiers of requests and machines have dashes.
const HEX_MIN: usize = 32;

/// What stands before digests and commits, which are public.
const DIGESTS: [&str; 3] = ["sha256:", "sha1:", "bundles/"];

/// What begins the tokens of those who say so.
const MARKED: [&str; 8] =
    ["eyJ", "ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "sk_live_", "AKIA"];

/// See the module.
pub(super) struct Cleaner {
    /// Header fields that the policy does not want to be read, in lower case.
    headers: BTreeSet<String>,
}

impl Cleaner {
    /// One that knows what the access log of `config` redacts.
    pub(super) fn new(config: &Effective) -> Self {
        let logs = config.telemetry.access_log.classes.iter().flatten();
        let logged = logs.flat_map(|log| &log.headers);
        let redacted = logged.filter(|header| header.redacted);
        let names = redacted.map(|header| header.name.as_str().to_owned());
        Self { headers: names.chain(REDACTED_HEADERS.map(str::to_owned)).collect() }
    }

    /// `value` without secrets.
    pub(super) fn clean(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(list) => list.into_iter().map(|one| self.clean(one)).collect(),
            Value::Object(fields) => {
                let is_pair = fields.len() == 2
                    && fields.contains_key("name")
                    && fields.contains_key("value");
                let one = |(name, value): (String, Value)| {
                    let hides = self.names_secret(&name)
                        || (is_pair && name == "value")
                        || (name == "body" && value.is_string());
                    let value = if hides { self.hidden(value) } else { self.clean(value) };
                    (self.text(&name), value)
                };
                fields.into_iter().map(one).collect()
            }
            other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
        }
    }

    /// A secret, or a list of them; one that has fields says itself what they are.
    fn hidden(&self, value: Value) -> Value {
        match value {
            Value::Array(list) => list.into_iter().map(|one| self.hidden(one)).collect(),
            fields @ Value::Object(_) => self.clean(fields),
            Value::String(_) | Value::Number(_) => Value::from(HIDDEN),
            nothing @ (Value::Null | Value::Bool(_)) => nothing,
        }
    }

    /// A line of a log, which may be JSON.
    pub(super) fn line(&self, line: &str) -> Value {
        match serde_json::from_str(line) {
            Ok(value @ Value::Object(_)) => self.clean(value),
            _ => Value::String(self.text(line)),
        }
    }

    /// Text without what looks like a secret.
    pub(super) fn text(&self, text: &str) -> String {
        let text = without_keys(text);
        let text = without_users(&text);
        let text = self.without_values(&text);
        let text = without_opaque(&text);
        without_numbers(&text)
    }

    /// Whether what stands behind `name` is a secret.
    fn names_secret(&self, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        if PLACES.iter().any(|end| lower.ends_with(end)) && !self.headers.contains(&lower) {
            return false;
        }
        let bare: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
        self.headers.contains(&lower)
            || NAMES.iter().any(|part| bare.contains(part))
            || WHOLE_NAMES[..WHOLE_NAMES.len() - 1].contains(&&*bare)
    }

    /// The text without what follows names of secrets: `token=…`, `"password": "…"`,
    /// `Authorization: Bearer …`.
    fn without_values(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(start) = rest.find(is_of_name) {
            let (before, after) = rest.split_at(start);
            out.push_str(before);
            let end = after.find(|c| !is_of_name(c)).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            out.push_str(name);
            rest = after;
            let hides = self.names_secret(name) || WHOLE_NAMES.contains(&&*name.to_lowercase());
            if !hides {
                continue;
            }
            let Some(gap) = gap(name, after) else { continue };
            let (gap, after) = after.split_at(gap);
            out.push_str(gap);
            let is_header = self.headers.contains(&name.to_ascii_lowercase()) || name == "value";
            let end = value_end(after, gap, is_header);
            if end > 0 {
                out.push_str(HIDDEN);
            }
            rest = &after[end..];
        }
        out.push_str(rest);
        out
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// What stands between the name of a secret and the secret, if one follows. `token:grafana` is
/// how we call somebody; a secret is not written so.
fn gap(name: &str, after: &str) -> Option<usize> {
    let quote = after.len() - after.trim_start_matches(['"', '\'', '\\']).len();
    let sign = after[quote..].chars().next();
    let is_scheme = ["bearer", "basic"].contains(&&*name.to_ascii_lowercase());
    if !matches!(sign, Some('=' | ':')) {
        // `Bearer abc`.
        return (is_scheme && sign == Some(' ')).then_some(quote + 1);
    }
    let value = &after[quote + 1..];
    let space = value.len() - value.trim_start_matches([' ', '"', '\'', '\\']).len();
    let is_actor = name == "token" && sign == Some(':') && space == 0 && quote == 0;
    (!is_actor).then_some(quote + 1 + space)
}

/// Where the secret ends: with its quote if it has one, a header's at the end of the line.
fn value_end(value: &str, gap: &str, is_header: bool) -> usize {
    let is_quoted = gap.ends_with(['"', '\'']);
    let is_end = |c: char| match c {
        '"' | '\'' | '\\' | '\n' | '\r' => true,
        ' ' | '\t' | '&' | ',' | ';' | ')' | '}' | ']' => !is_quoted && !is_header,
        _ => false,
    };
    value.find(is_end).unwrap_or(value.len())
}

/// The text without keys in PEM; certificates may be read.
fn without_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(start);
        out.push_str(before);
        // What was cut off in the middle is hidden to its end.
        let end = block.find(END).map_or(block.len(), |end| {
            let after = &block[end + END.len()..];
            let close = after.find("-----").map_or(after.len(), |close| close + 5);
            end + END.len() + close
        });
        let kind = &block[BEGIN.len()..];
        if kind.starts_with("CERTIFICATE-") || kind.starts_with("PUBLIC KEY-") {
            out.push_str(&block[..end]);
        } else {
            out.push_str(HIDDEN);
        }
        rest = &block[end..];
    }
    out.push_str(rest);
    out
}

/// The text without names and passwords in URLs.
fn without_users(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let is_end = |c: char| matches!(c, '/' | '?' | '#' | '"' | '\\') || c.is_whitespace();
        let authority = &after[..after.find(is_end).unwrap_or(after.len())];
        rest = after;
        if let Some(user) = authority.rfind('@') {
            out.push_str(HIDDEN);
            rest = &after[user..];
        }
    }
    out.push_str(rest);
    out
}

/// The text without words that look as if a machine had drawn them.
fn without_opaque(text: &str) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-');
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(is_of_word) {
        let (before, after) = rest.split_at(start);
        out.push_str(before);
        let end = after.find(|c| !is_of_word(c)).unwrap_or(after.len());
        let (word, after) = after.split_at(end);
        if is_drawn(word, out.as_str()) {
            out.push_str(HIDDEN);
        } else {
            out.push_str(word);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The text without card numbers; digits of a digest may look like one and are none.
fn without_numbers(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = DIGESTS.iter().filter_map(|one| Some(rest.find(one)? + one.len())).min() {
        let (before, after) = rest.split_at(at);
        out.push_str(&without_cards(before));
        let end = after.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(after.len());
        // As long as a commit, which no card number is.
        let end = if end >= 40 { end } else { 0 };
        out.push_str(&after[..end]);
        rest = &after[end..];
    }
    out.push_str(&without_cards(rest));
    out
}

/// Whether `word`, which stands behind `before`, was drawn by a machine to be secret.
fn is_drawn(word: &str, before: &str) -> bool {
    if MARKED.iter().any(|mark| word.starts_with(mark) && word.len() > mark.len() + 6) {
        return true;
    }
    let all = |is: fn(&u8) -> bool| word.bytes().all(|byte| is(&byte));
    let any = |is: fn(&u8) -> bool| word.bytes().any(|byte| is(&byte));
    if all(u8::is_ascii_hexdigit) {
        let is_digest = DIGESTS.iter().any(|one| before.ends_with(one));
        return word.len() >= HEX_MIN
            && !is_digest
            && any(u8::is_ascii_digit)
            && any(u8::is_ascii_alphabetic);
    }
    word.len() >= OPAQUE_MIN
        && any(u8::is_ascii_digit)
        && any(u8::is_ascii_lowercase)
        && any(u8::is_ascii_uppercase)
}

#[cfg(test)]
mod tests;

//! A support bundle: what people need to help a store from afar, and no secret.
//!
//! Status, drift, the effective config (which has paths of secrets, never secrets), the tail of the
//! audit log and the last lines of the process's own log. Text of lines is searched for what looks
//! like a credential all the same: a name in a URL is not written by us. Packed, and bounded.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::admin::status;
use crate::endpoint::drift::Item;
use crate::gateway::Gateway;

/// Packed; a line of 1 Mbit/s has it across in two seconds.
const PACKED_BYTES_MAX: usize = 256 * 1024;

/// Records of the audit log, and their bytes.
const RECORDS: usize = 200;
const RECORDS_BYTES_MAX: usize = 64 * 1024;

/// Characters of a word that follows the name of a secret.
const HIDDEN: &str = "***";

/// After these words comes a secret.
const NAMES: [&str; 6] = ["bearer ", "basic ", "password=", "token=", "secret=", "signature="];

/// What is known of this store, packed, in base64.
pub(super) fn bundle(gateway: &Arc<Gateway>, drift: &[Item]) -> Result<Value, String> {
    let running = gateway.running();
    let audit = gateway.endpoint.last_records(RECORDS, RECORDS_BYTES_MAX)?;
    let document = |lines: Vec<String>| {
        json!({
            "status": status::of(gateway),
            "drift": drift.iter().map(Item::to_json).collect::<Vec<_>>(),
            "config": running.effective.to_json(),
            "audit": String::from_utf8_lossy(&audit).lines().collect::<Vec<_>>(),
            "log": lines,
        })
    };
    let recent = gateway.endpoint.recent.get().map(|recent| recent.lines()).unwrap_or_default();
    let lines = recent.iter().map(|line| scrub(line)).collect();
    let mut packed = pack(&document(lines))?;
    if packed.len() > PACKED_BYTES_MAX {
        packed = pack(&document(vec!["left out: too long".to_owned()]))?;
    }
    if packed.len() > PACKED_BYTES_MAX {
        return Err(format!("it would be longer than {PACKED_BYTES_MAX} bytes"));
    }
    Ok(json!({
        "encoding": "gzip+base64",
        "sha256": tillgate_config::bundle::hex(&packed),
        "content": STANDARD.encode(&packed),
    }))
}

fn pack(document: &Value) -> Result<Vec<u8>, String> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    let packed = packer.write_all(document.to_string().as_bytes()).and_then(|()| packer.finish());
    packed.map_err(|error| error.to_string())
}

/// A line without what looks like a credential: names and passwords in URLs, and the word after
/// the name of a secret.
fn scrub(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|char: char| char == '/' || char.is_whitespace() || char == '"');
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(user) => {
                out.push_str(HIDDEN);
                &after[user..]
            }
            None => after,
        };
    }
    out.push_str(rest);
    for name in NAMES {
        out = without(&out, name);
    }
    out
}

/// The text without the words that follow `name`, in whatever case that is.
fn without(text: &str, name: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    while let Some(at) = lower[from..].find(name) {
        let start = from + at + name.len();
        out.push_str(&text[from..start]);
        let is_end = |char: char| char.is_whitespace() || matches!(char, '"' | '&' | ',' | ';');
        let end = text[start..].find(is_end).map_or(text.len(), |end| start + end);
        if end > start {
            out.push_str(HIDDEN);
        }
        from = end;
    }
    out.push_str(&text[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_left_out() {
        for (line, wanted) in [
            (
                "no policy from https://ci:hunter2@git.example/x",
                "no policy from https://***@git.example/x",
            ),
            ("two http://a@b/ and ftp://c:d@e", "two http://***@b/ and ftp://***@e"),
            ("Authorization: Bearer abc.def next", "Authorization: Bearer *** next"),
            ("GET /x?token=abc&b=1 \"Password=ü\"", "GET /x?token=***&b=1 \"Password=***\""),
            ("mail a@b and https://plain.example/@x", "mail a@b and https://plain.example/@x"),
            ("", ""),
        ] {
            assert_eq!(scrub(line), wanted);
        }
    }
}

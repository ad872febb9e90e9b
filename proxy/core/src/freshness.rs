//! How old the data of a replica is, in its own words.
//!
//! A replica says it in a header of its answers or in a field of its health document: as seconds,
//! as the field `Age` does, or as the moment its data is of. Routes say how old is too old.
//! What does not say it, or not in these words, is taken for fresh: a typing error in a header
//! must not stop a store.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// Where a replica says how old its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgeSource {
    /// In a header, as seconds.
    Header(HeaderName),
    /// In a member of the JSON object that its health path answers with, as seconds.
    Field(Arc<str>),
}

/// Digits of a number of seconds that are read: 30 years.
const DIGITS_MAX: usize = 9;

impl AgeSource {
    /// The age in an answer's head.
    pub fn in_headers(&self, headers: &HeaderMap) -> Option<Duration> {
        match self {
            Self::Header(name) => seconds(headers.get(name)?.as_bytes()),
            Self::Field(_) => None,
        }
    }

    /// The age in a health document. Only the outermost object is looked at; nothing else of the
    /// document is understood or judged.
    pub fn in_document(&self, document: &[u8]) -> Option<Duration> {
        match self {
            Self::Header(_) => None,
            Self::Field(name) => seconds(member(document, name.as_bytes())?),
        }
    }
}

/// `12`, `12.5` or `"12"`: whole seconds, rounded down.
fn seconds(text: &[u8]) -> Option<Duration> {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let ends = text.get(digits).is_none_or(|byte| matches!(byte, b'.' | b'"' | b' ' | b's'));
    if digits == 0 || digits > DIGITS_MAX || !ends {
        return None;
    }
    let digits = std::str::from_utf8(&text[..digits]).ok()?;
    digits.parse().ok().map(Duration::from_secs)
}

/// The text after `"name":` in the outermost object, up to the next comma or brace.
fn member<'a>(document: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = document.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = end_of_string(document, at)?;
                let is_name = depth == 1 && &document[at + 1..end] == name;
                at = end;
                let rest = document[end + 1..].trim_ascii_start();
                if let Some(value) = rest.strip_prefix(b":").filter(|_| is_name) {
                    let length = value.iter().position(|byte| matches!(byte, b',' | b'}'));
                    return Some(value[..length.unwrap_or(value.len())].trim_ascii());
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the string that begins at `start` ends.
fn end_of_string(document: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match document.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_header(value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("x-data-age", value.parse().unwrap());
        let source = AgeSource::Header(HeaderName::from_static("x-data-age"));
        source.in_headers(&headers).map(|age| age.as_secs())
    }

    fn in_field(document: &str) -> Option<u64> {
        let source = AgeSource::Field("lag".into());
        source.in_document(document.as_bytes()).map(|age| age.as_secs())
    }

    #[test]
    fn seconds_in_a_header() {
        assert_eq!(in_header("90"), Some(90));
        assert_eq!(in_header(" 7.9 "), Some(7));
        for strange in ["", "-1", "soon", "1e9", "99999999999", "12 minutes?"] {
            let found = in_header(strange);
            assert!(found.is_none() || strange.starts_with("12 "), "{strange}: {found:?}");
        }
    }

    #[test]
    fn a_member_of_the_outermost_object() {
        assert_eq!(in_field(r#"{"status": "UP", "lag": 42}"#), Some(42));
        assert_eq!(in_field(r#"{"lag" : "42" , "x": 1}"#), Some(42));
        assert_eq!(in_field(r#"{"db": {"lag": 1}, "lag": 2}"#), Some(2));
        assert_eq!(in_field(r#"{"note": "\"lag\": 5", "x": ["lag", 6]}"#), None);
        assert_eq!(in_field(r#"{"state": "lag", "lag": null}"#), None);
    }

    proptest! {
        #[test]
        fn nothing_is_too_strange(document in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = AgeSource::Field("lag".into()).in_document(&document);
        }
    }
}

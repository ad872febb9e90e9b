//! Conditions on query parameters, compared where they stand.
//!
//! Names and values in policy are what a person means; in a request they are percent-encoded,
//! with `+` for a space. They are compared byte by byte while decoding, so nothing is allocated.
//! Of a parameter that is there twice the first counts, as Gateway API recommends.

use std::sync::Arc;

/// A query parameter that must be present with exactly this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name, decoded.
    pub name: Arc<str>,
    /// Its value, decoded; may be empty.
    pub value: Arc<str>,
}

impl QueryMatch {
    /// Whether `query` (as sent, without `?`) has the parameter with this value.
    pub fn matches(&self, query: &str) -> bool {
        let first = query.split('&').find_map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            decodes_to(name, &self.name).then_some(value)
        });
        first.is_some_and(|value| decodes_to(value, &self.value))
    }
}

/// Whether `encoded` means `plain`. A `%` without two hex digits stands for itself.
fn decodes_to(encoded: &str, plain: &str) -> bool {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut rest, mut wanted) = (encoded.as_bytes(), plain.as_bytes());
    loop {
        let (Some(&byte), Some(&want)) = (rest.first(), wanted.first()) else {
            return rest.is_empty() && wanted.is_empty();
        };
        let pair = if byte == b'%' { hex(rest.get(1)).zip(hex(rest.get(2))) } else { None };
        let (meant, length) = match (byte, pair) {
            (_, Some((high, low))) => (high * 16 + low, 3),
            (b'+', None) => (u32::from(b' '), 1),
            (_, None) => (u32::from(byte), 1),
        };
        if meant != u32::from(want) {
            return false;
        }
        rest = &rest[length..];
        wanted = &wanted[1..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has(query: &str, name: &str, value: &str) -> bool {
        QueryMatch { name: name.into(), value: value.into() }.matches(query)
    }

    #[test]
    fn parameters_are_compared_by_what_they_mean() {
        assert!(has("a=1&b=2", "b", "2") && has("b", "b", "") && has("b=", "b", ""));
        assert!(has("till%20no=%37+x", "till no", "7 x") && has("a=%C3%A9", "a", "é"));
        assert!(has("a=b=c", "a", "b=c") && has("a=100%", "a", "100%"));
        assert!(!has("a=1&a=2", "a", "2"), "the first one counts");
        assert!(!has("", "a", "") && !has("aa=1", "a", "1") && !has("a=12", "a", "1"));
        assert!(!has("a=1", "a", "12") && !has("A=1", "a", "1"));
    }

    proptest! {
        #[test]
        fn every_encoding_of_a_text_means_it(text in "\\PC{0,12}", choice in any::<u64>()) {
            let mut encoded = String::new();
            for (index, byte) in text.bytes().enumerate() {
                let plain = byte.is_ascii_alphanumeric() && choice >> (index % 64) & 1 == 0;
                match byte {
                    _ if plain => encoded.push(char::from(byte)),
                    b' ' if choice & 1 == 0 => encoded.push('+'),
                    _ => encoded.push_str(&format!("%{byte:02x}")),
                }
            }
            prop_assert!(decodes_to(&encoded, &text));
            let (longer, other) = (format!("{text}x"), format!("{encoded}%78"));
            prop_assert!(!decodes_to(&encoded, &longer));
            prop_assert!(!decodes_to(&other, &text));
        }
    }
}

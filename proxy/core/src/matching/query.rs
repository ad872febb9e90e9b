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
        let mut rest = query.as_bytes();
        loop {
            match decoded_prefix(rest, self.name.as_bytes()) {
                Some([]) => return self.value.is_empty(),
                Some([b'&', ..]) => return self.value.is_empty(),
                Some([b'=', value @ ..]) => {
                    let after = decoded_prefix(value, self.value.as_bytes());
                    return matches!(after, Some([] | [b'&', ..]));
                }
                // Another parameter, of which this name is at most the beginning.
                Some(_) | None => {}
            }
            let Some(next) = rest.iter().position(|byte| *byte == b'&') else { return false };
            rest = &rest[next + 1..];
        }
    }
}

/// What follows the beginning of `encoded` that means `plain`, if it begins so. A `%` without two
/// hex digits stands for itself; a bare `&` only ever ends a parameter.
fn decoded_prefix<'a>(encoded: &'a [u8], plain: &[u8]) -> Option<&'a [u8]> {
    let hex = |byte: &u8| char::from(*byte).to_digit(16);
    let mut rest = encoded;
    for want in plain {
        let (meant, length) = match rest {
            [] | [b'&', ..] => return None,
            [b'+', ..] => (u32::from(b' '), 1),
            [b'%', high, low, ..] => match hex(high).zip(hex(low)) {
                Some((high, low)) => (high * 16 + low, 3),
                None => (u32::from(b'%'), 1),
            },
            [byte, ..] => (u32::from(*byte), 1),
        };
        if meant != u32::from(*want) {
            return None;
        }
        rest = &rest[length..];
    }
    Some(rest)
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
            let of = |encoded: &str, text: &str| has(&format!("b=1&a={encoded}&c"), "a", text);
            prop_assert!(of(&encoded, &text));
            let as_name = format!("{encoded}=1&b");
            prop_assert!(text.is_empty() || has(&as_name, &text, "1"));
            let (longer, other) = (format!("{text}x"), format!("{encoded}%78"));
            prop_assert!(!of(&encoded, &longer) && !of(&other, &text));
        }
    }
}

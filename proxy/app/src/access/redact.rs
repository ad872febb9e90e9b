//! What of a header's value may be read by whoever reads logs.

use http::{HeaderName, HeaderValue};
use tillgate_config::defaults::REDACTED_HEADERS;

/// In the place of what is not shown.
pub(crate) const HIDDEN: &str = "[redacted]";

/// Bytes of a value that are shown; a line must not grow with what a client sends.
const VALUE_MAX: usize = 256;

/// Bytes after those that are looked at too: the longest card number with a blank after each digit
/// would fit.
const LOOK_BEYOND: usize = 64;

/// Digits of payment card numbers (ISO/IEC 7812).
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// Whether the field carries secrets, whatever a policy says.
pub(super) fn is_secret(name: &HeaderName) -> bool {
    REDACTED_HEADERS.contains(&name.as_str())
}

/// A value with everything in it that looks like a card number taken out.
pub(super) fn harmless(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let looked_at = &bytes[..bytes.len().min(VALUE_MAX + LOOK_BEYOND)];
    let mut text = without_cards(&String::from_utf8_lossy(looked_at));
    // Whatever of a card number begins before the cut is whole within what was looked at, or is
    // part of a longer run that touches its end.
    if looked_at.len() < bytes.len() {
        let head = text.trim_end_matches(is_of_run).len();
        text.truncate(head);
    }
    if text.len() > VALUE_MAX {
        let end = (0..=VALUE_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// The same for the number of a request. One of 32 hexadecimal digits, as we make them and most
/// others do, is no card number, though its digits may happen to pass for one.
pub(super) fn harmless_id(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let is_uuid = bytes.len() <= 36
        && bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
        && bytes.iter().filter(|byte| **byte != b'-').count() == 32;
    if is_uuid { String::from_utf8_lossy(bytes).into_owned() } else { harmless(value) }
}

/// What runs of digits are made of.
const fn is_of_run(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, ' ' | '-' | '.')
}

/// Runs of digits, in groups or not, that pass the check of card numbers are hidden.
pub(crate) fn without_cards(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        shown.push_str(&rest[..start]);
        rest = &rest[start..];
        let run = run_of_digits(rest);
        let digits: Vec<u8> = run.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect();
        if holds_card(&digits) {
            shown.push_str(HIDDEN);
        } else {
            shown.push_str(run);
        }
        rest = &rest[run.len()..];
    }
    shown.push_str(rest);
    shown
}

/// Digits from the start on, with at most one blank, dash or dot between two.
fn run_of_digits(text: &str) -> &str {
    let bytes = text.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        if digit(end) || (matches!(bytes[end], b' ' | b'-' | b'.') && digit(end + 1)) {
            end += 1;
        } else {
            break;
        }
    }
    &text[..end]
}

/// Whether some part of `digits` could be a card number: one may stand beside other numbers. That
/// hides some that are none, which is the side to err on.
fn holds_card(digits: &[u8]) -> bool {
    CARD_DIGITS.clone().any(|length| digits.windows(length).any(passes_luhn))
}

/// The check digit of ISO/IEC 7812.
fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(*digit);
            match place % 2 {
                0 => digit,
                _ if digit > 4 => digit * 2 - 9,
                _ => digit * 2,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        harmless(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn card_numbers_are_hidden_in_every_spelling() {
        for card in ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004"] {
            let text = shown(&format!("pan={card};till=7"));
            assert_eq!(text, "pan=[redacted];till=7", "{card}");
        }
        for text in ["x4111111111111111999", "12 4111111111111111"] {
            assert!(!shown(text).contains("4111"), "also beside other digits: {text}");
        }
    }

    #[test]
    fn no_part_of_a_card_number_is_left_at_the_cut() {
        for card in ["4111111111111111", "4111 1111 1111 1111"] {
            for before in VALUE_MAX - 40..VALUE_MAX + 80 {
                for after in ["", "x", "1234", &"x".repeat(500), &"9".repeat(500)] {
                    let text = shown(&format!("{}{card}{after}", "x".repeat(before)));
                    assert!(!text.contains('1') && text.len() <= VALUE_MAX, "{before}: {text}");
                }
            }
        }
    }

    #[test]
    fn the_number_of_a_request_is_shown_unless_it_is_that_of_a_card() {
        let shown = |text: &str| harmless_id(&HeaderValue::from_str(text).unwrap());
        for id in ["41111111111111110000000000000000", "41111111-1111-1111-abcd-0123456789ab"] {
            assert_eq!(shown(id), id);
        }
        assert_eq!(shown("order-4111111111111111"), "order-[redacted]");
        assert_eq!(shown(&"x".repeat(1000)).len(), VALUE_MAX);
    }

    #[test]
    fn other_numbers_are_shown() {
        for text in ["store-0412", "2026-11-21 12:00:01", "4111111111112", "123456789012", ""] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn long_values_are_cut_and_secrets_known() {
        assert_eq!(shown(&"x".repeat(1000)).len(), VALUE_MAX);
        assert_eq!(shown(&"\u{20ac}".repeat(100)).len(), VALUE_MAX - VALUE_MAX % 3);
        assert!(is_secret(&http::header::AUTHORIZATION) && is_secret(&http::header::COOKIE));
        assert!(!is_secret(&http::header::USER_AGENT));
    }
}

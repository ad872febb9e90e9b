//! Parts of a blob: what a client asks for, and what a registry says it sends.
//!
//! One range of bytes is known (RFC 9110 section 14). Several at once, or other units, are no
//! error: the whole is sent, as the RFC allows.

use std::ops::Range;

/// What of a blob a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// These bytes, never none: status 206.
    Bytes(Range<u64>),
    /// It asks for what is not there: status 416.
    Beyond,
}

/// What `range` (a `Range` field, if there is one) means for a blob of `total` bytes.
pub fn part(range: Option<&str>, total: u64) -> Part {
    let Some(spec) = range.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else { return Part::Whole };
    let (first, last) = (first.trim(), last.trim());
    let bytes = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(total),
        (Some(first), None) if last.is_empty() => first..total,
        (None, Some(count)) if first.is_empty() => total.saturating_sub(count)..total,
        // Not a range, or several.
        _ => return Part::Whole,
    };
    if bytes.start < bytes.end { Part::Bytes(bytes) } else { Part::Beyond }
}

/// A `Content-Range` field: where the body begins, and how long the whole is, as far as told.
/// `None`: it is not one.
pub fn content_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    if range == "*" {
        return Some((None, total));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let fits = first <= last && total.is_none_or(|total| last < total);
    fits.then_some((Some(first), total))
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_a_part() {
        let of = |range| part(Some(range), 100);
        assert_eq!(part(None, 100), Part::Whole);
        assert_eq!(of("bytes=0-0"), Part::Bytes(0..1));
        assert_eq!(of("bytes=10-"), Part::Bytes(10..100));
        assert_eq!(of("bytes=90-1000"), Part::Bytes(90..100));
        assert_eq!(of("bytes=-7"), Part::Bytes(93..100));
        assert_eq!(of("bytes=-700"), Part::Bytes(0..100));
        assert_eq!(of("bytes=0-18446744073709551615"), Part::Bytes(0..100));
        assert_eq!(of("bytes=100-"), Part::Beyond);
        assert_eq!(of("bytes=-0"), Part::Beyond);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Beyond);
        for whole in ["bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes", "bytes=x-", "bytes=-"] {
            assert_eq!(of(whole), Part::Whole, "{whole}");
        }
    }

    #[test]
    fn a_registry_says_what_it_sends() {
        assert_eq!(content_range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(content_range("bytes */10"), Some((None, Some(10))));
        for wrong in ["bytes 5-4/10", "bytes 5-10/10", "5-9/10", "bytes 5-9", "bytes -9/10", ""] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}

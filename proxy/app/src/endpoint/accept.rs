//! What a caller takes: `Accept`, as RFC 9110 section 12.5.1 has it.
//!
//! Of the ranges that a media type is in, the most precise one says how gladly it is taken. Who
//! says nothing takes everything.

use http::HeaderMap;
use http::header::ACCEPT;

/// How gladly a media type is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Taken {
    /// 0 is not at all, 1 as gladly as can be.
    pub(super) weight: f32,
    /// It was named, and is not only in a range.
    pub(super) is_named: bool,
}

/// How gladly the sender of these headers takes `media`.
pub(super) fn taken(headers: &HeaderMap, media: &str) -> Taken {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return Taken { weight: 1.0, is_named: false };
    }
    let texts = values.filter_map(|value| value.to_str().ok());
    let ranges = texts.flat_map(|text| text.split(',')).filter_map(|one| range(one, media));
    // Of those that are equally precise the last one counts.
    let found = ranges.max_by_key(|(precision, _)| *precision);
    let (precision, weight) = found.unwrap_or((Precision::All, 0.0));
    Taken { weight, is_named: precision == Precision::Named }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    All,
    Kind,
    Named,
}

/// How precisely `range` names `media`, and its weight; `None` if it does not.
fn range(range: &str, media: &str) -> Option<(Precision, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let kind = |media: &str| media.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let precision = if name.eq_ignore_ascii_case(media) {
        Precision::Named
    } else if name == "*/*" {
        Precision::All
    } else if name.ends_with("/*") && kind(name) == kind(media) {
        Precision::Kind
    } else {
        return None;
    };
    let weight = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(1.0))
    });
    Some((precision, weight.unwrap_or(1.0)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_most_precise_range_says_how_gladly() {
        let taken = |text| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(text))]);
            let Taken { weight, is_named } = taken(&headers, "application/json");
            (weight, is_named)
        };
        assert_eq!(taken("application/json"), (1.0, true));
        assert_eq!(taken("text/plain, Application/JSON ; Q=0.5"), (0.5, true));
        assert_eq!(taken("*/*;q=0.1, application/*;q=0.2"), (0.2, false));
        assert_eq!(taken("application/json;q=0, */*"), (0.0, true));
        assert_eq!(taken("*/*"), (1.0, false));
        for text in ["text/html", "application/jso", "", "json/*", "*"] {
            assert_eq!(taken(text), (0.0, false), "{text}");
        }
        let nothing = super::taken(&HeaderMap::new(), "application/json");
        assert_eq!(nothing, Taken { weight: 1.0, is_named: false });
    }
}

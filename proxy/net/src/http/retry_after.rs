//! When a server wants to be asked again (RFC 9110 10.2.3), and what time it is there.
//!
//! In go the fields of an answer; out comes how long to leave its server alone: the seconds that it
//! names, or the time until the moment that it names. Whose clock that moment is measured by is the
//! caller's choice: his own, or the server's where his own may be wrong.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// How long the server wants to be left alone; a moment that has passed is no time at all. Where it
/// names a moment and `now` is not known, it has said nothing.
pub fn retry_after(headers: &HeaderMap, now: Option<SystemTime>) -> Option<Duration> {
    let said = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = said.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = httpdate::parse_http_date(said).ok()?;
    Some(moment.duration_since(now?).unwrap_or_default())
}

/// What time it is by the server's clock.
pub fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

    use super::*;

    fn of(said: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(said))])
    }

    #[test]
    fn a_server_says_in_two_ways_how_long_it_wants_to_be_left_alone() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        let after = |said| retry_after(&of(said), Some(now)).map(|after| after.as_secs());
        assert_eq!((after("3"), after(" 120 ")), (Some(3), Some(120)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0), "over already");
        assert_eq!((after("soon"), after("-1"), after("")), (None, None, None));
        assert_eq!(retry_after(&HeaderMap::new(), Some(now)), None);
    }

    #[test]
    fn a_moment_is_measured_by_the_clock_of_who_names_it() {
        let mut headers = of("Fri, 20 Nov 2026 21:10:00 GMT");
        assert_eq!(retry_after(&headers, date(&headers)), None, "it does not say what time it is");
        headers.insert(DATE, HeaderValue::from_static("Fri, 20 Nov 2026 21:05:00 GMT"));
        assert_eq!(retry_after(&headers, date(&headers)), Some(Duration::from_secs(300)));
        assert_eq!(retry_after(&of("120"), None), Some(Duration::from_secs(120)));
    }
}

//! What gRPC says in HTTP/2 that a proxy has to know: who speaks it, until when a call is waited
//! for, and how one is told that it failed.
//!
//! A call that fails here is answered in gRPC's own words: a status of its own in the head
//! ("trailers-only") or, once an answer has begun, in its trailers. gRPC over HTTP/1.1 does not
//! exist, so those requests are not looked at.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::error::Failure;

/// The type of every gRPC message.
const GRPC: &str = "application/grpc";

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// In whose words a client is told that its request failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speech {
    /// A status and a problem body.
    #[default]
    Http,
    /// `grpc-status` and `grpc-message`.
    Grpc,
}

impl Speech {
    /// What the sender of `request` understands. `application/grpc-web` is plain HTTP here.
    pub fn of(request: &Parts) -> Self {
        if request.version != Version::HTTP_2 {
            return Self::Http;
        }
        let kind = request.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        match kind.and_then(|kind| kind.strip_prefix(GRPC.as_bytes())) {
            Some([] | [b'+' | b';' | b' ', ..]) => Self::Grpc,
            Some(_) | None => Self::Http,
        }
    }
}

/// How long the client of a call waits for its end.
pub fn timeout(request: &Parts) -> Option<Duration> {
    let value = request.headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (unit, digits) = (value.chars().next_back()?, value.get(..value.len() - 1)?);
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The fields of an answer to a call that failed before it was answered.
pub fn refuse(headers: &mut HeaderMap, failure: Failure, detail: &str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    say(headers, failure, detail);
}

/// The trailers of a call that failed after its answer had begun.
pub fn trailers(failure: Failure) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    say(&mut trailers, failure, failure.row().meaning);
    trailers
}

fn say(headers: &mut HeaderMap, failure: Failure, detail: &str) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(failure.grpc_status())));
    let mut message = String::with_capacity(detail.len() + 32);
    for byte in failure.reason().bytes().chain(*b": ").chain(detail.bytes()) {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            message.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(message, "%{byte:02X}");
        }
    }
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(version: Version, kind: &str, timeout: &str) -> Parts {
        let request = Request::post("http://a/").version(version).header("content-type", kind);
        request.header("grpc-timeout", timeout).body(()).unwrap().into_parts().0
    }

    #[test]
    fn grpc_is_told_by_its_type_on_http2() {
        for (version, kind, speech) in [
            (Version::HTTP_2, "application/grpc", Speech::Grpc),
            (Version::HTTP_2, "application/grpc+proto", Speech::Grpc),
            (Version::HTTP_2, "application/grpc;x=y", Speech::Grpc),
            (Version::HTTP_2, "application/grpc-web+proto", Speech::Http),
            (Version::HTTP_2, "application/json", Speech::Http),
            (Version::HTTP_11, "application/grpc", Speech::Http),
        ] {
            assert_eq!(Speech::of(&head(version, kind, "1S")), speech, "{kind}");
        }
    }

    #[test]
    fn deadlines_have_eight_digits_and_a_unit() {
        for (text, wanted) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789S", None),
            ("S", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(timeout(&head(Version::HTTP_2, "application/grpc", text)), wanted, "{text}");
        }
    }

    #[test]
    fn a_failure_is_told_in_one_line_of_ascii() {
        let mut headers = HeaderMap::new();
        refuse(&mut headers, Failure::ConnectTimeout, "100 % of ä\n");
        assert_eq!(headers["grpc-status"], "14", "nothing was sent, so it may be tried again");
        assert_eq!(headers["grpc-message"], "connect_timeout: 100 %25 of %C3%A4%0A");
        assert_eq!(trailers(Failure::RequestTimeout)["grpc-status"], "4");
    }
}

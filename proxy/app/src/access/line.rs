//! One line of the access log, as JSON.
//!
//! Every line has every field of [`FIELDS`], in that order; what is not known is `null`.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderValue;
use tillgate_net::tls::Agreed;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::Shown;
use super::redact::harmless_id;

/// A field of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub meaning: &'static str,
}

const fn field(name: &'static str, meaning: &'static str) -> Field {
    Field { name, meaning }
}

/// The fields of a line, in its order.
pub const FIELDS: [Field; 27] = [
    field("time", "when it ended (RFC 3339, UTC)"),
    field("kind", "what it was: `request`, `forward` (through the proxy) or `tunnel`"),
    field("request_id", "`X-Request-Id`, the client's or ours"),
    field("trace_id", "the trace of its `traceparent`, or the one begun here"),
    field("class", "the traffic class"),
    field("route", "the ServiceRoute, or `egress/` and the rule of the EgressPolicy"),
    field("rule", "the rule of the route"),
    field("backend", "the Backend"),
    field("endpoint", "the server"),
    field("status", "the status code the client got"),
    field("reason", "why it failed, as in the table of failures"),
    field("blame", "whose fault that was"),
    field("client", "the client's address, its network or a hash of it, as `clientAddress` says"),
    field("tls_version", "the version of TLS that the client speaks with us"),
    field("tls_alpn", "the protocol that was agreed on inside of it"),
    field(
        "tls_sni",
        "the server that the client asked for in it; also where TLS is passed on unread",
    ),
    field("bytes_up", "bytes of bodies and tunnels that left for the server"),
    field("bytes_down", "bytes of bodies and tunnels that came from the server"),
    field("duration_ms", "from its head to its last byte"),
    field("first_byte_ms", "from its head to the head of its answer"),
    field("queued_ms", "of that, waiting for a connection and a place on the line"),
    field("line_ms", "waiting for the line since it was sent, in both directions together"),
    field("tries", "connections it was sent on"),
    field("earlier_tries", "servers it was sent to before, each with why that try ended"),
    field("critical", "whether its class is critical"),
    field("sampled", "whether it is here by sampling; failures always are"),
    field("headers", "the request headers that the policy names"),
];

/// What a line says.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) kind: &'static str,
    pub(crate) request_id: Option<&'a HeaderValue>,
    pub(crate) trace: Option<u128>,
    pub(crate) class: &'a str,
    pub(crate) route: &'a str,
    pub(crate) rule: Option<&'a str>,
    pub(crate) backend: Option<&'a str>,
    pub(crate) endpoint: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) blame: Option<&'static str>,
    pub(crate) client: Option<String>,
    pub(crate) tls: Option<&'a Agreed>,
    pub(crate) bytes: (u64, u64),
    pub(crate) duration: Duration,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) queued: Duration,
    pub(crate) line: Duration,
    pub(crate) tries: u32,
    pub(crate) earlier: Option<String>,
    pub(crate) critical: bool,
    pub(crate) sampled: bool,
    pub(crate) headers: Option<&'a Shown>,
}

impl Line<'_> {
    /// The line, with its end.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut json = Json(String::with_capacity(640));
        let mut time = String::with_capacity(32);
        // Writing into a string cannot fail, here and below.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        json.text("time", Some(&time));
        json.text("kind", Some(self.kind));
        let id = self.request_id.map(harmless_id);
        json.text("request_id", id.as_deref());
        json.text("trace_id", self.trace.map(|trace| format!("{trace:032x}")).as_deref());
        json.text("class", Some(self.class));
        json.text("route", Some(self.route));
        json.text("rule", self.rule);
        json.text("backend", self.backend);
        json.text("endpoint", self.endpoint.as_deref());
        json.bare("status", self.status);
        json.text("reason", self.reason);
        json.text("blame", self.blame);
        json.text("client", self.client.as_deref());
        json.text("tls_version", self.tls.and_then(|tls| tls.version));
        json.text("tls_alpn", self.tls.and_then(|tls| tls.alpn));
        json.text("tls_sni", self.tls.and_then(|tls| tls.name.as_deref()));
        json.bare("bytes_up", Some(self.bytes.0));
        json.bare("bytes_down", Some(self.bytes.1));
        json.bare("duration_ms", Some(Millis(self.duration)));
        json.bare("first_byte_ms", self.first_byte.map(Millis));
        json.bare("queued_ms", Some(Millis(self.queued)));
        json.bare("line_ms", Some(Millis(self.line)));
        json.bare("tries", Some(self.tries));
        json.text("earlier_tries", self.earlier.as_deref());
        json.bare("critical", Some(self.critical));
        json.bare("sampled", Some(self.sampled));
        json.name("headers");
        let mut headers = Json(String::new());
        for (name, value) in self.headers.into_iter().flatten() {
            headers.text(name.as_str(), Some(value));
        }
        json.0.push_str(&headers.end());
        let mut line = json.end().into_bytes();
        line.push(b'\n');
        line
    }
}

/// Milliseconds with three decimals.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

/// An object in the making.
struct Json(String);

impl Json {
    fn name(&mut self, name: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.quote(name);
        self.0.push(':');
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        self.name(name);
        match value {
            Some(value) => self.quote(value),
            None => self.0.push_str("null"),
        }
    }

    fn bare(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        self.name(name);
        let _ = match value {
            Some(value) => write!(self.0, "{value}"),
            None => write!(self.0, "null"),
        };
    }

    fn quote(&mut self, text: &str) {
        self.0.push('"');
        for c in text.chars() {
            match c {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                c if c.is_control() => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(c));
                }
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }

    fn end(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_with_every_field_in_order() {
        let id = HeaderValue::from_bytes(b"a\"\\\xff\t").unwrap();
        let headers: Shown = Box::new([(http::header::USER_AGENT, "till \"7\"\u{1}".to_owned())]);
        let name = Some("pay.example".into());
        let agreed = Agreed { version: Some("1.3"), alpn: Some("h2"), name };
        let line = Line {
            kind: "request",
            request_id: Some(&id),
            trace: Some(0xabc),
            class: "payment",
            route: "pay",
            rule: Some("all"),
            backend: None,
            endpoint: None,
            status: Some(200),
            reason: None,
            blame: None,
            client: Some("10.0.0.7".to_owned()),
            tls: Some(&agreed),
            bytes: (1, 2),
            duration: Duration::from_micros(12_034),
            first_byte: None,
            queued: Duration::ZERO,
            line: Duration::ZERO,
            tries: 1,
            earlier: None,
            critical: true,
            sampled: true,
            headers: Some(&headers),
        };
        let bytes = line.write();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        let text = String::from_utf8(bytes).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let object = parsed.as_object().unwrap();
        assert_eq!(object.len(), FIELDS.len());
        let places = FIELDS.map(|field| text.find(&format!("\"{}\":", field.name)).unwrap());
        assert!(places.is_sorted(), "{text}");
        assert_eq!(parsed["duration_ms"], 12.034);
        assert_eq!(parsed["trace_id"], format!("{:032x}", 0xabc));
        assert_eq!(parsed["headers"]["user-agent"], "till \"7\"\u{1}");
        assert_eq!(
            (&parsed["tls_version"], &parsed["tls_alpn"], &parsed["tls_sni"]),
            (&"1.3".into(), &"h2".into(), &"pay.example".into())
        );
        assert_eq!(parsed["request_id"], "a\"\\\u{fffd}\t");
        let time = parsed["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() > 20, "{time}");
    }
}

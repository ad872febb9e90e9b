//! Spans in the protobuf encoding of OTLP.
//!
//! Written by hand: of the protocol's schema a proxy needs four messages and six kinds of fields,
//! and protobuf is a third of what JSON would be on a thin line.
//! Source: opentelemetry-proto 1.x, `collector/trace/v1`, `trace/v1`, `common/v1`.

use std::time::SystemTime;

use crate::protobuf::Message;

/// A span as it is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: u128,
    /// Its own number.
    pub span: u64,
    /// The caller's span.
    pub parent: Option<u64>,
    /// What it is about: the route.
    pub name: std::sync::Arc<str>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Whether it failed, and not by the client's fault.
    pub failed: bool,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text that is shared.
    Text(std::sync::Arc<str>),
    /// A text of the program's own.
    Static(&'static str),
    /// A number.
    Number(i64),
}

/// `SPAN_KIND_SERVER`.
const KIND_SERVER: u64 = 2;

/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u64 = 2;

/// The sampled bit of the trace flags, which a span that is exported always has.
const FLAGS_SAMPLED: u32 = 1;

/// Spans that travel in one message, encoded as they come, so that its size is known.
#[derive(Default)]
pub struct Batch {
    spans: Message,
    count: usize,
}

impl Batch {
    /// One more.
    pub fn push(&mut self, span: &Span) {
        self.spans.message(2, &encode_span(span));
        self.count += 1;
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Bytes that they take.
    pub const fn bytes(&self) -> usize {
        self.spans.len()
    }

    /// An `ExportTraceServiceRequest` of one process, which says of itself `resource`.
    pub fn encode(&self, resource: &[(&'static str, Value)]) -> Vec<u8> {
        let mut scope = Message::default();
        scope.text(1, "tillgate");
        scope.text(2, env!("CARGO_PKG_VERSION"));
        let mut scope_spans = Message::default();
        scope_spans.message(1, &scope);
        scope_spans.extend(&self.spans);
        let mut about = Message::default();
        for attribute in resource {
            about.message(1, &encode_attribute(attribute));
        }
        let mut resource_spans = Message::default();
        resource_spans.message(1, &about);
        resource_spans.message(2, &scope_spans);
        let mut request = Message::default();
        request.message(1, &resource_spans);
        request.into_bytes()
    }
}

fn encode_span(span: &Span) -> Message {
    let mut message = Message::default();
    message.bytes(1, &span.trace.to_be_bytes());
    message.bytes(2, &span.span.to_be_bytes());
    if let Some(parent) = span.parent {
        message.bytes(4, &parent.to_be_bytes());
    }
    message.text(5, &span.name);
    message.varint(6, KIND_SERVER);
    message.fixed64(7, nanos(span.start));
    message.fixed64(8, nanos(span.end));
    for attribute in &span.attributes {
        message.message(9, &encode_attribute(attribute));
    }
    if span.failed {
        let mut status = Message::default();
        status.varint(3, STATUS_ERROR);
        message.message(15, &status);
    }
    message.fixed32(16, FLAGS_SAMPLED);
    message
}

fn encode_attribute((name, value): &(&'static str, Value)) -> Message {
    let mut any = Message::default();
    match value {
        Value::Text(text) => any.text(1, text),
        Value::Static(text) => any.text(1, text),
        // Negative numbers are ten bytes long, as the encoding wants it.
        Value::Number(number) => any.varint(3, number.cast_unsigned()),
    }
    let mut pair = Message::default();
    pair.text(1, name);
    pair.message(2, &any);
    pair
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Numbers and wire types of the fields, written out from the schema.
    #[test]
    fn a_span_is_encoded_as_the_schema_says() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(0x0102_0304_0506_0708);
        let span = Span {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            parent: Some(1),
            name: "pay".into(),
            start,
            end: start + Duration::from_nanos(1),
            failed: true,
            attributes: vec![("n", Value::Number(300)), ("t", Value::Static("x"))],
        };
        let mut wanted = vec![0x0a, 16];
        wanted.extend(span.trace.to_be_bytes());
        wanted.extend([0x12, 8]);
        wanted.extend(span.span.to_be_bytes());
        wanted.extend([0x22, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        wanted.extend([0x2a, 3, b'p', b'a', b'y']);
        wanted.extend([0x30, 2]);
        wanted.extend([0x39, 8, 7, 6, 5, 4, 3, 2, 1]);
        wanted.extend([0x41, 9, 7, 6, 5, 4, 3, 2, 1]);
        wanted.extend([0x4a, 8, 0x0a, 1, b'n', 0x12, 3, 0x18, 0xac, 0x02]);
        wanted.extend([0x4a, 8, 0x0a, 1, b't', 0x12, 3, 0x0a, 1, b'x']);
        wanted.extend([0x7a, 2, 0x18, 2]);
        wanted.extend([0x85, 0x01, 1, 0, 0, 0]);
        assert_eq!(encode_span(&span).into_bytes(), wanted);
    }

    #[test]
    fn a_batch_knows_how_large_it_will_be() {
        let span = Span {
            trace: 1,
            span: 2,
            parent: None,
            name: "pay".into(),
            start: SystemTime::UNIX_EPOCH,
            end: SystemTime::UNIX_EPOCH,
            failed: false,
            attributes: vec![("text", Value::Text("x".repeat(1000).into()))],
        };
        let mut batch = Batch::default();
        let empty = batch.encode(&[]).len();
        for _ in 0..100 {
            batch.push(&span);
        }
        let message = batch.encode(&[]).len();
        assert_eq!(batch.count(), 100);
        // Lengths of what is around them take a few bytes more.
        assert!((0..16).contains(&(message - empty - batch.bytes())), "{message}");
        assert!(batch.bytes() > 100_000);
    }

    #[test]
    fn a_request_is_resource_then_scope_then_spans() {
        let bytes = Batch::default().encode(&[("service.name", Value::Static("tillgate"))]);
        let version = env!("CARGO_PKG_VERSION").as_bytes();
        let mut scope = vec![0x0a, 8];
        scope.extend(b"tillgate");
        scope.extend([0x12, 5]);
        scope.extend(version);
        let mut about = vec![0x0a, 26, 0x0a, 12];
        about.extend(b"service.name");
        about.extend([0x12, 10, 0x0a, 8]);
        about.extend(b"tillgate");
        let mut wanted = vec![0x0a, 28];
        wanted.extend(about);
        wanted.extend([0x12, 19, 0x0a, 17]);
        wanted.extend(scope);
        let mut whole = vec![0x0a, u8::try_from(wanted.len()).unwrap()];
        whole.extend(wanted);
        assert_eq!(bytes, whole);
    }
}

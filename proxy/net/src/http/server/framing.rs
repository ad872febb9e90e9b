//! Where a client's HTTP/1 messages begin and end, decided before hyper sees a byte.
//!
//! hyper repairs or drops some of what two servers could read differently (a length beside
//! chunks, line ends without CR), and answers the rest itself, without a body, a count or a log
//! line. So every head is checked here, whole, as it passes from the socket to hyper, and what is
//! ambiguous never gets there: hyper is given a request of ours in its place, which the handler
//! answers with 400 or 431 in order after the answers before it. hyper has no hook for either.
//!
//! One pass, eight bytes at a time, over heads and chunk sizes; bodies are counted, not read. A
//! head that has come whole is checked where it lies; only a part of one is kept aside. HTTP/2
//! (it frames itself) and what follows CONNECT or an upgrade are not looked at.

use super::Limits;
use crate::error::Failure;

mod chunks;
mod head;

use self::chunks::Chunks;
use self::head::{Body, Head};

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What hyper gets in place of a head that is refused.
pub(super) const IN_ITS_PLACE: &[u8] =
    b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Malformed {
    /// Not `METHOD SP target SP HTTP/1.x`.
    RequestLine,
    /// Not a target of the form that the method wants.
    Target,
    /// Neither HTTP/1.0 nor 1.1.
    Version,
    /// A byte below 32 (other than a tab in a value), or 127.
    Control,
    /// LF without CR, or CR without LF.
    LineEnd,
    /// A line that begins with white space.
    Folded,
    /// A field without a valid name right before its colon.
    FieldName,
    /// No `Host` on HTTP/1.1.
    HostMissing,
    /// More than one `Host`.
    HostTwice,
    /// A length that is no number.
    Length,
    /// Several lengths that differ.
    Lengths,
    /// Another coding than `chunked`, or more than one.
    Coding,
    /// A length beside chunks.
    LengthAndChunks,
    /// Chunks from a client of HTTP/1.0.
    OldChunks,
    /// A body before a change of protocol.
    BodyBeforeTunnel,
    /// A chunk's size, or what follows it.
    Chunk,
    /// Fields after the last chunk.
    Trailers,
    /// A longer target than the listener takes.
    TargetTooLong,
    /// A longer head than the listener takes.
    HeadTooLarge,
    /// More fields than the listener takes.
    TooManyFields,
}

/// All of them, by number.
const ALL: [Malformed; 20] = [
    Malformed::RequestLine,
    Malformed::Target,
    Malformed::Version,
    Malformed::Control,
    Malformed::LineEnd,
    Malformed::Folded,
    Malformed::FieldName,
    Malformed::HostMissing,
    Malformed::HostTwice,
    Malformed::Length,
    Malformed::Lengths,
    Malformed::Coding,
    Malformed::LengthAndChunks,
    Malformed::OldChunks,
    Malformed::BodyBeforeTunnel,
    Malformed::Chunk,
    Malformed::Trailers,
    Malformed::TargetTooLong,
    Malformed::HeadTooLarge,
    Malformed::TooManyFields,
];

impl Malformed {
    /// Its row in the failure table.
    pub const fn failure(self) -> Failure {
        match self {
            Self::TargetTooLong => Failure::UriTooLong,
            Self::HeadTooLarge | Self::TooManyFields => Failure::HeadTooLarge,
            Self::RequestLine
            | Self::Target
            | Self::Version
            | Self::Control
            | Self::LineEnd
            | Self::Folded
            | Self::FieldName
            | Self::HostMissing
            | Self::HostTwice
            | Self::Length
            | Self::Lengths
            | Self::Coding
            | Self::LengthAndChunks
            | Self::OldChunks
            | Self::BodyBeforeTunnel
            | Self::Chunk
            | Self::Trailers => Failure::InvalidRequest,
        }
    }

    /// What is wrong, for whoever sent it.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::RequestLine => "the first line is not `METHOD target HTTP/1.1`",
            Self::Target => "the request's target has a byte or a form that is not allowed",
            Self::Version => "the version is neither HTTP/1.0 nor HTTP/1.1",
            Self::Control => "the head holds a control character",
            Self::LineEnd => "a line of the head does not end with CR LF",
            Self::Folded => "a line of the head begins with white space",
            Self::FieldName => "a field of the head has no valid name right before its colon",
            Self::HostMissing => "there is no Host field",
            Self::HostTwice => "there is more than one Host field",
            Self::Length => "Content-Length is not a number",
            Self::Lengths => "there are several different Content-Length",
            Self::Coding => "Transfer-Encoding is not exactly `chunked`, once",
            Self::LengthAndChunks => "there are both Content-Length and Transfer-Encoding",
            Self::OldChunks => "Transfer-Encoding has no meaning in HTTP/1.0",
            Self::BodyBeforeTunnel => "CONNECT and Upgrade take no body",
            Self::Chunk => "a chunk of the body has no valid size or end",
            Self::Trailers => "the fields after the last chunk are malformed",
            Self::TargetTooLong => "the target is longer than the listener's limits.maxUriSize",
            Self::HeadTooLarge => "the head is larger than the listener's limits.maxHeaderSize",
            Self::TooManyFields => "the head has more fields than the listener's limits.maxHeaders",
        }
    }

    /// The one with this number.
    pub(in super::super) fn from_number(number: u8) -> Option<Self> {
        ALL.get(usize::from(number)).copied()
    }
}

/// What to do with bytes that were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// All of them may pass.
    Pass,
    /// From here on they are an unfinished head: to be shown again, with what follows.
    Hold(usize),
    /// From here on they are a head that is refused; nothing that follows is looked at.
    Refuse(usize, Malformed),
    /// From here on they are a body that cannot be told from what follows it.
    Break(usize, Malformed),
}

/// What the next bytes of a connection are.
#[derive(Debug)]
enum State {
    /// The first of all.
    First,
    /// A head, of which the first part may have been seen.
    Head(Head),
    /// This many more bytes of a body.
    Body(u64),
    /// A body in chunks.
    Chunks(Chunks),
    /// No business of ours.
    Opaque,
    /// Nothing that could be told.
    Lost,
}

/// Follows the bytes of one client connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    bounds: Bounds,
    heads: u64,
}

/// What a head may measure.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    bytes: usize,
    target: usize,
    fields: usize,
}

impl Framing {
    pub(super) fn new(limits: &Limits, bytes_max: usize) -> Self {
        let bytes = usize::try_from(limits.header_bytes_max).unwrap_or(bytes_max);
        let bounds = Bounds {
            bytes: bytes.min(bytes_max),
            target: limits.uri_bytes_max,
            fields: limits.headers_max,
        };
        Self { state: State::First, bounds, heads: 0 }
    }

    /// Whether the next bytes may belong to a head that is to be kept until it is whole.
    pub(super) const fn wants_whole(&self, held: usize) -> bool {
        held > 0 || matches!(self.state, State::First)
    }

    /// Whether it is not known yet what the client speaks.
    pub(super) const fn is_first(&self) -> bool {
        matches!(self.state, State::First)
    }

    /// Whether nothing needs to be looked at any more.
    pub(super) const fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque)
    }

    /// Whether nothing that follows means anything.
    pub(super) const fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Whether a client is not through with what it was sending: a body, or what was refused.
    pub(super) const fn is_unfinished(&self) -> bool {
        matches!(self.state, State::Lost | State::Body(_) | State::Chunks(_))
    }

    /// Heads that have passed.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Looks at `bytes`, which follow what was seen and not held before.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Seen {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if rest.is_empty() && !matches!(self.state, State::First) {
                return Seen::Pass;
            }
            match &mut self.state {
                State::Opaque | State::Lost => return Seen::Pass,
                State::First => {
                    if rest.starts_with(PREFACE) {
                        self.state = State::Opaque;
                    } else if PREFACE.starts_with(rest) {
                        return Seen::Hold(at);
                    } else {
                        self.state = State::Head(Head::default());
                    }
                }
                State::Head(head) => match head.see(rest, self.bounds) {
                    Ok(None) => return Seen::Hold(at),
                    Ok(Some((length, body))) => {
                        at += length;
                        self.heads += 1;
                        self.state = match body {
                            Body::None => State::Head(Head::default()),
                            Body::Length(length) => State::Body(length),
                            Body::Chunks => State::Chunks(Chunks::default()),
                            Body::Tunnel => State::Opaque,
                        };
                    }
                    Err(why) => {
                        self.state = State::Lost;
                        return Seen::Refuse(at, why);
                    }
                },
                State::Body(left) => {
                    let have = u64::try_from(rest.len()).unwrap_or(u64::MAX);
                    if have < *left {
                        *left -= have;
                        return Seen::Pass;
                    }
                    at += usize::try_from(*left).unwrap_or(rest.len());
                    self.state = State::Head(Head::default());
                }
                State::Chunks(chunks) => match chunks.see(rest, self.bounds) {
                    Ok(None) => return Seen::Pass,
                    Ok(Some(length)) => {
                        at += length;
                        self.state = State::Head(Head::default());
                    }
                    Err((length, why)) => {
                        self.state = State::Lost;
                        return Seen::Break(at + length, why);
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;

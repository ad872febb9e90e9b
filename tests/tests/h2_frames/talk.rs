//! What a case says to the gateway, one frame after the other; where no stream is named, it is
//! the first one.

use std::ops::RangeInclusive;

use super::*;

/// HEADERS that are a whole request.
const ALL: u8 = flag::END_HEADERS | flag::END_STREAM;

/// One client on a connection of its own.
pub(crate) struct Talk(pub(crate) Frames);

impl Talk {
    /// Any frame.
    pub(crate) fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: impl Into<Vec<u8>>,
    ) -> &mut Self {
        self.0.send(kind, flags, stream, payload);
        self
    }

    /// A whole request without a body.
    pub(crate) fn get(&mut self, stream: u32) -> &mut Self {
        self.0.get(stream, "/");
        self
    }

    /// The head of a request with a body to come.
    pub(crate) fn post(&mut self, stream: u32) -> &mut Self {
        self.0.post(stream, "/");
        self
    }

    /// HEADERS with a whole block that also end the stream.
    pub(crate) fn whole(&mut self, block: impl Into<Vec<u8>>) -> &mut Self {
        self.flagged(flag::NONE, block)
    }

    /// The same with one more flag.
    pub(crate) fn flagged(&mut self, more: u8, block: impl Into<Vec<u8>>) -> &mut Self {
        self.send(kind::HEADERS, ALL | more, 1, block)
    }

    /// A request with these bytes behind its block.
    pub(crate) fn then(&mut self, bytes: &[u8]) -> &mut Self {
        self.whole(request_then(bytes))
    }

    /// A request with these bytes before its block.
    pub(crate) fn after(&mut self, bytes: &[u8]) -> &mut Self {
        self.whole(request_after(bytes))
    }

    /// A request with more fields.
    pub(crate) fn ask(&mut self, extra: &[(&str, &str)]) -> &mut Self {
        self.whole(request_with(extra))
    }

    /// The head of a request with more fields and a body to come.
    pub(crate) fn open(&mut self, extra: &[(&str, &str)]) -> &mut Self {
        self.send(kind::HEADERS, flag::END_HEADERS, 1, request_with(extra))
    }

    /// A request whose block is not at its end.
    pub(crate) fn begin(&mut self) -> &mut Self {
        self.send(kind::HEADERS, flag::END_STREAM, 1, request("GET", "/"))
    }

    /// A request in pieces, cut at these places of its block.
    pub(crate) fn cut(&mut self, first: usize, second: usize) -> &mut Self {
        let block = request("GET", "/");
        self.send(kind::HEADERS, flag::END_STREAM, 1, &block[..first])
            .more(flag::NONE, &block[first..second])
            .more(flag::END_HEADERS, &block[second..])
    }

    /// CONTINUATION.
    pub(crate) fn more(&mut self, flags: u8, block: impl Into<Vec<u8>>) -> &mut Self {
        self.send(kind::CONTINUATION, flags, 1, block)
    }

    /// The rest of a block that was not begun: a whole request.
    pub(crate) fn rest(&mut self) -> &mut Self {
        self.more(flag::END_HEADERS, request("GET", "/"))
    }

    /// DATA to which more comes.
    pub(crate) fn data(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.send(kind::DATA, flag::NONE, 1, bytes)
    }

    /// The last DATA.
    pub(crate) fn last(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.send(kind::DATA, flag::END_STREAM, 1, bytes)
    }

    /// RST_STREAM with CANCEL.
    pub(crate) fn reset(&mut self) -> &mut Self {
        self.send(kind::RST_STREAM, flag::NONE, 1, code::CANCEL.to_be_bytes())
    }

    /// PRIORITY of `stream`, which depends on stream `on` (with the first bit: alone).
    pub(crate) fn priority(&mut self, stream: u32, on: u32) -> &mut Self {
        self.send(kind::PRIORITY, flag::NONE, stream, [&on.to_be_bytes()[..], &[16]].concat())
    }

    /// WINDOW_UPDATE.
    pub(crate) fn window(&mut self, stream: u32, by: u32) -> &mut Self {
        self.send(kind::WINDOW_UPDATE, flag::NONE, stream, by.to_be_bytes())
    }

    /// SETTINGS with one of them.
    pub(crate) fn set(&mut self, id: u16, value: u32) -> &mut Self {
        self.send(kind::SETTINGS, flag::NONE, 0, setting(id, value))
    }

    /// PUSH_PROMISE of stream 2.
    pub(crate) fn push(&mut self) -> &mut Self {
        let block = request_after(&[0, 0, 0, 2]);
        self.send(kind::PUSH_PROMISE, flag::END_HEADERS, 1, block)
    }

    /// Waits for a frame of this type.
    pub(crate) fn until(&mut self, kind: u8) -> &mut Self {
        self.0.until(kind);
        self
    }

    /// Waits for a frame of this type: it is an acknowledgement with this payload.
    pub(crate) fn acked(&mut self, kind: u8, payload: &[u8]) -> &mut Self {
        let frame = self.0.until(kind);
        assert_eq!((frame.flags, &frame.payload[..]), (flag::ACK, payload));
        self
    }

    /// Waits for DATA: it is as long as the window allows.
    pub(crate) fn gets(&mut self, bytes: RangeInclusive<usize>) -> &mut Self {
        let seen = self.0.until(kind::DATA).payload.len();
        assert!(bytes.contains(&seen), "{seen} instead of {bytes:?}");
        self
    }

    /// Waits for the whole answer.
    pub(crate) fn answered(&mut self) -> &mut Self {
        self.0.answer(1);
        self
    }
}

/// A request's block with more fields.
fn request_with(extra: &[(&str, &str)]) -> Vec<u8> {
    request_then(&fields(extra))
}

/// A request's block with these bytes behind it.
fn request_then(bytes: &[u8]) -> Vec<u8> {
    [&request("GET", "/"), bytes].concat()
}

/// A request's block with these bytes before it.
pub(crate) fn request_after(bytes: &[u8]) -> Vec<u8> {
    [bytes, &request("GET", "/")].concat()
}

/// One setting.
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

//! HTTP/2 frame by frame, in the hands of a test: what a well-behaved library would never send.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

mod block;

pub use self::block::{field, fields, grpc_request, request};

/// The types of frames (RFC 9113 section 6).
#[allow(missing_docs, reason = "the names say it")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags (the same bit means different things on different frames).
#[allow(missing_docs, reason = "the names say it")]
pub mod flag {
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// Error codes (RFC 9113 section 7).
#[allow(missing_docs, reason = "the names say it")]
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// The first four bytes of its payload as a number: RST_STREAM's code.
    pub fn number(&self) -> u32 {
        self.payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    /// What a GOAWAY says.
    fn goodbye(&self) -> End {
        let bytes = self.payload.get(4..8).and_then(|bytes| bytes.first_chunk());
        End::GoAway(bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes)))
    }

    fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a frame").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// How a connection or stream went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// GOAWAY with this code.
    GoAway(u32),
    /// RST_STREAM of this stream with this code.
    Reset(u32, u32),
    /// The connection was closed without a word.
    Closed,
}

/// One connection.
pub struct Frames {
    stream: TcpStream,
    read: Vec<u8>,
    /// Frames that came before the greeting was over.
    early: VecDeque<Frame>,
}

impl Frames {
    /// A connection without a word said.
    ///
    /// # Panics
    /// If there is none.
    pub fn silent(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).expect("somebody listens"))
    }

    /// Takes over a connection.
    ///
    /// # Panics
    /// If the socket refuses its options.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes nodelay");
        Self { stream, read: Vec::new(), early: VecDeque::new() }
    }

    /// A client's connection, greeted on both sides.
    pub fn connect(address: SocketAddr) -> Self {
        let mut frames = Self::silent(address);
        frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames.greet(&[]);
        frames
    }

    /// Reads a client's preface.
    ///
    /// # Panics
    /// If something else comes.
    pub fn preface(&mut self) {
        let mut preface = [0; 24];
        self.stream.read_exact(&mut preface).expect("a preface");
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    }

    /// Exchanges SETTINGS; ours are `settings`.
    ///
    /// # Panics
    /// If the other side does not.
    pub fn greet(&mut self, settings: &[u8]) {
        self.send(kind::SETTINGS, flag::NONE, 0, settings);
        let (mut theirs, mut acked) = (false, false);
        while !(theirs && acked) {
            let frame = self.read().expect("settings");
            if frame.kind == kind::SETTINGS {
                if frame.flags & flag::ACK == 0 {
                    theirs = true;
                    self.send(kind::SETTINGS, flag::ACK, 0, []);
                } else {
                    acked = true;
                }
            } else {
                self.early.push_back(frame);
            }
        }
    }

    /// Sends bytes that need not be a frame.
    pub fn bytes(&mut self, bytes: &[u8]) {
        // The other side may have closed already; the test sees that when it reads.
        let _ = self.stream.write_all(bytes);
    }

    /// Sends one frame.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) {
        self.bytes(&Frame::new(kind, flags, stream, payload).encode());
    }

    /// Sends a whole request without a body.
    pub fn get(&mut self, stream: u32, path: &str) {
        let block = request("GET", path);
        self.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, block);
    }

    /// Sends the head of a request with a body to come.
    pub fn post(&mut self, stream: u32, path: &str) {
        self.send(kind::HEADERS, flag::END_HEADERS, stream, request("POST", path));
    }

    /// The next frame; `None` at the end of the connection.
    ///
    /// # Panics
    /// If nothing comes.
    pub fn frame(&mut self) -> Option<Frame> {
        self.early.pop_front().or_else(|| self.read())
    }

    fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.read.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let (kind, flags) = (head[3], head[4]);
                if self.read.len() >= 9 + length {
                    let payload = self.read[9..9 + length].to_vec();
                    self.read.drain(..9 + length);
                    return Some(Frame { kind, flags, stream: stream & 0x7fff_ffff, payload });
                }
            }
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.read.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither a frame nor an end: {error}"),
            }
        }
    }

    /// Reads until a frame of this type comes.
    ///
    /// # Panics
    /// If none does.
    #[track_caller]
    pub fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().expect("more frames");
            if frame.kind == kind {
                return frame;
            }
            assert!(frame.kind != self::kind::GOAWAY, "GOAWAY instead of {kind}: {frame:?}");
        }
    }

    /// Reads until the connection ends or a stream is reset.
    pub fn end(&mut self) -> End {
        loop {
            match self.frame() {
                None => return End::Closed,
                Some(frame) if frame.kind == kind::RST_STREAM => {
                    return End::Reset(frame.stream, frame.number());
                }
                Some(frame) if frame.kind == kind::GOAWAY => {
                    return frame.goodbye();
                }
                Some(_) => {}
            }
        }
    }

    /// Says PING and waits for its answer: everything before it has been dealt with.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub fn ping(&mut self) -> Result<(), End> {
        self.send(kind::PING, flag::NONE, 0, *b"are you?");
        loop {
            match self.frame() {
                None => return Err(End::Closed),
                Some(frame) if frame.kind == kind::GOAWAY => {
                    return Err(frame.goodbye());
                }
                Some(frame) if frame.kind == kind::PING && frame.flags & flag::ACK != 0 => {
                    return Ok(());
                }
                Some(_) => {}
            }
        }
    }

    /// The status of the answer on `stream`, and its body.
    ///
    /// # Panics
    /// If it does not come to its end.
    #[track_caller]
    pub fn answer(&mut self, stream: u32) -> (Vec<u8>, Vec<u8>) {
        let (mut head, mut body) = (Vec::new(), Vec::new());
        loop {
            let frame = self.frame().expect("an answer");
            assert!(frame.kind != kind::GOAWAY, "{frame:?}");
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                kind::HEADERS => head.extend(&frame.payload),
                kind::DATA => body.extend(&frame.payload),
                kind::RST_STREAM => panic!("reset: {}", frame.number()),
                _ => {}
            }
            let last = matches!(frame.kind, kind::HEADERS | kind::DATA);
            if last && frame.flags & flag::END_STREAM != 0 {
                return (head, body);
            }
        }
    }
}

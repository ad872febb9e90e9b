//! The chunks of one request's body: their sizes are read, their data is counted.
//!
//! hyper decodes the same chunks afterwards; this finds where the body ends, so that the head
//! that follows it is found, and refuses what lenient servers read differently: sizes with signs
//! or prefixes, line ends without CR, control characters in extensions and trailers.

use super::head::is_token;
use super::{Bounds, Malformed};

/// Digits of a chunk's size: those of 64 bits.
const DIGITS_MAX: u8 = 16;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Digits of a size; how many there were.
    Size(u8),
    /// White space after it.
    Space,
    /// An extension.
    Extension,
    SizeLf,
    /// This much data.
    Data,
    DataCr,
    DataLf,
    /// The first byte of a line after the last chunk.
    Line,
    Name,
    Value,
    LineLf,
    EndLf,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    size: u64,
    /// Bytes of extensions (of this chunk) or trailers.
    extra: usize,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { state: State::Size(0), size: 0, extra: 0 }
    }
}

impl Chunks {
    /// Looks at `bytes`. Returns where the body has ended, if it has; an error, with where.
    pub(super) fn see(
        &mut self,
        bytes: &[u8],
        bounds: Bounds,
    ) -> Result<Option<usize>, (usize, Malformed)> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.state == State::Data {
                let have = bytes.len() - at;
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let step = left.min(have);
                self.size -= step as u64;
                at += step;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            if self.state == State::EndLf && *byte == b'\n' {
                return Ok(Some(at + 1));
            }
            self.state = self.step(*byte).map_err(|why| (at, why))?;
            if self.extra > bounds.bytes {
                return Err((at, Malformed::Trailers));
            }
            at += 1;
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        let is_text = byte == b'\t' || byte >= b' ' && byte != 127;
        let next = match (self.state, byte) {
            (State::Size(digits), _) if byte.is_ascii_hexdigit() && digits < DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.size = self.size << 4 | u64::from(digit);
                State::Size(digits + 1)
            }
            (State::Size(1..) | State::Space, b' ' | b'\t') => State::Space,
            (State::Size(1..) | State::Space, b';') => State::Extension,
            (State::Size(1..) | State::Space | State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) if is_text => {
                self.extra += 1;
                State::Extension
            }
            (State::SizeLf, b'\n') if self.size == 0 => {
                self.extra = 0;
                State::Line
            }
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0),
            (State::Line, b'\r') => State::EndLf,
            (State::Line | State::Name, _) if is_token(byte) => {
                self.extra += 1;
                State::Name
            }
            (State::Name, b':') => State::Value,
            (State::Value, b'\r') => State::LineLf,
            (State::Value, _) if is_text => {
                self.extra += 1;
                State::Value
            }
            (State::LineLf, b'\n') => State::Line,
            (State::Line | State::Name | State::Value | State::LineLf | State::EndLf, _) => {
                return Err(Malformed::Trailers);
            }
            _ => return Err(Malformed::Chunk),
        };
        if next == State::Size(0) {
            (self.size, self.extra) = (0, 0);
        }
        Ok(next)
    }
}

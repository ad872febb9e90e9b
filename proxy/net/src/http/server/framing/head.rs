//! One head of a client of HTTP/1, checked line by line as its bytes come.
//!
//! What passes here is a head that every server reads as the same one message: one request line,
//! fields whose names stand right before their colons, line ends of CR LF, at most one way to
//! tell the body's length. Values are not looked into beyond that.

use http::Uri;

use super::{Bounds, Malformed};

/// How the message goes on after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunks,
    Tunnel,
}

/// What is known of a head so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line begins that is not whole yet.
    line: usize,
    /// Up to here nothing ends it.
    scanned: usize,
    fields: usize,
    method: Option<Method>,
    is_old: bool,
    hosts: u8,
    length: Option<u64>,
    is_chunked: bool,
    upgrade: Offer,
    connection_upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Connect,
    Other,
}

/// What `Upgrade` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Offer {
    #[default]
    Nothing,
    /// HTTP/2, which may be ignored.
    Http2,
    Other,
}

impl Head {
    /// Looks at `head`, which begins where the head does and is at least as long as last time.
    /// Returns its length and what follows once it is whole.
    pub(super) fn see(
        &mut self,
        head: &[u8],
        bounds: Bounds,
    ) -> Result<Option<(usize, Body)>, Malformed> {
        loop {
            let Some(end) = self.line_end(head)? else {
                let too_large = head.len() >= bounds.bytes;
                return if too_large { Err(Malformed::HeadTooLarge) } else { Ok(None) };
            };
            let line = &head[self.line..end];
            let next = end + 2;
            if next > bounds.bytes {
                return Err(Malformed::HeadTooLarge);
            }
            (self.line, self.scanned) = (next, next);
            if self.method.is_none() {
                // Some old clients send an empty line after a body (RFC 9112 section 2.2).
                if !line.is_empty() {
                    self.request_line(line, bounds)?;
                }
            } else if line.is_empty() {
                return Ok(Some((next, self.body()?)));
            } else {
                self.fields += 1;
                if self.fields > bounds.fields {
                    return Err(Malformed::TooManyFields);
                }
                self.field(line)?;
            }
        }
    }

    /// Where the current line's CR is, if its LF has come, too.
    fn line_end(&mut self, head: &[u8]) -> Result<Option<usize>, Malformed> {
        loop {
            let Some(offset) = control(&head[self.scanned..]) else {
                self.scanned = head.len();
                return Ok(None);
            };
            let at = self.scanned + offset;
            self.scanned = at;
            match (head[at], head.get(at + 1)) {
                (b'\r', Some(b'\n')) => return Ok(Some(at)),
                (b'\r', None) => return Ok(None),
                (b'\r', Some(_)) | (b'\n', _) => return Err(Malformed::LineEnd),
                (b'\t', _) if self.method.is_some() => self.scanned = at + 1,
                _ => return Err(Malformed::Control),
            }
        }
    }

    fn request_line(&mut self, line: &[u8], bounds: Bounds) -> Result<(), Malformed> {
        let space = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
        let (method, rest) = line.split_at(space);
        let Some((target, version)) = rest.split_last_chunk::<9>() else {
            return Err(Malformed::RequestLine);
        };
        let Some((b' ', target)) = target.split_first() else {
            return Err(Malformed::RequestLine);
        };
        if method.is_empty() || target.is_empty() || target.contains(&b' ') {
            return Err(Malformed::RequestLine);
        }
        if target.len() > bounds.target {
            return Err(Malformed::TargetTooLong);
        }
        self.is_old = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            [b' ', b'H', b'T', b'T', b'P', b'/', ..] => return Err(Malformed::Version),
            _ => return Err(Malformed::RequestLine),
        };
        let connect = method == b"CONNECT";
        self.method = Some(if connect { Method::Connect } else { Method::Other });
        let valid = match target {
            _ if connect => is_uri(target),
            [b'/', ..] => is_path(target),
            b"*" => method == b"OPTIONS",
            _ => is_absolute(target) && is_uri(target),
        };
        if valid { Ok(()) } else { Err(Malformed::Target) }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let colon = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
        let (name, rest) = line.split_at(colon);
        let Some((b':', value)) = rest.split_first() else {
            let folded = matches!(line.first(), Some(b' ' | b'\t'));
            return Err(if folded { Malformed::Folded } else { Malformed::FieldName });
        };
        if name.is_empty() {
            return Err(Malformed::FieldName);
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts = self.hosts.saturating_add(1);
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade(value),
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let mut tokens = value.split(|byte| *byte == b',');
                self.connection_upgrade |=
                    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = number(value.trim_ascii()).ok_or(Malformed::Length)?;
                if self.length.is_some_and(|known| known != length) {
                    return Err(Malformed::Lengths);
                }
                self.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let chunked = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                if !chunked || self.is_chunked {
                    return Err(Malformed::Coding);
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn upgrade(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',') {
            let http2 = token.trim_ascii().eq_ignore_ascii_case(b"h2c");
            if !http2 {
                self.upgrade = Offer::Other;
            } else if self.upgrade == Offer::Nothing {
                self.upgrade = Offer::Http2;
            }
        }
    }

    fn body(&self) -> Result<Body, Malformed> {
        match self.hosts {
            0 if !self.is_old => return Err(Malformed::HostMissing),
            0 | 1 => {}
            _ => return Err(Malformed::HostTwice),
        }
        if self.is_chunked && self.is_old {
            return Err(Malformed::OldChunks);
        }
        if self.is_chunked && self.length.is_some() {
            return Err(Malformed::LengthAndChunks);
        }
        let upgrade = self.upgrade == Offer::Other && self.connection_upgrade && !self.is_old;
        let body = match self.length {
            _ if self.is_chunked => Body::Chunks,
            Some(length) if length > 0 => Body::Length(length),
            _ => Body::None,
        };
        if !upgrade && self.method != Some(Method::Connect) {
            Ok(body)
        } else if body == Body::None {
            Ok(Body::Tunnel)
        } else {
            Err(Malformed::BodyBeforeTunnel)
        }
    }
}

/// The place of the first byte below 32 or of 127.
pub(super) fn control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // A byte's high bit is set where it is below 32, or where it is 127; a carry may set
        // those above it, so only the lowest counts.
        let below = word.wrapping_sub(ONES * 32) & !word & HIGH;
        let delete = word ^ (ONES * 127);
        let found = below | (delete.wrapping_sub(ONES) & !delete & HIGH);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let offset = rest.iter().position(|byte| *byte < 32 || *byte == 127)?;
    Some(words.len() * 8 + offset)
}

/// Decimal digits alone; lengths beyond 18 digits are no lengths.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0, |number: u64, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}

/// A target that begins with a scheme.
fn is_absolute(target: &[u8]) -> bool {
    let is = |scheme: &[u8]| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    is(b"http://") || is(b"https://")
}

/// Whether hyper will take it: anything else would be answered by hyper, without a body.
fn is_uri(target: &[u8]) -> bool {
    target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#')
        && Uri::try_from(target).is_ok()
}

/// What the `http` crate takes as a path and query, without a fragment and in ASCII.
fn is_path(target: &[u8]) -> bool {
    let path = target.iter().position(|byte| CLASSES[usize::from(*byte)] & IN_PATH == 0);
    match path {
        None => true,
        Some(end) => {
            target[end] == b'?'
                && target[end..].iter().all(|byte| CLASSES[usize::from(*byte)] & IN_QUERY != 0)
        }
    }
}

pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & IN_TOKEN != 0
}

const IN_TOKEN: u8 = 1;
const IN_PATH: u8 = 2;
const IN_QUERY: u8 = 4;

/// What a byte may be part of.
static CLASSES: [u8; 256] = classes();

#[rustfmt::skip]
const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte: u8 = 0;
    loop {
        let token = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.'
                | b'^' | b'_' | b'`' | b'|' | b'~');
        let path = matches!(byte, 0x21..=0x22 | 0x24..=0x3b | 0x3d | 0x40..=0x5f | 0x61..=0x7e);
        let query = matches!(byte, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e);
        classes[byte as usize] = (token as u8) * IN_TOKEN + (path as u8) * IN_PATH
            + (query as u8) * IN_QUERY;
        if byte == u8::MAX {
            return classes;
        }
        byte += 1;
    }
}

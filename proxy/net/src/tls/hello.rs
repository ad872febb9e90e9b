//! What a TLS client says first, read without answering it.
//!
//! In: the first bytes of a connection, in pieces of any size. Out: the name it asks for, the
//! protocols it offers and whether it may be hiding another name (Encrypted Client Hello), or why
//! this is not a hello. [`HelloReader`] keeps what it was fed, so that it can be passed on
//! unchanged; it never keeps more than [`HELLO_BYTES_MAX`]. Nothing is decrypted, no key is
//! needed, and whether the name is allowed is for the policy to say.
//!
//! Formats: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301, RFC 9849 (ECH).

use self::cursor::{Cursor, Short};

mod cursor;
#[cfg(test)]
mod tests;

/// Bytes of a connection that may come before its hello is complete, record headers included.
/// Browsers with post-quantum keys and ECH send 2 to 4 KiB; a ticket that holds a client
/// certificate can add as much again. 16 KiB is the largest single record, and what other proxies
/// of the field keep, so whoever passes those passes here.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Payload of one plaintext record, by RFC 8446 section 5.1.
const RECORD_BYTES_MAX: usize = 16 * 1024;

const RECORD_HEADER: usize = 5;
const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_ECH: u16 = 0xfe0d;
const NAME_IS_HOST: u8 = 0;

/// Longest host name (RFC 1035 section 2.3.4, in text, without a dot at the end).
const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// A client's hello, as far as a proxy may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The host it asks for, in lower case and without a dot at the end. Behind ECH this is the
    /// name in front, not the one that is meant.
    pub sni: Option<String>,
    /// The protocols it offers, in its order, without reserved values (GREASE).
    pub alpn: Vec<Vec<u8>>,
    /// It carries an Encrypted Client Hello, real or as grease: nobody without the key can tell.
    pub ech: bool,
}

/// What is known after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The hello is not complete.
    NeedMore,
    /// It is.
    Hello(Hello),
    /// It never will be.
    NotTls(NotTls),
}

/// Why some bytes are no hello that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotTls {
    /// The first bytes are of another protocol.
    #[error("this is not TLS; send TLS here, or plain traffic to another listener")]
    OtherProtocol,
    /// It is longer than [`HELLO_BYTES_MAX`].
    #[error("the hello is longer than {HELLO_BYTES_MAX} bytes")]
    Oversize,
    /// Its lengths do not agree, or a part is there twice.
    #[error("the hello is malformed")]
    Malformed,
    /// The name it asks for is not a host name.
    #[error("the name in the hello is not a host name")]
    InvalidName,
}

impl NotTls {
    /// Every reason, for tables of metrics.
    pub const ALL: [Self; 4] =
        [Self::OtherProtocol, Self::Oversize, Self::Malformed, Self::InvalidName];

    /// As printed in metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::OtherProtocol => "not_tls",
            Self::Oversize => "hello_oversize",
            Self::Malformed => "hello_malformed",
            Self::InvalidName => "hello_invalid_name",
        }
    }
}

/// What a client is told before its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// The policy refuses the name.
    AccessDenied = 49,
    /// The hello cannot be read.
    DecodeError = 50,
    /// The server behind cannot be had.
    InternalError = 80,
    /// No such name, or none at all.
    UnrecognizedName = 112,
}

impl Alert {
    /// The whole record of this alert, fatal, for a client whose hello was not answered.
    pub const fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}

/// Reads one hello. See the module.
#[derive(Clone, Debug, Default)]
pub struct HelloReader {
    /// Everything fed, for whoever the connection is passed on to.
    raw: Vec<u8>,
    /// Where in `raw` the next record begins.
    at: usize,
    /// The handshake message, out of its records.
    message: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes of the connection. Once this has returned anything else than
    /// [`Step::NeedMore`] it should not be called again: further bytes are for the server.
    pub fn feed(&mut self, bytes: &[u8]) -> Step {
        self.raw.extend_from_slice(bytes);
        match self.advance() {
            Ok(Some(hello)) => Step::Hello(hello),
            Ok(None) if self.raw.len() >= HELLO_BYTES_MAX => Step::NotTls(NotTls::Oversize),
            Ok(None) => Step::NeedMore,
            Err(error) => Step::NotTls(error),
        }
    }

    /// How many more bytes are worth reading before the next [`feed`](Self::feed).
    pub fn room(&self) -> usize {
        HELLO_BYTES_MAX.saturating_sub(self.raw.len())
    }

    /// Whether nothing was fed yet.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Everything that was fed, to be passed on as it came.
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }

    /// Takes every complete record out of `raw`, until the message is whole.
    fn advance(&mut self) -> Result<Option<Hello>, NotTls> {
        loop {
            if let Some(length) = self.message_length()? {
                let end = HANDSHAKE_HEADER + length;
                if self.message.len() >= end {
                    return parse(&self.message[HANDSHAKE_HEADER..end]).map(Some);
                }
            }
            let rest = &self.raw[self.at..];
            let Some(length) = record_length(rest, self.at == 0)? else { return Ok(None) };
            let end = RECORD_HEADER + length;
            if self.at + end > HELLO_BYTES_MAX {
                return Err(NotTls::Oversize);
            }
            let Some(record) = rest.get(RECORD_HEADER..end) else {
                // What is there of the first record can show already that this is no hello.
                let begun = rest.get(RECORD_HEADER).copied();
                let other = self.at == 0 && begun.is_some_and(|kind| kind != CLIENT_HELLO);
                return if other { Err(NotTls::OtherProtocol) } else { Ok(None) };
            };
            self.message.extend_from_slice(record);
            self.at += end;
        }
    }

    /// How long the handshake message says it is, once its header is there.
    fn message_length(&self) -> Result<Option<usize>, NotTls> {
        match self.message.first() {
            None => return Ok(None),
            Some(&CLIENT_HELLO) => {}
            Some(_) => return Err(NotTls::OtherProtocol),
        }
        let Some(&[_, high, middle, low]) = self.message.first_chunk() else { return Ok(None) };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if RECORD_HEADER + HANDSHAKE_HEADER + length > HELLO_BYTES_MAX {
            return Err(NotTls::Oversize);
        }
        Ok(Some(length))
    }
}

/// The payload's length of the record that begins here; `None`: its header is not complete.
/// As soon as a byte is wrong it is refused: an HTTP client must not wait for the time limit.
fn record_length(bytes: &[u8], first: bool) -> Result<Option<usize>, NotTls> {
    // Another kind of record in the middle of a handshake message is forbidden.
    let wrong = if first { NotTls::OtherProtocol } else { NotTls::Malformed };
    if bytes.first().is_some_and(|kind| *kind != RECORD_HANDSHAKE) {
        return Err(wrong);
    }
    // 3.1 to 3.3 are sent; a reader has to ignore the minor number.
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(wrong);
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // An empty fragment of a handshake is forbidden: it would be a way to send for ever.
    if length == 0 || length > RECORD_BYTES_MAX {
        return Err(wrong);
    }
    Ok(Some(length))
}

impl From<Short> for NotTls {
    fn from(_: Short) -> Self {
        Self::Malformed
    }
}

/// Reads the body of a `ClientHello`.
fn parse(body: &[u8]) -> Result<Hello, NotTls> {
    let mut body = Cursor::new(body);
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let suites = body.vector16()?;
    let compression = body.vector8()?;
    let plausible = session.len() <= 32
        && !suites.is_empty()
        && suites.len().is_multiple_of(2)
        && !compression.is_empty();
    if !plausible {
        return Err(NotTls::Malformed);
    }
    let mut hello = Hello { sni: None, alpn: Vec::new(), ech: false };
    if body.is_empty() {
        // TLS 1.2 and older allow a hello without any extension.
        return Ok(hello);
    }
    let mut extensions = Cursor::new(body.vector16()?.rest());
    if !body.is_empty() {
        return Err(NotTls::Malformed);
    }
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let kind = extensions.number16()?;
        let value = extensions.vector16()?;
        seen.push(kind);
        match kind {
            EXTENSION_SERVER_NAME => hello.sni = Some(server_name(value)?),
            EXTENSION_ALPN => hello.alpn = protocols(value)?,
            EXTENSION_ECH => hello.ech = true,
            _ => {}
        }
    }
    // Two names would be read differently by two servers.
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(NotTls::Malformed);
    }
    Ok(hello)
}

/// The one host name of a `server_name` extension.
fn server_name(mut value: Cursor<'_>) -> Result<String, NotTls> {
    let mut list = value.vector16()?;
    let kind = list.number8()?;
    let name = list.vector16()?;
    if !list.is_empty() || !value.is_empty() {
        return Err(NotTls::Malformed);
    }
    if kind != NAME_IS_HOST {
        return Err(NotTls::InvalidName);
    }
    host(name.rest()).ok_or(NotTls::InvalidName)
}

/// A host name in lower case. RFC 6066 forbids addresses and a dot at the end; the dot is dropped,
/// because the same host is meant, and an address is refused, because no certificate rule and no
/// hostname rule can mean it.
fn host(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // All digits in the last label: some programs would read it as an address.
    let last = name.rsplit('.').next()?;
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit());
    let valid = name.len() <= HOST_BYTES_MAX && name.split('.').all(label) && !numeric;
    valid.then(|| name.to_ascii_lowercase())
}

/// The protocol names of an ALPN extension.
fn protocols(mut value: Cursor<'_>) -> Result<Vec<Vec<u8>>, NotTls> {
    let mut list = value.vector16()?;
    if list.is_empty() || !value.is_empty() {
        return Err(NotTls::Malformed);
    }
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let name = list.vector8()?.rest();
        if name.is_empty() {
            return Err(NotTls::Malformed);
        }
        if !is_grease(name) {
            protocols.push(name.to_vec());
        }
    }
    Ok(protocols)
}

/// Reserved so that nobody gets used to what is there (RFC 8701): two equal bytes `0x?a`.
fn is_grease(name: &[u8]) -> bool {
    matches!(name, [first, second] if first == second && first & 0x0f == 0x0a)
}

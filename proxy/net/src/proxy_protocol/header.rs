//! One PROXY header, read from bytes in pieces and written to bytes. Pure, and bounded.
//!
//! In: the bytes so far. Out: the header, how many more bytes it has at least, or why it never
//! will be one. What follows an address in version 2 (TLVs) is passed over unread. Addresses that
//! are not internet streams (unix, datagrams, unspecified) and `LOCAL` connections of the proxy
//! itself say nothing about the client: the connection keeps its own address.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tillgate_core::backend::ProxyProtocol;

/// The longest header of version 1, its line end included.
pub const V1_BYTES_MAX: usize = 107;

/// The longest header of version 2 that is taken: an address and 4 KiB of TLVs. Known senders
/// use a few hundred bytes, those that pass a client certificate's name and its CA's on some more.
pub const V2_BYTES_MAX: usize = V2_FIXED + 36 + 4096;

/// Bytes that tell a header from everything else.
pub const START_BYTES: usize = SIGNATURE.len();

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V1_START: &[u8] = b"PROXY ";
const V1_BYTES_MIN: usize = "PROXY UNKNOWN\r\n".len();
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;

const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;
const STREAM_OVER_IPV4: u8 = 0x11;
const STREAM_OVER_IPV6: u8 = 0x21;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is of this client, who connected to that address.
    Client {
        /// The client.
        from: SocketAddr,
        /// Where the proxy in front was connected to.
        to: SocketAddr,
    },
    /// The proxy speaks for itself (a health check), or cannot say for whom.
    Unknown,
}

impl Header {
    /// The client, if the header names one.
    pub const fn client(&self) -> Option<SocketAddr> {
        match self {
            Self::Client { from, .. } => Some(*from),
            Self::Unknown => None,
        }
    }
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Something else begins here.
    #[error("this is not a PROXY header")]
    NotOne,
    /// A line of version 1 that says nothing.
    #[error("the line of version 1 is malformed or longer than {V1_BYTES_MAX} bytes")]
    Line,
    /// Neither version 2 nor a command that it has.
    #[error("version and command 0x{0:02x} are unknown")]
    Command(u8),
    /// An address family or transport that does not exist.
    #[error("address family and transport 0x{0:02x} are unknown")]
    Family(u8),
    /// Shorter than its own address, or longer than anybody needs.
    #[error("a length of {0} bytes does not fit the address, or is beyond {V2_BYTES_MAX}")]
    Length(u16),
}

/// What is known after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The header, as long as the bytes.
    Done(Header),
    /// At least this many more bytes belong to it.
    Need(usize),
    /// It goes on to the next line end, within this many bytes.
    Line(usize),
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With a header.
    Header,
    /// With something else.
    Other,
    /// Too few bytes to tell.
    Unknown,
}

/// Whether `bytes` begin with a header.
pub fn start(bytes: &[u8]) -> Start {
    let whole = |start: &[u8]| bytes.starts_with(start);
    let part = |start: &[u8]| start.starts_with(bytes);
    if whole(&SIGNATURE) || whole(V1_START) {
        Start::Header
    } else if part(&SIGNATURE) || part(V1_START) {
        Start::Unknown
    } else {
        Start::Other
    }
}

/// Looks at the first `bytes` of a connection, which must not go beyond what the last step asked
/// for. To be called with none first.
///
/// # Errors
/// [`Invalid`] says why there will be no header.
pub fn decode(bytes: &[u8]) -> Result<Step, Invalid> {
    if start(bytes) == Start::Other {
        return Err(Invalid::NotOne);
    }
    // Until the signature is complete both versions are longer than what is asked for.
    if bytes.len() < START_BYTES {
        return Ok(Step::Need(START_BYTES - bytes.len()));
    }
    if bytes.starts_with(&SIGNATURE) { decode_v2(bytes) } else { decode_v1(bytes) }
}

fn decode_v1(bytes: &[u8]) -> Result<Step, Invalid> {
    if bytes.len() < V1_BYTES_MIN && !bytes.contains(&b'\n') {
        return Ok(Step::Need(V1_BYTES_MIN - bytes.len()));
    }
    if bytes.last() != Some(&b'\n') {
        let room = V1_BYTES_MAX.saturating_sub(bytes.len());
        let is_over = room == 0 || bytes.contains(&b'\n');
        return if is_over { Err(Invalid::Line) } else { Ok(Step::Line(room)) };
    }
    let line = bytes.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(Invalid::Line)?;
    decode_line(line).map(Step::Done).ok_or(Invalid::Line)
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 51234 443`, with single spaces.
fn decode_line(line: &str) -> Option<Header> {
    if line.contains('\n') {
        return None;
    }
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return None;
    }
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows has no meaning.
        return Some(Header::Unknown);
    }
    let (from, to) = (words.next()?, words.next()?);
    let (from, to): (IpAddr, IpAddr) = match family {
        "TCP4" => (from.parse::<Ipv4Addr>().ok()?.into(), to.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (from.parse::<Ipv6Addr>().ok()?.into(), to.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let (from_port, to_port) = (port(words.next()?)?, port(words.next()?)?);
    let rest = words.next();
    let client =
        Header::Client { from: SocketAddr::new(from, from_port), to: SocketAddr::new(to, to_port) };
    rest.is_none().then_some(client)
}

fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_padded = text.len() > 1 && text.starts_with('0');
    if is_plain && !is_padded { text.parse().ok() } else { None }
}

fn decode_v2(bytes: &[u8]) -> Result<Step, Invalid> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        return Ok(Step::Need(V2_FIXED - bytes.len()));
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = u16::from_be_bytes([fixed[14], fixed[15]]);
    let is_local = match command.checked_sub(VERSION_2) {
        Some(LOCAL) => true,
        Some(PROXY) => false,
        _ => return Err(Invalid::Command(command)),
    };
    let whole = V2_FIXED + usize::from(length);
    if whole > V2_BYTES_MAX {
        return Err(Invalid::Length(length));
    }
    // The receiver of LOCAL takes any family, and passes over what is there.
    let address = if is_local { 0 } else { address_bytes(family)? };
    if usize::from(length) < address {
        return Err(Invalid::Length(length));
    }
    if bytes.len() < whole {
        return Ok(Step::Need(whole - bytes.len()));
    }
    let address = &bytes[V2_FIXED..V2_FIXED + address];
    Ok(Step::Done(match family {
        STREAM_OVER_IPV4 if !is_local => client_of::<4>(address, |ip| Ipv4Addr::from(ip).into()),
        STREAM_OVER_IPV6 if !is_local => client_of::<16>(address, |ip| Ipv6Addr::from(ip).into()),
        _ => Header::Unknown,
    }))
}

/// What an address of this family and transport takes.
const fn address_bytes(family: u8) -> Result<usize, Invalid> {
    match (family >> 4, family & 0xf) {
        (_, 3..) | (4.., _) => Err(Invalid::Family(family)),
        (1, _) => Ok(12),
        (2, _) => Ok(36),
        (3, _) => Ok(216),
        _ => Ok(0),
    }
}

/// Two addresses of `N` bytes, then two ports.
fn client_of<const N: usize>(bytes: &[u8], ip: impl Fn([u8; N]) -> IpAddr) -> Header {
    let parts = || {
        let (from, rest) = bytes.split_first_chunk::<N>()?;
        let (to, rest) = rest.split_first_chunk::<N>()?;
        let (from_port, rest) = rest.split_first_chunk::<2>()?;
        let to_port = rest.first_chunk::<2>()?;
        let from = SocketAddr::new(ip(*from), u16::from_be_bytes(*from_port));
        let to = SocketAddr::new(ip(*to), u16::from_be_bytes(*to_port));
        Some(Header::Client { from, to })
    };
    parts().unwrap_or(Header::Unknown)
}

/// The header that says that a connection is of client `from`, who connected to `to`.
pub fn encode(version: ProxyProtocol, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to) = one_family(from, to);
    match version {
        ProxyProtocol::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let mut line = String::with_capacity(V1_BYTES_MAX);
            let ports = (from.port(), to.port());
            let (from, to) = (from.ip(), to.ip());
            // Writing into a String does not fail.
            let _ = write!(line, "PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1);
            line.into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut bytes = Vec::with_capacity(V2_FIXED + 36);
            bytes.extend_from_slice(&SIGNATURE);
            bytes.push(VERSION_2 | PROXY);
            match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    bytes.extend_from_slice(&[STREAM_OVER_IPV4, 0, 12]);
                    bytes.extend_from_slice(&from.octets());
                    bytes.extend_from_slice(&to.octets());
                }
                (from, to) => {
                    bytes.extend_from_slice(&[STREAM_OVER_IPV6, 0, 36]);
                    bytes.extend_from_slice(&in_ipv6(from).octets());
                    bytes.extend_from_slice(&in_ipv6(to).octets());
                }
            }
            bytes.extend_from_slice(&from.port().to_be_bytes());
            bytes.extend_from_slice(&to.port().to_be_bytes());
            bytes
        }
    }
}

/// Both in IPv4 where both are, else both in IPv6.
fn one_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (from, to) = (plain(from), plain(to));
    if from.is_ipv4() && to.is_ipv4() {
        return (from, to);
    }
    let wide = |address: SocketAddr| SocketAddr::new(in_ipv6(address.ip()).into(), address.port());
    (wide(from), wide(to))
}

const fn in_ipv6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

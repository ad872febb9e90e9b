//! One TCP connection in the hands of a test: sends what it is told, reads what it is asked to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::PATIENCE;

/// A connection, of either side.
pub struct Wire {
    stream: TcpStream,
    /// TLS on it, as a thing that reads and writes the stream itself.
    tls: Option<Box<dyn Session>>,
    read: Vec<u8>,
}

/// What TLS puts on a connection.
pub trait Session: Send {
    /// Reads what was inside.
    ///
    /// # Errors
    /// Of the connection, or of TLS.
    fn read(&mut self, stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize>;

    /// Writes inside.
    ///
    /// # Errors
    /// Of the connection, or of TLS.
    fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<usize>;

    /// Says that no more will be sent.
    fn finish(&mut self, stream: &mut TcpStream);
}

/// One message: a head and a body, as they were on the wire (chunks joined).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The first line.
    pub line: String,
    /// Of a response; 0 of a request.
    pub status: u16,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// Without framing.
    pub body: Vec<u8>,
    /// After the last chunk.
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its announced end.
    pub complete: bool,
}

impl Reply {
    /// The value of a field, if it is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `reason` of a problem body.
    pub fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let text = self.text();
        let rest = text.split("\"reason\":\"").nth(1).expect("a reason");
        rest.split('"').next().expect("a closing quote").to_owned()
    }
}

impl Wire {
    /// A connection to `address`.
    ///
    /// # Panics
    /// If there is none.
    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).expect("somebody listens"))
    }

    /// A connection from one of this machine's addresses.
    ///
    /// # Panics
    /// If there is none.
    pub fn connect_from(from: std::net::IpAddr, to: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of this machine");
        socket.connect(&to.into()).expect("somebody listens");
        Self::new(socket.into())
    }

    /// Takes over a connection.
    ///
    /// # Panics
    /// If the socket refuses its options.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes nodelay");
        Self { stream, tls: None, read: Vec::new() }
    }

    /// The same connection with `session` on it from now on.
    #[must_use]
    pub fn with_session(self, session: impl Session + 'static) -> Self {
        Self { tls: Some(Box::new(session)), ..self }
    }

    /// The connection below.
    pub const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(&mut self.stream, buffer),
            None => self.stream.read(buffer),
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.write(&mut self.stream, bytes),
            None => self.stream.write(bytes),
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write_some(bytes)?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// The other end's address, as we see it.
    ///
    /// # Panics
    /// If the connection is gone.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    /// The other end.
    ///
    /// # Panics
    /// If it is gone.
    pub fn peer(&self) -> SocketAddr {
        self.stream.peer_addr().expect("a connected socket")
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// If they are not taken.
    #[track_caller]
    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        self.write_all(text.as_ref()).expect("the bytes are taken");
    }

    /// Sends bytes; says whether they were taken.
    pub fn try_send(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.write_all(text.as_ref()).is_ok()
    }

    /// Sends `chunk` again and again until nothing is taken for a while; returns the bytes taken.
    pub fn send_until_full(&mut self, chunk: &[u8], pause: std::time::Duration) -> usize {
        self.stream.set_write_timeout(Some(pause)).expect("a socket takes a timeout");
        let mut sent = 0;
        loop {
            match self.write_some(chunk) {
                Ok(bytes) => sent += bytes,
                Err(error) => {
                    let full = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(full, "{error}");
                    self.stream.set_write_timeout(Some(PATIENCE)).expect("takes a timeout");
                    return sent;
                }
            }
        }
    }

    /// Sends bytes and waits until the other side has ended or broken the connection.
    #[track_caller]
    pub fn send_and_end(mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes);
        self.expect_end();
    }

    /// No more will be sent.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.finish(&mut self.stream);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Breaks the connection with a reset.
    ///
    /// # Panics
    /// If the socket refuses.
    pub fn reset(self) {
        let socket = socket2::Socket::from(self.stream);
        socket.set_linger(Some(std::time::Duration::ZERO)).expect("a socket takes linger");
    }

    /// Reads until `pattern` has come; returns everything up to its end.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn read_until(&mut self, pattern: &str) -> String {
        loop {
            if let Some(at) = find(&self.read, pattern.as_bytes()) {
                let rest = self.read.split_off(at + pattern.len());
                let found = std::mem::replace(&mut self.read, rest);
                return String::from_utf8_lossy(&found).into_owned();
            }
            assert!(self.fill(), "{pattern:?} did not come; there was {:?}", self.peek());
        }
    }

    /// Reads a line and not a byte more: what follows may be for somebody else.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn read_line_alone(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a line");
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Reads a line, or what there is of it until the connection ends or breaks.
    pub fn read_to_end_of_line(&mut self) -> String {
        while find(&self.read, b"\n").is_none() {
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(bytes) if bytes > 0 => self.read.extend_from_slice(&buffer[..bytes]),
                Ok(_) | Err(_) => return String::from_utf8_lossy(&self.read).into_owned(),
            }
        }
        self.read_until("\n")
    }

    /// Reads exactly this many bytes.
    ///
    /// # Panics
    /// If they do not come.
    #[track_caller]
    pub fn read_exact(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.fill(), "only {} of {count} bytes came", self.read.len());
        }
        let rest = self.read.split_off(count);
        std::mem::replace(&mut self.read, rest)
    }

    /// Reads until the other side ends; `Err` says it broke.
    ///
    /// # Errors
    /// What was read until the connection broke.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let mut buffer = [0; 65536];
        loop {
            match self.read_some(&mut buffer) {
                Ok(0) => return Ok(std::mem::take(&mut self.read)),
                Ok(bytes) => self.read.extend_from_slice(&buffer[..bytes]),
                // An alert of TLS is an end, too.
                Err(error) if is_an_end(&error) || error.kind() == ErrorKind::InvalidData => {
                    return Err(std::mem::take(&mut self.read));
                }
                Err(error) => panic!("neither bytes nor an end: {error}"),
            }
        }
    }

    /// Waits until the other side has closed or broken the connection.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = match self.read_to_end() {
            Ok(rest) | Err(rest) => rest,
        };
        assert!(rest.is_empty(), "an end, not {:?}", String::from_utf8_lossy(&rest));
    }

    /// Whether more bytes come; `false` at the end of the connection.
    pub fn waits_for_more(&mut self) -> bool {
        if !self.read.is_empty() {
            return true;
        }
        // A pool may keep this connection longer than a test is patient.
        let _ = self.stream.set_read_timeout(None);
        let mut buffer = [0; 65536];
        let more = match self.read_some(&mut buffer) {
            Ok(bytes) => {
                self.read.extend_from_slice(&buffer[..bytes]);
                bytes > 0
            }
            Err(_) => false,
        };
        let _ = self.stream.set_read_timeout(Some(PATIENCE));
        more
    }

    /// What has been read already.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    /// The head of a message.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn head(&mut self) -> Reply {
        let head = self.read_until("\r\n\r\n");
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let headers = lines.map(field).collect();
        let (body, trailers) = (Vec::new(), Vec::new());
        Reply { line, status, headers, body, trailers, complete: false }
    }

    /// Whether what came begins as TLS does.
    pub fn speaks_tls(&self) -> bool {
        self.read.first() == Some(&22)
    }

    /// A whole message; a body without a length ends with the connection.
    ///
    /// # Panics
    /// If no head comes.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let bodyless = matches!(reply.status, 100..=199 | 204 | 304);
        if reply.header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut reply);
        } else if let Some(length) = reply.header("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.read.len() < length && self.fill() {}
            let rest = self.read.split_off(length.min(self.read.len()));
            reply.body = std::mem::replace(&mut self.read, rest);
            reply.complete = reply.body.len() == length;
        } else if reply.status == 0 || bodyless {
            reply.complete = true;
        } else {
            match self.read_to_end() {
                Ok(body) => (reply.body, reply.complete) = (body, true),
                Err(body) => reply.body = body,
            }
        }
        reply
    }

    fn read_chunks(&mut self, reply: &mut Reply) {
        loop {
            let Some(line) = self.line() else { return };
            let Ok(size) = usize::from_str_radix(line.trim(), 16) else { return };
            if size == 0 {
                break;
            }
            while self.read.len() < size + 2 {
                if !self.fill() {
                    reply.body.append(&mut self.read);
                    return;
                }
            }
            reply.body.extend(self.read.drain(..size));
            self.read.drain(..2);
        }
        loop {
            match self.line() {
                Some(line) if line.is_empty() => break,
                Some(line) => reply.trailers.push(field(&line)),
                None => return,
            }
        }
        reply.complete = true;
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.read, b"\r\n") {
                let rest = self.read.split_off(at + 2);
                let line = std::mem::replace(&mut self.read, rest);
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads some more; `false` at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.read_some(&mut buffer) {
            Ok(0) => false,
            Ok(bytes) => {
                self.read.extend_from_slice(&buffer[..bytes]);
                true
            }
            Err(error) if is_an_end(&error) => false,
            Err(error) => panic!("neither bytes nor an end: {error}; had {:?}", self.peek()),
        }
    }

    fn peek(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

/// A reset; inside of TLS also an end that was not announced.
fn is_an_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

//! A server in the hands of a test: every connection is given to a closure with its number.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::frames::Frames;
use crate::wire::Wire;

/// A server on a port of the kernel's choice; it takes connections until dropped.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Origin {
    /// A server that gives each connection to `serve`, on a thread of its own.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn start(serve: impl Fn(Wire, usize) + Send + Sync + 'static) -> Self {
        Self::accept(move |stream, number| serve(Wire::new(stream), number))
    }

    /// A server of HTTP/2 that gives each connection to `serve` after its greeting.
    pub fn in_frames(serve: impl Fn(Frames, usize) + Send + Sync + 'static) -> Self {
        Self::accept(move |stream, number| {
            let mut frames = Frames::new(stream);
            frames.preface();
            frames.greet(&[]);
            serve(frames, number);
        })
    }

    fn accept(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (connections, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let origin =
            Self { address, connections: Arc::clone(&connections), over: Arc::clone(&over) };
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream, number));
            }
        });
        origin
    }

    /// A server that answers every request on every connection with `answer`, after it has read
    /// the whole request.
    pub fn answering(answer: &'static str) -> Self {
        Self::start(move |mut wire, _| {
            while wire.waits_for_more() {
                wire.reply();
                wire.send(answer);
            }
        })
    }

    /// A server that answers with the request it got: its first line and fields as the body.
    pub fn echoing() -> Self {
        Self::start(|wire, _| echo(wire))
    }

    /// The same inside of TLS; whoever does not shake hands is left.
    pub fn echoing_tls(config: std::sync::Arc<rustls::ServerConfig>) -> Self {
        Self::start(move |wire, _| {
            if let Some(wire) = crate::tls::accept(wire, &config) {
                echo(wire);
            }
        })
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the accept; a refusal is as good.
        drop(TcpStream::connect(self.address));
    }
}

/// Answers every request with itself.
fn echo(mut wire: Wire) {
    while wire.waits_for_more() {
        let request = wire.reply();
        let mut text = format!("{}\n", request.line);
        for (name, value) in &request.headers {
            text.push_str(&format!("{name}: {value}\n"));
        }
        for (name, value) in &request.trailers {
            text.push_str(&format!("trailer {name}: {value}\n"));
        }
        text.push_str(&format!("body {}\n", request.text()));
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    }
}

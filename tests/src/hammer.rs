//! Clients that come one after the other without a pause, each on a connection of its own: whoever
//! loses one connection out of thousands is found out.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{PATIENCE, now};

/// A server that drains waits a second for the request of who has connected. A client that was
/// slower than that by its own fault has lost nothing.
const PROMPT: Duration = Duration::from_millis(500);

/// Some clients at work.
pub struct Hammer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    request: String,
    over: AtomicBool,
    served: AtomicUsize,
    lost: Mutex<Vec<String>>,
}

impl Hammer {
    /// Starts `clients` that ask `address` for `/` of `host`.
    pub fn start(address: SocketAddr, host: &str, clients: usize) -> Self {
        let shared = Arc::new(Shared {
            address,
            request: format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            over: AtomicBool::new(false),
            served: AtomicUsize::new(0),
            lost: Mutex::default(),
        });
        let client = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.work())
        };
        let threads = (0..clients).map(client).collect();
        Self { shared, threads }
    }

    /// Requests that were answered.
    pub fn served(&self) -> usize {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Waits until `more` further requests were answered.
    #[track_caller]
    pub fn goes_on(&self, more: usize) {
        let before = self.served();
        crate::eventually(&format!("{more} more requests are answered"), || {
            (self.served() >= before + more || !self.lost().is_empty()).then_some(())
        });
    }

    /// Ends the clients; what was lost, with its reason.
    pub fn end(mut self) -> Vec<String> {
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
        self.lost()
    }

    fn lost(&self) -> Vec<String> {
        self.shared.lost.lock().expect("no panic while writing").clone()
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn work(&self) {
        while !self.over.load(Ordering::Relaxed) {
            match self.ask() {
                Ok(is_served) => {
                    self.served.fetch_add(is_served.into(), Ordering::Relaxed);
                }
                Err(why) => self.lost.lock().expect("no panic while writing").push(why),
            }
        }
    }

    /// Whether it was served; `false` if the client itself was too late.
    fn ask(&self) -> Result<bool, String> {
        let wrong = |step: &str, error: std::io::Error| format!("{step}: {error}");
        let start = now();
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)
            .map_err(|error| wrong("connect", error))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| wrong("socket", error))?;
        let sent = stream.write_all(self.request.as_bytes());
        let is_late = start.elapsed() > PROMPT;
        let mut reply = Vec::new();
        let read = sent.map_err(|error| wrong("send", error)).and_then(|()| {
            let mut piece = [0; 1024];
            while !reply.ends_with(b"\r\n\r\nok") {
                match stream.read(&mut piece).map_err(|error| wrong("receive", error))? {
                    0 => return Err(format!("closed after {:?}", String::from_utf8_lossy(&reply))),
                    length => reply.extend_from_slice(&piece[..length]),
                }
            }
            Ok(())
        });
        match read {
            Err(_) if is_late && reply.is_empty() => Ok(false),
            Err(why) => Err(why),
            Ok(()) if reply.starts_with(b"HTTP/1.1 200 ") => Ok(true),
            Ok(()) => Err(String::from_utf8_lossy(&reply).into_owned()),
        }
    }
}

//! Clients that come one after the other without a pause, each on a connection of its own: whoever
//! loses one connection out of thousands is found out.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::PATIENCE;

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
                Ok(()) => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(why) => self.lost.lock().expect("no panic while writing").push(why),
            }
        }
    }

    fn ask(&self) -> Result<(), String> {
        let wrong = |step: &str, error: std::io::Error| format!("{step}: {error}");
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)
            .map_err(|error| wrong("connect", error))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| wrong("socket", error))?;
        stream.write_all(self.request.as_bytes()).map_err(|error| wrong("send", error))?;
        let mut reply = Vec::new();
        let mut piece = [0; 1024];
        while !reply.ends_with(b"\r\n\r\nok") {
            match stream.read(&mut piece).map_err(|error| wrong("receive", error))? {
                0 => return Err(format!("closed after {:?}", String::from_utf8_lossy(&reply))),
                length => reply.extend_from_slice(&piece[..length]),
            }
        }
        let fine = reply.starts_with(b"HTTP/1.1 200 ");
        if fine { Ok(()) } else { Err(String::from_utf8_lossy(&reply).into_owned()) }
    }
}

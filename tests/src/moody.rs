//! A server with moods: it answers, refuses, freezes, errs, breaks off, and keeps a ledger of every
//! call that it has executed.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::wire::Wire;

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// It executes calls and answers.
    Well = 0,
    /// It takes connections and requests and says nothing; calls wait for better times.
    Frozen = 1,
    /// It answers 503 to every call and executes none; its health path is well.
    Failing = 2,
    /// It executes a call and breaks the connection instead of answering.
    Resetting = 3,
    /// It answers with half a body and breaks the connection.
    Halving = 4,
    /// It executes calls and answers when it is in another mood.
    Holding = 5,
    /// Its health path says no; its calls are well.
    Lying = 6,
    /// Its health path says yes; its calls wait for better times.
    Hollow = 7,
}

impl Mood {
    fn of(number: u8) -> Self {
        [
            Self::Well,
            Self::Frozen,
            Self::Failing,
            Self::Resetting,
            Self::Halving,
            Self::Holding,
            Self::Lying,
            Self::Hollow,
        ][usize::from(number)]
    }
}

/// See the module.
pub struct Moody {
    /// Where it listens, alive or not.
    pub address: SocketAddr,
    name: &'static str,
    shared: Arc<Shared>,
    listening: Option<Listening>,
}

#[derive(Default)]
struct Shared {
    mood: AtomicU8,
    changed: (Mutex<()>, Condvar),
    ledger: Mutex<Vec<String>>,
    wires: Mutex<BTreeMap<usize, std::net::TcpStream>>,
    next_wire: AtomicUsize,
    age: Mutex<Option<String>>,
    /// What answers to calls say of it, when that is something else.
    told: Mutex<Option<String>>,
    retry_after: Mutex<Option<String>>,
}

struct Listening {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Moody {
    /// A server that is well, on a port of the kernel's choice, which stays its own while it is
    /// dead; its answers carry `name`.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn start(name: &'static str) -> Self {
        let address = crate::ports::nobody();
        let mut server = Self { address, name, shared: Arc::default(), listening: None };
        server.revive();
        server
    }

    /// The process is gone: connections break, new ones are refused.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn kill(&mut self) {
        let Some(Listening { over, thread }) = self.listening.take() else { return };
        over.store(true, Ordering::SeqCst);
        drop(std::net::TcpStream::connect(self.address));
        thread.join().expect("the server has not panicked");
        let wires = std::mem::take(&mut *self.shared.wires.lock().expect("no panic"));
        for wire in wires.into_values() {
            let socket = Socket::from(wire);
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// It is back, well, where it was.
    ///
    /// # Panics
    /// If it was not dead.
    pub fn revive(&mut self) {
        self.turn(Mood::Well);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("a socket takes options");
        socket.bind(&self.address.into()).expect("the port is free");
        socket.listen(128).expect("a bound socket listens");
        let listener = TcpListener::from(socket);
        let (over, shared, name) = (Arc::<AtomicBool>::default(), self.shared.clone(), self.name);
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let number = shared.next_wire.fetch_add(1, Ordering::SeqCst);
                if let Ok(copy) = stream.try_clone() {
                    shared.wires.lock().expect("no panic").insert(number, copy);
                }
                let (shared, ends) = (Arc::clone(&shared), Arc::clone(&ends));
                std::thread::spawn(move || {
                    let mut wire = Wire::new(stream);
                    let breaks = serve(&mut wire, name, &shared, &ends);
                    // Nobody else holds the connection from here on.
                    shared.wires.lock().expect("no panic").remove(&number);
                    if breaks == Breaks::Off {
                        wire.reset();
                    }
                });
            }
        });
        self.listening = Some(Listening { over, thread });
    }

    /// Another mood, for calls under way too.
    pub fn turn(&self, mood: Mood) {
        self.shared.mood.store(mood as u8, Ordering::SeqCst);
        self.shared.changed.1.notify_all();
    }

    /// What its answers say of the age of its data.
    ///
    /// # Panics
    /// Never.
    pub fn data_is_old(&self, seconds: u64) {
        *self.shared.age.lock().expect("no panic") = Some(seconds.to_string());
    }

    /// The same of answers to calls.
    ///
    /// # Panics
    /// Never.
    pub fn answers_are_old(&self, seconds: u64) {
        *self.shared.told.lock().expect("no panic") = Some(seconds.to_string());
    }

    /// How long it wants to be left alone when it is failing.
    ///
    /// # Panics
    /// Never.
    pub fn asks_for_time(&self, seconds: u64) {
        *self.shared.retry_after.lock().expect("no panic") = Some(seconds.to_string());
    }

    /// The ids of the calls that it has executed, in order.
    ///
    /// # Panics
    /// Never.
    pub fn ledger(&self) -> Vec<String> {
        self.shared.ledger.lock().expect("no panic").clone()
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        self.turn(Mood::Well);
        self.kill();
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        Mood::of(self.mood.load(Ordering::SeqCst))
    }

    /// Waits while it is in this mood.
    fn thaw(&self, from: Mood, ends: &AtomicBool) {
        while self.mood() == from && !ends.load(Ordering::SeqCst) {
            let guard = self.changed.0.lock().expect("no panic");
            let tick = Duration::from_millis(20);
            drop(self.changed.1.wait_timeout(guard, tick).expect("no panic"));
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    Off,
    No,
}

/// A field of an answer's head, if there is something to say.
fn field(name: &str, value: &Mutex<Option<String>>) -> String {
    let value = value.lock().expect("no panic").clone();
    value.map_or(String::new(), |value| format!("{name}: {value}\r\n"))
}

fn serve(wire: &mut Wire, name: &str, shared: &Shared, ends: &AtomicBool) -> Breaks {
    while wire.waits_for_more() {
        let request = wire.reply();
        shared.thaw(Mood::Frozen, ends);
        if ends.load(Ordering::SeqCst) {
            return Breaks::Off;
        }
        let mood = shared.mood();
        let is_health = request.line.contains("/health") || request.line.starts_with("HEAD");
        if is_health {
            let status = if mood == Mood::Lying { "500 No" } else { "200 OK" };
            let age = field("x-data-age", &shared.age);
            wire.send(format!("HTTP/1.1 {status}\r\n{age}Content-Length: 0\r\n\r\n"));
            continue;
        }
        shared.thaw(Mood::Hollow, ends);
        let mood = shared.mood();
        if mood == Mood::Failing {
            let after = field("retry-after", &shared.retry_after);
            wire.send(format!("HTTP/1.1 503 Unavailable\r\n{after}Content-Length: 0\r\n\r\n"));
            continue;
        }
        let id = request.header("x-call").unwrap_or("?").to_owned();
        shared.ledger.lock().expect("no panic").push(id.clone());
        match mood {
            Mood::Resetting => return Breaks::Off,
            Mood::Halving => {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                return Breaks::Off;
            }
            Mood::Holding => shared.thaw(Mood::Holding, ends),
            Mood::Well | Mood::Frozen | Mood::Failing | Mood::Lying | Mood::Hollow => {}
        }
        let text = format!("{name} {id}");
        let (length, age) = (text.len(), field("x-data-age", &shared.told));
        let head = format!("HTTP/1.1 200 OK\r\n{age}Content-Length: {length}\r\n\r\n");
        if !wire.try_send(head + &text) {
            break;
        }
    }
    Breaks::No
}

//! Clients at a steady rate, and the server behind the gateway.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::stats::Quantiles;
use crate::sys::{self, NANOS_PER_SEC, NANOS_PER_US, Nanos, now};

/// Clients; each has one connection.
const CLIENTS: u64 = 8;

/// How it went for the clients.
#[derive(Default)]
pub(crate) struct Seen {
    /// When each answer came, and how long after its request was due; by when it came.
    pub(super) answers: Vec<(Nanos, Nanos)>,
    pub(crate) failed: usize,
}

impl Seen {
    /// The longest that a request took whose answer came in this time.
    pub(super) fn longest_wait(&self, from: Nanos, to: Nanos) -> Nanos {
        self.within(from, to).iter().map(|(_, took)| *took).max().unwrap_or(0)
    }

    /// The longest time in which no answer came.
    pub(super) fn silence(&self, from: Nanos, to: Nanos) -> Nanos {
        let answers = self.within(from, to);
        answers.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or(0)
    }

    /// How long the answers took.
    pub(crate) fn took(&self) -> Quantiles {
        Quantiles::of_micros(self.answers.iter().map(|(_, took)| took / NANOS_PER_US))
    }

    fn within(&self, from: Nanos, to: Nanos) -> &[(Nanos, Nanos)] {
        let place = |time| self.answers.partition_point(|(at, _)| *at < time);
        &self.answers[place(from)..place(to)]
    }
}

/// Asks at a steady rate while `work` goes on.
pub(crate) fn load(
    address: SocketAddr,
    rate: u64,
    work: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    let over = Arc::new(AtomicBool::new(false));
    let pause = NANOS_PER_SEC * CLIENTS / rate.max(1);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || client(address, pause, number * pause / CLIENTS, &over))
        })
        .collect();
    let worked = work();
    over.store(true, Ordering::Relaxed);
    let mut seen = Seen::default();
    for client in clients {
        let one = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        seen.answers.extend(one.answers);
        seen.failed += one.failed;
    }
    seen.answers.sort_unstable();
    worked.map(|()| seen)
}

fn client(address: SocketAddr, pause: Nanos, offset: Nanos, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut due = now() + offset;
    let mut stream = None;
    while !over.load(Ordering::Relaxed) {
        sys::sleep_until(due);
        match exchange(&mut stream, address) {
            Some(()) => seen.answers.push((now(), now() - due)),
            None => {
                seen.failed += 1;
                stream = None;
            }
        }
        due += pause;
    }
    seen
}

fn exchange(stream: &mut Option<TcpStream>, address: SocketAddr) -> Option<()> {
    if stream.is_none() {
        let made = TcpStream::connect(address).ok()?;
        made.set_nodelay(true).ok()?;
        made.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        *stream = Some(made);
    }
    let stream = stream.as_mut()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").ok()?;
    let (mut answer, mut length) = ([0; 2048], 0);
    while !answer[..length].ends_with(b"\r\n\r\nok") {
        let read = stream.read(answer.get_mut(length..)?).ok().filter(|read| *read > 0)?;
        length += read;
    }
    answer.starts_with(b"HTTP/1.1 200").then_some(())
}

/// A server that says `ok` to everybody.
pub(crate) fn origin() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_a_window_is_looked_at_alone() {
        let seen = Seen { answers: vec![(10, 9), (20, 1), (50, 3), (52, 2), (90, 8)], failed: 0 };
        assert_eq!((seen.longest_wait(20, 90), seen.silence(20, 90)), (3, 30));
        assert_eq!((seen.longest_wait(60, 80), seen.silence(60, 80)), (0, 0));
    }
}

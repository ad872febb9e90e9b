//! The WAN line: moves frames between two veths as [`Pipe`]s say, on a thread of its own.
//!
//! It forwards frames unchanged (each end knows the other's MAC), counts IP bytes, wakes to
//! within some tens of microseconds, keeps the ground truth ([`crate::truth`]) and takes
//! [`Command`]s as JSON datagrams while it runs, from [`Emulator`] or from any program through
//! the named socket. Anything that is not IPv4 is dropped.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::line::{Offer, Pipe, Shape};
use crate::sys::{self, NANOS_PER_MS, Nanos};
use crate::truth::{QueueReport, Truth};

/// The longest sleep: bounds how late a stop is noticed.
const NAP: Nanos = 50 * NANOS_PER_MS;
/// Frames taken from one side before the other gets its turn.
const BATCH: usize = 64;
const ETHERNET_HEADER: usize = 14;
const FRAME_MAX: usize = 1_514;
/// Above ordinary threads, below the kernel's own.
const PRIORITY: i32 = 10;

/// Both directions of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub down: Shape,
    pub up: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the cloud to the store.
    Down,
    /// From the store to the cloud.
    Up,
}

/// What may be said to a running emulator, as JSON in one datagram.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Change one direction from now on.
    Set { direction: Direction, shape: Shape },
    /// Queue delays of a span of the monotonic clock; answered with [`QueueReport`]s, down and up.
    Report { from_ns: Nanos, to_ns: Nanos },
}

/// A running emulator; it stops when this is dropped.
pub struct Emulator {
    shared: Arc<Shared>,
    control: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    cpu: AtomicU64,
    truth: Mutex<Truth>,
}

impl Emulator {
    /// Starts the emulator between two interfaces of the caller's network namespace.
    pub fn start(line: Line, store: &str, cloud: &str) -> io::Result<Self> {
        let (control, inner) = UnixDatagram::pair()?;
        let shared = Arc::new(Shared::default());
        let mut engine = Engine::new(line, store, cloud, inner, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new().name("emulator".into()).spawn(move || {
            sys::exact_timers();
            sys::real_time(PRIORITY);
            engine.run();
        })?;
        Ok(Self { shared, control, thread: Some(thread) })
    }

    /// Changes one direction from now on.
    pub fn set(&self, direction: Direction, shape: Shape) -> io::Result<()> {
        let command = serde_json::to_vec(&Command::Set { direction, shape })?;
        self.control.send(&command).map(drop)
    }

    /// Queue delays (down, up) of packets that left the buffer within a span of time.
    pub fn report(&self, from: Nanos, to: Nanos) -> [QueueReport; 2] {
        self.shared.lock_truth().report(from, to)
    }

    /// The 100 ms log so far, as text with one line per interval and direction.
    pub fn log(&self) -> String {
        self.shared.lock_truth().log()
    }

    /// Processor time used by the emulator so far.
    pub fn cpu(&self) -> Nanos {
        self.shared.cpu.load(Ordering::Relaxed)
    }

    /// Serves [`Command`]s on a named datagram socket too, reachable from every namespace.
    pub fn serve_commands(&self, path: &Path) -> io::Result<()> {
        let outside = UnixDatagram::bind(path)?;
        outside.set_read_timeout(Some(std::time::Duration::from_millis(100)))?;
        let inside = self.control.try_clone()?;
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("emulator-control".into())
            .spawn(move || serve(&outside, &inside, &shared))?;
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock_truth(&self) -> std::sync::MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes changes on to the engine and answers questions. Malformed commands are answered so.
fn serve(outside: &UnixDatagram, inside: &UnixDatagram, shared: &Shared) {
    let mut buffer = [0; 1_024];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = outside.recv_from(&mut buffer) else { continue };
        let answer = match serde_json::from_slice(&buffer[..length]) {
            Ok(Command::Set { .. }) => match inside.send(&buffer[..length]) {
                Ok(_) => "{\"ok\":true}".to_owned(),
                Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
            },
            Ok(Command::Report { from_ns, to_ns }) => {
                let report = shared.lock_truth().report(from_ns, to_ns);
                serde_json::to_string(&report).unwrap_or_default()
            }
            Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
        };
        reply(outside, &from, &answer);
    }
}

/// Answers a sender that has a name; the others did not want an answer.
fn reply(socket: &UnixDatagram, to: &SocketAddr, answer: &str) {
    if let Some(path) = to.as_pathname() {
        drop(socket.send_to(answer.as_bytes(), path));
    }
}

/// One direction with its sockets.
struct Way {
    from: Arc<Socket>,
    to: Arc<Socket>,
    pipe: Pipe<Box<[u8]>>,
    /// Which half of the truth this is.
    direction: Direction,
}

struct Engine {
    down: Way,
    up: Way,
    control: UnixDatagram,
    shared: Arc<Shared>,
    random: fastrand::Rng,
    alarm: Alarm,
}

/// Timers ring late, by 50 to 150 µs where a virtual machine has to be woken up. So they are set
/// early by what they were late lately, and the rest is polled.
#[derive(Default)]
struct Alarm {
    usual_lateness: Nanos,
}

impl Alarm {
    /// Never polls for longer than this.
    const LATENESS_MAX: Nanos = 150_000;

    fn set_for(&self, until: Nanos, now: Nanos) -> Nanos {
        (until - self.usual_lateness.min(until)).max(now)
    }

    fn rang(&mut self, set: Nanos, now: Nanos) {
        let late = now.saturating_sub(set).min(Self::LATENESS_MAX);
        self.usual_lateness = (self.usual_lateness * 15 + late) / 16;
    }
}

impl Engine {
    fn new(
        line: Line,
        store: &str,
        cloud: &str,
        control: UnixDatagram,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        control.set_nonblocking(true)?;
        let store = Arc::new(sys::packet_socket(sys::interface_index(store)?)?);
        let cloud = Arc::new(sys::packet_socket(sys::interface_index(cloud)?)?);
        Ok(Self {
            down: Way {
                from: Arc::clone(&cloud),
                to: Arc::clone(&store),
                pipe: Pipe::new(line.down),
                direction: Direction::Down,
            },
            up: Way { from: store, to: cloud, pipe: Pipe::new(line.up), direction: Direction::Up },
            control,
            shared,
            // The same losses in every run of the same traffic.
            random: fastrand::Rng::with_seed(412),
            alarm: Alarm::default(),
        })
    }

    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = sys::now();
            let mut until = now + NAP;
            for way in [&mut self.down, &mut self.up] {
                way.deliver(&self.shared, now);
                until = until.min(way.pipe.poll_timeout().unwrap_or(until));
            }
            let sources = [self.down.from.as_fd(), self.up.from.as_fd(), self.control.as_fd()];
            let alarm = self.alarm.set_for(until, now);
            let Ok([down, up, control]) = sys::wait_readable(sources, alarm, now) else { return };
            if !(down || up || control) && alarm > now {
                self.alarm.rang(alarm, sys::now());
            }
            if down {
                self.down.take(&self.shared, &mut self.random);
            }
            if up {
                self.up.take(&self.shared, &mut self.random);
            }
            if control {
                self.obey();
            }
            self.shared.cpu.store(sys::thread_cpu(), Ordering::Relaxed);
        }
    }

    fn obey(&mut self) {
        let mut buffer = [0; 1_024];
        while let Ok(length) = self.control.recv(&mut buffer) {
            let Ok(Command::Set { direction, shape }) = serde_json::from_slice(&buffer[..length])
            else {
                continue;
            };
            let way = match direction {
                Direction::Down => &mut self.down,
                Direction::Up => &mut self.up,
            };
            let now = sys::now();
            way.advance(&self.shared, now);
            way.pipe.reshape(shape, now);
        }
    }
}

impl Way {
    fn advance(&mut self, shared: &Shared, now: Nanos) {
        let mut truth = shared.lock_truth();
        let record = truth.direction(self.direction);
        self.pipe.advance(now, |departure| record.departed(departure));
    }

    fn deliver(&mut self, shared: &Shared, now: Nanos) {
        self.advance(shared, now);
        while let Some(frame) = self.pipe.poll_due(now) {
            // A refused frame is a loss that the line did not order, so it must be seen.
            if (&*self.to).write(&frame).is_err() {
                shared.lock_truth().direction(self.direction).dropped(now);
            }
        }
    }

    fn take(&mut self, shared: &Shared, random: &mut fastrand::Rng) {
        let mut buffer = [0; FRAME_MAX + 1];
        for _ in 0..BATCH {
            let length = match (&*self.from).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let Some(bytes) = ip_length(&buffer[..length]) else { continue };
            let now = sys::now();
            self.advance(shared, now);
            let frame = Box::from(&buffer[..length]);
            match self.pipe.offer(frame, bytes, random.u64(..), now) {
                Offer::Queued => {}
                Offer::Lost | Offer::Full => {
                    shared.lock_truth().direction(self.direction).dropped(now);
                }
            }
        }
    }
}

/// The length of the IPv4 packet in a frame; `None` for everything else, and for a frame that is
/// longer than an Ethernet frame (an offload that is still on; it would falsify the line).
fn ip_length(frame: &[u8]) -> Option<u64> {
    if frame.len() > FRAME_MAX || frame.get(12..ETHERNET_HEADER)? != [8, 0] {
        return None;
    }
    let total = frame.get(ETHERNET_HEADER + 2..ETHERNET_HEADER + 4)?;
    Some(u64::from(u16::from_be_bytes(total.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv4_counts_and_by_its_own_length() {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[16..18].copy_from_slice(&40u16.to_be_bytes());
        assert_eq!(ip_length(&frame), Some(40));
        frame[12] = 0x86;
        assert_eq!(ip_length(&frame), None);
        assert_eq!(ip_length(&[0; 10]), None);
    }

    #[test]
    fn commands_are_strict_json() {
        let text = r#"{"set":{"direction":"down","shape":
            {"rate_bps":2000000,"delay_us":20000,"buffer_ms":250,"loss_ppm":0}}}"#;
        assert!(serde_json::from_str::<Command>(text).is_ok());
        assert!(serde_json::from_str::<Command>(r#"{"sett":{}}"#).is_err());
    }
}

//! What a registry's kernel still held when a connection of it died.
//!
//! A registry counts a byte as sent when its kernel takes it. What lies in the send queue of a
//! socket that dies never crossed the line, or was on its way: it is asked for again and counted
//! twice there although it was never got. The kernel tells the queue of every socket
//! (`/proc/PID/net/tcp`); the last word on each that is gone is what it took with it. Only those
//! count that were there when the trouble began: others died for reasons of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Result;

use crate::sys;

/// How often it is looked: a queue changes by 125 KB in that time at 20 Mbit/s.
const LOOK_EVERY: sys::Nanos = sys::NANOS_PER_SEC / 20;

/// States of a connection that may still send (`include/net/tcp_states.h`): open, and open although
/// the other side has ended.
const SENDING: [&str; 2] = ["01", "08"];

/// A kernel tries a dead connection again within this: twice as long as the line was cut.
const SETTLES_IN: sys::Nanos = 60 * sys::NANOS_PER_SEC;

/// Both ends and the inode of a socket.
type Socket = (String, String, String);

/// And what waits in it.
type Queues = BTreeMap<Socket, u64>;

/// Looks at the sockets of one process's network for as long as it lives.
pub(super) struct Watch {
    pid: u32,
    port: u16,
    over: Arc<AtomicBool>,
    /// What was there when the trouble began.
    hit: Arc<Mutex<BTreeSet<Socket>>>,
    thread: JoinHandle<u64>,
}

impl Watch {
    /// Of the process `pid`, which listens on `port`.
    pub(super) fn start(pid: u32, port: u16) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&over);
        let hit = Arc::<Mutex<BTreeSet<Socket>>>::default();
        let counted = Arc::clone(&hit);
        let thread = std::thread::Builder::new().name("queues".into()).spawn(move || {
            let (mut before, mut lost) = (Queues::new(), 0);
            while !end.load(Ordering::Relaxed) {
                let now = look(pid, port);
                lost +=
                    taken(&before, &now, &counted.lock().unwrap_or_else(PoisonError::into_inner));
                before = now;
                sys::sleep_until(sys::now() + LOOK_EVERY);
            }
            lost
        })?;
        Ok(Self { pid, port, over, hit, thread })
    }

    /// The trouble begins: connections that are there now may take bytes with them.
    pub(super) fn trouble_begins(&self) {
        let there = look(self.pid, self.port).into_keys().collect();
        *self.hit.lock().unwrap_or_else(PoisonError::into_inner) = there;
    }

    /// Waits until nothing is to be sent any more: only then has the registry counted everything.
    pub(super) fn settle(&self) {
        let deadline = sys::now() + SETTLES_IN;
        while look(self.pid, self.port).values().any(|queue| *queue > 0) && sys::now() < deadline {
            sys::sleep_until(sys::now() + LOOK_EVERY);
        }
    }

    /// Bytes that sockets which were there took with them.
    pub(super) fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(0)
    }
}

/// What lay in sockets of `hit` that were there `before` and are gone now.
fn taken(before: &Queues, now: &Queues, hit: &BTreeSet<Socket>) -> u64 {
    let gone = |socket: &Socket| hit.contains(socket) && !now.contains_key(socket);
    before.iter().filter(|(socket, _)| gone(socket)).map(|(_, queue)| queue).sum()
}

fn look(pid: u32, port: u16) -> Queues {
    let mut queues = Queues::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        queues.extend(text.lines().skip(1).filter_map(|line| socket(line, port)));
    }
    queues
}

/// `sl local remote state tx:rx timer retransmits uid timeout inode`
fn socket(line: &str, port: u16) -> Option<(Socket, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, local, remote, state, queues, _, _, _, _, inode, ..] = words.as_slice() else {
        return None;
    };
    let is_ours = u16::from_str_radix(local.rsplit_once(':')?.1, 16) == Ok(port);
    let waits = u64::from_str_radix(queues.split_once(':')?.0, 16).ok()?;
    let socket = [local, remote, inode].map(|word| (*word).to_owned());
    (is_ours && SENDING.contains(state)).then(|| (socket.into(), waits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_there_when_the_trouble_began_is_taken_off() {
        let socket = |inode: &str| ("a".to_owned(), "b".to_owned(), inode.to_owned());
        let before = Queues::from([(socket("1"), 100), (socket("2"), 20), (socket("3"), 3)]);
        let now = Queues::from([(socket("3"), 3)]);
        let hit = BTreeSet::from([socket("1"), socket("3")]);
        assert_eq!(taken(&before, &now, &hit), 100, "the second came later, the third lives");
        assert_eq!(taken(&before, &now, &BTreeSet::new()), 0);
    }

    #[test]
    fn a_line_of_the_kernel_is_a_socket_with_its_queue() {
        let line = "   1: 0100090A:1388 0200090A:C350 01 00012345:00000000 01:00000016 00000000     0        0 4711 2 0000000000000000 22 4 30 10 -1";
        let (socket, waits) = socket(line, 5_000).expect("a socket");
        assert_eq!((waits, &*socket.2), (0x12345, "4711"));
        assert!(self::socket(line, 5_001).is_none());
        assert!(self::socket(&line.replace(" 01 0001", " 0A 0001"), 5_000).is_none());
        assert!(self::socket("  sl  local_address", 5_000).is_none());
    }
}

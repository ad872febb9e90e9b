//! A name server of the store that knows one name, and can fall silent.
//!
//! It answers on the loopback of the store with the address of the cloud. A proxy that is to ask
//! it is shown a `resolv.conf` that names it.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Scratch;
use crate::sys;
use crate::testbed::CLOUD;

/// The cloud's name.
pub(super) const NAME: &str = "pricing.cloud.example";

const SERVES: u8 = 0;
const SILENT: u8 = 1;
const STOPS: u8 = 2;
/// How late a stop is noticed.
const NAP: Duration = Duration::from_millis(100);
/// For how long an answer may be kept, in seconds.
const TTL: u32 = 1;
const HEADER: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// The running server; it stops when this is dropped.
pub(super) struct Names {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    mode: AtomicU8,
    answered: AtomicU64,
}

impl Names {
    /// Serves in the network namespace of the caller.
    pub(super) fn start() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).context("open the DNS port")?;
        socket.set_read_timeout(Some(NAP))?;
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("names".into()).spawn(move || {
            let mut question = [0; 512];
            while told.mode.load(Ordering::Relaxed) != STOPS {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                if told.mode.load(Ordering::Relaxed) == SERVES
                    && let Some(answer) = answer(&question[..length])
                {
                    told.answered.fetch_add(1, Ordering::Relaxed);
                    drop(socket.send_to(&answer, from));
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on questions get no answer at all, as behind a cut line. Tells how many were
    /// answered before.
    pub(super) fn fall_silent(&self) -> u64 {
        self.shared.mode.store(SILENT, Ordering::Relaxed);
        self.shared.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.shared.mode.store(STOPS, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Lets a program ask this server alone, whatever the machine is set to.
pub(super) fn show(command: &mut Command, scratch: &Scratch) -> Result<()> {
    let resolver = scratch.write("resolv.conf", "nameserver 127.0.0.1\n")?;
    let order = scratch.write("nsswitch.conf", "hosts: files dns\n")?;
    let mut places = vec![
        (resolver.as_path(), Path::new("/etc/resolv.conf")),
        (order.as_path(), Path::new("/etc/nsswitch.conf")),
    ];
    // Where a file is missing, the system does by itself what ours would say.
    places.retain(|(_, place)| place.exists());
    sys::show_files(command, &places).context("show a resolv.conf")
}

/// The answer to a question; `None` to what is none.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let body = question.get(HEADER..)?;
    let mut name = String::new();
    let mut at = 0;
    while let Some(length @ 1..=63) = body.get(at).copied() {
        let label = body.get(at + 1..at + 1 + usize::from(length))?;
        name.push_str(std::str::from_utf8(label).ok()?);
        name.push('.');
        at += 1 + usize::from(length);
    }
    let end = at + 5;
    let kind = body.get(at + 1..at + 3)?;
    let known = name.trim_end_matches('.').eq_ignore_ascii_case(NAME);
    let found = known && kind == TYPE_A;
    let mut answer = question[..2].to_vec();
    // A response, recursion available; 3 = no such name.
    answer.extend([0x81, if known { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(found), 0, 0, 0, 0]);
    answer.extend(body.get(..end)?);
    if found {
        // The name is the one of the question.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(CLOUD.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str, kind: u8) -> Vec<u8> {
        let mut bytes = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, kind, 0, 1]);
        bytes
    }

    #[test]
    fn one_name_has_one_address() {
        let answer = answer(&question(NAME, 1)).unwrap();
        assert_eq!(&answer[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1]);
        assert!(answer.ends_with(&[0, 4, 10, 9, 0, 1]), "{answer:?}");
    }

    #[test]
    fn other_kinds_are_empty_and_other_names_unknown() {
        let other = answer(&question(NAME, 28)).unwrap();
        assert_eq!((other[3], other[7]), (0x80, 0));
        let unknown = answer(&question("elsewhere.example", 1)).unwrap();
        assert_eq!((unknown[3], unknown[7]), (0x83, 0));
        assert_eq!(answer(&[0; 5]), None);
        assert_eq!(answer(&question(NAME, 1)[..20]), None);
    }
}

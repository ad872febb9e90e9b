//! Listening sockets on their way from one process to the next.
//!
//! The very sockets travel, never only their addresses: connections that wait in the kernel's
//! queue of a socket stay there and are taken by whoever accepts next. They come over a unix
//! socket from the process before ([`give`], [`take`]), or from a service manager that has bound
//! them ([`activated`]). One frame per socket: a kind, the length of its listener's name, the
//! name, and one byte that carries the descriptor.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::listen::Socket;
use crate::sockopt;

/// A socket follows.
const SOCKET: u8 = 1;
/// That was all.
const END: u8 = 0;

/// First frame, so that neither side reads what it does not understand.
const GREETING: &[u8; 8] = b"tillgat1";

/// The first descriptor that a service manager hands on (`sd_listen_fds(3)`).
const FIRST_ACTIVATED: i32 = 3;

/// No process is handed more sockets than this; a wrong number must not loop us for long.
const SOCKETS_MAX: usize = 4096;

/// A listening socket and the name of its listener; one listener may have several.
pub type Named = (Arc<str>, Socket);

/// Sends `sockets` to the process at the other end, which then has them too.
///
/// # Errors
/// If the other end is gone or does not read.
pub fn give(mut stream: &UnixStream, sockets: &[Named]) -> io::Result<()> {
    stream.write_all(GREETING)?;
    for (name, socket) in sockets {
        let length = u8::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream.write_all(&[SOCKET, length])?;
        stream.write_all(name.as_bytes())?;
        sockopt::send_descriptor(stream.as_fd(), socket.as_fd())?;
    }
    stream.write_all(&[END])
}

/// Receives what the other end [gives](give).
///
/// # Errors
/// If the other end is gone, silent or no Tillgate.
pub fn take(mut stream: &UnixStream) -> io::Result<Vec<Named>> {
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    if greeting != *GREETING {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it hands over in another way"));
    }
    let mut sockets = Vec::new();
    loop {
        let mut kind = [0; 1];
        stream.read_exact(&mut kind)?;
        if kind == [END] || sockets.len() == SOCKETS_MAX {
            return Ok(sockets);
        }
        let mut length = [0; 1];
        stream.read_exact(&mut length)?;
        let mut name = vec![0; usize::from(length[0])];
        stream.read_exact(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
        let descriptor = sockopt::receive_descriptor(stream.as_fd())?;
        sockets.push((name.into(), Socket::adopt(descriptor)?));
    }
}

/// What a service manager says of sockets, as its environment variables hold it.
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// `LISTEN_PID`: for whom they are.
    pub process: Option<String>,
    /// `LISTEN_FDS`: how many.
    pub count: Option<String>,
    /// `LISTEN_FDNAMES`: their names, with colons between.
    pub names: Option<String>,
}

/// The sockets that a service manager has bound for the process `id`, this one. To be called once,
/// at start.
///
/// # Errors
/// If one of them is not a listening socket; the text names it.
pub fn activated(activation: &Activation, id: u32) -> io::Result<Vec<Named>> {
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<u32>().ok());
    let count = number(&activation.count).unwrap_or(0).min(4096);
    if count == 0 || number(&activation.process) != Some(id) {
        return Ok(Vec::new());
    }
    let mut names = activation.names.as_deref().unwrap_or("").split(':');
    let descriptors = sockopt::inherited(FIRST_ACTIVATED, i32::try_from(count).unwrap_or(0));
    let adopt = |descriptor| {
        let name = names.next().unwrap_or("");
        let socket = Socket::adopt(descriptor)
            .map_err(|error| io::Error::new(error.kind(), format!("socket {name:?}: {error}")))?;
        Ok((Arc::from(name), socket))
    };
    descriptors.into_iter().map(adopt).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn what_waits_in_the_queue_travels_with_its_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = TcpStream::connect(address).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sockets = vec![
            ("http".into(), Socket::Stream(listener)),
            ("radius".into(), Socket::Datagram(datagrams)),
        ];
        give(&ours, &sockets).unwrap();
        drop(sockets);
        let taken = take(&theirs).unwrap();
        assert_eq!(taken.len(), 2);
        assert!(&*taken[0].0 == "http" && &*taken[1].0 == "radius");
        assert_eq!(taken[0].1.local_addr().unwrap(), address);
        let Socket::Stream(listener) = &taken[0].1 else { panic!("a listener was sent") };
        let (mut served, _) = listener.accept().unwrap();
        served.write_all(b"here").unwrap();
        let mut said = [0; 4];
        waiting.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"here");
    }

    #[test]
    fn a_stranger_and_a_torn_message_are_refused() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"tillgat1\x01\x04ht", b"tillgat1\x01\x01ax"] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            drop(ours);
            take(&theirs).unwrap_err();
        }
    }

    #[test]
    fn sockets_for_another_process_are_left_alone() {
        let said = |process: &str, count: &str| Activation {
            process: Some(process.into()),
            count: Some(count.into()),
            names: None,
        };
        assert!(activated(&Activation::default(), 7).unwrap().is_empty());
        assert!(activated(&said("8", "1"), 7).unwrap().is_empty());
        assert!(activated(&said("7", "many"), 7).unwrap().is_empty());
    }
}

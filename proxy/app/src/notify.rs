//! What the service manager is told (`sd_notify(3)`): ready, reloading, stopping, and which
//! process to watch after a handover.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is sent. A manager that does not listen is
//! no reason to stop: failures are logged once each.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tillgate_net::clock;

/// The variable with the manager's socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// A line to the service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notify {
    socket: Option<OsString>,
}

impl Notify {
    /// To whom the environment says.
    pub(crate) fn from_environment() -> Self {
        Self { socket: std::env::var_os(VARIABLE) }
    }

    /// It serves.
    pub(crate) fn ready(&self) {
        let id = std::process::id();
        self.tell(&format!("READY=1\nMAINPID={id}\nSTATUS=serving\n"));
    }

    /// It compiles another config; [`ready`](Self::ready) follows.
    pub(crate) fn reloading(&self) {
        let now = clock::monotonic_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reloading\n"));
    }

    /// It drains.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining\n");
    }

    /// From here on the process `id` is the gateway; this one drains.
    pub(crate) fn handed_over(&self, id: u32) {
        self.tell(&format!("MAINPID={id}\nSTATUS=handed over\n"));
    }

    fn tell(&self, what: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, what.as_bytes()) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

fn send(socket: &OsString, what: &[u8]) -> io::Result<()> {
    let bytes = socket.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(what, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_happens() {
        let name = format!("tillgate-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notify = Notify { socket: Some(format!("@{name}").into()) };
        let heard = || {
            let mut buffer = [0; 200];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        notify.ready();
        let id = std::process::id();
        assert!(heard().starts_with(&format!("READY=1\nMAINPID={id}\n")));
        notify.reloading();
        let said = heard();
        let time = said.split("MONOTONIC_USEC=").nth(1).unwrap().lines().next().unwrap();
        assert!(said.starts_with("RELOADING=1\n") && time.parse::<u64>().unwrap() > 0, "{said}");
        notify.stopping();
        assert!(heard().starts_with("STOPPING=1\n"));
        notify.handed_over(7);
        assert!(heard().starts_with("MAINPID=7\n"));
        Notify::default().ready();
    }
}

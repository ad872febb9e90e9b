//! A way across the line for a program of others (`git`): a port on loopback that leads to one
//! server, in class `control`, and to nothing else.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tillgate_config::defaults;
use tillgate_core::backend::{Host, Location};
use tillgate_net::tls::Connector;
use tillgate_net::upstream::resolver::ChosenBy;
use tillgate_net::upstream::{self, How, Opening, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::gateway::Gateway;
use crate::send::explain;

/// The class of everything that the gateway asks for itself.
pub(crate) const CLASS: &str = "control";

/// A request for CONNECT of a program on this machine.
const HEAD_BYTES_MAX: usize = 4096;

/// How long such a program may take to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once: git has one, and `ssh` another for its files.
const CONNECTIONS_MAX: usize = 4;

/// What is spoken to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP's CONNECT.
    Connect,
    /// Nothing: bytes are passed on from the first.
    Raw,
}

/// A way to one server, open as long as this is kept.
pub(crate) struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn open(
        gateway: Arc<Gateway>,
        to: (String, u16),
        kind: Kind,
    ) -> Result<Self, String> {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = bound.map_err(|error| format!("no port for a relay: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let task = tokio::spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while served.try_join_next().is_some() {}
                if served.len() < CONNECTIONS_MAX {
                    served.spawn(serve(Arc::clone(&gateway), client, to.clone(), kind));
                }
            }
        });
        Ok(Self { address, task })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Its connections end with it.
        self.task.abort();
    }
}

async fn serve(gateway: Arc<Gateway>, mut client: TcpStream, to: (String, u16), kind: Kind) {
    if kind == Kind::Connect {
        let wants = tokio::time::timeout(HEAD_TIMEOUT, wanted(&mut client)).await;
        let (host, port) = &to;
        let right = [format!("{host}:{port}"), format!("[{host}]:{port}")];
        if !wants.is_ok_and(|wants| wants.is_some_and(|wants| right.contains(&wants))) {
            let _ = client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
            return;
        }
    }
    let place = (to.0.as_str(), to.1);
    let opened = dial(&gateway, place, CLASS, defaults::CONNECT_TIMEOUT, None).await;
    match opened {
        Ok(mut server) => {
            let begun = match kind {
                Kind::Connect => client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await,
                Kind::Raw => Ok(()),
            };
            if begun.is_ok() {
                // However it ends, git says so.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        }
        Err(why) => {
            tracing::debug!(host = to.0, why, "a source's server cannot be reached");
            if kind == Kind::Connect {
                let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
            }
        }
    }
}

/// What a CONNECT asks for.
async fn wanted(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return None;
        }
        // Byte by byte: what follows the head is the server's, and this is some hundred bytes.
        head.push(client.read_u8().await.ok()?);
    }
    let text = String::from_utf8(head).ok()?;
    let mut words = text.lines().next()?.split(' ');
    (words.next() == Some("CONNECT")).then(|| words.next().map(str::to_lowercase)).flatten()
}

/// Opens a connection to a server of the centre, across the line in the class of this name.
pub(crate) async fn dial(
    gateway: &Arc<Gateway>,
    (host, port): (&str, u16),
    class: &str,
    patience: Duration,
    tls: Option<&Connector>,
) -> Result<Upstream, String> {
    let host: Host = host.parse().map_or_else(|_| Host::Name(host.into()), Host::Ip);
    let found = gateway.resolver().resolve(&host, port, ChosenBy::Policy, patience).await;
    let addresses = found.map_err(|error| explain(&error))?;
    let running = gateway.running();
    let class = running.effective.classes.id(class).unwrap_or(running.default_class());
    // Loopback is no line, whatever the policy thinks of it.
    let is_here = addresses.iter().all(|address| address.ip().is_loopback());
    let location = if is_here { Location::Local } else { Location::Cloud };
    let lane = running.lane(location, class).map(|(_, lane)| lane);
    let how = How { lane: lane.as_ref(), connect_timeout: patience, tcp: defaults::TCP };
    let tls = tls.map(|connector| (connector, &host));
    let opening = Opening { announce: None, tls, http1: true };
    upstream::dial_opening(&addresses, how, opening).await.map_err(|error| explain(&error))
}

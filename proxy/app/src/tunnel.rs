//! Tunnels: what CONNECT and WebSocket leave behind, from the answer to their end.
//!
//! A tunnel has an outcome like any request, keeps its connection's place on the listener, ends
//! by its idle limit, and by the drain when its class's time is up. Of its bytes nothing is seen.

use std::any::Any;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tillgate_net::drain::Ticket;
use tillgate_net::error::Failure;
use tillgate_net::http::body::Observer as _;
use tillgate_net::http::flow::Flow;
use tillgate_net::http::server::ClientStream;
use tillgate_net::metrics::Held;
use tillgate_net::tunnel;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::outcome::Outcome;

/// A tunnel that has been granted.
pub(crate) struct Tunnel {
    pub(crate) outcome: Outcome,
    pub(crate) ticket: Ticket,
    /// Counted as one of its class.
    pub(crate) held: Held,
    /// What is counted elsewhere as long as it lasts: the client's place on the listener, the
    /// server's in a pool.
    pub(crate) kept: Vec<Box<dyn Any + Send>>,
}

impl Tunnel {
    /// Carries bytes between `client` and `server`, once both have become tunnels.
    pub(crate) async fn run<S, E>(
        mut self,
        client: OnUpgrade,
        server: impl Future<Output = Result<S, E>>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let flow = Arc::clone(self.outcome.flow().flow());
        let opened = async {
            let mut server = server.await.map_err(|_| Failure::BackendClosed)?;
            let client = client.await.map_err(|_| Failure::ClientGone)?;
            flow.touch();
            copy(client, &mut server, &flow).await
        };
        let result = tokio::select! {
            result = opened => result,
            () = self.ticket.cut(|| flow.is_critical()) => Err(Failure::Drained),
        };
        drop((self.held, std::mem::take(&mut self.kept)));
        self.outcome.end(result);
    }
}

async fn copy<S: AsyncRead + AsyncWrite + Unpin>(
    client: hyper::upgrade::Upgraded,
    server: &mut S,
    flow: &Flow,
) -> Result<(), Failure> {
    match client.downcast::<TokioIo<ClientStream>>() {
        Ok(parts) => {
            let mut client = parts.io.into_inner();
            tunnel::run(&mut client, server, parts.read_buf.to_vec(), flow).await
        }
        Err(stream) => {
            // A stream of an HTTP/2 connection.
            tunnel::run(&mut TokioIo::new(stream), server, Vec::new(), flow).await
        }
    }
}

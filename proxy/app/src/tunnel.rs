//! Tunnels: what CONNECT and WebSocket leave behind, from the answer to their end.
//!
//! A tunnel has an outcome like any request, keeps its connection's place on the listener, ends
//! by its idle limit, and by the drain when its class's time is up. Of its bytes nothing is seen,
//! so one that does not end in order is broken off on both sides: it must not look complete.

use std::any::Any;
use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tillgate_net::drain::Ticket;
use tillgate_net::error::Failure;
use tillgate_net::http::body::Observer as _;
use tillgate_net::http::flow::Flow;
use tillgate_net::http::server::ClientStream;
use tillgate_net::metrics::Held;
use tillgate_net::tunnel;
use tillgate_net::upstream::Upstream;
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

/// One end of a tunnel.
pub(crate) trait End: AsyncRead + AsyncWrite + Unpin {
    /// Leaves it so that the other side sees a broken connection, not an end.
    fn break_off(self);
}

impl End for Upstream {
    fn break_off(self) {
        Self::break_off(&self);
    }
}

impl End for ClientStream {
    fn break_off(self) {
        Self::break_off(&self);
    }
}

impl End for TokioIo<Upgraded> {
    fn break_off(self) {
        // A client's stream of HTTP/2 is reset by its task; hyper lets a server's just end.
        if let Ok(parts) = self.into_inner().downcast::<TokioIo<Upstream>>() {
            End::break_off(parts.io.into_inner());
        }
    }
}

impl Tunnel {
    /// Carries bytes between `client` and `server`, once both have become tunnels.
    pub(crate) async fn run<S: End, E>(
        mut self,
        client: OnUpgrade,
        server: impl Future<Output = Result<S, E>>,
    ) {
        let flow = Arc::clone(self.outcome.flow().flow());
        let opened = async {
            let server = server.await.map_err(|_| Failure::BackendClosed)?;
            let client = client.await.map_err(|_| Failure::ClientGone)?;
            Ok((client, server))
        };
        let opened = tokio::select! {
            opened = opened => opened,
            () = self.ticket.cut(|| flow.is_critical()) => Err(Failure::Drained),
        };
        let result = match opened {
            Ok((client, server)) => carry(client, server, &flow, &self.ticket).await,
            Err(failure) => Err(failure),
        };
        drop((self.held, std::mem::take(&mut self.kept)));
        self.outcome.end(result);
    }
}

async fn carry(
    client: Upgraded,
    server: impl End,
    flow: &Flow,
    ticket: &Ticket,
) -> Result<(), Failure> {
    flow.touch();
    match client.downcast::<TokioIo<ClientStream>>() {
        Ok(parts) => {
            let early = parts.read_buf.to_vec();
            copy(parts.io.into_inner(), server, early, flow, ticket).await
        }
        // A stream of an HTTP/2 connection.
        Err(stream) => copy(TokioIo::new(stream), server, Vec::new(), flow, ticket).await,
    }
}

async fn copy(
    mut client: impl End,
    mut server: impl End,
    early: Vec<u8>,
    flow: &Flow,
    ticket: &Ticket,
) -> Result<(), Failure> {
    let result = tokio::select! {
        result = tunnel::run(&mut client, &mut server, early, flow) => result,
        () = ticket.cut(|| flow.is_critical()) => Err(Failure::Drained),
    };
    if result.is_err() {
        flow.abort();
        client.break_off();
        server.break_off();
    }
    result
}

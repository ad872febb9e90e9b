//! WebSockets to servers of HTTP/2: whether a server takes them on its streams, and the other way
//! to it if not.
//!
//! What a server takes is in its first frame, for which a client has to wait (RFC 8441 section 3).

use std::sync::Arc;

use super::{Flow, Pool, SendError, Target, Wire};

impl Pool {
    /// Whether the HTTP/2 server of `target` takes WebSockets (RFC 8441): asks a connection to it,
    /// for as long as one may take to be opened. A server that says nothing takes none.
    ///
    /// # Errors
    /// [`SendError`]: there is no connection.
    pub async fn takes_sockets(
        &self,
        target: &Arc<Target>,
        flow: &Flow,
    ) -> Result<bool, SendError> {
        let _queued = flow.queue();
        let connection = self.shelf(target).checkout(target, &self.resolver).await?;
        let Some(stream) = &connection.stream else { return Ok(false) };
        let said = tokio::time::timeout(target.connect_timeout, stream.takes_sockets()).await;
        Ok(said.unwrap_or(false))
    }
}

impl Target {
    /// The same over HTTP/1.1.
    #[must_use]
    pub fn over_http1(&self) -> Self {
        Self { wire: Wire::Http1, ..self.with_connect_timeout(self.connect_timeout) }
    }
}
